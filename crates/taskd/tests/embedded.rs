//! One machine: `taskd serve --embedded`, and `taskd keeper` by itself.

#![expect(clippy::unwrap_used, reason = "a test fails where it stands, in its helpers too")]

mod support;

use std::convert::Infallible;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use support::node::with_files_of;
use support::{Cluster, Node, NodeConfig, SOON, free_addresses, run, taskd};
use testkit::until;

#[tokio::test]
async fn one_node_is_enough_and_kill_9_costs_no_task() {
    let mut cluster = Cluster::embedded(|_| ());
    cluster.nodes[0].spawn();
    cluster.healthy(1).await;
    let words = cluster.cli(&["cluster", "status"]).await;
    assert!(words.code == 0 && words.stdout.starts_with("HEALTHY: n1 leads"), "{words:?}");
    assert!(
        words.stdout.contains("embedded keeper (one machine, not highly available; for more, ZooKeeper)"),
        "{words:?}"
    );
    let status = cluster.nodes[0].status().await.unwrap();
    let service = &status["coordination"]["service"];
    assert_eq!((&service["kind"], &service["highly_available"]), (&"embedded_keeper".into(), &false.into()));

    let done = cluster.submit(&["--", "true"]).await;
    cluster.reaches(&done, &["succeeded"]).await;
    let waits = cluster.submit(&["--label", "node=n9", "--", "true"]).await;
    let gate = cluster.dir.path().join("gate");
    let script = format!("echo up; until [ -e {} ]; do sleep 0.05; done", gate.display());
    let runs = cluster.submit(&["--", "sh", "-c", &script]).await;
    until("the task runs", SOON, async || {
        cluster.cli(&["task", "logs", &runs]).await.stdout.contains("up").then_some(())
    })
    .await;

    cluster.nodes[0].kill();
    cluster.nodes[0].spawn();
    cluster.healthy(1).await;
    let first = cluster.task(&done).await;
    assert_eq!((&first["state"], &first["attempt_count"]), (&"succeeded".into(), &1.into()), "{first:#}");
    assert_eq!(cluster.task(&waits).await["state"], "queued");
    std::fs::write(&gate, "").unwrap();
    assert_eq!(cluster.reaches(&runs, &["succeeded"]).await["attempt_count"], 1, "it has survived as well");

    // The end is clean, and what comes after it as well.
    let (status, took) = cluster.nodes[0].stop().await;
    assert!(status.code() == Some(0) && took < Duration::from_secs(5), "{status} after {took:?}");
    cluster.nodes[0].spawn();
    cluster.healthy(1).await;
    let page = cluster.cli(&["task", "list", "-o", "json"]).await.json();
    assert_eq!(page["total"], 3, "{page:#}");
    let log = cluster.nodes[0].log();
    assert!(
        log.contains(
            "coordination: embedded keeper (one machine, not highly available; for more, ZooKeeper)"
        ),
        "{log}"
    );
}

#[tokio::test]
async fn a_taken_port_ends_the_node_and_says_what_to_do() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().to_string();
    let mut cluster =
        Cluster::embedded(|config| config.set("coordination.embedded_listen", &format!("{port:?}")));
    cluster.nodes[0].spawn();
    let (status, _) = cluster.nodes[0].ended(SOON).await;
    let log = cluster.nodes[0].log();
    assert_eq!(status.code(), Some(69), "{log}");
    for text in [&format!("--coordination {port}"), "coordination.embedded_listen"] {
        assert!(log.contains(text), "should say {text:?}: {log}");
    }
}

/// A disk that refuses a write is final: what was not written must not be acknowledged, by anybody.
#[tokio::test]
async fn a_failing_disk_ends_the_node_in_time() {
    let mut cluster = Cluster::embedded(|config| config.set("node.slots", "1"));
    cluster.nodes[0].spawn();
    cluster.healthy(1).await;
    assert_eq!(cluster.nodes[0].stop().await.0.code(), Some(0));
    let largest = largest_file(&cluster.nodes[0].data_dir);
    cluster.nodes[0].spawn_with_files_of(largest / 1024 + 512);
    cluster.healthy(1).await;
    let address = cluster.nodes[0].address.clone();
    let (status, took) = tokio::select! {
        never = fill(&address) => match never {},
        ended = cluster.nodes[0].ended(SOON * 2) => ended,
    };
    let log = cluster.nodes[0].log();
    assert_eq!(status.code(), Some(69), "after {took:?}: {log}");
    assert!(
        log.contains("the node has ended: the embedded keeper failed: the keeper's disk failed"),
        "{log}"
    );
}

/// Submits tasks that wait for ever, for ever: one that is refused may only have come at a bad moment.
async fn fill(address: &str) -> Infallible {
    let payload = "x".repeat(64 * 1024);
    let submit = ["task", "submit", "--addr", address, "--kind", "sleep", "--label", "node=n9"];
    loop {
        let ran = run(&[&submit[..], &["--submit-timeout", "1s", "--payload", &payload]].concat()).await;
        assert!(matches!(ran.code, 0 | 5 | 6), "{ran:?}");
    }
}

fn largest_file(dir: &Path) -> u64 {
    let sizes = std::fs::read_dir(dir).unwrap().flatten().map(|entry| {
        let path = entry.path();
        if path.is_dir() { largest_file(&path) } else { entry.metadata().unwrap().len() }
    });
    sizes.max().unwrap_or(0)
}

/// A `taskd keeper` process; killed when the test ends.
struct Keeper {
    child: Child,
    address: String,
}

impl Keeper {
    fn spawn(dir: &Path, address: &str) -> Self {
        Self::spawn_by(dir, address, |taskd| taskd)
    }

    fn spawn_by(dir: &Path, address: &str, by: impl FnOnce(Command) -> Command) -> Self {
        let args = ["keeper", "--data-dir", dir.to_str().unwrap(), "--listen", address, "--tick", "500ms"];
        let child = by(taskd(&args)).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        Self { child, address: address.to_owned() }
    }

    async fn serves(&self) {
        until("the keeper serves", SOON, async || (self.ask("ruok")? == "imok").then_some(())).await;
    }

    fn ask(&self, word: &str) -> Option<String> {
        let mut stream = TcpStream::connect(&self.address).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(1))).ok()?;
        stream.write_all(word.as_bytes()).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        Some(answer)
    }

    /// Exit code and log, once it has ended.
    async fn ended(mut self) -> (Option<i32>, String) {
        let status = until("the keeper ends", SOON, async || self.child.try_wait().unwrap()).await;
        let mut log = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut log).unwrap();
        (status.code(), log)
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        // Fails when it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test]
async fn a_keeper_by_itself_serves_nodes_and_keeps_what_they_wrote() {
    let dir = tempfile::tempdir().unwrap();
    let [address, keeper_address] = <[String; 2]>::try_from(free_addresses(2)).unwrap();
    let data = dir.path().join("keeper");
    let keeper = Keeper::spawn(&data, &keeper_address);
    keeper.serves().await;
    assert!(keeper.ask("srvr").unwrap().contains("Mode: standalone"));

    let config = NodeConfig::new("n1", &address, &keeper_address, &dir.path().join("n1"));
    let mut node = Node::new(config, dir.path());
    node.spawn();
    let one_machine = "keeper (one machine, not highly available; for more, ZooKeeper)";
    let words = until("the node says what it is connected to", SOON, async || {
        let ran = support::run_at(&address, &["cluster", "status"]).await;
        (ran.code == 0 && ran.stdout.contains(one_machine)).then_some(ran.stdout)
    })
    .await;
    assert!(!words.contains("embedded"), "{words}");
    let ran = support::run_at(&address, &["task", "submit", "--label", "node=n9", "--", "true"]).await;
    assert_eq!(ran.code, 0, "{ran:?}");
    let id = ran.stdout.trim().to_owned();

    // Killed and started again; told to stop and started again.
    kill(Pid::from_raw(i32::try_from(keeper.child.id()).unwrap()), Signal::SIGKILL).unwrap();
    keeper.ended().await;
    until("the node says what to do", SOON, async || {
        let ran = support::run_at(&address, &["cluster", "status"]).await;
        format!("{}{}", ran.stdout, ran.stderr).contains("see that the keeper runs at").then_some(())
    })
    .await;
    let keeper = Keeper::spawn(&data, &keeper_address);
    keeper.serves().await;
    let asked = Instant::now();
    let pid = Pid::from_raw(i32::try_from(keeper.child.id()).unwrap());
    kill(pid, Signal::SIGTERM).unwrap();
    // As `timeout` does it, which tells the process and its group. It may have ended already.
    let _ = kill(pid, Signal::SIGTERM);
    let (code, log) = keeper.ended().await;
    assert!(code == Some(0) && asked.elapsed() < Duration::from_secs(5), "{:?}: {log}", asked.elapsed());
    assert!(log.contains("one machine, not highly available"), "{log}");
    let (code, log) = Keeper::spawn(dir.path(), &keeper_address).ended().await;
    let hint = format!("use --data-dir {}", data.display());
    assert!(code == Some(69) && log.contains(&hint), "the directory around its data is not its own: {log}");
    let limit = largest_file(&data) / 1024 + 512;
    let keeper = Keeper::spawn_by(&data, &keeper_address, |taskd| with_files_of(limit, &taskd));
    keeper.serves().await;
    until("the task is still there", SOON, async || {
        let ran = support::run_at(&address, &["task", "show", &id, "-o", "json"]).await;
        (ran.code == 0 && ran.json()["state"] == "queued").then_some(())
    })
    .await;

    // Its disk is full: that is the end of it, but not of the node.
    until("a leader serves again", SOON, async || {
        (node.status().await?["health"] == "healthy").then_some(())
    })
    .await;
    let (code, log) = tokio::select! {
        never = fill(&address) => match never {},
        ended = keeper.ended() => ended,
    };
    assert_eq!(code, Some(69), "{log}");
    assert!(log.contains("the keeper has ended: the keeper's disk failed"), "{log}");
    assert_eq!(node.stop().await.0.code(), Some(0));
}

#[tokio::test]
async fn a_keeper_that_cannot_start_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let [address, other] = <[String; 2]>::try_from(free_addresses(2)).unwrap();
    let data = dir.path().join("keeper");
    let keeper = Keeper::spawn(&data, &address);
    keeper.serves().await;
    let start = async |data: &Path, listen: &str, more: &[&str]| {
        run(&[&["keeper", "--data-dir", data.to_str().unwrap(), "--listen", listen], more].concat()).await
    };
    start(&dir.path().join("another"), &address, &[])
        .await
        .refused(69, &["failed to listen on", &address, "choose another --listen"]);
    start(&data, &other, &[]).await.refused(69, &[data.to_str().unwrap(), "--data-dir"]);
    let file = dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    start(&file, &other, &[]).await.refused(69, &[file.to_str().unwrap(), "--data-dir"]);
    start(&dir.path().join("another"), &other, &["--tick", "0s"]).await.refused(2, &["tick"]);
    start(&dir.path().join("another"), "0.0.0.0:0", &[]).await.refused(2, &["other machines", "--insecure"]);
}
