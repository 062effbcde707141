//! Three such nodes and their sessions.

use std::fmt;

use super::node::{Event, Job, Life, Node, Phase, QuorumThread};
use crate::report::Steps;

/// Where to start, and what to look for.
#[derive(Clone, Debug)]
pub struct Seed {
    /// The first state.
    pub start: State,
    /// One property alone: then the first path that is found is a shortest one.
    pub only: Option<&'static str>,
    /// A node whose session lives, whatever happens.
    pub steadfast: Option<usize>,
}

/// The cluster.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    /// Its nodes.
    pub nodes: [Node; 3],
    /// The next member's sequence.
    pub next_sequence: u8,
    /// Connections that may yet be lost.
    pub losses: u8,
    /// Sessions that may yet expire, and processes that may yet be told to stop.
    pub ends: u8,
}

/// A step of the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// The node creates its member node.
    Join(usize),
    /// It has read who leads.
    EnterRunning(usize),
    /// Its quorum thread does the next thing.
    Quorum(usize),
    /// Its runner's loop does.
    Runner(usize),
    /// Its connection to ZooKeeper is lost.
    Disconnect(usize),
    /// It is back, with the same session.
    Reconnect(usize),
    /// It stays away: ZooKeeper ends the session, the process is started anew.
    Expire(usize),
    /// Somebody tells the process to stop.
    Terminate(usize),
}

impl Seed {
    /// Three processes that have just connected, up to `losses` lost connections and `ends` ended sessions.
    pub fn new(losses: u8, ends: u8) -> Self {
        let nodes = [Node::fresh(), Node::fresh(), Node::fresh()];
        Self { start: State { nodes, next_sequence: 0, losses, ends }, only: None, steadfast: None }
    }

    /// From `start` on, with these budgets, while the session of `start`'s leader lives.
    pub fn aftermath(mut start: State, losses: u8, ends: u8) -> Self {
        (start.losses, start.ends) = (losses, ends);
        let steadfast = start.first();
        Self { start, only: None, steadfast }
    }

    /// The same, looking for `property` alone.
    pub fn only(mut self, property: &'static str) -> Self {
        self.only = Some(property);
        self
    }
}

impl State {
    /// Whom everybody takes for the leader.
    pub fn leader(&self) -> Option<&Node> {
        self.nodes.iter().filter(|node| node.sequence.is_some()).min_by_key(|node| node.sequence)
    }

    /// Everybody has joined, everybody takes the same node for the leader, it does not act as one, its threads wait for
    /// each other, and its client, connected, keeps its session alive.
    pub fn is_leaderless_for_good(&self) -> bool {
        let all = self.nodes.iter().all(|node| node.connected && node.sequence.is_some());
        all && self.leader().is_some_and(|node| node.is_deadlocked() && !node.acts())
    }

    /// What can happen.
    pub fn actions(&self, actions: &mut Vec<Action>) {
        for (index, node) in self.nodes.iter().enumerate() {
            if node.life != Life::Up {
                continue;
            }
            let idle = node.quorum == QuorumThread::Idle && node.events.is_empty();
            match node.phase {
                Phase::Connected if node.connected && idle => actions.push(Action::Join(index)),
                Phase::Joined if node.connected && idle => actions.push(Action::EnterRunning(index)),
                _ => {}
            }
            if node.clone().quorum_step(false) {
                actions.push(Action::Quorum(index));
            }
            if node.clone().runner_step() {
                actions.push(Action::Runner(index));
            }
            match (node.connected, node.sequence) {
                (true, _) if self.losses > 0 => actions.push(Action::Disconnect(index)),
                (true, _) => {}
                (false, _) => {
                    actions.push(Action::Reconnect(index));
                    if self.ends > 0 {
                        actions.push(Action::Expire(index));
                    }
                }
            }
            if self.ends > 0 && node.phase != Phase::Stopped {
                actions.push(Action::Terminate(index));
            }
        }
    }

    /// The state after `action`.
    pub fn after(&self, action: Action) -> Option<Self> {
        let mut next = self.clone();
        let before = self.first();
        match action {
            Action::Join(index) => {
                let node = &mut next.nodes[index];
                node.sequence = Some(next.next_sequence);
                node.phase = Phase::Joined;
                next.next_sequence += 1;
            }
            Action::EnterRunning(index) => {
                let node = &mut next.nodes[index];
                node.phase = Phase::Running;
                node.events.push_back(Event::EnterRunning);
            }
            Action::Quorum(index) => {
                let first = before == Some(index);
                next.nodes[index].quorum_step(first);
            }
            Action::Runner(index) => {
                next.nodes[index].runner_step();
            }
            Action::Disconnect(index) => {
                next.losses -= 1;
                next.nodes[index].connected = false;
            }
            Action::Reconnect(index) => next.nodes[index].connected = true,
            Action::Expire(index) => {
                next.ends -= 1;
                next.nodes[index] = Node::fresh();
            }
            Action::Terminate(index) => {
                next.ends -= 1;
                next.nodes[index].notify_stop();
            }
        }
        let now = next.first();
        if now != before {
            for node in &mut next.nodes {
                let told = node.phase == Phase::Running && !node.events.contains(&Event::RoleChanged);
                if told {
                    node.events.push_back(Event::RoleChanged);
                }
            }
        }
        Some(next)
    }

    fn first(&self) -> Option<usize> {
        let members = (0..3).filter(|index| self.nodes[*index].sequence.is_some());
        members.min_by_key(|index| self.nodes[*index].sequence)
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (index, what) = match self {
            Self::Join(index) => (index, "creates its member node"),
            Self::EnterRunning(index) => (index, "has read who leads: Joined -> Running"),
            Self::Quorum(index) => (index, "quorum thread"),
            Self::Runner(index) => (index, "runner thread"),
            Self::Disconnect(index) => (index, "loses its connection to ZooKeeper"),
            Self::Reconnect(index) => (index, "is connected again, with the same session"),
            Self::Expire(index) => (index, "stays away: its session ends, and it is started anew"),
            Self::Terminate(index) => (index, "is told to stop"),
        };
        write!(f, "node {} {what}", index + 1)
    }
}

/// A path in words: what was done, and what became of it.
pub fn tell(path: &Steps<State, Action>) -> String {
    let mut text = String::new();
    for (step, pair) in path.windows(2).enumerate() {
        let [(before, Some(action)), (after, _)] = pair else { continue };
        text.push_str(&format!("{:>2}. {action}{}\n", step + 1, consequence(before, after, *action)));
    }
    text
}

fn consequence(before: &State, after: &State, action: Action) -> String {
    let (Action::Quorum(index) | Action::Runner(index)) = action else {
        return match action {
            Action::Join(index) => {
                let sequence = after.nodes[index].sequence.unwrap_or_default();
                let first = after.first() == Some(index);
                format!(
                    " (sequence {sequence}{})",
                    if first { ", the lowest: everybody's leader" } else { "" }
                )
            }
            _ => String::new(),
        };
    };
    let (was, is) = (&before.nodes[index], &after.nodes[index]);
    let first = was.runner.as_ref().and_then(|queue| queue.front());
    let what = match action {
        Action::Runner(_) => match first {
            Some(Job::Boot) if was.connected => "BootRunner succeeds",
            Some(Job::Boot) => {
                "BootRunner fails and calls Stop: NotifyStop (state Stopped, event STOPPED), then sleeps until the quorum server has stopped"
            }
            Some(Job::Reset) => "destroys the runner and wakes StopRunner",
            _ => "leaves Stop",
        },
        _ => match (was.quorum, is.quorum) {
            (QuorumThread::Idle, QuorumThread::InStartService) => {
                "ENTER_RUNNING, StartService: starts the runner's thread, BootRunner is queued"
            }
            (QuorumThread::InStartService, _) if is.dispatcher => {
                "StartService is done; it leads: the dispatcher runs"
            }
            (QuorumThread::InStartService, _) if is.phase == Phase::Stopped => {
                "StartService is done; IsLeader() is false, the state is Stopped: no dispatcher"
            }
            (QuorumThread::InStartService, _) => "StartService is done; another one leads",
            (QuorumThread::Idle, QuorumThread::InStopRunner) => {
                "STOPPED, StopService: StopRunner queues its coroutine on the runner's loop and waits for it"
            }
            (_, QuorumThread::Exited) => "the service is stopped, the process ends",
            _ if is.dispatcher => "role changed: the dispatcher runs",
            _ => "role changed: no dispatcher",
        },
    };
    format!(": {what}")
}
