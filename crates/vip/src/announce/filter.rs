//! Classic BPF programs that keep everything else off our sockets, within the kernel: a machine that serves storage
//! over IPv6 receives a million packets a second that are none of our business, and a storm of ARP must not fill the
//! queue in front of the one answer.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use socket2::SockFilter;

/// With more addresses than this, every ARP packet or every solicitation and advertisement passes: the kernel limits a
/// program's memory (`net.core.optmem_max`), and what we look for is compared one by one.
const ADDRESSES_MAX: usize = 200;

/// Load a word, or a byte, at a fixed place of the frame. A frame that ends before is dropped.
const LOAD_WORD: u16 = 0x20;
const LOAD_BYTE: u16 = 0x30;
/// Jump if what was loaded is equal.
const JUMP_EQUAL: u16 = 0x15;
const RETURN: u16 = 0x06;

const PASS: Instruction = Instruction { code: RETURN, equal: 0, different: 0, operand: u32::MAX };
const DROP: Instruction = Instruction { code: RETURN, equal: 0, different: 0, operand: 0 };

/// An instruction: what to do, how many instructions to skip in either case, with what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Instruction {
    code: u16,
    equal: u8,
    different: u8,
    operand: u32,
}

impl From<Instruction> for SockFilter {
    fn from(instruction: Instruction) -> Self {
        let Instruction { code, equal, different, operand } = instruction;
        Self::new(code, equal, different, operand)
    }
}

const fn load(code: u16, place: u32) -> Instruction {
    Instruction { code, equal: 0, different: 0, operand: place }
}

const fn jump(operand: u32, equal: u8, different: u8) -> Instruction {
    Instruction { code: JUMP_EQUAL, equal, different, operand }
}

/// Of ARP packets: those whose sender or target is one of `addresses`.
pub(super) fn arp(addresses: &[IpAddr]) -> Vec<Instruction> {
    let v4 = addresses.iter().filter_map(|address| match address {
        IpAddr::V4(address) => Some(word(*address)),
        IpAddr::V6(_) => None,
    });
    one_of(Vec::new(), [28, 38], v4.collect())
}

/// Of IPv6 packets: solicitations and advertisements without extension headers whose sender or target ends like one of
/// `addresses`.
pub(super) fn nd(addresses: &[IpAddr]) -> Vec<Instruction> {
    let v6 = addresses.iter().filter_map(|address| match address {
        IpAddr::V4(_) => None,
        IpAddr::V6(address) => Some(last_word(*address)),
    });
    let about = vec![
        load(LOAD_BYTE, 20),
        jump(58, 1, 0),
        DROP,
        load(LOAD_BYTE, 54),
        jump(135, 2, 0),
        jump(136, 1, 0),
        DROP,
    ];
    one_of(about, [34, 74], v6.collect())
}

/// Passes what has one of `words` at one of `places`.
fn one_of(mut program: Vec<Instruction>, places: [u32; 2], words: Vec<u32>) -> Vec<Instruction> {
    if words.is_empty() {
        return vec![DROP];
    }
    if words.len() > ADDRESSES_MAX {
        program.push(PASS);
        return program;
    }
    for place in places {
        program.push(load(LOAD_WORD, place));
        for word in &words {
            program.extend([jump(*word, 0, 1), PASS]);
        }
    }
    program.push(DROP);
    program
}

fn word(address: Ipv4Addr) -> u32 {
    u32::from(address)
}

fn last_word(address: Ipv6Addr) -> u32 {
    // Its last 32 bits are what is wanted.
    u128::from(address) as u32
}

#[cfg(test)]
mod tests {
    use super::super::packet::{Arp, announcements, question};
    use super::*;
    use crate::net::Mac;
    use proptest::prelude::*;

    const MAC: Mac = Mac([2, 0, 0, 0, 0, 1]);

    /// What the kernel does with it.
    fn passes(program: &[Instruction], frame: &[u8]) -> bool {
        let (mut at, mut loaded) = (0, 0_u32);
        loop {
            let Instruction { code, equal, different, operand } = program[at];
            let place = operand as usize;
            at += 1;
            match code {
                LOAD_WORD => match frame.get(place..place + 4) {
                    Some(word) => loaded = u32::from_be_bytes(word.try_into().unwrap()),
                    None => return false,
                },
                LOAD_BYTE => match frame.get(place) {
                    Some(byte) => loaded = u32::from(*byte),
                    None => return false,
                },
                JUMP_EQUAL => at += usize::from(if loaded == operand { equal } else { different }),
                RETURN => return operand != 0,
                _ => panic!("no such instruction: {code}"),
            }
        }
    }

    fn addresses(count: u8) -> Vec<IpAddr> {
        let v4 = (1..=count).map(|last| IpAddr::V4(Ipv4Addr::new(192, 0, 2, last)));
        let v6 = (1..=count).map(|last| IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, last.into())));
        v4.chain(v6).collect()
    }

    #[test]
    fn passes_what_is_about_our_addresses_and_nothing_else() {
        let programs = |addresses: &[IpAddr]| (arp(addresses), nd(addresses));
        let ours = addresses(8);
        let table = [
            ("none", vec![], false, false),
            ("eight", ours.clone(), true, false),
            ("all", addresses(201), true, true),
        ];
        for (what, wanted, ours_pass, others_pass) in table {
            let (arp, nd) = programs(&wanted);
            assert!(arp.len() <= 4096 && nd.len() <= 4096, "{what}: as long as the kernel takes");
            let check = |address: IpAddr, expected: bool| {
                let program = if address.is_ipv4() { &arp } else { &nd };
                for frame in announcements(MAC, address, false).into_iter().chain([question(MAC, address)]) {
                    assert_eq!(passes(program, &frame), expected, "{what}: {address}");
                }
            };
            for address in &ours {
                check(*address, ours_pass);
            }
            for other in ["192.0.2.250", "198.51.100.1", "2001:db8::fa", "2001:db8::1:0"] {
                check(other.parse().unwrap(), others_pass);
            }
        }
    }

    #[test]
    fn other_traffic_is_dropped_whatever_the_addresses() {
        let frame = announcements(MAC, "2001:db8::1".parse().unwrap(), false).remove(0);
        for (place, byte, what) in [(20, 6, "TCP"), (54, 128, "an echo request")] {
            let mut frame = frame.clone();
            frame[place] = byte;
            for count in [1, 8, 201] {
                assert!(!passes(&nd(&addresses(count)), &frame), "{what}");
            }
        }
        // Somebody who has an address of ours and asks for another.
        let asks = Arp {
            target: Ipv4Addr::new(198, 51, 100, 1),
            ..Arp::announcement(MAC, Ipv4Addr::new(192, 0, 2, 1))
        };
        assert!(passes(&arp(&addresses(8)), &asks.to_frame()));
    }

    proptest! {
        #[test]
        fn a_short_frame_is_dropped_not_read_beyond(cut in 0_usize..42) {
            let frame = question(MAC, IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)));
            // The last bytes are the target, so there is nothing to pass before them.
            prop_assert!(!passes(&arp(&addresses(2)), &frame[..cut]));
        }
    }
}
