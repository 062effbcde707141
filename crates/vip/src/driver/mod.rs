//! The owner's loop: one closed `Event`, one place that changes anything. It awaits nothing but the next event.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use proto::vip::{Backend, ConfigText, NodeReport};
use tokio::sync::{mpsc, watch};
use tokio::time;

use crate::config::Config;
use crate::error::CleanFailure;
use crate::handle::{Handle, OrderError, QUEUE_MAX, Request};
use crate::net::BackendKind;
use crate::options::{Control, Facts, Options};
use crate::phase::Report;
use crate::view::View;

/// What the phases ask of the loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Serving,
    Stopping { deadline: time::Instant },
}

/// What the cleaning leaves for the loop.
#[derive(Debug)]
pub(crate) struct Prepared {
    options: Options,
}

impl Prepared {
    pub(crate) fn into_driver(self, mode: watch::Receiver<Mode>) -> (Driver, Handle) {
        Driver::new(self.options, mode)
    }
}

/// The loop and all that it owns.
#[derive(Debug)]
pub(crate) struct Driver {
    requests: mpsc::Receiver<Request>,
    control: watch::Receiver<Option<Control>>,
    facts: watch::Receiver<Facts>,
    mode: watch::Receiver<Mode>,
    view: watch::Sender<Arc<View>>,
}

impl Driver {
    /// Removes what an earlier life left.
    pub(crate) async fn prepare(options: Options) -> Result<Prepared, CleanFailure> {
        options.backend.addresses().await?;
        Ok(Prepared { options })
    }

    fn new(options: Options, mode: watch::Receiver<Mode>) -> (Self, Handle) {
        let (request_sender, requests) = mpsc::channel(QUEUE_MAX);
        let (control_sender, control) = watch::channel(None);
        let (facts_sender, facts) = watch::channel(options.facts.clone());
        let backend = match options.backend.kind() {
            BackendKind::Netlink => Backend::Netlink,
            BackendKind::DryRun => Backend::DryRun,
        };
        let own = NodeReport {
            node: options.node.clone(),
            incarnation: options.incarnation,
            backend,
            stopping: false,
            labels: options.facts.labels.clone(),
            services: BTreeMap::new(),
        };
        let text = ConfigText { revision: 0, applied_ms: 0, by: None, text: String::new() };
        let (view, view_seen) = watch::channel(Arc::new(View {
            node: options.node.clone(),
            as_of_ms: options.clock.wall().0,
            connected: false,
            leads: false,
            text: Arc::new(text),
            config: Arc::new(Config::default()),
            config_trouble: None,
            timing_trouble: BTreeMap::new(),
            drained: BTreeMap::new(),
            reports: BTreeMap::new(),
            own,
            services: BTreeMap::new(),
            events: VecDeque::new(),
        }));
        let driver = Self { requests, control, facts, mode, view };
        (
            driver,
            Handle {
                requests: request_sender,
                control: control_sender,
                facts: facts_sender,
                view: view_seen,
            },
        )
    }

    pub(crate) async fn run(mut self) -> Report {
        loop {
            tokio::select! {
                Ok(()) = self.mode.changed() => return Report::default(),
                Ok(()) = self.control.changed() => {
                    let connected = self.control.borrow_and_update().is_some();
                    self.view.send_modify(|view| Arc::make_mut(view).connected = connected);
                }
                Ok(()) = self.facts.changed() => {
                    let labels = self.facts.borrow_and_update().labels.clone();
                    self.view.send_modify(|view| Arc::make_mut(view).own.labels = labels);
                }
                Some(request) = self.requests.recv() => {
                    // Whoever asked may have left.
                    let _ = request.reply.send(Err(OrderError::NotLeader));
                }
                else => return Report::default(),
            }
        }
    }
}
