//! Multis: what ZooKeeper answered to the same.

use super::*;
use crate::wire::{MultiOp, MultiResult};

fn make(path: &str, flags: i32) -> MultiOp {
    MultiOp::Create(create(path, "", flags))
}

fn set(path: &str, version: i32) -> MultiOp {
    MultiOp::SetData { path: path.to_owned(), data: Some(Bytes::from("1")), version }
}

fn check(path: &str, version: i32) -> MultiOp {
    MultiOp::Check { path: path.to_owned(), version }
}

fn delete(path: &str, version: i32) -> MultiOp {
    MultiOp::Delete { path: path.to_owned(), version }
}

#[test]
fn each_op_sees_those_before_it() {
    let mut asker = Asker::new();
    let ops = vec![
        make("/m", 0),
        make("/m2", 0),
        set("/m", 0),
        check("/m", 1),
        delete("/m", 1),
        make("/m", 2),
        make("/m", 1),
    ];
    let Ok(Reply::Multi(results)) = asker.result(WriteOp::Multi(ops)) else { panic!("a multi is answered") };
    let created = |path: &str| MultiResult::Create { path: path.to_owned() };
    let set = Stat {
        czxid: 2,
        mzxid: 2,
        ctime: 1010,
        mtime: 1010,
        version: 1,
        data_length: 1,
        pzxid: 2,
        ..Stat::default()
    };
    let expected = [
        created("/m"),
        created("/m2"),
        MultiResult::SetData(set),
        MultiResult::Check,
        MultiResult::Delete,
        created("/m0000000002"),
        created("/m"),
    ];
    assert_eq!(results, expected);
    assert_eq!(asker.state.last_zxid(), 2, "all of them are one transaction");
    let root = asker.stat("/");
    assert_eq!((root.cversion, root.pzxid, root.num_children), (2 * 4 - 4, 2, 4));
    assert_eq!(asker.result(WriteOp::Multi(vec![])), Ok(Reply::Multi(vec![])));
    assert_eq!(asker.state.last_zxid(), 3);
}

#[test]
fn a_refused_op_takes_all_back() {
    use Code::*;
    let mut asker = Asker::new();
    asker.write(plain("/old"));
    asker.write(plain("/nr"));
    asker.write(set_acl("/nr", vec![entry(2, "world", "anyone")], -1));
    let ttl = MultiOp::CreateTtl { create: create("/t", "", 5), ttl: 1000 };
    let cases = [
        (
            vec![make("/q", 0), set("/q", -1), check("/q", 5), delete("/q", 1)],
            vec![Ok, Ok, BadVersion, RuntimeInconsistency],
        ),
        (vec![make("/q", 0), make("/q1", 99), delete("/q", 1)], vec![Ok, BadArguments, RuntimeInconsistency]),
        (vec![make("/q", 0), ttl], vec![Ok, Unimplemented]),
        (vec![MultiOp::CreateContainer(create("/c", "", 4))], vec![Unimplemented]),
        (vec![check("/nr", 0)], vec![NoAuth]),
        (vec![delete("/old", -1), make("/old", 1), make("/old/x", 0)], vec![Ok, Ok, NoChildrenForEphemerals]),
        (vec![make("/old/x", 0), delete("/old", -1)], vec![Ok, NotEmpty]),
        (vec![delete("/", -1), make("/q", 0)], vec![BadArguments, RuntimeInconsistency]),
    ];
    for (ops, expected) in cases {
        let mut refused = asker.state.clone();
        let caller = Caller { session: SESSION, ids: &[], cxid: 0, time_ms: 0 };
        refused.refuse(&caller, Code::SystemError);
        let written = asker.write(WriteOp::Multi(ops.clone()));
        let expected = expected.into_iter().map(|code| MultiResult::Error(code.number())).collect();
        assert_eq!(written.result, Result::Ok(Reply::Multi(expected)), "{ops:?}");
        assert_eq!(written.changes, []);
        assert_eq!(asker.state.fingerprint(), refused.fingerprint(), "{ops:?} leaves something behind");
    }
    // The counter is where it was.
    assert_eq!(
        asker.result(WriteOp::Create(create("/n-", "", 2))),
        Result::Ok(Reply::Path("/n-0000000002".to_owned()))
    );
}

#[test]
fn the_acls_of_a_multi_are_bounded_together() {
    let mut asker = Asker::new();
    // Few identities are this long, but a multi has room for many more creates.
    asker.ids.push(id("digest", &"x".repeat(1_000_000)));
    let mine =
        |path: &str| MultiOp::Create(Create { acl: vec![entry(31, "auth", "")], ..create(path, "", 2) });
    let answered =
        |asker: &mut Asker, count: usize| match asker.result(WriteOp::Multi(vec![mine("/n"); count])) {
            Ok(Reply::Multi(results)) => results,
            other => panic!("{other:?}"),
        };
    assert!(matches!(answered(&mut asker, 16).last(), Some(MultiResult::Create { .. })));
    let invalid = MultiResult::Error(Code::InvalidAcl.number());
    assert_eq!(answered(&mut asker, 17).last(), Some(&invalid));
}
