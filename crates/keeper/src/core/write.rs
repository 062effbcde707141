use bytes::Bytes;

use super::dispatch::Asked;
use super::{Core, Output};
use crate::state::{Caller, WriteOp};
use crate::wire::{Code, OpCode, Reply, Request};

impl Core {
    /// Makes a write, tells the watchers, and gives what to reply.
    pub(super) fn write(&mut self, asked: Asked, body: &Bytes, out: &mut Output) -> Result<Reply, Code> {
        let ids =
            self.connections.get(&asked.conn).map_or(&[][..], |connection| connection.identities.as_slice());
        let caller = Caller { session: asked.session, ids, cxid: asked.xid, time_ms: asked.now.wall_ms };
        let request = Request::decode(asked.op, body).map(WriteOp::try_from);
        let written = match request {
            Ok(Ok(op)) => self.state.write(&caller, op),
            // Of all writes only this one is read before it takes a zxid.
            _ if asked.op == OpCode::Reconfig => return Err(Code::MarshallingError),
            // ZooKeeper takes what precedes the body for a part of the path, which is never one.
            _ if asked.op == OpCode::DeleteContainer => self.state.refuse(&caller, Code::BadArguments),
            _ => self.state.refuse(&caller, Code::MarshallingError),
        };
        self.fire(&written.changes, out);
        out.txns.push(written.txn);
        written.result
    }
}
