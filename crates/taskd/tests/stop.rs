//! SIGTERM at random moments: the process always ends in time, with the right exit code, and leaves nothing behind.

#![expect(clippy::unwrap_used, reason = "a test fails where it stands, in its helpers too")]

mod support;

use std::ops::Range;
use std::os::unix::process::ExitStatusExt;
use std::time::Duration;

use nix::sys::signal::Signal;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use support::{Cluster, Node, NodeConfig, SOON, free_addresses, processes_with};
use testkit::until;

/// The default of `stop.deadline`, and what the watchdog and a busy machine may add.
const DEADLINE: Duration = Duration::from_millis(5000 + 500);

/// Set it to run a failure's moments again.
const SEED: &str = "TASKD_TEST_SEED";

/// Draws moments, and says which.
struct Moments(StdRng);

impl Moments {
    fn new() -> Self {
        let seed = std::env::var(SEED).ok().map_or_else(rand::random, |seed| seed.parse().unwrap());
        eprintln!("moments drawn with {SEED}={seed}");
        Self(StdRng::seed_from_u64(seed))
    }

    /// Lets a random time pass: the moment is what is tested.
    async fn pass(&mut self, milliseconds: Range<u64>) -> Duration {
        let pause = Duration::from_millis(self.0.random_range(milliseconds));
        tokio::time::sleep(pause).await;
        pause
    }
}

/// Sends SIGTERM `times` times and checks the end.
async fn stops(node: &mut Node, times: usize, codes: &[i32], moment: &str) {
    let logged = node.log().len();
    for _ in 0..times {
        node.signal(Signal::SIGTERM);
    }
    let (status, took) = node.ended(Duration::from_secs(30)).await;
    let left = node.shims();
    eprintln!("{moment}: {status} after {took:?}");
    assert!(took < DEADLINE, "{moment}: {status} after {took:?}\n{}", &node.log()[logged..]);
    // Before its first line a process has nothing to end, and does not catch signals yet.
    let unborn = status.signal() == Some(15) && node.log().len() == logged;
    let right = status.code().is_some_and(|code| codes.contains(&code));
    assert!(right || unborn, "{moment}: {status} after {took:?}\n{}", &node.log()[logged..]);
    assert!(left.is_empty(), "{moment}: it left {left:?}");
}

#[tokio::test]
async fn during_boot_with_zookeeper_unreachable() {
    let mut moments = Moments::new();
    let dir = tempfile::tempdir().unwrap();
    let address = free_addresses(1).remove(0);
    // Nobody listens on port 1; and nobody answers behind the listener, which never accepts.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    for hosts in ["127.0.0.1:1".to_owned(), silent.local_addr().unwrap().to_string()] {
        let config = NodeConfig::new("n1", &address, &hosts, &dir.path().join("n1"));
        let mut node = Node::new(config, dir.path());
        for range in [0..1, 0..60, 20..150, 100..1000, 500..3000, 2000..5000] {
            node.spawn();
            let after = moments.pass(range).await;
            stops(&mut node, 1, &[0], &format!("{hosts}, {after:?} after the start")).await;
        }
    }
}

#[tokio::test]
async fn while_joining_leading_and_running_tasks() {
    let mut moments = Moments::new();
    let mut cluster = Cluster::prepare(1, |_| ()).await;
    for range in [0..40, 20..80, 20..80, 40..150, 40..150, 100..300, 100..300, 200..1000] {
        cluster.nodes[0].spawn();
        let after = moments.pass(range).await;
        stops(&mut cluster.nodes[0], 1, &[0], &format!("{after:?} after the start")).await;
    }
    // What does not hear SIGTERM is killed after its grace; a second SIGTERM changes nothing.
    for (times, range) in [(1, 0..1), (2, 0..300), (1, 200..2500)] {
        cluster.nodes[0].spawn();
        cluster.healthy(1).await;
        let ids = stubborn(&cluster).await;
        let after = moments.pass(range).await;
        let moment = format!("{times} times {after:?} after its tasks");
        stops(&mut cluster.nodes[0], times, &[0], &moment).await;
        nothing_left_of(&ids);
    }
    // And the tasks were not lost with the node: it was asked to stop, so they run again.
    cluster.nodes[0].spawn();
    cluster.healthy(1).await;
    let page = cluster.cli(&["task", "list", "-o", "json"]).await.json();
    assert_eq!(page["total"], 6, "{page:#}");
    for task in page["tasks"].as_array().unwrap() {
        let id = task["id"].as_str().unwrap();
        assert_eq!(cluster.cli(&["task", "cancel", id]).await.code, 0);
        cluster.reaches(id, &["cancelled"]).await;
    }
}

#[tokio::test]
async fn while_zookeeper_is_silent() {
    let mut moments = Moments::new();
    let mut cluster = Cluster::prepare_own(1).await;
    for range in [0..1, 0..1500, 1000..3000, 2500..6000] {
        cluster.nodes[0].spawn();
        cluster.healthy(1).await;
        let ids = stubborn(&cluster).await;
        cluster.coordinator().pause();
        let after = moments.pass(range).await;
        let moment = format!("leading, ZooKeeper silent for {after:?}");
        // A session that cannot be closed is left to expire; the stop itself is in time all the same.
        stops(&mut cluster.nodes[0], 1, &[0], &moment).await;
        nothing_left_of(&ids);
        cluster.coordinator().resume();
    }
    cluster.coordinator().pause();
    for range in [0..300, 1000..4000] {
        cluster.nodes[0].spawn();
        let after = moments.pass(range).await;
        stops(&mut cluster.nodes[0], 1, &[0], &format!("joining a silent ZooKeeper for {after:?}")).await;
    }
    cluster.coordinator().resume();
}

#[tokio::test]
async fn with_its_own_coordination_service() {
    let mut moments = Moments::new();
    let mut cluster = Cluster::embedded(|_| ());
    for range in [0..1, 0..40, 20..80, 20..80, 40..150, 100..300, 200..1000] {
        cluster.nodes[0].spawn();
        let after = moments.pass(range).await;
        stops(&mut cluster.nodes[0], 1, &[0], &format!("{after:?} after the start")).await;
    }
    for (times, range) in [(1, 0..1), (2, 0..300)] {
        cluster.nodes[0].spawn();
        cluster.healthy(1).await;
        let ids = stubborn(&cluster).await;
        let after = moments.pass(range).await;
        let moment = format!("{times} times {after:?} after its tasks");
        stops(&mut cluster.nodes[0], times, &[0], &moment).await;
        nothing_left_of(&ids);
    }
}

/// Two tasks that ignore SIGTERM, one of them with a grandchild in a session of its own.
async fn stubborn(cluster: &Cluster) -> Vec<String> {
    let mut ids = Vec::new();
    for detached in ["", "setsid"] {
        let script = "trap '' TERM; echo up; while :; do sleep 0.1; done # $TASKD_TASK_ID";
        let line = format!("{detached} sh -c \"{script}\" & wait");
        ids.push(cluster.submit(&["--", "sh", "-c", &format!("trap '' TERM; {line}")]).await);
    }
    for id in &ids {
        until("the task runs", SOON, async || {
            let ran = cluster.cli(&["task", "logs", id]).await;
            ran.stdout.contains("up").then_some(())
        })
        .await;
        assert!(!processes_with(id).is_empty(), "the task's processes can be found");
    }
    assert!(!cluster.nodes[0].shims().is_empty(), "its shims can be found");
    ids
}

fn nothing_left_of(ids: &[String]) {
    for id in ids {
        let left = processes_with(id);
        assert!(left.is_empty(), "of task {id} there is {left:?}");
    }
}
