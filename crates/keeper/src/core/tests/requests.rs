use super::*;
use crate::wire::{ClientInfo, MultiOp, MultiReadOp, MultiResult, OpCode};

#[test]
fn requests_that_are_not_what_they_should_be() {
    // (op, body) -> what is told, zxids spent. As Debian's ZooKeeper 3.8.0 answered them.
    let rows: &[(i32, &[u8], &[&str], i64)] = &[
        (OpCode::Create.number(), b"\0\0", &["#5 MarshallingError"], 1),
        (OpCode::SetData.number(), b"", &["#5 MarshallingError"], 1),
        (OpCode::Multi.number(), b"\0\0", &["#5 MarshallingError"], 1),
        // A multi of a read.
        (
            OpCode::Multi.number(),
            b"\0\0\0\x04\0\xff\xff\xff\xff\0\0\0\x01/\0\xff\xff\xff\xff\x01\xff\xff\xff\xff",
            &["#5 MarshallingError"],
            1,
        ),
        (OpCode::GetData.number(), b"\0\0", &["#5 MarshallingError"], 0),
        (OpCode::GetData.number(), b"\xff\xff\xff\xff\0", &["#5 MarshallingError"], 0),
        (OpCode::SetWatches.number(), b"", &["#5 MarshallingError"], 0),
        (OpCode::AddWatch.number(), b"\0\0\0\x01/\0\0\0\x05", &["#5 MarshallingError"], 0),
        (OpCode::CheckWatches.number(), b"\0\0\0\x01/\0\0\0\x09", &["#5 MarshallingError"], 0),
        (OpCode::CheckWatches.number(), b"\0\0\0\x03abc\0\0\0\x03", &["#5 MarshallingError"], 0),
        (OpCode::Reconfig.number(), b"", &["#5 MarshallingError"], 0),
        (
            OpCode::Reconfig.number(),
            b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
            &["#5 ReconfigDisabled"],
            1,
        ),
        (OpCode::DeleteContainer.number(), b"\0\0\0\x02/c", &["#5 BadArguments"], 1),
        (OpCode::DeleteContainer.number(), b"", &["#5 BadArguments"], 1),
        (OpCode::Exists.number(), b"\0\0\0\x02/\0\x01", &["#5 BadArguments"], 0),
        (OpCode::Ping.number(), b"junk", &["#-2 Ok"], 0),
        (OpCode::WhoAmI.number(), b"junk", &["#5 Ok"], 0),
        (OpCode::Sasl.number(), b"\0\0\0\0", &["#5 Ok"], 0),
        (OpCode::Sasl.number(), b"\xff\xff\xff\xff", &["closed"], 0),
        (OpCode::Sasl.number(), b"", &["closed"], 0),
        (OpCode::Auth.number(), b"", &["closed"], 0),
        (OpCode::Auth.number(), b"\0\0\0\0\0\0\0\x05world\0\0\0\x06anyone", &["#5 AuthFailed", "closed"], 0),
        (OpCode::Auth.number(), b"\0\0\0\0\0\0\0\x06digest\xff\xff\xff\xff", &["#5 AuthFailed", "closed"], 0),
        (OpCode::Auth.number(), b"\0\0\0\0\0\0\0\x06digest\0\0\0\x03a:b", &["#5 Ok"], 0),
        (OpCode::Notification.number(), b"", &["#5 Unimplemented", "closed"], 0),
        (OpCode::Error.number(), b"", &["#5 Unimplemented", "closed"], 0),
        (OpCode::CreateSession.number(), b"\0\0\x10\0", &["#5 Unimplemented", "closed"], 0),
        (999, b"", &["#5 Unimplemented", "closed"], 0),
    ];
    for (op, body, told, zxids) in rows {
        let mut server = Server::new();
        let client = server.connect();
        server.send_raw(client.conn, 5, *op, body);
        assert_eq!(server.told(client), *told, "op {op} with {body:?}");
        assert_eq!(server.core.state().last_zxid() - 1, *zxids, "op {op} with {body:?}");
        assert_eq!(server.out.txns.len() as i64 - 1, *zxids, "op {op} with {body:?}");
        assert_eq!(server.core.session_count(), 1, "the session stays");
        assert_eq!(server.core.watch_counts().watches, 0);
    }
}

#[test]
fn frames_that_cannot_be_a_request_close() {
    for frame in [Bytes::new(), Bytes::from_static(b"abcdefg"), Bytes::from(vec![0; 0x10_0000])] {
        let mut server = Server::new();
        let client = server.connect();
        server.send(client.conn, frame);
        assert_eq!(server.told(client), ["closed"]);
    }
}

#[test]
fn the_zxid_of_a_reply() {
    let mut server = Server::new();
    let client = server.connect();
    let requests = [
        (exists("/", false), 1),
        (create("/a"), 2),
        (create("/a"), 3),
        (exists("/a", false), 3),
        (Request::Ping, 3),
        (Request::Auth { kind: 0, scheme: "ip".to_owned(), auth: None }, 0),
    ];
    for (request, zxid) in requests {
        server.send_request(client.conn, 9, &request);
        let (header, _) = ReplyHeader::split(&server.take(client.conn)[0]).unwrap();
        assert_eq!(header.zxid, zxid, "{request:?}");
    }
    server.send_raw(client.conn, 9, 999, b"");
    assert_eq!(ReplyHeader::split(&server.take(client.conn)[0]).unwrap().0.zxid, -1);
}

#[test]
fn a_connection_is_who_it_has_authenticated_as() {
    let mut server = Server::new();
    let client = server.connect();
    let auth = Request::Auth { kind: 0, scheme: "digest".to_owned(), auth: Some(Bytes::from_static(b"u:p")) };
    let users = |reply| match reply {
        Ok(Reply::WhoAmI(users)) => users.into_iter().map(|ClientInfo { user, .. }| user).collect::<Vec<_>>(),
        other => panic!("{other:?}"),
    };
    assert_eq!(users(server.ask(client, &Request::WhoAmI)), ["127.0.0.1"]);
    server.tell(client, &[auth]);
    server.take(client.conn);
    assert!(users(server.ask(client, &Request::WhoAmI)).contains(&"u".to_owned()));

    let mine = Acl { perms: crate::wire::Perms::ALL, scheme: "auth".to_owned(), id: String::new() };
    let path = "/mine".to_owned();
    let request = Request::Create(Create { path, data: None, acl: vec![mine], flags: 0 });
    server.ask(client, &request).unwrap();
    // Identities belong to the connection, not to the session.
    let again = server.resume(client);
    server.take(client.conn);
    assert_eq!(server.ask(again, &data("/mine", false)), Err(Code::NoAuth));
    assert_eq!(server.ask(again, &set("/mine")), Err(Code::NoAuth));
}

#[test]
fn a_multi_read_answers_each_op_for_itself_and_leaves_no_watch() {
    let mut server = Server::new().with_nodes(&["/a", "/a/x", "/a/y"]);
    let client = server.connect();
    let get = |path: &str| MultiReadOp::GetData { path: path.to_owned() };
    let list = MultiReadOp::GetChildren { path: "/a".to_owned() };
    let reply = server.ask(client, &Request::MultiRead(vec![get("/a/x"), list, get("/no")]));
    let Ok(Reply::Multi(results)) = reply else { panic!("{reply:?}") };
    assert!(matches!(results[0], MultiResult::GetData { .. }));
    assert_eq!(results[1], MultiResult::GetChildren(vec!["x".to_owned(), "y".to_owned()]));
    assert_eq!(results[2], MultiResult::Error(Code::NoNode.number()));
    assert_eq!(server.core.watch_counts().watches, 0);
}

#[test]
fn a_multi_read_that_asks_for_too_much_is_not_served() {
    let mut server = Server::new();
    let client = server.connect();
    let big = Some(Bytes::from(vec![0; 1_000_000]));
    let path = "/big".to_owned();
    server
        .ask(client, &Request::Create(Create { path: path.clone(), data: big, acl: Acl::open(), flags: 0 }))
        .unwrap();
    let times = |n| Request::MultiRead(vec![MultiReadOp::GetData { path: path.clone() }; n]);
    assert!(server.ask(client, &times(16)).is_ok());
    server.tell(client, &[times(30_000)]);
    assert_eq!(server.told(client), ["closed"]);
}

#[test]
fn a_multi_that_fails_changes_nothing_and_wakes_nobody() {
    let mut server = Server::new().with_nodes(&["/a"]);
    let client = server.connect();
    server.ask(client, &add_watch("/", 1)).unwrap();
    let ops = |version| {
        Request::Multi(vec![
            MultiOp::Create(Create { path: "/b".to_owned(), data: None, acl: Acl::open(), flags: 0 }),
            MultiOp::Check { path: "/a".to_owned(), version },
            MultiOp::Delete { path: "/a".to_owned(), version: -1 },
        ])
    };
    let zxid = server.core.state().last_zxid();
    let errors = [Code::Ok, Code::BadVersion, Code::RuntimeInconsistency];
    let failed = Reply::Multi(errors.map(|code| MultiResult::Error(code.number())).to_vec());
    assert_eq!(server.ask(client, &ops(7)), Ok(failed));
    assert_eq!(server.core.state().last_zxid(), zxid + 1);
    server.send_request(client.conn, 3, &ops(0));
    assert_eq!(server.told(client), ["NodeCreated /b", "NodeDeleted /a", "#3 Ok"]);
    assert_eq!(server.core.state().last_zxid(), zxid + 2);
}

#[test]
fn the_counters() {
    let mut server = Server::new();
    let client = server.connect();
    server.ask(client, &exists("/", true)).unwrap();
    server.ask(client, &Request::Ping).unwrap();
    server.core.answered(client.conn, Duration::from_millis(3));
    server.core.answered(client.conn, Duration::from_micros(8_900));
    server.core.count_packets(1, 2);
    let stats = server.core.stats();
    assert_eq!((stats.packets_received, stats.packets_sent), (4, 5));
    assert_eq!((stats.latency.min_ms(), stats.latency.avg_ms(), stats.latency.max_ms()), (3, 5.5, 8));
    let info = server.core.connections().next().unwrap();
    assert_eq!((info.session, info.timeout_ms, info.stats.last_op), (client.session, 10_000, "PING"));
    assert_eq!((info.stats.packets_received, info.stats.packets_sent, info.stats.last_latency_ms), (3, 3, 8));
    assert_eq!((server.core.connection_count(), server.core.watch_counts().data_paths), (1, 1));
}
