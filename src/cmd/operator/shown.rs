//! The host's answers as human-readable text.

use codiusd_api_types::admin::{BanList, Earnings, HostStatus, LogFilter, PodEntry, PodList, SelfTest, StopReport};
use codiusd_control::money::decimal;

const MIB: u64 = 1 << 20;

/// The status, a line for each item.
pub(super) fn status(status: &HostStatus) -> String {
    let earnings: Vec<String> = status.earnings.iter().map(earned).collect();
    let held = |held: u64, max: u64, unit: u64| format!("{} of {}", held / unit, max / unit);
    let lines = [
        ("version", plain(&status.version)),
        ("up for", span(status.uptime)),
        ("uploads", if status.draining { "refused: draining (codiusd admin undrain)".to_owned() } else { plain(&status.ready) }),
        ("self-test", self_test(status.self_test.as_ref())),
        ("runtime", plain(&status.runtime)),
        ("isolation", isolation(status)),
        ("pods running", format!("{} of {} known", status.pods.running, status.pods.known)),
        ("memory", format!("{} MiB", held(status.held.memory, status.max.memory, MIB))),
        ("cpus", held(status.held.vcpus, status.max.vcpus, 1)),
        ("price", format!("{} {} a month", plain(&status.cost_per_month), plain(status.asset_code.as_deref().unwrap_or("-")))),
        ("earned", if earnings.is_empty() { "nothing yet".to_owned() } else { earnings.join("; ") }),
        ("bans", status.bans.to_string()),
        ("log", plain(&status.log)),
    ];
    table(lines.into_iter().map(|(name, value)| vec![name.to_owned(), value]).collect())
}

/// How pods are isolated, and why not better.
fn isolation(status: &HostStatus) -> String {
    let note = status.isolation_note.as_deref().map(|note| format!(" ({})", plain(note))).unwrap_or_default();
    plain(&status.isolation) + &note
}

fn earned(sums: &Earnings) -> String {
    let amount = |units: &str| units.parse().map_or_else(|_| "?".to_owned(), |units| decimal(units, sums.asset_scale));
    let [earned, received, credit, forfeited] = [&sums.earned, &sums.received, &sums.credit, &sums.forfeited].map(|units| amount(units));
    format!("{earned} {} (received {received}, not yet used {credit}, forfeited {forfeited})", plain(&sums.asset_code))
}

/// How the last self-test went.
fn self_test(test: Option<&SelfTest>) -> String {
    let Some(test) = test else { return "off".to_owned() };
    let failed = test.steps.iter().find(|step| step.result == "failed");
    match (test.self_test_success, failed) {
        (Some(true), _) => "passed".to_owned(),
        (Some(false), Some(step)) => format!("failed: {}: {} (codiusd doctor)", plain(&step.step), plain(&step.what)),
        _ if test.running => "running".to_owned(),
        _ => "none".to_owned(),
    }
}

/// A line for each pod.
pub(super) fn pods(list: &PodList) -> String {
    if list.pods.is_empty() {
        return "no pods\n".to_owned();
    }
    let head = ["POD", "STATE", "REMAINING", "SIZE", "MEMORY", "REQUESTS", "ERRORS"].map(str::to_owned).to_vec();
    let row = |pod: &PodEntry| {
        let count = |count: Option<u64>| count.map_or_else(|| "-".to_owned(), |count| count.to_string());
        let (remaining, memory) = (pod.remaining.map_or_else(|| "-".to_owned(), span), format!("{} MiB", pod.memory / MIB));
        vec![plain(&pod.manifest_hash), plain(&pod.state), remaining, plain(&pod.machine), memory, count(pod.requests), count(pod.errors)]
    };
    table([head].into_iter().chain(list.pods.iter().map(row)).collect())
}

/// A line for each ban.
pub(super) fn bans(list: &BanList) -> String {
    if list.bans.is_empty() {
        return "no bans\n".to_owned();
    }
    table(list.bans.iter().map(|ban| vec![plain(&ban.kind), plain(&ban.subject)]).collect())
}

/// The result of stopping pods.
pub(super) fn stopped(report: &StopReport) -> String {
    let lines = [("stopped", &report.stopped), ("stopping", &report.stopping), ("running", &report.running)];
    let lines = lines.into_iter().flat_map(|(word, pods)| pods.iter().flatten().map(move |pod| format!("{word} {}\n", plain(pod))));
    let reason = report.reason.iter().map(|reason| format!("{}\n", plain(reason)));
    let text: String = lines.chain(reason).collect();
    if text.is_empty() { "no running pods\n".to_owned() } else { text }
}

/// The filter of the log.
pub(super) fn log(filter: &LogFilter) -> String {
    format!("{}\n", plain(&filter.log))
}

/// Removes control characters, so that they don't reach the terminal.
fn plain(text: &str) -> String {
    text.chars().filter(|character| !character.is_control()).collect()
}

/// A duration in its two largest units.
fn span(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m {}s", seconds % 60),
        (0, _, _) => format!("{hours}h {minutes}m"),
        _ => format!("{days}d {hours}h"),
    }
}

/// A table with aligned columns.
fn table(rows: Vec<Vec<String>>) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or_default();
    let widths: Vec<usize> = (0..columns)
        .map(|at| rows.iter().filter_map(|row| row.get(at)).map(|cell| cell.chars().count()).max().unwrap_or_default())
        .collect();
    let line = |row: Vec<String>| {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        format!("{}\n", cells.join("  ").trim_end())
    };
    rows.into_iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn times_have_two_units() {
        for (seconds, shown) in [(0, "0s"), (59, "59s"), (61, "1m 1s"), (3600, "1h 0m"), (86_399, "23h 59m"), (90_000, "1d 1h")] {
            assert_eq!(span(seconds), shown);
        }
    }

    #[test]
    fn pods_and_sums_are_shown_to_people() {
        let pod = json!({
            "manifestHash": "abc\u{1b}[31m", "state": "running", "machine": "small", "memory": 536_870_912, "images": [], "remaining": 61, "requests": 3
        });
        let list: PodList = serde_json::from_value(json!({ "pods": [pod] })).unwrap();
        assert_eq!(
            pods(&list),
            "POD      STATE    REMAINING  SIZE   MEMORY   REQUESTS  ERRORS\nabc[31m  running  1m 1s      small  512 MiB  3         -\n"
        );
        let sums = json!({ "assetCode": "XRP", "assetScale": 9, "earned": "12300000", "received": "20000000", "credit": "7700000", "forfeited": "0" });
        let capacity = json!({ "memory": 0, "vcpus": 0 });
        let host = json!({
            "version": "1", "uptime": 1, "draining": true, "runtime": "noop", "isolation": "none", "ready": "ready", "costPerMonth": "10",
            "pods": { "known": 0, "running": 0 }, "held": capacity, "max": capacity, "earnings": [sums], "bans": 0, "peers": 0, "log": "info",
        });
        let of = |test: serde_json::Value| {
            let mut host = host.clone();
            host["selfTest"] = test;
            status(&serde_json::from_value(host).unwrap())
        };
        let shown = of(json!(null));
        assert!(shown.contains("0.0123 XRP (received 0.02, not yet used 0.0077, forfeited 0)") && shown.contains("draining"), "{shown}");
        let failed = json!({
            "selfTestSuccess": false, "steps": [{ "step": "name", "result": "failed", "what": "it doesn't resolve", "milliseconds": 1 }]
        });
        for (test, line) in [(failed, "failed: name: it doesn't resolve"), (json!({ "running": true }), "running"), (json!(null), "off")] {
            let shown = of(test);
            assert!(shown.contains(&format!("self-test     {line}")), "{shown}");
        }
        let report = |pods: &str| Some(vec![pods.to_owned()]);
        assert_eq!(stopped(&StopReport { stopped: report("a"), ..StopReport::default() }), "stopped a\n");
        let reason = Some("hyperd is away".to_owned());
        assert_eq!(stopped(&StopReport { stopping: report("a"), reason, ..StopReport::default() }), "stopping a\nhyperd is away\n");
        assert_eq!(stopped(&StopReport { running: Some(Vec::new()), ..StopReport::default() }), "no running pods\n");
    }
}
