//! The stop: its order, its shares of the deadline, and what is aborted when they are missed (D3).

use std::time::Duration;

use super::slot::Slot;
use super::{
    DISPATCHER_BY, KEEPER_BY, POLITE, Part, QUORUM_BY, RUNNER_BY, StopCause, StopReport, Stopping,
    Supervisor, VIPS_BY,
};

impl Supervisor {
    pub(super) fn begin_stop(&mut self, cause: StopCause) {
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
        self.stopping = Some(Stopping { since: self.clock.now(), cause, abandoned: Vec::new() });
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
