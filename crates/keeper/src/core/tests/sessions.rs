use super::*;
use crate::state::{Txn, TxnBody};
use crate::wire::OpCode;

#[test]
fn an_expiry_takes_the_ephemerals_in_one_zxid_and_tells_the_others_only() {
    let mut server = Server::new().with_nodes(&["/p"]);
    let (dying, watching) = (server.connect(), server.connect());
    for path in ["/p/a", "/p/b", "/c"] {
        server.ask(dying, &create_mode(path, 1)).unwrap();
        server.ask(watching, &data(path, true)).unwrap();
        server.ask(dying, &data(path, true)).unwrap();
    }
    server.ask(watching, &children("/p", true)).unwrap();
    let before = server.out.txns.len();
    let zxid = server.core.state().last_zxid();
    for _ in 0..5 {
        server.advance(2_000);
        server.ask(watching, &Request::Ping).unwrap();
    }
    assert_eq!(server.out.txns.len(), before, "it lives for its timeout at least");
    server.advance(2_000);

    assert_eq!(server.told(dying), ["closed"]);
    assert_eq!(
        server.told(watching),
        ["NodeDeleted /c", "NodeDeleted /p/a", "NodeChildrenChanged /p", "NodeDeleted /p/b"]
    );
    assert_eq!(server.out.txns[before..].iter().map(|txn| txn.zxid).collect::<Vec<_>>(), [zxid + 1]);
    assert_eq!(server.core.state().counts().ephemerals, 0);
    let (_, response, closed) = server.handshake(&ConnectRequest {
        session_id: dying.session,
        password: Bytes::copy_from_slice(&dying.password),
        ..ConnectRequest::default()
    });
    assert_eq!(
        (response, closed),
        (Some(ConnectResponse { read_only: None, ..ConnectResponse::default() }), true)
    );
    assert_eq!((server.core.stats().sessions_expired, server.core.session_count()), (1, 1));
}

#[test]
fn what_keeps_a_session_alive() {
    let ping = OpCode::Ping.number();
    let rows: [(i32, &[u8], bool); 5] = [
        (ping, b"", true),
        (OpCode::GetData.number(), b"garbage", true),
        (OpCode::Auth.number(), b"\0\0\0\0\0\0\0\x02ip\xff\xff\xff\xff", false),
        (OpCode::Sasl.number(), b"\0\0\0\0", false),
        // A frame in itself: what is asked for does not matter.
        (OpCode::WhoAmI.number(), b"", true),
    ];
    for (op, body, alive) in rows {
        let mut server = Server::new();
        let client = server.connect();
        for _ in 0..4 {
            server.advance(4_000);
            server.send_raw(client.conn, 1, op, body);
        }
        assert_eq!(server.core.session_count() == 1, alive, "op {op}");
    }
}

#[test]
fn a_session_outlives_that_its_connection_is_not_read() {
    let mut server = Server::new();
    let (held, silent) = (server.connect(), server.connect());
    for _ in 0..4 {
        server.advance(4_000);
        server.core.held_back(held.conn, server.now);
    }
    assert_eq!((server.told(silent), server.told(held)), (vec!["closed".to_owned()], vec![]));
    server.core.closed(held.conn, server.now);
    server.core.held_back(held.conn, server.now);
    server.advance(12_000);
    assert_eq!(server.core.session_count(), 0);
}

#[test]
fn the_deadline_is_that_of_the_next_bucket() {
    let mut server = Server::new();
    assert_eq!(server.core.next_deadline(), None);
    let client = server.connect();
    // Opened 7.000000123 s after boot, 10 s of timeout, in ticks of 2 s.
    assert_eq!(server.core.next_deadline(), Some(Instant::from_nanos(18_000_000_000)));
    server.core.closed(client.conn, server.now);
    assert_eq!(server.core.next_deadline(), Some(Instant::from_nanos(18_000_000_000)));
    let mut out = Output::default();
    let due = Now { monotonic: Instant::from_nanos(18_000_000_000), ..server.now };
    server.core.tick(Now { monotonic: Instant::from_nanos(17_999_999_999), ..due }, &mut out);
    assert!(out.is_empty());
    server.core.tick(due, &mut out);
    assert!(matches!(out.txns.as_slice(), [Txn { body: TxnBody::CloseSession { .. }, .. }]), "{out:?}");
    assert_eq!((out.effects.len(), server.core.next_deadline()), (0, None));
}

#[test]
fn a_resumed_session_lives_by_its_new_timeout() {
    let mut server = Server::new();
    let client = server.connect();
    let shorter = server.attach(&ConnectRequest {
        timeout_ms: 4_000,
        session_id: client.session,
        password: Bytes::copy_from_slice(&client.password),
        ..ConnectRequest::default()
    });
    server.take(client.conn);
    server.advance(6_000);
    assert_eq!(server.told(shorter), ["closed"]);
    assert_eq!(server.core.session_count(), 0);
}

#[test]
fn a_lost_connection_ends_its_watches_but_not_its_session() {
    let mut server = Server::new().with_nodes(&["/a"]);
    let client = server.connect();
    server.ask(client, &create_mode("/e", 1)).unwrap();
    server.ask(client, &data("/a", true)).unwrap();
    server.ask(client, &add_watch("/", 1)).unwrap();
    assert_eq!(server.core.watch_counts().watches, 3);
    server.core.closed(client.conn, server.now);
    assert_eq!(server.core.watch_counts(), Default::default());

    let again = server.resume(client);
    assert!(server.ask(again, &exists("/e", false)).is_ok());
    server.tell(again, &[set("/a")]);
    assert_eq!(server.told(again).len(), 1, "the reply and no event");
}

#[test]
fn closing_a_session_tells_its_own_watches_and_then_closes() {
    let mut server = Server::new();
    let (client, other) = (server.connect(), server.connect());
    server.ask(client, &create_mode("/e", 1)).unwrap();
    server.ask(client, &data("/e", true)).unwrap();
    server.ask(other, &add_watch("/", 1)).unwrap();
    server.send_request(client.conn, 50, &Request::CloseSession);
    server.send_request(client.conn, 51, &create("/too-late"));
    assert_eq!(server.told(client), ["NodeDeleted /e", "#50 Ok", "closed"]);
    assert_eq!(server.told(other), ["NodeDeleted /e"]);
    assert_eq!(server.core.state().exists("/too-late"), Err(Code::NoNode));
    assert_eq!((server.core.connection_count(), server.core.session_count()), (1, 1));
}
