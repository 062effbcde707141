//! Just enough of ZooKeeper's serialization to speak to a server, written apart from the keeper's codec on purpose: a judge that shared the codec
//! with the judged would not see its mistakes.
//!
//! Integers are big-endian; a buffer, a string and a vector start with a length of four bytes, -1 for null.

/// Appends values to a request.
#[derive(Debug, Default)]
pub(super) struct Writer(pub(super) Vec<u8>);

impl Writer {
    pub(super) fn int(&mut self, value: i32) -> &mut Self {
        self.0.extend_from_slice(&value.to_be_bytes());
        self
    }

    pub(super) fn long(&mut self, value: i64) -> &mut Self {
        self.0.extend_from_slice(&value.to_be_bytes());
        self
    }

    pub(super) fn boolean(&mut self, value: bool) -> &mut Self {
        self.0.push(value.into());
        self
    }

    /// A buffer, or null.
    pub(super) fn buffer(&mut self, value: Option<&[u8]>) -> &mut Self {
        match value {
            None => self.int(-1),
            Some(bytes) => {
                self.length(bytes.len());
                self.0.extend_from_slice(bytes);
                self
            }
        }
    }

    pub(super) fn string(&mut self, value: &str) -> &mut Self {
        self.buffer(Some(value.as_bytes()))
    }

    pub(super) fn strings(&mut self, values: &[String]) -> &mut Self {
        self.length(values.len());
        for value in values {
            self.string(value);
        }
        self
    }

    pub(super) fn length(&mut self, value: usize) -> &mut Self {
        self.int(i32::try_from(value).unwrap_or(i32::MAX))
    }
}

/// Takes values from an answer; every method is `None` once the bytes do not hold what is asked for.
#[derive(Debug)]
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    pub(super) fn int(&mut self) -> Option<i32> {
        Some(i32::from_be_bytes(self.take(4)?.try_into().ok()?))
    }

    pub(super) fn long(&mut self) -> Option<i64> {
        Some(i64::from_be_bytes(self.take(8)?.try_into().ok()?))
    }

    /// A byte that is neither 0 nor 1 is refused: no server writes one.
    pub(super) fn boolean(&mut self) -> Option<bool> {
        match self.take(1)? {
            [0] => Some(false),
            [1] => Some(true),
            _ => None,
        }
    }

    /// The inner option is `None` for null.
    pub(super) fn buffer(&mut self) -> Option<Option<&'a [u8]>> {
        match self.int()? {
            -1 => Some(None),
            length => Some(Some(self.take(usize::try_from(length).ok()?)?)),
        }
    }

    /// A string that is not null.
    pub(super) fn string(&mut self) -> Option<String> {
        Some(String::from_utf8_lossy(self.buffer()??).into_owned())
    }

    /// A vector that is not null, of whatever `item` takes.
    pub(super) fn vector<T>(&mut self, mut item: impl FnMut(&mut Self) -> Option<T>) -> Option<Vec<T>> {
        let length = self.int()?;
        if length < 0 {
            return None;
        }
        (0..length).map(|_| item(self)).collect()
    }

    /// `value`, if nothing is left.
    pub(super) fn end<T>(&self, value: T) -> Option<T> {
        self.0.is_empty().then_some(value)
    }
}
