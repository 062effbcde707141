//! What nodes say of themselves.

use std::collections::BTreeMap;

use coord::{CallFailure, Mode, Op, ReadBack, Undo, Write, WriteError};
use proto::NodeId;
use proto::vip::NodeReport;

use super::error::{CONTENDED_MAX, stale};
use super::{DOCUMENT_BYTES_MAX, Garbage, ReadError, Store, StoreError, document};

impl Store {
    /// What the nodes that have a session say of themselves. A report that cannot be read is in its place. Not newer than
    /// what the server knows that answers, which for a successor only means a wait.
    ///
    /// # Errors
    /// The coordination service does not answer.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn reports(&self) -> Result<BTreeMap<NodeId, Result<NodeReport, Garbage>>, ReadError> {
        let names = match self.link.children(&self.layout.vip_nodes()).await {
            Ok(names) => names,
            Err(error) if error.failure == CallFailure::NoNode => Vec::new(),
            Err(error) => return Err(error.into()),
        };
        let nodes: Vec<NodeId> = names.iter().filter_map(|name| name.parse().ok()).collect();
        let paths: Vec<String> = nodes.iter().map(|node| self.layout.vip_node(node)).collect();
        let read = futures::future::try_join_all(paths.iter().map(|path| self.link.get(path))).await?;
        let mut reports = BTreeMap::new();
        for ((node, path), read) in nodes.into_iter().zip(&paths).zip(read) {
            match document::report(path, &node, read.as_ref()) {
                Ok(Some(found)) => drop(reports.insert(node, Ok(found.value))),
                Ok(None) => {}
                Err(garbage) => drop(reports.insert(node, Err(garbage))),
            }
        }
        Ok(reports)
    }

    /// Says what this node says of itself, for as long as the session lives. One call at a time: of two, either may be
    /// the one that stays.
    ///
    /// # Errors
    /// See [`StoreError`]; `NotOurs` for as long as another session, of an earlier life or a twin, has it.
    ///
    /// # Cancel safety
    /// It is written or not.
    pub async fn put_report(&self, report: &NodeReport) -> Result<(), StoreError> {
        let path = self.layout.vip_node(&report.node);
        let data = document::encode(report);
        if data.len() > DOCUMENT_BYTES_MAX {
            return Err(StoreError::TooLarge { path, bytes: data.len(), max: DOCUMENT_BYTES_MAX });
        }
        for _ in 0..CONTENDED_MAX {
            let (op, read_back) = match self.link.exists(&path).await? {
                None => {
                    let mode = Mode::Ephemeral;
                    let op = Op::Create { path: path.clone(), data: data.clone(), mode };
                    (op, ReadBack::OwnEphemeral { path: path.clone() })
                }
                Some(stat) if stat.ephemeral_owner == Some(self.link.session_id()) => {
                    let version = Some(stat.version);
                    let op = Op::Set { path: path.clone(), data: data.clone(), version };
                    (op, ReadBack::Data { path: path.clone(), data: data.clone() })
                }
                Some(stat) => {
                    let owner = stat.ephemeral_owner.map_or("none".into(), |owner| owner.to_string());
                    return Err(StoreError::NotOurs { path, owner });
                }
            };
            // What comes too late stays: the next call replaces it, and the session takes it along.
            let write = Write { ops: vec![op], read_back, undo: Undo::Keep };
            match self.link.write(write, self.link.call_deadline()).await {
                Ok(_) => return Ok(()),
                Err(error) if stale(&error) => {}
                Err(source) => {
                    return Err(StoreError::Write { what: format!("write {path}"), source });
                }
            }
        }
        Err(StoreError::Contended { path })
    }

    /// Takes back what this session said of `node`; nothing where it said nothing.
    ///
    /// # Errors
    /// See [`StoreError`].
    ///
    /// # Cancel safety
    /// It is done or not.
    pub async fn remove_report(&self, node: &NodeId) -> Result<(), StoreError> {
        let path = self.layout.vip_node(node);
        let ours = self.link.exists(&path).await?;
        let Some(stat) = ours.filter(|stat| stat.ephemeral_owner == Some(self.link.session_id())) else {
            return Ok(());
        };
        let delete = Op::Delete { path: path.clone(), version: Some(stat.version) };
        let read_back = ReadBack::Gone { path: path.clone() };
        let write = Write { ops: vec![delete], read_back, undo: Undo::Keep };
        match self.link.write(write, self.link.call_deadline()).await {
            Ok(_) | Err(WriteError::Rejected { reason: coord::Rejection::NoNode, .. }) => Ok(()),
            Err(source) => Err(StoreError::Write { what: format!("remove {path}"), source }),
        }
    }
}
