//! What nobody asks for: the list of members, and the audit of what our session owns.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use election::Generation;
use tokio::time::Instant as Timer;

use super::{Done, Driver};
use crate::calls::Calls;
use crate::join;
use crate::view::Member;

/// How often members are looked at when nothing says that they changed. Whoever shows them asks for a refresh.
const MEMBERS_PERIOD: Duration = Duration::from_secs(60);

/// Creating our member node again. One at a time: an audit that looked before the last one had ended knows nothing of
/// what that created, and would have it created twice, or removed.
#[derive(Debug, Default)]
pub(super) struct Restore {
    pending: bool,
    ended: u64,
}

impl Restore {
    pub(super) fn ended(&mut self) {
        self.pending = false;
        self.ended += 1;
    }

    /// Whether an audit that was asked for after `asked` restores has seen how it is.
    fn settled(&self, asked: u64) -> bool {
        !self.pending && self.ended == asked
    }
}

impl Driver {
    /// A part of `span`, so that many nodes do not do the same thing at the same moment.
    pub(super) fn spread(&mut self, span: Duration) -> Duration {
        let ms = u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
        Duration::from_millis(self.uuids.below(ms / 3))
    }

    /// Audits again what could not be audited after a reconnect.
    pub(super) fn audit_if_due(&mut self) {
        if self.audit_due.is_some_and(|due| due <= Timer::now()) {
            self.audit_due = None;
            self.audit();
        }
    }

    pub(super) fn look_at_members(&mut self) {
        if self.members_pending || self.members_due > Timer::now() {
            return;
        }
        let Some(calls) = self.calls() else { return };
        self.members_pending = true;
        // Spread, so that many nodes do not look at the same moment.
        self.members_due = Timer::now() + MEMBERS_PERIOD + self.spread(MEMBERS_PERIOD);
        let (known, generation) = (self.members.clone(), self.election.generation());
        self.spawn(
            "the listing of members",
            async move { Done::Members(generation, calls.members(known).await) },
        );
    }

    pub(super) fn take_members(
        &mut self,
        generation: Generation,
        members: Result<BTreeMap<String, Member>, coord::CallError>,
    ) {
        if generation != self.election.generation() {
            return;
        }
        self.members_pending = false;
        match members {
            Ok(members) => {
                let mine = self.held.as_ref().map(|held| held.calls.place.path.clone());
                let listed = members.values().any(|member| Some(&member.path) == mine.as_ref());
                self.members = Arc::new(members);
                if !listed {
                    self.audit();
                }
            }
            Err(error) => {
                tracing::debug!(%error, "looking at the members");
                self.members_due = self.members_due.min(Timer::now() + Duration::from_secs(1));
            }
        }
    }

    /// What does our session own (invariant 7)?
    pub(super) fn audit(&mut self) {
        let Some(calls) = self.calls() else { return };
        let (generation, asked) = (self.election.generation(), self.restore.ended);
        self.spawn("an audit", async move {
            match calls.own().await {
                Ok(own) => Done::Own(generation, asked, own),
                Err(error) => {
                    tracing::debug!(%error, "audit");
                    Done::AuditFailed(generation)
                }
            }
        });
    }

    /// Judged by what we know now, not by what we knew when we asked.
    pub(super) fn audited(&mut self, generation: Generation, asked: u64, own: &[String]) {
        let Some(calls) = self.calls().filter(|_| generation == self.election.generation()) else { return };
        let (member, candidate) = (calls.place.path.clone(), calls.candidate_path());
        let (leader, members) = (calls.layout.leader(), calls.layout.members());
        let settled = self.restore.settled(asked);
        // Not into an ensemble that is not ours (any more).
        let barred = self.election.survey().is_some_and(|survey| survey.obstacle.is_some());
        if !own.contains(&member) && settled && !self.left && self.stop.is_none() && !barred {
            self.restore.pending = true;
            tracing::warn!(path = %member, "our member node is gone; creating another");
            let calls = calls.clone();
            self.spawn("the restoring of the member node", async move {
                match join::create_member(&calls.options, &calls.link, calls.place.uuid).await {
                    Ok((path, sequence)) => Done::Restored(generation, path, sequence),
                    Err(error) => {
                        tracing::warn!(%error, "creating our member node again");
                        Done::RestoreFailed(generation)
                    }
                }
            });
        }
        for path in own {
            // What a virtual IP's are for, only those know who hold them: they audit them.
            let known = *path == member
                || calls.layout.is_vip(path)
                || (!settled && path.starts_with(&members))
                || (*path == candidate && self.election.may_be_candidate())
                || (*path == leader && self.election.may_own_leader());
            if known {
                continue;
            }
            tracing::warn!(%path, "our session owns an ephemeral that we know nothing of; removing it");
            let (calls, path, is_leader) = (calls.clone(), path.clone(), *path == leader);
            self.spawn("the removal of an unknown ephemeral", async move {
                let Calls { options, link, layout, .. } = &calls;
                let removed = if is_leader {
                    join::delete_leader_of(options, link, layout, link.session_id(), None).await.map(|_| ())
                } else {
                    join::delete(options, link, &path, Vec::new()).await
                };
                if let Err(error) = removed {
                    tracing::warn!(%error, "removing it");
                }
                Done::Nothing
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_audit_that_looked_after_the_last_restore_counts() {
        let mut restore = Restore::default();
        let before = restore.ended;
        assert!(restore.settled(before));
        restore.pending = true;
        assert!(!restore.settled(before), "one is under way");
        restore.ended();
        assert!(!restore.settled(before), "it looked before the last one had ended");
        assert!(restore.settled(restore.ended));
    }
}
