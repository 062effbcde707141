use super::*;

fn asking(timeout_ms: i32) -> ConnectRequest {
    ConnectRequest { timeout_ms, ..ConnectRequest::default() }
}

#[test]
fn timeouts_are_clamped_to_2_and_20_ticks_or_what_is_set() {
    let limited = Settings {
        session_timeout_min: Some(Duration::from_millis(500)),
        session_timeout_max: Some(Duration::from_millis(700)),
        ..Settings::default()
    };
    for (settings, rows) in [
        (
            Settings::default(),
            [(i32::MIN, 4_000), (0, 4_000), (4_001, 4_001), (40_001, 40_000), (i32::MAX, 40_000)],
        ),
        (limited, [(-1, 500), (499, 500), (600, 600), (701, 700), (i32::MAX, 700)]),
    ] {
        let mut server = Server::with(settings);
        for (asked, given) in rows {
            let (_, response, closed) = server.handshake(&asking(asked));
            assert_eq!(response.map(|response| response.timeout_ms), Some(given), "asked for {asked}");
            assert!(!closed);
        }
    }
}

#[test]
fn a_new_session_is_one_transaction_and_has_its_own_id_and_password() {
    let mut server = Server::new();
    let (a, b) = (server.connect(), server.connect());
    assert_eq!(b.session, a.session + 1);
    assert_eq!(a.session >> 56, 1, "the id of a standalone server");
    assert_eq!(a.session & 0xffff, 0);
    assert_ne!(a.password, b.password);
    assert_eq!(
        server.out.txns.iter().map(|txn| (txn.zxid, txn.session)).collect::<Vec<_>>(),
        [(1, a.session), (2, b.session)]
    );
    assert_eq!(server.core.state().session(a.session).unwrap().password, a.password);
}

#[test]
fn only_a_client_that_sent_the_flag_is_told_that_the_server_is_not_read_only() {
    for flag in [None, Some(false), Some(true)] {
        let request = ConnectRequest { read_only: flag, ..asking(9_000) };
        let (_, response, _) = Server::new().handshake(&request);
        assert_eq!(response.unwrap().read_only, flag.map(|_| false));
    }
}

#[test]
fn who_is_refused_and_how() {
    let mut server = Server::new();
    let known = server.connect();
    let password = Bytes::copy_from_slice(&known.password);
    let resuming = |session_id, password: &Bytes, last_zxid_seen| ConnectRequest {
        session_id,
        password: password.clone(),
        last_zxid_seen,
        ..asking(9_000)
    };
    // A session that cannot be resumed is answered with zeros; a client that is ahead is not answered.
    let zeros = Some(ConnectResponse::default());
    let rows = [
        (resuming(known.session, &password, 1), Some(known.session), false),
        (resuming(known.session, &password, 2), None, true),
        (resuming(0, &Bytes::new(), i64::MAX), None, true),
        (resuming(known.session, &Bytes::from_static(&[0; 16]), 0), Some(0), true),
        (resuming(known.session, &password.slice(..15), 0), Some(0), true),
        (resuming(known.session, &Bytes::new(), 0), Some(0), true),
        (resuming(known.session + 1, &password, 0), Some(0), true),
        (resuming(-1, &password, 0), Some(0), true),
    ];
    for (request, session, refused) in rows {
        let (_, response, closed) = server.handshake(&request);
        assert_eq!((response.map(|response| response.session_id), closed), (session, refused), "{request:?}");
        assert!(session != Some(0) || response == zeros, "{response:?}");
    }
    assert_eq!(server.out.txns.len(), 1, "nothing is written for those who come again or are refused");
}

#[test]
fn a_connection_that_does_not_begin_with_a_handshake_is_closed() {
    for garbage in [&b""[..], b"abc", b"GET / HTTP/1.1\r\n\r\n", &[0xfe; 44]] {
        let mut server = Server::new();
        let conn = server.open();
        server.send(conn, garbage);
        assert_eq!(server.take(conn), [CLOSED], "{garbage:?}");
        server.send(conn, garbage);
        assert_eq!(server.take(conn).len(), 0, "a closed connection is ignored");
        assert_eq!(server.core.connection_count(), 0);
    }
}

#[test]
fn a_session_moves_to_the_connection_that_resumes_it() {
    let mut server = Server::new();
    let old = server.connect();
    let new = server.resume(old);
    assert_eq!(server.told(old), ["closed"]);
    server.tell(old, &[create("/late")]);
    assert_eq!(server.take(old.conn).len(), 0);
    assert_eq!(server.ask(new, &exists("/late", false)), Err(Code::NoNode));
    // The shell says that the old one is gone only now: the session stays with the new one.
    server.core.closed(old.conn, server.now);
    let newest = server.resume(new);
    assert_eq!(server.told(new), ["closed"]);
    assert_eq!(server.core.connections().map(|info| info.conn).collect::<Vec<_>>(), [newest.conn]);
}

#[test]
fn a_wrong_password_costs_the_owner_its_connection_but_not_its_session() {
    let mut server = Server::new();
    let owner = server.connect();
    server.handshake(&ConnectRequest { session_id: owner.session, ..asking(9_000) });
    assert_eq!(server.told(owner), ["closed"], "as ZooKeeper, which closes before it looks at the password");
    server.resume(owner);
}

#[test]
fn sessions_are_bounded() {
    let mut server = Server::with(Settings { sessions_max: 2, ..Settings::default() });
    let first = server.connect();
    server.connect();
    let (_, response, closed) = server.handshake(&asking(9_000));
    assert_eq!((response, closed), (None, true));
    server.resume(first);
    server.advance(20_000);
    server.connect();
}

#[test]
fn a_restart_gives_every_session_its_timeout_again_and_no_id_twice() {
    let mut before = Server::new();
    let ended = before.connect();
    before.end(ended);
    let client = before.connect();
    before.ask(client, &create_mode("/e", 1)).unwrap();

    // In the same millisecond, on a clock that says so.
    let mut after = Server::over(Settings::default(), before.core.state().clone());
    after.advance(9_999);
    let resumed = after.resume(client);
    assert!(after.connect().session > client.session);
    after.advance(9_999);
    assert!(after.ask(resumed, &exists("/e", false)).is_ok());

    let mut abandoned = Server::over(Settings::default(), before.core.state().clone());
    abandoned.advance(12_000);
    assert_eq!(abandoned.core.session_count(), 0);
    assert_eq!(abandoned.core.state().exists("/e"), Err(Code::NoNode));
}
