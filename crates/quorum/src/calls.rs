//! The election's effects as calls on one session. Each returns what was seen; the driver bounds its time.

use std::collections::BTreeMap;
use std::sync::Arc;

use clock::Instant;
use coord::{
    CallError, Layout, Link, Mode, Op, OpResult, ReadBack, Rejection, SessionId, Undo, Write, WriteError,
};
use election::{Candidate, LeaderRecord, LeaderSeen, Release, Seen, Survey, Terms, TermsChange};
use proto::{Epoch, NodeId};

use crate::config::Options;
use crate::error::PriorityError;
use crate::join::{self, Place};
use crate::record::{
    CandidateRecord, EpochRecord, MemberRecord, PriorityRecord, candidate_name, decode_or_default, encode,
    parse_candidate, parse_member,
};
use crate::view::Member;

/// Tries at a compare-and-set that others win.
const CONTENDED_MAX: usize = 5;

/// One session of this node, for calls.
#[derive(Clone, Debug)]
pub(crate) struct Calls {
    pub(crate) options: Arc<Options>,
    pub(crate) layout: Layout,
    pub(crate) link: Link,
    pub(crate) place: Place,
}

impl Calls {
    pub(crate) fn candidate_path(&self) -> String {
        format!("{}/{}", self.layout.candidates(), candidate_name(self.place.uuid, &self.options.node))
    }

    /// Our own membership.
    pub(crate) fn me(&self) -> Member {
        Member {
            sequence: self.place.sequence,
            path: self.place.path.clone(),
            node: self.options.node.clone(),
            incarnation: self.options.incarnation,
            address: self.options.address.clone(),
            labels: self.options.labels.clone(),
            version: self.options.version.clone(),
        }
    }

    /// `epoch` first: whatever is claimed on what comes after is compared with it.
    /// An epoch below `floor` shows that the ensemble has lost what this node has seen.
    pub(crate) async fn survey(&self, floor: Option<Epoch>) -> Seen {
        match self.read_survey(floor).await {
            Ok(survey) => Seen::Surveyed(Box::new(survey)),
            Err(error) => {
                tracing::debug!(%error, "survey");
                Seen::SurveyFailed
            }
        }
    }

    async fn read_survey(&self, floor: Option<Epoch>) -> Result<Survey, CallError> {
        let (layout, link) = (&self.layout, &self.link);
        link.sync(&layout.epoch()).await?;
        let epoch = link.get(&layout.epoch()).await?;
        let found = epoch.as_ref().map(|node| epoch_of(node.stat.version));
        // Before the cluster: where `leader` is gone because the whole ensemble is another one, that is seen.
        let leader = link.get(&layout.leader()).await?.map(|node| leader_seen(&node, link.session_id()));
        let cluster = link.get(&layout.cluster()).await?;
        let obstacle = join::check_cluster(cluster.as_ref(), Some(self.place.cluster), layout.cluster())
            .err()
            .map(|error| error.to_string())
            .or_else(|| lost_history(&layout.epoch(), found, floor));
        if let Some(obstacle) = obstacle {
            return Ok(Survey { obstacle: Some(obstacle), ..Survey::default() });
        }
        let (leader, unreadable) = match leader {
            Some(Ok(leader)) => (Some(leader), None),
            Some(Err(why)) => (None, Some(blocked(&layout.leader(), &why))),
            None => (None, None),
        };
        let priority = link.get(&layout.priority()).await?;
        let terms = link.get(&layout.terms()).await?;
        let record: EpochRecord =
            epoch.as_ref().map(|node| decode_or_default(&layout.epoch(), &node.data)).unwrap_or_default();
        let priorities: PriorityRecord =
            priority.map(|node| decode_or_default(&layout.priority(), &node.data)).unwrap_or_default();
        Ok(Survey {
            epoch: epoch.map_or(0, |node| node.stat.version),
            target: record.handover_to,
            leader,
            obstacle: unreadable,
            candidates: self.candidates().await?,
            priorities: priorities.nodes,
            terms: terms.map(|node| decode_or_default(&layout.terms(), &node.data)).unwrap_or_default(),
        })
    }

    async fn candidates(&self) -> Result<Vec<Candidate>, CallError> {
        let dir = self.layout.candidates();
        let mut candidates = Vec::new();
        for name in self.link.children(&dir).await? {
            if parse_candidate(&name).is_none() {
                continue;
            }
            let Some(node) = self.link.get(&format!("{dir}/{name}")).await? else { continue };
            if node.stat.ephemeral_owner.is_none() {
                // What a backup tool writes back: no session stands behind it, so it would never claim nor go.
                tracing::warn!(%name, "ignoring a candidate that is not ephemeral; delete it");
                continue;
            }
            match serde_json::from_slice::<CandidateRecord>(&node.data) {
                Ok(record) => candidates.push(Candidate {
                    node: record.node,
                    incarnation: record.incarnation,
                    sequence: record.sequence,
                    mine: node.stat.ephemeral_owner == Some(self.link.session_id()),
                }),
                Err(error) => tracing::warn!(%name, %error, "ignoring a candidate that cannot be read"),
            }
        }
        Ok(candidates)
    }

    /// Creates our candidate node, unless there are as many as are allowed.
    pub(crate) async fn register(&self) -> Seen {
        match self.try_register().await {
            Ok(seen) => seen,
            Err(error) => {
                tracing::debug!(%error, "registering as a candidate");
                Seen::RegisterFailed
            }
        }
    }

    async fn try_register(&self) -> Result<Seen, CallError> {
        let max = self.options.eligible_max;
        let others = self.candidates().await?.into_iter().filter(|candidate| !candidate.mine).count();
        if others >= max {
            return Ok(Seen::RegisterRefused);
        }
        let path = self.candidate_path();
        let record = CandidateRecord {
            node: self.options.node.clone(),
            incarnation: self.options.incarnation,
            sequence: self.place.sequence,
        };
        let create = Op::Create { path: path.clone(), data: encode(&record), mode: Mode::Ephemeral };
        let read_back = ReadBack::OwnEphemeral { path: path.clone() };
        match self.write(vec![create], read_back, Undo::Keep).await {
            Ok(_) => {}
            // It may come to be there: the next survey tells, and a withdrawal finds it.
            Err(WriteError::Unknown) => return Ok(Seen::Registered),
            Err(WriteError::Rejected { reason: Rejection::NodeExists, .. }) => {
                match self.link.exists(&path).await.map(|stat| stat.and_then(|stat| stat.ephemeral_owner)) {
                    Ok(owner) if owner != Some(self.link.session_id()) => return Ok(Seen::RegisterFailed),
                    // Unknown counts as there: what is believed absent, nobody would ever withdraw.
                    Ok(_) | Err(_) => {}
                }
            }
            Err(_) => return Ok(Seen::RegisterFailed),
        }
        // Several may have come at once: the youngest surplus goes again. From here on the node is there, also where
        // that cannot be found out: one too many does no harm, one that is forgotten stays in the line unready.
        let Ok(mut all) = self.candidates().await else { return Ok(Seen::Registered) };
        all.sort_by_key(|candidate| candidate.sequence);
        if all.iter().position(|candidate| candidate.mine).is_some_and(|rank| rank >= max) {
            return Ok(match self.withdraw().await {
                Seen::Withdrawn => Seen::RegisterRefused,
                _ => Seen::Registered,
            });
        }
        tracing::info!(%path, "registered as a candidate");
        Ok(Seen::Registered)
    }

    pub(crate) async fn withdraw(&self) -> Seen {
        let path = self.candidate_path();
        match join::delete(&self.options, &self.link, &path, Vec::new()).await {
            Ok(()) => {
                tracing::info!(%path, "withdrawn as a candidate");
                Seen::Withdrawn
            }
            Err(error) => {
                tracing::debug!(%error, "withdrawing");
                Seen::WithdrawFailed
            }
        }
    }

    /// Returns the send instant too: the lease counts from it.
    pub(crate) async fn claim(&self, expect: i32) -> (Seen, Instant) {
        let next = expect.wrapping_add(1);
        let record = LeaderRecord {
            node: self.options.node.clone(),
            address: self.options.address.clone(),
            incarnation: self.options.incarnation,
            sequence: self.place.sequence,
            epoch: epoch_of(next),
            uuid: self.place.uuid,
        };
        let by = EpochRecord { handover_to: None, by: Some(self.options.node.clone()) };
        let path = self.layout.leader();
        let ops = vec![
            Op::Check { path: self.candidate_path(), version: 0 },
            Op::Create { path: path.clone(), data: encode(&record), mode: Mode::Ephemeral },
            Op::Set { path: self.layout.epoch(), data: encode(&by), version: Some(expect) },
        ];
        let sent = self.options.clock.now();
        let seen = match self.write(ops, ReadBack::OwnEphemeral { path }, Undo::DeleteOwn).await {
            Ok(results) => match results.last() {
                Some(OpResult::Set { version }) => Seen::Claimed { epoch: epoch_of(*version) },
                _ => Seen::ClaimFailed { unknown: true },
            },
            Err(WriteError::Rejected { op, reason }) => {
                tracing::debug!(op, %reason, "claim refused");
                Seen::ClaimFailed { unknown: false }
            }
            Err(WriteError::Unknown | WriteError::Ended(_)) => Seen::ClaimFailed { unknown: true },
        };
        (seen, sent)
    }

    pub(crate) async fn check_resume(&self, epoch: Epoch) -> Seen {
        let look = async {
            self.link.sync(&self.layout.leader()).await?;
            let leader = self.link.exists(&self.layout.leader()).await?;
            let version = self.link.exists(&self.layout.epoch()).await?.map(|stat| epoch_of(stat.version));
            let ours = leader.is_some_and(|stat| stat.ephemeral_owner == Some(self.link.session_id()));
            Ok::<_, CallError>(ours && version == Some(epoch))
        };
        Seen::ResumeChecked { epoch, unchanged: look.await.ok() }
    }

    /// Deletes `leader` if it is ours. Effects have ended before, or the lease flag is down.
    pub(crate) async fn release(&self, epoch: Epoch, how: Release) -> Seen {
        match self.try_release(epoch, how).await {
            Ok(true) => Seen::Released { epoch },
            Ok(false) => Seen::ReleaseFailed { epoch },
            Err(error) => {
                tracing::debug!(%error, "releasing");
                Seen::ReleaseFailed { epoch }
            }
        }
    }

    async fn try_release(&self, epoch: Epoch, how: Release) -> Result<bool, CallError> {
        let path = self.layout.leader();
        self.link.sync(&path).await?;
        let owner = self.link.exists(&path).await?.and_then(|stat| stat.ephemeral_owner);
        if owner != Some(self.link.session_id()) {
            return Ok(true);
        }
        let delete = Op::Delete { path: path.clone(), version: Some(0) };
        let gone = ReadBack::Gone { path: path.clone() };
        let ops = match how {
            Release::Plain => vec![delete],
            Release::Failed { reason } => {
                let terms_path = self.layout.terms();
                let node = self.link.get(&terms_path).await?;
                let version = node.as_ref().map_or(0, |node| node.stat.version);
                let mut terms: Terms =
                    node.map(|node| decode_or_default(&terms_path, &node.data)).unwrap_or_default();
                let Options { node, incarnation, hold_down, .. } = &*self.options;
                terms.fail(node, *incarnation, epoch, &reason, *hold_down);
                vec![Op::Set { path: terms_path, data: encode(&terms), version: Some(version) }, delete]
            }
            Release::Handover { to } => {
                let dir = self.layout.candidates();
                let names = self.link.children(&dir).await?;
                let target =
                    names.into_iter().find(|name| parse_candidate(name).is_some_and(|(_, node)| node == to));
                let Some(target) = target else { return Ok(false) };
                let record = EpochRecord { handover_to: Some(to), by: Some(self.options.node.clone()) };
                let Ok(version) = i32::try_from(epoch.0) else { return Ok(false) };
                vec![
                    Op::Check { path: format!("{dir}/{target}"), version: 0 },
                    Op::Set { path: self.layout.epoch(), data: encode(&record), version: Some(version) },
                    delete,
                    Op::Delete { path: self.candidate_path(), version: Some(0) },
                ]
            }
        };
        match self.write(ops, gone, Undo::Keep).await {
            Ok(_) => Ok(true),
            Err(error) => {
                tracing::debug!(%error, "releasing");
                Ok(false)
            }
        }
    }

    /// Rewrites `terms`, fenced by the epoch.
    pub(crate) async fn write_terms(&self, epoch: Epoch, change: TermsChange) -> Seen {
        let path = self.layout.terms();
        let rewrite = async {
            let node = self.link.get(&path).await?;
            let version = node.as_ref().map_or(0, |node| node.stat.version);
            let mut terms: Terms = node.map(|node| decode_or_default(&path, &node.data)).unwrap_or_default();
            match change {
                TermsChange::Serving => terms.served(&self.options.node, epoch),
                TermsChange::Forgive { nodes } => terms.failed.retain(|node, _| !nodes.contains(node)),
            }
            let data = encode(&terms);
            let ops = vec![
                Op::Check { path: self.layout.epoch(), version: i32::try_from(epoch.0).unwrap_or(-1) },
                Op::Set { path: path.clone(), data: data.clone(), version: Some(version) },
            ];
            let written = self.write(ops, ReadBack::Data { path: path.clone(), data }, Undo::Keep).await;
            Ok::<_, CallError>(written.is_ok())
        };
        Seen::TermsWritten { ok: rewrite.await.unwrap_or(false) }
    }

    /// Every member; those known by name are not read again, since nobody ever rewrites one.
    pub(crate) async fn members(
        &self,
        known: Arc<BTreeMap<String, Member>>,
    ) -> Result<BTreeMap<String, Member>, CallError> {
        let dir = self.layout.members();
        let mut members = BTreeMap::new();
        for name in self.link.children(&dir).await? {
            let Some((_, sequence)) = parse_member(&name) else { continue };
            if let Some(member) = known.get(&name) {
                members.insert(name, member.clone());
                continue;
            }
            let path = format!("{dir}/{name}");
            let Some(node) = self.link.get(&path).await? else { continue };
            match serde_json::from_slice::<MemberRecord>(&node.data) {
                Ok(record) => {
                    members.insert(name, member(&record, path, sequence));
                }
                Err(error) => tracing::warn!(%path, %error, "ignoring a member that cannot be read"),
            }
        }
        Ok(members)
    }

    pub(crate) async fn set_priority(&self, node: NodeId, priority: i32) -> Result<(), PriorityError> {
        let failed = |error: CallError| PriorityError::Failed(error.to_string());
        let members = self.members(Arc::default()).await.map_err(failed)?;
        let path = self.layout.priority();
        for _ in 0..CONTENDED_MAX {
            let found = self.link.get(&path).await.map_err(failed)?;
            let version = found.as_ref().map_or(0, |node| node.stat.version);
            let mut record: PriorityRecord =
                found.map(|node| decode_or_default(&path, &node.data)).unwrap_or_default();
            let known = members.values().any(|member| member.node == node);
            if !known && !record.nodes.contains_key(&node) {
                let mut names: Vec<&str> = members.values().map(|member| member.node.as_str()).collect();
                names.sort_unstable();
                return Err(PriorityError::NoSuchNode { node, members: names.join(", ") });
            }
            // 0 is what everybody has: no entry, so that nodes of the past do not pile up.
            if priority == 0 {
                record.nodes.remove(&node);
            } else {
                record.nodes.insert(node.clone(), priority);
            }
            let data = encode(&record);
            let op = Op::Set { path: path.clone(), data: data.clone(), version: Some(version) };
            match self.write(vec![op], ReadBack::Data { path: path.clone(), data }, Undo::Keep).await {
                Ok(_) => return Ok(()),
                Err(WriteError::Rejected { reason: Rejection::BadVersion, .. }) => {}
                Err(WriteError::Rejected { reason, .. }) => {
                    return Err(PriorityError::Failed(reason.to_string()));
                }
                Err(unknown) => return Err(PriorityError::Unknown(unknown.to_string())),
            }
        }
        Err(PriorityError::Contended)
    }

    /// Ephemerals of our session, as paths.
    pub(crate) async fn own(&self) -> Result<Vec<String>, CallError> {
        self.link.sync(self.layout.root()).await?;
        self.link.own_ephemerals(self.layout.root()).await
    }

    async fn write(
        &self,
        ops: Vec<Op>,
        read_back: ReadBack,
        undo: Undo,
    ) -> Result<Vec<OpResult>, WriteError> {
        self.link.write(Write { ops, read_back, undo }, self.options.coord.call_deadline).await
    }
}

/// The version of `epoch` as a term.
pub(crate) fn epoch_of(version: i32) -> Epoch {
    Epoch(u64::try_from(version).unwrap_or_default())
}

/// `leader` as it was read by the session `ours`.
///
/// # Errors
///
/// Why it names no leader: it is no record of ours, or it is not ephemeral (a backup that was written back), so that
/// no session holds it and it never goes.
pub(crate) fn leader_seen(node: &coord::Node, ours: SessionId) -> Result<LeaderSeen, String> {
    let Some(owner) = node.stat.ephemeral_owner else { return Err("is not ephemeral".into()) };
    let record: LeaderRecord =
        serde_json::from_slice(&node.data).map_err(|error| format!("cannot be read ({error})"))?;
    Ok(LeaderSeen { record, mine: owner == ours, session: owner.to_string() })
}

/// `leader` is taken by something that does not lead.
fn blocked(path: &str, why: &str) -> String {
    format!("{path} {why}, so that nobody can claim: delete it, as in `deleteall {path}` of zkCli.sh")
}

/// Whether the ensemble shows less than was seen of it before. Within a session reads never go back, and the session
/// has synced: what is missing is lost.
fn lost_history(path: &str, found: Option<Epoch>, floor: Option<Epoch>) -> Option<String> {
    let remedy = "restore its newest data; or, to go on without them, stop taskd on every node and start it again \
                  (after a wipe with empty data directories)";
    match (found, floor) {
        (None, _) => Some(format!("{path} does not exist any more: the ensemble was wiped; {remedy}")),
        (Some(found), Some(seen)) if found < seen => Some(format!(
            "{path} is at {found}, although this node has seen epoch {seen}: the ensemble was restored from an older \
             state; {remedy}"
        )),
        (Some(_), _) => None,
    }
}

fn member(record: &MemberRecord, path: String, sequence: u64) -> Member {
    Member {
        sequence,
        path,
        node: record.node.clone(),
        incarnation: record.incarnation,
        address: record.address.clone(),
        labels: record.labels.clone(),
        version: record.version.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ensemble_that_went_back_is_noticed_and_one_that_went_on_is_not() {
        let rows = [
            (None, None, Some("was wiped")),
            (None, Some(3), Some("was wiped")),
            (Some(2), Some(3), Some("restored from an older state")),
            (Some(3), Some(3), None),
            (Some(4), Some(3), None),
            (Some(0), None, None),
        ];
        for (found, floor, expected) in rows {
            let said = lost_history("/taskd/epoch", found.map(Epoch), floor.map(Epoch));
            assert_eq!(said.is_some(), expected.is_some(), "{found:?} {floor:?}: {said:?}");
            assert!(said.unwrap_or_default().contains(expected.unwrap_or_default()));
        }
    }

    #[test]
    fn only_an_ephemeral_record_names_a_leader() {
        let record = LeaderRecord {
            node: "n1".parse().unwrap(),
            address: "n1:1".into(),
            incarnation: proto::Incarnation::from_u128(1),
            sequence: 1,
            epoch: Epoch(7),
            uuid: election::MemberUuid(1),
        };
        let node = |data: &[u8], owner: Option<i64>| coord::Node {
            data: data.to_vec(),
            stat: coord::Stat { ephemeral_owner: owner.map(SessionId), ..coord::Stat::default() },
        };
        let good = encode(&record);
        let seen = leader_seen(&node(&good, Some(5)), SessionId(5)).unwrap();
        assert!(seen.mine && seen.record == record);
        assert!(leader_seen(&node(&good, None), SessionId(5)).unwrap_err().contains("not ephemeral"));
        assert!(leader_seen(&node(b"{}", Some(5)), SessionId(5)).unwrap_err().contains("cannot be read"));
    }
}
