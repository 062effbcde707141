//! Joins and claims that are executed when nobody waits for them any more, and an end whose effects go on.
//!
//! As in `coord`, each scenario is a function of the faults that are switched on: it holds as it is, and notices what is
//! planted.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::time::Duration;

use clock::BootClock;
use coord::{Link, Session, SessionId};
use drill::{Bug, Drill};
use proto::Epoch;
use quorum::{Options, Readiness, Report};
use testkit::{Flow, Proxy, until};

use crate::node::{Node, PATIENCE, id, leader, options};

/// Longer than any cut of these scenarios, so that the connection comes back with the same session.
const LONG: Duration = Duration::from_secs(8);

/// Until a session that came to nothing has expired, too.
const SETTLED: Duration = Duration::from_secs(25);

/// Somebody who looks, without being part of the cluster.
struct Witness {
    session: Session,
    _dir: tempfile::TempDir,
}

impl Witness {
    async fn start(hosts: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let Options { coord, runtime, .. } = options(hosts, "looker", dir.path());
        let session = Session::connect(&coord, runtime, BootClock::shared()).await.unwrap();
        Self { session, _dir: dir }
    }

    fn link(&self) -> Link {
        self.session.link()
    }

    /// The paths of everything that a session keeps alive, with that session.
    async fn ephemerals(&self) -> Vec<(String, Option<SessionId>)> {
        let link = self.link();
        link.sync("/").await.unwrap();
        let mut paths = vec!["/taskd/leader".to_owned()];
        for dir in ["/taskd/members", "/taskd/candidates"] {
            // Before anybody has joined there is no such node.
            let names = link.children(dir).await.unwrap_or_default();
            paths.extend(names.into_iter().map(|name| format!("{dir}/{name}")));
        }
        let mut found = Vec::new();
        for path in paths {
            if let Some(stat) = link.exists(&path).await.unwrap() {
                found.push((path, stat.ephemeral_owner));
            }
        }
        found
    }

    async fn has(&self, what: &str) -> bool {
        self.ephemerals().await.iter().any(|(path, _)| path.starts_with(what))
    }
}

fn late_options(hosts: &str, name: &str, dir: &tempfile::TempDir, drill: &Drill) -> Options {
    let mut options = options(hosts, name, dir.path());
    options.coord.session_timeout = LONG;
    options.coord.drill = drill.clone();
    options.join_deadline = PATIENCE;
    options
}

/// What there is under the root, by kind, once it is exactly what these nodes know of.
async fn nothing_else(witness: &Witness, nodes: &[Node]) -> Result<(), String> {
    let deadline = tokio::time::Instant::now() + SETTLED;
    loop {
        let leaders = nodes.iter().filter(|node| node.leads().is_some()).count();
        let mut known = BTreeSet::new();
        for node in nodes {
            let view = node.view();
            let Some(me) = &view.me else { continue };
            known.insert((me.path.clone(), view.session));
            let name = me.path.rsplit('/').next().unwrap_or_default();
            let uuid = name.strip_prefix("_c_").and_then(|rest| rest.split('-').next()).unwrap_or_default();
            known.insert((format!("/taskd/candidates/_c_{uuid}-{}", node.id), view.session));
            if node.leads().is_some() {
                known.insert(("/taskd/leader".to_owned(), view.session));
            }
        }
        let found: BTreeSet<_> = witness.ephemerals().await.into_iter().collect();
        if leaders == 1 && known == found {
            return Ok(());
        }
        if tokio::time::Instant::now() > deadline {
            return Err(format!("{leaders} lead; known {known:?}, and there is {found:?}"));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Whether the connection returns before its caller gives up.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Return {
    InTime,
    Late,
}

/// The answers are lost from the moment on when `trigger` has been created: whoever created it does not know.
async fn unanswered(drill: Drill, trigger: &str, back: Return) -> Result<Epoch, String> {
    let coordinator = testkit::coordinator().await;
    let proxy = Proxy::start(coordinator.hosts()).await;
    let witness = Witness::start(&coordinator.hosts()).await;
    let dir = tempfile::tempdir().unwrap();
    let options = late_options(&proxy.hosts(), "n1", &dir, &drill);
    let start = async {
        let node = Node::start_in(options, dir).await;
        node.handle.set_ready(Readiness::Ready);
        node
    };
    let disturb = async {
        until("the moment", PATIENCE, async || witness.has(trigger).await.then_some(())).await;
        proxy.set(|faults| faults.to_client = Flow::Stall);
        if back == Return::Late {
            // The client has given the silent connection up, long after its caller has the call, and tries again.
            let before = proxy.traffic().accepted;
            until("the client gives it up", PATIENCE, async || {
                (proxy.traffic().accepted > before).then_some(())
            })
            .await;
        }
        proxy.replace(|_| {});
    };
    let (node, ()) = tokio::join!(start, disturb);
    let nodes = [node];
    let (_, epoch) = leader(&nodes).await;
    nothing_else(&witness, &nodes).await?;
    let [node] = nodes;
    let (report, _) = node.stop().await;
    if report != Report::Closed || !witness.ephemerals().await.is_empty() {
        return Err(format!("it ended {report:?} and left {:?}", witness.ephemerals().await));
    }
    Ok(epoch)
}

/// n0 leads and leaves. n1 is first in line, and its claim comes so late that its client has lost the connection, which
/// it does not know; n2 claims meanwhile. Then n1 is back with the same session, and its claim is executed.
async fn claim_behind_another(drill: Drill) -> Result<(), String> {
    let coordinator = testkit::coordinator().await;
    let proxy = Proxy::start(coordinator.hosts()).await;
    let witness = Witness::start(&coordinator.hosts()).await;
    let mut nodes = vec![Node::start(&coordinator.hosts(), "n0").await];
    leader(&nodes).await;
    for (name, hosts, drill) in [("n1", proxy.hosts(), &drill), ("n2", coordinator.hosts(), &Drill::none())] {
        let dir = tempfile::tempdir().unwrap();
        let node = Node::start_in(late_options(&hosts, name, &dir, drill), dir).await;
        node.handle.set_ready(Readiness::Ready);
        let stands = |view: &quorum::View| view.candidates.contains(&id(name));
        nodes[0].see("it stands", stands).await;
        nodes.push(node);
    }
    let [n0, n1, n2] = <[Node; 3]>::try_from(nodes).map_err(|_| "three nodes")?;
    let session = n1.view().session;
    n0.stop().await;
    let taken = until("n2 leads, n1's claim being slow", PATIENCE, async || n2.leads()).await;
    let before = drill.polls("coord.write");
    proxy.replace(|faults| faults.refuse = true);
    until("the claim is in a client without a connection", PATIENCE, async || {
        (drill.polls("coord.write") > before).then_some(())
    })
    .await;
    let executed = witness.link().exists("/taskd/epoch").await.unwrap().unwrap().version;
    proxy.heal();
    n1.see("it is back", |view| view.link.connection().is_some_and(|connection| connection > 1)).await;
    let nodes = [n1, n2];
    nothing_else(&witness, &nodes).await?;
    let [n1, n2] = nodes;
    if n1.view().session != session {
        return Err("n1 came back with another session, so that nothing was late".into());
    }
    let now = witness.link().exists("/taskd/epoch").await.unwrap().unwrap().version;
    if n2.leads() != Some(taken) || now != executed {
        return Err(format!("epoch {taken} was n2's, and n2 leads {:?} at {now}", n2.leads()));
    }
    for node in [n1, n2] {
        node.stop().await;
    }
    Ok(())
}

/// A leader is stopped, and its effects do not end. Its session has to fence them for as long as its process lives.
async fn stopped_with_living_effects(drill: Drill) -> Result<Report, String> {
    let coordinator = testkit::coordinator().await;
    let witness = Witness::start(&coordinator.hosts()).await;
    let dir = tempfile::tempdir().unwrap();
    let mut options = options(&coordinator.hosts(), "n1", dir.path());
    options.coord.drill = drill;
    let node = Node::start_in(options, dir).await;
    node.handle.set_ready(Readiness::Ready);
    let nodes = [node];
    leader(&nodes).await;
    let [node] = nodes;
    let session = node.view().session;
    node.manner.ends.store(false, Ordering::SeqCst);
    let (report, _) = node.stop().await;
    let fences = witness.ephemerals().await.iter().any(|(_, owner)| *owner == session);
    if !fences || report.is_clean() {
        return Err(format!("effects live, and their session was ended: {report:?}"));
    }
    Ok(report)
}

/// Each ephemeral is there once, and known, after the answer to its creation was lost.
macro_rules! holds {
    ($($case:ident: $trigger:literal, $back:ident;)*) => {
        $(#[tokio::test]
        async fn $case() {
            let outcome = unanswered(Drill::none(), $trigger, Return::$back).await;
            outcome.unwrap_or_else(|violation| panic!("{violation}"));
        })*
    };
}

holds! {
    holds_after_a_join_was_found_out: "/taskd/members", InTime;
    holds_after_a_join_was_given_up: "/taskd/members", Late;
    holds_after_a_candidacy_was_found_out: "/taskd/candidates", InTime;
    holds_after_a_candidacy_was_given_up: "/taskd/candidates", Late;
    holds_after_a_claim_was_found_out: "/taskd/leader", InTime;
    holds_after_a_claim_was_given_up: "/taskd/leader", Late;
}

#[tokio::test]
async fn holds_that_a_late_claim_takes_nothing_from_whoever_leads() {
    let drill = Drill::parse("hold:quorum.claim=6s;hold:coord.lost=7s").unwrap();
    assert_eq!(claim_behind_another(drill).await, Ok(()));
}

#[tokio::test]
async fn holds_that_a_session_outlives_the_effects_that_it_fences() {
    let report = stopped_with_living_effects(Drill::none()).await.unwrap();
    assert!(matches!(report, Report::Abandoned { .. }), "{report:?}");
}

#[tokio::test]
async fn finds_planted_close_on_abandon() {
    let outcome = stopped_with_living_effects(Bug::CloseOnAbandon.planted()).await;
    let violation = outcome.expect_err("the bug went unnoticed");
    assert!(violation.contains("was ended"), "{violation}");
}
