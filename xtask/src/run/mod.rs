//! `cargo xtask run`: a local cluster of real processes.

pub(crate) mod client;
pub(crate) mod cluster;
pub(crate) mod coordinator;
pub(crate) mod demo;
pub(crate) mod logs;
pub(crate) mod progress;
mod restart;
pub(crate) mod trace;

use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;

use self::cluster::{Cluster, Plan};
use self::restart::Restarts;
use crate::shell::Interrupt;
use crate::workspace::Workspace;

/// Starts a cluster, follows its logs, starts nodes that die again, and stops it all when the person presses Ctrl-C.
pub(crate) fn interactive(workspace: &Workspace, plan: &Plan) -> Result<()> {
    let interrupt = Interrupt::install()?;
    let mut cluster = Cluster::start(workspace, plan, &interrupt)?;
    print!("{}", cluster.welcome()?);
    let mut follower = cluster.follower();
    let mut restarts = Restarts::default();
    while !interrupt.is_set() {
        for line in follower.lines() {
            println!("{line}");
        }
        for (name, status) in cluster.ended()? {
            let said = restarts.ended(&name, status, Instant::now());
            println!("{said}; its log: {}", cluster.log(&name).display());
        }
        for name in restarts.due(Instant::now()) {
            let index = cluster.index_of(&name)?;
            cluster.start_node(index)?;
            println!("{name} is started again");
        }
        thread::sleep(Duration::from_millis(100));
    }
    println!("\nstopping");
    let stopped = cluster.stop();
    for line in follower.lines() {
        println!("{line}");
    }
    print!("{}", stopped?);
    Ok(())
}
