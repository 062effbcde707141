//! Whether real addresses can be had here.

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

use super::socket::{Exchange, Trouble};
use super::wire;

/// No interface has it.
const NO_LINK: u32 = i32::MAX as u32;

/// Tries, without changing anything, what the capabilities allow: a capability that the process shows may be worth
/// nothing here (in a container it is one of another network).
///
/// # Errors
/// What is missing and how to give it, in a sentence.
pub fn permitted() -> Result<(), String> {
    let mut missing = Vec::new();
    let nowhere = ipnet::IpNet::from(std::net::IpAddr::from([192, 0, 2, 1]));
    let mut exchange = Exchange::open().map_err(|errno| format!("there is no netlink: {}", errno.desc()))?;
    if exchange.change(wire::remove(NO_LINK, nowhere), 0) == Err(Trouble::Refused(Errno::EPERM)) {
        missing.push("CAP_NET_ADMIN");
    }
    // Of no protocol: it receives nothing.
    match socket(AddressFamily::Packet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None) {
        Ok(_) => {}
        Err(Errno::EPERM) => missing.push("CAP_NET_RAW"),
        Err(errno) => return Err(format!("there are no packet sockets: {}", errno.desc())),
    }
    if missing.is_empty() {
        return Ok(());
    }
    Err(format!(
        "real addresses need CAP_NET_ADMIN and CAP_NET_RAW, no more; {} missing (systemd: \
         AmbientCapabilities=CAP_NET_ADMIN CAP_NET_RAW)",
        match missing.as_slice() {
            [one] => format!("{one} is"),
            _ => "both are".to_owned(),
        }
    ))
}
