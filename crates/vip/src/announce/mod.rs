//! Telling the network where an address is, and asking it whether somebody else has it.
//!
//! ARP for IPv4 (RFC 826, RFC 5227), neighbour discovery for IPv6 (RFC 4861, RFC 4862), on packet sockets.
//!
//! | a frame from another hardware address | while we ask ([`Announcer::probe`]) | while we hold ([`Announcer::listen`]) |
//! |---|---|---|
//! | ARP, of any kind, whose *sender* address is ours | it has it | a conflict |
//! | ARP probe (sender 0.0.0.0) for ours, to everybody | wants it at the same time: as if it had it | nothing: our kernel answers |
//! | neighbour advertisement for ours | it has it | a conflict |
//! | neighbour solicitation *from* ours | it has it | a conflict |
//! | neighbour solicitation from `::` for ours | wants it at the same time: as if it had it | nothing: our kernel answers |
//!
//! So whoever merely watches an address must ask with an address of his own, not in the form of a probe.

pub mod packet;

mod filter;
mod hub;

mod packets;
pub use packets::Packets;

mod dry_run;
pub use dry_run::{DryRun, Said, Utterance};

mod schedule;
pub use schedule::{AnnouncePolicy, Announcements};

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::sync::mpsc;

use crate::net::{Foreign, Mac, NetError};

/// Conflicts that wait for whoever listens; more are left out.
const CONFLICTS_MAX: usize = 64;

/// How an address is asked for before it is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProbePolicy {
    /// Questions that are sent.
    pub count: u32,
    /// Between two of them, and after the last.
    pub interval: Duration,
}

impl Default for ProbePolicy {
    fn default() -> Self {
        Self { count: 2, interval: Duration::from_millis(40) }
    }
}

impl ProbePolicy {
    /// How long a probe without an answer takes.
    pub fn takes(&self) -> Duration {
        self.interval * self.count
    }
}

/// The interface that something is sent on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// The kernel's number.
    pub link: u32,
    /// Its name.
    pub interface: String,
    /// Its hardware address.
    pub mac: Mac,
}

/// The network's side of holding an address.
pub trait Announcer: fmt::Debug + Send + Sync + 'static {
    /// Asks whether anybody has one of `addresses`, all at the same time; returns the first who answers, at once.
    ///
    /// None means that each of them was asked for at least once, and that nobody had answered when the policy's time
    /// was over.
    ///
    /// # Errors
    /// One of the addresses could not be asked for.
    ///
    /// # Cancel safety
    /// Safe: nothing is kept.
    fn probe<'a>(
        &'a self,
        port: &'a Port,
        addresses: &'a [IpAddr],
        policy: ProbePolicy,
    ) -> BoxFuture<'a, Result<Option<Foreign>, NetError>>;

    /// Says once that `addresses` are here: gratuitous ARP as request and as reply, unsolicited neighbour
    /// advertisements with the override flag. One round; [`Announcements`] says when. Does not suspend; what a full
    /// queue does not take is left out.
    ///
    /// # Errors
    /// Nothing could be sent.
    fn announce(&self, port: &Port, addresses: &[IpAddr]) -> Result<(), NetError>;

    /// Who else says that it has one of `addresses`, from now on (frames of `port`'s own hardware address are not
    /// reported). Outlives that the interface goes down and comes up; whoever listens has to ask anew if the interface
    /// gets another hardware address, or is another one of the same name.
    ///
    /// # Errors
    /// The kernel refuses.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    fn listen(&self, port: &Port, addresses: Vec<IpAddr>) -> Result<Listening, NetError>;
}

/// Who answers for our addresses. Dropping it ends the task behind it.
#[derive(Debug)]
pub struct Listening {
    /// At most two a second for each address and hardware address.
    pub conflicts: mpsc::Receiver<Foreign>,
    /// The task that feeds it.
    pub tasks: tokio::task::JoinSet<()>,
}

impl Listening {
    /// The next one; none when nothing can be heard any more, since the runtime ends.
    ///
    /// (A closure or an `async` block that names only `conflicts` captures only that, and drops the task.)
    ///
    /// # Cancel safety
    /// Safe: none is lost.
    pub async fn next(&mut self) -> Option<Foreign> {
        self.conflicts.recv().await
    }
}
