//! Decodes an input as everything that it could be.

use bytes::{Bytes, BytesMut};
use keeper::wire::{
    ConnectRequest, ConnectResponse, DecodeError, OpCode, Reply, ReplyHeader, Request, RequestHeader,
    WatchedEvent, event_frame, reply_frame, take_frame,
};

use crate::entropy::Entropy;
use crate::hunt::Traces;
use crate::requests;

/// The first byte says as what: beyond the op codes, as a request that is well-formed or nearly so.
pub(crate) fn check(input: &[u8], traces: &mut Traces) {
    let mut entropy = Entropy::new(input);
    let kind = usize::from(entropy.byte());
    let Some(&op) = OpCode::ALL.get(kind) else {
        let (op, body) = requests::body(&mut entropy, kind % 8 != 0);
        if let Ok(op) = OpCode::try_from(op) {
            request(op, &body, traces);
        }
        return;
    };
    let body = Bytes::copy_from_slice(entropy.rest());
    request(op, &body, traces);
    reply(op, &body, traces);
    event(&body);
    connecting(&body);
    frames(&body);
    if let Ok((header, rest)) = RequestHeader::split(&body) {
        assert_eq!((&header.op.to_be_bytes()[..], &rest[..]), (&body[4..8], &body[8..]));
    }
    assert_eq!(ReplyHeader::split(&body).is_ok(), body.len() >= 16);
}

/// What was understood is written so that it is understood the same, and no longer than it was but for
/// what stands for bytes that were no UTF-8.
fn request(op: OpCode, body: &Bytes, traces: &mut Traces) {
    let decoded = Request::decode(op, body);
    traces.leave((op, body.len().min(40), outcome(&decoded)));
    let Ok(request) = decoded else { return };
    assert_eq!(request.op(), op);
    let mut written = BytesMut::new();
    request.encode(&mut written);
    assert!(written.len() <= 3 * body.len() + 16, "{} bytes became {}", body.len(), written.len());
    assert_eq!(Request::decode(op, &written.freeze()), Ok(request));
}

/// As for requests. A character that Java writes as two is read as two that are unreadable, so it is the second
/// reading that lasts.
fn reply(op: OpCode, body: &Bytes, traces: &mut Traces) {
    let header = ReplyHeader { xid: 1, zxid: 2, err: 0 };
    let again = |reply: &Reply| {
        let (read, body) = ReplyHeader::split(&reply_frame(header, reply).slice(4..)).expect("a header");
        assert_eq!(read, header);
        Reply::decode(op, &body).expect("what was written")
    };
    let decoded = Reply::decode(op, body);
    traces.leave(("reply", op, body.len().min(40), outcome(&decoded)));
    let Ok(reply) = decoded else { return };
    let reply = again(&reply);
    assert_eq!(again(&reply), reply);
}

/// How well it went, without the numbers.
fn outcome<T>(decoded: &Result<T, DecodeError>) -> u8 {
    match decoded {
        Ok(_) => 0,
        Err(DecodeError::TooShort { .. }) => 1,
        Err(DecodeError::NegativeLength(_)) => 2,
        Err(DecodeError::Null(_)) => 3,
        Err(DecodeError::UnknownNumber { .. }) => 4,
        Err(DecodeError::Misplaced(_)) => 5,
    }
}

fn event(body: &Bytes) {
    let again = |event: &WatchedEvent| {
        WatchedEvent::decode(&event_frame(event).slice(20..)).expect("what was written")
    };
    let Ok(event) = WatchedEvent::decode(body) else { return };
    let event = again(&event);
    assert_eq!(again(&event), event);
}

fn connecting(body: &Bytes) {
    let mut written = BytesMut::new();
    if let Ok(request) = ConnectRequest::decode(body) {
        request.encode(&mut written);
        assert_eq!(ConnectRequest::decode(&written.split().freeze()), Ok(request));
    }
    if let Ok(response) = ConnectResponse::decode(body) {
        response.encode(&mut written);
        assert_eq!(ConnectResponse::decode(&written.freeze()), Ok(response));
    }
}

/// However the bytes arrive, the frames are the same, and nothing is reserved for a frame that may not be.
fn frames(stream: &Bytes) {
    const BYTES_MAX: usize = 64;
    let take = |step: usize| {
        let mut received = BytesMut::new();
        let mut frames = Vec::new();
        for bytes in stream.chunks(step) {
            received.extend_from_slice(bytes);
            loop {
                match take_frame(&mut received, BYTES_MAX) {
                    Ok(Some(frame)) => frames.push(frame),
                    Ok(None) => break,
                    Err(error) => return (frames, Some(error)),
                }
            }
        }
        (frames, None)
    };
    let (frames, error) = take(stream.len().max(1));
    assert!(frames.iter().all(|frame| frame.len() <= BYTES_MAX));
    assert_eq!(take(3), (frames, error));
}
