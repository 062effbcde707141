//! The owner's loop: one closed [`Event`], one place that changes anything.
//!
//! It awaits nothing but the next event. Whatever takes time (a call to the leader, the disk, an attempt) is a task in one of
//! its two sets, and its result an event.

mod calls;
mod leave;
mod report;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use clock::Instant;
use nix::unistd::geteuid;
use proto::leader::HeartbeatReply;
use proto::runner::Capacity;
use proto::task::AttemptEnd;
use proto::{AttemptId, FencingToken, Incarnation};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::{AbortHandle, Id, JoinError, JoinSet};
use tokio::time;

use crate::attempt::{EndRequest, Ended};
use crate::boot::Ground;
use crate::fence::Fence;
use crate::handle::{Closing, Handle, QUEUE_MAX, Request, Status};
use crate::ledger::Ledger;
use crate::link::LinkError;
use crate::options::{Options, PidNamespace};
use crate::phase::{PhaseId, Report};
use crate::process::Shims;
use crate::refusals::Refusals;
use crate::service::Reports;
use crate::shim::KILL_ALLOWANCE;

/// Shims in the making at a time.
const STARTING_MAX: usize = 8;
/// What a shim gets beyond the grace before it is bypassed.
const SHIM_SLACK: Duration = Duration::from_secs(1);
/// The last part of a stop, kept for joining what is left.
const STOP_RESERVE: Duration = Duration::from_millis(200);

/// Between two looks at whether everything can be left.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// For how long a stopping runner looks for a leader that takes its last outcomes. Those that nobody takes are kept,
/// but until this node is back their tasks have to wait for the fence.
const SUCCESSION: Duration = Duration::from_secs(2);

/// What the phases ask of the loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Running,
    Draining,
    /// `leave`: what is under a shim goes on.
    Stopping {
        deadline: time::Instant,
        leave: bool,
    },
}

/// Everything that can happen.
#[derive(Debug)]
enum Event {
    Request(Request),
    Ended(Result<(Id, Ended), JoinError>),
    Job(Result<Job, JoinError>),
    Observed(FencingToken),
    Closing(Closing),
    Mode(Mode),
    /// Something is due.
    Due,
}

/// What a job came back with.
#[derive(Debug)]
enum Job {
    Beat {
        sent: Instant,
        /// It asked for more time.
        leaving: bool,
        result: Result<HeartbeatReply, LinkError>,
    },
    Reported {
        attempts: Vec<AttemptId>,
        result: Result<Vec<AttemptId>, LinkError>,
    },
    LeaderChanged,
    /// These refusals are on disk; none if they could not be written.
    Refused {
        attempts: Vec<AttemptId>,
    },
    OutputRead,
    Tidied,
}

/// An attempt that has not ended.
#[derive(Debug)]
struct Live {
    end: watch::Sender<Option<EndRequest>>,
    /// Whether it runs inside the daemon, and so ends with it.
    in_process: bool,
    /// What it says of itself.
    reports: Reports,
    /// How much of that which leader has heard.
    told: Option<(FencingToken, u64)>,
    /// What it was adopted with: until when it may run, as long as no leader has answered this life.
    own_until: Option<Instant>,
}

#[derive(Debug)]
pub(crate) struct Driver {
    options: Options,
    shims: Arc<Shims>,
    ended_incarnations: Vec<Incarnation>,
    fence: Fence,
    /// The fence's deadline, for the attempts.
    deadline: watch::Sender<Option<Instant>>,
    ledger: Ledger,
    refusals: Refusals,
    live: HashMap<AttemptId, Live>,
    ids: HashMap<Id, AttemptId>,
    attempts: JoinSet<Ended>,
    jobs: JoinSet<Job>,
    mode: Mode,
    closing: Closing,
    /// Since when it stops.
    stopping_since: Option<time::Instant>,
    /// What is asked for more time has got it, or as much as there is.
    extended: bool,
    beat_at: time::Instant,
    beating: Option<AbortHandle>,
    /// What the heartbeat under way tells of attempts.
    telling: Vec<(AttemptId, u64)>,
    watching_leader: bool,
    report_at: time::Instant,
    reporting: Option<Id>,
    /// Since when no report has been acknowledged, if the last one was not.
    reports_fail_since: Option<time::Instant>,
    reading: usize,
    refusing: usize,
    /// Attempts to be noted as acknowledged, and ones to be removed.
    untidy: (Vec<AttemptId>, Vec<AttemptId>),
    tidying: bool,
    /// When everything of a lapsed grant must be gone.
    overrun_at: Option<Instant>,
    requests: mpsc::Receiver<Request>,
    observed: watch::Receiver<Option<FencingToken>>,
    mode_seen: watch::Receiver<Mode>,
    closing_seen: watch::Receiver<Closing>,
    status: watch::Sender<Status>,
}

/// Whether tasks get PID namespaces, and what to say where they were to have them and do not.
fn isolation(wanted: PidNamespace, root: bool) -> (bool, Option<&'static str>) {
    match (wanted, root) {
        (PidNamespace::Auto, true) => (true, None),
        (PidNamespace::Auto, false) => (
            false,
            Some(
                "tasks get no PID namespaces, since taskd does not run as root: process groups and adopted orphans instead",
            ),
        ),
        (PidNamespace::Never, _) => (false, None),
    }
}

impl Driver {
    pub(crate) fn new(options: Options, ground: Ground, mode_seen: watch::Receiver<Mode>) -> (Self, Handle) {
        let (request_sender, requests) = mpsc::channel(QUEUE_MAX);
        let (observed_sender, observed) = watch::channel(None);
        let status = Status {
            phase: PhaseId::Running,
            slots: options.slots,
            running: 0,
            free: options.slots,
            unacknowledged: ground.ledger.unacknowledged(),
            grant: None,
            floor: None,
            ended_incarnations: ground.ended.clone(),
            extended: false,
        };
        let (closing, closing_seen) = watch::channel(Closing::No);
        let (status, status_seen) = watch::channel(status);
        let (pid_namespace, fallback) = isolation(options.pid_namespace, geteuid().is_root());
        if let Some(fallback) = fallback {
            tracing::info!("{fallback}");
        }
        let shims = Arc::new(Shims {
            program: options.shim.clone(),
            node: options.node.clone(),
            store: ground.store,
            output_bytes_max: options.output_bytes_max,
            grace: options.kill_grace,
            pid_namespace,
            starting: Semaphore::new(STARTING_MAX),
            drill: options.drill.clone(),
        });
        let mut driver = Self {
            fence: Fence::new(options.incarnation, options.kill_grace, options.drill.clone()),
            options,
            shims,
            ended_incarnations: ground.ended,
            deadline: watch::channel(None).0,
            ledger: ground.ledger,
            refusals: ground.refusals,
            live: HashMap::new(),
            ids: HashMap::new(),
            attempts: JoinSet::new(),
            jobs: JoinSet::new(),
            mode: Mode::Running,
            closing: Closing::No,
            stopping_since: None,
            extended: false,
            beat_at: time::Instant::now(),
            beating: None,
            telling: Vec::new(),
            watching_leader: false,
            report_at: time::Instant::now(),
            reporting: None,
            reports_fail_since: None,
            reading: 0,
            refusing: 0,
            untidy: Default::default(),
            tidying: false,
            overrun_at: None,
            requests,
            observed,
            mode_seen,
            closing_seen,
            status,
        };
        driver.adopt(ground.adopted);
        (driver, Handle { requests: request_sender, observed: observed_sender, closing, status: status_seen })
    }

    /// Runs until it is told to stop.
    pub(crate) async fn run(mut self) -> Report {
        tracing::info!(node = %self.options.node, incarnation = %self.options.incarnation, "the runner runs");
        loop {
            self.options.drill.hold("runner.run").await;
            self.due();
            self.publish();
            if self.is_finished() {
                return self.wind_up().await;
            }
            let event = self.next().await;
            self.handle(event);
        }
    }

    fn spawn_job(
        &mut self,
        what: &'static str,
        job: impl Future<Output = Job> + Send + 'static,
    ) -> AbortHandle {
        self.jobs.spawn(self.options.pulse.watch(what, job))
    }

    /// # Cancel safety
    /// Every branch is cancel safe: an event is either returned or still there.
    async fn next(&mut self) -> Event {
        let wake = self.wake();
        tokio::select! {
            Some(request) = self.requests.recv() => Event::Request(request),
            Some(ended) = self.attempts.join_next_with_id() => Event::Ended(ended),
            Some(job) = self.jobs.join_next() => Event::Job(job),
            Ok(()) = self.observed.changed() => {
                (*self.observed.borrow_and_update()).map_or(Event::Due, Event::Observed)
            }
            Ok(()) = self.closing_seen.changed() => Event::Closing(*self.closing_seen.borrow_and_update()),
            Ok(()) = self.mode_seen.changed() => Event::Mode(*self.mode_seen.borrow_and_update()),
            () = time::sleep_until(wake) => Event::Due,
        }
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Request(request) => self.request(request),
            Event::Ended(Ok((id, ended))) => {
                self.ids.remove(&id);
                self.live.remove(&ended.outcome.attempt);
                tracing::debug!(attempt = %ended.outcome.attempt, end = %ended.outcome.end, "an attempt has ended");
                self.ledger.ended(ended.outcome, ended.on_disk);
            }
            Event::Ended(Err(error)) => self.crashed(&error),
            Event::Job(Ok(job)) => self.job(job),
            Event::Job(Err(error)) => self.job_crashed(&error),
            Event::Observed(token) => {
                let before = self.fence.floor();
                if !self.fence.observe(token) {
                    tracing::error!(%token, "the coordination service shows another cluster: ignoring it");
                } else if self.fence.floor() != before {
                    self.beat_now();
                }
            }
            Event::Closing(closing) => self.close(closing),
            Event::Mode(mode) => {
                self.mode = mode;
                if let Mode::Stopping { deadline, leave } = mode {
                    self.stopping_since = Some(time::Instant::now());
                    self.end_all(deadline, leave);
                }
                self.beat_now();
            }
            Event::Due => {}
        }
    }

    fn job(&mut self, job: Job) {
        match job {
            Job::Beat { sent, leaving, result } => self.beaten(sent, leaving, result),
            Job::Reported { attempts, result } => self.reported(&attempts, result),
            Job::LeaderChanged => {
                self.watching_leader = false;
                self.report_at = time::Instant::now();
                self.beat_now();
            }
            Job::Refused { attempts } => {
                self.refusing -= 1;
                self.refusals.written(&attempts);
            }
            Job::OutputRead => self.reading -= 1,
            Job::Tidied => {
                self.tidying = false;
                self.tidy_up();
            }
        }
    }

    /// An aborted heartbeat, or a panic in the embedder's link.
    fn job_crashed(&mut self, error: &JoinError) {
        if error.is_cancelled() {
            return;
        }
        tracing::error!(%error, "a job of the runner crashed");
        if self.beating.as_ref().is_some_and(|beating| beating.id() == error.id()) {
            self.beating = None;
        }
        if self.reporting == Some(error.id()) {
            self.reporting = None;
            self.report_at = time::Instant::now() + self.options.heartbeat;
        }
    }

    /// A service's panic is its attempt's failure.
    fn crashed(&mut self, error: &JoinError) {
        let Some(attempt) = self.ids.remove(&error.id()) else { return };
        self.live.remove(&attempt);
        tracing::error!(%attempt, %error, "a task service crashed");
        // With the panic's own words: whoever wrote the service looks for them.
        let end = AttemptEnd::Failed { message: format!("its task service crashed: {error}") };
        self.ledger.ended(Ended::in_memory(attempt, end, None, &self.options.clock).outcome, None);
    }

    /// Does what time has made due. Idempotent.
    fn due(&mut self) {
        let now = self.options.clock.now();
        self.lapse_adopted(now);
        if let Some(gone_by) = self.fence.lapse(now) {
            let attempts = self.live.len();
            tracing::warn!(
                attempts,
                "no answer from a leader for too long: the grant has lapsed, ending what runs"
            );
            let reason = "its node had no answer from a leader for longer than the fence".to_owned();
            let hard_at = gone_by - KILL_ALLOWANCE / 2;
            let attempts: Vec<_> = self.live.keys().copied().collect();
            for attempt in attempts {
                self.end(
                    attempt,
                    AttemptEnd::Lost { reason: reason.clone() },
                    self.options.kill_grace,
                    hard_at,
                );
            }
            self.deadline.send_replace(None);
            self.overrun_at = Some(gone_by);
            self.beat_now();
        }
        if self.overrun_at.is_some_and(|at| now >= at) {
            self.overrun_at = None;
            self.overrun(now);
        }
        self.send_beat(now);
        self.send_report();
    }

    /// The fence has passed. Whatever lapsed with it and is not gone may run elsewhere from now on.
    fn overrun(&self, now: Instant) {
        let lapsed = |live: &&Live| {
            let request = live.end.borrow();
            request.as_ref().is_some_and(|request| request.hard_at + KILL_ALLOWANCE / 2 <= now)
        };
        let (in_process, processes): (Vec<_>, Vec<_>) =
            self.live.values().filter(lapsed).partition(|live| live.in_process);
        if !processes.is_empty() {
            // After a pause, their shims have mostly ended them without having been heard yet. Whatever is left would
            // only outlive this daemon, which kills it.
            let attempts = processes.len();
            tracing::error!(attempts, "the fence has passed before these attempts are known to have ended");
        }
        if !in_process.is_empty() {
            let reason =
                format!("{} attempts could not be ended by the deadline of their fence", in_process.len());
            tracing::error!("{reason}");
            if let Some(policy) = &self.options.exit_policy {
                policy.call(&reason);
            }
        }
    }

    /// Begins an attempt's end. The first reason stays; later ones may hasten it.
    fn end(&mut self, attempt: AttemptId, end: AttemptEnd, grace: Duration, hard_at: Instant) {
        let Some(live) = self.live.get(&attempt) else { return };
        live.end.send_if_modified(|request| match request {
            None => {
                *request = Some(EndRequest { end, grace, hard_at });
                true
            }
            Some(request) if hard_at < request.hard_at => {
                request.hard_at = hard_at;
                request.grace = request.grace.min(grace);
                true
            }
            Some(_) => false,
        });
    }

    fn end_all(&mut self, deadline: time::Instant, leave: bool) {
        let left = deadline.saturating_duration_since(time::Instant::now()).saturating_sub(STOP_RESERVE);
        let grace = self.options.kill_grace.min(left / 2);
        let hard_at = self.options.clock.now() + (grace + SHIM_SLACK).min(left * 3 / 4);
        let ends = self.live.iter().filter(|(_, live)| live.in_process || !leave);
        let attempts: Vec<_> = ends.map(|(attempt, _)| *attempt).collect();
        for attempt in attempts {
            let end = AttemptEnd::Lost { reason: "the node was stopped".to_owned() };
            self.end(attempt, end, grace, hard_at);
        }
    }

    /// When to look again at the latest.
    fn wake(&self) -> time::Instant {
        let (now, clock_now) = (time::Instant::now(), self.options.clock.now());
        let by_clock =
            [self.fence.lapse_at(), self.overrun_at, self.adopted_lapse_at()].into_iter().flatten();
        let mut wake =
            by_clock.map(|at| now + at.since(clock_now)).min().unwrap_or(now + self.options.heartbeat);
        if self.beating.is_none() && self.fence.floor().is_some() {
            wake = wake.min(self.beat_at);
        }
        if self.reporting.is_none() && self.ledger.unacknowledged() > 0 && self.fence.floor().is_some() {
            wake = wake.min(self.report_at);
        }
        if let Mode::Stopping { deadline, leave } = self.mode {
            wake = wake.min(deadline - STOP_RESERVE);
            if let Some(since) = self.stopping_since.filter(|_| leave && !self.extended) {
                wake = wake.min(since + SUCCESSION).max(now + LOOK_AGAIN);
            }
        }
        wake.max(now)
    }

    fn is_finished(&self) -> bool {
        let Mode::Stopping { deadline, leave } = self.mode else { return false };
        if time::Instant::now() + STOP_RESERVE >= deadline {
            return true;
        }
        // A leader that stops has ended its own dispatcher before this runner: the next one is about to take over.
        let given_up = self.reports_fail_since.is_some_and(|since| since.elapsed() >= SUCCESSION);
        let hopeless = given_up || self.fence.floor().is_none();
        let gone = if leave {
            self.may_leave() && (self.extended || self.live.is_empty() || self.is_alone())
        } else {
            self.live.is_empty()
        };
        gone && self.reporting.is_none() && (self.ledger.unacknowledged() == 0 || hopeless)
    }

    /// Whether nobody is likely to answer before the end of the stop.
    fn is_alone(&self) -> bool {
        let long = self.stopping_since.is_none_or(|since| since.elapsed() >= SUCCESSION);
        long || self.fence.floor().is_none() || self.leave_ms().is_none()
    }

    /// Joins what is left. Jobs on the disk are short and come to their end; the rest is aborted.
    async fn wind_up(mut self) -> Report {
        self.requests.close();
        let mut abandoned: Vec<_> = self.live.keys().copied().collect();
        let mut left = Vec::new();
        if self.leaves() {
            self.hand_over().await;
            (abandoned, left) = abandoned.into_iter().partition(|attempt| self.live[attempt].in_process);
            let for_s = self.fence.deadline().map(|until| until.since(self.options.clock.now()).as_secs());
            tracing::info!(
                attempts = left.len(),
                for_s,
                extended = self.extended,
                "tasks are left running for the next daemon"
            );
        }
        if !abandoned.is_empty() {
            tracing::error!(attempts = abandoned.len(), "stopping, though some attempts have not ended");
        }
        self.attempts.shutdown().await;
        self.jobs.shutdown().await;
        self.status.send_modify(|status| status.phase = PhaseId::Stopped);
        Report { undelivered: self.ledger.unacknowledged(), abandoned, left, aborted: false }
    }

    fn capacity(&self) -> Capacity {
        Capacity {
            slots: self.options.slots,
            free: self.free(),
            labels: self.options.labels.clone(),
            kinds: self.options.services.kinds(),
            draining: self.is_closing(),
        }
    }

    /// Whether it takes no more work.
    fn is_closing(&self) -> bool {
        self.mode != Mode::Running || self.closing != Closing::No
    }

    fn free(&self) -> u32 {
        if self.is_closing() || self.ledger.is_full() {
            return 0;
        }
        self.options.slots.saturating_sub(u32::try_from(self.live.len()).unwrap_or(u32::MAX))
    }

    fn publish(&self) {
        let status = Status {
            phase: if self.mode == Mode::Running { PhaseId::Running } else { PhaseId::Draining },
            slots: self.options.slots,
            running: u32::try_from(self.live.len()).unwrap_or(u32::MAX),
            free: self.free(),
            unacknowledged: self.ledger.unacknowledged(),
            grant: self.fence.grant(self.options.clock.now()),
            floor: self.fence.floor(),
            ended_incarnations: Vec::new(),
            extended: self.extended,
        };
        self.status.send_if_modified(|old| {
            let ended_incarnations = std::mem::take(&mut old.ended_incarnations);
            let new = Status { ended_incarnations, ..status };
            let unchanged = Status { ended_incarnations: Vec::new(), ..old.clone() }
                == Status { ended_incarnations: Vec::new(), ..new.clone() };
            *old = new;
            !unchanged
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_gets_no_pid_namespaces_hears_why_unless_they_were_not_wanted() {
        let rows = [
            (PidNamespace::Auto, true, true, false),
            (PidNamespace::Auto, false, false, true),
            (PidNamespace::Never, true, false, false),
            (PidNamespace::Never, false, false, false),
        ];
        for (wanted, root, isolated, said) in rows {
            let (got, fallback) = isolation(wanted, root);
            assert_eq!((got, fallback.is_some()), (isolated, said), "{wanted:?}, root {root}");
        }
    }
}
