//! The leader's part: who is to hold a service, and the end of one that is configured no more.

use coord::{Mode, Op, ReadBack, Term as Leading, Undo, Write, WriteError};
use proto::NodeId;
use proto::vip::ServiceName;

use super::error::{CONTENDED_MAX, stale};
use super::{Assignment, Garbage, ReadError, Store, StoreError, Term, document};

/// The leader's write was not done, or perhaps not.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AssignError {
    /// This node does not lead any more, or is outside of its lease. Nothing was done.
    #[error("this node does not lead any more")]
    NotLeading,
    /// It was not read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What the removal of a service found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Removal {
    /// Nothing is left of it.
    Done,
    /// Somebody holds it: assign it to nobody, and try again once it is released. Nothing was done.
    Held,
    /// Nobody holds it, but it was not released: its addresses may be there until the grace has passed. Nothing was done.
    NotFree {
        /// Who held it; none if nobody can say.
        node: Option<NodeId>,
        /// How long to wait since it was known that nobody holds it.
        grace: std::time::Duration,
    },
}

impl Store {
    /// Writes who is to hold a service, fenced by the leader's term, and prepares a service that is new. A term that was
    /// deleted is written again as one of which nobody knows anything. The version of the assignment that stands then,
    /// which is the present one if it says the same already.
    ///
    /// # Errors
    /// See [`AssignError`].
    ///
    /// # Cancel safety
    /// It is written or not.
    pub async fn assign(&self, leading: &Leading, assignment: &Assignment) -> Result<i32, AssignError> {
        let service = &assignment.service;
        let (dir, path) = (self.layout.vip(service), self.layout.vip_assignment(service));
        let term_path = self.layout.vip_term(service);
        let data = document::encode(assignment);
        for _ in 0..CONTENDED_MAX {
            let [present, term] = self.read([&path, &term_path]).await?;
            if let Some(present) = present.as_ref().filter(|present| present.data == data)
                && term.is_some()
            {
                return Ok(present.stat.version);
            }
            let mut ops = vec![leading.fence.check()];
            let new = present.is_none() && term.is_none() && self.exists(&dir).await?.is_none();
            if new {
                ops.push(persistent(dir.clone(), Vec::new()));
            }
            if term.is_none() {
                // Nobody ever held a service that is new; of one that is not, somebody may have the addresses.
                let first = if new { Term::Free { node: None, release: None } } else { Term::Unknown };
                ops.push(persistent(term_path.clone(), document::encode(&first)));
            }
            let version = match present {
                Some(present) => {
                    let version = present.stat.version;
                    ops.push(Op::Set { path: path.clone(), data: data.clone(), version: Some(version) });
                    version.wrapping_add(1)
                }
                None => {
                    ops.push(persistent(path.clone(), data.clone()));
                    0
                }
            };
            let read_back = ReadBack::Data { path: path.clone(), data: data.clone() };
            if self.fenced(leading, ops, read_back, || format!("write {path}")).await? {
                return Ok(version);
            }
        }
        Err(StoreError::Contended { path }.into())
    }

    /// Removes everything about a service that nobody holds, fenced by the leader's term. `waited`: its grace has passed
    /// since it was known that nobody holds it, so that it need not have been released.
    ///
    /// # Errors
    /// See [`AssignError`].
    ///
    /// # Cancel safety
    /// It is done or not.
    pub async fn remove(
        &self,
        leading: &Leading,
        service: &ServiceName,
        waited: bool,
    ) -> Result<Removal, AssignError> {
        let dir = self.layout.vip(service);
        let (path, term_path) = (self.layout.vip_assignment(service), self.layout.vip_term(service));
        for _ in 0..CONTENDED_MAX {
            let [assignment, term] = self.read([&path, &term_path]).await?;
            if self.exists(&self.layout.vip_holder(service)).await?.is_some() {
                return Ok(Removal::Held);
            }
            let Some(stat) = self.exists(&dir).await? else { return Ok(Removal::Done) };
            let last = document::term(term.as_ref()).map_or(Term::Unknown, |found| found.value);
            if !waited {
                let grace = last.wait();
                match last {
                    Term::Free { .. } => {}
                    Term::Held { node, .. } => return Ok(Removal::NotFree { node: Some(node), grace }),
                    Term::Unknown => return Ok(Removal::NotFree { node: None, grace }),
                }
            }
            let mut ops = vec![leading.fence.check()];
            // Every take writes the term, so none comes in between; a holder that did would keep the parent.
            for (path, node) in [(&path, &assignment), (&term_path, &term)] {
                let delete =
                    |node: &coord::Node| Op::Delete { path: path.clone(), version: Some(node.stat.version) };
                ops.extend(node.as_ref().map(delete));
            }
            ops.push(Op::Delete { path: dir.clone(), version: Some(stat.version) });
            let read_back = ReadBack::Gone { path: dir.clone() };
            if self.fenced(leading, ops, read_back, || format!("remove {dir}")).await? {
                return Ok(Removal::Done);
            }
        }
        Err(StoreError::Contended { path: dir }.into())
    }

    /// Who is to hold a service.
    ///
    /// # Errors
    /// See [`ReadError`].
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn assignment(&self, service: &ServiceName) -> Result<Option<Assignment>, ReadError> {
        let path = self.layout.vip_assignment(service);
        let node = self.link.get(&path).await?;
        Ok(document::assignment(&path, service, node.as_ref())?.map(|found| found.value))
    }

    /// What is known of the last one who held a service.
    ///
    /// # Errors
    /// See [`ReadError`].
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn term(&self, service: &ServiceName) -> Result<Option<Term>, ReadError> {
        let path = self.layout.vip_term(service);
        let node = self.link.get(&path).await?;
        Ok(document::term(node.as_ref()).map(|found| found.value))
    }

    /// The services about which there is anything, configured or not; a node that is no service's is left out.
    ///
    /// # Errors
    /// See [`ReadError`].
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn services(&self) -> Result<Vec<ServiceName>, ReadError> {
        let dir = self.layout.vips();
        let names = match self.link.children(&dir).await {
            Ok(names) => names,
            Err(error) if error.failure == coord::CallFailure::NoNode => Vec::new(),
            Err(error) => return Err(error.into()),
        };
        let service = |name: &String| {
            let service = name.parse().map_err(|error: proto::InvalidId| Garbage {
                path: format!("{dir}/{name}"),
                reason: error.to_string(),
            });
            service.inspect_err(|garbage| tracing::warn!(%garbage, "ignoring it")).ok()
        };
        Ok(names.iter().filter_map(service).collect())
    }

    async fn read<const N: usize>(
        &self,
        paths: [&String; N],
    ) -> Result<[Option<coord::Node>; N], StoreError> {
        let mut nodes = [const { None }; N];
        for (node, path) in nodes.iter_mut().zip(paths) {
            *node = self.link.get(path).await?;
        }
        Ok(nodes)
    }

    async fn exists(&self, path: &str) -> Result<Option<coord::Stat>, StoreError> {
        Ok(self.link.exists(path).await?)
    }

    /// Writes for the leader. Whether it was done; if not, things are not as they were read.
    async fn fenced(
        &self,
        leading: &Leading,
        ops: Vec<Op>,
        read_back: ReadBack,
        what: impl Fn() -> String,
    ) -> Result<bool, AssignError> {
        if !leading.lease.lets_out("vip") {
            return Err(AssignError::NotLeading);
        }
        let write = Write { ops, read_back, undo: Undo::Keep };
        match self.link.write(write, self.link.call_deadline()).await {
            Ok(_) => Ok(true),
            // The fence is the first step.
            Err(WriteError::Rejected { op: 0, .. }) => Err(AssignError::NotLeading),
            Err(error) if stale(&error) => Ok(false),
            Err(source) => Err(StoreError::Write { what: what(), source }.into()),
        }
    }
}

fn persistent(path: String, data: Vec<u8>) -> Op {
    Op::Create { path, data, mode: Mode::Persistent }
}
