//! The virtual IPs' place in the node: leftovers go before it joins, sessions and terms are handed in, and everything is
//! released before it leaves.

use proto::Epoch;
use proto::vip::{Backend, LocalPhase, NodeReport};
use tokio_util::sync::CancellationToken;

use super::slot::Slot;
use super::{Part, Returned, ServingVips, Supervisor, VIPS_BY};

/// What the virtual IPs were told last: the session, the member node on it, the term in which this node may act.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Fed(Option<(coord::SessionId, String, Option<Epoch>)>);

/// Whether none of the addresses can be on this machine, by what its virtual IPs say. A dry run knows nothing of what an
/// earlier life has left there.
fn certainly_has_none(own: &NodeReport) -> bool {
    let none = own.services.values().all(|local| local.phase == LocalPhase::Idle);
    own.backend == Backend::Netlink && none
}

impl Supervisor {
    /// Removes what an earlier life left on this machine's interfaces, and starts the loop; nothing to do where this node
    /// takes no part.
    pub(super) fn clean_vips(&mut self) {
        let Some(cleaning) = self.parts.new_vips() else {
            self.vips = Slot::Done;
            return;
        };
        let cancel = CancellationToken::new();
        let token = cancel.clone();
        let abort = self.begin(Part::Vips, "its cleaning", async move {
            Returned::VipsCleaned(cleaning.clean(token).await.map(Box::new))
        });
        self.vips = Slot::Booting { cancel, abort };
    }

    pub(super) fn vips_cleaned(&mut self, cleaned: Result<Box<ServingVips>, vip::CleanFailure>) {
        match cleaned {
            Ok(serving) => {
                let handle = serving.handle();
                self.published.send_modify(|published| published.vips = Some(handle));
                self.parts.note("open", "vips");
                self.vips = Slot::Running(serving);
                // What was read while it cleaned.
                self.hand_over_facts();
                self.say_whether_vips_are_gone();
                self.boot_quorum_if_due();
            }
            // Whoever is told to stop knows why.
            Err(vip::CleanFailure::Cancelled) => self.vips = Slot::Done,
            // Somebody else may have the addresses that are left here: joining could only make that worse.
            Err(failure) => {
                self.vips = Slot::Done;
                self.fail(Part::Vips, &failure);
            }
        }
    }

    /// Says whether a `holder` of an earlier session may be deleted.
    pub(super) fn say_whether_vips_are_gone(&self) {
        let Slot::Running(vips) = &self.vips else { return };
        let view = vips.handle().view();
        let gone = certainly_has_none(&view.borrow().own);
        self.parts.vips_gone.send_if_modified(|known| std::mem::replace(known, gone) != gone);
    }

    /// Hands in the session and the term, if either has changed.
    pub(super) fn feed_vips(&mut self, view: &quorum::View) {
        let Slot::Running(vips) = &self.vips else { return };
        let term = match &view.role {
            quorum::Role::Elected(term) => Some(term),
            // It leads no more, or it may not act: assignments of this term would be refused, or come too late.
            quorum::Role::Suspended(_) | quorum::Role::Resigning(_) | quorum::Role::Follower => None,
        };
        let session = view.control.as_ref().zip(view.member.as_ref());
        let fed = Fed(session
            .map(|(link, member)| (link.session_id(), member.clone(), term.map(|term| term.token.epoch))));
        if self.vips_fed == fed {
            return;
        }
        let coordination = &self.parts.config.coordination;
        vips.handle().control(session.map(|(link, member)| vip::Control {
            link: link.clone(),
            layout: coord::Layout::new(coordination.root.clone()),
            member: member.clone(),
            timing: coord::LeaseTiming::new(view.session_timeout, coordination.margin(), coordination.tick),
            term: term.cloned(),
        }));
        self.vips_fed = fed;
    }

    /// Passes on what the node's own file says now.
    pub(super) fn hand_over_facts(&mut self) {
        let facts = self.facts.borrow_and_update().clone();
        if let Slot::Running(vips) = &self.vips {
            vips.handle().facts(facts);
        }
    }

    /// Has every address removed and every service released, whatever is going on.
    pub(super) fn stop_vips(&mut self) {
        match &self.vips {
            Slot::Booting { cancel, .. } => cancel.cancel(),
            Slot::Idle => self.vips = Slot::Done,
            Slot::Running(_) | Slot::Stopping { .. } | Slot::Done => {}
        }
        if let Some(serving) = self.vips.take_running() {
            let within = self.polite(VIPS_BY);
            let drill = self.parts.drill.clone();
            let abort = self.begin(Part::Vips, "its stop", async move {
                drill.hold("vip.stop").await;
                let stopped = serving.release(within).finish().await;
                let report = stopped.report();
                for address in &report.abandoned {
                    tracing::warn!(%address, "a virtual IP could not be removed: the kernel removes it at its lifetime's end");
                }
                Returned::VipsStopped { clean: report.is_clean() }
            });
            self.vips = Slot::Stopping { abort };
        }
    }

    pub(super) fn vips_gone(&mut self) {
        self.vips = Slot::Done;
        self.published.send_if_modified(|published| published.vips.take().is_some());
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proto::Incarnation;
    use proto::vip::LocalService;

    use super::*;

    /// A session that is followed by another one in the same process leaves its `holder` as a fence, unless all of it is
    /// over here.
    #[test]
    fn the_fence_falls_only_where_no_service_is_in_any_phase_but_idle() {
        use LocalPhase::{Blocked, Held, Idle, Probing, Releasing, Waiting};
        let says = |backend, phases: &[LocalPhase]| {
            let service = |(number, phase): (usize, &LocalPhase)| {
                let local =
                    LocalService { unfit: None, phase: *phase, since_ms: 0, note: None, conflict: None };
                (format!("s{number}").parse().unwrap(), local)
            };
            NodeReport {
                node: "n1".parse().unwrap(),
                incarnation: Incarnation::from_u128(1),
                backend,
                why_dry: None,
                unreadable: None,
                stopping: false,
                labels: BTreeMap::new(),
                services: phases.iter().enumerate().map(service).collect(),
            }
        };
        for phases in [&[][..], &[Idle], &[Idle, Idle]] {
            assert!(certainly_has_none(&says(Backend::Netlink, phases)), "{phases:?}");
            assert!(!certainly_has_none(&says(Backend::DryRun, phases)), "{phases:?}: nobody looked");
        }
        for phase in [Blocked, Held, Probing, Releasing, Waiting] {
            assert!(!certainly_has_none(&says(Backend::Netlink, &[Idle, phase])), "{phase:?}");
        }
    }
}
