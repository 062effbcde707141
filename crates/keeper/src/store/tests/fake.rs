//! A disk in memory that remembers every operation, can fail at any, and can say what a power cut at any moment
//! leaves behind.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};

use rand::rngs::StdRng;
use rand::{Rng as _, RngExt as _};

use super::super::disk::{Disk, DiskFile};

const SECTOR: usize = 512;

/// What is on a disk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Content {
    pub(super) names: BTreeMap<String, usize>,
    pub(super) files: Vec<Vec<u8>>,
}

impl Content {
    pub(super) fn file(&mut self, name: &str) -> &mut Vec<u8> {
        &mut self.files[self.names[name]]
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Op {
    Create {
        name: String,
        inode: usize,
    },
    Write {
        inode: usize,
        offset: usize,
        bytes: Vec<u8>,
    },
    SetLen {
        inode: usize,
        len: usize,
    },
    Sync {
        inode: usize,
    },
    /// The entry `to` names the file from now on, as the directory's blocks have it.
    Rename {
        from: String,
        to: String,
        inode: usize,
    },
    Remove {
        name: String,
    },
    SyncNames,
}

/// Which operations fail, and how.
pub(super) type Refusal = (fn(&Op) -> bool, io::ErrorKind);

#[derive(Debug, Default)]
struct Inner {
    start: Content,
    now: Content,
    ops: Vec<Op>,
    /// The operation that fails, as all after it do; a write does this many bytes before.
    fails_at: Option<(usize, usize)>,
    /// What fails for now, while all else works, and how.
    refuses: Option<Refusal>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct FakeDisk(Arc<Mutex<Inner>>);

impl FakeDisk {
    /// A disk that holds this, safely.
    pub(super) fn with(content: Content) -> Self {
        let inner = Inner { start: content.clone(), now: content, ..Inner::default() };
        Self(Arc::new(Mutex::new(inner)))
    }

    /// The disk as a process finds it whose predecessor was killed after the first `ops` operations: everything is
    /// there, and what was not synced is still not safe.
    pub(super) fn killed_after(&self, ops: usize) -> Self {
        let inner = self.inner();
        let (start, ops) = (inner.start.clone(), inner.ops[..ops].to_vec());
        let mut now = start.clone();
        ops.iter().for_each(|op| apply(&mut now, op));
        Self(Arc::new(Mutex::new(Inner { start, now, ops, ..Inner::default() })))
    }

    pub(super) fn failing(op: usize, bytes: usize) -> Self {
        let disk = Self::default();
        disk.inner().fails_at = Some((op, bytes));
        disk
    }

    /// From now on these operations fail, and only they; `None` makes the disk good again.
    pub(super) fn refuse(&self, what: Option<Refusal>) {
        self.inner().refuses = what;
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap()
    }

    pub(super) fn ops(&self) -> Vec<Op> {
        self.inner().ops.clone()
    }

    /// What all see while the power stays on.
    pub(super) fn now(&self) -> Content {
        self.inner().now.clone()
    }

    /// What a power cut after the first `ops` operations leaves.
    pub(super) fn after_power_cut(&self, ops: usize, cut: &mut Cut) -> Content {
        let inner = self.inner();
        power_cut(&inner.start, &inner.ops[..ops], cut)
    }

    fn run(&self, op: Op) -> io::Result<()> {
        let mut inner = self.inner();
        if let Some((refused, kind)) = inner.refuses
            && refused(&op)
        {
            return Err(kind.into());
        }
        if let Some((at, bytes)) = inner.fails_at
            && inner.ops.len() >= at
        {
            if inner.ops.len() == at
                && let Op::Write { inode, offset, bytes: all } = op
            {
                let part = Op::Write { inode, offset, bytes: all[..bytes.min(all.len())].to_vec() };
                apply(&mut inner.now, &part);
                inner.ops.push(part);
            }
            return Err(io::Error::new(io::ErrorKind::StorageFull, "no room on the fake disk"));
        }
        apply(&mut inner.now, &op);
        inner.ops.push(op);
        Ok(())
    }
}

fn apply(content: &mut Content, op: &Op) {
    match op {
        Op::Create { name, inode } => {
            content.files.resize(content.files.len().max(inode + 1), Vec::new());
            content.names.insert(name.clone(), *inode);
        }
        Op::Write { inode, offset, bytes } => {
            let file = &mut content.files[*inode];
            file.resize(file.len().max(offset + bytes.len()), 0);
            file[*offset..offset + bytes.len()].copy_from_slice(bytes);
        }
        Op::SetLen { inode, len } => content.files[*inode].resize(*len, 0),
        Op::Rename { from, to, inode } => {
            if content.names.get(from) == Some(inode) {
                content.names.remove(from);
            }
            content.names.insert(to.clone(), *inode);
        }
        Op::Remove { name } => {
            content.names.remove(name);
        }
        Op::Sync { .. } | Op::SyncNames => {}
    }
}

/// What of the operations that no sync covered reaches the disk.
#[derive(Debug)]
pub(super) enum Cut<'a> {
    /// Nothing.
    None,
    /// Everything: what a killed process leaves.
    All,
    /// Names but no bytes.
    Names,
    /// Bytes but no names.
    Bytes,
    /// Everything, but of the last operation, a write, only so many bytes.
    Short(usize),
    /// Any sectors of any write, any names, in any combination.
    Any(&'a mut StdRng),
}

impl Cut<'_> {
    fn keeps_name(&mut self) -> bool {
        match self {
            Self::None | Self::Bytes => false,
            Self::All | Self::Names | Self::Short(_) => true,
            Self::Any(random) => random.random_bool(0.5),
        }
    }

    fn keeps_bytes(&mut self) -> bool {
        match self {
            Self::None | Self::Names => false,
            Self::All | Self::Bytes | Self::Short(_) => true,
            Self::Any(random) => random.random_bool(0.5),
        }
    }
}

fn power_cut(start: &Content, ops: &[Op], cut: &mut Cut) -> Content {
    // Where the last sync of each file and of the names is: what is before it is safe.
    let synced_names = ops.iter().rposition(|op| *op == Op::SyncNames);
    let synced = |file: usize| ops.iter().rposition(|op| matches!(op, Op::Sync { inode } if *inode == file));
    let mut content = start.clone();
    for (at, op) in ops.iter().enumerate() {
        let safe = |sync: Option<usize>| sync.is_some_and(|sync| at < sync);
        match op {
            Op::Create { inode, .. } => {
                content.files.resize(content.files.len().max(inode + 1), Vec::new());
                if safe(synced_names) || cut.keeps_name() {
                    apply(&mut content, op);
                }
            }
            Op::Rename { .. } | Op::Remove { .. } => {
                if safe(synced_names) || cut.keeps_name() {
                    apply(&mut content, op);
                }
            }
            Op::SetLen { inode, .. } => {
                if safe(synced(*inode)) || cut.keeps_bytes() {
                    apply(&mut content, op);
                }
            }
            Op::Write { inode, .. } if safe(synced(*inode)) => apply(&mut content, op),
            Op::Write { inode, offset, bytes } => {
                // Few cuts are wild, most lose or keep long runs of sectors.
                let whole = match cut {
                    Cut::Any(random) => random.next_u32() % 2 == 0,
                    _ => true,
                };
                let kept = match cut {
                    Cut::Short(kept) if at + 1 == ops.len() => *kept,
                    _ if whole => {
                        if cut.keeps_bytes() {
                            bytes.len()
                        } else {
                            0
                        }
                    }
                    _ => bytes.len(),
                };
                let mut from = 0;
                while from < kept.min(bytes.len()) {
                    let to = ((offset + from) / SECTOR * SECTOR + SECTOR - offset).min(kept).min(bytes.len());
                    if whole || cut.keeps_bytes() {
                        let bytes = bytes[from..to].to_vec();
                        apply(&mut content, &Op::Write { inode: *inode, offset: offset + from, bytes });
                    }
                    from = to;
                }
            }
            Op::Sync { .. } | Op::SyncNames => {}
        }
    }
    content
}

impl Disk for FakeDisk {
    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.inner().now.names.keys().cloned().collect())
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        let inode = self.inner().now.files.len();
        self.run(Op::Create { name: name.to_owned(), inode })?;
        Ok(Box::new(FakeFile { disk: self.clone(), inode }))
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        let inode = *self.inner().now.names.get(name).ok_or(io::ErrorKind::NotFound)?;
        Ok(Box::new(FakeFile { disk: self.clone(), inode }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let inode = *self.inner().now.names.get(from).ok_or(io::ErrorKind::NotFound)?;
        self.run(Op::Rename { from: from.to_owned(), to: to.to_owned(), inode })
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        if !self.inner().now.names.contains_key(name) {
            return Err(io::ErrorKind::NotFound.into());
        }
        self.run(Op::Remove { name: name.to_owned() })
    }

    fn sync_names(&self) -> io::Result<()> {
        self.run(Op::SyncNames)
    }

    fn path(&self, name: &str) -> PathBuf {
        PathBuf::from("/fake").join(name)
    }
}

#[derive(Debug)]
struct FakeFile {
    disk: FakeDisk,
    inode: usize,
}

impl DiskFile for FakeFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.disk.inner().now.files[self.inode].len() as u64)
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let inner = self.disk.inner();
        let file = &inner.now.files[self.inode];
        let mut rest = file.get(usize::try_from(offset).unwrap()..).unwrap_or_default();
        io::Read::read(&mut rest, buffer)
    }

    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let offset = usize::try_from(offset).unwrap();
        self.disk.run(Op::Write { inode: self.inode, offset, bytes: bytes.to_vec() })
    }

    fn set_len(&mut self, len: u64) -> io::Result<()> {
        self.disk.run(Op::SetLen { inode: self.inode, len: usize::try_from(len).unwrap() })
    }

    fn sync(&mut self) -> io::Result<()> {
        self.disk.run(Op::Sync { inode: self.inode })
    }
}
