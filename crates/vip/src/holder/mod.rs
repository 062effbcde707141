//! What one node does for one service: a core without IO. [`Event`]s in, [`Effect`]s out; time comes with each event.
//!
//! `core` knows the documents and decides whose turn it is; `own` is what follows once the service is taken: wait, probe,
//! put, hold, give up; `pen` writes the addresses; `timing` is the arithmetic. `sim` runs three of these cores against a modelled coordination
//! service, network and kernel, and checks after every step that no two kernels have an address.
//!
//! **Invariant** every state that is not an end has a deadline ([`Core::wake`]), at which [`Event::Tick`] brings it on.

mod core;
mod own;
pub(crate) mod pen;
#[cfg(test)]
mod sim;
#[cfg(test)]
mod tests;
pub(crate) mod timing;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use clock::Instant;
use proto::NodeId;
use uuid::Uuid;

pub(crate) use self::core::{Core, Settings};

use crate::net::Foreign;
use crate::store::Term;

/// The session's number: whatever was known and held under another one is over.
pub(crate) type Session = u64;

/// Tells the answer to the present question from one to an earlier one.
pub(crate) type Ticket = u64;

/// Where tickets come from: one for all cores of a node, also those that come after others of the same service, or an
/// answer to one that is no more could be taken for an answer to its successor.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tickets(Arc<AtomicU64>);

impl Tickets {
    fn next(&self) -> Ticket {
        self.0.fetch_add(1, Ordering::Relaxed) + 1
    }
}

/// An assignment as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Assigned {
    /// Its version: a take checks it.
    pub(crate) version: i32,
    /// The transaction that wrote it: orders assignments, also over a deletion.
    pub(crate) mark: i64,
    /// Who is to hold the service, then who follows.
    pub(crate) order: Vec<NodeId>,
}

/// What a take brought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Taken {
    /// Drawn for it.
    pub(crate) take: Uuid,
    /// When it was sent: the lease's first proof.
    pub(crate) sent: Instant,
    /// When the acknowledgement was here: the grace counts from it.
    pub(crate) acked: Instant,
    /// `term`'s version now.
    pub(crate) term_version: i32,
    /// How long the one before it may still have the addresses; zero if it had released.
    pub(crate) wait: Duration,
    /// What is recorded for whoever takes it from us.
    pub(crate) grace: Duration,
}

/// Why a step at the coordination service was not done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// Something that it checks is not as it was: it was not done, and will not be.
    Stale(String),
    /// Not known, or not now.
    Failed(String),
}

/// What became of writing the addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PutDone {
    /// When at the latest, and for how long, some address was written; none if none was.
    pub(crate) there: Option<(Instant, u32)>,
    /// How it ended.
    pub(crate) end: PutEnd,
}

/// How writing the addresses ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum PutEnd {
    /// All are there.
    Done,
    /// The lease is over, or too short for another second.
    OutsideLease,
    /// The kernel refuses.
    Refused(String),
}

/// What a lease is worth.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum LeaseNow {
    Held,
    Lapsed,
    Lost(String),
}

/// Everything that a core can hear.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// There is this session now, or none.
    Session(Option<Session>),
    /// The assignment as it was read; none = there is none.
    Assigned(Option<Assigned>),
    /// Who holds the service; and whether that node is of our present session.
    Holder(Option<(NodeId, bool)>),
    /// What is known of the last holder, with the version; read for what concerns ourselves alone.
    Term(Option<(i32, Term)>),
    /// Nodes that say something of themselves; those of them that could take the service, drained ones left out; and
    /// whether this one is drained.
    Peers { there: BTreeSet<NodeId>, able: BTreeSet<NodeId>, drained: bool },
    /// Why this node cannot hold it; none if it can.
    Fitness(Option<String>),
    /// How long a successor is to wait, as configured now.
    Grace(Duration),
    /// A take's answer.
    Taken(Ticket, Result<Taken, Refused>),
    /// The lease on what was taken changed.
    Lease(LeaseNow),
    /// A probe that was sent then was committed; what is left of the lease now.
    Proved { sent: Instant, remaining: Duration },
    /// The addresses are on disk and known to the guard; or not.
    Recorded(Ticket, Result<(), String>),
    /// Nothing of the service is on disk any more.
    Forgotten(Ticket),
    /// Who answers for an address.
    Probed(Ticket, Result<Option<Foreign>, String>),
    /// What became of [`Effect::Put`].
    Put(PutDone),
    /// What became of [`Effect::Remove`].
    Removed(Result<(), String>),
    /// One of the addresses is not there any more, and it was not us.
    Vanished(String),
    /// One of the addresses is not there any more, since its interface went down: the kernel's doing.
    Dropped(String),
    /// Somebody gave one of the addresses a lifetime or an owner of his own.
    Overwritten(String),
    /// Somebody else says that it has one of the addresses.
    Conflict(Foreign),
    /// An interface is there again or has its carrier back.
    LinkUp,
    /// The service has other addresses from now on.
    Redefined,
    /// A release's answer.
    Released(Ticket, Result<(), Refused>),
    /// Take nothing any more, give up what is held.
    Stop,
    /// Time has passed.
    Tick,
}

/// What a core wants done. `Put` and `Remove` are done at once and answered before anything else is heard; the others
/// take their time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Take the service under this assignment, and record at least this grace.
    Take { ticket: Ticket, version: i32, grace: Duration },
    /// Have probes prove what was taken.
    Prove(Taken),
    /// No longer.
    Unprove,
    /// Write the addresses to disk and tell the guard.
    Record(Ticket),
    /// Take them off the disk again.
    Forget(Ticket),
    /// Ask the network.
    Probe(Ticket),
    /// Write the addresses, inside the lease, for a successor that waits `grace`.
    Put { grace: Duration },
    /// Remove them all.
    Remove,
    /// Announce them, now and repeatedly.
    Announce,
    /// Stop announcing.
    Hush,
    /// They have come: run the hook.
    Came,
    /// They have gone: run the hook.
    Went,
    /// Give the service up: delete `holder`, and set `term` free if `free`.
    Release { ticket: Ticket, term_version: i32, free: bool },
    /// For the record.
    Say(String),
}
