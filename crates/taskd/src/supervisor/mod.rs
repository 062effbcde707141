//! The supervisor: owns every component, awaits none of them.
//!
//! ```text
//!             ┌──────────── joined tasks bring the typed values back ───────────┐
//!             ▼                                                                 │
//!  start ─► runner boots ─► quorum connects, joins, runs ─► role Elected ─► dispatcher recovers
//!             │                                                 ▲               │
//!             │                                  effects ended ─┴─ role lost ◄──┘
//!  stop  ─► dispatcher ends ─► runner drains ─► quorum leaves ─► listener closes
//! ```
//!
//! **Invariants**
//! - The loop only `select!`s. A transition runs as a task of `transitions` and returns its value as [`Returned`].
//! - Nobody but [`Supervisor::run`] ends a component, and each is ended once: the value is consumed by its stop.
//! - A component that misses its share of the stop deadline is aborted, and the session is then abandoned instead
//!   of closed, because effects that it fences may be alive.
//! - A dispatcher whose term is over ends within the stop deadline, or the node does: nobody stays out of the line for
//!   ever because something of an old term hangs.
//! - Every turn beats the [`Watchdog`](watchdog::Watchdog), which lives outside of the runtime.

pub(crate) mod decide;
pub(crate) mod published;
pub(crate) mod slot;
pub(crate) mod watchdog;

use std::sync::Arc;
use std::time::Duration;

use clock::{Instant, SharedClock};
use coord::Term;
use proto::Epoch;
use tokio::sync::watch;
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use self::decide::{Next, RoleNow, SlotNow};
use self::published::Publisher;
use self::slot::Slot;
use self::watchdog::Pulse;
use crate::wiring::Parts;

type RunningRunner = runner::Runner<runner::Running>;
type RunningQuorum = quorum::Quorum<quorum::Running>;
type Dispatching = dispatcher::Dispatcher<dispatcher::Dispatching>;

/// How often the loop turns when nothing happens: the watchdog's pulse and the resolution of deadlines.
const TICK: Duration = Duration::from_millis(100);

/// Pause between tries to reach the coordination service.
const RECONNECT_PAUSE: Duration = Duration::from_millis(500);

/// Shares of the stop deadline at which each stage must be over, in percent.
const DISPATCHER_BY: u32 = 30;
const RUNNER_BY: u32 = 75;
const QUORUM_BY: u32 = 92;

/// How much of what is left of its share a component is given, in percent: the rest is for it to come back by itself
/// before it is aborted.
const POLITE: u32 = 85;

/// How a node ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StopReport {
    /// Why it stopped: asked to, or what failed.
    pub cause: StopCause,
    /// How long the stop took.
    pub took: Duration,
    /// Components that missed their deadline and were aborted, or died, so that nobody knows what is left of them; the
    /// session was then left to expire.
    pub abandoned: Vec<&'static str>,
}

impl StopReport {
    pub(crate) fn crashed(why: String) -> Self {
        Self { cause: StopCause::Failed(why), took: Duration::ZERO, abandoned: vec!["node"] }
    }

    /// Whether everything ended in time and by request.
    pub fn is_clean(&self) -> bool {
        self.cause == StopCause::Requested && self.abandoned.is_empty()
    }
}

/// Why a node stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StopCause {
    /// It was asked to.
    Requested,
    /// A component could not boot or died.
    Failed(String),
    /// This node and the cluster do not fit: starting it again does not help until a person has changed something.
    Refused(String),
}

/// What a finished transition brings back.
enum Returned {
    RunnerBooted(Result<Box<RunningRunner>, runner::BootFailure>),
    RunnerStopped { clean: bool },
    QuorumBooted(Result<Box<RunningQuorum>, crate::wiring::QuorumFailure>),
    QuorumStopped { clean: bool },
    DispatcherBooted(Epoch, Result<Box<Dispatching>, dispatcher::RecoverFailure>),
    DispatcherStopped,
    ErrandDone,
}

/// Which component a transition belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Runner,
    Quorum,
    Dispatcher,
    /// Something small that nothing waits for.
    Errand,
}

impl Part {
    const fn name(self) -> &'static str {
        match self {
            Self::Runner => "runner",
            Self::Quorum => "quorum",
            Self::Dispatcher => "dispatcher",
            Self::Errand => "errand",
        }
    }
}

/// A stop under way.
#[derive(Debug)]
struct Stopping {
    since: Instant,
    cause: StopCause,
    abandoned: Vec<&'static str>,
}

/// The owner of a node's components.
pub(crate) struct Supervisor {
    parts: Arc<Parts>,
    clock: SharedClock,
    stop_within: Duration,
    pulse: Pulse,
    published: Publisher,
    transitions: JoinSet<Returned>,
    under_way: Vec<(Id, Part)>,
    runner: Slot<Box<RunningRunner>>,
    quorum: Slot<Box<RunningQuorum>>,
    dispatcher: Slot<Box<Dispatching>>,
    /// The term that the dispatcher's slot works for.
    term: Option<Epoch>,
    /// The newest term that this node asked to give up.
    gave_up: Option<Epoch>,
    /// Since when a dispatcher has been asked to end while the node goes on.
    ending: Option<Instant>,
    /// The newest term whose end was reported.
    reported_ended: Option<Epoch>,
    view: Option<watch::Receiver<Arc<quorum::View>>>,
    stopping: Option<Stopping>,
}

impl std::fmt::Debug for Supervisor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Supervisor")
            .field("term", &self.term)
            .field("stopping", &self.stopping)
            .finish_non_exhaustive()
    }
}

impl Supervisor {
    pub(crate) fn new(parts: Arc<Parts>, pulse: Pulse, published: Publisher) -> Self {
        Self {
            clock: Arc::clone(&parts.clock),
            stop_within: parts.stop_within,
            parts,
            pulse,
            published,
            transitions: JoinSet::new(),
            under_way: Vec::new(),
            runner: Slot::Idle,
            quorum: Slot::Idle,
            dispatcher: Slot::Idle,
            term: None,
            gave_up: None,
            ending: None,
            reported_ended: None,
            view: None,
            stopping: None,
        }
    }

    /// Runs the node until `stop` is cancelled or a component fails for good, and ends everything.
    ///
    /// # Cancel safety
    /// Not cancel safe: dropping it aborts the components without their stops.
    pub(crate) async fn run(mut self, stop: CancellationToken) -> StopReport {
        self.boot_runner();
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let stage = self.stage();
            self.pulse.beat(&stage);
            self.published.send_if_modified(|published| {
                let changed = published.stage != stage;
                published.stage = stage;
                changed
            });
            tokio::select! {
                () = stop.cancelled(), if self.stopping.is_none() => self.begin_stop(StopCause::Requested),
                Some(done) = self.transitions.join_next_with_id() => self.returned(done),
                () = view_changed(&mut self.view) => {}
                _ = tick.tick() => {}
            }
            self.follow_view();
            self.look_after_components();
            self.advance_stop();
            if let Some(report) = self.finished() {
                self.parts.peers.close().await;
                return report;
            }
        }
    }

    // ---- transitions -------------------------------------------------------------------------------------------

    fn begin<F>(&mut self, part: Part, transition: F) -> tokio::task::AbortHandle
    where
        F: Future<Output = Returned> + Send + 'static,
    {
        let abort = self.transitions.spawn(transition);
        self.under_way.push((abort.id(), part));
        abort
    }

    fn boot_runner(&mut self) {
        let cancel = CancellationToken::new();
        let booting = self.parts.new_runner();
        let token = cancel.clone();
        let abort = self.begin(Part::Runner, async move {
            Returned::RunnerBooted(booting.boot(token).await.map(Box::new))
        });
        self.runner = Slot::Booting { cancel, abort };
    }

    fn boot_quorum(&mut self, pause: Duration) {
        let cancel = CancellationToken::new();
        let parts = Arc::clone(&self.parts);
        let token = cancel.clone();
        let abort = self.begin(Part::Quorum, async move {
            // A pause that a stop cuts short: the boot itself notices the cancelled token.
            drop(tokio::time::timeout(pause, token.cancelled()).await);
            Returned::QuorumBooted(parts.boot_quorum(token).await.map(Box::new))
        });
        self.quorum = Slot::Booting { cancel, abort };
    }

    /// Sets the priority that this node's configuration asks for, once.
    fn set_priority(&mut self, quorum: &quorum::Handle) {
        let (Some(priority), Ok(())) = (self.parts.config.node.priority, self.parts.priority_set.set(()))
        else {
            return;
        };
        let (quorum, node) = (quorum.clone(), self.parts.node.clone());
        self.begin(Part::Errand, async move {
            if let Err(error) = quorum.set_priority(node, priority).await {
                tracing::warn!(%error, priority, "the configured priority was not set");
            }
            Returned::ErrandDone
        });
    }

    fn boot_dispatcher(&mut self, term: Term) {
        let epoch = term.token.epoch;
        let cancel = CancellationToken::new();
        self.pulse.guard(Some(term.lease.clone()));
        let recovering = self.parts.new_dispatcher(term);
        let token = cancel.clone();
        let abort = self.begin(Part::Dispatcher, async move {
            Returned::DispatcherBooted(epoch, recovering.recover(token).await.map(Box::new))
        });
        self.term = Some(epoch);
        self.dispatcher = Slot::Booting { cancel, abort };
    }

    /// Asks the dispatcher to end, whatever it is doing.
    fn stop_dispatcher(&mut self) {
        self.published.send_if_modified(|published| published.dispatcher.take().is_some());
        self.ending.get_or_insert(self.clock.now());
        if let Slot::Booting { cancel, .. } = &self.dispatcher {
            cancel.cancel();
        }
        if let Some(dispatching) = self.dispatcher.take_running() {
            let within = self.polite(DISPATCHER_BY);
            let abort = self.begin(Part::Dispatcher, async move {
                let stopped = dispatching.drain().stop(within).await;
                for problem in &stopped.report().problems {
                    tracing::warn!(%problem, "the dispatcher ended untidily");
                }
                Returned::DispatcherStopped
            });
            self.dispatcher = Slot::Stopping { abort };
        }
    }

    fn stop_runner(&mut self) {
        match &self.runner {
            Slot::Booting { cancel, .. } => cancel.cancel(),
            Slot::Idle => self.runner = Slot::Done,
            Slot::Running(_) | Slot::Stopping { .. } | Slot::Done => {}
        }
        if let Some(running) = self.runner.take_running() {
            let within = self.polite(RUNNER_BY);
            let abort = self.begin(Part::Runner, async move {
                let stopped = running.drain().stop(within).await;
                let report = stopped.report();
                tracing::info!(undelivered = report.undelivered, "runner stopped");
                Returned::RunnerStopped { clean: report.is_clean() }
            });
            self.runner = Slot::Stopping { abort };
        }
    }

    fn stop_quorum(&mut self) {
        match &self.quorum {
            Slot::Booting { cancel, .. } => cancel.cancel(),
            Slot::Idle => self.quorum = Slot::Done,
            Slot::Running(_) | Slot::Stopping { .. } | Slot::Done => {}
        }
        if let Some(running) = self.quorum.take_running() {
            let within = self.polite(QUORUM_BY);
            let abort = self.begin(Part::Quorum, async move {
                let stopped = running.stop(within).await;
                let clean = match stopped.report() {
                    quorum::Report::Closed | quorum::Report::NoSession => true,
                    // Nothing of ours is alive, and nothing keeps the session: that ZooKeeper does not answer is no
                    // fault of this stop.
                    quorum::Report::Unconfirmed { why } => {
                        tracing::warn!(%why, "ZooKeeper did not confirm the end of the session, which expires by itself");
                        true
                    }
                    quorum::Report::Abandoned { .. } => false,
                };
                Returned::QuorumStopped { clean }
            });
            self.quorum = Slot::Stopping { abort };
        }
    }

    fn returned(&mut self, done: Result<(Id, Returned), JoinError>) {
        let (id, returned) = match done {
            Ok((id, returned)) => (id, Ok(returned)),
            Err(error) => (error.id(), Err(error)),
        };
        let Some(at) = self.under_way.iter().position(|(known, _)| *known == id) else { return };
        let (_, part) = self.under_way.swap_remove(at);
        match returned {
            Ok(returned) => self.arrived(returned),
            Err(error) => self.lost(part, &error),
        }
    }

    fn arrived(&mut self, returned: Returned) {
        match returned {
            Returned::RunnerBooted(Ok(running)) => {
                let handle = running.handle();
                self.published.send_modify(|published| published.runner = Some(handle));
                self.runner = Slot::Running(running);
                if self.stopping.is_none() {
                    // Only now: the predecessor's processes are ended, so its ephemerals may go.
                    self.boot_quorum(Duration::ZERO);
                }
            }
            Returned::RunnerBooted(Err(failure)) => {
                self.runner = Slot::Done;
                self.fail(Part::Runner, &failure);
            }
            Returned::RunnerStopped { clean } => {
                if !clean && let Some(stopping) = &mut self.stopping {
                    stopping.abandoned.push(Part::Runner.name());
                }
                self.runner = Slot::Done;
            }
            Returned::QuorumBooted(Ok(running)) => {
                let handle = running.handle();
                self.view = Some(handle.view());
                // Joined in the very moment of a stop: it must not stand for a leadership that nobody would serve.
                if self.stopping.is_none() {
                    handle.set_ready(quorum::Readiness::Ready);
                    self.set_priority(&handle);
                }
                self.published.send_modify(|published| {
                    published.quorum = Some(handle);
                    published.trouble = None;
                });
                self.quorum = Slot::Running(running);
            }
            Returned::QuorumBooted(Err(failure)) if failure.is_permanent() || self.stopping.is_some() => {
                self.quorum = Slot::Done;
                if self.stopping.is_none() {
                    self.begin_stop(StopCause::Refused(chain(&failure)));
                }
            }
            Returned::QuorumBooted(Err(failure)) => {
                // Nothing is claimed yet, so there is nothing to give up: keep trying, and say so.
                let trouble = chain(&failure);
                if self.published.borrow().trouble.as_deref() != Some(&*trouble) {
                    tracing::warn!(error = %trouble, "cannot join the cluster yet; trying again");
                }
                self.published.send_modify(|published| published.trouble = Some(trouble));
                self.quorum = Slot::Idle;
                self.boot_quorum(RECONNECT_PAUSE);
            }
            Returned::QuorumStopped { clean } => {
                if !clean && let Some(stopping) = &mut self.stopping {
                    stopping.abandoned.push("quorum");
                }
                self.quorum = Slot::Done;
            }
            Returned::DispatcherBooted(epoch, Ok(dispatching)) => {
                let handle = dispatching.handle();
                self.dispatcher = Slot::Running(dispatching);
                if self.stopping.is_none() {
                    self.published.send_modify(|published| published.dispatcher = Some((epoch, handle)));
                    if let Slot::Running(quorum) = &self.quorum {
                        quorum.handle().serving(epoch);
                    }
                }
            }
            // As it was asked to: whoever asked knows why.
            Returned::DispatcherBooted(_, Err(dispatcher::RecoverFailure::Cancelled)) => {
                self.dispatcher_gone()
            }
            Returned::DispatcherBooted(epoch, Err(failure)) => {
                self.dispatcher_gone();
                tracing::warn!(%epoch, error = %chain(&failure), "the dispatcher could not recover");
                self.resign(epoch, &format!("the dispatcher could not recover: {}", chain(&failure)));
            }
            Returned::DispatcherStopped => self.dispatcher_gone(),
            Returned::ErrandDone => {}
        }
    }

    /// A transition ended without its value: it was aborted, or it panicked.
    fn lost(&mut self, part: Part, error: &JoinError) {
        match part {
            Part::Runner => self.runner = Slot::Done,
            Part::Quorum => self.quorum = Slot::Done,
            Part::Dispatcher => self.dispatcher_gone(),
            Part::Errand => {}
        }
        if error.is_panic() {
            self.begin_stop(StopCause::Failed(format!("the {} panicked: {error}", part.name())));
            if let Some(stopping) = self.stopping.as_mut().filter(|_| part != Part::Errand) {
                stopping.abandoned.push(part.name());
            }
        }
    }

    fn dispatcher_gone(&mut self) {
        self.dispatcher = Slot::Idle;
        self.term = None;
        self.ending = None;
        self.pulse.guard(None);
        self.published.send_modify(|published| published.dispatcher = None);
    }

    fn fail(&mut self, part: Part, failure: &(dyn std::error::Error + 'static)) {
        if self.stopping.is_none() {
            self.begin_stop(StopCause::Failed(format!("the {} failed: {}", part.name(), chain(failure))));
        }
    }

    fn resign(&mut self, epoch: Epoch, reason: &str) {
        self.gave_up = Some(epoch);
        if let Slot::Running(quorum) = &self.quorum {
            quorum.handle().request_resign(reason.to_owned());
        }
    }

    // ---- following the quorum ----------------------------------------------------------------------------------

    fn follow_view(&mut self) {
        let Some(receiver) = &mut self.view else { return };
        let view = Arc::clone(&receiver.borrow_and_update());
        if self.published.borrow().view.as_ref().is_none_or(|known| !Arc::ptr_eq(known, &view)) {
            if let (Some(token), Some(runner)) = (view.seen_token, self.published.borrow().runner.as_ref()) {
                runner.observe(token);
            }
            self.parts.follow(&view);
            self.published.send_modify(|published| published.view = Some(Arc::clone(&view)));
        }
        if let (Some(epoch), Slot::Running(dispatching)) = (self.term, &self.dispatcher)
            && let Some(failure) = failure_of(&dispatching.handle())
        {
            tracing::warn!(%epoch, %failure, "the dispatcher cannot go on; giving up this term");
            self.resign(epoch, &failure);
            self.stop_dispatcher();
        }
        let (role, term) = match &view.role {
            quorum::Role::Follower => (RoleNow::Follower, None),
            quorum::Role::Elected(term) => (RoleNow::Elected(term.token.epoch), Some(term)),
            quorum::Role::Suspended(term) => (RoleNow::Suspended(term.token.epoch), Some(term)),
            quorum::Role::Resigning(term) => (RoleNow::Resigning(term.token.epoch), Some(term)),
        };
        let slot = match (&self.dispatcher, self.term) {
            (Slot::Booting { .. } | Slot::Running(_), Some(epoch)) => SlotNow::Active(epoch),
            (Slot::Stopping { .. }, _) => SlotNow::Stopping,
            _ => self.gave_up.map_or(SlotNow::Idle, SlotNow::Spent),
        };
        match decide::next(role, slot, self.stopping.is_some()) {
            Next::Nothing => {}
            Next::Boot(_) => {
                if let Some(term) = term.cloned() {
                    self.boot_dispatcher(term);
                }
            }
            Next::Stop => self.stop_dispatcher(),
            Next::ReportEnded(epoch) => {
                // After an abort nobody knows what is still alive, so the term is left to expire.
                let known_ended = self.stopping.as_ref().is_none_or(|stopping| stopping.abandoned.is_empty());
                if known_ended
                    && self.reported_ended != Some(epoch)
                    && let Slot::Running(quorum) = &self.quorum
                {
                    quorum.handle().effects_ended(epoch);
                    self.reported_ended = Some(epoch);
                }
            }
        }
    }

    /// What no event tells: a quorum that died, a dispatcher that does not end.
    fn look_after_components(&mut self) {
        if self.stopping.is_some() {
            return;
        }
        if let Slot::Running(quorum) = &self.quorum
            && quorum.handle().has_ended()
        {
            // Its session is alive and nobody's: that of the incident. The process has to end.
            self.begin_stop(StopCause::Failed("the quorum ended by itself".to_owned()));
        } else if let Slot::Running(runner) = &self.runner
            && runner.handle().has_ended()
        {
            self.begin_stop(StopCause::Failed("the runner ended by itself".to_owned()));
        } else if decide::is_overdue(self.ending, self.clock.now(), self.stop_within) {
            let why = format!("the dispatcher did not end within {:?} of losing its term", self.stop_within);
            self.begin_stop(StopCause::Failed(why));
        }
    }

    // ---- stopping ----------------------------------------------------------------------------------------------

    fn begin_stop(&mut self, cause: StopCause) {
        if self.stopping.is_some() {
            return;
        }
        match &cause {
            StopCause::Requested => tracing::info!("stopping"),
            StopCause::Failed(why) => tracing::error!(%why, "stopping because of a failure"),
            StopCause::Refused(why) => {
                tracing::error!(%why, "stopping: this node cannot be part of the cluster")
            }
        }
        self.pulse.stopping(self.stop_within);
        if let Slot::Running(quorum) = &self.quorum {
            quorum.handle().set_ready(quorum::Readiness::NotReady { why: "the node is stopping".to_owned() });
        }
        self.stopping = Some(Stopping { since: self.clock.now(), cause, abandoned: Vec::new() });
        // A quorum that is still being brought up holds nothing yet: it need not wait for its turn.
        if let Slot::Booting { cancel, .. } = &self.quorum {
            cancel.cancel();
        }
    }

    /// Takes the next step of the stop: dispatcher, then runner, then quorum (D3's order).
    fn advance_stop(&mut self) {
        if self.stopping.is_none() {
            return;
        }
        self.hurry(Part::Dispatcher, DISPATCHER_BY);
        if !self.dispatcher.is_at_rest() {
            self.stop_dispatcher();
            return;
        }
        self.hurry(Part::Runner, RUNNER_BY);
        self.stop_runner();
        if !self.runner.is_at_rest() {
            return;
        }
        self.hurry(Part::Quorum, QUORUM_BY);
        self.stop_quorum();
    }

    /// Aborts a part that has missed its share of the deadline. What it fenced may be alive, so the session must not
    /// be closed: the quorum is not told that the effects have ended and abandons by itself.
    fn hurry(&mut self, part: Part, percent: u32) {
        if !self.remaining(percent).is_zero() {
            return;
        }
        let Some(stopping) = &mut self.stopping else { return };
        let (at_rest, abort): (bool, &dyn Fn()) = match part {
            Part::Runner => (self.runner.is_at_rest(), &|| self.runner.abort()),
            Part::Quorum => (self.quorum.is_at_rest(), &|| self.quorum.abort()),
            Part::Dispatcher => (self.dispatcher.is_at_rest(), &|| self.dispatcher.abort()),
            Part::Errand => return,
        };
        if !at_rest && !stopping.abandoned.contains(&part.name()) {
            tracing::error!(part = part.name(), "missed its deadline while stopping; aborting it");
            stopping.abandoned.push(part.name());
            abort();
        }
    }

    /// What a component is given of its share: less than what it is aborted after.
    fn polite(&self, percent: u32) -> Duration {
        self.remaining(percent) * POLITE / 100
    }

    /// A share of the whole stop deadline.
    fn share(&self, percent: u32) -> Duration {
        self.stop_within * percent / 100
    }

    /// What is left until a share of the stop deadline is used up.
    fn remaining(&self, percent: u32) -> Duration {
        let used =
            self.stopping.as_ref().map_or(Duration::ZERO, |stopping| self.clock.now().since(stopping.since));
        self.share(percent).saturating_sub(used)
    }

    fn finished(&mut self) -> Option<StopReport> {
        let done = self.dispatcher.is_at_rest()
            && matches!(self.runner, Slot::Done)
            && matches!(self.quorum, Slot::Done)
            && self.transitions.is_empty();
        if !done {
            return None;
        }
        let stopping = self.stopping.take()?;
        let took = self.clock.now().since(stopping.since);
        Some(StopReport { cause: stopping.cause, took, abandoned: stopping.abandoned })
    }

    /// What the node is doing, for the watchdog's message and for `cluster status`.
    fn stage(&self) -> String {
        let state = |at_rest: bool, what| if at_rest { None } else { Some(what) };
        let stopping = self.stopping.is_some();
        let booting = [
            state(!matches!(self.runner, Slot::Booting { .. }), "booting the runner"),
            state(!matches!(self.quorum, Slot::Booting { .. }), "joining the cluster"),
            state(!matches!(self.dispatcher, Slot::Booting { .. }), "recovering the task database"),
            state(!matches!(self.dispatcher, Slot::Stopping { .. }), "ending the dispatcher"),
            state(!matches!(self.runner, Slot::Stopping { .. }), "draining the runner"),
            state(!matches!(self.quorum, Slot::Stopping { .. }), "leaving the quorum"),
        ];
        let parts: Vec<_> = booting.into_iter().flatten().collect();
        match (stopping, parts.is_empty()) {
            (true, true) => "stopping".to_owned(),
            (true, false) => format!("stopping: {}", parts.join(", ")),
            (false, true) => "running".to_owned(),
            (false, false) => parts.join(", "),
        }
    }
}

/// Why a dispatcher cannot go on, if it cannot.
fn failure_of(dispatcher: &dispatcher::Handle) -> Option<String> {
    let failed = dispatcher.failed();
    let said = failed.borrow().clone();
    // Nobody is left to say anything: the loop itself is gone.
    said.or_else(|| failed.has_changed().is_err().then(|| "the dispatcher's loop ended by itself".to_owned()))
}

async fn view_changed(view: &mut Option<watch::Receiver<Arc<quorum::View>>>) {
    if let Some(receiver) = view
        && receiver.changed().await.is_ok()
    {
        return;
    }
    std::future::pending().await
}

/// An error with everything that caused it.
pub(crate) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
