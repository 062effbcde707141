//! Talks to any node of a cluster: the library behind the command line, benchmarks and embedders.
//!
//! ```no_run
//! use taskd::client::{Client, Task};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let client = Client::connect("10.0.0.1:10601,10.0.0.2:10601".parse()?).await?;
//! let scrub = client.submit(Task::new("scrub", &"v1")?.priority(10).lock("volume/v1")).await?;
//! let report = client.submit(Task::new("report", &"v1")?.after(scrub.id())).await?;
//! report.wait().await?;
//! let lines: u64 = report.result().await?;
//! client.close().await;
//! # Ok(())
//! # }
//! ```
//!
//! A [`Client`] knows several addresses and uses whichever answers. Calls that may be made twice are made again, at the
//! next address if need be, until their deadline; a submission is one of them, because the task's id is drawn here
//! and a node reports a task that it already has as [`Existing`](proto::api::Submitted::Existing).
//!
//! # Cancel safety
//! Every call may be dropped half-way; the library's state stays sound. What was asked for may then have been done or not:
//! look, or ask again, which is harmless for all but [`retry`](Client::retry), [`handover`](Client::handover) and
//! removing a schedule.

mod handle;
mod operate;
mod schedules;
mod submit;
mod task;
mod vips;

use std::str::FromStr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use proto::api::{ApiClient, ApiError, ApiErrorKind, ListFilter, TaskPage, Via, Why};
use proto::runner::OutputChunk;
use proto::status::ClusterStatus;
use proto::task::TaskView;
use proto::{NodeId, TaskId};
use tarpc::client::RpcError;
use tarpc::context::Context;
use tokio::time::Instant;

pub use handle::{Handle, ResultError, SubmitError};
pub use schedules::{Schedule, draw_schedule_id};
pub use submit::draw_id;
pub use task::{PayloadError, Task};

use crate::config::parse_address;
use crate::net::{ConnectError, Identity, Peers, SharedNetwork, Tcp};

/// How long one attempt to connect may take; then the next address is tried.
const CONNECT_DEADLINE: Duration = Duration::from_secs(1);
/// First pause when no address answers; doubles up to [`PAUSE_MAX`].
const PAUSE_FIRST: Duration = Duration::from_millis(25);
/// Longest pause.
const PAUSE_MAX: Duration = Duration::from_millis(500);
/// How long a call waits unless told otherwise.
pub const CALL_DEADLINE: Duration = Duration::from_secs(10);
/// How long a call that has nothing to lose tries to reach a node.
const REACH_WITHIN: Duration = Duration::from_millis(1_500);
/// How long one node may take to answer before another is asked.
const ATTEMPT: Duration = Duration::from_secs(5);

/// Where nodes listen: `HOST:PORT`, several separated by commas. At least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Addresses(Vec<String>);

/// Text that is no [`Addresses`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidAddresses(String);

impl FromStr for Addresses {
    type Err = InvalidAddresses;

    fn from_str(text: &str) -> Result<Self, InvalidAddresses> {
        text.split(',')
            .map(|address| parse_address(address.trim()).map(str::to_owned))
            .collect::<Result<_, _>>()
            .map(Self)
            .map_err(InvalidAddresses)
    }
}

impl std::fmt::Display for Addresses {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0.join(","))
    }
}

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// No node could be reached.
    #[error("{0}")]
    Unreachable(Unreachable),
    /// A node answered that it cannot.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// The deadline passed with the call under way: it may have been done.
    #[error("no answer from {address} within {}: it is not known whether it was done", humantime::format_duration(round(*within)))]
    NoAnswer {
        /// Who was asked last.
        address: String,
        /// How long it was waited for.
        within: Duration,
    },
}

/// What became of the attempts to reach a node.
#[derive(Debug)]
pub struct Unreachable {
    /// The last failure at each address.
    pub failures: Vec<ConnectError>,
}

impl std::fmt::Display for Unreachable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("no node can be reached")?;
        for failure in &self.failures {
            write!(f, "\n  {failure}")?;
            if let Some(source) = std::error::Error::source(failure) {
                write!(f, ": {source}")?;
            }
        }
        f.write_str("\nname a node that runs with --addr HOST:PORT[,HOST:PORT] or in TASKD_ADDR")
    }
}

impl CallError {
    /// The node's own words, if it is that.
    pub fn kind(&self) -> Option<ApiErrorKind> {
        match self {
            Self::Api(error) => Some(error.kind),
            _ => None,
        }
    }
}

/// A connection to a cluster through any of its nodes. Share it by reference.
#[derive(Debug)]
pub struct Client {
    peers: Peers,
    addresses: Vec<String>,
    /// Which address is used; moves on when one fails.
    current: AtomicUsize,
}

impl Client {
    /// A client of the nodes at `addresses` over TCP. Connects when first used. Call it inside a runtime.
    pub fn new(addresses: Addresses) -> Self {
        Self::over(Tcp::shared(), addresses)
    }

    /// A client over `network`.
    pub fn over(network: SharedNetwork, addresses: Addresses) -> Self {
        Self {
            peers: Peers::new(network, Identity::client(), CONNECT_DEADLINE),
            addresses: addresses.0,
            current: AtomicUsize::new(0),
        }
    }

    /// A client of the nodes at `addresses`, one of which has answered within 10 s.
    ///
    /// # Errors
    /// None of them can be reached.
    pub async fn connect(addresses: Addresses) -> Result<Self, CallError> {
        let client = Self::new(addresses);
        match client.reach(Instant::now() + CALL_DEADLINE).await {
            Ok(_) => Ok(client),
            Err(error) => {
                client.close().await;
                Err(error)
            }
        }
    }

    /// Ends the connections and waits for their tasks.
    pub async fn close(&self) {
        self.peers.close().await;
    }

    /// One task by id or a unique prefix of it.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn show(&self, id: &str) -> Result<TaskView, CallError> {
        self.about(
            id,
            Repeat::Yes,
            |api, context, id| async move { api.show(context, Via::Client, id).await },
        )
        .await
    }

    /// Tasks, newest first, without payloads.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn list(&self, filter: ListFilter) -> Result<TaskPage, CallError> {
        self.call(Patience::short(), Repeat::Yes, move |api, context| {
            let filter = filter.clone();
            async move { api.list(context, Via::Client, filter).await }
        })
        .await
    }

    /// Why a task is where it is.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn why(&self, id: &str) -> Result<Why, CallError> {
        self.about(id, Repeat::Yes, |api, context, id| async move { api.why(context, Via::Client, id).await })
            .await
    }

    /// Asks for a task to be cancelled; it is only once its processes are gone.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn cancel(&self, id: &str) -> Result<TaskView, CallError> {
        self.about(
            id,
            Repeat::Yes,
            |api, context, id| async move { api.cancel(context, Via::Client, id).await },
        )
        .await
    }

    /// Queues a task that ended without success again.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn retry(&self, id: &str) -> Result<TaskView, CallError> {
        self.about(
            id,
            Repeat::No,
            |api, context, id| async move { api.retry(context, Via::Client, id).await },
        )
        .await
    }

    /// Waits until at least one of the tasks is past the given revision or final, at most for `patience`; returns them
    /// all.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn watch(
        &self,
        tasks: Vec<(TaskId, u64)>,
        patience: Duration,
    ) -> Result<Vec<TaskView>, CallError> {
        let patience_ms = u64::try_from(patience.as_millis()).unwrap_or(u64::MAX);
        self.call(Patience::poll(patience), Repeat::Yes, move |api, context| {
            let tasks = tasks.clone();
            async move { api.watch(context, Via::Client, tasks, patience_ms).await }
        })
        .await
    }

    /// Part of the output of a task's attempt (0 = the newest).
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn output(
        &self,
        id: &str,
        attempt: u32,
        offset: u64,
        bytes_max: u32,
    ) -> Result<OutputChunk, CallError> {
        self.about(id, Repeat::Yes, move |api, context, id| async move {
            api.output(context, Via::Client, id, attempt, offset, bytes_max).await
        })
        .await
    }

    /// The cluster as the node that answers sees it.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn status(&self) -> Result<ClusterStatus, CallError> {
        self.call(Patience::short(), Repeat::Yes, |api, context| async move {
            api.status(context, Via::Client).await
        })
        .await
    }

    /// Asks the leader to hand over, to `to` if given; returns who leads then.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn handover(&self, to: Option<NodeId>) -> Result<NodeId, CallError> {
        self.call(Patience::short(), Repeat::No, move |api, context| {
            let to = to.clone();
            async move { api.handover(context, Via::Client, to).await }
        })
        .await
    }

    /// Sets a node's priority for leading.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn set_priority(&self, node: NodeId, priority: i32) -> Result<(), CallError> {
        self.call(Patience::short(), Repeat::Yes, move |api, context| {
            let node = node.clone();
            async move { api.set_priority(context, Via::Client, node, priority).await }
        })
        .await
    }

    async fn about<T, F>(
        &self,
        id: &str,
        repeat: Repeat,
        make: impl Fn(ApiClient, Context, String) -> F,
    ) -> Result<T, CallError>
    where
        F: Future<Output = Result<Result<T, ApiError>, RpcError>>,
    {
        self.call(Patience::short(), repeat, |api, context| make(api, context, id.to_owned())).await
    }

    /// Makes a call, again if it may be, until it is answered or `patience` has run out.
    async fn call<T, F>(
        &self,
        patience: Patience,
        repeat: Repeat,
        make: impl Fn(ApiClient, Context) -> F,
    ) -> Result<T, CallError>
    where
        F: Future<Output = Result<Result<T, ApiError>, RpcError>>,
    {
        let begun = Instant::now();
        let mut lost_at = None;
        loop {
            let reach_by = if lost_at.is_some() { patience.deadline } else { patience.reach_by };
            let (address, api) = match self.reach(reach_by).await {
                Ok(reached) => reached,
                Err(error) => {
                    return Err(match lost_at {
                        Some(address) => CallError::NoAnswer { address, within: begun.elapsed() },
                        None => error,
                    });
                }
            };
            let mut context = tarpc::context::current();
            // One that may be repeated does not wait for a node that hangs when another may answer.
            let by = match repeat {
                Repeat::Yes => patience.deadline.min(Instant::now() + patience.attempt),
                Repeat::No => patience.deadline,
            };
            context.deadline = by.into_std();
            match make(api, context).await {
                // That nothing was done holds for this try, not for the one whose answer was lost.
                Ok(Err(error)) if error.kind == ApiErrorKind::NoLeader && lost_at.is_some() => {
                    return Err(CallError::NoAnswer { address, within: begun.elapsed() });
                }
                Ok(answer) => return Ok(answer?),
                Err(error) => {
                    tracing::debug!(address, %error, "a call was not answered");
                    self.peers.forget(&address);
                    self.next_address();
                    if matches!(repeat, Repeat::No) || Instant::now() >= patience.deadline {
                        return Err(CallError::NoAnswer { address, within: begun.elapsed() });
                    }
                    lost_at = Some(address);
                }
            }
        }
    }

    /// A client of the first address that lets us in, the present one first; tries each once, and again until `deadline`.
    ///
    /// What one try finds, such as a stranger on the port, does not go away by itself: only what may change is tried
    /// again.
    async fn reach(&self, deadline: Instant) -> Result<(String, ApiClient), CallError> {
        let mut pause = PAUSE_FIRST;
        let mut known = None;
        loop {
            let mut failures = Vec::new();
            for _ in 0..self.addresses.len() {
                let address = &self.addresses[self.current.load(Ordering::Relaxed) % self.addresses.len()];
                // Each address gets one whole try: one that hangs must not use up the time of those that would answer.
                let until = if known.is_none() { Instant::now() + CONNECT_DEADLINE } else { deadline };
                match tokio::time::timeout_at(until, self.peers.api(address)).await {
                    Ok(Ok(api)) => return Ok((address.clone(), api)),
                    Ok(Err(error)) => failures.push(error),
                    Err(_) => match known {
                        None => failures.push(ConnectError::Deadline {
                            address: address.clone(),
                            within: CONNECT_DEADLINE,
                        }),
                        // A try that our own deadline cut short found nothing; the one before it did.
                        Some(failures) => return Err(CallError::Unreachable(Unreachable { failures })),
                    },
                }
                self.next_address();
            }
            let hopeless = failures.iter().all(|failure| {
                matches!(failure, ConnectError::Stranger { .. } | ConnectError::Closed { .. })
            });
            if hopeless || Instant::now() + pause >= deadline {
                return Err(CallError::Unreachable(Unreachable { failures }));
            }
            known = Some(failures);
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    fn next_address(&self) {
        self.current.fetch_add(1, Ordering::Relaxed);
    }
}

/// Whether a call may be made twice.
#[derive(Clone, Copy)]
enum Repeat {
    Yes,
    No,
}

/// How long a call may take.
#[derive(Clone, Copy)]
struct Patience {
    /// In all.
    deadline: Instant,
    /// Until a node can be asked at all.
    reach_by: Instant,
    /// At one node.
    attempt: Duration,
}

impl Patience {
    /// For a call that has nothing to lose.
    fn short() -> Self {
        let now = Instant::now();
        Self { deadline: now + CALL_DEADLINE, reach_by: now + REACH_WITHIN, attempt: ATTEMPT }
    }

    /// For one whose answer may be `patience` away.
    fn poll(patience: Duration) -> Self {
        let now = Instant::now();
        Self {
            deadline: now + patience + CALL_DEADLINE,
            reach_by: now + REACH_WITHIN,
            attempt: patience + ATTEMPT,
        }
    }
}

/// For people: no more digits than milliseconds.
fn round(duration: Duration) -> Duration {
    Duration::from_millis(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
}
