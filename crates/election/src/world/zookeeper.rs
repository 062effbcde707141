//! The world's one ZooKeeper: what it does with requests, and who hears of it.

use proto::{Epoch, Incarnation};

use super::super::event::{Candidate, Release, TermsChange};
use super::super::{Effect, Event, Generation, LeaderSeen, Seen, Standing, Survey};
use super::{Action, HOLD, SessionId, World};
use crate::record::{LeaderRecord, MemberUuid};

impl World {
    /// What ZooKeeper does with a request, if it gets it.
    pub(super) fn execute(
        &mut self,
        index: usize,
        life: u64,
        session: SessionId,
        generation: Generation,
        effect: Effect,
    ) {
        let node = &self.nodes[index];
        if !node.up || node.life != life {
            return;
        }
        if let Effect::Join { .. } = effect {
            self.end_session(session);
            let sequence = self.open_session(index);
            self.after(5, Action::Watch { node: index, life });
            return self.answer(index, life, generation, Some(Seen::Joined { sequence }));
        }
        let there = node.connected && node.session == session && self.zk.sessions.contains_key(&session);
        let lost = !there || node.lose_answers > 0;
        if lost && there {
            self.nodes[index].lose_answers -= 1;
        }
        let failed = match &effect {
            Effect::Survey => Seen::SurveyFailed,
            Effect::Register => Seen::RegisterFailed,
            Effect::Withdraw => Seen::WithdrawFailed,
            Effect::Claim { .. } => Seen::ClaimFailed { unknown: true },
            Effect::CheckResume { epoch } => Seen::ResumeChecked { epoch: *epoch, unchanged: None },
            Effect::Release { epoch, .. } => Seen::ReleaseFailed { epoch: *epoch },
            Effect::WriteTerms { .. } => Seen::TermsWritten { ok: false },
            _ => Seen::Stir,
        };
        let done = there.then(|| self.apply(index, session, effect));
        if lost {
            if let Some(Seen::Claimed { epoch }) = done {
                self.after(2_000, Action::Undo { node: index, session, epoch });
            }
            let event = Event::Seen(generation, failed);
            self.after(2_000, Action::Deliver { node: index, life, event });
        } else {
            self.answer(index, life, generation, done);
        }
    }

    pub(super) fn answer(&mut self, node: usize, life: u64, generation: Generation, seen: Option<Seen>) {
        if let Some(seen) = seen {
            let delay = self.pick(1..20);
            self.after(delay, Action::Deliver { node, life, event: Event::Seen(generation, seen) });
        }
    }

    pub(super) fn apply(&mut self, index: usize, session: SessionId, effect: Effect) -> Seen {
        let id = self.nodes[index].id.clone();
        let owner = self.zk.leader.as_ref().map(|(owner, _)| *owner);
        match effect {
            Effect::Survey => Seen::Surveyed(Box::new(Survey {
                epoch: self.zk.epoch,
                target: self.zk.target.clone(),
                leader: self.leader_seen(session),
                obstacle: None,
                candidates: self
                    .zk
                    .candidates
                    .iter()
                    .map(|(owner, (node, incarnation, sequence))| Candidate {
                        node: node.clone(),
                        incarnation: *incarnation,
                        sequence: *sequence,
                        mine: *owner == session,
                    })
                    .collect(),
                priorities: self.zk.priorities.clone(),
                terms: self.zk.terms.clone(),
            })),
            Effect::Register => {
                let sequence = self.nodes[index].core.sequence().unwrap_or_default();
                let life = Incarnation::from_u128(self.nodes[index].life.into());
                self.zk.candidates.insert(session, (id, life, sequence));
                self.stir();
                Seen::Registered
            }
            Effect::Withdraw => {
                self.zk.candidates.remove(&session);
                self.stir();
                Seen::Withdrawn
            }
            Effect::Claim { expect } => {
                let first = self.zk.candidates.contains_key(&session);
                if !first || owner.is_some() || self.zk.epoch != expect {
                    return Seen::ClaimFailed { unknown: false };
                }
                self.zk.epoch += 1;
                self.zk.target = None;
                let epoch = Epoch(self.zk.epoch.unsigned_abs().into());
                let record = LeaderRecord {
                    node: id,
                    address: String::new(),
                    incarnation: Incarnation::from_u128(0),
                    sequence: 0,
                    epoch,
                    uuid: MemberUuid(0),
                };
                self.set_leader(Some((session, record)));
                Seen::Claimed { epoch }
            }
            Effect::CheckResume { epoch } => {
                let same = owner == Some(session) && Epoch(self.zk.epoch.unsigned_abs().into()) == epoch;
                Seen::ResumeChecked { epoch, unchanged: Some(same) }
            }
            Effect::Release { epoch, how } => {
                if owner == Some(session) {
                    let node = &self.nodes[index];
                    let ended = node.effects != Some(epoch);
                    let down = node.lease.as_ref().is_none_or(|lease| lease.dropped || lease.epoch != epoch);
                    let overdue = node.core.resigning().is_some_and(|resignation| resignation.overdue);
                    assert!(ended || (overdue && down), "leader deleted under living effects (invariant 10)");
                    if let Release::Handover { to } = how {
                        let alive = self.zk.candidates.values().any(|(node, ..)| *node == to);
                        if !alive {
                            return Seen::ReleaseFailed { epoch };
                        }
                        self.zk.epoch += 1;
                        self.zk.target = Some(to);
                        self.zk.candidates.remove(&session);
                    } else if let Release::Failed { reason } = how {
                        let life = Incarnation::from_u128(self.nodes[index].life.into());
                        self.zk.terms.fail(&id, life, epoch, &reason, HOLD);
                    }
                    self.set_leader(None);
                }
                Seen::Released { epoch }
            }
            Effect::WriteTerms { epoch, change } => {
                let ok = owner == Some(session) && Epoch(self.zk.epoch.unsigned_abs().into()) == epoch;
                match change {
                    TermsChange::Serving if ok => self.zk.terms.served(&id, epoch),
                    TermsChange::Forgive { nodes } if ok => {
                        self.zk.terms.failed.retain(|node, _| !nodes.contains(node));
                    }
                    _ => {}
                }
                Seen::TermsWritten { ok }
            }
            _ => Seen::Stir,
        }
    }

    pub(super) fn leader_seen(&self, session: SessionId) -> Option<LeaderSeen> {
        self.zk.leader.as_ref().map(|(owner, record)| LeaderSeen {
            record: record.clone(),
            mine: *owner == session,
            session: owner.to_string(),
        })
    }

    pub(super) fn set_leader(&mut self, leader: Option<(SessionId, LeaderRecord)>) {
        self.zk.leader = leader;
        for node in 0..self.nodes.len() {
            let (delay, life) = (self.pick(1..30), self.nodes[node].life);
            self.after(delay, Action::Watch { node, life });
        }
    }

    /// The leader watches candidates and priorities.
    pub(super) fn stir(&mut self) {
        for node in 0..self.nodes.len() {
            if self.nodes[node].last != Standing::Follower && self.nodes[node].connected {
                let (generation, life) = (self.nodes[node].core.generation(), self.nodes[node].life);
                let event = Event::Seen(generation, Seen::Stir);
                self.after(5, Action::Deliver { node, life, event });
            }
        }
    }

    pub(super) fn open_session(&mut self, index: usize) -> u64 {
        self.sessions_made += 1;
        self.zk.sequence += 1;
        self.zk.sessions.insert(self.sessions_made, None);
        self.nodes[index].session = self.sessions_made;
        self.nodes[index].connected = true;
        self.zk.sequence
    }

    pub(super) fn end_session(&mut self, session: SessionId) {
        self.zk.sessions.remove(&session);
        if self.zk.candidates.remove(&session).is_some() {
            self.stir();
        }
        if self.zk.leader.as_ref().is_some_and(|(owner, _)| *owner == session) {
            self.set_leader(None);
        }
    }
}
