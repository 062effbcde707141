//! One record of the log: what it looks like, and whether one that cannot be read was torn or damaged.

use std::io;

use super::disk::Window;

/// Bytes of a record before its payload.
pub(super) const HEADER_BYTES: usize = 48;
/// Records begin at multiples of this, so that a search for them is quick.
pub(super) const ALIGNMENT: u64 = 8;
/// What a disk writes wholly or not at all.
const SECTOR_BYTES: u64 = 512;

const MAGIC: u32 = u32::from_le_bytes(*b"kRec");
/// Never zero: a header or a payload whose end did not reach the disk shows it.
const END_MARK: u32 = u32::from_le_bytes([0xE1, 0xE2, 0xE3, 0xE4]);
const FILLER: u8 = 0xA5;

/// What a record says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// The payload is a transaction.
    Txn = 1,
    /// The segment ends here, another one follows. Without payload.
    Sealed = 2,
    /// The server stopped in order here; more may follow. Without payload.
    Closed = 3,
}

/// A record's header, read and verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) kind: Kind,
    pub(super) payload_bytes: u32,
    /// The transaction's zxid; that of the last transaction for a record that holds none.
    pub(super) zxid: i64,
    /// The zxid of the transaction before.
    pub(super) previous: i64,
    /// All transactions up to this one were safely on disk when this record was written.
    pub(super) synced: i64,
    payload_crc: u32,
}

impl Header {
    /// Bytes of the whole record.
    pub(super) fn extent(&self) -> u64 {
        let payload = u64::from(self.payload_bytes);
        HEADER_BYTES as u64 + payload + (ALIGNMENT - payload % ALIGNMENT)
    }

    /// Reads a header and verifies its checksum and its sense.
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; HEADER_BYTES] = bytes.first_chunk()?;
        let word = |at: usize| bytes[at..].first_chunk().map(|word| u32::from_le_bytes(*word));
        let long = |at: usize| bytes[at..].first_chunk().map(|long| i64::from_le_bytes(*long));
        if word(0)? != MAGIC || word(44)? != END_MARK || word(40)? != crc32fast::hash(&bytes[..40]) {
            return None;
        }
        let kind = match word(36)? {
            1 => Kind::Txn,
            2 => Kind::Sealed,
            3 => Kind::Closed,
            _ => return None,
        };
        let header = Self {
            kind,
            payload_bytes: word(4)?,
            zxid: long(8)?,
            previous: long(16)?,
            synced: long(24)?,
            payload_crc: word(32)?,
        };
        let sensible = match kind {
            Kind::Txn => header.zxid > header.previous,
            Kind::Sealed | Kind::Closed => header.zxid == header.previous && header.payload_bytes == 0,
        };
        (sensible && header.synced <= header.previous).then_some(header)
    }

    /// Whether `rest`, all that follows the header in the record, is what was written.
    fn covers(&self, rest: &[u8]) -> bool {
        let Some((payload, filler)) = rest.split_at_checked(self.payload_bytes as usize) else {
            return false;
        };
        rest.len() as u64 + HEADER_BYTES as u64 == self.extent()
            && filler.iter().all(|byte| *byte == FILLER)
            && crc32fast::hash(payload) == self.payload_crc
    }
}

/// Appends one record to `out`; `payload` appends its payload.
///
/// # Errors
///
/// When the payload is 4 GiB or more.
pub(super) fn push(
    out: &mut Vec<u8>,
    kind: Kind,
    zxid: i64,
    previous: i64,
    synced: i64,
    payload: impl FnOnce(&mut Vec<u8>),
) -> io::Result<()> {
    let start = out.len();
    out.resize(start + HEADER_BYTES, 0);
    payload(out);
    let body = &out[start + HEADER_BYTES..];
    let payload_bytes = u32::try_from(body.len())
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "a transaction of 4 GiB or more"))?;
    let payload_crc = crc32fast::hash(body);
    let mut header = [0; HEADER_BYTES];
    header[0..4].copy_from_slice(&MAGIC.to_le_bytes());
    header[4..8].copy_from_slice(&payload_bytes.to_le_bytes());
    header[8..16].copy_from_slice(&zxid.to_le_bytes());
    header[16..24].copy_from_slice(&previous.to_le_bytes());
    header[24..32].copy_from_slice(&synced.to_le_bytes());
    header[32..36].copy_from_slice(&payload_crc.to_le_bytes());
    header[36..40].copy_from_slice(&(kind as u32).to_le_bytes());
    let header_crc = crc32fast::hash(&header[..40]);
    header[40..44].copy_from_slice(&header_crc.to_le_bytes());
    header[44..48].copy_from_slice(&END_MARK.to_le_bytes());
    out[start..start + HEADER_BYTES].copy_from_slice(&header);
    let filler = ALIGNMENT as usize - payload_bytes as usize % ALIGNMENT as usize;
    out.resize(out.len() + filler, FILLER);
    Ok(())
}

/// Reads the record at `offset`: its header and its payload, or `None` when there is no intact record.
pub(super) fn read<'w>(window: &'w mut Window<'_>, offset: u64) -> io::Result<Option<(Header, &'w [u8])>> {
    let Some(header) = Header::parse(window.at(offset, HEADER_BYTES)?) else { return Ok(None) };
    let fits = offset.checked_add(header.extent()).is_some_and(|end| end <= window.len());
    let Some(wanted) = usize::try_from(header.extent()).ok().filter(|_| fits) else { return Ok(None) };
    let rest = window.at(offset, wanted)?.get(HEADER_BYTES..).unwrap_or_default();
    if !header.covers(rest) {
        return Ok(None);
    }
    Ok(rest.get(..header.payload_bytes as usize).map(|payload| (header, payload)))
}

/// Why there is no record where one could be.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Unreadable {
    /// Nothing was ever written there or after it.
    Nothing,
    /// A write that no sync had covered reached the disk in part.
    Torn,
    /// The record was safely on disk, as one after it testifies: its zxid and offset.
    DamagedBefore { zxid: i64, offset: u64 },
    /// The bytes are all there, and wrong.
    DamagedLast,
}

/// Says why there is no intact record at `offset`, where the transactions before end with zxid `last`.
/// The module documentation of the store has the reasoning.
pub(super) fn judge(window: &mut Window<'_>, offset: u64, last: i64) -> io::Result<Unreadable> {
    let Some(last_nonzero) = window.last_nonzero(offset)? else { return Ok(Unreadable::Nothing) };
    let mut at = offset + ALIGNMENT;
    while at <= last_nonzero {
        if window.at(at, 4)? == MAGIC.to_le_bytes()
            && let Some((header, _)) = read(window, at)?
            && header.synced > last
        {
            return Ok(Unreadable::DamagedBefore { zxid: header.zxid, offset: at });
        }
        at += ALIGNMENT;
    }
    let torn = match Header::parse(window.at(offset, HEADER_BYTES)?) {
        None => has_hole(window, offset, offset + HEADER_BYTES as u64)?,
        Some(header) => {
            has_hole(window, offset + HEADER_BYTES as u64, offset.saturating_add(header.extent()))?
        }
    };
    Ok(if torn { Unreadable::Torn } else { Unreadable::DamagedLast })
}

/// Whether part of `start..end`, whose last byte was written as something other than zero, never reached the disk:
/// the end is missing, or all that lies in one sector.
fn has_hole(window: &mut Window<'_>, start: u64, end: u64) -> io::Result<bool> {
    if end > window.len() || window.all_zero(end - 1, 1)? {
        return Ok(true);
    }
    let mut at = start;
    while at < end {
        let next = (at - at % SECTOR_BYTES + SECTOR_BYTES).min(end);
        if window.all_zero(at, usize::try_from(next - at).unwrap_or(usize::MAX))? {
            return Ok(true);
        }
        at = next;
    }
    Ok(false)
}
