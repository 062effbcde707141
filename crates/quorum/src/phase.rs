//! The phases: what exists when, and in what order it comes and goes.

#[typestate_derive::typestate]
pub(crate) mod machine {
    //! The machine itself; the phases' names are those that the outside sees in [`PhaseId`].

    use std::time::Duration;

    use coord::Session;
    use tokio::sync::oneshot;
    use tokio::task::JoinSet;
    use tokio_util::sync::CancellationToken;

    use crate::base::Base;
    use crate::config::Options;
    use crate::error::{ConnectFailure, JoinFailure};
    use crate::handle::Handle;
    use crate::join::Membership;
    use crate::leave::Report;

    /// A node's membership in the cluster.
    ///
    /// ```no_run
    /// # async fn example(options: quorum::Options) -> Result<(), Box<dyn std::error::Error>> {
    /// use std::time::Duration;
    /// use quorum::{Quorum, Readiness, Role};
    /// use tokio_util::sync::CancellationToken;
    ///
    /// let cancel = CancellationToken::new();
    /// let quorum = Quorum::new(options);
    /// let handle = quorum.handle();
    /// let quorum = quorum.connect(cancel.clone()).await?.join(cancel).await?.run();
    /// handle.set_ready(Readiness::Ready);
    /// let mut view = handle.view();
    /// let elected = view.wait_for(|view| matches!(view.role, Role::Elected(_))).await?.clone();
    /// if let Role::Elected(term) = &elected.role {
    ///     handle.serving(term.token.epoch);
    ///     // .. and when all that it started under this term has ended:
    ///     handle.effects_ended(term.token.epoch);
    /// }
    /// let report = quorum.stop(Duration::from_secs(5)).await.into_report();
    /// assert!(report.is_clean());
    /// # Ok(())
    /// # }
    /// ```
    #[machine(initial = Initializing, terminal = [Stopped])]
    #[derive(Debug)]
    pub struct Quorum<P> {
        base: Base,
        phase: P,
    }

    /// Nothing exists yet.
    #[phase]
    #[derive(Debug)]
    pub struct Initializing;

    /// There is a session, and nothing in it.
    #[phase]
    #[derive(Debug)]
    pub struct Connected {
        session: Session,
    }

    /// The member node exists.
    #[phase]
    #[derive(Debug)]
    pub struct Joined {
        membership: Membership,
    }

    /// The driver takes part in the election.
    #[phase]
    #[derive(Debug)]
    pub struct Running {
        driver: JoinSet<Report>,
        stop: oneshot::Sender<Duration>,
    }

    /// Over.
    #[phase]
    #[derive(Debug)]
    pub struct Stopped {
        report: Report,
    }

    impl<P: Phase> Quorum<P> {
        /// The way to ask and tell it from outside, in every phase.
        pub fn handle(&self) -> Handle {
            self.base.handle.clone()
        }
    }

    impl Quorum<Initializing> {
        /// A quorum that has started nothing.
        pub fn new(options: Options) -> Self {
            Self { base: Base::new(options), phase: Initializing }
        }

        /// Opens the control session, trying again until the deadline of [`Options::join_deadline`].
        ///
        /// # Errors
        ///
        /// The deadline has passed, the options or credentials are wrong, or `cancel` was cancelled. Nothing is left.
        ///
        /// # Cancel safety
        ///
        /// Safe.
        #[edge(to = Connected, fails = ConnectFailure)]
        pub async fn connect(self, cancel: CancellationToken) -> Result<Quorum<Connected>, ConnectFailure> {
            let (base, session) = self.base.connect(cancel).await?;
            Ok(Quorum { base, phase: Connected { session } })
        }

        /// Nothing to do.
        #[edge(to = Stopped)]
        pub async fn stop(self, within: Duration) -> Quorum<Stopped> {
            let _ = within;
            Quorum { base: self.base.stopped(), phase: Stopped { report: Report::NoSession } }
        }
    }

    impl Quorum<Connected> {
        /// Becomes a member: checks that the cluster is the one this node belongs to (or founds it), removes the
        /// ephemerals of its own previous life, and creates its member node.
        ///
        /// *The caller has ended that previous life's effects before*: processes, addresses, everything that its
        /// ephemerals fenced. It holds the data directory's lock, so that no other life of this node is alive.
        ///
        /// # Errors
        ///
        /// The deadline has passed, this is another cluster, or `cancel` was cancelled. The session is closed.
        ///
        /// # Cancel safety
        ///
        /// Not safe: use `cancel`. A dropped future abandons the session, and a write of the identity that it was waiting
        /// for goes on.
        #[edge(to = Joined, fails = JoinFailure)]
        pub async fn join(self, cancel: CancellationToken) -> Result<Quorum<Joined>, JoinFailure> {
            let (base, membership) = self.base.join(self.phase.session, cancel).await?;
            Ok(Quorum { base, phase: Joined { membership } })
        }

        /// Closes the session.
        #[edge(to = Stopped)]
        pub async fn stop(self, within: Duration) -> Quorum<Stopped> {
            let (base, report) = self.base.close(self.phase.session, within).await;
            Quorum { base, phase: Stopped { report } }
        }
    }

    impl Quorum<Joined> {
        /// Starts to take part in the election.
        #[edge(to = Running)]
        pub fn run(self) -> Quorum<Running> {
            let (base, driver, stop) = self.base.run(self.phase.membership);
            Quorum { base, phase: Running { driver, stop } }
        }

        /// Closes the session; the member node goes with it.
        #[edge(to = Stopped)]
        pub async fn stop(self, within: Duration) -> Quorum<Stopped> {
            let (base, report) = self.base.close(self.phase.membership.session, within).await;
            Quorum { base, phase: Stopped { report } }
        }
    }

    impl Quorum<Running> {
        /// Leaves: withdraws as a candidate, gives up a term once its effects have ended, deletes the member node,
        /// closes the session. What does not end in its order within 0.6 of the time is cut short: without living
        /// effects the session is closed at once, with them it is abandoned, and the report says so.
        ///
        /// # Cancel safety
        ///
        /// Not safe: a dropped future abandons the session.
        #[edge(to = Stopped)]
        pub async fn stop(self, within: Duration) -> Quorum<Stopped> {
            let Running { driver, stop } = self.phase;
            let (base, report) = self.base.stop(driver, stop, within).await;
            Quorum { base, phase: Stopped { report } }
        }
    }

    impl Quorum<Stopped> {
        /// How it ended.
        pub fn report(&self) -> &Report {
            &self.phase.report
        }

        /// How it ended.
        pub fn into_report(self) -> Report {
            self.phase.report
        }
    }
}

pub use machine::{
    Connected, EDGES, Edge, Initializing, Joined, MERMAID, Phase, PhaseId, Quorum, Running, Stopped,
};
