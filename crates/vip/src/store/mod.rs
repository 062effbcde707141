//! What the cluster knows of virtual IPs, as it stands in the coordination service (D8).
//!
//! ```text
//! <root>/config                      the applied configuration; children: earlier ones, by revision
//! <root>/drained                     nodes that are to hold nothing
//! <root>/vip-nodes/<node>            ephemeral: what a node says of itself (proto::vip::NodeReport)
//! <root>/vips/<service>/assignment   who is to hold it, and who follows; the leader writes it, fenced by its epoch
//! <root>/vips/<service>/holder       ephemeral: who holds it
//! <root>/vips/<service>/term         free, or held by whom with which grace; its version counts takes and releases
//! ```
//!
//! [`Store`] reads and writes them on one session, [`Followers`] delivers what they become. All of it works without a
//! leader, but for assignments and the removal of a service, which are fenced by the leader's term.
//!
//! A document that cannot be read is [`Garbage`] that names its path. It concerns that document alone. Two have a meaning
//! all the same: a term is then [`Term::Unknown`], which the next take repairs, and a node that says what cannot be read is
//! there, and able to hold nothing.

mod document;
pub use document::{DOCUMENT_BYTES_MAX, Document, Found, Garbage};

mod config_text;
pub use config_text::{Apply, ApplyError, HISTORY_MAX, TEXT_BYTES_MAX};

mod drained;
pub use drained::DRAINED_MAX;

mod error;
pub use error::{ReadError, StoreError};

mod report;

mod tenure;
pub use tenure::{Refusal, Release, TakeError, TakeRequest, Taken};

mod assign;
pub use assign::{AssignError, Removal};

mod follow;
pub use follow::{Change, FOLLOWED_MAX, Followers};

use std::time::Duration;

use clock::SharedClock;
use coord::{Layout, Link};

use proto::vip::ServiceName;
use proto::{Epoch, Incarnation, NodeId};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Who is to hold a service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assignment {
    /// Which service.
    pub service: ServiceName,
    /// Who is to hold it, then who follows when that one is gone. Empty: nobody.
    pub order: Vec<NodeId>,
    /// The configuration's revision that it follows.
    pub revision: u64,
    /// The leader's term.
    pub epoch: Epoch,
    /// Why this order, as a sentence.
    pub why: String,
}

/// Who holds a service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// Who.
    pub node: NodeId,
    /// Which life of it.
    pub incarnation: Incarnation,
    /// Drawn for this take.
    pub take: Uuid,
}

/// The longest grace that a service can have, so what covers every holder of which nothing is known.
pub const GRACE_MAX: Duration = Duration::from_secs(60);

/// What is known of the last one who held a service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "state")]
pub enum Term {
    /// It had removed its addresses.
    Free {
        /// Who.
        node: Option<NodeId>,
        /// The release, for the read-back: drawn for it.
        release: Option<Uuid>,
    },
    /// Its addresses may be there until the kernel or its guard has removed them.
    Held {
        /// Who.
        node: NodeId,
        /// The take.
        take: Uuid,
        /// How long a taker must wait: the larger of its own and the one that it found.
        #[serde(rename = "grace_ms", with = "millis")]
        grace: Duration,
    },
    /// Nobody can say: somebody edited it, or deleted it. There may be addresses as with the longest grace of all.
    Unknown,
}

impl Term {
    /// How long whoever takes now has to wait before the addresses may be put.
    pub fn wait(&self) -> Duration {
        match self {
            Self::Free { .. } => Duration::ZERO,
            // None of us records more, so that a longer one was edited in.
            Self::Held { grace, .. } => (*grace).min(GRACE_MAX),
            Self::Unknown => GRACE_MAX,
        }
    }
}

/// The documents on one session; cheap to clone. It outlives the session: calls then fail.
///
/// Every call ends within a few of the link's call deadlines. Dropping one is safe: what it has submitted is found out
/// behind the scenes, and a take that nobody waits for is undone.
#[derive(Clone, Debug)]
pub struct Store {
    link: Link,
    layout: Layout,
    clock: SharedClock,
}

impl Store {
    /// The documents of `layout`, as `link` reads and writes them.
    pub fn new(link: Link, layout: Layout, clock: SharedClock) -> Self {
        Self { link, layout, clock }
    }

    /// The session.
    pub fn link(&self) -> &Link {
        &self.link
    }

    /// Where everything is.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }
}

mod millis {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(value: &Duration, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_u64(u64::try_from(value.as_millis()).unwrap_or(u64::MAX))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        u64::deserialize(from).map(Duration::from_millis)
    }
}
