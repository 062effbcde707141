//! Multi and multi-read: a header before each op and each result, and one at the end that says so.

use super::jute::{Reader, Writer};
use super::reply_codec::{read_data, write_data};
use super::request_codec::path;
use super::{Create, CreateMode, DecodeError, MultiOp, MultiReadOp, MultiResult, OpCode, Stat};

/// Precedes each op and each result.
struct MultiHeader {
    op: i32,
    done: bool,
    err: i32,
}

impl MultiHeader {
    const END: Self = Self { op: -1, done: true, err: -1 };

    /// Before an op of a request, where the error has no meaning and is -1.
    const fn of_op(op: OpCode) -> Self {
        Self { op: op.number(), done: false, err: -1 }
    }

    const fn of_result(op: OpCode, err: i32) -> Self {
        Self { op: op.number(), done: false, err }
    }

    fn write(&self, writer: &mut Writer<'_>) {
        writer.i32(self.op);
        writer.bool(self.done);
        writer.i32(self.err);
    }

    /// Reads the next op code, `None` at the end.
    fn read(reader: &mut Reader) -> Result<Option<OpCode>, DecodeError> {
        let header = Self { op: reader.i32()?, done: reader.bool()?, err: reader.i32()? };
        if header.done { Ok(None) } else { OpCode::try_from(header.op).map(Some) }
    }
}

/// Reads elements until the header that ends them.
fn read_all<T>(
    reader: &mut Reader,
    mut element: impl FnMut(OpCode, &mut Reader) -> Result<T, DecodeError>,
) -> Result<Vec<T>, DecodeError> {
    let mut elements = Vec::new();
    while let Some(op) = MultiHeader::read(reader)? {
        elements.push(element(op, reader)?);
    }
    Ok(elements)
}

impl MultiOp {
    pub(super) fn read_all(reader: &mut Reader) -> Result<Vec<Self>, DecodeError> {
        read_all(reader, Self::read)
    }

    fn read(op: OpCode, reader: &mut Reader) -> Result<Self, DecodeError> {
        Ok(match op {
            OpCode::Create | OpCode::Create2 | OpCode::CreateContainer => {
                let create = Create::read(reader)?;
                if create.mode().is_some_and(CreateMode::is_ttl) {
                    // ZooKeeper takes the flags' word for the kind and then misses the time.
                    return Err(DecodeError::Misplaced(OpCode::CreateTtl));
                }
                Self::of_create(create)
            }
            OpCode::CreateTtl => {
                let create = Create::read(reader)?;
                let ttl = reader.i64()?;
                if create.mode().is_some_and(CreateMode::is_ttl) {
                    Self::CreateTtl { create, ttl }
                } else {
                    Self::of_create(create)
                }
            }
            OpCode::Delete => Self::Delete { path: path(reader)?, version: reader.i32()? },
            OpCode::SetData => {
                Self::SetData { path: path(reader)?, data: reader.buffer()?, version: reader.i32()? }
            }
            OpCode::Check => Self::Check { path: path(reader)?, version: reader.i32()? },
            other => return Err(DecodeError::Misplaced(other)),
        })
    }

    fn of_create(create: Create) -> Self {
        if create.mode().is_some_and(CreateMode::is_container) {
            Self::CreateContainer(create)
        } else {
            Self::Create(create)
        }
    }

    pub(super) fn write_all(ops: &[Self], writer: &mut Writer<'_>) {
        for op in ops {
            MultiHeader::of_op(op.op()).write(writer);
            op.write(writer);
        }
        MultiHeader::END.write(writer);
    }

    fn write(&self, writer: &mut Writer<'_>) {
        match self {
            Self::Create(create) | Self::CreateContainer(create) => create.write(writer),
            Self::CreateTtl { create, ttl } => {
                create.write(writer);
                writer.i64(*ttl);
            }
            Self::SetData { path, data, version } => {
                writer.string(path);
                writer.buffer(data.as_deref());
                writer.i32(*version);
            }
            Self::Delete { path, version } | Self::Check { path, version } => {
                writer.string(path);
                writer.i32(*version);
            }
        }
    }
}

impl MultiReadOp {
    pub(super) fn read_all(reader: &mut Reader) -> Result<Vec<Self>, DecodeError> {
        read_all(reader, |op, reader| {
            let op = match op {
                OpCode::GetData => Self::GetData { path: path(reader)? },
                OpCode::GetChildren => Self::GetChildren { path: path(reader)? },
                other => return Err(DecodeError::Misplaced(other)),
            };
            reader.bool()?;
            Ok(op)
        })
    }

    pub(super) fn write_all(ops: &[Self], writer: &mut Writer<'_>) {
        for op in ops {
            let (op, path) = match op {
                Self::GetData { path } => (OpCode::GetData, path),
                Self::GetChildren { path } => (OpCode::GetChildren, path),
            };
            MultiHeader::of_op(op).write(writer);
            writer.string(path);
            writer.bool(false);
        }
        MultiHeader::END.write(writer);
    }
}

impl MultiResult {
    pub(super) fn read_all(reader: &mut Reader) -> Result<Vec<Self>, DecodeError> {
        read_all(reader, |op, reader| {
            Ok(match op {
                OpCode::Create => Self::Create { path: path(reader)? },
                OpCode::Create2 => Self::Create2 { path: path(reader)?, stat: Stat::read(reader)? },
                OpCode::Delete => Self::Delete,
                OpCode::SetData => Self::SetData(Stat::read(reader)?),
                OpCode::Check => Self::Check,
                OpCode::GetData => {
                    let (data, stat) = read_data(reader)?;
                    Self::GetData { data, stat }
                }
                OpCode::GetChildren => Self::GetChildren(reader.strings("child")?),
                OpCode::Error => Self::Error(reader.i32()?),
                other => return Err(DecodeError::Misplaced(other)),
            })
        })
    }

    pub(super) fn write_all(results: &[Self], writer: &mut Writer<'_>) {
        for result in results {
            result.write(writer);
        }
        MultiHeader::END.write(writer);
    }

    fn write(&self, writer: &mut Writer<'_>) {
        let (op, err) = match self {
            Self::Create { .. } => (OpCode::Create, 0),
            Self::Create2 { .. } => (OpCode::Create2, 0),
            Self::Delete => (OpCode::Delete, 0),
            Self::SetData(_) => (OpCode::SetData, 0),
            Self::Check => (OpCode::Check, 0),
            Self::GetData { .. } => (OpCode::GetData, 0),
            Self::GetChildren(_) => (OpCode::GetChildren, 0),
            Self::Error(err) => (OpCode::Error, *err),
        };
        MultiHeader::of_result(op, err).write(writer);
        match self {
            Self::Create { path } => writer.string(path),
            Self::Create2 { path, stat } => {
                writer.string(path);
                stat.write(writer);
            }
            Self::SetData(stat) => stat.write(writer),
            Self::GetData { data, stat } => write_data(data.as_deref(), stat, writer),
            Self::GetChildren(children) => writer.strings(children),
            Self::Error(err) => writer.i32(*err),
            Self::Delete | Self::Check => {}
        }
    }
}
