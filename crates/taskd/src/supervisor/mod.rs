//! The supervisor: owns every component, awaits none of them.
//!
//! ```text
//!             ┌──────────── joined tasks bring the typed values back ───────────┐
//!             ▼                                                                 │
//!  start ─► leftover addresses go, runner boots, keeper starts ─► quorum connects, joins, runs ─► role Elected ─► dispatcher recovers
//!                                                                               ▲               │
//!                                                                effects ended ─┴─ role lost ◄──┘
//!  stop  ─► dispatcher ends ─► runner drains ─► virtual IPs are released ─► quorum leaves ─► keeper stops ─► listener closes
//! ```
//!
//! **Invariants**
//! - The loop only `select!`s. A transition runs as a task of `transitions` and returns its value as [`Returned`].
//! - The keeper is there only in a node that runs its coordination service itself. It comes before the quorum and goes
//!   after it, so that the session can be closed; its failure ends the node, which could only be cut off for ever.
//! - Nobody but [`Supervisor::run`] ends a component, and each is ended once: the value is consumed by its stop.
//! - Addresses of an earlier life are gone before this one joins; those of this one before it leaves.
//! - A component that misses its share of the stop deadline is aborted, and the session is then abandoned instead
//!   of closed, because effects that it fences may be alive.
//! - A dispatcher whose term is over ends within the stop deadline, or the node does: nobody stays out of the line for
//!   ever because something of an old term hangs.
//! - Every turn beats the [`Watchdog`](watchdog::Watchdog), which lives outside of the runtime. Every transition, and
//!   this loop itself, has a [pulse](pulses::Pulses) that shows it which of them blocks a thread.

pub(crate) mod decide;
mod follow;
pub(crate) mod published;
pub(crate) mod pulses;
pub(crate) mod slot;
mod stop;
mod transitions;
mod vips;
pub(crate) mod watchdog;

use std::sync::Arc;
use std::time::Duration;

use clock::{Instant, SharedClock};
use drill::Bug;
use proto::Epoch;
use proto::status::CoordinationService;
use tokio::sync::watch;
use tokio::task::{AbortHandle, Id, JoinSet};
use tokio::time::MissedTickBehavior;

use self::published::{Ending, Publisher, Wedged, Work};
use self::slot::Slot;
use self::vips::Fed;
use self::watchdog::{Beat, Trouble};
use crate::node::StopRequester;
use crate::wiring::Parts;

type RunningRunner = runner::Runner<runner::Running>;
type RunningQuorum = quorum::Quorum<quorum::Running>;
type Dispatching = dispatcher::Dispatcher<dispatcher::Dispatching>;
type Keeper = keeper::server::Server;
type ServingVips = vip::Vip<vip::Serving>;

/// How often the loop turns when nothing happens: the watchdog's pulse and the resolution of deadlines.
const TICK: Duration = Duration::from_millis(100);

/// Pause between tries to reach the coordination service.
const RECONNECT_PAUSE: Duration = Duration::from_millis(500);

/// Share of the stop deadline for which a leader is asked for more time before anything is ended, in percent.
const EXTENDED_BY: u32 = 15;

/// Shares of the stop deadline at which each stage must be over, in percent.
const DISPATCHER_BY: u32 = 30;
const RUNNER_BY: u32 = 72;
const VIPS_BY: u32 = 84;
const QUORUM_BY: u32 = 93;
const KEEPER_BY: u32 = 97;

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
    KeeperStarted(Result<Box<Keeper>, keeper::server::StartError>),
    KeeperStopped { clean: bool },
    VipsCleaned(Result<Box<ServingVips>, vip::CleanFailure>),
    VipsStopped { clean: bool },
    RunnerBooted(Result<Box<RunningRunner>, runner::BootFailure>),
    RunnerStopped { clean: bool },
    QuorumBooted(Result<Box<RunningQuorum>, crate::wiring::QuorumFailure>),
    QuorumStopped { clean: bool },
    DispatcherBooted(Epoch, Result<Box<Dispatching>, dispatcher::RecoverFailure>),
    DispatcherStopped,
    CoordinationAsked(Option<CoordinationService>),
    ErrandDone,
}

/// Which component a transition belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Keeper,
    Runner,
    Vips,
    Quorum,
    Dispatcher,
    /// Something small that nothing waits for.
    Errand,
}

impl Part {
    const fn name(self) -> &'static str {
        match self {
            Self::Keeper => "embedded keeper",
            Self::Runner => "runner",
            Self::Vips => "VIP driver",
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
    /// What runs is left to the next life.
    leave: bool,
}

/// The owner of a node's components.
pub(crate) struct Supervisor {
    parts: Arc<Parts>,
    clock: SharedClock,
    stop_within: Duration,
    beat: Beat,
    published: Publisher,
    transitions: JoinSet<Returned>,
    under_way: Vec<(Id, Part)>,
    keeper: Slot<Box<Keeper>>,
    runner: Slot<Box<RunningRunner>>,
    vips: Slot<Box<ServingVips>>,
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
    /// What the virtual IPs were told last of the session, the membership and the term.
    vips_fed: Fed,
    /// What the node's own file says of it.
    facts: watch::Receiver<vip::Facts>,
    /// The connection on which the coordination service was last asked what it is, and the asking.
    asked: Option<(Instant, AbortHandle)>,
    /// Until when a stop waits for what runs, before it begins.
    draining: Option<Instant>,
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
    pub(crate) fn new(parts: Arc<Parts>, beat: Beat, published: Publisher) -> Self {
        Self {
            clock: Arc::clone(&parts.clock),
            stop_within: parts.stop_within,
            facts: parts.facts.subscribe(),
            parts,
            beat,
            published,
            transitions: JoinSet::new(),
            under_way: Vec::new(),
            keeper: Slot::Idle,
            runner: Slot::Idle,
            vips: Slot::Idle,
            quorum: Slot::Idle,
            dispatcher: Slot::Idle,
            term: None,
            gave_up: None,
            ending: None,
            reported_ended: None,
            view: None,
            vips_fed: Fed::default(),
            asked: None,
            draining: None,
            stopping: None,
        }
    }

    /// Runs the node until `stop` is cancelled or a component fails for good, and ends everything.
    ///
    /// # Cancel safety
    /// Not cancel safe: dropping it aborts the components without their stops.
    pub(crate) async fn run(mut self, request: StopRequester) -> StopReport {
        let StopRequester { stop, on_stop } = request;
        self.parts.pulses.supervisor.phase("Running", self.clock.now());
        self.start_keeper();
        self.clean_vips();
        self.boot_runner();
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let (work, stage) = self.stage();
            self.beat.beat(&stage);
            let (ending, now) = (self.ending_now(), self.clock.now());
            let wedged = self.wedged(now);
            self.published.send_if_modified(|published| {
                let news = std::mem::replace(&mut published.wedged, wedged) != wedged;
                published.turn(stage, &work, ending, now) || news
            });
            tokio::select! {
                () = stop.cancelled(), if self.stopping.is_none() && self.draining.is_none() => {
                    self.stop_requested(*on_stop.borrow());
                }
                Some(done) = self.transitions.join_next_with_id() => self.returned(done),
                () = view_changed(&mut self.view) => {}
                () = facts_changed(&mut self.facts) => self.hand_over_facts(),
                failure = keeper_failed(&self.keeper), if self.stopping.is_none() => {
                    self.fail(Part::Keeper, &failure);
                }
                _ = tick.tick() => {}
            }
            self.say_whether_vips_are_gone();
            self.follow_view();
            self.look_after_components();
            self.advance_drain(*on_stop.borrow());
            self.advance_stop();
            while self.parts.drill.plants(Bug::InlineStop)
                && self.ends_a_component()
                && let Some(done) = self.transitions.join_next_with_id().await
            {
                self.returned(done);
            }
            if let Some(report) = self.finished() {
                self.parts.peers.close().await;
                return report;
            }
        }
    }

    /// What the node is doing, for `cluster status` and for the watchdog's message.
    fn stage(&self) -> (Vec<Work>, String) {
        let all = [
            (matches!(self.keeper, Slot::Booting { .. }), Work::StartKeeper),
            (matches!(self.runner, Slot::Booting { .. }), Work::BootRunner),
            (matches!(self.vips, Slot::Booting { .. }), Work::CleanVips),
            (matches!(self.quorum, Slot::Booting { .. }), Work::Join),
            (matches!(self.dispatcher, Slot::Booting { .. }), Work::Recover),
            (matches!(self.dispatcher, Slot::Stopping { .. }), Work::EndDispatcher),
            (matches!(self.runner, Slot::Stopping { .. }), Work::DrainRunner),
            (matches!(self.vips, Slot::Stopping { .. }), Work::ReleaseVips),
            (matches!(self.quorum, Slot::Stopping { .. }), Work::LeaveQuorum),
            (matches!(self.keeper, Slot::Stopping { .. }), Work::StopKeeper),
        ];
        let work: Vec<_> = all.into_iter().filter(|(now, _)| *now).map(|(_, work)| work).collect();
        let parts = work.iter().map(|work| work.doing()).collect::<Vec<_>>().join(", ");
        let stage = match (self.stopping.is_some(), work.is_empty()) {
            (true, true) => "stopping".to_owned(),
            (true, false) => format!("stopping: {parts}"),
            (false, true) => "running".to_owned(),
            (false, false) => parts,
        };
        (work, stage)
    }

    /// Whether a component is being ended.
    fn ends_a_component(&self) -> bool {
        matches!(self.dispatcher, Slot::Stopping { .. }) || matches!(self.runner, Slot::Stopping { .. })
    }

    /// What the watchdog sees, for `cluster status`.
    fn wedged(&self, now: Instant) -> Option<Wedged> {
        let Some(Trouble::Blocked(blocked)) = self.beat.trouble() else { return None };
        let since = now - blocked.blocked_for;
        let known = self
            .published
            .borrow()
            .wedged
            .filter(|known| known.component == blocked.component && known.phase == blocked.phase);
        // Looks and turns come at different times: what goes on keeps its beginning.
        Some(known.unwrap_or(Wedged {
            component: blocked.component,
            phase: blocked.phase,
            since,
            ends_at: since + self.parts.wedged_max,
        }))
    }

    fn ending_now(&self) -> Option<Ending> {
        self.stopping.as_ref().map(|stopping| Ending {
            since: stopping.since,
            by: stopping.since + self.stop_within,
            failure: match &stopping.cause {
                StopCause::Requested => None,
                StopCause::Failed(why) | StopCause::Refused(why) => Some(why.clone()),
            },
        })
    }
}

/// Why a dispatcher cannot go on, if it cannot.
fn failure_of(dispatcher: &dispatcher::Handle) -> Option<String> {
    let failed = dispatcher.failed();
    let said = failed.borrow().clone();
    // Nobody is left to say anything: the loop itself is gone.
    said.or_else(|| failed.has_changed().is_err().then(|| "the dispatcher's loop ended by itself".to_owned()))
}

/// Waits until a running keeper has ended by itself.
async fn keeper_failed(keeper: &Slot<Box<Keeper>>) -> keeper::server::Failure {
    match keeper {
        Slot::Running(keeper) => keeper.failed().await,
        _ => std::future::pending().await,
    }
}

async fn view_changed(view: &mut Option<watch::Receiver<Arc<quorum::View>>>) {
    if let Some(receiver) = view
        && receiver.changed().await.is_ok()
    {
        return;
    }
    std::future::pending().await
}

async fn facts_changed(facts: &mut watch::Receiver<vip::Facts>) {
    if facts.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
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
