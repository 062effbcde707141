//! The records of [`records`](super::records) as bytes.

use bytes::{Bytes, BytesMut};

use super::jute::{Reader, Strings, Writer};
use super::{
    Acl, ClientInfo, ConnectRequest, ConnectResponse, DecodeError, EventKind, Perms, ReplyHeader,
    RequestHeader, Stat, WatchedEvent,
};

impl Stat {
    pub(super) fn read(reader: &mut Reader) -> Result<Self, DecodeError> {
        Ok(Self {
            czxid: reader.i64()?,
            mzxid: reader.i64()?,
            ctime: reader.i64()?,
            mtime: reader.i64()?,
            version: reader.i32()?,
            cversion: reader.i32()?,
            aversion: reader.i32()?,
            ephemeral_owner: reader.i64()?,
            data_length: reader.i32()?,
            num_children: reader.i32()?,
            pzxid: reader.i64()?,
        })
    }

    pub(super) fn write(&self, writer: &mut Writer<'_>) {
        writer.i64(self.czxid);
        writer.i64(self.mzxid);
        writer.i64(self.ctime);
        writer.i64(self.mtime);
        writer.i32(self.version);
        writer.i32(self.cversion);
        writer.i32(self.aversion);
        writer.i64(self.ephemeral_owner);
        writer.i32(self.data_length);
        writer.i32(self.num_children);
        writer.i64(self.pzxid);
    }
}

impl Acl {
    /// A list of entries; null is an empty one.
    pub(super) fn read_list(reader: &mut Reader) -> Result<Vec<Self>, DecodeError> {
        let entry = |reader: &mut Reader| {
            let perms = Perms(reader.i32()?);
            let scheme = reader.lenient()?;
            let id = match reader.string()? {
                Some(id) => id,
                // All that is wanted of `auth` is its scheme, and no scheme is refused before the id is looked at.
                None if matches!(scheme.as_str(), "auth" | "") => String::new(),
                None => return Err(DecodeError::Null("id")),
            };
            Ok(Self { perms, scheme, id })
        };
        Ok(reader.vector(12, entry)?.unwrap_or_default())
    }

    pub(super) fn write_list(list: &[Self], writer: &mut Writer<'_>) {
        writer.vector(list, |writer, entry| {
            writer.i32(entry.perms.0);
            writer.string(&entry.scheme);
            writer.string(&entry.id);
        });
    }
}

impl ClientInfo {
    pub(super) fn read_list(reader: &mut Reader) -> Result<Vec<Self>, DecodeError> {
        let info = |reader: &mut Reader| Ok(Self { scheme: reader.lenient()?, user: reader.lenient()? });
        Ok(reader.vector(8, info)?.unwrap_or_default())
    }

    pub(super) fn write_list(list: &[Self], writer: &mut Writer<'_>) {
        writer.vector(list, |writer, info| {
            writer.string(&info.scheme);
            writer.string(&info.user);
        });
    }
}

impl ConnectRequest {
    /// Reads the first frame from a client.
    ///
    /// # Errors
    ///
    /// When it ends early or a length is negative. ZooKeeper closes the connection then.
    pub fn decode(frame: &Bytes) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(frame);
        Ok(Self {
            protocol_version: reader.i32()?,
            last_zxid_seen: reader.i64()?,
            timeout_ms: reader.i32()?,
            session_id: reader.i64()?,
            password: reader.buffer()?.unwrap_or_default(),
            read_only: if reader.is_empty() { None } else { Some(reader.bool()?) },
        })
    }

    /// Appends it, without the length of the frame.
    pub fn encode(&self, out: &mut BytesMut) {
        let mut writer = Writer::new(out, Strings::Utf8);
        writer.i32(self.protocol_version);
        writer.i64(self.last_zxid_seen);
        writer.i32(self.timeout_ms);
        writer.i64(self.session_id);
        writer.buffer(Some(&self.password));
        if let Some(read_only) = self.read_only {
            writer.bool(read_only);
        }
    }
}

impl ConnectResponse {
    /// Reads the first frame from a server.
    ///
    /// # Errors
    ///
    /// When it ends early, or the password has not 16 bytes.
    pub fn decode(frame: &Bytes) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(frame);
        let protocol_version = reader.i32()?;
        let timeout_ms = reader.i32()?;
        let session_id = reader.i64()?;
        let password = reader.buffer()?.ok_or(DecodeError::Null("password"))?;
        let left = password.len();
        let password = password[..].try_into().map_err(|_| DecodeError::TooShort { wanted: 16, left })?;
        let read_only = if reader.is_empty() { None } else { Some(reader.bool()?) };
        Ok(Self { protocol_version, timeout_ms, session_id, password, read_only })
    }

    /// Appends it, without the length of the frame.
    pub fn encode(&self, out: &mut BytesMut) {
        let mut writer = Writer::new(out, Strings::Java);
        writer.i32(self.protocol_version);
        writer.i32(self.timeout_ms);
        writer.i64(self.session_id);
        writer.buffer(Some(&self.password));
        if let Some(read_only) = self.read_only {
            writer.bool(read_only);
        }
    }
}

impl RequestHeader {
    /// Takes a frame apart into the header and the body of the request.
    ///
    /// # Errors
    ///
    /// When the frame is shorter than a header. ZooKeeper closes the connection then.
    pub fn split(frame: &Bytes) -> Result<(Self, Bytes), DecodeError> {
        let mut reader = Reader::new(frame);
        let header = Self { xid: reader.i32()?, op: reader.i32()? };
        Ok((header, reader.rest()))
    }

    pub(super) fn write(self, writer: &mut Writer<'_>) {
        writer.i32(self.xid);
        writer.i32(self.op);
    }
}

impl ReplyHeader {
    /// Takes a frame apart into the header and the body of the reply or event.
    ///
    /// # Errors
    ///
    /// When the frame is shorter than a header.
    pub fn split(frame: &Bytes) -> Result<(Self, Bytes), DecodeError> {
        let mut reader = Reader::new(frame);
        let header = Self { xid: reader.i32()?, zxid: reader.i64()?, err: reader.i32()? };
        Ok((header, reader.rest()))
    }

    pub(super) fn write(self, writer: &mut Writer<'_>) {
        writer.i32(self.xid);
        writer.i64(self.zxid);
        writer.i32(self.err);
    }
}

impl WatchedEvent {
    /// Reads what follows a header with the xid of a notification.
    ///
    /// # Errors
    ///
    /// When it ends early, the path is null, or the kind is unknown.
    pub fn decode(body: &Bytes) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(body);
        Ok(Self {
            kind: EventKind::try_from(reader.i32()?)?,
            state: reader.i32()?,
            path: reader.required("path")?,
        })
    }

    pub(super) fn write(&self, writer: &mut Writer<'_>) {
        writer.i32(self.kind.number());
        writer.i32(self.state);
        writer.string(&self.path);
    }
}
