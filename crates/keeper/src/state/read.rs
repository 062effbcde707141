//! What can be asked. Nothing here validates a path: there is no znode where none can be, and the root answers to `""`
//! as well, as in ZooKeeper.

use super::acl::redact;
use super::node::Node;
use super::tree::ROOT;
use super::{AclList, State, permitted};
use crate::wire::{Acl, Code, Id, Perms, Reply, Stat};

impl State {
    /// The stat of a znode, whoever asks.
    #[must_use]
    pub fn stat(&self, path: &str) -> Option<Stat> {
        self.look(path).map(Node::stat)
    }

    /// The ACL of a znode, whoever asks: to filter the events of watches that are set again.
    #[must_use]
    pub fn acl_of(&self, path: &str) -> Option<AclList> {
        self.look(path).map(|node| node.acl.clone())
    }

    /// `Exists`: needs no permission.
    ///
    /// # Errors
    /// [`Code::BadArguments`] for a path with a null character (no watch is set then), [`Code::NoNode`].
    pub fn exists(&self, path: &str) -> Result<Reply, Code> {
        if path.contains('\0') {
            return Err(Code::BadArguments);
        }
        self.stat(path).map(Reply::Stat).ok_or(Code::NoNode)
    }

    /// `GetData`: needs `READ`.
    ///
    /// # Errors
    /// [`Code::NoNode`], [`Code::NoAuth`].
    pub fn data(&self, ids: &[Id], path: &str) -> Result<Reply, Code> {
        let node = self.readable(ids, path)?;
        Ok(Reply::Data { data: node.bytes(), stat: node.stat() })
    }

    /// `GetAcl`: needs `READ` or `ADMIN`. Without `ADMIN` the hashes of digests are hidden.
    ///
    /// # Errors
    /// [`Code::NoNode`], [`Code::NoAuth`].
    pub fn acl(&self, ids: &[Id], path: &str) -> Result<Reply, Code> {
        let node = self.look(path).ok_or(Code::NoNode)?;
        let acl: Vec<Acl> = if permitted(&node.acl, Perms::ADMIN, ids) {
            node.acl.to_vec()
        } else if permitted(&node.acl, Perms::READ, ids) {
            redact(&node.acl)
        } else {
            return Err(Code::NoAuth);
        };
        Ok(Reply::Acl { acl, stat: node.stat() })
    }

    /// `GetChildren`: needs `READ`. The names are sorted; ZooKeeper's are in no order.
    ///
    /// # Errors
    /// [`Code::NoNode`], [`Code::NoAuth`].
    pub fn children(&self, ids: &[Id], path: &str) -> Result<Reply, Code> {
        Ok(Reply::Children(names(self.readable(ids, path)?)))
    }

    /// `GetChildren2`: as [`children`](Self::children).
    ///
    /// # Errors
    /// [`Code::NoNode`], [`Code::NoAuth`].
    pub fn children2(&self, ids: &[Id], path: &str) -> Result<Reply, Code> {
        let node = self.readable(ids, path)?;
        Ok(Reply::Children2 { children: names(node), stat: node.stat() })
    }

    /// `GetAllChildrenNumber`: needs `READ` on the top only.
    ///
    /// # Errors
    /// [`Code::NoNode`], [`Code::NoAuth`].
    pub fn all_children_number(&self, ids: &[Id], path: &str) -> Result<Reply, Code> {
        let top = self.readable(ids, path)?;
        let count = match path {
            "/" => self.tree.len() - 1,
            // The root is stored under two names; asked by this one it counts the other.
            "" => self.tree.len(),
            _ => self.descendants(top),
        };
        Ok(Reply::Count(i32::try_from(count).unwrap_or(i32::MAX)))
    }

    /// `GetEphemerals`: the paths that the session owns and that begin with `prefix` as strings do; all of them if that
    /// is blank or the root. Sorted; ZooKeeper's are in no order.
    #[must_use]
    pub fn ephemerals(&self, session: i64, prefix: &str) -> Reply {
        let trimmed = prefix.trim_matches(|c| c <= ' ');
        let all = matches!(trimmed, "" | "/");
        let paths = self.tree.ephemerals().get(&session).into_iter().flatten();
        Reply::Ephemerals(
            paths.filter(|path| all || path.starts_with(prefix)).map(ToString::to_string).collect(),
        )
    }

    /// The znodes that sessions own, by session, sorted: for `dump`.
    pub fn all_ephemerals(&self) -> impl Iterator<Item = (i64, impl Iterator<Item = &str>)> {
        self.tree.ephemerals().iter().map(|(session, paths)| (*session, paths.iter().map(|path| &**path)))
    }

    fn look(&self, path: &str) -> Option<&Node> {
        self.tree.find(path).map(|slot| self.tree.node(slot))
    }

    fn readable(&self, ids: &[Id], path: &str) -> Result<&Node, Code> {
        let node = self.look(path).ok_or(Code::NoNode)?;
        if permitted(&node.acl, Perms::READ, ids) { Ok(node) } else { Err(Code::NoAuth) }
    }

    fn descendants(&self, top: &Node) -> usize {
        let mut count = 0;
        let mut nodes = vec![top];
        while let Some(node) = nodes.pop() {
            count += node.child_count();
            nodes.extend(
                node.children().map(|(_, slot)| self.tree.node(slot)).filter(|node| node.children.is_some()),
            );
        }
        debug_assert!(count < self.tree.len(), "everything is below the root {ROOT:?}");
        count
    }
}

fn names(node: &Node) -> Vec<String> {
    let mut names = Vec::with_capacity(node.child_count());
    names.extend(node.children().map(|(name, _)| name.to_owned()));
    names
}
