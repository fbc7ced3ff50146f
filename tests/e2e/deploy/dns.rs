//! The examples of a zone, asked by a resolver.

use std::{collections::BTreeSet, process::Command};

use super::deploy;

/// dnsmasq in a network of its own, and what dig says of each question in turn, a line per record. It is in the background once it
/// listens, and gone with the first process.
const ASK: &str = r#"
ip link set lo up
dnsmasq --conf-file="$1" --no-resolv --no-hosts --listen-address=127.0.0.1 --bind-interfaces --user=root --pid-file=
shift
for question; do
  dig @127.0.0.1 +noall +answer $question | sed "s/^/$question: /"
done
"#;

const QUESTIONS: [&str; 8] = [
    "codius.example.com A",
    "codius.example.com AAAA",
    "codius.example.com CAA",
    "nqss6jrpqfbnudltw6akzopq3gk7ajj5rt6ai4kfyqxpo2s5omfq.codius.example.com A",
    "nqss6jrpqfbnudltw6akzopq3gk7ajj5rt6ai4kfyqxpo2s5omfq.codius.example.com AAAA",
    "nqss6jrpqfbnudltw6akzopq3gk7ajj5rt6ai4kfyqxpo2s5omfq.codius.example.com CAA",
    "a.b.codius.example.com A",
    "_acme-challenge.codius.example.com TXT",
];

fn output(command: &mut Command) -> String {
    let done = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let (text, errors) = (String::from_utf8_lossy(&done.stdout).into_owned(), String::from_utf8_lossy(&done.stderr).into_owned());
    assert!(done.status.success(), "{command:?}\n{text}\n{errors}");
    text
}

/// A record as `name seconds type data`.
fn words(line: &str) -> String {
    line.split_whitespace().filter(|word| *word != "IN").collect::<Vec<_>>().join(" ")
}

/// What the zone file says to a question, wildcards included.
fn zone_says(records: &[String], question: &str) -> BTreeSet<String> {
    let (name, kind) = question.split_once(' ').expect("a name and a type");
    let of = |owner: &str| records.iter().filter(move |record| record.split(' ').next() == Some(owner)).cloned().collect::<Vec<_>>();
    let exact = of(&format!("{name}."));
    let found = if exact.is_empty() { of("*.codius.example.com.") } else { exact };
    let rest = found.iter().filter_map(|record| record.split_once(' ')).map(|(_, rest)| rest);
    rest.filter(|rest| rest.split(' ').nth(1) == Some(kind)).map(|rest| format!("{question}: {name}. {rest}")).collect()
}

#[test]
fn dnsmasq_answers_what_the_zone_file_says() {
    let zone = deploy().join("dns/codius.zone");
    // Says what is wrong with it, or how it is understood.
    let compiled = output(Command::new("named-compilezone").args(["-q", "-i", "local", "-o", "-", "codius.example.com"]).arg(&zone));
    let records: Vec<String> = compiled.lines().map(words).collect();
    let asked = output(
        Command::new("unshare")
            .args(["--net", "--pid", "--fork", "--kill-child", "bash", "-euo", "pipefail", "-c", ASK, "ask"])
            .arg(deploy().join("dns/dnsmasq.conf"))
            .args(QUESTIONS),
    );
    let answers: BTreeSet<String> = asked.lines().map(words).collect();
    let expected: BTreeSet<String> = QUESTIONS.iter().flat_map(|question| zone_says(&records, question)).collect();
    assert_eq!(answers, expected);
    for part in ["A 203.0.113.10", "CAA 0 issuewild \"letsencrypt.org\"", "TXT \"replaced-by-the-certificate-client\""] {
        assert!(answers.iter().any(|answer| answer.ends_with(part)), "{part} in {answers:#?}");
    }
}
