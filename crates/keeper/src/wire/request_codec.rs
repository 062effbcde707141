//! Requests as bytes.

use bytes::{Bytes, BytesMut};

use super::jute::{Reader, Strings, Writer};
use super::{Acl, Create, DecodeError, MultiOp, MultiReadOp, OpCode, Request, Watches};

impl Request {
    /// Reads the body of a request. Bytes behind it are ignored, as ZooKeeper does. Data shares the memory of `body`.
    ///
    /// # Errors
    ///
    /// When the body ends early, a length is negative, a path is null, a multi mixes reads and
    /// writes, or no client sends the op. What ZooKeeper does then is told in the [module](super).
    pub fn decode(op: OpCode, body: &Bytes) -> Result<Self, DecodeError> {
        let reader = &mut Reader::new(body);
        Ok(match op {
            OpCode::Create => Self::Create(Create::read(reader)?),
            OpCode::Create2 => Self::Create2(Create::read(reader)?),
            OpCode::CreateContainer => Self::CreateContainer(Create::read(reader)?),
            OpCode::CreateTtl => Self::CreateTtl { create: Create::read(reader)?, ttl: reader.i64()? },
            OpCode::Delete => Self::Delete { path: path(reader)?, version: reader.i32()? },
            OpCode::Exists => Self::Exists { path: path(reader)?, watch: reader.bool()? },
            OpCode::GetData => Self::GetData { path: path(reader)?, watch: reader.bool()? },
            OpCode::SetData => {
                Self::SetData { path: path(reader)?, data: reader.buffer()?, version: reader.i32()? }
            }
            OpCode::GetAcl => Self::GetAcl { path: path(reader)? },
            OpCode::SetAcl => {
                Self::SetAcl { path: path(reader)?, acl: Acl::read_list(reader)?, version: reader.i32()? }
            }
            OpCode::GetChildren => Self::GetChildren { path: path(reader)?, watch: reader.bool()? },
            OpCode::GetChildren2 => Self::GetChildren2 { path: path(reader)?, watch: reader.bool()? },
            OpCode::Sync => Self::Sync { path: path(reader)? },
            OpCode::Ping => Self::Ping,
            OpCode::Check => Self::Check { path: path(reader)?, version: reader.i32()? },
            OpCode::Multi => Self::Multi(MultiOp::read_all(reader)?),
            OpCode::MultiRead => Self::MultiRead(MultiReadOp::read_all(reader)?),
            OpCode::SetWatches => {
                Self::SetWatches { relative_zxid: reader.i64()?, watches: Watches::read(reader)? }
            }
            OpCode::SetWatches2 => Self::SetWatches2 {
                relative_zxid: reader.i64()?,
                watches: Watches::read(reader)?,
                persistent: reader.strings("watch")?,
                persistent_recursive: reader.strings("watch")?,
            },
            OpCode::AddWatch => Self::AddWatch { path: path(reader)?, mode: reader.i32()? },
            OpCode::CheckWatches => Self::CheckWatches { path: path(reader)?, kind: reader.i32()? },
            OpCode::RemoveWatches => Self::RemoveWatches { path: path(reader)?, kind: reader.i32()? },
            OpCode::Auth => {
                Self::Auth { kind: reader.i32()?, scheme: reader.lenient()?, auth: reader.buffer()? }
            }
            OpCode::Sasl => Self::Sasl { token: reader.buffer()? },
            OpCode::Reconfig => Self::Reconfig {
                joining: reader.string()?,
                leaving: reader.string()?,
                members: reader.string()?,
                config_id: reader.i64()?,
            },
            OpCode::GetEphemerals => Self::GetEphemerals { prefix: reader.lenient()? },
            OpCode::GetAllChildrenNumber => Self::GetAllChildrenNumber { path: path(reader)? },
            OpCode::WhoAmI => Self::WhoAmI,
            OpCode::CloseSession => Self::CloseSession,
            OpCode::Notification | OpCode::DeleteContainer | OpCode::CreateSession | OpCode::Error => {
                return Err(DecodeError::Misplaced(op));
            }
        })
    }

    /// Appends the body of the request. Strings are written in UTF-8, as clients other than the Java one do.
    pub fn encode(&self, out: &mut BytesMut) {
        let writer = &mut Writer::new(out, Strings::Utf8);
        match self {
            Self::Create(create) | Self::Create2(create) | Self::CreateContainer(create) => {
                create.write(writer)
            }
            Self::CreateTtl { create, ttl } => {
                create.write(writer);
                writer.i64(*ttl);
            }
            Self::Delete { path, version } | Self::Check { path, version } => {
                writer.string(path);
                writer.i32(*version);
            }
            Self::AddWatch { path, mode: number }
            | Self::CheckWatches { path, kind: number }
            | Self::RemoveWatches { path, kind: number } => {
                writer.string(path);
                writer.i32(*number);
            }
            Self::Exists { path, watch }
            | Self::GetData { path, watch }
            | Self::GetChildren { path, watch }
            | Self::GetChildren2 { path, watch } => {
                writer.string(path);
                writer.bool(*watch);
            }
            Self::SetData { path, data, version } => {
                writer.string(path);
                writer.buffer(data.as_deref());
                writer.i32(*version);
            }
            Self::GetAcl { path }
            | Self::Sync { path }
            | Self::GetEphemerals { prefix: path }
            | Self::GetAllChildrenNumber { path } => writer.string(path),
            Self::SetAcl { path, acl, version } => {
                writer.string(path);
                Acl::write_list(acl, writer);
                writer.i32(*version);
            }
            Self::Multi(ops) => MultiOp::write_all(ops, writer),
            Self::MultiRead(ops) => MultiReadOp::write_all(ops, writer),
            Self::SetWatches { relative_zxid, watches } => {
                writer.i64(*relative_zxid);
                watches.write(writer);
            }
            Self::SetWatches2 { relative_zxid, watches, persistent, persistent_recursive } => {
                writer.i64(*relative_zxid);
                watches.write(writer);
                writer.strings(persistent);
                writer.strings(persistent_recursive);
            }
            Self::Auth { kind, scheme, auth } => {
                writer.i32(*kind);
                writer.string(scheme);
                writer.buffer(auth.as_deref());
            }
            Self::Sasl { token } => writer.buffer(token.as_deref()),
            Self::Reconfig { joining, leaving, members, config_id } => {
                writer.optional(joining.as_deref());
                writer.optional(leaving.as_deref());
                writer.optional(members.as_deref());
                writer.i64(*config_id);
            }
            Self::Ping | Self::WhoAmI | Self::CloseSession => {}
        }
    }
}

/// ZooKeeper trips over a null path wherever it looks at one.
pub(super) fn path(reader: &mut Reader) -> Result<String, DecodeError> {
    reader.required("path")
}

impl Create {
    pub(super) fn read(reader: &mut Reader) -> Result<Self, DecodeError> {
        Ok(Self {
            path: path(reader)?,
            data: reader.buffer()?,
            acl: Acl::read_list(reader)?,
            flags: reader.i32()?,
        })
    }

    pub(super) fn write(&self, writer: &mut Writer<'_>) {
        writer.string(&self.path);
        writer.buffer(self.data.as_deref());
        Acl::write_list(&self.acl, writer);
        writer.i32(self.flags);
    }
}

impl Watches {
    fn read(reader: &mut Reader) -> Result<Self, DecodeError> {
        Ok(Self {
            data: reader.strings("watch")?,
            exist: reader.strings("watch")?,
            child: reader.strings("watch")?,
        })
    }

    fn write(&self, writer: &mut Writer<'_>) {
        writer.strings(&self.data);
        writer.strings(&self.exist);
        writer.strings(&self.child);
    }
}
