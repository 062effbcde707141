use bytes::Bytes;

use super::connection::Attached;
use super::identity::AuthFailed;
use super::{ConnId, Core, Now, Output};
use crate::wire::{Code, OpCode, Reply, ReplyHeader, Request, RequestHeader, XID_PING, reply_frame};

/// A request that is being answered.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked {
    pub(super) conn: ConnId,
    pub(super) session: i64,
    pub(super) xid: i32,
    pub(super) op: OpCode,
    pub(super) now: Now,
}

/// What comes of a request: the reply, or the error in its header, or nothing because its connection was closed.
pub(super) enum Answer {
    Reply(Result<Reply, Code>),
    Closed,
}

impl Core {
    /// Handles a frame of a connection that has a session.
    pub(super) fn request(
        &mut self,
        conn: ConnId,
        attached: Attached,
        frame: &Bytes,
        now: Now,
        out: &mut Output,
    ) {
        let Ok((RequestHeader { xid, op }, body)) = RequestHeader::split(frame) else {
            return self.refuse(conn, out);
        };
        // These two are about the connection: they need no session and do not keep it alive either.
        let op = match OpCode::try_from(op) {
            Ok(OpCode::Auth) => return self.authenticate(conn, xid, &body, out),
            Ok(OpCode::Sasl) => return self.sasl(conn, xid, &body, out),
            op => op,
        };
        // As ZooKeeper, which drops what comes in for a session that is ending: its connection is about to be closed.
        let Attached { session, timeout_ms } = attached;
        if self.state.session(session).is_none() {
            return;
        }
        self.expiry.update(session, now.ms(), timeout_ms);
        let Ok(op) = op else { return self.unimplemented(conn, xid, out) };
        let asked = Asked { conn, session, xid, op, now };
        let answer = match op {
            OpCode::Notification | OpCode::Error | OpCode::CreateSession | OpCode::Auth | OpCode::Sasl => {
                return self.unimplemented(conn, xid, out);
            }
            OpCode::Ping => Answer::Reply(Ok(Reply::Empty)),
            OpCode::CloseSession => {
                self.end_session(session, now, out);
                Answer::Reply(Ok(Reply::Empty))
            }
            OpCode::Create
            | OpCode::Create2
            | OpCode::CreateContainer
            | OpCode::CreateTtl
            | OpCode::Delete
            | OpCode::DeleteContainer
            | OpCode::SetData
            | OpCode::SetAcl
            | OpCode::Check
            | OpCode::Multi
            | OpCode::Reconfig => Answer::Reply(self.write(asked, &body, out)),
            _ => self.read(asked, &body, out),
        };
        match answer {
            Answer::Reply(result) => self.answer(asked, result, out),
            Answer::Closed => return,
        }
        if op == OpCode::CloseSession {
            self.close(conn, out);
        }
    }

    /// Sends a reply, with the zxid of what it shows.
    fn answer(&mut self, asked: Asked, result: Result<Reply, Code>, out: &mut Output) {
        let Asked { conn, xid, op, now, .. } = asked;
        let (reply, err) = match result {
            Ok(reply) => (reply, Code::Ok),
            Err(code) => (Reply::Empty, code),
        };
        let xid = if op == OpCode::Ping { XID_PING } else { xid };
        let header = ReplyHeader { xid, zxid: self.state.last_zxid(), err: err.number() };
        self.note_reply(conn, short_name(op), asked.xid, now);
        self.send(conn, reply_frame(header, &reply), out);
    }

    pub(super) fn note_reply(&mut self, conn: ConnId, op: &'static str, cxid: i32, now: Now) {
        let zxid = self.state.last_zxid();
        let Some(connection) = self.connections.get_mut(&conn) else { return };
        let stats = &mut connection.stats;
        if cxid >= 0 {
            stats.last_cxid = i64::from(cxid);
        }
        (stats.last_zxid, stats.last_op, stats.last_response_ms) = (zxid, op, now.wall_ms);
    }

    /// ZooKeeper tells a client that sends what it does not know, and closes.
    fn unimplemented(&mut self, conn: ConnId, xid: i32, out: &mut Output) {
        self.send_header(conn, ReplyHeader { xid, zxid: -1, err: Code::Unimplemented.number() }, out);
        self.refuse(conn, out);
    }

    fn authenticate(&mut self, conn: ConnId, xid: i32, body: &Bytes, out: &mut Output) {
        let Ok(Request::Auth { scheme, auth, .. }) = Request::decode(OpCode::Auth, body) else {
            return self.refuse(conn, out);
        };
        let Some(connection) = self.connections.get_mut(&conn) else { return };
        let max = self.settings.identities_per_connection_max;
        match connection.identities.authenticate(&scheme, auth.as_deref(), max) {
            Ok(()) => self.send_header(conn, ReplyHeader { xid, zxid: 0, err: Code::Ok.number() }, out),
            Err(AuthFailed) => {
                self.stats.auth_failed += 1;
                self.send_header(conn, ReplyHeader { xid, zxid: 0, err: Code::AuthFailed.number() }, out);
                self.close(conn, out);
            }
        }
    }

    /// A ZooKeeper that is not set up for SASL takes any token and answers with none; nobody is authenticated by it.
    fn sasl(&mut self, conn: ConnId, xid: i32, body: &Bytes, out: &mut Output) {
        match Request::decode(OpCode::Sasl, body) {
            Ok(Request::Sasl { token: Some(_) }) => {
                let header = ReplyHeader { xid, zxid: 0, err: Code::Ok.number() };
                self.send(conn, reply_frame(header, &Reply::Sasl(None)), out);
            }
            _ => self.refuse(conn, out),
        }
    }

    fn send_header(&mut self, conn: ConnId, header: ReplyHeader, out: &mut Output) {
        self.send(conn, reply_frame(header, &Reply::Empty), out);
    }
}

/// What ZooKeeper calls an operation in its list of connections.
const fn short_name(op: OpCode) -> &'static str {
    match op {
        OpCode::Ping => "PING",
        OpCode::Multi => "MULT",
        OpCode::MultiRead => "MLTR",
        OpCode::Create | OpCode::Create2 | OpCode::CreateContainer | OpCode::CreateTtl => "CREA",
        OpCode::Delete | OpCode::DeleteContainer => "DELE",
        OpCode::SetData => "SETD",
        OpCode::Reconfig => "RECO",
        OpCode::SetAcl => "SETA",
        OpCode::CloseSession => "CLOS",
        OpCode::Sync => "SYNC",
        OpCode::Check => "CHEC",
        OpCode::Exists => "EXIS",
        OpCode::GetData => "GETD",
        OpCode::SetWatches => "SETW",
        OpCode::SetWatches2 => "STW2",
        OpCode::AddWatch => "ADDW",
        OpCode::GetAcl => "GETA",
        OpCode::GetChildren | OpCode::GetChildren2 => "GETC",
        OpCode::GetAllChildrenNumber => "GETACN",
        OpCode::CheckWatches => "CHKW",
        OpCode::RemoveWatches => "REMW",
        OpCode::WhoAmI => "HOMI",
        OpCode::GetEphemerals => "GETE",
        _ => "NA",
    }
}
