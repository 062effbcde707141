//! Why bytes could not be read.

/// Why bytes are not what they should be. ZooKeeper answers
/// [`MarshallingError`](super::Code::MarshallingError), or closes the connection: see the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The input ends inside of a field.
    #[error("the input ends early: {wanted} bytes more were wanted, {left} are left")]
    TooShort {
        /// Bytes that the field needs.
        wanted: usize,
        /// Bytes that are there.
        left: usize,
    },
    /// A length below -1.
    #[error("a length of {0}")]
    NegativeLength(i32),
    /// A string that may not be null is.
    #[error("{0} is null")]
    Null(&'static str),
    /// A number that has no meaning where it stands.
    #[error("no {what} has the number {number}")]
    UnknownNumber {
        /// What it should be.
        what: &'static str,
        /// What it is.
        number: i32,
    },
    /// An op that cannot stand where it does: a read in a multi, a write in a multi-read, a create with a
    /// time to live whose header is that of another, or an op that no client sends.
    #[error("{0:?} cannot be sent here")]
    Misplaced(super::OpCode),
}
