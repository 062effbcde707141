//! One process of a network namespace changes addresses: each removes at its start what carries the tag, so two would
//! remove each other's.

use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener};

/// In the abstract namespace, which is the network namespace's own: the kernel frees the name with the process, and it
/// knows neither directories nor permissions that could differ between two daemons.
const NAME: &[u8] = b"taskd-vip";

/// As long as it lives, no other process of this network namespace has one.
#[derive(Debug)]
pub(crate) struct Alone {
    _listener: UnixListener,
}

impl Alone {
    /// # Errors
    /// `AddrInUse` if another process has it.
    pub(super) fn new() -> io::Result<Self> {
        Self::named(NAME)
    }

    fn named(name: &[u8]) -> io::Result<Self> {
        Ok(Self { _listener: UnixListener::bind_addr(&SocketAddr::from_abstract_name(name)?)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_one_at_a_time() {
        let name = format!("taskd-vip-test-{}", std::process::id());
        let first = Alone::named(name.as_bytes()).unwrap();
        let second = Alone::named(name.as_bytes()).unwrap_err();
        assert_eq!(second.kind(), io::ErrorKind::AddrInUse);
        drop(first);
        Alone::named(name.as_bytes()).unwrap();
    }
}
