//! What a pod's virtual machine is made of, apart from the pod itself.
//!
//! | module | contents |
//! |---|---|
//! | `plan` | whether this machine can run virtual machines, and what a shim is told to run |
//! | `engine` | QEMU: its command line, its memory, where it is |
//! | `kernel` | the guest's kernel, of the host's distribution: found, extracted, kept |
//! | `modules` | which modules of that kernel the guest loads |
//! | `initramfs` | the archive the guest starts from |
//! | `guest` | the guest's first process, built into this program |
//! | `decompress`, `elf` | formats of kernels and modules |

mod decompress;
mod elf;
pub(crate) mod engine;
#[cfg(test)]
mod fixtures;
mod guest;
mod initramfs;
pub(crate) mod kernel;
mod modules;
mod plan;
#[cfg(test)]
mod tests;

pub use engine::Accelerator;
pub(crate) use plan::VmPlan;
pub use plan::check;
