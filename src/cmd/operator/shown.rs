//! The host's answers, for people.

use codiusd_control::pay::decimal;
use serde_json::Value;

const MIB: u64 = 1 << 20;

/// What the host does, a line for each thing.
pub(super) fn status(answer: &Value) -> String {
    let earnings = list(answer, "earnings").iter().map(|sums| {
        let sum = |name: &str| amount(sums, name);
        format!(
            "{} {} (received {}, not yet used {}, forfeited {})",
            sum("earned"),
            text(sums, "assetCode"),
            sum("received"),
            sum("credit"),
            sum("forfeited")
        )
    });
    let earnings: Vec<String> = earnings.collect();
    let held = |name: &str, unit: u64| format!("{} of {}", figure(&answer["held"], name) / unit, figure(&answer["max"], name) / unit);
    let lines = [
        ("version", text(answer, "version")),
        ("up for", span(figure(answer, "uptime"))),
        ("uploads", if answer["draining"] == true { "refused: draining (codiusd undrain)".to_owned() } else { text(answer, "ready") }),
        ("self-test", self_test(&answer["selfTest"])),
        ("runtime", text(answer, "runtime")),
        ("pods running", format!("{} of {} known", figure(&answer["pods"], "running"), figure(&answer["pods"], "known"))),
        ("memory", format!("{} MiB", held("memory", MIB))),
        ("cpus", held("vcpus", 1)),
        ("price", format!("{} {} a month", text(answer, "costPerMonth"), text(answer, "assetCode"))),
        ("earned", if earnings.is_empty() { "nothing yet".to_owned() } else { earnings.join("; ") }),
        ("bans", figure(answer, "bans").to_string()),
        ("log", text(answer, "log")),
    ];
    table(lines.into_iter().map(|(name, value)| vec![name.to_owned(), value]).collect())
}

/// How the last test of itself went.
fn self_test(told: &Value) -> String {
    let failed = list(told, "steps").iter().find(|step| step["result"] == "failed");
    match (told["selfTestSuccess"].as_bool(), failed) {
        (Some(true), _) => "passed".to_owned(),
        (Some(false), Some(step)) => format!("failed: {}: {} (codiusd doctor)", text(step, "step"), text(step, "what")),
        _ if told["running"] == true => "goes on".to_owned(),
        _ => "none".to_owned(),
    }
}

/// A line for each pod.
pub(super) fn pods(answer: &Value) -> String {
    let pods = list(answer, "pods");
    if pods.is_empty() {
        return "no pods\n".to_owned();
    }
    let head = ["POD", "STATE", "REMAINING", "SIZE", "MEMORY", "REQUESTS", "ERRORS"].map(str::to_owned).to_vec();
    let row = |pod: &Value| {
        let remaining = pod["remaining"].as_u64().map_or_else(|| "-".to_owned(), span);
        let count = |name: &str| pod[name].as_u64().map_or_else(|| "-".to_owned(), |count| count.to_string());
        let memory = format!("{} MiB", figure(pod, "memory") / MIB);
        vec![text(pod, "manifestHash"), text(pod, "state"), remaining, text(pod, "machine"), memory, count("requests"), count("errors")]
    };
    table([head].into_iter().chain(pods.iter().map(row)).collect())
}

/// A line for each ban.
pub(super) fn bans(answer: &Value) -> String {
    let bans = list(answer, "bans");
    if bans.is_empty() {
        return "no bans\n".to_owned();
    }
    table(bans.iter().map(|ban| vec![text(ban, "kind"), text(ban, "subject")]).collect())
}

/// What has become of pods.
pub(super) fn stopped(answer: &Value) -> String {
    let said = ["stopped", "stopping", "running"].iter().flat_map(|word| {
        let pods = list(answer, word).iter().map(|pod| format!("{word} {}\n", plain(pod.as_str().unwrap_or("?"))));
        pods.collect::<Vec<_>>()
    });
    let mut said: String = said.collect();
    if let Some(reason) = answer["reason"].as_str() {
        said.push_str(&format!("{}\n", plain(reason)));
    }
    if said.is_empty() { "no pods of it\n".to_owned() } else { said }
}

/// What is logged.
pub(super) fn log(answer: &Value) -> String {
    format!("{}\n", text(answer, "log"))
}

fn list<'a>(of: &'a Value, name: &str) -> &'a [Value] {
    of.get(name).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn figure(of: &Value, name: &str) -> u64 {
    of.get(name).and_then(Value::as_u64).unwrap_or_default()
}

fn text(of: &Value, name: &str) -> String {
    of.get(name).and_then(Value::as_str).map_or_else(|| "-".to_owned(), plain)
}

/// A terminal is told nothing but text.
fn plain(text: &str) -> String {
    text.chars().filter(|character| !character.is_control()).collect()
}

/// A sum in whole units of its asset.
fn amount(sums: &Value, name: &str) -> String {
    let units = sums[name].as_str().and_then(|units| units.parse().ok());
    let scale = sums["assetScale"].as_u64().and_then(|scale| u8::try_from(scale).ok());
    units.zip(scale).map_or_else(|| "?".to_owned(), |(units, scale)| decimal(units, scale))
}

/// A time in its two largest units.
fn span(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m {}s", seconds % 60),
        (0, _, _) => format!("{hours}h {minutes}m"),
        _ => format!("{days}d {hours}h"),
    }
}

/// Columns below each other.
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
        let pod = json!({ "manifestHash": "abc\u{1b}[31m", "state": "running", "machine": "small", "memory": 536_870_912, "remaining": 61, "requests": 3 });
        let shown = pods(&json!({ "pods": [pod] }));
        assert_eq!(
            shown,
            "POD      STATE    REMAINING  SIZE   MEMORY   REQUESTS  ERRORS\nabc[31m  running  1m 1s      small  512 MiB  3         -\n"
        );
        let sums = json!({ "assetCode": "XRP", "assetScale": 9, "earned": "12300000", "received": "20000000", "credit": "7700000", "forfeited": "0" });
        let shown = status(&json!({ "earnings": [sums], "draining": true }));
        assert!(shown.contains("0.0123 XRP (received 0.02, not yet used 0.0077, forfeited 0)"), "{shown}");
        assert!(shown.contains("draining"), "{shown}");
        let failed = json!({ "selfTestSuccess": false, "steps": [{ "step": "name", "result": "failed", "what": "it doesn't resolve" }] });
        for (told, line) in [(failed, "failed: name: it doesn't resolve"), (json!({ "running": true }), "goes on"), (Value::Null, "none")] {
            let shown = status(&json!({ "selfTest": told }));
            assert!(shown.contains(&format!("self-test     {line}")), "{shown}");
        }
        assert_eq!(stopped(&json!({ "stopped": ["a"] })), "stopped a\n");
        assert_eq!(stopped(&json!({ "stopping": ["a"], "reason": "hyperd is away" })), "stopping a\nhyperd is away\n");
        assert_eq!(stopped(&json!({ "running": [] })), "no pods of it\n");
    }
}
