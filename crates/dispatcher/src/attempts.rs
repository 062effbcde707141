//! The life of one attempt: sent, answered, ended, lost.

use std::time::Duration;

use clock::Instant;
use proto::runner::{Refusal, Start, StartReply};
use proto::task::{Attempt, AttemptEnd, LostPolicy, TaskState};
use proto::{AttemptId, Epoch, Grant, Incarnation, NodeId};
use rand::RngExt;

use crate::core::{Core, Effect, Now, finish};
use crate::database::attempt_id;
use crate::placement::Runner;
use crate::record::Task;
use crate::retry::{self, Next};
use crate::storage::BodyRef;
use crate::timers::Timer;

/// Starts in one call.
const BATCH_MAX: usize = 64;

/// Payload bytes in one call, well below a frame.
const BATCH_BYTES_MAX: usize = 2 * 1024 * 1024;

/// Start calls under way to one runner.
const CALLS_MAX: u32 = 2;

/// How long a runner that could not take a start gets none.
const HOLD: Duration = Duration::from_millis(100);

/// How long a runner that could not be reached gets none.
const HOLD_UNREACHABLE: Duration = Duration::from_millis(500);

/// Begins the reason of every attempt that a runner never began.
const NEVER_STARTED: &str = "never started: ";

/// How far the start of an attempt has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sent {
    /// No runner has seen it.
    Unsent,
    /// A call that carries it is under way.
    InFlight,
    /// A runner may or may not have it.
    Unsure,
    /// Its runner has it.
    Accepted,
}

/// An attempt that may run or be about to.
#[derive(Clone, Debug)]
pub(crate) struct Open {
    pub(crate) node: NodeId,
    pub(crate) life: Incarnation,
    pub(crate) sent: Sent,
    /// How many of the node's slots it takes.
    pub(crate) slots: u32,
    /// Heartbeats in a row that did not list it.
    pub(crate) missing: u8,
    /// When it will have run longer than it may, if it may not run for ever and that is still to come.
    pub(crate) overdue_at: Option<Instant>,
    /// It ran longer than it may.
    pub(crate) overdue: bool,
    /// Its task needs it no more.
    pub(crate) ending: bool,
    /// It is ended to run elsewhere.
    pub(crate) evicted: bool,
    /// Of its task's locks and limits.
    pub(crate) keys: Vec<String>,
}

/// Starts for one runner.
#[derive(Debug)]
pub(crate) struct Batch {
    pub(crate) node: NodeId,
    pub(crate) address: String,
    pub(crate) incarnation: Incarnation,
    pub(crate) grant: Grant,
    /// With the place of the payload, if it is not in the spec.
    pub(crate) starts: Vec<(Start, Option<BodyRef>)>,
}

/// What became of a [`Batch`].
#[derive(Debug)]
pub(crate) enum StartResult {
    /// One answer each.
    Replies(Vec<StartReply>),
    /// The runner started none.
    Refused(Refusal),
    /// The runner has not seen it.
    NotSent(String),
    /// Nobody knows.
    Uncertain(String),
}

/// Whether the end of an attempt uses up the task's budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Budget {
    Counts,
    Free,
    /// It was ended for its node's sake.
    Moved,
}

impl Core {
    /// An assignment has committed: the attempt may be sent.
    pub(crate) fn may_send(&mut self, now: Now, attempt: AttemptId) {
        let Some(node) = self.open.get(&attempt).map(|open| open.node.clone()) else { return };
        self.runners.change(&node, now.at, |runner| runner.outbox.push_back(attempt));
        self.outbox_due.insert(node);
    }

    /// Batches that may be sent now.
    pub(crate) fn next_batches(&mut self, now: Now) -> Vec<Batch> {
        let mut batches = Vec::new();
        for node in std::mem::take(&mut self.outbox_due) {
            while let Some(batch) = self.next_batch(now, &node) {
                batches.push(batch);
            }
            if self.runners.get(&node).is_some_and(|runner| !runner.outbox.is_empty()) {
                self.outbox_due.insert(node);
            }
        }
        batches
    }

    fn next_batch(&mut self, now: Now, node: &NodeId) -> Option<Batch> {
        let fresh = self.runners.fresh;
        let runner = self.runners.get(node)?;
        let (ready, life) = (runner.ready(now.at, fresh), runner.life);
        if ready && runner.calls >= CALLS_MAX {
            return None;
        }
        let mut starts = Vec::new();
        let mut bytes = 0;
        while starts.len() < BATCH_MAX && bytes < BATCH_BYTES_MAX {
            let Some(attempt) =
                self.runners.change(node, now.at, |runner| runner.outbox.pop_front()).flatten()
            else {
                break;
            };
            let Some(open) = self.open.get_mut(&attempt).filter(|open| open.sent == Sent::Unsent) else {
                continue;
            };
            let task = self.db.get(attempt.task);
            let wanted = task.filter(|task| {
                task.state == TaskState::Running && task.attempt_count == attempt.number && !open.ending
            });
            match wanted {
                Some(task) if ready && Some(open.life) == life => {
                    open.sent = Sent::InFlight;
                    // Bodies count in full: they are fetched into the call.
                    bytes += task.body.as_ref().map_or(task.spec.payload.len(), |body| body.bytes() as usize);
                    let checkpoint = task.checkpoint.as_deref().cloned();
                    bytes += checkpoint.as_ref().map_or(0, |kept| kept.as_bytes().len());
                    starts.push((Start { attempt, spec: task.spec.clone(), checkpoint }, task.body.clone()));
                }
                Some(_) => {
                    let drained = self.runners.get(node).is_some_and(Runner::drained);
                    let why = if drained { "its node was drained" } else { "its runner went away" };
                    self.never_started(now, attempt, why);
                }
                None => self.never_started(now, attempt, "it was not wanted any more"),
            }
        }
        if starts.is_empty() {
            return None;
        }
        self.runners.change(node, now.at, |runner| {
            runner.calls += 1;
            Batch {
                node: node.clone(),
                address: runner.address.clone(),
                incarnation: life.unwrap_or(Incarnation::from_u128(0)),
                grant: runner.grant,
                starts,
            }
        })
    }

    /// A batch was answered, or not.
    ///
    /// # Errors
    /// A runner has seen a newer leader.
    pub(crate) fn started(
        &mut self,
        now: Now,
        node: &NodeId,
        attempts: Vec<AttemptId>,
        result: StartResult,
    ) -> Result<(), Epoch> {
        let mut hold = None;
        let mut stale = None;
        let mut draining = false;
        let mut regrant = false;
        match result {
            StartResult::Replies(replies) => {
                let mut replies = replies.into_iter();
                for attempt in attempts {
                    match replies.next() {
                        Some(StartReply::Accepted) => {
                            if let Some(open) = self.open.get_mut(&attempt) {
                                open.sent = Sent::Accepted;
                            }
                        }
                        Some(StartReply::Busy) => {
                            hold = Some(HOLD);
                            self.never_started(now, attempt, "no slot was free");
                        }
                        Some(StartReply::Refused { reason }) => {
                            self.settle(now, attempt, AttemptEnd::Failed { message: reason }, Budget::Counts);
                        }
                        None => self.unsure(now, attempt),
                    }
                }
            }
            StartResult::Refused(refusal) => {
                match &refusal {
                    Refusal::StaleToken { seen } => stale = Some(*seen),
                    Refusal::Draining => draining = true,
                    // It has to tell its present life and grant first.
                    Refusal::WrongIncarnation { .. } | Refusal::WrongGrant { .. } => regrant = true,
                    _ => hold = Some(HOLD_UNREACHABLE),
                }
                for attempt in attempts {
                    self.never_started(now, attempt, &refusal.to_string());
                }
            }
            StartResult::NotSent(reason) => {
                hold = Some(HOLD_UNREACHABLE);
                for attempt in attempts {
                    self.never_started(now, attempt, &reason);
                }
            }
            StartResult::Uncertain(reason) => {
                tracing::warn!(%node, attempts = attempts.len(), reason, "starts went unanswered; the runner is asked");
                hold = Some(HOLD_UNREACHABLE);
                for attempt in attempts {
                    self.unsure(now, attempt);
                }
            }
        }
        self.runners.change(node, now.at, |runner| {
            runner.calls = runner.calls.saturating_sub(1);
            runner.capacity.draining |= draining;
            if let Some(hold) = hold {
                runner.hold_until = Some(now.at + hold);
            }
            if regrant {
                runner.answered = None;
            }
        });
        self.outbox_due.insert(node.clone());
        stale.map_or(Ok(()), Err)
    }

    fn unsure(&mut self, now: Now, attempt: AttemptId) {
        if let Some(open) = self.open.get_mut(&attempt)
            && open.sent == Sent::InFlight
        {
            open.sent = Sent::Unsure;
            self.ask_confirm(now, attempt);
        }
    }

    /// The attempt certainly never ran and never will: its task loses its place, not its budget. The number is spent.
    pub(crate) fn never_started(&mut self, now: Now, attempt: AttemptId, why: &str) {
        self.settle(now, attempt, AttemptEnd::Lost { reason: format!("{NEVER_STARTED}{why}") }, Budget::Free);
    }

    /// The attempt has ended, or never was: nothing of it runs or ever will (or its policy does not mind).
    pub(crate) fn settle(&mut self, now: Now, attempt: AttemptId, end: AttemptEnd, budget: Budget) {
        // Nothing was said since, unless its end brought it along.
        self.close_checkpoint(attempt, None);
        let open = self.close(now, attempt);
        let Some(task) = self.db.get(attempt.task) else { return };
        let present = task.attempt_count == attempt.number
            && matches!(task.state, TaskState::Running | TaskState::Cancelling);
        if present {
            let overdue = open.as_ref().is_some_and(|open| open.overdue);
            let moved = open.filter(|open| budget == Budget::Counts && self.is_moved(open, &end));
            let (end, budget) = match moved {
                Some(open) => (ended_for_a_drain(&open.node), Budget::Moved),
                None => (end, budget),
            };
            self.settle_present(now, attempt, end, budget, overdue);
        } else if end.is_success() && task.state != TaskState::Succeeded {
            self.succeeded_after_all(now, attempt, end);
        } else if open.is_some() {
            self.db.change(attempt.task, |task| task.end_attempt(attempt.number, end, now.wall_ms));
        }
    }

    fn settle_present(
        &mut self,
        now: Now,
        attempt: AttemptId,
        end: AttemptEnd,
        budget: Budget,
        overdue: bool,
    ) {
        let jitter = self.rng.random::<f64>();
        let next = self.db.change(attempt.task, |task| {
            let known = |attempt: &Attempt| attempt.end.as_ref().is_some_and(AttemptEnd::is_success);
            let next = if task.attempts.iter().any(known) {
                // An earlier attempt's success was acknowledged while this one ran.
                Next::Final(TaskState::Succeeded)
            } else {
                next(task, &end, budget, overdue, jitter)
            };
            if budget == Budget::Free {
                drop_never_started(task, attempt.number);
            }
            task.end_attempt(attempt.number, end, now.wall_ms);
            match next {
                Next::Final(state) => {
                    finish(task, state, now.wall_ms);
                    if state == TaskState::Succeeded {
                        return (next, task.body.take());
                    }
                }
                Next::Queue => task.state = TaskState::Queued,
                Next::Pause(ms) => {
                    task.state = TaskState::Retrying;
                    task.not_before_ms = Some(now.wall_ms.saturating_add(ms));
                }
            }
            (next, None)
        });
        let Some((next, body)) = next else { return };
        self.effects.extend(body.map(Effect::DeleteBody));
        match next {
            Next::Final(_) => {}
            Next::Queue => self.enqueue(now, attempt.task),
            Next::Pause(ms) => self.wait(attempt.task, now, Duration::from_millis(ms)),
        }
    }

    /// An attempt that had been given up turns out to have succeeded before its end. Its runner is about to be told
    /// that this is known, and a task whose success was acknowledged is never run again: not by a policy, and, where
    /// the task had been final without success, not by a person's retry either.
    ///
    /// A newer attempt that runs already is left to end by itself: killed half-way, it could destroy what the earlier
    /// one has achieved. The task succeeds with its end, whatever that is.
    fn succeeded_after_all(&mut self, now: Now, attempt: AttemptId, end: AttemptEnd) {
        let Some(task) = self.db.get(attempt.task) else { return };
        let newer = attempt_id(task.id, task.attempt_count);
        let runs =
            !task.state.is_final() && self.open.get(&newer).is_some_and(|open| open.sent == Sent::Accepted);
        if runs {
            self.db.change(attempt.task, |task| {
                if let Some(kept) = task.attempts.iter_mut().find(|kept| kept.number == attempt.number) {
                    (kept.end, kept.ended_ms) = (Some(end), Some(now.wall_ms));
                }
            });
            return;
        }
        match task.state {
            TaskState::Queued | TaskState::Retrying => self.unwait(task.id),
            _ => {
                if let Some(open) = self.open.get_mut(&newer) {
                    open.ending = true;
                    self.effects.push(Effect::Cancel(newer));
                }
            }
        }
        let body = self.db.change(attempt.task, |task| {
            if let Some(kept) = task.attempts.iter_mut().find(|kept| kept.number == attempt.number) {
                (kept.end, kept.ended_ms) = (Some(end), Some(now.wall_ms));
            }
            finish(task, TaskState::Succeeded, now.wall_ms);
            task.body.take()
        });
        self.effects.extend(body.flatten().map(Effect::DeleteBody));
    }

    /// Takes an attempt out of the open ones and gives its slot back.
    fn close(&mut self, now: Now, attempt: AttemptId) -> Option<Open> {
        let open = self.open.remove(&attempt)?;
        if let Some(at) = open.overdue_at {
            self.timers.remove(&(at, Timer::Overdue(attempt)));
        }
        self.give_back(attempt, &open.keys);
        self.uncount(attempt, &open.node);
        let key = (open.node.clone(), open.life);
        if let Some(attempts) = self.lives.get_mut(&key) {
            attempts.remove(&attempt);
            if attempts.is_empty() {
                self.lives.remove(&key);
            }
        }
        self.runners.change(&open.node, now.at, |runner| {
            runner.ask.remove(&attempt);
            if runner.life == Some(open.life) {
                runner.used = runner.used.saturating_sub(open.slots);
            }
        });
        self.dispatch_due = true;
        Some(open)
    }

    /// Rule (b): gives up what cannot run any more because its runner has been silent for too long.
    pub(crate) fn fence_silent(&mut self, now: Now) {
        let over: Vec<_> = self
            .lives
            .keys()
            .filter(|(node, life)| self.fence.over_at(node, *life) <= now.at)
            .cloned()
            .collect();
        for (node, life) in over {
            let attempts = self.lives.get(&(node.clone(), life)).cloned().unwrap_or_default();
            tracing::warn!(%node, attempts = attempts.len(), "the node is lost: its right to run has ended");
            // A start that is still under way to it must not be accepted when it comes back.
            let grant = self.new_grant();
            self.runners.change(&node, now.at, |runner| {
                if runner.life == Some(life) {
                    runner.grant = grant;
                    runner.answered = None;
                }
            });
            for attempt in attempts {
                let reason = format!("node {node} was not heard of until its right to run had ended");
                self.give_up(now, attempt, reason);
            }
        }
    }

    /// The policy `requeue-now`: gives up what ran on a life that is no member any more.
    pub(crate) fn requeue_gone_members(&mut self, now: Now) {
        let gone = self.lives.iter().filter(|((node, life), _)| {
            self.runners.get(node).is_none_or(|runner| runner.member != Some(*life))
                && !self.may_come_back(now, node)
        });
        let attempts: Vec<AttemptId> = gone.flat_map(|(_, attempts)| attempts.iter().copied()).collect();
        for attempt in attempts {
            let task = self.db.get(attempt.task);
            if task.is_some_and(|task| {
                task.state == TaskState::Running
                    && task.spec.on_lost == LostPolicy::RequeueNow
                    // Its places are free only when nothing of it certainly runs any more.
                    && task.spec.rules().limits.is_empty()
            }) {
                self.give_up(now, attempt, "its node is no member any more".to_owned());
            }
        }
    }

    /// The attempt is lost.
    pub(crate) fn give_up(&mut self, now: Now, attempt: AttemptId, reason: String) {
        if self.open.get(&attempt).is_some_and(|open| open.sent == Sent::Unsent) {
            self.never_started(now, attempt, &reason);
        } else {
            self.settle(now, attempt, AttemptEnd::Lost { reason }, Budget::Counts);
        }
    }
}

/// How an attempt ended that was ended so that its task runs elsewhere.
fn ended_for_a_drain(node: &NodeId) -> AttemptEnd {
    AttemptEnd::Lost { reason: format!("ended, since node {node} was drained; it does not count") }
}

/// What follows the end of the present attempt; counts it.
fn next(task: &mut Task, end: &AttemptEnd, budget: Budget, overdue: bool, jitter: f64) -> Next {
    let spec = &task.spec;
    match (task.state, end) {
        _ if end.is_success() => Next::Final(TaskState::Succeeded),
        (TaskState::Cancelling, _) => Next::Final(TaskState::Cancelled),
        _ if budget == Budget::Free => Next::Queue,
        _ if budget == Budget::Moved && spec.on_lost == LostPolicy::Fail => Next::Final(TaskState::Lost),
        _ if budget == Budget::Moved => Next::Queue,
        (_, AttemptEnd::Lost { .. }) => {
            task.lost += 1;
            retry::after_loss(spec.retries, task.failed, task.lost, spec.on_lost)
        }
        (_, AttemptEnd::Exited { code }) if spec.rules().permanent_exit_codes.contains(code) => {
            task.failed += 1;
            Next::Final(TaskState::Failed)
        }
        (_, AttemptEnd::Refused { .. }) => {
            task.failed += 1;
            Next::Final(TaskState::Failed)
        }
        _ => {
            task.failed += 1;
            let timed_out = retry::timed_out(end, overdue);
            retry::after_failure(spec.retries, task.failed, task.lost, timed_out, jitter)
        }
    }
}

impl Task {
    /// Whether no runner has had it yet, as far as is remembered.
    pub(crate) fn has_not_run(&self) -> bool {
        let never = |end: &AttemptEnd| matches!(end, AttemptEnd::Lost { reason } if reason.starts_with(NEVER_STARTED));
        self.attempts.iter().all(|attempt| attempt.end.as_ref().is_some_and(never))
    }
}

/// Of several attempts in a row that never started only the last one is worth remembering.
fn drop_never_started(task: &mut Task, number: u32) {
    task.attempts.retain(|attempt| {
        attempt.number + 1 != number
            || !matches!(&attempt.end, Some(AttemptEnd::Lost { reason }) if reason.starts_with(NEVER_STARTED))
    });
}
