//! One life of a node that is stopped at one poll of one of its components.

use std::cell::RefCell;
use std::fmt;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use proto::api::Submitted;
use proto::task::{ExecPayload, TaskSpec, TaskState};
use taskd::client::Client;
use taskd::config::{Vip, VipBackend};
use taskd::drill::Drill;
use taskd::runner::ShimProgram;
use taskd::{Config, Node, NodeHandle, StartError};
use testkit::{Alive, Keeper, Proxy, until};
use tokio::runtime::Handle;

use crate::history::Resources;
use crate::support::{SOON, free_addresses, processes_with};

/// The default of `stop.deadline`.
pub(crate) const DEADLINE: Duration = Duration::from_secs(5);

/// Whatever happens, a life is over by then.
const LIFE: Duration = Duration::from_secs(90);

/// What happens to the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scene {
    /// It joins, leads, and runs a short task.
    Work,
    /// It leads and runs a task that does not hear SIGTERM.
    Stubborn,
    /// It is asked to hand over to another node.
    Handover,
    /// After a short cut its session is gone.
    Expiry,
    /// ZooKeeper falls silent while it leads and runs something.
    Silence,
    /// As the first, with its own coordination service.
    Embedded,
}

/// A node's life: what happens, and at which poll of which component it is stopped.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Life {
    pub(crate) scene: Scene,
    pub(crate) component: &'static str,
    /// Never, if none: then it is the scene that is measured.
    pub(crate) poll: Option<u64>,
}

impl fmt::Display for Life {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.poll {
            Some(poll) => write!(f, "{:?}, stop:{}@{poll}", self.scene, self.component),
            None => write!(f, "{:?}, undisturbed", self.scene),
        }
    }
}

/// How it went.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seen {
    /// Polls of the component when the scene's own part began, and when it was over.
    pub(crate) began: u64,
    pub(crate) over: u64,
    /// Whether it was stopped before the scene was over.
    pub(crate) reached: bool,
    /// How long the stop took.
    pub(crate) took: Duration,
}

/// Lives it in a runtime of its own, so that whatever task is left can be told.
pub(crate) fn live(life: Life) -> Seen {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime
        .block_on(async { tokio::time::timeout(LIFE, play(life)).await })
        .unwrap_or_else(|_| panic!("{life}: it is not over after {LIFE:?}"))
}

async fn play(life: Life) -> Seen {
    let dir = tempfile::tempdir().unwrap();
    let stage = Stage::set(life, dir.path()).await;
    let tasks = Handle::current().metrics().num_alive_tasks();
    let spec = life.poll.map_or_else(String::new, |poll| format!("stop:{}@{poll}", life.component));
    let drill = Drill::parse(&spec).unwrap();
    let (node, address) = stage.start("n1", drill.clone()).await;
    let requester = node.stop_requester();
    let began = RefCell::new(None);
    let polls = || drill.polls(life.component);
    let scene = stage.play(&address, || *began.borrow_mut() = Some(polls()));
    let joined = node.join();
    tokio::pin!(joined);
    let (report, over) = tokio::select! {
        report = &mut joined => (report, polls()),
        () = scene => {
            let over = polls();
            requester.request();
            (joined.await, over)
        }
    };
    if let Some(second) = stage.second.take() {
        let report = second.stop().await;
        assert!(report.is_clean(), "{life}: the other node: {report:?}");
    }
    assert!(report.took <= DEADLINE, "{life}: {report:?}");
    let history = drill.history();
    let resources = Resources::of(&history);
    let wrong = resources.wrong();
    assert!(report.is_clean() && wrong.is_empty(), "{life}: {report:?}, {wrong:#?}\n{}", history.join("\n"));
    assert_eq!(resources.opened("listener"), 1, "{life}: {history:#?}");
    stage.nothing_is_left(life, tasks).await;
    let began = began.take().unwrap_or(over);
    Seen { began, over, reached: life.poll.is_some_and(|poll| poll <= over), took: report.took }
}

/// What is around the node.
pub(crate) struct Stage<'a> {
    scene: Scene,
    dir: &'a Path,
    pub(crate) keeper: Option<Keeper>,
    proxy: Option<Proxy>,
    /// Another node, for scenes that have one.
    second: RefCell<Option<NodeHandle>>,
}

impl<'a> Stage<'a> {
    pub(crate) async fn set(life: Life, dir: &'a Path) -> Self {
        let scene = life.scene;
        let keeper = if scene == Scene::Embedded { None } else { Some(testkit::keeper().await) };
        let proxy = match &keeper {
            Some(keeper) if matches!(scene, Scene::Expiry | Scene::Silence) => {
                Some(Proxy::start(keeper.hosts()).await)
            }
            _ => None,
        };
        Self { scene, dir, keeper, proxy, second: RefCell::default() }
    }

    fn config(&self, id: &str) -> Config {
        let id_parsed = id.parse().unwrap();
        let mut config = match (&self.proxy, &self.keeper) {
            (Some(proxy), _) => Config::new(id_parsed, proxy.hosts()),
            (None, Some(keeper)) => Config::new(id_parsed, keeper.hosts()),
            (None, None) => Config::embedded(id_parsed),
        };
        config.node.listen = free_addresses(1).remove(0).parse().unwrap();
        config.node.data_dir = self.dir.join(id);
        config.node.slots = Some(4);
        config.coordination.embedded_listen = "127.0.0.1:0".parse().unwrap();
        // No machine is so busy that it expires by itself, unless that is what it is for.
        let timeout = if self.proxy.is_some() { 2 } else { 5 };
        config.coordination.session_timeout = Duration::from_secs(timeout);
        config.coordination.tick = Duration::from_millis(500);
        config.exec.allow = true;
        config.tasks.heartbeat = Duration::from_millis(100);
        config.tasks.kill_grace = Duration::from_millis(300);
        config.stop.deadline = DEADLINE;
        config.vip = Vip::new(VipBackend::DryRun);
        config
    }

    /// A node, and its address.
    pub(crate) async fn start(&self, id: &str, drill: Drill) -> (NodeHandle, String) {
        loop {
            let config = self.config(id);
            // The test's own executable is no taskd.
            let program = PathBuf::from(env!("CARGO_BIN_EXE_taskd"));
            let shim = ShimProgram { program, args: vec!["shim".to_owned()] };
            match Node::builder(config).shim(shim).drill(drill.clone()).start().await {
                Ok(node) => {
                    let address = node.address().to_owned();
                    return (node, address);
                }
                // Another life has just got that port.
                Err(StartError::Listen { .. }) => {}
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// Lets happen what the scene is about, after it has told that it is about to; returns when it is over. It is
    /// dropped when the node has ended before.
    async fn play(&self, address: &str, begins: impl FnOnce()) {
        let client = Client::new(address.parse().unwrap());
        let first = self.leads(&client, 0).await;
        match (self.scene, &self.proxy) {
            (Scene::Work | Scene::Embedded, _) => {
                begins();
                let id = submit(&client, &["true"]).await;
                becomes(&client, &id, TaskState::Succeeded).await;
            }
            (Scene::Stubborn, _) => {
                begins();
                run_stubborn(&client, self.dir).await;
            }
            (Scene::Handover, _) => {
                let (second, other) = self.start("n2", Drill::none()).await;
                self.second.replace(Some(second));
                let there = Client::new(other.parse().unwrap());
                self.leads(&there, 0).await;
                until("both are members", LIFE, async || {
                    client.status().await.ok().filter(|status| status.members.len() == 2)
                })
                .await;
                begins();
                until("the other takes over", LIFE, async || {
                    client.handover(Some("n2".parse().unwrap())).await.ok()
                })
                .await;
            }
            (Scene::Expiry, Some(proxy)) => {
                begins();
                proxy.set(|faults| faults.forget_session = true);
                proxy.cut();
                self.leads(&client, first).await;
            }
            (Scene::Silence, Some(proxy)) => {
                run_stubborn(&client, self.dir).await;
                begins();
                proxy.blackhole();
                // Its lease ends, then its session is given up.
                until("it leads no more", LIFE, async || {
                    let status = client.status().await.ok()?;
                    status.leader.is_none_or(|leader| !leader.serving).then_some(())
                })
                .await;
            }
            (Scene::Expiry | Scene::Silence, None) => unreachable!("these have a proxy"),
        }
        client.close().await;
    }

    /// Waits until somebody serves in a later epoch than this; which.
    async fn leads(&self, client: &Client, after: u64) -> u64 {
        until("somebody serves", LIFE, async || {
            let leader = client.status().await.ok()?.leader?;
            (leader.serving && leader.epoch.0 > after).then_some(leader.epoch.0)
        })
        .await
    }

    /// No process, no task, no half file, no lock, and at the keeper neither session nor ephemeral.
    async fn nothing_is_left(&self, life: Life, tasks: usize) {
        let processes = processes_with(self.dir.to_str().unwrap());
        assert!(processes.is_empty(), "{life}: it left {processes:?}");
        let metrics = Handle::current().metrics();
        until(&format!("{life}: no task is left"), SOON, async || {
            (metrics.num_alive_tasks() <= tasks).then_some(())
        })
        .await;
        for lock in ["lock", "runner/lock", "keeper/lock"] {
            let path = self.dir.join("n1").join(lock);
            // Another life's child, between its fork and its exec, may hold it for a moment.
            until(&format!("{life}: {lock} is free"), SOON, async || {
                File::open(&path).map_or(true, |file| file.try_lock().is_ok()).then_some(())
            })
            .await;
        }
        let strange: Vec<_> = files(self.dir).into_iter().filter(|file| !is_known(file)).collect();
        assert!(strange.is_empty(), "{life}: it left {strange:?}");
        if let Some(keeper) = &self.keeper {
            until(&format!("{life}: neither session nor ephemeral is left"), SOON, async || {
                (keeper.alive().await == Alive { sessions: 0, ephemerals: 0 }).then_some(())
            })
            .await;
        }
    }
}

/// Runs a task that does not hear SIGTERM, until it is up.
pub(crate) async fn run_stubborn(client: &Client, dir: &Path) {
    let up = dir.join("up");
    let script = format!("trap '' TERM; touch {}; while :; do sleep 0.05; done", up.to_str().unwrap());
    submit(client, &["sh", "-c", &script]).await;
    until("the task is up", LIFE, async || up.exists().then_some(())).await;
}

async fn submit(client: &Client, argv: &[&str]) -> String {
    let argv = argv.iter().map(|arg| (*arg).to_owned()).collect();
    let payload = ExecPayload { argv, ..ExecPayload::default() };
    let spec = TaskSpec::new("exec", serde_json::to_vec(&payload).unwrap());
    let submitted = client.submit_spec(spec, LIFE).await;
    match submitted {
        Ok(Submitted::Accepted { id }) => id.to_string(),
        // The node is on its way down: whoever plays the scene is about to be dropped.
        _ => std::future::pending().await,
    }
}

async fn becomes(client: &Client, id: &str, state: TaskState) {
    until("the task's state", LIFE, async || client.show(id).await.ok().filter(|task| task.state == state))
        .await;
}

/// Everything in a directory, as paths in it.
pub(crate) fn files(dir: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(next) = dirs.pop() {
        for entry in std::fs::read_dir(next).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                dirs.push(entry.path());
            } else {
                found.push(entry.path().strip_prefix(dir).unwrap().to_str().unwrap().to_owned());
            }
        }
    }
    found
}

/// What a node may leave in its directory: what its next life needs, and what people want to read.
pub(crate) fn is_known(file: &str) -> bool {
    let Some((_, file)) = file.split_once('/') else { return file == "up" };
    let attempts = file.strip_prefix("runner/attempts/").and_then(|file| file.split_once('/'));
    match (file, attempts) {
        ("lock" | "machine-id" | "identity.json" | "vips.json", _) => true,
        ("runner/lock" | "runner/incarnations.json", _) => true,
        ("runner/refused/current" | "runner/refused/previous", _) => true,
        (_, Some((_, name))) => {
            ["exit.json", "done.json", "start.json", "start.called-off", "shim.json", "ctl"].contains(&name)
                || name.starts_with("out")
        }
        _ => file.starts_with("keeper/") && !file.ends_with(".tmp"),
    }
}
