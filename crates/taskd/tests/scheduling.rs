//! When tasks start: at their time, after others, under locks and limits, by priority; also while leaders change.

#![expect(clippy::unwrap_used, reason = "a test fails where it stands, in its helpers too")]

mod support;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use support::{Cluster, SOON, lines};
use testkit::until;

/// Submits a file's tasks; their ids in its order.
async fn batch(cluster: &Cluster, lines: &[Value]) -> Vec<String> {
    let file = cluster.dir.path().join("batch.jsonl");
    let text: Vec<_> = lines.iter().map(Value::to_string).collect();
    std::fs::write(&file, text.join("\n")).unwrap();
    let ran = cluster.cli(&["task", "submit", "--batch", file.to_str().unwrap(), "-o", "json"]).await;
    assert_eq!(ran.code, 0, "{ran:?}");
    let tasks = ran.json()["tasks"].as_array().unwrap().clone();
    assert_eq!(tasks.len(), lines.len());
    tasks.iter().map(|task| task["id"].as_str().unwrap().to_owned()).collect()
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis().try_into().unwrap()
}

/// A graph, locks and delays, and the leader is killed in the middle of them: everything runs in its order, and once.
#[tokio::test]
async fn graphs_locks_and_delays_survive_the_leader() {
    let mut cluster = Cluster::start(3).await;
    let (leader, _) = cluster.leader(&cluster.nodes[0]).await;
    // What runs on the leader would be lost with it, and wait for its fence.
    let elsewhere = cluster.nodes.iter().map(|node| node.id.clone()).find(|id| *id != leader).unwrap();
    let dir = cluster.dir.path().to_owned();
    let (record, gate, lock) = (dir.join("record"), dir.join("gate"), dir.join("lock"));
    let say = |word: &str| format!("echo {word} >> {}", record.display());
    let wait = format!("{}; until [ -e {} ]; do sleep 0.05; done", say("copy"), gate.display());
    // Whoever finds it there was let in although somebody else was.
    let alone = format!(
        "mkdir {0} || echo overlap >> {1}; sleep 0.1; rmdir {0}; {2}",
        lock.display(),
        record.display(),
        say("alone")
    );
    let task = |script: &str| json!({"command": ["sh", "-c", script], "labels": {"node": &elsewhere}});
    let with = |mut task: Value, more: Value| {
        task.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        task
    };
    let mut file = vec![
        with(task(&say("verify")), json!({"ref": "verify", "after": {"copy": "success"}})),
        with(task(&wait), json!({"ref": "copy"})),
        with(task(&say("undo")), json!({"ref": "undo", "after": {"copy": "failure"}})),
        with(task(&say("report")), json!({"ref": "report", "after": {"undo": "always", "verify": "always"}})),
        with(task(&say("later")), json!({"delay": "4s"})),
    ];
    file.extend((0..6).map(|_| with(task(&alone), json!({"locks": ["array-7"]}))));
    let submitted = now_ms();
    let ids = batch(&cluster, &file).await;
    until("the copy runs", SOON, async || lines(&record).contains(&"copy".to_owned()).then_some(())).await;
    let why = cluster.cli(&["task", "why", &ids[0]]).await;
    assert!(why.stdout.contains(&format!("once task {} succeeds, which is running", ids[1])), "{why:?}");
    assert_eq!(cluster.task(&ids[4]).await["state"], "scheduled");

    cluster.node_mut(&leader).kill();
    let witness = cluster.node(&elsewhere);
    until("another one leads", SOON, async || {
        let status = witness.status().await?;
        (status["leader"]["node"] != *leader && status["leader"]["serving"] == true).then_some(())
    })
    .await;
    std::fs::write(&gate, "").unwrap();
    for (index, id) in ids.iter().enumerate() {
        let state = if index == 2 { "cancelled" } else { "succeeded" };
        let ended = cluster.reaches(id, &[state]).await;
        let attempts = u64::from(index != 2);
        assert_eq!(ended["attempt_count"], attempts, "{ended:#}");
    }
    let undo = cluster.task(&ids[2]).await;
    assert!(undo["note"].as_str().unwrap().contains("fails, and that is succeeded"), "{undo:#}");
    let later = cluster.task(&ids[4]).await;
    let began = later["attempts"][0]["assigned_ms"].as_u64().unwrap();
    assert!(began >= submitted + 4_000, "{} ms after the submission", began - submitted);

    let said = lines(&record);
    let count = |word: &str| said.iter().filter(|line| *line == word).count();
    assert_eq!((count("alone"), count("overlap"), count("undo")), (6, 0, 0), "{said:?}");
    let at = |word: &str| said.iter().position(|line| line == word).unwrap();
    assert!(at("copy") < at("verify") && at("verify") < at("report"), "{said:?}");
}

#[tokio::test]
async fn what_waits_says_why_and_ends_when_it_has_to() {
    let mut cluster = Cluster::embedded(|config| config.set("node.slots", "1"));
    cluster.nodes[0].spawn();
    cluster.healthy(1).await;
    let record = cluster.dir.path().join("record");
    let busy = cluster.submit(&["--lock", "disk", "--", "sleep", "1000"]).await;
    cluster.reaches(&busy, &["running"]).await;

    let locked = cluster.submit(&["--lock", "disk", "--", "true"]).await;
    let why = cluster.cli(&["task", "why", &locked]).await;
    assert!(why.stdout.contains(&format!("\"disk\" is locked by task {busy} on node n1")), "{why:?}");
    let hurried = cluster.submit(&["--queue-timeout", "1s", "--", "true"]).await;
    let ended = cluster.reaches(&hurried, &["timed_out"]).await;
    assert_eq!(
        (&ended["attempt_count"], &ended["note"]),
        (&0.into(), &"it waited for a slot for 1s, its queue timeout".into())
    );

    // By priority, then in order.
    let say = |word: &str| format!("echo {word} >> {}", record.display());
    let mut waiting = Vec::new();
    for (priority, word) in [("-5", "last"), ("0", "second"), ("7", "first"), ("0", "third")] {
        waiting.push(cluster.submit(&["--priority", priority, "--", "sh", "-c", &say(word)]).await);
    }
    let at = humantime_at(Duration::from_secs(3_600));
    let later = cluster.submit(&["--at", &at, "--", "true"]).await;
    let why = cluster.cli(&["task", "why", &later]).await;
    assert!(why.stdout.starts_with("scheduled: it is to start not before 35"), "{why:?}");
    let behind = cluster.submit(&["--after", &later[..12], "--", "true"]).await;
    let shown = cluster.cli(&["task", "show", &behind]).await;
    assert!(shown.stdout.contains(&format!("task {later} succeeds, which is awaited")), "{shown:?}");
    assert_eq!(cluster.cli(&["task", "cancel", &later]).await.code, 0);
    cluster.reaches(&behind, &["cancelled"]).await;

    assert_eq!(cluster.cli(&["task", "cancel", &busy]).await.code, 0);
    for id in waiting.iter().chain([&locked]) {
        cluster.reaches(id, &["succeeded"]).await;
    }
    assert_eq!(lines(&record), ["first", "second", "third", "last"]);

    let tries =
        ["--retries", "5", "--retry-backoff", "10ms", "--no-retry-on", "3,4", "--", "sh", "-c", "exit 4"];
    let ended = cluster.submit(&tries).await;
    assert_eq!(cluster.reaches(&ended, &["failed"]).await["attempt_count"], 1);
    let nobody = ["task", "submit", "--after", "ffffffffffffffffffffffffffffffff", "--", "true"];
    cluster.cli(&nobody).await.refused(4, &["there is no task"]);
    let file = cluster.dir.path().join("wrong.jsonl");
    std::fs::write(&file, "{\"kind\": \"noop\"}\n{\"kind\": \"noop\", \"prio\": 3}\n").unwrap();
    let wrong = cluster.cli(&["task", "submit", "--batch", file.to_str().unwrap()]).await;
    wrong.refused(2, &["line 2", "unknown field `prio`"]);
    let page = cluster.cli(&["task", "list", "-o", "json", "--state", "queued"]).await.json();
    assert_eq!(page["total"], 0, "nothing of it was sent: {page:#}");
}

/// So long from now, as people write it.
fn humantime_at(from_now: Duration) -> String {
    humantime::format_rfc3339_seconds(SystemTime::now() + from_now).to_string()
}
