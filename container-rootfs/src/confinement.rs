//! How a container's processes are confined: its capabilities, and the paths that are hidden from it or read-only.

/// A capability: its name, and its number in the kernel (linux/capability.h).
pub type Capability = (&'static str, u32);

/// Capabilities of a pod's uid 0 over files and processes of its own pod. Other users have none.
pub const ROOT_CAPABILITIES: [Capability; 9] = [
    ("CAP_CHOWN", 0),
    ("CAP_DAC_OVERRIDE", 1),
    ("CAP_FOWNER", 3),
    ("CAP_FSETID", 4),
    ("CAP_KILL", 5),
    ("CAP_NET_BIND_SERVICE", 10),
    ("CAP_SETGID", 6),
    ("CAP_SETPCAP", 8),
    ("CAP_SETUID", 7),
];

/// The same as a bit mask, as `/proc` shows it.
pub const ROOT_CAPABILITY_MASK: u64 = mask(&ROOT_CAPABILITIES);

/// Paths that show a container nothing: an empty directory, or an empty file.
pub const MASKED: [&str; 13] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kallsyms",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/firmware",
    "/sys/kernel",
];

/// Paths a container may only read.
pub const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// Largest core dump. Too small for a core dump in a file, and treated by the kernel as "none" where dumps are piped into a program: with 0
/// it would run that program, as the host's root, for every crash in a pod.
pub const CORE_BYTES: u64 = 1;

/// File mode creation mask of a container's first process.
pub const UMASK: u32 = 0o022;

const fn mask(capabilities: &[Capability]) -> u64 {
    let (mut mask, mut index) = (0, 0);
    while index < capabilities.len() {
        mask |= 1 << capabilities[index].1;
        index += 1;
    }
    mask
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mask_is_that_of_the_nine_capabilities() {
        assert_eq!(ROOT_CAPABILITY_MASK, 0x5fb);
        assert_eq!(ROOT_CAPABILITY_MASK.count_ones() as usize, ROOT_CAPABILITIES.len());
    }
}
