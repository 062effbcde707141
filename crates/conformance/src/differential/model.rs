//! What the generator believes about the tree, from what the reference answered: enough to aim well, never used to judge.

use std::collections::BTreeMap;

use rand::RngExt as _;
use rand::rngs::StdRng;

use super::observe::{Answer, Observed, Stat, replies};
use super::script::{Call, ROOT};

const NO_NODE: i32 = -101;
const NODE_EXISTS: i32 = -110;

/// Nodes that are believed to exist below [`ROOT`].
#[derive(Debug, Default)]
pub(super) struct Model {
    nodes: BTreeMap<String, Node>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Node {
    version: i32,
    aversion: i32,
    /// The slot whose session it ends with.
    owner: Option<usize>,
}

impl Model {
    pub(super) fn len(&self) -> usize {
        self.nodes.len()
    }

    pub(super) fn contains(&self, path: &str) -> bool {
        self.nodes.contains_key(path)
    }

    /// Any of the nodes.
    pub(super) fn any(&self, random: &mut StdRng) -> Option<String> {
        let count = self.nodes.len();
        (count > 0).then(|| self.nodes.keys().nth(random.random_range(0..count)).cloned())?
    }

    /// A node that children can be created below.
    pub(super) fn parent(&self, random: &mut StdRng) -> Option<String> {
        (0..4)
            .find_map(|_| self.any(random).filter(|path| depth(path) < 4 && self.nodes[path].owner.is_none()))
    }

    /// A node without children.
    pub(super) fn leaf(&self, random: &mut StdRng) -> Option<String> {
        let is_leaf = |path: &String| {
            let below = format!("{path}/");
            !self.nodes.range(below.clone()..).next().is_some_and(|(next, _)| next.starts_with(&below))
        };
        (0..4).find_map(|_| self.any(random).filter(is_leaf))
    }

    pub(super) fn version(&self, path: &str) -> i32 {
        self.nodes.get(path).map_or(0, |node| node.version)
    }

    pub(super) fn aversion(&self, path: &str) -> i32 {
        self.nodes.get(path).map_or(0, |node| node.aversion)
    }

    /// The slot's session is over.
    pub(super) fn ended(&mut self, slot: usize) {
        self.nodes.retain(|_, node| node.owner != Some(slot));
    }

    /// Learns from the replies to `calls`, which `slot` sent.
    pub(super) fn learn(&mut self, slot: usize, calls: &[Call], first_xid: i32, observed: &[Observed]) {
        for (call, reply) in replies(calls, first_xid, observed) {
            let Some((err, answer)) = reply else { continue };
            if let (Call::Multi { ops }, Answer::Multi(parts)) = (call, answer) {
                if parts.iter().all(|part| part.err == 0) {
                    for (op, part) in ops.iter().zip(parts) {
                        self.learn_one(slot, op, 0, &part.answer);
                    }
                }
                continue;
            }
            self.learn_one(slot, call, err, answer);
        }
    }

    fn learn_one(&mut self, slot: usize, call: &Call, err: i32, answer: &Answer) {
        if let (0, Answer::Path(path) | Answer::Created { path, .. }) = (err, answer)
            && let Call::Create { flags, .. } | Call::Create2 { flags, .. } = call
        {
            let owner = (flags & 1 != 0).then_some(slot);
            self.insert(path, Node { owner, ..Node::default() });
        }
        let Some(path) = aim(call) else { return };
        match (err, answer) {
            (NO_NODE, _) if !matches!(call, Call::Create { .. } | Call::Create2 { .. }) => self.remove(path),
            (NODE_EXISTS, _) if !self.contains(path) => self.insert(path, Node::default()),
            (0, _) if matches!(call, Call::Delete { .. }) => self.remove(path),
            (0, Answer::Stat(stat) | Answer::Data { stat, .. } | Answer::Acl { stat, .. }) => {
                self.update(path, stat);
            }
            (0, Answer::Children { children, stat }) => {
                self.update(path, stat);
                for child in children {
                    let child = format!("{path}/{child}");
                    if !self.contains(&child) {
                        self.insert(&child, Node::default());
                    }
                }
            }
            _ => {}
        }
    }

    fn update(&mut self, path: &str, stat: &Stat) {
        let owner = self.nodes.get(path).and_then(|node| node.owner);
        self.insert(path, Node { version: stat.version, aversion: stat.aversion, owner });
    }

    fn insert(&mut self, path: &str, node: Node) {
        if path.starts_with(ROOT) {
            self.nodes.insert(path.to_owned(), node);
        }
    }

    fn remove(&mut self, path: &str) {
        let below = format!("{path}/");
        self.nodes.retain(|known, _| known != path && !known.starts_with(&below));
    }
}

fn depth(path: &str) -> usize {
    path.matches('/').count()
}

/// The node that a request is about.
fn aim(call: &Call) -> Option<&str> {
    match call {
        Call::Create { path, .. }
        | Call::Create2 { path, .. }
        | Call::Delete { path, .. }
        | Call::Exists { path, .. }
        | Call::GetData { path, .. }
        | Call::SetData { path, .. }
        | Call::GetAcl { path }
        | Call::SetAcl { path, .. }
        | Call::GetChildren { path, .. }
        | Call::GetChildren2 { path, .. } => Some(path),
        _ => None,
    }
}
