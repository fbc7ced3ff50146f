//! Tests with real kernel tables, each in a network namespace of its own. Require root and nft.

use std::{
    io::Write,
    process::{Command, Stdio},
    sync::atomic::{AtomicBool, Ordering},
};

use codiusd_net::Ipv4Cidr;
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};

use super::*;
use crate::network::{Enforcer, Links, NetworkRules, Policy, PolicyError, restored_counter};

/// Every kind of row.
fn policies() -> [Policy; 2] {
    let rules = NetworkRules {
        blocked: ["tcp/445", "udp/6881-6889", "in:tcp/8000"].map(|text| text.parse().unwrap()).to_vec(),
        nameservers: vec!["10.0.0.53".parse().unwrap()],
        host_ports: vec!["tcp/7768".parse().unwrap()],
        ..NetworkRules::default()
    };
    let subnet: Ipv4Cidr = "10.200.0.0/16".parse().unwrap();
    [
        Policy::new("codius", Links::Prefix("cdp".to_owned()), Some(subnet), &rules),
        Policy::new("codius-hyper0", Links::Bridge("hyper0".to_owned()), None, &rules),
    ]
}

/// Number of tables beside ours.
const OTHERS: u32 = 300;
/// Number of times the table is reinstalled.
const REPLACEMENTS: u32 = 400;

fn elsewhere<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let apart = move || {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        work()
    };
    thread::spawn(apart).join().unwrap()
}

/// Runs nft in this thread's network namespace.
fn nft(arguments: &[&str], input: &str) -> String {
    let mut nft = Command::new("nft").args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    nft.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = nft.wait_with_output().unwrap();
    assert!(output.status.success(), "nft {arguments:?} {input}");
    String::from_utf8(output.stdout).unwrap()
}

fn listed(table: &str) -> String {
    nft(&["--stateless", "list", "table", "inet", table], "")
}

#[test]
fn nft_reads_in_the_kernel_what_the_description_says() {
    for policy in policies() {
        let table = Table::from(&policy);
        let (ours, name) = (table.clone(), table.name.clone());
        let ours = elsewhere(move || {
            install(&ours).unwrap();
            install(&ours).unwrap(); // repeatable
            listed(&ours.name)
        });
        let text = table.to_string();
        let by_nft = elsewhere(move || {
            nft(&["-f", "-"], &text);
            listed(&name)
        });
        assert_eq!(ours, by_nft);
        for row in &policy.rows {
            assert!(ours.contains(&format!("comment \"{}\"", row.id)), "{} has no rule", row.id);
        }
    }
}

#[test]
fn every_change_by_others_is_seen_and_undone() {
    let tampered = [
        "insert rule inet codius forward accept",
        "flush chain inet codius input",
        "delete table inet codius",
        "flush ruleset",
        "add chain inet codius early { type filter hook forward priority -10; }\n",
        "add table inet codius { flags dormant; }",
    ];
    for change in tampered {
        let [policy, _] = policies();
        elsewhere(move || {
            nft(&["-f", "-"], "table inet other {\nchain input {\ntype filter hook input priority 0;\n}\n}\n");
            let table = Table::from(&policy);
            install(&table).unwrap();
            let wanted = reference(&table).unwrap();
            assert_eq!(differences(&wanted, &read(&table.id()).unwrap()), Vec::<String>::new(), "before {change}");
            nft(&["-f", "-"], change);
            assert_ne!(differences(&wanted, &read(&table.id()).unwrap()), Vec::<String>::new(), "{change}");
            install(&table).unwrap();
            assert_eq!(differences(&wanted, &read(&table.id()).unwrap()), Vec::<String>::new(), "after {change}");
            remove(&table.id()).unwrap();
            remove(&table.id()).unwrap();
            assert_eq!(nft(&["list", "tables"], "").contains("other"), change != "flush ruleset", "others' tables stay");
        });
    }
}

#[test]
fn a_policy_that_cannot_be_compared_is_not_in_force() {
    let [policy, _] = policies();
    elsewhere(move || {
        let no_namespaces = [(libc::SYS_unshare, Vec::new())].into();
        let (allow, refuse) = (SeccompAction::Allow, SeccompAction::Errno(libc::EPERM.unsigned_abs()));
        let filter = SeccompFilter::new(no_namespaces, allow, refuse, std::env::consts::ARCH.try_into().unwrap()).unwrap();
        let program: BpfProgram = filter.try_into().unwrap();
        seccompiler::apply_filter(&program).unwrap(); // for this thread only
        let refused = Enforcer::install(&policy, restored_counter()).expect_err("nobody knows what is in force");
        assert!(matches!(refused, PolicyError::Unverified { .. }), "{refused}");
        assert_ne!(read(&Table::from(&policy).id()).unwrap().len(), 0, "what was installed stays: it does no harm");
    });
}

#[test]
fn a_guard_puts_the_policy_back() {
    let [policy, _] = policies();
    elsewhere(move || {
        let restored = restored_counter();
        let _guard = Enforcer::install(&policy, restored.clone()).unwrap();
        nft(&["flush", "ruleset"], "");
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
        while restored.get() == 0 {
            assert!(std::time::Instant::now() < deadline, "waited for the guard to put the policy back");
            thread::yield_now();
        }
        let wanted = reference(&Table::from(&policy)).unwrap();
        assert_eq!(differences(&wanted, &read(&Table::from(&policy).id()).unwrap()), Vec::<String>::new());
    });
}

#[test]
fn a_table_that_is_replaced_while_it_is_read_is_read_once() {
    let table = Table::from(&policies()[1]);
    elsewhere(move || {
        install(&table).unwrap();
        let wanted = read(&table.id()).unwrap();
        // The kernel lists tables in order: the ones before and after it are far apart.
        let others: String = (0..OTHERS).map(|number| format!("add table inet other-{number}\n")).collect();
        nft(&["-f", "-"], &others);
        let replaced = AtomicBool::new(false);
        thread::scope(|scope| {
            // The thread is in the same network namespace.
            scope.spawn(|| {
                for _ in 0..REPLACEMENTS {
                    install(&table).unwrap();
                }
                replaced.store(true, Ordering::Relaxed);
            });
            let mut reads = 0;
            while !replaced.load(Ordering::Relaxed) {
                // The read fails if the table is replaced too often.
                if let Ok(found) = read(&table.id()) {
                    assert_eq!(differences(&wanted, &found), Vec::<String>::new(), "after {reads} reads");
                    reads += 1;
                }
            }
            assert!(reads > 0, "it was never read");
        });
    });
}
