//! What one client said to ZooKeeper 3.8.0, malformed requests and all, is said to a core: it answers the same, zxids
//! included, but for what is named here.

use std::collections::BTreeSet;

use bytes::{BufMut, Bytes, BytesMut};
use clock::Instant;
use keeper::core::{ConnId, Core, Effect, Now, Output, Settings};
use keeper::state::State;
use keeper::wire::{
    ConnectRequest, MultiResult, OpCode, Reply, ReplyHeader, Stat, WatchedEvent, XID_NOTIFICATION,
    connect_request_frame,
};

const RECORDED: &str = include_str!("../src/wire/tests/zookeeper-3.8.0.txt");

/// Where the answers differ, and why.
const DIFFERENT: &[(&str, &str)] = &[
    ("createContainer", "there are no containers here"),
    ("getChildren", "and so there is one child less"),
    ("multi container", "there are no containers here"),
    ("getAllChildrenNumber", "and so there are two znodes less"),
    ("exists container", "there are no containers here"),
    ("sync null", "a null path is refused"),
    ("addWatch null", "a null path is refused"),
    ("multi null path", "ZooKeeper answers with the zxid before, and an empty list behind the error"),
    ("multiRead with write", "ZooKeeper answers with an empty list behind the error"),
];

#[test]
fn a_core_answers_as_zookeeper_did() {
    let mut server = Server::new();
    let rows: Vec<Row> = RECORDED.lines().filter_map(Row::parse).collect();
    let mut different = BTreeSet::new();
    for answers in rows.chunk_by(|one, next| (one.name, &one.body) == (next.name, &next.body)) {
        let row = &answers[0];
        // The reply comes last; its xid is what the request had.
        let (header, _) = ReplyHeader::split(&answers[answers.len() - 1].answer).expect("a header");
        let mut frame = BytesMut::new();
        frame.put_i32(header.xid);
        frame.put_i32(row.op.number());
        frame.put_slice(&row.body);
        let heard = server
            .hear(CLIENT, &frame.freeze())
            .iter()
            .map(|frame| describe(row.op, frame))
            .collect::<Vec<_>>();
        let recorded = answers.iter().map(|row| describe(row.op, &row.answer)).collect::<Vec<_>>();
        if heard != recorded {
            println!("{}\n  ZooKeeper: {recorded:?}\n  keeper:    {heard:?}", row.name);
            different.insert(row.name);
        }
    }
    assert_eq!(different, DIFFERENT.iter().map(|(name, _)| *name).collect());
}

const CLIENT: ConnId = ConnId(1);

struct Server {
    core: Core,
    now: Now,
}

impl Server {
    /// With three connections, as then.
    fn new() -> Self {
        let now = Now { monotonic: Instant::from_nanos(7_000_000_000), wall_ms: 1_700_000_000_000 };
        let mut server = Self { core: Core::new(Settings::default(), State::new(), [1; 32], now), now };
        let request =
            ConnectRequest { timeout_ms: 10_000, read_only: Some(false), ..ConnectRequest::default() };
        for conn in [CLIENT, ConnId(2), ConnId(3)] {
            server.core.open(conn, ([127, 0, 0, 1], 2000).into(), now);
            assert_eq!(server.hear(conn, &connect_request_frame(&request).slice(4..)).len(), 1);
        }
        server
    }

    /// What a connection is sent when it sends a frame.
    fn hear(&mut self, conn: ConnId, frame: &Bytes) -> Vec<Bytes> {
        let mut out = Output::default();
        self.core.frame(conn, frame, self.now, &mut out);
        let sent = out.effects.into_iter().filter_map(|effect| match effect {
            Effect::Send { conn: to, frame } if to == conn => Some(frame.slice(4..)),
            _ => None,
        });
        sent.collect()
    }
}

struct Row {
    name: &'static str,
    op: OpCode,
    body: Bytes,
    answer: Bytes,
}

impl Row {
    fn parse(line: &'static str) -> Option<Self> {
        let unhex = |hex: &str| {
            let byte = |at| u8::from_str_radix(&hex[at..at + 2], 16).expect("hexadecimal");
            Bytes::from_iter((0..hex.len()).step_by(2).map(byte))
        };
        let [name, op, body, answer] = line.split(" | ").map(str::trim).collect::<Vec<_>>()[..] else {
            return None;
        };
        let op = OpCode::try_from(op.parse::<i32>().ok()?).ok()?;
        Some(Self { name, op, body: unhex(body), answer: unhex(answer) })
    }
}

/// An answer without what differs from run to run: times, sessions, and the order of children.
fn describe(op: OpCode, frame: &Bytes) -> String {
    let (header, body) = ReplyHeader::split(frame).expect("a header");
    if header.xid == XID_NOTIFICATION {
        return format!("{:?}", WatchedEvent::decode(&body));
    }
    let Some(mut reply) = (header.err == 0).then(|| Reply::decode(op, &body).ok()).flatten() else {
        return format!("{header:?} {body:?}");
    };
    if let Reply::Children(names) | Reply::Children2 { children: names, .. } = &mut reply {
        names.sort();
    }
    match &mut reply {
        Reply::Stat(stat)
        | Reply::PathStat { stat, .. }
        | Reply::Data { stat, .. }
        | Reply::Acl { stat, .. }
        | Reply::Children2 { stat, .. } => timeless(stat),
        Reply::Multi(results) => results.iter_mut().for_each(|result| match result {
            MultiResult::Create2 { stat, .. }
            | MultiResult::SetData(stat)
            | MultiResult::GetData { stat, .. } => {
                timeless(stat);
            }
            _ => {}
        }),
        _ => {}
    }
    format!("{header:?} {reply:?}")
}

fn timeless(stat: &mut Stat) {
    (stat.ctime, stat.mtime, stat.ephemeral_owner) = (0, 0, stat.ephemeral_owner.signum());
}
