//! The real announcer, on packet sockets. Needs CAP_NET_RAW and nothing else.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use clock::{Instant, SharedClock};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use nix::errno::Errno;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::hub::{Hub, Interest, Subscription};
use super::{Announcer, CONFLICTS_MAX, Listening, Port, ProbePolicy, packet};
use crate::net::{Foreign, Mac, NetError};

/// Between two reports of the same conflict.
const REPORT_EVERY: Duration = Duration::from_millis(500);
/// Conflicts whose last report is remembered.
const REPORTS_MAX: usize = 256;

/// Sends and receives frames. Clones are the same announcer.
#[derive(Clone, Debug)]
pub struct Packets {
    hub: Arc<Hub>,
    clock: SharedClock,
}

impl Packets {
    /// Opens the sockets: three for the whole process, whatever it is asked to do later.
    ///
    /// # Errors
    /// [`NetError::NotPermitted`] without CAP_NET_RAW.
    ///
    /// # Panics
    /// Outside of a tokio runtime with IO, which it then belongs to.
    pub fn open(clock: SharedClock) -> Result<Self, NetError> {
        let hub = Hub::open().map_err(|error| refused("opening packet sockets".to_owned(), &error))?;
        Ok(Self { hub, clock })
    }

    /// Sends one Ethernet frame as it is. Does not suspend.
    ///
    /// # Errors
    /// It was not sent.
    pub fn send(&self, port: &Port, frame: &[u8]) -> Result<(), NetError> {
        self.hub.send(port.link, frame).map_err(|errno| match errno {
            Errno::ENODEV | Errno::ENXIO => NetError::NoInterface(port.interface.clone()),
            errno => refused(format!("sending on {}", port.interface), &errno.into()),
        })
    }

    async fn ask(
        &self,
        port: &Port,
        addresses: &[IpAddr],
        policy: ProbePolicy,
    ) -> Result<Option<Foreign>, NetError> {
        let _groups = Groups::join(port, addresses);
        let mut answers = self.subscribe(port, addresses.to_vec(), Interest::Free)?;
        let mut unasked: Vec<IpAddr> = addresses.to_vec();
        let mut trouble = None;
        for _ in 0..policy.count {
            for address in addresses {
                match self.send(port, &packet::question(port.mac, *address)) {
                    Ok(()) => unasked.retain(|unasked| unasked != address),
                    Err(error) => trouble = Some(error),
                }
            }
            // Counted from the sending: on a busy machine it takes longer rather than that an answer has less time.
            match tokio::time::timeout(policy.interval, answers.next()).await {
                Ok(answer) => {
                    return answer.map(Some).map_err(|error| refused("asking".to_owned(), &error));
                }
                Err(_) => continue,
            }
        }
        if let Some(answer) = answers.now() {
            return Ok(Some(answer));
        }
        match trouble {
            Some(trouble) if !unasked.is_empty() => Err(trouble),
            _ => Ok(None),
        }
    }

    fn subscribe(
        &self,
        port: &Port,
        addresses: Vec<IpAddr>,
        interest: Interest,
    ) -> Result<Subscription, NetError> {
        let subscribed = self.hub.subscribe(port, addresses, interest);
        subscribed.map_err(|error| refused(format!("listening on {}", port.interface), &error))
    }
}

impl Announcer for Packets {
    fn probe<'a>(
        &'a self,
        port: &'a Port,
        addresses: &'a [IpAddr],
        policy: ProbePolicy,
    ) -> BoxFuture<'a, Result<Option<Foreign>, NetError>> {
        self.ask(port, addresses, policy).boxed()
    }

    fn announce(&self, port: &Port, addresses: &[IpAddr]) -> Result<(), NetError> {
        let router = addresses.iter().any(IpAddr::is_ipv6) && forwards(&port.interface);
        let frames = addresses.iter().flat_map(|address| packet::announcements(port.mac, *address, router));
        let (mut sent, mut trouble) = (0_usize, None);
        for frame in frames {
            match self.send(port, &frame) {
                Ok(()) => sent += 1,
                Err(error) => trouble = Some(error),
            }
        }
        match trouble {
            Some(error) if sent == 0 => Err(error),
            Some(error) => {
                tracing::debug!(interface = port.interface, %error, "a part of a round was not sent");
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn listen(&self, port: &Port, addresses: Vec<IpAddr>) -> Result<Listening, NetError> {
        let others = self.subscribe(port, addresses, Interest::Held)?;
        let (tell, conflicts) = mpsc::channel(CONFLICTS_MAX);
        let mut tasks = JoinSet::new();
        tasks.spawn(report(others, tell, Arc::clone(&self.clock)));
        Ok(Listening { conflicts, tasks })
    }
}

/// Ends when nobody listens any more, or when the runtime ends.
async fn report(mut others: Subscription, tell: mpsc::Sender<Foreign>, clock: SharedClock) {
    let mut reports = Reports::default();
    loop {
        let foreign = tokio::select! {
            foreign = others.next() => foreign,
            () = tell.closed() => return,
        };
        match foreign {
            Ok(foreign) if reports.admit(foreign, clock.now()) => {
                // Full: whoever listens has enough to do.
                let _ = tell.try_send(foreign);
            }
            Ok(_) => {}
            Err(error) => {
                tracing::debug!(%error, "nothing is heard any more");
                return;
            }
        }
    }
}

/// When which conflict was reported last.
#[derive(Debug, Default)]
struct Reports(BTreeMap<(IpAddr, Mac), Instant>);

impl Reports {
    /// Whether this one is to be reported now.
    fn admit(&mut self, foreign: Foreign, now: Instant) -> bool {
        let key = (foreign.address, foreign.mac);
        if self.0.get(&key).is_some_and(|last| now.since(*last) < REPORT_EVERY) {
            return false;
        }
        if self.0.len() >= REPORTS_MAX
            && !self.0.contains_key(&key)
            && let Some(oldest) = self.0.iter().min_by_key(|(_, last)| **last).map(|(key, _)| *key)
        {
            self.0.remove(&oldest);
        }
        self.0.insert(key, now);
        true
    }
}

/// Membership in the groups that others send *their* questions to, for as long as we ask: without it, the network card
/// and switches that look into MLD keep these from us. (RFC 4862, 5.4.2 demands it. Once the kernel has the address, it
/// is a member itself.)
#[derive(Debug)]
struct Groups {
    _member: Option<Socket>,
}

impl Groups {
    /// As good as it goes: where IPv6 is switched off, answers are still heard, since they go to every node.
    fn join(port: &Port, addresses: &[IpAddr]) -> Self {
        let groups: Vec<Ipv6Addr> = addresses
            .iter()
            .filter_map(|address| match address {
                IpAddr::V4(_) => None,
                IpAddr::V6(address) => Some(packet::solicited_node(*address)),
            })
            .collect();
        if groups.is_empty() {
            return Self { _member: None };
        }
        let joined = Socket::new(Domain::IPV6, Type::DGRAM, Some(Protocol::UDP)).and_then(|member| {
            for group in groups {
                match member.join_multicast_v6(&group, port.link) {
                    // Two of our addresses may share a group.
                    Err(error) if error.kind() != io::ErrorKind::AddrInUse => return Err(error),
                    _ => {}
                }
            }
            Ok(member)
        });
        if let Err(error) = &joined {
            tracing::debug!(interface = port.interface, %error, "not in the groups of the asked addresses");
        }
        Self { _member: joined.ok() }
    }
}

/// Whether this machine forwards IPv6 from that interface.
fn forwards(interface: &str) -> bool {
    let setting = std::fs::read_to_string(format!("/proc/sys/net/ipv6/conf/{interface}/forwarding"));
    // Absent: there is no IPv6 here.
    setting.is_ok_and(|setting| setting.trim() != "0")
}

fn refused(doing: String, error: &io::Error) -> NetError {
    match error.kind() {
        io::ErrorKind::PermissionDenied => NetError::NotPermitted,
        _ => NetError::Failed { doing, why: error.to_string() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn foreign(n: u32) -> Foreign {
        let [_, _, a, b] = n.to_be_bytes();
        Foreign { address: IpAddr::V4(n.into()), mac: Mac([2, 0, 0, 0, a, b]) }
    }

    #[test]
    fn the_same_conflict_is_reported_twice_a_second_and_another_at_once() {
        let at = |ms: u64| Instant::from_nanos(ms * 1_000_000);
        let mut reports = Reports::default();
        let table =
            [(0, 1, true), (1, 1, false), (499, 1, false), (499, 2, true), (500, 1, true), (999, 1, false)];
        for (ms, who, admitted) in table {
            assert_eq!(reports.admit(foreign(who), at(ms)), admitted, "{who} after {ms} ms");
        }
    }

    #[test]
    fn a_thousand_liars_are_not_all_remembered() {
        let mut reports = Reports::default();
        for n in 0..1000 {
            assert!(reports.admit(foreign(n), Instant::from_nanos(u64::from(n))));
            assert!(reports.0.len() <= REPORTS_MAX);
        }
        // The latest are.
        assert!(!reports.admit(foreign(999), Instant::from_nanos(1000)));
    }
}
