//! Connecting, joining and leaving, given up at every await point: a session that nobody wants is closed, one that could
//! fence something is abandoned, and the node's next life removes what the abandoned one owns.

use std::sync::Arc;
use std::time::Duration;

use quorum::{ConnectFailure, JoinFailure, Joined, Options, Quorum, Readiness, Report};
use testkit::sweep::{Moment, act_at, drop_at};
use testkit::{Alive, Keeper, until};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use crate::node::{PATIENCE, options};

/// Long enough to tell what was closed from what expired.
const LONG: Duration = Duration::from_secs(10);
/// Where it makes no difference: a close that was dropped may not have said goodbye.
const SHORT: Duration = Duration::from_secs(2);
/// What is closed is gone long before the one, and what is left to expire soon after the other.
const CLOSED: Duration = Duration::from_secs(8);
const STOP: Duration = Duration::from_secs(5);

#[derive(Clone, Copy, Debug, PartialEq)]
enum Way {
    Cancel,
    Drop,
}

/// What is given up.
#[derive(Clone, Copy, Debug)]
enum Step {
    Connect,
    Join,
}

/// One life of a node, in a directory that its lives have in common.
struct Life {
    dir: tempfile::TempDir,
    keeper: Keeper,
    session_timeout: Duration,
    tasks: usize,
}

impl Life {
    async fn new(session_timeout: Duration) -> Self {
        let keeper = testkit::keeper().await;
        let dir = tempfile::tempdir().unwrap();
        Self { dir, keeper, session_timeout, tasks: Handle::current().metrics().num_alive_tasks() }
    }

    fn options(&self) -> Options {
        let mut options = options(&self.keeper.hosts(), "n1", self.dir.path());
        options.coord.session_timeout = self.session_timeout;
        options
    }

    /// Neither a session, nor an ephemeral, nor a task, nor half a file.
    async fn nothing_is_left(&self, runtime: &Arc<coord::ClientRuntime>, when: &str) {
        assert!(runtime.shutdown(PATIENCE).await, "{when}: the client's thread goes on");
        self.keeper_has(0, runtime, 0, when).await;
        self.no_half_file(when);
        let metrics = Handle::current().metrics();
        until(&format!("no task is left: {when}"), PATIENCE, async || {
            (metrics.num_alive_tasks() <= self.tasks).then_some(())
        })
        .await;
    }

    /// So many ephemerals, and no session that nobody keeps alive: `own` and those that an earlier life abandoned.
    async fn keeper_has(&self, own: usize, earlier: &coord::ClientRuntime, ephemerals: usize, when: &str) {
        until(&format!("{own} sessions, {ephemerals} ephemerals: {when}"), CLOSED, async || {
            let expected = Alive { sessions: own + earlier.live(), ephemerals };
            (self.keeper.alive().await == expected).then_some(())
        })
        .await;
    }

    fn no_half_file(&self, when: &str) {
        let names = std::fs::read_dir(self.dir.path()).unwrap().map(|entry| entry.unwrap().file_name());
        let names: Vec<_> = names.collect();
        assert!(names.iter().all(|name| name == "identity.json"), "{when}: {names:?}");
    }

    /// The node's next life becomes a member and finds nothing of an earlier one; its own end is clean.
    async fn next(&self, earlier: &coord::ClientRuntime, when: &str) {
        let joined = joined(self.options()).await;
        self.keeper_has(1, earlier, 1, when).await;
        assert_eq!(joined.stop(STOP).await.into_report(), Report::Closed, "{when}");
        self.keeper_has(0, earlier, 0, when).await;
        self.no_half_file(when);
    }
}

async fn joined(options: Options) -> Quorum<Joined> {
    let cancel = CancellationToken::new();
    let connected = Quorum::new(options).connect(cancel.clone()).await.unwrap();
    connected.join(cancel).await.unwrap()
}

/// Gives one step up at each of its points; how often that was.
async fn give_up(step: Step, way: Way, moment: Moment) -> u32 {
    for point in 0.. {
        let when = format!("{step:?}, {way:?} at {point}, {moment:?}");
        let life = Life::new(LONG).await;
        let options = life.options();
        let (runtime, cancel) = (options.runtime.clone(), CancellationToken::new());
        let identity = options.identity.clone();
        let quorum = Quorum::new(options);
        let reached = match step {
            Step::Connect => {
                let connect = quorum.connect(cancel.clone());
                let (output, reached) = disturb(point, way, moment, connect, &cancel).await;
                match output {
                    Some(Ok(connected)) => {
                        assert_eq!(connected.stop(STOP).await.into_report(), Report::Closed, "{when}");
                    }
                    Some(Err(failure)) => {
                        assert!(matches!(failure, ConnectFailure::Cancelled), "{when}: {failure}");
                    }
                    None => {}
                }
                life.nothing_is_left(&runtime, &when).await;
                life.next(&runtime, &when).await;
                reached
            }
            Step::Join => {
                let connected = quorum.connect(cancel.clone()).await.unwrap();
                let (output, reached) =
                    disturb(point, way, moment, connected.join(cancel.clone()), &cancel).await;
                let dropped = output.is_none();
                match output {
                    Some(Ok(joined)) => {
                        assert_eq!(joined.stop(STOP).await.into_report(), Report::Closed, "{when}");
                    }
                    Some(Err(failure)) => {
                        assert!(matches!(failure, JoinFailure::Cancelled), "{when}: {failure}");
                    }
                    None => {}
                }
                if dropped {
                    // As documented: abandoned, until this process ends.
                    assert_eq!(runtime.live(), 1, "{when}");
                    until("its last write is over", PATIENCE, async || {
                        (Arc::strong_count(&identity) == 1).then_some(())
                    })
                    .await;
                    life.next(&runtime, &when).await;
                } else {
                    life.nothing_is_left(&runtime, &when).await;
                    life.next(&runtime, &when).await;
                }
                reached
            }
        };
        if !reached {
            return u32::try_from(point).unwrap() + 1;
        }
    }
    unreachable!("a future ends");
}

/// What came out, unless it was dropped, and whether it was disturbed.
async fn disturb<F: Future>(
    point: u64,
    way: Way,
    moment: Moment,
    future: F,
    cancel: &CancellationToken,
) -> (Option<F::Output>, bool) {
    match way {
        Way::Cancel => {
            let ended = act_at(point, moment, future, || cancel.cancel()).await;
            (Some(ended.output), ended.reached)
        }
        Way::Drop => {
            let output = drop_at(point, moment, future).await;
            let dropped = output.is_none();
            (output, dropped)
        }
    }
}

async fn give_up_all(step: Step, at_least: u32) {
    let mut combinations = 0;
    for (way, moment) in [Way::Cancel, Way::Drop].into_iter().flat_map(|way| Moment::ALL.map(|at| (way, at)))
    {
        combinations += give_up(step, way, moment).await;
    }
    eprintln!("{step:?}: {combinations} combinations");
    assert!(combinations >= at_least, "{step:?}: only {combinations} combinations");
}

#[tokio::test]
async fn connecting_can_be_given_up_at_every_await_point() {
    give_up_all(Step::Connect, 8).await;
}

#[tokio::test]
async fn joining_can_be_given_up_at_every_await_point() {
    give_up_all(Step::Join, 40).await;
}

/// In each of the phases that can be stopped, leading included.
#[tokio::test]
async fn leaving_can_be_dropped_at_every_await_point() {
    let mut combinations = 0;
    for (leads, moment) in [false, true].into_iter().flat_map(|leads| Moment::ALL.map(|at| (leads, at))) {
        for point in 0.. {
            combinations += 1;
            let when = format!("leads: {leads}, dropped at {point}, {moment:?}");
            let life = Life::new(SHORT).await;
            let options = life.options();
            let runtime = options.runtime.clone();
            let running = joined(options).await.run();
            let handle = running.handle();
            if leads {
                handle.set_ready(Readiness::Ready);
                let mut view = handle.view();
                let elected = view.wait_for(|view| matches!(view.role, quorum::Role::Elected(_)));
                let elected = tokio::time::timeout(PATIENCE, elected).await.unwrap().unwrap();
                let quorum::Role::Elected(term) = &elected.role else { unreachable!() };
                handle.effects_ended(term.token.epoch);
            }
            let stopped = drop_at(point, moment, running.stop(STOP)).await;
            match &stopped {
                Some(stopped) => {
                    assert_eq!(stopped.report(), &Report::Closed, "{when}");
                    life.nothing_is_left(&runtime, &when).await;
                    life.next(&runtime, &when).await;
                }
                None => {
                    until("the driver's end is seen", PATIENCE, async || handle.has_ended().then_some(()))
                        .await;
                    life.next(&runtime, &when).await;
                }
            }
            if stopped.is_some() {
                break;
            }
        }
    }
    eprintln!("{combinations} combinations");
}
