//! ARP for IPv4 over Ethernet (RFC 826), as RFC 5227 uses it.

use std::net::{IpAddr, Ipv4Addr};

use super::{ARP, BROADCAST, Claim, NOBODY, Says, take};
use crate::net::Mac;

/// Ethernet; IPv4; six bytes of the one, four of the other.
const KIND: [u8; 6] = [0, 1, 8, 0, 6, 4];

/// An ARP packet in its Ethernet frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arp {
    /// Who is to get the frame.
    pub destination: Mac,
    /// Who the frame is from.
    pub source: Mac,
    /// Request or reply.
    pub operation: Operation,
    /// The sender's hardware address.
    pub sender_mac: Mac,
    /// The sender's address; 0.0.0.0 in a probe.
    pub sender: Ipv4Addr,
    /// The target's hardware address; of no meaning in a request.
    pub target_mac: Mac,
    /// The target's address.
    pub target: Ipv4Addr,
}

/// What an ARP packet is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Who has it?
    Request,
    /// I have it.
    Reply,
}

impl Arp {
    /// Asks whether somebody has `address`, without saying that we do: nobody's neighbour table changes.
    pub fn probe(mac: Mac, address: Ipv4Addr) -> Self {
        Self { sender: Ipv4Addr::UNSPECIFIED, ..Self::announcement(mac, address) }
    }

    /// Gratuitous ARP in request form.
    pub fn announcement(mac: Mac, address: Ipv4Addr) -> Self {
        Self {
            destination: BROADCAST,
            source: mac,
            operation: Operation::Request,
            sender_mac: mac,
            sender: address,
            target_mac: NOBODY,
            target: address,
        }
    }

    /// Gratuitous ARP in reply form.
    ///
    /// Its target hardware address is ours as well (RFC 5944, 4.6): Linux takes a reply for gratuitous only then, and
    /// one that is not may not replace an entry younger than `locktime`, a second.
    pub fn gratuitous_reply(mac: Mac, address: Ipv4Addr) -> Self {
        Self { operation: Operation::Reply, target_mac: mac, ..Self::announcement(mac, address) }
    }

    /// The frame, without the padding that the interface adds.
    pub fn to_frame(&self) -> Vec<u8> {
        let operation: u16 = match self.operation {
            Operation::Request => 1,
            Operation::Reply => 2,
        };
        let parts: [&[u8]; 9] = [
            &self.destination.0,
            &self.source.0,
            &ARP,
            &KIND,
            &operation.to_be_bytes(),
            &self.sender_mac.0,
            &self.sender.octets(),
            &self.target_mac.0,
            &self.target.octets(),
        ];
        parts.concat()
    }

    /// Reads a frame; what follows the packet is padding.
    pub fn parse(mut frame: &[u8]) -> Option<Self> {
        let rest = &mut frame;
        let (destination, source) = (Mac(take(rest)?), Mac(take(rest)?));
        if take(rest)? != ARP || take(rest)? != KIND {
            return None;
        }
        let operation = match u16::from_be_bytes(take(rest)?) {
            1 => Operation::Request,
            2 => Operation::Reply,
            _ => return None,
        };
        Some(Self {
            destination,
            source,
            operation,
            sender_mac: Mac(take(rest)?),
            sender: Ipv4Addr::from(take::<4>(rest)?),
            target_mac: Mac(take(rest)?),
            target: Ipv4Addr::from(take::<4>(rest)?),
        })
    }

    /// What it says about an address.
    ///
    /// A probe counts only if it goes to everybody, as RFC 5227 has it: switches that track devices send the same to
    /// single hosts, and want nothing.
    pub fn claim(&self) -> Option<Claim> {
        let claim = |address, says| Some(Claim { address: IpAddr::V4(address), mac: self.sender_mac, says });
        if !self.sender.is_unspecified() {
            claim(self.sender, Says::Has)
        } else if self.operation == Operation::Request && self.destination == BROADCAST {
            claim(self.target, Says::Wants)
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::bytes;
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_frames_that_are_sent() {
        let mac = Mac([0x52, 0x54, 0, 0x12, 0x34, 0x56]);
        let address = Ipv4Addr::new(172, 0, 20, 241);
        let table = [
            (
                "probe",
                Arp::probe(mac, address),
                "ffffffffffff 525400123456 0806 0001 0800 06 04 0001 525400123456 00000000 000000000000 ac0014f1",
            ),
            (
                "request form",
                Arp::announcement(mac, address),
                "ffffffffffff 525400123456 0806 0001 0800 06 04 0001 525400123456 ac0014f1 000000000000 ac0014f1",
            ),
            (
                "reply form",
                Arp::gratuitous_reply(mac, address),
                "ffffffffffff 525400123456 0806 0001 0800 06 04 0002 525400123456 ac0014f1 525400123456 ac0014f1",
            ),
        ];
        for (what, arp, frame) in table {
            assert_eq!(arp.to_frame(), bytes(frame), "{what}");
        }
    }

    proptest! {
        #[test]
        fn comes_back_as_it_was(
            macs: [[u8; 6]; 4],
            reply: bool,
            sender: Ipv4Addr,
            target: Ipv4Addr,
            padding in prop::collection::vec(any::<u8>(), 0..20),
        ) {
            let [destination, source, sender_mac, target_mac] = macs.map(Mac);
            let operation = if reply { Operation::Reply } else { Operation::Request };
            let arp = Arp { destination, source, operation, sender_mac, sender, target_mac, target };
            let mut frame = arp.to_frame();
            frame.extend(padding);
            prop_assert_eq!(Arp::parse(&frame), Some(arp));
        }
    }
}
