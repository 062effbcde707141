//! Nodes inside another program: own task services, no signal handler, nothing that is shared by the process.

#![expect(clippy::unwrap_used, reason = "a test fails where it stands, in its helpers too")]

mod support;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use proto::api::Submitted;
use proto::task::{AttemptEnd, LostPolicy, SleepPayload, TaskSpec, TaskState, TaskView};
use support::{SESSION_TIMEOUT, SOON, free_addresses};
use taskd::client::Client;
use taskd::runner::{ShimProgram, Task, TaskService, Unfit, Work};
use taskd::{Config, Node, NodeHandle, StopCause};
use testkit::until;
use tokio::time::timeout;

/// Counts the bytes of its payloads.
#[derive(Clone, Debug, Default)]
struct Count {
    bytes: Arc<AtomicUsize>,
}

impl TaskService for Count {
    fn prepare(&self, task: Task) -> Result<Work, Unfit> {
        if task.payload.is_empty() {
            return Err(Unfit("there is nothing to count".to_owned()));
        }
        let bytes = Arc::clone(&self.bytes);
        Ok(Work::InProcess(Box::pin(async move {
            tokio::task::yield_now().await;
            bytes.fetch_add(task.payload.len(), Ordering::Relaxed);
            if task.payload == b"bad" { Err("that was bad".into()) } else { Ok(Vec::new()) }
        })))
    }
}

fn config(id: &str, address: &str, hosts: &str, dir: &Path) -> Config {
    // The tests' coordination service may be a chroot in a shared one.
    let (hosts, chroot) = hosts.split_at(hosts.find('/').unwrap_or(hosts.len()));
    let mut config = Config::new(id.parse().unwrap(), hosts);
    config.coordination.root = format!("{chroot}/taskd");
    config.node.listen = address.parse().unwrap();
    config.node.data_dir = dir.join(id);
    config.coordination.session_timeout = SESSION_TIMEOUT;
    config.coordination.tick = Duration::from_millis(500);
    config
}

async fn start(config: Config, count: &Count) -> NodeHandle {
    // The test's own executable is no taskd.
    let shim =
        ShimProgram { program: PathBuf::from(env!("CARGO_BIN_EXE_taskd")), args: vec!["shim".to_owned()] };
    Node::builder(config).task_service("count", count.clone()).shim(shim).start().await.unwrap()
}

async fn run(client: &Client, spec: TaskSpec) -> TaskView {
    let Submitted::Accepted { id } = client.submit_spec(spec, SOON).await.unwrap() else {
        panic!("it was not accepted");
    };
    until("the task has ended", SOON, async || {
        client.show(&id.to_string()).await.ok().filter(|task| task.state.is_final())
    })
    .await
}

/// The signals that this process catches, as the kernel tells.
fn caught_signals() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap();
    u64::from_str_radix(line.trim(), 16).unwrap()
}

/// The names of this process's threads, without those of the test's own runtime, and without those that the ZooKeeper
/// client's socket library keeps for ever: one for its sockets, and a pool that asks the resolver (ADR 10).
fn threads() -> Vec<String> {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap().flatten();
    let mut names: Vec<_> =
        tasks.filter_map(|task| std::fs::read_to_string(task.path().join("comm")).ok()).collect();
    names.retain(|name| {
        !["async-io\n", "tokio-rt-worker\n"].contains(&name.as_str()) && !name.starts_with("blocking-")
    });
    names.sort();
    names
}

async fn nothing_is_left(signals: u64, threads_before: &[String]) {
    assert_eq!(caught_signals(), signals, "a library installs no signal handler");
    let ended = timeout(SOON, async {
        while threads().len() > threads_before.len() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    assert!(ended.await.is_ok(), "threads before: {threads_before:?}; after: {:?}", threads());
}

#[tokio::test]
async fn a_node_with_its_own_coordination_service_ends_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let (signals, threads_before) = (caught_signals(), threads());
    let mut config = Config::embedded("n1".parse().unwrap());
    config.node.listen = free_addresses(1).remove(0).parse().unwrap();
    config.node.data_dir = dir.path().join("n1");
    config.coordination.embedded_listen = "127.0.0.1:0".parse().unwrap();
    let count = Count::default();
    let mut node = start(config, &count).await;
    timeout(SOON, node.ready()).await.unwrap();
    let client = Client::connect(node.address().parse().unwrap()).await.unwrap();
    let done = run(&client, TaskSpec::new("count", b"four".to_vec())).await;
    assert_eq!((done.state, count.bytes.load(Ordering::Relaxed)), (TaskState::Succeeded, 4), "{done:?}");
    client.close().await;
    let report = timeout(Duration::from_secs(6), node.stop()).await.unwrap();
    assert!(report.is_clean(), "{report:?}");
    nothing_is_left(signals, &threads_before).await;
}

#[tokio::test]
async fn an_embedded_node_runs_the_programs_own_tasks() {
    let coordinator = testkit::coordinator().await;
    let dir = tempfile::tempdir().unwrap();
    // The test kit may wait for child processes, for which tokio catches SIGCHLD, and has threads of its own; nodes add
    // nothing to that.
    let (signals, threads_before) = (caught_signals(), threads());

    let addresses = free_addresses(2);
    let (first, second) = (Count::default(), Count::default());
    let mut n1 = start(config("n1", &addresses[0], &coordinator.hosts(), dir.path()), &first).await;
    let mut n2 = start(config("n2", &addresses[1], &coordinator.hosts(), dir.path()), &second).await;
    timeout(SOON, n1.ready()).await.unwrap();
    timeout(SOON, n2.ready()).await.unwrap();
    assert_eq!(n1.address(), addresses[0]);

    let client = Client::connect(addresses.join(",").parse().unwrap()).await.unwrap();
    let status = until("both are members", SOON, async || {
        client.status().await.ok().filter(|status| {
            status.members.len() == 2 && status.members.iter().all(|member| member.slots.is_some())
        })
    })
    .await;
    let done = run(&client, TaskSpec::new("count", b"four".to_vec())).await;
    assert_eq!((done.state, done.attempt_count), (TaskState::Succeeded, 1), "{done:?}");
    let bad = run(&client, TaskSpec::new("count", b"bad".to_vec())).await;
    let why = AttemptEnd::Failed { message: "that was bad".to_owned() };
    assert_eq!((bad.state, bad.last_end()), (TaskState::Failed, Some(&why)), "{bad:?}");
    let unfit = run(&client, TaskSpec::new("count", vec![])).await;
    assert!(format!("{unfit:?}").contains("nothing to count"), "{unfit:?}");
    let counted = first.bytes.load(Ordering::Relaxed) + second.bytes.load(Ordering::Relaxed);
    assert_eq!(counted, 7, "each payload was counted once");

    // Each node is stopped by itself: the leader first, while it has a task of its own program.
    let sleep = serde_json::to_vec(&SleepPayload { ms: 600_000 }).unwrap();
    let mut ids = Vec::new();
    for _ in 0..2 {
        let mut spec = TaskSpec::new("sleep", sleep.clone());
        spec.on_lost = LostPolicy::Requeue;
        let Submitted::Accepted { id } = client.submit_spec(spec, SOON).await.unwrap() else { panic!() };
        ids.push(id.to_string());
    }
    let leader = status.leader.unwrap().node;
    let (leads, follows) = if leader.as_str() == "n1" { (n1, n2) } else { (n2, n1) };
    for id in &ids {
        until("both nodes work", SOON, async || {
            client.show(id).await.ok().filter(|task| task.state == TaskState::Running)
        })
        .await;
    }
    let report = timeout(Duration::from_secs(6), leads.stop()).await.unwrap();
    assert!(report.is_clean() && report.cause == StopCause::Requested, "{report:?}");
    for id in &ids {
        until("the other one has both tasks", SOON, async || {
            let task = client.show(id).await.ok()?;
            assert!(!task.state.is_final(), "{task:?}");
            let at = task.attempts.last()?.node.clone();
            (task.state == TaskState::Running && at != leader).then_some(())
        })
        .await;
    }
    // Whoever may ask for the stop need not own the node.
    follows.stop_requester().request();
    let report = timeout(Duration::from_secs(6), follows.join()).await.unwrap();
    assert!(report.is_clean(), "{report:?}");
    client.close().await;

    nothing_is_left(signals, &threads_before).await;
}
