//! The phases of one node against a live coordination service: how it comes, how it goes, and what it refuses.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::node::{Node, PATIENCE, leader, options};
use clock::BootClock;
use quorum::{JoinError, JoinFailure, PhaseId, Quorum, Readiness, Report, Role};
use tokio_util::sync::CancellationToken;

const STOP: Duration = Duration::from_secs(3);

#[tokio::test]
async fn a_restarted_node_removes_what_its_killed_life_left_and_leads_within_a_second() {
    let coordinator = testkit::coordinator().await;
    let nodes = [Node::start(&coordinator.hosts(), "n1").await];
    let (_, epoch) = leader(&nodes).await;
    let layout = coord::Layout::new("/taskd");
    let service = "web".parse().unwrap();
    let vips = [layout.vip_holder(&service), layout.vip_node(&nodes[0].id)];
    let control = nodes[0].view().control.clone().expect("it has a session");
    control.ensure(&layout.vip_term(&service)).await.unwrap();
    hold(&control, &vips).await;
    let [Node { quorum, dir, .. }] = nodes;
    // As by kill -9, only worse: its session goes on pinging and would never expire.
    drop(quorum);

    let started = Instant::now();
    let again = Node::start_in(options(&coordinator.hosts(), "n1", dir.path()), dir).await;
    again.handle.set_ready(Readiness::Ready);
    let nodes = [again];
    let (_, later) = leader(&nodes).await;
    let took = started.elapsed();
    println!("restarted and leading after {took:?}");
    assert!(later > epoch && took < Duration::from_secs(1), "took {took:?}");
    nodes[0].see("itself alone", |view| view.members.len() == 1 && view.candidates.len() == 1).await;
    let control = nodes[0].view().control.clone().expect("it has a session");
    assert!(!held(&control, &vips).await, "it may take over from its own earlier life");
    assert!(
        control.exists(&layout.vip_term(&service)).await.unwrap().is_some(),
        "but it knows that it was there"
    );
    let [node] = nodes;
    assert_eq!(node.stop().await.0, Report::Closed);
}

#[tokio::test]
async fn a_holder_stays_a_fence_where_its_addresses_may_still_be_there() {
    let coordinator = testkit::coordinator().await;
    let node = Node::start(&coordinator.hosts(), "n1").await;
    let layout = coord::Layout::new("/taskd");
    let service = "web".parse().unwrap();
    let (holder, report) = ([layout.vip_holder(&service)], [layout.vip_node(&node.id)]);
    node.see("its session", |view| view.control.is_some()).await;
    let control = node.view().control.clone().expect("it has a session");
    control.ensure(&layout.vip_term(&service)).await.unwrap();
    hold(&control, &[holder[0].clone(), report[0].clone()]).await;
    let Node { quorum, dir, .. } = node;
    drop(quorum);

    let mut options = options(&coordinator.hosts(), "n1", dir.path());
    options.vips_gone = tokio::sync::watch::channel(false).1;
    let again = Node::start_in(options, dir).await;
    again.see("its session", |view| view.control.is_some()).await;
    let control = again.view().control.clone().expect("it has a session");
    assert!(held(&control, &holder).await, "its session is what ends it");
    assert!(!held(&control, &report).await, "nobody is fenced by a report");
    assert_eq!(again.stop().await.0, Report::Closed);
}

#[tokio::test]
async fn a_foreign_or_wiped_cluster_is_refused_with_the_remedy() {
    let coordinator = testkit::coordinator().await;
    let node = Node::start(&coordinator.hosts(), "n1").await;
    let cluster = node.see("the cluster", |view| view.cluster.is_some()).await.cluster;
    let dir = tempfile::tempdir().unwrap();
    let copied = dir.path().join("identity.json");
    std::fs::copy(node.dir.path().join("identity.json"), copied).unwrap();
    assert_eq!(node.stop().await.0, Report::Closed);

    let refuse = async |root: &str, expected: Option<u128>, remedy: &str| {
        let mut options = options(&coordinator.hosts(), "n1", dir.path());
        options.coord.root = root.into();
        options.expected_cluster = expected.map(proto::ClusterId::from_u128);
        let started = Instant::now();
        let cancel = CancellationToken::new();
        let connected = Quorum::new(options).connect(cancel.clone()).await.unwrap();
        let handle = connected.handle();
        let failure = connected.join(cancel).await.map(|_| ()).unwrap_err();
        assert!(started.elapsed() < Duration::from_secs(5), "refused at once, not at the deadline");
        assert!(failure.is_foreign_cluster());
        let JoinFailure::Failed { source, .. } = failure else { panic!("{failure}") };
        assert!(source.to_string().contains(remedy), "{source}");
        let view = handle.view().borrow().clone();
        assert_eq!(view.phase, PhaseId::Stopped);
        assert!(view.trouble.as_ref().is_some_and(|trouble| trouble.contains(remedy)));
        source
    };
    let error = refuse("/taskd", Some(7), "wipe its data directory").await;
    assert!(matches!(error, JoinError::Foreign { found, .. } if Some(found) == cluster), "{error}");
    let error = refuse("/elsewhere", None, "the ensemble was wiped").await;
    assert!(matches!(error, JoinError::Wiped { expected, .. } if Some(expected) == cluster), "{error}");
}

#[tokio::test]
async fn stop_ends_from_every_phase() {
    let coordinator = testkit::coordinator().await;
    let dir = tempfile::tempdir().unwrap();
    let options = || options(&coordinator.hosts(), "n1", dir.path());
    let cancel = CancellationToken::new;
    let stopped = Quorum::new(options()).stop(STOP).await;
    assert_eq!(stopped.report(), &Report::NoSession);
    let connected = Quorum::new(options()).connect(cancel()).await.unwrap();
    assert_eq!(connected.stop(STOP).await.report(), &Report::Closed);
    let connected = Quorum::new(options()).connect(cancel()).await.unwrap();
    let joined = connected.join(cancel()).await.unwrap();
    assert_eq!(joined.stop(STOP).await.report(), &Report::Closed);
    let connected = Quorum::new(options()).connect(cancel()).await.unwrap();
    let running = connected.join(cancel()).await.unwrap().run();
    let handle = running.handle();
    assert_eq!(running.stop(STOP).await.report(), &Report::Closed);
    assert_eq!(handle.view().borrow().phase, PhaseId::Stopped);
    assert_eq!(handle.handover(None).await, Err(quorum::HandoverError::Stopped));
}

#[tokio::test]
async fn stop_is_bounded_when_zookeeper_is_frozen() {
    let coordinator = testkit::own_coordinator().await;
    let nodes = [Node::start(&coordinator.hosts(), "n1").await];
    leader(&nodes).await;
    coordinator.pause();
    let [node] = nodes;
    let started = Instant::now();
    let (report, _) = node.stop().await;
    assert!(started.elapsed() < Duration::from_secs(5), "took {:?}", started.elapsed());
    assert!(!report.is_clean() && !matches!(report, Report::Abandoned { .. }), "{report:?}");
    coordinator.resume();
}

#[tokio::test]
async fn stop_abandons_the_session_under_living_effects_rather_than_release_their_fence() {
    let coordinator = testkit::coordinator().await;
    let nodes = [Node::start(&coordinator.hosts(), "n1").await];
    leader(&nodes).await;
    let [node] = nodes;
    node.manner.ends.store(false, Ordering::SeqCst);
    let lease = node.view().role.term().expect("it leads").lease.clone();
    let session = node.view().session;
    let (report, _) = node.stop().await;
    assert!(matches!(report, Report::Abandoned { .. }), "{report:?}");
    assert!(!lease.holds());

    let dir = tempfile::tempdir().unwrap();
    let options = options(&coordinator.hosts(), "looker", dir.path());
    let other = coord::Session::connect(&options.coord, options.runtime, BootClock::shared()).await.unwrap();
    let members = other.link().children("/taskd/members").await.unwrap();
    assert_eq!(members.len(), 1, "the abandoned session {session:?} still has its member");
    other.close(PATIENCE).await.unwrap();
}

#[tokio::test]
async fn connecting_ends_by_its_deadline_or_when_cancelled() {
    // A port that nobody listens on.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let dir = tempfile::tempdir().unwrap();
    let mut options = options(&format!("127.0.0.1:{port}"), "n1", dir.path());
    options.join_deadline = Duration::from_secs(3);
    let started = Instant::now();
    let failed = Quorum::new(options.clone()).connect(CancellationToken::new()).await.map(|_| ());
    assert!(matches!(failed, Err(quorum::ConnectFailure::Failed { .. })), "{failed:?}");
    assert!(started.elapsed() < Duration::from_secs(6), "took {:?}", started.elapsed());

    let cancel = CancellationToken::new();
    let quorum = Quorum::new(options);
    let mut view = quorum.handle().view();
    let (failed, ()) = tokio::join!(quorum.connect(cancel.clone()), async { cancel.cancel() });
    assert!(matches!(failed.map(|_| ()), Err(quorum::ConnectFailure::Cancelled)));
    assert!(matches!(view.borrow_and_update().role, Role::Follower));
}

#[tokio::test]
async fn more_nodes_than_eligible_max_do_not_stand() {
    let coordinator = testkit::coordinator().await;
    let mut nodes = Vec::new();
    for name in ["n1", "n2", "n3"] {
        let dir = tempfile::tempdir().unwrap();
        let mut options = options(&coordinator.hosts(), name, dir.path());
        options.eligible_max = 2;
        nodes.push(Node::start_in(options, dir).await);
    }
    // The bound keeps the herd small; nodes that look at the same moment may pass it together.
    for node in &nodes[..2] {
        node.handle.set_ready(Readiness::Ready);
    }
    let (first, _) = leader(&nodes).await;
    nodes[first].see("two candidates", |view| view.candidates.len() == 2).await;
    let refused = 2;
    nodes[refused].handle.set_ready(Readiness::Ready);
    nodes[refused]
        .see("it does not stand", |view| view.trouble.as_ref().is_some_and(|why| why.contains("2 cand")))
        .await;
    nodes[refused].see("two candidates", |view| view.candidates.len() == 2).await;
    assert!(!nodes[refused].view().candidates.contains(&nodes[refused].id));
    for node in nodes {
        assert_eq!(node.stop().await.0, Report::Closed);
    }
}

#[tokio::test]
async fn a_member_node_that_somebody_deleted_is_created_again() {
    let coordinator = testkit::coordinator().await;
    let nodes = [Node::start(&coordinator.hosts(), "n1").await];
    let (_, epoch) = leader(&nodes).await;
    let me = nodes[0].view().me.clone().expect("it has joined");
    let control = nodes[0].view().control.clone().expect("it has a session");
    let layout = coord::Layout::new("/taskd");
    let vips = [layout.vip_holder(&"web".parse().unwrap()), layout.vip_node(&nodes[0].id)];
    control.ensure(&layout.vip(&"web".parse().unwrap())).await.unwrap();
    hold(&control, &vips).await;

    vandalize(&coordinator.hosts(), vec![coord::Op::Delete { path: me.path.clone(), version: None }]).await;

    let again = |view: &quorum::View| view.me.as_ref().is_some_and(|now| now.sequence > me.sequence);
    let view = nodes[0].see("another member node", |view| again(view) && view.members.len() == 1).await;
    assert_eq!(view.members.first(), view.me.as_ref());
    assert_eq!(nodes[0].leads(), Some(epoch), "its term went on");
    assert_eq!(view.member, view.me.as_ref().map(|me| me.path.clone()));
    assert!(held(&control, &vips).await, "the audit that found it leaves to the virtual IPs what is theirs");
    let [node] = nodes;
    assert_eq!(node.stop().await.0, Report::Closed);
}

/// Creates ephemerals.
async fn hold(link: &coord::Link, paths: &[String]) {
    for path in paths {
        let op = coord::Op::Create { path: path.clone(), data: Vec::new(), mode: coord::Mode::Ephemeral };
        let read_back = coord::ReadBack::OwnEphemeral { path: path.clone() };
        let write = coord::Write { ops: vec![op], read_back, undo: coord::Undo::Keep };
        link.write(write, PATIENCE).await.unwrap();
    }
}

/// Whether they are all there; if not, none is.
async fn held(link: &coord::Link, paths: &[String]) -> bool {
    link.sync("/").await.unwrap();
    let mut there = 0;
    for path in paths {
        there += usize::from(link.exists(path).await.unwrap().is_some());
    }
    assert!(there == 0 || there == paths.len(), "{there} of {paths:?}");
    there > 0
}

/// Somebody writes where only nodes should.
async fn vandalize(hosts: &str, ops: Vec<coord::Op>) {
    let dir = tempfile::tempdir().unwrap();
    let options = options(hosts, "vandal", dir.path());
    let vandal = coord::Session::connect(&options.coord, options.runtime, BootClock::shared()).await.unwrap();
    let read_back = coord::ReadBack::Gone { path: ops[0].path().to_owned() };
    let write = coord::Write { ops, read_back, undo: coord::Undo::Keep };
    vandal.link().write(write, PATIENCE).await.unwrap();
    vandal.close(PATIENCE).await.unwrap();
}

fn persistent(path: &str, data: &[u8]) -> coord::Op {
    coord::Op::Create { path: path.into(), data: data.to_vec(), mode: coord::Mode::Persistent }
}

#[tokio::test]
async fn a_leader_node_that_nobody_holds_is_said_and_not_believed() {
    let coordinator = testkit::coordinator().await;
    let nodes = [Node::start(&coordinator.hosts(), "n1").await];
    let (_, epoch) = leader(&nodes).await;
    let [node] = nodes;
    assert_eq!(node.stop().await.0, Report::Closed);

    // As a backup tool writes it back: a good record, and persistent.
    let record = format!(
        r#"{{"node":"n9","address":"n9:1","incarnation":"{0}","sequence":1,"epoch":{1},"uuid":"{0}"}}"#,
        "0".repeat(32),
        epoch.0
    );
    vandalize(&coordinator.hosts(), vec![persistent("/taskd/leader", record.as_bytes())]).await;
    let nodes = [Node::start(&coordinator.hosts(), "n2").await];
    let view = nodes[0].see("what is in the way", |view| view.obstacle.is_some()).await;
    assert!(view.leader.is_none(), "{:?}", view.leader);
    let why = view.why_no_leader.clone().unwrap();
    assert!(why.contains("/taskd/leader is not ephemeral") && why.contains("delete it"), "{why}");

    vandalize(&coordinator.hosts(), vec![coord::Op::Delete { path: "/taskd/leader".into(), version: None }])
        .await;
    assert!(leader(&nodes).await.1 > epoch);
    let [node] = nodes;
    assert_eq!(node.stop().await.0, Report::Closed);
}

#[tokio::test]
async fn an_ensemble_that_went_back_is_said_and_not_led() {
    let coordinator = testkit::coordinator().await;
    let nodes = [Node::start(&coordinator.hosts(), "n1").await];
    leader(&nodes).await;
    let again = vec![
        coord::Op::Delete { path: "/taskd/epoch".into(), version: None },
        persistent("/taskd/epoch", b""),
    ];
    vandalize(&coordinator.hosts(), again).await;
    let back = |view: &quorum::View| {
        let remedy = |why: &String| {
            why.contains("restored from an older state") && why.contains("stop taskd on every node")
        };
        matches!(view.role, Role::Follower) && view.why_no_leader.as_ref().is_some_and(remedy)
    };
    nodes[0].see("that it went back", back).await;
    let [node] = nodes;
    let (_, elected) = node.stop().await;
    assert_eq!(elected.len(), 1, "nobody leads on from an older state: {elected:?}");
}

#[tokio::test]
async fn another_cluster_under_a_running_node_is_said_and_kept_out_of() {
    let coordinator = testkit::coordinator().await;
    let nodes = [Node::start(&coordinator.hosts(), "n1").await];
    leader(&nodes).await;
    let me = nodes[0].view().me.clone().expect("it has joined");
    // Somebody started anew below the same root, without stopping this node.
    let record = format!(r#"{{"uuid":"{}","format":1,"feature_level":1}}"#, "7".repeat(32));
    let ops = vec![
        coord::Op::Delete { path: me.path.clone(), version: None },
        coord::Op::Delete { path: "/taskd/leader".into(), version: None },
        coord::Op::Delete { path: "/taskd/cluster".into(), version: None },
        persistent("/taskd/cluster", record.as_bytes()),
    ];
    vandalize(&coordinator.hosts(), ops).await;
    let alone = |view: &quorum::View| {
        let foreign = |why: &String| why.contains("check the coordination hosts and root");
        view.why_no_leader.as_ref().is_some_and(foreign) && view.candidates.is_empty()
    };
    nodes[0].see("another cluster", alone).await;
    let [node] = nodes;
    let dir = tempfile::tempdir().unwrap();
    let options = options(&coordinator.hosts(), "looker", dir.path());
    let other = coord::Session::connect(&options.coord, options.runtime, BootClock::shared()).await.unwrap();
    testkit::until("it is no candidate there", PATIENCE, async || {
        let candidates = other.link().children("/taskd/candidates").await.unwrap();
        candidates.is_empty().then_some(())
    })
    .await;
    other.close(PATIENCE).await.unwrap();
    let (_, elected) = node.stop().await;
    assert_eq!(elected.len(), 1, "it leads no cluster that is not its own: {elected:?}");
}

/// Panics in whoever reads it, once it is told to.
#[derive(Debug, Default)]
struct Bomb(std::sync::atomic::AtomicBool);

impl clock::Clock for Bomb {
    fn now(&self) -> clock::Instant {
        assert!(!self.0.load(Ordering::SeqCst), "the test's clock goes off");
        BootClock.now()
    }

    fn wall(&self) -> clock::WallMs {
        BootClock.wall()
    }
}

#[tokio::test]
async fn a_driver_that_died_can_be_told_from_one_that_works() {
    let coordinator = testkit::coordinator().await;
    let dir = tempfile::tempdir().unwrap();
    let bomb = std::sync::Arc::new(Bomb::default());
    let mut options = options(&coordinator.hosts(), "n1", dir.path());
    options.clock = bomb.clone();
    let cancel = CancellationToken::new();
    let quorum = Quorum::new(options).connect(cancel.clone()).await.unwrap();
    let quorum = quorum.join(cancel).await.unwrap().run();
    let handle = quorum.handle();
    assert!(!handle.has_ended());
    bomb.0.store(true, Ordering::SeqCst);
    handle.refresh();
    testkit::until("the driver's end is seen", PATIENCE, async || handle.has_ended().then_some(())).await;
    bomb.0.store(false, Ordering::SeqCst);
    let stopped = quorum.stop(STOP).await;
    assert!(matches!(stopped.report(), Report::Abandoned { .. }), "{:?}", stopped.report());
}
