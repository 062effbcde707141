//! What attempts say of themselves while they run: how far they are, in memory alone; where a next one could go on, in
//! the log, so that it survives this leader and their node.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use clock::Instant;
use proto::progress::{AttemptReport, CHECKPOINT_BYTES_MAX, Checkpoint, Progress};
use proto::{AttemptId, Incarnation, NodeId};

use crate::core::{Core, Now};

/// Between two commits of one attempt's checkpoints. The last one comes with its end, however short the time.
pub(crate) const SAVE_PAUSE: Duration = Duration::from_secs(5);

/// Checkpoints of open attempts.
#[derive(Debug, Default)]
pub(crate) struct Checkpoints {
    kept: BTreeMap<AttemptId, Kept>,
    due: BTreeSet<(Instant, AttemptId)>,
}

#[derive(Debug, Default)]
struct Kept {
    saved: Option<Instant>,
    /// The newest that the log does not have, and when it is due.
    unsaved: Option<(Checkpoint, Instant)>,
}

impl Checkpoints {
    fn note(&mut self, now: Instant, attempt: AttemptId, checkpoint: Checkpoint) {
        let kept = self.kept.entry(attempt).or_default();
        let due = match &kept.unsaved {
            Some((_, due)) => *due,
            None => kept.saved.map_or(now, |saved| now.max(saved + SAVE_PAUSE)),
        };
        kept.unsaved = Some((checkpoint, due));
        self.due.insert((due, attempt));
    }

    fn take_due(&mut self, now: Instant) -> Option<(AttemptId, Checkpoint)> {
        let &(due, attempt) = self.due.first().filter(|(due, _)| *due <= now)?;
        self.due.remove(&(due, attempt));
        let kept = self.kept.get_mut(&attempt)?;
        kept.saved = Some(now);
        kept.unsaved.take().map(|(checkpoint, _)| (attempt, checkpoint))
    }

    /// The attempt has ended: what the log does not have of it.
    fn close(&mut self, attempt: AttemptId) -> Option<Checkpoint> {
        let (checkpoint, due) = self.kept.remove(&attempt)?.unsaved?;
        self.due.remove(&(due, attempt));
        Some(checkpoint)
    }
}

impl Core {
    /// A runner tells what its attempts say.
    pub(crate) fn reports(
        &mut self,
        now: Now,
        node: &NodeId,
        life: Incarnation,
        reports: Vec<AttemptReport>,
    ) {
        for AttemptReport { attempt, progress, checkpoint } in reports {
            let theirs = self.open.get(&attempt).is_some_and(|open| open.node == *node && open.life == life);
            if !theirs || self.db.get(attempt.task).is_none_or(|task| task.attempt_count != attempt.number) {
                continue;
            }
            // Whatever it was handed: the limits hold here.
            let progress = Progress::new(progress.percent, progress.message.as_deref());
            self.db.note_progress(attempt.task, progress);
            if let Some(checkpoint) = checkpoint.filter(|kept| kept.as_bytes().len() <= CHECKPOINT_BYTES_MAX)
            {
                self.checkpoints.note(now.at, attempt, checkpoint);
            }
        }
        while let Some((attempt, checkpoint)) = self.checkpoints.take_due(now.at) {
            self.save_checkpoint(attempt, checkpoint);
        }
    }

    /// The attempt has ended, and `last` came with its end: its task's next one gets what is newest.
    pub(crate) fn close_checkpoint(&mut self, attempt: AttemptId, last: Option<Checkpoint>) {
        let unsaved = self.checkpoints.close(attempt);
        let last = last.filter(|kept| kept.as_bytes().len() <= CHECKPOINT_BYTES_MAX).or(unsaved);
        let present = self.db.get(attempt.task).is_some_and(|task| {
            task.attempt_count == attempt.number
                && task.attempt(attempt.number).is_some_and(|attempt| attempt.end.is_none())
        });
        if let Some(last) = last.filter(|_| present) {
            self.save_checkpoint(attempt, last);
        }
    }

    fn save_checkpoint(&mut self, attempt: AttemptId, checkpoint: Checkpoint) {
        let known = self.db.get(attempt.task).is_none_or(|task| {
            task.checkpoint.as_deref().map_or(checkpoint.as_bytes().is_empty(), |kept| *kept == checkpoint)
        });
        if !known {
            let checkpoint = (!checkpoint.as_bytes().is_empty()).then(|| Box::new(checkpoint));
            self.db.change(attempt.task, |task| task.checkpoint = checkpoint);
        }
    }
}
