//! Ethernet frames that ask for an address or say where it is: built and read, without IO.

mod arp;
pub use arp::{Arp, Operation};

mod nd;
pub use nd::{Message, Neighbour, solicited_node};

use std::net::IpAddr;

use crate::net::Mac;

/// Everybody on the link.
pub const BROADCAST: Mac = Mac([0xff; 6]);
const NOBODY: Mac = Mac([0; 6]);

const ARP: [u8; 2] = 0x0806_u16.to_be_bytes();
const IPV6: [u8; 2] = 0x86dd_u16.to_be_bytes();

/// What a frame says about an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The address.
    pub address: IpAddr,
    /// Who says it: the hardware address that neighbours would send to.
    pub mac: Mac,
    /// What.
    pub says: Says,
}

/// What somebody says about an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Says {
    /// "I have it."
    Has,
    /// "Does anybody have it? I am about to."
    Wants,
}

/// The question whether somebody has `address`, from one who has not: an ARP probe (RFC 5227), or the solicitation of
/// duplicate address detection (RFC 4862).
pub fn question(mac: Mac, address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => Arp::probe(mac, address).to_frame(),
        IpAddr::V6(address) => Neighbour::detection(mac, address).to_frame(),
    }
}

/// One round of "`address` is at `mac`": both forms of gratuitous ARP, since some listen to one of them only, or an
/// unsolicited neighbour advertisement. `router`: whether this machine forwards IPv6; an advertisement that denies it
/// takes a router out of its neighbours' lists.
pub fn announcements(mac: Mac, address: IpAddr, router: bool) -> Vec<Vec<u8>> {
    match address {
        IpAddr::V4(address) => {
            vec![Arp::announcement(mac, address).to_frame(), Arp::gratuitous_reply(mac, address).to_frame()]
        }
        IpAddr::V6(address) => vec![Neighbour::announcement(mac, address, router).to_frame()],
    }
}

/// What a frame says about an address, if it is one that says anything.
pub fn claim(frame: &[u8]) -> Option<Claim> {
    let claim = match frame.get(12..14)?.try_into().ok()? {
        ARP => Arp::parse(frame)?.claim(),
        IPV6 => Some(Neighbour::parse(frame)?.claim()),
        _ => None,
    }?;
    // Neither nobody's nor a group's: no machine can be reached there.
    (claim.mac != NOBODY && claim.mac.0[0] & 1 == 0).then_some(claim)
}

/// Takes the first `N` bytes off.
fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (head, rest) = bytes.split_first_chunk::<N>()?;
    *bytes = rest;
    Some(*head)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    pub(super) fn bytes(hex: &str) -> Vec<u8> {
        let digits: Vec<u8> = hex.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
        digits
            .chunks(2)
            .map(|two| u8::from_str_radix(std::str::from_utf8(two).unwrap(), 16).unwrap())
            .collect()
    }

    /// As Linux 6.18 sent them on a veth pair.
    #[test]
    fn what_frames_of_a_kernel_say() {
        let (has, wants) = (Says::Has, Says::Wants);
        let table = [
            (
                "gratuitous ARP request (arp_notify)",
                "ffffffffffff 02000000000b 0806 0001 0800 06 04 0001 02000000000b c0000207 000000000000 c0000207",
                Some(("192.0.2.7", 0x0b, has)),
            ),
            (
                "ARP request for somebody else: its sender is there",
                "ffffffffffff 02000000000a 0806 0001 0800 06 04 0001 02000000000a c0000208 000000000000 c0000207",
                Some(("192.0.2.8", 0x0a, has)),
            ),
            (
                "ARP reply to an ARP probe",
                "02000000000a 02000000000b 0806 0001 0800 06 04 0002 02000000000b c0000207 02000000000a 00000000",
                Some(("192.0.2.7", 0x0b, has)),
            ),
            (
                "the probe itself, and what a switch pads a short frame with",
                "ffffffffffff 02000000000a 0806 0001 0800 06 04 0001 02000000000a 00000000 000000000000 c0000207
                 000000000000000000000000000000000000",
                Some(("192.0.2.7", 0x0a, wants)),
            ),
            (
                "duplicate address detection, with a nonce",
                "3333ff000007 02000000000b 86dd 60000000 0020 3a ff 00000000000000000000000000000000
                 ff0200000000000000000001ff000007 8700a1f5 00000000 20010db8000000000000000000000007
                 0e01720624f805e4",
                Some(("2001:db8::7", 0x0b, wants)),
            ),
            (
                "unsolicited advertisement (ndisc_notify)",
                "333300000001 02000000000b 86dd 60000000 0020 3a ff 20010db8000000000000000000000007
                 ff020000000000000000000000000001 8800f914 20000000 20010db8000000000000000000000007
                 020102000000000b",
                Some(("2001:db8::7", 0x0b, has)),
            ),
            (
                "solicitation for somebody else: its sender is there",
                "3333ff000007 02000000000a 86dd 60000000 0020 3a ff 20010db8000000000000000000000008
                 ff0200000000000000000001ff000007 87001c0d 00000000 20010db8000000000000000000000007
                 010102000000000a",
                Some(("2001:db8::8", 0x0a, has)),
            ),
            (
                "the same, damaged on the way",
                "3333ff000007 02000000000a 86dd 60000000 0020 3a ff 20010db8000000000000000000000008
                 ff0200000000000000000001ff000007 87001c0d 00000000 20010db8000000000000000000000007
                 010102000000000b",
                None,
            ),
        ];
        for (what, frame, expected) in table {
            let expected = expected.map(|(address, last, says)| Claim {
                address: address.parse().unwrap(),
                mac: Mac([2, 0, 0, 0, 0, last]),
                says,
            });
            assert_eq!(claim(&bytes(frame)), expected, "{what}");
        }
    }

    #[test]
    fn what_is_no_claim() {
        let mac = Mac([2, 0, 0, 0, 0, 1]);
        let address = "192.0.2.7".parse().unwrap();
        let probe = Arp::probe(mac, address);
        let table = [
            // What switches that track devices send to a single host (and what makes Windows see a duplicate).
            ("a probe to one host only", Arp { destination: Mac([2, 0, 0, 0, 0, 9]), ..probe }),
            ("a group has nothing", Arp { sender_mac: BROADCAST, ..Arp::announcement(mac, address) }),
            ("nobody has nothing", Arp { sender_mac: NOBODY, ..Arp::announcement(mac, address) }),
            ("a reply to a probe's sender", Arp { operation: Operation::Reply, ..probe }),
        ];
        for (what, arp) in table {
            assert_eq!(claim(&arp.to_frame()), None, "{what}");
        }
        assert_eq!(claim(&probe.to_frame()).map(|claim| claim.says), Some(Says::Wants));
    }

    fn address() -> impl Strategy<Value = IpAddr> {
        prop_oneof![
            any::<std::net::Ipv4Addr>().prop_map(IpAddr::V4),
            any::<std::net::Ipv6Addr>().prop_map(IpAddr::V6),
        ]
        .prop_filter("one that a machine can have", |address| {
            !address.is_multicast() && !address.is_unspecified()
        })
    }

    proptest! {
        #[test]
        fn what_we_say_is_what_is_understood(bytes: [u8; 6], address in address(), router: bool) {
            let mac = Mac([bytes[0] & 0xfc | 2, bytes[1], bytes[2], bytes[3], bytes[4], bytes[5]]);
            let says = |says| Some(Claim { address, mac, says });
            prop_assert_eq!(claim(&question(mac, address)), says(Says::Wants));
            for frame in announcements(mac, address, router) {
                prop_assert_eq!(claim(&frame), says(Says::Has));
            }
        }

        #[test]
        fn nothing_panics_whatever_comes(
            noise in prop::collection::vec(any::<u8>(), 0..200),
            address in address(),
            at in any::<prop::sample::Index>(),
            byte: u8,
            cut in any::<prop::sample::Index>(),
        ) {
            let mac = Mac([2, 0, 0, 0, 0, 1]);
            let _ = claim(&noise);
            for mut frame in announcements(mac, address, true).into_iter().chain([question(mac, address)]) {
                let (at, cut) = (at.index(frame.len()), cut.index(frame.len()));
                frame[at] = byte;
                let _ = claim(&frame);
                // Each of these is as long as it has to be.
                prop_assert_eq!(claim(&frame[..cut]), None);
                for kind in [ARP, IPV6] {
                    let mut noise = noise.clone();
                    if let Some(place) = noise.get_mut(12..14) {
                        place.copy_from_slice(&kind);
                    }
                    let _ = claim(&noise);
                }
            }
        }
    }
}
