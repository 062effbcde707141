//! The stop: its order, its shares of the deadline, and what is aborted when they are missed (D3).

use std::time::Duration;

use super::slot::Slot;
use super::{
    DISPATCHER_BY, EXTENDED_BY, KEEPER_BY, POLITE, Part, QUORUM_BY, RUNNER_BY, StopCause, StopReport,
    Stopping, Supervisor, VIPS_BY,
};
use crate::config::OnStop;

impl Supervisor {
    /// Begins what was asked for: at once, or once nothing runs any more.
    pub(super) fn stop_requested(&mut self, on_stop: OnStop) {
        match (on_stop, &self.runner) {
            (OnStop::Drain, Slot::Running(runner)) => {
                let within = self.parts.config.tasks.drain_deadline;
                tracing::info!(
                    ?within,
                    "draining: this node takes no more tasks, and stops when those that run have ended"
                );
                runner.handle().close();
                self.draining = Some(self.clock.now() + within);
            }
            (OnStop::Kill | OnStop::Drain, _) => self.stop_as(StopCause::Requested, false),
            (OnStop::Leave, _) => self.stop_as(StopCause::Requested, true),
        }
    }

    /// Ends the waiting of a stop that waits for what runs.
    pub(super) fn advance_drain(&mut self, on_stop: OnStop) {
        let Some(until) = self.draining else { return };
        if self.stopping.is_some() {
            return;
        }
        let runs = match &self.runner {
            Slot::Running(runner) => {
                let status = runner.handle().status();
                let status = status.borrow();
                status.running as usize + status.unacknowledged
            }
            _ => 0,
        };
        if runs == 0 || on_stop != OnStop::Drain || self.clock.now() >= until {
            if runs > 0 {
                tracing::warn!(tasks = runs, "the node does not wait any longer for what runs");
            }
            self.stop_as(StopCause::Requested, on_stop == OnStop::Leave);
        }
    }

    /// Because of a failure: what runs is not at fault, and the next start goes on with it where that is wanted at all.
    pub(super) fn begin_stop(&mut self, cause: StopCause) {
        let leave = match &cause {
            StopCause::Requested | StopCause::Failed(_) => self.parts.config.tasks.on_stop == OnStop::Leave,
            StopCause::Refused(_) => false,
        };
        self.stop_as(cause, leave);
    }

    fn stop_as(&mut self, cause: StopCause, leave: bool) {
        if self.stopping.is_some() {
            return;
        }
        match &cause {
            StopCause::Requested => tracing::info!("stopping"),
            StopCause::Failed(why) => tracing::error!(%why, "stopping because of a failure"),
            StopCause::Refused(why) => {
                tracing::error!(%why, "stopping: this node cannot be part of the cluster")
            }
        }
        self.parts.drill.record(self.clock.now(), || "stop".to_owned());
        self.beat.stopping(self.stop_within);
        self.parts.pulses.supervisor.phase("Stopping", self.clock.now());
        if let Slot::Running(quorum) = &self.quorum {
            quorum.handle().set_ready(quorum::Readiness::NotReady { why: "the node is stopping".to_owned() });
        }
        self.stopping = Some(Stopping { since: self.clock.now(), cause, abandoned: Vec::new(), leave });
        if leave && let Slot::Running(runner) = &self.runner {
            runner.handle().prepare_to_leave(self.parts.config.tasks.restart_extension);
        }
        if let Some((_, asking)) = &self.asked {
            asking.abort();
        }
        // A quorum that is still being brought up holds nothing yet: it need not wait for its turn.
        if let Slot::Booting { cancel, .. } = &self.quorum {
            cancel.cancel();
        }
    }

    /// Takes the next step of the stop: dispatcher, then runner, then virtual IPs, then quorum (D3's order), and what it was
    /// connected to.
    pub(super) fn advance_stop(&mut self) {
        if self.stopping.is_none() {
            return;
        }
        // First, because this node's own dispatcher may be the one that has to answer.
        if self.asks_for_time() {
            return;
        }
        self.hurry(Part::Dispatcher, DISPATCHER_BY);
        if !self.dispatcher.is_at_rest() {
            self.stop_dispatcher();
            return;
        }
        self.hurry(Part::Runner, RUNNER_BY);
        self.stop_runner();
        if !self.runner.is_at_rest() {
            return;
        }
        self.hurry(Part::Vips, VIPS_BY);
        self.stop_vips();
        if !self.vips.is_at_rest() {
            return;
        }
        self.hurry(Part::Quorum, QUORUM_BY);
        self.stop_quorum();
        if !self.quorum.is_at_rest() {
            return;
        }
        self.hurry(Part::Keeper, KEEPER_BY);
        self.stop_keeper();
    }

    /// Whether what is left running may still be granted more time before anything is ended.
    fn asks_for_time(&self) -> bool {
        let leaves = self.stopping.as_ref().is_some_and(|stopping| stopping.leave);
        let Slot::Running(runner) = &self.runner else { return false };
        let handle = runner.handle();
        let status = handle.status();
        let status = status.borrow();
        leaves
            && !handle.has_ended()
            && !status.extended
            && status.running > 0
            && !self.remaining(EXTENDED_BY).is_zero()
    }

    /// Aborts a part that has missed its share of the deadline. What it fenced may be alive, so the session must not
    /// be closed: the quorum is not told that the effects have ended and abandons by itself.
    pub(super) fn hurry(&mut self, part: Part, percent: u32) {
        if !self.remaining(percent).is_zero() {
            return;
        }
        let Some(stopping) = &self.stopping else { return };
        let (at_rest, abort): (bool, &dyn Fn()) = match part {
            Part::Keeper => (self.keeper.is_at_rest(), &|| self.keeper.abort()),
            Part::Runner => (self.runner.is_at_rest(), &|| self.runner.abort()),
            Part::Vips => (self.vips.is_at_rest(), &|| self.vips.abort()),
            Part::Quorum => (self.quorum.is_at_rest(), &|| self.quorum.abort()),
            Part::Dispatcher => (self.dispatcher.is_at_rest(), &|| self.dispatcher.abort()),
            Part::Errand => return,
        };
        if !at_rest && !stopping.abandoned.contains(&part.name()) {
            tracing::error!(part = part.name(), "missed its deadline while stopping; aborting it");
            abort();
            self.abandon(part);
        }
    }

    /// Nobody knows what is left of a part: what the session fences stays fenced until the process has ended.
    pub(super) fn abandon(&mut self, part: Part) {
        if let Some(stopping) = &mut self.stopping {
            stopping.abandoned.push(part.name());
        }
        if let Slot::Running(quorum) = &self.quorum {
            quorum.handle().keep_session(format!("the {} did not end as it should", part.name()));
        }
    }

    /// What a component is given of its share: less than what it is aborted after.
    pub(super) fn polite(&self, percent: u32) -> Duration {
        self.remaining(percent) * POLITE / 100
    }

    /// A share of the whole stop deadline.
    pub(super) fn share(&self, percent: u32) -> Duration {
        self.stop_within * percent / 100
    }

    /// What is left until a share of the stop deadline is used up.
    pub(super) fn remaining(&self, percent: u32) -> Duration {
        let used =
            self.stopping.as_ref().map_or(Duration::ZERO, |stopping| self.clock.now().since(stopping.since));
        self.share(percent).saturating_sub(used)
    }

    pub(super) fn finished(&mut self) -> Option<StopReport> {
        let done = self.dispatcher.is_at_rest()
            && matches!(self.runner, Slot::Done)
            && matches!(self.vips, Slot::Done)
            && matches!(self.quorum, Slot::Done)
            && matches!(self.keeper, Slot::Done)
            && self.transitions.is_empty();
        if !done {
            return None;
        }
        let stopping = self.stopping.take()?;
        self.parts.drill.record(self.clock.now(), || "stopped".to_owned());
        let took = self.clock.now().since(stopping.since);
        Some(StopReport { cause: stopping.cause, took, abandoned: stopping.abandoned })
    }
}
