//! A TCP proxy on loopback that loses, holds and cuts.

use std::hash::{BuildHasher, RandomState};
use std::net::SocketAddr;

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
    /// Connections of an older count are cut.
    cuts: u64,
}

/// A proxy in front of one server. Its tasks end when it is dropped.
#[derive(Debug)]
pub struct Proxy {
    addr: SocketAddr,
    chroot: String,
    faults: watch::Sender<Faults>,
    _tasks: JoinSet<()>,
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
        let (faults, receiver) = watch::channel(Faults::default());
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, target, receiver));
        Self { addr, chroot, faults, _tasks: tasks }
    }

    /// The connect string through it.
    pub fn hosts(&self) -> String {
        format!("{}{}", self.addr, self.chroot)
    }

    /// Changes the faults, for open connections too.
    pub fn set(&self, change: impl FnOnce(&mut Faults)) {
        self.faults.send_modify(change);
    }

    /// Loses everything in both directions.
    pub fn blackhole(&self) {
        self.set(|faults| (faults.to_server, faults.to_client) = (Flow::Drop, Flow::Drop));
    }

    /// No faults any more. What was lost stays lost, so a connection that lost something is better cut.
    pub fn heal(&self) {
        self.set(|faults| *faults = Faults { cuts: faults.cuts, ..Faults::default() });
    }

    /// Closes every open connection.
    pub fn cut(&self) {
        self.set(|faults| faults.cuts += 1);
    }
}

async fn accept(listener: TcpListener, target: String, faults: watch::Receiver<Faults>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((client, _)) = accepted else { return };
                if !faults.borrow().refuse {
                    connections.spawn(connection(client, target.clone(), faults.clone()));
                }
            }
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
        }
    }
}

async fn connection(mut client: TcpStream, target: String, mut faults: watch::Receiver<Faults>) {
    let Ok(mut server) = TcpStream::connect(target).await else { return };
    let Faults { cuts, forget_session, .. } = *faults.borrow();
    if forget_session && forget(&mut client, &mut server).await.is_none() {
        return;
    }
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    tokio::select! {
        _ = pump(from_client, to_server, faults.clone(), |faults| faults.to_server) => {}
        _ = pump(from_server, to_client, faults.clone(), |faults| faults.to_client) => {}
        _ = faults.wait_for(|faults| faults.cuts != cuts) => {}
    }
}

async fn pump(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut faults: watch::Receiver<Faults>,
    flow: fn(&Faults) -> Flow,
) -> Option<()> {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let read = from.read(&mut buffer).await.ok().filter(|read| *read > 0)?;
        let now = flow(&*faults.wait_for(|faults| flow(faults) != Flow::Stall).await.ok()?);
        if now == Flow::Pass {
            to.write_all(&buffer[..read]).await.ok()?;
        }
    }
}

/// Forwards a ConnectRequest (length, protocol, last zxid, timeout, session id, password, read-only) with the session
/// id and password blanked.
async fn forget(client: &mut TcpStream, server: &mut TcpStream) -> Option<()> {
    let length = client.read_u32().await.ok()?;
    let mut request = vec![0; usize::try_from(length).ok().filter(|length| (44..=64).contains(length))?];
    client.read_exact(&mut request).await.ok()?;
    // The last zxid seen goes too: a fresh session has seen nothing.
    request[4..12].fill(0);
    request[16..24].fill(0);
    request[28..44].fill(0);
    server.write_u32(length).await.ok()?;
    server.write_all(&request).await.ok()
}
