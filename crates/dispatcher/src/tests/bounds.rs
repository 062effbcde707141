//! What must not grow, run out or starve, however long a term lasts and however much waits.

use std::collections::BTreeMap;
use std::time::Duration;

use clock::Instant;
use proto::api::{Submission, Submitted};
use proto::leader::{Heartbeat, OutcomeReport};
use proto::runner::{Capacity, Outcome};
use proto::task::{AttemptEnd, TaskSpec, TaskState};
use proto::{ClusterId, Epoch, FencingToken, Grant, Incarnation, NodeId, TaskId};
use rand::SeedableRng;
use rand::rngs::StdRng;

use crate::core::{Core, Now, Settings};
use crate::database::{Database, attempt_id};
use crate::fence::Fence;
use crate::members::MemberInfo;

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
        let (node, life): (NodeId, _) = ("n1".parse().expect("valid"), Incarnation::from_u128(1));
        let settings = Settings {
            token: FencingToken { cluster: ClusterId::from_u128(1), epoch: Epoch(1) },
            fence_after: Duration::from_secs(30),
            retention_count: 1_000,
            retention_age: Duration::from_secs(1_000),
            queue_tasks_max: 100_000,
            payload_inline_max: 64,
        };
        let fence = Fence::new(NOW.at, Duration::from_secs(4), Duration::from_secs(30), Duration::ZERO);
        let (rng, fresh) = (StdRng::seed_from_u64(1), Duration::from_secs(3));
        let mut core = Core::recover(settings, Database::default(), fence, fresh, rng, NOW);
        let (address, labels) = (node.to_string(), BTreeMap::new());
        let member = MemberInfo { node: node.clone(), address, incarnation: life, labels };
        core.members(NOW, &[member]);
        let mut lone = Self { core, node, life, slots };
        lone.beat(None);
        lone
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
    let outcome = Outcome { attempt, end, started_ms: None, ended_ms: 1, output_bytes: 0 };
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
fn heartbeats_use_up_no_grants() {
    let mut lone = Lone::new(1);
    let grant = lone.beat(None);
    for _ in 0..100 {
        assert_eq!(lone.beat(Some(grant)), grant);
    }
    assert_eq!(lone.beat(None), grant.next(), "a lapse does");
}
