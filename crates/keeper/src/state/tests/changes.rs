//! What watches may fire for, in ZooKeeper's order.

use super::*;
use crate::state::ChangeKind::{self, ChildrenChanged, Created, DataChanged, Deleted};
use crate::wire::MultiOp;

fn of(written: &Written) -> Vec<(ChangeKind, &str)> {
    assert!(written.changes.iter().all(|change| change.zxid == written.zxid()));
    written.changes.iter().map(|change| (change.kind, &change.path[..])).collect()
}

#[test]
fn of_single_writes() {
    let mut asker = Asker::new();
    assert_eq!(of(&asker.write(plain("/a"))), [(Created, "/a"), (ChildrenChanged, "/")]);
    assert_eq!(of(&asker.write(plain("/a/b"))), [(Created, "/a/b"), (ChildrenChanged, "/a")]);
    assert_eq!(of(&asker.write(set("/a", "", -1))), [(DataChanged, "/a")]);
    assert_eq!(of(&asker.write(set_acl("/a", Acl::open(), -1))), []);
    assert_eq!(of(&asker.write(check("/a", -1))), []);
    assert_eq!(of(&asker.write(delete("/a", -1))), []);
    assert_eq!(of(&asker.write(delete("/a/b", -1))), [(Deleted, "/a/b"), (ChildrenChanged, "/a")]);
}

#[test]
fn of_a_multi_and_of_a_closing_session() {
    let mut asker = Asker::new();
    let ops = vec![
        MultiOp::Create(create("/b", "", 0)),
        MultiOp::Create(create("/b/2", "", 1)),
        MultiOp::Create(create("/b/1", "", 1)),
        MultiOp::SetData { path: "/b".to_owned(), data: None, version: -1 },
        MultiOp::Create(create("/a", "", 1)),
    ];
    let expected = [
        (Created, "/b"),
        (ChildrenChanged, "/"),
        (Created, "/b/2"),
        (ChildrenChanged, "/b"),
        (Created, "/b/1"),
        (ChildrenChanged, "/b"),
        (DataChanged, "/b"),
        (Created, "/a"),
        (ChildrenChanged, "/"),
    ];
    assert_eq!(of(&asker.write(WriteOp::Multi(ops))), expected);
    // ZooKeeper's order is that of a hash set; ours is that of the paths.
    let expected = [
        (Deleted, "/a"),
        (ChildrenChanged, "/"),
        (Deleted, "/b/1"),
        (ChildrenChanged, "/b"),
        (Deleted, "/b/2"),
        (ChildrenChanged, "/b"),
    ];
    assert_eq!(of(&asker.state.close_session(SESSION, 0)), expected);
    assert_eq!(of(&asker.state.close_session(SESSION, 0)), []);
}

#[test]
fn each_has_the_acl_of_its_znode() {
    let mut asker = Asker::new();
    let closed = vec![entry(31, "ip", "127.0.0.1")];
    let acls =
        |written: Written| written.changes.into_iter().map(|change| change.acl.to_vec()).collect::<Vec<_>>();
    assert_eq!(acls(asker.write(with_acl("/a", closed.clone()))), [closed.clone(), Acl::open()]);
    assert_eq!(acls(asker.write(plain("/a/b"))), [Acl::open(), closed.clone()]);
    assert_eq!(acls(asker.write(set("/a", "", -1))), std::slice::from_ref(&closed));
    assert_eq!(acls(asker.write(delete("/a/b", -1))), [Acl::open(), closed.clone()]);
    assert_eq!(acls(asker.write(delete("/a", -1))), [closed, Acl::open()]);
}
