//! Where the ZooKeeper client runs: apart from us.
//!
//! The client can spin without ever yielding (an IP-literal endpoint whose route was removed: `connect` fails
//! synchronously, its retry delay is zero once its own deadline has passed, and the deadline is never polled).
//! [`Options::connect_string`](crate::Options::connect_string) avoids the cases that we know. On
//! a thread of its own that costs a core, not our timers, and it cannot keep the process from ending.
//! One thread per session, so that a wedged one does not take the next with it.

use std::fmt::Debug;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::sync::watch;

use crate::Generation;

/// Runs the client's tasks. The simulation hands in its own.
pub trait Host: Debug + Send + Sync {
    /// Drives `job` to its end, in a tokio context of its own in which the client may spawn; whatever the client
    /// spawned there is dropped when `job` ends.
    ///
    /// # Errors
    /// The job could not be started.
    fn run(&self, job: BoxFuture<'static, ()>) -> io::Result<()>;
}

/// Starts and counts the sessions' runtimes.
#[derive(Debug)]
pub struct ClientRuntime {
    host: Box<dyn Host>,
    generations: AtomicU64,
    live: Arc<watch::Sender<usize>>,
}

impl ClientRuntime {
    /// A runtime that gives each session an OS thread of its own.
    ///
    /// # Errors
    /// None today; a host that prepares something may have some.
    pub fn start() -> io::Result<Arc<Self>> {
        Ok(Self::with_host(Box::new(OsThreads)))
    }

    /// A runtime on another host.
    pub fn with_host(host: Box<dyn Host>) -> Arc<Self> {
        let (live, _) = watch::channel(0);
        Arc::new(Self { host, generations: AtomicU64::new(0), live: Arc::new(live) })
    }

    /// How many sessions' tasks have not ended: open, abandoned or wedged ones.
    pub fn live(&self) -> usize {
        *self.live.borrow()
    }

    /// Waits until no session's tasks are left; `false` if some are after `within` (abandoned or wedged: they
    /// end with the process, which they do not hold up).
    ///
    /// # Cancel safety
    /// Safe: it only looks.
    pub async fn shutdown(&self, within: Duration) -> bool {
        let mut live = self.live.subscribe();
        tokio::time::timeout(within, live.wait_for(|live| *live == 0)).await.is_ok_and(|ended| ended.is_ok())
    }

    pub(crate) fn next_generation(&self) -> Generation {
        Generation(self.generations.fetch_add(1, Ordering::Relaxed) + 1)
    }

    pub(crate) fn run(&self, job: BoxFuture<'static, ()>) -> io::Result<()> {
        let count = Count::new(self.live.clone());
        self.host.run(Box::pin(async move {
            let _count = count;
            job.await;
        }))
    }
}

/// Counts one live job, also when it is dropped before its end.
struct Count(Arc<watch::Sender<usize>>);

impl Count {
    fn new(live: Arc<watch::Sender<usize>>) -> Self {
        live.send_modify(|live| *live += 1);
        Self(live)
    }
}

impl Drop for Count {
    fn drop(&mut self) {
        self.0.send_modify(|live| *live -= 1);
    }
}

#[derive(Debug)]
struct OsThreads;

impl Host for OsThreads {
    fn run(&self, job: BoxFuture<'static, ()>) -> io::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
        // Not joined: a wedged one never ends, and `shutdown` waits for the others.
        std::thread::Builder::new().name("zookeeper".into()).spawn(move || runtime.block_on(job))?;
        Ok(())
    }
}
