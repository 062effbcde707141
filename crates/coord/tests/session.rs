//! A session: deadlines, its end, and whose it is.

mod common;

use std::time::{Duration, Instant};

use clock::BootClock;
use common::{SOON, TIMEOUT, absent, ephemeral, layout, options, present, reached, session};
use coord::{CallError, CallFailure, ClientRuntime, ConnectError, Ended, LinkState, Session, WriteError};
use testkit::{Flow, Proxy, until};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[tokio::test]
async fn every_call_ends_by_its_deadline() {
    let coordinator = testkit::coordinator().await;
    let proxy = Proxy::start(coordinator.hosts()).await;
    let session = session(proxy.hosts()).await;
    let link = session.link();
    proxy.set(|faults| (faults.to_server, faults.to_client) = (Flow::Stall, Flow::Stall));
    let started = Instant::now();
    let members = layout().members();
    let late = |error: CallError| assert!(matches!(error.failure, CallFailure::Deadline(_)), "{error}");
    let (sync, get, children, exists, own, ensure, create) = tokio::join!(
        link.sync("/"),
        link.get(&members),
        link.children(&members),
        link.exists(&members),
        link.own_ephemerals("/"),
        link.ensure("/other"),
        link.create_or_get("/another", b""),
    );
    late(sync.unwrap_err());
    late(get.unwrap_err());
    late(children.unwrap_err());
    late(exists.unwrap_err());
    late(own.unwrap_err());
    late(ensure.unwrap_err());
    late(create.unwrap_err());
    let write = link.write(ephemeral("/late"), Duration::from_millis(100)).await;
    assert_eq!(write, Err(WriteError::Unknown));
    assert!(started.elapsed() < Duration::from_millis(2500), "all of it took {:?}", started.elapsed());
    assert!(session.close(Duration::from_millis(100)).await.is_err(), "nobody can confirm the close");
    assert!(started.elapsed() < Duration::from_millis(3500), "the close took its time as well");
}

#[tokio::test]
async fn close_takes_the_ephemerals_along() {
    let coordinator = testkit::coordinator().await;
    let witness = session(coordinator.hosts()).await;
    let runtime = ClientRuntime::start().unwrap();
    let session =
        Session::connect(&options(coordinator.hosts()), runtime.clone(), BootClock::shared()).await.unwrap();
    let link = session.link();
    link.write(ephemeral("/test/mine"), SOON).await.unwrap();
    assert_eq!(link.own_ephemerals("/test").await.unwrap(), ["/test/mine"]);
    assert_eq!(
        witness.link().exists("/test/mine").await.unwrap().unwrap().ephemeral_owner,
        Some(link.session_id())
    );
    let mut follower = link.follow_node("/test/mine");
    follower.next().await.unwrap();
    session.close(SOON).await.unwrap();
    witness.link().sync("/test").await.unwrap();
    assert_eq!(witness.link().exists("/test/mine").await.unwrap(), None);
    assert_eq!(*link.state().borrow(), LinkState::Ended(Ended::Closed));
    assert_eq!(link.get("/test").await.unwrap_err().failure, CallFailure::Ended(Ended::Closed));
    assert_eq!(link.write(ephemeral("/test/again"), SOON).await, Err(WriteError::Ended(Ended::Closed)));
    assert_eq!(follower.next().await, Err(Ended::Closed));
    assert!(runtime.shutdown(SOON).await, "the client's thread has ended");
    witness.close(SOON).await.unwrap();
}

#[tokio::test]
async fn abandoned_sessions_and_dropped_ones_go_on() {
    let coordinator = testkit::coordinator().await;
    let witness = session(coordinator.hosts()).await;
    let abandoned = session(coordinator.hosts()).await;
    abandoned.link().write(ephemeral("/test/abandoned"), SOON).await.unwrap();
    let dropped = session(coordinator.hosts()).await;
    let dropped_link = dropped.link();
    dropped_link.write(ephemeral("/test/dropped"), SOON).await.unwrap();
    abandoned.abandon();
    drop(dropped);
    assert_eq!(dropped_link.sync("/").await.unwrap_err().failure, CallFailure::Ended(Ended::Closed));
    // Longer than the server keeps a session that does not ping.
    let end = Instant::now() + TIMEOUT + Duration::from_secs(1);
    until("the time is up", SOON, async || {
        for path in ["/test/abandoned", "/test/dropped"] {
            assert!(witness.link().exists(path).await.unwrap().is_some(), "{path} has gone with its owner");
        }
        (Instant::now() > end).then_some(())
    })
    .await;
    witness.close(SOON).await.unwrap();
}

#[tokio::test]
async fn nobody_there() {
    let proxy = Proxy::start("127.0.0.1:1").await;
    let runtime = ClientRuntime::start().unwrap();
    for hosts in [proxy.hosts(), "127.0.0.1:1".to_owned()] {
        let started = Instant::now();
        let error =
            Session::connect(&options(hosts), runtime.clone(), BootClock::shared()).await.unwrap_err();
        assert!(matches!(error, ConnectError::Unreachable { .. }), "{error}");
        assert!(started.elapsed() < TIMEOUT + Duration::from_secs(1), "{:?}", started.elapsed());
    }
    assert!(runtime.shutdown(Duration::from_secs(1)).await, "a failed connect leaves no thread");
}

#[tokio::test]
async fn a_session_that_comes_too_late_is_closed() {
    let coordinator = testkit::own_coordinator().await;
    let proxy = Proxy::start(coordinator.hosts()).await;
    proxy.set(|faults| faults.to_client = Flow::Stall);
    let runtime = ClientRuntime::start().unwrap();
    let options = options(proxy.hosts());
    let connect = Session::connect(&options, runtime.clone(), BootClock::shared());
    // The server has opened the session, the client does not know it yet, and the caller gives up.
    assert!(tokio::time::timeout(Duration::from_millis(300), connect).await.is_err());
    let sessions = async || {
        let answer = coordinator.ask("mntr").await?;
        answer.lines().find_map(|line| line.strip_prefix("zk_global_sessions\t")?.trim().parse::<u32>().ok())
    };
    until("the session is there", SOON, async || (sessions().await? == 1).then_some(())).await;
    proxy.heal();
    // Less than the session timeout, so this is a close and no expiry.
    let closing = Duration::from_millis(1200);
    until("the session is closed", closing, async || (sessions().await? == 0).then_some(())).await;
    assert!(runtime.shutdown(SOON).await, "the client's thread has ended");
}

#[tokio::test]
async fn another_session_on_reconnect_is_noticed() {
    let coordinator = testkit::coordinator().await;
    let proxy = Proxy::start(coordinator.hosts()).await;
    let session = session(proxy.hosts()).await;
    let link = session.link();
    proxy.cut();
    let again = reached(&link, "connected again", |state| state.connection() == Some(2)).await;
    assert!(matches!(again, LinkState::Connected { .. }), "the same session is accepted");
    proxy.set(|faults| faults.forget_session = true);
    proxy.cut();
    let ended = reached(&link, "ended", |state| state.ended().is_some()).await;
    assert_eq!(ended, LinkState::Ended(Ended::SessionChanged));
    session.close(SOON).await.unwrap();
}

#[tokio::test]
async fn a_lost_server_ends_the_session_on_our_own_timer() {
    let mut coordinator = testkit::own_coordinator().await;
    let runtime = ClientRuntime::start().unwrap();
    let session =
        Session::connect(&options(coordinator.hosts()), runtime.clone(), BootClock::shared()).await.unwrap();
    let link = session.link();
    let mut follower = link.follow_children("/");
    follower.next().await.unwrap();
    coordinator.kill().await;
    let disconnected =
        reached(&link, "disconnected", |state| matches!(state, LinkState::Disconnected { .. })).await;
    let LinkState::Disconnected { since } = disconnected else { unreachable!() };
    let ended = reached(&link, "ended", |state| state.ended().is_some()).await;
    assert_eq!(ended, LinkState::Ended(Ended::Expired));
    let silence = clock::Clock::now(&BootClock).since(since);
    assert!(silence <= TIMEOUT + Duration::from_secs(1), "given up after {silence:?}");
    assert_eq!(follower.next().await, Err(Ended::Expired));
    assert!(runtime.shutdown(Duration::from_secs(1)).await, "the client does not spin on");
    session.close(Duration::from_millis(100)).await.unwrap();
}

#[tokio::test]
async fn a_restarted_server_keeps_the_session() {
    let mut coordinator = testkit::own_coordinator().await;
    let patient = coord::Options { session_timeout: SOON, ..options(coordinator.hosts()) };
    let runtime = ClientRuntime::start().unwrap();
    let session = Session::connect(&patient, runtime, BootClock::shared()).await.unwrap();
    let link = session.link();
    layout().ensure(&link).await.unwrap();
    link.write(ephemeral("/test/mine"), SOON).await.unwrap();
    coordinator.stop().await;
    coordinator.start_again().await;
    reached(&link, "connected again", |state| state.connection().is_some_and(|connection| connection > 1))
        .await;
    present(&link, "/test/mine").await;
    session.close(SOON).await.unwrap();
    let witness = common::session(coordinator.hosts()).await;
    absent(&witness.link(), "/test/mine").await;
    witness.close(SOON).await.unwrap();
}

#[tokio::test]
async fn what_is_created_with_credentials_is_ours_alone() {
    let coordinator = testkit::coordinator().await;
    let runtime = ClientRuntime::start().unwrap();
    let auth = Some(("digest".to_owned(), b"taskd:secret".to_vec()));
    let ours = coord::Options { auth, ..options(coordinator.hosts()) };
    let ours = Session::connect(&ours, runtime.clone(), BootClock::shared()).await.unwrap();
    layout().ensure(&ours.link()).await.unwrap();
    ours.link().write(ephemeral("/test/mine"), SOON).await.unwrap();
    let cluster = ours.link().create_or_get(&layout().cluster(), b"first").await.unwrap();
    assert_eq!((ours.link().create_or_get(&layout().cluster(), b"second").await.unwrap()), cluster);
    let theirs = Session::connect(&options(coordinator.hosts()), runtime, BootClock::shared()).await.unwrap();
    for path in [layout().cluster(), layout().epoch(), "/test/mine".to_owned()] {
        assert_eq!(theirs.link().get(&path).await.unwrap_err().failure, CallFailure::NoAuth, "{path}");
    }
    ours.close(SOON).await.unwrap();
    theirs.close(SOON).await.unwrap();
}

#[tokio::test]
async fn a_timeout_that_leaves_no_lease_is_refused() {
    let coordinator = testkit::coordinator().await;
    let runtime = ClientRuntime::start().unwrap();
    // What the testkit starts grants at most 10 s.
    let greedy = coord::Options {
        session_timeout: Duration::from_secs(30),
        margin: Duration::from_secs(12),
        ..options(coordinator.hosts())
    };
    let error = Session::connect(&greedy, runtime.clone(), BootClock::shared()).await.unwrap_err();
    assert!(matches!(error, ConnectError::TimeoutTooShort { .. }), "{error}");
    assert!(runtime.shutdown(SOON).await, "the session is closed");
}

#[tokio::test]
async fn a_server_that_cannot_open_a_session_now_is_asked_again() {
    let server = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let options = options(server.local_addr().unwrap().to_string());
    let mut refusing = tokio::task::JoinSet::new();
    refusing.spawn(async move {
        while let Ok((mut stream, _)) = server.accept().await {
            let mut request = [0; 256];
            let _ = stream.read(&mut request).await;
            // A ConnectResponse without a session: protocol 0, timeout 0, id 0, an empty password, not read-only.
            let mut answer = vec![0, 0, 0, 37];
            answer.extend([0; 16]);
            answer.extend([0, 0, 0, 16]);
            answer.extend([0; 17]);
            let _ = stream.write_all(&answer).await;
        }
    });
    let refused = Session::connect(&options, ClientRuntime::start().unwrap(), BootClock::shared()).await;
    let error = refused.map(|_| ()).unwrap_err();
    assert!(matches!(error, ConnectError::Unreachable { .. }) && error.is_transient(), "{error:?}");
}
