//! From bytes to values and back.

use std::collections::BTreeMap;

use coord::{Node, SessionId};
use proto::vip::{Backend, ConfigText, Drained, NodeReport, ServiceName};
use proto::{Incarnation, NodeId};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::{Assignment, Holder, Term};

/// Bytes of a document at most, the configuration's text aside.
pub const DOCUMENT_BYTES_MAX: usize = 256 * 1024;

/// A document as it was read: none where there is no such node.
pub type Document<T> = Result<Option<Found<T>>, Garbage>;

/// A document that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found<T> {
    /// What it says.
    pub value: T,
    /// How often it was written, which is what a compare-and-set compares.
    pub version: i32,
    /// The transaction that wrote it: tells which of two documents is the later, also over a deletion.
    pub mark: i64,
    /// The session that it lives with, if it is an ephemeral.
    pub owner: Option<SessionId>,
}

/// A document that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{path} cannot be read: {reason}")]
pub struct Garbage {
    /// Which node.
    pub path: String,
    /// What is wrong with it, and what to do.
    pub reason: String,
}

pub(super) fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    // Fails only for maps whose keys are no strings, which no document has.
    serde_json::to_vec(value).unwrap_or_default()
}

fn found<T>(path: &str, node: &Node, value: Result<T, String>) -> Document<T> {
    let Node { stat, .. } = node;
    match value {
        Ok(value) => {
            let (version, mark, owner) = (stat.version, stat.mzxid, stat.ephemeral_owner);
            Ok(Some(Found { value, version, mark, owner }))
        }
        Err(reason) => Err(Garbage { path: path.to_owned(), reason }),
    }
}

fn json<T: DeserializeOwned>(node: &Node) -> Result<T, String> {
    serde_json::from_slice(&node.data).map_err(|error| error.to_string())
}

/// What a backup tool writes back has no session that would ever end it.
fn ephemeral<T: DeserializeOwned>(node: &Node) -> Result<T, String> {
    if node.stat.ephemeral_owner.is_none() {
        return Err("no session stands behind it, so it never goes by itself; delete it".into());
    }
    json(node)
}

pub(super) fn assignment(path: &str, service: &ServiceName, node: Option<&Node>) -> Document<Assignment> {
    let Some(node) = node else { return Ok(None) };
    let value = json::<Assignment>(node).and_then(|assignment| {
        let other = format!("it is about {}", assignment.service);
        (assignment.service == *service).then_some(assignment).ok_or(other)
    });
    found(path, node, value)
}

pub(super) fn holder(path: &str, node: Option<&Node>) -> Document<Holder> {
    node.map_or(Ok(None), |node| found(path, node, ephemeral(node)))
}

/// A term that cannot be read says no less than that somebody may have the addresses.
pub(super) fn term(node: Option<&Node>) -> Option<Found<Term>> {
    let node = node?;
    let (version, mark, owner) = (node.stat.version, node.stat.mzxid, node.stat.ephemeral_owner);
    Some(Found { value: json(node).unwrap_or(Term::Unknown), version, mark, owner })
}

pub(super) fn report(path: &str, of: &NodeId, node: Option<&Node>) -> Document<NodeReport> {
    let Some(node) = node else { return Ok(None) };
    let value = ephemeral::<NodeReport>(node).and_then(|report| {
        let other = format!("it is about {}", report.node);
        (report.node == *of).then_some(report).ok_or(other)
    });
    found(path, node, value)
}

/// In the place of a report that cannot be read: its node is there, and able to hold nothing as far as anybody can tell.
pub(super) fn stand_in(of: &NodeId, node: &Node, garbage: &Garbage) -> Found<NodeReport> {
    let (version, mark, owner) = (node.stat.version, node.stat.mzxid, node.stat.ephemeral_owner);
    let value = NodeReport {
        node: of.clone(),
        incarnation: Incarnation::from_u128(0),
        // Nobody gives way to it.
        backend: Backend::DryRun,
        why_dry: None,
        unreadable: Some(garbage.to_string()),
        stopping: false,
        labels: BTreeMap::new(),
        services: BTreeMap::new(),
    };
    Found { value, version, mark, owner }
}

/// An empty node is one that was never written.
pub(super) fn drained(path: &str, node: Option<&Node>) -> Document<BTreeMap<NodeId, Drained>> {
    let Some(node) = node else { return Ok(None) };
    let value = if node.data.is_empty() { Ok(BTreeMap::new()) } else { json(node) };
    found(path, node, value)
}

/// All of a configuration but its text, which follows in the next line as it is: escaped, it would be larger than what a
/// request may hold.
#[derive(Serialize, Deserialize)]
struct Header {
    revision: u64,
    applied_ms: u64,
    by: Option<NodeId>,
}

pub(super) fn encode_config(config: &ConfigText) -> Vec<u8> {
    let ConfigText { revision, applied_ms, by, text } = config;
    let mut bytes = encode(&Header { revision: *revision, applied_ms: *applied_ms, by: by.clone() });
    bytes.push(b'\n');
    bytes.extend_from_slice(text.as_bytes());
    bytes
}

/// An empty node is one that was never written: revision 0.
pub(super) fn config(path: &str, node: Option<&Node>) -> Document<ConfigText> {
    let Some(node) = node else { return Ok(None) };
    found(path, node, decode_config(&node.data))
}

fn decode_config(data: &[u8]) -> Result<ConfigText, String> {
    if data.is_empty() {
        return Ok(ConfigText { revision: 0, applied_ms: 0, by: None, text: String::new() });
    }
    let text = std::str::from_utf8(data).map_err(|error| error.to_string())?;
    let (header, text) = text.split_once('\n').ok_or("its first line has no end")?;
    let header: Header =
        serde_json::from_str(header).map_err(|error| format!("in its first line: {error}"))?;
    let Header { revision, applied_ms, by } = header;
    Ok(ConfigText { revision, applied_ms, by, text: text.to_owned() })
}

#[cfg(test)]
mod tests {
    use coord::Stat;
    use proptest::prelude::*;

    use super::*;

    fn node(data: &[u8], owner: Option<i64>) -> Node {
        let stat = Stat { version: 3, ephemeral_owner: owner.map(SessionId), ..Stat::default() };
        Node { data: data.to_vec(), stat }
    }

    #[test]
    fn what_is_no_document_names_its_path() {
        let web = "web".parse().expect("a service's name");
        let n1 = "n1".parse().expect("a node's name");
        let elsewhere = br#"{"service":"db","order":[],"revision":1,"epoch":1,"why":""}"#;
        let free = br#"{"state":"free","node":null,"release":null}"#;
        let rows: [(&str, Option<Garbage>); 7] = [
            ("EOF", assignment("/p", &web, Some(&node(b"", None))).err()),
            ("about db", assignment("/p", &web, Some(&node(elsewhere, None))).err()),
            ("no session", holder("/p", Some(&node(b"{}", None))).err()),
            ("missing field", holder("/p", Some(&node(b"{}", Some(1)))).err()),
            ("expected", report("/p", &n1, Some(&node(b"\xff", Some(1)))).err()),
            ("first line has no end", config("/p", Some(&node(b"{}", None))).err()),
            ("in its first line", config("/p", Some(&node(b"{}\ntext", None))).err()),
        ];
        for (what, garbage) in rows {
            let garbage = garbage.unwrap_or_else(|| panic!("{what}: it was read"));
            assert_eq!(garbage.path, "/p");
            assert!(garbage.to_string().contains(what), "{garbage} does not say {what}");
        }
        let free = term(Some(&node(free, None))).expect("it is there");
        assert_eq!((free.version, free.value.wait().as_millis()), (3, 0));
        let for_ever = format!(
            r#"{{"state":"held","node":"n1","take":"{}","grace_ms":{}}}"#,
            uuid::Uuid::nil(),
            u64::MAX
        );
        for edited in [b"".as_slice(), b"{}", br#"{"state":"lost"}"#, b"\xff", for_ever.as_bytes()] {
            let edited = term(Some(&node(edited, None))).expect("it is there");
            assert_eq!(
                (edited.version, edited.value.wait()),
                (3, crate::store::GRACE_MAX),
                "{:?}",
                edited.value
            );
        }
        assert_eq!(drained("/p", Some(&node(b"", None))).expect("none").expect("there").value.len(), 0);
    }

    proptest! {
        #[test]
        fn any_text_is_kept_as_it_is(text in ".{0,200}", revision: u64, applied_ms: u64) {
            let before = ConfigText { revision, applied_ms, by: "n1".parse().ok(), text };
            prop_assert_eq!(decode_config(&encode_config(&before)), Ok(before));
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let web = "web".parse().expect("a service's name");
            let n1 = "n1".parse().expect("a node's name");
            let node = node(&bytes, Some(1));
            let _ = (assignment("/p", &web, Some(&node)), holder("/p", Some(&node)), term(Some(&node)));
            let _ = (report("/p", &n1, Some(&node)), drained("/p", Some(&node)), config("/p", Some(&node)));
        }
    }
}
