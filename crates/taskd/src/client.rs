//! Talks to any node of a cluster: the library behind the command line, benchmarks and embedders.
//!
//! A [`Client`] knows several addresses and uses whichever answers. Calls that may be made twice are made again, at the
//! next address if need be, until their deadline; a submission is one of them, because the task's id is drawn here
//! and a node reports a task that it already has as [`Submitted::Existing`].

mod vips;

use std::str::FromStr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use proto::api::{ApiClient, ApiError, ApiErrorKind, ListFilter, Submission, Submitted, TaskPage, Via, Why};
use proto::runner::OutputChunk;
use proto::status::ClusterStatus;
use proto::task::{TaskSpec, TaskView};
use proto::{NodeId, TaskId};
use tarpc::client::RpcError;
use tarpc::context::Context;
use tokio::time::Instant;

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
/// The same for submissions, which wait for the disks of an ensemble.
const SUBMIT_ATTEMPT: Duration = Duration::from_secs(10);
/// With less time left a submission is not tried again: no answer would come, and "nothing was queued" would become "it
/// is not known".
const SUBMIT_AGAIN_MIN: Duration = Duration::from_millis(100);
/// Most tasks in one call, so that a batch fits a frame whatever the payloads.
const BATCH_TASKS_MAX: usize = 1_000;
/// Most payload bytes in one call.
const BATCH_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Where nodes listen: `HOST:PORT`, several separated by commas. At least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Addresses(Vec<String>);

impl FromStr for Addresses {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.split(',')
            .map(|address| parse_address(address.trim()).map(str::to_owned))
            .collect::<Result<_, _>>()
            .map(Self)
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

    /// Submits a task; its id is drawn here.
    ///
    /// # Errors
    /// As [`submit_all`](Self::submit_all).
    pub async fn submit(&self, spec: TaskSpec, within: Duration) -> Result<Submitted, CallError> {
        let answers = self.submit_all(vec![Submission { id: draw_id(), spec }], within).await?;
        answers.into_iter().next().ok_or_else(|| too_few().into())
    }

    /// Submits tasks and answers for each, in order. While there is no leader, or the answer is lost, it goes on
    /// trying under the same ids for as long as `within`.
    ///
    /// # Errors
    /// Nothing is known of any task: no node was reached, or none answered. What a node refuses is an answer, and so is
    /// the unknown fate of some of the tasks.
    pub async fn submit_all(
        &self,
        tasks: Vec<Submission>,
        within: Duration,
    ) -> Result<Vec<Submitted>, CallError> {
        let deadline = Instant::now() + within;
        let mut answers: Vec<Option<Submitted>> = vec![None; tasks.len()];
        let mut pause = PAUSE_FIRST;
        loop {
            let open: Vec<usize> = (0..tasks.len()).filter(|&i| !is_settled(answers[i].as_ref())).collect();
            if open.is_empty() {
                break;
            }
            for batch in batches(&tasks, &open) {
                let sent: Vec<Submission> = batch.iter().map(|&i| tasks[i].clone()).collect();
                let outcome = self
                    .call(
                        Patience { deadline, reach_by: deadline, attempt: SUBMIT_ATTEMPT },
                        Repeat::Yes,
                        move |api, context| {
                            let sent = sent.clone();
                            async move { api.submit(context, Via::Client, sent).await }
                        },
                    )
                    .await;
                match outcome {
                    Ok(got) if got.len() == batch.len() => {
                        for (&i, answer) in batch.iter().zip(got) {
                            answers[i] = Some(answer);
                        }
                    }
                    Ok(_) => return Err(too_few().into()),
                    Err(CallError::Api(error)) => {
                        for &i in &batch {
                            answers[i] = Some(refused(answers[i].take(), error.clone()));
                        }
                    }
                    // Ids that are known to be accepted must not be lost with the rest; and an answer that was lost
                    // may come the next time.
                    Err(error)
                        if answers.iter().any(Option::is_some)
                            || matches!(error, CallError::NoAnswer { .. })
                                && Instant::now() + pause < deadline =>
                    {
                        let kind = match error {
                            CallError::Unreachable(_) => ApiErrorKind::NoLeader,
                            _ => ApiErrorKind::Unknown,
                        };
                        for &i in &batch {
                            let error = ApiError::new(kind, error.to_string());
                            answers[i] = Some(refused(answers[i].take(), error));
                        }
                    }
                    Err(error) => return Err(error),
                }
            }
            let settled = answers.iter().all(|answer| is_settled(answer.as_ref()));
            if settled || Instant::now() + pause + SUBMIT_AGAIN_MIN >= deadline {
                break;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
        Ok(answers.into_iter().flatten().collect())
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

/// A task id, drawn at random.
pub fn draw_id() -> TaskId {
    TaskId::from_u128(rand::random())
}

fn too_few() -> ApiError {
    ApiError::new(ApiErrorKind::Internal, "the node did not answer for every task")
}

/// What is known of a task after another refusal: one try of unknown fate makes them all so.
fn refused(before: Option<Submitted>, error: ApiError) -> Submitted {
    match before {
        Some(Submitted::Refused(before))
            if before.kind == ApiErrorKind::Unknown && error.kind == ApiErrorKind::NoLeader =>
        {
            Submitted::Refused(before)
        }
        _ => Submitted::Refused(error),
    }
}

/// Whether there is nothing to gain from asking again.
fn is_settled(answer: Option<&Submitted>) -> bool {
    match answer {
        None => false,
        Some(Submitted::Refused(error)) => {
            !matches!(error.kind, ApiErrorKind::NoLeader | ApiErrorKind::Unknown)
        }
        Some(_) => true,
    }
}

/// Cuts `open` into what fits one call each.
fn batches(tasks: &[Submission], open: &[usize]) -> Vec<Vec<usize>> {
    let mut batches: Vec<Vec<usize>> = Vec::new();
    let mut bytes = 0;
    for &i in open {
        let size = tasks[i].spec.payload.len();
        match batches.last_mut() {
            Some(batch) if batch.len() < BATCH_TASKS_MAX && bytes + size <= BATCH_BYTES_MAX => {
                bytes += size;
                batch.push(i);
            }
            _ => {
                bytes = size;
                batches.push(vec![i]);
            }
        }
    }
    batches
}

/// For people: no more digits than milliseconds.
fn round(duration: Duration) -> Duration {
    Duration::from_millis(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
}
