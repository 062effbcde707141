//! The keeper answers as ZooKeeper does.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Output};

/// Requests that nothing but spoilt bytes, which are counted apart, can make fail.
const NEVER_FAIL: [&str; 6] = ["getEphemerals", "ping", "setWatches", "setWatches2", "sync", "whoAmI"];
/// Requests that never succeed: what ZooKeeper refuses as it is set up by default, what it does not answer when it succeeds (a check outside of a
/// multi), and what ends the connection.
const NEVER_SUCCEED: [&str; 5] = ["createTTL", "reconfig", "check", "(no header)", "(length only)"];
/// Requests for which one outcome is too rare to be demanded of a short run.
const EITHER: [&str; 4] = ["sasl", "closeSession", "auth", "(any bytes)"];

fn differential(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_conformance"))
        .arg("differential")
        .args(arguments)
        .output()
        .expect("the program can be started")
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[test]
fn what_zookeeper_answered_before_is_what_the_keeper_answers() {
    let output = differential(&["--regressions"]);
    assert!(output.status.success(), "{}", said(&output));
    assert!(!said(&output).contains("0 regressions"), "they are found: {}", said(&output));
}

#[test]
fn a_recorded_answer_that_is_wrong_is_noticed() {
    let kept = Path::new(env!("CARGO_MANIFEST_DIR")).join("regressions/session-expiry.json");
    let kept = std::fs::read_to_string(kept).expect("it is kept");
    let spoilt = kept.replacen("\"czxid\":", "\"czxid\":1", 1);
    assert_ne!(kept, spoilt, "there is something to spoil");
    let folder = tempfile::tempdir().expect("a directory");
    std::fs::write(folder.path().join("spoilt.json"), spoilt).expect("it can be written");
    let output = differential(&["--regressions", "--folder", &folder.path().display().to_string()]);
    assert!(!output.status.success(), "{}", said(&output));
    assert!(said(&output).contains("1 of them fail"), "{}", said(&output));
}

#[test]
fn a_few_thousand_random_operations_come_to_the_same() {
    if let Some(reason) = testkit::missing() {
        return testkit::skip(&reason);
    }
    let folder = tempfile::tempdir().expect("a directory");
    let folder = folder.path().display().to_string();
    let output = differential(&["--ops", "6000", "--seed", "1", "--pairs", "1", "--folder", &folder]);
    let said = said(&output);
    assert!(output.status.success() && said.contains(" 0 divergences, seed 1"), "{said}");

    // The table's rows: a name, a total, then codes with their counts.
    let mut seen = BTreeSet::new();
    for row in said.lines().filter(|line| line.starts_with("  ")) {
        let words: Vec<&str> = row.split_whitespace().collect();
        let total = words.iter().position(|word| word.parse::<u64>().is_ok()).expect("a row has a total");
        let (name, codes) = (words[..total].join(" "), &words[total + 1..]);
        let name = name.as_str();
        if ["sessions", "events"].contains(&name) {
            continue;
        }
        seen.insert(name.to_owned());
        // "ok 7", or "-101: 7", or "no reply: 7".
        let succeeded = codes.contains(&"ok");
        let failed = codes.iter().any(|code| code.ends_with(':'));
        if !EITHER.contains(&name) {
            assert_eq!(succeeded, !NEVER_SUCCEED.contains(&name), "{row}");
            assert_eq!(failed, !NEVER_FAIL.contains(&name), "{row}");
        }
    }
    assert!(seen.len() >= 28, "every kind of request is there: {seen:?}");
}
