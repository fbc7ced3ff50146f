//! QEMU, the program that runs a pod's virtual machine: its command line, its memory, and where it is.
//!
//! The machine is `microvm`: no PCI, USB, graphics or disk controllers, and nothing is emulated that the guest's kernel doesn't need. QEMU
//! gets every file by descriptor, except kernel, archive and firmware, which it insists on opening by path. It has no monitor.

mod host;
#[cfg(test)]
mod tests;

use std::{os::fd::RawFd, path::Path};

use codiusd_guest_protocol::{CONTROL_PORT, DISK_SERIAL, OUTPUT_PORT, image_serial};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::MemoryOverhead;

pub(crate) use host::{Engine, find, kvm};

const MIB: u64 = 1 << 20;
/// Maximum number of images of a pod: the machine has 24 slots for devices, and disk, network, ports and balloon take four. Two more are
/// left free because guests have failed to start with all of them in use.
pub(crate) const IMAGES_MAX: usize = 18;
/// What the guest's kernel and first process take of its memory, in bytes.
const MEMORY_OVERHEAD: u64 = 80 * MIB;
/// The guest's table of its memory takes one part in this many.
const MEMORY_TABLE_PART: u64 = 60;
/// Memory comes in pieces of this size, in bytes: the pages that a kernel maps it by.
const MEMORY_UNIT: u64 = 2 * MIB;
/// What QEMU needs besides the guest's memory, in bytes.
const ENGINE_MEMORY: u64 = 64 * MIB;
/// The host's tables of the guest's memory take one part in this many.
const PAGE_TABLE_PART: u64 = 128;
/// Size of the buffer for translated code without hardware virtualization, in MiB.
const TCG_BUFFER_MIB: u64 = 32;

/// For the kernel: no output but errors; the machine ends instead of restarting; the clock is the processor's; no search for serial ports.
/// The self-tests of its ciphers, which no guest uses, would take a tenth of the start.
const KERNEL_COMMAND_LINE: &str = "quiet loglevel=1 reboot=t panic=-1 tsc=reliable random.trust_cpu=on 8250.nr_uarts=0 \
                                   cryptomgr.notests audit=0 apparmor=0";

/// How the guest's instructions are executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Accelerator {
    /// By the processor, under the control of Linux.
    Kvm,
    /// Translated by QEMU. For tests: QEMU promises no isolation this way.
    Tcg,
}

/// What a virtual machine consists of. Descriptors are those that QEMU inherits, paths as it sees them.
#[derive(Clone, Debug)]
pub(crate) struct Layout<'a> {
    /// Names the process, for people.
    pub(crate) name: &'a str,
    /// How instructions are executed.
    pub(crate) accelerator: Accelerator,
    /// Number of processors.
    pub(crate) vcpus: u32,
    /// The guest's memory, a multiple of 2 MiB (see [`guest_memory`]).
    pub(crate) memory_bytes: u64,
    /// The extracted kernel.
    pub(crate) kernel: &'a Path,
    /// The archive it starts from.
    pub(crate) initramfs: &'a Path,
    /// The firmware that starts the kernel.
    pub(crate) firmware: &'a Path,
    /// A connected stream socket, the other end of [`CONTROL_PORT`].
    pub(crate) control: RawFd,
    /// A connected stream socket, the other end of [`OUTPUT_PORT`].
    pub(crate) output: RawFd,
    /// A tap device (with a header for offloading, `IFF_VNET_HDR`).
    pub(crate) tap: RawFd,
    /// The address of the guest's link.
    pub(crate) mac: [u8; 6],
    /// File systems of the images, open for reading only; at most [`IMAGES_MAX`].
    pub(crate) images: &'a [RawFd],
    /// The pod's disk, open for reading and writing, on a file system that supports `O_DIRECT`: what the guest caches needn't be cached
    /// again.
    pub(crate) disk: Option<RawFd>,
}

/// The guest's memory, so that the pod has the memory of its machine.
pub(crate) fn guest_memory(machine_bytes: u64) -> u64 {
    let bytes = machine_bytes.saturating_add(MEMORY_OVERHEAD + machine_bytes / MEMORY_TABLE_PART);
    bytes.checked_next_multiple_of(MEMORY_UNIT).unwrap_or(u64::MAX - u64::MAX % MEMORY_UNIT)
}

/// What a virtual machine may take of the host's memory: the limit of the pod's control group, in bytes.
pub(crate) fn host_limit(guest_memory: u64, accelerator: Accelerator) -> u64 {
    let buffer = match accelerator {
        Accelerator::Kvm => 0,
        Accelerator::Tcg => TCG_BUFFER_MIB * MIB,
    };
    guest_memory.saturating_add(ENGINE_MEMORY + buffer + guest_memory / PAGE_TABLE_PART)
}

/// What pods take of the host's memory beyond their machines': an upper bound.
pub(crate) fn overhead(accelerator: Accelerator) -> MemoryOverhead {
    // 1/60 + 61/60/128 of the machine's memory, and up to a unit of rounding.
    MemoryOverhead { fixed_bytes: host_limit(guest_memory(0), accelerator) + 2 * MEMORY_UNIT, per_mille: 25 }
}

/// QEMU's arguments. Takes 20 ms without KVM, to measure the processor's clock.
pub(crate) fn arguments(layout: &Layout<'_>) -> Vec<String> {
    let tsc_khz = match layout.accelerator {
        Accelerator::Kvm => None,
        // The machine has no other clock to compare with: the guest's kernel would wait for one for ever.
        Accelerator::Tcg => host::tsc_khz(),
    };
    arguments_with(layout, tsc_khz)
}

fn arguments_with(layout: &Layout<'_>, tsc_khz: Option<u64>) -> Vec<String> {
    let mut line = CommandLine(Vec::new());
    machine(&mut line, layout);
    kernel(&mut line, layout, tsc_khz);
    ports(&mut line, layout);
    let mac = layout.mac.map(|byte| format!("{byte:02x}")).join(":");
    line.option("-netdev", format!("tap,id=net,fd={}", layout.tap));
    line.option("-device", format!("virtio-net-device,netdev=net,mac={mac}"));
    for (index, fd) in layout.images.iter().enumerate() {
        block(&mut line, &image_serial(index), *fd, Access::Read);
    }
    if let Some(fd) = layout.disk {
        block(&mut line, DISK_SERIAL, fd, Access::Write);
    }
    // What the guest frees, the host gets back.
    line.option("-device", "virtio-balloon-device,free-page-reporting=on");
    line.option("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny");
    line.0
}

struct CommandLine(Vec<String>);

impl CommandLine {
    fn flag(&mut self, flag: &str) {
        self.0.push(flag.to_owned());
    }

    fn option(&mut self, option: &str, value: impl Into<String>) {
        self.0.extend([option.to_owned(), value.into()]);
    }
}

fn machine(line: &mut CommandLine, layout: &Layout<'_>) {
    line.option("-name", format!("codius-{}", layout.name.replace(',', ",,")));
    // Merged memory would tell pods what others have in theirs. A core dump would hold the pod's memory.
    line.option("-M", "microvm,isa-serial=off,dump-guest-core=off,mem-merge=off");
    let (accelerator, processor) = match layout.accelerator {
        // No virtual machines inside it, and no performance counters: both are large parts of KVM.
        Accelerator::Kvm => ("kvm".to_owned(), "host,vmx=off,svm=off,pmu=off"),
        Accelerator::Tcg => (format!("tcg,tb-size={TCG_BUFFER_MIB}"), "max"),
    };
    line.option("-accel", accelerator);
    line.option("-cpu", processor);
    line.option("-smp", layout.vcpus.to_string());
    line.option("-m", (layout.memory_bytes / MIB).to_string());
    line.flag("-nodefaults");
    line.flag("-no-user-config");
    line.option("-display", "none");
    line.flag("-no-reboot");
    line.option("-monitor", "none");
    line.option("-global", "virtio-mmio.force-legacy=false");
}

fn kernel(line: &mut CommandLine, layout: &Layout<'_>, tsc_khz: Option<u64>) {
    line.option("-bios", layout.firmware.display().to_string());
    line.option("-kernel", layout.kernel.display().to_string());
    line.option("-initrd", layout.initramfs.display().to_string());
    let clock = tsc_khz.map(|khz| format!(" tsc_early_khz={khz}")).unwrap_or_default();
    line.option("-append", format!("{KERNEL_COMMAND_LINE}{clock}"));
}

fn ports(line: &mut CommandLine, layout: &Layout<'_>) {
    line.option("-device", "virtio-serial-device,max_ports=4");
    for (id, fd, name) in [("control", layout.control, CONTROL_PORT), ("output", layout.output, OUTPUT_PORT)] {
        line.option("-chardev", format!("socket,id={id},fd={fd}"));
        line.option("-device", format!("virtserialport,chardev={id},name={name}"));
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Access {
    /// An image: other pods read the same file, so the host caches it.
    Read,
    /// The pod's disk, which is gone with the pod: flushing would only take time.
    Write,
}

/// A block device of that serial number. The format is never guessed: a guest could write the header of another one.
fn block(line: &mut CommandLine, serial: &str, fd: RawFd, access: Access) {
    let writes = access == Access::Write;
    line.option("-add-fd", format!("fd={fd},set={fd}"));
    let file = json!({ "driver": "file", "filename": format!("/dev/fdset/{fd}"), "locking": "off", "aio": "threads" });
    let device = json!({
        "driver": "raw",
        "node-name": serial,
        "read-only": !writes,
        "cache": { "direct": writes, "no-flush": writes },
        // What was reserved stays reserved: freed space could be gone when the guest wants it back.
        "discard": "ignore",
        "file": file,
    });
    line.option("-blockdev", device.to_string());
    line.option("-device", format!("virtio-blk-device,drive={serial},serial={serial},discard=off,write-zeroes=off"));
}
