//! The task that probes.

use std::sync::Arc;

use clock::Instant;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::time::MissedTickBehavior;

use super::group::{Checks, Group};
use crate::session::over;
use crate::{Link, Op, Rejection, WriteError};

/// Probes on their way at the same time; an answer that is older proves nothing any more.
const IN_FLIGHT_MAX: usize = 16;

pub(super) struct Prober {
    group: Arc<Group>,
    link: Link,
    probe_path: String,
}

/// What became of a probe.
enum Verdict {
    /// Committed; sent at that instant.
    Proved(Instant),
    /// It proves nothing.
    Nothing,
    /// There was nowhere to write to, and now is.
    Prepared,
    /// The authority of that owner is gone.
    Gone(u64, String),
    /// Everything is.
    Over(String),
}

impl Prober {
    pub(super) fn new(group: Arc<Group>, link: Link, probe_path: String) -> Self {
        Self { group, link, probe_path }
    }

    pub(super) async fn run(self) {
        if let Some(reason) = self.probe().await {
            self.group.members().end(&reason);
        }
    }

    /// Until the group is over; returns why, if its owner did not end it.
    async fn probe(&self) -> Option<String> {
        let timing = self.group.timing;
        let mut ticks = tokio::time::interval(timing.period);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut probes = FuturesUnordered::new();
        // The change of the set that the newest probe checks.
        let mut probed = 0;
        let over = over(self.link.state());
        tokio::pin!(over);
        loop {
            let (idle, lapse) = {
                let mut members = self.group.members();
                members.sweep();
                members.show();
                if members.is_over() {
                    return None;
                }
                let holding = members.iter().map(|member| member.flag.remaining());
                (members.is_empty(), holding.filter(|left| !left.is_zero()).min())
            };
            tokio::select! {
                biased;
                ended = &mut over => return Some(ended.to_string()),
                () = self.group.stir.notified() => {
                    // Whoever came is proved at once; whoever left needs no probe.
                    if self.group.members().has_news(probed) {
                        ticks.reset_immediately();
                    }
                }
                Some((checks, verdict)) = probes.next(), if !probes.is_empty() => {
                    let checks: Checks = checks;
                    match verdict {
                        Verdict::Proved(sent) => {
                            if self.group.members().proved(&checks.members, sent, &timing) {
                                self.group.commits.send_if_modified(|last| {
                                    let later = sent > *last;
                                    *last = sent.max(*last);
                                    later
                                });
                            }
                        }
                        Verdict::Nothing => {}
                        Verdict::Prepared => ticks.reset_immediately(),
                        Verdict::Gone(owner, reason) => {
                            let mut members = self.group.members();
                            members.lose(owner, &reason);
                            // Refused as a whole: it proved nothing for the others. Unless one is on its way that
                            // does not ask for what is gone.
                            if members.change != probed {
                                ticks.reset_immediately();
                            }
                        }
                        Verdict::Over(reason) => return Some(reason),
                    }
                }
                _ = ticks.tick(), if !idle => {
                    let checks = {
                        let mut members = self.group.members();
                        members.sweep();
                        members.beat(self.group.clock.now());
                        members.checks()
                    };
                    if probes.len() < IN_FLIGHT_MAX && !checks.members.is_empty() {
                        probed = checks.change;
                        probes.push(self.once(checks));
                    }
                }
                () = tokio::time::sleep(lapse.unwrap_or_default()), if lapse.is_some() => {}
            }
        }
    }

    /// One probe of all that is checked.
    async fn once(&self, mut checks: Checks) -> (Checks, Verdict) {
        let set = Op::Set { path: self.probe_path.clone(), data: Vec::new(), version: None };
        checks.ops.push(set);
        let Checks { ops, owners, .. } = &checks;
        // An answer that takes longer proves nothing.
        let answer = tokio::time::timeout(self.group.timing.term(), self.link.probe(ops)).await;
        let verdict = match answer {
            Err(_) | Ok(Ok(None) | Err(WriteError::Unknown)) => Verdict::Nothing,
            Ok(Ok(Some(sent))) => Verdict::Proved(sent),
            Ok(Err(WriteError::Rejected { op, reason: Rejection::NoNode })) if op + 1 == ops.len() => {
                match self.link.ensure(&self.probe_path).await {
                    Ok(()) => {
                        tracing::info!(path = %self.probe_path, "probe node created");
                        Verdict::Prepared
                    }
                    Err(error) => {
                        tracing::warn!(%error, "the lease cannot be proved");
                        Verdict::Nothing
                    }
                }
            }
            Ok(Err(WriteError::Rejected { op, reason })) => {
                let path = ops.get(op).map_or("?", Op::path);
                match (reason, owners.get(op)) {
                    (Rejection::NoNode | Rejection::BadVersion, Some(owner)) => {
                        Verdict::Gone(*owner, format!("{path} is not ours any more"))
                    }
                    (reason, _) => {
                        tracing::warn!(path, %reason, "a lease probe was refused");
                        Verdict::Nothing
                    }
                }
            }
            Ok(Err(WriteError::Ended(ended))) => Verdict::Over(ended.to_string()),
        };
        (checks, verdict)
    }
}
