//! A machine of the world: its daemon, what runs there under shims and in the daemon, and its own deadline for it.

use super::*;

/// A process and until when its machine lets it run.
#[derive(Clone, Copy, Debug)]
pub(super) struct Process {
    pub(super) until: u64,
}

/// A machine with one daemon on it.
#[derive(Debug)]
pub(super) struct Machine {
    pub(super) node: NodeId,
    pub(super) life: u128,
    pub(super) alive: bool,
    pub(super) cut: bool,
    pub(super) floor: u64,
    pub(super) grant: Option<Grant>,
    pub(super) right_until: u64,
    /// It is about to be restarted, and asks for more time.
    pub(super) leaving: bool,
    /// Survives the daemon if it is under a shim, not its right.
    pub(super) processes: BTreeMap<AttemptId, Process>,
    /// Left behind by a daemon whose disk is gone: nobody knows of them, and their right runs out.
    pub(super) orphans: BTreeMap<AttemptId, Process>,
    /// On disk.
    pub(super) spool: BTreeMap<AttemptId, Outcome>,
    pub(super) refused: BTreeSet<AttemptId>,
    pub(super) ended_lives: Vec<Incarnation>,
    pub(super) beat: Option<(u64, Heartbeat)>,
    pub(super) late: VecDeque<Batch>,
}

/// What a daemon finds and does when it is started.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Boot {
    /// Nothing: the disk is another one.
    Wiped,
    /// It ends what is left.
    Ends,
    /// It goes on with it.
    Adopts,
}

/// Whether an attempt is a process under a shim; the others end with the daemon, without a trace.
pub(super) fn under_shim(attempt: AttemptId) -> bool {
    !(attempt.task.as_u128() >> 64).is_multiple_of(4)
}

impl Machine {
    pub(super) fn life(&self) -> Incarnation {
        Incarnation::from_u128(self.life)
    }

    pub(super) fn reachable(&self) -> bool {
        self.alive && !self.cut
    }

    pub(super) fn capacity(&self) -> Capacity {
        Capacity {
            slots: SLOTS,
            free: SLOTS.saturating_sub(self.processes.len() as u32),
            labels: BTreeMap::new(),
            kinds: vec!["noop".to_owned()],
            draining: self.leaving,
        }
    }

    pub(super) fn end(&mut self, attempt: AttemptId, end: AttemptEnd, ms: u64) {
        if self.processes.remove(&attempt).is_some() && (self.alive || under_shim(attempt)) {
            let outcome = Outcome {
                attempt,
                end,
                started_ms: Some(ms),
                ended_ms: ms,
                output_bytes: 0,
                checkpoint: None,
            };
            self.spool.insert(attempt, outcome);
        }
    }

    /// Ends what has no right to run any more.
    pub(super) fn enforce(&mut self, ms: u64) {
        let over: Vec<_> =
            self.processes.iter().filter(|(_, process)| process.until <= ms).map(|(id, _)| *id).collect();
        for attempt in over {
            self.end(attempt, AttemptEnd::Lost { reason: "the right to run had lapsed".to_owned() }, ms);
        }
        self.orphans.retain(|_, process| process.until > ms);
        if self.right_until <= ms {
            self.grant = None;
        }
    }

    pub(super) fn answered(&mut self, sent: u64, reply: &HeartbeatReply, ms: u64) {
        if reply.token.epoch.0 < self.floor {
            return;
        }
        self.floor = reply.token.epoch.0;
        self.grant = Some(reply.grant);
        self.right_until = self.right_until.max(sent + reply.fence_after_ms);
        for process in self.processes.values_mut() {
            process.until = process.until.max(self.right_until);
        }
        self.leaving &= reply.fence_after_ms <= FENCE_MS;
        self.enforce(ms);
        for attempt in &reply.end {
            self.end(*attempt, AttemptEnd::Cancelled, ms);
        }
    }

    pub(super) fn start(&mut self, epoch: u64, batch: &Batch, ms: u64) -> Result<Vec<StartReply>, Refusal> {
        if epoch < self.floor {
            return Err(Refusal::StaleToken { seen: Epoch(self.floor) });
        }
        if self.leaving {
            return Err(Refusal::Draining);
        }
        if batch.incarnation != self.life() {
            return Err(Refusal::WrongIncarnation { current: self.life() });
        }
        if self.grant != Some(batch.grant) || self.right_until <= ms {
            return Err(Refusal::WrongGrant { current: self.grant });
        }
        let mut replies = Vec::new();
        for (start, _) in &batch.starts {
            let attempt = start.attempt;
            replies.push(if self.processes.contains_key(&attempt) || self.spool.contains_key(&attempt) {
                StartReply::Accepted
            } else if self.refused.contains(&attempt) {
                StartReply::Refused { reason: "given up before".to_owned() }
            } else if self.processes.len() as u32 >= SLOTS {
                StartReply::Busy
            } else {
                self.processes.insert(attempt, Process { until: self.right_until });
                StartReply::Accepted
            });
        }
        Ok(replies)
    }

    pub(super) fn presence(&mut self, attempt: AttemptId) -> Presence {
        if self.processes.contains_key(&attempt) {
            Presence::Running
        } else if let Some(outcome) = self.spool.get(&attempt) {
            Presence::Ended(outcome.clone())
        } else {
            self.refused.insert(attempt);
            Presence::Unknown
        }
    }
}
