//! Real processes with a protection taken out: what they write down shows it, and without the bug it shows nothing.
//!
//! Everything here is judged by the checker of the `faults` crate, the one that judges the long runs.

#![expect(clippy::unwrap_used, reason = "a test fails where it stands, in its helpers too")]

mod support;

use std::path::PathBuf;
use std::time::Duration;

use clock::{BootClock, Clock};
use faults::history::{End, Life, Report, Rule, Term, Timing, check};
use nix::sys::signal::Signal;
use proto::FencingToken;
use proto::runner::Refusal;
use support::{Cluster, NodeConfig, SESSION_TIMEOUT, SOON, run_at};
use taskd::net::{Identity, Tcp, connect_runner};
use testkit::until;
use tokio::task::JoinSet;

/// What the configuration of the tests' nodes makes of a lease.
const TIMING: Timing =
    Timing { timeout: SESSION_TIMEOUT, margin: Duration::from_millis(600), tick: Duration::from_millis(500) };

/// Within what another node leads, on a machine that is busy with other tests. On a quiet one it is 3 s; whoever is not
/// told finds out by a look of its own after 7.5 s at the earliest.
const TAKEOVER: Duration = Duration::from_secs(6);

/// Nodes that write down what they do.
struct Drilled {
    cluster: Cluster,
    lives: Vec<(String, PathBuf, End)>,
}

impl Drilled {
    /// Starts `count` nodes, each with the same faults.
    async fn start(count: usize, drill: &str) -> Self {
        Self::of(Cluster::prepare(count, |_| ()).await, drill)
    }

    fn of(cluster: Cluster, drill: &str) -> Self {
        let mut drilled = Self { cluster, lives: Vec::new() };
        for index in 0..drilled.cluster.nodes.len() {
            let id = drilled.cluster.nodes[index].id.clone();
            let file = drilled.cluster.dir.path().join(format!("{id}.history"));
            drilled.cluster.nodes[index].spawn_recorded(drill, &file);
            drilled.lives.push((id, file, End::Running));
        }
        drilled
    }

    async fn healthy(self) -> Self {
        self.cluster.healthy(self.cluster.nodes.len()).await;
        self
    }

    fn ended(&mut self, id: &str, end: End) {
        self.lives.iter_mut().find(|(node, ..)| node == id).unwrap().2 = end;
    }

    fn kill(&mut self, id: &str) {
        self.cluster.node_mut(id).kill();
        self.ended(id, End::Killed);
    }

    fn history(&self, id: &str) -> String {
        let (_, file, _) = self.lives.iter().find(|(node, ..)| node == id).unwrap();
        std::fs::read_to_string(file).unwrap()
    }

    async fn recorded(&self, id: &str, fact: &str) {
        until(&format!("{id} records {fact:?}"), SOON, async || {
            self.history(id).contains(fact).then_some(())
        })
        .await;
    }

    /// Who leads with an epoch above `epoch`, once every running node but `except` knows it; none if they do not within
    /// `within`.
    async fn led_above(&self, epoch: u64, except: &str, within: Duration) -> Option<(String, u64)> {
        let mut known = None;
        let look = async {
            for node in self.cluster.nodes.iter().filter(|node| node.runs() && node.id != except) {
                loop {
                    let status = node.status().await.unwrap_or_default();
                    let leader = &status["leader"];
                    let above = leader["epoch"].as_u64().filter(|above| *above > epoch);
                    if let (Some(above), Some(id), true) =
                        (above, leader["node"].as_str(), leader["serving"] == true)
                    {
                        known = Some((id.to_owned(), above));
                        break;
                    }
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        };
        let all = tokio::time::timeout(within, look).await.is_ok();
        known.filter(|_| all)
    }

    /// Ends every process, in an orderly way or not, and judges.
    async fn judged(mut self, orderly: bool) -> Report {
        let running: Vec<_> =
            self.cluster.nodes.iter().filter(|node| node.runs()).map(|node| node.id.clone()).collect();
        for id in &running {
            if orderly {
                self.cluster.node(id).signal(Signal::SIGTERM);
            } else {
                self.kill(id);
            }
        }
        for id in running.iter().filter(|_| orderly) {
            let (status, took) = self.cluster.node_mut(id).ended(SOON).await;
            assert!(status.success(), "{id} ended with {status} after {took:?}");
            self.ended(id, End::Stopped);
        }
        self.report()
    }

    fn report(&self) -> Report {
        let lives: Vec<_> = self
            .lives
            .iter()
            .map(|(node, file, end)| Life::new(node, std::fs::read_to_string(file).unwrap_or_default(), *end))
            .collect();
        check(&lives, TIMING)
    }
}

/// That nothing is wrong, and that there was something to judge.
fn clean(report: &Report) {
    assert!(report.violations.is_empty(), "without the bug: {report}");
    assert!(report.effects > 0 && report.epochs > 0, "{report}");
    eprintln!("without the bug: {report}");
}

fn broken(report: &Report, rule: Rule) {
    assert!(report.breaks(rule), "with the bug {rule:?} should be broken: {report}");
    eprintln!("with the bug: {report}");
}

/// A leader that hears nothing of ZooKeeper any more, while everybody hears it.
async fn leader_cut_off(bug: &str) -> Report {
    let often = |config: &mut NodeConfig| config.set("tasks.heartbeat", "\"200ms\"");
    let (cluster, proxies) = Cluster::behind_proxies(3, often).await;
    let drilled = Drilled::of(cluster, bug).healthy().await;
    let (old, epoch) = drilled.cluster.leader(&drilled.cluster.nodes[0]).await;
    let place = drilled.cluster.nodes.iter().position(|node| node.id == old).unwrap();
    proxies[place].blackhole();
    assert!(drilled.led_above(epoch, &old, SOON).await.is_some(), "nobody led while {old} was cut off");
    proxies[place].heal();
    drilled.cluster.healthy(3).await;
    drilled.judged(bug.is_empty()).await
}

/// The same, but it stands still, for longer than its session lasts, and wakes up among what was sent to it meanwhile.
async fn leader_paused() -> Report {
    let drilled = Drilled::start(3, "hold:dispatcher.stop=1s").await.healthy().await;
    let (old, epoch) = drilled.cluster.leader(&drilled.cluster.nodes[0]).await;
    let address = drilled.cluster.node(&old).address.clone();
    drilled.cluster.node(&old).signal(Signal::SIGSTOP);
    let submit = ["task", "submit", "--submit-timeout", "20s", "--", "true"];
    let woken = async {
        let next = drilled.led_above(epoch, &old, SOON).await;
        drilled.cluster.node(&old).signal(Signal::SIGCONT);
        assert!(next.is_some(), "nobody led while {old} stood still");
    };
    // It has to be there when the leader wakes up; what becomes of it is not the point.
    let _ = tokio::join!(run_at(&address, &submit), woken);
    drilled.recorded(&old, &format!("lease-dropped epoch={epoch}")).await;
    drilled.cluster.healthy(3).await;
    drilled.judged(true).await
}

#[tokio::test]
async fn finds_planted_no_lease() {
    clean(&leader_paused().await);
    clean(&leader_cut_off("").await);
    broken(&leader_cut_off("plant:no-lease").await, Rule::OutsideLease);
}

/// How long it took until there was another leader, for each of two that die, one after the other; and whether that
/// took longer than it may, even on a busy machine.
///
/// Nobody asks for the status meanwhile: whoever is asked looks anew, and would not depend on having been told.
async fn takeovers(bug: &str) -> (Vec<Duration>, Report) {
    let mut drilled = Drilled::start(3, bug).await.healthy().await;
    let mut took = Vec::new();
    let mut epoch = 0;
    for _ in 0..2 {
        let (leader, led) = drilled.led_above(epoch, "", SOON).await.unwrap();
        epoch = led;
        let killed = BootClock.now();
        drilled.kill(&leader);
        let next =
            until("another leader serves", SOON, async || drilled.report().succeeded_after(killed, epoch));
        took.push(next.await);
    }
    let report = drilled.judged(bug.is_empty()).await;
    eprintln!("{bug}: took over after {took:?}");
    (took, report)
}

#[tokio::test]
async fn finds_planted_watch_not_rearmed() {
    let (took, report) = takeovers("").await;
    clean(&report);
    assert!(took.iter().all(|took| *took < TAKEOVER), "{took:?}");
    // The next look that everybody takes now and then would find it; that is too late.
    let (took, _) = takeovers("plant:watch-not-rearmed").await;
    assert!(took.iter().any(|took| *took > TAKEOVER), "with the bug it took {took:?} only");
}

#[tokio::test]
async fn finds_planted_implied_leadership() {
    let report = Drilled::start(3, "").await.healthy().await.judged(true).await;
    clean(&report);
    let drilled = Drilled::start(3, "plant:implied-leadership").await;
    until("an epoch is taken that nobody gave", SOON, async || {
        drilled.report().breaks(Rule::OneOwner).then_some(())
    })
    .await;
    let report = drilled.judged(false).await;
    broken(&report, Rule::OneOwner);
}

/// A leader that was replaced gives orders to a runner that has heard its successor: what it is told.
async fn order_of_a_replaced_leader(bug: &str) -> (Option<Refusal>, Report) {
    let drilled = Drilled::start(2, bug).await.healthy().await;
    let (_, epoch) = drilled.cluster.leader(&drilled.cluster.nodes[0]).await;
    let ran = drilled.cluster.cli(&["cluster", "handover"]).await;
    assert_eq!(ran.code, 0, "{ran:?}");
    let (_, next) = drilled.led_above(epoch, "", SOON).await.unwrap();
    for node in &drilled.cluster.nodes {
        drilled.recorded(&node.id, &format!("accept epoch={next}")).await;
    }
    let status = drilled.cluster.healthy(2).await;
    let cluster = status["cluster"].as_str().unwrap().parse().unwrap();
    let token = FencingToken { cluster, epoch: proto::Epoch(epoch) };

    let identity = Identity::node("n9".parse().unwrap());
    identity.set_cluster(cluster).unwrap();
    let address = &drilled.cluster.nodes[0].address;
    let connection = connect_runner(&Tcp::shared(), address, &identity, SOON).await.unwrap();
    let mut tasks = JoinSet::new();
    tasks.spawn(connection.dispatch);
    let answer = connection.client.inventory(tarpc::context::current(), token).await.unwrap();
    drop(connection.client);
    (answer.err(), drilled.judged(bug.is_empty()).await)
}

#[tokio::test]
async fn finds_planted_no_token_check() {
    let (refusal, report) = order_of_a_replaced_leader("").await;
    assert!(matches!(refusal, Some(Refusal::StaleToken { .. })), "{refusal:?}");
    clean(&report);
    let (refusal, report) = order_of_a_replaced_leader("plant:no-token-check").await;
    assert_eq!(refusal, None, "the bug is not there");
    broken(&report, Rule::StaleAccepted);
}

/// A leader hands over while its dispatcher takes its time to end: what became of its term.
async fn slow_handover(bug: &str) -> (Term, Report) {
    let drilled = Drilled::start(2, &format!("{bug};hold:dispatcher.stop=1500ms")).await.healthy().await;
    let (_, epoch) = drilled.cluster.leader(&drilled.cluster.nodes[0]).await;
    let ran = drilled.cluster.cli(&["cluster", "handover"]).await;
    assert_eq!(ran.code, 0, "{ran:?}");
    drilled.led_above(epoch, "", SOON).await.unwrap();
    until("the dispatcher has ended", SOON, async || {
        drilled.report().terms.iter().any(|term| term.epoch == epoch && term.ended.is_some()).then_some(())
    })
    .await;
    let report = drilled.judged(bug.is_empty()).await;
    (report.terms.iter().find(|term| term.epoch == epoch).unwrap().clone(), report)
}

#[tokio::test]
async fn finds_planted_early_delete() {
    let (term, report) = slow_handover("").await;
    clean(&report);
    assert!(term.ended.is_some() && term.released >= term.ended, "{term:?}");
    let (term, _) = slow_handover("plant:early-delete").await;
    assert!(term.released < term.ended, "`leader` was deleted when its effects had ended: {term:?}");
}

/// A leader whose dispatcher never ends is told to stop: how its process ended, and what it wrote down until then.
async fn stuck_stop(bug: &str) -> (Option<i32>, String, Report) {
    let mut drilled = Drilled::start(2, &format!("{bug};hold:dispatcher.stop")).await.healthy().await;
    let (leader, _) = drilled.cluster.leader(&drilled.cluster.nodes[0]).await;
    drilled.cluster.node(&leader).signal(Signal::SIGTERM);
    let (status, took) = drilled.cluster.node_mut(&leader).ended(SOON).await;
    eprintln!("{bug}: {leader} ended with {status} after {took:?}");
    drilled.ended(&leader, End::GaveUp);
    let history = drilled.history(&leader);
    (status.code(), history, drilled.judged(false).await)
}

#[tokio::test]
async fn finds_planted_close_on_abandon() {
    let (code, _, report) = stuck_stop("").await;
    assert_eq!(code, Some(71), "{report}");
    clean(&report);
    let (_, _, report) = stuck_stop("plant:close-on-abandon").await;
    broken(&report, Rule::LeftWithEffects);
}

#[tokio::test]
async fn finds_planted_inline_stop() {
    let ends_in_order = |history: &str| {
        let lines = history.lines().filter_map(|line| line.split_once(' '));
        let facts: Vec<_> = lines.map(|(_, fact)| fact).collect();
        let runner = facts.iter().position(|fact| fact.starts_with("close runner "));
        let stopped = facts.iter().position(|fact| *fact == "stopped");
        runner.is_some() && runner < stopped
    };
    let (code, history, report) = stuck_stop("").await;
    clean(&report);
    assert!(code == Some(71) && ends_in_order(&history), "{code:?}: {history}");
    let (code, history, _) = stuck_stop("plant:inline-stop").await;
    assert!(!ends_in_order(&history), "the runner was stopped behind the loop's back: {code:?}: {history}");
}
