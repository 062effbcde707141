//! The dispatcher's phases: what exists in each, and what leads from one to the next.

#[typestate_derive::typestate]
pub(crate) mod machine {
    use std::sync::Arc;
    use std::time::Duration;

    use coord::Term;
    use proto::FencingToken;
    use tokio::sync::watch;
    use tokio_util::sync::CancellationToken;

    use crate::clients::Runners;
    use crate::config::{Config, Options};
    use crate::fenced_log::FencedLog;
    use crate::handle::Handle;
    use crate::lifecycle::{Inputs, Loop, RecoverFailure, Report, recover, stop, unwind};
    use crate::members::MemberInfo;
    use crate::standby::Standby;
    use crate::storage::{Authority, Storage};

    /// The leader's dispatcher, for one term.
    #[machine(initial = Recovering, terminal = [Stopped])]
    #[derive(Debug)]
    pub struct Dispatcher<P> {
        phase: P,
    }

    /// The log is replayed and the runners are asked what they run; nothing is assigned.
    #[phase]
    #[derive(Debug)]
    pub struct Recovering {
        config: Config,
        storage: Box<dyn Storage>,
        inputs: Inputs,
    }

    /// Tasks are accepted and assigned.
    #[phase]
    #[derive(Debug)]
    pub struct Dispatching {
        storage: Box<dyn Storage>,
        work: Loop,
    }

    /// Nothing new is accepted or assigned; outcomes are.
    #[phase]
    #[derive(Debug)]
    pub struct Draining {
        storage: Box<dyn Storage>,
        work: Loop,
    }

    /// Everything is ended and closed.
    #[phase]
    #[derive(Debug)]
    pub struct Stopped {
        report: Report,
    }

    impl Dispatcher<Recovering> {
        /// A dispatcher for `term`, which was claimed before this call, with the head start that this node had, if it had
        /// one.
        pub fn new(
            options: Options,
            term: Term,
            members: watch::Receiver<Arc<Vec<MemberInfo>>>,
            runners: Arc<dyn Runners>,
            standby: Option<Standby>,
        ) -> Self {
            let (token, lease) = (term.token, Arc::new(term.lease.clone()));
            let storage = FencedLog::new(&options, term, standby);
            Self::assemble(options.config(), token, lease, Box::new(storage), members, runners)
        }

        /// A dispatcher over any storage and authority: for the simulation and for measurements. What `options` say of
        /// the coordination service does not matter then. The term was claimed before this call.
        pub fn over(
            options: &Options,
            token: FencingToken,
            lease: Arc<dyn Authority>,
            storage: Box<dyn Storage>,
            members: watch::Receiver<Arc<Vec<MemberInfo>>>,
            runners: Arc<dyn Runners>,
        ) -> Self {
            Self::assemble(options.config(), token, lease, storage, members, runners)
        }

        /// The same, from what concerns the dispatcher alone.
        pub(crate) fn assemble(
            config: Config,
            token: FencingToken,
            lease: Arc<dyn Authority>,
            storage: Box<dyn Storage>,
            members: watch::Receiver<Arc<Vec<MemberInfo>>>,
            runners: Arc<dyn Runners>,
        ) -> Self {
            let claimed = config.clock.now();
            let inputs = Inputs { token, lease, claimed, members, runners };
            Self { phase: Recovering { config, storage, inputs } }
        }

        /// Opens the data session and the log, replays it, commits the first record of the term, and asks every member
        /// for its inventory. While the coordination service is out of reach it keeps trying: the caller's deadline is
        /// the token.
        ///
        /// # Errors
        /// Whatever is in the way; what had been opened is closed again.
        ///
        /// # Cancel safety
        /// Cancel it through the token; dropping the future abandons the data session.
        #[edge(to = Dispatching, fails = RecoverFailure)]
        pub async fn recover(
            self,
            cancel: CancellationToken,
        ) -> Result<Dispatcher<Dispatching>, RecoverFailure> {
            let Recovering { config, mut storage, inputs } = self.phase;
            match recover(&config, &mut *storage, inputs, cancel).await {
                Ok(work) => Ok(Dispatcher { phase: Dispatching { storage, work } }),
                Err(failure) => {
                    unwind(storage).await;
                    Err(failure)
                }
            }
        }
    }

    impl Dispatcher<Dispatching> {
        /// What callers use.
        pub fn handle(&self) -> Handle {
            self.phase.work.handle.clone()
        }

        /// Accepts and assigns nothing more. What is under way goes on.
        #[edge(to = Draining)]
        pub fn drain(self) -> Dispatcher<Draining> {
            let Dispatching { storage, work } = self.phase;
            work.config.enter(PhaseId::Draining);
            work.drain.cancel();
            Dispatcher { phase: Draining { storage, work } }
        }
    }

    impl Dispatcher<Draining> {
        /// Writes what is decided, ends the loop, closes the data session; what does not end in time is abandoned.
        #[edge(to = Stopped)]
        pub async fn stop(self, within: Duration) -> Dispatcher<Stopped> {
            let Draining { storage, work } = self.phase;
            Dispatcher { phase: Stopped { report: stop(work, storage, within).await } }
        }
    }

    impl Dispatcher<Stopped> {
        /// What went wrong on the way, if anything.
        pub fn report(&self) -> &Report {
            &self.phase.report
        }
    }
}
