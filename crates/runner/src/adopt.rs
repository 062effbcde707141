//! What a predecessor left running, and this daemon goes on with.
//!
//! A shim outlives its daemon. It is adopted if it is the very process that its record names, on this start of the machine,
//! and says itself until when its tree may run. From then on it is supervised like any other, but for three things: its
//! end is seen through a pinned process instead of a child; its right to run is its own until a leader has answered this
//! daemon, whose heartbeats list it from the first one on; and should that right lapse before, it is ended like after any
//! lapse, by the shim and by this daemon, whichever comes first.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Duration;

use clock::Instant;
use proto::AttemptId;
use tokio::io::unix::AsyncFd;
use tokio::process::Child;
use tokio::time;

use crate::attempt::{Control, Ended};
use crate::proc;
use crate::process::{self, Shims};
use crate::service::Reports;
use crate::shim::wire::ProcessId;

/// Between two looks where the kernel cannot pin a process.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// An attempt that is under its shim.
#[derive(Debug)]
pub(crate) struct Adopted {
    pub(crate) attempt: AttemptId,
    pub(crate) shim: ProcessId,
    pub(crate) link: UnixStream,
    /// Until when it may run if nobody extends that.
    pub(crate) until: Instant,
}

/// A shim whose end is awaited.
#[derive(Debug)]
pub(crate) enum Shim {
    /// This daemon has started it.
    Child(Child),
    /// A predecessor has.
    Adopted(ProcessId, Option<AsyncFd<OwnedFd>>),
}

impl Shim {
    #[expect(deprecated, reason = "it owns its descriptor, as the unsafe one in its place asks for")]
    fn adopted(id: ProcessId) -> Self {
        let pinned = proc::pin(id).ok().flatten();
        Self::Adopted(id, pinned.and_then(|pinned| AsyncFd::new(pinned).ok()))
    }

    /// Waits for its end; how it ended is known of a child alone. Cancel safe.
    pub(crate) async fn ended(&mut self) -> Option<ExitStatus> {
        match self {
            Self::Child(child) => child.wait().await.ok(),
            Self::Adopted(id, pinned) => {
                if let Some(pinned) = pinned
                    && pinned.readable().await.is_ok()
                {
                    return None;
                }
                // Whoever cannot be looked for is not taken to be gone.
                while proc::is_alive(*id).unwrap_or(true) {
                    time::sleep(LOOK_AGAIN).await;
                }
                None
            }
        }
    }
}

/// Supervises an adopted attempt to its end: the returned one's whole tree is gone.
pub(crate) async fn run(
    shims: Arc<Shims>,
    adopted: Adopted,
    reports: Reports,
    mut control: Control,
) -> Ended {
    let Adopted { attempt, shim, link, .. } = adopted;
    let clock = Arc::clone(&control.clock);
    shims.drill.record(clock.now(), || format!("open shim id={attempt}"));
    let status =
        process::attend(&shims.store, attempt, Shim::adopted(shim), link, &reports, &mut control).await;
    shims.drill.record(clock.now(), || format!("close shim id={attempt}"));
    let fallback = process::fallback(&control.request(), status);
    let outcome = process::conclude(&shims.store, attempt, fallback, clock.wall().0).await;
    let on_disk = outcome.output_bytes.min(shims.output_bytes_max) + 4096;
    Ended { outcome, on_disk: Some(on_disk) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_end_of_a_process_that_is_no_child_is_seen() {
        // With and without the kernel's help.
        for pinned in [true, false] {
            let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
            let id = proc::identify(child.id().cast_signed()).unwrap().unwrap();
            let mut shim = if pinned { Shim::adopted(id) } else { Shim::Adopted(id, None) };
            assert!(matches!(&shim, Shim::Adopted(_, fd) if fd.is_some() == pinned));
            let early = time::timeout(Duration::from_millis(50), shim.ended()).await;
            assert!(early.is_err(), "it runs");
            child.kill().unwrap();
            let ended = time::timeout(Duration::from_secs(20), shim.ended()).await;
            assert!(ended.is_ok(), "its end is seen, though nobody has collected it");
            child.wait().unwrap();
            let mut other = Shim::adopted(ProcessId { started: id.started + 1, ..id });
            assert_eq!(other.ended().await, None, "a number that belongs to nobody, or to somebody else");
        }
    }
}
