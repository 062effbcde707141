//! What is said to the kernel, and what it says: pure.

use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_core::{NLM_F_REQUEST, NetlinkBuffer, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::address::{
    AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, AddressProtocol, AddressScope,
    CacheInfo,
};
use netlink_packet_route::link::{LinkAttribute, LinkExtentMask, LinkFlags, LinkMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use nix::errno::Errno;
use tracing::warn;

use super::super::{ADDRESS_PROTO, Interface};

/// The metric of the route to an IPv6 address's network that comes with it: larger than anybody else's, see
/// [`super`].
const ROUTE_METRIC: u32 = 1 << 16;

/// The longest name of an interface, and so the longest label.
const LABEL_MAX: usize = 15;

/// The name under which `ifconfig` and `ip` show an IPv4 address of ours, if it fits.
pub(super) fn label(interface: &str) -> Option<String> {
    let label = format!("{interface}:vip");
    (label.len() <= LABEL_MAX).then_some(label)
}

fn address_message(link: u32, address: IpNet) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = match address {
        IpNet::V4(_) => AddressFamily::Inet,
        IpNet::V6(_) => AddressFamily::Inet6,
    };
    message.header.prefix_len = address.prefix_len();
    message.header.index = link;
    message.header.scope = AddressScope::Universe;
    message.attributes =
        vec![AddressAttribute::Local(address.addr()), AddressAttribute::Address(address.addr())];
    message
}

/// Adds or renews an address; see [`super`] for the reasons.
pub(super) fn put(link: u32, address: IpNet, valid_s: u32, label: Option<&str>) -> RouteNetlinkMessage {
    let mut message = address_message(link, address);
    let mut lifetimes = CacheInfo::default();
    lifetimes.ifa_valid = valid_s;
    message.attributes.push(AddressAttribute::Protocol(AddressProtocol::Other(ADDRESS_PROTO)));
    match address {
        IpNet::V4(net) => {
            lifetimes.ifa_preferred = valid_s;
            if net.prefix_len() < 31 {
                message.attributes.push(AddressAttribute::Broadcast(net.broadcast()));
            }
            message.attributes.extend(label.map(|label| AddressAttribute::Label(label.to_owned())));
        }
        IpNet::V6(net) => {
            lifetimes.ifa_preferred = 0;
            message.header.flags |= AddressHeaderFlags::Nodad;
            let mut flags = AddressFlags::Nodad;
            if net.prefix_len() < 128 {
                message.attributes.push(AddressAttribute::RoutePriority(ROUTE_METRIC));
            } else {
                flags |= AddressFlags::Noprefixroute;
            }
            message.attributes.push(AddressAttribute::Flags(flags));
        }
    }
    message.attributes.push(AddressAttribute::CacheInfo(lifetimes));
    RouteNetlinkMessage::NewAddress(message)
}

/// Removes an address.
pub(super) fn remove(link: u32, address: IpNet) -> RouteNetlinkMessage {
    RouteNetlinkMessage::DelAddress(address_message(link, address))
}

/// Asks for all addresses.
pub(super) fn list_addresses() -> RouteNetlinkMessage {
    RouteNetlinkMessage::GetAddress(AddressMessage::default())
}

/// Asks for all interfaces, or one.
pub(super) fn list_links(link: Option<u32>) -> RouteNetlinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = link.unwrap_or(0);
    message.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
    RouteNetlinkMessage::GetLink(message)
}

/// As bytes.
pub(super) fn encode(message: RouteNetlinkMessage, flags: u16, sequence: u32) -> Vec<u8> {
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | flags;
    header.sequence_number = sequence;
    let mut message = NetlinkMessage::new(header, NetlinkPayload::from(message));
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    bytes
}

/// One message of the kernel's.
#[derive(Debug)]
pub(super) enum Said {
    /// A part of a list, or an event.
    Message(RouteNetlinkMessage),
    /// A request was refused.
    Refused(Errno),
    /// A request was carried out, or a list is complete.
    Done,
    /// Of no interest.
    Other,
}

/// The messages in a datagram: each with its sequence number and flags. One that the crate cannot read is left out, and
/// said: an exotic interface must not hide the others.
pub(super) fn decode(mut bytes: &[u8]) -> Vec<(u32, u16, Said)> {
    let mut messages = Vec::new();
    while let Ok(buffer) = NetlinkBuffer::new_checked(bytes) {
        let length = usize::try_from(buffer.length()).unwrap_or(usize::MAX).max(16);
        let (sequence, flags) = (buffer.sequence_number(), buffer.flags());
        let this = bytes.get(..length).unwrap_or(bytes);
        match NetlinkMessage::<RouteNetlinkMessage>::deserialize(this) {
            Ok(message) => messages.push((sequence, flags, said(message.payload))),
            Err(error) => {
                warn!("a message of the kernel (type {}) cannot be read: {error}", buffer.message_type())
            }
        }
        // Each message begins at a multiple of four.
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    messages
}

fn said(payload: NetlinkPayload<RouteNetlinkMessage>) -> Said {
    let result = |code: i32| match code {
        0 => Said::Done,
        code => Said::Refused(Errno::from_raw(code.saturating_abs())),
    };
    match payload {
        NetlinkPayload::InnerMessage(message) => Said::Message(message),
        NetlinkPayload::Error(error) => result(error.code.map_or(0, Into::into)),
        NetlinkPayload::Done(done) => result(done.code),
        _ => Said::Other,
    }
}

/// An address as the kernel lists it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Listed {
    pub(super) link: u32,
    pub(super) address: IpNet,
    /// `IFA_PROTO`, where the kernel keeps it.
    pub(super) proto: Option<u8>,
    /// Seconds; none: for ever.
    pub(super) valid_for: Option<u32>,
}

impl Listed {
    pub(super) fn ours(&self) -> bool {
        self.proto == Some(ADDRESS_PROTO)
    }
}

/// The address that a message is about. On a point-to-point interface `IFA_ADDRESS` is the other end.
pub(super) fn address(message: &AddressMessage) -> Option<Listed> {
    let (mut local, mut other, mut proto, mut valid_for): (Option<IpAddr>, Option<IpAddr>, _, _) =
        (None, None, None, None);
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(ip) => local = Some(*ip),
            AddressAttribute::Address(ip) => other = Some(*ip),
            AddressAttribute::Protocol(value) => proto = Some(u8::from(*value)),
            AddressAttribute::CacheInfo(info) => {
                valid_for = (info.ifa_valid != u32::MAX).then_some(info.ifa_valid);
            }
            _ => {}
        }
    }
    let address = IpNet::new(local.or(other)?, message.header.prefix_len).ok()?;
    Some(Listed { link: message.header.index, address, proto, valid_for })
}

/// The interface that a message is about. A bridge speaks of its ports in messages of its own family; one that leaves
/// the bridge is said to be deleted there.
pub(super) fn interface(message: &LinkMessage) -> Option<Interface> {
    if message.header.interface_family != AddressFamily::Unspec {
        return None;
    }
    let mut name = None;
    let mut mac = None;
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(text) => name = Some(text.clone()),
            LinkAttribute::Address(bytes) => mac = bytes.as_slice().try_into().ok(),
            _ => {}
        }
    }
    let flags = message.header.flags;
    Some(Interface {
        link: message.header.index,
        name: name?,
        mac,
        up: flags.contains(LinkFlags::Up),
        carrier: flags.contains(LinkFlags::LowerUp),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    fn there_and_back(message: RouteNetlinkMessage) -> AddressMessage {
        let bytes = encode(message, 0, 7);
        let mut messages = decode(&bytes);
        assert_eq!(messages.len(), 1);
        match messages.remove(0) {
            (7, NLM_F_REQUEST, Said::Message(RouteNetlinkMessage::NewAddress(message))) => message,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_label_is_there_when_it_fits() {
        for (interface, expected) in [
            ("eth1", Some("eth1:vip")),
            ("enp129s0f1", Some("enp129s0f1:vip")),
            ("enp129s0f1n", Some("enp129s0f1n:vip")),
            ("enp129s0f1np", None),
        ] {
            assert_eq!(label(interface).as_deref(), expected);
        }
    }

    #[test]
    fn what_a_put_says() {
        let four = there_and_back(put(3, net("192.0.2.9/24"), 2, Some("eth1:vip")));
        assert_eq!(
            address(&four),
            Some(Listed { link: 3, address: net("192.0.2.9/24"), proto: Some(0x54), valid_for: Some(2) })
        );
        assert!(four.attributes.contains(&AddressAttribute::Broadcast([192, 0, 2, 255].into())));
        assert!(four.attributes.contains(&AddressAttribute::Label("eth1:vip".into())));
        let host = there_and_back(put(3, net("192.0.2.9/32"), 2, None));
        assert!(!host.attributes.iter().any(|one| matches!(one, AddressAttribute::Broadcast(_))));

        let six = there_and_back(put(3, net("2001:db8::9/64"), 2, Some("eth1:vip")));
        assert!(six.attributes.contains(&AddressAttribute::Flags(AddressFlags::Nodad)));
        assert!(six.attributes.contains(&AddressAttribute::RoutePriority(ROUTE_METRIC)));
        assert!(!six.attributes.iter().any(|one| matches!(one, AddressAttribute::Label(_))));
        let preferred = six.attributes.iter().find_map(|one| match one {
            AddressAttribute::CacheInfo(info) => Some((info.ifa_valid, info.ifa_preferred)),
            _ => None,
        });
        assert_eq!(preferred, Some((2, 0)));
    }

    #[test]
    fn what_cannot_be_read_hides_nothing_else() {
        // An address message too short for its header, between two good ones.
        let mut bytes = encode(put(1, net("192.0.2.1/24"), 1, None), 0, 1);
        bytes.extend([20, 0, 0, 0, 20, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 2, 24, 0, 0]);
        bytes.extend(encode(put(2, net("192.0.2.2/24"), 1, None), 0, 2));
        let sequences: Vec<_> = decode(&bytes).into_iter().map(|(sequence, ..)| sequence).collect();
        assert_eq!(sequences, [1, 2]);
    }
}
