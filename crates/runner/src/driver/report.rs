//! What the runner tells the leader: signs of life, and ends.

use std::sync::Arc;
use std::time::Duration;

use clock::Instant;
use proto::AttemptId;
use proto::leader::{Heartbeat, HeartbeatReply, OutcomeReport};
use proto::progress::AttemptReport;
use proto::task::AttemptEnd;
use tokio::time;

use super::{Driver, Job, SHIM_SLACK};
use crate::LinkError;
use crate::process::blocking;

/// Ends in one report: well below a frame.
pub(super) const REPORT_MAX: usize = 2_000;
/// Attempts of which one heartbeat tells.
const REPORTS_MAX: usize = 256;
/// What that may take, in bytes.
const REPORTS_BYTES_MAX: usize = 256 * 1024;
/// Before a report is tried again.
const REPORT_AGAIN: Duration = Duration::from_millis(200);
/// For a report, which waits for a commit.
const REPORT_DEADLINE: Duration = Duration::from_secs(5);

impl Driver {
    /// Beats as soon as possible: what was under way may have gone to somebody who leads no more.
    pub(super) fn beat_now(&mut self) {
        if let Some(beating) = self.beating.take() {
            beating.abort();
        }
        self.beat_at = time::Instant::now();
    }

    pub(super) fn send_beat(&mut self, now: Instant) {
        if self.fence.floor().is_none() {
            return;
        }
        if self.beating.is_some() {
            return;
        }
        // Not while a heartbeat is under way: a link that always says "changed" must not keep aborting it.
        if !self.watching_leader {
            self.watching_leader = true;
            let leader = Arc::clone(&self.options.leader);
            self.spawn_job("the watch on the leader", async move {
                leader.changed().await;
                Job::LeaderChanged
            });
        }
        if time::Instant::now() < self.beat_at {
            return;
        }
        let leave_ms = self.leave_ms();
        let beat = Heartbeat {
            node: self.options.node.clone(),
            address: self.options.address.clone(),
            incarnation: self.options.incarnation,
            ended_incarnations: self.ended_incarnations.clone(),
            grant: self.fence.grant(now),
            capacity: self.capacity(),
            running: self.live.keys().copied().collect(),
            leave_ms,
            reports: self.reports(),
        };
        let (leader, clock) = (Arc::clone(&self.options.leader), Arc::clone(&self.options.clock));
        let deadline = (self.options.heartbeat * 2).max(Duration::from_millis(500));
        self.beat_at = time::Instant::now() + self.options.heartbeat;
        self.beating = Some(self.spawn_job("a heartbeat", async move {
            let sent = clock.now();
            let result = match time::timeout(deadline, leader.heartbeat(beat)).await {
                Ok(result) => result,
                Err(_) => Err(LinkError::Unreachable(format!("no answer within {deadline:?}"))),
            };
            Job::Beat { sent, leaving: leave_ms.is_some(), result }
        }));
    }

    /// What attempts have said that this leader has not heard, those first that it has heard least of; the newest alone,
    /// and as much as fits: the rest comes with the next heartbeats.
    fn reports(&mut self) -> Vec<AttemptReport> {
        let floor = self.fence.floor();
        let mut news: Vec<_> = self
            .live
            .iter()
            .filter_map(|(attempt, live)| {
                let said = live.reports.newest();
                let told = live.told.filter(|(token, _)| Some(*token) == floor).map_or(0, |(_, count)| count);
                (said.count > told).then_some((told, *attempt, said))
            })
            .collect();
        news.sort_by_key(|(told, attempt, _)| (*told, *attempt));
        let mut room = REPORTS_BYTES_MAX;
        let mut reports = Vec::new();
        self.telling.clear();
        for (_, attempt, said) in news.into_iter().take(REPORTS_MAX) {
            let bytes = 64
                + said.progress.message.as_ref().map_or(0, String::len)
                + said.checkpoint.as_ref().map_or(0, |checkpoint| checkpoint.as_bytes().len());
            let Some(left) = room.checked_sub(bytes) else { break };
            room = left;
            self.telling.push((attempt, said.count));
            reports.push(AttemptReport { attempt, progress: said.progress, checkpoint: said.checkpoint });
        }
        reports
    }

    pub(super) fn beaten(&mut self, sent: Instant, leaving: bool, result: Result<HeartbeatReply, LinkError>) {
        self.beating = None;
        self.retire();
        let reply = match result {
            Ok(reply) => reply,
            Err(error) => {
                tracing::debug!(%error, "a heartbeat was not answered");
                return;
            }
        };
        let now = self.options.clock.now();
        // What has lost its right already is not given another.
        self.lapse_adopted(now);
        let before = self.fence.grant(now);
        let extends = self.fence.answered(sent, &reply, now);
        if !extends {
            tracing::debug!(token = %reply.token, grant = reply.grant.0, "an answer extends nothing");
        }
        self.extended |= extends && leaving;
        if self.fence.grant(now) != before {
            // The leader sends no start before it has heard that the grant has arrived.
            self.beat_at = time::Instant::now();
        }
        if self.reports_fail_since.is_some() {
            // Whoever answers heartbeats takes ends too, and counts their slots as taken until then.
            self.report_at = time::Instant::now();
        }
        // First: what must end must not hear that it may go on.
        if self.fence.floor() == Some(reply.token) {
            for (attempt, count) in std::mem::take(&mut self.telling) {
                if let Some(live) = self.live.get_mut(&attempt) {
                    live.told = Some((reply.token, count));
                }
            }
            for attempt in reply.end {
                let reason = "the leader has given it up".to_owned();
                let (grace, hard_at) = (self.options.kill_grace, now + self.options.kill_grace + SHIM_SLACK);
                self.end(attempt, AttemptEnd::Lost { reason }, grace, hard_at);
            }
        }
        // A lapse that nobody has noticed yet still has its deadline: it must not be pushed to the shims.
        if self.fence.grant(now).is_some() {
            self.adoption_is_answered();
            let deadline = self.fence.deadline();
            self.deadline.send_if_modified(|old| std::mem::replace(old, deadline) != deadline);
        }
    }

    pub(super) fn send_report(&mut self) {
        let idle =
            self.reporting.is_some() || self.ledger.unacknowledged() == 0 || self.fence.floor().is_none();
        if idle || time::Instant::now() < self.report_at {
            return;
        }
        let outcomes = self.ledger.to_report(REPORT_MAX);
        let attempts: Vec<AttemptId> = outcomes.iter().map(|outcome| outcome.attempt).collect();
        let report = OutcomeReport {
            node: self.options.node.clone(),
            incarnation: self.options.incarnation,
            outcomes,
        };
        let leader = Arc::clone(&self.options.leader);
        let job = self.spawn_job("a report", async move {
            let result = match time::timeout(REPORT_DEADLINE, leader.outcomes(report)).await {
                Ok(result) => result,
                Err(_) => Err(LinkError::Unreachable(format!("no answer within {REPORT_DEADLINE:?}"))),
            };
            Job::Reported { attempts, result }
        });
        self.reporting = Some(job.id());
    }

    pub(super) fn reported(&mut self, attempts: &[AttemptId], result: Result<Vec<AttemptId>, LinkError>) {
        self.reporting = None;
        let acknowledged = result.unwrap_or_else(|error| {
            tracing::debug!(%error, "a report was not acknowledged");
            Vec::new()
        });
        if acknowledged.len() == attempts.len() {
            self.reports_fail_since = None;
        } else {
            self.reports_fail_since.get_or_insert_with(time::Instant::now);
            self.report_at = time::Instant::now() + REPORT_AGAIN;
        }
        let tidy = self.ledger.acknowledged(attempts, &acknowledged);
        self.untidy.0.extend(tidy);
        self.retire();
    }

    /// Gives up output beyond the retention.
    fn retire(&mut self) {
        let surplus = self.ledger.surplus(self.options.clock.wall().0);
        self.untidy.1.extend(surplus);
        self.tidy_up();
    }

    /// One job at a time: an attempt is noted as acknowledged before it is removed.
    pub(super) fn tidy_up(&mut self) {
        if self.tidying || (self.untidy.0.is_empty() && self.untidy.1.is_empty()) {
            return;
        }
        self.tidying = true;
        let (acknowledged, surplus) = std::mem::take(&mut self.untidy);
        let shims = Arc::clone(&self.shims);
        self.spawn_job("the tidying up", async move {
            let tidied = blocking(move || {
                let store = &shims.store;
                let noted = acknowledged.into_iter().map(|attempt| (attempt, store.acknowledge(attempt)));
                let noted: Vec<_> = noted.collect();
                let removed = surplus.into_iter().map(|attempt| (attempt, store.forget(attempt)));
                for (attempt, result) in noted.into_iter().chain(removed) {
                    if let Err(error) = result {
                        tracing::warn!(%attempt, %error, "cannot tidy up after an acknowledged attempt");
                    }
                }
                Ok(())
            });
            let _ = tidied.await;
            Job::Tidied
        });
    }
}
