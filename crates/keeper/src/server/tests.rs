//! What needs a disk that is slow or broken.

#[path = "../../tests/common/mod.rs"]
mod common;

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

use clock::BootClock;
use common::{Client, ask, create, data, exists, get, soon, until};
use tempfile::TempDir;
use tokio::net::TcpStream;

use super::log::BeforeSync;
use super::{Failure, Options, Server, StopError};
use crate::wire::ConnectRequest;

type Hook = Box<dyn FnMut() -> io::Result<()> + Send>;

fn options(dir: &Path) -> Options {
    let mut options = Options::new(dir, SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
    options.stop_timeout = Duration::from_millis(300);
    options
}

async fn start(change: impl FnOnce(&mut Options), before_sync: Hook) -> (TempDir, Server) {
    let dir = tempfile::tempdir().expect("a directory");
    let mut options = options(dir.path());
    change(&mut options);
    let hook = BeforeSync(Some(before_sync));
    let server = Server::start_with(options, BootClock::shared(), [1; 32], hook).await;
    (dir, server.expect("the server starts"))
}

/// A disk whose syncs each wait for a permit; all are permitted once the permits are dropped.
fn gate() -> (mpsc::Sender<()>, Hook) {
    let (permits, gate) = mpsc::channel();
    let hook = move || {
        // An error is the dropped sender.
        let _ = gate.recv();
        Ok(())
    };
    (permits, Box::new(hook))
}

/// How many requests wait for the disk.
async fn outstanding(address: SocketAddr) -> usize {
    let srvr = ask(address, b"srvr").await;
    let outstanding = srvr.lines().find_map(|line| line.strip_prefix("Outstanding: "));
    outstanding.and_then(|text| text.parse().ok()).expect("a number")
}

/// Waits until the server has read what was sent.
async fn until_outstanding(address: SocketAddr, at_least: usize) {
    until("the server has read the requests", async || outstanding(address).await >= at_least).await;
}

const NOTHING_COMES: Duration = Duration::from_millis(100);

#[tokio::test]
async fn nothing_is_shown_before_it_is_synced() {
    let (permits, hook) = gate();
    let (_dir, server) = start(|_| {}, hook).await;
    // The sessions are changes too.
    permits.send(()).expect("the log thread waits");
    let mut writer = Client::connect(server.address()).await;
    permits.send(()).expect("the log thread waits");
    let mut reader = Client::connect(server.address()).await;

    writer.send_all(&[create("/a", b"1"), get("/a")]).await;
    assert!(!writer.hears_within(NOTHING_COMES).await, "neither the write nor the read behind it");
    reader.send(&get("/a")).await;
    assert!(!reader.hears_within(NOTHING_COMES).await, "nor anybody else's read of it");
    until_outstanding(server.address(), 3).await;

    // Gathered behind the group that is being synced, and synced with one more sync.
    writer.send_all(&[create("/b", b"2"), create("/c", b"3")]).await;
    permits.send(()).expect("the log thread waits");
    for (client, replies) in [(&mut writer, 2), (&mut reader, 1)] {
        for _ in 0..replies {
            assert_eq!(client.receive().await.expect("a reply").0.err, 0);
        }
    }
    assert!(!writer.hears_within(NOTHING_COMES).await, "the second group waits for its own sync");
    permits.send(()).expect("the log thread waits");
    for _ in 0..2 {
        assert_eq!(writer.receive().await.expect("a reply").0.err, 0);
    }
    // Nothing waits for the disk: reads do not either.
    assert_eq!(data(&mut reader, "/c").await.as_deref(), Some(b"3".as_slice()));
    drop(permits);
    server.stop().await.expect("it stops in order");
}

#[tokio::test]
async fn bounds_hold_requests_back_while_the_disk_is_slow_and_let_them_go_afterwards() {
    let cases: [fn(&mut Options); 3] = [
        |options| options.requests_outstanding_max = 10,
        |options| options.group_txns_max = 10,
        |options| (options.requests_outstanding_max, options.group_txns_max) = (10, 5),
    ];
    for change in cases {
        let (permits, hook) = gate();
        let (_dir, server) = start(change, hook).await;
        permits.send(()).expect("the log thread waits");
        let mut client = Client::connect(server.address()).await;
        let requests: Vec<_> = (0..200).map(|index| create(&format!("/{index}"), b"")).collect();
        let last = client.send_all(&requests).await;
        until_outstanding(server.address(), 1).await;
        assert!(!client.hears_within(NOTHING_COMES).await);
        let outstanding = outstanding(server.address()).await;
        assert!(outstanding <= 20, "{outstanding}");
        drop(permits);
        for xid in 1..=last {
            let (header, _) = client.receive().await.expect("a reply");
            assert_eq!((header.xid, header.err), (xid, 0));
        }
        server.stop().await.expect("it stops in order");
    }
}

#[tokio::test]
async fn a_slow_disk_ends_no_session_that_is_not_read_because_of_it() {
    let cases: [fn(&mut Options); 2] =
        [|options| options.requests_outstanding_max = 2, |options| options.group_txns_max = 2];
    for change in cases {
        let (permits, hook) = gate();
        let (_dir, server) =
            start(|options| (options.tick = Duration::from_millis(50), change(options)).1, hook).await;
        permits.send(()).expect("the log thread waits");
        let request = ConnectRequest { timeout_ms: 100, ..Default::default() };
        let mut client = Client::try_connect(server.address(), &request).await.expect("a session");
        let last = client.send_all(&["/1", "/2", "/3", "/4"].map(|path| create(path, b""))).await;
        // Several times its timeout.
        assert!(!client.hears_within(Duration::from_millis(700)).await);
        drop(permits);
        for xid in 1..=last {
            let (header, _) = client.receive().await.expect("a reply");
            assert_eq!((header.xid, header.err), (xid, 0));
        }
        server.stop().await.expect("it stops in order");
    }
}

#[tokio::test]
async fn a_disk_that_fails_is_the_end() {
    let mut syncs = 0;
    let hook = move || {
        syncs += 1;
        if syncs > 3 { Err(io::Error::other("the disk is gone")) } else { Ok(()) }
    };
    let (dir, server) = start(|_| {}, Box::new(hook)).await;
    let mut client = Client::connect(server.address()).await;
    client.call(&create("/safe", b"")).await.expect("created");
    client.call(&create("/safe/too", b"")).await.expect("created");
    client.send(&create("/lost", b"")).await;
    assert_eq!(client.receive().await, None, "it is not acknowledged");
    let failure = soon("the failure is told", server.failed()).await;
    assert!(
        matches!(&failure, Failure::Disk(error) if error.to_string() == "the disk is gone"),
        "{failure:?}"
    );
    assert!(matches!(server.failed().await, Failure::Disk(_)), "and told again");
    assert!(TcpStream::connect(server.address()).await.is_err(), "nobody listens any more");
    assert!(matches!(server.stop().await, Err(StopError::Ended(Failure::Disk(_)))));

    let server = Server::start(options(dir.path()), BootClock::shared(), [1; 32]).await;
    let server = server.expect("the directory is free and whole");
    let mut client = Client::resume(server.address(), &client.session).await.expect("the session lives");
    client.call(&exists("/safe/too")).await.expect("what was acknowledged is there");
    server.stop().await.expect("it stops in order");
}

#[tokio::test]
async fn a_panic_is_a_failure_of_the_server() {
    let (_dir, server) = start(|_| {}, Box::new(|| panic!("a bug"))).await;
    let mut stream = soon("connect", TcpStream::connect(server.address())).await.expect("it listens");
    let request = crate::wire::connect_request_frame(&crate::wire::ConnectRequest::default());
    tokio::io::AsyncWriteExt::write_all(&mut stream, &request).await.expect("written");
    let failure = soon("the failure is told", server.failed()).await;
    assert!(matches!(failure, Failure::Panicked(_)), "{failure:?}");
    server.abort().await;
}

#[tokio::test]
async fn a_disk_that_hangs_does_not_hold_up_the_end() {
    for abort in [false, true] {
        let (permits, hook) = gate();
        let (_dir, server) = start(|_| {}, hook).await;
        permits.send(()).expect("the log thread waits");
        let mut client = Client::connect(server.address()).await;
        client.send(&create("/never", b"")).await;
        until_outstanding(server.address(), 1).await;
        if abort {
            soon("it is aborted", server.abort()).await;
        } else {
            let stopped = soon("it is stopped", server.stop()).await;
            assert!(matches!(stopped, Err(StopError::TooSlow)), "{stopped:?}");
        }
        assert_eq!(client.receive().await, None, "it is not acknowledged");
    }
}

#[tokio::test]
async fn a_stop_answers_what_it_has_read() {
    let (permits, hook) = gate();
    let (_dir, server) = start(|options| options.stop_timeout = common::PATIENCE, hook).await;
    permits.send(()).expect("the log thread waits");
    let mut client = Client::connect(server.address()).await;
    client.send_all(&[create("/one", b""), create("/two", b"")]).await;
    until_outstanding(server.address(), 2).await;
    let ((), stopped) = tokio::join!(
        async {
            // The stop is under way by then, and the disk answers only now.
            tokio::time::sleep(Duration::from_millis(20)).await;
            drop(permits);
        },
        server.stop()
    );
    stopped.expect("it stops in order");
    for xid in [1, 2] {
        let (header, _) = client.receive().await.expect("a reply");
        assert_eq!((header.xid, header.err), (xid, 0));
    }
    assert_eq!(client.receive().await, None, "and then it closes");
}
