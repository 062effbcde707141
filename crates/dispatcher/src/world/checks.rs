//! What holds in the world at every step, and that everything ends once nothing goes wrong any more.

use super::*;

impl World {
    pub(super) fn check(&self) {
        let mut running: BTreeMap<TaskId, Vec<AttemptId>> = BTreeMap::new();
        for machine in &self.machines {
            for attempt in machine.processes.keys().chain(machine.orphans.keys()) {
                running.entry(attempt.task).or_default().push(*attempt);
            }
        }
        let mut held: BTreeMap<&str, (u32, usize)> = BTreeMap::new();
        for task in running.keys().filter_map(|id| self.core.db.get(*id)) {
            for limit in &task.spec.rules().limits {
                held.entry(&limit.key).or_insert((limit.max, 0)).1 += running[&task.id].len();
            }
            for dependency in &task.spec.rules().after {
                // What a person retries starts at once, and may run again itself.
                let free = [task.id, dependency.task].iter().any(|id| self.retried.contains(id));
                let end = self.core.db.get(dependency.task).map(|task| task.state);
                let started =
                    format!("{} runs at {} ms, while {} is {end:?}", task.id, self.ms, dependency.task);
                match dependency.on {
                    Condition::Success => assert!(free || end == Some(TaskState::Succeeded), "{started}"),
                    _ => assert!(free || end.is_some_and(TaskState::is_final), "{started}"),
                }
            }
        }
        for (key, (max, count)) in held {
            assert!(count <= max as usize, "{count} run under {key} at {} ms, of {max}", self.ms);
        }
        for (task, attempts) in running {
            let policy = self.core.db.get(task).map(|task| task.spec.on_lost);
            let limited = self.core.db.get(task).is_some_and(|task| !task.spec.rules().limits.is_empty());
            if policy != Some(LostPolicy::RequeueNow) || limited {
                assert!(attempts.len() <= 1, "attempts overlap at {} ms: {attempts:?}", self.ms);
            }
        }
        for task in &self.accepted {
            assert!(self.log.get(&task.as_u128()).is_some_and(|(_, body)| body.is_some()), "{task} is lost");
            assert!(self.core.db.get(*task).is_some(), "{task} is forgotten");
        }
        self.check_schedules();
        self.check_counts();
        self.core.queue.check();
    }

    /// Everything works from now on: every task must end.
    pub(super) fn settle(&mut self) {
        for index in 0..NODES {
            self.machines[index].cut = false;
            self.restart(index, Boot::Adopts);
            self.machines[index].leaving = false;
        }
        self.members();
        self.unset();
        self.pause_all();
        for round in 0..2_000_u64 {
            for index in 0..NODES {
                self.send_beat(index);
                self.deliver_beat(index, false);
                self.finish_one(index, 1);
                self.finish_one(index, 1);
                self.report(index);
            }
            self.turn(7);
            while !self.pending.is_empty() {
                self.commit();
            }
            self.turn(7);
            self.advance(100);
            self.check();
            if round > 3 && self.core.db.iter().all(|task| task.state.is_final()) && self.core.open.is_empty()
            {
                break;
            }
        }
        let unfinished: Vec<_> = self.core.db.iter().filter(|task| !task.state.is_final()).collect();
        assert!(
            unfinished.is_empty(),
            "at {} ms these never end: {unfinished:#?} {:#?}",
            self.ms,
            self.core.open
        );
        self.check_ticks();
        for task in &self.done {
            let state = self.core.db.get(*task).map(|task| task.state);
            assert_eq!(state, Some(TaskState::Succeeded), "{task}, whose success was acknowledged");
        }
        for task in self.core.db.iter() {
            assert!(task.lost <= 4 && task.failed <= 3, "{task:?} had more attempts than it may");
        }
    }
}
