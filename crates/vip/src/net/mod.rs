//! Addresses and links of this machine, behind one small trait: the crates that speak netlink break often.
//!
//! ```text
//!             ┌── netlink   the kernel's (one exchange per write; dumps; a subscription)
//!  Backend ───┼── dry_run   changes nothing, says everything, remembers what it would hold
//!             └── memory    a machine in memory, with strangers and failures: for tests and simulation
//! ```
//!
//! The last two share `table`: addresses that expire as the kernel lets them.

pub mod dry_run;
pub mod memory;
pub mod netlink;
mod table;

use std::fmt;
use std::net::IpAddr;

use futures::future::BoxFuture;
use ipnet::IpNet;
use tokio::sync::mpsc;

/// What names the addresses that we added, in `IFA_PROTO`. The kernel keeps it and shows it (`ip -d address`: `proto
/// 0x54`); nobody else is known to use it.
pub const ADDRESS_PROTO: u8 = 0x54;

/// An address on an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// The kernel's number of the interface.
    pub link: u32,
    /// The interface's name.
    pub interface: String,
    /// The address and its prefix.
    pub address: IpNet,
    /// Whether it carries [`ADDRESS_PROTO`].
    pub ours: bool,
    /// Seconds until the kernel removes it; none = never.
    pub valid_for: Option<u32>,
}

/// An interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// The kernel's number.
    pub link: u32,
    /// Its name.
    pub name: String,
    /// Its hardware address, if it has one of six bytes.
    pub mac: Option<[u8; 6]>,
    /// Administratively up.
    pub up: bool,
    /// Whether it has a carrier (`IFLA_CARRIER`/`IFF_LOWER_UP`).
    pub carrier: bool,
}

/// What somebody, perhaps we, changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NetEvent {
    /// An address is there, new or renewed.
    AddressSet(Address),
    /// An address is gone.
    AddressGone(Address),
    /// An interface is there or has changed.
    LinkSet(Interface),
    /// An interface is gone.
    LinkGone {
        /// Which.
        link: u32,
        /// Its name.
        name: String,
    },
    /// Events were lost: look at everything again.
    Overrun,
}

/// Which backend it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BackendKind {
    /// The kernel's.
    Netlink,
    /// Nothing is changed, everything is said.
    DryRun,
}

/// What went wrong at the kernel.
#[derive(Clone, Debug, thiserror::Error)]
pub enum NetError {
    /// No right to do it.
    #[error("not permitted: give taskd CAP_NET_ADMIN and CAP_NET_RAW, or set vip.backend = \"dry-run\"")]
    NotPermitted,
    /// The interface does not exist.
    #[error("there is no interface {0}")]
    NoInterface(String),
    /// The address was there before we put it for the first time, and is not ours: to give it a lifetime would take it
    /// from its owner.
    #[error(
        "{address} is on {interface} already, and taskd has not put it there: remove it, or take it out of the service"
    )]
    Foreign {
        /// Which.
        address: IpNet,
        /// Where.
        interface: String,
    },
    /// Anything else.
    #[error("{doing}: {why}")]
    Failed {
        /// What was being done.
        doing: String,
        /// The kernel's words.
        why: String,
    },
}

/// The machine's addresses.
///
/// `put` and `remove` are one synchronous exchange with the kernel each (some 50 µs), so that the caller can read the
/// clock right before and after: they do not suspend. They are safe to call from an async task. The kernel does one such
/// change at a time for the whole machine: while another one takes long (a driver resets, a namespace is torn down) ours
/// waits for it, for which there is no deadline; hence the second look at the clock.
pub trait Backend: fmt::Debug + Send + Sync + 'static {
    /// Which one it is.
    fn kind(&self) -> BackendKind;

    /// Whether [`Address::ours`] can be believed where it is false: Linux keeps the tag since 5.18.
    fn keeps_tags(&self) -> bool {
        true
    }

    /// Every address of this machine, of both families.
    ///
    /// # Errors
    /// The kernel does not answer, or not within a second.
    fn addresses(&self) -> BoxFuture<'_, Result<Vec<Address>, NetError>>;

    /// Every interface.
    ///
    /// # Errors
    /// As [`addresses`](Self::addresses).
    fn interfaces(&self) -> BoxFuture<'_, Result<Vec<Interface>, NetError>>;

    /// Adds the address, or renews the lifetime of one that this backend has put and not removed, tagged as ours; IPv6
    /// with `NODAD`. `valid_s` is the lifetime in seconds; 0 is taken for 1. (For how long the address is *preferred* is
    /// the backend's business, see [`netlink`].)
    ///
    /// # Errors
    /// The kernel refuses; nothing was changed. [`NetError::Foreign`] if the address is there and somebody else's.
    /// "Did not answer in time" leaves open whether it was changed.
    fn put(&self, link: u32, address: IpNet, valid_s: u32) -> Result<(), NetError>;

    /// Removes the address. Whether it was there.
    ///
    /// # Errors
    /// The kernel refuses; it is not known to be gone. An address that was not there, or whose interface is gone, is no
    /// error.
    fn remove(&self, link: u32, address: IpNet) -> Result<bool, NetError>;

    /// What changes from now on: look at everything once *after* this, and nothing is missed. The queue is bounded;
    /// what does not fit becomes one [`NetEvent::Overrun`], and every event that comes behind it is later than it.
    /// Its end means that the subscription broke: watch again, and look at everything again.
    ///
    /// # Errors
    /// The kernel refuses the subscription.
    fn watch(&self) -> BoxFuture<'_, Result<Watch, NetError>>;
}

/// A subscription. Dropping it ends the task behind it.
#[derive(Debug)]
pub struct Watch {
    /// The events.
    pub events: mpsc::Receiver<NetEvent>,
    /// The task that feeds it.
    pub tasks: tokio::task::JoinSet<()>,
}

impl Watch {
    /// The next event; none when the subscription broke.
    ///
    /// (A closure or an `async` block that names only `events` captures only that, and drops the task.)
    ///
    /// # Cancel safety
    /// Cancel safe: no event is lost.
    pub async fn next(&mut self) -> Option<NetEvent> {
        self.events.recv().await
    }
}

/// A six-byte hardware address, as people write it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac(pub [u8; 6]);

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Somebody else who has one of our addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Foreign {
    /// Which address.
    pub address: IpAddr,
    /// Whose hardware address said so.
    pub mac: Mac,
}
