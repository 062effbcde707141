//! What operators do to a cluster that works: take a node out, hold everything, limit a kind, place; and a log that is full.

#![expect(clippy::unwrap_used, reason = "a test fails where it stands, in its helpers too")]

mod support;

use std::collections::BTreeSet;

use serde_json::Value;
use support::{Cluster, SOON};
use testkit::until;

async fn done(cluster: &Cluster, args: &[&str]) -> Value {
    let ran = cluster.cli(&[args, &["-o", "json"]].concat()).await;
    assert_eq!(ran.code, 0, "{ran:?}");
    ran.json()
}

/// What the cluster says of a node.
async fn shown(cluster: &Cluster, node: &str) -> Value {
    done(cluster, &["node", "show", node]).await
}

async fn shown_as(cluster: &Cluster, node: &str, state: &str) {
    let what = format!("{node} is {state}");
    until(&what, SOON, async || (shown(cluster, node).await["state"] == state).then_some(())).await;
}

fn node_of(task: &Value) -> String {
    task["attempts"].as_array().unwrap().last().unwrap()["node"].as_str().unwrap().to_owned()
}

/// A node is drained with a deadline: what runs there goes on until then, runs elsewhere after it, and nothing new comes.
/// The order outlives the leader that took it.
#[tokio::test]
async fn a_drained_node_loses_its_work_at_the_deadline_and_gets_none() {
    let cluster = Cluster::start(3).await;
    let mut running = Vec::new();
    for _ in 0..2 {
        let id = cluster.submit(&["--prefer", "node=n2", "--", "sleep", "86397"]).await;
        assert_eq!(node_of(&cluster.reaches(&id, &["running"]).await), "n2", "where it is wanted");
        running.push(id);
    }
    let short = cluster.submit(&["--require", "node=n2", "--", "sh", "-c", "sleep 1; exit 3"]).await;
    cluster.reaches(&short, &["running"]).await;

    let drain = ["node", "drain", "n2", "--deadline", "6s", "--reason", "new disks"];
    let ordered = done(&cluster, &drain).await;
    assert_eq!(ordered["changed"], true);
    let node = shown(&cluster, "n2").await;
    assert_eq!((&node["state"], &node["drain"]["said"]["reason"]), (&"draining".into(), &"new disks".into()));
    let refused = cluster.submit(&["--require", "node=n2", "--", "true"]).await;
    let why = cluster.cli(&["task", "why", &refused]).await;
    assert!(
        why.stdout.contains("n2, the only node that could run it, is drained")
            && why.stdout.contains("new disks")
            && why.stdout.contains("taskd node undrain n2"),
        "{why:?}"
    );
    // What may end by itself before the deadline does.
    assert_eq!(cluster.reaches(&short, &["failed"]).await["attempts"][0]["end"]["exited"]["code"], 3);

    // Another leader, and the order holds.
    assert_eq!(cluster.cli(&["cluster", "handover"]).await.code, 0);
    for id in &running {
        let task = until("it runs elsewhere", SOON, async || {
            let task = cluster.task(id).await;
            (task["state"] == "running" && task["attempt_count"] == 2).then_some(task)
        })
        .await;
        assert_ne!(node_of(&task), "n2", "{task:#}");
        let end = &task["attempts"][0]["end"];
        assert!(end.to_string().contains("drain"), "it says why it was moved: {end}");
    }
    shown_as(&cluster, "n2", "drained").await;
    let list = cluster.cli(&["node", "list"]).await;
    assert!(list.stdout.contains("drained") && list.stdout.contains("new disks"), "{list:?}");
    let status = cluster.cli(&["cluster", "status"]).await;
    assert!(status.stdout.contains("n2") && status.stdout.contains("drain"), "{status:?}");
    for _ in 0..8 {
        let id = cluster.submit(&["--prefer", "node=n2", "--", "true"]).await;
        assert_ne!(node_of(&cluster.reaches(&id, &["succeeded"]).await), "n2", "nothing new lands there");
    }

    assert_eq!(done(&cluster, &["node", "undrain", "n2"]).await["changed"], true);
    cluster.reaches(&refused, &["succeeded"]).await;
    assert_eq!(done(&cluster, &["node", "undrain", "n2"]).await["changed"], false);
    cluster.cli(&["node", "drain", "n9"]).await.refused(4, &["n9"]);
    for id in &running {
        assert_eq!(cluster.cli(&["task", "cancel", id]).await.code, 0);
        cluster.reaches(id, &["cancelled"]).await;
    }
}

/// Nothing new starts while the cluster is paused, under another leader too; what runs goes on, what is submitted is kept.
#[tokio::test]
async fn a_paused_cluster_keeps_what_it_is_given() {
    let cluster = Cluster::start(3).await;
    let gate = cluster.dir.path().join("gate");
    let script = format!("until [ -e {} ]; do sleep 0.05; done", gate.display());
    let before = cluster.submit(&["--", "sh", "-c", &script]).await;
    cluster.reaches(&before, &["running"]).await;
    let add = ["schedule", "add", "beat", "--cron", "* * * * * *", "--", "true"];
    assert_eq!(cluster.cli(&add).await.code, 0);

    let paused = done(&cluster, &["cluster", "pause", "--reason", "storage maintenance"]).await;
    assert_eq!(paused["now"]["paused"]["reason"], "storage maintenance");
    let waiting = cluster.submit(&["--", "true"]).await;
    assert_eq!(cluster.cli(&["cluster", "handover"]).await.code, 0);
    let why = cluster.cli(&["task", "why", &waiting]).await;
    assert!(
        why.stdout.contains("the cluster is paused")
            && why.stdout.contains("storage maintenance")
            && why.stdout.contains("taskd cluster resume"),
        "{why:?}"
    );
    let status = cluster.cli(&["cluster", "status"]).await;
    assert!(status.stdout.contains("paused"), "{status:?}");
    // What runs goes on to its end, which is news of a time long after the pause began.
    std::fs::write(&gate, "").unwrap();
    cluster.reaches(&before, &["succeeded"]).await;
    assert_eq!(cluster.task(&waiting).await["state"], "queued");

    assert_eq!(done(&cluster, &["cluster", "resume"]).await["changed"], true);
    cluster.reaches(&waiting, &["succeeded"]).await;
    until("the schedule ticks again", SOON, async || {
        let shown = done(&cluster, &["schedule", "show", "beat"]).await;
        (shown["counts"]["tasks"].as_u64()? >= 1).then_some(())
    })
    .await;
}

/// Quotas hold back what may wait, and refuse what may not, by name.
#[tokio::test]
async fn quotas_limit_a_kind_by_number_and_by_bytes() {
    let mut cluster = Cluster::embedded(|config| config.set("node.slots", "8"));
    cluster.nodes[0].spawn();
    cluster.healthy(1).await;
    let set = ["quota", "set", "exec", "--running", "2", "--queued", "3", "--bytes", "64KiB"];
    assert_eq!(done(&cluster, &set).await["changed"], true);
    let mut running = Vec::new();
    for _ in 0..2 {
        let id = cluster.submit(&["--", "sleep", "86396"]).await;
        cluster.reaches(&id, &["running"]).await;
        running.push(id);
    }
    let mut waiting = Vec::new();
    for _ in 0..3 {
        waiting.push(cluster.submit(&["--", "true"]).await);
    }
    let why = cluster.cli(&["task", "why", &waiting[0]]).await;
    assert!(
        why.stdout.contains("2 tasks of kind \"exec\" run, and its quota is 2")
            && why.stdout.contains("taskd quota set exec --running N"),
        "{why:?}"
    );
    let refused = cluster.cli(&["task", "submit", "--", "true"]).await;
    assert!(refused.code != 0 && refused.stderr.contains("quota"), "one more than may wait: {refused:?}");
    assert!(refused.stderr.contains("nothing was queued"), "{refused:?}");
    // Another kind is not concerned.
    let other = cluster.submit(&["--kind", "noop"]).await;
    cluster.reaches(&other, &["succeeded"]).await;
    let list = done(&cluster, &["quota", "list"]).await;
    let exec = &list["quotas"][0];
    assert_eq!((&exec["kind"], &exec["running"], &exec["queued"]), (&"exec".into(), &2.into(), &3.into()));

    let large = format!("true {}", "x".repeat(70_000));
    assert_eq!(done(&cluster, &["quota", "set", "exec", "--queued", "100"]).await["changed"], true);
    let refused = cluster.cli(&["task", "submit", "--", "sh", "-c", &large]).await;
    assert!(refused.code != 0 && refused.stderr.contains("bytes"), "{refused:?}");

    assert_eq!(cluster.cli(&["task", "cancel", &running[0]]).await.code, 0);
    for id in &waiting {
        cluster.reaches(id, &["succeeded"]).await;
    }
    assert_eq!(done(&cluster, &["quota", "remove", "exec"]).await["changed"], true);
    assert_eq!(done(&cluster, &["quota", "list"]).await["quotas"], serde_json::json!([]));
    let large = cluster.submit(&["--", "sh", "-c", &large]).await;
    cluster.reaches(&large, &["succeeded"]).await;
    cluster.cli(&["quota", "set", "exec", "--running", "0"]).await.refused(2, &["--running"]);
}

/// Where a task runs is where it was asked to, or it says what is missing.
#[tokio::test]
async fn tasks_are_placed_by_labels_spread_and_slots() {
    let cluster = Cluster::start_with(3, |config| {
        let disk = if config.id == "n3" { "ssd" } else { "hdd" };
        config.set("node.labels", &format!("{{ disk = \"{disk}\", node = \"{}\" }}", config.id.clone()));
        config.set("node.slots", "2");
    })
    .await;
    let on = async |args: &[&str]| {
        let id = cluster.submit(&[args, &["--", "true"]].concat()).await;
        node_of(&cluster.reaches(&id, &["succeeded"]).await)
    };
    for _ in 0..3 {
        assert_eq!(on(&["--require", "disk=ssd"]).await, "n3");
        assert_ne!(on(&["--require", "disk!=ssd"]).await, "n3");
        assert_ne!(on(&["--avoid", "disk=ssd"]).await, "n3", "there is room elsewhere");
        assert_eq!(on(&["--prefer", "node=n2"]).await, "n2");
    }
    let nowhere = cluster.submit(&["--require", "disk=nvme", "--", "true"]).await;
    let why = cluster.cli(&["task", "why", &nowhere]).await;
    assert!(why.stdout.contains("carries disk=nvme") && why.stdout.contains("taskd node list"), "{why:?}");
    let huge = cluster.submit(&["--slots", "3", "--", "true"]).await;
    let why = cluster.cli(&["task", "why", &huge]).await;
    assert!(why.stdout.contains("3 slots of one node") && why.stdout.contains("more than 2"), "{why:?}");

    // Three of a group on three nodes; each takes a node's both slots, and a fourth waits for one.
    let mut copies = Vec::new();
    let mut nodes = BTreeSet::new();
    for _ in 0..3 {
        let id = cluster.submit(&["--spread", "copies", "--slots", "2", "--", "sleep", "86395"]).await;
        nodes.insert(node_of(&cluster.reaches(&id, &["running"]).await));
        copies.push(id);
    }
    assert_eq!(nodes.len(), 3, "{nodes:?}");
    let fourth = cluster.submit(&["--slots", "2", "--", "true"]).await;
    let why = cluster.cli(&["task", "why", &fourth]).await;
    assert!(why.stdout.contains("slots that could run it are busy"), "{why:?}");
    for id in &copies {
        assert_eq!(cluster.cli(&["task", "cancel", id]).await.code, 0);
        cluster.reaches(id, &["cancelled"]).await;
    }
    cluster.reaches(&fourth, &["succeeded"]).await;
    for id in [&nowhere, &huge] {
        assert_eq!(cluster.cli(&["task", "cancel", id]).await.code, 0);
    }
}

/// A log whose budget is used up refuses new tasks, says so, and lets those that it has come to their end.
#[tokio::test]
async fn a_full_log_refuses_new_tasks_and_ends_those_that_it_has() {
    let mut cluster = Cluster::embedded(|config| {
        config.set("tasks.log_bytes_budget", "2097152");
        config.set("tasks.log_bytes_reserve", "524288");
    });
    cluster.nodes[0].spawn();
    cluster.healthy(1).await;
    assert_eq!(cluster.cli(&["cluster", "pause"]).await.code, 0);
    // As large as a payload inside of the log may be, so that a few of them fill it.
    let script = format!("true {}", "x".repeat(3_000));
    let line = serde_json::json!({ "command": ["sh", "-c", script] }).to_string();
    let file = cluster.dir.path().join("many.jsonl");
    std::fs::write(&file, vec![line; 50].join("\n")).unwrap();
    let mut accepted = Vec::new();
    let refused = until("the log is full", SOON, async || {
        let ran = cluster.cli(&["task", "submit", "--batch", file.to_str().unwrap(), "-o", "json"]).await;
        if ran.code != 0 {
            return Some(ran);
        }
        accepted.extend(ran.json()["tasks"].as_array().unwrap().clone());
        None
    })
    .await;
    assert!(refused.stderr.contains("the task log's budget is used up"), "{refused:?}");
    let status = cluster.cli(&["cluster", "status"]).await;
    assert!(
        status.stdout.contains("of its budget") && status.stdout.contains("tasks.log_bytes_budget"),
        "{status:?}"
    );
    assert!(accepted.len() > 100, "{} were accepted", accepted.len());

    // Out of the reserve: a cancel and the ends of all others are written.
    let id = accepted[0]["id"].as_str().unwrap();
    assert_eq!(cluster.cli(&["task", "cancel", id]).await.code, 0);
    cluster.reaches(id, &["cancelled"]).await;
    assert_eq!(cluster.cli(&["cluster", "resume"]).await.code, 0);
    let last = accepted.last().unwrap()["id"].as_str().unwrap();
    cluster.reaches(last, &["succeeded"]).await;
    until("all have ended", SOON, async || {
        let open = done(&cluster, &["task", "list", "--state", "queued,running", "--limit", "1"]).await;
        (open["total"] == 0).then_some(())
    })
    .await;
}
