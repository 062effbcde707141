//! A follower sees every state that stays, whatever becomes of its connection.

use coord::{Link, Mode, Op, ReadBack, Undo, Write};
use drill::{Bug, Drill};
use testkit::Proxy;

use crate::common::{create, layout};
use crate::{LIMIT, PATIENCE, back_after, connection, faults, session};

async fn change(link: &Link, op: Op, read_back: ReadBack) {
    link.write(Write { ops: vec![op], read_back, undo: Undo::Keep }, PATIENCE).await.unwrap();
}

/// Changes a node and the children beside it, `n` times over: two times while connected, then while away.
async fn scenario(drill: Drill) -> Result<usize, String> {
    let coordinator = testkit::coordinator().await;
    let proxy = Proxy::start(coordinator.hosts()).await;
    let others = session(coordinator.hosts(), &Drill::none()).await;
    let ours = session(proxy.hosts(), &drill).await;
    let (link, other) = (ours.link(), others.link());
    let (node, dir) = (layout().priority(), layout().candidates());
    let (mut data, mut names) = (link.follow_node(node.clone()), link.follow_children(dir.clone()));
    data.next().await.unwrap();
    names.next().await.unwrap();
    let last = connection(&link);
    let mut seen = 0;
    for (n, away) in [(1, false), (2, false), (3, true), (4, false)] {
        if away {
            proxy.replace(|faults| faults.refuse = true);
        }
        let value = format!("{n}").into_bytes();
        let set = Op::Set { path: node.clone(), data: value.clone(), version: None };
        change(&other, set, ReadBack::Data { path: node.clone(), data: value.clone() }).await;
        let child = format!("{dir}/{n}");
        change(&other, create(&child, Mode::Ephemeral), ReadBack::OwnEphemeral { path: child }).await;
        if away {
            proxy.heal();
            back_after(&link, last).await;
        }
        let both = async {
            while data.next().await.unwrap().map(|node| node.data) != Some(value.clone()) {}
            while names.next().await.unwrap().len() != n {}
        };
        let followed = tokio::time::timeout(LIMIT, both).await;
        followed.map_err(|_| format!("change {n} was not seen within {LIMIT:?} (away: {away})"))?;
        seen += 1;
    }
    ours.close(PATIENCE).await.unwrap();
    others.close(PATIENCE).await.unwrap();
    Ok(seen)
}

#[tokio::test]
async fn holds_that_every_change_is_seen() {
    assert_eq!(scenario(faults(None, "")).await, Ok(4));
}

#[tokio::test]
async fn finds_planted_watch_not_rearmed() {
    let violation =
        scenario(faults(Some(Bug::WatchNotRearmed), "")).await.expect_err("the bug went unnoticed");
    assert!(violation.contains("change 2 was not seen"), "{violation}");
}
