//! The state as a whole, against answers of Debian's ZooKeeper 3.8.0 and against a naive model.

mod answers;
mod changes;
mod codec;
mod histories;
mod model;
mod multis;
mod steps;

use bytes::Bytes;

use super::{Caller, State, WriteOp, Written};
use crate::wire::{Acl, Code, Create, Id, Perms, Reply, Stat};

/// The session that most tests have; its opening is zxid 1.
const SESSION: i64 = 0x100;

/// A state with an open session, and who asks it.
struct Asker {
    state: State,
    session: i64,
    ids: Vec<Id>,
    time_ms: i64,
}

impl Asker {
    fn new() -> Self {
        let mut state = State::new();
        state.create_session(SESSION, 30_000, [7; 16], 1000);
        Self { state, session: SESSION, ids: vec![id("ip", "127.0.0.1")], time_ms: 1000 }
    }

    /// Each write is made 10 ms after the one before.
    fn write(&mut self, op: WriteOp) -> Written {
        self.time_ms += 10;
        let caller = Caller { session: self.session, ids: &self.ids, cxid: 5, time_ms: self.time_ms };
        let written = self.state.write(&caller, op);
        assert_eq!(written.zxid(), self.state.last_zxid());
        written
    }

    fn result(&mut self, op: WriteOp) -> Result<Reply, Code> {
        self.write(op).result
    }

    fn stat(&self, path: &str) -> Stat {
        self.state.stat(path).expect("the znode is there")
    }
}

fn id(scheme: &str, id: &str) -> Id {
    Id { scheme: scheme.to_owned(), id: id.to_owned() }
}

fn entry(perms: i32, scheme: &str, id: &str) -> Acl {
    Acl { perms: Perms(perms), scheme: scheme.to_owned(), id: id.to_owned() }
}

fn create(path: &str, data: &'static str, flags: i32) -> Create {
    Create { path: path.to_owned(), data: Some(Bytes::from(data)), acl: Acl::open(), flags }
}

fn with_acl(path: &str, acl: Vec<Acl>) -> WriteOp {
    WriteOp::Create(Create { acl, ..create(path, "", 0) })
}

fn plain(path: &str) -> WriteOp {
    WriteOp::Create(create(path, "", 0))
}

fn delete(path: &str, version: i32) -> WriteOp {
    WriteOp::Delete { path: path.to_owned(), version }
}

fn set(path: &str, data: &'static str, version: i32) -> WriteOp {
    WriteOp::SetData { path: path.to_owned(), data: Some(Bytes::from(data)), version }
}

fn set_acl(path: &str, acl: Vec<Acl>, version: i32) -> WriteOp {
    WriteOp::SetAcl { path: path.to_owned(), acl, version }
}

fn check(path: &str, version: i32) -> WriteOp {
    WriteOp::Check { path: path.to_owned(), version }
}
