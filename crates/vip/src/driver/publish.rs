//! What this node says of itself: to the cluster, only when it changes; to its own handles.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use proto::vip::{Backend, Conflict, LocalService, NodeReport, ServiceName};
use tokio::time;

use super::cluster::{Cluster, Seen};
use super::jobs::Job;
use super::local::Local;
use super::{Driver, Mode};
use crate::net::BackendKind;
use crate::options::Options;
use crate::view::{Documents, View};

/// Between two writes of a report, unless it concerns who may hold what.
const REPORT_PAUSE: Duration = Duration::from_millis(250);

/// After a write that failed.
const REPORT_AGAIN: Duration = Duration::from_millis(500);

fn backend(options: &Options) -> Backend {
    match options.backend.kind() {
        BackendKind::Netlink => Backend::Netlink,
        BackendKind::DryRun => Backend::DryRun,
    }
}

fn empty_report(options: &Options) -> NodeReport {
    NodeReport {
        node: options.node.clone(),
        incarnation: options.incarnation,
        backend: backend(options),
        why_dry: options.why_dry.clone(),
        unreadable: None,
        stopping: false,
        labels: options.facts.labels.clone(),
        services: BTreeMap::new(),
    }
}

/// What is known before anything is.
pub(super) fn first_view(options: &Options, cluster: &Cluster) -> View {
    View {
        node: options.node.clone(),
        as_of_ms: options.clock.wall().0,
        connected: false,
        known: false,
        leads: false,
        text: Arc::clone(&cluster.text),
        config: Arc::clone(&cluster.config),
        config_trouble: None,
        timing_trouble: BTreeMap::new(),
        drained: BTreeMap::new(),
        reports: BTreeMap::new(),
        own: empty_report(options),
        services: BTreeMap::new(),
        events: VecDeque::new(),
    }
}

fn documents(seen: &Seen) -> Documents {
    fn value<T: Clone>(seen: &Option<Option<crate::store::Found<T>>>) -> Option<T> {
        seen.as_ref()?.as_ref().map(|found| found.value.clone())
    }
    Documents { assignment: value(&seen.assignment), holder: value(&seen.holder), term: value(&seen.term) }
}

impl Driver {
    fn report(&self) -> NodeReport {
        let service = |(service, local): (&ServiceName, &Local)| {
            let conflict = local.core.conflict().map(|foreign| {
                let on = local.places.iter().find(|(_, address)| address.addr() == foreign.address);
                let interface = on.map(|(interface, _)| interface.clone()).unwrap_or_default();
                Conflict { address: foreign.address, mac: foreign.mac.to_string(), interface }
            });
            let says = LocalService {
                unfit: local.core.unfit().map(str::to_owned),
                phase: local.since.0,
                since_ms: local.since.1,
                note: local.core.note().map(str::to_owned),
                conflict,
            };
            (service.clone(), says)
        };
        NodeReport {
            stopping: self.mode != Mode::Serving,
            services: self.services.iter().map(service).collect(),
            ..empty_report(&self.options)
        }
    }

    /// When a report is due that could not be written at once.
    pub(super) fn report_due(&self) -> Option<time::Instant> {
        let waits = self.connected.is_some() && self.ended.is_none() && !self.writing;
        (waits && self.written.as_ref() != Some(&self.view.borrow().own)).then_some(self.report_at)
    }

    /// Writes what has changed: at once if it says who may hold what, else not too often.
    pub(super) fn write_report(&mut self) {
        if self.writing || self.ended.is_some() || (!self.dirty && self.report_due().is_none()) {
            return;
        }
        let Some(connected) = &self.connected else { return };
        let report = self.report();
        if self.written.as_ref() == Some(&report) {
            return;
        }
        let urgent = self.written.as_ref().is_some_and(|old| {
            old.stopping != report.stopping
                || old.services.len() != report.services.len()
                || report.services.iter().any(|(name, new)| {
                    old.services.get(name).is_none_or(|old| old.unfit.is_some() != new.unfit.is_some())
                })
        });
        if !urgent && time::Instant::now() < self.report_at {
            return;
        }
        let store = connected.store.clone();
        self.writing = true;
        let crashed = Job::Reported(Err("it crashed".to_owned()));
        self.spawn("a report", crashed, async move {
            let put = store.put_report(&report).await;
            Job::Reported(put.map(|()| Box::new(report)).map_err(|error| error.to_string()))
        });
    }

    pub(super) fn reported(&mut self, report: Result<Box<NodeReport>, String>) {
        self.writing = false;
        let now = time::Instant::now();
        let pause = if report.is_ok() { REPORT_PAUSE } else { REPORT_AGAIN };
        self.report_at = now + pause;
        match &report {
            Ok(_) => self.reports_fail.over(),
            Err(error) if self.reports_fail.admits(error, now) => {
                tracing::warn!(%error, "this node's report was not written; trying again");
            }
            Err(_) => {}
        }
        self.written = report.ok().map(|report| *report);
    }

    pub(super) fn publish(&mut self) {
        if !std::mem::take(&mut self.dirty) {
            return;
        }
        let Cluster { text, config, config_trouble, drained, reports, documents: seen, .. } = &self.cluster;
        let troubles = self.services.iter();
        let view = View {
            node: self.options.node.clone(),
            as_of_ms: self.options.clock.wall().0,
            connected: self.connected.is_some() && self.ended.is_none(),
            known: self.cluster.config_known,
            leads: self.placing.is_some(),
            text: Arc::clone(text),
            config: Arc::clone(config),
            config_trouble: config_trouble.clone(),
            timing_trouble: troubles
                .filter_map(|(service, local)| Some((service.clone(), local.timing_trouble.clone()?)))
                .collect(),
            drained: drained.clone().unwrap_or_else(|| self.view.borrow().drained.clone()),
            reports: reports.clone(),
            own: self.report(),
            services: if self.connected.is_some() && self.ended.is_none() {
                seen.iter().map(|(service, seen)| (service.clone(), documents(seen))).collect()
            } else {
                self.view.borrow().services.clone()
            },
            events: self.events.clone(),
        };
        self.view.send_replace(Arc::new(view));
    }
}
