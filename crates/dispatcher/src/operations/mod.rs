//! What operators ask for: nodes that take no work, a pause, quotas; and what is shown of it.
//!
//! All of it is durable: records beside the tasks', so that it outlives the leader that was told. A node that is drained
//! stands in no index of free slots; what still runs there when its deadline has passed is ended, and queued again once
//! its runner says that it is gone.

mod settings;
mod usage;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proto::api::{ApiError, ApiErrorKind};
use proto::operate::{
    DEADLINE_MS_MAX, Drain, NodeState, NodeView, OperateDone, OperateOrder, Operations, Quota, QuotaView,
    REASON_BYTES_MAX, SETTINGS_MAX, Said,
};
use proto::task::{AttemptEnd, Limit};
use proto::{AttemptId, NodeId};

pub(crate) use self::settings::{DrainedNode, KindQuota, Pause, Settings};
pub(crate) use self::usage::{Usage, Used};

use crate::attempts::{Open, Sent};
use crate::core::{Core, Effect, Now};
use crate::placement::Runner;
use crate::record::node_key;
use crate::timers::Timer;

fn invalid(error: impl ToString) -> ApiError {
    ApiError::new(ApiErrorKind::Invalid, error.to_string())
}

impl Core {
    /// Carries an order out. To give it again changes nothing.
    pub(crate) fn operate(&mut self, now: Now, order: OperateOrder) -> Result<OperateDone, ApiError> {
        let changed = match order {
            OperateOrder::Drain { node, deadline_in_ms, absent, said } => {
                self.drain(now, &node, deadline_in_ms, absent, said)?
            }
            OperateOrder::Undrain { node } => self.undrain(now, &node),
            OperateOrder::Pause { said } => {
                let said = stamp(now, said)?;
                let changed = self.db.settings().paused().is_none();
                self.db.change_settings(|settings| settings.set_pause(Some(said)));
                changed
            }
            OperateOrder::Resume => {
                let changed = self.db.settings().paused().is_some();
                if changed {
                    self.db.change_settings(|settings| settings.set_pause(None));
                    self.dispatch_due = true;
                }
                changed
            }
            OperateOrder::SetQuota { kind, quota } => self.set_quota(&kind, quota)?,
            OperateOrder::RemoveQuota { kind } => {
                let changed = self.db.settings().quota(&kind).is_some();
                if changed {
                    self.db.change_settings(|settings| settings.set_quota(&kind, None));
                    self.quotas_changed();
                    self.dispatch_due |= self.queue.give_back(&kind_key(&kind)) || self.queue.len() > 0;
                }
                changed
            }
        };
        Ok(OperateDone { changed, now: self.operations(now) })
    }

    fn drain(
        &mut self,
        now: Now,
        node: &NodeId,
        deadline_in_ms: Option<u64>,
        absent: bool,
        said: Said,
    ) -> Result<bool, ApiError> {
        let said = stamp(now, said)?;
        if deadline_in_ms.is_some_and(|ms| ms > DEADLINE_MS_MAX) {
            return Err(invalid("the deadline is more than a year away: leave it out to have none"));
        }
        if self.runners.get(node).is_none_or(|runner| runner.member.is_none())
            && self.db.settings().drain(node).is_none()
            && !absent
        {
            let members = self.runners.iter().filter(|(_, runner)| runner.member.is_some());
            let members: Vec<_> = members.map(|(node, _)| node.as_str()).collect();
            return Err(ApiError::new(
                ApiErrorKind::NotFound,
                format!(
                    "{node} is not a member of this cluster; members are {}. To drain it before it comes, add --absent",
                    members.join(", ")
                ),
            ));
        }
        if self.db.settings().drains().len() >= SETTINGS_MAX && self.db.settings().drain(node).is_none() {
            return Err(ApiError::new(
                ApiErrorKind::Full,
                format!("{SETTINGS_MAX} nodes are drained already"),
            ));
        }
        let deadline_ms = deadline_in_ms.map(|ms| now.wall_ms.saturating_add(ms));
        let changed = self.db.settings().drain(node).is_none();
        let drain = Drain { said, deadline_ms };
        self.db.change_settings(|settings| settings.set_drain(node, Some(drain)));
        self.runners.set_drained(node, true, now.at);
        // What was assigned and not sent yet comes back from the outbox.
        self.outbox_due.insert(node.clone());
        self.await_deadline(now, node);
        Ok(changed)
    }

    fn undrain(&mut self, now: Now, node: &NodeId) -> bool {
        if self.db.settings().drain(node).is_none() {
            return false;
        }
        self.db.change_settings(|settings| settings.set_drain(node, None));
        self.await_deadline(now, node);
        self.runners.set_drained(node, false, now.at);
        self.dispatch_due = true;
        true
    }

    /// Sets the timer of a node's deadline to what is written down.
    fn await_deadline(&mut self, now: Now, node: &NodeId) {
        let key = node_key(node);
        if let Some(before) = self.deadlines.remove(&key) {
            self.timers.remove(&(before, Timer::Drained(key)));
        }
        let deadline_ms = self.db.settings().drain(node).and_then(|drain| drain.deadline_ms);
        if let Some(deadline_ms) = deadline_ms {
            let at = now.at + Duration::from_millis(deadline_ms.saturating_sub(now.wall_ms));
            self.deadlines.insert(key, at);
            self.timers.insert((at, Timer::Drained(key)));
        }
    }

    /// After a replay: what operators have set holds for this term too.
    pub(crate) fn recover_operations(&mut self, now: Now) {
        let drained: Vec<NodeId> = self.db.settings().drains().map(|(node, _)| node.clone()).collect();
        for node in drained {
            self.runners.set_drained(&node, true, now.at);
            self.await_deadline(now, &node);
        }
        self.quotas_changed();
    }

    /// A node's deadline has passed: what still runs there is ended, to run elsewhere.
    pub(crate) fn deadline_passed(&mut self, key: u128) {
        self.deadlines.remove(&key);
        let Some(node) = self.db.settings().node_at(key).cloned() else { return };
        let attempts: Vec<AttemptId> = self.attempts_on(&node).collect();
        if !attempts.is_empty() {
            tracing::info!(%node, attempts = attempts.len(), "the node's drain has come to its deadline: what runs there is ended");
        }
        for attempt in attempts {
            if let Some(open) = self.open.get_mut(&attempt) {
                open.evicted = true;
                self.effects.push(Effect::Cancel(attempt));
            }
        }
    }

    fn attempts_on(&self, node: &NodeId) -> impl Iterator<Item = AttemptId> {
        let of_node = self.lives.iter().filter(move |((other, _), _)| other == node);
        of_node.flat_map(|(_, attempts)| attempts.iter().copied())
    }

    /// Whether such an end is the doing of the node's drain, and not the task's.
    pub(crate) fn is_moved(&self, open: &Open, end: &AttemptEnd) -> bool {
        match end {
            _ if open.overdue => false,
            AttemptEnd::Lost { .. } => open.evicted,
            // A leader before this one may have asked for it, by a clock that was ahead.
            AttemptEnd::Cancelled => {
                let drain = self.db.settings().drain(&open.node);
                open.evicted || drain.is_some_and(|drain| drain.deadline_ms.is_some())
            }
            _ => false,
        }
    }

    fn set_quota(&mut self, kind: &str, quota: Quota) -> Result<bool, ApiError> {
        if kind.is_empty()
            || kind.len() > 64
            || !kind.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
        {
            return Err(invalid(format!("{kind:?} is not a kind: use letters, digits, '.', '_' and '-'")));
        }
        if quota.running == Some(0) || quota.per_node == Some(0) {
            return Err(invalid("a quota lets at least 1 run; to let nothing start: taskd cluster pause"));
        }
        let before = self.db.settings().quota(kind);
        if before.is_none() && self.db.settings().quotas().len() >= SETTINGS_MAX {
            return Err(ApiError::new(
                ApiErrorKind::Full,
                format!("{SETTINGS_MAX} kinds have a quota already"),
            ));
        }
        let quota = before.unwrap_or_default().with(quota);
        if before == Some(quota) {
            return Ok(false);
        }
        self.db.change_settings(|settings| settings.set_quota(kind, Some(quota)));
        self.quotas_changed();
        self.queue.give_back(&kind_key(kind));
        self.dispatch_due = true;
        Ok(true)
    }

    /// Counts anew what kinds with a quota use.
    fn quotas_changed(&mut self) {
        self.db.recount_usage();
        let quotas = self.db.settings().quotas().map(|(kind, quota)| (kind.to_owned(), quota)).collect();
        self.runners.set_quotas(quotas);
        for (attempt, open) in &self.open {
            if let Some(task) = self.db.get(attempt.task) {
                self.runners.began(&task.spec.kind, None, &open.node);
            }
        }
    }

    /// Whether another task of a kind may wait, with a payload so large.
    pub(crate) fn check_quota(&self, kind: &str, payload_bytes: u64) -> Result<(), ApiError> {
        let Some(Quota { queued, bytes, .. }) = self.db.settings().quota(kind) else { return Ok(()) };
        let used = self.db.used(kind);
        let full = |what: String, more: &str| {
            let message = format!(
                "{what}: nothing was queued, submit it again later. See taskd quota list; for more: taskd quota set {kind} \
                 {more}"
            );
            Err(ApiError::new(ApiErrorKind::Full, message))
        };
        if let Some(max) = queued.filter(|max| used.queued >= *max) {
            return full(
                format!("{} tasks of kind {kind:?} wait, and its quota is {max}", used.queued),
                "--queued N",
            );
        }
        if let Some(max) = bytes.filter(|max| used.bytes.saturating_add(payload_bytes) > *max) {
            return full(
                format!(
                    "the payloads of kind {kind:?} have {} bytes, this one has {payload_bytes}, and its quota is {max} bytes",
                    used.bytes
                ),
                "--bytes N",
            );
        }
        Ok(())
    }

    /// The running quota of a kind, if as many run.
    pub(crate) fn kind_exhausted(&self, kind: &str) -> Option<Limit> {
        let (running, quota) = self.runners.of_kind(kind)?;
        let max = quota.running.filter(|max| running >= *max)?;
        Some(Limit { key: kind_key(kind), max })
    }

    /// An attempt may run from here on: it counts for its kind and its spread.
    pub(crate) fn count(&mut self, attempt: AttemptId, node: &NodeId) {
        if let Some(task) = self.db.get(attempt.task) {
            self.runners.began(&task.spec.kind, task.spread(), node);
        }
    }

    /// Nothing of it runs any more.
    pub(crate) fn uncount(&mut self, attempt: AttemptId, node: &NodeId) {
        if let Some(task) = self.db.get(attempt.task) {
            let limited = self.runners.ended(&task.spec.kind, task.spread(), node);
            if limited {
                let key = kind_key(&task.spec.kind);
                self.dispatch_due |= self.queue.give_back(&key);
            }
        }
    }

    /// What is set, and every node that is known.
    pub(crate) fn operations(&self, now: Now) -> Operations {
        let settings = self.db.settings();
        let absent = settings.drains().filter(|(node, _)| self.runners.get(node).is_none());
        let absent = absent.map(|(node, _)| (node, None));
        let known = self.runners.iter().map(|(node, runner)| (node, Some(runner)));
        let all: BTreeMap<&NodeId, Option<&Runner>> = known.chain(absent).collect();
        let quotas = settings.quotas().map(|(kind, quota)| {
            let Used { queued, bytes } = self.db.used(kind);
            let running = self.runners.of_kind(kind).map_or(0, |(running, _)| u64::from(running));
            QuotaView { kind: kind.to_owned(), quota, running, queued, bytes }
        });
        Operations {
            paused: settings.paused().cloned(),
            quotas: quotas.collect(),
            nodes: all.into_iter().map(|(node, runner)| self.node_view(now, node, runner)).collect(),
        }
    }

    fn node_view(&self, now: Now, node: &NodeId, runner: Option<&Runner>) -> NodeView {
        let drain = self.db.settings().drain(node);
        let attempts = self.attempts_on(node).count() as u64;
        let heard = runner.and_then(|runner| runner.answered).map(|at| now.at.since(at));
        let fresh = heard.is_some_and(|heard| heard <= self.runners.fresh);
        let member = runner.is_some_and(|runner| runner.member.is_some());
        let state = match drain {
            _ if !member => NodeState::Gone,
            Some(_) if attempts > 0 => NodeState::Draining,
            Some(_) => NodeState::Drained,
            None if !fresh => NodeState::Silent,
            None if runner.is_some_and(|runner| runner.capacity.draining) => NodeState::Stopping,
            None => NodeState::Ready,
        };
        NodeView {
            node: node.clone(),
            state,
            drain: drain.cloned(),
            slots: runner.map_or(0, |runner| runner.capacity.slots),
            used: runner.map_or(0, |runner| runner.used),
            attempts,
            labels: runner.map(|runner| runner.capacity.labels.clone()).unwrap_or_default(),
            kinds: runner.map(|runner| runner.capacity.kinds.clone()).unwrap_or_default(),
            address: runner.map(|runner| runner.address.clone()).unwrap_or_default(),
            heard_ms: heard.map(|heard| u64::try_from(heard.as_millis()).unwrap_or(u64::MAX)),
        }
    }

    /// Of attempts on a drained node: what is about to happen to this one, as the end of a sentence.
    pub(crate) fn drain_of(&self, now: Now, open: &Open) -> Option<(String, String)> {
        let drain = self.db.settings().drain(&open.node)?;
        let node = &open.node;
        let then = match drain.deadline_ms {
            _ if open.evicted && open.sent != Sent::Unsent => {
                "it is being ended there and runs elsewhere".to_owned()
            }
            None => "it may go on to its end".to_owned(),
            Some(ms) => {
                let left = Duration::from_millis(ms.saturating_sub(now.wall_ms)).as_secs_f64();
                format!("in {left:.1} s it is ended there and runs elsewhere")
            }
        };
        let words = format!("; {node} is drained {}: {then}", words(now, &drain.said));
        Some((words, format!("taskd node undrain {node}")))
    }
}

/// By whom, when and why, as a clause.
pub(crate) fn words(now: Now, said: &Said) -> String {
    let by = said.by.as_deref().map_or_else(String::new, |by| format!("by {by} "));
    let seconds = Duration::from_millis(now.wall_ms.saturating_sub(said.at_ms)).as_secs();
    let ago = match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        _ => format!("{} h", seconds / 3_600),
    };
    let reason = said.reason.as_deref().map_or_else(String::new, |reason| format!(" ({reason})"));
    format!("{by}{ago} ago{reason}")
}

/// Under which key classes are parked whose kind's quota is used up. No lock has it: it would need a control character.
pub(crate) fn kind_key(kind: &str) -> String {
    format!("\u{1}kind {kind}")
}

fn stamp(now: Now, said: Said) -> Result<Said, ApiError> {
    for (what, text) in [("reason", &said.reason), ("name", &said.by)] {
        if text.as_ref().is_some_and(|text| text.len() > REASON_BYTES_MAX) {
            return Err(invalid(format!("the {what} has more than {REASON_BYTES_MAX} bytes")));
        }
    }
    Ok(Said { at_ms: now.wall_ms, ..said })
}

/// Nodes by name, for sentences.
pub(crate) fn names<'a>(nodes: impl Iterator<Item = &'a NodeId>) -> String {
    let names: BTreeSet<&str> = nodes.map(NodeId::as_str).collect();
    names.into_iter().collect::<Vec<_>>().join(", ")
}
