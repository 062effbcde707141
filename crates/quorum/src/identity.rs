//! What a node remembers across its lives, fsynced: its cluster, and the names under which it may have left
//! ephemerals behind.

use std::fmt::Debug;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::PathBuf;

use coord::SessionId;
use election::MemberUuid;
use proto::ClusterId;
use serde::{Deserialize, Serialize};

/// Who a node is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Its cluster. Another one is refused, never joined silently.
    pub cluster: ClusterId,
    /// The session of its newest membership.
    pub session: SessionId,
    /// The uuid in the names of that membership's ephemerals (member, candidate, and inside `leader`).
    pub member_uuid: MemberUuid,
    /// Older memberships whose ephemerals have not been seen gone yet, newest last.
    #[serde(default)]
    pub earlier: Vec<Life>,
}

/// One membership.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Life {
    /// Its session.
    pub session: SessionId,
    /// Its uuid.
    pub member_uuid: MemberUuid,
}

/// Memberships that are remembered at most: their sessions have expired long before there are as many.
const EARLIER_MAX: usize = 16;

impl Identity {
    /// Every membership that may have left ephemerals.
    pub(crate) fn lives(&self) -> Vec<Life> {
        let newest = Life { session: self.session, member_uuid: self.member_uuid };
        self.earlier.iter().copied().chain([newest]).collect()
    }

    /// The identity while `life` begins and `before` may have left something.
    pub(crate) fn beginning(cluster: ClusterId, life: Life, mut before: Vec<Life>) -> Self {
        before.retain(|other| *other != life);
        let surplus = before.len().saturating_sub(EARLIER_MAX);
        before.drain(..surplus);
        Self { cluster, session: life.session, member_uuid: life.member_uuid, earlier: before }
    }
}

/// Where an identity is kept. Both calls may block on a disk; they are made off the event loop.
pub trait IdentityStore: Debug + Send + Sync {
    /// The identity, if there was one.
    ///
    /// # Errors
    ///
    /// When it cannot be read; never "none" for one that is damaged.
    fn load(&self) -> io::Result<Option<Identity>>;

    /// Replaces it. Durable (fsynced) when this returns.
    ///
    /// # Errors
    ///
    /// When it is not known to be durable.
    fn store(&self, identity: &Identity) -> io::Result<()>;
}

/// An identity in a JSON file, replaced atomically.
#[derive(Clone, Debug)]
pub struct FileIdentity(PathBuf);

impl FileIdentity {
    /// In the file at `path`, in a directory that exists.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    fn said(&self, error: io::Error) -> io::Error {
        io::Error::new(error.kind(), format!("{}: {error}", self.0.display()))
    }
}

impl IdentityStore for FileIdentity {
    fn load(&self) -> io::Result<Option<Identity>> {
        match fs::read(&self.0) {
            Ok(data) => serde_json::from_slice(&data)
                .map(Some)
                .map_err(|error| self.said(io::Error::new(io::ErrorKind::InvalidData, error))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(self.said(error)),
        }
    }

    fn store(&self, identity: &Identity) -> io::Result<()> {
        let new = self.0.with_extension("new");
        let write = || {
            let mut file = File::create(&new)?;
            file.write_all(&serde_json::to_vec(identity)?)?;
            file.sync_all()?;
            fs::rename(&new, &self.0)?;
            // The rename is durable only with its directory.
            match self.0.parent().filter(|parent| !parent.as_os_str().is_empty()) {
                Some(parent) => File::open(parent)?.sync_all(),
                None => File::open(".")?.sync_all(),
            }
        };
        write().map_err(|error| self.said(error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_keeps_it_and_damage_is_no_absence() {
        let dir = tempfile::tempdir().unwrap();
        let store = FileIdentity::new(dir.path().join("identity.json"));
        assert_eq!(store.load().unwrap(), None);
        let life = |n: i64| Life { session: SessionId(n), member_uuid: MemberUuid(n as u128) };
        let first = Identity::beginning(ClusterId::from_u128(1), life(1), vec![]);
        store.store(&first).unwrap();
        let second = Identity::beginning(first.cluster, life(2), first.lives());
        store.store(&second).unwrap();
        let loaded = store.load().unwrap().unwrap();
        assert_eq!((loaded.lives(), &loaded), (vec![life(1), life(2)], &second));
        fs::write(dir.path().join("identity.json"), b"{\"cluster\":").unwrap();
        assert!(store.load().is_err());
    }

    #[test]
    fn earlier_lives_are_bounded() {
        let life = |n: i64| Life { session: SessionId(n), member_uuid: MemberUuid(n as u128) };
        let mut identity = Identity::beginning(ClusterId::from_u128(1), life(0), vec![]);
        for n in 1..100 {
            identity = Identity::beginning(identity.cluster, life(n), identity.lives());
        }
        assert_eq!(identity.earlier.len(), EARLIER_MAX);
        assert_eq!(identity.earlier.last(), Some(&life(98)));
    }
}
