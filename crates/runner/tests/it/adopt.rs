//! What a daemon leaves running, and its successor goes on with.

use std::time::Duration;

use clock::{BootClock, Clock};
use nix::sys::signal::Signal;
use proto::runner::{Presence, Refusal, Start};
use proto::task::{AttemptEnd, TaskSpec};
use proto::{Grant, Incarnation};
use runner::Options;
use tokio::time::Instant;

use crate::common::{
    Link, MODES, Node, PATIENCE, Sleeper, attempt, eventually, options, sh, shim_pid, signal,
};
use crate::host::{FENCE_AFTER, Host};

fn adopting(dir: &std::path::Path, link: &Link, life: u128) -> Options {
    let mut options = options(dir, link, life);
    options.adopt = true;
    options
}

#[tokio::test]
async fn a_successor_goes_on_with_what_a_killed_daemon_ran() {
    for (salt, mode) in (401..).zip(MODES) {
        let (dir, link, sleeper) = (tempfile::tempdir().unwrap(), Link::new(), Sleeper::new(salt));
        let host = Host::start(dir.path(), &sleeper, mode).await;
        let pids = sleeper.pids();
        host.kill();
        let node = Node::boot(adopting(dir.path(), &link, 2), &link).await;
        assert_eq!(sleeper.pids(), pids, "{mode:?}: the very same processes");
        let first = link.with(|leader| leader.beats[0].clone());
        assert_eq!(
            (first.running, first.ended_incarnations),
            (vec![attempt(1)], vec![Incarnation::from_u128(1)]),
            "the first heartbeat lists it, so that no answer means another set"
        );
        assert_eq!(first.capacity.free, 7);
        assert_eq!(node.confirm(attempt(1)).await, Presence::Running);
        // A start that comes twice is one that is known.
        node.start(attempt(1), sh("exit 1")).await;
        let stale = Grant::new(proto::Epoch(1), 1);
        let mut batch = node.batch(vec![Start { attempt: attempt(9), spec: sh("true"), checkpoint: None }]);
        batch.grant = stale;
        assert!(matches!(node.try_start(batch).await, Err(Refusal::WrongGrant { .. })));
        // Beyond what its predecessor was granted: the answers to this life extend it.
        let beyond = Instant::now() + FENCE_AFTER + Duration::from_millis(500);
        tokio::time::sleep_until(beyond).await;
        assert_eq!(sleeper.pids(), pids, "{mode:?}");
        assert_eq!(node.cancel(attempt(1)).await, [Presence::Running]);
        assert_eq!(link.end_of(attempt(1)).await, AttemptEnd::Cancelled);
        assert!(sleeper.is_gone(), "{mode:?}: reported before the tree was gone");
        node.stop().await;
    }
}

#[tokio::test]
async fn output_and_exit_code_of_an_adopted_task_are_whole() {
    for mode in MODES {
        let (dir, link) = (tempfile::tempdir().unwrap(), Link::new());
        let gate = dir.path().join("gate");
        let script =
            format!("echo begun; until [ -e {0} ]; do sleep 0.02; done; echo ended; exit 7", gate.display());
        let mut options = adopting(dir.path(), &link, 1);
        options.pid_namespace = mode;
        let node = Node::boot(options, &link).await;
        node.start(attempt(1), sh(&script)).await;
        node.start(attempt(2), sh("sleep 0.3; echo alone; exit 3")).await;
        node.start(attempt(3), TaskSpec::new("sleep", br#"{"ms": 100000}"#.to_vec())).await;
        for n in 1..=2 {
            let shim = dir.path().join(format!("runner/attempts/{}/shim.json", attempt(n)));
            eventually("the shim", || {
                std::fs::read_to_string(&shim).is_ok_and(|s| s.contains("\"tree\":{")).then_some(())
            })
            .await;
        }
        let begun = Instant::now();
        let stopped = node.runner.drain().leave(Duration::from_secs(3)).await;
        assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
        let report = stopped.report();
        assert!(
            report.is_clean() && report.left.contains(&attempt(1)) && !report.left.contains(&attempt(3)),
            "{report:?}"
        );
        assert!(
            matches!(link.end_of(attempt(3)).await, AttemptEnd::Lost { .. }),
            "what runs inside the daemon ends with it"
        );
        assert_eq!(link.outcome(attempt(1)), None);
        // One ends while nobody is there.
        let exit = dir.path().join(format!("runner/attempts/{}/exit.json", attempt(2)));
        eventually("the end of the second", || exit.exists().then_some(())).await;

        let link = Link::new();
        let node = Node::boot(adopting(dir.path(), &link, 2), &link).await;
        assert_eq!(link.end_of(attempt(2)).await, AttemptEnd::Exited { code: 3 });
        std::fs::write(&gate, "").unwrap();
        assert_eq!(link.end_of(attempt(1)).await, AttemptEnd::Exited { code: 7 }, "{mode:?}");
        assert_eq!(node.text(attempt(1)).await, "begun\nended\n");
        assert_eq!(node.text(attempt(2)).await, "alone\n");
        node.stop().await;
    }
}

/// Only answers to the successor extend the right to run. Without any, the shim and the daemon both end it in time.
#[tokio::test]
async fn what_no_leader_has_answered_ends_by_the_deadline_it_was_adopted_with() {
    let cases = MODES.into_iter().flat_map(|mode| [(mode, false), (mode, true)]);
    for (salt, (mode, shim_stops)) in (411..).zip(cases) {
        let (dir, link, sleeper) = (tempfile::tempdir().unwrap(), Link::new(), Sleeper::new(salt));
        let host = Host::start(dir.path(), &sleeper, mode).await;
        host.kill();
        let killed = Instant::now();
        link.with(|leader| leader.answers = false);
        let node = Node::boot(adopting(dir.path(), &link, 2), &link).await;
        eventually("a heartbeat in vain", || {
            link.with(|leader| leader.beats.last().is_some_and(|beat| beat.running == [attempt(1)]))
                .then_some(())
        })
        .await;
        if shim_stops {
            // After it has answered: now the daemon is the only one left.
            signal(shim_pid(dir.path(), attempt(1)), Signal::SIGSTOP);
        }
        eventually("the end", || sleeper.is_gone().then_some(())).await;
        let took = killed.elapsed();
        assert!(took < FENCE_AFTER, "{mode:?}, shim stopped: {shim_stops}: gone only after {took:?}");
        assert!(matches!(link.end_of(attempt(1)).await, AttemptEnd::Lost { .. }));
        // A late answer revives nothing.
        link.with(|leader| leader.answers = true);
        node.has_grant().await;
        assert!(matches!(node.confirm(attempt(1)).await, Presence::Ended(_)));
        node.stop().await;
    }
}

#[tokio::test]
async fn what_cannot_be_adopted_is_ended() {
    for (salt, mode) in (421..).zip(MODES) {
        let (dir, link, sleeper) = (tempfile::tempdir().unwrap(), Link::new(), Sleeper::new(salt));
        let host = Host::start(dir.path(), &sleeper, mode).await;
        signal(shim_pid(dir.path(), attempt(1)), Signal::SIGSTOP);
        host.kill();
        let node = Node::boot(adopting(dir.path(), &link, 2), &link).await;
        assert!(sleeper.is_gone(), "{mode:?}");
        assert_eq!(link.with(|leader| leader.beats[0].running.clone()), []);
        assert!(matches!(link.end_of(attempt(1)).await, AttemptEnd::Lost { .. }));
        node.stop().await;
    }
}

/// Every moment of a start: what is not under its shim yet is called off, what is goes on, and nothing is in between.
#[tokio::test]
async fn a_daemon_killed_at_any_moment_of_a_start_leaves_something_whole_or_nothing() {
    let mut adopted = 0;
    for (salt, (mode, moment)) in
        (431..).zip(MODES.into_iter().flat_map(|mode| (0..12).map(move |n| (mode, n))))
    {
        let (dir, link, sleeper) = (tempfile::tempdir().unwrap(), Link::new(), Sleeper::new(salt));
        let host = Host::spawn(dir.path(), &sleeper, mode);
        let begun = dir.path().join(format!("runner/attempts/{}", attempt(1)));
        eventually("the start", || begun.exists().then_some(())).await;
        tokio::time::sleep(Duration::from_micros(moment * 900)).await;
        host.kill();
        let node = Node::boot(adopting(dir.path(), &link, 2), &link).await;
        match node.confirm(attempt(1)).await {
            Presence::Running => {
                adopted += 1;
                sleeper.runs(2).await;
                node.cancel(attempt(1)).await;
            }
            Presence::Ended(_) => {}
            Presence::Unknown => panic!("{mode:?}, moment {moment}: its directory is there"),
        }
        link.end_of(attempt(1)).await;
        assert!(sleeper.is_gone(), "{mode:?}, moment {moment}");
        node.stop().await;
        assert!(sleeper.is_gone(), "{mode:?}, moment {moment}: a shim that was late");
    }
    eprintln!("{adopted} of 24 were adopted");
}

#[tokio::test]
async fn a_planned_restart_has_the_time_that_it_asked_for() {
    let (dir, link, sleeper) = (tempfile::tempdir().unwrap(), Link::new(), Sleeper::new(461));
    link.with(|leader| leader.fence_after = Duration::from_secs(2));
    let mut options = adopting(dir.path(), &link, 1);
    options.pid_namespace = MODES[1];
    let node = Node::boot(options, &link).await;
    node.start(attempt(1), sh(&sleeper.command())).await;
    sleeper.runs(1).await;
    // Nobody answers at first; then a leader grants what is asked for.
    link.with(|leader| leader.answers = false);
    node.handle.prepare_to_leave(Duration::from_secs(8));
    eventually("the question", || {
        link.with(|leader| leader.beats.last().is_some_and(|beat| beat.leave_ms == Some(8_000))).then_some(())
    })
    .await;
    assert!(!node.handle.status().borrow().extended);
    link.with(|leader| (leader.answers, leader.fence_after) = (true, Duration::from_secs(10)));
    eventually("the answer", || node.handle.status().borrow().extended.then_some(())).await;
    let batch = node.batch(vec![Start { attempt: attempt(2), spec: sh("true"), checkpoint: None }]);
    assert_eq!(node.try_start(batch).await, Err(Refusal::Draining), "it takes no more work");
    let asked = link.with(|leader| leader.beats.len());
    eventually("more beats", || link.with(|leader| leader.beats.len() > asked + 1).then_some(())).await;
    assert_eq!(
        link.with(|leader| leader.beats.last().unwrap().leave_ms),
        None,
        "it asks until it is answered"
    );
    let left = BootClock.now();
    let stopped = node.runner.drain().leave(Duration::from_secs(3)).await;
    assert_eq!(stopped.report().left, [attempt(1)]);
    drop(stopped);
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert!(!sleeper.is_gone(), "it has more than the usual 2 s");
    let deadline = Instant::now() + PATIENCE;
    while !sleeper.is_gone() {
        assert!(Instant::now() < deadline, "nobody comes, and it never ends");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let took = BootClock.now().since(left);
    assert!(took <= Duration::from_secs(10), "gone only {took:?} after the stop");
}
