//! Which addresses a network namespace has, from `/proc/net`: quick enough for a look every few milliseconds.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Read as _, Seek as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context, Result};

use crate::net::Net;

/// The two tables of one host, open; whoever reads them reads that host's.
#[derive(Debug)]
pub(crate) struct Tables {
    v4: File,
    v6: File,
    text: String,
}

impl Tables {
    pub(crate) fn open(net: &Net, host: &str) -> Result<Self> {
        net.on(host, || {
            // Of the thread, which has gone there; the process has not.
            let open = |name: &str| {
                let path = format!("/proc/thread-self/net/{name}");
                File::open(&path).with_context(|| format!("failed to open {path}"))
            };
            Ok(Self { v4: open("fib_trie")?, v6: open("if_inet6")?, text: String::new() })
        })?
    }

    /// What is there now.
    pub(crate) fn read(&mut self) -> Result<BTreeSet<IpAddr>> {
        let mut found = BTreeSet::new();
        for (file, parse) in [(&mut self.v4, local_v4 as fn(&str) -> _), (&mut self.v6, local_v6)] {
            self.text.clear();
            file.rewind()?;
            file.read_to_string(&mut self.text)?;
            found.extend::<Vec<IpAddr>>(parse(&self.text));
        }
        Ok(found)
    }
}

/// The leaves of the trie that are local to the host: those stay while the link is down, as the addresses do.
fn local_v4(trie: &str) -> Vec<IpAddr> {
    let mut leaf: Option<Ipv4Addr> = None;
    let mut found = Vec::new();
    for line in trie.lines().map(str::trim) {
        if let Some(address) = line.strip_prefix("|-- ") {
            leaf = address.parse().ok();
        } else if line.starts_with("/32 host LOCAL") {
            found.extend(leaf.map(IpAddr::V4));
        }
    }
    found
}

fn local_v6(table: &str) -> Vec<IpAddr> {
    let address = |line: &str| {
        let bits = u128::from_str_radix(line.split_whitespace().next()?, 16).ok()?;
        Some(IpAddr::V6(Ipv6Addr::from_bits(bits)))
    };
    table.lines().filter_map(address).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_tables_are_read() {
        let trie = "Main:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 10.98.0.0\n        /24 link UNICAST\n     +-- 10.98.0.192/26 2 0 2\n        \
                    |-- 10.98.0.201\n           /32 host LOCAL\n        |-- 10.98.0.255\n           /32 link BROADCAST\n";
        assert_eq!(local_v4(trie), ["10.98.0.201".parse::<IpAddr>().unwrap()]);
        let table = "fd980000000000000000000000000201 02 40 00 80     eth1\nnonsense\n";
        assert_eq!(local_v6(table), ["fd98::201".parse::<IpAddr>().unwrap()]);
    }
}
