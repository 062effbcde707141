//! Why a task is where it is: always an answer, and the command that would change it.

use std::time::Duration;

use clock::Instant;
use proto::api::Why;
use proto::status::FenceStatus;
use proto::task::{LostPolicy, TaskState};
use proto::{AttemptId, NodeId};

use crate::attempts::{Open, Sent};
use crate::core::{Core, Now};
use crate::database::attempt_id;
use crate::operations::{names, words};
use crate::placement::Runner;
use crate::queue::Need;
use crate::record::Task;

/// How far the tasks ahead are counted.
const AHEAD_MAX: usize = 10_000;

type Reason = (String, Option<String>);

impl Core {
    /// Why `task` is where it is. `suspended` = the leader's lease does not hold at the moment.
    pub(crate) fn why(&self, now: Now, task: &Task, suspended: bool) -> Why {
        let (mut reason, remedy) = match task.state {
            TaskState::Scheduled => self.why_scheduled(now, task),
            TaskState::Blocked => self.why_blocked(task),
            TaskState::Queued | TaskState::Retrying => match self.pausing.get(&task.id) {
                Some(until) => self.why_pausing(now, task, *until),
                None if suspended => (
                    "the leader has lost touch with the coordination service and starts nothing until it is back"
                        .to_owned(),
                    Some("taskd cluster status".to_owned()),
                ),
                None => self.why_waiting(now, task),
            },
            TaskState::Running | TaskState::Cancelling => self.why_open(now, task),
            _ => why_final(task),
        };
        reason.push_str(&self.whence(task));
        Why { id: task.id, state: task.state, reason, remedy }
    }

    fn why_pausing(&self, now: Now, task: &Task, until: Instant) -> Reason {
        let end = last_end(task);
        let after = if task.failed > 0 { format!(" ({} failed so far)", task.failed) } else { String::new() };
        let left = seconds(until.since(now.at));
        (
            format!(
                "its last attempt ended with {end}{after}; the next one starts not before {left} from now"
            ),
            Some(format!("taskd task cancel {} && taskd task retry {}", task.id, task.id)),
        )
    }

    fn why_scheduled(&self, now: Now, task: &Task) -> Reason {
        let left = self.pausing.get(&task.id).map_or(Duration::ZERO, |until| until.since(now.at));
        (
            format!("it is to start not before {} from now", seconds(left)),
            Some(format!("taskd task cancel {0} && taskd task retry {0}", task.id)),
        )
    }

    fn why_blocked(&self, task: &Task) -> Reason {
        let Some(first) = task.waits_for.first() else {
            return ("what it waited for has just ended".to_owned(), None);
        };
        let state = self.db.get(first.task).map_or("forgotten", |task| task.state.as_str());
        let more = match task.waits_for.len() - 1 {
            0 => String::new(),
            more => format!(", and for {more} more"),
        };
        (
            format!("it starts once task {} {}, which is {state}{more}", first.task, first.on),
            Some(format!("taskd task why {}", first.task)),
        )
    }

    fn why_limited(&self, key: &str, max: u32) -> Reason {
        let holders = self.held.get(key);
        let holder = holders.and_then(|held| held.first()).and_then(|id| Some((id, self.open.get(id)?)));
        let Some((attempt, open)) = holder else { return ("it is about to be assigned".to_owned(), None) };
        let by = format!("task {} on node {}", attempt.task, open.node);
        let count = holders.map_or(0, |held| held.len());
        let reason = if max == 1 {
            format!("{key:?} is locked by {by}")
        } else {
            format!(
                "{count} tasks run under {key:?}, which it may only while fewer than {max} do; one is {by}"
            )
        };
        (reason, Some(format!("taskd task why {}", attempt.task)))
    }

    fn why_waiting(&self, now: Now, task: &Task) -> Reason {
        let need = Need::of(&task.spec);
        if let Some(said) = self.db.settings().paused() {
            return (
                format!("the cluster is paused {}, and nothing new starts", words(now, said)),
                Some("taskd cluster resume".to_owned()),
            );
        }
        let present: Vec<_> = self.runners.iter().filter(|(_, runner)| runner.member.is_some()).collect();
        if present.is_empty() {
            return (
                "no node is a member of the cluster".to_owned(),
                Some("taskd serve --config FILE (on a node)".to_owned()),
            );
        }
        let heard: Vec<_> = present.iter().filter(|(_, runner)| runner.answered.is_some()).collect();
        if heard.is_empty() {
            return (
                format!("none of the {} nodes has been heard of by this leader yet", present.len()),
                Some("taskd cluster status".to_owned()),
            );
        }
        if !heard.iter().any(|(_, runner)| runner.capacity.kinds.contains(&need.kind)) {
            return (
                format!("no node runs tasks of kind {:?}", need.kind),
                Some(format!("enable {:?} in a node's configuration and restart it", need.kind)),
            );
        }
        if !heard.iter().any(|(_, runner)| runner.suits(&need)) {
            return why_unsuited(&need, heard.iter().map(|(_, runner)| *runner));
        }
        let suiting: Vec<_> = heard.iter().filter(|(_, runner)| runner.suits(&need)).collect();
        let drained: Vec<_> =
            suiting.iter().filter(|(_, runner)| runner.drained()).map(|(node, _)| *node).collect();
        let taking = suiting.iter().filter(|(_, runner)| !runner.capacity.draining && !runner.drained());
        let slots: u32 = taking.clone().map(|(_, runner)| runner.capacity.slots).sum();
        if taking.count() == 0 {
            return match drained.first() {
                Some(node) => self.why_drained(now, node, drained.len()),
                None => ("every node that could run it is being stopped".to_owned(), None),
            };
        }
        if slots == 0 {
            return ("the nodes that could run it have no slots".to_owned(), None);
        }
        if let Some(reason) = self.why_quota(&need) {
            return reason;
        }
        if let Some(limit) = self.exhausted(&need) {
            return self.why_limited(&limit.key, limit.max);
        }
        let ahead = self.queue.ahead(self.place(task), AHEAD_MAX);
        let many = if ahead >= AHEAD_MAX { "more than " } else { "" };
        let taking =
            || suiting.iter().filter(|(_, runner)| !runner.drained()).map(|(_, runner)| runner.free());
        let slots = if taking().all(|free| free == 0) {
            format!("all {slots} slots that could run it are busy")
        } else if taking().all(|free| free < need.slots()) {
            let most = taking().max().unwrap_or(0);
            format!(
                "it takes {} slots of one node, and no node that could run it has more than {most} free",
                need.slots()
            )
        } else {
            "it is about to be assigned".to_owned()
        };
        let drained = match drained.as_slice() {
            [] => String::new(),
            nodes => format!("; drained (taskd node list): {}", names(nodes.iter().copied())),
        };
        (
            format!("{slots}; {many}{ahead} tasks are ahead of it{drained}"),
            Some("submit it with a higher --priority, or add nodes or slots".to_owned()),
        )
    }

    /// Every node that could run it and is not stopping is drained, `node` being the first of them.
    fn why_drained(&self, now: Now, node: &NodeId, count: usize) -> Reason {
        let drain = self.db.settings().drain(node).map(|drain| words(now, &drain.said)).unwrap_or_default();
        let others = match count {
            0 | 1 => String::new(),
            2 => ", and so is the other one that could run it".to_owned(),
            _ => format!(", and so are the {} others that could run it", count - 1),
        };
        let only = if count > 1 { "" } else { ", the only node that could run it," };
        (format!("{node}{only} is drained {drain}{others}"), Some(format!("taskd node undrain {node}")))
    }

    /// Its kind has a quota, and as many run.
    fn why_quota(&self, need: &Need) -> Option<Reason> {
        let kind = &need.kind;
        let (running, quota) = self.runners.of_kind(kind)?;
        if let Some(max) = quota.running.filter(|max| running >= *max) {
            return Some((
                format!("{running} tasks of kind {kind:?} run, and its quota is {max}"),
                Some(format!("taskd quota set {kind} --running N")),
            ));
        }
        let max = quota.per_node.filter(|_| self.runners.kind_is_full_on_all(need))?;
        Some((
            format!(
                "{max} tasks of kind {kind:?} run on each node that could run it, and that is its quota for a node"
            ),
            Some(format!("taskd quota set {kind} --per-node N")),
        ))
    }

    fn why_open(&self, now: Now, task: &Task) -> Reason {
        let attempt = attempt_id(task.id, task.attempt_count);
        let Some(open) = self.open.get(&attempt) else {
            return ("its attempt has just ended".to_owned(), None);
        };
        let number = attempt.number;
        let node = &open.node;
        let cancelling = task.state == TaskState::Cancelling;
        let runner = self.runners.get(node);
        let there = runner.is_some_and(|runner| {
            runner.life == Some(open.life)
                && runner.answered.is_some_and(|at| now.at.since(at) <= self.runners.fresh)
        });
        if !there && open.sent != Sent::Unsent {
            return self.why_lost(now, task, open);
        }
        if cancelling {
            let since = task.attempt(number).map_or(0, |kept| now.wall_ms.saturating_sub(kept.assigned_ms));
            let since = seconds(Duration::from_millis(since));
            return (
                format!(
                    "it is cancelled, and waits for node {node} to say that attempt {number}, assigned {since} ago, is gone"
                ),
                None,
            );
        }
        let stop = Some(format!("taskd task cancel {}", task.id));
        match open.sent {
            Sent::Unsent | Sent::InFlight => (format!("attempt {number} is on its way to node {node}"), stop),
            Sent::Unsure => (format!("node {node} is asked whether attempt {number} has reached it"), stop),
            Sent::Accepted => match self.drain_of(now, open) {
                Some((words, remedy)) => {
                    (format!("attempt {number} runs on node {node}{words}"), Some(remedy))
                }
                None => (format!("attempt {number} runs on node {node}"), stop),
            },
        }
    }

    /// The nodes of which nothing is heard although attempts of theirs may run: how many, and when their right ends.
    pub(crate) fn fences(&self, now: Now) -> Vec<FenceStatus> {
        let mut fences = Vec::new();
        for ((node, life), attempts) in &self.lives {
            let heard = self.runners.get(node).filter(|runner| runner.life == Some(*life));
            let answered = heard.and_then(|runner| runner.answered);
            // In a new term nobody has been heard of at first, which says nothing.
            let silent = match answered {
                Some(at) => now.at.since(at) > self.runners.fresh,
                None => now.at >= self.gone_from,
            };
            let sent: Vec<_> = attempts
                .iter()
                .filter(|attempt| self.open.get(attempt).is_some_and(|open| open.sent != Sent::Unsent))
                .collect();
            if !silent || sent.is_empty() {
                continue;
            }
            let runs_again = |attempt: &&&AttemptId| {
                self.db.get(attempt.task).is_some_and(|task| {
                    task.state == TaskState::Running && task.spec.on_lost != LostPolicy::Fail
                })
            };
            let over_in = self.fence.over_at(node, *life).since(now.at);
            fences.push(FenceStatus {
                node: node.clone(),
                attempts: sent.len() as u64,
                run_again: sent.iter().filter(runs_again).count() as u64,
                over_in_ms: u64::try_from(over_in.as_millis()).unwrap_or(u64::MAX),
            });
        }
        fences
    }

    fn why_lost(&self, now: Now, task: &Task, open: &Open) -> Reason {
        let left = seconds(self.fence.over_at(&open.node, open.life).since(now.at));
        let node = &open.node;
        let then = match (task.state, task.spec.on_lost) {
            (TaskState::Cancelling, _) => "it counts as cancelled",
            (_, LostPolicy::Fail) => "it ends as lost",
            _ => "it runs elsewhere",
        };
        (
            format!(
                "node {node}, which runs attempt {}, does not answer; unless it says that the attempt is gone, its right \
                 to run ends in {left}, and then {then}",
                task.attempt_count
            ),
            Some(if task.spec.rules().limits.is_empty() {
                format!("bring node {node} back, or submit with --on-lost requeue-now what may run twice")
            } else {
                format!("bring node {node} back: its locks are free only when nothing of it runs")
            }),
        )
    }
}

/// No node that runs its kind is one that it may run on.
fn why_unsuited<'a>(need: &Need, runners: impl Iterator<Item = &'a Runner>) -> Reason {
    let mut terms: Vec<_> = need.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    terms.extend(need.placing.iter().flat_map(|placing| &placing.require).map(ToString::to_string));
    let of_kind = runners.filter(|runner| runner.capacity.kinds.contains(&need.kind));
    let most = of_kind.map(|runner| runner.capacity.slots).max().unwrap_or(0);
    if most < need.slots() {
        return (
            format!(
                "it takes {} slots of one node, and no node that runs tasks of kind {:?} has more than {most}",
                need.slots(),
                need.kind
            ),
            Some("give a node more slots (node.slots), or submit it with fewer --slots".to_owned()),
        );
    }
    let slots = if need.slots() > 1 { format!(" and has {} slots", need.slots()) } else { String::new() };
    let terms = terms.join(", ");
    (
        format!("no node that runs tasks of kind {:?} carries {terms}{slots}", need.kind),
        Some(format!("give a node the labels {terms}; taskd node list shows those that there are")),
    )
}

fn why_final(task: &Task) -> Reason {
    let end = last_end(task);
    let retry = Some(format!("taskd task retry {}", task.id));
    if let Some(note) = &task.note {
        return (note.to_string(), retry);
    }
    match task.state {
        TaskState::Succeeded => (format!("attempt {} succeeded", task.attempt_count), None),
        TaskState::Cancelled => ("it was cancelled, and nothing of it runs".to_owned(), retry),
        TaskState::Dead => (
            format!(
                "it is out of attempts: {} failed and {} were lost; the last one ended with {end}",
                task.failed, task.lost
            ),
            retry,
        ),
        TaskState::Lost => (format!("its node was lost and its policy is to give up: {end}"), retry),
        TaskState::TimedOut => ("its last attempt ran longer than its run timeout".to_owned(), retry),
        _ if task.spec.retries.max > 0 => {
            (format!("its attempt ended with {end}, which no retry helps"), retry)
        }
        _ => (format!("its attempt ended with {end}, and it asked for no retry"), retry),
    }
}

fn last_end(task: &Task) -> String {
    let ends = task.attempts.iter().rev().filter_map(|attempt| attempt.end.as_ref());
    ends.map(ToString::to_string).next().unwrap_or_else(|| "nothing".to_owned())
}

fn seconds(duration: Duration) -> String {
    format!("{:.1} s", duration.as_secs_f64())
}
