//! What a runner is given.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clock::SharedClock;
use drill::Drill;
use proto::{Incarnation, NodeId};
use pulse::Pulse;

use crate::{LeaderLink, Retention, Services};

/// What a runner is given. [`Options::new`] has a default for everything that can have one.
#[derive(Clone, Debug)]
pub struct Options {
    /// The node.
    pub node: NodeId,
    /// Where its RPC can be reached.
    pub address: String,
    /// This life of its daemon, drawn at its start.
    pub incarnation: Incarnation,
    /// Tells this machine from a copy of its disk.
    pub machine_id: String,
    /// The node's directory; the runner keeps to `runner/` in it.
    pub data_dir: PathBuf,
    /// How many attempts may run at a time.
    pub slots: u32,
    /// The node's labels.
    pub labels: BTreeMap<String, String>,
    /// What it can execute.
    pub services: Services,
    /// How a shim is started.
    pub shim: ShimProgram,
    /// Largest output kept of one attempt, in bytes.
    pub output_bytes_max: u64,
    /// Output kept of attempts whose end a leader has acknowledged.
    pub retention: Retention,
    /// From SIGTERM to SIGKILL; at most 2 s.
    pub kill_grace: Duration,
    /// From one sign of life to the next.
    pub heartbeat: Duration,
    /// How long a boot may take to end what a crashed predecessor left.
    pub leftovers_deadline: Duration,
    /// Whether a boot goes on with the processes of a predecessor that are still under their shims, instead of ending them.
    pub adopt: bool,
    /// Whether tasks get PID namespaces.
    pub pid_namespace: PidNamespace,
    /// CLOCK_BOOTTIME where there are real processes: their shims read it themselves.
    pub clock: SharedClock,
    /// The way to the leader.
    pub leader: Arc<dyn LeaderLink>,
    /// What to do when work inside the daemon cannot be ended by the deadline of its fence.
    pub exit_policy: Option<ExitPolicy>,
    /// Where whoever watches the runner from outside sees that it blocks a thread; nobody does by default.
    pub pulse: Pulse,
    /// Faults that a test switches on; none by default.
    pub drill: Drill,
}

impl Options {
    /// A runner of `node` with 8 slots, 8 MiB of output an attempt, a grace of 2 s and a heartbeat a second.
    #[expect(clippy::too_many_arguments, reason = "each is of its own type, and none has a default")]
    pub fn new(
        node: NodeId,
        address: String,
        incarnation: Incarnation,
        machine_id: String,
        data_dir: PathBuf,
        services: Services,
        shim: ShimProgram,
        clock: SharedClock,
        leader: Arc<dyn LeaderLink>,
    ) -> Self {
        Self {
            node,
            address,
            incarnation,
            machine_id,
            data_dir,
            slots: 8,
            labels: BTreeMap::new(),
            services,
            shim,
            output_bytes_max: 8 << 20,
            retention: Retention::default(),
            kill_grace: Duration::from_secs(2),
            heartbeat: Duration::from_secs(1),
            leftovers_deadline: Duration::from_secs(4),
            adopt: true,
            pid_namespace: PidNamespace::Auto,
            clock,
            leader,
            exit_policy: None,
            pulse: Pulse::default(),
            drill: Drill::none(),
        }
    }

    /// Checks every limit.
    ///
    /// # Errors
    /// The first that is exceeded, with what to do about it.
    pub fn check(&self) -> Result<(), InvalidOptions> {
        let refuse = |message: &str| Err(InvalidOptions(message.to_owned()));
        if self.slots == 0 || self.slots > 100_000 {
            refuse("the slots are out of range: use 1 to 100000")
        } else if self.kill_grace > Duration::from_secs(2) {
            refuse("the kill grace is longer than 2 s, which the fence does not leave room for")
        } else if self.heartbeat < Duration::from_millis(10) || self.heartbeat > Duration::from_secs(10) {
            refuse("the heartbeat is out of range: use 10 ms to 10 s")
        } else if self.output_bytes_max < 1024 {
            refuse("the limit on output is below 1024 bytes")
        } else {
            Ok(())
        }
    }
}

/// Why [`Options`] are refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidOptions(String);

/// A program that calls [`shim::main`](crate::shim::main) when it is started with these arguments and more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShimProgram {
    /// Its file.
    pub program: PathBuf,
    /// What leads to the shim, before what the runner appends.
    pub args: Vec<String>,
}

/// Whether tasks get PID namespaces, in which the end of the first process is the end of all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PidNamespace {
    /// Where it is permitted; otherwise process groups and adopted orphans.
    #[default]
    Auto,
    /// Process groups and adopted orphans.
    Never,
}

/// Called with a reason when work inside the daemon could not be ended by the deadline of its fence: the process must end,
/// or what was reassigned runs twice. The library itself never ends its process. Process tasks never call it: their
/// shims hold their deadlines, and would outlive the daemon.
#[derive(Clone)]
pub struct ExitPolicy(Arc<dyn Fn(&str) + Send + Sync>);

impl ExitPolicy {
    /// Calls `policy`, which must not block.
    pub fn new(policy: impl Fn(&str) + Send + Sync + 'static) -> Self {
        Self(Arc::new(policy))
    }

    pub(crate) fn call(&self, reason: &str) {
        (self.0)(reason);
    }
}

impl fmt::Debug for ExitPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ExitPolicy(..)")
    }
}
