//! Connects to a service of a node.

use std::fmt::Debug;
use std::io;
use std::time::Duration;

use futures::future::BoxFuture;
use proto::ClusterId;
use proto::api::ApiClient;
use proto::hello::Service;
use proto::leader::LeaderRpcClient;
use proto::runner::RunnerRpcClient;
use tarpc::client::{Config, NewClient};

use super::handshake::{Declined, HELLO_BYTES_MAX, introduce};
use super::{Identity, Peer, SharedNetwork, Wire};

/// Moves one connection's requests and answers; ends when the connection or the last clone of its client does.
/// Whoever connected spawns it in a `JoinSet` of theirs: a client without it never gets an answer.
pub type Dispatch = BoxFuture<'static, ()>;

/// A client together with what drives it.
pub struct Connection<C> {
    /// The client.
    pub client: C,
    /// What drives it.
    pub dispatch: Dispatch,
    /// Who answered.
    pub peer: Peer,
}

impl<C> Debug for Connection<C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection").field("peer", &self.peer).finish_non_exhaustive()
    }
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Nothing listens there, or nothing can be reached.
    #[error("cannot reach {address}")]
    Unreachable {
        /// What was tried.
        address: String,
        /// The operating system's reason.
        #[source]
        source: io::Error,
    },
    /// Nothing answered in time.
    #[error("{address} did not answer within {}", humantime::format_duration(*within))]
    Deadline {
        /// What was tried.
        address: String,
        /// How long.
        within: Duration,
    },
    /// Something else listens there.
    #[error("what listens at {address} is not taskd: check the address and the port")]
    Stranger {
        /// What was tried.
        address: String,
        /// What it did instead.
        #[source]
        source: io::Error,
    },
    /// The node said no.
    #[error("{address} refused the connection: {reason}")]
    Refused {
        /// What was tried.
        address: String,
        /// Its words.
        reason: String,
    },
    /// The node belongs to another cluster.
    #[error(
        "{address} belongs to cluster {theirs}, this node to cluster {ours}: check coordination.hosts and \
         coordination.root of both"
    )]
    ForeignCluster {
        /// What was tried.
        address: String,
        /// Its cluster.
        theirs: ClusterId,
        /// Ours.
        ours: ClusterId,
    },
    /// The owner of the connections is closing.
    #[error("not connecting to {address}: shutting down")]
    Closed {
        /// What was asked for.
        address: String,
    },
}

/// A generated client that can be put on a [`Wire`].
pub trait Rpc: Clone + Debug + Send + Sync + 'static {
    /// The service that its hello asks for.
    const SERVICE: Service;

    /// The client and what drives it.
    fn start(wire: Wire) -> (Self, Dispatch);
}

macro_rules! rpc {
    ($client:ident, $service:ident) => {
        impl Rpc for $client {
            const SERVICE: Service = Service::$service;

            fn start(wire: Wire) -> (Self, Dispatch) {
                let NewClient { client, dispatch } = Self::new(Config::default(), wire.transport());
                let dispatch = async move {
                    if let Err(error) = dispatch.await {
                        tracing::debug!(service = ?Self::SERVICE, %error, "a connection ended");
                    }
                };
                (client, Box::pin(dispatch))
            }
        }
    };
}

rpc!(ApiClient, Api);
rpc!(RunnerRpcClient, Runner);
rpc!(LeaderRpcClient, Leader);

/// Connects to `address` (`HOST:PORT`) and shakes hands, all `within` that time.
///
/// # Errors
/// See [`ConnectError`]; each names the address.
///
/// # Cancel safety
/// A cancelled call closes the connection.
pub async fn connect<C: Rpc>(
    network: &SharedNetwork,
    address: &str,
    identity: &Identity,
    within: Duration,
) -> Result<Connection<C>, ConnectError> {
    let attempt = async {
        let address = address.to_owned();
        let stream = match network.connect(&address).await {
            Ok(stream) => stream,
            Err(source) => return Err(ConnectError::Unreachable { address, source }),
        };
        let mut wire = Wire::new(stream, HELLO_BYTES_MAX);
        match introduce(&mut wire, identity, C::SERVICE).await {
            Ok(peer) => {
                let (client, dispatch) = C::start(wire);
                Ok(Connection { client, dispatch, peer })
            }
            Err(Declined::Stranger(source)) => Err(ConnectError::Stranger { address, source }),
            Err(Declined::Refused(reason)) => Err(ConnectError::Refused { address, reason }),
            Err(Declined::Foreign { theirs, ours }) => {
                Err(ConnectError::ForeignCluster { address, theirs, ours })
            }
        }
    };
    tokio::time::timeout(within, attempt)
        .await
        .unwrap_or_else(|_| Err(ConnectError::Deadline { address: address.to_owned(), within }))
}

/// [`connect`] to what people and peers ask.
///
/// # Errors
/// See [`ConnectError`].
pub async fn connect_api(
    network: &SharedNetwork,
    address: &str,
    identity: &Identity,
    within: Duration,
) -> Result<Connection<ApiClient>, ConnectError> {
    connect(network, address, identity, within).await
}

/// [`connect`] to a node's runner.
///
/// # Errors
/// See [`ConnectError`].
pub async fn connect_runner(
    network: &SharedNetwork,
    address: &str,
    identity: &Identity,
    within: Duration,
) -> Result<Connection<RunnerRpcClient>, ConnectError> {
    connect(network, address, identity, within).await
}

/// [`connect`] to the leader's dispatcher.
///
/// # Errors
/// See [`ConnectError`].
pub async fn connect_leader(
    network: &SharedNetwork,
    address: &str,
    identity: &Identity,
    within: Duration,
) -> Result<Connection<LeaderRpcClient>, ConnectError> {
    connect(network, address, identity, within).await
}
