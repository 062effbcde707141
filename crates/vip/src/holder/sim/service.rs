//! The modelled coordination service: one virtual IP's documents, and sessions.

use std::collections::BTreeMap;
use std::time::Duration;

use uuid::Uuid;

use crate::holder::Assigned;
use crate::store::Term;

/// A session as the server knows it.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) node: usize,
    /// Counts what was heard of it: an expiry that was due before is not.
    pub(super) heard: u64,
    pub(super) alive: bool,
}

#[derive(Debug)]
pub(super) struct HolderNode {
    pub(super) node: usize,
    pub(super) session: u64,
    pub(super) take: Uuid,
}

/// The documents.
#[derive(Debug)]
pub(super) struct Service {
    pub(super) sessions: BTreeMap<u64, Session>,
    pub(super) assignment: Option<Assigned>,
    pub(super) mark: i64,
    pub(super) holder: Option<HolderNode>,
    pub(super) term: (i32, Term),
}

/// Which document changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Doc {
    Assignment,
    Holder,
    Term,
}

impl Service {
    pub(super) fn new() -> Self {
        let term = (0, Term::Free { node: None, release: None });
        Self { sessions: BTreeMap::new(), assignment: None, mark: 0, holder: None, term }
    }

    /// `multi` [check assignment, create holder, set term]. What was found and what is recorded.
    pub(super) fn take(
        &mut self,
        session: u64,
        version: i32,
        grace: Duration,
        take: Uuid,
        name: &proto::NodeId,
    ) -> Result<(Term, Duration), String> {
        if self.assignment.as_ref().is_none_or(|assigned| assigned.version != version) {
            return Err("the assignment has another version".to_owned());
        }
        if self.holder.is_some() {
            return Err("there is a holder".to_owned());
        }
        let found = self.term.1.clone();
        let grace = match &found {
            Term::Free { .. } => grace,
            Term::Held { .. } | Term::Unknown => grace.max(self.term.1.wait()),
        };
        let node = self.sessions.get(&session).map_or(0, |session| session.node);
        self.holder = Some(HolderNode { node, session, take });
        self.term = (self.term.0 + 1, Term::Held { node: name.clone(), take, grace });
        Ok((found, grace))
    }

    /// `multi` [delete holder, set term free], or [delete holder, check term]. Whether it was done.
    pub(super) fn release(&mut self, term_version: i32, free: bool, name: &proto::NodeId) -> bool {
        if self.holder.is_none() || self.term.0 != term_version {
            return false;
        }
        self.holder = None;
        if free {
            self.term = (self.term.0 + 1, Term::Free { node: Some(name.clone()), release: None });
        }
        true
    }

    /// A lease's probe: [check holder version 0, check term].
    pub(super) fn proves(&self, term_version: i32) -> bool {
        self.holder.is_some() && self.term.0 == term_version
    }

    /// A session ends; whether it held the service.
    pub(super) fn expire(&mut self, session: u64) -> bool {
        if let Some(known) = self.sessions.get_mut(&session) {
            known.alive = false;
        }
        self.holder.take_if(|holder| holder.session == session).is_some()
    }
}
