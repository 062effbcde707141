//! Changes as they are delivered.

use std::collections::BTreeSet;
use std::time::Duration;

use coord::{LinkState, Mode, Op};
use proto::Incarnation;
use proto::vip::{Backend, Drained, NodeReport};
use pulse::Pulse;
use testkit::Proxy;
use vip::store::{Change, Followers, TakeRequest, Term};

use crate::world::{Party, SOON, assignment, layout, node, web};

struct Seen(Followers);

impl Seen {
    fn start(party: &Party) -> Self {
        Self(Followers::start(&party.store, &Pulse::default()))
    }

    async fn next(&mut self) -> Option<Change> {
        tokio::time::timeout(SOON, self.0.next()).await.expect("something changes")
    }

    /// The first change that is wanted; what comes before it is none of this test's.
    async fn until(&mut self, what: &str, wanted: impl Fn(&Change) -> bool) -> Change {
        let found = tokio::time::timeout(SOON, async {
            loop {
                match self.0.next().await {
                    Some(change) if wanted(&change) => return change,
                    Some(_) => {}
                    None => panic!("it ended before: {what}"),
                }
            }
        });
        found.await.unwrap_or_else(|_| panic!("never: {what}"))
    }
}

async fn take(party: &Party, id: u128, at: i32) {
    let (service, holder) = (web(), party.holder(id));
    let (member, grace) = (party.member.as_str(), Duration::from_secs(2));
    let request = TakeRequest { service: &service, holder: &holder, assignment: at, member, grace };
    party.store.take(request).await.expect("nobody else has it");
}

#[tokio::test]
async fn everything_once_and_then_each_change() {
    let coordinator = testkit::coordinator().await;
    let hosts = coordinator.hosts();
    let (n1, n2) = (Party::start(hosts.clone(), "n1").await, Party::start(hosts, "n2").await);
    let mut seen = Seen::start(&n1);
    // Also of what is not there: until then it is not known.
    let mut first = Vec::new();
    for _ in 0..4 {
        first.push(seen.next().await.expect("it goes on"));
    }
    for wanted in [Change::Services(BTreeSet::new()), Change::Nodes(BTreeSet::new())] {
        assert!(first.contains(&wanted), "{first:?}");
    }
    let configured =
        |change: &Change| matches!(change, Change::Config(Ok(Some(found))) if found.value.revision == 0);
    assert!(first.iter().any(configured), "{first:?}");

    n2.store.apply("# 1", None, &n2.node, 1).await.unwrap();
    seen.until(
        "the configuration",
        |change| matches!(change, Change::Config(Ok(Some(found))) if found.value.text == "# 1"),
    )
    .await;
    n2.store.drain(&node("n9"), Drained { since_ms: 1, why: "disks".into() }).await.unwrap();
    let is_drained =
        |change: &Change| matches!(change, Change::Drained(Ok(Some(found))) if found.value.len() == 1);
    seen.until("the drained", is_drained).await;

    let leading = n2.elect().await;
    n2.store.assign(&leading, &assignment(&["n1", "n2"])).await.unwrap();
    seen.until("the service", |change| *change == Change::Services([web()].into())).await;
    let mut rest: BTreeSet<&str> = ["assignment", "holder", "term"].into();
    while !rest.is_empty() {
        match seen.next().await.expect("it goes on") {
            Change::Assignment(service, Ok(Some(found))) if service == web() && found.version == 0 => {
                assert_eq!(found.value, assignment(&["n1", "n2"]));
                rest.remove("assignment");
            }
            Change::Holder(service, Ok(None)) if service == web() => _ = rest.remove("holder"),
            Change::Term(_, Ok(Some(found))) if found.value.wait().is_zero() => _ = rest.remove("term"),
            other => panic!("{other:?}"),
        }
    }
    take(&n2, 1, 0).await;
    let theirs = n2.store.link().session_id();
    let held = seen.until("the holder", |change| matches!(change, Change::Holder(_, Ok(Some(_))))).await;
    let Change::Holder(_, Ok(Some(held))) = held else { unreachable!("it was waited for") };
    assert_eq!((held.value, held.owner), (n2.holder(1), Some(theirs)));

    let report = NodeReport {
        node: node("n2"),
        incarnation: Incarnation::from_u128(7),
        backend: Backend::DryRun,
        why_dry: None,
        unreadable: None,
        stopping: true,
        labels: [].into(),
        services: [].into(),
    };
    n2.store.put_report(&report).await.unwrap();
    seen.until(
        "the report",
        |change| matches!(change, Change::Report(_, Ok(Some(found))) if found.value == report),
    )
    .await;

    // It dies with its session: everything of it goes, and nothing else.
    n2.end().await;
    let mut rest: BTreeSet<&str> = ["holder", "nodes"].into();
    while !rest.is_empty() {
        match seen.next().await.expect("it goes on") {
            Change::Holder(_, Ok(None)) => _ = rest.remove("holder"),
            Change::Nodes(nodes) if nodes.is_empty() => _ = rest.remove("nodes"),
            Change::Term(_, Ok(Some(found))) => assert!(matches!(found.value, Term::Held { .. })),
            Change::Report(_, Ok(None)) => {}
            other => panic!("{other:?}"),
        }
    }
    n1.end().await;
    seen.until("the end", |change| matches!(change, Change::Ended(_))).await;
    assert_eq!(seen.next().await, None);
}

#[tokio::test]
async fn what_cannot_be_read_names_its_path_and_stops_nobody_else() {
    let coordinator = testkit::coordinator().await;
    let n1 = Party::start(coordinator.hosts(), "n1").await;
    let leading = n1.elect().await;
    n1.store.assign(&leading, &assignment(&["n1"])).await.unwrap();
    let mut db = assignment(&["n1"]);
    db.service = "db".parse().unwrap();
    n1.store.assign(&leading, &db).await.unwrap();
    n1.set(layout().vip_assignment(&web()), b"{").await;
    n1.set(layout().drained(), b"[]").await;
    // What a backup tool writes back, and what nobody of us would have written.
    n1.store.link().ensure(&layout().vip_holder(&web())).await.unwrap();
    n1.store.link().ensure(&format!("{}/NOT A SERVICE", layout().vips())).await.unwrap();
    n1.set(layout().vip_term(&"db".parse().unwrap()), b"").await;
    let (newer, data) = (layout().vip_node(&node("n7")), b"{\"version\":2}".to_vec());
    n1.write(Op::Create { path: newer.clone(), data, mode: Mode::Ephemeral }).await;

    let mut seen = Seen::start(&n1);
    let mut garbage = BTreeSet::new();
    let mut good = BTreeSet::new();
    let mut stand_in = None;
    while garbage.len() < 3 || good.len() < 3 || stand_in.is_none() {
        match seen.next().await.expect("it goes on") {
            Change::Assignment(service, Err(found)) => {
                garbage.insert((service.to_string(), found.path));
            }
            Change::Holder(service, Err(found)) => {
                assert!(found.reason.contains("delete it"), "{found}");
                garbage.insert((service.to_string(), found.path));
            }
            Change::Drained(Err(found)) => _ = garbage.insert(("".into(), found.path)),
            Change::Assignment(service, Ok(Some(_))) => _ = good.insert(format!("{service} assignment")),
            Change::Holder(service, Ok(None)) => _ = good.insert(format!("{service} holder")),
            // It is there, and says nothing that could be relied on.
            Change::Report(_, Ok(Some(found))) => stand_in = Some(found.value),
            Change::Term(service, Ok(Some(found))) if service != web() => {
                assert_eq!(found.value, Term::Unknown);
                good.insert(format!("{service} term"));
            }
            Change::Services(services) => assert_eq!(services.len(), 2),
            _ => {}
        }
    }
    let paths: Vec<_> = garbage.iter().map(|(service, path)| (service.as_str(), path.as_str())).collect();
    let wanted =
        [("", "/taskd/drained"), ("web", "/taskd/vips/web/assignment"), ("web", "/taskd/vips/web/holder")];
    assert_eq!(paths, wanted);
    assert_eq!(good.into_iter().collect::<Vec<_>>(), ["db assignment", "db holder", "db term"]);

    let stand_in = stand_in.expect("it was waited for");
    assert!(stand_in.unreadable.is_some_and(|why| why.contains(&newer)) && stand_in.services.is_empty());

    // Repaired, it is followed again.
    n1.store.assign(&leading, &assignment(&["n2"])).await.unwrap();
    seen.until("the assignment", |change| matches!(change, Change::Assignment(_, Ok(Some(_))))).await;
    n1.end().await;
}

#[tokio::test]
async fn a_reconnect_loses_nothing_and_a_service_may_come_again() {
    let coordinator = testkit::coordinator().await;
    let proxy = Proxy::start(coordinator.hosts()).await;
    let (n1, n2) = (Party::start(proxy.hosts(), "n1").await, Party::start(coordinator.hosts(), "n2").await);
    let leading = n2.elect().await;
    n2.store.assign(&leading, &assignment(&["n1"])).await.unwrap();
    let mut seen = Seen::start(&n1);
    seen.until("the holder", |change| matches!(change, Change::Holder(_, Ok(None)))).await;

    let mut state = n1.store.link().state();
    proxy.set(|faults| faults.refuse = true);
    proxy.cut();
    state.wait_for(|state| matches!(state, LinkState::Disconnected { .. })).await.unwrap();
    n2.store.assign(&leading, &assignment(&["n2"])).await.unwrap();
    let n3 = Party::start(coordinator.hosts(), "n3").await;
    take(&n3, 1, 1).await;
    proxy.heal();
    let mut rest: BTreeSet<&str> = ["assignment", "holder"].into();
    while !rest.is_empty() {
        match seen.next().await.expect("it goes on") {
            Change::Assignment(_, Ok(Some(found))) if found.version == 1 => _ = rest.remove("assignment"),
            Change::Holder(_, Ok(Some(_))) => _ = rest.remove("holder"),
            _ => {}
        }
    }

    n2.write(Op::Delete { path: layout().vip_holder(&web()), version: None }).await;
    n2.store.remove(&leading, &web(), true).await.unwrap();
    seen.until("no service", |change| *change == Change::Services(BTreeSet::new())).await;
    n2.store.assign(&leading, &assignment(&["n3"])).await.unwrap();
    seen.until("the service", |change| *change == Change::Services([web()].into())).await;
    seen.until(
        "its assignment",
        |change| matches!(change, Change::Assignment(_, Ok(Some(found))) if found.version == 0),
    )
    .await;
    n1.end().await;
    n2.end().await;
}
