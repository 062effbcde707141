//! A node as a library: build it, start it, stop it.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use taskd::{Config, Node};
//!
//! let config = Config::new("n1".parse()?, "127.0.0.1:2181");
//! let mut node = Node::builder(config).start().await?;
//! node.ready().await;
//! // …
//! let report = node.stop().await;
//! assert!(report.abandoned.is_empty());
//! # Ok(())
//! # }
//! ```
//!
//! Nothing here touches the process: no signal handler, no log subscriber, no exit. The one thing that has to end a
//! process when everything else fails, the [`LastRung`], is handed in.

use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use clock::{BootClock, SharedClock};
use drill::Drill;
use proto::Incarnation;
use proto::api::Api;
use proto::hello::Service as Wanted;
use proto::leader::LeaderRpc;
use proto::runner::RunnerRpc;
use rand::RngExt;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::api_server::ApiServer;
use crate::config::{Config, OnStop, Problem};
use crate::data_dir::{DataDir, DataDirError};
use crate::head_start;
use crate::links::LeaderServer;
use crate::net::{Identity, Limits, Listener, Peers, SharedNetwork, Tcp, serve};
use crate::reload::Reloader;
use crate::service::{Service, Typed};
use crate::status;
use crate::supervisor::published::{Board, Published};
use crate::supervisor::pulses::Pulses;
use crate::supervisor::watchdog::{LastRung, Limits as Patience, Watchdog, Wedge};
use crate::supervisor::{StopCause, StopReport, Supervisor};
use crate::vips;
use crate::wiring::Parts;

/// How long connecting to a peer may take.
const CONNECT_WITHIN: Duration = Duration::from_secs(1);

/// How long a component may block a thread, or the owner loop stand still, before this node gives up its leadership.
/// Nothing in here takes a thread for more than some milliseconds; on a machine that is busy with other things it may
/// have to wait for its turn for a few hundred. A leader that was wrong about itself costs the cluster a moment without
/// one, so it need not be longer, either.
const GIVE_UP_AFTER: Duration = Duration::from_secs(1);

/// How long before the last rung is taken: well within a stop's deadline, and not before a disk that hangs for a moment
/// has had its chance.
const WEDGED_MAX: Duration = Duration::from_secs(4);

/// How long after the stop deadline the last rung has certainly been taken.
const LAST_RUNG: Duration = Duration::from_millis(500);

/// How long a data directory may stay locked by what a killed daemon left.
const LOCK_WITHIN: Duration = Duration::from_millis(500);

/// Between two tries.
const LOCK_RETRY: Duration = Duration::from_millis(20);

/// For what was read ahead of a term to be given up, at the end.
const READER_ENDS_WITHIN: Duration = Duration::from_millis(200);

/// Why a node could not be started. Nothing is left running.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration makes no sense.
    #[error("the configuration is wrong: {}", list(.0))]
    Config(Vec<Problem>),
    /// The data directory cannot be used.
    #[error("the data directory cannot be used")]
    DataDir(#[source] DataDirError),
    /// The address cannot be listened on.
    #[error("failed to listen on {address}: choose another --listen, or stop what uses it")]
    Listen {
        /// The address.
        address: std::net::SocketAddr,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// The operating system has no thread or no path to this program.
    #[error("failed to {action}")]
    System {
        /// What was tried.
        action: &'static str,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
}

fn list(problems: &[Problem]) -> String {
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

/// The last rung that only shouts: an embedding process decides itself what to do about a wedged node.
#[derive(Clone, Copy, Debug)]
pub struct LogOnly;

impl LastRung for LogOnly {
    fn abandon(&self, wedge: &Wedge) {
        tracing::error!(%wedge, "the node cannot be ended from inside; end this process");
    }
}

/// A node to be started.
#[derive(Debug)]
pub struct Builder {
    config: Config,
    services: runner::Services,
    shim: Option<runner::ShimProgram>,
    vip_guard: Option<vip::GuardProgram>,
    clock: SharedClock,
    network: SharedNetwork,
    last_rung: Arc<dyn LastRung>,
    drill: Drill,
}

/// Where a node begins.
#[derive(Debug)]
pub struct Node(());

impl Node {
    /// A node with the built-in task services, the machine's clock and network.
    pub fn builder(config: Config) -> Builder {
        let exec = if config.exec.allow { runner::ExecPolicy::Any } else { runner::ExecPolicy::Off };
        let mut services = runner::Services::built_in(exec.clone());
        if config.exec.allow {
            let users = config.exec.users.iter().cloned();
            services = services.with("exec", runner::Exec::new(exec).with_users(users));
        }
        Builder {
            config,
            services,
            shim: None,
            vip_guard: None,
            clock: BootClock::shared(),
            network: Tcp::shared(),
            last_rung: Arc::new(LogOnly),
            drill: Drill::none(),
        }
    }
}

impl Builder {
    /// Adds a kind of task, or replaces the one of that name. Submit such tasks with
    /// [`client::Task::new`](crate::client::Task::new).
    #[must_use]
    pub fn service(self, kind: impl Into<String>, service: impl Service) -> Self {
        let kind = kind.into();
        let service = Typed::new(kind.clone(), service);
        self.task_service(kind, service)
    }

    /// Adds a kind of task that sees its payload as bytes, or runs processes.
    #[must_use]
    pub fn task_service(
        mut self,
        kind: impl Into<String>,
        service: impl runner::TaskService + 'static,
    ) -> Self {
        self.services = self.services.with(kind, service);
        self
    }

    /// The program that supervises process tasks, in place of this executable with the argument `shim`.
    #[must_use]
    pub fn shim(mut self, shim: runner::ShimProgram) -> Self {
        self.shim = Some(shim);
        self
    }

    /// The program that removes this node's virtual IPs when its process dies: one that calls [`vip::guard::main`]. Without
    /// one the kernel's own timer does, some seconds later.
    #[must_use]
    pub fn vip_guard(mut self, guard: vip::GuardProgram) -> Self {
        self.vip_guard = Some(guard);
        self
    }

    /// What ends the process when the node cannot be ended from inside.
    #[must_use]
    pub fn last_rung(mut self, last_rung: Arc<dyn LastRung>) -> Self {
        self.last_rung = last_rung;
        self
    }

    /// Another clock.
    #[must_use]
    pub fn clock(mut self, clock: SharedClock) -> Self {
        self.clock = clock;
        self
    }

    /// Another network.
    #[must_use]
    pub fn network(mut self, network: SharedNetwork) -> Self {
        self.network = network;
        self
    }

    /// Faults that a test switches on; a product build has none to switch on.
    #[must_use]
    pub fn drill(mut self, drill: Drill) -> Self {
        self.drill = drill;
        self
    }

    /// Takes the data directory, listens, and brings the node up in the background. With port 0 in `node.listen` the system
    /// picks one, which [`NodeHandle::address`] tells.
    ///
    /// # Errors
    /// See [`StartError`]; an unreachable ZooKeeper is none, the node goes on trying.
    pub async fn start(self) -> Result<NodeHandle, StartError> {
        let Self { mut config, services, shim, vip_guard, clock, network, last_rung, drill } = self;
        config.check().map_err(StartError::Config)?;
        let auth = config.coordination.auth().map_err(|problem| StartError::Config(vec![problem]))?;
        let data_dir = open_data_dir(&config.node.data_dir).await.map_err(StartError::DataDir)?;
        let shim = match shim {
            Some(shim) => shim,
            None => runner::ShimProgram {
                program: std::env::current_exe().map_err(|source| StartError::System {
                    action: "find this program's own file",
                    source,
                })?,
                args: vec!["shim".to_owned()],
            },
        };
        let machine = vips::machine(&config, &clock, vip_guard)
            .await
            .map_err(|problem| StartError::Config(vec![problem]))?;
        let runtime = coord::ClientRuntime::start()
            .map_err(|source| StartError::System { action: "start the ZooKeeper client's thread", source })?;
        let net_identity = Identity::node(config.node.id.clone());
        let limits = Limits { connections_max: config.node.connections_max, ..Limits::default() };
        let listener = Listener::bind(&network, config.node.listen, net_identity.clone(), limits)
            .await
            .map_err(|source| StartError::Listen { address: config.node.listen, source })?;
        // Port 0 is any that is free; the others have to know which.
        if config.node.listen.port() == 0 {
            let bound = listener.local_addr();
            config.node.listen =
                bound.map_err(|source| StartError::Listen { address: config.node.listen, source })?;
        }
        let overrun = Arc::clone(&last_rung);
        let exit_policy =
            runner::ExitPolicy::new(move |what| overrun.abandon(&Wedge::Overrun { what: what.to_owned() }));
        let pulses = Pulses::new(&drill);
        let patience = Patience { give_up: GIVE_UP_AFTER, last: WEDGED_MAX };
        let watchdog = Watchdog::start(Arc::clone(&clock), patience, pulses.clone(), last_rung)
            .map_err(|source| StartError::System { action: "start the watchdog's thread", source })?;

        let mut rng = rand::rng();
        let coordination = &config.coordination;
        let hosts = coordination.hosts.clone().unwrap_or_else(|| coordination.embedded_listen.to_string());
        let (publisher, board) = watch::channel(Published { hosts, ..Published::default() });
        let board = Board(board);
        let (head_start, reader) = head_start::new();
        let parts = Arc::new(Parts {
            node: config.node.id.clone(),
            address: config.node.address(),
            identity: status::Identity::of(&config),
            clock,
            stop_within: config.stop.deadline,
            wedged_max: WEDGED_MAX,
            peers: Peers::new(Arc::clone(&network), net_identity.clone(), CONNECT_WITHIN),
            network,
            incarnation: Incarnation::from_u128(rng.random()),
            data_dir,
            net_identity,
            services,
            shim,
            exit_policy: Some(exit_policy),
            vips: machine,
            vips_gone: watch::Sender::new(false),
            facts: watch::Sender::new(vips::facts(&config)),
            rng_seed: rng.random(),
            keeper_seed: rng.random(),
            auth,
            board: board.clone(),
            pulses,
            drill,
            runtime,
            head_start,
            members: watch::Sender::default(),
            priority_set: OnceLock::new(),
            keeper: OnceLock::new(),
            config,
        });
        parts.note("open", "listener");
        let on_stop = watch::Sender::new(parts.config.tasks.on_stop);
        let stop = StopRequester { stop: CancellationToken::new(), on_stop };
        let requester = stop.clone();
        parts.drill.on_stop(move || requester.request());
        let supervisor = Supervisor::new(Arc::clone(&parts), watchdog.beat(), publisher);
        let mut tasks = JoinSet::new();
        let run =
            run(supervisor, listener, Arc::clone(&parts), board.clone(), watchdog, stop.clone(), reader);
        tasks.spawn(parts.pulses.supervisor.watch("its loop", run));
        let reloader = Reloader::new(parts.config.clone(), parts.facts.clone());
        Ok(NodeHandle { tasks, stop, board, parts, reloader })
    }
}

/// Takes the directory, waiting a moment for what a killed predecessor was just starting: a child between fork and exec
/// still holds the lock.
async fn open_data_dir(path: &Path) -> Result<DataDir, DataDirError> {
    let give_up = tokio::time::Instant::now() + LOCK_WITHIN;
    loop {
        match DataDir::open(path) {
            Err(DataDirError::InUse { .. }) if tokio::time::Instant::now() < give_up => {
                tokio::time::sleep(LOCK_RETRY).await;
            }
            opened => return opened,
        }
    }
}

/// A running node. Call [`stop`](Self::stop): dropping it aborts the node and leaves its session open until the process
/// ends, because nobody knows any more what the session still fences. Until then no other node takes its place.
#[derive(Debug)]
pub struct NodeHandle {
    tasks: JoinSet<StopReport>,
    stop: StopRequester,
    board: Board,
    parts: Arc<Parts>,
    reloader: Reloader,
}

/// Asks a node to stop. Cannot wait for it: only the [`NodeHandle`] can.
#[derive(Clone, Debug)]
pub struct StopRequester {
    pub(crate) stop: CancellationToken,
    pub(crate) on_stop: watch::Sender<OnStop>,
}

impl StopRequester {
    /// Asks. Returns at once.
    pub fn request(&self) {
        self.stop.cancel();
    }

    /// The same, whatever `tasks.on_stop` says. A stop that waits for tasks is cut short by another way.
    pub fn request_as(&self, on_stop: OnStop) {
        self.on_stop.send_replace(on_stop);
        self.stop.cancel();
    }
}

impl NodeHandle {
    /// Waits until the node has joined the cluster and a leader serves.
    ///
    /// # Cancel safety
    /// Cancel safe. Never returns if that does not come to pass: give it a deadline.
    pub async fn ready(&mut self) {
        loop {
            let serves = self
                .board
                .view()
                .is_some_and(|view| view.leader.as_ref().is_some_and(|leader| leader.serving));
            if serves && self.board.runner().is_some() {
                return;
            }
            self.board.changed().await;
        }
    }

    /// Where the node's RPC listens.
    pub fn address(&self) -> &str {
        &self.parts.address
    }

    /// For whoever may ask the node to stop.
    pub fn stop_requester(&self) -> StopRequester {
        self.stop.clone()
    }

    /// Hands the node's file to it while it runs.
    pub fn reloader(&self) -> Reloader {
        self.reloader.clone()
    }

    /// Stops the node as `tasks.on_stop` says, but that it waits for no task: dispatcher, runner, virtual IPs, quorum, embedded keeper, listener. Takes at most the configured stop deadline; a node that
    /// is wedged beyond that is aborted, reported as abandoned, and has called its [`LastRung`].
    pub async fn stop(self) -> StopReport {
        let drains = *self.stop.on_stop.borrow() == OnStop::Drain;
        self.stop.request_as(if drains { OnStop::Kill } else { *self.stop.on_stop.borrow() });
        let within = self.parts.stop_within;
        tokio::time::timeout(within + LAST_RUNG, self.join()).await.unwrap_or_else(|_| StopReport {
            cause: StopCause::Requested,
            took: within + LAST_RUNG,
            abandoned: vec!["node"],
        })
    }

    /// Waits until the node has ended, by request or because a component failed.
    pub async fn join(mut self) -> StopReport {
        match self.tasks.join_next().await {
            Some(Ok(report)) => report,
            Some(Err(error)) => StopReport::crashed(error.to_string()),
            None => StopReport::crashed("the node had no task".to_owned()),
        }
    }
}

/// Runs the supervisor and answers connections until it has ended.
async fn run(
    supervisor: Supervisor,
    mut listener: Listener,
    parts: Arc<Parts>,
    board: Board,
    watchdog: Watchdog,
    stop: StopRequester,
    reader: head_start::Reader,
) -> StopReport {
    let mut connections = JoinSet::new();
    let mut reading = JoinSet::new();
    let ending = CancellationToken::new();
    let read = head_start::run(Arc::clone(&parts), reader, ending.clone());
    reading.spawn(parts.pulses.dispatcher.watch("its head start", read));
    parts.pulses.listener.phase("Listening", parts.clock.now());
    let supervise = supervisor.run(stop);
    tokio::pin!(supervise);
    let report = loop {
        tokio::select! {
            report = &mut supervise => break report,
            incoming = listener.accept() => {
                let (parts, board) = (Arc::clone(&parts), board.clone());
                let pulse = parts.pulses.listener.clone();
                connections.spawn(pulse.watch("a connection", answer(incoming, parts, board)));
            }
            Some(_) = connections.join_next() => {}
        }
    };
    connections.shutdown().await;
    ending.cancel();
    // Its session fences nothing, so that it may as well expire.
    let _ = tokio::time::timeout(READER_ENDS_WITHIN, reading.join_next()).await;
    reading.shutdown().await;
    drop(listener);
    parts.note("close", "listener");
    // Only now: the watchdog also guards the way down.
    drop(watchdog);
    report
}

async fn answer(incoming: crate::net::Incoming, parts: Arc<Parts>, board: Board) {
    match incoming.service {
        Wanted::Api => serve(incoming, ApiServer { parts, board }.serve()).await,
        Wanted::Leader => {
            let (node, address) = (parts.node.clone(), parts.address.clone());
            let head_start = parts.head_start.clone();
            serve(incoming, LeaderServer { board, node, address, head_start }.serve()).await;
        }
        Wanted::Runner => {
            // A peer that comes before the runner runs is turned away and comes again.
            if let Some(runner) = board.runner() {
                serve(incoming, runner.server().serve()).await;
            }
        }
    }
}
