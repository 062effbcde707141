//! The sockets, shared by everyone who listens.
//!
//! ```text
//!  kernel ──ARP──▶ ear ─┐                        ┌─▶ subscription (a probe)
//!         ──ND───▶ ear ─┴─ whoever waits reads ──┼─▶ subscription (a held service)
//!         ◀────── mouth                          └─▶ …
//! ```
//!
//! One pair of them for the whole process, because each packet socket costs a look at every frame of its protocol, and
//! because binding one that receives (8 ms) and closing one (16 ms, on an idle machine) wait for the kernel's readers of
//! that list: nothing is opened, bound or closed while addresses move. So the receiving ones are not bound to an
//! interface; a frame says which it came in on. There is no task that reads, and none to stop: everyone who waits
//! for his own also hands the others theirs.
//!
//! Frames of VLANs that this machine has no interface for come along on the interface below, as if meant for others
//! (`PACKET_OTHERHOST`); an address there is another one, so these do not count.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::os::fd::AsRawFd as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::errno::Errno;
use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{LinkAddr, MsgFlags, recvfrom, sendto};
use socket2::{Domain, Protocol, SockFilter, Socket, Type};
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;

use super::filter::{self, Instruction};
use super::packet::{self, Claim, Says};
use super::{CONFLICTS_MAX, Port};
use crate::net::{Foreign, Mac};

const ETH_P_ARP: u16 = 0x0806;
const ETH_P_IPV6: u16 = 0x86dd;
const ARPHRD_ETHER: u16 = 1;
const PACKET_OTHERHOST: u8 = 3;

/// Frames that are read at a time, before others get their turn.
const FRAMES_MAX: usize = 256;
/// The largest that are of interest are below 100 bytes.
const FRAME_BYTES_MAX: usize = 2048;
/// Interfaces whose address for sending is remembered.
const TARGETS_MAX: usize = 64;

#[derive(Debug)]
pub(super) struct Hub {
    /// Receives nothing.
    mouth: Socket,
    arp: Ear,
    nd: Ear,
    state: Mutex<State>,
}

#[derive(Debug)]
struct Ear {
    socket: AsyncFd<Socket>,
    filter: fn(&[IpAddr]) -> Vec<Instruction>,
}

#[derive(Debug, Default)]
struct State {
    subscribers: BTreeMap<u64, Subscriber>,
    next: u64,
    targets: BTreeMap<u32, LinkAddr>,
}

#[derive(Debug)]
struct Subscriber {
    link: u32,
    mac: Mac,
    addresses: Vec<IpAddr>,
    interest: Interest,
    tell: mpsc::Sender<Foreign>,
}

/// What a subscriber wants to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Interest {
    /// Who has it, or wants it.
    Free,
    /// Who has it.
    Held,
}

/// Hears about some addresses until it is dropped.
#[derive(Debug)]
pub(super) struct Subscription {
    hub: Arc<Hub>,
    id: u64,
    heard: mpsc::Receiver<Foreign>,
}

impl Hub {
    /// Opens the sockets, in the network namespace of this thread and with its runtime.
    pub(super) fn open() -> io::Result<Arc<Self>> {
        let hub = Self {
            mouth: Socket::new(Domain::PACKET, Type::RAW, None)?,
            arp: Ear::open(ETH_P_ARP, filter::arp)?,
            nd: Ear::open(ETH_P_IPV6, filter::nd)?,
            state: Mutex::default(),
        };
        Ok(Arc::new(hub))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change is one insertion or removal: what a panic left is whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends a frame on an interface, at once or not at all.
    pub(super) fn send(&self, link: u32, frame: &[u8]) -> Result<(), Errno> {
        let target = self.target(link)?;
        match sendto(self.mouth.as_raw_fd(), frame, &target, MsgFlags::MSG_DONTWAIT) {
            Ok(_) => Ok(()),
            Err(errno) => {
                self.state().targets.remove(&link);
                Err(errno)
            }
        }
    }

    /// An address that names the interface. There is no way to make one without `unsafe`, so it is taken from the
    /// kernel's list.
    fn target(&self, link: u32) -> Result<LinkAddr, Errno> {
        if let Some(target) = self.state().targets.get(&link) {
            return Ok(*target);
        }
        let target = getifaddrs()?
            .filter_map(|interface| interface.address.and_then(|address| address.as_link_addr().copied()))
            .find(|address| address.ifindex() == link as usize)
            .ok_or(Errno::ENODEV)?;
        let mut state = self.state();
        if state.targets.len() >= TARGETS_MAX {
            state.targets.clear();
        }
        state.targets.insert(link, target);
        Ok(target)
    }

    /// From now on.
    pub(super) fn subscribe(
        self: &Arc<Self>,
        port: &Port,
        addresses: Vec<IpAddr>,
        interest: Interest,
    ) -> io::Result<Subscription> {
        // What waits in the queues is of the past, perhaps of hours ago: while nobody listens, nobody reads.
        for ear in [&self.arp, &self.nd] {
            // Bounded, whatever comes in meanwhile; a queue never has as many.
            let _ = (0..8).find(|_| ear.read(self) == Queue::Empty);
        }
        let (tell, heard) = mpsc::channel(CONFLICTS_MAX);
        let subscriber = Subscriber { link: port.link, mac: port.mac, addresses, interest, tell };
        let mut state = self.state();
        let id = state.next;
        state.next += 1;
        state.subscribers.insert(id, subscriber);
        let set = self.set_filters(&state);
        drop(state);
        // Dropped if the filters are not set: it takes itself off the list.
        let subscription = Subscription { hub: Arc::clone(self), id, heard };
        set.map(|()| subscription)
    }

    fn set_filters(&self, state: &State) -> io::Result<()> {
        let mut addresses: Vec<IpAddr> =
            state.subscribers.values().flat_map(|subscriber| subscriber.addresses.iter().copied()).collect();
        addresses.sort_unstable();
        addresses.dedup();
        self.arp.set_filter(&addresses)?;
        self.nd.set_filter(&addresses)
    }

    /// Waits until there are frames, and hands them out. Safe to cancel.
    async fn attend(&self) -> io::Result<()> {
        let (ear, ready) = tokio::select! {
            ready = self.arp.socket.readable() => (&self.arp, ready),
            ready = self.nd.socket.readable() => (&self.nd, ready),
        };
        let mut ready = ready?;
        if ear.read(self) == Queue::Empty {
            ready.clear_ready();
        }
        Ok(())
    }

    fn hand_out(&self, from: &LinkAddr, claim: Claim) {
        for subscriber in self.state().subscribers.values() {
            if subscriber.concerns(from.ifindex(), claim) {
                // Full: it has enough to do.
                let _ = subscriber.tell.try_send(Foreign { address: claim.address, mac: claim.mac });
            }
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Queue {
    Empty,
    More,
}

impl Ear {
    fn open(protocol: u16, filter: fn(&[IpAddr]) -> Vec<Instruction>) -> io::Result<Self> {
        let protocol = Protocol::from(i32::from(protocol.to_be()));
        let socket = Socket::new(Domain::PACKET, Type::RAW.nonblocking(), Some(protocol))?;
        #[expect(
            deprecated,
            reason = "its successor is unsafe; `socket2::Socket` keeps its descriptor until it is dropped"
        )]
        let socket = AsyncFd::new(socket)?;
        let ear = Self { socket, filter };
        ear.set_filter(&[])?;
        Ok(ear)
    }

    fn set_filter(&self, addresses: &[IpAddr]) -> io::Result<()> {
        let program: Vec<SockFilter> = (self.filter)(addresses).into_iter().map(SockFilter::from).collect();
        self.socket.get_ref().attach_filter(&program)
    }

    /// Reads what is there, up to a bound, and hands it out.
    fn read(&self, hub: &Hub) -> Queue {
        let mut frame = [0_u8; FRAME_BYTES_MAX];
        for _ in 0..FRAMES_MAX {
            match recvfrom::<LinkAddr>(self.socket.as_raw_fd(), &mut frame) {
                Ok((length, Some(from))) if is_for_us(&from) => {
                    if let Some(claim) = packet::claim(&frame[..length.min(FRAME_BYTES_MAX)]) {
                        hub.hand_out(&from, claim);
                    }
                }
                Ok(_) | Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return Queue::Empty,
                // Told once: an interface went down, or memory was short.
                Err(errno) => tracing::debug!(%errno, "a packet socket reported an error"),
            }
        }
        Queue::More
    }
}

fn is_for_us(from: &LinkAddr) -> bool {
    from.hatype() == ARPHRD_ETHER && from.pkttype() != PACKET_OTHERHOST
}

impl Subscriber {
    fn concerns(&self, link: usize, claim: Claim) -> bool {
        let kind = claim.says == Says::Has || self.interest == Interest::Free;
        // Our own frames come back from some switches.
        kind && link == self.link as usize && claim.mac != self.mac && self.addresses.contains(&claim.address)
    }
}

impl Subscription {
    /// The next one who says something. Safe to cancel.
    pub(super) async fn next(&mut self) -> io::Result<Foreign> {
        loop {
            tokio::select! {
                biased;
                heard = self.heard.recv() => {
                    // Its sender is on the list for as long as this exists.
                    return heard.ok_or_else(|| io::Error::from(io::ErrorKind::BrokenPipe));
                }
                read = self.hub.attend() => read?,
            }
        }
    }

    /// Somebody who has said something, without waiting.
    pub(super) fn now(&mut self) -> Option<Foreign> {
        for ear in [&self.hub.arp, &self.hub.nd] {
            // One bounded look is as much as can have been answered in time.
            ear.read(&self.hub);
        }
        self.heard.try_recv().ok()
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let mut state = self.hub.state();
        state.subscribers.remove(&self.id);
        if let Err(error) = self.hub.set_filters(&state) {
            // The one before lets more through, which nobody is handed.
            tracing::debug!(%error, "a packet filter stays as it was");
        }
    }
}
