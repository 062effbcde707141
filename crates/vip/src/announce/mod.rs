//! Telling the network where an address is, and asking it whether somebody else has it.
//!
//! ARP for IPv4 (RFC 826, RFC 5227), neighbour discovery for IPv6 (RFC 4861, RFC 4862), on packet sockets.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::sync::mpsc;

use crate::net::{Foreign, Mac, NetError};

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
    /// # Errors
    /// Nothing could be sent.
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
    /// advertisements with the override flag. Does not suspend; what a full queue does not take is left out.
    ///
    /// # Errors
    /// Nothing could be sent.
    fn announce(&self, port: &Port, addresses: &[IpAddr]) -> Result<(), NetError>;

    /// Who else says that it has one of `addresses`, from now on (its own frames are not reported).
    ///
    /// # Errors
    /// The kernel refuses the sockets.
    fn listen(&self, port: &Port, addresses: Vec<IpAddr>) -> Result<Listening, NetError>;
}

/// Who answers for our addresses. Dropping it ends the task behind it.
#[derive(Debug)]
pub struct Listening {
    /// At most a few a second for each hardware address.
    pub conflicts: mpsc::Receiver<Foreign>,
    /// The task that feeds it.
    pub tasks: tokio::task::JoinSet<()>,
}
