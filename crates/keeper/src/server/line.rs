//! What the shell knows of one connection.

use std::net::SocketAddr;
use std::task::Waker;

use clock::Instant;

use super::Options;
use super::outbox::Outbox;
use crate::core::{ConnId, Effect};

/// The shell's side of a connection; the other is its task's.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) peer: SocketAddr,
    pub(super) outbox: Outbox,
    /// Since when its client has taken nothing of what waits for it.
    pub(super) stalled: Option<Instant>,
    pub(super) opened: Instant,
    /// Whether its first request has come.
    pub(super) greeted: bool,
    /// Requests executed whose replies wait for the log.
    pub(super) outstanding: usize,
    /// Bytes of a request that has not come wholly.
    pub(super) partial: usize,
    pub(super) fate: Fate,
    pub(super) waker: Option<Waker>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Open,
    /// The core has closed it, and the disk has yet to agree: nothing is read any more, what was sent before still goes out.
    Leaving,
    /// Closed when its outbox is empty; nothing is read any more.
    Closing,
    /// Closed now.
    Cut,
}

impl Line {
    pub(super) fn new(peer: SocketAddr, opened: Instant) -> Self {
        Self {
            peer,
            outbox: Outbox::default(),
            stalled: None,
            opened,
            greeted: false,
            outstanding: 0,
            partial: 0,
            fate: Fate::Open,
            waker: None,
        }
    }

    /// Bytes that it holds: unsent and half-received ones.
    pub(super) fn buffered(&self) -> usize {
        self.outbox.len() + self.partial
    }

    /// Closes it now, and drops what it holds: how many bytes that were.
    pub(super) fn cut(&mut self) -> usize {
        let held = self.buffered();
        self.outbox = Outbox::default();
        self.partial = 0;
        self.fate = Fate::Cut;
        self.wake();
        held
    }

    /// Whether so many of its requests wait for the disk that no more are read.
    pub(super) fn waits_for_the_disk(&self, options: &Options) -> bool {
        self.outstanding >= options.requests_outstanding_max
    }

    /// Has its task look at it, unless it is about to.
    pub(super) fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// Does what the core asked for.
    pub(super) fn follow(&mut self, effect: Effect) {
        match effect {
            // What the core sends after it closed would be a bug there; what is cut needs nothing.
            Effect::Send { frame, .. } => {
                // What is cut or closed needs nothing more.
                if matches!(self.fate, Fate::Open | Fate::Leaving) {
                    self.outbox.push(&frame);
                }
            }
            Effect::Close { .. } => {
                if self.fate != Fate::Cut {
                    self.fate = Fate::Closing;
                }
            }
        }
    }
}

impl Effect {
    /// Whom it concerns.
    pub(super) fn conn(&self) -> ConnId {
        match self {
            Self::Send { conn, .. } | Self::Close { conn } => *conn,
        }
    }
}
