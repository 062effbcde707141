//! Operators in the world: they drain nodes, pause, and limit what runs. What they were told holds survives every leader.

use proto::operate::{OperateOrder, Quota, Said};

use super::*;

/// What operators have set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Set {
    drained: BTreeSet<NodeId>,
    paused: bool,
    quota: Option<Quota>,
}

/// What a pass over the queue must not go beyond.
pub(super) struct Bounds {
    open: usize,
    on: BTreeMap<NodeId, usize>,
}

impl World {
    /// As the leader has it, written down or not.
    pub(super) fn set_now(&self) -> Set {
        let settings = self.core.db.settings();
        Set {
            drained: settings.drains().map(|(node, _)| node.clone()).collect(),
            paused: settings.paused().is_some(),
            quota: settings.quota("noop"),
        }
    }

    pub(super) fn operate(&mut self, index: usize, choice: u8) {
        let node = self.machines[index].node.clone();
        let said = Said::default();
        let order = match choice % 8 {
            0 | 1 => {
                let deadline_in_ms = [None, Some(0), Some(90), Some(400)][usize::from(choice / 8 % 4)];
                OperateOrder::Drain { node, deadline_in_ms, absent: true, said }
            }
            2 | 3 => OperateOrder::Undrain { node },
            4 => OperateOrder::Pause { said },
            5 => OperateOrder::Resume,
            6 => {
                let at_most = |choice: u8| (choice > 0).then_some(u32::from(choice));
                let quota = Quota {
                    running: at_most(choice / 8 % 4),
                    per_node: at_most(choice / 32 % 3),
                    ..Quota::default()
                };
                OperateOrder::SetQuota { kind: "noop".to_owned(), quota }
            }
            _ => OperateOrder::RemoveQuota { kind: "noop".to_owned() },
        };
        self.core.operate(self.now(), order).expect("it is carried out");
        self.write(Vec::new(), None);
    }

    /// A node gets work, is drained of it, and maybe hears of that; maybe its leader does not live to see it.
    pub(super) fn drain_at_work(&mut self, index: usize, choice: u8, deadline: u8) {
        self.unset();
        self.submit(choice);
        let before = self.machines[index].processes.len();
        for _ in 0..2 {
            self.send_beat(index);
            self.deliver_beat(index, false);
            self.turn(7);
            while !self.pending.is_empty() {
                self.commit();
            }
        }
        if self.machines[index].processes.len() <= before {
            return;
        }
        self.operate(index, 8 * (1 + deadline % 3));
        self.advance(u64::from(choice) * 4);
        if choice.is_multiple_of(4) {
            return self.change_leader(usize::from(choice / 4) % 4, usize::from(deadline) % 4);
        }
        self.send_beat(index);
        self.deliver_beat(index, choice.is_multiple_of(3));
        self.report(index);
    }

    /// Attempts that were ended because their nodes were drained.
    pub(super) fn moved(&self) -> usize {
        let attempts = self.core.db.iter().flat_map(|task| &task.attempts);
        let drained = |end: &AttemptEnd| format!("{end:?}").contains("drained");
        attempts.filter(|attempt| attempt.end.as_ref().is_some_and(drained)).count()
    }

    /// Nothing is set any more.
    pub(super) fn unset(&mut self) {
        for index in 0..NODES {
            self.operate(index, 2);
        }
        self.operate(0, 5);
    }

    pub(super) fn bounds(&self) -> Bounds {
        Bounds { open: self.core.open.len(), on: self.open_on() }
    }

    fn open_on(&self) -> BTreeMap<NodeId, usize> {
        let mut on = BTreeMap::new();
        for open in self.core.open.values() {
            *on.entry(open.node.clone()).or_default() += 1;
        }
        on
    }

    /// What was assigned since keeps to what is set.
    pub(super) fn check_assigned(&self, before: &Bounds) {
        let set = self.set_now();
        let open = self.core.open.len();
        assert!(!set.paused || open <= before.open, "something starts at {} ms, in a pause", self.ms);
        for (node, count) in self.open_on() {
            let had = before.on.get(&node).copied().unwrap_or(0);
            assert!(
                count <= had || !set.drained.contains(&node),
                "something starts on {node}, which is drained"
            );
            let max = set.quota.and_then(|quota| quota.per_node).map_or(usize::MAX, |max| max as usize);
            assert!(count <= had.max(max), "{count} are on {node} at {} ms, of {max}", self.ms);
        }
        let max = set.quota.and_then(|quota| quota.running).map_or(usize::MAX, |max| max as usize);
        assert!(open <= before.open.max(max), "{open} are open at {} ms, of {max}", self.ms);
    }

    /// What is counted by the way is what there is.
    pub(super) fn check_counts(&self) {
        if let Some((running, _)) = self.core.runners.of_kind("noop") {
            assert_eq!(running as usize, self.core.open.len(), "at {} ms", self.ms);
            let noop = self.core.db.iter().filter(|task| !task.state.is_final());
            let waits = |task: &&Task| !matches!(task.state, TaskState::Running | TaskState::Cancelling);
            assert_eq!(
                self.core.db.used("noop").queued as usize,
                noop.filter(waits).count(),
                "at {} ms",
                self.ms
            );
        }
        for (node, runner) in self.core.runners.iter() {
            let open = self.core.open.values();
            let here = open.filter(|open| open.node == *node && Some(open.life) == runner.life);
            assert_eq!(
                runner.used,
                here.map(|open| open.slots).sum::<u32>(),
                "slots of {node} at {} ms",
                self.ms
            );
        }
    }
}
