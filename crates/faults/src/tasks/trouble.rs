//! What is done to the cluster while tasks run: one thing at a time, each made well again.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use clap::ValueEnum;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rand::RngExt as _;
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom as _, SliceRandom as _};

use crate::lab::Lab;
use crate::sys;

/// A node that is away for so long comes back behind its tasks' fence: 10 s, and drift.
const AWAY: Duration = Duration::from_millis(13_500);
const HANDOVER: Duration = Duration::from_secs(10);

/// A fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Trouble {
    /// `kill -9` of the leader; it is started again.
    LeaderKilled,
    /// `kill -9` of another node; it is started again.
    NodeKilled,
    /// `kill -9` of a node, which comes back when its tasks' right to run is over.
    NodeAway,
    /// An orderly stop of any node, and a start.
    NodeRestarted,
    /// The leader is stopped for 1 to 3 T.
    LeaderPaused,
    /// Another node is.
    NodePaused,
    /// A node hears nobody and is heard by nobody for 1 to 3 T.
    NodeCut,
    /// Some shims are killed, and with them what they watch over.
    ShimsKilled,
    /// The leader hands over.
    Handover,
    /// A ZooKeeper server is killed and started.
    ServerKilled,
    /// ZooKeeper's leader stands still for 1 to 3 T.
    ServerPaused,
    /// All of ZooKeeper is killed, and started some seconds later.
    EnsembleDown,
}

impl Trouble {
    pub(super) fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    /// Does it, and makes it well again. What happened, for people.
    pub(super) fn play(self, lab: &mut Lab, leader: usize, random: &mut StdRng) -> Result<String> {
        let others: Vec<usize> = (0..lab.nodes.len()).filter(|index| *index != leader).collect();
        let other = others.choose(random).copied().unwrap_or(leader);
        let (t, net) = (lab.timing.timeout, Arc::clone(&lab.net));
        let some = t + t.mul_f64(random.random_range(0.0..2.0));
        let short = Duration::from_millis(random.random_range(0..3_000));
        let names: Vec<String> = lab.nodes.iter().map(|node| node.name.clone()).collect();
        let name = |index: usize| names[index].as_str();
        Ok(match self {
            Self::LeaderKilled | Self::NodeKilled | Self::NodeAway => {
                let victim = if self == Self::LeaderKilled { leader } else { other };
                let away = if self == Self::NodeAway { AWAY } else { short };
                lab.nodes[victim].kill()?;
                lab.interrupt.sleep(away)?;
                lab.nodes[victim].start(&net)?;
                format!("{} for {away:.1?}", name(victim))
            }
            Self::NodeRestarted => {
                let victim = random.random_range(0..lab.nodes.len());
                let stopped = lab.nodes[victim].stop(&net)?;
                lab.interrupt.sleep(short / 2)?;
                lab.nodes[victim].start(&net)?;
                format!("{}, which took {:.1?}", name(victim), stopped.took)
            }
            Self::LeaderPaused | Self::NodePaused => {
                let victim = if self == Self::LeaderPaused { leader } else { other };
                lab.nodes[victim].signal(Signal::SIGSTOP)?;
                lab.interrupt.sleep(some)?;
                lab.nodes[victim].signal(Signal::SIGCONT)?;
                format!("{} for {some:.1?}", name(victim))
            }
            Self::NodeCut => {
                let victim = random.random_range(0..lab.nodes.len());
                net.filter(name(victim), &[("in", "iifname eth0 drop"), ("out", "oifname eth0 drop")])?;
                lab.interrupt.sleep(some)?;
                net.pass(name(victim))?;
                format!("{} for {some:.1?}", name(victim))
            }
            Self::ShimsKilled => {
                let victim = random.random_range(0..lab.nodes.len());
                let mut shims: Vec<i32> =
                    net.pids(name(victim)).into_iter().filter(|pid| is_shim(*pid)).collect();
                shims.shuffle(random);
                shims.truncate(random.random_range(1..=3));
                for pid in &shims {
                    // One that has just ended by itself is as good.
                    let _ = kill(Pid::from_raw(*pid), Signal::SIGKILL);
                }
                format!("{} of {}", shims.len(), name(victim))
            }
            Self::Handover => {
                let mut command = lab.client.command(&lab.client.addresses, &["cluster", "handover"]);
                let answer = sys::ask(&mut command, HANDOVER);
                format!("exit {:?}", answer.map(|(code, _)| code))
            }
            Self::ServerKilled => {
                let victim = random.random_range(0..lab.servers.len());
                lab.servers[victim].kill()?;
                lab.interrupt.sleep(short)?;
                lab.servers[victim].start(&net)?;
                format!("{} for {short:.1?}", lab.servers[victim].host)
            }
            Self::ServerPaused => {
                let victim = lab.ensemble_leader()?;
                lab.servers[victim].signal(Signal::SIGSTOP)?;
                lab.interrupt.sleep(some)?;
                lab.servers[victim].signal(Signal::SIGCONT)?;
                format!("{}, which led, for {some:.1?}", lab.servers[victim].host)
            }
            Self::EnsembleDown => {
                for server in &mut lab.servers {
                    server.kill()?;
                }
                lab.interrupt.sleep(short)?;
                for server in &mut lab.servers {
                    server.start(&net)?;
                }
                format!("for {short:.1?} and the time that it takes to start")
            }
        })
    }
}

/// Whether a process is the supervisor of one task: neither a daemon nor the first process of a task's own tree.
fn is_shim(pid: i32) -> bool {
    let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let mut args = command.split(|byte| *byte == 0);
    args.next() == Some(b"taskd-shim") && args.any(|arg| arg.starts_with(b"/"))
}

/// Deals every kind before any comes again.
#[derive(Debug)]
pub(super) struct Deck {
    kinds: Vec<Trouble>,
    left: Vec<Trouble>,
}

impl Deck {
    pub(super) fn new(only: &[Trouble]) -> Self {
        let kinds = if only.is_empty() { Trouble::value_variants() } else { only };
        Self { kinds: kinds.to_vec(), left: Vec::new() }
    }

    pub(super) fn deal(&mut self, random: &mut StdRng) -> Trouble {
        if self.left.is_empty() {
            self.left = self.kinds.clone();
            self.left.shuffle(random);
        }
        self.left.pop().unwrap_or(Trouble::LeaderKilled)
    }
}
