//! The runtimes on this machine: real containers (root, and busybox-static for their image), and hyperd's double.
//!
//! The binary plays four parts: `pod-shim DIR` is what the runtime executes for each pod, `daemon ...` is a process that
//! can be killed while its pods run, `ping ADDRESS...` is a program in a pod, anything else runs the cases whose names contain one of the arguments.

#![expect(clippy::expect_used, clippy::unwrap_used, reason = "all of this is test code")]

mod busybox;
mod cases;
mod confinement;
mod contract;
mod corpus;
mod hyperd;
mod images;
mod kit;
mod surroundings;
mod survival;
mod unkind;
mod vm;

use std::{future::Future, panic::AssertUnwindSafe, pin::Pin, process::ExitCode, time::Instant};

use codiusd_runtime::embedded::{SHIM_ARGUMENT, shim_main};
use futures::FutureExt;
use kit::Host;

type Case = fn(Host) -> Pin<Box<dyn Future<Output = ()>>>;

macro_rules! cases {
    ($($room:ident: $($name:ident),+;)+) => { &[$($((stringify!($name), (|host| Box::pin($room::$name(host))) as Case)),+),+] };
}

const CASES: &[(&str, Case)] = cases! {
    contract: embedded_keeps_the_contract, hyperd_keeps_the_contract, noop_keeps_the_contract;
    hyperd: a_lost_answer_to_a_create_is_looked_after, a_hang_up_during_a_create_is_found_and_undone, images_hyperd_cannot_run_are_explained,
        an_exited_pod_gives_its_machine_back, others_pods_are_left_alone_and_counted, a_daemon_that_is_away_is_said_so_and_loses_nothing,
        a_restarted_daemon_is_noticed, a_power_loss_blocks_no_name, a_slow_reader_of_a_log_costs_no_memory, calls_are_measured_and_failures_counted,
        a_daemon_that_was_killed_hands_out_no_address_twice, addresses_come_back_and_run_out_with_a_word, two_pods_at_one_address_are_not_served,
        pods_run_on_no_other_bridge,
        a_pod_off_the_bridge_is_not_served_unless_its_machine_ends;
    unkind: a_machine_that_ends_is_told_from_programs_that_do, runs_of_the_daemon_are_told_apart, logs_are_bounded_and_go_with_their_pods,
        an_image_that_ends_the_guest_is_the_images_fault_and_booted_once;
    cases: containers_of_a_pod_share_loopback, the_host_reaches_the_pod, process_settings_are_applied, an_exit_is_noticed,
        a_bad_command_leaves_nothing, twenty_starts_leave_nothing, logs_follow_over_rotation, a_stop_ends_followers,
        the_same_pod_starts_again_at_once, too_many_starts_are_refused, a_pod_that_ignores_sigterm_ends_in_time, the_log_of_a_fast_writer_ends,
        requests_for_a_pod_that_is_gone_stay_here, nothing_of_a_host_without_pods_is_left, files_of_pods_are_for_root_alone;
    corpus: well_known_images_start_as_docker_starts_them;
    images: images_of_all_kinds_start_or_say_why, volumes_of_a_read_only_root_are_written_to,
        no_link_of_an_image_leads_out_of_it;
    confinement: pods_are_confined, users_of_images_have_no_capabilities, pods_do_not_reach_each_other_or_the_host, pods_reach_the_world_under_the_hosts_address, what_is_sent_is_limited, memory_is_limited_in_the_pod_alone,
        processes_are_limited, what_is_written_is_limited, room_that_is_not_there_is_not_sold;
    surroundings: a_program_finds_a_clean_start, limits_are_seen_from_within, heaps_of_real_runtimes_follow_the_limit,
        everybody_may_ping, the_files_of_names_are_the_pods_own;
    survival: pods_survive_their_daemon, a_killed_shim_takes_its_containers, a_half_done_start_is_undone, one_process_per_root,
        a_network_has_one_host, links_of_others_stay, without_root_it_says_so;
};

/// The cases that also run with every pod a virtual machine, emulated: what a pod is must make no difference to them.
const IN_VIRTUAL_MACHINES: &[(&str, Case)] = cases! {
    contract: embedded_keeps_the_contract;
    cases: containers_of_a_pod_share_loopback, process_settings_are_applied, an_exit_is_noticed, a_bad_command_leaves_nothing,
        logs_follow_over_rotation, a_stop_ends_followers, the_same_pod_starts_again_at_once, a_pod_that_ignores_sigterm_ends_in_time,
        the_log_of_a_fast_writer_ends;
    confinement: pods_do_not_reach_each_other_or_the_host, memory_is_limited_in_the_pod_alone, processes_are_limited;
    survival: pods_survive_their_daemon, a_killed_shim_takes_its_containers, a_half_done_start_is_undone;
    vm: qemu_is_confined, a_vm_that_hangs_or_ends_is_noticed,
        a_pod_that_is_no_virtual_machine_is_marked_where_pods_are, without_what_it_takes_it_says_so;
};

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    let first = args.next().unwrap_or_default();
    if first == SHIM_ARGUMENT {
        return shim_main(args);
    }
    let words: Vec<String> = std::env::args().skip(1).collect();
    if first == survival::DAEMON_ARGUMENT {
        return survival::daemon(&words[1..]);
    }
    if first == surroundings::PING_ARGUMENT {
        return surroundings::ping(&words[1..]);
    }
    if !nix::unistd::geteuid().is_root() {
        eprintln!("containers need root: nothing was tested");
        return ExitCode::FAILURE;
    }
    if words.iter().any(|word| word == "--bench") {
        run("start latency", |host| Box::pin(cases::start_latency(host)), Host::new(99));
        run("start latency, writes kept in memory", |host| Box::pin(cases::start_latency_in_memory(host)), Host::new(98));
        run("start latency, virtual machines under TCG", |host| Box::pin(cases::start_latency(host)), Host::in_vm(97));
        return ExitCode::SUCCESS;
    }
    let wanted: Vec<&String> = words.iter().filter(|word| !word.starts_with('-')).collect();
    let named = |name: &str| wanted.is_empty() || wanted.iter().any(|word| name.contains(word.as_str()));
    let in_containers = CASES.iter().map(|(name, case)| ((*name).to_owned(), *case, Host::new as fn(usize) -> Host));
    let in_vms = IN_VIRTUAL_MACHINES.iter().map(|(name, case)| (format!("vm::{name}"), *case, Host::in_vm as fn(usize) -> Host));
    let chosen = in_containers.chain(in_vms).filter(|(name, ..)| named(name));
    let failed = chosen.enumerate().filter(|(number, (name, case, host))| !run(name, *case, host(*number))).count();
    println!("{failed} cases failed");
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn run(name: &str, case: Case, host: Host) -> bool {
    let began = Instant::now();
    let tokio = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let passed = tokio.block_on(AssertUnwindSafe(case(host)).catch_unwind()).is_ok();
    println!("{} {name} ({} ms)", if passed { "ok  " } else { "FAIL" }, began.elapsed().as_millis());
    passed
}
