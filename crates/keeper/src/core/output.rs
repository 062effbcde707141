use bytes::Bytes;

use super::ConnId;
use crate::state::Txn;

/// What a call on the core asks of the shell.
#[derive(Debug, Default)]
pub struct Output {
    /// To be logged, in this order, before any effect of this or a later output becomes visible.
    pub txns: Vec<Txn>,
    /// To be done in this order.
    pub effects: Vec<Effect>,
}

impl Output {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.txns.is_empty() && self.effects.is_empty()
    }
}

/// Something that others see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Send a frame, its length prefix included.
    Send {
        /// To whom.
        conn: ConnId,
        /// What. Many connections may share it.
        frame: Bytes,
    },
    /// Close a connection once everything that was to be sent on it before has been handed to the network.
    Close {
        /// Which.
        conn: ConnId,
    },
}
