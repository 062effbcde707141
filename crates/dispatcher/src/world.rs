//! The core in a simulated world: runners that honour grants and rights to run, calls that are lost, late or answered
//! into the void, crashes of runners and leaders, a wall clock that jumps, and a log of which only a prefix survives.
//!
//! Checked at every step: no two attempts of a fenced task run at a time; a task whose success was acknowledged is
//! never started again; what was acknowledged is never lost; ticks do not overlap that must not. At the end, once nothing
//! fails any more, every task becomes final, and every tick of a schedule is one task.

mod checks;
mod machine;
mod operations;
mod scenarios;
mod schedules;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use clock::Instant;
use proto::api::{Submission, Submitted};
use proto::leader::{Heartbeat, HeartbeatReply, OutcomeReport};
use proto::runner::{Capacity, Inventory, Outcome, Presence, Refusal, StartReply};
use proto::schedule::ScheduleName;
use proto::task::{AttemptEnd, Condition, Dependency, Limit, LostPolicy, Rules, TaskSpec, TaskState};
use proto::{AttemptId, ClusterId, Epoch, FencingToken, Grant, Incarnation, NodeId, TaskId};
use rand::SeedableRng;
use rand::rngs::StdRng;

use self::machine::{Boot, Machine, under_shim};
use crate::attempts::{Batch, StartResult};
use crate::beats::{Answer, Ask};
use crate::core::{Core, Effect, Now, Settings};
use crate::database::Database;
use crate::fence::Fence;
use crate::members::MemberInfo;
use crate::record::Task;
use crate::storage::{Change, Live};

const FENCE_MS: u64 = 500;
const SESSION_MS: u64 = 60;
const DRIFT_MS: u64 = 10;
/// Beyond whatever the wall clock may be set back by.
const SKEW_MS: u64 = 10_000_000;
const SLOTS: u32 = 2;
const NODES: usize = 3;
/// What a planned restart asks for.
const LEAVE_MS: u64 = 700;

struct Group {
    changes: Vec<Change>,
    effects: Vec<Effect>,
    submitted: Vec<TaskId>,
    scheduled: Vec<ScheduleName>,
    acks: Option<(usize, Vec<AttemptId>)>,
    /// What operators had set by then.
    set: operations::Set,
}

struct World {
    ms: u64,
    /// How far the wall clock is ahead of that.
    skew_ms: u64,
    epoch: u64,
    core: Core,
    log: BTreeMap<u128, (u64, Option<bytes::Bytes>)>,
    pending: VecDeque<Group>,
    machines: Vec<Machine>,
    submitted: u128,
    /// Acknowledged to whoever submitted them.
    accepted: BTreeSet<TaskId>,
    /// Schedules that were acknowledged to whoever added them.
    scheduled: BTreeSet<ScheduleName>,
    /// Success acknowledged to the runner.
    done: BTreeSet<TaskId>,
    starts: u64,
    /// Attempts that a daemon found running and went on with.
    adopted: u64,
    /// Granted for planned restarts.
    extended: u64,
    /// What operators have set, as far as it is durable.
    set: operations::Set,
    /// By a person.
    retried: BTreeSet<TaskId>,
}

fn at(ms: u64) -> Instant {
    Instant::default() + Duration::from_millis(ms)
}

fn lead(log: &BTreeMap<u128, (u64, Option<bytes::Bytes>)>, epoch: u64, now: Now) -> Core {
    let live = log.iter().filter_map(|(key, (revision, body))| {
        Some(Live { key: *key, revision: *revision, body: body.clone()? })
    });
    let db = Database::replay(live.collect()).expect("what was written can be read");
    let fence = Fence::new(
        now.at,
        Duration::from_millis(SESSION_MS),
        Duration::from_millis(FENCE_MS),
        Duration::from_millis(DRIFT_MS),
    );
    let settings = Settings {
        token: FencingToken { cluster: ClusterId::from_u128(1), epoch: Epoch(epoch) },
        fence_after: Duration::from_millis(FENCE_MS),
        retention: crate::Retention {
            count: 100_000,
            age: Duration::from_secs(1_000_000),
            ..crate::Retention::default()
        },
        queue_tasks_max: 100_000,
        payload_inline_max: 64,
        priority_ageing: Duration::from_secs(60),
    };
    Core::recover(settings, db, fence, Duration::from_millis(400), StdRng::seed_from_u64(epoch), now)
}

impl World {
    fn new() -> Self {
        let machines = (0..NODES).map(|index| Machine {
            node: format!("n{index}").parse().expect("valid"),
            life: (index as u128 + 1) << 64,
            alive: true,
            cut: false,
            floor: 0,
            grant: None,
            right_until: 0,
            leaving: false,
            processes: BTreeMap::new(),
            orphans: BTreeMap::new(),
            spool: BTreeMap::new(),
            refused: BTreeSet::new(),
            ended_lives: Vec::new(),
            beat: None,
            late: VecDeque::new(),
        });
        let log = BTreeMap::new();
        let mut world = Self {
            ms: 1_000,
            epoch: 1,
            skew_ms: SKEW_MS,
            core: lead(&log, 1, Now { at: at(1_000), wall_ms: 1_000 + SKEW_MS }),
            log,
            pending: VecDeque::new(),
            machines: machines.collect(),
            submitted: 0,
            accepted: BTreeSet::new(),
            scheduled: BTreeSet::new(),
            done: BTreeSet::new(),
            starts: 0,
            adopted: 0,
            extended: 0,
            set: operations::Set::default(),
            retried: BTreeSet::new(),
        };
        world.members();
        world
    }

    fn now(&self) -> Now {
        Now { at: at(self.ms), wall_ms: self.ms + self.skew_ms }
    }

    fn members(&mut self) {
        let present = self.machines.iter().filter(|machine| machine.reachable());
        let members: Vec<_> = present
            .map(|machine| MemberInfo {
                node: machine.node.clone(),
                address: machine.node.to_string(),
                incarnation: machine.life(),
                labels: BTreeMap::new(),
            })
            .collect();
        self.core.members(self.now(), &members);
    }

    /// Ends a turn of the leader: what was decided goes to the log, what follows from it waits for the commit.
    fn write(&mut self, submitted: Vec<TaskId>, acks: Option<(usize, Vec<AttemptId>)>) {
        let changes = self.core.db.take_changes();
        let effects = self.core.take_effects();
        if !changes.is_empty() || !effects.is_empty() || !submitted.is_empty() || acks.is_some() {
            let set = self.set_now();
            self.pending.push_back(Group { changes, effects, submitted, scheduled: Vec::new(), acks, set });
        }
    }

    fn persist(&mut self, changes: Vec<Change>) {
        for change in changes {
            let newer = self.log.get(&change.key).is_none_or(|(revision, _)| change.revision > *revision);
            assert!(newer, "revisions grow");
            self.log.insert(change.key, (change.revision, change.body));
        }
    }

    fn commit(&mut self) {
        let Some(group) = self.pending.pop_front() else { return };
        self.set = group.set;
        self.persist(group.changes);
        self.accepted.extend(group.submitted);
        self.scheduled.extend(group.scheduled);
        if let Some((index, acks)) = group.acks {
            let machine = &mut self.machines[index];
            for attempt in acks {
                if let Some(outcome) = machine.spool.get(&attempt) {
                    if outcome.end.is_success() {
                        self.done.insert(attempt.task);
                    }
                    // The reply may be lost; then it is reported again.
                    if !machine.cut {
                        machine.spool.remove(&attempt);
                        machine.refused.insert(attempt);
                    }
                }
            }
        }
        let now = self.now();
        for effect in group.effects {
            match effect {
                Effect::Start(attempt) => self.core.may_send(now, attempt),
                Effect::Cancel(attempt) => self.core.ask_cancel(now, attempt),
                Effect::DeleteBody(_) => {}
            }
        }
    }

    /// A turn of the leader. `fate` decides what becomes of its calls.
    fn turn(&mut self, fate: u8) {
        let now = self.now();
        self.core.run_schedules(now, &mut 1_000_000);
        let before = self.bounds();
        self.core.dispatch(now);
        self.check_assigned(&before);
        let batches = self.core.next_batches(now);
        for (number, batch) in batches.into_iter().enumerate() {
            self.start(batch, fate.wrapping_add(number as u8));
        }
        let asks = self.core.next_asks(now);
        for ask in asks {
            self.ask(ask);
        }
        self.write(Vec::new(), None);
    }

    fn start(&mut self, batch: Batch, fate: u8) {
        let (now, epoch) = (self.now(), self.epoch);
        let node = batch.node.clone();
        let attempts: Vec<_> = batch.starts.iter().map(|(start, _)| start.attempt).collect();
        for attempt in &attempts {
            assert!(
                !self.done.contains(&attempt.task),
                "{attempt} is started after its task's success was acknowledged"
            );
            let durable = self.log.contains_key(&attempt.task.as_u128());
            assert!(durable, "{attempt} is started before it is durable");
        }
        self.starts += attempts.len() as u64;
        let machine = self.machines.iter_mut().find(|machine| machine.node == node).expect("known");
        let result = if !machine.reachable() {
            StartResult::NotSent("unreachable".to_owned())
        } else {
            match fate % 8 {
                0 => StartResult::Uncertain("the call was lost".to_owned()),
                1 => {
                    machine.late.push_back(batch);
                    StartResult::Uncertain("the call is late".to_owned())
                }
                2 => {
                    let _ = machine.start(epoch, &batch, self.ms);
                    StartResult::Uncertain("the answer was lost".to_owned())
                }
                _ => match machine.start(epoch, &batch, self.ms) {
                    Ok(replies) => StartResult::Replies(replies),
                    Err(refusal) => StartResult::Refused(refusal),
                },
            }
        };
        assert_eq!(self.core.started(now, &node, attempts, result), Ok(()), "nobody has seen a newer leader");
    }

    fn ask(&mut self, ask: Ask) {
        let (now, ms, epoch) = (self.now(), self.ms, self.epoch);
        let machine = self.machines.iter_mut().find(|machine| machine.node == ask.node).expect("known");
        let answer = if machine.reachable() {
            machine.floor = machine.floor.max(epoch);
            let mut presences = Vec::new();
            for attempt in &ask.cancel {
                machine.end(*attempt, AttemptEnd::Cancelled, ms);
                presences.push((*attempt, machine.presence(*attempt)));
            }
            for attempt in &ask.confirm {
                presences.push((*attempt, machine.presence(*attempt)));
            }
            let inventory = Inventory {
                node: machine.node.clone(),
                incarnation: machine.life(),
                ended_incarnations: machine.ended_lives.clone(),
                capacity: machine.capacity(),
                running: machine.processes.keys().copied().collect(),
                outcomes: machine.spool.values().cloned().collect(),
            };
            Ok(Answer { presences, inventory })
        } else {
            Err("unreachable".to_owned())
        };
        self.core.asked(now, ask, answer);
    }

    fn send_beat(&mut self, index: usize) {
        let ms = self.ms;
        let machine = &mut self.machines[index];
        if machine.alive && machine.beat.is_none() {
            let beat = Heartbeat {
                node: machine.node.clone(),
                address: machine.node.to_string(),
                incarnation: machine.life(),
                ended_incarnations: machine.ended_lives.clone(),
                grant: machine.grant,
                capacity: machine.capacity(),
                running: machine.processes.keys().copied().collect(),
                leave_ms: machine.leaving.then_some(LEAVE_MS),
                reports: vec![],
            };
            machine.beat = Some((ms, beat));
        }
    }

    fn deliver_beat(&mut self, index: usize, answer_lost: bool) {
        let Some((sent, beat)) = self.machines[index].beat.take() else { return };
        if self.machines[index].cut {
            return;
        }
        let now = self.now();
        let life = beat.incarnation;
        if let Some(reply) = self.core.heartbeat(now, beat) {
            let node = self.machines[index].node.clone();
            if self.core.is_extended(reply.fence_after_ms) {
                // Such an answer waits until the log holds the reason; a leader that dies before has given none.
                self.write(Vec::new(), None);
                if answer_lost {
                    return;
                }
                while !self.pending.is_empty() {
                    self.commit();
                }
                self.extended += 1;
            }
            self.core.answered(now, &node, life);
            let machine = &mut self.machines[index];
            if !answer_lost && machine.alive && machine.life() == life {
                let held = machine.grant;
                machine.answered(sent, &reply, self.ms);
                if machine.grant != held {
                    self.send_beat(index);
                }
            }
        }
        self.write(Vec::new(), None);
    }

    fn report(&mut self, index: usize) {
        let machine = &self.machines[index];
        if !machine.reachable() || machine.spool.is_empty() {
            return;
        }
        let report = OutcomeReport {
            node: machine.node.clone(),
            incarnation: machine.life(),
            outcomes: machine.spool.values().cloned().collect(),
        };
        let acks = self.core.outcomes(self.now(), report);
        self.write(Vec::new(), Some((index, acks)));
    }

    fn submit(&mut self, choice: u8) {
        self.submitted += 1;
        let mut spec = TaskSpec::new("noop", vec![]);
        spec.on_lost = match choice % 6 {
            0 => LostPolicy::RequeueNow,
            1 => LostPolicy::Fail,
            _ => LostPolicy::Requeue,
        };
        spec.retries.max = u32::from(choice / 6 % 3);
        (spec.retries.backoff_ms, spec.retries.backoff_ms_max) = (200, 400);
        spec.priority = i32::from(choice % 3);
        spec.rules = self.rules(choice / 18);
        let id = TaskId::from_u128(self.submitted << 64);
        let submitted = self.core.submit(self.now(), vec![(Submission { id, spec }, None)], &mut 1_000_000);
        assert_eq!(submitted, [Submitted::Accepted { id }]);
        self.write(vec![id], None);
    }

    /// Locks, limits, delays, and what came just before to wait for.
    fn rules(&self, choice: u8) -> Option<Box<Rules>> {
        let before = TaskId::from_u128((self.submitted - 1) << 64);
        let known = self.core.db.get(before).is_some();
        let after = |on| if known { vec![Dependency { task: before, on }] } else { Vec::new() };
        let limits = |keys: &[(&str, u32)]| {
            keys.iter().map(|(key, max)| Limit { key: (*key).to_owned(), max: *max }).collect::<Vec<_>>()
        };
        let rules = match choice {
            4 => Rules { limits: limits(&[("lock", 1)]), ..Rules::default() },
            5 | 6 => Rules { limits: limits(&[("pair", 2)]), ..Rules::default() },
            7 => Rules { after: after(Condition::Success), ..Rules::default() },
            8 => Rules { after: after(Condition::Failure), ..Rules::default() },
            9 => Rules { after: after(Condition::Always), ..Rules::default() },
            10 => Rules { delay_ms: Some(120), ..Rules::default() },
            11 => Rules { queue_timeout_ms: Some(300), ..Rules::default() },
            12 => {
                Rules { after: after(Condition::Always), limits: limits(&[("lock", 1)]), ..Rules::default() }
            }
            13 => {
                Rules { limits: limits(&[("pair", 2), ("lock", 1)]), delay_ms: Some(50), ..Rules::default() }
            }
            _ => return None,
        };
        Some(Box::new(rules))
    }

    /// The leader dies; of what it had handed to the log, a prefix survives: whole groups, and a part of the next, which
    /// did not fit into one segment.
    fn change_leader(&mut self, survive: usize, part: usize) {
        let mut groups = std::mem::take(&mut self.pending).into_iter();
        for group in groups.by_ref().take(survive).collect::<Vec<_>>() {
            self.set = group.set;
            self.persist(group.changes);
        }
        let mut sets = vec![self.set.clone()];
        if let Some(group) = groups.next() {
            sets.push(group.set);
            self.persist(group.changes.into_iter().take(part).collect());
        }
        self.ms += SESSION_MS;
        self.enforce();
        self.epoch += 1;
        self.core = lead(&self.log, self.epoch, self.now());
        self.set = self.set_now();
        assert!(sets.contains(&self.set), "the next leader has {:?} of {sets:?}", self.set);
        self.members();
    }

    fn crash(&mut self, index: usize) {
        let machine = &mut self.machines[index];
        machine.alive = false;
        machine.beat = None;
        machine.late.clear();
        machine.processes.retain(|attempt, _| under_shim(*attempt));
    }

    fn restart(&mut self, index: usize, boot: Boot) {
        let machine = &mut self.machines[index];
        if machine.alive {
            return;
        }
        let old = machine.life();
        machine.life += 1;
        machine.alive = true;
        machine.grant = None;
        machine.right_until = 0;
        machine.leaving = false;
        if boot == Boot::Wiped {
            // A new disk: it knows of nothing, and what its predecessor left behind runs on until its right ends.
            machine.orphans.append(&mut machine.processes);
            machine.ended_lives.clear();
            machine.spool.clear();
            machine.refused.clear();
        } else {
            if boot == Boot::Ends {
                machine.processes.clear();
            }
            self.adopted += machine.processes.len() as u64;
            machine.ended_lives.push(old);
        }
    }

    fn enforce(&mut self) {
        for machine in &mut self.machines {
            machine.enforce(self.ms);
        }
    }

    fn advance(&mut self, ms: u64) {
        self.ms += ms;
        self.enforce();
        let now = self.now();
        self.core.tick(now);
        self.write(Vec::new(), None);
    }

    fn finish_one(&mut self, index: usize, choice: u8) {
        let ms = self.ms;
        let machine = &mut self.machines[index];
        if !machine.alive {
            return;
        }
        let count = machine.processes.len().max(1);
        if let Some(attempt) = machine.processes.keys().nth(usize::from(choice) % count).copied() {
            let code = i32::from(choice.is_multiple_of(3));
            machine.end(attempt, AttemptEnd::Exited { code }, ms);
        }
    }

    fn step(&mut self, (op, a, b): (u8, u8, u8)) {
        let index = usize::from(a) % NODES;
        match op % 27 {
            0 | 1 => self.submit(b),
            2..=4 => self.turn(b),
            5..=7 => self.commit(),
            8 => self.send_beat(index),
            9 => self.deliver_beat(index, b.is_multiple_of(5)),
            10 => {
                self.send_beat(index);
                self.deliver_beat(index, false);
            }
            11 => self.report(index),
            12 => self.advance(u64::from(b) * 4),
            13 => self.finish_one(index, b),
            14 => self.machines[index].cut = b.is_multiple_of(2),
            15 if b.is_multiple_of(3) => self.crash(index),
            15 => self.restart(
                index,
                [Boot::Wiped, Boot::Ends, Boot::Adopts, Boot::Adopts][usize::from(b / 3 % 4)],
            ),
            16 => self.members(),
            17 if b.is_multiple_of(4) => self.change_leader(usize::from(b / 4) % 4, usize::from(a) % 4),
            17 => {
                let (ms, epoch) = (self.ms, self.epoch);
                let machine = &mut self.machines[index];
                if let Some(batch) = machine.late.pop_front() {
                    let _ = machine.start(batch.grant.0 >> 32, &batch, ms);
                    assert!(batch.grant.0 >> 32 <= epoch);
                }
            }
            18 if self.submitted > 0 && b.is_multiple_of(3) => {
                let id = TaskId::from_u128((u128::from(a) % self.submitted + 1) << 64);
                let _ = self.core.cancel(self.now(), &id.to_string());
                self.write(Vec::new(), None);
            }
            19 if self.submitted > 0 && b.is_multiple_of(2) => {
                let id = TaskId::from_u128((u128::from(a) % self.submitted + 1) << 64);
                if self.core.retry(self.now(), &id.to_string()).is_ok() {
                    self.retried.insert(id);
                }
                self.write(Vec::new(), None);
            }
            20 => self.add_schedule(b),
            21 => self.advance(u64::from(b) * 8),
            22 if b.is_multiple_of(3) => self.set_wall(a),
            23 if b.is_multiple_of(4) => self.trigger(a),
            25 if b.is_multiple_of(3) => self.drain_at_work(index, a, b),
            25 | 26 => self.operate(index, b),
            24 if b.is_multiple_of(3) => self.machines[index].leaving = self.machines[index].alive,
            24 => {
                // It gets work, and is restarted quickly enough for that to go on.
                self.send_beat(index);
                self.deliver_beat(index, false);
                self.deliver_beat(index, false);
                for _ in 0..2 {
                    self.turn(b);
                    while !self.pending.is_empty() {
                        self.commit();
                    }
                }
                self.crash(index);
                self.restart(index, Boot::Adopts);
                self.members();
                self.send_beat(index);
            }
            _ => self.advance(u64::from(b) % 50),
        }
        self.check();
    }
}
