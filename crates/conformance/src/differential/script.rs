//! What is done to a server, as data: it can be generated, sent, shortened, and kept as JSON.
//!
//! Every path of a script lies below [`ROOT`], which the run replaces by a node of its own, of the same length, so that one server serves many
//! scripts and bytes that were spoilt on purpose stay as they were.

use serde::{Deserialize, Serialize};

use super::hex;
use super::jute::Writer;

/// The stand-in for the node below which a script works.
pub(super) const ROOT: &str = "/$root";

/// The xid of every ping, whatever the client had chosen.
pub(super) const PING_XID: i32 = -2;

/// Steps, one after another. Any list of steps is valid: a step that has nothing to work on does nothing.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Script(pub(super) Vec<Step>);

/// Something that happens to one session, and that is over before the next step begins.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "step")]
pub(super) enum Step {
    /// A new session on a new connection. A session that the slot still has is closed first.
    Open { slot: usize, timeout_ms: i32, read_only: Option<bool> },
    /// The slot's session, whatever became of it, on a new connection; the former connection, if there is one, is taken over.
    Resume { slot: usize, with: Credentials },
    /// Requests, sent together; all of their replies are awaited.
    Burst { slot: usize, calls: Vec<Call> },
    /// The connection is cut; the session lives on.
    Cut { slot: usize },
    /// The session falls silent, `cut` or with its connection open, until the server gives it up; `witness` is the slot that sees it.
    Expire { slot: usize, cut: bool, witness: usize },
    /// Something that is no session's: the first frame of a connection, without its length.
    Hello { hex: String },
    /// The server is stopped and started again.
    Restart,
}

/// How a session is claimed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Credentials {
    /// As the server gave them.
    Right,
    /// The right id with another password.
    WrongPassword,
    /// The right id with less of a password.
    ShortPassword,
    /// The right id with an empty password.
    NoPassword,
    /// An id that never was.
    Unknown,
    /// The right ones, but the client claims to have seen what the server has not.
    Ahead,
}

/// A node's data.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Data {
    /// A null buffer, which is not an empty one.
    #[default]
    Null,
    Text(String),
    /// So many times the letter x.
    Fill(usize),
    Hex(String),
}

impl Data {
    pub(super) fn of(bytes: Option<&[u8]>) -> Self {
        let Some(bytes) = bytes else { return Self::Null };
        if bytes.len() > 64 && bytes.iter().all(|byte| *byte == b'x') {
            return Self::Fill(bytes.len());
        }
        match std::str::from_utf8(bytes) {
            Ok(text) => Self::Text(text.to_owned()),
            Err(_) => Self::Hex(hex::encode(bytes)),
        }
    }

    fn bytes(&self) -> Option<Vec<u8>> {
        match self {
            Self::Null => None,
            Self::Text(text) => Some(text.clone().into_bytes()),
            Self::Fill(length) => Some(vec![b'x'; *length]),
            Self::Hex(text) => Some(hex::decode(text)),
        }
    }
}

/// An entry of an access control list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Access {
    pub(super) perms: i32,
    pub(super) scheme: String,
    pub(super) id: String,
}

/// One request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "call")]
pub(super) enum Call {
    Create {
        path: String,
        data: Data,
        acl: Vec<Access>,
        flags: i32,
    },
    Create2 {
        path: String,
        data: Data,
        acl: Vec<Access>,
        flags: i32,
    },
    CreateContainer {
        path: String,
        data: Data,
        acl: Vec<Access>,
        flags: i32,
    },
    CreateTtl {
        path: String,
        data: Data,
        acl: Vec<Access>,
        flags: i32,
        ttl: i64,
    },
    Delete {
        path: String,
        version: i32,
    },
    Exists {
        path: String,
        watch: bool,
    },
    GetData {
        path: String,
        watch: bool,
    },
    SetData {
        path: String,
        data: Data,
        version: i32,
    },
    GetAcl {
        path: String,
    },
    SetAcl {
        path: String,
        acl: Vec<Access>,
        version: i32,
    },
    GetChildren {
        path: String,
        watch: bool,
    },
    GetChildren2 {
        path: String,
        watch: bool,
    },
    Sync {
        path: String,
    },
    Ping,
    Check {
        path: String,
        version: i32,
    },
    Multi {
        ops: Vec<Call>,
    },
    MultiRead {
        ops: Vec<Call>,
    },
    /// The relative zxid is what the connection's slot has seen, less `back`.
    SetWatches {
        back: i64,
        data: Vec<String>,
        exist: Vec<String>,
        child: Vec<String>,
    },
    SetWatches2 {
        back: i64,
        data: Vec<String>,
        exist: Vec<String>,
        child: Vec<String>,
        persistent: Vec<String>,
        recursive: Vec<String>,
    },
    AddWatch {
        path: String,
        mode: i32,
    },
    CheckWatches {
        path: String,
        kind: i32,
    },
    RemoveWatches {
        path: String,
        kind: i32,
    },
    Auth {
        scheme: String,
        secret: Data,
    },
    Sasl {
        token: Data,
    },
    Reconfig {
        joining: String,
    },
    GetEphemerals {
        prefix: String,
    },
    GetAllChildrenNumber {
        path: String,
    },
    WhoAmI,
    CloseSession,
    /// Any op code with any body.
    Raw {
        op: i32,
        hex: String,
    },
    /// A whole frame, which need not hold a header.
    Frame {
        hex: String,
    },
    /// The length of a frame that never follows.
    Length {
        length: i32,
    },
}

/// What follows upon a request, beside its reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Then {
    /// Other requests may follow in the same burst.
    More,
    /// It stands alone: its reply may overtake others (an identity does not pass through the server's pipeline), and a refusal may end the
    /// connection, which a ping behind it would race with.
    Alone,
    /// The server ends the connection, and the session.
    End,
}

impl Call {
    pub(super) fn then(&self) -> Then {
        match self {
            Self::Auth { .. } | Self::Sasl { .. } | Self::Raw { .. } => Then::Alone,
            Self::CloseSession => Then::End,
            _ => Then::More,
        }
    }

    /// Whether the server may close the connection without having read everything that was sent.
    pub(super) fn may_close(&self) -> bool {
        match self {
            Self::Length { .. } | Self::Frame { .. } => true,
            Self::Create { data: Data::Fill(length), .. } => *length > 1_000_000,
            _ => false,
        }
    }

    pub(super) fn op(&self) -> i32 {
        match self {
            Self::Create { .. } => 1,
            Self::Delete { .. } => 2,
            Self::Exists { .. } => 3,
            Self::GetData { .. } => 4,
            Self::SetData { .. } => 5,
            Self::GetAcl { .. } => 6,
            Self::SetAcl { .. } => 7,
            Self::GetChildren { .. } => 8,
            Self::Sync { .. } => 9,
            Self::Ping => 11,
            Self::GetChildren2 { .. } => 12,
            Self::Check { .. } => 13,
            Self::Multi { .. } => 14,
            Self::Create2 { .. } => 15,
            Self::Reconfig { .. } => 16,
            Self::CheckWatches { .. } => 17,
            Self::RemoveWatches { .. } => 18,
            Self::CreateContainer { .. } => 19,
            Self::CreateTtl { .. } => 21,
            Self::MultiRead { .. } => 22,
            Self::Auth { .. } => 100,
            Self::SetWatches { .. } => 101,
            Self::Sasl { .. } => 102,
            Self::GetEphemerals { .. } => 103,
            Self::GetAllChildrenNumber { .. } => 104,
            Self::SetWatches2 { .. } => 105,
            Self::AddWatch { .. } => 106,
            Self::WhoAmI => 107,
            Self::CloseSession => -11,
            Self::Raw { op, .. } => *op,
            Self::Frame { .. } | Self::Length { .. } => i32::MIN,
        }
    }

    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Create { .. } => "create",
            Self::Create2 { .. } => "create2",
            Self::CreateContainer { .. } => "createContainer",
            Self::CreateTtl { .. } => "createTTL",
            Self::Delete { .. } => "delete",
            Self::Exists { .. } => "exists",
            Self::GetData { .. } => "getData",
            Self::SetData { .. } => "setData",
            Self::GetAcl { .. } => "getACL",
            Self::SetAcl { .. } => "setACL",
            Self::GetChildren { .. } => "getChildren",
            Self::GetChildren2 { .. } => "getChildren2",
            Self::Sync { .. } => "sync",
            Self::Ping => "ping",
            Self::Check { .. } => "check",
            Self::Multi { .. } => "multi",
            Self::MultiRead { .. } => "multiRead",
            Self::SetWatches { .. } => "setWatches",
            Self::SetWatches2 { .. } => "setWatches2",
            Self::AddWatch { .. } => "addWatch",
            Self::CheckWatches { .. } => "checkWatches",
            Self::RemoveWatches { .. } => "removeWatches",
            Self::Auth { .. } => "auth",
            Self::Sasl { .. } => "sasl",
            Self::Reconfig { .. } => "reconfig",
            Self::GetEphemerals { .. } => "getEphemerals",
            Self::GetAllChildrenNumber { .. } => "getAllChildrenNumber",
            Self::WhoAmI => "whoAmI",
            Self::CloseSession => "closeSession",
            Self::Raw { .. } => "(any bytes)",
            Self::Frame { .. } => "(no header)",
            Self::Length { .. } => "(length only)",
        }
    }

    /// The frame with its length, for a connection that has `seen` a zxid.
    pub(super) fn frame(&self, xid: i32, seen: i64) -> Vec<u8> {
        let mut frame = Writer::default();
        match self {
            Self::Length { length } => {
                frame.int(*length);
                return frame.0;
            }
            Self::Frame { hex } => {
                frame.buffer(Some(&hex::decode(hex)));
                return frame.0;
            }
            _ => {}
        }
        frame.int(0).int(xid).int(self.op());
        self.body(&mut frame, seen);
        let length = i32::try_from(frame.0.len() - 4).unwrap_or(i32::MAX);
        frame.0[..4].copy_from_slice(&length.to_be_bytes());
        frame.0
    }

    /// The request without its header.
    pub(super) fn body(&self, out: &mut Writer, seen: i64) {
        match self {
            Self::Create { path, data, acl, flags }
            | Self::Create2 { path, data, acl, flags }
            | Self::CreateContainer { path, data, acl, flags } => {
                out.string(path).buffer(data.bytes().as_deref());
                list(out, acl);
                out.int(*flags);
            }
            Self::CreateTtl { path, data, acl, flags, ttl } => {
                out.string(path).buffer(data.bytes().as_deref());
                list(out, acl);
                out.int(*flags).long(*ttl);
            }
            Self::Delete { path, version } | Self::Check { path, version } => {
                out.string(path).int(*version);
            }
            Self::Exists { path, watch }
            | Self::GetData { path, watch }
            | Self::GetChildren { path, watch }
            | Self::GetChildren2 { path, watch } => {
                out.string(path).boolean(*watch);
            }
            Self::SetData { path, data, version } => {
                out.string(path).buffer(data.bytes().as_deref()).int(*version);
            }
            Self::GetAcl { path } | Self::Sync { path } | Self::GetAllChildrenNumber { path } => {
                out.string(path);
            }
            Self::SetAcl { path, acl, version } => {
                out.string(path);
                list(out, acl);
                out.int(*version);
            }
            Self::Multi { ops } | Self::MultiRead { ops } => {
                for op in ops {
                    out.int(op.op()).boolean(false).int(-1);
                    op.body(out, seen);
                }
                out.int(-1).boolean(true).int(-1);
            }
            Self::SetWatches { back, data, exist, child } => {
                out.long(seen - back).strings(data).strings(exist).strings(child);
            }
            Self::SetWatches2 { back, data, exist, child, persistent, recursive } => {
                out.long(seen - back).strings(data).strings(exist).strings(child);
                out.strings(persistent).strings(recursive);
            }
            Self::AddWatch { path, mode: kind }
            | Self::CheckWatches { path, kind }
            | Self::RemoveWatches { path, kind } => {
                out.string(path).int(*kind);
            }
            Self::Auth { scheme, secret } => {
                out.int(0).string(scheme).buffer(secret.bytes().as_deref());
            }
            Self::Sasl { token } => {
                out.buffer(token.bytes().as_deref());
            }
            Self::Reconfig { joining } => {
                out.string(joining).string("").string("").long(-1);
            }
            Self::GetEphemerals { prefix } => {
                out.string(prefix);
            }
            Self::Raw { hex, .. } => out.0.extend_from_slice(&hex::decode(hex)),
            Self::Ping | Self::WhoAmI | Self::CloseSession | Self::Frame { .. } | Self::Length { .. } => {}
        }
    }
}

fn list(out: &mut Writer, acl: &[Access]) {
    out.length(acl.len());
    for Access { perms, scheme, id } in acl {
        out.int(*perms).string(scheme).string(id);
    }
}
