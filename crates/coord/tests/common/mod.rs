//! What the tests against a coordination service share.

#![allow(dead_code, reason = "each test file is a crate of its own and uses a part")]

use std::time::Duration;

use clock::BootClock;
use coord::{
    ClientRuntime, Fence, Layout, Link, LinkState, Mode, Op, Options, ReadBack, Session, Undo, Write,
};
use testkit::until;

/// The session timeout of the tests: four ticks of what the testkit starts.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(2);

pub(crate) const SOON: Duration = Duration::from_secs(10);

pub(crate) fn options(hosts: impl Into<String>) -> Options {
    Options {
        session_timeout: TIMEOUT,
        tick: Duration::from_millis(500),
        margin: Duration::from_millis(600),
        call_deadline: Duration::from_millis(700),
        ..Options::new(hosts, "/test/taskd")
    }
}

pub(crate) fn layout() -> Layout {
    Layout::new("/test/taskd")
}

/// A session with the skeleton in place.
pub(crate) async fn session(hosts: impl Into<String>) -> Session {
    let runtime = ClientRuntime::start().expect("threads can be started");
    let session = Session::connect(&options(hosts), runtime, BootClock::shared())
        .await
        .expect("a session can be opened");
    skeleton(&session.link()).await;
    session
}

/// A disk that is busy with others may take longer than a call of these tests.
pub(crate) async fn skeleton(link: &Link) {
    until("the skeleton is there", SOON * 3, async || layout().ensure(link).await.ok()).await;
}

pub(crate) fn create(path: &str, mode: Mode) -> Op {
    Op::Create { path: path.to_owned(), data: Vec::new(), mode }
}

/// A write that creates one ephemeral.
pub(crate) fn ephemeral(path: &str) -> Write {
    Write {
        ops: vec![create(path, Mode::Ephemeral)],
        read_back: ReadBack::OwnEphemeral { path: path.to_owned() },
        undo: Undo::DeleteOwn,
    }
}

pub(crate) async fn reached(link: &Link, what: &str, reached: impl Fn(LinkState) -> bool) -> LinkState {
    let mut state = link.state();
    let found = tokio::time::timeout(SOON, state.wait_for(|state| reached(*state))).await;
    *found
        .unwrap_or_else(|_| panic!("the link is not {what} but {:?}", link.state().borrow()))
        .expect("the link is there")
}

pub(crate) async fn present(link: &Link, path: &str) {
    until(&format!("{path} exists"), SOON, async || {
        link.exists(path).await.expect("it can be looked at").map(|_| ())
    })
    .await;
}

pub(crate) async fn absent(link: &Link, path: &str) {
    until(&format!("{path} is gone"), SOON, async || {
        link.exists(path).await.expect("it can be looked at").is_none().then_some(())
    })
    .await;
}

/// Another term begins: the fence of its writes.
pub(crate) async fn elect(link: &Link) -> Fence {
    let epoch_path = layout().epoch();
    let version =
        link.get(&epoch_path).await.expect("it can be read").expect("the skeleton is there").stat.version;
    let data = format!("for the term after {version}").into_bytes();
    let set = Op::Set { path: epoch_path.clone(), data: data.clone(), version: Some(version) };
    let read_back = ReadBack::Data { path: epoch_path.clone(), data };
    // A disk that is busy with others may take long; nothing is proved by how long.
    link.write(Write { ops: vec![set], read_back, undo: Undo::Keep }, SOON * 3)
        .await
        .expect("nobody else writes it");
    Fence { epoch_path, version: version + 1 }
}
