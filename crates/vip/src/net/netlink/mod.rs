//! The kernel's addresses.
//!
//! | what | IPv4 | IPv6 |
//! |---|---|---|
//! | `valid_lft` | as asked | as asked |
//! | `preferred_lft` | the same | 0: the address is *deprecated*, and answers all the same; a machine that connects somewhere must not do so from an address that moves away, and Linux would choose the newest of its network (keepalived does the same with a /128) |
//! | `IFA_PROTO` | `0x54` | `0x54` |
//! | label | `eth1:vip`, if that is no longer than 15 bytes | – |
//! | broadcast | that of the network, where it has one (as `ip address add … brd +`) | – |
//! | duplicate detection | – (we probe) | off (`NODAD`; we probe) |
//! | route to its network | as `ip` does it: none beside another address of the network (it is *secondary*), its own otherwise | its own, with a metric of 65536; none for a /128 |
//!
//! The metric is there because Linux keeps one route per network, metric and interface, and gives it the lifetime that
//! was written last: an address for 2 s beside one that a router announced would take the machine's own route with it.
//!
//! Before an IPv4 address is written or removed, `promote_secondaries` is seen to: without it an address of ours could
//! take the machine's own along when it goes (see `promote`). That is the one setting that is changed here.
//!
//! # Before Linux 5.18
//! `IFA_PROTO` is ignored there, and no address is [`ours`](Address::ours). What follows: after a crash only the local
//! database tells what to remove, and where that is lost the kernel's own lifetime does it, within seconds. An address
//! with a lifetime that is in the way of a first put is taken for a leftover; one without never is, on any kernel.
//! [`Backend::keeps_tags`] tells.
//!
//! # Namespaces
//! A socket belongs to the network namespace of the thread that opens it. [`Netlink::open`] opens the one for writes;
//! lists and subscriptions open theirs where they are polled first.

mod permit;
mod promote;
mod socket;
mod watch;
mod wire;

pub use permit::permitted;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use futures::FutureExt;
use futures::future::BoxFuture;
use ipnet::IpNet;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::RouteNetlinkMessage;
use nix::errno::Errno;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use self::socket::{Exchange, Socket, Trouble};
use self::wire::Listed;
use super::{Address, Backend, BackendKind, Interface, NetError, Watch};

/// How many events wait in the queue; more wait in the socket.
const EVENTS_MAX: usize = 1024;

/// Interfaces by number.
type Names = BTreeMap<u32, String>;

/// The kernel of this network namespace.
#[derive(Debug)]
pub struct Netlink {
    writing: Mutex<Writing>,
    keeps_tags: AtomicBool,
}

#[derive(Debug)]
struct Writing {
    exchange: Exchange,
    /// What was put and not removed: the interface's name.
    held: BTreeMap<(u32, IpNet), String>,
    /// The interfaces whose other addresses survive ours.
    prepared: BTreeSet<u32>,
}

impl Netlink {
    /// Opens the socket for writes. That needs no capability, nor does reading.
    ///
    /// # Errors
    /// There is no netlink, or no file descriptor left.
    pub fn open() -> Result<Self, NetError> {
        let exchange =
            Exchange::open().map_err(|errno| explain("open a netlink socket", "", errno.into()))?;
        let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let writing = Writing { exchange, held: BTreeMap::new(), prepared: BTreeSet::new() };
        Ok(Self { writing: Mutex::new(writing), keeps_tags: AtomicBool::new(has_proto(&release)) })
    }

    /// Distributions bring what they need into old kernels: seeing a tag is better than a version.
    fn learn(&self, listed: &[Listed]) {
        if listed.iter().any(|one| one.proto.is_some()) {
            self.keeps_tags.store(true, Ordering::Relaxed);
        }
    }
}

impl Backend for Netlink {
    fn kind(&self) -> BackendKind {
        BackendKind::Netlink
    }

    fn keeps_tags(&self) -> bool {
        self.keeps_tags.load(Ordering::Relaxed)
    }

    fn addresses(&self) -> BoxFuture<'_, Result<Vec<Address>, NetError>> {
        async {
            let doing = "list the addresses";
            let listed = socket::list(wire::list_addresses).await.map_err(|why| explain(doing, "", why))?;
            let listed = addresses(&listed);
            self.learn(&listed);
            // After the addresses: an interface that is new is in it, one that is gone took its addresses along.
            let names = watch::list_names().await.map_err(|why| explain(doing, "", why))?;
            Ok(listed.into_iter().map(|one| full(one, &names)).collect())
        }
        .boxed()
    }

    fn interfaces(&self) -> BoxFuture<'_, Result<Vec<Interface>, NetError>> {
        async {
            let listed = socket::list(|| wire::list_links(None)).await;
            let listed = listed.map_err(|why| explain("list the interfaces", "", why))?;
            Ok(links(&listed))
        }
        .boxed()
    }

    fn put(&self, link: u32, address: IpNet, valid_s: u32) -> Result<(), NetError> {
        let mut writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let known = writing.held.get(&(link, address)).cloned();
        let first = known.is_none();
        let interface = match known {
            Some(name) => name,
            None => writing.name(link)?,
        };
        if first {
            // IPv4 has room for it beside one with another prefix, and IPv6 would give that one our lifetime.
            if let Some(address) = self.foreign(&mut writing.exchange, link, address)? {
                return Err(NetError::Foreign { address, interface });
            }
            writing.prepare(link, &interface, address);
        }
        let label = wire::label(&interface);
        let message = || wire::put(link, address, valid_s.max(1), label.as_deref());
        let how = if first { NLM_F_EXCL } else { NLM_F_REPLACE };
        let mut done = writing.exchange.change(message(), NLM_F_CREATE | how);
        if done == Err(Trouble::Refused(Errno::EEXIST)) {
            if let Some(address) = self.foreign(&mut writing.exchange, link, address)? {
                return Err(NetError::Foreign { address, interface });
            }
            done = writing.exchange.change(message(), NLM_F_CREATE | NLM_F_REPLACE);
        }
        done.map_err(|why| explain(&format!("put {address} on {interface}"), &interface, why))?;
        if first {
            writing.held.insert((link, address), interface);
        }
        Ok(())
    }

    fn remove(&self, link: u32, address: IpNet) -> Result<bool, NetError> {
        let mut writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        if let Ok(interface) = writing.name(link) {
            writing.prepare(link, &interface, address);
        }
        let was = match writing.exchange.change(wire::remove(link, address), 0) {
            Ok(()) => true,
            // ENXIO: IPv6 has not been on that interface, or the interface is gone.
            Err(Trouble::Refused(Errno::EADDRNOTAVAIL | Errno::ENODEV | Errno::ENXIO)) => false,
            Err(why) => {
                let interface = writing.held.get(&(link, address)).cloned();
                let interface = interface.unwrap_or_else(|| format!("number {link}"));
                return Err(explain(&format!("remove {address} from {interface}"), &interface, why));
            }
        };
        writing.held.remove(&(link, address));
        Ok(was)
    }

    fn watch(&self) -> BoxFuture<'_, Result<Watch, NetError>> {
        async {
            let doing = "subscribe to changes of addresses and links";
            let socket = Socket::listening().map_err(|errno| explain(doing, "", errno.into()))?;
            let names = watch::list_names().await.map_err(|why| explain(doing, "", why))?;
            let (to, events) = mpsc::channel(EVENTS_MAX);
            let mut tasks = JoinSet::new();
            tasks.spawn(watch::run(socket, names, to));
            Ok(Watch { events, tasks })
        }
        .boxed()
    }
}

impl Netlink {
    /// The address as it is there, with whatever prefix, if it is somebody else's: it is not tagged, and a kernel without
    /// tags cannot tell unless it stays for ever, which ours never do.
    fn foreign(&self, exchange: &mut Exchange, link: u32, address: IpNet) -> Result<Option<IpNet>, NetError> {
        let listed = exchange.ask(wire::list_addresses(), NLM_F_DUMP);
        let listed = addresses(&listed.map_err(|why| explain("list the addresses", "", why))?);
        self.learn(&listed);
        let there = listed.iter().filter(|one| one.link == link && one.address.addr() == address.addr());
        let mut others = there.filter(|one| !one.ours() && (one.valid_for.is_none() || self.keeps_tags()));
        Ok(others.next().map(|one| one.address))
    }
}

impl Writing {
    fn name(&mut self, link: u32) -> Result<String, NetError> {
        let unknown = format!("number {link}");
        let listed = self.exchange.ask(wire::list_links(Some(link)), netlink_packet_core::NLM_F_ACK);
        let listed = listed.map_err(|why| explain("look at an interface", &unknown, why))?;
        let found = links(&listed).pop();
        found.map(|interface| interface.name).ok_or(NetError::NoInterface(unknown))
    }

    /// Once for each interface.
    fn prepare(&mut self, link: u32, interface: &str, address: IpNet) {
        if address.addr().is_ipv4() && address.prefix_len() < 32 && self.prepared.insert(link) {
            promote::ensure(interface);
        }
    }
}

fn addresses(messages: &[RouteNetlinkMessage]) -> Vec<Listed> {
    let listed = messages.iter().filter_map(|message| match message {
        RouteNetlinkMessage::NewAddress(message) => wire::address(message),
        _ => None,
    });
    listed.collect()
}

fn links(messages: &[RouteNetlinkMessage]) -> Vec<Interface> {
    let listed = messages.iter().filter_map(|message| match message {
        RouteNetlinkMessage::NewLink(message) => wire::interface(message),
        _ => None,
    });
    listed.collect()
}

fn full(listed: Listed, names: &Names) -> Address {
    let Listed { link, address, valid_for, .. } = listed;
    let interface = names.get(&link).cloned().unwrap_or_else(|| format!("number {link}"));
    Address { link, interface, address, ours: listed.ours(), valid_for }
}

/// In words that help. `interface`: what was asked for, for "there is no such".
fn explain(doing: &str, interface: &str, why: Trouble) -> NetError {
    let why = match why {
        Trouble::Refused(Errno::EPERM) => return NetError::NotPermitted,
        Trouble::Refused(Errno::ENODEV | Errno::ENXIO) => return NetError::NoInterface(interface.to_owned()),
        Trouble::Refused(Errno::EACCES) => {
            format!("refused; is IPv6 switched off there (net.ipv6.conf.{interface}.disable_ipv6)?")
        }
        Trouble::Refused(errno) => errno.desc().to_owned(),
        Trouble::Late(within) => format!("the kernel did not answer within {} ms", within.as_millis()),
    };
    NetError::Failed { doing: format!("failed to {doing}"), why }
}

/// Whether a kernel of that release keeps `IFA_PROTO`.
fn has_proto(release: &str) -> bool {
    let mut numbers =
        release.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse::<u32>().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= (5, 18)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_that_keep_the_tag() {
        for (release, keeps) in [
            ("5.17.9-generic", false),
            ("5.18.0", true),
            ("6.1.0-18-amd64\n", true),
            ("4.19", false),
            ("", false),
        ] {
            assert_eq!(has_proto(release), keeps, "{release:?}");
        }
    }
}
