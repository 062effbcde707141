//! What can be configured: plain data, parsed and checked once.
//!
//! Layers, later ones win: built-in defaults, the TOML file, the environment (`TASKD_<SECTION>__<KEY>`, for example
//! `TASKD_COORDINATION__HOSTS`), flags of `taskd serve`. Only `coordination.hosts` must be given, or
//! `coordination.embedded`; `node.id` too where the machine's host name is no node id. Every error names the key and
//! where its value came from.

mod check;
mod error;
mod load;
mod vip;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZero;
use std::path::PathBuf;
use std::time::Duration;

use proto::{DEFAULT_PORT, NodeId};
use serde::{Deserialize, Serialize};

pub use error::{ConfigError, Problem};
pub use load::{Flags, data_dir, load};
pub use vip::{Vip, VipBackend};

/// Where a service keeps its data.
const DATA_DIR: &str = "/var/lib/taskd";

/// Where ZooKeeper's clients look for it.
pub const COORDINATION_PORT: u16 = 2181;

/// Everything that a node is told.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Config {
    /// This node.
    pub node: Node,
    /// The coordination service.
    pub coordination: Coordination,
    /// The election of the leader.
    pub election: Election,
    /// Tasks that run commands.
    pub exec: Exec,
    /// The task database and the running of tasks.
    pub tasks: Tasks,
    /// Virtual IPs.
    pub vip: Vip,
    /// Stopping.
    pub stop: Stop,
    /// Logging; for the binary alone.
    pub log: Log,
}

/// This node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Node {
    /// Its name, unique in the cluster.
    pub id: NodeId,
    /// Where it listens.
    #[serde(with = "socket_address")]
    pub listen: SocketAddr,
    /// `HOST:PORT` under which the others reach it; none = as it listens.
    pub advertise: Option<String>,
    /// Where it keeps its identity, the output of tasks and outcomes not yet delivered.
    pub data_dir: PathBuf,
    /// Labels that tasks can ask for.
    pub labels: BTreeMap<String, String>,
    /// Attempts that may run at a time; none = one per processor.
    pub slots: Option<u32>,
    /// Whether it may listen beyond loopback although nothing is encrypted or authenticated.
    pub insecure: bool,
    /// Whether it may lead.
    pub eligible: bool,
    /// Priority for leading that it sets when it joins, higher leads; none = leave what the cluster has.
    pub priority: Option<i32>,
    /// Connections that others may open to it.
    pub connections_max: usize,
}

/// The coordination service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Coordination {
    /// ZooKeeper's servers, `HOST:PORT,HOST:PORT,…`; none with `embedded`, and only then.
    pub hosts: Option<String>,
    /// Whether this node runs the coordination service itself: one machine, not highly available.
    pub embedded: bool,
    /// Where the embedded one listens.
    #[serde(with = "socket_address")]
    pub embedded_listen: SocketAddr,
    /// Under which node everything lives.
    pub root: String,
    /// The session timeout to ask for.
    #[serde(with = "humantime_serde")]
    pub session_timeout: Duration,
    /// The ensemble's `tickTime`, which a client cannot learn. The embedded one's too.
    #[serde(with = "humantime_serde")]
    pub tick: Duration,
    /// How much earlier than the session a lease ends; none = `tick` + 100 ms.
    #[serde(with = "humantime_serde")]
    pub margin: Option<Duration>,
    /// How long one call may take.
    #[serde(with = "humantime_serde")]
    pub call_deadline: Duration,
    /// How long joining the cluster may take before the node gives up.
    #[serde(with = "humantime_serde")]
    pub join_deadline: Duration,
    /// A file with `SCHEME:CREDENTIALS` on one line (for example `digest:user:password`); with it, only its bearer
    /// can read and write the cluster's nodes.
    pub auth_file: Option<PathBuf>,
}

/// The election of the leader.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Election {
    /// How many nodes may be candidates at a time.
    pub eligible_max: usize,
    /// How long the first candidate may hesitate before the next one claims.
    #[serde(with = "humantime_serde")]
    pub claim_grace: Duration,
    /// How long an elected leader may take until it serves.
    #[serde(with = "humantime_serde")]
    pub serve_deadline: Duration,
    /// How long a node is passed over after a failed term; doubles with each.
    #[serde(with = "humantime_serde")]
    pub hold_down: Duration,
    /// The longest it is passed over.
    #[serde(with = "humantime_serde")]
    pub hold_down_max: Duration,
    /// Whether a node that hands its leadership over has the next one read the task log first.
    pub head_start: bool,
}

/// Tasks that run commands.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Exec {
    /// Whether this node runs tasks of the kind `exec`, as its own user.
    pub allow: bool,
    /// Users other than its own as whom tasks may ask to run, named exactly so; only where it runs as root.
    pub users: Vec<String>,
    /// Whether each task gets a PID namespace, so that nothing of it can survive its supervisor.
    pub pid_namespace: PidNamespace,
}

/// Whether a task gets a PID namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PidNamespace {
    /// Where the kernel permits it.
    Auto,
    /// Never.
    Never,
}

/// The task database and the running of tasks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Tasks {
    /// How long a node may run tasks without a word from the leader; then it ends them, and they run elsewhere.
    #[serde(with = "humantime_serde")]
    pub fence_after: Duration,
    /// How much clocks of different machines may drift apart within `fence_after`.
    #[serde(with = "humantime_serde")]
    pub drift: Duration,
    /// How often a node tells the leader that it lives.
    #[serde(with = "humantime_serde")]
    pub heartbeat: Duration,
    /// Time between SIGTERM and SIGKILL.
    #[serde(with = "humantime_serde")]
    pub kill_grace: Duration,
    /// Output kept of one attempt, in bytes.
    pub output_bytes_max: u64,
    /// How long a node keeps the output of an attempt that has ended.
    #[serde(with = "humantime_serde")]
    pub output_retention_age: Duration,
    /// Output that a node keeps of attempts that have ended, in bytes.
    pub output_retention_bytes: u64,
    /// Attempts that have ended of which a node keeps the output.
    pub output_retention_count: usize,
    /// Tasks that may be waiting or running at a time.
    pub queue_tasks_max: usize,
    /// How much waiting makes up for one point of priority; zero: none does.
    #[serde(with = "humantime_serde")]
    pub priority_ageing: Duration,
    /// Finished tasks that are remembered.
    pub retention_count: usize,
    /// How long a finished task is remembered.
    #[serde(with = "humantime_serde")]
    pub retention_age: Duration,
    /// Bytes of the task log that finished tasks may take up, their large payloads included; at most half of
    /// `log_bytes_budget` counts.
    pub retention_bytes: u64,
    /// How long after its task has ended an idempotency key still returns that task instead of making a new one.
    #[serde(with = "humantime_serde")]
    pub idempotency_retention: Duration,
    /// Idempotency keys that are remembered although their tasks are not.
    pub idempotency_count: usize,
    /// What a stop of this node does with the tasks that run on it.
    pub on_stop: OnStop,
    /// With [`OnStop::Leave`]: by how much longer than `fence_after` they may run without a daemon, at most 10 minutes.
    #[serde(with = "humantime_serde")]
    pub restart_extension: Duration,
    /// With [`OnStop::Drain`]: how long it waits for them.
    #[serde(with = "humantime_serde")]
    pub drain_deadline: Duration,
    /// Bytes that the live part of the task log may take in the coordination service.
    pub log_bytes_budget: u64,
    /// Bytes beyond the budget that outcomes may still use.
    pub log_bytes_reserve: u64,
}

/// What a stop of a node does with the tasks that run on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnStop {
    /// Commands go on under their supervisors, and the node that is started next goes on with them: a restart. What runs
    /// inside the process ends, and runs again elsewhere.
    Leave,
    /// The node takes nothing new and waits until they have ended, or `tasks.drain_deadline` has passed.
    Drain,
    /// They are ended and run again on other nodes at once.
    Kill,
}

/// Stopping.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Stop {
    /// How long a stop may take in all; the process ends then, whatever is left.
    #[serde(with = "humantime_serde")]
    pub deadline: Duration,
}

/// Logging.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Log {
    /// How lines look.
    pub format: LogFormat,
    /// What is logged: `error`, `warn`, `info`, `debug`, `trace`, or directives such as `info,quorum=debug`.
    pub level: String,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// For eyes.
    Human,
    /// One JSON object a line.
    Json,
}

impl Config {
    /// A node `id` of the cluster behind `hosts`, everything else at its default.
    ///
    /// Virtual IPs are off, unlike in what [`load`] returns, where they are [`VipBackend::Auto`]: a process that embeds
    /// a node does not change its machine's addresses before it is told to. Whoever does switches them on in
    /// [`vip`](Self::vip) and hands in the [guard's program](crate::Builder::vip_guard).
    pub fn new(id: NodeId, hosts: impl Into<String>) -> Self {
        Self {
            node: Node {
                id,
                listen: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), DEFAULT_PORT),
                advertise: None,
                data_dir: PathBuf::from(DATA_DIR),
                labels: BTreeMap::new(),
                slots: None,
                insecure: false,
                eligible: true,
                priority: None,
                connections_max: 4_096,
            },
            coordination: Coordination { hosts: Some(hosts.into()), ..Coordination::default() },
            election: Election {
                eligible_max: 7,
                claim_grace: Duration::from_secs(1),
                serve_deadline: Duration::from_secs(10),
                hold_down: Duration::from_secs(5),
                hold_down_max: Duration::from_secs(300),
                head_start: true,
            },
            exec: Exec { allow: false, users: Vec::new(), pid_namespace: PidNamespace::Auto },
            tasks: Tasks {
                fence_after: Duration::from_secs(30),
                drift: Duration::from_secs(1),
                heartbeat: Duration::from_secs(1),
                kill_grace: Duration::from_secs(2),
                output_bytes_max: 64 << 20,
                output_retention_age: Duration::from_secs(30 * 24 * 60 * 60),
                output_retention_bytes: 1 << 30,
                output_retention_count: 10_000,
                queue_tasks_max: 1_000_000,
                priority_ageing: Duration::from_secs(60),
                retention_count: 10_000,
                retention_age: Duration::from_secs(24 * 60 * 60),
                retention_bytes: 64 << 20,
                idempotency_retention: Duration::from_secs(24 * 60 * 60),
                idempotency_count: 100_000,
                on_stop: OnStop::Kill,
                restart_extension: Duration::from_secs(60),
                drain_deadline: Duration::from_secs(10 * 60),
                log_bytes_budget: 256 << 20,
                log_bytes_reserve: 32 << 20,
            },
            vip: Vip::new(VipBackend::Off),
            stop: Stop { deadline: Duration::from_secs(5) },
            log: Log { format: LogFormat::Human, level: "info".to_owned() },
        }
    }

    /// A node `id` that runs its own coordination service, everything else at its default.
    pub fn embedded(id: NodeId) -> Self {
        let mut config = Self::new(id, "");
        (config.coordination.hosts, config.coordination.embedded) = (None, true);
        config
    }
}

impl Node {
    /// `HOST:PORT` under which the others reach this node.
    pub fn address(&self) -> String {
        self.advertise.clone().unwrap_or_else(|| self.listen.to_string())
    }

    /// Attempts that may run at a time.
    pub fn slots(&self) -> u32 {
        self.slots.unwrap_or_else(|| {
            let processors = std::thread::available_parallelism().map_or(1, NonZero::get);
            u32::try_from(processors).unwrap_or(u32::MAX)
        })
    }
}

impl Default for Coordination {
    /// Without hosts.
    fn default() -> Self {
        Self {
            hosts: None,
            embedded: false,
            embedded_listen: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), COORDINATION_PORT),
            root: "/taskd".to_owned(),
            session_timeout: Duration::from_secs(4),
            tick: Duration::from_secs(2),
            margin: None,
            call_deadline: Duration::from_secs(2),
            join_deadline: Duration::from_secs(60),
            auth_file: None,
        }
    }
}

impl Coordination {
    /// How much earlier than the session a lease ends.
    pub fn margin(&self) -> Duration {
        self.margin.unwrap_or(self.tick + Duration::from_millis(100))
    }

    /// Scheme and credentials from [`auth_file`](Self::auth_file).
    ///
    /// # Errors
    /// The file cannot be read or does not say `SCHEME:CREDENTIALS`.
    pub fn auth(&self) -> Result<Option<(String, Vec<u8>)>, Problem> {
        let key = "coordination.auth_file";
        let Some(path) = &self.auth_file else { return Ok(None) };
        let text = std::fs::read_to_string(path)
            .map_err(|error| Problem::at(key, format!("{}: {error}", path.display())))?;
        let wrong = || Problem::at(key, format!("{} does not say SCHEME:CREDENTIALS", path.display()));
        let (scheme, credentials) = text.trim_end().split_once(':').ok_or_else(wrong)?;
        if scheme.is_empty() || credentials.is_empty() {
            return Err(wrong());
        }
        Ok(Some((scheme.to_owned(), credentials.as_bytes().to_vec())))
    }
}

/// Checks `HOST:PORT`.
///
/// # Errors
/// What is wrong with it, and how it should look.
pub fn parse_address(text: &str) -> Result<&str, String> {
    let wrong =
        |what: &str| Err(format!("{text:?} {what}: use HOST:PORT, for example 127.0.0.1:{DEFAULT_PORT}"));
    let Some((host, port)) = text.rsplit_once(':') else { return wrong("has no port") };
    let bracketed = host.starts_with('[') && host.ends_with(']');
    if host.is_empty() || host.contains(['/', ' ', '@']) || (host.contains(':') && !bracketed) {
        return wrong("has no usable host");
    }
    match port.parse::<u16>() {
        Ok(port) if port > 0 => Ok(text),
        _ => wrong("has no usable port"),
    }
}

mod socket_address {
    use std::net::SocketAddr;

    use serde::{Deserialize, Deserializer, Serializer, de};

    pub(super) fn serialize<S: Serializer>(address: &SocketAddr, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(address)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<SocketAddr, D::Error> {
        let text = String::deserialize(from)?;
        text.parse().map_err(|_| {
            de::Error::custom(format!(
                "{text:?} is not an address to listen on: use IP:PORT, for example 127.0.0.1:10601"
            ))
        })
    }
}

#[cfg(test)]
mod tests;
