//! Late writes: what was sent, or queued, for a caller that is gone by the time it is executed.
//!
//! Each scenario is a function of the faults that are switched on, which returns what it saw or, as an error, which
//! promise was broken. So the same function proves both: as it is, the crate keeps the promise (`holds_…`); with a
//! protection taken out, it does not, and the scenario notices (`finds_planted_…`).

#![expect(clippy::unwrap_used, reason = "a test fails where it panics")]

#[path = "../common/mod.rs"]
mod common;

mod lease;
mod log;
mod watches;
mod writes;

use std::time::Duration;

use clock::BootClock;
use coord::{ClientRuntime, Link, Options, Session};
use drill::{Bug, Drill};
use tokio::time::Instant;

use common::options;

/// For whatever is to come, on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// For what a broken protection keeps from coming. Anything else is there within fractions of this.
pub(crate) const LIMIT: Duration = Duration::from_secs(8);

/// The faults of a scenario: the bug, if one is planted, and what else it asks for.
pub(crate) fn faults(bug: Option<Bug>, points: &str) -> Drill {
    let plant = bug.map(|bug| format!("plant:{};", bug.name())).unwrap_or_default();
    Drill::parse(&format!("{plant}{points}")).unwrap()
}

/// A session with faults, and the skeleton in place.
pub(crate) async fn session(hosts: impl Into<String>, drill: &Drill) -> Session {
    let options = Options { drill: drill.clone(), ..options(hosts) };
    let runtime = ClientRuntime::start().unwrap();
    let session = Session::connect(&options, runtime, BootClock::shared()).await.unwrap();
    common::skeleton(&session.link()).await;
    session
}

/// Asks again and again; an error if there is no answer `within`.
pub(crate) async fn within<T>(
    what: &str,
    within: Duration,
    mut ask: impl AsyncFnMut() -> Option<T>,
) -> Result<T, String> {
    let deadline = Instant::now() + within;
    loop {
        match tokio::time::timeout_at(deadline, ask()).await {
            Ok(Some(answer)) => return Ok(answer),
            Ok(None) if Instant::now() < deadline => tokio::time::sleep(Duration::from_millis(10)).await,
            Ok(None) | Err(_) => return Err(format!("not within {within:?}: {what}")),
        }
    }
}

/// Waits until the client has lost its connection and the link does not know: what is submitted now waits in the
/// client for the next connection.
pub(crate) async fn lost_unnoticed(drill: &Drill) {
    testkit::until("the client has lost its connection", PATIENCE, async || {
        drill.history().iter().any(|fact| fact.ends_with("reached coord.lost")).then_some(())
    })
    .await;
}

/// Waits for another connection than the `last`, and until the server has executed what the client had queued for it.
pub(crate) async fn back_after(link: &Link, last: u64) {
    let mut state = link.state();
    let back = state.wait_for(|state| state.connection().is_some_and(|connection| connection > last));
    tokio::time::timeout(PATIENCE, back).await.expect("the connection returns").unwrap();
    testkit::until("the session answers", PATIENCE, async || link.sync("/").await.ok()).await;
}

/// The number of the present connection.
pub(crate) fn connection(link: &Link) -> u64 {
    link.state().borrow().connection().expect("it is connected")
}
