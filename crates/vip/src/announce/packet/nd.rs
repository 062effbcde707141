//! Neighbour solicitations and advertisements (RFC 4861) in IPv6 in Ethernet, as RFC 4862 uses them.

use std::net::{IpAddr, Ipv6Addr};

use super::{Claim, IPV6, Says, take};
use crate::net::Mac;

const ICMPV6: u8 = 58;
/// No router forwards a packet with it, so whoever sent it is on this link.
const HOP_LIMIT: u8 = 255;
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
const SOURCE_LINK_ADDRESS: u8 = 1;
const TARGET_LINK_ADDRESS: u8 = 2;

const ROUTER: u8 = 0x80;
const SOLICITED: u8 = 0x40;
const OVERRIDE: u8 = 0x20;

const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// A solicitation or an advertisement in its Ethernet frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Neighbour {
    /// Who is to get the frame.
    pub destination: Mac,
    /// Who the frame is from.
    pub source: Mac,
    /// The packet's sender; `::` in duplicate address detection.
    pub from: Ipv6Addr,
    /// The packet's receiver.
    pub to: Ipv6Addr,
    /// The address that it is about.
    pub target: Ipv6Addr,
    /// What it is.
    pub message: Message,
    /// The link-layer address option: the sender's in a solicitation, the target's in an advertisement.
    pub link_address: Option<Mac>,
}

/// What it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message {
    /// Who has the target?
    Solicitation,
    /// I have the target.
    Advertisement {
        /// The sender forwards.
        router: bool,
        /// It answers a solicitation.
        solicited: bool,
        /// It replaces what the receiver knows.
        replaces: bool,
    },
}

/// The group that whoever has `address` is in (RFC 4291, 2.7.1).
pub fn solicited_node(address: Ipv6Addr) -> Ipv6Addr {
    let [.., a, b, c] = address.octets();
    Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | u16::from(a), u16::from_be_bytes([b, c]))
}

/// Where a group's packets go on Ethernet (RFC 2464).
fn group_mac(group: Ipv6Addr) -> Mac {
    let [.., a, b, c, d] = group.octets();
    Mac([0x33, 0x33, a, b, c, d])
}

impl Neighbour {
    /// Asks whether somebody has `address`, without saying that we do: duplicate address detection.
    pub fn detection(mac: Mac, address: Ipv6Addr) -> Self {
        let to = solicited_node(address);
        Self {
            destination: group_mac(to),
            source: mac,
            from: Ipv6Addr::UNSPECIFIED,
            to,
            target: address,
            message: Message::Solicitation,
            link_address: None,
        }
    }

    /// Says to everybody that `address` is at `mac` now.
    pub fn announcement(mac: Mac, address: Ipv6Addr, router: bool) -> Self {
        Self {
            destination: group_mac(ALL_NODES),
            source: mac,
            from: address,
            to: ALL_NODES,
            target: address,
            message: Message::Advertisement { router, solicited: false, replaces: true },
            link_address: Some(mac),
        }
    }

    /// The frame.
    pub fn to_frame(&self) -> Vec<u8> {
        let (kind, flags, option) = match self.message {
            Message::Solicitation => (SOLICITATION, 0, SOURCE_LINK_ADDRESS),
            Message::Advertisement { router, solicited, replaces } => {
                let flag = |set, bit| if set { bit } else { 0 };
                let flags = flag(router, ROUTER) | flag(solicited, SOLICITED) | flag(replaces, OVERRIDE);
                (ADVERTISEMENT, flags, TARGET_LINK_ADDRESS)
            }
        };
        let mut body = vec![kind, 0, 0, 0, flags, 0, 0, 0];
        body.extend(self.target.octets());
        if let Some(mac) = self.link_address {
            body.extend([option, 1]);
            body.extend(mac.0);
        }
        let checksum = !sum(self.from, self.to, &body);
        body[2..4].copy_from_slice(&checksum.to_be_bytes());

        // A body is 24 or 32 bytes.
        let length = body.len() as u8;
        let parts: [&[u8]; 7] = [
            &self.destination.0,
            &self.source.0,
            &IPV6,
            &[0x60, 0, 0, 0, 0, length, ICMPV6, HOP_LIMIT],
            &self.from.octets(),
            &self.to.octets(),
            &body,
        ];
        parts.concat()
    }

    /// Reads a frame. None for everything that RFC 4861, 7.1 has a receiver discard, too, and for packets with extension
    /// headers, which nobody sends here.
    pub fn parse(mut frame: &[u8]) -> Option<Self> {
        let rest = &mut frame;
        let (destination, source) = (Mac(take(rest)?), Mac(take(rest)?));
        if take(rest)? != IPV6 {
            return None;
        }
        let [version, _, _, _] = take(rest)?;
        let length = usize::from(u16::from_be_bytes(take(rest)?));
        if version >> 4 != 6 || take(rest)? != [ICMPV6, HOP_LIMIT] {
            return None;
        }
        let (from, to) = (Ipv6Addr::from(take::<16>(rest)?), Ipv6Addr::from(take::<16>(rest)?));
        let mut body = rest.get(..length)?;
        if sum(from, to, body) != 0xffff {
            return None;
        }
        let [kind, code, _, _, flags, _, _, _] = take(&mut body)?;
        let target = Ipv6Addr::from(take::<16>(&mut body)?);
        if code != 0 || target.is_multicast() {
            return None;
        }
        let (message, wanted) = match kind {
            SOLICITATION => (Message::Solicitation, SOURCE_LINK_ADDRESS),
            ADVERTISEMENT => {
                let flag = |bit| flags & bit != 0;
                let (router, solicited, replaces) = (flag(ROUTER), flag(SOLICITED), flag(OVERRIDE));
                (Message::Advertisement { router, solicited, replaces }, TARGET_LINK_ADDRESS)
            }
            _ => return None,
        };
        let link_address = link_address(body, wanted)?;
        let sound = match message {
            Message::Solicitation => {
                !from.is_unspecified() || (to == solicited_node(target) && link_address.is_none())
            }
            Message::Advertisement { solicited, .. } => {
                !(from.is_unspecified() || to.is_multicast() && solicited)
            }
        };
        sound.then_some(Self { destination, source, from, to, target, message, link_address })
    }

    /// What it says about an address.
    pub fn claim(&self) -> Claim {
        let (address, says) = match self.message {
            Message::Advertisement { .. } => (self.target, Says::Has),
            Message::Solicitation if self.from.is_unspecified() => (self.target, Says::Wants),
            Message::Solicitation => (self.from, Says::Has),
        };
        Claim { address: IpAddr::V6(address), mac: self.link_address.unwrap_or(self.source), says }
    }
}

/// The first option of that kind among `options`; an error if they are not whole.
fn link_address(mut options: &[u8], wanted: u8) -> Option<Option<Mac>> {
    let mut found = None;
    while let Some((&kind, after)) = options.split_first() {
        // In units of eight bytes; zero would never end.
        let length = usize::from(*after.first()?) * 8;
        let (option, rest) = options.split_at_checked(length).filter(|_| length > 0)?;
        options = rest;
        if kind == wanted && found.is_none() {
            found = Some(Mac(take(&mut &option[2..])?));
        }
    }
    Some(found)
}

/// The Internet checksum's sum (RFC 1071) over the pseudo header (RFC 8200, 8.1) and the body; 0xffff over one that
/// contains its checksum.
fn sum(from: Ipv6Addr, to: Ipv6Addr, body: &[u8]) -> u16 {
    let length = u32::try_from(body.len()).unwrap_or(u32::MAX).to_be_bytes();
    let parts: [&[u8]; 5] = [&from.octets(), &to.octets(), &length, &[0, 0, 0, ICMPV6], body];
    // Only the last part may be odd, and is padded. 64 KiB of ones do not overflow.
    let words = parts.into_iter().flat_map(|part| part.chunks(2));
    let total: u64 =
        words.map(|word| u64::from(word[0]) << 8 | word.get(1).map_or(0, |&low| u64::from(low))).sum();
    let mut folded = total;
    while folded > 0xffff {
        folded = (folded & 0xffff) + (folded >> 16);
    }
    folded as u16
}

#[cfg(test)]
mod tests {
    use super::super::tests::bytes;
    use super::*;
    use proptest::prelude::*;

    const MAC: Mac = Mac([2, 0, 0, 0, 0, 0x0b]);

    fn target() -> Ipv6Addr {
        "2001:db8::7".parse().unwrap()
    }

    /// The advertisement is what Linux sends for the same address (`ndisc_notify`), byte for byte.
    #[test]
    fn the_frames_that_are_sent() {
        let advertisement = "333300000001 02000000000b 86dd 60000000 0020 3a ff
             20010db8000000000000000000000007 ff020000000000000000000000000001
             8800f914 20000000 20010db8000000000000000000000007 020102000000000b";
        assert_eq!(Neighbour::announcement(MAC, target(), false).to_frame(), bytes(advertisement));
        // Linux adds a nonce to this one (RFC 7527); the checksum is another program's.
        let detection = "3333ff000007 02000000000b 86dd 60000000 0018 3a ff
             00000000000000000000000000000000 ff0200000000000000000001ff000007
             87004ce1 00000000 20010db8000000000000000000000007";
        assert_eq!(Neighbour::detection(MAC, target()).to_frame(), bytes(detection));
        let router = Neighbour::announcement(MAC, target(), true).to_frame();
        assert_eq!(router[58], ROUTER | OVERRIDE);
    }

    #[test]
    fn what_a_receiver_discards() {
        let good = Neighbour::announcement(MAC, target(), false);
        let asked = Neighbour::detection(MAC, target());
        let solicited = Message::Advertisement { router: false, solicited: true, replaces: true };
        let group = "ff02::5".parse().unwrap();
        let changed = |at: usize, byte: u8| {
            let mut frame = good.to_frame();
            frame[at] = byte;
            if at > 57 {
                // Otherwise only its checksum is wrong.
                frame[56..58].fill(0);
                let checksum = !sum(good.from, good.to, &frame[54..]);
                frame[56..58].copy_from_slice(&checksum.to_be_bytes());
            }
            frame
        };
        assert_eq!(changed(58, 0x20), good.to_frame());
        let table = [
            ("another version", changed(14, 0x40)),
            ("forwarded by a router", changed(21, 254)),
            ("another protocol", changed(20, 17)),
            ("a wrong checksum", changed(57, 0)),
            ("longer than its frame", changed(19, 0x28)),
            ("an option of length 0", changed(79, 0)),
            ("an option that is cut off", changed(79, 2)),
            ("solicited, and to everybody", Neighbour { message: solicited, ..good }.to_frame()),
            ("from nobody", Neighbour { from: Ipv6Addr::UNSPECIFIED, ..good }.to_frame()),
            ("a group as target", Neighbour { target: group, ..good }.to_frame()),
            ("detection with a source", Neighbour { link_address: Some(MAC), ..asked }.to_frame()),
            ("detection, not to the group", Neighbour { to: ALL_NODES, ..asked }.to_frame()),
        ];
        assert_eq!(Neighbour::parse(&good.to_frame()), Some(good));
        for (what, frame) in table {
            assert_eq!(Neighbour::parse(&frame), None, "{what}");
        }
    }

    #[test]
    fn groups() {
        let table = [("2001:db8::1:2:345a:6b7c", "ff02::1:ff5a:6b7c", [0x33, 0x33, 0xff, 0x5a, 0x6b, 0x7c])];
        for (address, group, mac) in table {
            let found = solicited_node(address.parse().unwrap());
            assert_eq!((found, group_mac(found)), (group.parse().unwrap(), Mac(mac)));
        }
    }

    proptest! {
        #[test]
        fn comes_back_as_it_was(
            macs: [[u8; 6]; 3],
            from: Ipv6Addr,
            to: Ipv6Addr,
            target: Ipv6Addr,
            flags: (bool, bool, bool),
            solicitation: bool,
            with_option: bool,
            padding in prop::collection::vec(any::<u8>(), 0..20),
        ) {
            prop_assume!(!target.is_multicast() && !from.is_unspecified());
            let [destination, source, link] = macs.map(Mac);
            let (router, solicited, replaces) = (flags.0, flags.1 && !to.is_multicast(), flags.2);
            let message = if solicitation {
                Message::Solicitation
            } else {
                Message::Advertisement { router, solicited, replaces }
            };
            let link_address = with_option.then_some(link);
            let sent = Neighbour { destination, source, from, to, target, message, link_address };
            let mut frame = sent.to_frame();
            frame.extend(padding);
            prop_assert_eq!(Neighbour::parse(&frame), Some(sent));
        }
    }
}
