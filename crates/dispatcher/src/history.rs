//! What a record keeps of a task's way, so that whoever asks later is told what happened, and nothing that did not.

use proto::history::Step;
use proto::task::TaskState;

use crate::record::Task;

/// First steps that are never forgotten: how it began.
const FIRST: usize = 4;

/// Steps that are kept in all.
const KEPT: usize = 16;

impl Task {
    /// It was accepted: notes what it waits for, if not for a slot.
    pub(crate) fn begin_steps(&mut self) {
        if self.history.is_none() && matches!(self.state, TaskState::Scheduled | TaskState::Blocked) {
            self.push_step(Step { at_ms: self.submitted_ms, state: self.state, until_ms: self.until() });
        }
    }

    /// Its state was `from` until `at_ms`, and since `finished_ms` if that one was final: notes what the rest of the
    /// record will not tell. Attempts say when they were assigned and ended, the task itself when it became final.
    pub(crate) fn step(&mut self, from: TaskState, finished_ms: Option<u64>, at_ms: u64) {
        if let (true, Some(at_ms)) = (from.is_final(), finished_ms) {
            self.push_step(Step { at_ms, state: from, until_ms: None });
        }
        if !self.state.is_final() && self.state != TaskState::Running {
            self.push_step(Step { at_ms, state: self.state, until_ms: self.until() });
        }
    }

    /// When its process was started, as its runner reports with its end.
    pub(crate) fn note_start(&mut self, number: u32, started_ms: u64) {
        let attempt = self.attempts.iter_mut().find(|attempt| attempt.number == number);
        if let Some(attempt) = attempt {
            attempt.started_ms.get_or_insert(started_ms);
        }
    }

    fn until(&self) -> Option<u64> {
        self.not_before_ms.filter(|_| matches!(self.state, TaskState::Scheduled | TaskState::Retrying))
    }

    fn push_step(&mut self, step: Step) {
        // Nobody told it the time: rather nothing than a wrong one.
        if step.at_ms == 0 {
            return;
        }
        let history = self.history.get_or_insert_default();
        if history.steps.len() >= KEPT {
            history.steps.remove(FIRST);
            history.forgotten = history.forgotten.saturating_add(1);
        }
        history.steps.push(step);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{Record, decode, encode};

    fn task() -> Task {
        crate::database::tests::task(7, TaskState::Queued, None)
    }

    #[test]
    fn what_nothing_else_tells_is_kept() {
        let mut task =
            Task { state: TaskState::Scheduled, submitted_ms: 5, not_before_ms: Some(50), ..task() };
        task.begin_steps();
        let mut at = 10;
        let mut turn = |task: &mut Task, state: TaskState, until: Option<u64>| {
            let (from, ended) = (task.state, task.finished_ms);
            (task.state, task.not_before_ms) = (state, until);
            task.finished_ms = state.is_final().then_some(at);
            task.step(from, ended, at);
            at += 10;
        };
        use TaskState::{Cancelled, Cancelling, Failed, Queued, Retrying, Running, Scheduled};
        for (state, until) in [
            (Queued, None),
            (Running, None),
            (Retrying, Some(99)),
            (Queued, Some(99)),
            (Running, None),
            (Failed, None),
            (Queued, None),
            (Running, None),
            (Cancelling, None),
            (Cancelled, None),
        ] {
            turn(&mut task, state, until);
        }
        let steps = &task.history.as_ref().expect("kept").steps;
        let told: Vec<_> = steps.iter().map(|step| (step.at_ms, step.state, step.until_ms)).collect();
        assert_eq!(
            told,
            [
                (5, Scheduled, Some(50)),
                (10, Queued, None),
                (30, Retrying, Some(99)),
                (40, Queued, None),
                (60, Failed, None),
                (70, Queued, None),
                (90, Cancelling, None),
            ]
        );
        match decode(task.id.as_u128(), &encode(&task)).expect("readable") {
            Record::Task(read) => assert_eq!(*read, task),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn it_is_bounded_and_says_so() {
        let mut task = Task { state: TaskState::Blocked, submitted_ms: 1, ..task() };
        task.begin_steps();
        for n in 0..1_000 {
            let from = std::mem::replace(&mut task.state, TaskState::Queued);
            task.step(from, None, n + 2);
        }
        let history = task.history.as_deref().expect("kept");
        assert_eq!((history.steps.len(), history.forgotten), (KEPT, 1_001 - KEPT as u32));
        assert_eq!(history.steps[0].state, TaskState::Blocked, "how it began");
        assert_eq!((history.steps[FIRST - 1].at_ms, history.steps[KEPT - 1].at_ms), (4, 1_001));
        assert!(encode(&task).len() < 700, "{}", encode(&task).len());
        let mut untold = Task { state: TaskState::Queued, ..self::task() };
        untold.step(TaskState::Running, None, 0);
        assert_eq!(untold.history, None, "an unknown time is not kept");
    }
}
