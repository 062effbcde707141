//! A light load while the faults go on: tasks through any node, and what became of them.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result};
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use serde::Deserialize;

use crate::net::Net;
use crate::noise::lock;
use crate::sys::{self, Interrupt};

/// Tasks that are submitted at once.
const SUBMITTERS: u64 = 2;
/// Between two of one submitter, at the most.
const PAUSE_MS_MAX: u64 = 700;
/// A submission outlives any fault.
const PATIENCE: Duration = Duration::from_secs(60);

/// A task tells when it starts, that it lives, and when it ends, on the clock that goes on over every step of the wall
/// clock.
const SCRIPT: &str = r#"#!/bin/sh
export PATH=/usr/local/bin:/usr/bin:/bin
trace=$1 pulses=$2
say() { read -r up _ </proc/uptime; echo "$1 $TASKD_TASK_ID $TASKD_ATTEMPT $up" >>"$trace" || exit 9; }
say S
while [ "$pulses" -gt 0 ]; do
    sleep 0.2
    pulses=$((pulses - 1))
    say P
done
say E
"#;

/// The command line of taskd, on the host from which people use the cluster.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    pub(crate) net: Arc<Net>,
    pub(crate) taskd: PathBuf,
    pub(crate) host: String,
    /// `IP:PORT` of each node.
    pub(crate) addresses: Vec<String>,
}

/// `taskd cluster status -o json`, as far as it matters here.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Status {
    pub(crate) health: String,
    pub(crate) summary: String,
    pub(crate) leader: Option<Leader>,
    pub(crate) members: Vec<Member>,
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Leader {
    pub(crate) node: String,
    pub(crate) serving: bool,
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Member {}

/// A task, as far as it matters here.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Task {
    pub(crate) id: String,
    pub(crate) state: String,
    pub(crate) attempt_count: u32,
}

impl Task {
    pub(crate) fn is_final(&self) -> bool {
        !matches!(self.state.as_str(), "queued" | "running" | "retrying" | "cancelling")
    }
}

#[derive(Deserialize)]
struct Page {
    tasks: Vec<Task>,
}

impl Client {
    /// `taskd` with these arguments, asking the first of these addresses that answers.
    pub(crate) fn command(&self, addresses: &[String], args: &[&str]) -> Command {
        let mut command = self.net.command(&self.host, &self.taskd);
        command.args(args).args(["--addr", &addresses.join(",")]);
        command
    }

    /// The cluster as a node sees it; that node if one is named, else the first that answers.
    pub(crate) fn status(&self, of: Option<usize>) -> Option<Status> {
        let addresses = of.map_or(&self.addresses[..], |index| &self.addresses[index..=index]);
        let mut command = self.command(addresses, &["cluster", "status", "-o", "json"]);
        let (code, text) = sys::ask(&mut command, Duration::from_secs(3))?;
        // 3 = an answer that is not healthy.
        if !matches!(code, 0 | 3) {
            return None;
        }
        serde_json::from_str(&text).ok()
    }

    /// Every task that the cluster knows.
    pub(crate) fn tasks(&self) -> Option<Vec<Task>> {
        let mut command = self.command(&self.addresses, &["task", "list", "--limit", "10000", "-o", "json"]);
        let (code, text) = sys::ask(&mut command, Duration::from_secs(10))?;
        let page: Page = (code == 0).then(|| serde_json::from_str(&text).ok())??;
        Some(page.tasks)
    }
}

/// The submitters. Dropping this ends them.
#[derive(Debug)]
pub(crate) struct Load {
    stop: Interrupt,
    acknowledged: Arc<Mutex<Vec<String>>>,
    failed: Arc<Mutex<BTreeMap<i32, u64>>>,
    threads: Vec<JoinHandle<()>>,
    trace: PathBuf,
}

impl Load {
    pub(crate) fn start(client: &Client, dir: &Path, seed: u64) -> Result<Self> {
        let (script, trace) = (dir.join("attempt.sh"), dir.join("trace"));
        fs::write(&script, SCRIPT)?;
        fs::write(&trace, "")?;
        let mut load = Self {
            stop: Interrupt::default(),
            acknowledged: Arc::default(),
            failed: Arc::default(),
            threads: Vec::new(),
            trace: trace.clone(),
        };
        for n in 0..SUBMITTERS {
            let (client, script, trace, stop) =
                (client.clone(), script.clone(), trace.clone(), load.stop.clone());
            let (acknowledged, failed) = (Arc::clone(&load.acknowledged), Arc::clone(&load.failed));
            let mut random = StdRng::seed_from_u64(seed.wrapping_add(n));
            load.threads.push(thread::spawn(move || {
                while stop.sleep(Duration::from_millis(random.random_range(50..PAUSE_MS_MAX))).is_ok() {
                    let mut addresses = client.addresses.clone();
                    addresses.shuffle(&mut random);
                    // Mostly short ones, and some that outlive a failover.
                    let pulses = if random.random_ratio(1, 8) {
                        random.random_range(10..25)
                    } else {
                        random.random_range(0..4)
                    };
                    let patience = format!("{}s", PATIENCE.as_secs());
                    let mut command =
                        client.command(&addresses, &["task", "submit", "--submit-timeout", &patience]);
                    command.args(["--", "sh"]).arg(&script).arg(&trace).arg(pulses.to_string());
                    match sys::ask(&mut command, PATIENCE + Duration::from_secs(20)) {
                        Some((0, id)) => lock(&acknowledged).push(id.trim().to_owned()),
                        other => *lock(&failed).entry(other.map_or(-1, |(code, _)| code)).or_default() += 1,
                    }
                }
            }));
        }
        Ok(load)
    }

    /// Ends the submitting; the ids that were acknowledged, and how many submissions failed, by exit code.
    pub(crate) fn finish(&mut self) -> (Vec<String>, BTreeMap<i32, u64>) {
        self.stop.set();
        for thread in self.threads.drain(..) {
            // A panic there has been printed; what is missing then shows up as such.
            let _ = thread.join();
        }
        (lock(&self.acknowledged).clone(), lock(&self.failed).clone())
    }

    /// What the tasks themselves wrote.
    pub(crate) fn trace(&self) -> Result<String> {
        fs::read_to_string(&self.trace).with_context(|| format!("failed to read {}", self.trace.display()))
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.finish();
    }
}
