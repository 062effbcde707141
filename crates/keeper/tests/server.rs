//! The server as clients meet it: over TCP, on a disk.

mod common;

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use clock::BootClock;
use common::{Client, ask, create, data, ephemeral, exists, get, sequential, soon, until};
use keeper::server::{Options, Server, StartError};
use keeper::wire::{ConnectRequest, MultiOp, Reply, Request};
use tempfile::TempDir;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

fn options(dir: &Path) -> Options {
    Options::new(dir, SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))
}

async fn start(options: Options) -> Server {
    Server::start(options, BootClock::shared(), [7; 32]).await.expect("the server starts")
}

async fn serve(change: impl FnOnce(&mut Options)) -> (TempDir, Server) {
    let dir = tempfile::tempdir().expect("a directory");
    let mut options = options(dir.path());
    change(&mut options);
    let server = start(options).await;
    (dir, server)
}

#[tokio::test]
async fn a_restart_keeps_znodes_and_sessions_on_the_same_port() {
    for abort in [false, true] {
        let (dir, server) = serve(|_| {}).await;
        let address = server.address();
        let mut client = Client::connect(address).await;
        client.call(&create("/kept", b"data")).await.expect("created");
        client.call(&ephemeral("/mine")).await.expect("created");
        if abort {
            server.abort().await;
        } else {
            server.stop().await.expect("it stops in order");
        }
        assert_eq!(client.receive().await, None, "the connection is closed");

        let server = start(Options { listen: address, ..options(dir.path()) }).await;
        let session = client.session;
        let mut client = Client::resume(address, &session).await.expect("the session lives");
        assert_eq!(client.session.session_id, session.session_id);
        assert_eq!(data(&mut client, "/kept").await.as_deref(), Some(b"data".as_slice()));
        client.call(&exists("/mine")).await.expect("the session keeps its ephemerals");
        let other = Client::connect(address).await;
        assert_ne!(other.session.session_id, session.session_id, "ids are never used twice");
        server.stop().await.expect("it stops in order");
    }
}

#[tokio::test]
async fn snapshots_bound_the_files_and_lose_nothing() {
    let cases: [fn(&mut Options); 2] =
        [|options| options.snapshot_every_txns = 40, |options| options.snapshot_every_bytes = 4_096];
    for change in cases {
        snapshots_bound_the_files(change).await;
    }
}

async fn snapshots_bound_the_files(change: fn(&mut Options)) {
    let (dir, server) = serve(change).await;
    let mut client = Client::connect(server.address()).await;
    for round in 0..30 {
        let requests: Vec<_> =
            (0..25).map(|index| create(&format!("/n{}", round * 25 + index), b"x")).collect();
        client.send_all(&requests).await;
        for _ in &requests {
            assert_eq!(client.receive().await.expect("a reply").0.err, 0);
        }
    }
    server.abort().await;
    let names: Vec<_> = std::fs::read_dir(dir.path())
        .expect("the directory")
        .map(|entry| entry.expect("an entry").file_name().into_string().expect("UTF-8"))
        .collect();
    assert!(names.iter().any(|name| name.starts_with("snapshot.")), "{names:?}");
    assert!(names.len() < 12, "old files are removed: {names:?}");

    let server = start(options(dir.path())).await;
    let mut client = Client::connect(server.address()).await;
    let all = client.call(&Request::GetAllChildrenNumber { path: "/".to_owned() }).await;
    // Those of /zookeeper count too.
    assert_eq!(all, Ok(Reply::Count(750 + 3)));
    server.stop().await.expect("it stops in order");
}

#[tokio::test]
async fn what_makes_no_sense_does_not_start() {
    let (dir, server) = serve(|_| {}).await;
    let second = Server::start(options(dir.path()), BootClock::shared(), [0; 32]).await;
    let Err(StartError::Store(error)) = second else { panic!("{second:?}") };
    assert!(error.to_string().contains(&std::process::id().to_string()), "{error}");

    let other = tempfile::tempdir().expect("a directory");
    let taken = Options { listen: server.address(), ..options(other.path()) };
    let taken = Server::start(taken, BootClock::shared(), [0; 32]).await;
    assert!(matches!(taken, Err(StartError::Listen { .. })), "{taken:?}");

    let nonsense = Options { tick: Duration::ZERO, ..options(other.path()) };
    let nonsense = Server::start(nonsense, BootClock::shared(), [0; 32]).await;
    assert!(matches!(nonsense, Err(StartError::Options(_))), "{nonsense:?}");

    // Neither has harmed the one that runs, nor kept what it tried for itself.
    assert_eq!(ask(server.address(), b"ruok").await, "imok");
    let failed = tokio::time::timeout(Duration::from_millis(20), server.failed()).await;
    assert!(failed.is_err(), "{failed:?}");
    server.stop().await.expect("it stops in order");
    start(options(other.path())).await.stop().await.expect("it stops in order");
}

#[tokio::test]
async fn sessions_expire_with_their_ephemerals_and_are_refused_afterwards() {
    // Who waits for it does not ping either, and lives longer.
    let short = |options: &mut Options| {
        (options.tick, options.session_timeout_max) =
            (Duration::from_millis(50), Some(Duration::from_secs(10)));
    };
    let (_dir, server) = serve(short).await;
    let mut watcher = Client::connect(server.address()).await;
    let request = ConnectRequest { timeout_ms: 100, ..Default::default() };
    let mut dying = Client::try_connect(server.address(), &request).await.expect("a session");
    assert_eq!(dying.session.timeout_ms, 100);
    dying.call(&ephemeral("/dying")).await.expect("created");
    let session = dying.session;
    assert_eq!(dying.receive().await, None, "the server closes the connection of a session that expired");
    until("the ephemeral is gone", async || watcher.call(&exists("/dying")).await.is_err()).await;
    assert!(Client::resume(server.address(), &session).await.is_none(), "it is gone for good");
    server.stop().await.expect("it stops in order");
}

#[tokio::test]
async fn replies_come_in_the_order_of_requests_under_any_bounds() {
    let cases: [fn(&mut Options); 6] = [
        |_| {},
        |options| options.requests_outstanding_max = 1,
        |options| options.requests_outstanding_max = 7,
        |options| options.group_txns_max = 1,
        |options| options.reply_bytes_pause = 1,
        |options| (options.group_txns_max, options.requests_outstanding_max) = (5, 64),
    ];
    for (case, change) in cases.into_iter().enumerate() {
        let (_dir, server) = serve(change).await;
        let mut tasks = tokio::task::JoinSet::new();
        for number in 0..4 {
            let address = server.address();
            tasks.spawn(async move {
                let mut client = Client::connect(address).await;
                let top = format!("/top{number}");
                let mut requests = vec![create(&top, b"")];
                for index in 0..300 {
                    requests.push(create(&format!("{top}/{index}"), &[b'x'; 50]));
                    requests.push(get(&format!("{top}/{index}")));
                    requests.push(exists("/nothing"));
                }
                let last = client.send_all(&requests).await;
                for (xid, request) in (1..=last).zip(&requests) {
                    let (header, _) = client.receive().await.expect("a reply");
                    assert_eq!(header.xid, xid);
                    let expected = if *request == exists("/nothing") { -101 } else { 0 };
                    assert_eq!(header.err, expected, "case {case}: {request:?}");
                }
            });
        }
        while let Some(ended) = soon("all clients are answered", tasks.join_next()).await {
            ended.expect("they are answered in order");
        }
        server.stop().await.expect("it stops in order");
    }
}

#[tokio::test]
async fn a_client_that_does_not_read_is_cut_and_the_others_go_on() {
    let large = vec![b'x'; 200_000];
    let cases: [fn(&mut Options); 2] = [
        // It is not read while its replies wait, and they wait too long.
        |options| options.write_timeout = Duration::from_millis(300),
        // One read passes the bound.
        |options| (options.reply_bytes_pause, options.reply_bytes_max) = (50_000, 100_000),
    ];
    for change in cases {
        let (_dir, server) = serve(change).await;
        let mut other = Client::connect(server.address()).await;
        other.call(&create("/large", &large)).await.expect("created");
        let mut slow = Client::connect(server.address()).await;
        let requests: Vec<_> = (0..500).map(|_| get("/large")).collect();
        slow.send_all(&requests).await;
        until("it is closed", async || {
            other.call(&exists("/large")).await.expect("the others are served");
            ask(server.address(), b"srvr").await.contains("Connections: 2\n")
        })
        .await;
        let mut replies = 0;
        while slow.receive().await.is_some() {
            replies += 1;
        }
        assert!(replies < requests.len(), "what it was not sent is lost with its connection");
        server.stop().await.expect("it stops in order");
    }
}

#[tokio::test]
async fn garbage_costs_only_the_connection_it_came_on() {
    let (_dir, server) = serve(|options| options.handshake_timeout = Duration::from_millis(300)).await;
    let address = server.address();
    let mut other = Client::connect(address).await;
    let huge = (1_i32 << 20).to_be_bytes();
    let garbage: [&[u8]; 9] = [
        b"",
        b"\0\0",
        b"GET / HTTP/1.1\r\n\r\n",
        b"unkn",
        &[0xff; 64],
        &[0xff, 0xf4, 0xff, 0xfd],
        &huge,
        &[0, 0, 0, 0],
        // Half a request, and then nothing.
        &[0, 0, 0, 45, 0, 0, 0, 0, 1, 2, 3],
    ];
    for bytes in garbage {
        assert_eq!(ask(address, bytes).await, "", "{bytes:?}");
        other.call(&exists("/")).await.expect("the others are served");
    }
    // With a session, too.
    for bytes in [&huge[..], &[0xff; 4], &[0, 0, 0, 3, 1, 2, 3]] {
        let mut client = Client::connect(address).await;
        client.write(bytes).await;
        assert_eq!(client.receive().await, None, "{bytes:?}");
        assert!(Client::resume(address, &client.session).await.is_some(), "the session goes on");
    }
    let mut half = Client::connect(address).await;
    half.write(&[0, 0, 0, 100, 1, 2, 3]).await;
    drop(half);
    other.call(&exists("/")).await.expect("the others are served");
    server.stop().await.expect("it stops in order");
}

#[tokio::test]
async fn there_are_never_more_connections_than_allowed() {
    let (_dir, server) = serve(|options| options.connections_max = 3).await;
    let address = server.address();
    let mut held = Vec::new();
    for _ in 0..3 {
        held.push(Client::connect(address).await);
    }
    let request = ConnectRequest { timeout_ms: 10_000, ..Default::default() };
    for _ in 0..20 {
        assert!(Client::try_connect(address, &request).await.is_none(), "one more is closed");
    }
    let mut first = held.remove(0);
    first.call(&Request::CloseSession).await.expect("closed in order");
    assert_eq!(first.receive().await, None);
    until("there is room again", async || Client::try_connect(address, &request).await.is_some()).await;
    for client in &mut held {
        client.call(&exists("/")).await.expect("the others are served");
    }
    server.stop().await.expect("it stops in order");
}

#[tokio::test]
async fn a_paused_server_is_silent_and_goes_on_where_it_was() {
    let (_dir, server) = serve(|_| {}).await;
    let mut client = Client::connect(server.address()).await;
    server.pause();
    client.send(&create("/paused", b"")).await;
    assert!(!client.hears_within(Duration::from_millis(150)).await);
    server.resume();
    assert_eq!(client.receive().await.expect("the reply").0.err, 0);
    // A paused server can be ended.
    server.pause();
    server.stop().await.expect("it stops in order");
}

#[tokio::test]
async fn a_pause_ends_no_session_whose_client_is_there_afterwards() {
    let (_dir, server) = serve(|options| options.tick = Duration::from_millis(100)).await;
    let request = ConnectRequest { timeout_ms: 200, ..Default::default() };
    let mut client = Client::try_connect(server.address(), &request).await.expect("a session");
    client.call(&ephemeral("/mine")).await.expect("created");
    server.pause();
    assert!(!client.hears_within(Duration::from_millis(300)).await);
    client.send(&exists("/mine")).await;
    // Several times its timeout.
    assert!(!client.hears_within(Duration::from_millis(1_000)).await);
    server.resume();
    assert_eq!(client.receive().await.expect("the session lives").0.err, 0);
    assert_eq!(client.receive().await, None, "until its client is really silent");
    server.stop().await.expect("it stops in order");
}

#[tokio::test]
async fn requests_that_take_long_hold_up_nobody_else() {
    let (_dir, server) = serve(|_| {}).await;
    let (mut slow, mut other) =
        (Client::connect(server.address()).await, Client::connect(server.address()).await);
    slow.call(&create("/a", b"")).await.expect("created");
    for _ in 0..10 {
        let Request::Create(sequential) = sequential("/a/") else { unreachable!() };
        let ops = vec![MultiOp::Create(sequential); 1_000];
        slow.call(&Request::Multi(ops)).await.expect("created");
    }
    // Each walks over all of them, and is a few bytes in both directions.
    let count = Request::GetAllChildrenNumber { path: "/a".to_owned() };
    let last = slow.send_all(&vec![count; 2_000]).await;
    other.call(&exists("/a")).await.expect("served meanwhile");
    let srvr = ask(server.address(), b"srvr").await;
    let received = srvr.lines().find_map(|line| line.strip_prefix("Received: "));
    let received: usize = received.and_then(|text| text.parse().ok()).expect("a number");
    assert!(received < 2_000, "{received} requests were read before it");
    while slow.receive().await.expect("a reply").0.xid < last {}
    server.stop().await.expect("it stops in order");
}

#[tokio::test]
async fn who_holds_little_is_not_closed_for_what_others_hold() {
    let (_dir, server) = serve(|options| {
        (options.reply_bytes_max, options.buffered_bytes_max) = (1 << 20, 2 << 20);
    })
    .await;
    let address = server.address();
    let mut modest = Client::connect(address).await;
    let mut hoarders = Vec::new();
    for _ in 0..2 {
        // Almost all of a request, and almost half of what all may hold.
        let mut stream = soon("connect", TcpStream::connect(address)).await.expect("it listens");
        let mut bytes = vec![0; (1 << 20) - 8];
        bytes[..4].copy_from_slice(&(0xf_ffff_u32 - 4).to_be_bytes());
        soon("it is taken", stream.write_all(&bytes)).await.expect("written");
        hoarders.push(stream);
    }
    until("one of them is closed", async || {
        modest.call(&exists("/")).await.expect("who holds little is served");
        hoarders.iter().any(|stream| !matches!(stream.try_read(&mut [0]), Err(error) if error.kind() == ErrorKind::WouldBlock))
    })
    .await;
    modest.call(&exists("/")).await.expect("and still is");
    server.stop().await.expect("it stops in order");
}

#[tokio::test]
async fn four_letter_words_are_zookeepers() {
    let (dir, server) = serve(|_| {}).await;
    let address = server.address();
    let mut client = Client::connect(address).await;
    client.call(&ephemeral("/mine")).await.expect("created");
    client.call(&Request::GetData { path: "/mine".to_owned(), watch: true }).await.expect("read");
    let session = format!("{:#x}", client.session.session_id);
    let dir = dir.path().display();

    assert_eq!(ask(address, b"ruok").await, "imok");
    assert_eq!(ask(address, b"ruok\n").await, "imok");
    assert_eq!(ask(address, b"isro").await, "rw");
    assert_eq!(ask(address, b"wchs").await, "1 connections watching 1 paths\nTotal watches:1\n");
    assert_eq!(ask(address, b"wchp").await, "wchp is not executed because it is not in the whitelist.\n");

    let srvr = ask(address, b"srvr").await;
    let keys: Vec<_> = srvr.lines().map(|line| line.split(": ").next().unwrap_or_default()).collect();
    let expected = [
        "Zookeeper version",
        "Latency min/avg/max",
        "Received",
        "Sent",
        "Connections",
        "Outstanding",
        "Zxid",
        "Mode",
        "Node count",
    ];
    assert_eq!(keys, expected);
    assert!(srvr.contains("Zxid: 0x2\nMode: standalone\nNode count: 6\n"), "{srvr}");
    assert!(srvr.starts_with("Zookeeper version: 3.8.0-"), "{srvr}");

    let stat = ask(address, b"stat").await;
    let client_line = "[1](queued=0,recved=3,sent=3)\n";
    assert!(stat.contains("Clients:\n /127.0.0.1:") && stat.contains(client_line), "{stat}");
    assert!(stat.contains("[0](queued=0,recved=1,sent=0)\n\nLatency"), "{stat}");

    let cons = ask(address, b"cons").await;
    assert!(cons.contains(&format!(",sid={session},lop=GETD,est=")), "{cons}");
    assert!(cons.contains(",to=10000,lcxid=0x2,lzxid=0x2,lresp="), "{cons}");

    let conf = ask(address, b"conf").await;
    assert!(conf.starts_with(&format!("clientPort={}\nsecureClientPort=-1\n", address.port())), "{conf}");
    assert!(conf.contains(&format!("dataDir={dir}\n")), "{conf}");
    assert!(conf.contains("tickTime=2000\n") && conf.contains("maxSessionTimeout=40000\n"), "{conf}");

    let mntr = ask(address, b"mntr").await;
    for line in
        ["zk_server_state\tstandalone", "zk_znode_count\t6", "zk_ephemerals_count\t1", "zk_watch_count\t1"]
    {
        assert!(mntr.lines().any(|found| found == line), "{line} is not in {mntr}");
    }
    let envi = ask(address, b"envi").await;
    assert!(envi.starts_with("Environment:\nzookeeper.version=3.8.0-"), "{envi}");

    let dump = ask(address, b"dump").await;
    assert!(dump.starts_with("SessionTracker dump:\nSession Sets (1)/(1):\n1 expire at "), "{dump}");
    assert!(dump.contains(&format!("Sessions with Ephemerals (1):\n{session}:\n\t/mine\n")), "{dump}");
    assert!(
        dump.contains(" sessionId: 0x0\n") && dump.contains(&format!(" sessionId: {session}\n")),
        "{dump}"
    );

    assert_eq!(ask(address, b"crst").await, "Connection stats reset.\n");
    assert_eq!(ask(address, b"srst").await, "Server stats reset.\n");
    let srvr = ask(address, b"srvr").await;
    assert!(srvr.contains("Latency min/avg/max: 0/0.0/0\nReceived: "), "{srvr}");
    server.stop().await.expect("it stops in order");
}

#[tokio::test]
async fn a_dropped_server_frees_its_directory_and_its_port() {
    let (dir, server) = serve(|_| {}).await;
    let address = server.address();
    drop(server);
    let again = Options { listen: address, ..options(dir.path()) };
    until("another server can take over", async || {
        match Server::start(again.clone(), BootClock::shared(), [7; 32]).await {
            Ok(server) => server.stop().await.is_ok(),
            Err(_) => false,
        }
    })
    .await;
}
