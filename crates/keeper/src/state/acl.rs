//! Access control: who may do what, which lists are accepted, and what of them is shown.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Deref;
use std::sync::Arc;

use crate::wire::{Acl, Code, Id, Perms};

/// An access control list that many znodes may share.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AclList(Arc<Vec<Acl>>);

impl From<Vec<Acl>> for AclList {
    fn from(acl: Vec<Acl>) -> Self {
        Self(Arc::new(acl))
    }
}

impl Deref for AclList {
    type Target = [Acl];

    fn deref(&self) -> &[Acl] {
        &self.0
    }
}

/// Whether a list lets somebody with these identities do one of `perms`. An empty list lets everyone.
#[must_use]
pub fn permitted(acl: &[Acl], perms: Perms, ids: &[Id]) -> bool {
    acl.is_empty()
        || ids.iter().any(|id| id.scheme == "super")
        || acl.iter().any(|entry| entry.perms.intersects(perms) && names(entry, ids))
}

fn names(entry: &Acl, ids: &[Id]) -> bool {
    let mut same_scheme = ids.iter().filter(|id| id.scheme == entry.scheme);
    match entry.scheme.as_str() {
        "world" => entry.id == "anyone",
        "digest" => same_scheme.any(|id| id.id == entry.id),
        "ip" => {
            let Some(network) = Network::parse(&entry.id) else { return false };
            same_scheme.any(|id| address(&id.id).is_some_and(|address| network.contains(address)))
        }
        _ => false,
    }
}

/// Entries that a list may have. Each request on the znode walks them, and a multi holds tens of thousands of requests.
const ENTRIES_MAX: usize = 1_000;
/// Bytes that the entries of a list may have together. Without a bound a request of a mebibyte that says nothing but
/// `auth`, from a client with many identities, would be stored as a gibibyte.
const BYTES_MAX: usize = 1 << 20;

/// The list that a create or a set of an ACL stores: without duplicates, `auth` replaced by the caller's own identities.
///
/// # Errors
/// [`Code::InvalidAcl`] if it is empty, names an unknown scheme, an id that its scheme does not know, or `auth` without
/// the caller being known by more than an address; also if the list is too long.
pub(super) fn fixup(acl: Vec<Acl>, ids: &[Id]) -> Result<Vec<Acl>, Code> {
    if acl.is_empty() {
        return Err(Code::InvalidAcl);
    }
    let mut fixed: Vec<Acl> = Vec::with_capacity(acl.len().min(ENTRIES_MAX));
    let (mut counted, mut bytes) = (0, 0);
    let alone = acl.len() == 1;
    let mut seen = BTreeSet::new();
    for entry in acl {
        if !alone && !seen.insert(entry.clone()) {
            continue;
        }
        match entry.scheme.as_str() {
            "world" if entry.id == "anyone" => fixed.push(entry),
            "auth" => {
                let before = fixed.len();
                fixed.extend(ids.iter().filter(|id| id.scheme == "digest").map(|id| Acl {
                    perms: entry.perms,
                    scheme: id.scheme.clone(),
                    id: id.id.clone(),
                }));
                if fixed.len() == before {
                    return Err(Code::InvalidAcl);
                }
            }
            "digest" if is_digest(&entry.id) => fixed.push(entry),
            "ip" if Network::parse(&entry.id).is_some() => fixed.push(entry),
            _ => return Err(Code::InvalidAcl),
        }
        bytes += fixed.iter().skip(counted).map(|entry| entry.scheme.len() + entry.id.len()).sum::<usize>();
        counted = fixed.len();
        if counted > ENTRIES_MAX || bytes > BYTES_MAX {
            return Err(Code::InvalidAcl);
        }
    }
    Ok(fixed)
}

/// Java's `split(":")` must give two parts: it forgets empty parts at the end.
fn is_digest(id: &str) -> bool {
    let parts: Vec<&str> = id.trim_end_matches(':').split(':').collect();
    parts.len() == 2
}

/// The list as those see it who may read but not change it: without the hashes of passwords.
pub(super) fn redact(acl: &[Acl]) -> Vec<Acl> {
    let mut shown = acl.to_vec();
    for entry in shown.iter_mut().filter(|entry| entry.scheme == "digest") {
        entry.id = redact_digest(&entry.id);
    }
    shown
}

/// What Java's `replaceAll(":.*", ":x")` makes of it, in which a dot is anything but the end of a line.
fn redact_digest(id: &str) -> String {
    let mut shown = String::with_capacity(id.len());
    let mut hidden = false;
    for c in id.chars() {
        hidden &= !matches!(c, '\n' | '\r' | '\u{85}' | '\u{2028}' | '\u{2029}');
        match c {
            _ if hidden => {}
            ':' => {
                shown.push_str(":x");
                hidden = true;
            }
            _ => shown.push(c),
        }
    }
    shown
}

/// An IPv4 network. ZooKeeper's `ip` scheme knows no IPv6.
#[derive(Clone, Copy, Debug)]
struct Network {
    address: u32,
    mask: u32,
}

impl Network {
    fn parse(text: &str) -> Option<Self> {
        let (host, bits) = match text.split_once('/') {
            None => (text, 32),
            Some((host, bits)) => (host, number(bits, 32)?),
        };
        let mask = u32::MAX.checked_shl(32 - bits).unwrap_or(0);
        Some(Self { address: address(host)? & mask, mask })
    }

    const fn contains(self, address: u32) -> bool {
        address & self.mask == self.address
    }
}

fn address(text: &str) -> Option<u32> {
    let mut parts = text.split('.');
    let mut address = 0;
    for _ in 0..4 {
        address = address << 8 | number(parts.next()?, 255)?;
    }
    parts.next().is_none().then_some(address)
}

/// As Java reads a number: with a sign if need be.
fn number(text: &str, max: u32) -> Option<u32> {
    let number = u32::try_from(text.parse::<i32>().ok()?).ok()?;
    (number <= max).then_some(number)
}

/// The lists in use: each is kept once however many znodes have it.
#[derive(Clone, Debug, Default)]
pub(super) struct AclTable(BTreeMap<AclList, u64>);

impl AclTable {
    /// The shared copy of a list, for one more znode; to be given back with [`release`](Self::release).
    pub(super) fn intern(&mut self, list: &AclList) -> AclList {
        match self.0.entry(list.clone()) {
            Entry::Occupied(mut entry) => {
                *entry.get_mut() += 1;
                entry.key().clone()
            }
            Entry::Vacant(entry) => {
                entry.insert(1);
                list.clone()
            }
        }
    }

    /// Counts one znode less that has the list.
    pub(super) fn release(&mut self, list: &AclList) {
        if let Some(uses) = self.0.get_mut(list) {
            *uses -= 1;
            if *uses == 0 {
                self.0.remove(list);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(scheme: &str, id: &str) -> Acl {
        Acl { perms: Perms::READ, scheme: scheme.to_owned(), id: id.to_owned() }
    }

    fn id(scheme: &str, id: &str) -> Id {
        Id { scheme: scheme.to_owned(), id: id.to_owned() }
    }

    #[test]
    fn entries_match_by_their_scheme() {
        let me = [id("ip", "10.1.2.3"), id("digest", "me:hash=")];
        let cases = [
            ("world", "anyone", true),
            ("world", "me", false),
            ("digest", "me:hash=", true),
            ("digest", "me:other", false),
            ("ip", "10.1.2.3", true),
            ("ip", "10.1.2.4", false),
            ("ip", "10.1.2.0/24", true),
            ("ip", "10.1.2.128/24", true),
            ("ip", "10.1.3.0/24", false),
            ("ip", "10.1.2.0/31", false),
            ("ip", "99.9.9.9/0", true),
            ("ip", "10.1.2.3/33", false),
            ("ip", "::1", false),
            ("sasl", "me", false),
        ];
        for (scheme, name, expected) in cases {
            assert_eq!(permitted(&[entry(scheme, name)], Perms::READ, &me), expected, "{scheme}:{name}");
        }
        assert!(!permitted(&[entry("world", "anyone")], Perms::WRITE, &me));
        assert!(permitted(&[entry("world", "anyone")], Perms::READ.union(Perms::ADMIN), &me));
        assert!(permitted(&[], Perms::WRITE, &me));
        assert!(permitted(&[entry("digest", "a:b")], Perms::WRITE, &[id("super", "")]));
    }

    #[test]
    fn lists_are_accepted_as_zookeeper_accepts_them() {
        let cases = [
            ("world", "anyone", true),
            ("world", "someone", false),
            ("digest", "a:b", true),
            ("digest", "a", false),
            ("digest", "a:", false),
            ("digest", ":", false),
            ("digest", "", false),
            ("digest", ":b", true),
            ("digest", "a:b:", true),
            ("digest", "a:b:c", false),
            ("ip", "1.2.3.4", true),
            ("ip", "1.2.3.4/0", true),
            ("ip", "1.2.3.4/32", true),
            ("ip", "1.2.3.4/33", false),
            ("ip", "1.2.3.4/", false),
            ("ip", "1.2.3.4/-1", false),
            ("ip", "1.2.3", false),
            ("ip", "1.2.3.4.", false),
            ("ip", "1.2.3.256", false),
            ("ip", "+1.2.3.-0", true),
            ("ip", "::1", false),
            ("auth", "", false),
            ("sasl", "me", false),
            ("x509", "me", false),
            ("super", "", false),
            ("", "", false),
        ];
        for (scheme, name, accepted) in cases {
            let result = fixup(vec![entry(scheme, name)], &[id("ip", "1.2.3.4")]);
            let expected = if accepted { Ok(vec![entry(scheme, name)]) } else { Err(Code::InvalidAcl) };
            assert_eq!(result, expected, "{scheme}:{name}");
        }
        assert_eq!(fixup(vec![], &[]), Err(Code::InvalidAcl));
    }

    #[test]
    fn auth_becomes_the_identities_of_the_caller() {
        let me = [id("ip", "1.2.3.4"), id("digest", "me:hash"), id("digest", "also:me")];
        let given = vec![entry("digest", "me:hash"), entry("auth", "ignored"), entry("digest", "me:hash")];
        let expected =
            vec![entry("digest", "me:hash"), entry("digest", "me:hash"), entry("digest", "also:me")];
        assert_eq!(fixup(given, &me), Ok(expected));
    }

    #[test]
    fn a_list_is_bounded_after_auth_has_become_identities() {
        let of = |perms, scheme: &str, name: &str| Acl { perms: Perms(perms), ..entry(scheme, name) };
        let plain = |n| (0..n).map(|perms| of(perms, "world", "anyone")).collect::<Vec<_>>();
        let stored = |list: Result<Vec<Acl>, Code>| list.map(|list| list.len());
        assert_eq!(stored(fixup(plain(ENTRIES_MAX as i32), &[])), Ok(ENTRIES_MAX));
        assert_eq!(stored(fixup(plain(ENTRIES_MAX as i32 + 1), &[])), Err(Code::InvalidAcl));
        // Each entry of a few bytes stands for all of these.
        let auth = |n| (0..n).map(|perms| of(perms, "auth", "")).collect::<Vec<_>>();
        let many: Vec<_> = (0..50).map(|n| id("digest", &format!("{n}:hash"))).collect();
        assert_eq!(stored(fixup(auth(20), &many)), Ok(ENTRIES_MAX));
        assert_eq!(stored(fixup(auth(21), &many)), Err(Code::InvalidAcl));
        let long = [id("digest", &"x".repeat(16 << 10))];
        assert_eq!(stored(fixup(auth(60), &long)), Ok(60));
        assert_eq!(stored(fixup(auth(65), &long)), Err(Code::InvalidAcl));
    }

    #[test]
    fn hashes_are_hidden() {
        let shown =
            redact(&[entry("digest", "me:secret:secret"), entry("digest", "u:a\nv:b"), entry("ip", "1:2")]);
        assert_eq!(shown, [entry("digest", "me:x"), entry("digest", "u:x\nv:x"), entry("ip", "1:2")]);
    }

    #[test]
    fn a_list_is_kept_while_somebody_has_it() {
        let mut table = AclTable::default();
        let first = table.intern(&AclList::from(Acl::open()));
        let second = table.intern(&AclList::from(Acl::open()));
        assert!(Arc::ptr_eq(&first.0, &second.0));
        table.release(&first);
        assert_eq!(table.0.len(), 1);
        table.release(&second);
        assert_eq!(table.0.len(), 0);
    }
}
