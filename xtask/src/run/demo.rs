//! `cargo xtask run --demo`: a scrub of a directory tree as tasks, with the leader killed half-way.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::client::{Leader, Submission, Task, lock};
use super::cluster::{self, Cluster, Plan};
use super::progress::Bar;
use super::trace::{self, Run, Trace};
use crate::shell::{self, Interrupt, Interrupted};
use crate::stats;
use crate::workspace::Workspace;

/// How long the whole job may take; the failover takes 5 s of it, the tasks some 15 s.
const JOB_WITHIN: Duration = Duration::from_secs(240);
const SUBMIT_WITHIN: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// Each task digests its file, then takes its time, in fifths of a second.
const PULSES: u32 = 2;
/// Every so often one takes long enough to be still running when its node comes back.
const LONG_PULSES: u32 = 40;
const LONG_EVERY: usize = 20;
const FOLDERS: usize = 10;
const FILE_BYTES_MAX: usize = 256 * 1024;

/// Runs it. Fails unless everything that it promises holds.
pub(crate) fn run(workspace: &Workspace, plan: &Plan, small: bool) -> Result<()> {
    if plan.nodes < 2 {
        bail!("the demo kills a node, so it needs at least two: use --nodes 3");
    }
    let interrupt = Interrupt::install()?;
    let mut cluster = Cluster::start(workspace, plan, &interrupt)?;
    println!("{}\n{}", cluster.client().status()?.summary, cluster.coordination_line());
    let played = play(&mut cluster, if small { 90 } else { 300 }, &interrupt);
    if played.as_ref().is_err_and(|error| !error.is::<Interrupted>()) {
        cluster.keep_files();
    }
    let stopped = cluster.stop();
    played?;
    print!("{}", stopped?);
    println!("the demo held what it promises");
    Ok(())
}

fn play(cluster: &mut Cluster, files: usize, interrupt: &Interrupt) -> Result<()> {
    let tree = Tree::create(&cluster.dir().join("tree"), files)?;
    let expected = tree.digests()?;
    println!("{files} files to scrub; their digests were taken one by one, to compare with");
    let trace = Trace::create(cluster.dir())?;
    let submission = |(n, file): (usize, &PathBuf)| Submission {
        name: file.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        argv: trace.argv(if n % LONG_EVERY == 7 { LONG_PULSES } else { PULSES }, Some(file)),
    };
    let submissions: Vec<Submission> = tree.files.iter().enumerate().map(submission).collect();
    let accepted: Mutex<BTreeMap<String, usize>> = Mutex::default();
    let client = cluster.client();
    let (story, submitted) = thread::scope(|scope| {
        let submitter = scope.spawn(|| {
            client.submit_all(&submissions, SUBMIT_WITHIN, interrupt, &|index, id| {
                lock(&accepted).insert(id, index);
            })
        });
        let story = drive(cluster, &trace, files, &accepted, interrupt);
        (story, submitter.join().unwrap_or_else(|_| bail!("the submitter panicked")))
    });
    submitted?;
    let story = story?;
    let accepted = accepted.into_inner().unwrap_or_default();
    let (tasks, runs) = (client.tasks()?, trace.read()?);
    summarise(&story, &accepted, &tasks, &runs, |file, digest| {
        expected.get(&tree.files[file]).is_some_and(|expected| expected == digest)
    })
}

/// What happened, to be told at the end.
#[derive(Debug)]
struct Story {
    killed: String,
    /// Attempts that were running when the leader was killed.
    running: Vec<(String, u32)>,
    took: Duration,
}

/// Where the play is.
enum Act {
    Working,
    Leaderless { since: Instant, old: Leader, orphans: Vec<cluster::Process>, expired: bool },
    Restarting { since: Instant, old: Leader, orphans: Vec<cluster::Process>, back: bool },
    Finishing,
}

/// Shows the progress, kills the leader half-way, restarts it, and returns when every task is final.
fn drive(
    cluster: &mut Cluster,
    trace: &Trace,
    total: usize,
    accepted: &Mutex<BTreeMap<String, usize>>,
    interrupt: &Interrupt,
) -> Result<Story> {
    let (start, mut bar) = (Instant::now(), Bar::new());
    let mut act = Act::Working;
    let mut story = None;
    loop {
        interrupt.check()?;
        if start.elapsed() > JOB_WITHIN {
            bail!("the job did not end within {JOB_WITHIN:?}");
        }
        let runs = trace.read()?;
        let done: BTreeSet<&str> =
            runs.iter().filter(|run| run.finished.is_some()).map(|run| run.task.as_str()).collect();
        let at = |since: Instant| format!("  {:>6.2} s", since.elapsed().as_secs_f64());
        act = match act {
            Act::Working if done.len() * 2 >= total => match cluster.client().leader()? {
                None => Act::Working,
                Some(old) => {
                    let index = cluster.index_of(&old.node)?;
                    let daemon = cluster.pid(index).unwrap_or_default();
                    let mut orphans = cluster::processes_below(&cluster.data_dir(&old.node));
                    orphans.retain(|process| process.pid.cast_unsigned() != daemon);
                    cluster.kill_node(index)?;
                    let since = Instant::now();
                    bar.say(&format!(
                        "{} kill -9 of {}, the leader of epoch {}; {} processes of its tasks live on under their shims",
                        at(since), old.node, old.epoch, orphans.len()
                    ));
                    let alive = |run: &&Run| run.finished.is_none();
                    let running =
                        runs.iter().filter(alive).map(|run| (run.task.clone(), run.attempt)).collect();
                    story = Some((old.node.clone(), running));
                    Act::Leaderless { since, old, orphans, expired: false }
                }
            },
            Act::Leaderless { since, old, orphans, mut expired } => {
                let seen = cluster.client_of(|node| node.name != old.node).status().ok();
                let gone = |status: &super::client::Status| status.members.iter().all(|m| m.node != old.node);
                if let Some(status) = seen.as_ref().filter(|status| !expired && gone(status)) {
                    let timeout = stats::human(Duration::from_millis(status.coordination.session_timeout_ms));
                    bar.say(&format!("{} {}'s session (timeout {timeout}) has expired", at(since), old.node));
                    expired = true;
                }
                match seen.and_then(|status| status.leader).filter(|new| new.serving && new.epoch > old.epoch)
                {
                    None => Act::Leaderless { since, old, orphans, expired },
                    Some(new) => {
                        bar.say(&format!("{} {} leads and serves, epoch {}", at(since), new.node, new.epoch));
                        cluster.start_node(cluster.index_of(&old.node)?)?;
                        bar.say(&format!("{} {} is started again", at(since), old.node));
                        Act::Restarting { since, old, orphans, back: false }
                    }
                }
            }
            Act::Restarting { since, old, mut orphans, mut back } => {
                let before = orphans.len();
                orphans.retain(|process| Path::new(&format!("/proc/{}", process.pid)).exists());
                if before > 0 && orphans.is_empty() {
                    bar.say(&format!("{} the process groups of its last life are gone", at(since)));
                }
                let member =
                    |status: super::client::Status| status.members.iter().any(|m| m.node == old.node);
                if !back && cluster.client().status().is_ok_and(member) {
                    bar.say(&format!("{} {} is a member again", at(since), old.node));
                    back = true;
                }
                if back && orphans.is_empty() {
                    Act::Finishing
                } else {
                    Act::Restarting { since, old, orphans, back }
                }
            }
            Act::Working => Act::Working,
            Act::Finishing => {
                let ids: BTreeSet<String> = lock(accepted).keys().cloned().collect();
                if ids.len() == total && cluster.client().unfinished(&ids)?.is_empty() {
                    bar.say(&format!("{} every task is final", at(start)));
                    let (killed, running) = story.context("the leader was never killed")?;
                    return Ok(Story { killed, running, took: start.elapsed() });
                }
                Act::Finishing
            }
        };
        let running = runs.iter().filter(|run| run.finished.is_none()).count();
        bar.show(
            done.len(),
            total,
            &format!("done, {running} started and not finished, {} accepted", lock(accepted).len()),
        );
        thread::sleep(LOOK_EVERY);
    }
}

/// Prints what came out, and fails if anything is not as promised.
fn summarise(
    story: &Story,
    accepted: &BTreeMap<String, usize>,
    tasks: &[Task],
    runs: &[Run],
    same_digest: impl Fn(usize, &str) -> bool,
) -> Result<()> {
    let ids: BTreeSet<String> = accepted.keys().cloned().collect();
    let findings = trace::check(runs, tasks, &ids);
    let ours: BTreeMap<&str, &Task> =
        tasks.iter().filter(|task| ids.contains(&task.id)).map(|task| (task.id.as_str(), task)).collect();
    let count = |state: &str| ours.values().filter(|task| task.state == state).count();
    let (succeeded, lost) = (count("succeeded"), count("lost"));
    let attempts: u32 = ours.values().map(|task| task.attempt_count).sum();
    let node_of = |(task, number): &(String, u32)| {
        let attempt = ours.get(task.as_str())?.attempts.iter().find(|attempt| attempt.number == *number)?;
        Some(attempt.node.as_str())
    };
    let (on_killed, elsewhere): (Vec<_>, Vec<_>) =
        story.running.iter().partition(|run| node_of(run) == Some(story.killed.as_str()));
    let kept = elsewhere
        .iter()
        .filter(|(task, attempt)| {
            runs.iter().any(|run| run.task == *task && run.attempt == *attempt && run.finished.is_some())
        })
        .count();
    let again = on_killed
        .iter()
        .filter(|(task, n)| runs.iter().any(|run| run.task == *task && run.attempt > *n))
        .count();
    let matching = accepted
        .iter()
        .filter(|(id, file)| {
            let mut digests =
                runs.iter().filter(|run| run.task == **id).filter_map(|run| run.finished.as_deref());
            digests.next().is_some_and(|first| same_digest(**file, first))
                && digests.all(|d| same_digest(**file, d))
        })
        .count();
    let mut waits: Vec<Duration> = runs
        .iter()
        .filter(|run| run.attempt == 1)
        .filter_map(|run| Some((run, ours.get(run.task.as_str())?)))
        .map(|(run, task)| Duration::from_nanos(run.started_ns.saturating_sub(task.submitted_ms * 1_000_000)))
        .collect();
    waits.sort();
    let wait = |percent| stats::percentile(&waits, percent).map_or_else(|| "-".to_owned(), stats::human);

    let total = accepted.len();
    println!(
        "\ntasks                 {total}: {succeeded} succeeded, {} failed, {lost} lost",
        total - succeeded - lost
    );
    println!(
        "attempts              {attempts}: {} more than tasks ({} were cut short, {} ended unheard)",
        attempts.saturating_sub(u32::try_from(total)?),
        findings.cut_short,
        findings.unheard
    );
    println!(
        "running at the kill   {}: {kept} of {} on other nodes kept running; of {} on {}, {again} were run again",
        story.running.len(),
        elsewhere.len(),
        on_killed.len(),
        story.killed
    );
    println!("overlapping attempts  {}", trace::overlaps(runs).len());
    println!("digests               {matching} of {total} identical to the serial run");
    println!("submit to start       p50 {}, p99 {} (waiting for a slot included)", wait(50), wait(99));
    println!("took                  {}\n", stats::human(story.took));

    let mut broken = findings.violations;
    if succeeded != total {
        broken.push(format!("{} tasks did not succeed", total - succeeded));
    }
    if matching != total {
        broken.push(format!("{} digests differ or are missing", total - matching));
    }
    if kept != elsewhere.len() {
        broken.push(format!("{} attempts on living nodes did not survive", elsewhere.len() - kept));
    }
    if broken.is_empty() {
        Ok(())
    } else {
        broken.truncate(20);
        bail!("the demo broke its promises:\n  {}", broken.join("\n  "))
    }
}

/// Files to scrub, always the same.
#[derive(Debug)]
struct Tree {
    files: Vec<PathBuf>,
}

impl Tree {
    fn create(dir: &Path, count: usize) -> Result<Self> {
        let mut files = Vec::new();
        for n in 0..count {
            let folder = dir.join(format!("d{}", n % FOLDERS));
            fs::create_dir_all(&folder).with_context(|| format!("failed to create {}", folder.display()))?;
            let path = folder.join(format!("f{n:03}"));
            File::create(&path)?
                .write_all(&content(n))
                .with_context(|| format!("failed to write {}", path.display()))?;
            files.push(path);
        }
        Ok(Self { files })
    }

    /// The digests as one `sha256sum` over all files gives them.
    fn digests(&self) -> Result<BTreeMap<PathBuf, String>> {
        let output = shell::output(Command::new("sha256sum").args(&self.files), Duration::from_secs(60))?;
        if !output.status.success() {
            bail!("sha256sum failed ({}): {}", output.status, output.stderr.trim());
        }
        let parsed = output.stdout.lines().filter_map(|line| line.split_once("  "));
        Ok(parsed.map(|(digest, path)| (PathBuf::from(path), digest.to_owned())).collect())
    }
}

/// The bytes of the `n`th file: xorshift64, seeded by `n`.
fn content(n: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64 ^ (n as u64 + 1);
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let words = 1 + next() as usize % (FILE_BYTES_MAX / 8);
    (0..words).flat_map(|_| next().to_le_bytes()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::cluster::RunDir;

    #[test]
    fn the_tree_is_always_the_same_and_its_digests_are_complete() {
        let dir = RunDir::create(&std::env::temp_dir()).unwrap();
        let tree = |name: &str| Tree::create(&dir.path().join(name), 12).unwrap();
        let digests = |tree: &Tree| {
            let digests = tree.digests().unwrap();
            tree.files.iter().map(|file| digests[file].clone()).collect::<Vec<_>>()
        };
        let (a, b) = (digests(&tree("a")), digests(&tree("b")));
        assert_eq!(a, b);
        assert_eq!(a.iter().collect::<BTreeSet<_>>().len(), 12, "no two files are alike");
    }
}
