//! Frames: four bytes of length, then that many bytes.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::jute::{Strings, Writer};
use super::{
    ConnectRequest, ConnectResponse, Reply, ReplyHeader, Request, RequestHeader, WatchedEvent,
    XID_NOTIFICATION,
};

/// Room for this much is made for a frame that is incomplete, or for as much as is there already.
const READ_BYTES_MIN: usize = 4096;

/// A frame's length is negative or beyond what is allowed. ZooKeeper closes the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a frame of {length} bytes, where at most {bytes_max} are allowed")]
pub struct FrameLengthError {
    /// The length that the frame says it has.
    pub length: i32,
    /// The length that it may have.
    pub bytes_max: usize,
}

/// Takes the next frame off the front of what was received, without its length; `None` as long as it is incomplete.
///
/// Memory for what the frame lacks is reserved as it comes: it costs nothing to announce a long frame and send none of it.
///
/// # Errors
///
/// When the length is negative or more than `bytes_max`.
pub fn take_frame(received: &mut BytesMut, bytes_max: usize) -> Result<Option<Bytes>, FrameLengthError> {
    let Some(prefix) = received.first_chunk::<4>() else {
        return Ok(None);
    };
    let length = i32::from_be_bytes(*prefix);
    let Some(bytes) = usize::try_from(length).ok().filter(|&bytes| bytes <= bytes_max) else {
        return Err(FrameLengthError { length, bytes_max });
    };
    if received.len() < 4 + bytes {
        received.reserve((4 + bytes - received.len()).min(received.len().max(READ_BYTES_MIN)));
        return Ok(None);
    }
    received.advance(4);
    Ok(Some(received.split_to(bytes).freeze()))
}

/// Appends what `body` writes, behind its length.
fn put_frame(out: &mut BytesMut, body: impl FnOnce(&mut BytesMut)) {
    let start = out.len();
    out.put_u32(0);
    body(out);
    let length = u32::try_from(out.len() - start - 4).unwrap_or(u32::MAX);
    out[start..start + 4].copy_from_slice(&length.to_be_bytes());
}

/// A frame of its own, with room for about `bytes`.
fn frame(bytes: usize, body: impl FnOnce(&mut BytesMut)) -> Bytes {
    let mut out = BytesMut::with_capacity(4 + bytes);
    put_frame(&mut out, body);
    out.freeze()
}

/// Appends the frame of a reply. A reply with an error in its header, or to a request such as a ping, is
/// [`Reply::Empty`].
pub fn put_reply(out: &mut BytesMut, header: ReplyHeader, reply: &Reply) {
    put_frame(out, |out| {
        header.write(&mut Writer::new(out, Strings::Java));
        reply.encode(out);
    });
}

/// The frame of a reply, see [`put_reply`].
#[must_use]
pub fn reply_frame(header: ReplyHeader, reply: &Reply) -> Bytes {
    let mut out = BytesMut::with_capacity(20 + reply.length_hint());
    put_reply(&mut out, header, reply);
    out.freeze()
}

/// The frame of a watch event.
#[must_use]
pub fn event_frame(event: &WatchedEvent) -> Bytes {
    frame(28 + event.path.len(), |out| {
        let writer = &mut Writer::new(out, Strings::Java);
        ReplyHeader { xid: XID_NOTIFICATION, zxid: -1, err: 0 }.write(writer);
        event.write(writer);
    })
}

/// The frame that answers a connect request.
#[must_use]
pub fn connect_response_frame(response: &ConnectResponse) -> Bytes {
    frame(37, |out| response.encode(out))
}

/// The frame that begins a connection.
#[must_use]
pub fn connect_request_frame(request: &ConnectRequest) -> Bytes {
    frame(29 + request.password.len(), |out| request.encode(out))
}

/// The frame of a request.
#[must_use]
pub fn request_frame(xid: i32, request: &Request) -> Bytes {
    frame(124, |out| {
        RequestHeader { xid, op: request.op().number() }.write(&mut Writer::new(out, Strings::Utf8));
        request.encode(out);
    })
}
