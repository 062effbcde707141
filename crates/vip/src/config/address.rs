//! Which addresses can be virtual IPs.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;

/// Reads an address with the prefix of its network.
///
/// # Errors
/// What is wrong with it and what to do, as a clause that follows the key.
pub(super) fn parse(text: &str) -> Result<IpNet, String> {
    if let Ok(bare) = text.parse::<IpAddr>() {
        let example = if bare.is_ipv4() { 24 } else { 64 };
        return Err(format!("{text} has no prefix: write it with its network's, such as {text}/{example}"));
    }
    let Ok(net) = text.parse::<IpNet>() else {
        return Err(format!(
            "{text:?} is no address: write one with its network's prefix, such as 172.0.20.241/24"
        ));
    };
    match refusal(&net) {
        Some(why) => Err(format!("{net} {why}")),
        None => Ok(net),
    }
}

/// Why it cannot be held by one machine of a network at a time, if so.
fn refusal(net: &IpNet) -> Option<&'static str> {
    let address = net.addr();
    if address.is_multicast() {
        return Some("is a multicast address: a virtual IP is one that a single machine has");
    }
    if address.is_loopback() {
        return Some("is a loopback address: nobody else could reach it");
    }
    if address.is_unspecified() {
        return Some("is no machine's address");
    }
    if net.prefix_len() == 0 {
        return Some("has the prefix 0, which is every network: write its own network's");
    }
    match (address, net) {
        (IpAddr::V4(v4), IpNet::V4(net)) => {
            if v4.octets()[0] == 0 || v4 == Ipv4Addr::BROADCAST || v4.octets()[0] >= 240 {
                return Some("is in a range that no machine can have (0.0.0.0/8, 240.0.0.0/4)");
            }
            match net.prefix_len() {
                // A single address, as keepalived has it by default; and RFC 3021: both of such a network are machines'.
                31 | 32 => None,
                _ if v4 == net.network() => {
                    Some("is its network's own address: write one of a machine in it")
                }
                _ if v4 == net.broadcast() => {
                    Some("is its network's broadcast address: write one of a machine in it")
                }
                _ => None,
            }
        }
        (IpAddr::V6(v6), IpNet::V6(net)) => {
            if v6.to_ipv4_mapped().is_some() {
                return Some("is an IPv4 address in IPv6's form: write it as IPv4");
            }
            match net.prefix_len() {
                // A single address; and RFC 6164: both of such a network are machines'.
                127 | 128 => None,
                _ if v6 == net.network() => {
                    Some("is the address of every router of its network: write one of a machine in it")
                }
                _ => None,
            }
        }
        _ => None,
    }
}

/// Whether it can be an interface's name or a role's; else what is wrong with it.
pub(super) fn check_interface(name: &str) -> Result<(), String> {
    let known = |c: char| c.is_ascii_alphanumeric() || "-_.:@".contains(c);
    if name.len() <= 32 && name.chars().all(known) && name != "." && name != ".." {
        return Ok(());
    }
    Err(format!(
        "{name:?} is no interface: write its name, or a role that nodes map to one, of at most 32 of a-z, 0-9 and -_.:@"
    ))
}

/// Whether it is `HOST:PORT`.
pub(super) fn is_target(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else { return false };
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let host_ok = match bare {
        Some(v6) => v6.parse::<std::net::Ipv6Addr>().is_ok(),
        None => !host.is_empty() && !host.contains([':', ' ', '/']),
    };
    host_ok && port.parse::<u16>().is_ok_and(|port| port > 0)
}
