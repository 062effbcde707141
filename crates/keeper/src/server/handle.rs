use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;

use clock::SharedClock;
use tokio::sync::{oneshot, watch};
use tracing::warn;

use super::control::{Control, Ending};
use super::engine::{self, Ended};
use super::log::BeforeSync;
use super::{Failure, Options, StartError, StopError};

/// A ZooKeeper-protocol server that runs on threads of its own.
///
/// Dropping it aborts it without waiting: the threads end by themselves. [`stop`](Server::stop) or [`abort`](Server::abort) wait.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    running: Running,
}

/// The engine thread; aborts when dropped, so that a start which is given up leaves nothing behind.
#[derive(Debug)]
struct Running {
    control: Arc<Control>,
    ended: watch::Receiver<Option<Ended>>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Recovers what `options.data_dir` holds and serves. Clients can connect when it returns.
    ///
    /// `seed` is what passwords of sessions are drawn from: hand in fresh randomness, except in a simulation.
    ///
    /// # Errors
    /// The options make no sense, the data cannot be used (another server has it, it is damaged), or the address is taken.
    ///
    /// # Cancel safety
    /// Dropped halfway, it ends what it had started.
    pub async fn start(options: Options, clock: SharedClock, seed: [u8; 32]) -> Result<Self, StartError> {
        Self::start_with(options, clock, seed, BeforeSync::default()).await
    }

    /// As [`Server::start`], on a disk that is slow or broken as a test has it.
    pub(super) async fn start_with(
        options: Options,
        clock: SharedClock,
        seed: [u8; 32],
        before_sync: BeforeSync,
    ) -> Result<Self, StartError> {
        options.validate().map_err(StartError::Options)?;
        let control = Arc::new(Control::default());
        let (ready, started) = oneshot::channel();
        let (end, ended) = watch::channel(None);
        let setup = engine::Setup { options, clock, seed, control: Arc::clone(&control), before_sync, ready };
        let thread = std::thread::Builder::new()
            .name("keeper".to_owned())
            .spawn(move || engine::run(setup, &end))
            .map_err(StartError::Thread)?;
        let mut running = Running { control, ended, thread: Some(thread) };
        match started.await {
            Ok(Ok(address)) => Ok(Self { address, running }),
            Ok(Err(error)) => {
                running.join().await;
                Err(error)
            }
            Err(_) => Err(StartError::Ended(running.ended().await.into_failure())),
        }
    }

    /// Where clients connect: what was asked for, with the port that was taken.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Waits until it ends by itself, which it only does when its disk fails or by a bug; connections are closed by then.
    ///
    /// # Cancel safety
    /// Nothing is lost: it answers again.
    pub async fn failed(&self) -> Failure {
        self.running.ended().await.into_failure()
    }

    /// Stops accepting and reading, makes what was read durable, answers it, closes the connections and joins the threads.
    /// Sessions stay: their clients resume them at the next start, if it comes within their timeouts.
    ///
    /// # Errors
    /// It had ended before, or took longer than `stop_timeout` and was cut off.
    ///
    /// # Cancel safety
    /// Dropped halfway, the stop becomes an abort that nobody waits for.
    pub async fn stop(mut self) -> Result<(), StopError> {
        self.running.control.end(Ending::Stop);
        match self.running.join().await {
            Ended::Stopped => Ok(()),
            Ended::CutOff { .. } => Err(StopError::TooSlow),
            Ended::Failed(failure) => Err(StopError::Ended(failure)),
        }
    }

    /// Ends it as `kill -9` ends a process: what was not yet written is lost, connections are cut. Joins the threads.
    ///
    /// # Cancel safety
    /// Dropped halfway, it ends all the same.
    pub async fn abort(mut self) {
        self.running.control.end(Ending::Abort);
        self.running.join().await;
    }

    /// Makes it stand still as SIGSTOP does a process: connections stay open, nothing is read or answered. No session ends for it:
    /// after the [`resume`](Server::resume) clients have a tick to be heard again.
    pub fn pause(&self) {
        self.running.control.pause(true);
    }

    /// Ends a [`pause`](Server::pause), as SIGCONT does.
    pub fn resume(&self) {
        self.running.control.pause(false);
    }
}

impl Running {
    async fn ended(&self) -> Ended {
        let mut ended = self.ended.clone();
        let seen = ended.wait_for(Option::is_some).await;
        match seen.as_deref() {
            Ok(Some(ended)) => ended.clone(),
            // The thread says how it ends in every case, or is gone with its process.
            Ok(None) | Err(_) => {
                Ended::Failed(Failure::Panicked("its thread ended without a word".to_owned()))
            }
        }
    }

    /// Waits for the end, which the engine bounds, and joins the thread.
    async fn join(&mut self) -> Ended {
        let ended = self.ended().await;
        if matches!(ended, Ended::CutOff { hangs: true }) {
            warn!("the keeper's log thread hangs in the disk; it ends when the disk answers");
            self.thread.take();
        }
        if let Some(thread) = self.thread.take() {
            // Saying how it ended is the last thing the thread does.
            let _ = thread.join();
        }
        ended
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.control.end(Ending::Abort);
    }
}
