//! `cargo xtask run`: a local cluster of real processes.

pub(crate) mod client;
pub(crate) mod cluster;
pub(crate) mod coordinator;
pub(crate) mod demo;
pub(crate) mod logs;
pub(crate) mod progress;
pub(crate) mod trace;

use std::thread;
use std::time::Duration;

use anyhow::Result;

use self::cluster::{Cluster, Plan};
use crate::shell::Interrupt;
use crate::workspace::Workspace;

/// Starts a cluster, follows its logs, and stops it when the person presses Ctrl-C.
pub(crate) fn interactive(workspace: &Workspace, plan: &Plan) -> Result<()> {
    let interrupt = Interrupt::install()?;
    let mut cluster = Cluster::start(workspace, plan, &interrupt)?;
    print!("{}", cluster.welcome()?);
    let mut follower = cluster.follower();
    while !interrupt.is_set() {
        for line in follower.lines() {
            println!("{line}");
        }
        for (name, status) in cluster.ended()? {
            println!("{name} ended ({status}); its log: {}", cluster.log(&name).display());
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
