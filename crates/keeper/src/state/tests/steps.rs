//! Random histories: few names, few versions and few sessions, so that most things meet.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::wire::MultiOp;

/// What happens next.
#[derive(Clone, Debug)]
pub(super) enum Step {
    Write { session: i64, authenticated: bool, op: WriteOp },
    Open(i64),
    Close(i64),
}

/// The identities that a write is made with.
pub(super) fn ids(authenticated: bool) -> Vec<Id> {
    let mut ids = vec![id("ip", "127.0.0.1")];
    ids.extend(authenticated.then(|| id("digest", "me:hash")));
    ids
}

/// Makes the step on the state.
pub(super) fn take(state: &mut State, step: Step, time_ms: i64) -> Written {
    match step {
        Step::Open(session) => state.create_session(session, 4000, [3; 16], time_ms),
        Step::Close(session) => state.close_session(session, time_ms),
        Step::Write { session, authenticated, op } => {
            state.write(&Caller { session, ids: &ids(authenticated), cxid: 9, time_ms }, op)
        }
    }
}

/// A history. It begins with the opening of two of three sessions.
pub(super) fn history(len: usize) -> impl Strategy<Value = Vec<Step>> {
    vec(step(), 0..len).prop_map(|steps| [Step::Open(1), Step::Open(2)].into_iter().chain(steps).collect())
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        30 => (1..=3_i64, any::<bool>(), write())
            .prop_map(|(session, authenticated, op)| Step::Write { session, authenticated, op }),
        1 => (1..=3_i64).prop_map(Step::Open),
        1 => (1..=3_i64).prop_map(Step::Close),
    ]
}

fn path() -> impl Strategy<Value = String> {
    prop_oneof![
        20 => "/[ab](/[ab](/[ab])?)?",
        2 => "/[ab](/[ab])?/?(/n-)?",
        1 => Just("/zookeeper".to_owned()),
        1 => proptest::sample::select(vec!["", "/", "//", "a", "//a", "/a/", "/a//b", "/zookeeper/config"])
            .prop_map(str::to_owned),
    ]
}

fn version() -> impl Strategy<Value = i32> {
    prop_oneof![3 => Just(-1), 2 => 0..3_i32]
}

fn data() -> impl Strategy<Value = Option<Bytes>> {
    proptest::option::weighted(0.8, "[xy]{0,3}").prop_map(|data| data.map(Bytes::from))
}

fn acl() -> impl Strategy<Value = Vec<Acl>> {
    prop_oneof![
        12 => Just(Acl::open()),
        1 => Just(vec![entry(31, "auth", "")]),
        1 => Just(vec![entry(31, "digest", "me:hash"), entry(1, "world", "anyone")]),
        1 => (0..32_i32).prop_map(|perms| vec![entry(perms, "ip", "127.0.0.0/8")]),
        1 => Just(vec![]),
    ]
}

fn make() -> impl Strategy<Value = Create> {
    let flags = prop_oneof![8 => Just(0), 4 => 1..4_i32, 1 => 4..8_i32];
    (path(), data(), acl(), flags).prop_map(|(path, data, acl, flags)| Create { path, data, acl, flags })
}

fn write() -> impl Strategy<Value = WriteOp> {
    prop_oneof![
        4 => make().prop_map(WriteOp::Create),
        4 => make().prop_map(WriteOp::Create2),
        4 => (path(), version()).prop_map(|(path, version)| WriteOp::Delete { path, version }),
        3 => (path(), data(), version())
            .prop_map(|(path, data, version)| WriteOp::SetData { path, data, version }),
        1 => (path(), acl(), version()).prop_map(|(path, acl, version)| WriteOp::SetAcl { path, acl, version }),
        1 => (path(), version()).prop_map(|(path, version)| WriteOp::Check { path, version }),
        4 => vec(multi_op(), 0..6).prop_map(WriteOp::Multi),
    ]
}

fn multi_op() -> impl Strategy<Value = MultiOp> {
    prop_oneof![
        4 => make().prop_map(|create| match create.flags {
            4 => MultiOp::CreateContainer(create),
            5 | 6 => MultiOp::CreateTtl { create, ttl: 1000 },
            _ => MultiOp::Create(create),
        }),
        2 => (path(), version()).prop_map(|(path, version)| MultiOp::Delete { path, version }),
        2 => (path(), data(), version())
            .prop_map(|(path, data, version)| MultiOp::SetData { path, data, version }),
        1 => (path(), version()).prop_map(|(path, version)| MultiOp::Check { path, version }),
    ]
}
