//! Asking who has an address, on a packet socket of our own: what is judged must not judge itself.

use std::io::ErrorKind;
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd as _;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{LinkAddr, MsgFlags, bind, recv, send};
use socket2::{Domain, Protocol, Socket, Type};

use crate::net::Net;

/// A hardware address.
pub(crate) type Mac = [u8; 6];

const ETHERTYPE: u16 = 0x0806;
const REQUEST: u8 = 1;
const REPLY: u8 = 2;
const BROADCAST: Mac = [0xff; 6];
/// An Ethernet header and an ARP packet for IPv4.
const FRAME: usize = 14 + 28;

/// Somebody's answer to one of our questions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) address: Ipv4Addr,
    pub(crate) mac: Mac,
}

/// Asks on one interface of one host.
#[derive(Debug)]
pub(crate) struct Asker {
    socket: Socket,
    own: Mac,
    /// Who asks. A question from nobody is a probe (RFC 5227): whoever is about to take the address would take us for
    /// somebody who wants it too.
    ip: Ipv4Addr,
}

impl Asker {
    /// Opens it on a host's `interface`.
    pub(crate) fn open(net: &Net, host: &str, interface: &str) -> Result<Self> {
        net.on(host, || {
            let protocol = Protocol::from(i32::from(ETHERTYPE.to_be()));
            let socket = Socket::new(Domain::PACKET, Type::RAW, Some(protocol)).context("a packet socket")?;
            // The one way to a link's address without unsafe code.
            let link = getifaddrs()?.filter(|one| one.interface_name == interface);
            let link: LinkAddr = link
                .filter_map(|one| one.address.as_ref()?.as_link_addr().copied())
                .next()
                .with_context(|| format!("{host} has no {interface}"))?;
            // Its protocol is 0 there: the one that the socket was made with stays.
            bind(socket.as_raw_fd(), &link).context("failed to bind a packet socket")?;
            let own = link.addr().context("a link without a hardware address")?;
            let ip = getifaddrs()?
                .filter(|one| one.interface_name == interface)
                .find_map(|one| Some(one.address.as_ref()?.as_sockaddr_in()?.ip()))
                .with_context(|| format!("{interface} of {host} has no address"))?;
            Ok(Self { socket, own, ip })
        })?
    }

    /// Asks everybody who has `address`.
    pub(crate) fn ask(&self, address: Ipv4Addr) {
        // A full queue or a link that is down: then nobody answers, which is noted.
        let _ = send(self.socket.as_raw_fd(), &question(self.own, self.ip, address), MsgFlags::MSG_DONTWAIT);
    }

    /// Tells everybody that `address` is here, as a liar would.
    pub(crate) fn claim(&self, address: Ipv4Addr) -> Result<()> {
        let frame = frame(REQUEST, self.own, address, [0; 6], address);
        send(self.socket.as_raw_fd(), &frame, MsgFlags::empty()).context("failed to claim an address")?;
        Ok(())
    }

    /// The next answer to a question of ours; `None` if there is none `within`.
    pub(crate) fn next(&self, within: Duration) -> Result<Option<Answer>> {
        // Zero would mean for ever.
        self.socket.set_read_timeout(Some(within.max(Duration::from_micros(500))))?;
        let mut buffer = [0; 128];
        match recv(self.socket.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
            Ok(length) => Ok(answer(&buffer[..length], self.own)),
            Err(error) => match std::io::Error::from(error).kind() {
                ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted => Ok(None),
                // Our own link went down; it comes back, or the run fails for other reasons.
                ErrorKind::NetworkDown => Ok(None),
                _ => Err(error).context("failed to read a packet socket"),
            },
        }
    }
}

fn question(own: Mac, ip: Ipv4Addr, address: Ipv4Addr) -> [u8; FRAME] {
    frame(REQUEST, own, ip, [0; 6], address)
}

fn frame(op: u8, from: Mac, sender: Ipv4Addr, to: Mac, target: Ipv4Addr) -> [u8; FRAME] {
    let mut frame = [0; FRAME];
    let parts: [&[u8]; 9] = [
        &BROADCAST,
        &from,
        &ETHERTYPE.to_be_bytes(),
        // Ethernet, IPv4, the lengths of their addresses.
        &[0, 1, 8, 0, 6, 4, 0],
        &[op],
        &from,
        &sender.octets(),
        &to,
        &target.octets(),
    ];
    let mut at = 0;
    for part in parts {
        frame[at..at + part.len()].copy_from_slice(part);
        at += part.len();
    }
    frame
}

/// Reads a reply to a question of `own`; gratuitous ones are not replies to anybody.
fn answer(frame: &[u8], own: Mac) -> Option<Answer> {
    let arp = frame.get(14..FRAME)?;
    let target: Mac = arp.get(18..24)?.try_into().ok()?;
    if frame.get(12..14)? != ETHERTYPE.to_be_bytes() || *arp.get(7)? != REPLY || target != own {
        return None;
    }
    let (mac, address): (Mac, [u8; 4]) =
        (arp.get(8..14)?.try_into().ok()?, arp.get(14..18)?.try_into().ok()?);
    Some(Answer { address: address.into(), mac })
}

/// As people write it.
pub(crate) fn written(mac: Mac) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: Mac = [2, 0, 0, 0, 1, 1];
    const OTHER: Mac = [2, 0, 0, 0, 1, 2];
    const VIP: Ipv4Addr = Ipv4Addr::new(10, 98, 0, 201);

    #[test]
    fn a_question_is_a_broadcast_and_no_probe() {
        let ip = Ipv4Addr::new(10, 98, 0, 9);
        let frame = question(OWN, ip, VIP);
        assert_eq!((&frame[..6], &frame[6..12]), (&BROADCAST[..], &OWN[..]));
        assert_eq!(frame[28..32], ip.octets(), "a taker would see a rival in it");
        assert_eq!(frame[38..42], VIP.octets());
    }

    #[test]
    fn only_replies_to_our_questions_are_answers() {
        let reply = |to| frame(REPLY, OTHER, VIP, to, Ipv4Addr::UNSPECIFIED);
        assert_eq!(answer(&reply(OWN), OWN), Some(Answer { address: VIP, mac: OTHER }));
        assert_eq!(answer(&reply(OTHER), OWN), None, "a gratuitous one, or to somebody else");
        assert_eq!(answer(&frame(REQUEST, OTHER, VIP, OWN, VIP), OWN), None);
        assert_eq!(answer(&reply(OWN)[..30], OWN), None);
    }
}
