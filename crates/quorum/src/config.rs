//! Plain data, checked once.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use clock::SharedClock;
use election::{HoldDown, Settings};
use proto::{ClusterId, Incarnation, NodeId};
use pulse::Pulse;
use tokio::sync::watch;

use crate::identity::IdentityStore;

/// What a node brings along.
#[derive(Clone, Debug)]
pub struct Options {
    /// Its name. Two live nodes of one name are not refused here; the runners' incarnations tell them apart.
    pub node: NodeId,
    /// Where its RPC listens, as others reach it.
    pub address: String,
    /// For placement.
    pub labels: BTreeMap<String, String>,
    /// This life of its daemon.
    pub incarnation: Incarnation,
    /// Its release, for people.
    pub version: String,
    /// How to reach ZooKeeper, and how sessions and leases behave; and the faults that a test switches on.
    pub coord: coord::Options,
    /// Whether it may lead at all.
    pub eligible: bool,
    /// At most this many nodes stand as candidates; those of the lowest member sequences stay.
    pub eligible_max: usize,
    /// How long each candidate has to claim before the next one may.
    pub claim_grace: Duration,
    /// How long an elected node has until it serves; also how long a resigning one has until its effects have ended.
    pub serve_deadline: Duration,
    /// How long a node stays out of the line after a term of its failed.
    pub hold_down: HoldDown,
    /// How long connecting, and joining, may take at the start.
    pub join_deadline: Duration,
    /// The one clock.
    pub clock: SharedClock,
    /// Source of uuids and jitter; draw it at random for each life of the daemon.
    pub rng_seed: u64,
    /// Where this node remembers who it is.
    pub identity: Arc<dyn IdentityStore>,
    /// Where the ZooKeeper client runs.
    pub runtime: Arc<coord::ClientRuntime>,
    /// The cluster that this node belongs to, if the caller knows; otherwise the identity's counts.
    pub expected_cluster: Option<ClusterId>,
    /// Whether this machine certainly has none of its virtual IPs: only then the `holder`s of an earlier session are
    /// deleted at a join. Otherwise they go with that session, as those of a node that is gone do. True by default.
    pub vips_gone: watch::Receiver<bool>,
    /// Where whoever watches the quorum from outside sees that it blocks a thread; nobody does by default.
    pub pulse: Pulse,
}

impl Options {
    /// Options with the defaults of D5: eligible, at most 7 candidates, a grace of 1 s, 10 s to serve.
    #[expect(
        clippy::too_many_arguments,
        reason = "each is required and has no default; names are at the call"
    )]
    pub fn new(
        node: NodeId,
        address: String,
        incarnation: Incarnation,
        coord: coord::Options,
        clock: SharedClock,
        rng_seed: u64,
        identity: Arc<dyn IdentityStore>,
        runtime: Arc<coord::ClientRuntime>,
    ) -> Self {
        Self {
            node,
            address,
            labels: BTreeMap::new(),
            incarnation,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            coord,
            eligible: true,
            eligible_max: 7,
            claim_grace: Duration::from_secs(1),
            serve_deadline: Duration::from_secs(10),
            hold_down: HoldDown { first: Duration::from_secs(5), max: Duration::from_secs(60) },
            join_deadline: Duration::from_secs(30),
            clock,
            rng_seed,
            identity,
            runtime,
            expected_cluster: None,
            // A closed channel keeps its value.
            vips_gone: watch::channel(true).1,
            pulse: Pulse::default(),
        }
    }

    /// How long one effect of the election may take before it counts as failed.
    pub(crate) fn effect_deadline(&self) -> Duration {
        self.coord.call_deadline + Duration::from_millis(250)
    }

    /// How long one attempt to join again may take: a session, the skeleton, the member.
    pub(crate) fn rejoin_deadline(&self) -> Duration {
        self.coord.session_timeout + self.coord.call_deadline * 5
    }

    pub(crate) fn settings(&self) -> Settings {
        let Self { coord, .. } = self;
        Settings {
            node: self.node.clone(),
            eligible: self.eligible,
            claim_grace: self.claim_grace,
            serve_deadline: self.serve_deadline,
            end_deadline: self.serve_deadline,
            hysteresis: self.claim_grace * 2,
            suspend_max: coord.session_timeout + coord.tick,
            give_up: coord.session_timeout * 3,
            answer: self.effect_deadline() + Duration::from_millis(250),
            join: self.rejoin_deadline() + Duration::from_secs(1),
            retry: Duration::from_millis(500),
            refresh: Duration::from_secs(10),
            forgive_after: self.hold_down.max * 2,
            seed: self.rng_seed,
            drill: coord.drill.clone(),
        }
    }
}
