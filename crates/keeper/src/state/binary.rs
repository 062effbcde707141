//! The primitives of our own formats: numbers of variable length (7 bits to a byte, the lowest first; signed ones
//! zigzag), and strings and bytes behind their length. No length is trusted: memory grows with what has been read.

use std::io::{self, Read, Write};

use super::AclList;
use crate::wire::{Acl, Perms};

/// Why something could not be read.
#[derive(Debug)]
pub(super) enum ReadError {
    Io(io::Error),
    Corrupt(&'static str),
}

impl From<io::Error> for ReadError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => Self::Corrupt("it ends early"),
            _ => Self::Io(error),
        }
    }
}

/// Where the format is written to.
pub(super) struct Writer<W>(pub(super) W);

impl<W: Write> Writer<W> {
    pub(super) fn raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all(bytes)
    }

    pub(super) fn unsigned(&mut self, mut number: u64) -> io::Result<()> {
        let mut buffer = [0; 10];
        let mut len = 0;
        loop {
            let low = (number & 0x7f) as u8;
            number >>= 7;
            buffer[len] = if number == 0 { low } else { low | 0x80 };
            len += 1;
            if number == 0 {
                return self.0.write_all(&buffer[..len]);
            }
        }
    }

    pub(super) fn signed(&mut self, number: i64) -> io::Result<()> {
        self.unsigned((number << 1 ^ number >> 63).cast_unsigned())
    }

    pub(super) fn count(&mut self, count: usize) -> io::Result<()> {
        self.unsigned(count as u64)
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.count(bytes.len())?;
        self.0.write_all(bytes)
    }

    pub(super) fn string(&mut self, string: &str) -> io::Result<()> {
        self.bytes(string.as_bytes())
    }

    /// Null is 0, else the length and one more.
    pub(super) fn nullable(&mut self, bytes: Option<&[u8]>) -> io::Result<()> {
        let Some(bytes) = bytes else { return self.unsigned(0) };
        self.count(bytes.len() + 1)?;
        self.0.write_all(bytes)
    }

    pub(super) fn acl(&mut self, acl: &[Acl]) -> io::Result<()> {
        self.count(acl.len())?;
        for entry in acl {
            self.signed(entry.perms.0.into())?;
            self.string(&entry.scheme)?;
            self.string(&entry.id)?;
        }
        Ok(())
    }
}

/// Where the format is read from.
pub(super) struct Reader<R>(pub(super) R);

impl<R: Read> Reader<R> {
    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], ReadError> {
        let mut bytes = [0; N];
        self.0.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    pub(super) fn byte(&mut self) -> Result<u8, ReadError> {
        let [byte] = self.array()?;
        Ok(byte)
    }

    pub(super) fn unsigned(&mut self) -> Result<u64, ReadError> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let low = u64::from(byte & 0x7f);
            if low << shift >> shift != low {
                break;
            }
            number |= low << shift;
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(ReadError::Corrupt("a number is too large"))
    }

    pub(super) fn signed(&mut self) -> Result<i64, ReadError> {
        let number = self.unsigned()?;
        Ok((number >> 1).cast_signed() ^ -(number & 1).cast_signed())
    }

    pub(super) fn int(&mut self) -> Result<i32, ReadError> {
        i32::try_from(self.signed()?).map_err(|_| ReadError::Corrupt("a number is too large"))
    }

    pub(super) fn bytes(&mut self) -> Result<Vec<u8>, ReadError> {
        let len = self.unsigned()?;
        self.exactly(len)
    }

    pub(super) fn string(&mut self) -> Result<String, ReadError> {
        String::from_utf8(self.bytes()?).map_err(|_| ReadError::Corrupt("a string is not UTF-8"))
    }

    pub(super) fn nullable(&mut self) -> Result<Option<Vec<u8>>, ReadError> {
        match self.unsigned()? {
            0 => Ok(None),
            len => self.exactly(len - 1).map(Some),
        }
    }

    pub(super) fn acl(&mut self) -> Result<AclList, ReadError> {
        let mut acl = Vec::new();
        for _ in 0..self.unsigned()? {
            let perms = Perms(self.int()?);
            acl.push(Acl { perms, scheme: self.string()?, id: self.string()? });
        }
        Ok(AclList::from(acl))
    }

    fn exactly(&mut self, len: u64) -> Result<Vec<u8>, ReadError> {
        // The first allocation trusts the length that far.
        const TRUSTED: u64 = 4096;
        let mut bytes = Vec::with_capacity(usize::try_from(len.min(TRUSTED)).unwrap_or(0));
        let read = self.0.by_ref().take(len).read_to_end(&mut bytes)?;
        if read as u64 == len { Ok(bytes) } else { Err(ReadError::Corrupt("it ends early")) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn numbers_survive(signed in any::<i64>(), unsigned in any::<u64>(), shift in 0_u32..64) {
            let (signed, unsigned) = (signed >> shift, unsigned >> shift);
            let mut writer = Writer(Vec::new());
            writer.signed(signed).unwrap();
            writer.unsigned(unsigned).unwrap();
            let mut reader = Reader(&writer.0[..]);
            prop_assert_eq!(reader.signed().unwrap(), signed);
            prop_assert_eq!(reader.unsigned().unwrap(), unsigned);
            prop_assert!(reader.0.is_empty());
        }

        #[test]
        fn whatever_is_read_no_length_is_believed(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            let _ = Reader(&bytes[..]).bytes();
            let _ = Reader(&bytes[..]).acl();
        }
    }

    #[test]
    fn a_length_beyond_the_end_is_an_error() {
        let mut writer = Writer(Vec::new());
        writer.unsigned(u64::MAX).unwrap();
        assert!(matches!(Reader(&writer.0[..]).bytes(), Err(ReadError::Corrupt("it ends early"))));
        assert!(matches!(
            Reader(&[0xff; 11][..]).unsigned(),
            Err(ReadError::Corrupt("a number is too large"))
        ));
    }
}
