//! What must not grow, run out or starve, however long a term lasts and however much waits.

use std::collections::BTreeMap;
use std::time::Duration;

use clock::Instant;
use proto::api::{ListFilter, Submission, Submitted};
use proto::leader::{Heartbeat, OutcomeReport};
use proto::progress::{CHECKPOINT_BYTES_MAX, Checkpoint};
use proto::runner::{Capacity, Outcome};
use proto::task::{
    Attempt, AttemptEnd, Condition, Dependency, Limit, LostPolicy, Rules, TaskSpec, TaskState,
};
use proto::{ClusterId, Epoch, FRAME_BYTES_MAX, FencingToken, Grant, Incarnation, NodeId, TaskId};
use rand::SeedableRng;
use rand::rngs::StdRng;

use crate::attempts::Budget;
use crate::config::Retention;
use crate::core::{Core, Now, Settings};
use crate::database::{Database, attempt_id};
use crate::fence::Fence;
use crate::members::MemberInfo;
use crate::record::Task;
use crate::storage::Live;

const NOW: Now = Now { at: Instant::from_nanos(1_000_000_000), wall_ms: 1_000 };

/// A leader with one runner of `slots` slots, which was heard of.
struct Lone {
    core: Core,
    node: NodeId,
    life: Incarnation,
    slots: u32,
}

impl Lone {
    fn new(slots: u32) -> Self {
        let mut lone = Self::over(Database::default(), slots);
        lone.core.members(NOW, &[lone.member()]);
        let grant = lone.beat(None);
        lone.beat(Some(grant));
        lone
    }

    /// Without members.
    fn over(db: Database, slots: u32) -> Self {
        let (node, life): (NodeId, _) = ("n1".parse().expect("valid"), Incarnation::from_u128(1));
        let settings = Settings {
            token: FencingToken { cluster: ClusterId::from_u128(1), epoch: Epoch(1) },
            fence_after: Duration::from_secs(30),
            retention: Retention { count: 1_000, age: Duration::from_secs(1_000), ..Retention::default() },
            queue_tasks_max: 100_000,
            payload_inline_max: 64,
            priority_ageing: Duration::from_secs(60),
        };
        let fence = Fence::new(NOW.at, Duration::from_secs(4), Duration::from_secs(30), Duration::ZERO);
        let (rng, fresh) = (StdRng::seed_from_u64(1), Duration::from_secs(3));
        let core = Core::recover(settings, db, fence, fresh, rng, NOW);
        Self { core, node, life, slots }
    }

    fn member(&self) -> MemberInfo {
        let (address, labels) = (self.node.to_string(), BTreeMap::new());
        MemberInfo { node: self.node.clone(), address, incarnation: self.life, labels }
    }

    fn beat(&mut self, grant: Option<Grant>) -> Grant {
        let (slots, labels) = (self.slots, BTreeMap::new());
        let kinds = vec!["noop".to_owned()];
        let beat = Heartbeat {
            node: self.node.clone(),
            address: self.node.to_string(),
            incarnation: self.life,
            ended_incarnations: vec![],
            grant,
            capacity: Capacity { slots, free: slots, labels, kinds, draining: false },
            running: vec![],
            leave_ms: None,
            reports: vec![],
        };
        let reply = self.core.heartbeat(NOW, beat).expect("answered");
        self.core.answered(NOW, &self.node, self.life);
        reply.grant
    }

    fn submit(&mut self, n: u64, change: impl FnOnce(&mut TaskSpec)) -> TaskId {
        let id = TaskId::from_u128(u128::from(n) << 64);
        let mut spec = TaskSpec::new("noop", vec![]);
        change(&mut spec);
        let submitted = self.core.submit(NOW, vec![(Submission { id, spec }, None)], &mut 1_000_000);
        assert_eq!(submitted, [Submitted::Accepted { id }]);
        id
    }

    fn state(&self, id: TaskId) -> TaskState {
        self.core.db.get(id).expect("accepted").state
    }
}

#[test]
fn many_heads_that_fit_nowhere_do_not_starve_what_is_behind_them() {
    let mut lone = Lone::new(1);
    for n in 0..10_000 {
        lone.submit(n + 1, |spec| {
            spec.priority = 1;
            spec.labels.insert("disk".to_owned(), n.to_string());
        });
    }
    let last = lone.submit(20_000, |_| ());
    for _ in 0..4 {
        // Something is always due in a busy cluster.
        lone.core.dispatch_due = true;
        lone.core.dispatch(NOW);
    }
    assert_eq!(lone.state(last), TaskState::Running);
}

#[test]
fn attempts_that_have_ended_leave_no_timer() {
    let mut lone = Lone::new(1);
    let id = lone.submit(1, |spec| spec.run_timeout_ms = Some(24 * 3_600_000));
    lone.core.dispatch(NOW);
    assert_eq!((lone.state(id), lone.core.timers.len()), (TaskState::Running, 1));
    let (attempt, end) = (attempt_id(id, 1), AttemptEnd::Exited { code: 0 });
    let outcome = Outcome { attempt, end, started_ms: None, ended_ms: 1, output_bytes: 0, checkpoint: None };
    let report = OutcomeReport { node: lone.node.clone(), incarnation: lone.life, outcomes: vec![outcome] };
    assert_eq!(lone.core.outcomes(NOW, report), [attempt]);
    assert_eq!((lone.state(id), lone.core.timers.len()), (TaskState::Succeeded, 0));
}

#[test]
fn an_attempt_that_still_waits_to_be_sent_is_not_overdue() {
    let mut lone = Lone::new(1);
    let id = lone.submit(1, |spec| spec.run_timeout_ms = Some(1_000));
    lone.core.dispatch(NOW);
    lone.core.tick(Now { at: NOW.at + Duration::from_secs(20), ..NOW });
    assert!(!lone.core.open[&attempt_id(id, 1)].overdue);
    assert_eq!(lone.core.timers.len(), 1, "its time is still watched");
}

#[test]
fn nothing_is_assigned_before_the_grant_is_known_to_have_arrived() {
    let mut lone = Lone::over(Database::default(), 1);
    lone.core.members(NOW, &[lone.member()]);
    let grant = lone.beat(None);
    let id = lone.submit(1, |_| ());
    lone.core.dispatch(NOW);
    assert_eq!(lone.state(id), TaskState::Queued, "the answer with the grant is on its way");
    lone.beat(Some(grant));
    lone.core.dispatch(NOW);
    assert_eq!(lone.state(id), TaskState::Running);
}

#[test]
fn heartbeats_use_up_no_grants() {
    let mut lone = Lone::new(1);
    let grant = lone.beat(None);
    for _ in 0..100 {
        assert_eq!(lone.beat(Some(grant)), grant);
    }
    assert_eq!(lone.beat(None), grant.next(), "a lapse does");
}

/// The next leader could not tell those behind it how it ended.
#[test]
fn what_has_ended_is_not_forgotten_before_those_behind_it_were_told() {
    let mut lone = Lone::new(1);
    lone.core.settings.retention.count = 0;
    let first = lone.submit(1, |_| ());
    let after = Dependency { task: first, on: Condition::Success };
    let behind: Vec<_> = (2..5_000)
        .map(|n| {
            lone.submit(n, |spec| {
                spec.rules = Some(Box::new(Rules { after: vec![after], ..Rules::default() }));
            })
        })
        .collect();
    lone.core.dispatch(NOW);
    lone.core.settle(NOW, attempt_id(first, 1), AttemptEnd::Exited { code: 0 }, Budget::Counts);
    for _ in 0..2 {
        lone.core.tick(NOW);
        assert!(lone.core.db.get(first).is_some());
        lone.core.dispatch(NOW);
    }
    assert!(behind.iter().any(|id| lone.state(*id) == TaskState::Blocked), "a turn stays short");
    lone.core.dispatch(NOW);
    lone.core.tick(NOW);
    assert!(lone.core.db.get(first).is_none());
    assert!(behind.iter().all(|id| lone.state(*id) != TaskState::Blocked));
}

#[test]
fn a_start_that_comes_to_nothing_does_not_count_as_a_wait() {
    let mut lone = Lone::new(1);
    let later = |ms: u64| Now { at: NOW.at + Duration::from_millis(ms), wall_ms: NOW.wall_ms + ms };
    let first = lone.submit(1, |_| ());
    let behind = lone.submit(2, |spec| {
        let after = vec![Dependency { task: first, on: Condition::Success }];
        spec.rules = Some(Box::new(Rules { after, queue_timeout_ms: Some(60_000), ..Rules::default() }));
    });
    lone.core.dispatch(NOW);
    let hour = later(3_600_000);
    lone.core.settle(hour, attempt_id(first, 1), AttemptEnd::Exited { code: 0 }, Budget::Counts);
    lone.core.tell_dependents(hour);
    let node = lone.node.clone();
    lone.core.runners.change(&node, hour.at, |runner| runner.answered = Some(hour.at));
    lone.core.dispatch(hour);
    assert_eq!(lone.state(behind), TaskState::Running);
    lone.core.never_started(hour, attempt_id(behind, 1), "no slot was free");
    lone.core.runners.change(&node, hour.at, |runner| runner.answered = None);
    for (ms, expected) in
        [(3_600_200, TaskState::Queued), (3_659_000, TaskState::Queued), (3_661_000, TaskState::TimedOut)]
    {
        lone.core.tick(later(ms));
        assert_eq!(lone.state(behind), expected, "{ms}");
    }
}

/// A task with as much in it as it may have.
fn stuffed(n: u64) -> Task {
    let mut spec = TaskSpec::new("k".repeat(64), vec![0; 4_096]);
    spec.name = Some("n".repeat(256));
    spec.idempotency_key = Some(format!("{n:0256}"));
    let id = TaskId::from_u128(u128::MAX);
    spec.rules = Some(Box::new(Rules {
        start_at_ms: Some(u64::MAX),
        delay_ms: Some(u64::MAX),
        queue_timeout_ms: Some(u64::MAX),
        after: vec![Dependency { task: id, on: Condition::Success }; Rules::AFTER_MAX],
        limits: vec![Limit { key: "k".repeat(128), max: u32::MAX }; Rules::LIMITS_MAX],
        permanent_exit_codes: vec![i32::MIN; Rules::CODES_MAX],
        ..Rules::default()
    }));
    spec.labels = (0..32).map(|n| (format!("{n:064}"), "v".repeat(256))).collect();
    let mut task = Task {
        id: TaskId::from_u128(u128::from(n) << 64),
        revision: u64::MAX / 2,
        order: 0,
        body: None,
        state: TaskState::Running,
        submitted_ms: u64::MAX,
        finished_ms: None,
        not_before_ms: Some(u64::MAX),
        attempt_count: 0,
        failed: 0,
        lost: 0,
        attempts: vec![],
        waits_for: spec.rules().after.clone(),
        note: Some("n".repeat(200).into()),
        checkpoint: Checkpoint::new(vec![7; CHECKPOINT_BYTES_MAX]).ok().map(Box::new),
        progress: None,
        history: Some(Box::new(proto::history::Steps {
            steps: vec![
                proto::history::Step {
                    at_ms: u64::MAX,
                    state: TaskState::Cancelling,
                    until_ms: Some(u64::MAX)
                };
                16
            ],
            forgotten: u32::MAX,
        })),
        spec,
    };
    for number in 1..=1_001 {
        task.push_attempt(Attempt {
            number,
            node: "n".repeat(63).parse().expect("valid"),
            incarnation: Incarnation::from_u128(u128::MAX),
            token: FencingToken { cluster: ClusterId::from_u128(u128::MAX), epoch: Epoch(u64::MAX) },
            grant: Grant(u64::MAX),
            assigned_ms: u64::MAX,
            started_ms: Some(u64::MAX),
            ended_ms: None,
            end: None,
        });
        task.end_attempt(number, AttemptEnd::Failed { message: "m".repeat(2_000) }, u64::MAX);
    }
    task
}

#[test]
fn records_leave_out_what_every_reader_fills_in() {
    let plain = Task { spec: TaskSpec::new("noop", vec![]), attempts: vec![], ..stuffed(1) };
    for task in [stuffed(1), plain] {
        let record = crate::record::encode(&task);
        match crate::record::decode(1, &record).expect("readable") {
            crate::record::Record::Task(read) => assert_eq!(*read, task),
            other => panic!("{other:?}"),
        }
    }
    let mut lone = Lone::new(1);
    let id = lone.submit(1, |_| ());
    lone.core.dispatch(NOW);
    let record = crate::record::encode(lone.core.db.get(id).expect("accepted"));
    assert!(record.len() < 320, "{} bytes", record.len());
}

/// A follower that takes over looks at the members only now and then; it must not take who joined lately for gone.
#[test]
fn a_new_leader_gives_nobody_up_before_it_can_know_the_members() {
    for joined in [true, false] {
        let mut first = Lone::new(1);
        let id = first.submit(1, |spec| spec.on_lost = LostPolicy::RequeueNow);
        first.core.dispatch(NOW);
        let changes = first.core.db.take_changes().into_iter();
        let live = changes.filter_map(|c| Some(Live { key: c.key, revision: c.revision, body: c.body? }));
        let db = Database::replay(live.collect()).expect("readable");
        let mut next = Lone::over(db, 1);
        next.core.members(NOW, &[]);
        next.core.dispatch(NOW);
        assert_eq!(next.state(id), TaskState::Running, "it has just begun to look");
        if joined {
            next.core.members(NOW, &[next.member()]);
        }
        next.core.dispatch(Now { at: NOW.at + Duration::from_secs(1), ..NOW });
        assert_eq!(next.state(id), if joined { TaskState::Running } else { TaskState::Queued });
    }
}

fn encoded(of: &impl serde::Serialize) -> usize {
    rmp_serde::to_vec_named(of).expect("encodes").len()
}

#[test]
fn the_fullest_record_fits_into_a_segment_and_lists_of_them_into_a_frame() {
    let record = crate::record::encode(&stuffed(1)).len();
    assert!(record < 32 * 1024, "{record} bytes");
    for n in [400_u64, 2_000] {
        let mut db = Database::default();
        let mut task = stuffed(1);
        if n > 400 {
            task.spec.labels.clear();
        }
        for n in 1..=n {
            db.insert(Task { id: TaskId::from_u128(u128::from(n) << 64), ..task.clone() });
        }
        let page = db.list(&ListFilter::default()).expect("listed").page;
        assert!(encoded(&page) < FRAME_BYTES_MAX, "{} bytes", encoded(&page));
        assert!(page.total == Some(n) && page.tasks.len() > 100, "{}", page.tasks.len());

        // Who watches them all and asks again gets to know of each.
        let mut known: BTreeMap<TaskId, u64> = db.iter().map(|task| (task.id, 0)).collect();
        for _ in 0..20 {
            let tasks: Vec<_> = known.iter().map(|(id, revision)| (*id, *revision)).collect();
            let views = crate::watch::views(&db, &tasks);
            assert!(encoded(&views) < FRAME_BYTES_MAX, "{} bytes", encoded(&views));
            known.extend(views.into_iter().map(|view| (view.id, view.revision)));
        }
        assert!(known.values().all(|revision| *revision > 0));
    }
}
