//! Following what the quorum publishes, and noticing components that died by themselves.

use std::sync::Arc;

use super::decide::{self, Next, RoleNow, SlotNow};
use super::slot::Slot;
use super::{StopCause, Supervisor, failure_of};

impl Supervisor {
    pub(super) fn follow_view(&mut self) {
        let Some(receiver) = &mut self.view else { return };
        let view = Arc::clone(&receiver.borrow_and_update());
        if let coord::LinkState::Connected { since, .. } = view.link
            && self.stopping.is_none()
        {
            self.ask_coordination(since);
        }
        if self.published.borrow().view.as_ref().is_none_or(|known| !Arc::ptr_eq(known, &view)) {
            if let (Some(token), Some(runner)) = (view.seen_token, self.published.borrow().runner.as_ref()) {
                runner.observe(token);
            }
            self.parts.follow(&view);
            let members = view.members.iter().map(|member| (&member.node, member.sequence));
            self.published.borrow().memory.members(members, view.as_of);
            self.published.send_modify(|published| published.view = Some(Arc::clone(&view)));
        }
        self.feed_vips(&view);
        if let (Some(epoch), Slot::Running(dispatching)) = (self.term, &self.dispatcher)
            && let Some(failure) = failure_of(&dispatching.handle())
        {
            tracing::warn!(%epoch, %failure, "the dispatcher cannot go on; giving up this term");
            self.resign(epoch, &failure);
            self.stop_dispatcher();
        }
        let (role, term) = match &view.role {
            quorum::Role::Follower => (RoleNow::Follower, None),
            quorum::Role::Elected(term) => (RoleNow::Elected(term.token.epoch), Some(term)),
            quorum::Role::Suspended(term) => (RoleNow::Suspended(term.token.epoch), Some(term)),
            quorum::Role::Resigning(term) => (RoleNow::Resigning(term.token.epoch), Some(term)),
        };
        let slot = match (&self.dispatcher, self.term) {
            (Slot::Booting { .. } | Slot::Running(_), Some(epoch)) => SlotNow::Active(epoch),
            (Slot::Stopping { .. }, _) => SlotNow::Stopping,
            _ => self.gave_up.map_or(SlotNow::Idle, SlotNow::Spent),
        };
        match decide::next(role, slot, self.stopping.is_some()) {
            Next::Nothing => {}
            Next::Boot(_) => {
                if let Some(term) = term.cloned() {
                    self.boot_dispatcher(term);
                }
            }
            Next::Stop => self.stop_dispatcher(),
            Next::ReportEnded(epoch) => {
                // After an abort nobody knows what is still alive, so the term is left to expire.
                let known_ended = self.stopping.as_ref().is_none_or(|stopping| stopping.abandoned.is_empty());
                // Also while the quorum leaves: a claim that was under way when its stop began is a term as well, and
                // waits to be told that nothing of it was ever alive.
                if known_ended
                    && self.reported_ended != Some(epoch)
                    && matches!(self.quorum, Slot::Running(_) | Slot::Stopping { .. })
                    && let Some(quorum) = self.published.borrow().quorum.as_ref()
                {
                    quorum.effects_ended(epoch);
                    self.reported_ended = Some(epoch);
                }
            }
        }
    }

    /// What no event tells: a quorum that died, a dispatcher that does not end.
    pub(super) fn look_after_components(&mut self) {
        if self.stopping.is_some() {
            return;
        }
        if let Slot::Running(quorum) = &self.quorum
            && quorum.handle().has_ended()
        {
            // Its session is alive and nobody's: that of the incident. The process has to end.
            self.begin_stop(StopCause::Failed("the quorum ended by itself".to_owned()));
        } else if let Slot::Running(runner) = &self.runner
            && runner.handle().has_ended()
        {
            self.begin_stop(StopCause::Failed("the runner ended by itself".to_owned()));
        } else if let Slot::Running(vips) = &self.vips
            && vips.handle().has_ended()
        {
            self.begin_stop(StopCause::Failed("the VIP driver ended by itself".to_owned()));
        } else if decide::is_overdue(self.ending, self.clock.now(), self.stop_within) {
            let why = format!("the dispatcher did not end within {:?} of losing its term", self.stop_within);
            self.begin_stop(StopCause::Failed(why));
        }
    }
}
