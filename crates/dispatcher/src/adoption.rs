//! Attempts that outlive their daemon: a restarted one adopts what its predecessor left, or is given time to do so.
//!
//! Rule (c) of the task fence says that a later life of the same machine ends its predecessors. What it *adopts* instead it
//! lists among what it runs, and each such attempt becomes its own here, right to run included: whatever the life before
//! had been granted counts for the new one. So an attempt has one life at a time, and its fence never gets shorter.
//!
//! A planned restart asks for more time first. The log says so before the runner hears of it, for that node alone: the
//! others keep their fence, and so does this one once the time is over.

use std::time::Duration;

use proto::{AttemptId, Incarnation, NodeId};

use crate::attempts::Sent;
use crate::core::{Core, Now};

/// The longest that a planned restart may add to the right to run.
pub(crate) const EXTENSION_MAX: Duration = Duration::from_secs(600);

impl Core {
    /// Moves what this life has adopted from earlier ones of its machine over to it.
    pub(crate) fn adopted(
        &mut self,
        now: Now,
        node: &NodeId,
        life: Incarnation,
        ended: &[Incarnation],
        running: &[AttemptId],
    ) {
        let mut count = 0_usize;
        for attempt in running {
            let Some(open) = self.open.get_mut(attempt).filter(|open| {
                open.node == *node
                    && open.life != life
                    && ended.contains(&open.life)
                    && open.sent != Sent::Unsent
            }) else {
                continue;
            };
            let (from, slots) = (std::mem::replace(&mut open.life, life), open.slots);
            (open.sent, open.missing) = (Sent::Accepted, 0);
            let key = (node.clone(), from);
            if let Some(attempts) = self.lives.get_mut(&key) {
                attempts.remove(attempt);
                if attempts.is_empty() {
                    self.lives.remove(&key);
                }
            }
            self.lives.entry((node.clone(), life)).or_default().insert(*attempt);
            self.fence.inherit(node, from, life);
            self.runners.change(node, now.at, |runner| {
                if runner.life == Some(life) {
                    runner.used = runner.used.saturating_add(slots);
                }
            });
            self.db.change(attempt.task, |task| {
                if let Some(kept) = task.attempts.iter_mut().find(|kept| kept.number == attempt.number) {
                    kept.incarnation = life;
                }
            });
            count += 1;
        }
        if count > 0 {
            tracing::info!(%node, attempts = count, "the restarted node goes on with what it ran");
        }
    }

    /// How long the right to run lasts that this heartbeat is answered with. More than usual is in the log's next group,
    /// behind which the answer has to wait.
    pub(crate) fn right(&mut self, now: Now, node: &NodeId, leave_ms: Option<u64>) -> Duration {
        let usual = self.settings.fence_after;
        let Some(more) = leave_ms.map(Duration::from_millis).filter(|more| !more.is_zero()) else {
            return usual;
        };
        let right = usual + more.min(EXTENSION_MAX);
        self.db.extend(node, right);
        // The right counts from the sending of the heartbeat, which lies in the past already.
        self.fence.extend(node, now.at, right);
        tracing::info!(%node, ?right, "the node is to be restarted: what runs there may go on for so long");
        right
    }

    /// Whether an answer with this right must not leave before the log holds it.
    pub(crate) fn is_extended(&self, fence_after_ms: u64) -> bool {
        u128::from(fence_after_ms) > self.settings.fence_after.as_millis()
    }

    /// Forgets the extensions that are over.
    pub(crate) fn end_extensions(&mut self, now: Now) {
        for node in self.fence.end_extensions(now.at) {
            self.db.end_extension(&node);
            self.gone_due = true;
        }
    }

    /// Whether what ran on a life that is no member may be about to be heard of again: its node said that it would
    /// come back, or has, and has yet to say what it has adopted.
    pub(crate) fn may_come_back(&self, now: Now, node: &NodeId) -> bool {
        let back = self
            .runners
            .get(node)
            .is_some_and(|runner| runner.member.is_some() && runner.member != runner.life);
        back || self.fence.extended_until(node).is_some_and(|until| now.at < until)
    }
}
