//! The composition root: reads as the list of what a node consists of.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use clock::SharedClock;
use coord::Term;
use drill::Drill;
use proto::{Incarnation, NodeId};
use pulse::Pulse;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::config::{Config, PidNamespace};
use crate::data_dir::DataDir;
use crate::head_start::HeadStart;
use crate::links::{ToLeader, ToRunners};
use crate::net::{Identity as NetIdentity, Peers, SharedNetwork};
use crate::status;
use crate::supervisor::published::Board;
use crate::supervisor::pulses::Pulses;
use crate::vips::Machine;

/// Larger payloads live beside the task log instead of in its segments, in bytes.
const PAYLOAD_INLINE_MAX: usize = 4 * 1024;

/// Everything that outlives a component's single life, and how to make a new one of each.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) node: NodeId,
    pub(crate) address: String,
    pub(crate) identity: status::Identity,
    pub(crate) clock: SharedClock,
    pub(crate) stop_within: Duration,
    /// How long a component may block a thread before the process ends.
    pub(crate) wedged_max: Duration,
    pub(crate) peers: Peers,
    pub(crate) network: SharedNetwork,
    pub(crate) incarnation: Incarnation,
    pub(crate) config: Config,
    pub(crate) data_dir: DataDir,
    pub(crate) net_identity: NetIdentity,
    pub(crate) services: runner::Services,
    pub(crate) shim: runner::ShimProgram,
    pub(crate) exit_policy: Option<runner::ExitPolicy>,
    /// How this node takes part in virtual IPs, if it does.
    pub(crate) vips: Option<Machine>,
    /// Whether this machine certainly has none of its virtual IPs; false where this life could not have removed any.
    pub(crate) vips_gone: watch::Sender<bool>,
    /// What its own file says for them, now.
    pub(crate) facts: watch::Sender<vip::Facts>,
    pub(crate) rng_seed: u64,
    pub(crate) keeper_seed: [u8; 32],
    pub(crate) auth: Option<(String, Vec<u8>)>,
    pub(crate) board: Board,
    pub(crate) pulses: Pulses,
    /// Faults that a test switches on.
    pub(crate) drill: Drill,
    pub(crate) runtime: Arc<coord::ClientRuntime>,
    /// What this node knows of the task log before it leads.
    pub(crate) head_start: HeadStart,
    /// The members as the dispatcher wants to see them.
    pub(crate) members: watch::Sender<Arc<Vec<dispatcher::MemberInfo>>>,
    /// Whether the configured priority has been set once.
    pub(crate) priority_set: OnceLock<()>,
    /// Where the embedded keeper listens, once it does.
    pub(crate) keeper: OnceLock<SocketAddr>,
}

/// Why the quorum could not be brought up.
#[derive(Debug, thiserror::Error)]
pub(crate) enum QuorumFailure {
    #[error("failed to connect")]
    Connect(#[source] quorum::ConnectFailure),
    #[error("failed to join")]
    Join(#[source] quorum::JoinFailure),
}

impl QuorumFailure {
    /// Whether trying again is no use.
    pub(crate) fn is_permanent(&self) -> bool {
        match self {
            Self::Connect(quorum::ConnectFailure::Failed { source, .. }) => !source.is_transient(),
            Self::Join(quorum::JoinFailure::Failed { source, .. }) => !source.is_transient(),
            Self::Connect(quorum::ConnectFailure::Cancelled) | Self::Join(quorum::JoinFailure::Cancelled) => {
                false
            }
        }
    }
}

impl Parts {
    fn coord(&self, pulse: &Pulse) -> coord::Options {
        let coordination = &self.config.coordination;
        coord::Options {
            session_timeout: coordination.session_timeout,
            tick: coordination.tick,
            margin: coordination.margin(),
            call_deadline: coordination.call_deadline,
            auth: self.auth.clone(),
            drill: self.drill.clone(),
            pulse: pulse.clone(),
            ..coord::Options::new(self.hosts(), coordination.root.clone())
        }
    }

    /// Where the coordination service is; empty as long as the embedded one has not started.
    pub(crate) fn hosts(&self) -> String {
        match &self.config.coordination.hosts {
            Some(hosts) => hosts.clone(),
            None => self.keeper.get().copied().map_or_else(String::new, |address| reach(address).to_string()),
        }
    }

    /// Adds to the history of a drill that the node opened or closed what it has one of.
    pub(crate) fn note(&self, what: &'static str, resource: &'static str) {
        self.drill.record(self.clock.now(), || format!("{what} {resource} id=1"));
    }

    /// The embedded keeper, if this node has one.
    pub(crate) fn new_keeper(&self) -> Option<keeper::server::Options> {
        let coordination = &self.config.coordination;
        coordination.embedded.then(|| {
            let data_dir = self.data_dir.path().join("keeper");
            let mut options = keeper::server::Options::new(data_dir, coordination.embedded_listen);
            options.tick = coordination.tick;
            options
        })
    }

    pub(crate) fn new_runner(&self) -> runner::Runner<runner::Booting> {
        let tasks = &self.config.tasks;
        let leader =
            ToLeader::new(self.board.clone(), self.peers.clone(), self.address.clone(), self.clock.clone());
        runner::Runner::new(runner::Options {
            slots: self.config.node.slots(),
            labels: self.config.node.labels.clone(),
            output_bytes_max: tasks.output_bytes_max,
            retention: runner::Retention {
                attempts_max: tasks.output_retention_count,
                bytes_max: tasks.output_retention_bytes,
                age_max: tasks.output_retention_age,
            },
            kill_grace: tasks.kill_grace,
            heartbeat: tasks.heartbeat,
            pid_namespace: match self.config.exec.pid_namespace {
                PidNamespace::Auto => runner::PidNamespace::Auto,
                PidNamespace::Never => runner::PidNamespace::Never,
            },
            exit_policy: self.exit_policy.clone(),
            pulse: self.pulses.runner.clone(),
            drill: self.drill.clone(),
            ..runner::Options::new(
                self.node.clone(),
                self.address.clone(),
                self.incarnation,
                self.data_dir.machine_id().to_owned(),
                self.data_dir.path().to_owned(),
                self.services.clone(),
                self.shim.clone(),
                Arc::clone(&self.clock),
                Arc::new(leader),
            )
        })
    }

    /// Virtual IPs, if this node takes part in them.
    pub(crate) fn new_vips(&self) -> Option<vip::Vip<vip::Cleaning>> {
        let machine = self.vips.as_ref()?;
        let config = &self.config.vip;
        Some(vip::Vip::new(vip::Options {
            node: self.node.clone(),
            incarnation: self.incarnation,
            data_dir: self.data_dir.path().to_owned(),
            backend: Arc::clone(&machine.backend),
            why_dry: machine.why_dry.clone(),
            announcer: Arc::clone(&machine.announcer),
            facts: self.facts.borrow().clone(),
            probe: vip::announce::ProbePolicy { count: config.probe_count, interval: config.probe_interval },
            announce: vip::AnnouncePolicy {
                refresh: config.announce_refresh,
                jitter: config.announce_refresh / 10,
                ..vip::AnnouncePolicy::default()
            },
            clock: Arc::clone(&self.clock),
            rng_seed: self.rng_seed,
            pulse: self.pulses.vip.clone(),
            drill: self.drill.clone(),
            guard: machine.guard.clone(),
        }))
    }

    /// Connects, joins and runs. Nothing is left behind if it fails or is cancelled.
    pub(crate) async fn boot_quorum(
        &self,
        cancel: CancellationToken,
    ) -> Result<quorum::Quorum<quorum::Running>, QuorumFailure> {
        let election = &self.config.election;
        let initializing = quorum::Quorum::new(quorum::Options {
            labels: self.config.node.labels.clone(),
            version: crate::net::VERSION.to_owned(),
            eligible: self.config.node.eligible,
            eligible_max: election.eligible_max,
            claim_grace: election.claim_grace,
            serve_deadline: election.serve_deadline,
            hold_down: quorum::HoldDown { first: election.hold_down, max: election.hold_down_max },
            join_deadline: self.config.coordination.join_deadline,
            vips_gone: self.vips_gone.subscribe(),
            pulse: self.pulses.quorum.clone(),
            ..quorum::Options::new(
                self.node.clone(),
                self.address.clone(),
                self.incarnation,
                self.coord(&self.pulses.quorum),
                Arc::clone(&self.clock),
                self.rng_seed,
                Arc::new(quorum::FileIdentity::new(self.identity_file())),
                Arc::clone(&self.runtime),
            )
        });
        let connected = initializing.connect(cancel.clone()).await.map_err(QuorumFailure::Connect)?;
        let joined = connected.join(cancel).await.map_err(QuorumFailure::Join)?;
        Ok(joined.run())
    }

    fn identity_file(&self) -> PathBuf {
        self.data_dir.path().join("identity.json")
    }

    pub(crate) fn new_dispatcher(
        &self,
        term: Term,
        standby: Option<dispatcher::Standby>,
    ) -> dispatcher::Dispatcher<dispatcher::Recovering> {
        dispatcher::Dispatcher::new(
            self.dispatcher_options(),
            term,
            self.members.subscribe(),
            Arc::new(ToRunners::new(self.peers.clone(), self.board.clone(), self.node.clone())),
            standby,
        )
    }

    pub(crate) fn dispatcher_options(&self) -> dispatcher::Options {
        let tasks = &self.config.tasks;
        dispatcher::Options {
            node: self.node.clone(),
            fence_after: tasks.fence_after,
            drift: tasks.drift,
            heartbeat: tasks.heartbeat,
            retention: dispatcher::Retention {
                count: tasks.retention_count,
                age: tasks.retention_age,
                // The other half is for what has not ended.
                bytes: tasks.retention_bytes.min(tasks.log_bytes_budget / 2),
                idempotency_age: tasks.idempotency_retention,
                idempotency_count: tasks.idempotency_count,
            },
            queue_tasks_max: tasks.queue_tasks_max,
            priority_ageing: tasks.priority_ageing,
            payload_inline_max: PAYLOAD_INLINE_MAX,
            log: coord::log::LogOptions {
                budget_bytes: tasks.log_bytes_budget,
                reserve_bytes: tasks.log_bytes_reserve,
                ..coord::log::LogOptions::default()
            },
            coord: self.coord(&self.pulses.dispatcher),
            runtime: Arc::clone(&self.runtime),
            clock: Arc::clone(&self.clock),
            rng_seed: self.rng_seed,
            pulse: self.pulses.dispatcher.clone(),
        }
    }

    /// Passes on what a new view means for the rest of the node.
    pub(crate) fn follow(&self, view: &quorum::View) {
        if let Some(cluster) = view.cluster
            && let Err(conflict) = self.net_identity.set_cluster(cluster)
        {
            tracing::error!(%conflict, "the cluster has changed under a running node");
        }
        let members: Vec<_> = view
            .members
            .iter()
            .map(|member| dispatcher::MemberInfo {
                node: member.node.clone(),
                address: member.address.clone(),
                incarnation: member.incarnation,
                labels: member.labels.clone(),
            })
            .collect();
        self.members.send_if_modified(|known| {
            let changed = **known != members;
            if changed {
                *known = Arc::new(members);
            }
            changed
        });
    }
}

/// How this machine reaches what listens on `address`.
fn reach(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip(if address.is_ipv4() {
            Ipv4Addr::LOCALHOST.into()
        } else {
            Ipv6Addr::LOCALHOST.into()
        });
    }
    address
}
