//! One node: its two threads, and what the ZooKeeper client thread keeps.

use std::collections::VecDeque;

/// `QuorumCluster::State`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    /// No member node yet.
    Connected,
    /// Its member node is there.
    Joined,
    /// It knows who leads.
    Running,
    /// `NotifyStop` was called.
    Stopped,
}

/// Whether the process is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Life {
    /// It runs.
    Up,
    /// It ended in order.
    Exited,
}

/// What the quorum thread is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum QuorumThread {
    /// It waits for the next event.
    Idle,
    /// In `StartService`: the runner's thread is started, the rest is not done.
    InStartService,
    /// In `StopRunner`: it waits on a condition variable for its coroutine on the runner's loop.
    InStopRunner,
    /// It has left its loop.
    Exited,
}

/// A coroutine on the runner's loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Job {
    /// `BootRunner`.
    Boot,
    /// `BootRunner`, in `Stop`: it sleeps until the quorum server has stopped.
    BootInStop,
    /// `runner_.reset()`, for whom `StopRunner` waits.
    Reset,
}

/// `QuorumClusterEvent`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// Start the service.
    EnterRunning,
    /// Who leads may have changed.
    RoleChanged,
    /// Stop the service.
    Stopped,
}

/// A node.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Node {
    /// Its process.
    pub life: Life,
    /// What it believes about its place in the cluster.
    pub phase: Phase,
    /// The client's connection; the session survives its loss.
    pub connected: bool,
    /// Of its member node, while the session lives.
    pub sequence: Option<u8>,
    /// What the quorum thread will be called with.
    pub events: VecDeque<Event>,
    /// What it does now.
    pub quorum: QuorumThread,
    /// The runner thread's queue; the first is what it does now. None: there is no such thread.
    pub runner: Option<VecDeque<Job>>,
    /// It dispatches tasks.
    pub dispatcher: bool,
}

impl Node {
    /// A process that has just connected.
    pub fn fresh() -> Self {
        Self {
            life: Life::Up,
            phase: Phase::Connected,
            connected: true,
            sequence: None,
            events: VecDeque::new(),
            quorum: QuorumThread::Idle,
            runner: None,
            dispatcher: false,
        }
    }

    /// Whether it does what a leader is for.
    pub fn acts(&self) -> bool {
        self.life == Life::Up && self.dispatcher && self.phase == Phase::Running
    }

    /// The quorum thread waits for a coroutine behind one that waits for the quorum thread.
    pub fn is_deadlocked(&self) -> bool {
        let first = self.runner.as_ref().and_then(|queue| queue.front());
        self.quorum == QuorumThread::InStopRunner && first == Some(&Job::BootInStop)
    }

    /// `NotifyStop`: once.
    pub(super) fn notify_stop(&mut self) {
        if self.phase != Phase::Stopped {
            self.phase = Phase::Stopped;
            self.events.push_back(Event::Stopped);
        }
    }

    /// What the quorum thread can do next. `first`: it has the lowest sequence.
    pub(super) fn quorum_step(&mut self, first: bool) -> bool {
        match self.quorum {
            QuorumThread::Idle => match self.events.pop_front() {
                Some(Event::EnterRunning) => {
                    self.runner = Some(VecDeque::from([Job::Boot]));
                    self.quorum = QuorumThread::InStartService;
                }
                Some(Event::RoleChanged) => {
                    // IsLeader() asks for the state, too.
                    self.dispatcher = first && self.phase == Phase::Running;
                }
                Some(Event::Stopped) => match &mut self.runner {
                    Some(queue) => {
                        queue.push_back(Job::Reset);
                        self.quorum = QuorumThread::InStopRunner;
                    }
                    None => self.exit(),
                },
                None => return false,
            },
            QuorumThread::InStartService => {
                self.dispatcher = first && self.phase == Phase::Running;
                self.quorum = QuorumThread::Idle;
            }
            // The reset has run: StopAndJoin.
            QuorumThread::InStopRunner if self.runner.as_ref().is_some_and(VecDeque::is_empty) => self.exit(),
            QuorumThread::InStopRunner | QuorumThread::Exited => return false,
        }
        true
    }

    /// The rest of `StopService`, and of the process.
    fn exit(&mut self) {
        (self.runner, self.dispatcher) = (None, false);
        self.quorum = QuorumThread::Exited;
        self.life = Life::Exited;
        // The session is closed in order.
        self.sequence = None;
    }

    /// What the runner's loop can do next.
    pub(super) fn runner_step(&mut self) -> bool {
        let Some(queue) = &mut self.runner else { return false };
        match queue.front() {
            // zk_db_.Initialize() needs ZooKeeper.
            Some(Job::Boot) if self.connected => {
                queue.pop_front();
            }
            Some(Job::Boot) => {
                queue[0] = Job::BootInStop;
                self.notify_stop();
            }
            Some(Job::Reset) => {
                queue.pop_front();
            }
            // `while (!IsStopped()) usleep(1'000'000)`; the quorum server has stopped when its thread has.
            Some(Job::BootInStop) if self.quorum == QuorumThread::Exited => {
                queue.pop_front();
            }
            Some(Job::BootInStop) | None => return false,
        }
        true
    }
}
