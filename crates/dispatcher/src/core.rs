//! The decisions of the dispatcher, without IO: what happened and the present time go in; the new absolute state of
//! every task that changed, and what to do once that is committed, come out.
//!
//! The state here runs ahead of the log. Therefore nothing that is derived from it may leave the driver before
//! everything that was changed until then has committed.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use clock::Instant;
use proto::task::{Attempt, TaskState};
use proto::{AttemptId, FencingToken, Grant, Incarnation, NodeId, TaskId};
use rand::rngs::StdRng;

use crate::attempts::{Open, Sent};
use crate::config::Retention;
use crate::database::{Database, attempt_id};
use crate::fence::Fence;
use crate::members::MemberInfo;
use crate::placement::Runners;
use crate::queue::{Place, Queue};
use crate::record::Task;
use crate::reports::Checkpoints;
use crate::schedules::Schedules;
use crate::storage::BodyRef;
use crate::timers::Timer;
use crate::waiting::News;

/// Heads of the queue looked at in one go, so that a turn of the driver stays short.
const LOOKED_AT_MAX: usize = 4_096;

/// For how many heartbeats a runner that was answered is taken to be there.
pub(crate) const FRESH_BEATS: u32 = 3;

/// The present time, to decide by and to write down.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Now {
    pub(crate) at: Instant,
    pub(crate) wall_ms: u64,
}

/// What the core has to know of its term and its options.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) token: FencingToken,
    pub(crate) fence_after: Duration,
    pub(crate) retention: Retention,
    pub(crate) queue_tasks_max: usize,
    pub(crate) payload_inline_max: usize,
    pub(crate) priority_ageing: Duration,
}

/// What to do once everything until now has committed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Hand the attempt to [`Core::may_send`].
    Start(AttemptId),
    /// Hand the attempt to [`Core::ask_cancel`].
    Cancel(AttemptId),
    /// Nobody refers to it any more.
    DeleteBody(BodyRef),
}

/// The whole state of the term.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) settings: Settings,
    pub(crate) db: Database,
    pub(crate) queue: Queue,
    pub(crate) runners: Runners,
    pub(crate) fence: Fence,
    /// Attempts that may run or be about to.
    pub(crate) open: BTreeMap<AttemptId, Open>,
    /// The same by the runner's life.
    pub(crate) lives: BTreeMap<(NodeId, Incarnation), BTreeSet<AttemptId>>,
    /// Tasks that wait for their time, and until when.
    pub(crate) pausing: BTreeMap<TaskId, Instant>,
    /// Tasks that may not wait for a slot for ever, and until when.
    pub(crate) impatient: BTreeMap<TaskId, Instant>,
    /// Blocked tasks by what they wait for.
    pub(crate) dependents: BTreeMap<TaskId, BTreeSet<TaskId>>,
    /// Ends that blocked tasks have yet to be told of.
    pub(crate) news: VecDeque<News>,
    /// Attempts that may run, by the keys of their locks and limits.
    pub(crate) held: BTreeMap<String, BTreeSet<AttemptId>>,
    /// What schedules wait for.
    pub(crate) schedules: Schedules,
    /// Deadlines of drained nodes, by the keys of their records.
    pub(crate) deadlines: BTreeMap<u128, Instant>,
    /// Of the attempts that run.
    pub(crate) checkpoints: Checkpoints,
    pub(crate) timers: BTreeSet<(Instant, Timer)>,
    pub(crate) effects: Vec<Effect>,
    pub(crate) dispatch_due: bool,
    /// Where a pass over the queue goes on that was too long for one turn.
    dispatch_from: Option<Place>,
    /// A member has gone: what may be requeued at once is to be.
    pub(crate) gone_due: bool,
    /// Not before that: who has just become the leader may not know yet of those that joined lately.
    pub(crate) gone_from: Instant,
    /// Runners with something in their outbox.
    pub(crate) outbox_due: BTreeSet<NodeId>,
    /// Runners to be asked something.
    pub(crate) ask_due: BTreeSet<NodeId>,
    pub(crate) rng: StdRng,
    /// Grants given in this term, to whichever runner: no number is ever given twice.
    grants_given: u32,
}

impl Core {
    /// The state that a replay found, at the start of a term.
    pub(crate) fn recover(
        settings: Settings,
        db: Database,
        fence: Fence,
        fresh: Duration,
        rng: StdRng,
        now: Now,
    ) -> Self {
        let mut core = Self {
            settings,
            db,
            queue: Queue::default(),
            runners: Runners::new(fresh),
            fence,
            open: BTreeMap::new(),
            lives: BTreeMap::new(),
            pausing: BTreeMap::new(),
            impatient: BTreeMap::new(),
            dependents: BTreeMap::new(),
            news: VecDeque::new(),
            held: BTreeMap::new(),
            schedules: Schedules::new(now),
            deadlines: BTreeMap::new(),
            checkpoints: Checkpoints::default(),
            timers: BTreeSet::new(),
            effects: Vec::new(),
            dispatch_due: true,
            dispatch_from: None,
            gone_due: false,
            gone_from: now.at + fresh / FRESH_BEATS,
            outbox_due: BTreeSet::new(),
            ask_due: BTreeSet::new(),
            rng,
            grants_given: 0,
        };
        core.db.set_wall(now.wall_ms);
        core.db.granted(core.settings.fence_after);
        for (node, right) in core.db.meta().extended() {
            core.fence.was_extended(node, right);
        }
        core.db.begin(core.settings.token.epoch);
        let mut waiting = Vec::new();
        let mut running = Vec::new();
        let mut bare = Vec::new();
        let (mut scheduled, mut blocked) = (Vec::new(), Vec::new());
        let mut made = Vec::new();
        for task in core.db.iter() {
            made.extend(core.db.undecided_tick(task));
            let unended = task.attempts.iter().filter(|attempt| attempt.end.is_none());
            let before = running.len();
            running.extend(unended.map(|attempt| (attempt_id(task.id, attempt.number), attempt.clone())));
            match task.state {
                TaskState::Queued => waiting.push((task.id, 0)),
                TaskState::Scheduled => scheduled.push(task.id),
                TaskState::Blocked => blocked.push(task.id),
                TaskState::Retrying => {
                    let left = task.not_before_ms.unwrap_or(0).saturating_sub(now.wall_ms);
                    // The wall clock may have jumped: no pause is longer than the longest that was asked for.
                    waiting.push((task.id, left.min(task.spec.retries.backoff_ms_max)));
                }
                TaskState::Running | TaskState::Cancelling if running.len() == before => bare.push(task.id),
                _ => {}
            }
        }
        core.recover_operations(now);
        for (id, left_ms) in waiting {
            core.wait(id, now, Duration::from_millis(left_ms));
        }
        for id in scheduled {
            core.await_start(now, id);
        }
        for id in blocked {
            core.recover_blocked(id);
        }
        for (id, attempt) in running {
            core.runners.ensure(&attempt.node);
            core.opened(now, id, &attempt, Sent::Unsure);
        }
        for id in bare {
            tracing::error!(task = %id, "the task is recorded as running without an attempt: nothing of it can run");
            let requeue = core.db.change(id, |task| {
                let requeue = task.state == TaskState::Running;
                if requeue {
                    task.state = TaskState::Queued;
                } else {
                    finish(task, TaskState::Cancelled, now.wall_ms);
                }
                requeue
            });
            if requeue == Some(true) {
                core.enqueue(now, id);
            }
        }
        for key in core.db.schedule_keys() {
            core.load_schedule(now, key);
        }
        for (key, tick_ms) in made {
            core.tick_was_made(key, tick_ms);
        }
        core
    }

    /// Takes note of who is a member.
    pub(crate) fn members(&mut self, now: Now, members: &[MemberInfo]) {
        for member in members {
            self.runners.ensure(&member.node);
        }
        for node in self.runners.nodes() {
            let member = members.iter().find(|member| member.node == node);
            let joined = self.runners.change(&node, now.at, |runner| {
                let life = member.map(|member| member.incarnation);
                let joined = life.is_some() && life != runner.member;
                runner.member = life;
                if joined && let Some(member) = member {
                    runner.address.clone_from(&member.address);
                    runner.inventory_due = true;
                    runner.ask_at = now.at;
                }
                joined
            });
            if joined == Some(true) {
                self.ask_due.insert(node);
            }
        }
        self.gone_due = true;
        self.dispatch_due = true;
    }

    /// Gives up what has to be, and free slots to waiting tasks. Only inside the lease.
    pub(crate) fn dispatch(&mut self, now: Now) {
        self.fire_timers(now);
        self.tell_dependents(now);
        if self.gone_due && now.at >= self.gone_from {
            self.gone_due = false;
            self.requeue_gone_members(now);
        }
        if self.db.settings().paused().is_some() {
            return;
        }
        // A pass that goes on leaves what became due meanwhile to the next one: otherwise heads that fit nowhere, if
        // there are enough of them, would keep those behind them from ever being looked at.
        let mut cursor = self.dispatch_from.take();
        if cursor.is_none() {
            if !std::mem::take(&mut self.dispatch_due) {
                return;
            }
            self.queue.unpark();
            self.runners.begin_pass();
        }
        for _ in 0..LOOKED_AT_MAX {
            if !self.runners.any_free() {
                return;
            }
            let Some((place, need)) = self.queue.next_head(cursor) else {
                if !self.queue.is_roomy() {
                    return;
                }
                // The next ones that wait for a key that may have room.
                self.queue.unpark();
                cursor = None;
                continue;
            };
            cursor = Some(place);
            if let Some(limit) = self.exhausted(&need) {
                self.queue.park(&need, &limit);
                continue;
            }
            let Some(node) = self.runners.best(&need).cloned() else {
                self.runners.reserve(&need);
                continue;
            };
            if let Some(id) = self.queue.remove(&need, place) {
                self.assign(now, id, node);
            }
        }
        self.dispatch_from = cursor;
        self.dispatch_due |= cursor.is_none();
    }

    fn assign(&mut self, now: Now, id: TaskId, node: NodeId) {
        let Some(runner) = self.runners.get(&node) else { return };
        let Some(life) = runner.life else { return };
        let grant = runner.grant;
        let token = self.settings.token;
        let attempt = self.db.change(id, |task| {
            let attempt = Attempt {
                number: task.attempt_count + 1,
                node,
                incarnation: life,
                token,
                grant,
                assigned_ms: now.wall_ms,
                started_ms: None,
                ended_ms: None,
                end: None,
            };
            task.state = TaskState::Running;
            if !task.has_not_run() {
                // Before its first start it counts for how long it may wait, should this one come to nothing.
                task.not_before_ms = None;
            }
            task.push_attempt(attempt.clone());
            attempt
        });
        let Some(attempt) = attempt else { return };
        self.unwatch_wait(id);
        let attempt_id = attempt_id(id, attempt.number);
        self.opened(now, attempt_id, &attempt, Sent::Unsent);
        self.effects.push(Effect::Start(attempt_id));
    }

    /// Takes note of an attempt that may run.
    fn opened(&mut self, now: Now, id: AttemptId, attempt: &Attempt, sent: Sent) {
        let (node, life) = (attempt.node.clone(), attempt.incarnation);
        let slots = self.db.get(id.task).map_or(1, Task::slots);
        self.runners.change(&node, now.at, |runner| {
            if runner.life == Some(life) {
                runner.used = runner.used.saturating_add(slots);
            }
        });
        self.count(id, &node);
        self.lives.entry((node.clone(), life)).or_default().insert(id);
        let keys = self.hold_keys(id);
        let open = Open {
            node,
            life,
            sent,
            slots,
            evicted: false,
            missing: 0,
            overdue_at: None,
            overdue: false,
            ending: false,
            keys,
        };
        self.open.insert(id, open);
        // A new leader counts anew: that only makes this backstop later, never earlier.
        self.watch_run(now.at, id);
    }

    /// A grant that nobody was given before.
    pub(crate) fn new_grant(&mut self) -> Grant {
        self.grants_given += 1;
        Grant::new(self.settings.token.epoch, self.grants_given)
    }

    pub(crate) fn take_effects(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.effects)
    }
}

/// Makes a task final.
pub(crate) fn finish(task: &mut Task, state: TaskState, wall_ms: u64) {
    task.state = state;
    task.finished_ms = Some(wall_ms);
    task.not_before_ms = None;
    task.waits_for = Vec::new();
    if state == TaskState::Succeeded {
        task.checkpoint = None;
    }
}
