use std::net::{IpAddr, SocketAddr};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use sha1::{Digest as _, Sha1};

use crate::wire::{ClientInfo, Id};

/// Bytes that the identities of one connection may have together: a znode whose ACL says no more than `auth` stores them
/// all.
const BYTES_MAX: usize = 4 << 10;

/// Who a connection is: its address and what it has authenticated as.
///
/// ZooKeeper keeps these in a hash set, whose order is seen: an ACL entry of the scheme `auth` becomes one entry
/// per identity, in that order. So the set is kept in the order in which Java's would be walked.
#[derive(Debug)]
pub(super) struct Identities {
    ordered: Vec<Id>,
    arrived: Vec<Id>,
}

/// The credentials were refused; the connection is told and closed.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct AuthFailed;

impl Identities {
    /// The identities of a connection that has only just been accepted.
    pub(super) fn of_peer(peer: SocketAddr) -> Self {
        let mut identities = Self { ordered: Vec::new(), arrived: Vec::new() };
        identities.add(Id { scheme: "ip".to_owned(), id: host_address(peer.ip()) });
        identities
    }

    pub(super) fn as_slice(&self) -> &[Id] {
        &self.ordered
    }

    /// What `whoAmI` answers: the user of a digest without its hash, everything else as it is.
    pub(super) fn users(&self) -> Vec<ClientInfo> {
        let user = |id: &Id| match id.scheme.as_str() {
            "digest" => id.id.split(':').next().unwrap_or_default().to_owned(),
            _ => id.id.clone(),
        };
        self.ordered.iter().map(|id| ClientInfo { scheme: id.scheme.clone(), user: user(id) }).collect()
    }

    /// Handles an `auth` request of a connection that may have `max` identities.
    pub(super) fn authenticate(
        &mut self,
        scheme: &str,
        auth: Option<&[u8]>,
        max: usize,
    ) -> Result<(), AuthFailed> {
        let id = match (scheme, auth) {
            // The address has been an identity from the start; whatever was sent with it is not looked at.
            ("ip", _) => return Ok(()),
            ("digest", Some(credentials)) => {
                Id { scheme: scheme.to_owned(), id: digest(&String::from_utf8_lossy(credentials)) }
            }
            _ => return Err(AuthFailed),
        };
        if self.arrived.contains(&id) {
            return Ok(());
        }
        let bytes: usize = self.arrived.iter().chain([&id]).map(|id| id.id.len()).sum();
        if self.arrived.len() >= max || bytes > BYTES_MAX {
            return Err(AuthFailed);
        }
        self.add(id);
        Ok(())
    }

    fn add(&mut self, id: Id) {
        self.arrived.push(id);
        // Java's table starts with 16 bins and doubles when it is three quarters full.
        let mut bins = 16_u32;
        while self.arrived.len() as u64 * 4 >= u64::from(bins) * 3 {
            bins *= 2;
        }
        self.ordered = self.arrived.clone();
        self.ordered.sort_by_key(|id| java_spread_hash(id) & (bins - 1));
    }
}

/// `user:base64(sha1(user:password))`, the form in which ACLs name a user of the scheme `digest`.
fn digest(credentials: &str) -> String {
    let user = credentials.split(':').next().unwrap_or_default();
    format!("{user}:{}", BASE64.encode(Sha1::digest(credentials.as_bytes())))
}

/// An address as Java prints it: IPv6 with all eight groups.
fn host_address(ip: IpAddr) -> String {
    match ip.to_canonical() {
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) => ip.segments().map(|group| format!("{group:x}")).join(":"),
    }
}

fn java_spread_hash(id: &Id) -> u32 {
    let string = |text: &str| {
        text.encode_utf16().fold(0_u32, |hash, unit| hash.wrapping_mul(31).wrapping_add(u32::from(unit)))
    };
    let hash = 17_u32
        .wrapping_mul(37)
        .wrapping_add(string(&id.scheme))
        .wrapping_mul(37)
        .wrapping_add(string(&id.id));
    (hash ^ (hash >> 16)) & 0x7fff_ffff
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(ip: &str) -> SocketAddr {
        SocketAddr::new(ip.parse().unwrap(), 4711)
    }

    #[test]
    fn the_address_is_an_identity_from_the_start() {
        for (ip, id) in [
            ("127.0.0.1", "127.0.0.1"),
            ("::1", "0:0:0:0:0:0:0:1"),
            ("::ffff:10.0.0.7", "10.0.0.7"),
            ("fe80::a0b", "fe80:0:0:0:0:0:0:a0b"),
        ] {
            let identities = Identities::of_peer(peer(ip));
            assert_eq!(identities.as_slice(), [Id { scheme: "ip".into(), id: id.into() }]);
        }
    }

    #[test]
    fn a_digest_names_the_user_and_hides_the_password() {
        let mut identities = Identities::of_peer(peer("127.0.0.1"));
        identities.authenticate("digest", Some(b"super:test"), 9).unwrap();
        // From ZooKeeper's DigestAuthenticationProvider.
        assert!(identities.as_slice().iter().any(|id| id.id == "super:D/InIHSb7yEEbrWz8b9l71RjZJU="));
        let users: Vec<_> = identities.users().into_iter().map(|info| (info.scheme, info.user)).collect();
        assert!(users.contains(&("digest".to_owned(), "super".to_owned())), "{users:?}");
        assert!(users.contains(&("ip".to_owned(), "127.0.0.1".to_owned())), "{users:?}");
    }

    #[test]
    fn the_order_is_that_of_javas_hash_set() {
        // As Debian's ZooKeeper 3.8.0 answered `whoAmI`: with 12, which is when its table grows, and beyond.
        let rows = [
            (11, "u3 u5 u7 127.0.0.1 u9 u2 u8 u0 u1 u6 u4 u10"),
            (13, "u3 u5 u7 u11 127.0.0.1 u9 u2 u8 u12 u0 u1 u6 u4 u10"),
        ];
        for (digests, answered) in rows {
            let mut identities = Identities::of_peer(peer("127.0.0.1"));
            for n in 0..digests {
                identities.authenticate("digest", Some(format!("u{n}:p").as_bytes()), 64).unwrap();
            }
            let users: Vec<_> = identities.users().into_iter().map(|info| info.user).collect();
            assert_eq!(users.join(" "), answered);
        }
    }

    #[test]
    fn what_is_refused_and_what_is_bounded() {
        let mut identities = Identities::of_peer(peer("127.0.0.1"));
        for (scheme, auth) in
            [("world", Some(&b"anyone"[..])), ("", None), ("digest", None), ("sasl", Some(b"a:b"))]
        {
            assert_eq!(identities.authenticate(scheme, auth, 9), Err(AuthFailed), "{scheme}");
        }
        assert_eq!(identities.authenticate("ip", None, 9), Ok(()));
        assert_eq!(identities.authenticate("digest", Some(b"a:b"), 2), Ok(()));
        assert_eq!(
            identities.authenticate("digest", Some(b"a:b"), 2),
            Ok(()),
            "the same again takes no room"
        );
        assert_eq!(identities.authenticate("digest", Some(b"a:c"), 2), Err(AuthFailed));
        assert_eq!(identities.as_slice().len(), 2);
        assert_eq!(identities.authenticate("digest", Some(&[b'u'; BYTES_MAX]), 9), Err(AuthFailed));
    }
}
