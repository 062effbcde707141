//! A snapshot: the whole state after one transaction, in one file.

use std::io::{self, Read, Write};
use std::path::Path;

use super::disk::{Disk, DiskFile, Window};
use super::error::OpenError;
use super::segment;
use crate::state::{Image, ImageError, State};

const MAGIC: &[u8; 8] = b"keepsnap";
const VERSION: u32 = 1;
const HEADER_BYTES: u64 = 32;
/// Each piece of the body has its own checksum, so that nothing is read that was not verified.
const PIECE_BYTES: usize = 64 * 1024;
const PIECE_HEADER_BYTES: usize = 8;
/// So much is written between two syncs. A snapshot that is given up ends after one of them at the latest, and one of
/// gigabytes does not stand before the log's syncs in the disk's queue.
pub(super) const SYNC_EVERY_BYTES: u64 = 8 * 1024 * 1024;
pub(super) const TEMPORARY: &str = "snapshot.tmp";

/// The name of the snapshot of the state after `zxid`.
pub(super) fn name(zxid: i64) -> String {
    format!("snapshot.{zxid:016x}")
}

/// The zxid of the snapshot called `name`.
pub(super) fn zxid_of(name: &str) -> Option<i64> {
    segment::parse_zxid(name.strip_prefix("snapshot.")?)
}

fn header(zxid: i64) -> [u8; HEADER_BYTES as usize] {
    let mut header = [0; HEADER_BYTES as usize];
    header[0..8].copy_from_slice(MAGIC);
    header[8..12].copy_from_slice(&VERSION.to_le_bytes());
    header[16..24].copy_from_slice(&zxid.to_le_bytes());
    let crc = crc32fast::hash(&header[..28]);
    header[28..32].copy_from_slice(&crc.to_le_bytes());
    header
}

/// The checksum of a piece covers its place, so that no piece can be lost, doubled or moved.
fn piece_crc(offset: u64, bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&offset.to_le_bytes());
    hasher.update(bytes);
    hasher.finalize()
}

/// Writes a snapshot whose body `body` writes. It is safely on disk, under its name, when this returns; until then
/// no file has that name. Returns its length in bytes.
pub(super) fn write(
    disk: &dyn Disk,
    zxid: i64,
    body: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> io::Result<u64> {
    let mut file = disk.create(TEMPORARY)?;
    file.write_at(0, &header(zxid))?;
    let mut pieces =
        Pieces { file, offset: HEADER_BYTES, unsynced: 0, piece: Vec::with_capacity(PIECE_BYTES) };
    body(&mut pieces)?;
    pieces.flush()?;
    // An empty piece ends the body.
    pieces.put()?;
    let Pieces { mut file, offset, .. } = pieces;
    file.sync()?;
    disk.rename(TEMPORARY, &name(zxid))?;
    disk.sync_names()?;
    Ok(offset)
}

struct Pieces {
    file: Box<dyn DiskFile>,
    offset: u64,
    unsynced: u64,
    piece: Vec<u8>,
}

impl Pieces {
    fn put(&mut self) -> io::Result<()> {
        let length = u32::try_from(self.piece.len()).map_err(io::Error::other)?;
        let mut out = Vec::with_capacity(PIECE_HEADER_BYTES + self.piece.len());
        out.extend_from_slice(&length.to_le_bytes());
        out.extend_from_slice(&piece_crc(self.offset, &self.piece).to_le_bytes());
        out.append(&mut self.piece);
        self.file.write_at(self.offset, &out)?;
        self.offset += out.len() as u64;
        self.unsynced += out.len() as u64;
        if self.unsynced >= SYNC_EVERY_BYTES {
            self.file.sync()?;
            self.unsynced = 0;
        }
        Ok(())
    }
}

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(PIECE_BYTES - self.piece.len());
        self.piece.extend_from_slice(&bytes[..taken]);
        if self.piece.len() == PIECE_BYTES {
            self.put()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.piece.is_empty() { Ok(()) } else { self.put() }
    }
}

/// Reads the snapshot of `zxid` from its file.
///
/// # Errors
///
/// [`OpenError::Damaged`] when the snapshot cannot be used, and an older one may do.
pub(super) fn read(file: &dyn DiskFile, path: &Path, zxid: i64) -> Result<State, OpenError> {
    let mut window = Window::new(file).map_err(OpenError::io("read", path))?;
    let bytes = window.at(0, HEADER_BYTES as usize).map_err(OpenError::io("read", path))?;
    if bytes != header(zxid) {
        let word = |at: usize| bytes.get(at..)?.first_chunk().map(|word| u32::from_le_bytes(*word));
        let intact = bytes.starts_with(MAGIC) && word(28) == bytes.get(..28).map(crc32fast::hash);
        return Err(match word(8) {
            Some(found) if intact && found != VERSION => OpenError::version(path, found, VERSION),
            _ => OpenError::damaged(path, 0, "the header is not that of this snapshot"),
        });
    }
    let mut body =
        Body { window, offset: HEADER_BYTES, piece: Vec::new(), taken: 0, ended: false, failure: None };
    let state = State::read_from(&mut body);
    let at_end = body.finish();
    // What the file layer and the checksums say comes first: the decoder only saw its bytes end.
    match body.failure {
        Some(Failure::Io(source)) => return Err(OpenError::io("read", path)(source)),
        Some(Failure::Checksum(offset)) => {
            return Err(OpenError::damaged(path, offset, "a piece of the snapshot fails its checksum"));
        }
        None => {}
    }
    let state = state.map_err(|error| match error {
        ImageError::Version { found } => OpenError::version(path, found.into(), Image::VERSION.into()),
        error => OpenError::damaged(path, HEADER_BYTES, format!("the snapshot makes no sense: {error}")),
    })?;
    if !at_end {
        return Err(OpenError::damaged(path, body.offset, "the snapshot goes on where it should end"));
    }
    if state.last_zxid() != zxid {
        let problem = format!("the state in it is that after transaction {:#x}", state.last_zxid());
        return Err(OpenError::damaged(path, HEADER_BYTES, problem));
    }
    Ok(state)
}

enum Failure {
    Io(io::Error),
    /// Of the piece at this offset.
    Checksum(u64),
}

/// The verified bytes of a snapshot's body.
struct Body<'a> {
    window: Window<'a>,
    /// Where the next piece begins.
    offset: u64,
    piece: Vec<u8>,
    /// How much of `piece` was read.
    taken: usize,
    ended: bool,
    failure: Option<Failure>,
}

impl Body<'_> {
    /// Takes the next piece, verified.
    fn next_piece(&mut self) -> Result<(), Failure> {
        let header = self.window.at(self.offset, PIECE_HEADER_BYTES).map_err(Failure::Io)?;
        let Some((length, crc)) = header
            .split_first_chunk()
            .zip(header.last_chunk())
            .map(|((length, _), crc)| (u32::from_le_bytes(*length) as usize, u32::from_le_bytes(*crc)))
        else {
            return Err(Failure::Checksum(self.offset));
        };
        let bytes = self
            .window
            .at(self.offset + PIECE_HEADER_BYTES as u64, length.min(PIECE_BYTES))
            .map_err(Failure::Io)?;
        if bytes.len() != length || piece_crc(self.offset, bytes) != crc {
            return Err(Failure::Checksum(self.offset));
        }
        self.piece.clear();
        self.piece.extend_from_slice(bytes);
        self.taken = 0;
        self.ended = length == 0;
        self.offset += (PIECE_HEADER_BYTES + length) as u64;
        Ok(())
    }

    /// Whether the body was read to its end, with nothing after it.
    fn finish(&mut self) -> bool {
        matches!(self.read(&mut [0]), Ok(0)) && self.window.len() == self.offset
    }
}

impl Read for Body<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.taken == self.piece.len()
            && !self.ended
            && self.failure.is_none()
            && let Err(failure) = self.next_piece()
        {
            self.failure = Some(failure);
        }
        if self.failure.is_some() {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the snapshot cannot be read"));
        }
        let read = (&self.piece[self.taken..]).read(buffer)?;
        self.taken += read;
        Ok(read)
    }
}
