use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use super::*;
use crate::wire::{MultiOp, MultiReadOp, Perms, Watches};

#[derive(Clone, Debug)]
enum Step {
    /// Connects as a new session, as one that was there before, or with the password of another.
    Connect {
        session: Option<usize>,
        password: Option<usize>,
    },
    Ask {
        client: usize,
        request: Request,
    },
    Garbage {
        client: usize,
        op: i32,
        body: Vec<u8>,
    },
    Lose {
        client: usize,
    },
    Wait {
        ms: u64,
    },
}

const PATHS: &[&str] =
    &["/a", "/a/b", "/a/b/c", "/d", "/d/e", "/", "", "a", "a/b", "/a/", "//a", "/a\0", "/zookeeper", "/é"];

fn path() -> impl Strategy<Value = String> {
    select(PATHS).prop_map(str::to_owned)
}

fn acl() -> impl Strategy<Value = Vec<Acl>> {
    let entry = |scheme: &str, id: &str, perms| Acl { perms, scheme: scheme.to_owned(), id: id.to_owned() };
    select(vec![
        Acl::open(),
        Acl::open(),
        Acl::open(),
        vec![entry("world", "anyone", Perms::READ)],
        vec![entry("auth", "", Perms::ALL)],
        vec![entry("digest", "no", Perms::ALL)],
        vec![],
    ])
}

fn multi_op() -> impl Strategy<Value = MultiOp> {
    prop_oneof![
        (path(), acl(), 0..8).prop_map(|(path, acl, flags)| MultiOp::Create(Create {
            path,
            data: None,
            acl,
            flags
        })),
        (path(), -1..3).prop_map(|(path, version)| MultiOp::Delete { path, version }),
        (path(), -1..3).prop_map(|(path, version)| MultiOp::Check { path, version }),
        (path(), -1..3).prop_map(|(path, version)| MultiOp::SetData { path, data: None, version }),
    ]
}

fn watches() -> impl Strategy<Value = Watches> {
    let paths = || vec(path(), 0..3);
    (paths(), paths(), paths()).prop_map(|(data, exist, child)| Watches { data, exist, child })
}

fn request() -> impl Strategy<Value = Request> {
    let creation = || {
        (path(), acl(), 0..8).prop_map(|(path, acl, flags)| Create {
            path,
            data: Some(Bytes::from_static(b"d")),
            acl,
            flags,
        })
    };
    let reading = prop_oneof![
        (path(), any::<bool>()).prop_map(|(path, watch)| exists(&path, watch)),
        (path(), any::<bool>()).prop_map(|(path, watch)| data(&path, watch)),
        (path(), any::<bool>()).prop_map(|(path, watch)| children(&path, watch)),
        (path(), any::<bool>()).prop_map(|(path, watch)| Request::GetChildren2 { path, watch }),
        path().prop_map(|path| Request::GetAcl { path }),
        path().prop_map(|path| Request::Sync { path }),
        path().prop_map(|prefix| Request::GetEphemerals { prefix }),
        path().prop_map(|path| Request::GetAllChildrenNumber { path }),
        vec(path().prop_map(|path| MultiReadOp::GetData { path }), 0..3).prop_map(Request::MultiRead),
        Just(Request::WhoAmI),
        Just(Request::Ping),
    ];
    let watching = prop_oneof![
        (path(), 0..3).prop_map(|(path, mode)| Request::AddWatch { path, mode }),
        (path(), 0..5).prop_map(|(path, kind)| Request::CheckWatches { path, kind }),
        (path(), 0..5).prop_map(|(path, kind)| Request::RemoveWatches { path, kind }),
        (0..20_i64, watches())
            .prop_map(|(relative_zxid, watches)| Request::SetWatches { relative_zxid, watches }),
        (0..20_i64, watches(), vec(path(), 0..2), vec(path(), 0..2)).prop_map(
            |(relative_zxid, watches, persistent, persistent_recursive)| Request::SetWatches2 {
                relative_zxid,
                watches,
                persistent,
                persistent_recursive,
            }
        ),
    ];
    let writing = prop_oneof![
        4 => creation().prop_map(Request::Create),
        1 => creation().prop_map(Request::Create2),
        1 => creation().prop_map(Request::CreateContainer),
        1 => (creation(), 0..9_i64).prop_map(|(create, ttl)| Request::CreateTtl { create, ttl }),
        2 => (path(), -1..3).prop_map(|(path, version)| Request::Delete { path, version }),
        2 => (path(), -1..3).prop_map(|(path, version)| Request::SetData { path, data: None, version }),
        1 => (path(), acl(), -1..3).prop_map(|(path, acl, version)| Request::SetAcl { path, acl, version }),
        1 => (path(), -1..3).prop_map(|(path, version)| Request::Check { path, version }),
        2 => vec(multi_op(), 0..4).prop_map(Request::Multi),
    ];
    let closing = prop_oneof![
        Just(Request::CloseSession),
        select(&["digest", "ip", "world"][..]).prop_map(|scheme| Request::Auth {
            kind: 0,
            scheme: scheme.to_owned(),
            auth: Some(Bytes::from_static(b"u:p"))
        }),
    ];
    prop_oneof![4 => reading, 3 => watching, 6 => writing, 1 => closing]
}

fn step() -> impl Strategy<Value = Step> {
    let maybe = || proptest::option::of(0..6_usize);
    prop_oneof![
        2 => (maybe(), maybe()).prop_map(|(session, password)| Step::Connect { session, password }),
        20 => (0..6_usize, request()).prop_map(|(client, request)| Step::Ask { client, request }),
        1 => (0..6_usize, -12..110, vec(any::<u8>(), 0..20))
            .prop_map(|(client, op, body)| Step::Garbage { client, op, body }),
        1 => (0..6_usize).prop_map(|client| Step::Lose { client }),
        2 => (0..5_000_u64).prop_map(|ms| Step::Wait { ms }),
    ]
}

fn image(state: &State) -> Vec<u8> {
    let mut bytes = Vec::new();
    state.image().write_to(&mut bytes).unwrap();
    bytes
}

fn run(steps: Vec<Step>) {
    let mut server = Server::new();
    let mut clients: Vec<Client> = vec![server.connect()];
    for step in steps {
        let nth = |n: usize| clients[n % clients.len()];
        let mut expected: BTreeMap<ConnId, Vec<i32>> = BTreeMap::new();
        match step {
            Step::Connect { session, password } => {
                let session = session.map(nth);
                let (conn, response, closed) = server.handshake(&ConnectRequest {
                    timeout_ms: 4_000,
                    session_id: session.map_or(0, |client| client.session),
                    password: Bytes::copy_from_slice(
                        &password.map(nth).or(session).map_or([0; 16], |c| c.password),
                    ),
                    ..ConnectRequest::default()
                });
                let response = response.unwrap();
                assert_eq!(closed, response.session_id == 0);
                if !closed {
                    clients.push(Client { conn, session: response.session_id, password: response.password });
                }
            }
            Step::Ask { client, request } => {
                let client = nth(client);
                server.xid += 1;
                let xid = if request == Request::Ping { -2 } else { server.xid };
                server.send_request(client.conn, xid, &request);
                expected.entry(client.conn).or_default().push(xid);
            }
            Step::Garbage { client, op, body } => {
                let client = nth(client);
                server.send_raw(client.conn, 0, op, &body);
                server.take(client.conn);
            }
            Step::Lose { client } => server.core.closed(nth(client).conn, server.now),
            Step::Wait { ms } => server.advance(ms),
        }
        check_sent(&mut server, &mut expected);
        check_sessions(&server);
    }
    assert_eq!(
        server.out.txns.iter().map(|txn| txn.zxid).collect::<Vec<_>>(),
        (1..).take(server.out.txns.len()).collect::<Vec<_>>()
    );
    let mut replayed = State::new();
    for txn in &server.out.txns {
        replayed.replay(txn).unwrap();
    }
    assert_eq!(image(&replayed), image(server.core.state()), "the transactions make the state");
    server.advance(60_000);
    assert_eq!((server.core.session_count(), server.core.watch_counts()), (0, Default::default()));
    assert_eq!(server.core.state().counts().ephemerals, 0);
}

/// Every open connection was sent events, then at most the one reply; a close comes last.
fn check_sent(server: &mut Server, expected: &mut BTreeMap<ConnId, Vec<i32>>) {
    for (conn, frames) in std::mem::take(&mut server.sent) {
        let expected = expected.remove(&conn).unwrap_or_default();
        let replies: Vec<i32> = frames
            .iter()
            .filter(|frame| **frame != CLOSED)
            .map(|frame| ReplyHeader::split(frame).unwrap().0)
            .filter(|header| header.xid != XID_NOTIFICATION)
            .map(|header| header.xid)
            .collect();
        if frames.last() != Some(&CLOSED) || !replies.is_empty() {
            assert_eq!(replies, expected, "{:?}", frames.iter().map(describe).collect::<Vec<_>>());
        }
    }
    let unanswered = expected.keys().find(|conn| server.core.connections().any(|info| info.conn == **conn));
    assert_eq!(unanswered, None, "an open connection waits for a reply");
}

fn check_sessions(server: &Server) {
    let state = server.core.state();
    assert_eq!(server.core.session_count(), state.sessions().count());
    let mut attached: Vec<i64> = server.core.connections().map(|info| info.session).collect();
    attached.sort_unstable();
    assert!(attached.windows(2).all(|pair| pair[0] != pair[1]), "a session has two connections");
    assert!(attached.iter().all(|session| state.session(*session).is_some()));
    assert!(state.all_ephemerals().all(|(session, _)| state.session(session).is_some()));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_clients_do(steps in vec(step(), 1..120)) {
        run(steps);
    }

    #[test]
    fn garbage_in_any_state(frames in vec(vec(any::<u8>(), 0..80), 1..20)) {
        let mut server = Server::new();
        let client = server.connect();
        let conn = server.open();
        for frame in frames {
            server.send(client.conn, frame.clone());
            server.send(conn, frame);
        }
    }
}
