//! What the requests of one connection and its socket know of each other.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Buf, Bytes};
use h2::{Reason, SendStream};

/// What leaves for the client, and what waits for it.
#[derive(Debug, Default)]
pub(crate) struct Flow {
    /// Bytes of answers that have left.
    left: AtomicU64,
    /// Answers that wait until the client lets more of them through.
    waiting: AtomicU32,
    /// Bytes were given to the socket that aren't flushed.
    has_unflushed: AtomicBool,
    /// Answers that broke off. A reset at once would take along what of them hasn't left yet, even their heads; and a client that has got
    /// nothing of an answer sends its request again (RFC 9113 section 8.7), though the pod has done what it asked for.
    broken: Mutex<Vec<SendStream<Piece>>>,
}

impl Flow {
    /// Bytes of answers that have left for the client.
    pub(crate) fn left(&self) -> u64 {
        self.left.load(Ordering::Relaxed)
    }

    /// Whether there are bytes that the client doesn't let through.
    pub(crate) fn is_waiting(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0
    }

    /// Counts an answer among those that wait, until it is dropped.
    pub(crate) fn wait(self: &Arc<Self>) -> Waiting {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        Waiting(Arc::clone(self))
    }

    /// Bytes were given to the client's socket, or that was tried.
    pub(crate) fn wrote(&self) {
        self.has_unflushed.store(true, Ordering::Relaxed);
    }

    /// The socket has all bytes.
    pub(crate) fn flushed(&self) {
        self.has_unflushed.store(false, Ordering::Relaxed);
    }

    /// Resets a stream when what it was given has left.
    pub(crate) fn breaks(&self, stream: SendStream<Piece>) {
        self.broken.lock().unwrap_or_else(PoisonError::into_inner).push(stream);
    }

    /// Resets those whose turn has come: all was written that there is. Whether there were some.
    pub(crate) fn reset_broken(&self) -> bool {
        if self.has_unflushed.load(Ordering::Relaxed) {
            return false;
        }
        let broken = std::mem::take(&mut *self.broken.lock().unwrap_or_else(PoisonError::into_inner));
        let were_some = !broken.is_empty();
        for mut stream in broken {
            stream.send_reset(Reason::INTERNAL_ERROR);
        }
        were_some
    }
}

/// An answer that waits for its client.
#[derive(Debug)]
pub(crate) struct Waiting(Arc<Flow>);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Bytes of an answer, which are counted as they leave.
#[derive(Debug)]
pub(crate) struct Piece {
    bytes: Bytes,
    flow: Arc<Flow>,
}

impl Piece {
    pub(crate) fn new(bytes: Bytes, flow: &Arc<Flow>) -> Piece {
        Piece { bytes, flow: Arc::clone(flow) }
    }
}

impl Buf for Piece {
    fn remaining(&self) -> usize {
        self.bytes.len()
    }

    fn chunk(&self) -> &[u8] {
        &self.bytes
    }

    fn advance(&mut self, count: usize) {
        self.bytes.advance(count);
        self.flow.left.fetch_add(u64::try_from(count).unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}
