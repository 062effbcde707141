//! One cluster: three ZooKeeper servers and three nodes, each on a host of its own, and people on another.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::history::{Life, Timing};
use crate::load::Client;
use crate::net::Net;
use crate::node::{self, Node, Program};
use crate::sys::{self, Interrupt};
use crate::watch::{Elections, Ensemble, Watch};
use crate::zookeeper::{self, Role, Server};

/// Whatever it was, the cluster is whole again after this.
pub(crate) const HEALTHY: Duration = Duration::from_secs(30);
/// The JVMs of a busy machine take their time; so may the first leader.
const READY: Duration = Duration::from_secs(90);
/// The host from which people use the cluster.
const PEOPLE: &str = "people";
/// How long a ZooKeeper server that hears nothing of its leader goes on answering reads.
const STALE_READS: Duration = Duration::from_secs(3);

/// A cluster that is whole.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Health {
    /// The index of the node that leads.
    pub(crate) leader: usize,
    /// For how long its status had said so before there was proof of it.
    pub(crate) praised: Duration,
}

/// A running cluster. Dropping it kills everything and removes the network.
#[derive(Debug)]
pub(crate) struct Lab {
    pub(crate) dir: PathBuf,
    pub(crate) timing: Timing,
    pub(crate) nodes: Vec<Node>,
    pub(crate) servers: Vec<Server>,
    pub(crate) client: Client,
    pub(crate) interrupt: Interrupt,
    // After the processes.
    pub(crate) net: Arc<Net>,
}

impl Lab {
    /// Creates the network, starts everything, and waits until a leader serves and every node is a member.
    pub(crate) fn start(
        number: usize,
        dir: &Path,
        program: &Program,
        timing: Timing,
        interrupt: &Interrupt,
    ) -> Result<Self> {
        let hosts = |prefix: &str, from: u8| -> Vec<(String, Ipv4Addr)> {
            (1..=3).map(|n| (format!("{prefix}{n}"), Ipv4Addr::new(10, 99, 0, from + n))).collect()
        };
        let (servers, nodes) = (hosts("z", 10), hosts("n", 20));
        let mut all = [servers.clone(), nodes.clone()].concat();
        all.push((PEOPLE.to_owned(), Ipv4Addr::new(10, 99, 0, 99)));
        let net = Arc::new(Net::create(number, &all)?);
        let sync_limit = STALE_READS.as_millis().div_ceil(timing.tick.as_millis()).max(2);
        let mut servers: Vec<Server> = (1..=3)
            .map(|id| Server::prepare(dir, id, &servers, timing.tick, u32::try_from(sync_limit).unwrap_or(2)))
            .collect::<Result<_>>()?;
        for server in &mut servers {
            server.start(&net)?;
        }
        let connect: Vec<_> =
            servers.iter().map(|server| format!("{}:{}", server.address, zookeeper::PORT)).collect();
        let connect = connect.join(",");
        let nodes: Vec<Node> = nodes
            .iter()
            .map(|(name, address)| Node::prepare(dir, program, name, *address, &connect, timing))
            .collect::<Result<_>>()?;
        let client = Client {
            net: Arc::clone(&net),
            taskd: program.taskd.clone(),
            host: PEOPLE.to_owned(),
            addresses: nodes.iter().map(|node| format!("{}:{}", node.address, node::PORT)).collect(),
        };
        let (dir, interrupt) = (dir.to_owned(), interrupt.clone());
        let mut lab = Self { dir, timing, nodes, servers, client, interrupt, net };
        zookeeper::serving(&lab.net, PEOPLE, &lab.servers, &lab.interrupt)?;
        for node in &mut lab.nodes {
            node.start(&lab.net)?;
        }
        if let Err(last) = lab.healthy(0, READY)? {
            bail!("the cluster is not healthy after {READY:?}: {last}");
        }
        Ok(lab)
    }

    /// Waits until all three nodes are members and one of them serves as leader, and has had an effect since `since_ns`;
    /// what was the matter, if they are not `within`.
    ///
    /// What a node says of the cluster may be what it knew some seconds ago; an effect proves that there is a leader.
    pub(crate) fn healthy(&mut self, since_ns: u64, within: Duration) -> Result<Result<Health, String>> {
        let mut last = String::from("no node answered");
        let mut praised_ns = None;
        let interrupt = self.interrupt.clone();
        let leader = interrupt.until(within, || {
            let Some(status) = self.client.status(None) else { return Ok(None) };
            last = format!("{} ({} members, {})", status.summary, status.members.len(), status.health);
            if status.health != "healthy" || status.members.len() != self.nodes.len() {
                return Ok(None);
            }
            let served = self.nodes.iter().map(Node::last_effect).enumerate();
            let Some((index, Some((_, at_ns)))) = served.max_by_key(|(_, effect)| *effect) else {
                return Ok(None);
            };
            let praised_ns = *praised_ns.get_or_insert_with(sys::boot_ns);
            let told = status.leader.as_ref().filter(|leader| leader.serving);
            let agreed = told.is_some_and(|leader| leader.node == self.nodes[index].name);
            if !agreed || at_ns < since_ns {
                let ago = sys::between(at_ns, sys::boot_ns());
                last += &format!("; the last effect was {}'s, {ago:.1?} ago", self.nodes[index].name);
                return Ok(None);
            }
            Ok(Some(Health { leader: index, praised: sys::between(praised_ns, at_ns) }))
        })?;
        Ok(leader.ok_or(last))
    }

    /// What every life of every node wrote down.
    pub(crate) fn histories(&self) -> Vec<Life> {
        self.nodes.iter().flat_map(Node::histories).collect()
    }

    /// What each ZooKeeper server says it is.
    pub(crate) fn roles(&self) -> Result<Vec<Option<Role>>> {
        zookeeper::roles(&self.net, PEOPLE, &self.server_addresses())
    }

    pub(crate) fn server_addresses(&self) -> Vec<Ipv4Addr> {
        self.servers.iter().map(|server| server.address).collect()
    }

    /// The index of the ZooKeeper server that leads.
    pub(crate) fn ensemble_leader(&self) -> Result<usize> {
        let found = self
            .interrupt
            .until(HEALTHY, || Ok(self.roles()?.iter().position(|role| *role == Some(Role::Leader))))?;
        found.context("no ZooKeeper server leads")
    }

    /// Watches in a thread for the ensemble to have a leader other than `except`.
    pub(crate) fn watch(&self, except: Option<usize>) -> Watch {
        Watch::start(self.ensemble(), except)
    }

    /// Notes each election of ZooKeeper's own in a thread.
    pub(crate) fn elections(&self) -> Elections {
        Elections::start(self.ensemble())
    }

    fn ensemble(&self) -> Ensemble {
        let (net, servers) = (Arc::clone(&self.net), self.server_addresses());
        Ensemble { net, from: PEOPLE.to_owned(), servers }
    }

    /// Waits until every ZooKeeper server serves.
    pub(crate) fn ensemble_serves(&self) -> Result<()> {
        zookeeper::serving(&self.net, PEOPLE, &self.servers, &self.interrupt)
    }
}
