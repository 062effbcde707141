//! Durable storage: a log of transactions, snapshots of the state, and recovery from them.
//!
//! Blocking, for a thread of its own: `append` the transactions of a group, `sync` once, then let the replies out.
//!
//! # Files
//!
//! ```text
//! <data_dir>/lock                         held (flock) while a server uses the directory; says its process id
//! <data_dir>/log.<zxid>                   a segment of the log: the transactions after <zxid> (16 hex digits)
//! <data_dir>/snapshot.<zxid>              the whole state after transaction <zxid>
//! <data_dir>/log.tmp, snapshot.tmp        being made; removed when the directory is opened
//! ```
//!
//! All numbers are little endian. A segment is a header of 64 bytes and then records, each at a multiple of 8; after
//! the last one the file holds zeros. A snapshot is a header of 32 bytes and then pieces; an empty piece ends it.
//!
//! | segment header | | record | | snapshot header | | piece | |
//! |---|---|---|---|---|---|---|---|
//! | 0  | `keeplog\n`         | 0  | `kRec`                                     | 0  | `keepsnap`       | 0 | length, at most 64 KiB |
//! | 8  | u32 version, 1      | 4  | u32 length of the payload                  | 8  | u32 version, 1   | 4 | u32 crc32 of the piece's offset in the file (u64) and its bytes |
//! | 12 | zero                | 8  | i64 zxid                                   | 12 | zero             | 8 | the bytes |
//! | 16 | i64 zxid before the first record | 16 | i64 zxid of the transaction before | 16 | i64 zxid        | | |
//! | 24 | zero                | 24 | i64 zxid that was synced when this was written | 24 | zero         | | |
//! | 60 | u32 crc32 of 0..60  | 32 | u32 crc32 of the payload                   | 28 | u32 crc32 of 0..28 | | |
//! |    |                     | 36 | u32 kind: 1 transaction, 2 sealed, 3 closed | | | | |
//! |    |                     | 40 | u32 crc32 of 0..40                         | | | | |
//! |    |                     | 44 | `e1 e2 e3 e4`, never zero                  | | | | |
//! |    |                     | 48 | the payload, then 1 to 8 bytes `a5` up to a multiple of 8 | | | | |
//!
//! # Invariants
//!
//! - **A transaction is acknowledged only after the fdatasync that covers its record**, and a write or a sync that
//!   failed is the last one: the store refuses everything afterwards. A second fdatasync may report success for
//!   pages that the kernel has already dropped. (What fails before a new segment has its name concerns no record.)
//! - **Files appear whole.** A segment and a snapshot are made under a temporary name, synced, renamed, and the
//!   directory is synced, before anything relies on them.
//! - **The order of a rotation**: sync the log; make the next segment; seal the old one; only then append to the
//!   next, and only then write the snapshot it goes on from. So a snapshot never holds a transaction that the log
//!   could lose, every snapshot's segment exists, and a segment that is sealed or lies before a snapshot proves that
//!   a later one must be there.
//! - **The order of pruning**: old snapshots first, sync the directory, then the segments that only they needed. Kept
//!   are the newest [`Options::snapshots_kept`] snapshots and all segments from the oldest of them on.
//! - **What recovery shows was synced**: records that a killed process had written but not synced count if they are
//!   whole, so recovery syncs the log before anybody reads the state.
//!
//! # Recovery, and what is refused
//!
//! The newest snapshot that is whole, then every transaction after it. A damaged snapshot is passed over when an
//! older one and the log still lead to the present. The log must be one chain: each record names the zxid before it.
//!
//! Where the chain ends there is a place without an intact record. It is one of three things:
//!
//! 1. *Zeros to the end of the file*: nothing was written there. The segment is filled with zeros ahead of the
//!    records, since an fdatasync that changes neither the file's length nor its blocks writes no metadata. On ext4 a
//!    write of 4 KiB and its sync took 97 µs so (median of 500), 163 µs when the file grew, and 157 µs after `fallocate`,
//!    whose blocks must be marked as written.
//! 2. *A torn write*: the power failed, or the process died, between a write and the end of its fdatasync. A group is
//!    one write, and the disk may have kept any of its sectors, so valid records can follow the gap. But nothing
//!    was written after that group, because the next write waits for the sync. Hence: **every valid record that
//!    follows says that no more than what we have was synced when it was written** (the field at 24), and **the broken
//!    record has a hole**: its last byte, or all of it that lies in some sector of 512 bytes, is still the zero it was
//!    before, since a disk writes a sector wholly or not at all. Nobody had been told of these transactions. They are
//!    cut off, and [`Recovery::torn`] says so.
//! 3. *Anything else is damage* and refuses to start, naming file, offset and remedy: a valid record further on that
//!    was written after a later transaction had been synced, a record without a hole, a gap in the chain, a
//!    missing segment, a log that ends before a snapshot. Serving would silently take back what was acknowledged.
//!
//! What cannot be told apart: a last group that the disk had confirmed and later reads as zeros in whole sectors looks
//! like a torn write (and so does damage to a last record whose data are zeros for a whole sector). A server that
//! stopped in order leaves a closing record, after which even that is noticed.

mod disk;
mod error;
mod lock;
mod record;
mod recovery;
mod segment;
mod snapshot;
#[cfg(test)]
mod tests;

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use self::disk::{Disk, RealDisk};
pub use self::error::OpenError;
use self::lock::Lock;
use self::record::Kind;
use self::segment::Writer;
use crate::state::{Image, State, Txn};

/// How storage behaves.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Options {
    /// Transactions after which a snapshot is due. Default 100,000.
    pub snapshot_every_txns: u64,
    /// Bytes of log after which a snapshot is due, which bounds the length of a segment and the time of recovery.
    /// Default 64 MiB.
    pub snapshot_every_bytes: u64,
    /// How many snapshots are kept, at least 1, with the log since the oldest of them. Default 3.
    pub snapshots_kept: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { snapshot_every_txns: 100_000, snapshot_every_bytes: 64 * 1024 * 1024, snapshots_kept: 3 }
    }
}

/// What opening a directory found.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Recovery {
    /// The last transaction of the recovered state.
    pub last_zxid: i64,
    /// The snapshot it began with.
    pub snapshot_zxid: Option<i64>,
    /// Newer snapshots that were damaged and not needed.
    pub snapshots_skipped: usize,
    /// Transactions that were applied after the snapshot.
    pub txns_replayed: u64,
    /// The bytes of their payloads.
    pub bytes_replayed: u64,
    /// A write that a crash had interrupted and that was taken off the end of the log.
    pub torn: Option<Torn>,
    /// Files that were being made when the server before ended.
    pub temporaries_removed: usize,
}

/// A write that a crash interrupted: nobody had been told of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Torn {
    /// The segment.
    pub path: PathBuf,
    /// Where the segment now ends.
    pub offset: u64,
    /// How many bytes were taken off.
    pub bytes: u64,
}

/// The open log of one data directory.
///
/// Dropping it is what a crash is: nothing is written. [`Store::close`] is the orderly end.
#[derive(Debug)]
pub struct Store {
    disk: Arc<dyn Disk>,
    lock: Option<Arc<Lock>>,
    options: Options,
    writer: Writer,
    buffer: Vec<u8>,
    /// The last transaction that was written.
    last: i64,
    /// The last transaction that is safely on disk.
    synced: i64,
    txns_since_snapshot: u64,
    bytes_since_snapshot: u64,
    snapshot_running: bool,
    /// Told to the snapshot that is being written: nobody waits for it any more.
    given_up: Arc<AtomicBool>,
    failed: bool,
    recovery: Recovery,
}

impl Store {
    /// Takes the directory, which is made if it is not there, and recovers its state. What is recovered is safely on
    /// disk.
    ///
    /// # Errors
    ///
    /// When another server uses the directory, when the disk fails, and when the files cannot be what a server left
    /// behind, crashes included (see the module documentation). Then nothing but temporary files was changed.
    pub fn open(dir: &Path, options: Options) -> Result<(Self, State), OpenError> {
        let disk = RealDisk::new(dir).map_err(OpenError::io("make the data directory", dir))?;
        let lock = Lock::take(dir)?;
        Self::open_on(Arc::new(disk), Some(Arc::new(lock)), options)
    }

    fn open_on(
        disk: Arc<dyn Disk>,
        lock: Option<Arc<Lock>>,
        options: Options,
    ) -> Result<(Self, State), OpenError> {
        let recovered = recovery::recover(&*disk)?;
        let report = recovered.report;
        tracing::debug!(?report, "recovered");
        let store = Self {
            disk,
            lock,
            options,
            writer: recovered.writer,
            buffer: Vec::new(),
            last: report.last_zxid,
            synced: report.last_zxid,
            txns_since_snapshot: report.txns_replayed,
            bytes_since_snapshot: report.bytes_replayed,
            snapshot_running: false,
            given_up: Arc::default(),
            failed: false,
            recovery: report,
        };
        Ok((store, recovered.state))
    }

    /// What opening found.
    #[must_use]
    pub fn recovery(&self) -> &Recovery {
        &self.recovery
    }

    /// The zxid of the last transaction that was appended.
    #[must_use]
    pub fn last_zxid(&self) -> i64 {
        self.last
    }

    /// Adds transactions to the log, with one write. They count after [`Store::sync`].
    ///
    /// # Errors
    ///
    /// When the disk refuses, and always after the first failure of this store; the server has to stop. What was
    /// synced is safe.
    pub fn append(&mut self, txns: &[Txn]) -> io::Result<()> {
        if txns.is_empty() {
            return self.usable();
        }
        self.finally("write", |store| {
            store.buffer.clear();
            let mut last = store.last;
            for txn in txns {
                if txn.zxid <= last {
                    let message = format!("transaction {:#x} after {last:#x}", txn.zxid);
                    return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
                }
                record::push(&mut store.buffer, Kind::Txn, txn.zxid, last, store.synced, |out| {
                    txn.encode(out)
                })?;
                last = txn.zxid;
            }
            store.writer.write(&store.buffer)?;
            store.last = last;
            store.txns_since_snapshot += txns.len() as u64;
            store.bytes_since_snapshot += store.buffer.len() as u64;
            // One huge group must not keep its memory for ever.
            store.buffer.shrink_to(1024 * 1024);
            Ok(())
        })
    }

    /// Makes everything that was appended last, with one fdatasync; nothing if there is nothing new.
    ///
    /// # Errors
    ///
    /// As [`Store::append`]. What was appended since the last success may or may not be there after a restart.
    pub fn sync(&mut self) -> io::Result<()> {
        if self.synced == self.last {
            return self.usable();
        }
        self.finally("sync", |store| {
            store.writer.sync()?;
            store.synced = store.last;
            Ok(())
        })
    }

    /// Whether it is time for a snapshot; never while one is being written.
    #[must_use]
    pub fn snapshot_due(&self) -> bool {
        !self.snapshot_running
            && (self.txns_since_snapshot >= self.options.snapshot_every_txns
                || self.bytes_since_snapshot >= self.options.snapshot_every_bytes)
    }

    /// Begins a new segment, and hands out the work of writing `image`, the state after the last appended transaction.
    /// Run it on another thread and give its result to [`Store::finished_snapshot`]; until then no other is begun.
    ///
    /// Nothing is handed out if there is no room for a new segment, or no file descriptor: the log goes on in the one it
    /// has, and the next snapshot is due in its time.
    ///
    /// # Errors
    ///
    /// As [`Store::append`]; also when a snapshot is running, or `image` is of another moment.
    pub fn begin_snapshot(&mut self, image: Image) -> io::Result<Option<SnapshotJob>> {
        self.sync()?;
        self.finally("rotate", |store| {
            let wrong = |message| Err(io::Error::new(io::ErrorKind::InvalidInput, message));
            if store.snapshot_running {
                return wrong("a snapshot is being written already".to_owned());
            }
            if image.last_zxid() != store.last {
                return wrong(format!(
                    "an image of {:#x} when the log is at {:#x}",
                    image.last_zxid(),
                    store.last
                ));
            }
            store.txns_since_snapshot = 0;
            store.bytes_since_snapshot = 0;
            // Without a transaction since it began, the segment is already the one that goes on from here.
            if store.writer.base() != store.last
                && let Some(error) = store.rotate()?
            {
                tracing::warn!(
                    zxid = store.last, %error,
                    "failed to begin a new segment of the log; it goes on in the one it has, and the next snapshot is tried in its time"
                );
                return Ok(None);
            }
            store.snapshot_running = true;
            Ok(Some(SnapshotJob {
                disk: Arc::clone(&store.disk),
                _lock: store.lock.clone(),
                zxid: store.last,
                image,
                kept: store.options.snapshots_kept.max(1),
                given_up: Arc::clone(&store.given_up),
            }))
        })
    }

    /// Goes on in a new segment, unless it could not be made: then says why, and the old one goes on as if nothing had been.
    fn rotate(&mut self) -> io::Result<Option<io::Error>> {
        let next = match Writer::prepare(&*self.disk, self.last) {
            Ok(next) => next,
            Err(error) => {
                // Room that the log may need. The next start removes it otherwise.
                let _ = self.disk.remove(segment::TEMPORARY);
                return Ok(Some(error));
            }
        };
        if let Err(error) = self.disk.rename(segment::TEMPORARY, &segment::name(self.last)) {
            // Two segments that both go on from here would be a damaged log. That the file can be removed by its
            // temporary name shows that it did not get the other one.
            return match self.disk.remove(segment::TEMPORARY) {
                Ok(()) => Ok(Some(error)),
                Err(_) => Err(error),
            };
        }
        self.disk.sync_names()?;
        std::mem::replace(&mut self.writer, next).seal(self.last)?;
        Ok(None)
    }

    /// Takes back the result of the [`SnapshotJob`] that ran. A snapshot that failed costs nothing but the room and the
    /// time that the log takes until the next one; it is logged.
    pub fn finished_snapshot(&mut self, done: &SnapshotDone) {
        self.snapshot_running = false;
        let zxid = done.zxid;
        match &done.written {
            Ok(bytes) => tracing::debug!(zxid, bytes, "wrote a snapshot"),
            Err(error) => tracing::warn!(
                zxid, %error,
                "failed to write a snapshot; the log is kept instead and the next one is tried in its time"
            ),
        }
        if let Err(error) = &done.pruned {
            tracing::warn!(
                zxid, %error,
                "failed to remove the files that a new snapshot makes superfluous; tried again after the next one"
            );
        }
    }

    /// The [`SnapshotJob`] that ran is gone without a result: it counts as one that failed.
    pub fn lost_snapshot(&mut self) {
        self.snapshot_running = false;
        tracing::warn!("a snapshot was lost; the log is kept instead and the next one is tried in its time");
    }

    /// Has the [`SnapshotJob`] that runs, if one does, and all later ones end soon and fail: nobody waits for them any more.
    pub fn give_up_snapshots(&self) {
        self.given_up.store(true, Ordering::Relaxed);
    }

    /// Ends in order: syncs, and leaves a closing record, which proves to the next start that nothing is missing.
    ///
    /// # Errors
    ///
    /// As [`Store::sync`].
    pub fn close(mut self) -> io::Result<()> {
        self.sync()?;
        self.finally("close", |store| {
            store.buffer.clear();
            record::push(&mut store.buffer, Kind::Closed, store.last, store.last, store.last, |_| {})?;
            store.writer.write(&store.buffer)?;
            store.writer.sync()
        })
    }

    fn usable(&self) -> io::Result<()> {
        if self.failed {
            Err(io::Error::other("the log failed before and takes nothing more"))
        } else {
            Ok(())
        }
    }

    /// Runs one step; if it fails it was the last one.
    fn finally<T>(&mut self, step: &str, run: impl FnOnce(&mut Self) -> io::Result<T>) -> io::Result<T> {
        self.usable()?;
        run(self).map_err(|error| {
            self.failed = true;
            let path = self.disk.path(&segment::name(self.writer.base()));
            let hint = match error.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "; make room and start again",
                _ => "",
            };
            io::Error::new(
                error.kind(),
                format!("failed to {step} the log {}: {error}{hint}", path.display()),
            )
        })
    }
}

/// The work of writing one snapshot and removing what it makes superfluous. Holds the directory's lock.
#[derive(Debug)]
pub struct SnapshotJob {
    disk: Arc<dyn Disk>,
    _lock: Option<Arc<Lock>>,
    zxid: i64,
    image: Image,
    kept: usize,
    given_up: Arc<AtomicBool>,
}

impl SnapshotJob {
    #[cfg(test)]
    pub(crate) fn is_given_up(&self) -> bool {
        self.given_up.load(Ordering::Relaxed)
    }

    /// Writes the snapshot. Blocks; dropping the job instead of running it is a snapshot that failed.
    #[must_use]
    pub fn run(self) -> SnapshotDone {
        let written = snapshot::write(&*self.disk, self.zxid, |out| {
            self.image.write_to(UnlessGivenUp { out, given_up: &self.given_up })
        });
        let pruned = match &written {
            Ok(_) => self.prune(),
            Err(_) => {
                // Room that the log may need. The next start removes it otherwise.
                let _ = self.disk.remove(snapshot::TEMPORARY);
                Ok(())
            }
        };
        SnapshotDone { zxid: self.zxid, written, pruned }
    }

    fn prune(&self) -> io::Result<()> {
        let names = self.disk.list()?;
        let snapshots: Vec<i64> = names.iter().filter_map(|name| snapshot::zxid_of(name)).collect();
        let Some(first_kept) = snapshots.len().checked_sub(self.kept) else { return Ok(()) };
        let Some(oldest) = snapshots.get(first_kept).copied() else { return Ok(()) };
        for zxid in &snapshots[..first_kept] {
            self.disk.remove(&snapshot::name(*zxid))?;
        }
        // A snapshot without its segment would look like a segment that was lost.
        self.disk.sync_names()?;
        for base in names.iter().filter_map(|name| segment::base_of(name)).filter(|base| *base < oldest) {
            self.disk.remove(&segment::name(base))?;
        }
        Ok(())
    }
}

/// The output of a snapshot, until it is given up.
struct UnlessGivenUp<'a> {
    out: &'a mut dyn Write,
    given_up: &'a AtomicBool,
}

impl Write for UnlessGivenUp<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.given_up.load(Ordering::Relaxed) {
            return Err(io::Error::other("the server ends"));
        }
        self.out.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// What became of a [`SnapshotJob`].
#[derive(Debug)]
pub struct SnapshotDone {
    zxid: i64,
    /// Its length in bytes.
    written: io::Result<u64>,
    /// Whether what it makes superfluous could be removed.
    pruned: io::Result<()>,
}
