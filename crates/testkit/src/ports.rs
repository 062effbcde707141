//! Ports for servers that come back on them.

use std::hash::{BuildHasher, RandomState};
use std::net::{Ipv4Addr, TcpListener};

/// Ports that were free a moment ago, distinct, and below those that the kernel hands out by itself: no client's
/// outgoing connection takes one while a server is down.
pub(crate) fn free<const N: usize>(address: Ipv4Addr) -> [u16; N] {
    let listeners: [TcpListener; N] = std::array::from_fn(|_| {
        let mut tries = 0;
        loop {
            let port = 12_000
                + u16::try_from(RandomState::new().hash_one(tries) % 20_000).expect("less than 20,000");
            tries += 1;
            match TcpListener::bind((address, port)) {
                Ok(listener) => return listener,
                Err(error) => assert!(tries < 100, "no loopback port is free: {error}"),
            }
        }
    });
    listeners.each_ref().map(|listener| listener.local_addr().expect("a bound socket has an address").port())
}
