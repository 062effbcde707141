//! Replies as bytes.

use bytes::{Bytes, BytesMut};

use super::jute::{Reader, Strings, Writer};
use super::request_codec::path;
use super::{Acl, ClientInfo, DecodeError, MultiResult, OpCode, Reply, Stat};

impl Reply {
    /// Reads the body of the reply to a request of the kind `op`, given that the reply's header has no error.
    ///
    /// # Errors
    ///
    /// When the body ends early, a length is negative, or a string or list is null that never is.
    pub fn decode(op: OpCode, body: &Bytes) -> Result<Self, DecodeError> {
        let reader = &mut Reader::new(body);
        Ok(match op {
            OpCode::Create | OpCode::Sync => Self::Path(path(reader)?),
            OpCode::Create2 | OpCode::CreateContainer | OpCode::CreateTtl => {
                Self::PathStat { path: path(reader)?, stat: Stat::read(reader)? }
            }
            OpCode::Exists | OpCode::SetData | OpCode::SetAcl => Self::Stat(Stat::read(reader)?),
            OpCode::GetData | OpCode::Reconfig => {
                let (data, stat) = read_data(reader)?;
                Self::Data { data, stat }
            }
            OpCode::GetAcl => Self::Acl { acl: Acl::read_list(reader)?, stat: Stat::read(reader)? },
            OpCode::GetChildren => Self::Children(reader.strings("child")?),
            OpCode::GetChildren2 => {
                Self::Children2 { children: reader.strings("child")?, stat: Stat::read(reader)? }
            }
            OpCode::Multi | OpCode::MultiRead => Self::Multi(MultiResult::read_all(reader)?),
            OpCode::GetEphemerals => Self::Ephemerals(reader.strings("ephemeral")?),
            OpCode::GetAllChildrenNumber => Self::Count(reader.i32()?),
            OpCode::WhoAmI => Self::WhoAmI(ClientInfo::read_list(reader)?),
            OpCode::Sasl => Self::Sasl(reader.buffer()?),
            OpCode::AddWatch => Self::Error(reader.i32()?),
            OpCode::Notification
            | OpCode::Delete
            | OpCode::Ping
            | OpCode::Check
            | OpCode::CheckWatches
            | OpCode::RemoveWatches
            | OpCode::DeleteContainer
            | OpCode::Auth
            | OpCode::SetWatches
            | OpCode::SetWatches2
            | OpCode::CreateSession
            | OpCode::CloseSession
            | OpCode::Error => Self::Empty,
        })
    }

    /// Appends the body of the reply.
    pub fn encode(&self, out: &mut BytesMut) {
        out.reserve(self.length_hint());
        let writer = &mut Writer::new(out, Strings::Java);
        match self {
            Self::Empty => {}
            Self::Path(path) => writer.string(path),
            Self::PathStat { path, stat } => {
                writer.string(path);
                stat.write(writer);
            }
            Self::Stat(stat) => stat.write(writer),
            Self::Data { data, stat } => write_data(data.as_deref(), stat, writer),
            Self::Acl { acl, stat } => {
                Acl::write_list(acl, writer);
                stat.write(writer);
            }
            Self::Children(names) | Self::Ephemerals(names) => writer.strings(names),
            Self::Children2 { children, stat } => {
                writer.strings(children);
                stat.write(writer);
            }
            Self::Multi(results) => MultiResult::write_all(results, writer),
            Self::Count(number) | Self::Error(number) => writer.i32(*number),
            Self::WhoAmI(infos) => ClientInfo::write_list(infos, writer),
            Self::Sasl(token) => writer.buffer(token.as_deref()),
        }
    }

    /// About as many bytes as the body takes, so that the common ones are allocated once.
    pub(super) fn length_hint(&self) -> usize {
        const STAT: usize = 68;
        let strings = |strings: &[String]| 4 + strings.iter().map(|string| 4 + string.len()).sum::<usize>();
        match self {
            Self::Empty => 0,
            Self::Path(path) => 4 + path.len(),
            Self::PathStat { path, .. } => 4 + path.len() + STAT,
            Self::Stat(_) => STAT,
            Self::Data { data, .. } => 4 + data.as_ref().map_or(0, Bytes::len) + STAT,
            Self::Children(names) | Self::Ephemerals(names) => strings(names),
            Self::Children2 { children, .. } => strings(children) + STAT,
            Self::Multi(results) => 9 + results.len() * 48,
            Self::Acl { acl, .. } => acl.len() * 48 + STAT,
            Self::Count(_) | Self::Error(_) | Self::WhoAmI(_) | Self::Sasl(_) => 64,
        }
    }
}

pub(super) fn read_data(reader: &mut Reader) -> Result<(Option<Bytes>, Stat), DecodeError> {
    Ok((reader.buffer()?, Stat::read(reader)?))
}

pub(super) fn write_data(data: Option<&[u8]>, stat: &Stat, writer: &mut Writer<'_>) {
    writer.buffer(data);
    stat.write(writer);
}
