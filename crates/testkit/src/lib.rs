//! Test support: Debian's ZooKeeper as a process, a TCP proxy that injects faults, and polling with a deadline.
//! Only ever a dev-dependency.
//!
//! ```no_run
//! # async fn test() {
//! let Some(zookeeper) = testkit::zookeeper_or_skip().await else { return };
//! let proxy = testkit::Proxy::start(zookeeper.hosts()).await;
//! proxy.set(|faults| faults.to_client = testkit::Flow::Drop);
//! # }
//! ```
//!
//! Everything here panics when it fails: in a test there is nobody to hand an error to.

mod proxy;
pub use proxy::{Faults, Flow, Proxy};

mod zookeeper;
pub use zookeeper::{Ensemble, Zoo, ZooKeeper, missing};

use std::time::Duration;

/// Set to `1` where nothing may be skipped (in CI): what is missing then fails the test.
pub const REQUIRE_ALL: &str = "TASKD_REQUIRE_ALL";

/// A fresh ZooKeeper with a tick of 500 ms, or `None` with a printed reason where none is installed.
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
