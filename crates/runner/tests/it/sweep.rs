//! A boot cancelled or dropped at every await point, over whatever its predecessor left, and a stop dropped at every one
//! of its own: nothing is left behind that the next boot would not end, and it does end it.

use std::fs::File;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Duration;

use proto::task::TaskSpec;
use runner::{BootFailure, Runner};
use testkit::sweep::{Moment, act_at, drop_at};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use crate::common::{Link, Node, Sleeper, attempt, eventually, options, sh};

/// More than enough.
const STOP: Duration = Duration::from_secs(4);

/// What the predecessor left.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Left {
    Nothing,
    /// An attempt that had not been started yet.
    Record,
    /// An attempt with a process that does not end by itself.
    Process,
}

/// Whether there is time for all of it.
fn full() -> bool {
    std::env::var("TASKD_SWEEP_FULL").as_deref() == Ok("1")
}

/// How the boot is given up.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Way {
    Cancel,
    Drop,
}

/// A process that is killed and waited for whatever happens.
struct Leftover(Child);

impl Leftover {
    fn is_alive(&mut self) -> bool {
        self.0.try_wait().unwrap().is_none()
    }
}

impl Drop for Leftover {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn leave(dir: &Path, left: Left) -> Option<Leftover> {
    if left == Left::Nothing {
        return None;
    }
    let attempt_dir = dir.join(format!("runner/attempts/{}", attempt(1)));
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&attempt_dir).unwrap();
    std::fs::write(attempt_dir.join("start.json"), "{}").unwrap();
    (left == Left::Process).then(|| {
        let marker = attempt_dir.canonicalize().unwrap();
        Leftover(Command::new("sleep").arg("1000").env("TASKD_ATTEMPT_DIR", marker).spawn().unwrap())
    })
}

/// Everything in the directory, as paths in it.
fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(next) = dirs.pop() {
        for entry in std::fs::read_dir(next).into_iter().flatten().flatten() {
            found.push(entry.path().strip_prefix(dir).unwrap().to_owned());
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                dirs.push(entry.path());
            }
        }
    }
    found
}

fn no_temporary_file(dir: &Path, when: &str) {
    let files = files(dir);
    assert!(
        files.iter().all(|file| file.extension().is_none_or(|ending| ending != "tmp")),
        "{when}: {files:?}"
    );
}

/// Whether nobody holds the directory. What nobody has created yet, nobody holds.
fn is_free(dir: &Path) -> bool {
    File::open(dir.join("runner/lock")).is_ok_and(|lock| lock.try_lock().is_ok())
        || !dir.join("runner/lock").exists()
}

async fn no_task(before: usize, when: &str) {
    let metrics = Handle::current().metrics();
    eventually(&format!("the end of every task: {when}"), || {
        (metrics.num_alive_tasks() <= before).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_boot_given_up_at_every_await_point_leaves_nothing() {
    for left in [Left::Nothing, Left::Record] {
        for way in [Way::Cancel, Way::Drop] {
            give_up_boots(left, way).await;
        }
    }
}

#[tokio::test]
async fn a_boot_cancelled_while_it_ends_a_predecessor_leaves_that_to_the_next() {
    give_up_boots(Left::Process, Way::Cancel).await;
}

#[tokio::test]
async fn a_boot_dropped_while_it_ends_a_predecessor_leaves_that_to_the_next() {
    give_up_boots(Left::Process, Way::Drop).await;
}

async fn give_up_boots(left: Left, way: Way) {
    // While something is being ended it is the same few await points again and again.
    let step = if left == Left::Process && !full() { 29 } else { 1 };
    let (mut combinations, mut cancelled) = (0, 0);
    for moment in Moment::ALL {
        for point in (0..9).chain((9..).step_by(step)) {
            combinations += 1;
            let when = format!("{left:?}, {way:?} at {point}, {moment:?}");
            let (dir, link) = (tempfile::tempdir().unwrap(), Link::new());
            let mut leftover = leave(dir.path(), left);
            let mut is_gone = || leftover.as_mut().is_none_or(|leftover| !leftover.is_alive());
            let tasks = Handle::current().metrics().num_alive_tasks();
            let cancel = CancellationToken::new();
            let boot = Runner::new(options(dir.path(), &link, 1)).boot(cancel.clone());
            let (booted, reached) = match way {
                Way::Cancel => {
                    let ended = act_at(point, moment, boot, || cancel.cancel()).await;
                    (Some(ended.output), ended.reached)
                }
                Way::Drop => {
                    let booted = drop_at(point, moment, boot).await;
                    let reached = booted.is_none();
                    (booted, reached)
                }
            };
            match booted {
                Some(Ok(runner)) => {
                    assert!(is_gone(), "{when}: it booted over a living process");
                    let stopped = runner.drain().stop(STOP).await;
                    assert!(stopped.report().is_clean(), "{when}: {:?}", stopped.report());
                }
                Some(Err(BootFailure::Cancelled)) => cancelled += 1,
                Some(Err(failure)) => panic!("{when}: {failure}"),
                // Its last access to the disk goes on, but holds the directory until it is over.
                None => eventually("a free directory", || is_free(dir.path()).then_some(())).await,
            }
            assert!(is_free(dir.path()), "{when}: the directory is held");
            no_temporary_file(dir.path(), &when);
            no_task(tasks, &when).await;

            let node = Node::boot(options(dir.path(), &link, 2), &link).await;
            assert!(is_gone(), "{when}: the next boot left it running");
            node.stop().await;
            no_temporary_file(dir.path(), &when);
            if !reached {
                break;
            }
        }
    }
    eprintln!("{left:?}, {way:?}: {combinations} combinations, {cancelled} of them cancelled in time");
    let enough = combinations >= 8 && (way == Way::Drop || cancelled >= 6);
    assert!(enough, "only {cancelled} of {combinations} boots were given up in time");
}

#[tokio::test]
async fn a_stop_dropped_at_every_await_point_leaves_what_the_next_boot_ends() {
    let mut combinations = 0;
    for moment in Moment::ALL {
        for point in 0.. {
            combinations += 1;
            let when = format!("dropped at {point}, {moment:?}");
            let (dir, link) = (tempfile::tempdir().unwrap(), Link::new());
            let sleeper = Sleeper::new(300 + combinations);
            let tasks = Handle::current().metrics().num_alive_tasks();
            let node = Node::boot(options(dir.path(), &link, 1), &link).await;
            node.start(attempt(1), sh(&format!("trap '' TERM; {} & wait; wait", sleeper.command()))).await;
            node.start(attempt(2), TaskSpec::new("sleep", br#"{"ms": 100000}"#.to_vec())).await;
            sleeper.runs(1).await;
            let Node { runner, handle, .. } = node;
            let stop = runner.drain().stop(STOP);
            let stopped = drop_at(point, moment, stop).await;
            if let Some(stopped) = &stopped {
                assert!(stopped.report().is_clean(), "{when}: {:?}", stopped.report());
                assert!(sleeper.is_gone(), "{when}: a clean stop left the task running");
            }
            eventually("the end of the loop", || handle.has_ended().then_some(())).await;
            no_task(tasks, &when).await;
            eventually("a free directory", || is_free(dir.path()).then_some(())).await;

            let node = Node::boot(options(dir.path(), &link, 2), &link).await;
            assert!(sleeper.is_gone(), "{when}: the next boot left it running");
            node.stop().await;
            no_temporary_file(dir.path(), &when);
            if stopped.is_some() {
                break;
            }
        }
    }
    eprintln!("{combinations} combinations");
}
