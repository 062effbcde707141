//! Nodes that are to hold nothing.

use std::collections::BTreeMap;

use coord::{Op, ReadBack, Undo, Write};
use proto::NodeId;
use proto::vip::Drained;

use super::error::{CONTENDED_MAX, stale};
use super::{DOCUMENT_BYTES_MAX, ReadError, Store, StoreError, document};

/// Nodes that can be drained at a time, also such as nobody knows.
pub const DRAINED_MAX: usize = 64;

impl Store {
    /// The nodes that are to hold nothing.
    ///
    /// # Errors
    /// See [`ReadError`].
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn drained(&self) -> Result<BTreeMap<NodeId, Drained>, ReadError> {
        let path = self.layout.drained();
        let node = self.link.get(&path).await?;
        Ok(document::drained(&path, node.as_ref())?.map(|found| found.value).unwrap_or_default())
    }

    /// Has a node hold nothing until [`undrain`](Self::undrain). Whether that is new; if not, what was said first stays.
    /// Refused above [`DRAINED_MAX`].
    ///
    /// # Errors
    /// See [`StoreError`].
    ///
    /// # Cancel safety
    /// It is done or not.
    pub async fn drain(&self, node: &NodeId, drained: Drained) -> Result<bool, StoreError> {
        self.change_drained(|nodes| {
            let new = !nodes.contains_key(node);
            if new {
                nodes.insert(node.clone(), drained.clone());
            }
            new
        })
        .await
    }

    /// Lets a node hold services again. Whether it could not before.
    ///
    /// # Errors
    /// See [`StoreError`].
    ///
    /// # Cancel safety
    /// It is done or not.
    pub async fn undrain(&self, node: &NodeId) -> Result<bool, StoreError> {
        self.change_drained(|nodes| nodes.remove(node).is_some()).await
    }

    async fn change_drained(
        &self,
        change: impl Fn(&mut BTreeMap<NodeId, Drained>) -> bool,
    ) -> Result<bool, StoreError> {
        let path = self.layout.drained();
        for _ in 0..CONTENDED_MAX {
            let Some(node) = self.link.get(&path).await? else {
                self.link.ensure(&path).await?;
                continue;
            };
            let mut nodes =
                document::drained(&path, Some(&node))?.map(|found| found.value).unwrap_or_default();
            let before = nodes.len();
            if !change(&mut nodes) {
                return Ok(false);
            }
            if nodes.len() > DRAINED_MAX && nodes.len() > before {
                return Err(StoreError::TooMany { path, max: DRAINED_MAX });
            }
            let data = document::encode(&nodes);
            if data.len() > DOCUMENT_BYTES_MAX {
                return Err(StoreError::TooLarge { path, bytes: data.len(), max: DOCUMENT_BYTES_MAX });
            }
            let set = Op::Set { path: path.clone(), data: data.clone(), version: Some(node.stat.version) };
            let read_back = ReadBack::Data { path: path.clone(), data };
            let write = Write { ops: vec![set], read_back, undo: Undo::Keep };
            match self.link.write(write, self.link.call_deadline()).await {
                Ok(_) => return Ok(true),
                Err(error) if stale(&error) => {}
                Err(source) => {
                    return Err(StoreError::Write { what: format!("change {path}"), source });
                }
            }
        }
        Err(StoreError::Contended { path })
    }
}
