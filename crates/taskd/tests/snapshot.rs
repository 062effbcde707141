//! The task log without a leader and without a node; and a cluster that comes back from a file.

#![expect(clippy::unwrap_used, reason = "a test fails where it stands, in its helpers too")]

mod support;

use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use serde_json::Value;
use support::{Cluster, Ran, SOON, run};
use testkit::until;

/// A command that needs no node: `taskd GROUP ARGS… --config` of the first node.
async fn beside(cluster: &Cluster, args: &[&str]) -> Ran {
    let config = cluster.nodes[0].config_path().to_str().unwrap();
    run(&[args, &["--config", config]].concat()).await
}

async fn done(cluster: &Cluster, args: &[&str]) -> Value {
    let ran = beside(cluster, &[args, &["-o", "json"]].concat()).await;
    assert_eq!(ran.code, 0, "{ran:?}");
    ran.json()
}

fn now_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    u64::try_from(since.as_millis()).unwrap()
}

/// Saved, wiped, restored: what had ended is there, what waited runs, what ran runs again after its fence.
#[tokio::test]
async fn a_cluster_comes_back_from_its_snapshot() {
    let cluster = Cluster::prepare_own_with(2, |config| {
        config.set("tasks.fence_after", "\"6s\"");
        config.set("tasks.retention_count", "1");
        config.set("coordination.root", "\"/production/taskd\"");
    });
    let mut cluster = cluster.await.started().await;
    // Of this one nothing but its key will be left.
    let forgotten = cluster.submit(&["--idempotency-key", "long-ago", "--", "true"]).await;
    cluster.reaches(&forgotten, &["succeeded"]).await;
    let succeeded = cluster.submit(&["--idempotency-key", "once", "--name", "first", "--", "true"]).await;
    cluster.reaches(&succeeded, &["succeeded"]).await;
    let running = cluster.submit(&["--lock", "disk", "--", "sleep", "1000"]).await;
    cluster.reaches(&running, &["running"]).await;
    // Its payload lies beside the log.
    let large = format!("true {}", "x".repeat(20_000));
    let waiting = cluster.submit(&["--lock", "disk", "--", "sh", "-c", &large]).await;
    let add = ["schedule", "add", "nightly", "--cron", "0 0 1 1 *", "--", "true"];
    assert_eq!(cluster.cli(&add).await.code, 0);
    assert_eq!(cluster.cli(&["cluster", "priority", "n2", "7"]).await.code, 0);
    // What operators have said.
    let orders: [&[&str]; 3] = [
        &["node", "drain", "n9", "--absent", "--reason", "new disks"],
        &["quota", "set", "scrub", "--running", "2"],
        &["cluster", "pause", "--reason", "move"],
    ];
    for order in orders {
        let ran = cluster.cli(order).await;
        assert_eq!(ran.code, 0, "{ran:?}");
    }
    until("the oldest is forgotten", SOON, async || {
        (cluster.cli(&["task", "show", &forgotten]).await.code == 4).then_some(())
    })
    .await;
    let before = cluster.nodes[0].status().await.unwrap();

    // While it serves; and the file is nobody else's to read, and nobody else's is replaced.
    let file = cluster.dir.path().join("monday");
    let file = file.to_str().unwrap();
    let saved = done(&cluster, &["snapshot", "save", file]).await;
    assert_eq!(saved["cluster"], before["cluster"], "{saved:#}");
    assert_eq!(std::fs::metadata(file).unwrap().permissions().mode() & 0o777, 0o600);
    beside(&cluster, &["snapshot", "save", file]).await.refused(2, &["is there already"]);
    beside(&cluster, &["snapshot", "restore", file]).await.refused(1, &["living members", "stop every node"]);
    // Nor by force: whoever lives would go on with what is taken away.
    let forced = beside(&cluster, &["snapshot", "restore", file, "--force"]).await;
    forced.refused(1, &["living members", "stop every node"]);
    assert_eq!(cluster.task(&succeeded).await["state"], "succeeded", "nothing was touched");

    for node in &mut cluster.nodes {
        node.kill();
    }
    // Nobody leads, no node runs.
    let late = cluster.dir.path().join("late");
    let late = late.to_str().unwrap();
    let saved = done(&cluster, &["snapshot", "save", late]).await;
    assert_eq!(saved["tasks"], serde_json::json!({ "queued": 1, "running": 1, "succeeded": 1 }), "{saved:#}");
    let kinds = serde_json::json!({
        "key": 1, "meta": 1, "node": 1, "pause": 1, "quota": 1, "schedule": 1, "task": 3,
    });
    assert_eq!((&saved["records"], &saved["bodies"]), (&kinds, &1.into()), "{saved:#}");
    assert_eq!(run(&["snapshot", "inspect", late, "-o", "json"]).await.json(), saved);
    let mut damaged = std::fs::read(late).unwrap();
    let middle = damaged.len() / 2;
    damaged[middle] ^= 1;
    let broken = cluster.dir.path().join("broken");
    std::fs::write(&broken, damaged).unwrap();
    let broken = broken.to_str().unwrap();
    beside(&cluster, &["snapshot", "restore", broken, "--force"])
        .await
        .refused(1, &["cut short, or was changed"]);
    std::fs::write(broken, &std::fs::read(late).unwrap()[..middle]).unwrap();
    run(&["snapshot", "inspect", broken]).await.refused(1, &["broken cannot be used", "cut short"]);

    let restored = until("the sessions of the killed nodes have ended", SOON, async || {
        beside(&cluster, &["snapshot", "restore", late]).await.refused(1, &[]);
        let ran = beside(&cluster, &["snapshot", "restore", late, "--force", "-o", "json"]).await;
        if ran.code == 0 {
            // A snapshot does not know what was started after it; whatever it was, it is over.
            assert!(ran.took >= Duration::from_secs(6) && ran.stderr.contains("--stopped"), "{ran:?}");
        }
        (ran.code == 0).then(|| ran.json())
    })
    .await;
    assert_eq!(restored["restored_from"], before["cluster"], "{restored:#}");
    assert_ne!(restored["cluster"], before["cluster"]);
    let verified = done(&cluster, &["db", "verify"]).await;
    assert_eq!(verified["sound"], true, "{verified:#}");

    // Who belongs to the old one does not join, and says why.
    let old = &mut cluster.nodes[0];
    old.spawn();
    let (status, _) = old.ended(SOON).await;
    assert!(!status.success());
    old.logged("this node belongs to cluster", 1, Duration::from_secs(1)).await;
    let begun_ms = now_ms();
    for node in &mut cluster.nodes {
        std::fs::remove_dir_all(&node.data_dir).unwrap();
        node.spawn();
    }
    let now = cluster.healthy(2).await;
    assert_eq!(now["cluster"], restored["cluster"]);
    let (_, epoch) = cluster.leader(&cluster.nodes[0]).await;
    assert!(epoch > restored["epoch"].as_u64().unwrap() && epoch > 1_000, "epochs go on: {epoch}");
    let members = now["members"].as_array().unwrap().iter();
    let priorities: Vec<_> =
        members.filter(|member| member["node"] == "n2").map(|member| &member["priority"]).collect();
    assert_eq!(priorities, [7], "priorities are part of it: {now:#}");

    assert_eq!(cluster.task(&succeeded).await["state"], "succeeded");
    let again = ["--idempotency-key", "once", "--name", "first", "--", "true"];
    assert_eq!(cluster.submit(&again).await, succeeded, "its key is known");
    let shown = cluster.cli(&["schedule", "list", "-o", "json"]).await.json();
    assert_eq!(shown["schedules"][0]["name"], "nightly", "{shown:#}");
    let again = ["--idempotency-key", "long-ago", "--", "true"];
    assert_eq!(cluster.submit(&again).await, forgotten, "and so is that of a task that is forgotten");
    let nodes = cluster.cli(&["node", "list", "-o", "json"]).await.json();
    assert_eq!(nodes["paused"]["reason"], "move", "{nodes:#}");
    let drained: Vec<_> =
        nodes["nodes"].as_array().unwrap().iter().filter(|n| !n["drain"].is_null()).collect();
    assert_eq!(
        (drained.len(), &drained[0]["drain"]["said"]["reason"]),
        (1, &"new disks".into()),
        "{nodes:#}"
    );
    let quotas = cluster.cli(&["quota", "list", "-o", "json"]).await.json();
    assert_eq!(quotas["quotas"][0]["quota"]["running"], 2, "{quotas:#}");
    assert_eq!(cluster.cli(&["cluster", "resume"]).await.code, 0);
    // The lock was held; after the fence what held it runs anew, under a token that nothing of the old one's is.
    let second = until("what was running runs again", SOON, async || {
        let task = cluster.task(&running).await;
        (task["state"] == "running" && task["attempt_count"] == 2).then_some(task)
    })
    .await;
    let [old, new] = [&second["attempts"][0], &second["attempts"][1]];
    assert!(old["end"]["lost"].is_object(), "{second:#}");
    assert_eq!((&old["token"]["cluster"], &new["token"]["cluster"]), (&before["cluster"], &now["cluster"]));
    assert!(new["token"]["epoch"].as_u64() > old["token"]["epoch"].as_u64().map(|epoch| epoch + 1_000));
    let waited = new["assigned_ms"].as_u64().unwrap() - begun_ms;
    assert!(waited >= 6_000, "the old attempt's right may last for a fence; assigned after {waited} ms");
    assert_eq!(cluster.cli(&["task", "cancel", &running]).await.code, 0);
    cluster.reaches(&waiting, &["succeeded"]).await;

    // The same file, into a root of its own.
    let hosts = cluster.coordinator().hosts();
    let copy = format!("{hosts}/copy/taskd");
    let ran = run(&["snapshot", "restore", late, "--coordination", &copy, "-o", "json"]).await;
    assert_eq!(ran.code, 0, "{ran:?}");
    let copied = ran.json();
    assert_ne!(copied["cluster"], restored["cluster"], "no two are the same");
    run(&["snapshot", "restore", late, "--coordination", &copy]).await.refused(1, &["not empty", "--force"]);
    // Where nothing can run any more nobody has to wait; the epoch goes on from the one that is replaced.
    let over = ["snapshot", "restore", late, "--coordination", &copy, "--force", "--stopped", "-o", "json"];
    let ran = run(&over).await;
    assert!(ran.code == 0 && ran.stderr.is_empty(), "{ran:?}");
    assert!(ran.json()["epoch"].as_u64() > copied["epoch"].as_u64(), "{ran:?}");
}

#[tokio::test]
async fn the_log_is_shown_to_people_whether_anybody_leads_or_not() {
    let mut cluster = Cluster::prepare_own_with(1, |_| ()).await.started().await;
    let ended = cluster.submit(&["--name", "seen", "--", "true"]).await;
    cluster.reaches(&ended, &["succeeded"]).await;
    let later = cluster.submit(&["--delay", "1h", "--", "true"]).await;
    cluster.nodes[0].kill();

    let stats = done(&cluster, &["db", "stats"]).await;
    assert_eq!(stats["tasks"], serde_json::json!({ "scheduled": 1, "succeeded": 1 }), "{stats:#}");
    assert!(stats["live_bytes"].as_u64().unwrap() > 100, "{stats:#}");
    assert!(stats["live_bytes"].as_u64() < stats["bytes"].as_u64(), "{stats:#}");
    assert!(
        stats["dead_records"].as_u64().unwrap() > 0 && stats["tail"].as_u64() > stats["first"].as_u64(),
        "{stats:#}"
    );
    let text = beside(&cluster, &["db", "stats"]).await;
    assert!(text.stdout.contains("1 scheduled, 1 succeeded"), "{text:?}");

    let dump = beside(&cluster, &["db", "dump", "--live"]).await;
    let lines: Vec<Value> = dump.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let tasks: Vec<_> = lines.iter().filter(|line| line["kind"] == "task").collect();
    assert_eq!(tasks.len(), 2, "of each its newest state: {dump:?}");
    let of =
        |id: &str| tasks.iter().find(|line| line["key"] == id.replace('-', "")).unwrap()["record"].clone();
    assert_eq!((&of(&ended)["spec"]["name"], &of(&later)["state"]), (&"seen".into(), &"scheduled".into()));
    let all = beside(&cluster, &["db", "dump"]).await;
    assert!(all.stdout.lines().count() > lines.len());

    let verified = beside(&cluster, &["db", "verify"]).await;
    assert_eq!(verified.code, 0, "{verified:?}");
    let nothing =
        run(&["db", "stats", "--coordination", &format!("{}/nowhere", cluster.coordinator().hosts())]).await;
    nothing.refused(4, &["there is no cluster under", "/nowhere"]);
}
