//! What is remembered of tasks: lists of many of them, what happened to one, and how long any of it is kept.

#![expect(clippy::unwrap_used, reason = "a test fails where it stands, in its helpers too")]

mod support;

use std::collections::BTreeSet;

use serde_json::{Value, json};
use support::{Cluster, SOON};
use testkit::until;

/// Submits `count` tasks that end at once and are named `NAME-0`, `NAME-1`, ….
async fn many(cluster: &Cluster, name: &str, count: usize) {
    let file = cluster.dir.path().join("many.jsonl");
    let text: Vec<_> =
        (0..count).map(|n| json!({"kind": "noop", "name": format!("{name}-{n}")}).to_string()).collect();
    std::fs::write(&file, text.join("\n")).unwrap();
    let ran = cluster.cli(&["task", "submit", "--batch", file.to_str().unwrap()]).await;
    assert_eq!(ran.code, 0, "{ran:?}");
}

async fn list(cluster: &Cluster, args: &[&str]) -> Value {
    let ran = cluster.cli(&[&["task", "list", "-o", "json"], args].concat()).await;
    assert_eq!(ran.code, 0, "{ran:?}");
    ran.json()
}

fn names(page: &Value) -> Vec<String> {
    let tasks = page["tasks"].as_array().unwrap().iter();
    tasks.map(|task| task["spec"]["name"].as_str().unwrap_or("-").to_owned()).collect()
}

#[tokio::test]
async fn thousands_of_tasks_are_listed_page_by_page() {
    let mut cluster = Cluster::embedded(|config| config.set("node.slots", "64"));
    cluster.nodes[0].spawn();
    cluster.healthy(1).await;
    many(&cluster, "copy", 2_500).await;
    let failed = cluster.submit(&["--name", "scrub-1", "--label", "node=n1", "--", "false"]).await;
    cluster.reaches(&failed, &["failed"]).await;
    until("all have ended", SOON, async || {
        (list(&cluster, &["--state", "succeeded", "--limit", "1"]).await["total"] == 2_500).then_some(())
    })
    .await;

    // More than one answer may hold.
    let all = list(&cluster, &["--limit", "100000"]).await;
    assert_eq!((&all["total"], &all["next"]), (&2_501.into(), &Value::Null));
    let newest: Vec<String> =
        ["scrub-1".to_owned()].into_iter().chain((0..2_500).rev().map(|n| format!("copy-{n}"))).collect();
    assert_eq!(names(&all), newest);

    // Page by page, while more come, and another leader than the one that gave the cursor goes on.
    let (mut seen, mut next): (Vec<String>, Option<String>) = (Vec::new(), None);
    for page in 0.. {
        let after = next.clone().unwrap_or_default();
        let cursor = ["--after", &after];
        let cursor = if page == 0 { &[][..] } else { &cursor[..] };
        let listed = list(&cluster, &[&["--limit", "700"], cursor].concat()).await;
        seen.extend(names(&listed));
        next = listed["next"].as_str().map(str::to_owned);
        if next.is_none() {
            break;
        }
        if page == 1 {
            many(&cluster, "new", 3).await;
            assert!(cluster.nodes[0].stop().await.0.success());
            cluster.nodes[0].spawn();
            cluster.healthy(1).await;
        }
    }
    assert_eq!(seen, newest, "each once, and none that came later");

    let named = list(&cluster, &["--name-prefix", "copy-249", "--limit", "20"]).await;
    let expected: Vec<_> = (2_490..2_500).rev().chain([249]).map(|n| format!("copy-{n}")).collect();
    assert_eq!((names(&named), &named["total"]), (expected, &Value::Null));
    let failures: &[&[&str]] = &[
        &["--state", "failed,dead"],
        &["--kind", "exec"],
        &["--name", "rub"],
        &["--label", "node=n1"],
        &["--node", "n1", "--since", "1h", "--state", "failed"],
        &["--ended-since", "1h", "--state", "failed"],
    ];
    for filter in failures {
        assert_eq!(names(&list(&cluster, filter).await), ["scrub-1"], "{filter:?}");
    }
    for nothing in [["--node", "n9"], ["--until", "1h"], ["--ended-until", "1h"], ["--schedule", "nightly"]] {
        assert_eq!(names(&list(&cluster, &nothing).await), [""; 0], "{nothing:?}");
    }
    cluster.cli(&["task", "list", "--after", "behind"]).await.refused(2, &["\"behind\" is no cursor"]);
    cluster
        .cli(&["task", "list", "--since", "yesterday"])
        .await
        .refused(2, &["no time: use 2026-12-01T03:00:00Z"]);
    let text = cluster.cli(&["task", "list", "--limit", "2"]).await;
    assert!(text.stderr.contains("2 of 2504 tasks") && text.stderr.contains("--after s"), "{text:?}");
}

#[tokio::test]
async fn a_timeline_tells_what_happened_in_order() {
    let mut cluster = Cluster::embedded(|_| ());
    cluster.nodes[0].spawn();
    cluster.healthy(1).await;
    let timeline = async |id: &str| {
        let ran = cluster.cli(&["task", "show", id, "--timeline", "-o", "json"]).await;
        assert_eq!(ran.code, 0, "{ran:?}");
        let told = ran.json();
        assert_eq!(told["gaps"], json!([]), "{told:#}");
        told["timeline"].as_array().unwrap().clone()
    };
    let whats = |events: &[Value]| -> Vec<String> {
        events.iter().map(|event| event["what"].as_str().unwrap().to_owned()).collect()
    };
    let tries = ["--delay", "300ms", "--retries", "1", "--retry-backoff", "200ms", "--", "false"];
    let failing = cluster.submit(&tries).await;
    cluster.reaches(&failing, &["dead"]).await;
    let events = timeline(&failing).await;
    let expected = [
        "submitted",
        "scheduled",
        "queued",
        "assigned",
        "started",
        "attempt_ended",
        "backing_off",
        "assigned",
        "started",
        "attempt_ended",
        "ended",
    ];
    assert_eq!(whats(&events), expected, "{events:#?}");
    let at = |event: usize| events[event]["at_ms"].as_u64().unwrap();
    // What it was to wait for, it waited for; the first clock is the leader's alone.
    assert_eq!(events[1]["until_ms"].as_u64().unwrap(), at(0) + 300);
    assert!(at(2) >= at(0) + 300 && at(7) >= events[6]["until_ms"].as_u64().unwrap(), "{events:#?}");
    assert_eq!((&events[4]["clock"], &events[4]["attempt"]), (&"node".into(), &1.into()));
    assert_eq!(events[5]["detail"], "exit 1");
    let leaders: Vec<_> = events.iter().filter(|event| event["clock"] == "leader").collect();
    assert!(leaders.is_sorted_by_key(|event| event["at_ms"].as_u64()), "{events:#?}");

    // A person's cancel and a person's retry.
    let slow = cluster.submit(&["--", "sleep", "1000"]).await;
    cluster.reaches(&slow, &["running"]).await;
    assert_eq!(cluster.cli(&["task", "cancel", &slow]).await.code, 0);
    cluster.reaches(&slow, &["cancelled"]).await;
    assert_eq!(cluster.cli(&["task", "retry", &slow]).await.code, 0);
    cluster.reaches(&slow, &["running"]).await;
    let events = timeline(&slow).await;
    let expected =
        ["submitted", "queued", "assigned", "cancel_asked", "attempt_ended", "ended", "queued", "assigned"];
    let known: Vec<_> = whats(&events).into_iter().filter(|what| what != "started").collect();
    assert_eq!(known, expected, "{events:#?}");
    let text = cluster.cli(&["task", "show", &slow, "--timeline"]).await;
    assert!(
        text.stdout.contains("cancelled; it went on after that") && text.stdout.contains("now: running"),
        "{text:?}"
    );

    // What waits for others.
    let behind = cluster.submit(&["--after", &format!("{slow}:always"), "--", "true"]).await;
    assert_eq!(whats(&timeline(&behind).await), ["submitted", "blocked"]);
    assert_eq!(cluster.cli(&["task", "cancel", &slow]).await.code, 0);
    cluster.reaches(&behind, &["succeeded"]).await;
    let events = timeline(&behind).await;
    let expected = ["submitted", "blocked", "queued", "assigned", "started", "attempt_ended", "ended"];
    assert_eq!(whats(&events), expected, "{events:#?}");
}

#[tokio::test]
async fn finished_tasks_are_forgotten_by_the_rules_and_their_keys_by_another() {
    let mut cluster = Cluster::embedded(|config| {
        config.set("tasks.retention_count", "20");
        config.set("tasks.idempotency_retention", "\"1h\"");
    });
    cluster.nodes[0].spawn();
    cluster.healthy(1).await;
    let keyed = ["--kind", "noop", "--idempotency-key", "nightly-7"];
    let first = cluster.submit(&keyed).await;
    cluster.reaches(&first, &["succeeded"]).await;
    many(&cluster, "more", 60).await;
    until("the oldest are forgotten", SOON, async || {
        (list(&cluster, &[]).await["total"].as_u64().unwrap() <= 20).then_some(())
    })
    .await;
    cluster.cli(&["task", "show", &first]).await.refused(4, &["there is no task"]);
    let again = cluster.cli(&[&["task", "submit", "-o", "json"], &keyed[..]].concat()).await.json();
    assert_eq!((&again["id"], &again["existing"]), (&first.clone().into(), &true.into()), "{again}");
    // And so for the leader after this one.
    assert!(cluster.nodes[0].stop().await.0.success());
    cluster.nodes[0].spawn();
    cluster.healthy(1).await;
    assert_eq!(cluster.submit(&keyed).await, first);
    let left: BTreeSet<_> = names(&list(&cluster, &["--limit", "100"]).await).into_iter().collect();
    assert!(left.contains("more-59") && !left.contains("more-0"), "the oldest go first: {left:?}");
}
