//! What nodes say of themselves, and who is to hold nothing.

use std::collections::BTreeMap;

use proto::Incarnation;
use proto::vip::{Backend, Drained, NodeReport};
use vip::store::{DRAINED_MAX, StoreError};

use crate::world::{Party, layout, node};

fn report(party: &Party, stopping: bool) -> NodeReport {
    NodeReport {
        node: party.node.clone(),
        incarnation: Incarnation::from_u128(7),
        backend: Backend::DryRun,
        why_dry: None,
        unreadable: None,
        stopping,
        labels: BTreeMap::new(),
        services: BTreeMap::new(),
    }
}

#[tokio::test]
async fn a_report_lives_with_its_session_and_is_no_other_sessions() {
    let coordinator = testkit::coordinator().await;
    let n1 = Party::start(coordinator.hosts(), "n1").await;
    let twin = Party { node: node("n1"), ..Party::start(coordinator.hosts(), "n2").await };
    n1.store.put_report(&report(&n1, false)).await.unwrap();
    n1.store.put_report(&report(&n1, true)).await.unwrap();
    let refused = twin.store.put_report(&report(&twin, false)).await.unwrap_err();
    assert!(
        matches!(&refused, StoreError::NotOurs { path, .. } if path == "/taskd/vip-nodes/n1"),
        "{refused}"
    );
    twin.store.remove_report(&twin.node).await.unwrap();
    let seen = twin.store.reports().await.unwrap();
    assert_eq!(seen.get(&n1.node), Some(&Ok(report(&n1, true))), "of {seen:?}");

    let n1_node = n1.node.clone();
    n1.end().await;
    twin.absent(&layout().vip_node(&n1_node)).await;
    twin.store.put_report(&report(&twin, false)).await.unwrap();
    // One that nobody wrote who should.
    twin.store.link().ensure(&layout().vip_node(&node("n3"))).await.unwrap();
    let seen = twin.store.reports().await.unwrap();
    assert_eq!(seen.get(&n1_node), Some(&Ok(report(&twin, false))));
    let garbage = seen[&node("n3")].as_ref().unwrap_err().to_string();
    assert!(garbage.contains("/taskd/vip-nodes/n3") && garbage.contains("delete it"), "{garbage}");
    twin.store.remove_report(&twin.node).await.unwrap();
    assert!(!twin.exists(&layout().vip_node(&n1_node)).await);
    twin.end().await;
}

#[tokio::test]
async fn two_who_drain_at_once_both_do() {
    let coordinator = testkit::coordinator().await;
    let (n1, n2) =
        (Party::start(coordinator.hosts(), "n1").await, Party::start(coordinator.hosts(), "n2").await);
    let why = |why: &str| Drained { since_ms: 1, why: why.into() };
    let drain = async |party: &Party, names: [&str; 3]| {
        for name in names {
            assert!(party.store.drain(&node(name), why("disks")).await.unwrap());
        }
    };
    tokio::join!(drain(&n1, ["a", "b", "c"]), drain(&n2, ["d", "e", "f"]));
    assert_eq!(n1.store.drained().await.unwrap().len(), 6);
    assert!(!n2.store.drain(&node("a"), why("again")).await.unwrap());
    assert_eq!(n2.store.drained().await.unwrap()[&node("a")], why("disks"), "what was said first stays");
    assert!(n2.store.undrain(&node("a")).await.unwrap());
    assert!(!n1.store.undrain(&node("a")).await.unwrap());
    assert_eq!(n1.store.drained().await.unwrap().len(), 5);
    for more in 5..DRAINED_MAX {
        assert!(n1.store.drain(&node(&format!("x{more}")), why("disks")).await.unwrap());
    }
    let refused = n1.store.drain(&node("a"), why("disks")).await.unwrap_err();
    assert!(matches!(refused, StoreError::TooMany { max: DRAINED_MAX, .. }), "{refused}");
    assert!(n1.store.undrain(&node("b")).await.unwrap());
    n1.end().await;
    n2.end().await;
}
