//! The network: nodes with two interfaces, one towards ZooKeeper and people, one with the virtual IPs; a client, an
//! observer and a foreign machine on the latter.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use anyhow::Result;

use super::arp::Mac;
use crate::net::Net;

/// From where people use the cluster.
pub(crate) const PEOPLE: &str = "people";
/// Asks the addresses as a user would.
pub(crate) const CLIENT: &str = "client";
/// Asks with ARP who has them.
pub(crate) const OBSERVER: &str = "watch";
/// A machine that is none of ours.
pub(crate) const FOREIGN: &str = "alien";
/// The interface of the virtual IPs.
pub(crate) const INTERFACE: &str = "eth1";

/// The addresses that move: the first three together, the last on its own. Bits and indices go by this order.
pub(crate) const VIPS: [IpAddr; 4] = [
    IpAddr::V4(Ipv4Addr::new(10, 98, 0, 201)),
    IpAddr::V4(Ipv4Addr::new(10, 98, 0, 202)),
    IpAddr::V6(std::net::Ipv6Addr::new(0xfd98, 0, 0, 0, 0, 0, 0, 0x201)),
    IpAddr::V4(Ipv4Addr::new(10, 98, 0, 211)),
];
/// The addresses of the first service.
pub(crate) const FIRST: u32 = 0b0111;
/// Those of the second.
pub(crate) const SECOND: u32 = 0b1000;
/// Of each service the address that a client asks.
pub(crate) const ASKED: [usize; 2] = [0, 3];

/// The hosts and their wires. The last one who has it removes everything.
#[derive(Clone, Debug)]
pub(crate) struct Ground {
    pub(crate) net: Arc<Net>,
    pub(crate) nodes: Vec<(String, Ipv4Addr)>,
    pub(crate) servers: Vec<(String, Ipv4Addr)>,
}

impl Ground {
    pub(crate) fn create(number: usize, nodes: u8, servers: u8) -> Result<Self> {
        let hosts = |prefix: &str, count: u8, from: u8| -> Vec<(String, Ipv4Addr)> {
            (1..=count).map(|n| (format!("{prefix}{n}"), Ipv4Addr::new(10, 99, 0, from + n))).collect()
        };
        let (servers, nodes) = (hosts("z", servers, 10), hosts("n", nodes, 20));
        let others: Vec<_> =
            [PEOPLE, CLIENT, OBSERVER, FOREIGN].map(str::to_owned).into_iter().zip(96..).collect();
        let mut all = [servers.clone(), nodes.clone()].concat();
        all.extend(others.iter().map(|(name, last)| (name.clone(), Ipv4Addr::new(10, 99, 0, *last))));
        let net = Arc::new(Net::create(number, &all)?);
        let on_nodes = nodes.iter().map(|(name, address)| (name, address.octets()[3]));
        for (name, last) in on_nodes.chain(others.iter().skip(1).map(|(name, last)| (name, *last))) {
            net.second(name, &super::arp::written(mac_of(last)), Ipv4Addr::new(10, 98, 0, last))?;
        }
        Ok(Self { net, nodes, servers })
    }

    /// The hardware address of a node's second interface.
    pub(crate) fn mac(&self, node: usize) -> Mac {
        mac_of(self.nodes[node].1.octets()[3])
    }

    /// Whether it is one of the nodes'.
    pub(crate) fn is_ours(&self, mac: Mac) -> bool {
        (0..self.nodes.len()).any(|node| self.mac(node) == mac)
    }

    pub(crate) fn foreign_mac() -> Mac {
        mac_of(99)
    }

    pub(crate) fn node_names(&self) -> Vec<String> {
        self.nodes.iter().map(|(name, _)| name.clone()).collect()
    }

    /// Sets the link of a node's second interface up or down, on the node.
    pub(crate) fn link(&self, node: usize, up: bool) -> Result<()> {
        self.net
            .ip(&self.nodes[node].0, &format!("link set {INTERFACE} {}\n", if up { "up" } else { "down" }))
    }

    /// Takes the carrier of a node's second interface away at the other end of its wire, or gives it back.
    pub(crate) fn carrier(&self, node: usize, there: bool) -> Result<()> {
        let state = if there { "up" } else { "down" };
        self.net.ip("net", &format!("link set {}s {state}\n", self.nodes[node].0))
    }

    /// Cuts a node off from everything, or joins it again; it sees its carriers all the time.
    pub(crate) fn isolate(&self, node: usize, cut: bool) -> Result<()> {
        let name = &self.nodes[node].0;
        self.net.ip("net", &[port(name, "br0", cut), port(&format!("{name}s"), "br1", cut)].concat())
    }

    /// The same towards ZooKeeper, people and the other nodes alone: clients of the virtual IPs still reach it.
    pub(crate) fn cut_coordination(&self, node: usize, cut: bool) -> Result<()> {
        self.net.ip("net", &port(&self.nodes[node].0, "br0", cut))
    }
}

fn port(name: &str, bridge: &str, cut: bool) -> String {
    if cut { format!("link set {name} nomaster\n") } else { format!("link set {name} master {bridge}\n") }
}

/// Ours by its first byte, so that it is known who answers.
const fn mac_of(last: u8) -> Mac {
    [2, 0, 0x54, 0, 0, last]
}
