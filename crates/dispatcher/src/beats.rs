//! What runners tell: heartbeats, inventories, answers to questions, outcomes.

use std::collections::BTreeSet;
use std::time::Duration;

use proto::leader::{Heartbeat, HeartbeatReply, OutcomeReport};
use proto::runner::{Inventory, Outcome, Presence};
use proto::task::TaskState;
use proto::{AttemptId, Incarnation, NodeId};

use crate::attempts::{Budget, Sent};
use crate::core::{Core, Now};

/// Attempts in one question.
const ASK_MAX: usize = 1_024;

/// Least time between two questions to one runner.
const ASK_PAUSE: Duration = Duration::from_millis(500);

/// After so many heartbeats that do not list it, a runner is asked about an attempt.
const MISSING_MAX: u8 = 2;

/// A question to one runner. Its inventory is asked for after everything else.
#[derive(Clone, Debug)]
pub(crate) struct Ask {
    pub(crate) node: NodeId,
    pub(crate) address: String,
    pub(crate) cancel: Vec<AttemptId>,
    pub(crate) confirm: Vec<AttemptId>,
}

/// The answer.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) presences: Vec<(AttemptId, Presence)>,
    /// Taken after the presences, so that they come from this life or an earlier one.
    pub(crate) inventory: Inventory,
}

impl Core {
    /// A heartbeat; none if it must not be answered. Call [`answered`](Self::answered) when the answer leaves.
    pub(crate) fn heartbeat(&mut self, now: Now, beat: Heartbeat) -> Option<HeartbeatReply> {
        let Heartbeat {
            node,
            address,
            incarnation,
            ended_incarnations,
            grant: held,
            capacity,
            running,
            reports,
            leave_ms,
        } = beat;
        let fresh = self.runners.fresh;
        self.runners.ensure(&node);
        let used = self.slots_used(&node, incarnation);
        let known = self.runners.get(&node).and_then(|runner| runner.life) == Some(incarnation);
        // Not one for every heartbeat: a long term of many runners would run out of them.
        let new = (!known || held.is_none()).then(|| self.new_grant());
        let grant = self.runners.change(&node, now.at, |runner| {
            if runner.life != Some(incarnation) {
                // A twin with the same name must not displace a member that lives.
                let lives = runner.life.filter(|life| {
                    runner.member == Some(*life)
                        && runner.answered.is_some_and(|at| now.at.since(at) <= fresh)
                        && !ended_incarnations.contains(life)
                });
                if lives.is_some() {
                    return None;
                }
                runner.life = Some(incarnation);
                runner.used = used;
                runner.answered = None;
            }
            runner.grant = new.unwrap_or(runner.grant);
            // An answer that gives a new one may still be on its way when the first start would arrive.
            runner.holds_grant = held == Some(runner.grant);
            runner.address = address;
            runner.capacity = capacity;
            Some(runner.grant)
        });
        let Some(grant) = grant.flatten() else {
            tracing::warn!(%node, %incarnation, "another life of this node is a member and alive; its twin is not answered");
            return None;
        };
        self.adopted(now, &node, incarnation, &ended_incarnations, &running);
        self.gone_due |= !known;
        let right = self.right(now, &node, leave_ms);
        let end = self.sighted(now, &node, incarnation, &running);
        self.reports(now, &node, incarnation, reports);
        self.ask_after(now, &node, &ended_incarnations);
        Some(HeartbeatReply {
            token: self.settings.token,
            grant,
            fence_after_ms: u64::try_from(right.as_millis()).unwrap_or(u64::MAX),
            end,
        })
    }

    /// Slots of what may run on a life.
    fn slots_used(&self, node: &NodeId, life: Incarnation) -> u32 {
        let attempts = self.lives.get(&(node.clone(), life)).into_iter().flatten();
        let slots = attempts.filter_map(|attempt| self.open.get(attempt)).map(|open| open.slots);
        slots.fold(0, u32::saturating_add)
    }

    /// The answer to a heartbeat leaves now.
    pub(crate) fn answered(&mut self, now: Now, node: &NodeId, life: Incarnation) {
        self.fence.answered(node, life, now.at);
        self.runners.change(node, now.at, |runner| {
            if runner.life == Some(life) {
                runner.answered = Some(now.at);
            }
        });
        self.dispatch_due |= self.queue.len() > 0;
    }

    /// A life lists what it runs. Returns what it must not run.
    fn sighted(
        &mut self,
        now: Now,
        node: &NodeId,
        life: Incarnation,
        running: &[AttemptId],
    ) -> Vec<AttemptId> {
        let mut end = Vec::new();
        for attempt in running {
            let Some(open) =
                self.open.get_mut(attempt).filter(|open| open.node == *node && open.life == life)
            else {
                end.push(*attempt);
                continue;
            };
            open.missing = 0;
            if open.sent != Sent::Unsent {
                open.sent = Sent::Accepted;
            }
            let cancelling = self.db.get(attempt.task).is_none_or(|task| task.state != TaskState::Running);
            if cancelling || open.overdue || open.ending || open.evicted {
                end.push(*attempt);
            }
        }
        let Some(attempts) = self.lives.get(&(node.clone(), life)) else { return end };
        let listed: BTreeSet<&AttemptId> = running.iter().collect();
        let absent: Vec<AttemptId> =
            attempts.iter().filter(|attempt| !listed.contains(attempt)).copied().collect();
        for attempt in absent {
            if let Some(open) = self.open.get_mut(&attempt)
                && matches!(open.sent, Sent::Accepted | Sent::Unsure)
            {
                open.missing = open.missing.saturating_add(1);
                if open.missing >= MISSING_MAX {
                    self.ask_confirm(now, attempt);
                }
            }
        }
        end
    }

    /// Rule (c): attempts of these lives are over; their ends may still be with the present one.
    fn ask_after(&mut self, now: Now, node: &NodeId, ended: &[Incarnation]) {
        for life in ended {
            if let Some(attempts) = self.lives.get(&(node.clone(), *life)) {
                for attempt in attempts.clone() {
                    self.ask_confirm(now, attempt);
                }
            }
        }
    }

    /// Outcomes that a runner wants to be rid of. Returns those that it may forget once this is committed.
    pub(crate) fn outcomes(&mut self, now: Now, report: OutcomeReport) -> Vec<AttemptId> {
        let attempts = report.outcomes.iter().map(|outcome| outcome.attempt).collect();
        for outcome in report.outcomes {
            self.outcome(now, &report.node, outcome);
        }
        attempts
    }

    fn outcome(&mut self, now: Now, node: &NodeId, outcome: Outcome) {
        let attempt = outcome.attempt;
        let theirs = self.db.get(attempt.task).and_then(|task| task.attempt(attempt.number));
        if theirs.is_some_and(|kept| kept.node != *node) {
            tracing::warn!(%attempt, %node, "a node reports the end of another node's attempt; it is ignored");
            return;
        }
        self.close_checkpoint(attempt, outcome.checkpoint);
        self.db.note_start(attempt, outcome.started_ms);
        self.settle(now, attempt, outcome.end, Budget::Counts);
    }

    /// Asks the attempt's runner where it stands.
    pub(crate) fn ask_confirm(&mut self, now: Now, attempt: AttemptId) {
        self.ask(now, attempt, false);
    }

    /// Asks the attempt's runner to end it.
    pub(crate) fn ask_cancel(&mut self, now: Now, attempt: AttemptId) {
        self.ask(now, attempt, true);
    }

    fn ask(&mut self, now: Now, attempt: AttemptId, cancel: bool) {
        let Some(open) = self.open.get(&attempt) else { return };
        if open.sent == Sent::Unsent {
            return; // The outbox drops what is not wanted any more.
        }
        let node = open.node.clone();
        self.runners.change(&node, now.at, |runner| *runner.ask.entry(attempt).or_default() |= cancel);
        self.ask_due.insert(node);
    }

    /// Questions that may be asked now.
    pub(crate) fn next_asks(&mut self, now: Now) -> Vec<Ask> {
        let mut asks = Vec::new();
        for node in std::mem::take(&mut self.ask_due) {
            let Some(runner) = self.runners.get(&node) else { continue };
            if runner.ask.is_empty() && !runner.inventory_due {
                continue;
            }
            if runner.asking || runner.address.is_empty() || now.at < runner.ask_at {
                self.ask_due.insert(node);
                continue;
            }
            let ask = self.runners.change(&node, now.at, |runner| {
                let mut ask = Ask {
                    node: node.clone(),
                    address: runner.address.clone(),
                    cancel: Vec::new(),
                    confirm: Vec::new(),
                };
                while ask.cancel.len() + ask.confirm.len() < ASK_MAX
                    && let Some((attempt, cancel)) = runner.ask.pop_first()
                {
                    if cancel { ask.cancel.push(attempt) } else { ask.confirm.push(attempt) }
                }
                runner.inventory_due = false;
                runner.asking = true;
                runner.ask_at = now.at + ASK_PAUSE;
                ask
            });
            asks.extend(ask);
        }
        asks
    }

    /// A question was answered, or not.
    pub(crate) fn asked(&mut self, now: Now, ask: Ask, answer: Result<Answer, String>) {
        let node = ask.node.clone();
        self.runners.change(&node, now.at, |runner| runner.asking = false);
        self.ask_due.insert(node.clone());
        let answer = answer.and_then(|answer| {
            if answer.inventory.node == node {
                Ok(answer)
            } else {
                Err(format!("{} answers at its address", answer.inventory.node))
            }
        });
        let Answer { presences, inventory } = match answer {
            Ok(answer) => answer,
            Err(reason) => {
                tracing::debug!(%node, reason, "a runner did not answer; it is asked again");
                for (attempts, cancel) in [(ask.cancel, true), (ask.confirm, false)] {
                    for attempt in attempts {
                        self.ask(now, attempt, cancel);
                    }
                }
                self.runners.change(&node, now.at, |runner| {
                    runner.inventory_due |= runner.member.is_some();
                });
                return;
            }
        };
        let life = inventory.incarnation;
        for outcome in inventory.outcomes {
            self.outcome(now, &node, outcome);
        }
        for (attempt, presence) in presences {
            match presence {
                Presence::Ended(outcome) => self.outcome(now, &node, outcome),
                Presence::Running => {
                    if let Some(open) = self.open.get_mut(&attempt) {
                        open.sent = Sent::Accepted;
                        open.missing = 0;
                    }
                }
                Presence::Unknown => self.unknown(now, attempt, life, &inventory.ended_incarnations),
            }
        }
        self.sighted(now, &node, life, &inventory.running);
        // What a predecessor may have sent and this life neither runs nor has ended has to be asked for by name:
        // only that answer keeps a start that is still under way from being accepted later.
        let unsure = self.lives.get(&(node.clone(), life)).into_iter().flatten().copied();
        let unsure: Vec<AttemptId> = unsure
            .filter(|attempt| self.open.get(attempt).is_some_and(|open| open.sent == Sent::Unsure))
            .collect();
        for attempt in unsure {
            self.ask_confirm(now, attempt);
        }
        self.ask_after(now, &node, &inventory.ended_incarnations);
    }

    /// Rule (a), or (c): this life says that the attempt never ran there and never will.
    fn unknown(&mut self, now: Now, attempt: AttemptId, life: Incarnation, ended: &[Incarnation]) {
        let Some(open) = self.open.get(&attempt) else { return };
        if open.life == life {
            if open.sent == Sent::Accepted {
                let reason = format!("node {} had accepted it and knows nothing of it any more", open.node);
                self.settle(now, attempt, proto::task::AttemptEnd::Lost { reason }, Budget::Counts);
            } else {
                self.never_started(now, attempt, "the start had not reached its runner");
            }
        } else if ended.contains(&open.life) {
            let reason = format!("node {} was restarted and has ended what it ran", open.node);
            self.settle(now, attempt, proto::task::AttemptEnd::Lost { reason }, Budget::Counts);
        }
        // Otherwise another life speaks that knows nothing of the one that was meant: only the fence decides.
    }

    /// Forgets runners that are no members and have nothing left to tell.
    pub(crate) fn forget_runners(&mut self, now: Now) {
        let Self { runners, fence, lives, .. } = self;
        let fresh = runners.fresh;
        let idle: Vec<NodeId> = runners
            .iter()
            .filter(|(_, runner)| {
                runner.member.is_none()
                    && runner.outbox.is_empty()
                    && runner.calls == 0
                    && !runner.asking
                    && runner.answered.is_none_or(|at| now.at.since(at) > fresh)
            })
            .map(|(node, _)| node.clone())
            .filter(|node| !lives.keys().any(|(other, _)| other == node))
            .collect();
        for node in idle {
            runners.remove(&node);
        }
        fence.retain(now.at, |node, life| {
            lives.contains_key(&(node.clone(), life))
                || runners.get(node).is_some_and(|runner| runner.life == Some(life))
        });
    }
}
