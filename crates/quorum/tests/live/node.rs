//! Nodes for the tests: a quorum with a small supervisor beside it, all in one process.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clock::BootClock;
use proto::{Epoch, Incarnation, NodeId};
use quorum::{FileIdentity, Handle, HoldDown, Options, Quorum, Readiness, Report, Role, Running, View};
use tempfile::TempDir;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// T, tick and margin of the tests: the smallest that ZooKeeper's test tick of 500 ms allows with some room.
pub(crate) const TIMEOUT: Duration = Duration::from_millis(2_000);
pub(crate) const TICK: Duration = Duration::from_millis(500);
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

static SEED: AtomicU64 = AtomicU64::new(1);

/// What the supervisor of a node does.
#[derive(Debug)]
pub(crate) struct Manner {
    /// Its dispatcher comes to serve.
    pub(crate) serves: AtomicBool,
    /// Its effects end when they should.
    pub(crate) ends: AtomicBool,
}

/// A running node.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) id: NodeId,
    pub(crate) handle: Handle,
    pub(crate) manner: Arc<Manner>,
    pub(crate) quorum: Quorum<Running>,
    pub(crate) dir: TempDir,
    supervisor: JoinSet<BTreeSet<Epoch>>,
    stop: CancellationToken,
}

pub(crate) fn id(name: &str) -> NodeId {
    name.parse().unwrap()
}

pub(crate) fn options(hosts: &str, name: &str, dir: &std::path::Path) -> Options {
    let seed = SEED.fetch_add(1, Ordering::Relaxed) + u64::from(std::process::id());
    let coord = coord::Options {
        session_timeout: TIMEOUT,
        tick: TICK,
        margin: TICK + Duration::from_millis(100),
        call_deadline: Duration::from_secs(1),
        ..coord::Options::new(hosts, "/taskd")
    };
    Options {
        claim_grace: Duration::from_millis(500),
        serve_deadline: Duration::from_millis(1_500),
        hold_down: HoldDown { first: Duration::from_secs(3), max: Duration::from_secs(20) },
        join_deadline: Duration::from_secs(10),
        ..Options::new(
            id(name),
            format!("{name}.test:10601"),
            Incarnation::from_u128(seed.into()),
            coord,
            BootClock::shared(),
            seed,
            Arc::new(FileIdentity::new(dir.join("identity.json"))),
            coord::ClientRuntime::start().unwrap(),
        )
    }
}

impl Node {
    /// Joins, and is ready.
    pub(crate) async fn start(hosts: &str, name: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let node = Self::start_in(options(hosts, name, dir.path()), dir).await;
        node.handle.set_ready(Readiness::Ready);
        node
    }

    /// Joins with these options; is not ready yet.
    pub(crate) async fn start_in(options: Options, dir: TempDir) -> Self {
        let (cancel, node) = (CancellationToken::new(), options.node.clone());
        let quorum = Quorum::new(options);
        let handle = quorum.handle();
        let quorum = quorum.connect(cancel.clone()).await.unwrap().join(cancel).await.unwrap().run();
        let manner = Arc::new(Manner { serves: AtomicBool::new(true), ends: AtomicBool::new(true) });
        let stop = CancellationToken::new();
        let mut supervisor = JoinSet::new();
        supervisor.spawn(supervise(handle.clone(), manner.clone(), stop.clone()));
        Self { id: node, handle, manner, quorum, dir, supervisor, stop }
    }

    pub(crate) fn view(&self) -> Arc<View> {
        self.handle.view().borrow().clone()
    }

    /// The epoch in which it leads inside its lease and serves.
    pub(crate) fn leads(&self) -> Option<Epoch> {
        let view = self.view();
        let serving = view.leader.as_ref().is_some_and(|leader| leader.node == self.id && leader.serving);
        match &view.role {
            Role::Elected(term) if term.lease.holds() && serving => Some(term.token.epoch),
            _ => None,
        }
    }

    /// Waits for a view, asking for it as `taskd cluster status` does.
    pub(crate) async fn see(&self, what: &str, mut wanted: impl FnMut(&View) -> bool) -> Arc<View> {
        let mut asked = Instant::now();
        self.handle.refresh();
        testkit::until(&format!("{}: {what}", self.id), PATIENCE, async || {
            if asked.elapsed() > Duration::from_millis(300) {
                asked = Instant::now();
                self.handle.refresh();
            }
            let view = self.view();
            wanted(&view).then_some(view)
        })
        .await
    }

    /// Stops in an orderly way. Returns how it ended, and in which epochs it was elected.
    pub(crate) async fn stop(mut self) -> (Report, BTreeSet<Epoch>) {
        self.handle.set_ready(Readiness::NotReady { why: "the test ends".into() });
        let report = self.quorum.stop(Duration::from_secs(5)).await.into_report();
        self.stop.cancel();
        (report, self.supervisor.join_next().await.unwrap().unwrap())
    }
}

/// As `taskd`'s supervisor: serves when elected, ends effects when resigning. Returns the epochs of its terms.
async fn supervise(handle: Handle, manner: Arc<Manner>, stop: CancellationToken) -> BTreeSet<Epoch> {
    let mut elected = BTreeSet::new();
    let mut view = handle.view();
    loop {
        let role = view.borrow_and_update().role.clone();
        match role {
            Role::Elected(term) => {
                elected.insert(term.token.epoch);
                if manner.serves.load(Ordering::SeqCst) {
                    handle.serving(term.token.epoch);
                }
            }
            Role::Resigning(term) if manner.ends.load(Ordering::SeqCst) => {
                handle.effects_ended(term.token.epoch);
            }
            Role::Resigning(_) | Role::Suspended(_) | Role::Follower => {}
        }
        tokio::select! {
            changed = view.changed() => if changed.is_err() { return elected },
            () = stop.cancelled() => return elected,
        }
    }
}

/// Waits until exactly one leads and serves, and everybody else agrees on it. Returns its index and epoch.
pub(crate) async fn leader(nodes: &[Node]) -> (usize, Epoch) {
    testkit::until("one node leads and all agree", PATIENCE, async || agreed(nodes)).await
}

fn agreed(nodes: &[Node]) -> Option<(usize, Epoch)> {
    let leading: Vec<(usize, Epoch)> =
        nodes.iter().enumerate().filter_map(|(index, node)| Some((index, node.leads()?))).collect();
    assert!(leading.len() <= 1, "more than one leads: {leading:?}");
    let (index, epoch) = *leading.first()?;
    let agree = |node: &Node| {
        let view = node.view();
        let seen = view.leader.as_ref().map(|leader| (&leader.node, leader.epoch));
        seen == Some((&nodes[index].id, epoch)) && view.why_no_leader.is_none()
    };
    nodes.iter().all(agree).then_some((index, epoch))
}
