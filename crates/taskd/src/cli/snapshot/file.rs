//! The file of a snapshot.
//!
//! ```text
//! taskd snapshot 1\n
//! {"saved_ms":…,"by":…,"root":…,"cluster":…,"epoch":…}\n
//! {"path":"tasks/log-0000000041","bytes":1234}\n  1234 bytes  \n        once per node, parents first
//! {"nodes":42,"sha256":"…"}\n                                            of every byte before this line
//! ```
//!
//! So `head`, `less` and a few lines of any language tell what it is; and a file that was cut short, or changed, is
//! noticed before any of it is used.

use proto::ClusterId;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// What it begins with, the number of its format included.
const MAGIC: &[u8] = b"taskd snapshot 1\n";

/// What a file of any format begins with.
const ANY: &[u8] = b"taskd snapshot ";

/// The format that this release writes.
pub(super) const FORMAT: u32 = 1;

/// Nodes larger than this are none that ZooKeeper takes.
const NODE_BYTES_MAX: usize = 1 << 20;

/// Where a snapshot comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Header {
    /// When it was begun: milliseconds since 1970.
    pub(super) saved_ms: u64,
    /// The release that wrote it.
    pub(super) by: String,
    /// Under which root it was.
    pub(super) root: String,
    pub(super) cluster: ClusterId,
    pub(super) epoch: u64,
}

/// A node, by its path under the root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Copy {
    pub(super) path: String,
    pub(super) data: Vec<u8>,
}

/// All of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Snapshot {
    pub(super) header: Header,
    /// Parents first.
    pub(super) nodes: Vec<Copy>,
}

#[derive(Serialize, Deserialize)]
struct NodeLine {
    path: String,
    bytes: usize,
}

#[derive(Serialize, Deserialize)]
struct LastLine {
    nodes: usize,
    sha256: String,
}

/// A file that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unusable {
    #[error("it does not begin as a snapshot does")]
    Foreign,
    #[error(
        "it is of a format that this release does not know: use the release that wrote it, or a later one"
    )]
    Newer,
    #[error("it is cut short, or was changed: {0}")]
    Damaged(String),
}

impl Snapshot {
    /// The file's bytes.
    pub(super) fn encode(&self) -> serde_json::Result<Vec<u8>> {
        let mut file = MAGIC.to_vec();
        line(&mut file, &self.header)?;
        for node in &self.nodes {
            line(&mut file, &NodeLine { path: node.path.clone(), bytes: node.data.len() })?;
            file.extend_from_slice(&node.data);
            file.push(b'\n');
        }
        let sha256 = digest(&file);
        line(&mut file, &LastLine { nodes: self.nodes.len(), sha256 })?;
        Ok(file)
    }

    /// What a file says, once its checksum has been found right.
    pub(super) fn decode(file: &[u8]) -> Result<Self, Unusable> {
        let damaged = |what: &str| Unusable::Damaged(what.to_owned());
        if !file.starts_with(ANY) {
            return Err(Unusable::Foreign);
        }
        let Some(mut rest) = file.strip_prefix(MAGIC) else { return Err(Unusable::Newer) };
        let body = file.strip_suffix(b"\n").ok_or_else(|| damaged("its last line has no end"))?;
        let end = body.iter().rposition(|byte| *byte == b'\n').ok_or_else(|| damaged("it has one line"))? + 1;
        let last: LastLine =
            serde_json::from_slice(&body[end..]).map_err(|_| damaged("its last line is missing"))?;
        if digest(&file[..end]) != last.sha256 {
            return Err(damaged("its checksum does not match"));
        }
        let header = take_line(&mut rest)?;
        let mut nodes = Vec::with_capacity(last.nodes.min(1 << 20));
        for _ in 0..last.nodes {
            let NodeLine { path, bytes } = take_line(&mut rest)?;
            let fits = bytes <= NODE_BYTES_MAX && rest.get(bytes) == Some(&b'\n');
            if !fits || path.is_empty() || path.split('/').any(|name| matches!(name, "" | "." | "..")) {
                return Err(damaged(&format!("node {path:?}")));
            }
            nodes.push(Copy { path, data: rest[..bytes].to_vec() });
            rest = &rest[bytes + 1..];
        }
        let over = take_line::<LastLine>(&mut rest).is_ok() && rest.is_empty();
        if over {
            Ok(Self { header, nodes })
        } else {
            Err(damaged("there is more than its last line counts"))
        }
    }

    pub(super) fn get(&self, path: &str) -> Option<&[u8]> {
        self.nodes.iter().find(|node| node.path == path).map(|node| node.data.as_slice())
    }

    /// The names and contents of nodes right under `dir`.
    pub(super) fn children<'a>(&'a self, dir: &'a str) -> impl Iterator<Item = (&'a str, &'a [u8])> {
        self.nodes.iter().filter_map(move |node| {
            let name = node.path.strip_prefix(dir)?.strip_prefix('/')?;
            (!name.contains('/')).then_some((name, node.data.as_slice()))
        })
    }
}

fn line<T: Serialize>(file: &mut Vec<u8>, value: &T) -> serde_json::Result<()> {
    serde_json::to_writer(&mut *file, value)?;
    file.push(b'\n');
    Ok(())
}

fn take_line<T: for<'a> Deserialize<'a>>(rest: &mut &[u8]) -> Result<T, Unusable> {
    let damaged = |what: String| Unusable::Damaged(what);
    let end =
        rest.iter().position(|byte| *byte == b'\n').ok_or_else(|| damaged("a line is missing".to_owned()))?;
    let value = serde_json::from_slice(&rest[..end]).map_err(|error| damaged(error.to_string()))?;
    *rest = &rest[end + 1..];
    Ok(value)
}

fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot() -> Snapshot {
        let copy = |path: &str, data: &[u8]| Copy { path: path.to_owned(), data: data.to_vec() };
        Snapshot {
            header: Header {
                saved_ms: 5,
                by: "0.1.0".to_owned(),
                root: "/taskd".to_owned(),
                cluster: ClusterId::from_u128(7),
                epoch: 3,
            },
            nodes: vec![
                copy("cluster", b"{}"),
                copy("tasks", b""),
                copy("tasks/log-0000000001", b"TLOG\n\n{}\n\0\xff"),
            ],
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let file = snapshot().encode().expect("encodes");
        assert_eq!(Snapshot::decode(&file), Ok(snapshot()));
        assert!(file.starts_with(b"taskd snapshot 1\n{\"saved_ms\":5,"));
        let names: Vec<_> = snapshot().children("tasks").map(|(name, _)| name.to_owned()).collect();
        assert_eq!(names, ["log-0000000001"]);
    }

    #[test]
    fn every_cut_and_every_changed_byte_is_noticed() {
        let file = snapshot().encode().expect("encodes");
        for end in 0..file.len() {
            assert!(Snapshot::decode(&file[..end]).is_err(), "cut at {end}");
        }
        for at in 0..file.len() {
            let mut changed = file.clone();
            changed[at] ^= 1;
            assert!(Snapshot::decode(&changed).is_err(), "changed at {at}");
        }
        assert_eq!(Snapshot::decode(b"taskd snapshot 2\n"), Err(Unusable::Newer));
        assert_eq!(Snapshot::decode(b"\x7fELF"), Err(Unusable::Foreign));
    }
}
