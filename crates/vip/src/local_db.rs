//! Which addresses this node may have put: on disk before the kernel has them, until the kernel has them no more.
//!
//! ```text
//! <data_dir>/vips.json     {"version":1,"addresses":[{"service":"iscsi","interface":"eth1",…},…]}
//!                          crc32 8d3f00a1
//! ```
//!
//! **Invariant** an address is in the file on disk before it is put, and stays there until it is known to be gone. What
//! a crash leaves in the file and not on the machine costs nothing; the other way round would leave an address behind
//! where the kernel keeps no tags.
//!
//! The sum stands for what a disk may do to the file: a single changed digit would name somebody else's address. A file
//! that is not whole is put aside; then the tag on the addresses decides alone.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ipnet::IpNet;
use proto::vip::ServiceName;
use serde::{Deserialize, Serialize};

/// Its name in the data directory.
pub const FILE: &str = "vips.json";
/// What a file is renamed to that cannot be read; only the last one is kept.
pub const UNREADABLE: &str = "vips.json.unreadable";

const VERSION: u32 = 1;
/// Ten thousand addresses; a longer one is none of ours.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// An address that this node may have put.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// For which service.
    pub service: ServiceName,
    /// On which interface: its name, which outlives a reboot.
    pub interface: String,
    /// The number that the kernel gave the interface then; it may be another one after a reboot.
    pub link: u32,
    /// The address and its prefix.
    pub address: IpNet,
}

/// The database cannot be read or put aside.
#[derive(Debug, thiserror::Error)]
#[error("{doing} {path}", path = path.display())]
pub struct OpenError {
    doing: &'static str,
    path: PathBuf,
    source: io::Error,
}

/// The database could not be written: what is on disk may be the old content or the new.
#[derive(Debug, thiserror::Error)]
#[error("cannot write {path}", path = path.display())]
pub struct WriteError {
    path: PathBuf,
    source: io::Error,
}

/// The open database. Clones are the same one; it is opened once.
///
/// Changes follow each other in the order of the *calls* of [`add`](Self::add) and [`remove`](Self::remove), whenever
/// their futures are polled; what waits at the same time is written together.
#[derive(Clone, Debug)]
pub struct LocalDb(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    lost: Option<String>,
    /// Never locked over IO.
    wanted: Mutex<Wanted>,
    /// The version that is on disk. Locked by the one who writes.
    writer: Mutex<u64>,
}

/// What the file is to hold.
#[derive(Debug)]
struct Wanted {
    version: u64,
    entries: Arc<BTreeSet<Entry>>,
}

impl LocalDb {
    /// Opens the database of `data_dir`, whose lock the caller holds. A file that is torn, garbled or of another version is
    /// renamed aside, and that is said ([`lost`](Self::lost)).
    ///
    /// # Errors
    /// The disk does not let it be read or renamed.
    pub async fn open(data_dir: &Path) -> Result<Self, OpenError> {
        let path = data_dir.join(FILE);
        blocking(move || open(path)).await
    }

    /// The addresses that this node may have.
    pub fn entries(&self) -> Arc<BTreeSet<Entry>> {
        Arc::clone(&locked(&self.0.wanted).entries)
    }

    /// What was wrong with the file that was found, as a sentence, if it could not be used.
    pub fn lost(&self) -> Option<&str> {
        self.0.lost.as_deref()
    }

    /// Adds addresses that are about to be put. They are on disk when the future ends.
    ///
    /// # Errors
    /// The disk does not take it: the addresses must not be put.
    ///
    /// # Cancel safety
    /// The addresses may be in the database though they were never put.
    pub fn add(&self, entries: Vec<Entry>) -> impl Future<Output = Result<(), WriteError>> + Send + use<> {
        self.written(self.change(|all| all.extend(entries)))
    }

    /// Removes addresses that are gone from the machine. That is on disk when the future ends.
    ///
    /// # Errors
    /// The disk does not take it, which costs nothing: the next change is written without them, or they are looked for
    /// at the next start.
    ///
    /// # Cancel safety
    /// As a failure.
    pub fn remove(&self, entries: Vec<Entry>) -> impl Future<Output = Result<(), WriteError>> + Send + use<> {
        self.written(self.change(|all| all.retain(|entry| !entries.contains(entry))))
    }

    /// The version that has the change in it.
    fn change(&self, change: impl FnOnce(&mut BTreeSet<Entry>)) -> u64 {
        let mut wanted = locked(&self.0.wanted);
        let mut entries = BTreeSet::clone(&wanted.entries);
        change(&mut entries);
        if entries != *wanted.entries {
            *wanted = Wanted { version: wanted.version + 1, entries: Arc::new(entries) };
        }
        wanted.version
    }

    fn written(&self, version: u64) -> impl Future<Output = Result<(), WriteError>> + Send + use<> {
        let inner = Arc::clone(&self.0);
        // The lock is taken in there: a caller who is gone meanwhile must not let the next one write at the same time.
        async move { blocking(move || inner.write(version)).await }
    }
}

impl Inner {
    fn write(&self, version: u64) -> Result<(), WriteError> {
        let mut written = locked(&self.writer);
        if *written >= version {
            return Ok(());
        }
        let (newest, entries) = {
            let wanted = locked(&self.wanted);
            (wanted.version, Arc::clone(&wanted.entries))
        };
        write_durably(&self.path, &encode(&entries))
            .map_err(|source| WriteError { path: self.path.clone(), source })?;
        *written = newest;
        Ok(())
    }
}

fn open(path: PathBuf) -> Result<LocalDb, OpenError> {
    let failed = |doing| {
        let path = path.clone();
        move |source| OpenError { doing, path, source }
    };
    let (entries, lost) = match read(&path).map_err(failed("cannot read"))? {
        None => (BTreeSet::new(), None),
        Some(bytes) => match decode(&bytes) {
            Ok(entries) => (entries, None),
            Err(why) => {
                let aside = path.with_file_name(UNREADABLE);
                let renamed = fs::rename(&path, &aside).and_then(|()| sync_parent(&path));
                renamed.map_err(failed("cannot put aside the unreadable"))?;
                let lost = format!(
                    "{} {why}: it is now {}, and the tag on the addresses decides alone what is cleaned",
                    path.display(),
                    aside.display()
                );
                tracing::warn!("{lost}");
                (BTreeSet::new(), Some(lost))
            }
        },
    };
    let wanted = Mutex::new(Wanted { version: 0, entries: Arc::new(entries) });
    Ok(LocalDb(Arc::new(Inner { path, lost, wanted, writer: Mutex::new(0) })))
}

fn read(path: &Path) -> io::Result<Option<Vec<u8>>> {
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened?,
    };
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    Ok(Some(bytes))
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    version: u32,
    addresses: BTreeSet<Entry>,
}

fn encode(entries: &BTreeSet<Entry>) -> Vec<u8> {
    let content = Content { version: VERSION, addresses: entries.clone() };
    let mut bytes = serde_json::to_vec(&content).expect("strings, numbers and lists are always JSON");
    let sum = crc32fast::hash(&bytes);
    bytes.extend_from_slice(format!("\ncrc32 {sum:08x}\n").as_bytes());
    bytes
}

/// Why not, as what follows the file's name.
fn decode(bytes: &[u8]) -> Result<BTreeSet<Entry>, String> {
    #[derive(Deserialize)]
    struct Versioned {
        version: u32,
    }
    let mut lines = bytes.split(|byte| *byte == b'\n');
    let content = lines.next().unwrap_or_default();
    let sum = lines.next().and_then(|line| std::str::from_utf8(line).ok()?.strip_prefix("crc32 "));
    // The end of the second line counts too: what is cut short is not whole.
    if sum != Some(&format!("{:08x}", crc32fast::hash(content)))
        || lines.next() != Some(b"")
        || lines.next().is_some()
    {
        return Err("is torn or garbled".to_owned());
    }
    match serde_json::from_slice::<Versioned>(content) {
        Ok(Versioned { version: VERSION }) => {}
        Ok(Versioned { version }) => return Err(format!("is of version {version}, of another taskd")),
        Err(error) => return Err(format!("is no database of addresses ({error})")),
    }
    match serde_json::from_slice::<Content>(content) {
        Ok(content) => Ok(content.addresses),
        Err(error) => Err(format!("is no database of addresses ({error})")),
    }
}

fn write_durably(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension("tmp");
    let mut file = File::create(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    sync_parent(path)
}

fn sync_parent(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(parent) => File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(service: &str, address: &str) -> Entry {
        Entry {
            service: service.parse().unwrap(),
            interface: "eth1".to_owned(),
            link: 3,
            address: address.parse().unwrap(),
        }
    }

    fn two() -> Vec<Entry> {
        vec![entry("iscsi", "172.0.20.241/24"), entry("management", "fd00::241/64")]
    }

    #[tokio::test]
    async fn what_was_added_is_there_after_a_crash_until_it_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let db = LocalDb::open(dir.path()).await.unwrap();
        assert!(db.entries().is_empty() && db.lost().is_none());
        db.add(two()).await.unwrap();
        // A crash while the next content was being written.
        fs::write(dir.path().join(FILE).with_extension("tmp"), b"{\"vers").unwrap();
        drop(db);
        let db = LocalDb::open(dir.path()).await.unwrap();
        assert!(db.entries().iter().eq(&two()));
        db.remove(vec![two().remove(0)]).await.unwrap();
        drop(db);
        let db = LocalDb::open(dir.path()).await.unwrap();
        assert!(db.entries().iter().eq(&two()[1..]));
    }

    #[tokio::test]
    async fn changes_follow_the_order_of_their_calls_and_none_is_lost() {
        let dir = tempfile::tempdir().unwrap();
        let db = LocalDb::open(dir.path()).await.unwrap();
        let all: Vec<Entry> = (1..20).map(|n| entry("iscsi", &format!("10.0.0.{n}/24"))).collect();
        let adds = all.iter().map(|entry| db.add(vec![entry.clone()]));
        futures::future::try_join_all(adds).await.unwrap();
        // It was given up and is taken again; the job that takes it runs first.
        let (removed, added) = (db.remove(all.clone()), db.add(vec![all[0].clone()]));
        added.await.unwrap();
        removed.await.unwrap();
        drop(db);
        assert!(LocalDb::open(dir.path()).await.unwrap().entries().iter().eq(&all[..1]));
    }

    #[tokio::test]
    async fn a_write_that_failed_is_not_taken_for_done_the_next_time() {
        let dir = tempfile::tempdir().unwrap();
        let db = LocalDb::open(dir.path()).await.unwrap();
        // A directory in the way of the temporary file.
        let temporary = dir.path().join(FILE).with_extension("tmp");
        fs::create_dir(&temporary).unwrap();
        db.add(two()).await.unwrap_err();
        db.add(two()).await.unwrap_err();
        fs::remove_dir(&temporary).unwrap();
        db.add(two()).await.unwrap();
        assert_eq!(decode(&fs::read(dir.path().join(FILE)).unwrap()).unwrap().len(), 2);
    }

    /// Cut short anywhere, changed in any bit: it is put aside and said, and never read as something else.
    #[test]
    fn a_file_that_is_not_whole_is_never_believed() {
        let whole = encode(&two().into_iter().collect());
        assert_eq!(decode(&whole).unwrap().len(), 2);
        for length in 0..whole.len() {
            decode(&whole[..length]).unwrap_err();
        }
        for (at, bit) in (0..whole.len()).flat_map(|at| (0..8).map(move |bit| (at, bit))) {
            let mut changed = whole.clone();
            changed[at] ^= 1 << bit;
            assert!(decode(&changed).is_err(), "byte {at}, bit {bit}");
        }
    }

    #[tokio::test]
    async fn an_unreadable_file_is_put_aside_and_said() {
        let newer = {
            let content = br#"{"version":2,"addresses":{}}"#;
            [&content[..], format!("\ncrc32 {:08x}\n", crc32fast::hash(content)).as_bytes()].concat()
        };
        for (bytes, said) in [(&b""[..], "torn"), (b"\xff\x00{}", "torn"), (&newer, "version 2")] {
            let dir = tempfile::tempdir().unwrap();
            fs::write(dir.path().join(FILE), bytes).unwrap();
            let db = LocalDb::open(dir.path()).await.unwrap();
            let lost = db.lost().unwrap();
            assert!(lost.contains(said) && lost.contains("the tag on the addresses decides"), "{lost}");
            assert_eq!(fs::read(dir.path().join(UNREADABLE)).unwrap(), bytes);
            db.add(two()).await.unwrap();
            assert_eq!(LocalDb::open(dir.path()).await.unwrap().entries().len(), 2);
        }
    }
}
