//! What outlives a daemon: going on with what a predecessor left, and leaving it to a successor.

use std::sync::Arc;

use clock::Instant;
use proto::task::AttemptEnd;
use tokio::sync::watch;

use super::{Driver, Live, Mode, STARTING_MAX};
use crate::adopt::{self, Adopted};
use crate::attempt::Control;
use crate::handle::Closing;
use crate::leftovers;
use crate::process::blocking;
use crate::service::Reports;
use crate::shim::KILL_ALLOWANCE;

impl Driver {
    /// Supervises what a predecessor left. Before the first heartbeat, so that every one of them lists it.
    pub(super) fn adopt(&mut self, adopted: Vec<Adopted>) {
        for living in adopted {
            let (attempt, until) = (living.attempt, living.until);
            let (end, end_seen) = watch::channel(None);
            let clock = Arc::clone(&self.options.clock);
            let control = Control { fence: self.deadline.subscribe(), end: end_seen, clock };
            let reports = Reports::default();
            let work = adopt::run(Arc::clone(&self.shims), living, reports.clone(), control);
            let spawned =
                self.attempts.spawn(self.options.pulse.watch("the supervision of an attempt", work));
            self.ids.insert(spawned.id(), attempt);
            let live = Live { end, in_process: false, reports, told: None, own_until: Some(until) };
            self.live.insert(attempt, live);
        }
    }

    /// Ends what was adopted and has lost the right that it had from the life before, while no leader has given it
    /// another. Idempotent.
    pub(super) fn lapse_adopted(&mut self, now: Instant) {
        let early = self.options.kill_grace + KILL_ALLOWANCE;
        let mut lapsed = Vec::new();
        for (attempt, live) in &mut self.live {
            if let Some(until) = live.own_until.filter(|until| now >= *until - early) {
                live.own_until = None;
                lapsed.push((*attempt, until));
            }
        }
        for (attempt, until) in lapsed {
            tracing::warn!(%attempt, "no leader has answered since the restart: what a predecessor left is ended");
            let reason = "its node was restarted and had no answer from a leader for longer than the fence";
            let end = AttemptEnd::Lost { reason: reason.to_owned() };
            self.end(attempt, end, self.options.kill_grace, until - KILL_ALLOWANCE / 2);
        }
    }

    /// When [`lapse_adopted`](Self::lapse_adopted) must be called.
    pub(super) fn adopted_lapse_at(&self) -> Option<Instant> {
        let until = self.live.values().filter_map(|live| live.own_until).min()?;
        Some(until - (self.options.kill_grace + KILL_ALLOWANCE))
    }

    /// A leader has answered a heartbeat that listed everything that is adopted: from now on that has this life's right.
    pub(super) fn adoption_is_answered(&mut self) {
        for live in self.live.values_mut() {
            live.own_until = None;
        }
    }

    /// Takes no more work; whoever asks for more time does so at once.
    pub(super) fn close(&mut self, closing: Closing) {
        self.closing = closing;
        self.beat_now();
    }

    /// By how much the next heartbeat asks for the right to run to be longer, in milliseconds.
    pub(super) fn leave_ms(&self) -> Option<u64> {
        match self.closing {
            Closing::Leave { more } if !self.extended => {
                Some(u64::try_from(more.as_millis()).unwrap_or(u64::MAX)).filter(|ms| *ms > 0)
            }
            _ => None,
        }
    }

    pub(super) fn leaves(&self) -> bool {
        matches!(self.mode, Mode::Stopping { leave: true, .. })
    }

    /// Whether everything that stays is under its shim.
    pub(super) fn may_leave(&self) -> bool {
        self.live.values().all(|live| !live.in_process)
            && self.shims.starting.available_permits() >= STARTING_MAX
    }

    /// Tells every shim itself until when its tree may run: who does so otherwise may not have come to it.
    pub(super) async fn hand_over(&self) {
        if self.fence.grant(self.options.clock.now()).is_none() {
            return;
        }
        let Some(until) = self.fence.deadline() else { return };
        let attempts: Vec<_> =
            self.live.iter().filter(|(_, live)| live.end.borrow().is_none()).map(|(id, _)| *id).collect();
        let shims = Arc::clone(&self.shims);
        let told = blocking(move || {
            for attempt in attempts {
                if let Err(error) = leftovers::extend(&shims.store.attempt(attempt), until) {
                    tracing::warn!(%attempt, %error, "its shim cannot be told how long it may go on");
                }
            }
            Ok(())
        });
        let _ = told.await;
    }
}
