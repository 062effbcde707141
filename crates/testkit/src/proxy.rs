//! A TCP proxy on loopback that loses, holds and cuts.

use std::hash::{BuildHasher, RandomState};
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// What happens to bytes in one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Flow {
    /// They arrive.
    #[default]
    Pass,
    /// They are lost, silently.
    Drop,
    /// They are held until the flow changes.
    Stall,
}

/// What the proxy does to its connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// From client to server.
    pub to_server: Flow,
    /// From server to client.
    pub to_client: Flow,
    /// New connections are closed at once.
    pub refuse: bool,
    /// New connections ask ZooKeeper for a new session, whatever session the client asked for.
    pub forget_session: bool,
    /// Except for this one, by its id; 0 is no session.
    pub remembered_session: i64,
    /// Connections of an older count are cut.
    cuts: u64,
    trip: Option<Trip>,
}

impl Faults {
    fn stall(&mut self) {
        (self.to_server, self.to_client, self.trip) = (Flow::Stall, Flow::Stall, None);
    }
}

/// Where everything begins to stall by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Trip {
    /// The count of the connection.
    connection: u64,
    /// Bytes that its client has got by then, at least.
    to_client: u64,
}

/// What has gone through a proxy so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Connections accepted, refused ones included.
    pub accepted: u64,
    /// Bytes forwarded from clients to the server.
    pub to_server: u64,
    /// Bytes forwarded from the server to clients.
    pub to_client: u64,
}

/// A proxy in front of one server. Its tasks end when it is dropped.
#[derive(Debug)]
pub struct Proxy {
    addr: SocketAddr,
    chroot: String,
    shared: Arc<Shared>,
    _tasks: JoinSet<()>,
}

#[derive(Debug, Default)]
struct Shared {
    faults: watch::Sender<Faults>,
    traffic: watch::Sender<Traffic>,
}

impl Proxy {
    /// Listens on a free loopback port and forwards to one of the servers of a connect string, `hosts`, whose chroot
    /// its own [`hosts`](Self::hosts) has too.
    ///
    /// # Panics
    /// No port can be had.
    pub async fn start(hosts: impl Into<String>) -> Self {
        let mut servers = hosts.into();
        let chroot = servers.find('/').map_or_else(String::new, |at| servers.split_off(at));
        let servers: Vec<_> = servers.split(',').collect();
        let any = usize::try_from(RandomState::new().hash_one(&chroot) % servers.len() as u64);
        let target = servers[any.expect("it is less than their number")].to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a loopback port is free");
        let addr = listener.local_addr().expect("a bound socket has an address");
        let shared = Arc::new(Shared::default());
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, target, Arc::clone(&shared)));
        Self { addr, chroot, shared, _tasks: tasks }
    }

    /// The connect string through it.
    pub fn hosts(&self) -> String {
        format!("{}{}", self.addr, self.chroot)
    }

    /// Changes the faults, for open connections too.
    pub fn set(&self, change: impl FnOnce(&mut Faults)) {
        self.shared.faults.send_modify(change);
    }

    /// Loses everything in both directions.
    pub fn blackhole(&self) {
        self.set(|faults| (faults.to_server, faults.to_client) = (Flow::Drop, Flow::Drop));
    }

    /// Holds everything in both directions, new connections' bytes too.
    pub fn stall(&self) {
        self.set(Faults::stall);
    }

    /// Stalls everything once the next connection has brought its client `to_client` bytes, sooner than a test could
    /// notice that it has; with 0 as soon as it is accepted.
    pub fn stall_at_next_connection(&self, to_client: u64) {
        let connection = self.traffic().accepted + 1;
        self.set(|faults| faults.trip = Some(Trip { connection, to_client }));
    }

    /// Waits until everything stalls.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn stalled(&self) {
        let stalled = |faults: &Faults| (faults.to_server, faults.to_client) == (Flow::Stall, Flow::Stall);
        let mut faults = self.shared.faults.subscribe();
        faults.wait_for(stalled).await.expect("the sender is ours");
    }

    /// No faults any more. What was lost stays lost, so a connection that lost something is better cut.
    pub fn heal(&self) {
        self.set(|faults| *faults = Faults { cuts: faults.cuts, ..Faults::default() });
    }

    /// Closes every open connection.
    pub fn cut(&self) {
        self.set(|faults| faults.cuts += 1);
    }

    /// Both in one step: what was held is lost with its connection, and new connections have `change`d faults, or none.
    pub fn replace(&self, change: impl FnOnce(&mut Faults)) {
        self.set(|faults| {
            *faults = Faults { cuts: faults.cuts + 1, ..Faults::default() };
            change(faults);
        });
    }

    /// What has gone through it so far.
    pub fn traffic(&self) -> Traffic {
        *self.shared.traffic.borrow()
    }
}

async fn accept(listener: TcpListener, target: String, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    let mut accepted = 0;
    loop {
        tokio::select! {
            connected = listener.accept() => {
                let Ok((client, _)) = connected else { return };
                accepted += 1;
                shared.traffic.send_modify(|traffic| traffic.accepted = accepted);
                shared.trip(accepted, 0);
                let now = *shared.faults.borrow();
                if !now.refuse {
                    connections.spawn(connection(accepted, now, client, target.clone(), Arc::clone(&shared)));
                }
            }
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
        }
    }
}

impl Shared {
    /// Begins to stall if `connection`, whose client has got `to_client` bytes, is where that is to happen.
    fn trip(&self, connection: u64, to_client: u64) {
        self.faults.send_if_modified(|faults| {
            let due =
                faults.trip.is_some_and(|trip| trip.connection == connection && to_client >= trip.to_client);
            if due {
                faults.stall();
            }
            due
        });
    }
}

async fn connection(
    number: u64,
    at_accept: Faults,
    mut client: TcpStream,
    target: String,
    shared: Arc<Shared>,
) {
    let Ok(mut server) = TcpStream::connect(target).await else { return };
    let Faults { cuts, forget_session, remembered_session, .. } = at_accept;
    if forget_session && forget(&mut client, &mut server, remembered_session).await.is_none() {
        return;
    }
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let mut faults = shared.faults.subscribe();
    let mut brought = 0;
    tokio::select! {
        // First: what is held when a connection is cut is lost.
        biased;
        _ = faults.wait_for(|faults| faults.cuts != cuts) => {}
        _ = pump(from_client, to_server, shared.faults.subscribe(), cuts, |faults| faults.to_server, |bytes| {
            shared.traffic.send_modify(|traffic| traffic.to_server += bytes);
        }) => {}
        _ = pump(from_server, to_client, shared.faults.subscribe(), cuts, |faults| faults.to_client, |bytes| {
            brought += bytes;
            shared.traffic.send_modify(|traffic| traffic.to_client += bytes);
            shared.trip(number, brought);
        }) => {}
    }
}

async fn pump(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut faults: watch::Receiver<Faults>,
    cuts: u64,
    flow: fn(&Faults) -> Flow,
    mut forwarded: impl FnMut(u64),
) -> Option<()> {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let read = from.read(&mut buffer).await.ok().filter(|read| *read > 0)?;
        let goes_on = |faults: &Faults| flow(faults) != Flow::Stall || faults.cuts != cuts;
        let now = *faults.wait_for(goes_on).await.ok()?;
        // Looked at here, too: on another thread than whoever cuts, this may hear of it first.
        if now.cuts != cuts {
            return None;
        }
        if flow(&now) == Flow::Pass {
            to.write_all(&buffer[..read]).await.ok()?;
            forwarded(read as u64);
        }
    }
}

/// Forwards a ConnectRequest (length, protocol, last zxid, timeout, session id, password, read-only) with the session
/// id and password blanked, unless it is for the session that is `remembered`.
async fn forget(client: &mut TcpStream, server: &mut TcpStream, remembered: i64) -> Option<()> {
    let length = client.read_u32().await.ok()?;
    let mut request = vec![0; usize::try_from(length).ok().filter(|length| (44..=64).contains(length))?];
    client.read_exact(&mut request).await.ok()?;
    if remembered == 0 || request[16..24] != remembered.to_be_bytes() {
        // The last zxid seen goes too: a fresh session has seen nothing.
        request[4..12].fill(0);
        request[16..24].fill(0);
        request[28..44].fill(0);
    }
    server.write_u32(length).await.ok()?;
    server.write_all(&request).await.ok()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const SOON: Duration = Duration::from_secs(30);

    /// A server that answers each byte with the same byte, and a proxy in front of it.
    async fn echo() -> (Proxy, JoinSet<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let proxy = Proxy::start(listener.local_addr().unwrap().to_string()).await;
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                connections.spawn(async move {
                    let (mut from, mut to) = stream.split();
                    let _ = tokio::io::copy(&mut from, &mut to).await;
                });
            }
        });
        (proxy, tasks)
    }

    async fn connected(proxy: &Proxy) -> TcpStream {
        TcpStream::connect(proxy.addr).await.unwrap()
    }

    /// What comes back for a byte; None for the end of the connection.
    async fn answer(stream: &mut TcpStream) -> Option<u8> {
        tokio::time::timeout(SOON, stream.read_u8()).await.expect("an answer or an end").ok()
    }

    async fn asks(stream: &mut TcpStream, byte: u8) -> Option<u8> {
        stream.write_u8(byte).await.ok()?;
        answer(stream).await
    }

    #[tokio::test]
    async fn it_stalls_in_the_middle_of_the_connection_it_was_told_of() {
        let (proxy, _server) = echo().await;
        let mut before = connected(&proxy).await;
        assert_eq!(asks(&mut before, 1).await, Some(1));
        proxy.stall_at_next_connection(2);
        assert_eq!(asks(&mut before, 2).await, Some(2), "not in a connection that was there before");
        let mut next = connected(&proxy).await;
        assert_eq!(asks(&mut next, 3).await, Some(3));
        assert_eq!(asks(&mut next, 4).await, Some(4));
        tokio::time::timeout(SOON, proxy.stalled()).await.unwrap();
        assert_eq!(proxy.traffic(), Traffic { accepted: 2, to_server: 4, to_client: 4 });
        // Everybody's bytes are held, and come when the stall ends.
        before.write_u8(5).await.unwrap();
        next.write_u8(6).await.unwrap();
        let nothing = tokio::time::timeout(Duration::from_millis(100), before.read_u8()).await;
        assert!(nothing.is_err(), "{nothing:?}");
        proxy.heal();
        assert_eq!((answer(&mut before).await, answer(&mut next).await), (Some(5), Some(6)));
    }

    #[tokio::test]
    async fn what_was_held_is_lost_when_the_faults_are_replaced() {
        let (proxy, _server) = echo().await;
        let mut old = connected(&proxy).await;
        assert_eq!(asks(&mut old, 1).await, Some(1));
        proxy.stall_at_next_connection(0);
        let mut held = connected(&proxy).await;
        tokio::time::timeout(SOON, proxy.stalled()).await.unwrap();
        held.write_u8(2).await.unwrap();
        old.write_u8(3).await.unwrap();
        proxy.replace(|_| ());
        assert_eq!((answer(&mut old).await, answer(&mut held).await), (None, None));
        let mut new = connected(&proxy).await;
        assert_eq!(asks(&mut new, 4).await, Some(4));
        assert_eq!(proxy.traffic().to_server, 2, "of the four bytes two were held and lost");
    }

    #[tokio::test]
    async fn only_the_session_that_is_remembered_keeps_its_id() {
        let (proxy, _server) = echo().await;
        proxy.set(|faults| (faults.forget_session, faults.remembered_session) = (true, 7));
        for (session, arrives) in [(7_i64, 7_i64), (8, 0)] {
            let mut stream = connected(&proxy).await;
            let mut request = vec![0; 44];
            request[16..24].copy_from_slice(&session.to_be_bytes());
            stream.write_u32(44).await.unwrap();
            stream.write_all(&request).await.unwrap();
            let mut echoed = vec![0; 48];
            tokio::time::timeout(SOON, stream.read_exact(&mut echoed)).await.unwrap().unwrap();
            assert_eq!(echoed[20..28], arrives.to_be_bytes(), "session {session}");
        }
    }
}
