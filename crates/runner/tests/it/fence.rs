//! The right to run: what has lost it is gone by its deadline, whoever is left to see to that.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use clock::{BootClock, Clock, ManualClock};
use nix::sys::signal::Signal;
use proto::Grant;
use proto::runner::{Refusal, Start};
use proto::task::AttemptEnd;
use runner::ExitPolicy;
use tokio::time::Instant;

use crate::common::{
    Link, MODES, Node, Sleeper, Stubborn, attempt, eventually, options, sh, shim_pid, signal,
};
use crate::host::{FENCE_AFTER, Host};

#[tokio::test]
async fn a_lapse_ends_what_runs_by_the_deadline_and_nothing_starts_after_it() {
    for (salt, mode) in (101..).zip(MODES) {
        let (dir, link, sleeper) = (tempfile::tempdir().unwrap(), Link::new(), Sleeper::new(salt));
        let fence_after = Duration::from_secs(2);
        link.with(|leader| leader.fence_after = fence_after);
        let mut options = options(dir.path(), &link, 1);
        options.pid_namespace = mode;
        let node = Node::boot(options, &link).await;
        node.start(attempt(1), sh(&format!("trap '' TERM; {}", sleeper.command()))).await;
        let mut late = proto::task::TaskSpec::new("sleep", br#"{"ms": 100000}"#.to_vec());
        node.start(attempt(2), late.clone()).await;
        sleeper.runs(1).await;
        link.with(|leader| leader.answers = false);
        let silent = Instant::now();
        eventually("the end", || sleeper.is_gone().then_some(())).await;
        assert!(silent.elapsed() < fence_after, "{mode:?}: gone only after {:?}", silent.elapsed());

        late.kind = "noop".to_owned();
        let start = || Start { attempt: attempt(3), spec: late.clone(), checkpoint: None };
        let refused = node.try_start(node.batch(vec![start()])).await;
        assert_eq!(refused, Err(Refusal::WrongGrant { current: None }));
        for n in 1..=2 {
            assert!(
                matches!(link.end_of(attempt(n)).await, AttemptEnd::Lost { .. }),
                "{mode:?}: attempt {n}"
            );
        }

        // The leader is back, and its answer to a beat without a grant is a new one.
        let beats = link.with(|leader| {
            leader.answers = true;
            leader.beats.len()
        });
        eventually("beats with the old grant", || {
            link.with(|leader| leader.beats.len() > beats + 2).then_some(())
        })
        .await;
        assert_eq!(node.handle.status().borrow().grant, None, "a lapsed grant never comes back");
        assert_eq!(link.with(|leader| leader.beats.last().unwrap().grant), None);
        link.with(|leader| leader.grant = Grant::next(leader.grant));
        node.has_grant().await;
        node.start(attempt(3), late.clone()).await;
        assert_eq!(link.end_of(attempt(3)).await, AttemptEnd::Exited { code: 0 });
        node.stop().await;
    }
}

#[tokio::test]
async fn answered_heartbeats_extend_the_right_to_run() {
    let (dir, link) = (tempfile::tempdir().unwrap(), Link::new());
    link.with(|leader| leader.fence_after = Duration::from_millis(1_500));
    let node = Node::boot(options(dir.path(), &link, 1), &link).await;
    node.start(attempt(1), sh("sleep 3")).await;
    assert_eq!(link.end_of(attempt(1)).await, AttemptEnd::Exited { code: 0 });
    node.stop().await;
}

#[tokio::test]
async fn shims_hold_the_deadline_when_the_daemon_is_killed_or_stopped() {
    let cases = MODES.into_iter().flat_map(|mode| [(mode, Signal::SIGKILL), (mode, Signal::SIGSTOP)]);
    for (salt, (mode, sent)) in (111..).zip(cases) {
        let (dir, sleeper) = (tempfile::tempdir().unwrap(), Sleeper::new(salt));
        let host = Host::start(dir.path(), &sleeper, mode).await;
        host.signal(sent);
        let begun = Instant::now();
        assert_eq!(sleeper.pids().len(), 2, "{mode:?}: the daemon's end alone ends nothing");
        eventually("the end", || sleeper.is_gone().then_some(())).await;
        assert!(begun.elapsed() < FENCE_AFTER, "{mode:?}, {sent}: gone only after {:?}", begun.elapsed());
    }
}

#[tokio::test]
async fn a_dead_shim_takes_its_tree_along() {
    for (salt, mode) in (121..).zip(MODES) {
        let (dir, link, sleeper) = (tempfile::tempdir().unwrap(), Link::new(), Sleeper::new(salt));
        let mut options = options(dir.path(), &link, 1);
        options.pid_namespace = mode;
        let node = Node::boot(options, &link).await;
        node.start(attempt(1), sh(&format!("setsid {} & {}", sleeper.command(), sleeper.command()))).await;
        sleeper.runs(2).await;
        signal(shim_pid(dir.path(), attempt(1)), Signal::SIGKILL);
        assert!(matches!(link.end_of(attempt(1)).await, AttemptEnd::Lost { .. }));
        assert!(sleeper.is_gone(), "{mode:?}: reported before the tree was gone");
        node.stop().await;
    }
}

#[tokio::test]
async fn a_stopped_shim_is_bypassed() {
    for (salt, mode) in (131..).zip(MODES) {
        let (dir, link, sleeper) = (tempfile::tempdir().unwrap(), Link::new(), Sleeper::new(salt));
        let mut options = options(dir.path(), &link, 1);
        options.pid_namespace = mode;
        let node = Node::boot(options, &link).await;
        node.start(attempt(1), sh(&format!("setsid {} & {}", sleeper.command(), sleeper.command()))).await;
        sleeper.runs(2).await;
        signal(shim_pid(dir.path(), attempt(1)), Signal::SIGSTOP);
        node.cancel(attempt(1)).await;
        assert_eq!(link.end_of(attempt(1)).await, AttemptEnd::Cancelled);
        assert!(sleeper.is_gone(), "{mode:?}: reported before the tree was gone");
        node.stop().await;
    }
}

/// Time passes all at once, as for a daemon that was paused.
#[tokio::test(flavor = "multi_thread")]
async fn only_work_inside_the_daemon_that_overruns_its_fence_asks_for_the_daemons_end() {
    let (dir, link, sleeper) = (tempfile::tempdir().unwrap(), Link::new(), Sleeper::new(141));
    let clock = Arc::new(ManualClock::default());
    clock.advance(Duration::from_nanos(BootClock.now().as_nanos()));
    let calls = Arc::new(AtomicUsize::new(0));
    let mut options = options(dir.path(), &link, 1);
    options.clock = clock.clone();
    options.exit_policy = Some(ExitPolicy::new({
        let calls = Arc::clone(&calls);
        move |_| {
            calls.fetch_add(1, Ordering::Relaxed);
        }
    }));
    let (hold, stubborn) = Stubborn::new();
    options.services = options.services.with("stubborn", stubborn);
    let node = Node::boot(options, &link).await;
    node.start(attempt(1), sh(&format!("trap '' TERM; {}", sleeper.command()))).await;
    sleeper.runs(1).await;
    clock.advance(Duration::from_secs(60));
    assert!(matches!(link.end_of(attempt(1)).await, AttemptEnd::Lost { .. }));
    assert!(sleeper.is_gone());
    assert_eq!(calls.load(Ordering::Relaxed), 0);

    link.with(|leader| leader.grant = Grant::next(leader.grant));
    node.has_grant().await;
    node.start(attempt(2), proto::task::TaskSpec::new("stubborn", vec![])).await;
    hold.begun().await;
    clock.advance(Duration::from_secs(60));
    eventually("the call", || (calls.load(Ordering::Relaxed) == 1).then_some(())).await;
    drop(hold);
    node.stop().await;
}
