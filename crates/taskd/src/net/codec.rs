//! MessagePack with named fields: a newer peer may add a field and an older one still reads the rest.

use std::io;
use std::pin::Pin;

use bytes::{Bytes, BytesMut};
use serde::Serialize;
use serde::de::DeserializeOwned;

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
        decode(src)
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
    use serde::{Deserialize, Serialize};

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
        assert_eq!(filter, ListFilter { state: Some(TaskState::TimedOut), limit: None });
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
    fn garbage_is_an_error() {
        for garbage in [&b""[..], b"GET / HTTP/1.1\r\n", b"\xdf\xff\xff\xff\xff", b"\xc1"] {
            assert!(decode::<Submission>(garbage).is_err(), "{garbage:?}");
        }
    }
}
