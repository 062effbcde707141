//! Boot and stop: over the leftovers of a crash, in the middle of things, and in bounded time.

use std::time::Duration;

use nix::sys::signal::Signal;
use proto::Incarnation;
use proto::task::{AttemptEnd, TaskSpec};
use runner::{BootFailure, Runner, Task, TaskService, Unfit, Work};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::common::{
    Link, MODES, Node, Sleeper, Stubborn, attempt, eventually, options, sh, shim_pid, signal,
};
use crate::host::Host;

#[tokio::test]
async fn a_boot_ends_what_a_crashed_predecessor_left_before_it_says_so() {
    for (salt, (mode, shim_is_stopped)) in
        (201..).zip(MODES.into_iter().flat_map(|mode| [(mode, false), (mode, true)]))
    {
        let (dir, link, sleeper) = (tempfile::tempdir().unwrap(), Link::new(), Sleeper::new(salt));
        let host = Host::start(dir.path(), &sleeper, mode).await;
        if shim_is_stopped {
            signal(shim_pid(dir.path(), attempt(1)), Signal::SIGSTOP);
        }
        let in_use = Runner::new(options(dir.path(), &link, 2)).boot(CancellationToken::new()).await;
        assert!(matches!(in_use.map(|_| ()), Err(BootFailure::InUse { .. })));
        host.kill();
        let node = Node::boot(options(dir.path(), &link, 2), &link).await;
        assert!(sleeper.is_gone(), "{mode:?}, stopped: {shim_is_stopped}");
        assert_eq!(
            link.with(|leader| leader.beats[0].ended_incarnations.clone()),
            [Incarnation::from_u128(1)]
        );
        assert!(matches!(link.end_of(attempt(1)).await, AttemptEnd::Lost { .. }));
        node.stop().await;
    }
}

#[tokio::test]
async fn a_daemon_killed_at_any_moment_of_a_start_leaves_nothing_to_its_successor() {
    for (salt, (mode, moment)) in
        (231..).zip(MODES.into_iter().flat_map(|mode| (0..10).map(move |n| (mode, n))))
    {
        let (dir, link, sleeper) = (tempfile::tempdir().unwrap(), Link::new(), Sleeper::new(salt));
        let host = Host::spawn(dir.path(), &sleeper, mode);
        let begun = dir.path().join(format!("runner/attempts/{}", attempt(1)));
        eventually("the start", || begun.exists().then_some(())).await;
        tokio::time::sleep(Duration::from_micros(moment * 700)).await;
        host.kill();
        let node = Node::boot(options(dir.path(), &link, 2), &link).await;
        assert!(sleeper.is_gone(), "{mode:?}, moment {moment}");
        assert!(matches!(link.end_of(attempt(1)).await, AttemptEnd::Lost { .. }));
        node.stop().await;
        assert!(sleeper.is_gone(), "{mode:?}, moment {moment}: a shim that was late");
    }
}

#[tokio::test]
async fn a_boot_cancelled_at_any_moment_leaves_nothing() {
    let (dir, link, sleeper) = (tempfile::tempdir().unwrap(), Link::new(), Sleeper::new(211));
    Host::start(dir.path(), &sleeper, MODES[0]).await.kill();
    signal(shim_pid(dir.path(), attempt(1)), Signal::SIGSTOP);
    let mut cancelled = 0;
    for life in 2..22 {
        let cancel = CancellationToken::new();
        let boot = Runner::new(options(dir.path(), &link, life)).boot(cancel.clone());
        let cancelling = async {
            tokio::time::sleep(Duration::from_millis(life as u64 - 2)).await;
            cancel.cancel();
        };
        let (booted, ()) = tokio::join!(boot, cancelling);
        match booted {
            Err(BootFailure::Cancelled) => cancelled += 1,
            Err(failure) => panic!("{failure}"),
            Ok(runner) => drop(runner.drain().stop(Duration::from_secs(2)).await),
        }
    }
    assert!(cancelled > 10, "only {cancelled} boots were cancelled in time");
    let node = Node::boot(options(dir.path(), &link, 99), &link).await;
    assert!(sleeper.is_gone());
    let ended = link.with(|leader| leader.beats.last().unwrap().ended_incarnations.clone());
    assert!(ended.contains(&Incarnation::from_u128(1)), "{ended:?}");
    node.stop().await;
}

#[tokio::test]
async fn a_copied_directory_claims_nothing_of_the_other_machine() {
    let (dir, link) = (tempfile::tempdir().unwrap(), Link::new());
    link.with(|leader| leader.acknowledges = false);
    let node = Node::boot(options(dir.path(), &link, 1), &link).await;
    node.start(attempt(1), sh("true")).await;
    link.end_of(attempt(1)).await;
    node.stop().await;
    let elsewhere = Link::new();
    let mut options = options(dir.path(), &elsewhere, 2);
    options.machine_id = "another".to_owned();
    let node = Node::boot(options, &elsewhere).await;
    assert!(elsewhere.with(|leader| leader.beats.iter().all(|beat| beat.ended_incarnations.is_empty())));
    assert_eq!(node.handle.status().borrow().unacknowledged, 0);
    node.stop().await;
}

#[tokio::test]
async fn a_stop_ends_the_stubborn_in_bounded_time_and_says_so() {
    for (salt, mode) in (221..).zip(MODES) {
        let (dir, link, sleeper) = (tempfile::tempdir().unwrap(), Link::new(), Sleeper::new(salt));
        let mut options = options(dir.path(), &link, 1);
        options.pid_namespace = mode;
        let node = Node::boot(options, &link).await;
        node.start(
            attempt(1),
            sh(&format!("trap '' TERM; setsid {} & {}", sleeper.command(), sleeper.command())),
        )
        .await;
        node.start(attempt(2), TaskSpec::new("sleep", br#"{"ms": 100000}"#.to_vec())).await;
        sleeper.runs(2).await;
        // Of two, one cannot even be asked.
        signal(shim_pid(dir.path(), attempt(1)), Signal::SIGSTOP);
        let begun = Instant::now();
        let stopped = node.runner.drain().stop(Duration::from_secs(3)).await;
        assert!(begun.elapsed() < Duration::from_secs(3), "{mode:?}: {:?}", begun.elapsed());
        assert!(sleeper.is_gone(), "{mode:?}");
        assert!(stopped.report().is_clean() && stopped.report().undelivered == 0, "{:?}", stopped.report());
        for n in 1..=2 {
            let AttemptEnd::Lost { reason } = link.end_of(attempt(n)).await else { panic!("it was stopped") };
            assert_eq!(reason, "the node was stopped");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_that_leaves_something_is_not_clean() {
    let (dir, link, (hold, stubborn)) = (tempfile::tempdir().unwrap(), Link::new(), Stubborn::new());
    let mut options = options(dir.path(), &link, 1);
    options.services = options.services.with("stubborn", stubborn);
    let node = Node::boot(options, &link).await;
    node.start(attempt(1), TaskSpec::new("stubborn", vec![])).await;
    hold.begun().await;
    let stopped = node.runner.drain().stop(Duration::from_millis(500)).await;
    assert!(!stopped.report().is_clean(), "{:?}", stopped.report());
}

#[tokio::test]
async fn a_stop_hastens_what_was_being_ended_already() {
    let (dir, link) = (tempfile::tempdir().unwrap(), Link::new());
    let mut options = options(dir.path(), &link, 1);
    options.kill_grace = Duration::from_secs(2);
    options.services = options.services.with("deaf", Deaf);
    let node = Node::boot(options, &link).await;
    node.start(attempt(1), TaskSpec::new("deaf", vec![])).await;
    node.cancel(attempt(1)).await;
    let stopped = node.runner.drain().stop(Duration::from_secs(1)).await;
    assert!(stopped.report().is_clean(), "{:?}", stopped.report());
    assert_eq!(link.end_of(attempt(1)).await, AttemptEnd::Cancelled);
}

/// Does not listen, but lets itself be dropped.
#[derive(Debug)]
struct Deaf;

impl TaskService for Deaf {
    fn prepare(&self, _: Task) -> Result<Work, Unfit> {
        Ok(Work::InProcess(Box::pin(std::future::pending())))
    }
}

#[tokio::test]
async fn ends_are_reported_by_every_life_until_one_is_acknowledged() {
    let (dir, link) = (tempfile::tempdir().unwrap(), Link::new());
    link.with(|leader| leader.acknowledges = false);
    let node = Node::boot(options(dir.path(), &link, 1), &link).await;
    node.start(attempt(1), sh("exit 4")).await;
    link.end_of(attempt(1)).await;
    let stopped = node.runner.drain().stop(Duration::from_secs(3)).await;
    assert_eq!(stopped.report().undelivered, 1);

    let link = Link::new();
    let node = Node::boot(options(dir.path(), &link, 2), &link).await;
    assert_eq!(link.end_of(attempt(1)).await, AttemptEnd::Exited { code: 4 });
    eventually("the acknowledgement", || (node.handle.status().borrow().unacknowledged == 0).then_some(()))
        .await;
    node.stop().await;

    let link = Link::new();
    let node = Node::boot(options(dir.path(), &link, 3), &link).await;
    node.start(attempt(2), TaskSpec::new("noop", vec![])).await;
    link.end_of(attempt(2)).await;
    assert_eq!(link.outcome(attempt(1)), None, "acknowledged is over");
    assert_eq!(node.output(attempt(1), 0).await.map(|chunk| chunk.complete), Ok(true), "its output is kept");
    node.stop().await;
}

/// Whoever answers heartbeats takes ends as well: a new leader counts their slots as taken until it has heard of them.
#[tokio::test]
async fn ends_are_offered_with_every_answered_heartbeat() {
    let (dir, link) = (tempfile::tempdir().unwrap(), Link::new());
    let mut options = options(dir.path(), &link, 1);
    // Far more often than a report is tried again by itself.
    options.heartbeat = Duration::from_millis(20);
    let node = Node::boot(options, &link).await;
    link.with(|leader| leader.acknowledges = false);
    node.start(attempt(1), TaskSpec::new("noop", vec![])).await;
    eventually("the end is reported", || link.with(|leader| (leader.reports > 0).then_some(()))).await;
    let (beats, reports) = link.with(|leader| (leader.beats.len(), leader.reports));
    eventually("twenty heartbeats", || link.with(|leader| (leader.beats.len() >= beats + 20).then_some(())))
        .await;
    let reports = link.with(|leader| leader.reports) - reports;
    assert!(reports >= 10, "{reports} reports in 20 heartbeats");
    link.with(|leader| leader.acknowledges = true);
    node.stop().await;
}
