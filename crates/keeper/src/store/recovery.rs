//! From the files of a data directory to the state: which are needed, whether they are whole, and what is refused.

use std::path::Path;

use super::disk::{Disk, DiskFile};
use super::error::OpenError;
use super::segment::{self, Scanned, Writer};
use super::{Recovery, Torn, snapshot};
use crate::state::{State, Txn, TxnError};

/// What recovery hands to the store.
pub(super) struct Recovered {
    pub(super) state: State,
    pub(super) writer: Writer,
    pub(super) report: Recovery,
}

/// Recovers the state; afterwards everything it is made of is safely on disk.
pub(super) fn recover(disk: &dyn Disk) -> Result<Recovered, OpenError> {
    let here = disk.path("");
    let mut report = Recovery::default();
    let names = disk.list().map_err(OpenError::io("list", &here))?;
    for name in names.iter().filter(|name| is_temporary(name)) {
        disk.remove(name).map_err(OpenError::io("remove", &disk.path(name)))?;
        report.temporaries_removed += 1;
    }
    // Names have a fixed width, so the order of the names is that of the zxids.
    let segments: Vec<i64> = names.iter().filter_map(|name| segment::base_of(name)).collect();
    let snapshots: Vec<i64> = names.iter().filter_map(|name| snapshot::zxid_of(name)).collect();

    if segments.is_empty() && snapshots.is_empty() {
        let writer = Writer::create(disk, 0).map_err(OpenError::io("create a log segment in", &here))?;
        return Ok(Recovered { state: State::new(), writer, report });
    }

    let (mut state, needed) = newest_usable(disk, &snapshots, &segments, &mut report)?;
    let mut writer = None;
    for (index, base) in needed.iter().enumerate() {
        let next = needed.get(index + 1).copied();
        let path = disk.path(&segment::name(*base));
        let file = disk.open(&segment::name(*base)).map_err(OpenError::io("open", &path))?;
        let scanned = segment::scan(&*file, &path, *base, next.is_none(), |offset, zxid, payload| {
            replay(&mut state, &path, offset, zxid, payload, &mut report)
        })?;
        match next {
            Some(next) => follow_up(file, &path, scanned, next)?,
            None => writer = Some(last_segment(file, &path, scanned, &mut report)?),
        }
    }
    disk.sync_names().map_err(OpenError::io("sync", &here))?;
    let Some((writer, last)) = writer else {
        return Err(missing(
            disk,
            snapshots.last().copied().unwrap_or(0),
            "no log segment follows the snapshots",
        ));
    };
    if last != state.last_zxid() {
        let path = disk.path(&segment::name(writer.base()));
        let problem = format!(
            "the log ends with transaction {last:#x}, but the state is already that after {:#x}",
            state.last_zxid()
        );
        return Err(OpenError::damaged(&path, segment::HEADER_BYTES, problem));
    }
    report.last_zxid = last;
    Ok(Recovered { state, writer, report })
}

fn is_temporary(name: &str) -> bool {
    name == segment::TEMPORARY || name == snapshot::TEMPORARY
}

fn missing(disk: &dyn Disk, base: i64, problem: impl Into<String>) -> OpenError {
    OpenError::Missing { path: disk.path(&segment::name(base)), problem: problem.into() }
}

/// The state to begin with, and the segments (their bases) that lead from it to the present.
fn newest_usable(
    disk: &dyn Disk,
    snapshots: &[i64],
    segments: &[i64],
    report: &mut Recovery,
) -> Result<(State, Vec<i64>), OpenError> {
    // A snapshot is named after the segment that goes on from it was made, and no segment goes before its snapshot.
    for zxid in snapshots {
        if !segments.contains(zxid) {
            let problem =
                format!("{} says that the log goes on there", disk.path(&snapshot::name(*zxid)).display());
            return Err(missing(disk, *zxid, problem));
        }
    }
    let mut first_damage = None;
    for zxid in snapshots.iter().rev() {
        let path = disk.path(&snapshot::name(*zxid));
        let file = disk.open(&snapshot::name(*zxid)).map_err(OpenError::io("open", &path))?;
        match snapshot::read(&*file, &path, *zxid) {
            Ok(state) => {
                report.snapshot_zxid = Some(*zxid);
                return Ok((state, segments.iter().copied().filter(|base| base >= zxid).collect()));
            }
            // An older snapshot and the log make the same state.
            Err(error @ OpenError::Damaged { .. }) => {
                tracing::warn!(error = %error, "a snapshot cannot be used; trying the one before it");
                report.snapshots_skipped += 1;
                first_damage.get_or_insert(error);
            }
            Err(error) => return Err(error),
        }
    }
    match (segments.first(), first_damage) {
        (Some(0), _) => Ok((State::new(), segments.to_vec())),
        (_, Some(OpenError::Damaged { path, offset, problem, remedy })) => Err(OpenError::Damaged {
            path,
            offset,
            problem: format!("{problem}, and the log does not reach back to the beginning"),
            remedy,
        }),
        (_, Some(error)) => Err(error),
        (first, None) => {
            let problem = format!(
                "the log begins after transaction {:#x} and there is no snapshot",
                first.copied().unwrap_or(0)
            );
            Err(missing(disk, 0, problem))
        }
    }
}

fn replay(
    state: &mut State,
    path: &Path,
    offset: u64,
    zxid: i64,
    payload: &[u8],
    report: &mut Recovery,
) -> Result<(), OpenError> {
    let txn = Txn::decode(payload).map_err(|error| match error {
        TxnError::Version { found } => OpenError::version(path, found.into(), Txn::VERSION.into()),
        error => OpenError::damaged(path, offset, format!("transaction {zxid:#x} makes no sense: {error}")),
    })?;
    if txn.zxid != zxid {
        let problem = format!("the record of transaction {zxid:#x} holds transaction {:#x}", txn.zxid);
        return Err(OpenError::damaged(path, offset, problem));
    }
    state.replay(&txn).map_err(|error| {
        OpenError::damaged(
            path,
            offset,
            format!("transaction {zxid:#x} does not fit the state before it: {error}"),
        )
    })?;
    report.txns_replayed += 1;
    report.bytes_replayed += payload.len() as u64;
    Ok(())
}

/// A segment that another follows: everything up to that one must be there.
fn follow_up(
    mut file: Box<dyn DiskFile>,
    path: &Path,
    mut scanned: Scanned,
    next: i64,
) -> Result<(), OpenError> {
    if scanned.last != next {
        let problem = format!(
            "the segment ends with transaction {:#x}, but the next one goes on after {next:#x}",
            scanned.last
        );
        return Err(OpenError::damaged(path, scanned.end, problem));
    }
    if !scanned.sealed {
        // The crash came between making the next segment and sealing this one.
        segment::truncate(&mut *file, &mut scanned).map_err(OpenError::io("truncate", path))?;
        let sealed = Writer::resume(file, &scanned).seal(scanned.last);
        sealed.map_err(OpenError::io("seal", path))?;
    }
    Ok(())
}

/// The segment where the log goes on, and its last zxid.
fn last_segment(
    mut file: Box<dyn DiskFile>,
    path: &Path,
    mut scanned: Scanned,
    report: &mut Recovery,
) -> Result<(Writer, i64), OpenError> {
    if scanned.sealed {
        return Err(OpenError::Missing {
            path: path.with_file_name(segment::name(scanned.last)),
            problem: format!("{} says that the log goes on there", path.display()),
        });
    }
    if scanned.torn_bytes > 0 {
        report.torn = Some(Torn { path: path.to_owned(), offset: scanned.end, bytes: scanned.torn_bytes });
        segment::truncate(&mut *file, &mut scanned).map_err(OpenError::io("truncate", path))?;
    }
    let last = scanned.last;
    let mut writer = Writer::resume(file, &scanned);
    // A process that was killed may have left records that no sync covered. They count from now on, so they
    // must not vanish with the next power cut.
    writer.sync().map_err(OpenError::io("sync", path))?;
    Ok((writer, last))
}
