//! One segment of the log: a file of records that continue one another.

use std::io;
use std::path::Path;

use super::disk::{Disk, DiskFile, Window};
use super::error::OpenError;
use super::record::{self, Kind, Unreadable};

/// Where the first record begins.
pub(super) const HEADER_BYTES: u64 = 64;
const MAGIC: &[u8; 8] = b"keeplog\n";
const VERSION: u32 = 1;
pub(super) const TEMPORARY: &str = "log.tmp";
/// Zeros are written ahead in pieces as long as the file is, within these bounds.
/// More than 1 MiB at once only makes the sync that covers them slow. Small in tests, so that they meet every boundary.
const AHEAD_BYTES_MIN: u64 = if cfg!(test) { 2048 } else { 64 * 1024 };
const AHEAD_BYTES_MAX: u64 = if cfg!(test) { 4096 } else { 1024 * 1024 };
const ZEROS: &[u8] = &[0; 256 * 1024];

/// The name of the segment that begins after `base`.
pub(super) fn name(base: i64) -> String {
    format!("log.{base:016x}")
}

/// The zxid after which the segment called `name` begins.
pub(super) fn base_of(name: &str) -> Option<i64> {
    parse_zxid(name.strip_prefix("log.")?)
}

/// A zxid as file names have it: sixteen hexadecimal digits, lower case.
pub(super) fn parse_zxid(digits: &str) -> Option<i64> {
    let zxid = i64::from_str_radix(digits, 16).ok().filter(|zxid| *zxid >= 0)?;
    (format!("{zxid:016x}") == digits).then_some(zxid)
}

fn header(base: i64) -> [u8; HEADER_BYTES as usize] {
    let mut header = [0; HEADER_BYTES as usize];
    header[0..8].copy_from_slice(MAGIC);
    header[8..12].copy_from_slice(&VERSION.to_le_bytes());
    header[16..24].copy_from_slice(&base.to_le_bytes());
    let crc = crc32fast::hash(&header[..60]);
    header[60..64].copy_from_slice(&crc.to_le_bytes());
    header
}

/// The end of a segment, where records are added.
#[derive(Debug)]
pub(super) struct Writer {
    file: Box<dyn DiskFile>,
    base: i64,
    /// Where the next record goes.
    end: u64,
    /// Up to here there is room in the file; from `end` on it holds zeros.
    allocated: u64,
}

impl Writer {
    /// Makes an empty segment, which is safely on disk, under its name, when this returns.
    pub(super) fn create(disk: &dyn Disk, base: i64) -> io::Result<Self> {
        let writer = Self::prepare(disk, base)?;
        disk.rename(TEMPORARY, &name(base))?;
        disk.sync_names()?;
        Ok(writer)
    }

    /// Makes an empty segment under a temporary name: whatever fails, the log is what it was.
    pub(super) fn prepare(disk: &dyn Disk, base: i64) -> io::Result<Self> {
        let mut file = disk.create(TEMPORARY)?;
        file.write_at(0, &header(base))?;
        let mut writer = Self { file, base, end: HEADER_BYTES, allocated: HEADER_BYTES };
        writer.zero_ahead()?;
        writer.file.sync()?;
        Ok(writer)
    }

    /// Goes on in a segment that was read.
    pub(super) fn resume(file: Box<dyn DiskFile>, scanned: &Scanned) -> Self {
        Self { file, base: scanned.base, end: scanned.end, allocated: scanned.len.max(scanned.end) }
    }

    /// The zxid after which the segment begins.
    pub(super) fn base(&self) -> i64 {
        self.base
    }

    /// Adds records, with one write. Not safely on disk before [`Writer::sync`].
    pub(super) fn write(&mut self, records: &[u8]) -> io::Result<()> {
        self.file.write_at(self.end, records)?;
        self.end += records.len() as u64;
        if self.end > self.allocated {
            self.allocated = self.end;
            match self.zero_ahead() {
                // The records had room; the next ones will be refused if they have none.
                Err(error)
                    if matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) => {}
                result => result?,
            }
        }
        Ok(())
    }

    /// Zeros after the end: a record that later replaces zeros changes neither the length of the file nor the
    /// place of its blocks, so its fdatasync has no metadata to write.
    fn zero_ahead(&mut self) -> io::Result<()> {
        let target = self.allocated + self.allocated.clamp(AHEAD_BYTES_MIN, AHEAD_BYTES_MAX);
        while self.allocated < target {
            let piece = usize::try_from(target - self.allocated).unwrap_or(usize::MAX).min(ZEROS.len());
            self.file.write_at(self.allocated, &ZEROS[..piece])?;
            self.allocated += piece as u64;
        }
        Ok(())
    }

    /// One fdatasync.
    pub(super) fn sync(&mut self) -> io::Result<()> {
        self.file.sync()
    }

    /// Ends a segment after the one that follows exists: from now on that one is missed if it is gone. Gives back
    /// the room that was not used.
    pub(super) fn seal(mut self, last: i64) -> io::Result<()> {
        let mut seal = Vec::new();
        record::push(&mut seal, Kind::Sealed, last, last, last, |_| {})?;
        self.file.write_at(self.end, &seal)?;
        self.file.set_len(self.end + seal.len() as u64)?;
        self.file.sync()
    }
}

/// What was found in a segment.
#[derive(Debug)]
pub(super) struct Scanned {
    /// The zxid after which it begins.
    pub(super) base: i64,
    /// The zxid of its last transaction; `base` if it has none.
    pub(super) last: i64,
    /// Where its last record ends.
    pub(super) end: u64,
    /// The length of the file.
    pub(super) len: u64,
    /// Whether another segment must follow.
    pub(super) sealed: bool,
    /// Bytes after `end` of a write that reached the disk in part.
    pub(super) torn_bytes: u64,
}

/// Reads a segment from its beginning and hands each transaction, as offset, zxid and payload, to `visit`.
/// `is_last` says that no other follows.
pub(super) fn scan(
    file: &dyn DiskFile,
    path: &Path,
    base: i64,
    is_last: bool,
    mut visit: impl FnMut(u64, i64, &[u8]) -> Result<(), OpenError>,
) -> Result<Scanned, OpenError> {
    let mut window = Window::new(file).map_err(OpenError::io("read", path))?;
    verify_header(&mut window, path, base)?;
    let len = window.len();
    let mut scanned = Scanned { base, last: base, end: HEADER_BYTES, len, sealed: false, torn_bytes: 0 };
    while !scanned.sealed {
        let Some((header, payload)) =
            record::read(&mut window, scanned.end).map_err(OpenError::io("read", path))?
        else {
            break;
        };
        if header.previous != scanned.last {
            let problem = format!(
                "transaction {:#x} was written after {:#x}, but {:#x} stands before it",
                header.zxid, header.previous, scanned.last
            );
            return Err(OpenError::damaged(path, scanned.end, problem));
        }
        match header.kind {
            Kind::Txn => visit(scanned.end, header.zxid, payload)?,
            Kind::Sealed => scanned.sealed = true,
            Kind::Closed => {}
        }
        scanned.last = header.zxid;
        scanned.end += header.extent();
    }
    scanned.torn_bytes = torn_bytes(&mut window, path, &scanned, is_last)?;
    Ok(scanned)
}

fn verify_header(window: &mut Window<'_>, path: &Path, base: i64) -> Result<(), OpenError> {
    let bytes = window.at(0, HEADER_BYTES as usize).map_err(OpenError::io("read", path))?;
    if bytes == header(base) {
        return Ok(());
    }
    let word = |at: usize| bytes.get(at..)?.first_chunk().map(|word| u32::from_le_bytes(*word));
    let intact = bytes.starts_with(MAGIC) && word(60) == bytes.get(..60).map(crc32fast::hash);
    match word(8) {
        Some(found) if intact && found != VERSION => Err(OpenError::version(path, found, VERSION)),
        _ if intact => Err(OpenError::damaged(path, 0, "the file was renamed: its header has another zxid")),
        _ => Err(OpenError::damaged(path, 0, "the header is not that of a log segment")),
    }
}

/// How many bytes of a torn write follow the last record; an error if what follows is anything else.
fn torn_bytes(
    window: &mut Window<'_>,
    path: &Path,
    scanned: &Scanned,
    is_last: bool,
) -> Result<u64, OpenError> {
    let (end, last) = (scanned.end, scanned.last);
    match record::judge(window, end, last).map_err(OpenError::io("read", path))? {
        Unreadable::Nothing => Ok(0),
        Unreadable::Torn if !scanned.sealed => {
            let last_nonzero = window.last_nonzero(end).map_err(OpenError::io("read", path))?;
            Ok(last_nonzero.map_or(0, |at| at + 1 - end))
        }
        Unreadable::DamagedBefore { zxid, offset } => {
            let problem = format!(
                "the record after transaction {last:#x} cannot be read, yet it was safely on disk before transaction \
                 {zxid:#x} at offset {offset} was written"
            );
            Err(OpenError::damaged(path, end, problem))
        }
        Unreadable::Torn | Unreadable::DamagedLast => {
            let problem = format!(
                "the record after transaction {last:#x} is wholly there but its bytes changed, so this is no write that \
                 a crash interrupted"
            );
            let mut error = OpenError::damaged(path, end, problem);
            if let OpenError::Damaged { remedy, .. } = &mut error
                && is_last
                && !scanned.sealed
            {
                *remedy = format!(
                    "{remedy}; to give up every transaction after {last:#x} instead: truncate -s {end} '{}'",
                    path.display()
                );
            }
            Err(error)
        }
    }
}

/// Takes away what a torn write left after the last record. To be synced before anything is written there.
pub(super) fn truncate(file: &mut dyn DiskFile, scanned: &mut Scanned) -> io::Result<()> {
    scanned.len = scanned.end;
    scanned.torn_bytes = 0;
    file.set_len(scanned.end)
}
