//! The keeper inside the test's own process, on threads of its own.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::Path;

use clock::BootClock;
use keeper::server::{Options, Server};
use tempfile::TempDir;

use crate::{Zoo, ports};

/// What clients have at a keeper.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Alive {
    /// Sessions that have neither been closed nor expired.
    pub sessions: usize,
    /// The ephemerals that they own.
    pub ephemerals: usize,
}

/// One keeper, on a loopback port unless told otherwise, with its data in a temporary directory. It ends when this is
/// dropped.
#[derive(Debug)]
pub struct Keeper {
    dir: TempDir,
    zoo: Zoo,
    address: SocketAddrV4,
    server: Option<Server>,
}

impl Keeper {
    /// Starts it with the defaults of [`Zoo`]; it serves when this returns.
    ///
    /// # Panics
    /// It does not start.
    pub async fn start() -> Self {
        Self::start_with(Zoo::default()).await
    }

    /// Starts it; it serves when this returns.
    ///
    /// # Panics
    /// It does not start.
    pub async fn start_with(zoo: Zoo) -> Self {
        let dir = tempfile::Builder::new().prefix("keeper-").tempdir().expect("a temporary directory");
        let mut tries = 0;
        loop {
            let [port] = ports::free(zoo.address);
            let address = SocketAddrV4::new(zoo.address, port);
            tries += 1;
            match serve(dir.path(), zoo, address).await {
                Ok(server) => return Self { dir, zoo, address, server: Some(server) },
                // Somebody may have taken the port meanwhile.
                Err(error) if tries < 3 => eprintln!("trying another port: {error}"),
                Err(error) => panic!("the keeper does not start: {error}"),
            }
        }
    }

    /// The connect string.
    pub fn hosts(&self) -> String {
        self.address.to_string()
    }

    /// Where its data is.
    pub fn data_dir(&self) -> &Path {
        self.dir.path()
    }

    /// The answer to a four-letter word, if it gives one within a second.
    pub async fn ask(&self, word: &str) -> Option<String> {
        crate::ask(self.address.into(), word).await
    }

    /// How many sessions are alive there, and how many ephemerals they own together.
    ///
    /// # Panics
    /// It does not answer.
    pub async fn alive(&self) -> Alive {
        let answer = self.ask("mntr").await.expect("the keeper answers");
        let value = |name: &str| {
            let line = answer.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('\t'));
            line.and_then(|value| value.trim().parse().ok()).expect("mntr says how many there are")
        };
        Alive { sessions: value("zk_global_sessions"), ephemerals: value("zk_ephemerals_count") }
    }

    /// Ends it in an orderly way.
    ///
    /// # Panics
    /// It does not end, or does not run.
    pub async fn stop(&mut self) {
        self.take().stop().await.expect("the keeper stops");
    }

    /// Ends it as `kill -9` ends a process.
    ///
    /// # Panics
    /// It does not run.
    pub async fn kill(&mut self) {
        self.take().abort().await;
    }

    /// Starts it after [`stop`](Self::stop) or [`kill`](Self::kill), on the same port with the same data.
    ///
    /// # Panics
    /// It runs already, or does not start.
    pub async fn start_again(&mut self) {
        assert!(self.server.is_none(), "the keeper runs already");
        let started = serve(self.dir.path(), self.zoo, self.address).await;
        self.server = Some(started.unwrap_or_else(|error| panic!("the keeper does not start: {error}")));
    }

    /// As SIGSTOP does: connections stay open, nothing is answered.
    ///
    /// # Panics
    /// It does not run.
    pub fn pause(&self) {
        self.running().pause();
    }

    /// As SIGCONT does.
    ///
    /// # Panics
    /// It does not run.
    pub fn resume(&self) {
        self.running().resume();
    }

    fn running(&self) -> &Server {
        self.server.as_ref().expect("the keeper runs")
    }

    fn take(&mut self) -> Server {
        self.server.take().expect("the keeper runs")
    }
}

async fn serve(dir: &Path, zoo: Zoo, address: SocketAddrV4) -> Result<Server, String> {
    let mut options = Options::new(dir, address.into());
    options.tick = zoo.tick;
    // A test has no use for secrets.
    Server::start(options, BootClock::shared(), [7; 32]).await.map_err(|error| {
        let mut text = error.to_string();
        let mut source = std::error::Error::source(&error);
        while let Some(cause) = source {
            text.push_str(&format!(": {cause}"));
            source = cause.source();
        }
        text
    })
}

impl Zoo {
    /// The defaults, with clients connecting to `address`.
    pub fn at(address: Ipv4Addr) -> Self {
        Self { address, ..Self::default() }
    }
}
