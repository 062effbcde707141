//! How components come up and go down: each step is a joined task that brings the typed value back.

use std::sync::Arc;
use std::time::Duration;

use clock::Instant;
use coord::Term;
use proto::Epoch;
use proto::status::{CoordinationKind, CoordinationService};
use tokio::task::{Id, JoinError};
use tokio_util::sync::CancellationToken;

use super::slot::Slot;
use super::{
    DISPATCHER_BY, KEEPER_BY, Part, QUORUM_BY, RECONNECT_PAUSE, RUNNER_BY, Returned, StopCause, Supervisor,
    chain,
};
use crate::{coordination, net};

impl Supervisor {
    pub(super) fn begin<F>(
        &mut self,
        part: Part,
        what: &'static str,
        transition: F,
    ) -> tokio::task::AbortHandle
    where
        F: Future<Output = Returned> + Send + 'static,
    {
        let pulses = &self.parts.pulses;
        let pulse = match part {
            Part::Keeper => &pulses.keeper,
            Part::Runner => &pulses.runner,
            Part::Vips => &pulses.vip,
            Part::Quorum => &pulses.quorum,
            Part::Dispatcher => &pulses.dispatcher,
            Part::Errand => &pulses.supervisor,
        };
        let abort = self.transitions.spawn(pulse.watch(what, transition));
        self.under_way.push((abort.id(), part));
        abort
    }

    /// Starts the embedded keeper, if this node has one.
    pub(super) fn start_keeper(&mut self) {
        let Some(options) = self.parts.new_keeper() else {
            self.keeper = Slot::Done;
            return;
        };
        let (clock, seed) = (Arc::clone(&self.clock), self.parts.keeper_seed);
        self.parts.pulses.keeper.phase("Starting", self.clock.now());
        let abort = self.begin(Part::Keeper, "its start", async move {
            Returned::KeeperStarted(keeper::server::Server::start(options, clock, seed).await.map(Box::new))
        });
        // A start that is dropped ends what it had begun: there is no politer way.
        self.keeper = Slot::Booting { cancel: CancellationToken::new(), abort };
    }

    pub(super) fn boot_runner(&mut self) {
        let cancel = CancellationToken::new();
        let booting = self.parts.new_runner();
        let token = cancel.clone();
        let abort = self.begin(Part::Runner, "its boot", async move {
            Returned::RunnerBooted(booting.boot(token).await.map(Box::new))
        });
        self.runner = Slot::Booting { cancel, abort };
    }

    /// Brings the quorum up once the predecessor's processes are ended and its addresses removed, so that its ephemerals may
    /// go, and once there is something to connect to.
    pub(super) fn boot_quorum_if_due(&mut self) {
        let coordination = match self.keeper {
            Slot::Running(_) => true,
            _ => !self.parts.config.coordination.embedded,
        };
        if coordination
            && matches!((&self.runner, &self.quorum), (Slot::Running(_), Slot::Idle))
            && matches!(self.vips, Slot::Running(_) | Slot::Done)
            && self.stopping.is_none()
        {
            self.boot_quorum(Duration::ZERO);
        }
    }

    pub(super) fn boot_quorum(&mut self, pause: Duration) {
        let cancel = CancellationToken::new();
        let parts = Arc::clone(&self.parts);
        let token = cancel.clone();
        let abort = self.begin(Part::Quorum, "its boot", async move {
            // A pause that a stop cuts short: the boot itself notices the cancelled token.
            drop(tokio::time::timeout(pause, token.cancelled()).await);
            Returned::QuorumBooted(parts.boot_quorum(token).await.map(Box::new))
        });
        self.quorum = Slot::Booting { cancel, abort };
    }

    /// Sets the priority that this node's configuration asks for, once.
    pub(super) fn set_priority(&mut self, quorum: &quorum::Handle) {
        let (Some(priority), Ok(())) = (self.parts.config.node.priority, self.parts.priority_set.set(()))
        else {
            return;
        };
        let (quorum, node) = (quorum.clone(), self.parts.node.clone());
        self.begin(Part::Errand, "the setting of a priority", async move {
            if let Err(error) = quorum.set_priority(node, priority).await {
                tracing::warn!(%error, priority, "the configured priority was not set");
            }
            Returned::ErrandDone
        });
    }

    pub(super) fn boot_dispatcher(&mut self, term: Term) {
        let epoch = term.token.epoch;
        let cancel = CancellationToken::new();
        self.beat.guard(Some(term.lease.clone()));
        let (parts, token) = (Arc::clone(&self.parts), cancel.clone());
        let abort = self.begin(Part::Dispatcher, "its recovery", async move {
            let recovering = parts.new_dispatcher(term, parts.head_start.take().await);
            Returned::DispatcherBooted(epoch, recovering.recover(token).await.map(Box::new))
        });
        self.term = Some(epoch);
        self.dispatcher = Slot::Booting { cancel, abort };
    }

    /// Asks the dispatcher to end, whatever it is doing.
    pub(super) fn stop_dispatcher(&mut self) {
        self.published.send_if_modified(|published| published.dispatcher.take().is_some());
        self.ending.get_or_insert(self.clock.now());
        if let Slot::Booting { cancel, .. } = &self.dispatcher {
            cancel.cancel();
        }
        if let Some(dispatching) = self.dispatcher.take_running() {
            let within = self.polite(DISPATCHER_BY);
            let abort = self.begin(Part::Dispatcher, "its stop", async move {
                let stopped = dispatching.drain().stop(within).await;
                for problem in &stopped.report().problems {
                    tracing::warn!(%problem, "the dispatcher ended untidily");
                }
                Returned::DispatcherStopped
            });
            self.dispatcher = Slot::Stopping { abort };
        }
    }

    pub(super) fn stop_runner(&mut self) {
        match &self.runner {
            Slot::Booting { cancel, .. } => cancel.cancel(),
            Slot::Idle => self.runner = Slot::Done,
            Slot::Running(_) | Slot::Stopping { .. } | Slot::Done => {}
        }
        if let Some(running) = self.runner.take_running() {
            let within = self.polite(RUNNER_BY);
            let leave = self.stopping.as_ref().is_some_and(|stopping| stopping.leave);
            let abort = self.begin(Part::Runner, "its stop", async move {
                let draining = running.drain();
                let stopped = if leave { draining.leave(within).await } else { draining.stop(within).await };
                let report = stopped.report();
                tracing::info!(undelivered = report.undelivered, left = report.left.len(), "runner stopped");
                Returned::RunnerStopped { clean: report.is_clean() }
            });
            self.runner = Slot::Stopping { abort };
        }
    }

    pub(super) fn stop_quorum(&mut self) {
        match &self.quorum {
            Slot::Booting { cancel, .. } => cancel.cancel(),
            Slot::Idle => self.quorum = Slot::Done,
            Slot::Running(_) | Slot::Stopping { .. } | Slot::Done => {}
        }
        if let Some(running) = self.quorum.take_running() {
            let within = self.polite(QUORUM_BY);
            let abort = self.begin(Part::Quorum, "its stop", async move {
                let stopped = running.stop(within).await;
                let clean = match stopped.report() {
                    quorum::Report::Closed | quorum::Report::NoSession => true,
                    // Nothing of ours is alive, and nothing keeps the session: that ZooKeeper does not answer is no
                    // fault of this stop.
                    quorum::Report::Unconfirmed { why } => {
                        tracing::warn!(%why, "ZooKeeper did not confirm the end of the session, which expires by itself");
                        true
                    }
                    quorum::Report::Abandoned { .. } => false,
                };
                Returned::QuorumStopped { clean }
            });
            self.quorum = Slot::Stopping { abort };
        }
    }

    pub(super) fn stop_keeper(&mut self) {
        match &self.keeper {
            Slot::Booting { abort, .. } => abort.abort(),
            Slot::Idle => self.keeper = Slot::Done,
            Slot::Running(_) | Slot::Stopping { .. } | Slot::Done => {}
        }
        if let Some(running) = self.keeper.take_running() {
            let within = self.polite(KEEPER_BY);
            self.parts.pulses.keeper.phase("Stopping", self.clock.now());
            let abort = self.begin(Part::Keeper, "its stop", async move {
                let clean = match tokio::time::timeout(within, running.stop()).await {
                    // One that had failed before is why the node stops.
                    Ok(Ok(()) | Err(keeper::server::StopError::Ended(_))) => true,
                    Ok(Err(error)) => {
                        tracing::warn!(error = %chain(&error), "the embedded keeper ended untidily");
                        false
                    }
                    Err(_) => false,
                };
                Returned::KeeperStopped { clean }
            });
            self.keeper = Slot::Stopping { abort };
        }
    }

    /// Asks the coordination service what it is, once for each connection to it: it may have been replaced meanwhile.
    pub(super) fn ask_coordination(&mut self, connected: Instant) {
        let embedded = self.parts.config.coordination.embedded;
        if embedded || self.asked.as_ref().is_some_and(|(asked, _)| *asked == connected) {
            return;
        }
        let (network, hosts) = (Arc::clone(&self.parts.network), self.parts.hosts());
        let abort = self.begin(Part::Errand, "a question to the coordination service", async move {
            Returned::CoordinationAsked(coordination::ask(&network, &hosts).await)
        });
        if let Some((_, former)) = self.asked.replace((connected, abort)) {
            former.abort();
        }
    }

    /// Says what the coordination service is, when that is news.
    fn learned(&mut self, service: CoordinationService) {
        if self.published.borrow().service.as_ref() != Some(&service) {
            tracing::info!(version = %service.version, hosts = %self.published.borrow().hosts, "coordination: {service}");
            self.published.send_modify(|published| published.service = Some(service));
        }
    }

    pub(super) fn returned(&mut self, done: Result<(Id, Returned), JoinError>) {
        let (id, returned) = match done {
            Ok((id, returned)) => (id, Ok(returned)),
            Err(error) => (error.id(), Err(error)),
        };
        let Some(at) = self.under_way.iter().position(|(known, _)| *known == id) else { return };
        let (_, part) = self.under_way.swap_remove(at);
        match returned {
            Ok(returned) => self.arrived(returned),
            Err(error) => self.lost(part, &error),
        }
    }

    pub(super) fn arrived(&mut self, returned: Returned) {
        match returned {
            Returned::KeeperStarted(Ok(running)) => {
                // Set once: a keeper is started once.
                let _ = self.parts.keeper.set(running.address());
                let hosts = self.parts.hosts();
                self.published.send_modify(|published| published.hosts = hosts);
                self.learned(CoordinationService::new(CoordinationKind::EmbeddedKeeper, net::VERSION));
                self.parts.pulses.keeper.phase("Running", self.clock.now());
                self.parts.note("open", "keeper");
                self.keeper = Slot::Running(running);
                self.boot_quorum_if_due();
            }
            Returned::KeeperStarted(Err(failure)) => {
                self.keeper = Slot::Done;
                if self.stopping.is_none() {
                    let listen = self.parts.config.coordination.embedded_listen;
                    let why = match &failure {
                        keeper::server::StartError::Listen { source, .. } => format!(
                            "the embedded keeper cannot listen on {listen}: {source}: if a ZooKeeper runs there, use \
                             it with --coordination {listen} instead of --embedded; or set \
                             coordination.embedded_listen to another IP:PORT"
                        ),
                        _ => format!("the embedded keeper failed: {}", chain(&failure)),
                    };
                    self.begin_stop(StopCause::Failed(why));
                }
            }
            Returned::KeeperStopped { clean } => {
                self.parts.note("close", "keeper");
                if !clean {
                    self.abandon(Part::Keeper);
                }
                self.keeper = Slot::Done;
            }
            Returned::VipsCleaned(cleaned) => self.vips_cleaned(cleaned),
            Returned::VipsStopped { clean } => {
                self.parts.note("close", "vips");
                if !clean {
                    self.abandon(Part::Vips);
                }
                self.vips_gone();
            }
            Returned::RunnerBooted(Ok(running)) => {
                let handle = running.handle();
                self.published.send_modify(|published| published.runner = Some(handle));
                self.runner = Slot::Running(running);
                self.boot_quorum_if_due();
            }
            Returned::RunnerBooted(Err(failure)) => {
                self.runner = Slot::Done;
                self.fail(Part::Runner, &failure);
            }
            Returned::RunnerStopped { clean } => {
                if !clean {
                    self.abandon(Part::Runner);
                }
                self.runner = Slot::Done;
            }
            Returned::QuorumBooted(Ok(running)) => {
                let handle = running.handle();
                self.view = Some(handle.view());
                self.beat.quorum(handle.clone());
                // Joined in the very moment of a stop: it must not stand for a leadership that nobody would serve.
                if self.stopping.is_none() {
                    handle.set_ready(quorum::Readiness::Ready);
                    self.set_priority(&handle);
                }
                self.published.send_modify(|published| {
                    published.quorum = Some(handle);
                    published.trouble = None;
                    published.joins_failed = 0;
                });
                self.quorum = Slot::Running(running);
            }
            Returned::QuorumBooted(Err(failure)) if failure.is_permanent() || self.stopping.is_some() => {
                self.quorum = Slot::Done;
                if self.stopping.is_none() {
                    self.begin_stop(StopCause::Refused(chain(&failure)));
                }
            }
            Returned::QuorumBooted(Err(failure)) => {
                // Nothing is claimed yet, so there is nothing to give up: keep trying, and say so.
                let trouble = chain(&failure);
                if self.published.borrow().trouble.as_deref() != Some(&*trouble) {
                    tracing::warn!(error = %trouble, "cannot join the cluster yet; trying again");
                }
                self.published.send_modify(|published| {
                    published.trouble = Some(trouble);
                    published.joins_failed = published.joins_failed.saturating_add(1);
                });
                self.quorum = Slot::Idle;
                self.boot_quorum(RECONNECT_PAUSE);
            }
            Returned::QuorumStopped { clean } => {
                if !clean {
                    self.abandon(Part::Quorum);
                }
                self.quorum = Slot::Done;
            }
            Returned::DispatcherBooted(epoch, Ok(dispatching)) => {
                let handle = dispatching.handle();
                self.dispatcher = Slot::Running(dispatching);
                if self.stopping.is_none() {
                    self.published.send_modify(|published| published.dispatcher = Some((epoch, handle)));
                    if let Slot::Running(quorum) = &self.quorum {
                        quorum.handle().serving(epoch);
                    }
                }
            }
            // As it was asked to: whoever asked knows why.
            Returned::DispatcherBooted(_, Err(dispatcher::RecoverFailure::Cancelled)) => {
                self.dispatcher_gone()
            }
            Returned::DispatcherBooted(epoch, Err(failure)) => {
                self.dispatcher_gone();
                tracing::warn!(%epoch, error = %chain(&failure), "the dispatcher could not recover");
                self.resign(epoch, &format!("the dispatcher could not recover: {}", chain(&failure)));
            }
            Returned::DispatcherStopped => self.dispatcher_gone(),
            Returned::CoordinationAsked(Some(service)) => self.learned(service),
            Returned::CoordinationAsked(None) => {
                tracing::debug!("the coordination service does not say what it is");
            }
            Returned::ErrandDone => {}
        }
    }

    /// A transition ended without its value: it was aborted, or it panicked.
    pub(super) fn lost(&mut self, part: Part, error: &JoinError) {
        match part {
            Part::Keeper => self.keeper = Slot::Done,
            Part::Runner => self.runner = Slot::Done,
            Part::Vips => self.vips_gone(),
            Part::Quorum => self.quorum = Slot::Done,
            Part::Dispatcher => self.dispatcher_gone(),
            Part::Errand => {}
        }
        if error.is_panic() {
            self.begin_stop(StopCause::Failed(format!("the {} panicked: {error}", part.name())));
            if part != Part::Errand {
                self.abandon(part);
            }
        }
    }

    pub(super) fn dispatcher_gone(&mut self) {
        self.dispatcher = Slot::Idle;
        self.term = None;
        self.ending = None;
        self.beat.guard(None);
        self.published.send_modify(|published| published.dispatcher = None);
    }

    pub(super) fn fail(&mut self, part: Part, failure: &(dyn std::error::Error + 'static)) {
        if self.stopping.is_none() {
            self.begin_stop(StopCause::Failed(format!("the {} failed: {}", part.name(), chain(failure))));
        }
    }

    pub(super) fn resign(&mut self, epoch: Epoch, reason: &str) {
        self.gave_up = Some(epoch);
        if let Slot::Running(quorum) = &self.quorum {
            quorum.handle().request_resign(reason.to_owned());
        }
    }
}
