//! Submissions: in batches that fit a call each, and under the same ids until they are answered.

use std::collections::BTreeMap;
use std::time::Duration;

use proto::TaskId;
use proto::api::{ApiError, ApiErrorKind, Submission, Submitted, Via};
use proto::task::TaskSpec;
use tokio::time::Instant;

use super::{CallError, Client, PAUSE_FIRST, PAUSE_MAX, Patience, Repeat};

/// The same for submissions, which wait for the disks of an ensemble.
const SUBMIT_ATTEMPT: Duration = Duration::from_secs(10);
/// With less time left a submission is not tried again: no answer would come, and "nothing was queued" would become "it
/// is not known".
const SUBMIT_AGAIN_MIN: Duration = Duration::from_millis(100);
/// Most tasks in one call, so that a batch fits a frame whatever the payloads.
const BATCH_TASKS_MAX: usize = 1_000;
/// Most payload bytes in one call.
const BATCH_BYTES_MAX: usize = 4 * 1024 * 1024;

impl Client {
    /// Submits what a [`Task`](super::Task) is made of; its id is drawn here.
    ///
    /// # Errors
    /// As [`submit_all`](Self::submit_all).
    pub async fn submit_spec(&self, spec: TaskSpec, within: Duration) -> Result<Submitted, CallError> {
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
        mut tasks: Vec<Submission>,
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
            // In order: what a task is to wait for has to be there before it.
            'batches: for batch in batches(&tasks, &open) {
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
                        let mut known = BTreeMap::new();
                        for (&i, answer) in batch.iter().zip(got) {
                            if let Submitted::Existing { id, .. } = answer
                                && id != tasks[i].id
                            {
                                known.insert(tasks[i].id, id);
                            }
                            answers[i] = Some(answer);
                        }
                        wait_for_known(&mut tasks, &known);
                    }
                    Ok(_) => return Err(too_few().into()),
                    Err(CallError::Api(error)) => {
                        for &i in &batch {
                            answers[i] = Some(refused(answers[i].take(), error.clone()));
                        }
                        break 'batches;
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
                        break 'batches;
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
        let unsent = || {
            Submitted::Refused(ApiError::new(
                ApiErrorKind::NoLeader,
                "nothing was sent of it: submit it again",
            ))
        };
        Ok(answers.into_iter().map(|answer| answer.unwrap_or_else(unsent)).collect())
    }
}

/// Those that were there already under another id, by their keys, are the ones to wait for.
fn wait_for_known(tasks: &mut [Submission], known: &BTreeMap<TaskId, TaskId>) {
    if known.is_empty() {
        return;
    }
    for rules in tasks.iter_mut().filter_map(|task| task.spec.rules.as_mut()) {
        for dependency in &mut rules.after {
            dependency.task = known.get(&dependency.task).copied().unwrap_or(dependency.task);
        }
    }
}

/// A task id, drawn at random.
pub fn draw_id() -> TaskId {
    TaskId::from_u128(rand::random())
}

pub(super) fn too_few() -> ApiError {
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
