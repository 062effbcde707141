//! The coordination service of a test: the keeper, or real ensembles on request.

use std::hash::{BuildHasher, RandomState};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::{Ensemble, Keeper, ZooKeeper, missing};

/// Which servers the tests get: `keeper` (the default) or `zookeeper`.
pub const COORDINATION: &str = "TASKD_TEST_COORDINATION";

/// The connect string of an ensemble to share, without a chroot.
pub const ENSEMBLE: &str = "TASKD_TEST_ENSEMBLE";

/// A coordination service in which nobody has written anything.
#[derive(Debug)]
pub struct Coordinator {
    server: Server,
    /// Whether the test may stop it; checked on the keeper too, so that a test for which a shared ensemble will not do
    /// fails at once and everywhere.
    own: bool,
}

#[derive(Debug)]
enum Server {
    Keeper(Keeper),
    Ensemble(Ensemble),
    /// A chroot in somebody's ensemble.
    Shared(String),
}

impl Coordinator {
    pub(crate) async fn start(own: bool) -> Self {
        let server = match std::env::var(COORDINATION).as_deref() {
            Ok("zookeeper") => match std::env::var(ENSEMBLE) {
                Ok(hosts) if !own => Server::Shared(chroot(&hosts).await),
                _ => {
                    if let Some(reason) = missing() {
                        panic!("{COORDINATION}=zookeeper asks for ZooKeeper: {reason}");
                    }
                    Server::Ensemble(Ensemble::start(3).await)
                }
            },
            Ok("keeper" | "") | Err(_) => Server::Keeper(Keeper::start().await),
            Ok(other) => panic!("{COORDINATION} is keeper or zookeeper, not {other:?}"),
        };
        Self { server, own }
    }

    /// The connect string: `HOST:PORT[,HOST:PORT…][/CHROOT]`.
    pub fn hosts(&self) -> String {
        match &self.server {
            Server::Keeper(keeper) => keeper.hosts(),
            Server::Ensemble(ensemble) => ensemble.hosts(),
            Server::Shared(hosts) => hosts.clone(),
        }
    }

    /// The answer of one of the servers to a four-letter word, if it gives one within a second.
    ///
    /// # Panics
    /// The service is not the test's own, so neither is what the answer tells.
    pub async fn ask(&self, word: &str) -> Option<String> {
        match self.ours() {
            Server::Keeper(keeper) => keeper.ask(word).await,
            Server::Ensemble(ensemble) => ensemble.servers.first()?.ask(word).await,
            Server::Shared(_) => None,
        }
    }

    /// Ends it in an orderly way.
    ///
    /// # Panics
    /// It is not the test's own, or does not end.
    pub async fn stop(&mut self) {
        match self.ours_mut() {
            Server::Keeper(keeper) => keeper.stop().await,
            Server::Ensemble(ensemble) => ensemble.stop().await,
            Server::Shared(_) => {}
        }
    }

    /// Kills it.
    ///
    /// # Panics
    /// It is not the test's own, or does not run.
    pub async fn kill(&mut self) {
        match self.ours_mut() {
            Server::Keeper(keeper) => keeper.kill().await,
            Server::Ensemble(ensemble) => ensemble.kill().await,
            Server::Shared(_) => {}
        }
    }

    /// Starts it after [`stop`](Self::stop) or [`kill`](Self::kill), at the same place with the same data.
    ///
    /// # Panics
    /// It is not the test's own, or does not start.
    pub async fn start_again(&mut self) {
        match self.ours_mut() {
            Server::Keeper(keeper) => keeper.start_again().await,
            Server::Ensemble(ensemble) => ensemble.start_again().await,
            Server::Shared(_) => {}
        }
    }

    /// Connections stay open, nothing is answered.
    ///
    /// # Panics
    /// It is not the test's own, or does not run.
    pub fn pause(&self) {
        match self.ours() {
            Server::Keeper(keeper) => keeper.pause(),
            Server::Ensemble(ensemble) => ensemble.pause(),
            Server::Shared(_) => {}
        }
    }

    /// It goes on after [`pause`](Self::pause).
    ///
    /// # Panics
    /// It is not the test's own, or does not run.
    pub fn resume(&self) {
        match self.ours() {
            Server::Keeper(keeper) => keeper.resume(),
            Server::Ensemble(ensemble) => ensemble.resume(),
            Server::Shared(_) => {}
        }
    }

    fn ours(&self) -> &Server {
        assert!(self.own, "only testkit::own_coordinator() gives a server of the test's own");
        &self.server
    }

    fn ours_mut(&mut self) -> &mut Server {
        self.ours();
        &mut self.server
    }
}

impl From<Keeper> for Coordinator {
    fn from(keeper: Keeper) -> Self {
        Self { server: Server::Keeper(keeper), own: true }
    }
}

impl From<ZooKeeper> for Coordinator {
    fn from(server: ZooKeeper) -> Self {
        Self { server: Server::Ensemble(Ensemble { servers: vec![server] }), own: true }
    }
}

/// Creates a node that nobody else uses, and appends it to the connect string.
async fn chroot(hosts: &str) -> String {
    let path = format!("/test-{}-{:016x}", std::process::id(), RandomState::new().hash_one(hosts));
    let first = hosts.split(',').next().unwrap_or_default();
    let created = tokio::time::timeout(std::time::Duration::from_secs(10), create(first, &path)).await;
    created
        .unwrap_or_else(|_| panic!("{first}, of {ENSEMBLE}, does not answer"))
        .unwrap_or_else(|error| panic!("{first}, of {ENSEMBLE}, does not create {path}: {error}"));
    format!("{hosts}{path}")
}

/// One session of three requests, by hand: connect, create for everybody, close.
async fn create(server: &str, path: &str) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(server).await?;
    // ConnectRequest: protocol, last zxid seen, timeout in ms, session, password, read-only.
    let mut connect = vec![0; 12];
    connect.extend(10_000_i32.to_be_bytes());
    connect.extend([0; 8]);
    connect.extend(16_i32.to_be_bytes());
    connect.extend([0; 17]);
    exchange(&mut stream, &connect).await?;
    // CreateRequest: xid, op, path, data, one ACL (everything, to the world), flags.
    let mut create = [1_i32, 1].map(i32::to_be_bytes).concat();
    create.extend(text(path));
    create.extend([0, 1, 31].map(i32::to_be_bytes).concat());
    create.extend([text("world"), text("anyone"), vec![0; 4]].concat());
    let reply = exchange(&mut stream, &create).await?;
    // After xid and zxid.
    if reply.get(12..16) != Some(&[0; 4]) {
        return Err(std::io::Error::other(format!("it answers {reply:?}")));
    }
    exchange(&mut stream, &[2_i32, -11].map(i32::to_be_bytes).concat()).await?;
    Ok(())
}

fn text(text: &str) -> Vec<u8> {
    let length = i32::try_from(text.len()).expect("a test's path is short");
    [&length.to_be_bytes(), text.as_bytes()].concat()
}

async fn exchange(stream: &mut TcpStream, request: &[u8]) -> std::io::Result<Vec<u8>> {
    stream.write_u32(u32::try_from(request.len()).expect("a request is short")).await?;
    stream.write_all(request).await?;
    let mut reply = vec![0; stream.read_u32().await?.min(4096) as usize];
    stream.read_exact(&mut reply).await?;
    Ok(reply)
}
