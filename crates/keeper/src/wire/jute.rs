//! Jute's primitives: big-endian numbers, and strings, buffers and vectors behind a 32-bit length
//! that is -1 for null.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::DecodeError;

/// Reads from the front of a frame. Buffers share its memory.
#[derive(Debug)]
pub(super) struct Reader {
    input: Bytes,
}

impl Reader {
    pub(super) fn new(input: &Bytes) -> Self {
        Self { input: input.clone() }
    }

    /// What has not been read.
    pub(super) fn rest(self) -> Bytes {
        self.input
    }

    pub(super) fn is_empty(&self) -> bool {
        self.input.is_empty()
    }

    fn want(&self, wanted: usize) -> Result<(), DecodeError> {
        let left = self.input.len();
        if wanted > left { Err(DecodeError::TooShort { wanted, left }) } else { Ok(()) }
    }

    pub(super) fn bool(&mut self) -> Result<bool, DecodeError> {
        self.want(1)?;
        Ok(self.input.get_u8() != 0)
    }

    pub(super) fn i32(&mut self) -> Result<i32, DecodeError> {
        self.want(4)?;
        Ok(self.input.get_i32())
    }

    pub(super) fn i64(&mut self) -> Result<i64, DecodeError> {
        self.want(8)?;
        Ok(self.input.get_i64())
    }

    /// A buffer, or null.
    pub(super) fn buffer(&mut self) -> Result<Option<Bytes>, DecodeError> {
        match self.i32()? {
            -1 => Ok(None),
            length => {
                let length = usize::try_from(length).map_err(|_| DecodeError::NegativeLength(length))?;
                self.want(length)?;
                Ok(Some(self.input.split_to(length)))
            }
        }
    }

    /// A string, or null.
    pub(super) fn string(&mut self) -> Result<Option<String>, DecodeError> {
        let length = self.i32()?;
        if length == -1 {
            return Ok(None);
        }
        let length = usize::try_from(length).map_err(|_| DecodeError::NegativeLength(length))?;
        self.want(length)?;
        let string = java_string(&self.input[..length]);
        self.input.advance(length);
        Ok(Some(string))
    }

    /// A string that may not be null.
    pub(super) fn required(&mut self, what: &'static str) -> Result<String, DecodeError> {
        self.string()?.ok_or(DecodeError::Null(what))
    }

    /// A string, empty for null.
    pub(super) fn lenient(&mut self) -> Result<String, DecodeError> {
        Ok(self.string()?.unwrap_or_default())
    }

    /// A vector whose elements take at least `element_bytes_min`, or null. Any negative length but -1 is an
    /// empty vector, as in ZooKeeper.
    pub(super) fn vector<T>(
        &mut self,
        element_bytes_min: usize,
        mut element: impl FnMut(&mut Self) -> Result<T, DecodeError>,
    ) -> Result<Option<Vec<T>>, DecodeError> {
        let length = self.i32()?;
        if length == -1 {
            return Ok(None);
        }
        let length = usize::try_from(length).unwrap_or(0);
        // Also keeps a length that the input cannot hold from reserving memory.
        self.want(length.saturating_mul(element_bytes_min))?;
        let mut elements = Vec::with_capacity(length);
        for _ in 0..length {
            elements.push(element(self)?);
        }
        Ok(Some(elements))
    }

    /// A vector of strings. None of these may be null.
    pub(super) fn strings(&mut self, what: &'static str) -> Result<Vec<String>, DecodeError> {
        self.vector(4, |reader| reader.required(what))?.ok_or(DecodeError::Null(what))
    }
}

/// Bytes as Java's `new String(bytes, UTF_8)` takes them: what is not UTF-8 becomes U+FFFD, as
/// with [`String::from_utf8_lossy`], except that the three bytes of an encoded surrogate become one and not three.
fn java_string(mut bytes: &[u8]) -> String {
    let mut string = String::new();
    loop {
        let error = match std::str::from_utf8(bytes) {
            Ok(valid) if string.is_empty() => return valid.to_owned(),
            Ok(valid) => {
                string.push_str(valid);
                return string;
            }
            Err(error) => error,
        };
        let (valid, invalid) = bytes.split_at(error.valid_up_to());
        string.push_str(&String::from_utf8_lossy(valid));
        string.push(char::REPLACEMENT_CHARACTER);
        let skipped = match invalid {
            [0xED, 0xA0..=0xBF, 0x80..=0xBF, ..] => 3,
            [0xED, 0xA0..=0xBF, ..] => 2,
            _ => error.error_len().unwrap_or(invalid.len()),
        };
        bytes = &invalid[skipped..];
    }
}

/// How characters beyond U+FFFF are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Strings {
    /// As ZooKeeper and its Java client write them: each of the two surrogates in three bytes, which is not UTF-8.
    Java,
    /// As the clients in C and Python write them: in UTF-8.
    Utf8,
}

/// Writes to the end of a buffer.
#[derive(Debug)]
pub(super) struct Writer<'a> {
    out: &'a mut BytesMut,
    strings: Strings,
}

impl<'a> Writer<'a> {
    pub(super) fn new(out: &'a mut BytesMut, strings: Strings) -> Self {
        Self { out, strings }
    }

    pub(super) fn bool(&mut self, value: bool) {
        self.out.put_u8(u8::from(value));
    }

    pub(super) fn i32(&mut self, value: i32) {
        self.out.put_i32(value);
    }

    pub(super) fn i64(&mut self, value: i64) {
        self.out.put_i64(value);
    }

    pub(super) fn raw(&mut self, bytes: &[u8]) {
        self.out.put_slice(bytes);
    }

    fn length(&mut self, length: usize) {
        // Longer than a frame can be, and so never sent.
        self.out.put_i32(i32::try_from(length).unwrap_or(i32::MAX));
    }

    pub(super) fn buffer(&mut self, bytes: Option<&[u8]>) {
        match bytes {
            None => self.i32(-1),
            Some(bytes) => {
                self.length(bytes.len());
                self.raw(bytes);
            }
        }
    }

    pub(super) fn string(&mut self, string: &str) {
        // In UTF-8, only characters beyond U+FFFF have a byte from 0xF0 up.
        if self.strings == Strings::Java && string.bytes().any(|byte| byte >= 0xF0) {
            self.string_with_surrogates(string);
        } else {
            self.buffer(Some(string.as_bytes()));
        }
    }

    #[cold]
    fn string_with_surrogates(&mut self, string: &str) {
        let mut bytes = Vec::with_capacity(string.len() * 3 / 2);
        for character in string.chars() {
            let mut units = [0; 2];
            match character.encode_utf16(&mut units) {
                [_] => bytes.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes()),
                surrogates => {
                    for &mut unit in surrogates {
                        let [high, low] = unit.to_be_bytes();
                        bytes.push(0xE0 | high >> 4);
                        bytes.push(0x80 | (high & 0x0F) << 2 | low >> 6);
                        bytes.push(0x80 | low & 0x3F);
                    }
                }
            }
        }
        self.buffer(Some(&bytes));
    }

    pub(super) fn optional(&mut self, string: Option<&str>) {
        match string {
            None => self.i32(-1),
            Some(string) => self.string(string),
        }
    }

    pub(super) fn vector<T>(&mut self, elements: &[T], mut element: impl FnMut(&mut Self, &T)) {
        self.length(elements.len());
        for each in elements {
            element(self, each);
        }
    }

    pub(super) fn strings(&mut self, strings: &[String]) {
        self.vector(strings, |writer, string| writer.string(string));
    }
}

#[cfg(test)]
mod tests {
    use bytes::{Bytes, BytesMut};

    use super::{Reader, Strings, Writer, java_string};
    use crate::wire::DecodeError;

    /// The right-hand sides are what `new String(bytes, UTF_8)` of OpenJDK 17 gives.
    #[test]
    fn bytes_that_are_no_utf_8_are_read_as_java_reads_them() {
        for (bytes, string) in [
            (&b"a\xC3\xA9"[..], "a\u{E9}"),
            (b"a\xFFb", "a\u{FFFD}b"),
            (b"\xED\xA0\xBD\xED\xB8\x80", "\u{FFFD}\u{FFFD}"),
            (b"\xED\xA0x", "\u{FFFD}x"),
            (b"\xED\xA0", "\u{FFFD}"),
            (b"\xE2\x82", "\u{FFFD}"),
            (b"\xE2\x82x", "\u{FFFD}x"),
            (b"\xE0\x80\x80", "\u{FFFD}\u{FFFD}\u{FFFD}"),
            (b"\xF0\x9F\x98x", "\u{FFFD}x"),
            (b"\xF0\x9F\x98\x80", "\u{1F600}"),
            (b"\xF5\x80\x80\x80", "\u{FFFD}\u{FFFD}\u{FFFD}\u{FFFD}"),
            (b"\xC0\x80", "\u{FFFD}\u{FFFD}"),
        ] {
            assert_eq!(java_string(bytes), string, "{bytes:x?}");
        }
    }

    #[test]
    fn the_server_writes_surrogates_and_the_client_utf_8() {
        let written = |strings| {
            let mut out = BytesMut::new();
            Writer::new(&mut out, strings).string("\u{E9}\u{1F600}");
            out
        };
        assert_eq!(written(Strings::Java)[..], b"\0\0\0\x08\xC3\xA9\xED\xA0\xBD\xED\xB8\x80"[..]);
        assert_eq!(written(Strings::Utf8)[..], b"\0\0\0\x06\xC3\xA9\xF0\x9F\x98\x80"[..]);
    }

    #[test]
    fn lengths_are_as_in_zookeeper() {
        let reader = |bytes: &'static [u8]| Reader::new(&Bytes::from_static(bytes));
        assert_eq!(reader(b"\xFF\xFF\xFF\xFF").buffer(), Ok(None));
        assert_eq!(reader(b"\xFF\xFF\xFF\xFE").buffer(), Err(DecodeError::NegativeLength(-2)));
        assert_eq!(reader(b"\xFF\xFF\xFF\xFE").string(), Err(DecodeError::NegativeLength(-2)));
        assert_eq!(reader(b"\xFF\xFF\xFF\xFE").vector(4, Reader::i32), Ok(Some(vec![])));
        assert_eq!(reader(b"\xFF\xFF\xFF\xFF").vector(4, Reader::i32), Ok(None));
        // A length of two billion elements is refused before anything is reserved for them.
        let huge = reader(b"\x7F\xFF\xFF\xFF\0\0\0\0").vector(4, Reader::i32);
        assert_eq!(huge, Err(DecodeError::TooShort { wanted: 0x7FFF_FFFF * 4, left: 4 }));
    }
}
