//! Payloads too large for a segment: write-once bodies in parts, one commit each.
//!
//! A body's name is `<key>-<opening>-<n>-<bytes>`: the sequence of its term's opening segment, which no other term
//! has, a count within the term, and its length. So a name is never used twice, a list of names says how many
//! bytes there are, and a collector can tell what an earlier term left from what this one is just writing. Creating
//! and deleting check the epoch, and so does the append that refers to a body.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use serde::{Deserialize, Serialize};
use tokio::time::{sleep, timeout};

use super::LogHandle;
use super::error::{BodyError, LogFailure};
use super::handle::Shared;
use super::names::FENCE;
use super::store::{ReadError, Refusal, Step, Store, Why};

/// Longest part, in bytes.
pub(super) const PART_BYTES_MAX: u64 = 64 * 1024;

/// Longest body, in bytes.
pub const BODY_BYTES_MAX: u64 = 1024 * 1024;

/// How long one operation on a body may take.
const WITHIN: Duration = Duration::from_secs(30);

/// Pause before a read that failed is tried again.
const RETRY: Duration = Duration::from_millis(50);

/// Where a body is. Goes into the record that refers to it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct BodyRef {
    /// Its name, never used for another.
    name: String,
    /// Its length in bytes.
    bytes: u64,
    /// CRC-32 of it.
    crc: u32,
}

impl BodyRef {
    /// Its length in bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// CRC-32 of it.
    pub(super) fn crc(&self) -> u32 {
        self.crc
    }

    pub(super) fn part_names(&self) -> impl Iterator<Item = String> {
        (0..self.bytes.div_ceil(PART_BYTES_MAX).max(1)).map(|part| format!("{}-{part:02}", self.name))
    }
}

/// What a part's name says.
struct PartName<'a> {
    body: &'a str,
    opening: u64,
    bytes: u64,
}

fn parse_part(name: &str) -> Option<PartName<'_>> {
    let (body, part) = name.rsplit_once('-')?;
    let mut fields = body.split('-');
    let (_key, opening, _n, total) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
    let (opening, total, part) =
        (opening.parse().ok()?, total.parse::<u64>().ok()?, part.parse::<u64>().ok()?);
    let bytes = total.saturating_sub(part.saturating_mul(PART_BYTES_MAX)).min(PART_BYTES_MAX);
    fields.next().is_none().then_some(PartName { body, opening, bytes })
}

/// Bytes of the bodies whose parts have these names.
pub(super) fn bytes_of(parts: &[String]) -> u64 {
    parts.iter().filter_map(|name| parse_part(name)).map(|part| part.bytes).sum()
}

impl LogHandle {
    /// Stores `data` for `key`. Durable when it returns; without a record that refers to it, a later term's
    /// [`collect_bodies`](Self::collect_bodies) deletes it.
    ///
    /// # Errors
    /// See [`BodyError`].
    ///
    /// # Cancel safety
    /// Safe: parts already written stay, counted against the budget, until they are collected.
    pub async fn put_body(&self, key: u128, data: Bytes) -> Result<BodyRef, BodyError> {
        let shared = &*self.shared;
        let bytes = data.len() as u64;
        if bytes > BODY_BYTES_MAX {
            return Err(BodyError::TooLarge { bytes, bytes_max: BODY_BYTES_MAX });
        }
        let reserved = shared.core().reserve_body(bytes);
        reserved.map_err(|(used_bytes, budget_bytes)| BodyError::Full { bytes, used_bytes, budget_bytes })?;
        let n = shared.bodies.fetch_add(1, Ordering::Relaxed);
        let name = format!("{key:032x}-{:010}-{n}-{bytes}", shared.opening);
        let body = BodyRef { name, bytes, crc: crc32fast::hash(&data) };
        bounded(async {
            let mut rest = data;
            for part in body.part_names() {
                let chunk = rest.split_to(rest.len().min(PART_BYTES_MAX as usize));
                create_part(shared, &format!("{}/{part}", shared.names.bodies), chunk).await?;
            }
            Ok(())
        })
        .await?;
        Ok(body)
    }

    /// Reads a body and checks it.
    ///
    /// # Errors
    /// See [`BodyError`].
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn get_body(&self, body: &BodyRef) -> Result<Bytes, BodyError> {
        let shared = &*self.shared;
        bounded(async {
            let mut data = BytesMut::with_capacity(body.bytes.min(BODY_BYTES_MAX) as usize);
            for part in body.part_names() {
                let path = format!("{}/{part}", shared.names.bodies);
                let node = read(shared, &path).await?.ok_or_else(|| BodyError::Missing(body.name.clone()))?;
                data.extend_from_slice(&node);
            }
            if data.len() as u64 != body.bytes || crc32fast::hash(&data) != body.crc {
                return Err(BodyError::Corrupt(body.name.clone()));
            }
            Ok(data.freeze())
        })
        .await
    }

    /// Deletes a body that no record refers to any more. One that is gone already is fine.
    ///
    /// # Errors
    /// See [`BodyError`].
    ///
    /// # Cancel safety
    /// Safe: what is left is collected later.
    pub async fn delete_body(&self, body: &BodyRef) -> Result<(), BodyError> {
        let parts: Vec<String> = body.part_names().collect();
        bounded(delete_parts(&self.shared, &parts)).await
    }

    /// Deletes the bodies of earlier terms that are not among `referenced`, and returns how many. To be called once
    /// after opening, with every body that a live record refers to.
    ///
    /// # Errors
    /// See [`BodyError`].
    ///
    /// # Cancel safety
    /// Safe: what is left is collected later.
    pub async fn collect_bodies(&self, referenced: &[BodyRef]) -> Result<usize, BodyError> {
        let shared = &*self.shared;
        let referenced: BTreeSet<&str> = referenced.iter().map(|body| body.name.as_str()).collect();
        let listed = bounded(retrying(shared, || shared.store.children(&shared.names.bodies))).await?;
        let mut orphans: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for name in &listed {
            match parse_part(name) {
                Some(part) if part.opening < shared.opening && !referenced.contains(part.body) => {
                    orphans.entry(part.body).or_default().push(name.clone());
                }
                _ => {}
            }
        }
        for parts in orphans.values() {
            bounded(delete_parts(shared, parts)).await?;
        }
        Ok(orphans.len())
    }
}

async fn bounded<T>(work: impl Future<Output = Result<T, BodyError>>) -> Result<T, BodyError> {
    timeout(WITHIN, work).await.unwrap_or(Err(BodyError::Timeout(WITHIN)))
}

async fn create_part(shared: &Shared, path: &str, data: Bytes) -> Result<(), BodyError> {
    loop {
        let create = Step::Create { path: path.to_owned(), data: data.clone() };
        match write(shared, vec![shared.names.fence(), create]).await? {
            Written::Done => return Ok(()),
            // Lost or there already: the name is ours alone, so what stands there tells.
            Written::Lost | Written::Refused(Why::NodeExists) => match read(shared, path).await? {
                Some(found) if found == data => return Ok(()),
                Some(_) => return Err(BodyError::Corrupt(path.to_owned())),
                None => {}
            },
            Written::Refused(why) => return Err(BodyError::Refused(format!("{why:?} for {path}"))),
        }
    }
}

async fn delete_parts(shared: &Shared, parts: &[String]) -> Result<(), BodyError> {
    for part in parts {
        let path = format!("{}/{part}", shared.names.bodies);
        loop {
            match write(shared, vec![shared.names.fence(), Step::Delete { path: path.clone() }]).await? {
                Written::Done => {
                    let bytes = parse_part(part).map_or(0, |part| part.bytes);
                    shared.core().release_body(bytes);
                    break;
                }
                Written::Refused(Why::NoNode) => break,
                Written::Lost => match read(shared, &path).await? {
                    Some(_) => {}
                    None => {
                        shared.core().release_body(parse_part(part).map_or(0, |part| part.bytes));
                        break;
                    }
                },
                Written::Refused(why) => return Err(BodyError::Refused(format!("{why:?} for {path}"))),
            }
        }
    }
    Ok(())
}

enum Written {
    Done,
    Lost,
    /// The step after the fence.
    Refused(Why),
}

async fn write(shared: &Shared, steps: Vec<Step>) -> Result<Written, BodyError> {
    up(shared).await?;
    match shared.store.submit(steps).await {
        Ok(()) => Ok(Written::Done),
        Err(Refusal::Lost) => Ok(Written::Lost),
        Err(Refusal::Ended) => Err(BodyError::SessionEnded),
        Err(Refusal::Rejected { step: FENCE, why: Why::BadVersion | Why::NoNode }) => {
            shared.fail(LogFailure::Deposed);
            Err(BodyError::Deposed)
        }
        Err(Refusal::Rejected { why, .. }) => Ok(Written::Refused(why)),
    }
}

async fn up(shared: &Shared) -> Result<(), BodyError> {
    shared.store.up().await.then_some(()).ok_or(BodyError::SessionEnded)
}

/// What a committed write left at `path`.
async fn read(shared: &Shared, path: &str) -> Result<Option<Bytes>, BodyError> {
    let node = retrying(shared, || async move {
        shared.store.sync(path).await?;
        shared.store.get(path).await
    })
    .await?;
    Ok(node.map(|node| node.data.into()))
}

async fn retrying<T, F>(shared: &Shared, read: impl Fn() -> F) -> Result<T, BodyError>
where
    F: Future<Output = Result<T, ReadError>>,
{
    loop {
        up(shared).await?;
        match read().await {
            Ok(value) => return Ok(value),
            Err(ReadError::Lost) => sleep(RETRY).await,
            Err(ReadError::Ended) => return Err(BodyError::SessionEnded),
            Err(ReadError::Refused(why)) => return Err(BodyError::Refused(why)),
        }
    }
}

/// What the bodies there are weigh.
pub(super) async fn stored_bytes(store: &dyn Store, directory: &str) -> Result<u64, ReadError> {
    Ok(bytes_of(&store.children(directory).await?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn part_names_say_what_they_weigh() {
        for (bytes, weights) in
            [(0, vec![0]), (1, vec![1]), (65_536, vec![65_536]), (65_537, vec![65_536, 1])]
        {
            let body = BodyRef { name: format!("{:032x}-{:010}-0-{bytes}", 7, 42), bytes, crc: 0 };
            let names: Vec<String> = body.part_names().collect();
            let parsed: Vec<u64> = names.iter().map(|name| parse_part(name).unwrap().bytes).collect();
            assert_eq!(parsed, weights, "{bytes} bytes");
            assert!(
                names
                    .iter()
                    .all(|name| parse_part(name).is_some_and(|p| p.opening == 42 && p.body == body.name))
            );
        }
        for other in ["", "a", "a-b-c-d-e", "7-1-0-5", "7-1-0-5-0-0-0"] {
            assert!(parse_part(other).is_none(), "{other}");
        }
    }
}
