//! The cluster's configuration: one text with a revision, and what it was before.

use coord::{Mode, Op, ReadBack, Undo, Write};
use proto::NodeId;
use proto::vip::{ConfigEntry, ConfigText};

use super::error::{CONTENDED_MAX, stale};
use super::{Found, ReadError, Store, StoreError, document};

/// Bytes of a configuration's text at most. One write has to hold two of them, the new and the old.
pub const TEXT_BYTES_MAX: usize = 256 * 1024;

/// Earlier revisions that are kept.
pub const HISTORY_MAX: usize = 32;

/// What an apply did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Apply {
    /// What held before. Of a configuration that could not be read, the text is not known, and empty here.
    pub before: ConfigText,
    /// What holds now; the same where the text was the same already.
    pub now: ConfigText,
}

/// A configuration was not applied, or perhaps not.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ApplyError {
    /// It is larger than the coordination service can take.
    #[error("the configuration has {bytes} bytes, and {TEXT_BYTES_MAX} are allowed")]
    TooLarge {
        /// As large as it is.
        bytes: usize,
    },
    /// Somebody applied another one meanwhile.
    #[error("revision {expected} was expected, but {found} holds: look at it and apply again")]
    Conflict {
        /// What the caller knew.
        expected: u64,
        /// What holds.
        found: u64,
    },
    /// It was not read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Store {
    /// The configuration that holds; revision 0 with an empty text where none was ever applied.
    ///
    /// # Errors
    /// See [`ReadError`].
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn config(&self) -> Result<ConfigText, ReadError> {
        let path = self.layout.config();
        let node = self.link.get(&path).await?;
        Ok(document::config(&path, node.as_ref())?.map_or_else(never_applied, |found| found.value))
    }

    /// The configuration of that revision, if it holds or is still kept.
    ///
    /// # Errors
    /// See [`ReadError`].
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn config_at(&self, revision: u64) -> Result<Option<ConfigText>, ReadError> {
        // The earlier one first: it is there before it is not the present one any more.
        for _ in 0..2 {
            let path = self.layout.config_history(revision);
            let node = self.link.get(&path).await?;
            if let Some(found) = document::config(&path, node.as_ref())? {
                return Ok(Some(found.value));
            }
            let now = self.config().await?;
            if now.revision == revision {
                return Ok(Some(now));
            }
        }
        Ok(None)
    }

    /// The revision that holds and the earlier ones that are kept, newest first. What cannot be read is left out, and
    /// said in the log.
    ///
    /// # Errors
    /// See [`ReadError`].
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn config_history(&self) -> Result<Vec<ConfigEntry>, ReadError> {
        let mut entries = Vec::new();
        let dir = self.layout.config();
        let mut paths = vec![dir.clone()];
        paths.extend(
            self.revisions().await?.into_iter().rev().map(|revision| self.layout.config_history(revision)),
        );
        for path in paths {
            let node = self.link.get(&path).await?;
            match document::config(&path, node.as_ref()) {
                Ok(Some(Found { value, .. })) if value.revision > 0 => entries.push(ConfigEntry {
                    revision: value.revision,
                    applied_ms: value.applied_ms,
                    by: value.by,
                    bytes: u64::try_from(value.text.len()).unwrap_or(u64::MAX),
                }),
                Ok(_) => {}
                Err(garbage) => tracing::warn!(%garbage, "an earlier configuration is left out"),
            }
        }
        // An apply in the middle of this shows what it replaced twice.
        entries.dedup_by_key(|entry| entry.revision);
        Ok(entries)
    }

    /// Has `text` hold from now on, unless it does already. Whether it makes sense is the caller's to know. Works without
    /// a leader. `expected` is the revision that has to hold now; any, if none. `by` and `at_ms` (since 1970) are for
    /// people.
    ///
    /// A configuration that cannot be read is replaced only where nothing is expected of it.
    ///
    /// # Errors
    /// See [`ApplyError`].
    ///
    /// # Cancel safety
    /// It is applied or not.
    pub async fn apply(
        &self,
        text: &str,
        expected: Option<u64>,
        by: &NodeId,
        at_ms: u64,
    ) -> Result<Apply, ApplyError> {
        if text.len() > TEXT_BYTES_MAX {
            return Err(ApplyError::TooLarge { bytes: text.len() });
        }
        let path = self.layout.config();
        for _ in 0..CONTENDED_MAX {
            let Some(node) = self.link.get(&path).await.map_err(StoreError::from)? else {
                self.link.ensure(&path).await.map_err(StoreError::from)?;
                continue;
            };
            let kept = self.revisions().await.map_err(StoreError::from)?;
            let before = match document::config(&path, Some(&node)) {
                Ok(found) => found.map_or_else(never_applied, |found| found.value),
                Err(garbage) if expected.is_some() => return Err(StoreError::from(garbage).into()),
                Err(garbage) => {
                    tracing::warn!(%garbage, "it is replaced");
                    // One more than the last that was kept.
                    let revision = kept.last().map_or(1, |last| last + 1);
                    ConfigText { revision, ..never_applied() }
                }
            };
            if let Some(expected) = expected.filter(|expected| *expected != before.revision) {
                return Err(ApplyError::Conflict { expected, found: before.revision });
            }
            if before.text == text && before.revision > 0 {
                return Ok(Apply { now: before.clone(), before });
            }
            let revision = before.revision + 1;
            let now = ConfigText { revision, applied_ms: at_ms, by: Some(by.clone()), text: text.to_owned() };
            let data = document::encode_config(&now);
            let mut ops =
                vec![Op::Set { path: path.clone(), data: data.clone(), version: Some(node.stat.version) }];
            ops.extend(self.keep(&before, node.data, kept));
            let read_back = ReadBack::Data { path: path.clone(), data };
            let write = Write { ops, read_back, undo: Undo::Keep };
            match self.link.write(write, self.link.call_deadline()).await {
                Ok(_) => return Ok(Apply { before, now }),
                Err(error) if stale(&error) => {}
                Err(source) => {
                    let what = format!("apply the configuration as revision {revision} in {path}");
                    return Err(StoreError::Write { what, source }.into());
                }
            }
        }
        Err(StoreError::Contended { path }.into())
    }

    /// Keeps `before` among the earlier ones, and no more of those than are kept.
    fn keep(&self, before: &ConfigText, data: Vec<u8>, mut kept: Vec<u64>) -> Vec<Op> {
        if before.revision == 0 {
            return Vec::new();
        }
        let path = self.layout.config_history(before.revision);
        let mut ops = vec![match kept.binary_search(&before.revision) {
            // Left by somebody who set the counter back.
            Ok(_) => Op::Set { path, data, version: None },
            Err(at) => {
                kept.insert(at, before.revision);
                Op::Create { path, data, mode: Mode::Persistent }
            }
        }];
        let surplus = kept.len().saturating_sub(HISTORY_MAX);
        let old = kept.iter().take(surplus).filter(|revision| **revision != before.revision);
        ops.extend(old.map(|old| Op::Delete { path: self.layout.config_history(*old), version: None }));
        ops
    }

    /// The earlier revisions that are kept, oldest first.
    async fn revisions(&self) -> Result<Vec<u64>, coord::CallError> {
        let names = match self.link.children(&self.layout.config()).await {
            Ok(names) => names,
            Err(error) if error.failure == coord::CallFailure::NoNode => Vec::new(),
            Err(error) => return Err(error),
        };
        let mut revisions: Vec<u64> = names.iter().filter_map(|name| name.parse().ok()).collect();
        revisions.sort_unstable();
        Ok(revisions)
    }
}

fn never_applied() -> ConfigText {
    ConfigText { revision: 0, applied_ms: 0, by: None, text: String::new() }
}
