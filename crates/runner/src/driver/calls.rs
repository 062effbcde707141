//! What leaders ask.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use proto::runner::{Inventory, OutputChunk, Presence, Refusal, Start, StartBatch, StartReply};
use proto::task::AttemptEnd;
use proto::{AttemptId, FencingToken};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::report::REPORT_MAX;
use super::{Driver, Job, Live, SHIM_SLACK};
use crate::attempt::{self, Control};
use crate::handle::{Reply, Request};
use crate::in_process::{self, Inside};
use crate::ledger::UNACKNOWLEDGED_MAX;
use crate::process::{self, blocking};
use crate::service::{Holds, Reports, Right, Task, Work};
use crate::shim::capture;
use crate::store;

/// Reads of output under way at a time.
const READING_MAX: usize = 16;
/// Refusals that are being written at a time.
const REFUSING_MAX: usize = 32;
/// Largest part of output in one answer, in bytes.
const CHUNK_BYTES_MAX: u32 = 1 << 20;

impl Driver {
    pub(super) fn request(&mut self, request: Request) {
        match request {
            Request::Start { batch, reply } => {
                let _ = reply.send(self.start(batch));
            }
            Request::Cancel { token, attempts, reply } => {
                let (grace, now) = (self.options.kill_grace, self.options.clock.now());
                if let Ok(()) = self.fence.admit(token, now) {
                    for attempt in &attempts {
                        self.end(*attempt, AttemptEnd::Cancelled, grace, now + grace + SHIM_SLACK);
                    }
                }
                self.presence(token, attempts, reply);
            }
            Request::Confirm { token, attempts, reply } => self.presence(token, attempts, reply),
            Request::Inventory { token, reply } => {
                let admitted = self.fence.admit(token, self.options.clock.now());
                let _ = reply.send(admitted.map(|()| self.inventory()));
            }
            Request::Output { attempt, offset, bytes_max, reply } => {
                self.output(attempt, offset, bytes_max.min(CHUNK_BYTES_MAX), reply);
            }
        }
    }

    fn start(&mut self, batch: StartBatch) -> Result<Vec<StartReply>, Refusal> {
        self.fence.admit_starts(&batch, self.options.clock.now())?;
        if self.is_closing() {
            return Err(Refusal::Draining);
        }
        Ok(batch.starts.into_iter().map(|start| self.start_one(batch.token, start)).collect())
    }

    fn start_one(&mut self, token: FencingToken, Start { attempt, spec, checkpoint }: Start) -> StartReply {
        if self.live.contains_key(&attempt) || self.ledger.get(attempt).is_some() {
            return StartReply::Accepted;
        }
        let refused = |reason| StartReply::Refused { reason: attempt::shortened(reason) };
        if self.refusals.contains(attempt) {
            return refused("this node was told to give the attempt up before it started".to_owned());
        }
        let full = self.live.len() >= self.options.slots as usize;
        if full
            || self.live.len() + self.ledger.unacknowledged()
                >= UNACKNOWLEDGED_MAX + self.options.slots as usize
        {
            return StartReply::Busy;
        }
        let clock = Arc::clone(&self.options.clock);
        let (reports, progress_timeout) = (Reports::default(), spec.rules().progress_timeout_ms);
        let inside = Inside {
            attempt,
            cancelled: CancellationToken::new(),
            reports: reports.clone(),
            holds: Holds::default(),
            run_timeout: spec.run_timeout_ms.map(Duration::from_millis),
            progress_timeout: progress_timeout.map(Duration::from_millis),
            grace: self.options.kill_grace,
            store: self.shims.store.clone(),
            output_bytes_max: self.options.output_bytes_max,
        };
        let task = Task {
            attempt,
            token,
            node: self.options.node.clone(),
            payload: spec.payload,
            cancelled: inside.cancelled.clone(),
            run_timeout: inside.run_timeout,
            right: Right::new(self.deadline.subscribe(), Arc::clone(&clock)),
            checkpoint: checkpoint.clone(),
            reports: reports.clone(),
            holds: inside.holds.clone(),
        };
        // A panic in an embedder's service must not end the loop, and with it the supervision of everything else.
        let prepared = catch_unwind(AssertUnwindSafe(|| {
            self.options.services.get(&spec.kind).and_then(|service| service.prepare(task))
        }));
        let work = match prepared {
            Ok(Ok(work)) => work,
            Ok(Err(unfit)) => return refused(unfit.to_string()),
            Err(_) => {
                tracing::error!(%attempt, kind = spec.kind, "a task service crashed");
                return refused("its task service crashed on the payload".to_owned());
            }
        };
        let (end, end_seen) = watch::channel(None);
        let control = Control { fence: self.deadline.subscribe(), end: end_seen, clock };
        let in_process = matches!(work, Work::InProcess(_));
        let spawned = match work {
            Work::InProcess(work) => {
                let work = in_process::run(inside, work, control);
                self.attempts.spawn(self.options.pulse.watch("the work of an attempt", work))
            }
            Work::Process(process) => {
                let shims = Arc::clone(&self.shims);
                let given = process::Given {
                    token,
                    process,
                    run_timeout_ms: spec.run_timeout_ms,
                    progress_timeout_ms: progress_timeout,
                    checkpoint,
                    reports: reports.clone(),
                };
                let work = process::run(shims, attempt, given, control);
                self.attempts.spawn(self.options.pulse.watch("the supervision of an attempt", work))
            }
        };
        self.ids.insert(spawned.id(), attempt);
        self.live.insert(attempt, Live { end, in_process, reports, told: None, own_until: None });
        StartReply::Accepted
    }

    fn inventory(&self) -> Inventory {
        Inventory {
            node: self.options.node.clone(),
            incarnation: self.options.incarnation,
            ended_incarnations: self.ended_incarnations.clone(),
            capacity: self.capacity(),
            running: self.live.keys().copied().collect(),
            // Those beyond are reported, or asked for by name.
            outcomes: self.ledger.to_report(REPORT_MAX),
        }
    }

    /// Answers where attempts stand, once every "unknown" among the answers is on disk.
    fn presence(&mut self, token: FencingToken, attempts: Vec<AttemptId>, reply: Reply<Vec<Presence>>) {
        if let Err(refusal) = self.fence.admit(token, self.options.clock.now()) {
            let _ = reply.send(Err(refusal));
            return;
        }
        let mut unknown = Vec::new();
        let answers: Vec<Presence> = attempts
            .into_iter()
            .map(|attempt| {
                if self.live.contains_key(&attempt) {
                    Presence::Running
                } else if let Some(outcome) = self.ledger.get(attempt) {
                    Presence::Ended(outcome.clone())
                } else {
                    unknown.push(attempt);
                    Presence::Unknown
                }
            })
            .collect();
        let Some(write) = self.refusals.add(&unknown) else {
            let _ = reply.send(Ok(answers));
            return;
        };
        if self.refusing >= REFUSING_MAX {
            let busy = "too many refusals are being written at a time: ask again";
            let _ = reply.send(Err(Refusal::Failed(busy.to_owned())));
            return;
        }
        self.refusing += 1;
        self.spawn_job("the writing of refusals", async move {
            match blocking(write).await {
                Ok(()) => {
                    let _ = reply.send(Ok(answers));
                    Job::Refused { attempts: unknown }
                }
                Err(error) => {
                    let _ = reply.send(Err(Refusal::Failed(format!("cannot record a refusal: {error}"))));
                    Job::Refused { attempts: Vec::new() }
                }
            }
        });
    }

    fn output(&mut self, attempt: AttemptId, offset: u64, bytes_max: u32, reply: Reply<OutputChunk>) {
        let outcome = self.ledger.get(attempt).cloned();
        if outcome.is_none() && !self.live.contains_key(&attempt) {
            let _ = reply.send(Err(Refusal::NoSuchAttempt));
            return;
        }
        if self.reading >= READING_MAX {
            let _ =
                reply.send(Err(Refusal::Failed("too many reads of output at a time: ask again".to_owned())));
            return;
        }
        self.reading += 1;
        let shims = Arc::clone(&self.shims);
        self.spawn_job("the reading of output", async move {
            let read = blocking(move || {
                let dir = shims.store.attempt(attempt);
                // Before the reading: the loop may not have heard yet that the attempt has ended.
                let outcome = match outcome {
                    Some(outcome) => Some(outcome),
                    None => store::read(&dir.join(store::EXIT)).ok(),
                };
                let (offset, bytes) = if dir.is_dir() {
                    capture::read(&dir, offset, bytes_max as usize)?
                } else if let Some(outcome) = outcome.as_ref().filter(|outcome| outcome.output_bytes > 0) {
                    return Ok(Err(Refusal::OutputRemoved { bytes: outcome.output_bytes }));
                } else {
                    // Work inside the daemon has no directory, and one that is being started not yet.
                    (offset, Vec::new())
                };
                let end = offset + bytes.len() as u64;
                let complete = outcome.is_some_and(|outcome| {
                    end >= outcome.output_bytes || (bytes.is_empty() && bytes_max > 0)
                });
                Ok(Ok(OutputChunk { offset, bytes, complete }))
            });
            let failed = |error| Err(Refusal::Failed(format!("cannot read the output: {error}")));
            let _ = reply.send(read.await.unwrap_or_else(failed));
            Job::OutputRead
        });
    }
}
