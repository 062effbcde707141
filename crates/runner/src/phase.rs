//! The runner's phases. What exists only in one of them is owned by it.

use std::sync::Arc;
use std::time::Duration;

use clock::SharedClock;
use drill::Drill;
use pulse::Pulse;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time;
use tokio_util::sync::CancellationToken;

use crate::boot;
use crate::driver::{Driver, Mode};
use crate::error::BootFailure;
use crate::handle::Handle;
use crate::options::Options;
use proto::{AttemptId, Incarnation};

pub use machine::{Booting, Draining, EDGES, Edge, MERMAID, Phase, PhaseId, Runner, Running, Stopped};

/// A loop that runs, and the only way to end it.
#[derive(Debug)]
struct Core {
    incarnation: Incarnation,
    handle: Handle,
    mode: watch::Sender<Mode>,
    /// One task: the owner's loop. Dropping it aborts the loop; shims then end their trees at their deadlines.
    owner: JoinSet<Report>,
    pulse: Pulse,
    clock: SharedClock,
    drill: Drill,
}

impl Core {
    fn enter(&self, phase: PhaseId) {
        self.pulse.phase(phase.as_str(), self.clock.now());
    }
}

/// What a runner left when it stopped.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Ends that no leader has acknowledged; those of processes are on disk, and reported by the next life.
    pub undelivered: usize,
    /// Attempts that could not be ended in time. Their shims hold their deadlines, and the next boot ends them first.
    pub abandoned: Vec<AttemptId>,
    /// Attempts that were left to the next life, as was asked for.
    pub left: Vec<AttemptId>,
    /// The loop itself could not be ended, or crashed: what else it ran is not known to have ended.
    pub aborted: bool,
}

impl Report {
    /// Whether nothing is left that runs but what was to be left.
    pub fn is_clean(&self) -> bool {
        !self.aborted && self.abandoned.is_empty()
    }
}

async fn start(options: Options, cancel: CancellationToken) -> Result<Core, BootFailure> {
    options.pulse.phase(PhaseId::Booting.as_str(), options.clock.now());
    let ground = boot::prepare(&options, &cancel).await?;
    let (pulse, clock, drill) = (options.pulse.clone(), Arc::clone(&options.clock), options.drill.clone());
    pulse.phase(PhaseId::Running.as_str(), clock.now());
    drill.record(clock.now(), || format!("open runner id={}", options.incarnation));
    let incarnation = options.incarnation;
    let (mode, mode_seen) = watch::channel(Mode::Running);
    let (driver, handle) = Driver::new(options, ground, mode_seen);
    let mut owner = JoinSet::new();
    owner.spawn(pulse.watch("its loop", driver.run()));
    Ok(Core { incarnation, handle, mode, owner, pulse, clock, drill })
}

async fn finish(mut core: Core, within: Duration, leave: bool) -> Report {
    let deadline = time::Instant::now() + within;
    core.enter(PhaseId::Draining);
    core.drill.hold("runner.stop").await;
    core.mode.send_replace(Mode::Stopping { deadline, leave });
    let unknown = Report { aborted: true, ..Report::default() };
    let report = match time::timeout_at(deadline, core.owner.join_next()).await {
        Ok(Some(Ok(report))) => report,
        Ok(Some(Err(error))) => {
            tracing::error!(%error, "the runner's loop ended badly");
            unknown
        }
        Ok(None) => unknown,
        Err(_) => {
            tracing::error!(?within, "the runner's loop does not stop in time: aborting it");
            core.owner.abort_all();
            unknown
        }
    };
    core.enter(PhaseId::Stopped);
    core.drill.record(core.clock.now(), || format!("close runner id={}", core.incarnation));
    report
}

/// The machine.
#[typestate_derive::typestate]
mod machine {
    use std::time::Duration;

    use tokio_util::sync::CancellationToken;

    use super::{BootFailure, Core, Handle, Mode, Options, Report, finish, start};

    /// Executes attempts on one node.
    #[machine(initial = Booting, terminal = [Stopped])]
    #[derive(Debug)]
    pub struct Runner<P> {
        phase: P,
    }

    /// Nothing has been started.
    #[phase]
    #[derive(Debug)]
    pub struct Booting {
        options: Options,
    }

    /// The owner's loop runs and takes work.
    #[phase]
    #[derive(Debug)]
    pub struct Running {
        core: Core,
    }

    /// It takes no more work; what runs goes on.
    #[phase]
    #[derive(Debug)]
    pub struct Draining {
        core: Core,
    }

    /// Nothing of it is left but its directory.
    #[phase]
    #[derive(Debug)]
    pub struct Stopped {
        report: Report,
    }

    impl Runner<Booting> {
        /// A runner that has started nothing.
        pub fn new(options: Options) -> Self {
            Self { phase: Booting { options } }
        }

        /// Takes the node's directory, ends what a crashed predecessor left, and starts to serve.
        ///
        /// # Errors
        /// Everything that was started is undone by then. A cancelled boot is a failed one.
        ///
        /// # Cancel safety
        /// Cancel it through `cancel`. A dropped boot leaves nothing running, but frees the directory only when its last
        /// disk access is over.
        #[edge(to = Running, fails = BootFailure)]
        pub async fn boot(self, cancel: CancellationToken) -> Result<Runner<Running>, BootFailure> {
            let core = start(self.phase.options, cancel).await?;
            Ok(Runner { phase: Running { core } })
        }
    }

    impl Runner<Running> {
        /// A way to it for whoever serves leaders or shows its status.
        pub fn handle(&self) -> Handle {
            self.phase.core.handle.clone()
        }

        /// Takes no more work from now on.
        #[edge(to = Draining)]
        pub fn drain(self) -> Runner<Draining> {
            let core = self.phase.core;
            core.enter(PhaseId::Draining);
            core.mode.send_replace(Mode::Draining);
            Runner { phase: Draining { core } }
        }
    }

    impl Runner<Draining> {
        /// Ends every attempt (SIGTERM, grace, SIGKILL), tells the leader if it answers, and ends itself, all `within`.
        #[edge(to = Stopped)]
        pub async fn stop(self, within: Duration) -> Runner<Stopped> {
            let report = finish(self.phase.core, within, false).await;
            Runner { phase: Stopped { report } }
        }

        /// Ends itself and what it runs inside the daemon, and leaves the process trees to their shims, which the next
        /// boot adopts, all `within`. Until when those may run is what the last answered heartbeat said:
        /// [`Handle::prepare_to_leave`] first asks for more.
        #[edge(to = Stopped)]
        pub async fn leave(self, within: Duration) -> Runner<Stopped> {
            let report = finish(self.phase.core, within, true).await;
            Runner { phase: Stopped { report } }
        }
    }

    impl Runner<Stopped> {
        /// What is left.
        pub fn report(&self) -> &Report {
            &self.phase.report
        }
    }
}
