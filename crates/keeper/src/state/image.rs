//! The whole state at one moment: shared with the living one until that changes, and written out at leisure.
//!
//! ```text
//! magic · version (1 byte) · last zxid
//! sessions: count · (id · timeout · password)*
//! znodes, each before its children, those in order:
//!   name · data · acl · 3 zxids · 2 times · owner · 3 versions · number of children
//! end mark
//! acl: 0 · the list, or the number (from 1) of a list that has been written out before
//! ```

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Read, Write};
use std::sync::Arc;

use sha1::{Digest, Sha1};

use super::binary::{ReadError, Reader, Writer};
use super::node::Node;
use super::slab::{Slab, Slot};
use super::tree::{ROOT, Tree};
use super::{AclList, Session, State, path};

const MAGIC: &[u8; 8] = b"tkimage\n";
const END: &[u8; 4] = b"end\n";
/// Raised when a reader of the version before would misunderstand.
const VERSION: u8 = 1;

/// Why there is no image to be read.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// Reading failed.
    #[error("cannot be read")]
    Io(#[source] io::Error),
    /// Something else was written there.
    #[error("it is no image of a keeper's state")]
    NoImage,
    /// Written by a version that came later.
    #[error(
        "an image of format {found}, of which this version knows {VERSION}: it was written by a later one"
    )]
    Version {
        /// The format's version.
        found: u8,
    },
    /// It was an image.
    #[error("a corrupt image: {0}")]
    Corrupt(&'static str),
}

impl From<ReadError> for ImageError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Io(error) => Self::Io(error),
            ReadError::Corrupt(what) => Self::Corrupt(what),
        }
    }
}

/// The state at one moment. Taking it costs a pointer for every 64 znodes, and a copy of the table of sessions; what
/// changes while it is alive is copied, in pieces of at most 64 znodes.
#[derive(Clone)]
pub struct Image {
    slab: Slab,
    sessions: BTreeMap<i64, Session>,
    last_zxid: i64,
}

impl fmt::Debug for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Image").field("last_zxid", &self.last_zxid).finish_non_exhaustive()
    }
}

impl State {
    /// The state as it is now.
    #[must_use]
    pub fn image(&self) -> Image {
        // What else there is can be derived.
        Image { slab: self.tree.slab().clone(), sessions: self.sessions.clone(), last_zxid: self.last_zxid }
    }

    /// Reads what [`Image::write_to`] has written, and no byte more. It reads in small pieces: hand in a `BufRead`.
    ///
    /// # Errors
    /// [`ImageError`].
    pub fn read_from(input: impl Read) -> Result<Self, ImageError> {
        let mut input = Reader(input);
        if input.array()? != *MAGIC {
            return Err(ImageError::NoImage);
        }
        let version = input.byte()?;
        if version != VERSION {
            return Err(ImageError::Version { found: version });
        }
        let last_zxid = input.signed()?;
        let mut sessions = BTreeMap::new();
        for _ in 0..input.unsigned()? {
            let id = input.signed()?;
            sessions.insert(id, Session { timeout_ms: input.int()?, password: input.array()? });
        }
        let tree = read_tree(&mut input)?;
        if input.array()? != *END {
            return Err(ImageError::Corrupt("it does not end where it should"));
        }
        Ok(Self { tree, sessions, last_zxid })
    }

    /// A digest of everything durable: equal for equal states.
    #[must_use]
    pub fn fingerprint(&self) -> [u8; 20] {
        struct Hash(Sha1);
        impl Write for Hash {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.0.update(bytes);
                Ok(bytes.len())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let mut hash = Hash(Sha1::new());
        self.image().write_to(&mut hash).expect("hashing does not fail");
        hash.0.finalize().into()
    }
}

impl Image {
    /// The version of its format.
    pub const VERSION: u8 = VERSION;

    /// The last transaction that is in it.
    #[must_use]
    pub const fn last_zxid(&self) -> i64 {
        self.last_zxid
    }

    /// Writes it out, in small pieces: hand in a `BufWriter`.
    ///
    /// # Errors
    /// Those of the output.
    pub fn write_to(&self, out: impl Write) -> io::Result<()> {
        let mut out = Writer(out);
        out.raw(MAGIC)?;
        out.raw(&[VERSION])?;
        out.signed(self.last_zxid)?;
        out.count(self.sessions.len())?;
        for (id, session) in &self.sessions {
            out.signed(*id)?;
            out.signed(session.timeout_ms.into())?;
            out.raw(&session.password)?;
        }
        let mut acls = BTreeMap::new();
        let root = self.slab.get(ROOT);
        write_node("", root, &mut acls, &mut out)?;
        // The znodes that are being written, the root first, each with what is left of its children. A stack of our
        // own, as a path may have half a million names.
        let mut open = vec![root.children()];
        while let Some(children) = open.last_mut() {
            let Some((name, slot)) = children.next() else {
                open.pop();
                continue;
            };
            let node = self.slab.get(slot);
            write_node(name, node, &mut acls, &mut out)?;
            if node.children.is_some() {
                open.push(node.children());
            }
        }
        out.raw(END)
    }
}

fn write_node<'a>(
    name: &str,
    node: &'a Node,
    acls: &mut BTreeMap<&'a AclList, u64>,
    out: &mut Writer<impl Write>,
) -> io::Result<()> {
    out.string(name)?;
    out.nullable(node.data.as_deref())?;
    if let Some(number) = acls.get(&node.acl) {
        out.unsigned(*number)?;
    } else {
        acls.insert(&node.acl, acls.len() as u64 + 1);
        out.unsigned(0)?;
        out.acl(&node.acl)?;
    }
    for number in [node.czxid, node.mzxid, node.pzxid, node.ctime, node.mtime, node.owner] {
        out.signed(number)?;
    }
    for number in [node.version, node.cversion, node.aversion] {
        out.signed(number.into())?;
    }
    out.count(node.child_count())
}

/// A znode whose children are being read.
struct Open {
    slot: Slot,
    /// The length of its path; the root's is empty.
    path_len: usize,
    children_left: u64,
    /// The name of the child before: the next must be above it.
    last_name: String,
}

fn read_tree(input: &mut Reader<impl Read>) -> Result<Tree, ReadError> {
    let mut acls = Vec::new();
    let (name, root, children_left) = read_node(&mut acls, input)?;
    if !name.is_empty() {
        return Err(ReadError::Corrupt("the root has a name"));
    }
    let mut tree = Tree::with_root(root);
    let mut path = String::new();
    let mut open = vec![Open { slot: ROOT, path_len: 0, children_left, last_name: String::new() }];
    while let Some(parent) = open.last_mut() {
        if parent.children_left == 0 {
            open.pop();
            continue;
        }
        parent.children_left -= 1;
        let (name, node, children_left) = read_node(&mut acls, input)?;
        // No name is below the empty one, so the first is checked too.
        if name <= parent.last_name {
            return Err(ReadError::Corrupt("names are not in order"));
        }
        path.truncate(parent.path_len);
        path.push('/');
        path.push_str(&name);
        if name.contains('/') || !path::is_valid(&path[parent.path_len..]) {
            return Err(ReadError::Corrupt("a name that no znode can have"));
        }
        parent.last_name = name;
        if node.owner != 0 && children_left > 0 {
            return Err(ReadError::Corrupt("an ephemeral with children"));
        }
        let slot = tree.add(parent.slot, &path, node);
        if children_left > 0 {
            open.push(Open { slot, path_len: path.len(), children_left, last_name: String::new() });
        }
    }
    Ok(tree)
}

fn read_node(
    acls: &mut Vec<AclList>,
    input: &mut Reader<impl Read>,
) -> Result<(String, Node, u64), ReadError> {
    let name = input.string()?;
    let data = input.nullable()?.map(Arc::from);
    let acl = match input.unsigned()? {
        0 => {
            let acl = input.acl()?;
            acls.push(acl.clone());
            acl
        }
        number => {
            let index = usize::try_from(number - 1).unwrap_or(usize::MAX);
            acls.get(index).ok_or(ReadError::Corrupt("an ACL that was not written"))?.clone()
        }
    };
    let node = Node {
        data,
        acl,
        children: None,
        czxid: input.signed()?,
        mzxid: input.signed()?,
        pzxid: input.signed()?,
        ctime: input.signed()?,
        mtime: input.signed()?,
        owner: input.signed()?,
        version: input.int()?,
        cversion: input.int()?,
        aversion: input.int()?,
    };
    Ok((name, node, input.unsigned()?))
}
