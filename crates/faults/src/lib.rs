//! A cluster of real processes in network namespaces, hundreds of faults, and what came of them.
//!
//! ```text
//!            ┌──────────────── a bridge, in a namespace, too ────────────────┐
//!      z1 z2 z3  Debian's ZooKeeper      n1 n2 n3  taskd serve      people: submissions, cluster status
//! ```
//!
//! Each host is a network namespace with processes of its own; a fault is a rule of nftables there, a signal, a missing
//! route, a wall clock that is off. While the faults go on, tasks are submitted all the time. Afterwards
//!
//! - the histories that the nodes wrote are judged ([`history`]): safety, which no load of the machine excuses;
//! - the time until a leader served is measured from the *cause's end*, which is the fault itself while a majority of
//!   ZooKeeper and a healthy node remain; else when ZooKeeper had a leader again; else, for a fault that leaves nobody
//!   without it, the healing. A node that hears nothing, and is heard, keeps its session until its client gives the
//!   connection up after 2 T / 3: that is the cause's end then. Where ZooKeeper elects anew although the fault would not
//!   have it to, as on a machine that stood still, its election is a cause of its own, and is printed. Allowed are T + tick + 0.5 s; beyond that only what this
//!   machine itself lost in the meantime, which a thread measures that does nothing else and which is printed;
//! - every stop, at random moments within faults, ends within 5 s and leaves no process;
//! - every acknowledged task becomes final, and no two attempts of one overlap.

mod act;
mod batch;
pub mod history;
mod kind;
mod lab;
mod load;
mod net;
mod node;
mod noise;
mod report;
mod round;
mod sys;
pub mod tasks;
mod trace;
pub mod vips;
mod watch;
mod zookeeper;

use std::collections::{BTreeSet, VecDeque};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use nix::sched::{CloneFlags, unshare};

use crate::batch::Batch;
use crate::history::Timing;
use crate::node::Program;
use crate::noise::{Noise, lock};
use crate::sys::Interrupt;

pub use kind::Kind;
pub use report::Verdict;
pub use sys::Interrupted;

/// What to do.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// The daemon, built together with this program, which arms it
    #[arg(long, value_name = "FILE")]
    pub taskd: PathBuf,
    /// How many faults
    #[arg(long, default_value_t = 500)]
    pub faults: usize,
    /// What everything that is drawn comes from
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Only these kinds
    #[arg(long, value_delimiter = ',', value_name = "KIND,…")]
    pub only: Vec<Kind>,
    /// Clusters at a time
    #[arg(long, default_value_t = 2)]
    pub labs: usize,
    /// Faults on one cluster before it is taken down and a new one starts
    #[arg(long, default_value_t = 50)]
    pub batch: usize,
    /// How many clusters have ZooKeeper's defaults, T = 4 s and tick 2 s; the others have 2 s and 500 ms
    #[arg(long, default_value_t = 1)]
    pub default_timing: usize,
    /// Switch something on in every node, as in `plant:no-lease`: with a planted bug the run has to fail
    #[arg(long, value_name = "SPEC", default_value = "")]
    pub drill: String,
    /// Keep logs and histories here, not only after a violation
    #[arg(long, value_name = "DIR")]
    pub keep_logs: Option<PathBuf>,
    /// Where the clusters keep their data meanwhile [default: /dev/shm if it is there]
    #[arg(long, value_name = "DIR")]
    pub scratch: Option<PathBuf>,
}

impl Options {
    /// The kinds to draw from.
    pub(crate) fn kinds(&self) -> &[Kind] {
        if self.only.is_empty() { Kind::value_variants() } else { &self.only }
    }

    fn scratch(&self) -> PathBuf {
        let memory = Path::new("/dev/shm");
        let base = self.scratch.clone();
        base.unwrap_or_else(|| if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() })
            .join(format!("faults-{}", std::process::id()))
    }

    /// Where logs are kept.
    pub(crate) fn logs(&self) -> PathBuf {
        let ours = || std::env::temp_dir().join(format!("faults-{}-logs", std::process::id()));
        self.keep_logs.clone().unwrap_or_else(ours)
    }
}

/// Why this machine cannot do it, if it cannot.
pub fn missing() -> Option<String> {
    if !nix::unistd::geteuid().is_root() {
        return Some("network namespaces need root".to_owned());
    }
    // In a thread of its own: this process stays where it is.
    if !thread::spawn(|| unshare(CloneFlags::CLONE_NEWNET).is_ok()).join().unwrap_or_default() {
        return Some("this root may not create network namespaces (a container?)".to_owned());
    }
    let works = |program: &str, arg: &str| {
        let mut command = Command::new(program);
        sys::run(command.arg(arg)).is_ok()
    };
    for (program, arg, package) in [
        ("ip", "-V", "iproute2"),
        ("nft", "-v", "nftables"),
        ("setpriv", "--version", "util-linux"),
        ("java", "-version", "default-jre-headless"),
    ] {
        if !works(program, arg) {
            return Some(format!("{program} is missing: apt-get install {package}"));
        }
    }
    if !Path::new(zookeeper::JAR).exists() {
        return Some(format!("{} is missing: apt-get install zookeeper", zookeeper::JAR));
    }
    faketime().is_none().then(|| "libfaketime is missing: apt-get install libfaketime".to_owned())
}

/// What sets wall clocks off: Debian's libfaketime.
pub(crate) fn faketime() -> Option<PathBuf> {
    let libraries = fs::read_dir("/usr/lib").ok()?.flatten();
    let mut found =
        libraries.map(|entry| entry.path().join("faketime/libfaketimeMT.so.1")).filter(|path| path.exists());
    found.next()
}

/// What libfaketime leaves of processes that are killed: a semaphore and a page of shared memory each.
fn faketime_leavings() -> BTreeSet<PathBuf> {
    let shared = fs::read_dir("/dev/shm").into_iter().flatten().flatten();
    let ours = |name: &str| name.starts_with("faketime_shm_") || name.starts_with("sem.faketime_sem_");
    shared.filter(|entry| ours(&entry.file_name().to_string_lossy())).map(|entry| entry.path()).collect()
}

/// Runs all faults.
///
/// # Errors
/// A cluster could not be brought up or taken down, or somebody pressed Ctrl-C ([`Interrupted`]).
pub fn run(options: &Options) -> Result<Verdict> {
    let interrupt = Interrupt::install()?;
    net::sweep();
    let scratch = options.scratch();
    fs::create_dir_all(&scratch).with_context(|| format!("failed to create {}", scratch.display()))?;
    // Another build in the same folder must not swap the program under the clusters.
    let taskd = scratch.join("taskd");
    fs::copy(&options.taskd, &taskd)
        .with_context(|| format!("failed to copy {}", options.taskd.display()))?;
    let faketime = Some(faketime().context("libfaketime has gone")?);
    let (drill, config) = (options.drill.clone(), String::new());
    let program = Program { taskd, drill, faketime, config, unprivileged: false };
    let before = faketime_leavings();
    let done = batches(options, &program, &scratch, &interrupt);
    for left in faketime_leavings().difference(&before) {
        // They are small, and in nobody's way.
        let _ = fs::remove_file(left);
    }
    if let Err(error) = fs::remove_dir_all(&scratch) {
        eprintln!("warning: failed to remove {}: {error}", scratch.display());
    }
    done
}

fn batches(options: &Options, program: &Program, scratch: &Path, interrupt: &Interrupt) -> Result<Verdict> {
    let queue = Mutex::new(deal(options));
    let (noise, verdict, failure) = (Noise::start(), Mutex::new(Verdict::default()), Mutex::new(None));
    thread::scope(|scope| {
        for _ in 0..options.labs.max(1) {
            // The processes of a cluster end with the thread that started them.
            scope.spawn(|| {
                // Not locked while a batch is played.
                let next = || lock(&queue).pop_front();
                while let Some(batch) = next() {
                    match batch::run(&batch, options, program, scratch, &noise, interrupt) {
                        Ok(part) => lock(&verdict).merge(part),
                        Err(error) => {
                            // The others end, too.
                            interrupt.set();
                            lock(&failure)
                                .get_or_insert(error.context(format!("lab {} failed", batch.number)));
                        }
                    }
                }
            });
        }
    });
    match failure.into_inner().unwrap_or_default() {
        Some(error) => Err(error),
        None => Ok(verdict.into_inner().unwrap_or_default()),
    }
}

/// Splits the faults into clusters.
fn deal(options: &Options) -> VecDeque<Batch> {
    let quick = Timing {
        timeout: Duration::from_secs(2),
        margin: Duration::from_millis(600),
        tick: Duration::from_millis(500),
    };
    let default = Timing {
        timeout: Duration::from_secs(4),
        margin: Duration::from_millis(2_100),
        tick: Duration::from_secs(2),
    };
    let clusters = options.faults.div_ceil(options.batch.max(1)).max(options.labs.min(options.faults));
    // Faults last longer where T does: those clusters get half as many, and all end at about the same time.
    let weights: Vec<usize> =
        (0..clusters).map(|index| if index < options.default_timing { 1 } else { 2 }).collect();
    let total: usize = weights.iter().sum();
    let before = |index: usize| options.faults * weights[..index].iter().sum::<usize>() / total.max(1);
    (0..clusters)
        .map(|index| Batch {
            number: index + 1,
            faults: before(index + 1) - before(index),
            timing: if index < options.default_timing { default } else { quick },
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        options: Options,
    }

    #[test]
    fn every_fault_is_dealt_to_some_cluster() {
        for (faults, labs, clusters) in [(500, 2, 10), (40, 2, 2), (1, 2, 1), (101, 1, 3)] {
            let line =
                format!("faults --taskd x --faults {faults} --labs {labs} --batch 50 --default-timing 1");
            let batches = deal(&Line::parse_from(line.split(' ')).options);
            assert_eq!(batches.len(), clusters, "{line}");
            assert_eq!(batches.iter().map(|batch| batch.faults).sum::<usize>(), faults, "{line}");
            assert_eq!(batches.iter().filter(|batch| batch.timing.timeout.as_secs() == 4).count(), 1);
        }
    }
}
