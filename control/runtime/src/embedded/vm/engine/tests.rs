use std::{fs, io, os::unix::fs::PermissionsExt, time::Duration};

use super::*;

fn layout(images: &[RawFd]) -> Layout<'_> {
    Layout {
        name: "pod,1",
        accelerator: Accelerator::Kvm,
        vcpus: 2,
        memory_bytes: 600 * MIB,
        kernel: Path::new("/k"),
        initramfs: Path::new("/i"),
        firmware: Path::new("/usr/share/qemu/qboot.rom"),
        control: 3,
        output: 4,
        tap: 5,
        mac: [2, 0, 10, 200, 0, 255],
        images,
        disk: Some(8),
    }
}

/// The arguments, an option and its value on each line.
fn lines(arguments: &[String]) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for argument in arguments {
        match lines.last_mut() {
            Some(last) if !argument.starts_with('-') => last.extend([" ", argument]),
            _ => lines.push(argument.clone()),
        }
    }
    lines
}

#[test]
fn the_command_line_is_this() {
    let expected = [
        "-name codius-pod,,1",
        "-M microvm,isa-serial=off,dump-guest-core=off,mem-merge=off",
        "-accel kvm",
        "-cpu host,vmx=off,svm=off,pmu=off",
        "-smp 2",
        "-m 600",
        "-nodefaults",
        "-no-user-config",
        "-display none",
        "-no-reboot",
        "-monitor none",
        "-global virtio-mmio.force-legacy=false",
        "-bios /usr/share/qemu/qboot.rom",
        "-kernel /k",
        "-initrd /i",
        "-append quiet loglevel=1 reboot=t panic=-1 tsc=reliable random.trust_cpu=on 8250.nr_uarts=0 cryptomgr.notests audit=0 apparmor=0",
        "-device virtio-serial-device,max_ports=4",
        "-chardev socket,id=control,fd=3",
        "-device virtserialport,chardev=control,name=codius.control",
        "-chardev socket,id=output,fd=4",
        "-device virtserialport,chardev=output,name=codius.output",
        "-netdev tap,id=net,fd=5",
        "-device virtio-net-device,netdev=net,mac=02:00:0a:c8:00:ff",
        "-add-fd fd=6,set=6",
        concat!(
            r#"-blockdev {"driver":"raw","node-name":"image0","read-only":true,"cache":{"direct":false,"no-flush":false},"#,
            r#""discard":"ignore","file":{"driver":"file","filename":"/dev/fdset/6","locking":"off","aio":"threads"}}"#
        ),
        "-device virtio-blk-device,drive=image0,serial=image0,discard=off,write-zeroes=off",
        "-add-fd fd=8,set=8",
        concat!(
            r#"-blockdev {"driver":"raw","node-name":"disk","read-only":false,"cache":{"direct":true,"no-flush":true},"#,
            r#""discard":"ignore","file":{"driver":"file","filename":"/dev/fdset/8","locking":"off","aio":"threads"}}"#
        ),
        "-device virtio-blk-device,drive=disk,serial=disk,discard=off,write-zeroes=off",
        "-device virtio-balloon-device,free-page-reporting=on",
        "-sandbox on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
    ];
    assert_eq!(lines(&arguments(&layout(&[6]))), expected);
}

#[test]
fn without_kvm_the_kernel_is_told_the_clock_and_only_the_processor_differs() {
    let with_kvm = lines(&arguments(&layout(&[])));
    let without = lines(&arguments_with(&Layout { accelerator: Accelerator::Tcg, ..layout(&[]) }, Some(2_500_000)));
    let differing: Vec<_> = with_kvm.iter().zip(&without).filter(|(kvm, tcg)| kvm != tcg).map(|(_, tcg)| &**tcg).collect();
    assert_eq!(differing[..2], ["-accel tcg,tb-size=32", "-cpu max"]);
    assert!(differing[2].starts_with("-append ") && differing[2].ends_with(" apparmor=0 tsc_early_khz=2500000"), "{differing:?}");
    assert_eq!((differing.len(), with_kvm.len()), (3, without.len()));
}

#[test]
fn a_pod_without_a_disk_has_none_and_as_many_images_as_may_be_leave_slots_free() {
    let images: Vec<RawFd> = (10..).take(IMAGES_MAX).collect();
    let devices = |layout: &Layout<'_>| lines(&arguments(layout)).iter().filter(|line| line.starts_with("-device virtio-")).count();
    assert_eq!(devices(&Layout { disk: None, ..layout(&images) }), IMAGES_MAX + 3);
    assert!(devices(&layout(&images)) <= 22, "of 24 slots, two are left free");
    let longest = image_serial(IMAGES_MAX - 1);
    assert!(longest.len() <= 20, "{longest} is a serial number of virtio-blk");
}

#[test]
fn the_pod_has_the_memory_of_its_machine_and_qemu_has_more() {
    assert_eq!(guest_memory(512 * MIB), 602 * MIB, "80 and a sixtieth");
    assert_eq!(guest_memory(511 * MIB), 600 * MIB);
    assert_eq!(guest_memory(8192 * MIB), 8410 * MIB);
    assert_eq!(guest_memory(0), 80 * MIB);
    assert_eq!(guest_memory(u64::MAX) % MEMORY_UNIT, 0);
    assert!(guest_memory(u64::MAX) > u64::MAX - MEMORY_UNIT);
    assert_eq!(host_limit(640 * MIB, Accelerator::Kvm), 709 * MIB);
    assert_eq!(host_limit(640 * MIB, Accelerator::Tcg), 741 * MIB);
    for accelerator in [Accelerator::Kvm, Accelerator::Tcg] {
        for machine in [16, 64, 511, 512, 1000, 4096, 65_536].map(|size| size * MIB) {
            let taken = host_limit(guest_memory(machine), accelerator) - machine;
            let counted = overhead(accelerator).of(machine);
            assert!(taken <= counted && counted < taken + taken / 8, "{machine}: {taken}, counted as {counted}");
        }
    }
    assert_eq!(host_limit(u64::MAX, Accelerator::Tcg), u64::MAX);
}

#[test]
fn accelerators_are_written_in_small_letters() {
    for (accelerator, text) in [(Accelerator::Kvm, "\"kvm\""), (Accelerator::Tcg, "\"tcg\"")] {
        assert_eq!(serde_json::to_string(&accelerator).unwrap(), text);
        assert_eq!(serde_json::from_str::<Accelerator>(text).unwrap(), accelerator);
    }
}

#[test]
fn the_installed_qemu_is_found_with_its_version() {
    let engine: Engine = find().unwrap();
    assert_eq!(engine.program, Path::new("/usr/bin/qemu-system-x86_64"));
    assert_eq!(engine.firmware.file_name().unwrap(), "qboot.rom");
    assert!(engine.version.starts_with(|first: char| first.is_ascii_digit()) && !engine.version.contains('\n'), "{}", engine.version);
}

#[test]
fn a_program_that_is_not_qemu_or_does_not_answer_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let program = dir.path().join("qemu");
    let cases =
        [("exec sleep 60", io::ErrorKind::TimedOut), ("echo other 1.0", io::ErrorKind::InvalidData), ("", io::ErrorKind::InvalidData)];
    for (script, kind) in cases {
        fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let refused = host::version(&program, Duration::from_millis(500)).unwrap_err();
        assert_eq!(refused.kind(), kind, "{script}: {refused}");
    }
}

#[test]
fn without_kvm_the_reason_names_the_device() {
    // Where there is one it may be of use or not.
    if let Err(error) = kvm() {
        assert!(error.to_string().starts_with("/dev/kvm"), "{error}");
    }
}

#[test]
fn the_processors_clock_is_measured_alike_twice() {
    let (one, other) = (host::tsc_khz().unwrap(), host::tsc_khz().unwrap());
    assert!(one.abs_diff(other) * 1000 < one, "{one} and {other} kHz differ by less than a thousandth");
}
