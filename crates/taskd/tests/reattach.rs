//! What runs survives its daemon: killed and restarted, restarted as planned, away while the leader changes, away for too
//! long. Real nodes, real processes.

#![expect(clippy::unwrap_used, reason = "a test fails where it stands, in its helpers too")]

mod support;

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use support::{Cluster, SOON, lines};
use testkit::until;

/// The shortest that goes with a grace of 2 s.
const FENCE_AFTER: Duration = Duration::from_secs(5);

/// A task on `node` that says when it begins and ends, in its output and in a record, and ends when `gate` is there.
async fn gated(cluster: &Cluster, node: &str, gate: &str) -> String {
    let dir = cluster.dir.path().display();
    let script = format!(
        "echo begun; echo \"begin $TASKD_TASK_ID $TASKD_ATTEMPT $TASKD_NODE\" >> {dir}/record\n\
         until [ -e {dir}/{gate} ]; do sleep 0.05; done\n\
         echo ended; echo \"end $TASKD_TASK_ID $TASKD_ATTEMPT $TASKD_NODE\" >> {dir}/record"
    );
    let label = format!("node={node}");
    let id = cluster.submit(&["--label", &label, "--", "sh", "-c", &script]).await;
    until("the task has begun", SOON, async || (record(cluster, &id).len() == 1).then_some(())).await;
    id
}

/// What a task has written down of itself, without its id.
fn record(cluster: &Cluster, id: &str) -> Vec<String> {
    let lines = lines(&cluster.dir.path().join("record"));
    lines.iter().filter(|line| line.contains(id)).map(|line| line.replace(&format!("{id} "), "")).collect()
}

fn open_gate(cluster: &Cluster, gate: &str) {
    std::fs::write(cluster.dir.path().join(gate), "").unwrap();
}

/// One attempt, from its beginning to its end, with all of its output.
async fn ran_once(cluster: &Cluster, id: &str, node: &str) {
    let task = cluster.reaches(id, &["succeeded"]).await;
    assert_eq!(task["attempt_count"], 1, "{task:#}");
    assert_eq!(record(cluster, id), [format!("begin 1 {node}"), format!("end 1 {node}")]);
    let output = cluster.cli(&["task", "logs", id]).await;
    assert_eq!(output.stdout, "begun\nended\n", "{output:?}");
}

/// Neither the follower's task nor the leader's notices that its daemon was killed: not even while another leads.
#[tokio::test]
async fn a_killed_daemon_is_restarted_and_its_tasks_go_on() {
    let mut cluster = Cluster::start(3).await;
    let (leader, _) = cluster.leader(&cluster.nodes[0]).await;
    let followers: Vec<_> = cluster.nodes.iter().map(|n| n.id.clone()).filter(|id| *id != leader).collect();
    let follower = followers[0].clone();
    let ids = [gated(&cluster, &follower, "gate").await, gated(&cluster, &leader, "gate").await];
    let alone = gated(&cluster, &follower, "alone").await;
    let others = cluster.node(&follower).shims();

    cluster.node_mut(&follower).kill();
    // One ends while nobody looks.
    open_gate(&cluster, "alone");
    until("the end of the one", SOON, async || (record(&cluster, &alone).len() == 2).then_some(())).await;
    cluster.node_mut(&leader).kill();
    let (new, _) = cluster.leader(cluster.node(&followers[1])).await;
    assert_ne!(new, leader);
    for id in [&leader, &follower] {
        cluster.node_mut(id).spawn();
    }
    cluster.healthy(3).await;
    ran_once(&cluster, &alone, &follower).await;
    for id in &ids {
        let task = cluster.task(id).await;
        assert_eq!((&task["state"], &task["attempt_count"]), (&"running".into(), &1.into()), "{task:#}");
    }
    // The very same processes, and a cancel reaches them.
    let doomed = gated(&cluster, &follower, "never").await;
    cluster.node_mut(&follower).kill();
    cluster.node_mut(&follower).spawn();
    cluster.healthy(3).await;
    assert!(cluster.node(&follower).shims().iter().any(|shim| others.contains(shim)), "{others:?}");
    assert_eq!(cluster.cli(&["task", "cancel", &doomed]).await.code, 0);
    assert_eq!(cluster.reaches(&doomed, &["cancelled"]).await["attempt_count"], 1);
    open_gate(&cluster, "gate");
    ran_once(&cluster, &ids[0], &follower).await;
    ran_once(&cluster, &ids[1], &leader).await;
    for node in &cluster.nodes {
        until("every shim is gone", SOON, async || node.shims().is_empty().then_some(())).await;
    }
}

/// An upgrade: the stop is quick, what runs goes on for longer than the fence would have it, and the new daemon takes over.
#[tokio::test]
async fn a_planned_restart_leaves_tasks_running() {
    let change = |config: &mut support::NodeConfig| {
        config.set("tasks.fence_after", &format!("\"{}s\"", FENCE_AFTER.as_secs()));
        config.set("tasks.on_stop", "\"leave\"");
    };
    let mut cluster = Cluster::start_with(3, change).await;
    let (leader, _) = cluster.leader(&cluster.nodes[0]).await;
    let follower = cluster.nodes.iter().map(|n| n.id.clone()).find(|id| *id != leader).unwrap();
    let ids = [gated(&cluster, &follower, "gate").await, gated(&cluster, &leader, "gate").await];
    // The leader too: it is its own dispatcher that has to grant the time, before it ends.
    for id in [&follower, &leader] {
        let (status, took) = cluster.node_mut(id).stop().await;
        assert!(status.success() && took < Duration::from_secs(5), "{id}: {status} after {took:?}");
        assert!(!cluster.node(id).shims().is_empty(), "{id} has left its task");
        let log = cluster.node(id).log();
        assert!(log.contains("tasks are left running") && log.contains("extended=true"), "{log}");
    }
    // Longer than the right to run without an extension, drift included.
    let away = Instant::now();
    let witness = cluster.nodes.iter().find(|node| node.runs()).unwrap().address.clone();
    until("the fence would have been over", SOON, async || {
        for id in &ids {
            let ran = support::run_at(&witness, &["task", "show", id, "-o", "json"]).await;
            if ran.code == 0 {
                let task = ran.json();
                let seen = (&task["state"], &task["attempt_count"]);
                assert_eq!(seen, (&"running".into(), &1.into()), "after {:?}: {task:#}", away.elapsed());
            }
        }
        (away.elapsed() > FENCE_AFTER * 2 + Duration::from_secs(3)).then_some(())
    })
    .await;
    for id in [&follower, &leader] {
        cluster.node_mut(id).spawn();
    }
    cluster.healthy(3).await;
    open_gate(&cluster, "gate");
    ran_once(&cluster, &ids[0], &follower).await;
    ran_once(&cluster, &ids[1], &leader).await;
    // Ctrl-C leaves nothing.
    let last = gated(&cluster, &follower, "never").await;
    cluster.node(&follower).signal(Signal::SIGINT);
    let (status, took) = cluster.node_mut(&follower).ended(SOON).await;
    assert!(status.success() && took < Duration::from_secs(6), "{status} after {took:?}");
    assert!(cluster.node(&follower).shims().is_empty(), "{:?}", cluster.node(&follower).shims());
    assert_eq!(cluster.cli(&["task", "cancel", &last]).await.code, 0);
}

/// A daemon that stays away: its shim ends the task, another node runs it again, once, and not before that. The daemon
/// that comes back late changes nothing.
#[tokio::test]
async fn who_comes_back_after_the_fence_finds_nothing_left() {
    let fence = format!("\"{}s\"", FENCE_AFTER.as_secs());
    let mut cluster = Cluster::start_with(3, |config| config.set("tasks.fence_after", &fence)).await;
    let (leader, _) = cluster.leader(&cluster.nodes[0]).await;
    let follower = cluster.nodes.iter().map(|n| n.id.clone()).find(|id| *id != leader).unwrap();
    let dir = cluster.dir.path().display().to_string();
    let script = format!(
        "echo \"begin $TASKD_ATTEMPT $TASKD_NODE\" >> {dir}/again\n\
         until [ -e {dir}/gate ]; do sleep 0.05; done; echo \"end $TASKD_ATTEMPT\" >> {dir}/again"
    );
    let path = cluster.dir.path().join("again");
    // On the follower first, because the others have no room.
    let mut fillers = Vec::new();
    for node in cluster.nodes.iter().filter(|node| node.id != follower) {
        for _ in 0..8 {
            fillers.push(
                cluster.submit(&["--label", &format!("node={}", node.id), "--", "sleep", "86397"]).await,
            );
        }
    }
    for id in &fillers {
        cluster.reaches(id, &["running"]).await;
    }
    let id = cluster.submit(&["--", "sh", "-c", &script]).await;
    until("it runs", SOON, async || (lines(&path).len() == 1).then_some(())).await;
    assert_eq!(lines(&path), [format!("begin 1 {follower}")]);
    for filler in &fillers {
        assert_eq!(cluster.cli(&["task", "cancel", filler]).await.code, 0);
    }
    cluster.node_mut(&follower).kill();
    let killed = Instant::now();
    until("it runs again", SOON, async || (lines(&path).len() > 1).then_some(())).await;
    let left = cluster.node(&follower).shims();
    assert!(left.is_empty(), "the second attempt began while the first was there: {left:?}");
    let waited = killed.elapsed();
    assert!(waited > FENCE_AFTER - Duration::from_secs(2), "before the fence: {waited:?}");
    cluster.node_mut(&follower).spawn();
    cluster.healthy(3).await;
    open_gate(&cluster, "gate");
    let task = cluster.reaches(&id, &["succeeded"]).await;
    assert_eq!(task["attempt_count"], 2, "{task:#}");
    assert_eq!(task["attempts"][0]["node"], *follower, "{task:#}");
    let record = lines(&path);
    assert!(record.len() == 3 && record[1].starts_with("begin 2") && record[2] == "end 2", "{record:?}");
}

/// A drain waits for what runs and takes nothing new; a second signal ends the waiting.
#[tokio::test]
async fn a_drain_waits_until_it_is_told_not_to() {
    let mut cluster = Cluster::start_with(2, |config| config.set("tasks.on_stop", "\"drain\"")).await;
    let (leader, _) = cluster.leader(&cluster.nodes[0]).await;
    let follower = cluster.nodes.iter().map(|n| n.id.clone()).find(|id| *id != leader).unwrap();
    let id = gated(&cluster, &follower, "gate").await;
    cluster.node(&follower).signal(Signal::SIGTERM);
    cluster.node(&follower).logged("draining", 1, SOON).await;
    let elsewhere = cluster.submit(&["--", "sh", "-c", "echo $TASKD_NODE"]).await;
    cluster.reaches(&elsewhere, &["succeeded"]).await;
    assert_eq!(cluster.cli(&["task", "logs", &elsewhere]).await.stdout.trim(), leader);
    assert!(cluster.node_mut(&follower).has_ended().is_none(), "it waits");
    open_gate(&cluster, "gate");
    let (status, _) = cluster.node_mut(&follower).ended(SOON).await;
    assert!(status.success(), "{status}");
    // Its output is where it ran, and that node is gone.
    assert_eq!(cluster.reaches(&id, &["succeeded"]).await["attempt_count"], 1);
    assert_eq!(record(&cluster, &id), [format!("begin 1 {follower}"), format!("end 1 {follower}")]);

    cluster.node_mut(&follower).spawn();
    cluster.healthy(2).await;
    let id = gated(&cluster, &follower, "never").await;
    cluster.node(&follower).signal(Signal::SIGTERM);
    cluster.node(&follower).logged("draining", 2, SOON).await;
    cluster.node(&follower).signal(Signal::SIGTERM);
    let (status, took) = cluster.node_mut(&follower).ended(SOON).await;
    assert!(status.success() && took < Duration::from_secs(6), "{status} after {took:?}");
    assert!(cluster.node(&follower).shims().is_empty(), "{:?}", cluster.node(&follower).shims());
    // It asks for that node, which is gone: it waits, and its first attempt is over.
    let task = cluster.reaches(&id, &["queued", "retrying"]).await;
    assert!(task["attempts"][0]["end"]["lost"].is_object(), "{task:#}");
}

/// What systemd is told: it does not run where these tests do.
#[test]
fn the_unit_lets_what_runs_survive_its_restart() {
    let unit =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../etc/taskd.service")).unwrap();
    let lines: Vec<_> = unit.lines().map(str::trim).collect();
    for line in [
        // The default would kill the control group, shims and all.
        "KillMode=process",
        // One task that runs out of memory must not end the others.
        "OOMPolicy=continue",
        "Restart=on-failure",
        "RestartPreventExitStatus=78",
        "ExecStart=/usr/bin/taskd serve --config /etc/taskd/taskd.toml --on-stop leave",
    ] {
        assert!(lines.contains(&line), "{line} is missing:\n{unit}");
    }
    let seconds = lines.iter().find_map(|line| line.strip_prefix("TimeoutStopSec=")).unwrap();
    assert!(seconds.parse::<u64>().unwrap() > 5, "the daemon takes up to 5 s by itself");
}
