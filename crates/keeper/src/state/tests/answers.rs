//! What Debian's ZooKeeper 3.8.0 answered when it was asked the same, in the same order.

use super::*;

/// Asks in this order; each answer was recorded from ZooKeeper: a path (or nothing) or an error.
fn agree(asker: &mut Asker, rows: Vec<(WriteOp, Result<&str, Code>)>) {
    for (op, expected) in rows {
        let answer = match asker.result(op.clone()) {
            Ok(Reply::Path(path) | Reply::PathStat { path, .. }) => Ok(path),
            Ok(Reply::Stat(_) | Reply::Empty) => Ok(String::new()),
            Ok(reply) => panic!("{op:?} is answered with {reply:?}"),
            Err(code) => Err(code),
        };
        assert_eq!(answer.as_deref().map_err(|code| *code), expected, "{op:?}");
    }
}

fn flags(path: &str, flags: i32) -> WriteOp {
    WriteOp::Create(create(path, "", flags))
}

#[test]
fn creates() {
    use Code::{BadArguments, InvalidAcl, NoChildrenForEphemerals, NoNode, NodeExists, Unimplemented};
    let mut asker = Asker::new();
    agree(
        &mut asker,
        vec![
            (plain("/a"), Ok("/a")),
            (plain("/a"), Err(NodeExists)),
            (plain(""), Err(BadArguments)),
            (plain("a"), Err(BadArguments)),
            (plain("/"), Err(NodeExists)),
            (plain("//"), Err(BadArguments)),
            (plain("//a"), Err(BadArguments)),
            (plain("/a/"), Err(BadArguments)),
            (plain("/a//b"), Err(NoNode)),
            (plain("/a/."), Err(BadArguments)),
            (plain("/x/y"), Err(NoNode)),
            (plain("/a\0"), Err(BadArguments)),
            (plain("/\u{1}"), Err(BadArguments)),
            (plain("/\u{d7ff}"), Ok("/\u{d7ff}")),
            (plain("/\u{e000}"), Err(BadArguments)),
            (plain("/\u{ffef}"), Ok("/\u{ffef}")),
            (plain("/\u{fff0}"), Err(BadArguments)),
            (plain("/\u{1f600}"), Err(BadArguments)),
            // The fourth create below the root; its counter is the number of creates before it.
            (flags("", 2), Err(BadArguments)),
            (flags("/", 2), Ok("/0000000003")),
            (flags("//", 2), Err(BadArguments)),
            (flags("/a/", 2), Ok("/a/0000000000")),
            (flags("/a/b/", 2), Err(NoNode)),
            (flags("a", 2), Err(BadArguments)),
            (flags("/f5", 5), Err(Unimplemented)),
            (flags("/f6", 6), Err(Unimplemented)),
            (flags("/f7", 7), Err(BadArguments)),
            (flags("/f-", -1), Err(BadArguments)),
            (WriteOp::CreateTtl { create: create("/t", "", 5), ttl: 1000 }, Err(Unimplemented)),
            (WriteOp::CreateTtl { create: create("/t", "", 0), ttl: 1 }, Err(BadArguments)),
            (WriteOp::CreateTtl { create: create("/t", "", 4), ttl: 1 }, Err(BadArguments)),
            (with_acl("/n", vec![]), Err(InvalidAcl)),
            (with_acl("/no/x", vec![]), Err(InvalidAcl)),
            (with_acl("/n", vec![entry(31, "auth", "")]), Err(InvalidAcl)),
            (flags("/e", 1), Ok("/e")),
            (plain("/e/x"), Err(NoChildrenForEphemerals)),
            (with_acl("/e/x", vec![]), Err(InvalidAcl)),
            (WriteOp::Create2(create("/s-", "", 3)), Ok("/s-0000000005")),
            (flags("/zookeeper/x-", 2), Ok("/zookeeper/x-0000000000")),
            (plain("/zookeeper/quota/a"), Ok("/zookeeper/quota/a")),
        ],
    );
    assert_eq!(asker.state.last_zxid(), 1 + 40, "each of them has spent a zxid, and the session");
    // Here we differ: containers, and quotas.
    agree(
        &mut asker,
        vec![
            (flags("/f4", 4), Err(Unimplemented)),
            (WriteOp::CreateContainer(create("/c", "", 4)), Err(Unimplemented)),
            (WriteOp::CreateContainer(create("/c", "", 0)), Err(Unimplemented)),
            (WriteOp::CreateTtl { create: create("/t", "", 0), ttl: -1 }, Err(Unimplemented)),
            (plain("/zookeeper/quota/a/zookeeper_limits"), Err(Unimplemented)),
            (plain("/zookeeper/quota/a/zookeeper_stats"), Err(Unimplemented)),
        ],
    );
}

#[test]
fn other_writes() {
    use Code::{
        BadArguments, BadVersion, InvalidAcl, NoAuth, NoNode, NotEmpty, ReconfigDisabled, SessionExpired,
        Unimplemented,
    };
    let mut asker = Asker::new();
    let open = Acl::open;
    agree(
        &mut asker,
        vec![
            (plain("/a"), Ok("/a")),
            (plain("/a/b"), Ok("/a/b")),
            (delete("/", -1), Err(BadArguments)),
            (delete("", -1), Err(BadArguments)),
            (delete("a", -1), Err(BadArguments)),
            (delete("/zookeeper", -1), Err(BadArguments)),
            (delete("/zookeeper/quota", -1), Err(BadArguments)),
            (delete("/zookeeper/config", -1), Err(BadArguments)),
            (delete("/zookeeper/config/x", -1), Err(NoAuth)),
            (delete("//", -1), Err(NoNode)),
            (delete("//a", -1), Err(NoNode)),
            (delete("/a/", -1), Err(NoNode)),
            (delete("/nope/x", -1), Err(NoNode)),
            (delete("/a\0", -1), Err(BadArguments)),
            (delete("/a", 7), Err(BadVersion)),
            (delete("/a", 0), Err(NotEmpty)),
            (delete("/a/b", 0), Ok("")),
            (set("", "", -1), Err(BadArguments)),
            (set("/nope", "", -1), Err(NoNode)),
            (set("/nope/", "", -1), Err(BadArguments)),
            (set("/", "root", 0), Ok("")),
            (set("/zookeeper", "zz", -1), Ok("")),
            (set("/zookeeper/config", "zz", -1), Err(NoAuth)),
            (set("/a", "x", 9), Err(BadVersion)),
            (set("/a", "x", 0), Ok("")),
            (set("/a", "x", 0), Err(BadVersion)),
            (set_acl("/a", open(), 0), Ok("")),
            (set_acl("/a", open(), 0), Err(BadVersion)),
            (set_acl("/a", open(), -1), Ok("")),
            (set_acl("/zz", vec![], 0), Err(InvalidAcl)),
            (set_acl("/zz/", vec![], 0), Err(BadArguments)),
            (set_acl("/zz", open(), 0), Err(NoNode)),
            (check("/a", 99), Err(BadVersion)),
            (check("/zz", -1), Err(NoNode)),
            (check("zz", -1), Err(BadArguments)),
            (WriteOp::Reconfig, Err(ReconfigDisabled)),
            // The parent is asked before the child is looked for.
            (
                with_acl("/dig", vec![entry(1, "world", "anyone"), entry(31, "digest", "me:secret")]),
                Ok("/dig"),
            ),
            (set("/dig", "", -1), Err(NoAuth)),
            (plain("/dig/x"), Err(NoAuth)),
            (delete("/dig/x", -1), Err(NoAuth)),
            (set_acl("/dig", open(), -1), Err(NoAuth)),
            (delete("/dig", -1), Ok("")),
        ],
    );
    assert_eq!(asker.state.last_zxid(), 1 + 42, "each of them has spent a zxid, and the session");
    assert_eq!((asker.stat("/a").version, asker.stat("/a").aversion), (1, 2));
    // ZooKeeper never answers a check by itself that passes, but it spends the zxid.
    assert_eq!(asker.result(check("/a", 1)), Ok(Reply::Empty));
    assert_eq!(asker.state.last_zxid(), 1 + 43);
    // A session that is gone; flags are looked at first.
    asker.session = 0x200;
    agree(
        &mut asker,
        vec![
            (flags("/f7", 7), Err(BadArguments)),
            (flags("/f5", 5), Err(Unimplemented)),
            (plain(""), Err(SessionExpired)),
            (delete("/", -1), Err(SessionExpired)),
            (set("", "", -1), Err(SessionExpired)),
            (set_acl("", vec![], -1), Err(SessionExpired)),
            (check("", -1), Err(SessionExpired)),
        ],
    );
}

#[test]
fn stats() {
    let mut asker = Asker::new();
    let config = Stat { aversion: -1, ..Stat::default() };
    let root = Stat { cversion: -1, num_children: 1, ..Stat::default() };
    assert_eq!(asker.stat("/"), root);
    assert_eq!(asker.stat("/zookeeper"), Stat { cversion: -2, num_children: 2, ..Stat::default() });
    assert_eq!(asker.stat("/zookeeper/config"), config);
    assert_eq!(asker.stat("/zookeeper/quota"), Stat::default());
    // zxid 2 at 1010 ms and so on.
    asker.write(plain("/a"));
    assert_eq!(asker.stat("/"), Stat { cversion: 0, num_children: 2, pzxid: 2, ..root });
    asker.write(plain("/a/b"));
    asker.write(WriteOp::Create(create("/a/e", "data", 1)));
    asker.write(delete("/a/b", -1));
    asker.write(set("/a", "changed", -1));
    asker.write(set_acl("/a", Acl::open(), -1));
    asker.write(delete("/a", -1));
    let expected = Stat {
        czxid: 2,
        mzxid: 6,
        ctime: 1010,
        mtime: 1050,
        version: 1,
        // Two creates and a delete.
        cversion: 3,
        aversion: 1,
        ephemeral_owner: 0,
        data_length: 7,
        num_children: 1,
        pzxid: 5,
    };
    assert_eq!(asker.stat("/a"), expected);
    let ephemeral = Stat {
        czxid: 4,
        mzxid: 4,
        ctime: 1030,
        mtime: 1030,
        ephemeral_owner: SESSION,
        data_length: 4,
        pzxid: 4,
        ..Stat::default()
    };
    assert_eq!(asker.stat("/a/e"), ephemeral);
    let written = asker.state.close_session(SESSION, 5000);
    assert_eq!(written.zxid(), 9);
    assert_eq!(asker.stat("/a"), Stat { num_children: 0, cversion: 4, pzxid: 9, ..expected });
    assert!(asker.state.session(SESSION).is_none());
}

#[test]
fn counts() {
    let mut asker = Asker::new();
    let counts = |asker: &Asker| {
        let counts = asker.state.counts();
        (counts.znodes, counts.ephemerals, counts.data_bytes)
    };
    assert_eq!(counts(&asker), (5, 0, 44), "as ZooKeeper counts itself when it is new");
    asker.write(WriteOp::Create(create("/é", "1234", 1)));
    assert_eq!(counts(&asker), (6, 1, 44 + 2 + 4));
    asker.write(set("/é", "12345678", -1));
    assert_eq!(counts(&asker), (6, 1, 44 + 2 + 8));
    asker.state.close_session(SESSION, 2000);
    assert_eq!(counts(&asker), (5, 0, 44));
}

#[test]
fn counters_overflow_as_ints_do() {
    let mut asker = Asker::new();
    asker.write(plain("/a"));
    let slot = asker.state.tree.find("/a").unwrap();
    let node = asker.state.tree.node_mut(slot);
    node.version = i32::MAX;
    node.cversion = i32::MAX - 1;
    agree(
        &mut asker,
        vec![
            (set("/a", "", i32::MAX), Ok("")),
            (set("/a", "", i32::MAX), Err(Code::BadVersion)),
            (set("/a", "", i32::MIN), Ok("")),
            (flags("/a/", 2), Ok("/a/2147483646")),
            (flags("/a/", 2), Ok("/a/2147483647")),
            // The number of creates does not grow any more: every further name is taken.
            (flags("/a/", 2), Err(Code::NodeExists)),
            (flags("/a/x", 2), Ok("/a/x2147483647")),
        ],
    );
    assert_eq!(asker.stat("/a").version, i32::MIN + 1);
    assert_eq!(asker.stat("/a").pzxid, 6, "of the last create that was counted");
}

#[test]
fn reads() {
    use Code::{BadArguments, NoAuth, NoNode};
    let mut asker = Asker::new();
    asker.write(with_acl("/nr", vec![entry(2, "world", "anyone")]));
    asker.write(with_acl("/adm", vec![entry(16, "world", "anyone"), entry(1, "digest", "u:p")]));
    asker.write(with_acl("/dig", vec![entry(1, "world", "anyone"), entry(31, "digest", "a:b")]));
    asker.write(WriteOp::Create(Create { data: None, ..create("/null", "", 0) }));
    asker.write(WriteOp::Create(create("/e", "", 1)));
    let Asker { state, ids, .. } = &asker;
    let acl = |path: &str| match state.acl(ids, path) {
        Ok(Reply::Acl { acl, .. }) => Ok(acl.iter().map(|acl| acl.id.clone()).collect::<Vec<_>>().join(",")),
        other => Err(other.unwrap_err()),
    };
    let count = |path: &str| match state.all_children_number(ids, path) {
        Ok(Reply::Count(count)) => Ok(count),
        other => Err(other.unwrap_err()),
    };
    let ephemerals = |prefix: &str| match state.ephemerals(SESSION, prefix) {
        Reply::Ephemerals(paths) => paths.len(),
        other => panic!("{other:?}"),
    };
    for (path, expected) in [
        ("", None),
        ("/", None),
        ("//", Some(NoNode)),
        ("a", Some(NoNode)),
        ("/\0", Some(BadArguments)),
        ("/nr", None),
    ] {
        assert_eq!(state.exists(path).err(), expected, "exists {path:?}");
    }
    for (path, expected) in [
        ("", None),
        ("/", None),
        ("/\0", Some(NoNode)),
        ("/nr", Some(NoAuth)),
        ("/adm", Some(NoAuth)),
        ("/dig", None),
    ] {
        assert_eq!(state.data(ids, path).err(), expected, "data {path:?}");
        assert_eq!(state.children(ids, path).err(), expected, "children {path:?}");
        assert_eq!(state.children2(ids, path).err(), expected, "children2 {path:?}");
        assert_eq!(count(path).err(), expected, "number {path:?}");
    }
    assert_eq!(acl("/nr"), Err(NoAuth));
    assert_eq!(acl("/nope"), Err(NoNode));
    assert_eq!(acl("/adm"), Ok("anyone,u:p".to_owned()), "who may change it sees it all");
    assert_eq!(acl("/dig"), Ok("anyone,a:x".to_owned()));
    assert_eq!((count("/"), count(""), count("/zookeeper")), (Ok(8), Ok(9), Ok(2)));
    assert!(matches!(state.data(ids, "/null"), Ok(Reply::Data { data: None, .. })));
    assert!(matches!(state.data(ids, "/e"), Ok(Reply::Data { data: Some(data), .. }) if data.is_empty()));
    assert_eq!(["", " / ", "/", "/e", "/ee", " /e"].map(ephemerals), [1, 1, 1, 1, 0, 0]);
    assert_eq!(state.ephemerals(1, ""), Reply::Ephemerals(vec![]));
    let names = ["adm", "dig", "e", "nr", "null", "zookeeper"].map(str::to_owned).to_vec();
    assert_eq!(state.children(ids, "/"), Ok(Reply::Children(names)));
}
