//! A process beside the daemon that removes the addresses when the daemon cannot: because it is dead, or because it
//! hangs until its lease has run out.
//!
//! ```text
//!   daemon                                              guard (same binary, own session, one thread)
//!     │ start, with one end of a socket pair as stdin ─────▶ opens the kernel's socket
//!     │ ◀──────────────────────────────────────────── ack 0
//!     │ hold: every service's addresses, until when ───────▶ knows them
//!     │ ◀──────────────────────────────────────────── ack n
//!     │ puts them
//!     │ hold: until later … (at each proved lease) ────────▶ sets its timer, CLOCK_BOOTTIME
//!     │ removes them; hold: without them ──────────────────▶ forgets them
//!     │ clean ─────────────────────────────────────────────▶ ends, touching nothing
//!     ✝ kill -9: the socket closes ────────────────────────▶ removes everything, ends
//!     ✝ SIGSTOP: the time passes ──────────────────────────▶ removes what has lapsed, listens on
//! ```
//!
//! It is the second of three: the daemon's own timer comes before it, the kernel's lifetime of the addresses after it.
//! So an address may be put while there is no guard; that is said, and another one is started.
//!
//! **Invariant** the guard removes only what it was told before it was put, by interface and address.
//!
//! **Invariant** the daemon waits neither for a guard that hangs nor for one that is gone: orders are a state of which
//! the latest is sent, not a queue.
//!
//! Residual: a guard that was stopped by SIGSTOP and goes on after its daemon has died and a successor has put the same
//! address removes it; the successor sees that and puts it back.

mod link;
mod process;
mod wire;

use std::collections::BTreeMap;
use std::io;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use clock::Instant;
use ipnet::IpNet;
use proto::vip::ServiceName;
use pulse::Pulse;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time;
use tokio_util::sync::CancellationToken;

use crate::net::Backend;
use crate::net::netlink::Netlink;
pub use crate::options::GuardProgram;
use wire::Held;

/// How long [`Handle::hold`] waits for the guard.
pub const ACK_WITHIN: Duration = Duration::from_millis(50);

/// The guard's process: call it from a program that [`GuardProgram`] names, before anything else is started in it. With
/// the argument `--dry-run` it only says what it would remove.
pub fn main() -> ExitCode {
    match process::run(std::env::args_os().any(|arg| arg == "--dry-run")) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Its daemon says that it has ended; why, only it knows.
            eprintln!("vip-guard: {error}");
            ExitCode::FAILURE
        }
    }
}

fn backend() -> io::Result<Box<dyn Backend>> {
    Ok(Box::new(Netlink::open().map_err(io::Error::other)?))
}

/// How it stands with the guard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Status {
    /// There is to be none.
    None,
    /// It is being started.
    Starting,
    /// It keeps watch.
    Up {
        /// The process.
        pid: u32,
    },
    /// It has ended or cannot be started; another one is tried. Why, as a clause.
    Down(String),
}

/// The daemon's side: starts the guard, starts another when it dies, and ends it. Dropping it closes the socket: the
/// guard then removes what it was told, and ends.
#[derive(Debug)]
pub struct Guard {
    handle: Handle,
    stop: CancellationToken,
    tasks: JoinSet<()>,
}

impl Guard {
    /// Starts the guard, inside a runtime; none if no `program` is given. In a dry run it only says what it would remove.
    pub fn start(program: Option<GuardProgram>, dry_run: bool, pulse: &Pulse) -> Self {
        let first = if program.is_some() { Status::Starting } else { Status::None };
        let (status, _) = watch::channel(first);
        let (acked, _) = watch::channel(0);
        let shared = Arc::new(Shared { table: Mutex::default(), changed: Notify::new(), acked, status });
        let (stop, mut tasks) = (CancellationToken::new(), JoinSet::new());
        if let Some(program) = program {
            let keep = link::keep(program, dry_run, Arc::clone(&shared), stop.clone());
            tasks.spawn(pulse.watch("the guard's daemon side", keep));
        }
        Self { handle: Handle(shared), stop, tasks }
    }

    /// A way to tell it what to guard.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Ends the guard and waits for its process. If nothing is held any more it touches nothing; what is still held it
    /// removes.
    ///
    /// # Cancel safety
    /// The guard then loses its daemon: it removes what it was told, and ends.
    pub async fn finish(mut self, within: Duration) {
        self.stop.cancel();
        let joined = async { while self.tasks.join_next().await.is_some() {} };
        if time::timeout(within, joined).await.is_err() {
            tracing::warn!("the guard of the VIPs does not end in time: it is left to itself");
        }
    }
}

/// A way to the guard. Clones are the same.
#[derive(Clone, Debug)]
pub struct Handle(Arc<Shared>);

/// The guard does not know of the addresses, in so far as is known.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("nobody guards them if taskd dies, but the kernel's own timer: {0}")]
pub struct Unguarded(String);

impl Handle {
    /// Guards a service's addresses (with the numbers of their interfaces) until then, in place of what was said of it
    /// before: from this call on, whenever the future is polled. It ends when the guard knows; at once where there is to
    /// be none. Then they may be put.
    ///
    /// # Errors
    /// The guard does not say so within [`ACK_WITHIN`]. It will still be told as soon as possible; the addresses may be
    /// put, since the kernel ends them too.
    ///
    /// # Cancel safety
    /// The guard is told all the same.
    pub fn hold(
        &self,
        service: &ServiceName,
        addresses: Vec<(u32, IpNet)>,
        until: Instant,
    ) -> impl Future<Output = Result<(), Unguarded>> + Send + use<> {
        let seq = self.0.change(|holds| {
            holds.insert(service.clone(), Hold { addresses, until });
        });
        let shared = Arc::clone(&self.0);
        async move { shared.acknowledged(seq).await }
    }

    /// The service's lease now lasts until then. Does not wait.
    pub fn extend(&self, service: &ServiceName, until: Instant) {
        self.0.change(|holds| {
            if let Some(hold) = holds.get_mut(service) {
                hold.until = until;
            }
        });
    }

    /// The service's addresses are gone from this machine. Does not wait.
    pub fn forget(&self, service: &ServiceName) {
        self.0.change(|holds| {
            holds.remove(service);
        });
    }

    /// How it stands with the guard, now and as it changes: a death is a change to [`Status::Down`].
    pub fn status(&self) -> watch::Receiver<Status> {
        self.0.status.subscribe()
    }
}

#[derive(Debug)]
struct Shared {
    table: Mutex<Table>,
    /// The table has changed.
    changed: Notify,
    /// The latest state that the present guard has said it knows; 0 while it knows none.
    acked: watch::Sender<u64>,
    status: watch::Sender<Status>,
}

/// Everything that is to be guarded.
#[derive(Debug, Default)]
struct Table {
    seq: u64,
    holds: BTreeMap<ServiceName, Hold>,
}

#[derive(Debug)]
struct Hold {
    addresses: Vec<(u32, IpNet)>,
    until: Instant,
}

impl Shared {
    async fn acknowledged(&self, seq: u64) -> Result<(), Unguarded> {
        if *self.status.borrow() == Status::None {
            return Ok(());
        }
        let mut acked = self.acked.subscribe();
        let known = acked.wait_for(|acked| *acked >= seq);
        if matches!(time::timeout(ACK_WITHIN, known).await, Ok(Ok(_))) {
            return Ok(());
        }
        Err(Unguarded(match &*self.status.borrow() {
            Status::Down(why) => format!("the guard is down: {why}"),
            Status::Starting => "the guard is being started".to_owned(),
            Status::Up { pid } => {
                format!("the guard (process {pid}) has not answered within {} ms", ACK_WITHIN.as_millis())
            }
            Status::None => "there is none".to_owned(),
        }))
    }

    fn change(&self, change: impl FnOnce(&mut BTreeMap<ServiceName, Hold>)) -> u64 {
        let mut table = self.table();
        change(&mut table.holds);
        table.seq += 1;
        self.changed.notify_one();
        table.seq
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn held(&self) -> Vec<Held> {
        let held = |(service, hold): (&ServiceName, &Hold)| Held {
            service: service.clone(),
            until_ns: hold.until.as_nanos(),
            addresses: hold.addresses.clone(),
        };
        self.holds.iter().map(held).collect()
    }
}
