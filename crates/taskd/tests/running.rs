//! How commands run: what they are given, what they say of themselves, what they may use, and that they are gone when it
//! is said so.

#![expect(clippy::unwrap_used, reason = "a test fails where it stands, in its helpers too")]

mod support;

use std::path::Path;

use nix::unistd::geteuid;
use serde_json::Value;
use support::{Cluster, SOON, lines, processes_with};
use testkit::until;

/// A healthy cluster of one node.
async fn alone(change: impl Fn(&mut support::NodeConfig)) -> Cluster {
    let mut cluster = Cluster::embedded(change);
    cluster.nodes[0].spawn();
    cluster.healthy(1).await;
    cluster
}

/// Runs a shell script as a task; what it put out.
async fn output(cluster: &Cluster, options: &[&str], script: &str) -> String {
    let ran =
        cluster.cli(&[&["task", "submit", "--wait"], options, &["--", "sh", "-c", script]].concat()).await;
    assert_eq!(ran.code, 0, "{ran:?}");
    ran.stdout
}

/// A file of a test, with this in it.
fn file(cluster: &Cluster, name: &str, text: &str) -> String {
    let path = cluster.dir.path().join(name);
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

fn touch(path: &Path) {
    std::fs::write(path, "").unwrap();
}

/// One line of shell tells the cluster how far a task is; a new leader hears of it, and the next attempt finds what the one
/// before has left, although the leader that was told of it first is dead.
#[tokio::test]
async fn progress_is_seen_and_a_checkpoint_survives_the_leader() {
    let mut cluster = Cluster::start(2).await;
    let (leader, _) = cluster.leader(&cluster.nodes[0]).await;
    let elsewhere = cluster.nodes.iter().map(|node| node.id.clone()).find(|id| *id != leader).unwrap();
    let [record, gate] = ["record", "gate"].map(|name| cluster.dir.path().join(name));
    let script = format!(
        r#"echo "from [$TASKD_CHECKPOINT]" >> {record}
        [ "$TASKD_ATTEMPT" = 1 ] || exit 0
        echo '{{"percent": 10, "message": "first half"}}' >&$TASKD_PROGRESS_FD
        sh -c 'echo "{{\"percent\": 40.9, \"checkpoint\": {{\"row\":7}}}}" >&$TASKD_PROGRESS_FD'
        until [ -e {gate} ]; do sleep 0.05; done
        echo '{{"checkpoint": "row 8"}}' >&$TASKD_PROGRESS_FD
        exit 3"#,
        record = record.display(),
        gate = gate.display()
    );
    let label = format!("node={elsewhere}");
    let id = cluster
        .submit(&["--label", &label, "--retries", "1", "--retry-backoff", "10ms", "--", "sh", "-c", &script])
        .await;
    let told =
        |task: &Value| task["progress"]["percent"] == 40 && task["progress"]["message"] == "first half";
    until("its progress is seen", SOON, async || told(&cluster.task(&id).await).then_some(())).await;
    until("its checkpoint is kept", SOON, async || {
        (cluster.task(&id).await["checkpoint"] == r#"{"row":7}"#).then_some(())
    })
    .await;
    let shown = cluster.cli(&["task", "show", &id]).await;
    assert!(shown.stdout.contains("40 % first half"), "{shown:?}");
    let listed = cluster.cli(&["task", "list"]).await;
    assert!(listed.stdout.contains("running 40%"), "{listed:?}");

    cluster.node_mut(&leader).kill();
    let witness = cluster.node(&elsewhere);
    until("another one leads, and was told too", SOON, async || {
        let status = witness.status().await?;
        if status["leader"]["node"] != *elsewhere || status["leader"]["serving"] != true {
            return None;
        }
        let shown = cluster.cli(&["task", "show", &id, "-o", "json"]).await;
        (shown.code == 0 && told(&shown.json())).then_some(())
    })
    .await;
    touch(&gate);
    let ended = cluster.reaches(&id, &["succeeded"]).await;
    assert_eq!(lines(&record), ["from []", "from [row 8]"], "{ended:#}");
    assert_eq!((&ended["progress"], &ended["checkpoint"]), (&Value::Null, &Value::Null), "{ended:#}");
}

#[tokio::test]
async fn who_says_nothing_for_too_long_is_ended_and_tried_again() {
    let cluster = alone(|_| ()).await;
    let silent = r#"echo '{"percent": 5, "checkpoint": "here"}' >&$TASKD_PROGRESS_FD; exec sleep 1000"#;
    let options = ["--progress-timeout", "1500ms", "--retries", "1", "--retry-backoff", "10ms"];
    let silent = cluster.submit(&[&options[..], &["--", "sh", "-c", silent]].concat()).await;
    // Ten times as much as there is between two words, since this machine may be busy.
    let speaks = "for i in $(seq 30); do echo $i >&$TASKD_PROGRESS_FD; sleep 0.2; done";
    let speaks = cluster.submit(&["--progress-timeout", "2s", "--", "sh", "-c", speaks]).await;
    let ended = cluster.reaches(&silent, &["timed_out"]).await;
    assert_eq!(ended["attempt_count"], 2, "{ended:#}");
    for attempt in ended["attempts"].as_array().unwrap() {
        assert_eq!(attempt["end"], serde_json::json!({"no_progress": {"after_ms": 1_500}}), "{ended:#}");
    }
    assert_eq!(ended["checkpoint"], "here", "for whoever retries it");
    let shown = cluster.cli(&["task", "show", &silent]).await;
    assert!(shown.stdout.contains("timed out: it said nothing of its progress for 1.5s"), "{shown:?}");
    let ended = cluster.reaches(&speaks, &["succeeded", "timed_out", "failed"]).await;
    assert_eq!(ended["state"], "succeeded", "{ended:#}");
}

#[tokio::test]
async fn a_command_gets_what_it_was_promised_and_no_more() {
    let cluster = alone(|config| config.set("exec.users", "[\"nobody\"]")).await;
    let stdin = file(&cluster, "stdin", "two\nlines\n");
    let given = ["--stdin", &stdin, "--env", "COLOUR=blue", "--cwd", "/tmp", "--umask", "027"];
    let text = output(&cluster, &given, "cat; echo $COLOUR; pwd; umask").await;
    assert_eq!(text.trim_end().lines().collect::<Vec<_>>(), ["two", "lines", "blue", "/tmp", "0027"]);
    assert_eq!(output(&cluster, &[], "cat; echo end").await, "end\n", "without one it has an end at once");

    let limits = ["--memory", "512M", "--open-files", "77", "--cpu-seconds", "9", "--file-size", "1M"];
    let text =
        output(&cluster, &limits, "ulimit -v; ulimit -n; ulimit -t; ulimit -f; ulimit -n 78 || echo held")
            .await;
    let said: Vec<_> = text.lines().filter(|line| !line.contains("ulimit")).collect();
    assert_eq!(said[..4], ["524288", "77", "9", "2048"], "{text}");
    if !geteuid().is_root() {
        assert_eq!(said[4..], ["held"], "{text}");
    }
    let greedy = ["--memory", "200M", "--", "sh", "-c", "x=$(head -c 400000000 /dev/zero | tr '\\0' x)"];
    let id = cluster.submit(&greedy).await;
    cluster.reaches(&id, &["failed"]).await;
    let spins = cluster.submit(&["--cpu-seconds", "1", "--", "sh", "-c", "while :; do :; done"]).await;
    let ended = cluster.reaches(&spins, &["failed"]).await;
    assert_eq!(ended["attempts"][0]["end"]["signaled"]["signal"], 24, "SIGXCPU: {ended:#}");
    let missing = cluster.submit(&["--open-files", "77", "--", "/no/such/program"]).await;
    let ended = cluster.reaches(&missing, &["failed"]).await;
    let message = ended["attempts"][0]["end"]["failed"]["message"].as_str().unwrap();
    assert!(message.contains("cannot execute \"/no/such/program\""), "{ended:#}");

    let as_nobody = ["--user", "nobody", "--open-files", "99"];
    if geteuid().is_root() {
        let text = output(&cluster, &as_nobody, "id -un; id -G | wc -w; touch mine && ls; ulimit -n").await;
        assert_eq!(text.lines().map(str::trim).collect::<Vec<_>>(), ["nobody", "1", "mine", "99"]);
    }
    let refused = cluster.submit(&["--user", "daemon", "--", "true"]).await;
    let ended = cluster.reaches(&refused, &["failed"]).await;
    let message = ended["attempts"][0]["end"]["failed"]["message"].as_str().unwrap();
    assert!(message.contains("exec.users") || message.contains("runs as root"), "{message}");

    let large = file(&cluster, "large", &"x".repeat(proto::PAYLOAD_BYTES_MAX + 1));
    cluster
        .cli(&["task", "submit", "--stdin", &large, "--", "cat"])
        .await
        .refused(2, &["262144 bytes", "shared storage"]);
    let no = cluster.cli(&["task", "submit", "--stdin", "/no/such", "--", "cat"]).await;
    no.refused(2, &["--stdin /no/such", "No such file"]);
    let kind = ["task", "submit", "--kind", "noop", "--memory", "1G"];
    cluster.cli(&kind).await.refused(2, &["for the command of kind exec"]);
}

/// A tree that hides as well as it can: other sessions, no environment, deaf to SIGTERM, its parents gone.
#[tokio::test]
async fn cancelled_means_gone_however_a_task_hides() {
    // Without privileges the first is what the second is.
    for mode in ["auto", "never"] {
        let cluster = alone(|config| config.set("exec.pid_namespace", &format!("{mode:?}"))).await;
        let mark = format!("86400.{}{}", std::process::id(), u8::from(mode == "auto"));
        let hide = format!("trap '' TERM HUP; sleep {mark}1 & exec sleep {mark}2");
        let script = format!(
            "(setsid env -i sh -c '(setsid sh -c \"{hide}\" &) ; exit' &); trap '' TERM; sleep {mark}3 & wait; sleep {mark}4"
        );
        let id = cluster.submit(&["--", "sh", "-c", &script]).await;
        until("the whole tree runs", SOON, async || {
            let runs = |n: u8| {
                let line = format!("sleep {mark}{n}");
                processes_with(&mark).iter().any(|(_, found)| found.trim() == line)
            };
            [1, 2, 3].into_iter().all(runs).then_some(())
        })
        .await;
        assert_eq!(cluster.cli(&["task", "cancel", &id]).await.code, 0);
        cluster.reaches(&id, &["cancelled"]).await;
        let left = processes_with(&mark);
        assert!(left.is_empty(), "{mode}: cancelled, but there is {left:?}");
    }
}

#[tokio::test]
async fn output_is_bounded_and_what_is_missing_is_said() {
    let cluster = alone(|config| {
        config.set("tasks.output_bytes_max", "4096");
        config.set("tasks.output_retention_count", "2");
        config.set("tasks.heartbeat", "\"200ms\"");
    })
    .await;
    let much = cluster.submit(&["--", "sh", "-c", "seq 10000; echo the end"]).await;
    cluster.reaches(&much, &["succeeded"]).await;
    let ran = cluster.cli(&["task", "logs", &much]).await;
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.stdout.starts_with("1\n2\n") && ran.stdout.ends_with("the end\n"), "{ran:?}");
    assert!(ran.stdout.len() <= 4096 && ran.stderr.contains("of older output were dropped here"), "{ran:?}");
    for _ in 0..2 {
        output(&cluster, &[], "echo more").await;
    }
    let removed = until("the oldest is removed", SOON, async || {
        let ran = cluster.cli(&["task", "logs", &much]).await;
        (ran.code != 0).then_some(ran)
    })
    .await;
    removed.refused(4, &["node n1", "bytes of output were removed", "tasks.output_retention_age"]);
}
