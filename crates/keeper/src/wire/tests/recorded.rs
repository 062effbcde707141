//! What ZooKeeper 3.8.0 answered, byte for byte.

use bytes::{Bytes, BytesMut};

use crate::wire::{
    ClientInfo, Code, ConnectRequest, ConnectResponse, DecodeError, EventKind, MultiResult, OpCode, Reply,
    ReplyHeader, Request, Stat, WatchedEvent, XID_NOTIFICATION, connect_request_frame,
    connect_response_frame, event_frame, reply_frame, request_frame,
};

struct Row {
    name: &'static str,
    op: &'static str,
    request: Bytes,
    answer: Bytes,
}

fn rows() -> Vec<Row> {
    let unhex = |hex: &str| {
        let byte = |at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
        Bytes::from_iter((0..hex.len()).step_by(2).map(byte))
    };
    let lines = include_str!("zookeeper-3.8.0.txt").lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| {
            let [name, op, request, answer] = line.split(" | ").map(str::trim).collect::<Vec<_>>()[..] else {
                panic!("four columns: {line}");
            };
            Row { name, op, request: unhex(request), answer: unhex(answer) }
        })
        .collect()
}

impl Row {
    fn of(name: &str) -> Self {
        rows().into_iter().find(|row| row.name == name).unwrap()
    }

    fn op(&self) -> OpCode {
        OpCode::try_from(self.op.parse::<i32>().unwrap()).unwrap()
    }

    fn decode(&self) -> Result<Request, DecodeError> {
        Request::decode(self.op(), &self.request)
    }

    fn reply(&self) -> Reply {
        let (_, body) = ReplyHeader::split(&self.answer).unwrap();
        Reply::decode(self.op(), &body).unwrap()
    }
}

/// Without the length of the frame.
fn body_of(frame: &Bytes) -> Bytes {
    assert_eq!(frame[..4], u32::try_from(frame.len() - 4).unwrap().to_be_bytes());
    frame.slice(4..)
}

#[test]
fn connecting() {
    for (name, read_only) in [("connect", Some(false)), ("connect-old", None)] {
        let Row { request, answer, .. } = Row::of(name);
        let decoded = ConnectRequest::decode(&request).unwrap();
        assert_eq!((decoded.timeout_ms, decoded.read_only), (10_000, read_only));
        assert_eq!(body_of(&connect_request_frame(&decoded)), request);
        let decoded = ConnectResponse::decode(&answer).unwrap();
        assert_eq!((decoded.timeout_ms, decoded.read_only), (10_000, read_only));
        assert_eq!(body_of(&connect_response_frame(&decoded)), answer);
    }
}

/// What is written again is what was recorded: all replies and events, and all requests that a well-behaved client sends.
#[test]
fn what_was_read_is_written_as_it_was() {
    // Null where this crate reads an empty string or list, flags that say another kind than the header, bytes behind the end.
    let unusual = [
        "create null acl",
        "multi header container",
        "multi",
        "multi container",
        "multi ttl header only",
        "multiRead",
        "getEphemerals null",
        "trailing",
        "bool 2",
        "neg vector",
        "acl null scheme",
        "invalid utf8 sync",
    ];
    let mut compared = 0;
    for row in rows().iter().filter(|row| row.op != "first") {
        if let (Ok(request), false) = (row.decode(), unusual.contains(&row.name)) {
            let frame = body_of(&request_frame(7, &request));
            assert_eq!(frame[8..], row.request, "{}: {request:?}", row.name);
            compared += 1;
        }
        let (header, body) = ReplyHeader::split(&row.answer).unwrap();
        let frame = if header.xid == XID_NOTIFICATION {
            event_frame(&WatchedEvent::decode(&body).unwrap())
        } else if ["getAcl surrogates", "sync emoji", "invalid utf8 sync"].contains(&row.name) {
            // As with ZooKeeper's own client, what was garbled cannot be read back: the next test looks at these.
            continue;
        } else if header.err == 0 && row.name != "sync null" {
            reply_frame(header, &Reply::decode(row.op(), &body).unwrap())
        } else if body.is_empty() {
            reply_frame(header, &Reply::Empty)
        } else {
            assert!(
                ["multi null path", "multiRead with write", "sync null"].contains(&row.name),
                "{}",
                row.name
            );
            continue;
        };
        assert_eq!(body_of(&frame), row.answer, "{}", row.name);
        compared += 1;
    }
    assert!(compared > 100, "{compared}");
}

/// A path goes back as a Java server makes of it: surrogates apart, and U+FFFD for what was no UTF-8.
#[test]
fn what_zookeeper_garbles() {
    for name in ["sync", "sync emoji", "invalid utf8 sync"] {
        let row = Row::of(name);
        let Ok(Request::Sync { path }) = row.decode() else { panic!("{name}") };
        let (header, _) = ReplyHeader::split(&row.answer).unwrap();
        assert_eq!(body_of(&reply_frame(header, &Reply::Path(path))), row.answer, "{name}");
    }
}

/// Reading refuses just what ZooKeeper could not read.
#[test]
fn what_zookeeper_could_not_read() {
    for row in rows().iter().filter(|row| row.op != "first") {
        let (header, _) = ReplyHeader::split(&row.answer).unwrap();
        let refused = header.err == Code::MarshallingError.number();
        match row.name {
            // Numbers that are looked at later.
            "addWatch bad mode" | "removeWatches bad kind" => assert!(refused && row.decode().is_ok()),
            // Not for clients; what ZooKeeper reads is not the body alone.
            "deleteContainer" => {
                assert_eq!(row.decode(), Err(DecodeError::Misplaced(OpCode::DeleteContainer)))
            }
            // Null for a name: the documented exceptions.
            "sync null" | "addWatch null" => assert_eq!(row.decode(), Err(DecodeError::Null("path"))),
            name => assert_eq!(row.decode().is_err(), refused, "{name}: {:?}", row.decode()),
        }
    }
}

/// Reading and writing could be wrong in the same way: these rows have been read by a person.
#[test]
fn what_it_means() {
    let Reply::PathStat { path, stat } = Row::of("create2").reply() else { panic!() };
    assert_eq!(path, "/e-0000000002");
    let created = stat.ctime;
    let ephemeral_owner = stat.ephemeral_owner;
    assert!(ephemeral_owner > 0 && created > 1_000_000_000_000);
    let expected = Stat {
        czxid: 6,
        mzxid: 6,
        ctime: created,
        mtime: created,
        ephemeral_owner,
        pzxid: 6,
        ..Stat::default()
    };
    assert_eq!(stat, expected);

    let Reply::Stat(stat) = Row::of("trailing").reply() else { panic!() };
    let expected = (4, 27, 3, 0, 1, 1, 0, 4);
    let Stat { czxid, mzxid, version, cversion, aversion, data_length, num_children, pzxid, .. } = stat;
    assert_eq!((czxid, mzxid, version, cversion, aversion, data_length, num_children, pzxid), expected);
    assert!(stat.mtime > stat.ctime);

    let Reply::Children2 { children, stat } = Row::of("getChildren2").reply() else { panic!() };
    assert_eq!(children, ["config", "quota"]);
    assert_eq!(stat, Stat { cversion: -2, num_children: 2, ..Stat::default() });

    let Reply::Data { data: None, .. } = Row::of("getData null").reply() else { panic!("null is not empty") };
    assert_eq!(Row::of("sasl").reply(), Reply::Sasl(None));
    assert_eq!(Row::of("addWatch").reply(), Reply::Error(0));
    assert_eq!(Row::of("getAllChildrenNumber").reply(), Reply::Count(11));
    let infos = [("ip", "127.0.0.1"), ("digest", "user")];
    let infos = infos.map(|(scheme, user)| ClientInfo { scheme: scheme.to_owned(), user: user.to_owned() });
    assert_eq!(Row::of("whoAmI").reply(), Reply::WhoAmI(infos.to_vec()));

    // A create2 in a multi is answered as a create.
    let Reply::Multi(results) = Row::of("multi").reply() else { panic!() };
    let [
        MultiResult::Create { .. },
        MultiResult::Create { path },
        MultiResult::SetData(stat),
        MultiResult::Check,
        MultiResult::Delete,
    ] = &results[..]
    else {
        panic!("{results:?}")
    };
    assert_eq!((path.as_str(), stat.version), ("/m2", 1));
    let errors =
        [Code::Ok, Code::NoNode, Code::RuntimeInconsistency].map(|code| MultiResult::Error(code.number()));
    assert_eq!(Row::of("multi fails").reply(), Reply::Multi(errors.to_vec()));

    let (header, body) = ReplyHeader::split(&Row::of("setData fires").answer).unwrap();
    assert_eq!(header, ReplyHeader { xid: -1, zxid: -1, err: 0 });
    assert_eq!(WatchedEvent::decode(&body), Ok(WatchedEvent::new(EventKind::NodeDataChanged, "/g")));
}

#[test]
fn frames_are_taken_off_one_by_one() {
    let frame = request_frame(1, &Request::Ping);
    let mut received = BytesMut::from(&frame[..]);
    received.extend_from_slice(&frame[..7]);
    assert_eq!(crate::wire::take_frame(&mut received, 8), Ok(Some(body_of(&frame))));
    assert_eq!(crate::wire::take_frame(&mut received, 8), Ok(None));
    assert!(
        crate::wire::take_frame(&mut received, 7).is_err(),
        "the limit is looked at before the frame is there"
    );
    let mut negative = BytesMut::from(&b"\xFF\xFF\xFF\xFF"[..]);
    assert!(crate::wire::take_frame(&mut negative, 8).is_err());
}
