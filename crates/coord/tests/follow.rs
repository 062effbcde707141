//! Followers: one-shot watches that survive reconnects.

mod common;

use std::time::Duration;

use common::{SOON, create, ephemeral, layout, reached, session};
use coord::{Ended, Link, LinkState, Mode, Op, ReadBack, Undo, Write};
use testkit::Proxy;

async fn set(link: &Link, path: &str, data: &[u8]) {
    let ops = vec![Op::Set { path: path.into(), data: data.into(), version: None }];
    let read_back = ReadBack::Data { path: path.into(), data: data.into() };
    link.write(Write { ops, read_back, undo: Undo::Keep }, SOON).await.expect("it can be written");
}

async fn delete(link: &Link, path: &str) {
    let ops = vec![Op::Delete { path: path.into(), version: None }];
    let read_back = ReadBack::Gone { path: path.into() };
    link.write(Write { ops, read_back, undo: Undo::Keep }, SOON).await.expect("it can be written");
}

#[tokio::test]
async fn a_node_before_during_and_after_a_disconnect() {
    let coordinator = testkit::coordinator().await;
    let proxy = Proxy::start(coordinator.hosts()).await;
    let session = session(proxy.hosts()).await;
    let link = session.link();
    let other = common::session(coordinator.hosts()).await;
    let mut node = link.follow_node("/test/node");
    let mut next = async || {
        let node = tokio::time::timeout(SOON, node.next()).await.expect("a change is seen");
        node.map(|node| node.map(|node| node.data))
    };
    assert_eq!(next().await, Ok(None));
    let created = Write {
        ops: vec![Op::Create { path: "/test/node".into(), data: b"1".into(), mode: Mode::Persistent }],
        read_back: ReadBack::Data { path: "/test/node".into(), data: b"1".into() },
        undo: Undo::Keep,
    };
    other.link().write(created, SOON).await.unwrap();
    assert_eq!(next().await, Ok(Some(b"1".to_vec())));
    set(&other.link(), "/test/node", b"2").await;
    assert_eq!(next().await, Ok(Some(b"2".to_vec())));

    proxy.set(|faults| faults.refuse = true);
    proxy.cut();
    reached(&link, "disconnected", |state| matches!(state, LinkState::Disconnected { .. })).await;
    set(&other.link(), "/test/node", b"3").await;
    proxy.heal();
    assert_eq!(next().await, Ok(Some(b"3".to_vec())), "a change made while away is seen");

    // A wait that is dropped loses nothing, and the watch works after the reconnect.
    assert!(tokio::time::timeout(Duration::from_millis(50), next()).await.is_err());
    delete(&other.link(), "/test/node").await;
    assert_eq!(next().await, Ok(None));

    session.close(SOON).await.unwrap();
    assert_eq!(next().await, Err(Ended::Closed));
    other.close(SOON).await.unwrap();
}

#[tokio::test]
async fn children_and_the_same_name_again() {
    let coordinator = testkit::coordinator().await;
    let proxy = Proxy::start(coordinator.hosts()).await;
    let session = session(proxy.hosts()).await;
    let link = session.link();
    let other = common::session(coordinator.hosts()).await;
    let candidates = layout().candidates();
    let mut children = link.follow_children(&candidates);
    let mut next =
        async || tokio::time::timeout(SOON, children.next()).await.expect("a change is seen").unwrap();
    assert!(next().await.is_empty());
    other.link().write(ephemeral(&format!("{candidates}/b")), SOON).await.unwrap();
    assert_eq!(next().await, ["b"]);
    other.link().write(ephemeral(&format!("{candidates}/a")), SOON).await.unwrap();
    assert_eq!(next().await, ["a", "b"]);

    proxy.set(|faults| faults.refuse = true);
    proxy.cut();
    reached(&link, "disconnected", |state| matches!(state, LinkState::Disconnected { .. })).await;
    delete(&other.link(), &format!("{candidates}/a")).await;
    let again = Write {
        ops: vec![create(&format!("{candidates}/a"), Mode::Ephemeral)],
        read_back: ReadBack::OwnEphemeral { path: format!("{candidates}/a") },
        undo: Undo::Keep,
    };
    other.link().write(again, SOON).await.unwrap();
    proxy.heal();
    assert_eq!(next().await, ["a", "b"], "another node under the same name is a change");
    session.close(SOON).await.unwrap();
    other.close(SOON).await.unwrap();
}
