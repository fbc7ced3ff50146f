//! What all targets share, by naming this crate: a limit on memory.

use std::alloc::System;

use cap::Cap;

/// Bytes that may be allocated at a time. Inputs are a few kilobytes, so a decoder that gets here believed a length.
const HEAP_MAX: usize = 64 << 20;

#[global_allocator]
static HEAP: Cap<System> = Cap::new(System, HEAP_MAX);
