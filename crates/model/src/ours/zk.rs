//! The one ZooKeeper: what it keeps, and what it does with a request.

use std::collections::BTreeMap;

use clock::Instant;
use election::{
    Candidate, Effect, LeaderRecord, LeaderSeen, MemberUuid, Release, Seen, Survey, Terms, TermsChange,
};
use proto::{Epoch, Incarnation, NodeId};

use super::bounds::HOLD;

/// A session; 0 is none.
pub(super) type SessionId = u8;

/// What ZooKeeper keeps.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Zk {
    /// The version of `epoch`.
    pub epoch: i32,
    /// Whom `epoch` names.
    pub target: Option<NodeId>,
    /// `leader`, and the session that owns it.
    pub leader: Option<(SessionId, LeaderRecord)>,
    /// Candidate nodes by the session that owns them.
    pub candidates: BTreeMap<SessionId, Candidate>,
    /// `priority`.
    pub priorities: BTreeMap<NodeId, i32>,
    /// `terms`.
    pub terms: Terms,
    /// Live sessions, and for how many units each has not been heard of.
    pub sessions: BTreeMap<SessionId, u8>,
    /// Members so far.
    pub sequence: u64,
    /// Sessions so far.
    pub opened: SessionId,
}

/// Who asks.
#[derive(Clone, Copy, Debug)]
pub struct Asker {
    /// The node's index.
    pub node: usize,
    /// Its session.
    pub session: SessionId,
    /// Which life of its process.
    pub life: u8,
    /// Of its member node.
    pub sequence: u64,
}

/// Who hears of a change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Changed {
    /// `leader` came or went.
    pub leader: bool,
    /// A candidate came or went, or a priority changed.
    pub line: bool,
}

/// A node's name.
pub(super) fn name(node: usize) -> NodeId {
    NAMES[node].parse().unwrap_or_else(|_| unreachable!("a name of two letters is a name"))
}

const NAMES: [&str; 3] = ["n1", "n2", "n3"];

/// The instant at which every state is looked at.
pub(super) const NOW: Instant = Instant::from_nanos(1_000_000_000_000);

/// Which life, as the records name it.
fn incarnation(asker: Asker) -> Incarnation {
    Incarnation::from_u128(asker.life.into())
}

/// The version of `epoch` as a term.
pub(super) fn epoch_of(version: i32) -> Epoch {
    Epoch(version.unsigned_abs().into())
}

impl Zk {
    /// `leader` as `session` sees it.
    pub fn leader_seen(&self, session: SessionId) -> Option<LeaderSeen> {
        self.leader.as_ref().map(|(owner, record)| LeaderSeen {
            record: record.clone(),
            mine: *owner == session,
            session: String::new(),
        })
    }

    /// A new session, and the sequence of its member.
    pub fn open(&mut self) -> (SessionId, u64) {
        self.opened += 1;
        self.sequence += 1;
        self.sessions.insert(self.opened, 0);
        (self.opened, self.sequence)
    }

    /// Ends a session, and with it what it owned.
    pub fn end(&mut self, session: SessionId) -> Changed {
        self.sessions.remove(&session);
        let line = self.candidates.remove(&session).is_some();
        let leader = self.leader.take_if(|(owner, _)| *owner == session).is_some();
        Changed { leader, line }
    }

    /// One request, as one transaction.
    pub fn execute(&mut self, asker: Asker, effect: &Effect) -> (Seen, Changed) {
        let Asker { node, session, .. } = asker;
        let mine = self.leader.as_ref().is_some_and(|(owner, _)| *owner == session);
        let mut changed = Changed::default();
        let seen = match effect {
            Effect::Survey => Seen::Surveyed(Box::new(Survey {
                epoch: self.epoch,
                target: self.target.clone(),
                leader: self.leader_seen(session),
                obstacle: None,
                candidates: self
                    .candidates
                    .iter()
                    .map(|(owner, candidate)| Candidate { mine: *owner == session, ..candidate.clone() })
                    .collect(),
                priorities: self.priorities.clone(),
                terms: self.terms.clone(),
            })),
            Effect::Register => {
                let candidate = Candidate {
                    node: name(node),
                    incarnation: incarnation(asker),
                    sequence: asker.sequence,
                    mine: false,
                };
                changed.line = self.candidates.insert(session, candidate).is_none();
                Seen::Registered
            }
            Effect::Withdraw => {
                changed.line = self.candidates.remove(&session).is_some();
                Seen::Withdrawn
            }
            Effect::Claim { expect } => {
                let refused =
                    !self.candidates.contains_key(&session) || self.leader.is_some() || self.epoch != *expect;
                if refused {
                    return (Seen::ClaimFailed { unknown: false }, changed);
                }
                self.epoch += 1;
                self.target = None;
                let epoch = epoch_of(self.epoch);
                let record = LeaderRecord {
                    node: name(node),
                    address: String::new(),
                    incarnation: incarnation(asker),
                    sequence: asker.sequence,
                    epoch,
                    uuid: MemberUuid(0),
                };
                self.leader = Some((session, record));
                changed.leader = true;
                Seen::Claimed { epoch }
            }
            Effect::CheckResume { epoch } => {
                let same = mine && epoch_of(self.epoch) == *epoch;
                Seen::ResumeChecked { epoch: *epoch, unchanged: Some(same) }
            }
            Effect::Release { epoch, how } if mine => {
                match how {
                    Release::Plain => {}
                    Release::Failed { reason } => {
                        self.terms.fail(&name(node), incarnation(asker), *epoch, reason, HOLD);
                    }
                    Release::Handover { to } => {
                        let stands = self.candidates.values().any(|candidate| candidate.node == *to);
                        if !stands || epoch_of(self.epoch) != *epoch {
                            return (Seen::ReleaseFailed { epoch: *epoch }, changed);
                        }
                        self.epoch += 1;
                        self.target = Some(to.clone());
                        self.candidates.remove(&session);
                        changed.line = true;
                    }
                }
                self.leader = None;
                changed.leader = true;
                Seen::Released { epoch: *epoch }
            }
            Effect::Release { epoch, .. } => Seen::Released { epoch: *epoch },
            Effect::WriteTerms { epoch, change } => {
                let ok = epoch_of(self.epoch) == *epoch;
                match change {
                    TermsChange::Serving if ok => self.terms.served(&name(node), *epoch),
                    TermsChange::Forgive { nodes } if ok => {
                        self.terms.failed.retain(|node, _| !nodes.contains(node));
                    }
                    _ => {}
                }
                Seen::TermsWritten { ok }
            }
            _ => Seen::Stir,
        };
        (seen, changed)
    }
}
