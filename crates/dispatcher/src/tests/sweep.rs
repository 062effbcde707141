//! A recovery cancelled or dropped, and a stop dropped, at every await point: the data session is closed or abandoned,
//! never forgotten, and what the log says stays true for whoever recovers next.

use std::sync::Arc;
use std::time::Duration;

use clock::BootClock;
use coord::{ClientRuntime, Layout, Session, Term};
use proto::api::ListFilter;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use testkit::sweep::{Moment, act_at, drop_at};
use testkit::{Alive, Keeper, until};

use super::fake::{FakeRunner, Network};
use super::zookeeper::{SOON, claim, coord_options, options};
use super::{members_of, submit, task};
use crate::{Dispatcher, Dispatching, Options, RecoverFailure, Recovering};

/// Long enough to tell what was closed from what expired.
const LONG: Duration = Duration::from_secs(10);
/// Where it makes no difference: a close that was dropped may not have said goodbye.
const SHORT: Duration = Duration::from_secs(2);
/// What is closed is gone long before the one, and what is left to expire soon after the other.
const CLOSED: Duration = Duration::from_secs(8);
const STOP: Duration = Duration::from_secs(4);

/// A keeper with one task in its log, and the session of a quorum.
struct Ground {
    control: Session,
    layout: Layout,
    runners: [FakeRunner; 1],
    keeper: Keeper,
    /// Of the data sessions.
    session_timeout: Duration,
    /// Of every dispatcher that there was.
    runtimes: Vec<Arc<ClientRuntime>>,
}

impl Ground {
    async fn new(session_timeout: Duration) -> Self {
        let keeper = testkit::keeper().await;
        let coord = coord::Options { session_timeout: LONG, ..coord_options(keeper.hosts()) };
        let runtime = ClientRuntime::start().expect("a thread");
        let control = Session::connect(&coord, runtime, BootClock::shared()).await.expect("connects");
        let layout = Layout::of(&coord);
        layout.ensure(&control.link()).await.expect("created");
        let mut ground = Self {
            control,
            layout,
            runners: [FakeRunner::new("n1", 4)],
            keeper,
            session_timeout,
            runtimes: vec![],
        };
        let first = ground.recovered().await;
        submit(&first.handle(), task(1, "wait")).await;
        assert!(first.drain().stop(STOP).await.report().problems.is_empty());
        ground
    }

    async fn term(&self) -> Term {
        claim(&self.control.link(), &self.layout).await
    }

    fn options(&mut self) -> Options {
        let mut options = options(self.keeper.hosts());
        options.coord.session_timeout = self.session_timeout;
        self.runtimes.push(options.runtime.clone());
        options
    }

    fn recovering(&self, options: Options, term: Term) -> Dispatcher<Recovering> {
        let (members, seen) = watch::channel(members_of(&self.runners));
        drop(members); // They stay as they are.
        Dispatcher::new(options, term, seen, Network::of(&self.runners), None)
    }

    async fn recovered(&mut self) -> Dispatcher<Dispatching> {
        let options = self.options();
        let recovering = self.recovering(options, self.term().await);
        recovering.recover(CancellationToken::new()).await.expect("recovers")
    }

    /// No session is forgotten: whatever the keeper has, but for the control session, a client keeps alive; and the other
    /// way round. Nothing owns an ephemeral.
    async fn none_is_forgotten(&self, when: &str) {
        until(&format!("the keeper and the clients agree: {when}"), CLOSED, async || {
            let abandoned = self.runtimes.iter().map(|runtime| runtime.live()).sum::<usize>();
            let expected = Alive { sessions: 1 + abandoned, ephemerals: 0 };
            (self.keeper.alive().await == expected).then_some(())
        })
        .await;
    }

    /// The next term finds what was committed, and ends in order.
    async fn next(&mut self, when: &str) {
        let next = self.recovered().await;
        let page = next.handle().list(ListFilter::default()).await.expect("it dispatches");
        assert_eq!(page.total, Some(1), "{when}");
        let stopped = next.drain().stop(STOP).await;
        assert_eq!(stopped.report().problems, Vec::<String>::new(), "{when}");
        self.none_is_forgotten(when).await;
    }
}

async fn no_task(before: usize, when: &str) {
    let metrics = Handle::current().metrics();
    until(&format!("no task is left: {when}"), SOON, async || {
        (metrics.num_alive_tasks() <= before).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_recovery_given_up_at_every_await_point_leaves_nothing() {
    let (mut combinations, mut cancelled) = (0, 0);
    for (cancels, moment) in [true, false].into_iter().flat_map(|way| Moment::ALL.map(|at| (way, at))) {
        let mut ground = Ground::new(if cancels { LONG } else { SHORT }).await;
        for point in 0.. {
            combinations += 1;
            let when = format!("{} at {point}, {moment:?}", if cancels { "cancelled" } else { "dropped" });
            let tasks = Handle::current().metrics().num_alive_tasks();
            let (options, cancel) = (ground.options(), CancellationToken::new());
            let runtime = options.runtime.clone();
            let recover = ground.recovering(options, ground.term().await).recover(cancel.clone());
            let (recovered, reached) = if cancels {
                let ended = act_at(point, moment, recover, || cancel.cancel()).await;
                (Some(ended.output), ended.reached)
            } else {
                let recovered = drop_at(point, moment, recover).await;
                let reached = recovered.is_none();
                (recovered, reached)
            };
            match recovered {
                Some(Ok(dispatching)) => {
                    let stopped = dispatching.drain().stop(STOP).await;
                    assert_eq!(stopped.report().problems, Vec::<String>::new(), "{when}");
                }
                Some(Err(failure)) => {
                    assert!(matches!(failure, RecoverFailure::Cancelled), "{when}: {failure}");
                    cancelled += 1;
                }
                // A session that had not come yet is closed when it comes; another is abandoned, as documented.
                None => {}
            }
            ground.none_is_forgotten(&when).await;
            assert!(!cancels || runtime.shutdown(SOON).await, "{when}: the client's thread goes on");
            no_task(tasks, &when).await;
            ground.next(&when).await;
            if !reached {
                break;
            }
        }
        ground.control.close(SOON).await.expect("closes");
    }
    eprintln!("{combinations} combinations, {cancelled} of them cancelled in time");
    assert!(cancelled >= 10, "only {cancelled} recoveries were cancelled in time");
}

#[tokio::test]
async fn a_stop_dropped_at_every_await_point_leaves_a_log_that_can_be_recovered() {
    let mut combinations = 0;
    for moment in Moment::ALL {
        let mut ground = Ground::new(SHORT).await;
        for point in 0.. {
            combinations += 1;
            let when = format!("dropped at {point}, {moment:?}");
            let tasks = Handle::current().metrics().num_alive_tasks();
            let dispatching = ground.recovered().await;
            let mut failed = dispatching.handle().failed();
            let stopped = drop_at(point, moment, dispatching.drain().stop(STOP)).await;
            // The loop is gone, whatever became of its stop.
            let gone = async { while failed.changed().await.is_ok() {} };
            assert!(tokio::time::timeout(SOON, gone).await.is_ok(), "{when}: the loop goes on");
            if let Some(stopped) = &stopped {
                assert_eq!(stopped.report().problems, Vec::<String>::new(), "{when}");
            }
            ground.none_is_forgotten(&when).await;
            no_task(tasks, &when).await;
            ground.next(&when).await;
            if stopped.is_some() {
                break;
            }
        }
        ground.control.close(SOON).await.expect("closes");
    }
    eprintln!("{combinations} combinations");
}
