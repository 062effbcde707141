//! MessagePack with named fields: a newer peer may add a field and an older one still reads the rest.

use std::io;
use std::pin::Pin;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// The codec of every frame.
#[derive(Clone, Copy, Debug, Default)]
pub struct MessagePack;

impl<T: Serialize> tokio_serde::Serializer<T> for MessagePack {
    type Error = io::Error;

    fn serialize(self: Pin<&mut Self>, item: &T) -> io::Result<Bytes> {
        encode(item)
    }
}

impl<T: DeserializeOwned> tokio_serde::Deserializer<T> for MessagePack {
    type Error = io::Error;

    fn deserialize(self: Pin<&mut Self>, src: &BytesMut) -> io::Result<T> {
        check_deadline(src)?;
        decode(src)
    }
}

/// The longest deadline that a request may carry.
const DEADLINE_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// Refuses a request whose deadline lies absurdly far away. tarpc adds it to the present `Instant` while it decodes,
/// which panics on overflow: without this check one frame from anybody would end the daemon.
fn check_deadline(frame: &[u8]) -> io::Result<()> {
    #[derive(Deserialize)]
    struct Frame {
        #[serde(rename = "Request")]
        request: Option<Request>,
    }
    #[derive(Deserialize)]
    struct Request {
        context: Context,
    }
    #[derive(Deserialize)]
    struct Context {
        deadline: Option<Deadline>,
    }
    /// Like serde's `Duration`, but it never adds: seconds and nanoseconds are only looked at.
    #[derive(Deserialize)]
    struct Deadline {
        secs: u64,
        nanos: u64,
    }
    // What is no request, or no request of this shape, is for the real decoder to judge; one whose deadline is of
    // another shape than tarpc writes is refused, because the real decoder might accept that shape.
    let request = match rmp_serde::from_slice::<Frame>(frame) {
        Ok(Frame { request: Some(request) }) => request,
        Ok(Frame { request: None }) => return Ok(()),
        Err(error) => return Err(io::Error::new(io::ErrorKind::InvalidData, error)),
    };
    match request.context.deadline {
        Some(Deadline { secs, nanos }) if secs > DEADLINE_MAX.as_secs() || nanos >= 1_000_000_000 => {
            Err(io::Error::new(io::ErrorKind::InvalidData, "the request's deadline is over a day away"))
        }
        _ => Ok(()),
    }
}

/// One frame's bytes.
pub(super) fn encode<T: Serialize>(item: &T) -> io::Result<Bytes> {
    rmp_serde::to_vec_named(item)
        .map(Bytes::from)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))
}

/// What one frame says.
pub(super) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> io::Result<T> {
    rmp_serde::from_slice(bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

#[cfg(test)]
mod tests {
    use proto::api::{ListFilter, Submission};
    use proto::task::{TaskSpec, TaskState};
    use proto::{AttemptId, TaskId};

    use super::*;

    #[test]
    fn a_field_from_the_future_is_ignored_and_a_missing_one_defaults() {
        #[derive(Serialize)]
        struct Newer {
            colour: &'static str,
            state: Option<TaskState>,
        }
        let bytes = encode(&Newer { colour: "blue", state: Some(TaskState::TimedOut) }).unwrap();
        let filter: ListFilter = decode(&bytes).unwrap();
        assert_eq!(filter, ListFilter { state: Some(TaskState::TimedOut), ..ListFilter::default() });
    }

    #[test]
    fn fields_are_named_and_bytes_stay_bytes() {
        let spec = TaskSpec::new("noop", vec![0xff; 1000]);
        let submission = Submission { id: TaskId::from_u128(7), spec };
        let bytes = encode(&submission).unwrap();
        assert!(bytes.windows(7).any(|window| window == b"payload"), "the field's name is on the wire");
        assert!(bytes.len() < 1_300, "{} bytes for a payload of 1000", bytes.len());
        assert_eq!(decode::<Submission>(&bytes).unwrap(), submission);
    }

    #[test]
    fn wide_integers_survive() {
        #[derive(Debug, PartialEq, Serialize, Deserialize)]
        struct Wide(u128, AttemptId);
        let wide = Wide(u128::MAX, AttemptId { task: TaskId::from_u128(u128::MAX), number: 1 });
        assert_eq!(decode::<Wide>(&encode(&wide).unwrap()).unwrap(), wide);
    }

    #[test]
    fn a_deadline_that_would_overflow_the_clock_is_refused() {
        let frame = |secs: u64, nanos: u32| {
            encode(&serde_json::json!({
                "Request": { "context": { "deadline": { "secs": secs, "nanos": nanos } }, "id": 1, "message": null }
            }))
            .unwrap()
        };
        assert!(check_deadline(&frame(10, 5)).is_ok());
        assert!(check_deadline(&frame(u64::MAX, 999_999_999)).is_err());
        assert!(check_deadline(&frame(u64::MAX / 2, 0)).is_err());
        let positional = encode(&serde_json::json!({
            "Request": { "context": { "deadline": [u64::MAX, 0] }, "id": 1, "message": null }
        }))
        .unwrap();
        assert!(check_deadline(&positional).is_err(), "the positional form of a duration is no way around");
        let response = encode(&serde_json::json!({ "request_id": 1, "message": { "Ok": null } })).unwrap();
        assert!(check_deadline(&response).is_ok(), "responses carry no deadline");
    }

    #[test]
    fn garbage_is_an_error() {
        for garbage in [&b""[..], b"GET / HTTP/1.1\r\n", b"\xdf\xff\xff\xff\xff", b"\xc1"] {
            assert!(decode::<Submission>(garbage).is_err(), "{garbage:?}");
        }
    }
}
