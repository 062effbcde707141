//! The write actor: order, refusals, lost answers, and callers that give up.

mod common;

use std::time::Duration;

use clock::BootClock;
use common::{SOON, absent, create, ephemeral, layout, present, reached, session};
use coord::{
    ClientRuntime, Fence, LinkState, Mode, Op, OpResult, Options, ReadBack, Rejection, Session, Undo, Write,
    WriteError,
};
use drill::Drill;
use testkit::{Flow, Proxy, until};

fn join(dir: &str, prefix: &str) -> Write {
    Write {
        ops: vec![create(&format!("{dir}/{prefix}"), Mode::EphemeralSequential)],
        read_back: ReadBack::OwnSequential { dir: dir.to_owned(), prefix: prefix.to_owned() },
        undo: Undo::DeleteOwn,
    }
}

#[tokio::test]
async fn all_or_nothing_and_which_step_failed() {
    let coordinator = testkit::coordinator().await;
    let session = session(coordinator.hosts()).await;
    let link = session.link();
    let epoch = layout().epoch();
    let fence = Fence { epoch_path: epoch.clone(), version: 0 };
    let claim = |data: &[u8]| Write {
        ops: vec![
            fence.check(),
            create("/test/leader", Mode::Ephemeral),
            Op::Set { path: epoch.clone(), data: data.to_vec(), version: Some(0) },
        ],
        read_back: ReadBack::OwnEphemeral { path: "/test/leader".into() },
        undo: Undo::DeleteOwn,
    };
    let done = link.write(claim(b"one"), SOON).await.unwrap();
    let [OpResult::Checked, OpResult::Created { path, stat }, OpResult::Set { version: 1 }] = &done[..]
    else {
        panic!("{done:?}")
    };
    assert_eq!((path.as_str(), stat.ephemeral_owner), ("/test/leader", Some(link.session_id())));
    let stale = link.write(claim(b"two"), SOON).await;
    assert_eq!(stale, Err(WriteError::Rejected { op: 0, reason: Rejection::BadVersion }));
    assert_eq!(link.get(&epoch).await.unwrap().unwrap().data, b"one");
    let rows = [
        (create("/test/leader", Mode::Persistent), Rejection::NodeExists),
        (create("/test/none/child", Mode::Persistent), Rejection::NoNode),
        (Op::Delete { path: "/test".into(), version: None }, Rejection::NotEmpty),
        (Op::Delete { path: "/test/none".into(), version: None }, Rejection::NoNode),
        (Op::Set { path: "/test".into(), data: vec![0; 2_000_000], version: None }, Rejection::TooLarge),
    ];
    for (op, reason) in rows {
        let first = Op::Check { path: epoch.clone(), version: 1 };
        let read_back = ReadBack::Gone { path: "/test/none".into() };
        let refused = link.write(Write { ops: vec![first, op], read_back, undo: Undo::Keep }, SOON).await;
        assert_eq!(refused, Err(WriteError::Rejected { op: 1, reason }));
    }
    session.close(SOON).await.unwrap();
}

#[tokio::test]
async fn calls_keep_their_order_and_overlap() {
    let coordinator = testkit::coordinator().await;
    let session = session(coordinator.hosts()).await;
    let link = session.link();
    // Each is chained to the one before, so one that overtook another would be refused.
    let writes = (1..=200).map(|n| {
        let mut ops = vec![create(&format!("/test/seg-{n}"), Mode::Persistent)];
        if n > 1 {
            ops.insert(0, Op::Check { path: format!("/test/seg-{}", n - 1), version: 0 });
        }
        let read_back = ReadBack::Data { path: format!("/test/seg-{n}"), data: Vec::new() };
        link.write(Write { ops, read_back, undo: Undo::Keep }, SOON)
    });
    for (index, done) in futures::future::join_all(writes).await.into_iter().enumerate() {
        assert!(done.is_ok(), "segment {}: {done:?}", index + 1);
    }
    session.close(SOON).await.unwrap();
}

#[tokio::test]
async fn a_lost_answer_is_found_out() {
    let coordinator = testkit::coordinator().await;
    let proxy = Proxy::start(coordinator.hosts()).await;
    let session = session(proxy.hosts()).await;
    let link = session.link();
    let witness = common::session(coordinator.hosts()).await;
    let members = layout().members();
    // Done, but the answer is lost: an ephemeral sequential must not be there twice.
    proxy.set(|faults| faults.to_client = Flow::Drop);
    let (done, ()) = tokio::join!(link.write(join(&members, "_c_1-z-"), SOON), async {
        until("the member is there", SOON, async || {
            (!witness.link().children(&members).await.unwrap().is_empty()).then_some(())
        })
        .await;
        proxy.heal();
        proxy.cut();
    });
    let [OpResult::Created { path, stat }] = &done.unwrap()[..] else { panic!("one result for one op") };
    assert_eq!(stat.ephemeral_owner, Some(link.session_id()));
    let names = witness.link().children(&members).await.unwrap();
    assert_eq!(names.len(), 1, "{names:?}");
    assert_eq!(*path, format!("{members}/{}", names[0]));
    // Not done, and the loss noticed: it is done once more.
    proxy.set(|faults| faults.to_server = Flow::Drop);
    let (done, ()) = tokio::join!(link.write(join(&members, "_c_2-z-"), SOON), async {
        // The write is in the client before this future is polled again: losing it needs no waiting.
        tokio::task::yield_now().await;
        until("the proxy has swallowed it", SOON, async || {
            let lost = link.sync("/").await.is_err();
            lost.then_some(())
        })
        .await;
        proxy.heal();
        proxy.cut();
    });
    assert!(matches!(&done.unwrap()[..], [OpResult::Created { .. }]));
    assert_eq!(witness.link().children(&members).await.unwrap().len(), 2);
    session.close(SOON).await.unwrap();
    witness.close(SOON).await.unwrap();
}

#[tokio::test]
async fn what_nobody_wants_any_more_is_undone() {
    let coordinator = testkit::coordinator().await;
    let proxy = Proxy::start(coordinator.hosts()).await;
    let session = session(proxy.hosts()).await;
    let link = session.link();
    let witness = common::session(coordinator.hosts()).await;
    proxy.set(|faults| faults.to_client = Flow::Drop);
    let claim = link.write(ephemeral("/test/leader"), Duration::from_millis(100)).await;
    assert_eq!(claim, Err(WriteError::Unknown));
    present(&witness.link(), "/test/leader").await;
    proxy.heal();
    proxy.cut();
    absent(&witness.link(), "/test/leader").await;
    // And a later claim of the same node is not what gets undone.
    link.write(ephemeral("/test/leader"), SOON).await.unwrap();
    link.sync("/").await.unwrap();
    present(&link, "/test/leader").await;
    session.close(SOON).await.unwrap();
    witness.close(SOON).await.unwrap();
}

#[tokio::test]
async fn an_answer_that_is_dropped_unread_is_undone() {
    let coordinator = testkit::coordinator().await;
    let session = session(coordinator.hosts()).await;
    let link = session.link();
    // Not polled while the answer comes, as in a `select!` that takes another branch.
    let unread = link.write(ephemeral("/test/unread"), SOON);
    present(&link, "/test/unread").await;
    drop(unread);
    absent(&link, "/test/unread").await;
    session.close(SOON).await.unwrap();
}

#[tokio::test]
async fn a_second_claim_waits_for_the_undoing_of_the_first() {
    let coordinator = testkit::coordinator().await;
    let proxy = Proxy::start(coordinator.hosts()).await;
    let session = session(proxy.hosts()).await;
    let link = session.link();
    proxy.set(|faults| faults.to_client = Flow::Drop);
    let first = link.write(ephemeral("/test/leader"), Duration::from_millis(100)).await;
    assert_eq!(first, Err(WriteError::Unknown));
    let (second, ()) = tokio::join!(link.write(ephemeral("/test/leader"), SOON), async {
        proxy.heal();
        proxy.cut();
    });
    let [OpResult::Created { stat, .. }] = &second.unwrap()[..] else { panic!("one result for one op") };
    let now = link.exists("/test/leader").await.unwrap().expect("the second claim stands");
    assert_eq!(now.czxid, stat.czxid);
    session.close(SOON).await.unwrap();
}

/// The delete may have to be sent twice, and must not find what a later claim has created.
#[tokio::test]
async fn a_claim_waits_for_the_undoing_of_an_answer_that_was_dropped_unread() {
    let coordinator = testkit::coordinator().await;
    let proxy = Proxy::start(coordinator.hosts()).await;
    let drill = Drill::parse("").unwrap();
    let options = Options { drill: drill.clone(), ..common::options(proxy.hosts()) };
    let runtime = ClientRuntime::start().unwrap();
    let session = Session::connect(&options, runtime, BootClock::shared()).await.unwrap();
    let link = session.link();
    common::skeleton(&link).await;
    let before = drill.polls("coord.write");
    let unread = link.write(ephemeral("/test/leader"), SOON);
    present(&link, "/test/leader").await;
    proxy.set(|faults| faults.to_client = Flow::Drop);
    drop(unread);
    let second = link.write(ephemeral("/test/leader"), Duration::from_millis(100)).await;
    assert_eq!(second, Err(WriteError::Unknown));
    assert_eq!(
        drill.polls("coord.write") - before,
        1,
        "the second claim was sent before the first was undone"
    );
    proxy.heal();
    proxy.cut();
    absent(&link, "/test/leader").await;
    link.write(ephemeral("/test/leader"), SOON).await.unwrap();
    link.sync("/").await.unwrap();
    present(&link, "/test/leader").await;
    session.close(SOON).await.unwrap();
}

#[tokio::test]
async fn nothing_is_submitted_while_disconnected() {
    let coordinator = testkit::coordinator().await;
    let proxy = Proxy::start(coordinator.hosts()).await;
    let session = session(proxy.hosts()).await;
    let link = session.link();
    proxy.set(|faults| faults.refuse = true);
    proxy.cut();
    reached(&link, "disconnected", |state| matches!(state, LinkState::Disconnected { .. })).await;
    let forgotten = link.write(ephemeral("/test/forgotten"), Duration::from_millis(50)).await;
    assert_eq!(forgotten, Err(WriteError::Unknown));
    let (wanted, ()) = tokio::join!(link.write(ephemeral("/test/wanted"), SOON), async { proxy.heal() });
    let [OpResult::Created { stat, .. }] = &wanted.unwrap()[..] else { panic!("one result for one op") };
    // Had the first one been executed, however briefly, the parent would have seen three changes of its children.
    let parent = link.exists("/test").await.unwrap().unwrap();
    assert_eq!(
        (parent.cversion, parent.pzxid),
        (2, stat.czxid),
        "taskd and wanted were created, nothing else"
    );
    session.close(SOON).await.unwrap();
}
