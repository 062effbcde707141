//! Over loopback sockets.

use std::time::Duration;

use proto::hello::{Hello, MAGIC, PROTOCOL, Service, Welcome};
use proto::leader::{Heartbeat, HeartbeatReply, LeaderRpc, NotLeading, OutcomeReport};
use proto::{AttemptId, ClusterId, NodeId};
use tarpc::context::Context;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::timeout;

use super::codec::{decode, encode};
use super::handshake::HELLO_BYTES_MAX;
use super::*;

const SOON: Duration = Duration::from_secs(5);

fn node(name: &str) -> NodeId {
    name.parse().unwrap()
}

fn identity(name: &str, cluster: u128) -> Identity {
    let identity = Identity::node(node(name));
    identity.set_cluster(ClusterId::from_u128(cluster)).unwrap();
    identity
}

/// Answers every heartbeat that it does not lead.
#[derive(Clone)]
struct Follower;

impl LeaderRpc for Follower {
    async fn heartbeat(self, _: Context, beat: Heartbeat) -> Result<HeartbeatReply, NotLeading> {
        Err(NotLeading { node: beat.node, leader: None })
    }

    async fn prepare(self, _: Context) -> Result<(), String> {
        Err("it never leads".to_owned())
    }

    async fn outcomes(self, _: Context, report: OutcomeReport) -> Result<Vec<AttemptId>, NotLeading> {
        Ok(report.outcomes.into_iter().map(|outcome| outcome.attempt).collect())
    }
}

/// A node that serves one service on loopback.
struct Fixture {
    address: String,
    /// Dropping it ends the node.
    tasks: JoinSet<()>,
    accepting: AbortHandle,
}

async fn start(limits: Limits) -> Fixture {
    let mut listener =
        Listener::bind(&Tcp::shared(), "127.0.0.1:0".parse().unwrap(), identity("server", 1), limits)
            .await
            .unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let mut tasks = JoinSet::new();
    let accepting = tasks.spawn(async move {
        let mut connections = JoinSet::new();
        loop {
            let incoming = listener.accept().await;
            connections.spawn(serve(incoming, Follower.serve()));
        }
    });
    Fixture { address, tasks, accepting }
}

async fn beat(client: &proto::leader::LeaderRpcClient, name: &str) -> Result<NodeId, String> {
    let heartbeat = Heartbeat {
        node: node(name),
        address: String::new(),
        incarnation: proto::Incarnation::from_u128(1),
        ended_incarnations: vec![],
        grant: None,
        capacity: proto::runner::Capacity {
            slots: 1,
            free: 1,
            labels: Default::default(),
            kinds: vec![],
            draining: false,
        },
        running: vec![],
        leave_ms: None,
        reports: vec![],
    };
    match client.heartbeat(tarpc::context::current(), heartbeat).await {
        Ok(Err(refused)) => Ok(refused.node),
        Ok(Ok(_)) => Err("it leads".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

/// What the node answers to raw bytes, until it closes.
async fn say(address: &str, bytes: &[u8]) -> Vec<u8> {
    let mut stream = Tcp.connect(address).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    let mut answer = Vec::new();
    // A reset is a close too: the node did not read everything we sent.
    let _ = timeout(SOON, stream.read_to_end(&mut answer)).await.expect("the node must close the connection");
    answer
}

fn frame(payload: &[u8]) -> Vec<u8> {
    let mut frame = u32::try_from(payload.len()).unwrap().to_be_bytes().to_vec();
    frame.extend_from_slice(payload);
    frame
}

#[tokio::test]
async fn strangers_are_closed_and_the_node_goes_on() {
    let fixture = start(Limits::default()).await;
    let rows: [&[u8]; 6] = [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        &frame(b"\xc1\xff\x00"),
        &frame(&encode(&"hello").unwrap()),
        &frame(&vec![0; HELLO_BYTES_MAX + 1]),
        b"\xff\xff\xff\xff",
    ];
    for row in rows {
        assert_eq!(say(&fixture.address, row).await, b"", "{row:?} gets no answer");
    }
    let peers = Peers::new(Tcp::shared(), identity("n2", 1), SOON);
    let client = peers.leader(&fixture.address).await.unwrap();
    assert_eq!(beat(&client, "n2").await, Ok(node("n2")));
    peers.close().await;
}

#[tokio::test]
async fn who_says_nothing_keeps_nobody_out() {
    let fixture = start(Limits { handshakes_max: 1, ..Limits::default() }).await;
    let mut silent = Tcp.connect(&fixture.address).await.unwrap();
    let peers = Peers::new(Tcp::shared(), identity("n2", 1), SOON);
    let client = peers.leader(&fixture.address).await.unwrap();
    assert_eq!(beat(&client, "n2").await, Ok(node("n2")));
    let mut answer = Vec::new();
    // Closed or reset, long before the handshake's own deadline: it made place.
    let ended = timeout(Duration::from_millis(500), silent.read_to_end(&mut answer)).await;
    assert!(ended.is_ok() && answer.is_empty(), "{ended:?}, {answer:?}");
    peers.close().await;
}

#[tokio::test]
async fn a_peer_of_another_version_is_told_so() {
    let fixture = start(Limits::default()).await;
    let mut hello = identity("n2", 1).hello(Service::Leader);
    hello.protocol = PROTOCOL + 1;
    let answer = say(&fixture.address, &frame(&encode(&hello).unwrap())).await;
    let Welcome::Refused { magic, reason } = decode(&answer[4..]).unwrap() else {
        panic!("it was let in: {answer:?}");
    };
    assert_eq!(magic, MAGIC);
    assert_eq!(
        reason,
        format!("protocol 2 was offered, this node ({VERSION}) speaks 1: run the same release on both sides")
    );
}

#[tokio::test]
async fn a_hello_may_grow() {
    #[derive(serde::Serialize)]
    struct Newer {
        #[serde(flatten)]
        hello: Hello,
        shoe_size: u32,
    }
    let fixture = start(Limits::default()).await;
    let hello = Newer { hello: Identity::client().hello(Service::Leader), shoe_size: 43 };
    let mut stream = Tcp.connect(&fixture.address).await.unwrap();
    stream.write_all(&frame(&encode(&hello).unwrap())).await.unwrap();
    let length = timeout(SOON, stream.read_u32()).await.unwrap().unwrap();
    let mut answer = vec![0; length as usize];
    stream.read_exact(&mut answer).await.unwrap();
    assert!(matches!(decode(&answer).unwrap(), Welcome::Accepted { node, .. } if node.as_str() == "server"));
}

#[tokio::test]
async fn another_cluster_is_refused_with_the_reason() {
    let fixture = start(Limits::default()).await;
    let peers = Peers::new(Tcp::shared(), identity("n2", 2), SOON);
    let error = peers.leader(&fixture.address).await.unwrap_err();
    assert!(matches!(error, ConnectError::Refused { .. }), "{error:?}");
    let text = error.to_string();
    assert!(text.contains("coordination.root") && text.contains(&fixture.address), "{text}");
    peers.close().await;
}

#[tokio::test]
async fn what_is_not_taskd_is_named() {
    let mut acceptor = Tcp.bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let address = acceptor.local_addr().unwrap().to_string();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let (mut stream, _) = acceptor.accept().await.unwrap();
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
        // The second one gets no answer at all.
        let silent = acceptor.accept().await;
        std::future::pending::<()>().await;
        drop(silent);
    });
    let (tcp, client) = (Tcp::shared(), Identity::client());
    let error = connect_api(&tcp, &address, &client, SOON).await.unwrap_err();
    assert!(matches!(error, ConnectError::Stranger { .. }), "{error:?}");
    let error = connect_api(&tcp, &address, &client, Duration::from_millis(50)).await.unwrap_err();
    assert_eq!(error.to_string(), format!("{address} did not answer within 50ms"));
    tasks.shutdown().await;
    let error = connect_api(&tcp, &address, &client, SOON).await.unwrap_err();
    assert!(matches!(error, ConnectError::Unreachable { .. }), "{error:?}");
}

#[tokio::test]
async fn one_connection_too_many_hears_why() {
    let fixture = start(Limits { connections_max: 1, ..Limits::default() }).await;
    let peers = Peers::new(Tcp::shared(), identity("n2", 1), SOON);
    let first = peers.leader(&fixture.address).await.unwrap();
    let error = peers.api(&fixture.address).await.unwrap_err();
    assert!(error.to_string().contains("1 connections, which is its limit"), "{error}");
    assert_eq!(beat(&first, "n2").await, Ok(node("n2")), "the first one is not disturbed");
    peers.close().await;
}

#[tokio::test]
async fn peers_share_a_connection_and_renew_it() {
    let mut fixture = start(Limits { connections_max: 1, ..Limits::default() }).await;
    let peers = Peers::new(Tcp::shared(), identity("n2", 1), SOON);
    let (first, second) = tokio::join!(peers.leader(&fixture.address), peers.leader(&fixture.address));
    let (first, second) = (first.unwrap(), second.unwrap());
    assert_eq!(beat(&second, "n2").await, Ok(node("n2")));

    // The node ends, and another takes its port.
    fixture.accepting.abort();
    fixture.tasks.shutdown().await;
    timeout(SOON, async {
        while beat(&first, "n2").await.is_ok() {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
    let mut listener = Listener::bind(
        &Tcp::shared(),
        fixture.address.parse().unwrap(),
        identity("server", 1),
        Limits::default(),
    )
    .await
    .unwrap();
    fixture.tasks.spawn(async move { serve(listener.accept().await, Follower.serve()).await });
    let third = peers.leader(&fixture.address).await.unwrap();
    assert_eq!(beat(&third, "n2").await, Ok(node("n2")));

    peers.close().await;
    assert!(beat(&third, "n2").await.is_err());
    let closed = peers.leader(&fixture.address).await.unwrap_err();
    assert!(matches!(closed, ConnectError::Closed { .. }), "{closed:?}");
}

#[test]
fn a_process_has_one_cluster() {
    let identity = identity("n1", 1);
    assert_eq!(identity.set_cluster(ClusterId::from_u128(1)), Ok(()));
    assert!(identity.clone().set_cluster(ClusterId::from_u128(2)).is_err());
}
