//! Typed services and the typed client, on a node inside this program.

#![expect(clippy::unwrap_used, reason = "a test fails where it stands, in its helpers too")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use proto::task::{AttemptEnd, TaskState, TaskView};
use serde::{Deserialize, Serialize};
use taskd::client::{Client, Handle, Task};
use taskd::service::{Context, Service, TaskError};
use taskd::{Config, Node, NodeHandle};
use tokio::time::timeout;

const SOON: Duration = Duration::from_secs(30);

/// What the handler is to do.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
enum Order {
    /// Fails for good.
    Refuse,
    /// Saves a checkpoint and fails, until it is given one that says how often.
    Climb { steps: u32 },
    /// Says how far it is, and waits to be ended.
    Wait,
    /// Panics, the first time.
    Panic,
    /// Does a little in a thread of its own.
    Compute { up_to: u64 },
}

/// What it answers.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Done {
    attempt: u32,
    epoch: u64,
    value: u64,
}

#[derive(Clone, Default)]
struct Worker {
    runs: Arc<AtomicU32>,
    ended: Arc<AtomicU32>,
}

impl Service for Worker {
    type Payload = Order;
    type Output = Done;

    async fn run(&self, context: Context, order: Order) -> Result<Done, TaskError> {
        self.runs.fetch_add(1, Ordering::Relaxed);
        let done = |value| Done { attempt: context.attempt(), epoch: context.token().epoch().0, value };
        assert_eq!(context.token().attempt.number, context.attempt());
        match order {
            Order::Refuse => Err(TaskError::permanent("there is no such volume")),
            Order::Climb { steps } => {
                let before: u32 = context.last_checkpoint()?.unwrap_or(0);
                if before < steps {
                    context.checkpoint(&(before + 1))?;
                    return Err(TaskError::retryable(format!("{before} of {steps}")));
                }
                Ok(done(before.into()))
            }
            Order::Wait => {
                context.progress(40, "waiting for the end");
                context.cancelled().await;
                self.ended.fetch_add(1, Ordering::Relaxed);
                context.check()?;
                Ok(done(0))
            }
            Order::Panic if context.attempt() == 1 => panic!("the handler of a test panics on purpose"),
            Order::Panic => Ok(done(7)),
            Order::Compute { up_to } => {
                context.blocking(move || Ok((0..=up_to).sum())).await.map(|sum: u64| done(sum))
            }
        }
    }
}

struct Fixture {
    worker: Worker,
    node: NodeHandle,
    client: Client,
    _dir: tempfile::TempDir,
}

impl Fixture {
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut config = Config::embedded("n1".parse().unwrap());
        config.node.data_dir = dir.path().to_owned();
        config.node.listen = "127.0.0.1:0".parse().unwrap();
        config.coordination.embedded_listen = "127.0.0.1:0".parse().unwrap();
        let worker = Worker::default();
        let mut node = Node::builder(config).service("work", worker.clone()).start().await.unwrap();
        timeout(SOON, node.ready()).await.unwrap();
        let client = Client::connect(node.address().parse().unwrap()).await.unwrap();
        Self { worker, node, client, _dir: dir }
    }

    async fn submit(&self, order: &Order) -> Handle<'_> {
        let task = Task::new("work", order).unwrap().retries(3);
        let task = task.backoff(Duration::from_millis(20), Duration::from_millis(20));
        self.client.submit(task).await.unwrap()
    }

    async fn stop(self) {
        self.client.close().await;
        let report = self.node.stop().await;
        assert!(report.is_clean(), "{report:?}");
    }
}

async fn ended(handle: &Handle<'_>) -> TaskView {
    handle.wait_for(SOON).await.unwrap().expect("it ends soon")
}

fn failure(task: &TaskView) -> &str {
    match task.last_end() {
        Some(AttemptEnd::Failed { message } | AttemptEnd::Refused { message }) => message,
        other => panic!("{other:?} of {task:?}"),
    }
}

#[tokio::test]
async fn what_no_attempt_can_do_is_tried_once_and_the_rest_again() {
    let fixture = Fixture::start().await;
    // A payload that is no order never reaches the handler.
    let misspelt = Task::new("work", &serde_json::json!({ "climb": { "stepz": 3 } })).unwrap().retries(3);
    let misspelt = fixture.client.submit(misspelt).await.unwrap();
    let task = ended(&misspelt).await;
    assert_eq!((task.state, task.attempt_count), (TaskState::Failed, 1), "{task:?}");
    let why = failure(&task);
    assert!(why.contains("does not fit kind \"work\"") && why.contains("stepz"), "{why}");
    assert_eq!(fixture.worker.runs.load(Ordering::Relaxed), 0);

    let refused = fixture.submit(&Order::Refuse).await;
    let task = ended(&refused).await;
    assert_eq!((task.state, task.attempt_count), (TaskState::Failed, 1), "{task:?}");
    assert_eq!(failure(&task), "there is no such volume");
    assert!(refused.result::<Done>().await.is_err(), "what failed has no result");

    // Each attempt goes on from the checkpoint of the one before.
    let climb = fixture.submit(&Order::Climb { steps: 3 }).await;
    let task = ended(&climb).await;
    assert_eq!((task.state, task.attempt_count), (TaskState::Succeeded, 4), "{task:?}");
    let done: Done = climb.result().await.unwrap();
    assert_eq!((done.attempt, done.value), (4, 3));
    assert!(done.epoch > 0, "it was shown its leader's authority: {done:?}");

    // Out of attempts, and the last reason is kept.
    let dead = fixture.submit(&Order::Climb { steps: 99 }).await;
    let task = ended(&dead).await;
    assert_eq!((task.state, task.attempt_count), (TaskState::Dead, 4), "{task:?}");
    assert_eq!(failure(&task), "3 of 99");
    fixture.stop().await;
}

#[tokio::test]
async fn a_handler_is_followed_cancelled_and_may_panic() {
    let fixture = Fixture::start().await;
    let waits = fixture.submit(&Order::Wait).await;
    let mut seen = Vec::new();
    let following = waits.follow(SOON, |task| {
        seen.extend(task.progress.as_ref().map(ToString::to_string));
    });
    let cancelling = async {
        // Progress first: it goes out about once a second.
        timeout(SOON, async {
            while waits.status().await.unwrap().progress.is_none() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        })
        .await
        .unwrap();
        waits.cancel().await.unwrap();
    };
    let (task, ()) = tokio::join!(following, cancelling);
    let task = task.unwrap().expect("it ends soon");
    assert_eq!((task.state, task.attempt_count), (TaskState::Cancelled, 1), "{task:?}");
    assert!(seen.iter().any(|said| said.contains("40") && said.contains("waiting for the end")), "{seen:?}");
    assert_eq!(
        fixture.worker.ended.load(Ordering::Relaxed),
        1,
        "the handler was told, and went on to its end"
    );

    // A panic is the attempt's, not the node's.
    let panics = fixture.submit(&Order::Panic).await;
    let task = ended(&panics).await;
    assert_eq!((task.state, task.attempt_count), (TaskState::Succeeded, 2), "{task:?}");
    let first = &task.attempts[0].end;
    assert!(
        matches!(first, Some(AttemptEnd::Failed { message }) if message.contains("panics on purpose")),
        "{first:?}"
    );
    let computed = fixture.submit(&Order::Compute { up_to: 1_000 }).await;
    ended(&computed).await;
    assert_eq!(computed.result::<Done>().await.unwrap().value, 500_500);
    fixture.stop().await;
}
