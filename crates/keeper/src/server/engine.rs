//! The engine thread: its loop, and how it ends.

use std::any::Any;
use std::cell::RefCell;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use clock::SharedClock;
use rustix::process::{Resource, getrlimit};
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::task::{JoinError, JoinSet, LocalSet};
use tokio::time::{Instant, sleep_until, timeout};
use tracing::{error, info, warn};

use super::connection::Connection;
use super::control::{Control, Ending};
use super::limited::Limited;
use super::log::{BeforeSync, Jobs, Log, Report};
use super::net::{Listener, Stream};
use super::shell::{self, Shell};
use super::{Failure, Options, StartError};
use crate::core::{Core, Settings};
use crate::store::{self, Store};

/// How a server ended.
#[derive(Clone, Debug)]
pub(super) enum Ended {
    /// As asked.
    Stopped,
    /// As asked, but not in time. `hangs`: its log thread still waits for the disk.
    CutOff { hangs: bool },
    /// By itself.
    Failed(Failure),
}

impl Ended {
    pub(super) fn into_failure(self) -> Failure {
        match self {
            Self::Stopped | Self::CutOff { .. } => Failure::Stopped,
            Self::Failed(failure) => failure,
        }
    }
}

/// What the engine thread takes along.
pub(super) struct Setup {
    pub(super) options: Options,
    pub(super) clock: SharedClock,
    pub(super) seed: [u8; 32],
    pub(super) control: Arc<Control>,
    pub(super) before_sync: BeforeSync,
    pub(super) ready: oneshot::Sender<Result<SocketAddr, StartError>>,
}

/// After an error that is not a client's (no file descriptor is left), before the next connection is accepted.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// The engine thread's whole life. The last thing it does is to say how it ended.
pub(super) fn run(setup: Setup, end: &watch::Sender<Option<Ended>>) {
    let control = Arc::clone(&setup.control);
    let ended = catch_unwind(AssertUnwindSafe(|| serve(setup)))
        .unwrap_or_else(|panic| Ended::Failed(panicked(&*panic)));
    if let Ended::Failed(failure) = &ended {
        error!(error = failure as &dyn std::error::Error, "the keeper failed and has closed its connections");
        // Nothing more is written by a log thread that was left behind.
        control.end(Ending::Abort);
    }
    end.send_replace(Some(ended));
}

fn serve(setup: Setup) -> Ended {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            let _ = setup.ready.send(Err(StartError::Thread(error)));
            return Ended::Stopped;
        }
    };
    let tasks = LocalSet::new();
    tasks.block_on(&runtime, async {
        let (started, ready) = match Engine::start(setup) {
            Ok(started) => started,
            Err((error, ready)) => {
                let _ = ready.send(Err(error));
                return Ended::Stopped;
            }
        };
        if ready.send(Ok(started.listener.address())).is_err() {
            // Nobody waits for it any more.
            started.control.end(Ending::Abort);
        }
        started.run().await
    })
}

struct Engine {
    control: Arc<Control>,
    listener: Listener,
    log: Log,
    shell: Rc<RefCell<Shell>>,
    connections: JoinSet<()>,
    /// One task between the shell and the log thread. It is woken behind the connections that are ready, so that what
    /// they all have read shares a sync.
    disk: JoinSet<Result<(), Failure>>,
    /// Told whenever something was synced.
    synced: Rc<Notify>,
    accept_again: Option<Instant>,
    accept_failed: Limited,
    clock: SharedClock,
    sweep_every: Duration,
}

/// The connections that may be open at a time when so many files may: the log must not want for one because of them,
/// and neither must the rest of the process.
fn affordable(connections_max: usize, descriptors: Option<u64>) -> usize {
    let descriptors = descriptors.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX));
    connections_max.min((descriptors / 4 * 3).max(1))
}

type Ready = oneshot::Sender<Result<SocketAddr, StartError>>;

/// Why the loop ended.
enum Left {
    Asked(Ending),
    Failed(Failure),
}

impl Engine {
    /// Recovers and listens. Blocks while it recovers: there is nothing else to do on this thread.
    fn start(setup: Setup) -> Result<(Self, Ready), (StartError, Ready)> {
        let Setup { mut options, clock, seed, control, before_sync, ready } = setup;
        let descriptors = getrlimit(Resource::Nofile).current;
        let connections_max = affordable(options.connections_max, descriptors);
        if connections_max < options.connections_max {
            info!(
                connections_max,
                wanted = options.connections_max,
                descriptors,
                "takes fewer connections than it was set up for: more open files are not allowed"
            );
            options.connections_max = connections_max;
        }
        let started = (|| {
            let (store, state) =
                Store::open(&options.data_dir, store_options(&options)).map_err(StartError::Store)?;
            let listener = Listener::bind(options.listen)
                .map_err(|source| StartError::Listen { address: options.listen, source })?;
            let counts = state.counts();
            info!(
                address = %listener.address(),
                data_dir = %options.data_dir.display(),
                znodes = counts.znodes,
                sessions = state.sessions().count(),
                zxid = %format_args!("{:#x}", state.last_zxid()),
                replayed = store.recovery().txns_replayed,
                "the keeper serves ZooKeeper's protocol: one machine, not highly available"
            );
            if let Some(torn) = &store.recovery().torn {
                warn!(
                    path = %torn.path.display(),
                    bytes = torn.bytes,
                    "took off the end of the log what is half-written; if a crash left it so, nobody had been told of it"
                );
            }
            let (log, reports) =
                Log::start(store, before_sync, Arc::clone(&control)).map_err(StartError::Thread)?;
            Ok((listener, log, reports, state))
        })();
        let (listener, log, reports, state) = match started {
            Ok(started) => started,
            Err(error) => return Err((error, ready)),
        };
        let sweep_every =
            options.handshake_timeout.min(options.write_timeout).min(Duration::from_secs(4)) / 4;
        let commit = Rc::new(Notify::new());
        let core = Core::new(core_settings(&options), state, seed, shell::now(&*clock));
        let shell = Shell::new(
            core,
            options,
            listener.address(),
            Arc::clone(&control),
            Arc::clone(&clock),
            Rc::clone(&commit),
        );
        let shell = Rc::new(RefCell::new(shell));
        let synced = Rc::new(Notify::new());
        let disk = Disk {
            shell: Rc::clone(&shell),
            commit,
            synced: Rc::clone(&synced),
            jobs: log.jobs().clone(),
            reports,
        };
        let disk = {
            let mut set = JoinSet::new();
            set.spawn_local(disk.serve());
            set
        };
        let engine = Self {
            control,
            listener,
            log,
            shell,
            connections: JoinSet::new(),
            disk,
            synced,
            accept_again: None,
            accept_failed: Limited::default(),
            clock,
            sweep_every,
        };
        Ok((engine, ready))
    }

    async fn run(mut self) -> Ended {
        match self.serve().await {
            Left::Asked(Ending::Stop) => self.stop().await,
            Left::Asked(Ending::Abort) => self.abort().await,
            Left::Failed(failure) => {
                self.abort().await;
                Ended::Failed(failure)
            }
        }
    }

    async fn serve(&mut self) -> Left {
        let mut timer = std::pin::pin!(sleep_until(Instant::now()));
        loop {
            self.control.hold_while_paused();
            if let Some(ending) = self.control.ending() {
                return Left::Asked(ending);
            }
            let wait = self.wait();
            let wake_at = Instant::now() + wait;
            if wake_at < timer.deadline() || timer.is_elapsed() {
                timer.as_mut().reset(wake_at);
                self.shell.borrow_mut().hearing.plan(self.clock.now() + wait);
            }
            tokio::select! {
                () = self.control.changed() => {}
                // A session that was opened may be due before all others.
                () = self.synced.notified() => {}
                ended = self.disk.join_next() => return Left::Failed(disk_ended(ended)),
                () = &mut timer => {
                    let mut shell = self.shell.borrow_mut();
                    shell.tick();
                    shell.sweep();
                }
                Some(ended) = self.connections.join_next() => {
                    if let Err(failure) = task_ended(ended) {
                        return Left::Failed(failure);
                    }
                }
                accepted = accept(&self.listener, self.accept_again) => self.accepted(accepted),
            }
        }
    }

    /// How long the timer has nothing to do. At the longest to the next sweep: a clock need not run as tokio's does.
    fn wait(&self) -> Duration {
        let shell = self.shell.borrow();
        let sweep = if shell.connections() == 0 { Duration::from_secs(60) } else { self.sweep_every };
        let expiry = shell.next_expiry().map(|deadline| deadline.since(self.clock.now()));
        // A millisecond more, since deadlines are in whole ones.
        expiry.map_or(sweep, |expiry| sweep.min(expiry + Duration::from_millis(1)))
    }

    fn accepted(&mut self, accepted: std::io::Result<(Stream, SocketAddr)>) {
        self.accept_again = None;
        match accepted {
            Ok((stream, peer)) => {
                // One more than there may be is closed by being dropped.
                let Some(conn) = self.shell.borrow_mut().open(peer) else { return };
                let connection = Connection::new(conn, stream, Rc::clone(&self.shell));
                self.connections.spawn_local(connection.serve());
            }
            Err(error) => {
                self.accept_again = Some(Instant::now() + ACCEPT_AGAIN);
                if let Some(suppressed) = self.accept_failed.due(self.clock.now()) {
                    warn!(%error, suppressed, "failed to accept a connection");
                }
            }
        }
    }

    /// Stops in order, or cuts off what does not end in time.
    async fn stop(mut self) -> Ended {
        let within = self.shell.borrow().options.stop_timeout;
        let control = Arc::clone(&self.control);
        let polite = async {
            tokio::select! {
                stopped = self.wind_down() => stopped,
                () = aborted(&control) => Ok(false),
            }
        };
        match timeout(within, polite).await {
            Ok(Ok(true)) => {
                self.log.join();
                info!("the keeper has stopped");
                Ended::Stopped
            }
            Ok(Ok(false)) => self.abort().await,
            Ok(Err(failure)) => {
                self.abort().await;
                Ended::Failed(failure)
            }
            Err(_) => {
                warn!(?within, "the keeper did not stop in time and is cut off");
                self.control.end(Ending::Abort);
                match self.abort().await {
                    Ended::CutOff { hangs: true } => Ended::CutOff { hangs: true },
                    _ => Ended::CutOff { hangs: false },
                }
            }
        }
    }

    /// Whether everything has ended in order.
    async fn wind_down(&mut self) -> Result<bool, Failure> {
        self.shell.borrow_mut().stop_reading();
        while !self.shell.borrow().is_settled() {
            tokio::select! {
                () = self.synced.notified() => {}
                ended = self.disk.join_next() => return Err(disk_ended(ended)),
            }
        }
        self.shell.borrow_mut().close_all();
        let patience = self.shell.borrow().options.stop_timeout / 2;
        let closed = async {
            while let Some(ended) = self.connections.join_next().await {
                task_ended(ended)?;
            }
            Ok(())
        };
        // A client that does not take its replies is no reason not to end in order.
        timeout(patience, closed).await.unwrap_or(Ok(()))?;
        self.connections.shutdown().await;
        self.log.close();
        match self.disk.join_next().await {
            Some(Ok(Ok(()))) => Ok(true),
            ended => Err(disk_ended(ended)),
        }
    }

    /// Ends now: connections are cut, the log thread ends after what it is doing.
    async fn abort(mut self) -> Ended {
        self.control.end(Ending::Abort);
        let within = self.shell.borrow().options.stop_timeout;
        self.connections.shutdown().await;
        self.log.close();
        if timeout(within, self.disk.join_next()).await.is_err() {
            return Ended::CutOff { hangs: true };
        }
        self.log.join();
        Ended::Stopped
    }
}

async fn accept(listener: &Listener, not_before: Option<Instant>) -> std::io::Result<(Stream, SocketAddr)> {
    if let Some(not_before) = not_before {
        sleep_until(not_before).await;
    }
    listener.accept().await
}

/// The task between the shell and the log thread.
struct Disk {
    shell: Rc<RefCell<Shell>>,
    commit: Rc<Notify>,
    synced: Rc<Notify>,
    jobs: Jobs,
    reports: mpsc::Receiver<Report>,
}

impl Disk {
    /// Hands over what was gathered and lets become known what was synced, until the log is closed.
    async fn serve(mut self) -> Result<(), Failure> {
        loop {
            let report = tokio::select! {
                () = self.commit.notified() => {
                    self.hand_over();
                    continue;
                }
                report = self.reports.recv() => report,
            };
            match report {
                Some(Report::Synced { groups, txns, snapshot_due }) => {
                    let mut shell = self.shell.borrow_mut();
                    shell.control.hold_while_paused();
                    shell.synced(groups, txns, snapshot_due);
                    self.synced.notify_one();
                }
                Some(Report::Failed(error)) => return Err(Failure::Disk(Arc::new(error))),
                Some(Report::Closed) => return Ok(()),
                None => return Err(Failure::Panicked("its log thread has ended".to_owned())),
            }
        }
    }

    fn hand_over(&self) {
        let mut shell = self.shell.borrow_mut();
        shell.control.hold_while_paused();
        if let Some((txns, image)) = shell.commit() {
            self.jobs.write(txns, image);
        }
    }
}

/// Why there is no log any more.
fn disk_ended(ended: Option<Result<Result<(), Failure>, JoinError>>) -> Failure {
    match ended {
        Some(Ok(Err(failure))) => failure,
        Some(Err(error)) if error.is_panic() => panicked(&*error.into_panic()),
        Some(Ok(Ok(())) | Err(_)) | None => Failure::Panicked("its log was closed".to_owned()),
    }
}

async fn aborted(control: &Control) {
    while !control.aborted() {
        control.changed().await;
    }
}

/// A task ends by itself, or by a bug.
fn task_ended(ended: Result<(), JoinError>) -> Result<(), Failure> {
    match ended {
        Err(error) if error.is_panic() => Err(panicked(&*error.into_panic())),
        Ok(()) | Err(_) => Ok(()),
    }
}

fn panicked(panic: &(dyn Any + Send)) -> Failure {
    let message = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let message = message.or_else(|| panic.downcast_ref::<String>().cloned());
    Failure::Panicked(message.unwrap_or_else(|| "without a message".to_owned()))
}

fn store_options(options: &Options) -> store::Options {
    store::Options {
        snapshot_every_txns: options.snapshot_every_txns,
        snapshot_every_bytes: options.snapshot_every_bytes,
        ..store::Options::default()
    }
}

fn core_settings(options: &Options) -> Settings {
    Settings {
        tick: options.tick,
        session_timeout_min: options.session_timeout_min,
        session_timeout_max: options.session_timeout_max,
        frame_bytes_max: options.frame_bytes_max,
        watches_per_connection_max: options.watches_per_connection_max,
        sessions_max: options.sessions_max,
        ..Settings::default()
    }
}

#[cfg(test)]
mod tests {
    use super::affordable;

    #[test]
    fn connections_leave_files_for_everything_else() {
        for (wanted, descriptors, connections) in
            [(4_096, None, 4_096), (4_096, Some(1 << 20), 4_096), (4_096, Some(1_024), 768), (10, Some(0), 1)]
        {
            assert_eq!(affordable(wanted, descriptors), connections, "{wanted} of {descriptors:?}");
        }
    }
}
