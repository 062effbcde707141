//! Everything that can be written is read as it was.

use bytes::{Bytes, BytesMut};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use crate::wire::{
    Acl, ClientInfo, ConnectRequest, ConnectResponse, Create, EventKind, MultiOp, MultiReadOp, MultiResult,
    OpCode, Perms, Reply, Request, Stat, WatchedEvent, Watches,
};

/// A path or another string: ASCII, two and three bytes, NUL.
fn text() -> impl Strategy<Value = String> {
    "[/a-z\u{0}\u{E9}\u{2603}]{0,12}"
}

/// The same, of characters that ZooKeeper itself garbles when it writes them.
fn any_text() -> impl Strategy<Value = String> {
    prop_oneof![9 => text(), 1 => Just("/\u{1F600}".to_owned())]
}

fn data() -> impl Strategy<Value = Option<Bytes>> {
    option::of(vec(any::<u8>(), 0..40).prop_map(Bytes::from))
}

fn acl() -> impl Strategy<Value = Vec<Acl>> {
    let entry = (any::<i32>(), text(), text());
    vec(entry.prop_map(|(perms, scheme, id)| Acl { perms: Perms(perms), scheme, id }), 0..3)
}

fn create(flags: impl Strategy<Value = i32>) -> impl Strategy<Value = Create> {
    (any_text(), data(), acl(), flags).prop_map(|(path, data, acl, flags)| Create { path, data, acl, flags })
}

fn watches() -> impl Strategy<Value = Watches> {
    (vec(any_text(), 0..3), vec(any_text(), 0..3), vec(any_text(), 0..3))
        .prop_map(|(data, exist, child)| Watches { data, exist, child })
}

fn multi_op() -> impl Strategy<Value = MultiOp> {
    prop_oneof![
        create(prop_oneof![0..4, 7..9]).prop_map(MultiOp::Create),
        create(Just(4)).prop_map(MultiOp::CreateContainer),
        (create(5..7), any::<i64>()).prop_map(|(create, ttl)| MultiOp::CreateTtl { create, ttl }),
        (text(), any::<i32>()).prop_map(|(path, version)| MultiOp::Delete { path, version }),
        (text(), data(), any::<i32>()).prop_map(|(path, data, version)| MultiOp::SetData {
            path,
            data,
            version
        }),
        (text(), any::<i32>()).prop_map(|(path, version)| MultiOp::Check { path, version }),
    ]
}

fn multi_read_op() -> impl Strategy<Value = MultiReadOp> {
    prop_oneof![
        text().prop_map(|path| MultiReadOp::GetData { path }),
        text().prop_map(|path| MultiReadOp::GetChildren { path }),
    ]
}

/// Requests of one path and one number or flag.
fn small_request() -> impl Strategy<Value = Request> {
    (any_text(), any::<i32>(), any::<bool>(), 0..16).prop_map(|(path, number, watch, which)| match which {
        0 => Request::Delete { path, version: number },
        1 => Request::Exists { path, watch },
        2 => Request::GetData { path, watch },
        3 => Request::GetAcl { path },
        4 => Request::GetChildren { path, watch },
        5 => Request::GetChildren2 { path, watch },
        6 => Request::Sync { path },
        7 => Request::Ping,
        8 => Request::Check { path, version: number },
        9 => Request::AddWatch { path, mode: number },
        10 => Request::CheckWatches { path, kind: number },
        11 => Request::RemoveWatches { path, kind: number },
        12 => Request::GetEphemerals { prefix: path },
        13 => Request::GetAllChildrenNumber { path },
        14 => Request::WhoAmI,
        _ => Request::CloseSession,
    })
}

fn request() -> impl Strategy<Value = Request> {
    let set_watches2 = (any::<i64>(), watches(), vec(text(), 0..3), vec(text(), 0..3));
    let reconfig = (option::of(text()), option::of(text()), option::of(text()), any::<i64>());
    prop_oneof![
        8 => small_request(),
        1 => create(any::<i32>()).prop_map(Request::Create),
        1 => create(0..7).prop_map(Request::Create2),
        1 => create(0..7).prop_map(Request::CreateContainer),
        1 => (create(0..7), any::<i64>()).prop_map(|(create, ttl)| Request::CreateTtl { create, ttl }),
        1 => (text(), data(), any::<i32>()).prop_map(|(path, data, version)| Request::SetData { path, data, version }),
        1 => (text(), acl(), any::<i32>()).prop_map(|(path, acl, version)| Request::SetAcl { path, acl, version }),
        2 => vec(multi_op(), 0..5).prop_map(Request::Multi),
        1 => vec(multi_read_op(), 0..5).prop_map(Request::MultiRead),
        1 => (any::<i64>(), watches())
            .prop_map(|(relative_zxid, watches)| Request::SetWatches { relative_zxid, watches }),
        1 => set_watches2.prop_map(|(relative_zxid, watches, persistent, persistent_recursive)| {
            Request::SetWatches2 { relative_zxid, watches, persistent, persistent_recursive }
        }),
        1 => (any::<i32>(), text(), data()).prop_map(|(kind, scheme, auth)| Request::Auth { kind, scheme, auth }),
        1 => data().prop_map(|token| Request::Sasl { token }),
        1 => reconfig.prop_map(|(joining, leaving, members, config_id)| {
            Request::Reconfig { joining, leaving, members, config_id }
        }),
    ]
}

fn stat() -> impl Strategy<Value = Stat> {
    (any::<[i64; 6]>(), any::<[i32; 5]>()).prop_map(|(long, short)| Stat {
        czxid: long[0],
        mzxid: long[1],
        ctime: long[2],
        mtime: long[3],
        version: short[0],
        cversion: short[1],
        aversion: short[2],
        ephemeral_owner: long[4],
        data_length: short[3],
        num_children: short[4],
        pzxid: long[5],
    })
}

fn result() -> impl Strategy<Value = MultiResult> {
    prop_oneof![
        text().prop_map(|path| MultiResult::Create { path }),
        (text(), stat()).prop_map(|(path, stat)| MultiResult::Create2 { path, stat }),
        Just(MultiResult::Delete),
        stat().prop_map(MultiResult::SetData),
        Just(MultiResult::Check),
        (data(), stat()).prop_map(|(data, stat)| MultiResult::GetData { data, stat }),
        vec(text(), 0..3).prop_map(MultiResult::GetChildren),
        any::<i32>().prop_map(MultiResult::Error),
    ]
}

/// A reply with an op that has it.
fn reply() -> impl Strategy<Value = (OpCode, Reply)> {
    let info = (text(), text()).prop_map(|(scheme, user)| ClientInfo { scheme, user });
    prop_oneof![
        Just((OpCode::Delete, Reply::Empty)),
        text().prop_map(|path| (OpCode::Create, Reply::Path(path))),
        (text(), stat()).prop_map(|(path, stat)| (OpCode::Create2, Reply::PathStat { path, stat })),
        stat().prop_map(|stat| (OpCode::Exists, Reply::Stat(stat))),
        (data(), stat()).prop_map(|(data, stat)| (OpCode::GetData, Reply::Data { data, stat })),
        (acl(), stat()).prop_map(|(acl, stat)| (OpCode::GetAcl, Reply::Acl { acl, stat })),
        vec(text(), 0..4).prop_map(|names| (OpCode::GetChildren, Reply::Children(names))),
        (vec(text(), 0..4), stat())
            .prop_map(|(children, stat)| (OpCode::GetChildren2, Reply::Children2 { children, stat })),
        vec(result(), 0..5).prop_map(|results| (OpCode::Multi, Reply::Multi(results))),
        vec(text(), 0..4).prop_map(|paths| (OpCode::GetEphemerals, Reply::Ephemerals(paths))),
        any::<i32>().prop_map(|count| (OpCode::GetAllChildrenNumber, Reply::Count(count))),
        vec(info, 0..3).prop_map(|infos| (OpCode::WhoAmI, Reply::WhoAmI(infos))),
        data().prop_map(|token| (OpCode::Sasl, Reply::Sasl(token))),
        any::<i32>().prop_map(|err| (OpCode::AddWatch, Reply::Error(err))),
    ]
}

fn written(encode: impl FnOnce(&mut BytesMut)) -> Bytes {
    let mut out = BytesMut::new();
    encode(&mut out);
    out.freeze()
}

proptest! {
    #[test]
    fn requests(request in request()) {
        let body = written(|out| request.encode(out));
        let decoded = Request::decode(request.op(), &body);
        prop_assert_eq!(decoded.as_ref(), Ok(&request));
        // One byte less is too few, or a flag or number less.
        for end in 0..body.len() {
            prop_assert!(Request::decode(request.op(), &body.slice(..end)).is_err(), "{} of {}", end, body.len());
        }
    }

    #[test]
    fn replies((op, reply) in reply()) {
        let body = written(|out| reply.encode(out));
        prop_assert_eq!(Reply::decode(op, &body), Ok(reply));
    }

    #[test]
    fn events(kind in prop::sample::select(EventKind::ALL), path in text()) {
        let event = WatchedEvent::new(kind, path);
        let frame = crate::wire::event_frame(&event);
        prop_assert_eq!(WatchedEvent::decode(&frame.slice(20..)), Ok(event));
    }

    #[test]
    fn connecting(numbers in any::<(i32, i64, i32, i64)>(), password in any::<[u8; 16]>(), read_only in any::<Option<bool>>()) {
        let (protocol_version, last_zxid_seen, timeout_ms, session_id) = numbers;
        let response = ConnectResponse { protocol_version, timeout_ms, session_id, password, read_only };
        prop_assert_eq!(ConnectResponse::decode(&written(|out| response.encode(out))), Ok(response));
        let password = Bytes::copy_from_slice(&password);
        let request = ConnectRequest { protocol_version, last_zxid_seen, timeout_ms, session_id, password, read_only };
        prop_assert_eq!(ConnectRequest::decode(&written(|out| request.encode(out))), Ok(request));
    }
}
