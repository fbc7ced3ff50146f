//! Whether this machine can run virtual machines, and what a shim is told to run.

use std::{fs::File, io, time::Duration};

use super::{
    engine::{self, Accelerator, Engine},
    guest::GUEST,
    kernel::{self, Kernel, KernelSource},
};
use crate::{
    Isolation, Machine, MemoryOverhead,
    embedded::{EmbeddedConfig, Limits, OpenError, shim_protocol::VmRequest},
    image::find_mkfs,
};

/// The part of a start's time limit that a shim gets, in tenths: the rest is for its answer.
const SHIM_TENTHS: u32 = 9;

/// Looks for what virtual machines need, and describes it. Changes nothing. That they boot, only a boot shows.
pub fn check(config: &EmbeddedConfig) -> Result<String, OpenError> {
    let engine = find_engine(config.accelerator)?;
    let release = kernel::find(&source(config)).map_err(no("finding a guest kernel"))?;
    find_mkfs().map_err(no("finding mkfs.erofs"))?;
    Ok(format!("QEMU {}, guest kernel {release}", engine.version))
}

fn find_engine(accelerator: Accelerator) -> Result<Engine, OpenError> {
    if accelerator == Accelerator::Kvm {
        engine::kvm().map_err(no("opening /dev/kvm"))?;
    }
    engine::find().map_err(no("finding QEMU"))
}

fn source(config: &EmbeddedConfig) -> KernelSource {
    KernelSource { root: config.guest_kernel_root.clone() }
}

fn no(what: &str) -> impl FnOnce(io::Error) -> OpenError {
    let what = what.to_owned();
    move |source| OpenError::NoVirtualMachines { what, source }
}

/// What every pod's virtual machine has in common.
#[derive(Debug)]
pub(crate) struct VmPlan {
    engine: Engine,
    kernel: Kernel,
    accelerator: Accelerator,
    /// Keeps the kernel's files.
    _kernel_use: File,
}

impl VmPlan {
    /// Prepares what virtual machines need. That they boot, only a boot shows. Blocks.
    pub(crate) fn prepare(config: &EmbeddedConfig) -> Result<Self, OpenError> {
        let engine = find_engine(config.accelerator)?;
        find_mkfs().map_err(no("finding mkfs.erofs"))?;
        let kernel = kernel::prepare(&source(config), &config.root, GUEST).map_err(no("preparing the guest kernel"))?;
        let kernel_use = kernel.use_lock().map_err(no("keeping the guest kernel"))?;
        tracing::info!(kernel = kernel.release, qemu = engine.version, accelerator = ?config.accelerator, "virtual machines prepared");
        Ok(Self { engine, kernel, accelerator: config.accelerator, _kernel_use: kernel_use })
    }

    /// How pods are isolated.
    pub(crate) fn isolation(&self) -> Isolation {
        match self.accelerator {
            Accelerator::Kvm => Isolation::VirtualMachine,
            Accelerator::Tcg => Isolation::Emulated,
        }
    }

    /// Memory that pods take beyond their machines', for the guest's kernel and QEMU.
    pub(crate) fn memory_overhead(&self) -> MemoryOverhead {
        engine::overhead(self.accelerator)
    }

    /// What a pod that starts now is made of; one that was made of anything else is restarted when that disturbs least.
    pub(crate) fn fingerprint(&self) -> String {
        format!("{:?} {} {}", self.accelerator, self.engine.version, self.kernel.fingerprint)
    }

    /// What a pod of this size is made of, but for its images.
    pub(crate) fn request(&self, machine: Machine, limits: &Limits) -> VmRequest {
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let guest_memory_bytes = engine::guest_memory(machine.memory_bytes);
        VmRequest {
            accelerator: self.accelerator,
            program: self.engine.program.clone(),
            firmware: self.engine.firmware.clone(),
            kernel: self.kernel.clone(),
            images: Vec::new(),
            guest_memory_bytes,
            host_memory_bytes: engine::host_limit(guest_memory_bytes, self.accelerator),
            start_timeout_ms: millis(limits.start_timeout * SHIM_TENTHS / 10),
            silence_ms: millis(limits.vm_silence_max),
        }
    }
}
