//! The phases of a node's virtual IPs. What exists only in one of them is owned by it.

use std::sync::Arc;
use std::time::Duration;

use clock::SharedClock;
use pulse::Pulse;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time;
use tokio_util::sync::CancellationToken;

use crate::driver::{Driver, Mode};
use crate::error::CleanFailure;
use crate::handle::Handle;
use crate::options::Options;

pub use machine::{Cleaning, EDGES, Edge, MERMAID, Phase, PhaseId, Releasing, Serving, Stopped, Vip};

/// The last part of a stop, kept for the loop to join what is left.
const JOIN_RESERVE: Duration = Duration::from_millis(200);

/// A loop that runs, and the only way to end it.
#[derive(Debug)]
struct Core {
    handle: Handle,
    mode: watch::Sender<Mode>,
    /// One task: the owner's loop. Dropping it aborts the loop; the guard and the kernel then remove the addresses.
    owner: JoinSet<Report>,
    pulse: Pulse,
    clock: SharedClock,
}

/// What was left when it stopped.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Addresses that could not be removed. The guard tries, and the kernel does at the end of their lifetimes.
    pub abandoned: Vec<String>,
    /// The loop itself could not be ended, or crashed: what it held is left to the guard and the kernel.
    pub aborted: bool,
}

impl Report {
    /// Whether nothing is left.
    pub fn is_clean(&self) -> bool {
        !self.aborted && self.abandoned.is_empty()
    }
}

async fn start(options: Options, cancel: CancellationToken) -> Result<Core, CleanFailure> {
    let (pulse, clock) = (options.pulse.clone(), Arc::clone(&options.clock));
    pulse.phase(PhaseId::Cleaning.as_str(), clock.now());
    let prepared = tokio::select! {
        biased;
        () = cancel.cancelled() => Err(CleanFailure::Cancelled),
        prepared = Driver::prepare(options) => prepared,
    };
    let (mode, mode_seen) = watch::channel(Mode::Serving);
    let (driver, handle) = prepared?.into_driver(mode_seen);
    pulse.phase(PhaseId::Serving.as_str(), clock.now());
    let mut owner = JoinSet::new();
    owner.spawn(pulse.watch("its loop", driver.run()));
    Ok(Core { handle, mode, owner, pulse, clock })
}

async fn finish(mut core: Core, deadline: time::Instant) -> Report {
    let unknown = Report { aborted: true, ..Report::default() };
    let report = match time::timeout_at(deadline, core.owner.join_next()).await {
        Ok(Some(Ok(report))) => report,
        Ok(Some(Err(error))) => {
            tracing::error!(%error, "the loop of the virtual IPs ended badly");
            unknown
        }
        Ok(None) => unknown,
        Err(_) => {
            tracing::error!("the loop of the virtual IPs does not stop in time: aborting it");
            core.owner.abort_all();
            unknown
        }
    };
    core.pulse.phase(PhaseId::Stopped.as_str(), core.clock.now());
    report
}

/// The machine.
#[typestate_derive::typestate]
mod machine {
    use std::time::Duration;

    use tokio::time;
    use tokio_util::sync::CancellationToken;

    use super::{CleanFailure, Core, Handle, JOIN_RESERVE, Mode, Options, Report, finish, start};

    /// Keeps a node's virtual IPs.
    #[machine(initial = Cleaning, terminal = [Stopped])]
    #[derive(Debug)]
    pub struct Vip<P> {
        phase: P,
    }

    /// Nothing has been started; addresses of an earlier life may be there.
    #[phase]
    #[derive(Debug)]
    pub struct Cleaning {
        options: Options,
    }

    /// The owner's loop runs: it holds what it is to hold while there is a session.
    #[phase]
    #[derive(Debug)]
    pub struct Serving {
        core: Core,
    }

    /// It takes nothing any more and gives up what it holds.
    #[phase]
    #[derive(Debug)]
    pub struct Releasing {
        core: Core,
        deadline: time::Instant,
    }

    /// Nothing of it is left but its directory.
    #[phase]
    #[derive(Debug)]
    pub struct Stopped {
        report: Report,
    }

    impl Vip<Cleaning> {
        /// Virtual IPs that have not been started.
        pub fn new(options: Options) -> Self {
            Self { phase: Cleaning { options } }
        }

        /// Removes what an earlier life left, and starts the loop, without coordination yet: hand a session in with
        /// [`Handle::control`]. Call it before the node joins its cluster.
        ///
        /// # Errors
        /// Nothing was started. A cancelled cleaning is a failed one.
        ///
        /// # Cancel safety
        /// Cancel it through `cancel`, or drop it: what was removed stays removed.
        #[edge(to = Serving, fails = CleanFailure)]
        pub async fn clean(self, cancel: CancellationToken) -> Result<Vip<Serving>, CleanFailure> {
            let core = start(self.phase.options, cancel).await?;
            Ok(Vip { phase: Serving { core } })
        }
    }

    impl Vip<Serving> {
        /// A way to it for whoever hands it sessions, orders and shows.
        pub fn handle(&self) -> Handle {
            self.phase.core.handle.clone()
        }

        /// Takes nothing any more from now on, and removes and releases everything in parallel, all `within`.
        #[edge(to = Releasing)]
        pub fn release(self, within: Duration) -> Vip<Releasing> {
            let core = self.phase.core;
            let deadline = time::Instant::now() + within;
            core.pulse.phase(PhaseId::Releasing.as_str(), core.clock.now());
            core.mode.send_replace(Mode::Stopping { deadline: deadline - JOIN_RESERVE.min(within / 4) });
            Vip { phase: Releasing { core, deadline } }
        }
    }

    impl Vip<Releasing> {
        /// Waits for it, until the deadline that the release was given.
        #[edge(to = Stopped)]
        pub async fn finish(self) -> Vip<Stopped> {
            let Releasing { core, deadline } = self.phase;
            let report = finish(core, deadline).await;
            Vip { phase: Stopped { report } }
        }
    }

    impl Vip<Stopped> {
        /// What is left.
        pub fn report(&self) -> &Report {
            &self.phase.report
        }
    }
}
