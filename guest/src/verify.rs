//! Verifies that a running container is confined as required, by reading it back from the kernel: a container that was silently left
//! unconfined would look the same from outside.

use std::{fs, io};

use codiusd_container_rootfs::confinement::ROOT_CAPABILITY_MASK;
use nix::{errno::Errno, unistd::Pid};

/// Fails at the first deviation, and names it. A process that has exited passes.
pub(crate) fn check(pid: Pid, uid: u32, filtered: bool) -> io::Result<()> {
    match fs::read_to_string(format!("/proc/{pid}/status")) {
        Ok(status) => is_confined(&status, uid, filtered),
        Err(error) if error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(Errno::ESRCH as i32) => Ok(()),
        Err(error) => Err(error),
    }
}

fn is_confined(status: &str, uid: u32, filtered: bool) -> io::Result<()> {
    let found = |field: &str| status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':')).unwrap_or("missing");
    if found("State").trim_start().starts_with(['X', 'Z']) {
        return Ok(());
    }
    let capabilities = format!("{:016x}", if uid == 0 { ROOT_CAPABILITY_MASK } else { 0 });
    let none = format!("{:016x}", 0);
    let expected = [
        ("Seccomp", if filtered { "2" } else { "0" }),
        ("NoNewPrivs", "1"),
        ("CapEff", &capabilities),
        ("CapPrm", &capabilities),
        ("CapBnd", &capabilities),
        ("CapInh", &none),
        ("CapAmb", &none),
        ("Uid", &format!("{uid} {uid} {uid} {uid}")),
    ];
    for (field, wanted) in expected {
        let found = found(field).split_whitespace().collect::<Vec<_>>().join(" ");
        if found != wanted {
            return Err(io::Error::other(format!("{field} is {found} and should be {wanted}")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(changed: &str, value: &str) -> String {
        let none = "0000000000000000";
        let fields =
            [("State", "S (sleeping)"), ("Uid", "7\t7\t7\t7"), ("CapInh", none), ("CapPrm", none), ("CapEff", none), ("CapBnd", none)];
        let all = fields.into_iter().chain([("CapAmb", none), ("NoNewPrivs", "1"), ("Seccomp", "2"), ("Seccomp_filters", "2")]);
        all.map(|(field, usual)| format!("{field}:\t{}\n", if field == changed { value } else { usual })).collect()
    }

    #[test]
    fn every_deviation_is_named() {
        is_confined(&status("", ""), 7, true).unwrap();
        is_confined(&status("Seccomp", "0"), 7, false).unwrap();
        for (field, value) in [
            ("Seccomp", "0"),
            ("NoNewPrivs", "0"),
            ("CapEff", "0000000000000001"),
            ("CapBnd", "00000000000005fb"),
            ("CapAmb", "0000000000000001"),
            ("Uid", "7 7 0 7"),
        ] {
            let told = is_confined(&status(field, value), 7, true).unwrap_err().to_string();
            assert!(told.starts_with(&format!("{field} is {value} and should be ")), "{told}");
        }
        let root = is_confined(&status("Uid", "0 0 0 0"), 0, true).unwrap_err().to_string();
        assert_eq!(root, "CapEff is 0000000000000000 and should be 00000000000005fb");
    }

    #[test]
    fn one_that_has_ended_needs_no_confining() {
        is_confined(&status("State", "Z (zombie)"), 0, true).unwrap();
        check(Pid::from_raw(i32::MAX), 0, true).unwrap();
    }
}
