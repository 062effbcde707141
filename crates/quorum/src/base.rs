//! What a quorum has in every phase, and the bodies of its transitions.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use coord::{LinkState, Session};
use election::{Generation, Terms};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::config::Options;
use crate::driver::Driver;
use crate::error::{ConnectFailure, JoinFailure};
use crate::handle::{Handle, Inbox};
use crate::join::{self, Membership, Uuids};
use crate::leave::{self, Report};
use crate::phase::PhaseId;
use crate::view::{Publisher, Readiness, Role, View};

/// Options, the published view, both ends of the handle's channels.
#[derive(Debug)]
pub(crate) struct Base {
    options: Arc<Options>,
    publisher: Publisher,
    pub(crate) handle: Handle,
    /// Until the driver has it.
    inbox: Option<Inbox>,
    uuids: Uuids,
}

impl Base {
    pub(crate) fn new(options: Options) -> Self {
        let now = options.clock.now();
        let publisher = Publisher::new(View {
            as_of: now,
            node: options.node.clone(),
            phase: PhaseId::Initializing,
            generation: Generation(0),
            cluster: options.expected_cluster,
            session: None,
            control: None,
            member: None,
            session_timeout: options.coord.session_timeout,
            link: LinkState::Disconnected { since: now },
            role: Role::Follower,
            readiness: Readiness::NotReady { why: "the node is starting".into() },
            me: None,
            members: Vec::new(),
            candidates: Vec::new(),
            line: Vec::new(),
            held_down: Vec::new(),
            priorities: BTreeMap::new(),
            terms: Terms::default(),
            leader: None,
            leaderless_since: None,
            leader_since: None,
            pause: None,
            sessionless: None,
            why_no_leader: Some("this node has not joined yet, so it does not know who leads".into()),
            seen_token: None,
            obstacle: None,
            trouble: None,
        });
        // A handover waits for effects to end and for another node to claim.
        let patience = options.serve_deadline + options.effect_deadline() * 3;
        let (handle, inbox) = Handle::new(&publisher, patience);
        let uuids = Uuids::new(options.rng_seed);
        Self { options: Arc::new(options), publisher, handle, inbox: Some(inbox), uuids }
    }

    pub(crate) async fn connect(self, cancel: CancellationToken) -> Result<(Self, Session), ConnectFailure> {
        self.enter(PhaseId::Initializing);
        self.hold("quorum.connect", &cancel).await;
        tracing::info!(hosts = %self.options.coord.hosts, root = %self.options.coord.root, "connecting");
        match join::connect(&self.options, &cancel).await {
            Ok(session) => {
                let link = session.link();
                self.publisher.update(|view| {
                    view.session = Some(link.session_id());
                    view.session_timeout = link.session_timeout();
                    view.link = *link.state().borrow();
                });
                self.enter(PhaseId::Connected);
                Ok((self, session))
            }
            Err(failure) => {
                self.fail(&failure);
                Err(failure)
            }
        }
    }

    pub(crate) async fn join(
        mut self,
        session: Session,
        cancel: CancellationToken,
    ) -> Result<(Self, Membership), JoinFailure> {
        self.hold("quorum.join", &cancel).await;
        tracing::info!("joining the cluster");
        match join::join_first(&self.options, session, &mut self.uuids, &cancel).await {
            Ok(membership) => {
                self.publisher.update(|view| view.cluster = Some(membership.place.cluster));
                self.enter(PhaseId::Joined);
                Ok((self, membership))
            }
            Err(failure) => {
                self.fail(&failure);
                Err(failure)
            }
        }
    }

    pub(crate) fn run(
        mut self,
        membership: Membership,
    ) -> (Self, JoinSet<Report>, oneshot::Sender<Duration>) {
        let (stop, stopping) = oneshot::channel();
        let mut tasks = JoinSet::new();
        self.enter(PhaseId::Running);
        if let Some(inbox) = self.inbox.take() {
            let uuids = std::mem::replace(&mut self.uuids, Uuids::new(0));
            let driver = Driver::new(self.options.clone(), self.publisher.clone(), inbox, membership, uuids);
            tasks.spawn(self.options.pulse.watch("its loop", Box::pin(driver.run(stopping))));
        }
        (self, tasks, stop)
    }

    pub(crate) async fn close(self, session: Session, within: Duration) -> (Self, Report) {
        let report = leave::close(session, within).await;
        (self.stopped(), report)
    }

    pub(crate) async fn stop(
        self,
        mut driver: JoinSet<Report>,
        stop: oneshot::Sender<Duration>,
        within: Duration,
    ) -> (Self, Report) {
        self.options.coord.drill.hold("quorum.stop").await;
        // A driver that has ended already does not need to be told.
        let _ = stop.send(within);
        let report = match timeout(within, driver.join_next()).await {
            Ok(Some(Ok(report))) => report,
            Ok(Some(Err(error))) => Report::Abandoned { why: format!("the driver failed: {error}") },
            Ok(None) => Report::NoSession,
            Err(_) => Report::Abandoned { why: format!("the driver did not end within {within:?}") },
        };
        (self.stopped(), report)
    }

    /// The last phase.
    pub(crate) fn stopped(self) -> Self {
        self.publisher.update(|view| {
            view.role = Role::Follower;
            view.control = None;
            view.member = None;
            view.readiness = Readiness::NotReady { why: "the node has stopped".into() };
        });
        self.enter(PhaseId::Stopped);
        self
    }

    fn enter(&self, phase: PhaseId) {
        let now = self.options.clock.now();
        self.options.pulse.phase(phase.as_str(), now);
        self.publisher.phase(phase, now);
    }

    /// Where a test wants a boot to hang, which a cancelled one does not.
    async fn hold(&self, point: &'static str, cancel: &CancellationToken) {
        tokio::select! {
            biased;
            () = cancel.cancelled() => {}
            () = self.options.coord.drill.hold(point) => {}
        }
    }

    fn fail(&self, failure: &(dyn std::error::Error + 'static)) {
        let mut said = failure.to_string();
        let mut source = failure.source();
        while let Some(error) = source {
            said = format!("{said}: {error}");
            source = error.source();
        }
        self.publisher.update(|view| view.trouble = Some(said));
        self.enter(PhaseId::Stopped);
    }
}
