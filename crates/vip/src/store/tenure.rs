//! Taking a service and giving it up.
//!
//! ```text
//!            take: [assignment v, member, create holder, term w = held]
//!  term free ────────────────────────────────────────────────────────▶ term held, holder there
//!      ▲                                                                 │          │ session over, or withdraw:
//!      └──────────────── release: [delete holder, term w+1 = free] ──────┘          │ [term w+1, delete holder]
//!                                                                                   ▼
//!                            whoever takes next waits the recorded grace ◀── term held, nobody there
//! ```
//!
//! A `term` that cannot be read, or that the leader had to write again since it was gone, is taken as held with the longest
//! grace that there is ([`GRACE_MAX`](super::GRACE_MAX)), and each take writes it anew. That is enough: whoever holds the
//! service loses its lease with the first probe after the term has changed; nobody takes while its `holder` is there, so
//! not before its session is over or its addresses are gone; and no address outlives the lease by more than the grace that
//! was recorded for it. The wait counts from the take, not from when the edit was seen: somebody may have held it since.
//!
//! The content of `term` is unique to each take and each release, so that a write whose answer was lost is recognised in
//! it, whatever became of `holder` meanwhile.

use std::collections::BTreeSet;
use std::time::Duration;

use clock::Instant;
use coord::{CallError, Ended, Mode, Op, ReadBack, Rejection, Undo, Write, WriteError};
use proto::NodeId;
use proto::vip::ServiceName;
use uuid::Uuid;

use super::error::refused;
use super::{Holder, ReadError, Store, StoreError, Term, document};

/// What a take needs to know.
#[derive(Clone, Debug)]
pub struct TakeRequest<'a> {
    /// Which service.
    pub service: &'a ServiceName,
    /// Who takes it, with an id drawn for this take.
    pub holder: &'a Holder,
    /// The version of the assignment by which it is this node's turn.
    pub assignment: i32,
    /// This node's own member node.
    pub member: &'a str,
    /// How long the service's addresses may outlive this node's lease.
    pub grace: Duration,
}

/// A service that this session has taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taken {
    /// Which.
    pub service: ServiceName,
    /// Who.
    pub node: NodeId,
    /// The take.
    pub take: Uuid,
    /// The version of `term` that says so.
    pub term_version: i32,
    /// How long the addresses may not be put, from when the caller knows of the take: the recorded grace; zero if the one
    /// before had released.
    pub wait: Duration,
    /// The grace that is recorded now, which is what the next one waits: no address may outlive the lease by more.
    pub grace: Duration,
    /// Before the take was sent: the first proof of a lease on it.
    pub sent: Instant,
}

/// A service was not taken, or perhaps not.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TakeError {
    /// Things are not as this node thought. Nothing was done.
    #[error("{0}")]
    Refused(Refusal),
    /// There was no answer in time. If it was done, it is undone behind the scenes: the holder goes, the term stays held.
    #[error("the coordination service did not answer in time")]
    Unknown,
    /// The session is over.
    #[error("{0}")]
    Ended(Ended),
    /// What it depends on was not read. Nothing was done.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// It was refused for another reason. Nothing was done.
    #[error("failed to take the service: {0}")]
    Failed(Rejection),
}

/// Why a take was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It was assigned anew, or to nobody any more.
    #[error("the service was assigned anew")]
    Reassigned,
    /// This node's member node is gone.
    #[error("this node is no member at the moment")]
    NotMember,
    /// Somebody holds it.
    #[error("somebody holds the service")]
    Held,
    /// Somebody took it or gave it up in between.
    #[error("somebody was quicker")]
    Overtaken,
    /// The leader has not prepared it yet, or somebody has deleted its term, which the leader then writes again.
    #[error("the service is not prepared yet")]
    NoTerm,
}

/// What a release or withdrawal found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Release {
    /// It is given up.
    Done,
    /// It was not this take's any more; nothing was done.
    NotOurs,
}

impl Taken {
    /// The checks of a lease on it: a holder that was deleted and created again has the same version, and another term.
    pub fn authority(&self, layout: &coord::Layout) -> Vec<Op> {
        vec![
            Op::Check { path: layout.vip_holder(&self.service), version: 0 },
            Op::Check { path: layout.vip_term(&self.service), version: self.term_version },
        ]
    }
}

impl Store {
    /// Takes a service, if it is as the request says, nobody holds it, and this node is a member.
    ///
    /// # Errors
    /// See [`TakeError`].
    ///
    /// # Cancel safety
    /// Dropped, it leaves no holder behind. The term may say held, with the grace that the next one waits.
    pub async fn take(&self, request: TakeRequest<'_>) -> Result<Taken, TakeError> {
        let TakeRequest { service, holder, assignment, member, grace } = request;
        let Holder { node, take, .. } = holder;
        let paths = [
            self.layout.vip_assignment(service),
            member.to_owned(),
            self.layout.vip_holder(service),
            self.layout.vip_term(service),
        ];
        let [assignment_path, member_path, holder_path, term_path] = paths;
        let before = self.link.get(&term_path).await.map_err(ReadError::from)?;
        let Some(before) = document::term(before.as_ref()) else {
            return Err(TakeError::Refused(Refusal::NoTerm));
        };
        let wait = before.value.wait();
        let grace = grace.max(wait);
        let data = document::encode(&Term::Held { node: node.clone(), take: *take, grace });
        let ops = vec![
            Op::Check { path: assignment_path, version: assignment },
            Op::Check { path: member_path, version: 0 },
            Op::Create { path: holder_path, data: document::encode(holder), mode: Mode::Ephemeral },
            Op::Set { path: term_path.clone(), data: data.clone(), version: Some(before.version) },
        ];
        let read_back = ReadBack::Data { path: term_path, data };
        let sent = self.clock.now();
        let write = Write { ops, read_back, undo: Undo::DeleteOwn };
        match self.link.write(write, self.link.call_deadline()).await {
            Ok(_) => Ok(Taken {
                service: service.clone(),
                node: node.clone(),
                take: *take,
                term_version: before.version.wrapping_add(1),
                wait,
                grace,
                sent,
            }),
            Err(WriteError::Rejected { op, reason }) => Err(refusal(op, reason)),
            Err(WriteError::Unknown) => Err(TakeError::Unknown),
            Err(WriteError::Ended(ended)) => Err(TakeError::Ended(ended)),
        }
    }

    /// Gives a service up whose addresses are gone: the next one need not wait. Only for one that has waited its own
    /// [`Taken::wait`], or the addresses of the one before may still be there. `release` is drawn for it.
    ///
    /// # Errors
    /// See [`StoreError`]. It may have been done; try again.
    ///
    /// # Cancel safety
    /// It is done or not.
    pub async fn release(&self, taken: &Taken, release: Uuid) -> Result<Release, StoreError> {
        let Taken { service, node, term_version, .. } = taken;
        let (holder, term) = (self.layout.vip_holder(service), self.layout.vip_term(service));
        let free = Term::Free { node: Some(node.clone()), release: Some(release) };
        let data = document::encode(&free);
        let ops = vec![
            Op::Delete { path: holder, version: Some(0) },
            Op::Set { path: term.clone(), data: data.clone(), version: Some(*term_version) },
        ];
        self.give_up(service, ops, ReadBack::Data { path: term, data }).await
    }

    /// Gives a service up without having waited: the next one waits instead.
    ///
    /// # Errors
    /// See [`StoreError`]. It may have been done; try again.
    ///
    /// # Cancel safety
    /// It is done or not.
    pub async fn withdraw(&self, taken: &Taken) -> Result<Release, StoreError> {
        let Taken { service, term_version, .. } = taken;
        self.drop_holder(service, *term_version).await
    }

    /// The services whose holder this session is, by what the server knows: one that the caller knows nothing of is to be
    /// [disowned](Self::disown).
    ///
    /// # Errors
    /// The coordination service does not answer.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn own_holders(&self) -> Result<BTreeSet<ServiceName>, CallError> {
        let dir = self.layout.vips();
        self.link.sync(&dir).await?;
        let own = self.link.own_ephemerals(&dir).await?;
        let service =
            |path: &String| path.strip_prefix(&dir)?.strip_prefix('/')?.strip_suffix("/holder")?.parse().ok();
        Ok(own.iter().filter_map(service).collect())
    }

    /// Deletes a holder of this session that nobody here knows of; the next one waits the recorded grace.
    ///
    /// # Errors
    /// See [`StoreError`].
    ///
    /// # Cancel safety
    /// It is done or not.
    pub async fn disown(&self, service: &ServiceName) -> Result<Release, StoreError> {
        // Before the look at whose it is: every take writes it.
        let term = self.link.exists(&self.layout.vip_term(service)).await?;
        let holder = self.link.exists(&self.layout.vip_holder(service)).await?;
        let ours = holder.is_some_and(|stat| stat.ephemeral_owner == Some(self.link.session_id()));
        match term {
            _ if !ours => Ok(Release::NotOurs),
            Some(term) => self.drop_holder(service, term.version).await,
            // Somebody deleted it. Nobody takes while this one is there.
            None => {
                let path = self.layout.vip_holder(service);
                let (term, data) = (self.layout.vip_term(service), document::encode(&Term::Unknown));
                let ops = vec![
                    // Proves that it is still missing, so that nobody has taken since.
                    Op::Create { path: term, data, mode: Mode::Persistent },
                    Op::Delete { path: path.clone(), version: Some(0) },
                ];
                self.give_up(service, ops, ReadBack::Gone { path }).await
            }
        }
    }

    async fn drop_holder(&self, service: &ServiceName, term: i32) -> Result<Release, StoreError> {
        let holder = self.layout.vip_holder(service);
        let ops = vec![
            Op::Check { path: self.layout.vip_term(service), version: term },
            Op::Delete { path: holder.clone(), version: Some(0) },
        ];
        self.give_up(service, ops, ReadBack::Gone { path: holder }).await
    }

    async fn give_up(
        &self,
        service: &ServiceName,
        ops: Vec<Op>,
        read_back: ReadBack,
    ) -> Result<Release, StoreError> {
        let write = Write { ops: ops.clone(), read_back, undo: Undo::Keep };
        match self.link.write(write, self.link.call_deadline()).await {
            Ok(_) => Ok(Release::Done),
            Err(WriteError::Rejected { reason: Rejection::NoNode | Rejection::BadVersion, .. }) => {
                Ok(Release::NotOurs)
            }
            Err(source) => {
                let on = refused(&ops, &source).map(|path| format!(" ({path})")).unwrap_or_default();
                Err(StoreError::Write { what: format!("give {service} up{on}"), source })
            }
        }
    }
}

/// What a refused step of a take means.
fn refusal(op: usize, reason: Rejection) -> TakeError {
    use Rejection::{BadVersion, NoNode, NodeExists};
    let refusal = match (op, &reason) {
        (0, NoNode | BadVersion) => Refusal::Reassigned,
        (1, NoNode | BadVersion) => Refusal::NotMember,
        (2, NodeExists) => Refusal::Held,
        (2, NoNode) => Refusal::Reassigned,
        (3, NoNode | BadVersion) => Refusal::Overtaken,
        _ => return TakeError::Failed(reason),
    };
    TakeError::Refused(refusal)
}
