//! Both sides of the first frame.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use proto::hello::{Hello, MAGIC, PROTOCOL, Service, Welcome};
use proto::{ClusterId, NodeId};
use serde::Deserialize;

use super::codec::{decode, encode};
use super::{VERSION, Wire};

/// How long either side waits for the other's first frame.
pub(super) const DEADLINE: Duration = Duration::from_secs(2);

/// A hello is far smaller: what claims more is no peer of ours.
pub(super) const HELLO_BYTES_MAX: usize = 4 * 1024;

/// Who we say we are. Clones share the cluster once it is known.
#[derive(Clone, Debug)]
pub struct Identity {
    node: Option<NodeId>,
    cluster: Arc<OnceLock<ClusterId>>,
}

/// A process belongs to one cluster for its whole life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this process already belongs to cluster {ours}, it cannot join {theirs}")]
pub struct IdentityConflict {
    ours: ClusterId,
    theirs: ClusterId,
}

impl Identity {
    /// A node, of no cluster yet.
    pub fn node(node: NodeId) -> Self {
        Self { node: Some(node), cluster: Arc::default() }
    }

    /// A plain client, welcome in any cluster.
    pub fn client() -> Self {
        Self { node: None, cluster: Arc::default() }
    }

    /// Says which cluster it is from now on.
    ///
    /// # Errors
    /// It was another one before.
    pub fn set_cluster(&self, cluster: ClusterId) -> Result<(), IdentityConflict> {
        let ours = *self.cluster.get_or_init(|| cluster);
        if ours == cluster { Ok(()) } else { Err(IdentityConflict { ours, theirs: cluster }) }
    }

    /// The cluster, once known.
    pub fn cluster(&self) -> Option<ClusterId> {
        self.cluster.get().copied()
    }

    /// The node's name, if this is a node.
    pub fn name(&self) -> Option<&NodeId> {
        self.node.as_ref()
    }

    pub(super) fn hello(&self, service: Service) -> Hello {
        Hello {
            magic: MAGIC.to_owned(),
            protocol: PROTOCOL,
            version: VERSION.to_owned(),
            service,
            cluster: self.cluster(),
            node: self.node.clone(),
        }
    }
}

/// Who is at the other end.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Where it connected from, on the listening side.
    pub from: Option<SocketAddr>,
    /// Its name, if it is a node.
    pub node: Option<NodeId>,
    /// Its cluster, if it said one.
    pub cluster: Option<ClusterId>,
    /// Its release, for people.
    pub version: String,
}

/// Why the listening side sent someone away.
#[derive(Debug)]
pub(super) enum Turned {
    /// Connected and said nothing at all: a health check or a port scan.
    Silent,
    /// Not one of us.
    Stranger(String),
    /// One of us that may not come in; it was told why.
    Refused(String),
}

/// Only what is needed to tell a peer of another version from a stranger.
#[derive(Deserialize)]
struct Preamble {
    magic: String,
    protocol: u32,
}

/// The listening side: hears the hello and answers it.
pub(super) async fn receive(wire: &mut Wire, identity: &Identity) -> Result<Hello, Turned> {
    let first = match tokio::time::timeout(DEADLINE, wire.0.next()).await {
        Err(_) => return Err(Turned::Stranger(format!("it sent no hello within {DEADLINE:?}"))),
        Ok(None) => return Err(Turned::Silent),
        Ok(Some(Err(error))) => return Err(Turned::Stranger(stranger(&error))),
        Ok(Some(Ok(frame))) => frame,
    };
    let not_ours = || Turned::Stranger("its first frame is not a hello of taskd".to_owned());
    let preamble: Preamble = decode(&first).map_err(|_| not_ours())?;
    if preamble.magic != MAGIC {
        return Err(not_ours());
    }
    let verdict = if preamble.protocol == PROTOCOL {
        decode::<Hello>(&first).map_err(|error| format!("its hello cannot be read: {error}"))
    } else {
        Err(format!(
            "protocol {} was offered, this node ({VERSION}) speaks {PROTOCOL}: run the same release on both sides",
            preamble.protocol
        ))
    };
    let verdict = verdict.and_then(|hello| match (hello.cluster, identity.cluster()) {
        (Some(theirs), Some(ours)) if theirs != ours => Err(format!(
            "the caller belongs to cluster {theirs}, this node to cluster {ours}: check coordination.hosts and \
             coordination.root of both"
        )),
        _ => Ok(hello),
    });
    match (verdict, identity.name()) {
        (Ok(hello), Some(node)) => {
            let accepted = Welcome::Accepted {
                magic: MAGIC.to_owned(),
                protocol: PROTOCOL,
                version: VERSION.to_owned(),
                node: node.clone(),
                cluster: identity.cluster(),
            };
            send(wire, &accepted).await.map_err(|_| Turned::Silent)?;
            Ok(hello)
        }
        (Ok(_), None) => Err(refuse(wire, "this process is no node".to_owned()).await),
        (Err(reason), _) => Err(refuse(wire, reason).await),
    }
}

/// Says no, with the reason, and closes.
pub(super) async fn refuse(wire: &mut Wire, reason: String) -> Turned {
    let refused = Welcome::Refused { magic: MAGIC.to_owned(), reason: reason.clone() };
    // Whoever does not stay to hear the reason loses only that.
    let _ = send(wire, &refused).await;
    let _ = tokio::time::timeout(DEADLINE, SinkExt::<Bytes>::close(&mut wire.0)).await;
    Turned::Refused(reason)
}

/// Why the connecting side gives up.
#[derive(Debug)]
pub(super) enum Declined {
    /// What answers does not speak our protocol.
    Stranger(io::Error),
    /// It said no.
    Refused(String),
    /// It belongs to another cluster.
    Foreign { theirs: ClusterId, ours: ClusterId },
}

/// The connecting side: says hello and hears the answer. The caller's deadline bounds it.
pub(super) async fn introduce(
    wire: &mut Wire,
    identity: &Identity,
    service: Service,
) -> Result<Peer, Declined> {
    send(wire, &identity.hello(service)).await.map_err(Declined::Stranger)?;
    let frame = match wire.0.next().await {
        Some(frame) => frame.map_err(Declined::Stranger)?,
        None => return Err(Declined::Stranger(io::ErrorKind::UnexpectedEof.into())),
    };
    match decode::<Welcome>(&frame).map_err(Declined::Stranger)? {
        Welcome::Accepted { magic, protocol, version, node, cluster }
            if magic == MAGIC && protocol == PROTOCOL =>
        {
            match (cluster, identity.cluster()) {
                (Some(theirs), Some(ours)) if theirs != ours => Err(Declined::Foreign { theirs, ours }),
                _ => Ok(Peer { from: None, node: Some(node), cluster, version: printable(&version) }),
            }
        }
        Welcome::Refused { magic, reason } if magic == MAGIC => Err(Declined::Refused(printable(&reason))),
        _ => Err(Declined::Stranger(io::ErrorKind::InvalidData.into())),
    }
}

async fn send<T: serde::Serialize>(wire: &mut Wire, message: &T) -> io::Result<()> {
    let frame = encode(message)?;
    tokio::time::timeout(DEADLINE, wire.0.send(frame)).await.map_err(|_| io::ErrorKind::TimedOut)?
}

fn stranger(error: &io::Error) -> String {
    if error.kind() == io::ErrorKind::InvalidData {
        "its first bytes are not a hello of taskd".to_owned()
    } else {
        format!("the connection failed before its hello: {error}")
    }
}

/// What a peer says may end on a terminal: no control characters, and not endless.
fn printable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(400).collect()
}
