//! Makes a cluster of a snapshot.
//!
//! The fencing token is (cluster, epoch). The state comes back as *another* cluster, so that nothing that an attempt of
//! the old one ever held is good in the new one. The epoch goes on from well above the saved one all the same: storage
//! that compares epochs alone is not fooled either, and what the log holds is older than every term to come, as its
//! replay demands.

use std::time::Duration;

use coord::{Layout, Link, Mode, Op, ReadBack, Undo, Write, WriteError};
use proto::ClusterId;
use serde_json::Value;

use super::file::Snapshot;
use crate::cli::db::survey::Survey;
use crate::cli::db::{self, unread};
use crate::cli::failure::Failure;
use crate::cli::output;
use crate::cli::store::chain;
use crate::exit::Exit;

/// Terms that may have begun after the snapshot was saved.
const EPOCH_LEAP: u64 = 1_000;

/// Steps of one transaction, and bytes: ZooKeeper takes less than a MiB at a time.
const STEPS_MAX: usize = 500;
const STEP_BYTES_MAX: usize = 512 * 1024;

/// For one transaction.
const WITHIN: Duration = Duration::from_secs(10);

/// How often a step is done again whose answer was lost.
const TRIES: usize = 20;

/// By how much clocks may drift apart within a fence: what a leader allows for, twice.
const DRIFT: Duration = Duration::from_secs(2);

/// What was made.
#[derive(Debug)]
pub(super) struct Restored {
    pub(super) cluster: ClusterId,
    pub(super) epoch: u64,
    pub(super) nodes: usize,
}

/// What to do about a cluster that is there.
#[derive(Clone, Copy, Debug)]
pub(super) struct Over {
    /// It may be deleted.
    pub(super) replaces: bool,
    /// What its nodes run may go on until its fence, and that is waited for.
    pub(super) waits: bool,
    /// The longest right to run that the snapshot knows of.
    pub(super) fence: Duration,
}

pub(super) async fn restore(
    link: &Link,
    layout: &Layout,
    snapshot: &Snapshot,
    over: Over,
) -> Result<Restored, Failure> {
    let root = layout.root();
    let mut epoch = snapshot.header.epoch;
    link.sync("/").await.map_err(|error| unread(&error))?;
    let there = children(link, root).await?;
    if !there.is_empty() {
        refuse_the_living(link, layout).await?;
        if !over.replaces {
            let message = format!(
                "{root} is not empty: it has {}. Name another root, or delete all of it and go on with --force",
                there.join(", ")
            );
            return Err(Failure::new(Exit::Failure, message));
        }
        // The one that is there may be further than the snapshot.
        let now = db::read(link, layout).await.ok();
        epoch = epoch.max(now.as_ref().and_then(|found| found.epoch).unwrap_or(0));
        if over.waits {
            let granted = now.map_or(Duration::ZERO, |found| Survey::of(&found).fence());
            wait(over.fence.max(granted)).await;
            refuse_the_living(link, layout).await?;
        }
        wipe(link, layout).await?;
    }
    link.ensure(root).await.map_err(|error| unread(&error))?;
    let epoch = epoch + EPOCH_LEAP;
    raise_epoch(link, layout, epoch).await?;
    let cluster = ClusterId::from_u128(rand::random());
    let mut batch = Batch::default();
    let mut nodes = 1;
    let mut record = None;
    for node in &snapshot.nodes {
        match node.path.as_str() {
            "cluster" => record = Some(reborn(&node.data, cluster, snapshot)?),
            "epoch" => {}
            // Only once a segment was written does its directory say so, in its second version.
            "tasks" if !node.data.is_empty() => {
                batch.create(link, format!("{root}/tasks"), Vec::new()).await?;
                batch.set(link, format!("{root}/tasks"), node.data.clone()).await?;
                nodes += 1;
            }
            path => {
                batch.create(link, format!("{root}/{path}"), node.data.clone()).await?;
                nodes += 1;
            }
        }
    }
    batch.flush(link).await?;
    // Last: before it is there, no node takes this for a cluster.
    let record = record.ok_or_else(|| Failure::new(Exit::Failure, "the snapshot has no cluster record"))?;
    batch.create(link, layout.cluster(), record).await?;
    batch.flush(link).await?;
    refuse_the_living(link, layout).await?;
    Ok(Restored { cluster, epoch, nodes: nodes + 1 })
}

/// No leader lives, so no heartbeat is answered any more: after the longest right that one ever granted nothing of it runs,
/// whether the snapshot knows of it or not.
async fn wait(fence: Duration) {
    if fence.is_zero() {
        return;
    }
    let span = fence + DRIFT;
    output::say(&format!(
        "waiting {:.0} s, the fence of what killed nodes may still run; --stopped skips this",
        span.as_secs_f64()
    ));
    tokio::time::sleep(span).await;
}

/// The cluster's record with another uuid, everything else as it was.
fn reborn(record: &[u8], cluster: ClusterId, snapshot: &Snapshot) -> Result<Vec<u8>, Failure> {
    let wrong = || Failure::new(Exit::Failure, "the snapshot's cluster record cannot be read");
    let mut record: Value = serde_json::from_slice(record).map_err(|_| wrong())?;
    let fields = record.as_object_mut().ok_or_else(wrong)?;
    fields.insert("uuid".to_owned(), serde_json::json!(cluster));
    fields.insert("restored_from".to_owned(), serde_json::json!(snapshot.header.cluster));
    serde_json::to_vec(&record).map_err(|_| wrong())
}

/// Nobody may be there whose state this would be taken from.
async fn refuse_the_living(link: &Link, layout: &Layout) -> Result<(), Failure> {
    let mut living = children(link, &layout.members()).await?;
    living.extend(children(link, &layout.candidates()).await?);
    if link.exists(&layout.leader()).await.map_err(|error| unread(&error))?.is_some() {
        living.push("a leader".to_owned());
    }
    if living.is_empty() {
        return Ok(());
    }
    let message = format!(
        "{} has living members ({} ephemeral nodes): stop every node first. One that was killed is gone after its session \
         timeout: try again in some seconds",
        layout.root(),
        living.len()
    );
    Err(Failure::new(Exit::Failure, message))
}

async fn children(link: &Link, path: &str) -> Result<Vec<String>, Failure> {
    if link.exists(path).await.map_err(|error| unread(&error))?.is_none() {
        return Ok(Vec::new());
    }
    link.children(path).await.map_err(|error| unread(&error))
}

/// Deletes everything under the root, the cluster's record first, so that no node joins meanwhile.
async fn wipe(link: &Link, layout: &Layout) -> Result<(), Failure> {
    let root = layout.root();
    for _ in 0..TRIES {
        let mut paths = Vec::new();
        let mut open = vec![root.to_owned()];
        while let Some(dir) = open.pop() {
            for name in children(link, &dir).await? {
                open.push(format!("{dir}/{name}"));
                paths.push(format!("{dir}/{name}"));
            }
        }
        if paths.is_empty() {
            return Ok(());
        }
        // Children before their parents.
        paths.sort_by_key(|path| (*path != layout.cluster(), std::cmp::Reverse(path.matches('/').count())));
        for chunk in paths.chunks(STEPS_MAX) {
            let Some(last) = chunk.last() else { continue };
            let ops = chunk.iter().map(|path| Op::Delete { path: path.clone(), version: None }).collect();
            // What has gone meanwhile is gone; the next round sees what is left.
            drop(write(link, ops, ReadBack::Gone { path: last.clone() }).await);
        }
    }
    Err(Failure::new(Exit::Failure, format!("{root} could not be emptied: somebody goes on writing there")))
}

/// The epoch is its node's version: it is written until it is there.
async fn raise_epoch(link: &Link, layout: &Layout, epoch: u64) -> Result<(), Failure> {
    let path = layout.epoch();
    link.ensure(&path).await.map_err(|error| unread(&error))?;
    let mut failed = 0;
    loop {
        let stat = link.exists(&path).await.map_err(|error| unread(&error))?;
        let now = stat.map_or(0, |stat| u64::try_from(stat.version).unwrap_or(0));
        let left = usize::try_from(epoch.saturating_sub(now)).unwrap_or(usize::MAX);
        if left == 0 {
            return Ok(());
        }
        let set = Op::Set { path: path.clone(), data: Vec::new(), version: None };
        let ops = vec![set; left.min(STEPS_MAX)];
        // How far it came is read, not remembered.
        if let Err(error) = write(link, ops, ReadBack::Data { path: path.clone(), data: Vec::new() }).await {
            failed += 1;
            if failed == TRIES {
                return Err(unwritten(&path, &error));
            }
        }
    }
}

async fn write(link: &Link, ops: Vec<Op>, read_back: ReadBack) -> Result<(), WriteError> {
    link.write(Write { ops, read_back, undo: Undo::Keep }, WITHIN).await.map(drop)
}

fn unwritten(path: &str, error: &WriteError) -> Failure {
    let message = format!(
        "{path} could not be written: {}. What is there now is no cluster: restore it again with --force",
        chain(error)
    );
    Failure::new(Exit::Failure, message)
}

/// Steps that go together.
#[derive(Debug, Default)]
struct Batch {
    ops: Vec<Op>,
    bytes: usize,
}

impl Batch {
    async fn create(&mut self, link: &Link, path: String, data: Vec<u8>) -> Result<(), Failure> {
        let bytes = path.len() + data.len();
        self.add(link, Op::Create { path, data, mode: Mode::Persistent }, bytes).await
    }

    async fn set(&mut self, link: &Link, path: String, data: Vec<u8>) -> Result<(), Failure> {
        let bytes = path.len() + data.len();
        self.add(link, Op::Set { path, data, version: None }, bytes).await
    }

    async fn add(&mut self, link: &Link, op: Op, bytes: usize) -> Result<(), Failure> {
        if self.ops.len() == STEPS_MAX || self.bytes + bytes > STEP_BYTES_MAX {
            self.flush(link).await?;
        }
        self.bytes += bytes;
        self.ops.push(op);
        Ok(())
    }

    async fn flush(&mut self, link: &Link) -> Result<(), Failure> {
        let ops = std::mem::take(&mut self.ops);
        self.bytes = 0;
        let Some(Op::Create { path, data, .. } | Op::Set { path, data, .. }) = ops.last().cloned() else {
            return Ok(());
        };
        let done = write(link, ops, ReadBack::Data { path: path.clone(), data }).await;
        done.map_err(|error| unwritten(&path, &error))
    }
}
