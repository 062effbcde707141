//! People who submit jobs through any node, lose replies, submit again, cancel, and wait.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result};
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use serde::Deserialize;
use serde_json::Value;

use super::check::View;
use super::facts::SCRIPT;
use super::job::{self, Job};
use crate::load::Client;
use crate::noise::lock;
use crate::sys::{self, Interrupt};

/// Groups of jobs that are under way at a time.
const PEOPLE: u64 = 12;
/// A submission outlives any fault.
const PATIENCE: Duration = Duration::from_secs(60);
/// Longest that one look for ends may take.
const LOOK: Duration = Duration::from_secs(15);
/// A client that is killed is killed within this.
const LOST_MS_MAX: u64 = 120;
/// An idle cluster is faster than faults are.
const TASKS_PER_FAULT: usize = 100;

/// Where everything is written down.
#[derive(Debug)]
pub(super) struct Ledger {
    file: Mutex<File>,
    pub(super) path: PathBuf,
}

impl Ledger {
    /// One line, in one write.
    fn note(&self, line: &str) {
        // What is missing then shows up as such.
        let _ = lock(&self.file).write_all(format!("{line}\n").as_bytes());
    }
}

/// What the crowd shares.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) ledger: Ledger,
    pub(super) script: PathBuf,
    dir: PathBuf,
    seed: u64,
    wanted: usize,
    next: AtomicU64,
    pub(super) acknowledged: AtomicUsize,
    pub(super) faults: AtomicUsize,
    /// Clients that were killed before they could have had a reply.
    pub(super) lost_replies: AtomicUsize,
    /// Calls that came to nothing, by exit code.
    pub(super) failed: Mutex<BTreeMap<i32, u64>>,
    jobs: Mutex<Vec<Job>>,
    views: Mutex<BTreeMap<String, View>>,
    /// Nobody submits any more.
    closed: Interrupt,
    /// Nobody waits any more.
    given_up: Interrupt,
}

/// The threads.
#[derive(Debug)]
pub(super) struct Crowd {
    pub(super) shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl Crowd {
    /// Starts to submit until so many tasks are acknowledged.
    pub(super) fn start(client: &Client, dir: &Path, seed: u64, wanted: usize) -> Result<Self> {
        let (script, history) = (dir.join("attempt.sh"), dir.join("history"));
        fs::write(&script, SCRIPT)?;
        let file = File::options().create(true).append(true).open(&history)?;
        let shared = Arc::new(Shared {
            ledger: Ledger { file: Mutex::new(file), path: history },
            script,
            dir: dir.to_owned(),
            seed,
            wanted,
            next: AtomicU64::new(0),
            acknowledged: AtomicUsize::new(0),
            faults: AtomicUsize::new(0),
            lost_replies: AtomicUsize::new(0),
            failed: Mutex::default(),
            jobs: Mutex::default(),
            views: Mutex::default(),
            closed: Interrupt::default(),
            given_up: Interrupt::default(),
        });
        let threads = (0..PEOPLE)
            .map(|_| {
                let (client, shared) = (client.clone(), Arc::clone(&shared));
                thread::spawn(move || {
                    while !shared.is_done() {
                        if !shared.may_go_on() {
                            thread::sleep(sys::POLL);
                            continue;
                        }
                        let number = shared.next.fetch_add(1, Ordering::Relaxed);
                        Person::new(&client, &shared, number).play();
                    }
                })
            })
            .collect();
        Ok(Self { shared, threads })
    }

    /// Whether everybody has seen the end of what he submitted.
    pub(super) fn is_over(&self) -> bool {
        self.threads.iter().all(JoinHandle::is_finished)
    }

    /// Ends it, if it has not ended.
    pub(super) fn give_up(&mut self) {
        self.shared.closed.set();
        self.shared.given_up.set();
        for thread in self.threads.drain(..) {
            // A panic there has been printed; what is missing then shows up as such.
            let _ = thread.join();
        }
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        self.give_up();
    }
}

impl Shared {
    /// Whether there were as many faults as so many tasks are to have.
    fn may_go_on(&self) -> bool {
        let faults = self.faults.load(Ordering::Relaxed);
        self.acknowledged.load(Ordering::Relaxed) < (faults + 1) * TASKS_PER_FAULT
    }

    /// Whether nobody submits any more.
    pub(super) fn is_done(&self) -> bool {
        self.closed.is_set() || self.acknowledged.load(Ordering::Relaxed) >= self.wanted
    }

    /// Adds what taskd says of tasks, and notes those that are over.
    pub(super) fn seen(&self, found: Vec<View>) {
        for view in found {
            let mut views = lock(&self.views);
            let known = views.get(&view.id);
            if known.is_some_and(|known| known.revision >= view.revision) {
                continue;
            }
            let news = view.is_final() && !known.is_some_and(View::is_final);
            if news {
                self.ledger.note(&format!("D {} {}", view.id, view.state));
            }
            views.insert(view.id.clone(), view);
        }
    }

    /// Those that were last seen unfinished.
    pub(super) fn open(&self) -> Vec<View> {
        lock(&self.views).values().filter(|view| !view.is_final()).cloned().collect()
    }

    pub(super) fn jobs(&self) -> Vec<Job> {
        lock(&self.jobs).clone()
    }

    pub(super) fn views(&self) -> Vec<View> {
        lock(&self.views).values().cloned().collect()
    }
}

/// Somebody with a group of jobs.
struct Person<'a> {
    client: &'a Client,
    shared: &'a Shared,
    number: u64,
    random: StdRng,
}

#[derive(Deserialize)]
struct Answer {
    tasks: Vec<Answered>,
}

#[derive(Deserialize)]
struct Answered {
    #[serde(rename = "ref")]
    name: Option<String>,
    id: Option<String>,
}

impl<'a> Person<'a> {
    fn new(client: &'a Client, shared: &'a Shared, number: u64) -> Self {
        // Not the seed of the jobs: what is asked for and how are drawn apart.
        let seed = shared.seed.wrapping_mul(7_368_787).wrapping_add(number);
        Self { client, shared, number, random: StdRng::seed_from_u64(seed) }
    }

    fn play(&mut self) {
        let shared = self.shared;
        let jobs = job::group(shared.seed, self.number);
        lock(&shared.jobs).extend(jobs.iter().cloned());
        let Ok(file) = self.write(&jobs) else { return };
        let keyed = jobs.iter().any(|job| job.keyed);
        if keyed && self.random.random_ratio(1, 2) {
            self.lose(&file);
        }
        let mut tasks = self.submit(&file);
        shared.acknowledged.fetch_add(tasks.len(), Ordering::Relaxed);
        if keyed && self.random.random_ratio(1, 3) {
            // It has the same ids, or the checker says so.
            self.submit(&file);
        }
        let _ = fs::remove_file(&file);
        let mut to_cancel: Vec<_> = jobs
            .iter()
            .filter_map(|job| Some((job.cancel_after_ms?, tasks.get(&job.name)?.clone())))
            .collect();
        to_cancel.sort();
        let mut waited_ms = 0;
        for (after_ms, id) in to_cancel {
            thread::sleep(Duration::from_millis(after_ms.saturating_sub(waited_ms)));
            waited_ms = waited_ms.max(after_ms);
            self.cancel(&id);
        }
        while !tasks.is_empty() && !shared.given_up.is_set() {
            self.wait(&mut tasks);
        }
    }

    fn write(&self, jobs: &[Job]) -> Result<PathBuf> {
        let (script, history) =
            (self.shared.script.to_string_lossy(), self.shared.ledger.path.to_string_lossy());
        let run = format!("run-{}", self.shared.seed);
        let lines: String =
            jobs.iter().map(|job| format!("{}\n", job.line(&script, &history, &run))).collect();
        let file = self.shared.dir.join(format!("batch-{}.jsonl", self.number));
        fs::write(&file, lines).with_context(|| format!("failed to write {}", file.display()))?;
        Ok(file)
    }

    fn addresses(&mut self) -> Vec<String> {
        let mut addresses = self.client.addresses.clone();
        addresses.shuffle(&mut self.random);
        addresses
    }

    fn submission(&mut self, file: &Path) -> std::process::Command {
        let (addresses, patience) = (self.addresses(), format!("{}s", PATIENCE.as_secs()));
        let file = file.to_string_lossy();
        self.client.command(
            &addresses,
            &["task", "submit", "--batch", &file, "--submit-timeout", &patience, "-o", "json"],
        )
    }

    /// Submits, and is killed before, or while, the reply is on its way.
    fn lose(&mut self, file: &Path) {
        let mut command = self.submission(file);
        let spawned = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let Ok(mut child) = spawned else { return };
        thread::sleep(Duration::from_millis(self.random.random_range(0..LOST_MS_MAX)));
        // It may have ended by itself.
        let _ = child.kill();
        let _ = child.wait();
        self.shared.lost_replies.fetch_add(1, Ordering::Relaxed);
    }

    /// The ids of what was acknowledged, by job.
    fn submit(&mut self, file: &Path) -> BTreeMap<String, String> {
        let mut command = self.submission(file);
        let answer = sys::ask(&mut command, PATIENCE + Duration::from_secs(30));
        let (code, text) = answer.unwrap_or((-1, String::new()));
        if code != 0 {
            *lock(&self.shared.failed).entry(code).or_default() += 1;
        }
        let Ok(Answer { tasks }) = serde_json::from_str(&text) else { return BTreeMap::new() };
        let mut ids = BTreeMap::new();
        for task in tasks {
            let (Some(name), Some(id)) = (task.name, task.id) else { continue };
            self.shared.ledger.note(&format!("A {name} {id}"));
            ids.insert(name, id);
        }
        ids
    }

    fn cancel(&mut self, id: &str) {
        let addresses = self.addresses();
        let mut command = self.client.command(&addresses, &["task", "cancel", id, "-o", "json"]);
        // One that nobody answers, or that comes too late, cancels nothing that can be told.
        let Some((0, text)) = sys::ask(&mut command, PATIENCE) else { return };
        let view = serde_json::from_str::<Value>(&text).unwrap_or_default();
        if let Some(state) = view["state"].as_str() {
            self.shared.ledger.note(&format!("C {id} {state}"));
        }
    }

    /// Looks for the ends of tasks once more; takes those out that have ended.
    fn wait(&mut self, tasks: &mut BTreeMap<String, String>) {
        let addresses = self.addresses();
        let patience = format!("{}s", LOOK.as_secs());
        let mut args = vec!["task", "wait", "--timeout", &patience, "-o", "json"];
        args.extend(tasks.values().map(String::as_str));
        let mut command = self.client.command(&addresses, &args);
        // 1 = some did not end well, or not in time: then nothing is printed.
        let Some((_, text)) = sys::ask(&mut command, LOOK * 4) else { return };
        match serde_json::from_str::<Vec<View>>(&text) {
            Ok(views) => {
                tasks.retain(|_, id| !views.iter().any(|view| view.id == *id && view.is_final()));
                self.shared.seen(views);
            }
            // Nobody answers, or it is not over yet.
            Err(_) => thread::sleep(Duration::from_millis(200)),
        }
    }
}
