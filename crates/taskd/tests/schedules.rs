//! Schedules on real nodes: every tick is one task, also while the leader is killed.

#![expect(clippy::unwrap_used, reason = "a test fails where it stands, in its helpers too")]

mod support;

use std::collections::BTreeMap;

use serde_json::Value;
use support::{Cluster, SOON, lines};
use testkit::until;

/// The tasks of a schedule's ticks, by when those were, in seconds.
async fn ticks(cluster: &Cluster) -> BTreeMap<u64, Value> {
    let page = cluster.cli(&["task", "list", "--limit", "10000", "-o", "json"]).await;
    let page = page.json();
    let mut ticks = BTreeMap::new();
    for task in page["tasks"].as_array().unwrap() {
        let origin = &task["spec"]["origin"];
        if origin["triggered"] == false {
            let twice = ticks.insert(origin["tick_ms"].as_u64().unwrap() / 1_000, task.clone());
            assert!(twice.is_none(), "one tick, two tasks: {twice:#?} and {task:#}");
        }
    }
    ticks
}

async fn schedule(cluster: &Cluster, args: &[&str]) -> Value {
    let ran = cluster.cli(&[&["schedule"], args, &["-o", "json"]].concat()).await;
    assert_eq!(ran.code, 0, "{args:?}: {ran:?}");
    ran.json()
}

#[tokio::test]
async fn every_second_is_one_task_although_the_leader_is_killed() {
    let mut cluster = Cluster::start(3).await;
    let (leader, _) = cluster.leader(&cluster.nodes[0]).await;
    // What runs on the leader would be lost with it, and wait for its fence.
    let elsewhere = cluster.nodes.iter().map(|node| node.id.clone()).find(|id| *id != leader).unwrap();
    let record = cluster.dir.path().join("record");
    let script = format!("echo tick >> {}", record.display());
    let label = format!("node={elsewhere}");
    let add = ["schedule", "add", "beat", "--cron", "* * * * * *", "--misfire", "all", "--label", &label];
    let command = ["-o", "json", "--", "sh", "-c", &script];
    let added = cluster.cli(&[&add[..], &command].concat()).await;
    assert_eq!(added.code, 0, "{added:?}");
    let first = added.json()["schedule"]["created_ms"].as_u64().unwrap() / 1_000 + 1;
    until("some ticks have come", SOON, async || (ticks(&cluster).await.len() >= 4).then_some(())).await;

    cluster.node_mut(&leader).kill();
    let witness = cluster.node(&elsewhere);
    until("another one leads", SOON, async || {
        let status = witness.status().await?;
        (status["leader"]["node"] != *leader && status["leader"]["serving"] == true).then_some(())
    })
    .await;
    let before = schedule(&cluster, &["show", "beat"]).await["last"]["at_ms"].as_u64().unwrap();
    until("more ticks have come", SOON, async || {
        let last = schedule(&cluster, &["show", "beat"]).await["last"]["at_ms"].as_u64()?;
        (last >= before + 4_000).then_some(())
    })
    .await;
    let paused = schedule(&cluster, &["pause", "beat"]).await["schedule"].clone();
    let last = paused["last"]["at_ms"].as_u64().unwrap() / 1_000;

    let tasks = ticks(&cluster).await;
    assert!(tasks.keys().copied().eq(first..=last), "{first} to {last}: {:?}", tasks.keys());
    let counts = &paused["counts"];
    assert_eq!((&counts["tasks"], &counts["missed"]), (&(last - first + 1).into(), &0.into()), "{counts}");
    for task in tasks.values() {
        let ended = cluster.reaches(task["id"].as_str().unwrap(), &["succeeded"]).await;
        assert_eq!(ended["attempt_count"], 1, "{ended:#}");
    }
    assert_eq!(lines(&record).len(), tasks.len(), "each ran once");
}

#[tokio::test]
async fn a_schedule_from_its_beginning_to_its_end() {
    let mut cluster = Cluster::embedded(|_| {});
    cluster.nodes[0].spawn();
    cluster.healthy(1).await;
    let empty = cluster.cli(&["schedule", "list"]).await;
    assert!(empty.stdout.contains("taskd schedule add --help"), "{empty:?}");

    let nightly = ["schedule", "add", "nightly", "--cron", "30 3 * * *", "--tz", "Europe/Vilnius"];
    let with = |more: &[&'static str]| [&nightly[..], more].concat();
    let added = cluster.cli(&with(&["--", "echo", "done"])).await;
    assert!(
        added.code == 0 && added.stdout.contains("schedule nightly is added; its next tick: "),
        "{added:?}"
    );
    // The same again is fine; another is not, unless that is meant.
    let same = cluster.cli(&with(&["--", "echo", "done"])).await;
    assert!(same.code == 0 && same.stdout.contains("is there already, with the same content"), "{same:?}");
    let other = cluster.cli(&with(&["--overlap", "forbid", "--", "echo", "done"])).await;
    other.refused(1, &["there is a schedule nightly already", "--replace"]);
    let other = cluster.cli(&with(&["--overlap", "forbid", "--replace", "--", "echo", "done"])).await;
    assert_eq!(other.code, 0, "{other:?}");
    let mut wrong = with(&["--", "true"]);
    wrong[4] = "30 25 * * *";
    cluster.cli(&wrong).await.refused(2, &["is no cron expression", "for example"]);
    (wrong[4], wrong[6]) = ("30 3 * * *", "Mars");
    cluster.cli(&wrong).await.refused(2, &["\"Mars\" is no time zone"]);
    cluster.cli(&["schedule", "show", "weekly"]).await.refused(4, &["there is no schedule weekly"]);

    let shown = cluster.cli(&["schedule", "show", "nightly"]).await.stdout;
    for expected in ["30 3 * * * in Europe/Vilnius", "echo done", "once (late by more than 1m00s)", "forbid"]
    {
        assert!(shown.contains(expected), "{expected:?} in {shown}");
    }
    assert_eq!(shown.matches(":30:00.000Z (in ").count(), 5, "the next ticks: {shown}");

    assert_eq!(schedule(&cluster, &["pause", "nightly"]).await["changed"], true);
    let listed = cluster.cli(&["schedule", "list"]).await.stdout;
    assert!(listed.contains("nightly") && listed.contains("paused"), "{listed}");
    let triggered = schedule(&cluster, &["trigger", "nightly"]).await;
    let id = triggered["task"].as_str().unwrap();
    let task = cluster.reaches(id, &["succeeded"]).await;
    assert_eq!(task["spec"]["origin"]["schedule"], "nightly");
    assert!(task["spec"]["name"].as_str().unwrap().starts_with("nightly@20"), "{task:#}");
    let why = cluster.cli(&["task", "why", id]).await.stdout;
    assert!(why.contains("schedule nightly was triggered at 20"), "{why}");
    let shown = cluster.cli(&["task", "show", id]).await.stdout;
    assert!(shown.contains("nightly, triggered at 20"), "{shown}");

    let resumed = schedule(&cluster, &["resume", "nightly"]).await;
    assert_eq!((&resumed["changed"], &resumed["schedule"]["counts"]["tasks"]), (&true.into(), &0.into()));
    assert_eq!(cluster.cli(&["schedule", "remove", "nightly"]).await.code, 0);
    assert_eq!(schedule(&cluster, &["list"]).await["schedules"].as_array().map(Vec::len), Some(0));
}
