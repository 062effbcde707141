//! Test support: a coordination server for each test, Debian's ZooKeeper as processes, a TCP proxy that injects faults,
//! and polling with a deadline. Only ever for tests.
//!
//! ```no_run
//! # async fn test() {
//! let coordinator = testkit::coordinator().await;
//! let proxy = testkit::Proxy::start(coordinator.hosts()).await;
//! proxy.set(|faults| faults.to_client = testkit::Flow::Drop);
//! # }
//! ```
//!
//! # What a test gets
//!
//! | it calls | by default | with `TASKD_TEST_COORDINATION=zookeeper` |
//! |---|---|---|
//! | [`coordinator`] | the keeper in this process | a chroot of its own in the ensemble of `TASKD_TEST_ENSEMBLE`, or an ensemble of its own |
//! | [`own_coordinator`], which can be stopped, killed, paused | the keeper in this process | a real ensemble of its own; what is done is done to all of its servers |
//! | [`keeper`] | the keeper in this process | the same |
//! | [`zookeeper_or_skip`] | a real ZooKeeper of its own, or a skip | the same |
//! | [`ensemble_or_skip`], to lose single servers | a real ensemble of its own, or a skip | the same |
//!
//! The first three need nothing but Rust. The last two are for tests about ZooKeeper itself.
//!
//! # Environment
//!
//! - `TASKD_TEST_COORDINATION`: `keeper` (as if unset), or `zookeeper`: every test runs on real ensembles of three
//!   servers. Nothing is skipped then: ZooKeeper was asked for.
//! - `TASKD_TEST_ENSEMBLE`: `HOST:PORT,HOST:PORT,HOST:PORT`, with a tick of 500 ms and every four-letter word allowed:
//!   the ensemble that [`coordinator`] shares out, because starting three JVMs for each test takes longer than most
//!   tests. It may be thrown away afterwards. Only heard with `TASKD_TEST_COORDINATION=zookeeper`.
//! - `TASKD_REQUIRE_ALL=1`: what is missing fails the test instead of skipping it (in CI).
//!
//! `cargo run -p testkit --example ensemble -- COMMAND…` starts such an ensemble, sets the first two for the command,
//! ends the ensemble with it, and exits as it did:
//!
//! ```text
//! cargo run -p testkit --example ensemble -- cargo nextest run --profile zookeeper \
//!     -p coord -p quorum -p dispatcher -p taskd
//! ```
//!
//! Everything here panics when it fails: in a test there is nobody to hand an error to.

mod coordinator;
pub use coordinator::{COORDINATION, Coordinator, ENSEMBLE};

mod keeper;
pub use keeper::{Alive, Keeper};

mod ports;

mod proxy;
pub use proxy::{Faults, Flow, Proxy, Traffic};

pub mod sweep;

mod zookeeper;
pub use zookeeper::{Ensemble, Zoo, ZooKeeper, missing};

use std::time::Duration;

/// Set to `1` where nothing may be skipped (in CI): what is missing then fails the test.
pub const REQUIRE_ALL: &str = "TASKD_REQUIRE_ALL";

/// A coordination service with a tick of 500 ms in which nobody has written anything, and which the test leaves alone.
///
/// # Panics
/// It does not start.
pub async fn coordinator() -> Coordinator {
    Coordinator::start(false).await
}

/// The same, of the test's own: it can be stopped, killed and paused.
///
/// # Panics
/// It does not start.
pub async fn own_coordinator() -> Coordinator {
    Coordinator::start(true).await
}

/// The keeper with a tick of 500 ms, whatever the environment says.
///
/// # Panics
/// It does not start.
pub async fn keeper() -> Keeper {
    Keeper::start().await
}

/// A fresh standalone ZooKeeper with a tick of 500 ms, or `None` with a printed reason where none is installed.
///
/// # Panics
/// ZooKeeper is missing and `TASKD_REQUIRE_ALL=1`, or it does not start.
pub async fn zookeeper_or_skip() -> Option<ZooKeeper> {
    if skipped() { None } else { Some(ZooKeeper::start().await) }
}

/// A fresh ensemble of `servers`, or `None` with a printed reason where ZooKeeper is not installed.
///
/// # Panics
/// ZooKeeper is missing and `TASKD_REQUIRE_ALL=1`, or the ensemble does not form.
pub async fn ensemble_or_skip(servers: usize) -> Option<Ensemble> {
    if skipped() { None } else { Some(Ensemble::start(servers).await) }
}

fn skipped() -> bool {
    let Some(reason) = missing() else { return false };
    skip(&reason);
    true
}

/// Says that the running test is skipped.
///
/// # Panics
/// `TASKD_REQUIRE_ALL=1`: a skip is a failure.
pub fn skip(reason: &str) {
    assert!(std::env::var(REQUIRE_ALL).as_deref() != Ok("1"), "cannot be skipped here: {reason}");
    eprintln!("skipped: {reason}");
}

/// Asks again and again until there is an answer.
///
/// # Panics
/// There was none `within`.
pub async fn until<T>(what: &str, within: Duration, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = tokio::time::Instant::now() + within;
    loop {
        let asked = tokio::time::timeout_at(deadline, ask()).await;
        match asked {
            Ok(Some(answer)) => return answer,
            Ok(None) if tokio::time::Instant::now() < deadline => {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            Ok(None) | Err(_) => panic!("not within {within:?}: {what}"),
        }
    }
}

/// The answer of the server at `address` to a four-letter word, if it gives one within a second.
pub(crate) async fn ask(address: std::net::SocketAddr, word: &str) -> Option<String> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let exchange = async {
        let mut stream = tokio::net::TcpStream::connect(address).await.ok()?;
        stream.write_all(word.as_bytes()).await.ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.ok()?;
        Some(answer)
    };
    tokio::time::timeout(Duration::from_secs(1), exchange).await.ok().flatten()
}
