//! What a leader carries through every effect of its term.

use proto::FencingToken;

use crate::{LeaseFlag, Op};

/// Makes a write fail once another node has been elected: it belongs into every `multi` of a term.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fence {
    /// The epoch node.
    pub epoch_path: String,
    /// Its version when this term was claimed.
    pub version: i32,
}

impl Fence {
    /// The check, with the version as it was when the term was claimed.
    pub fn check(&self) -> Op {
        Op::Check { path: self.epoch_path.clone(), version: self.version }
    }
}

/// A term of leadership.
#[derive(Clone, Debug)]
pub struct Term {
    /// What receivers of this leader's requests compare.
    pub token: FencingToken,
    /// What ZooKeeper compares.
    pub fence: Fence,
    /// Whether this process may still act for the term: read it at the last moment.
    pub lease: LeaseFlag,
}
