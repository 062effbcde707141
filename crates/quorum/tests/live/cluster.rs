//! Three quorums in one process against a live coordination service.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::node::{Node, PATIENCE, TICK, TIMEOUT, id, leader, options};
use clock::BootClock;
use quorum::{HandoverError, PriorityError, Readiness, Report, Role};

async fn three(hosts: &str) -> Vec<Node> {
    let mut nodes = Vec::new();
    for name in ["n1", "n2", "n3"] {
        nodes.push(Node::start(hosts, name).await);
    }
    nodes
}

#[tokio::test]
async fn three_nodes_elect_one_which_hands_over_and_yields_to_priority() {
    let coordinator = testkit::coordinator().await;
    let nodes = three(&coordinator.hosts()).await;
    let (first, epoch) = leader(&nodes).await;

    let view = nodes[(first + 1) % 3].see("all three", |view| view.members.len() == 3).await;
    assert_eq!(view.me.as_ref().map(|me| &me.node), Some(&nodes[(first + 1) % 3].id));
    assert_eq!(view.seen_token.map(|token| token.epoch), Some(epoch));
    assert!(view.members.is_sorted_by_key(|member| member.sequence));

    // Handover: refused without a gap, or done to the one that was named.
    let refused = nodes[(first + 1) % 3].handle.handover(None).await;
    assert_eq!(refused, Err(HandoverError::NotLeading { leader: Some(nodes[first].id.clone()) }));
    let refused = nodes[first].handle.handover(Some(id("n9"))).await;
    assert!(matches!(refused, Err(HandoverError::NotACandidate { .. })), "{refused:?}");
    assert_eq!(nodes[first].leads(), Some(epoch));
    let target = (first + 2) % 3;
    nodes[first].see("three candidates", |view| view.candidates.len() == 3).await;
    let started = Instant::now();
    let done = nodes[first].handle.handover(Some(nodes[target].id.clone())).await;
    assert_eq!(done, Ok(nodes[target].id.clone()));
    let (second, later) = leader(&nodes).await;
    println!("handover seen by all after {:?}", started.elapsed());
    assert!(second == target && later > epoch);

    // Priority: whoever is set higher takes over by itself.
    let refused = nodes[0].handle.set_priority(id("n9"), 5).await;
    assert!(matches!(refused, Err(PriorityError::NoSuchNode { .. })), "{refused:?}");
    let other = (second + 1) % 3;
    nodes[second].see("three candidates", |view| view.candidates.len() == 3).await;
    nodes[0].handle.set_priority(nodes[other].id.clone(), 5).await.unwrap();
    testkit::until("the preferred node leads", PATIENCE, async || nodes[other].leads()).await;
    let (third, last) = leader(&nodes).await;
    assert!(third == other && last > later);

    let mut terms = Vec::new();
    for node in nodes {
        let (report, epochs) = node.stop().await;
        assert_eq!(report, Report::Closed);
        terms.extend(epochs);
    }
    let count = terms.len();
    terms.sort_unstable();
    terms.dedup();
    assert_eq!(count, terms.len(), "two nodes were elected in one epoch");
    assert_eq!(left_behind(&coordinator.hosts()).await, Vec::<String>::new());
}

/// What is left of members, candidates and leader.
async fn left_behind(hosts: &str) -> Vec<String> {
    let dir = tempfile::tempdir().unwrap();
    let options = options(hosts, "looker", dir.path());
    let session =
        coord::Session::connect(&options.coord, options.runtime, BootClock::shared()).await.unwrap();
    let link = session.link();
    let mut left = link.children("/taskd/members").await.unwrap();
    left.extend(link.children("/taskd/candidates").await.unwrap());
    left.extend(link.get("/taskd/leader").await.unwrap().map(|_| "leader".to_owned()));
    session.close(PATIENCE).await.unwrap();
    left
}

#[tokio::test]
async fn a_leader_that_is_cut_off_is_replaced_and_comes_back_as_a_follower() {
    let coordinator = testkit::coordinator().await;
    let proxy = testkit::Proxy::start(coordinator.hosts()).await;
    // Its effects will not end for a while, too.
    let cut = Node::start(&proxy.hosts(), "n1").await;
    let (_, epoch) = leader(std::slice::from_ref(&cut)).await;
    let mut others = Vec::new();
    for name in ["n2", "n3"] {
        others.push(Node::start(&coordinator.hosts(), name).await);
    }
    others[0].see("both candidates", |view| view.leader.is_some()).await;
    cut.see("three candidates", |view| view.candidates.len() == 3).await;
    cut.manner.ends.store(false, Ordering::SeqCst);
    let lease = cut.view().role.term().expect("it leads").lease.clone();

    let started = Instant::now();
    proxy.blackhole();
    proxy.set(|faults| faults.refuse = true);
    let next = testkit::until("another is elected", PATIENCE, async || {
        let held = lease.holds();
        let elected = others.iter().position(|node| matches!(node.view().role, Role::Elected(_)))?;
        assert!(!held, "the old leader was inside its lease when the new one had been elected");
        Some(elected)
    })
    .await;
    let took = started.elapsed();
    println!("another leader after {took:?}");
    assert!(took <= TIMEOUT + TICK + Duration::from_millis(500), "took {took:?}");
    let later = others[next].view().role.term().expect("it leads").token.epoch;
    assert!(later > epoch);
    cut.see("no session", |view| view.control.is_none() && view.member.is_none()).await;

    // Back: a new session, but nothing but what is left of its old term until its effects have ended.
    proxy.heal();
    proxy.cut();
    let view = cut.see("another session", |view| view.generation.0 > 1 && view.control.is_some()).await;
    assert_eq!(view.control.as_ref().map(coord::Link::session_id), view.session);
    assert_eq!(view.member, view.me.as_ref().map(|me| me.path.clone()));
    assert!(matches!(&view.role, Role::Resigning(term) if term.token.epoch == epoch), "{:?}", view.role);
    cut.handle.effects_ended(epoch);
    cut.see("a follower", |view| matches!(view.role, Role::Follower)).await;
    cut.manner.ends.store(true, Ordering::SeqCst);
    let mut nodes = others;
    nodes.push(cut);
    leader(&nodes).await;
    nodes[2].see("a candidate again", |view| view.candidates.len() == 3 && view.members.len() == 3).await;
    for node in nodes {
        assert_eq!(node.stop().await.0, Report::Closed);
    }
}

#[tokio::test]
async fn a_short_cut_suspends_and_resumes_the_same_epoch() {
    let coordinator = testkit::coordinator().await;
    let proxy = testkit::Proxy::start(coordinator.hosts()).await;
    let nodes = [Node::start(&proxy.hosts(), "n1").await];
    let (_, epoch) = leader(&nodes).await;
    let other = Node::start(&coordinator.hosts(), "n2").await;
    for round in 0..3 {
        proxy.set(|faults| faults.refuse = true);
        proxy.cut();
        nodes[0].see("suspended", |view| matches!(view.role, Role::Suspended(_))).await;
        proxy.heal();
        nodes[0]
            .see("resumed", |view| matches!(&view.role, Role::Elected(term) if term.token.epoch == epoch))
            .await;
        assert_eq!(nodes[0].view().generation.0, 1, "round {round}: the session was resumed");
    }
    for node in nodes.into_iter().chain([other]) {
        let (report, epochs) = node.stop().await;
        assert_eq!(report, Report::Closed);
        assert!(epochs.len() <= 1, "{epochs:?}");
    }
}

#[tokio::test]
async fn who_does_not_serve_resigns_and_who_is_not_ready_never_leads() {
    let coordinator = testkit::coordinator().await;
    let mut nodes = three(&coordinator.hosts()).await;
    let (first, epoch) = leader(&nodes).await;
    let (second, third) = ((first + 1) % 3, (first + 2) % 3);
    nodes[third].handle.set_ready(Readiness::NotReady { why: "its runner is down".into() });
    nodes[second].manner.serves.store(false, Ordering::SeqCst);
    nodes[first].see("two candidates", |view| view.candidates.len() == 2).await;

    // The second is elected, does not serve, resigns, and is held down; the first takes over again.
    nodes[first].handle.handover(Some(nodes[second].id.clone())).await.unwrap();
    let whose = nodes[second].id.clone();
    let held = |view: &quorum::View| view.held_down.iter().any(|(node, _)| *node == whose);
    nodes[third].see("held down", |view| held(view) && view.terms.failed.contains_key(&whose)).await;
    let (again, later) = leader(&nodes).await;
    assert!(again == first && later.0 >= epoch.0 + 3, "{epoch} {later}");
    assert_eq!(nodes[first].view().terms.failed[&whose].count, 1);
    // It cannot be asked for either.
    let refused = nodes[first].handle.handover(Some(whose)).await;
    assert!(matches!(refused, Err(HandoverError::NotACandidate { .. })), "{refused:?}");

    // Only the one that is not ready is left: nobody leads, and the view says why.
    let unready = nodes.remove(third);
    for node in nodes {
        assert_eq!(node.stop().await.0, Report::Closed);
    }
    let why = "no node is ready to lead; ";
    let view = unready
        .see("why nobody leads", |view| {
            view.leader.is_none()
                && view.candidates.is_empty()
                && view.why_no_leader.as_ref().is_some_and(|said| said.starts_with(why))
        })
        .await;
    assert!(view.why_no_leader.as_ref().is_some_and(|said| said.ends_with("its runner is down")));
    let (report, epochs) = unready.stop().await;
    assert_eq!((report, epochs.len()), (Report::Closed, 0));
}

#[tokio::test]
async fn a_restart_of_zookeeper_resumes_or_elects_again() {
    let mut coordinator = testkit::own_coordinator().await;
    let nodes = three(&coordinator.hosts()).await;
    let (_, mut epoch) = leader(&nodes).await;
    for down in [Duration::ZERO, TIMEOUT * 2] {
        coordinator.stop().await;
        let until = Instant::now() + down;
        testkit::until("nobody acts", PATIENCE, async || {
            let nobody = nodes.iter().all(|node| node.leads().is_none());
            (nobody && Instant::now() >= until).then_some(())
        })
        .await;
        coordinator.start_again().await;
        let (_, later) = leader(&nodes).await;
        assert!(later >= epoch);
        println!("after {down:?}: epoch {epoch} -> {later}");
        epoch = later;
        for node in &nodes {
            node.see("all members", |view| view.members.len() == 3 && view.candidates.len() == 3).await;
        }
    }
    for node in nodes {
        assert_eq!(node.stop().await.0, Report::Closed);
    }
}
