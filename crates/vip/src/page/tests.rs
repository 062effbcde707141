//! Every situation that people are told of, one after the other: `snapshots/` is there to be read.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use proto::vip::{
    Backend, ConfigText, Conflict, Drained, LocalPhase, LocalService, NodeReport, ServiceName, ServiceState,
    VipEvent,
};
use proto::{Epoch, Incarnation, NodeId};
use uuid::Uuid;

use super::{page, troubles, why};
use crate::config::{Config, Service, Vip};
use crate::store::{Assignment, Holder, Term};
use crate::view::{Documents, View};

fn node(name: &str) -> NodeId {
    name.parse().unwrap()
}

fn iscsi() -> ServiceName {
    "iscsi".parse().unwrap()
}

fn local(phase: LocalPhase) -> LocalService {
    LocalService { unfit: None, phase, since_ms: 1_000, note: None, conflict: None }
}

fn report(name: &str, phase: LocalPhase) -> NodeReport {
    NodeReport {
        node: node(name),
        incarnation: Incarnation::from_u128(7),
        backend: Backend::Netlink,
        why_dry: None,
        unreadable: None,
        stopping: false,
        labels: BTreeMap::new(),
        services: [(iscsi(), local(phase))].into(),
    }
}

/// n1 holds iscsi; n2 and n3 follow; n2 is asked.
fn held() -> View {
    let vip = Vip { address: "172.0.20.241/24".parse().unwrap(), interface: "storage".to_owned() };
    let config = Config { services: [(iscsi(), Service::new(vec![vip]))].into() };
    let text = ConfigText { revision: 4, applied_ms: 1, by: Some(node("n1")), text: String::new() };
    let reports = ["n1", "n2", "n3"].map(|name| {
        let phase = if name == "n1" { LocalPhase::Held } else { LocalPhase::Idle };
        (node(name), report(name, phase))
    });
    let take = Uuid::from_u128(5);
    let documents = Documents {
        assignment: Some(Assignment {
            service: iscsi(),
            order: vec![node("n1"), node("n2"), node("n3")],
            revision: 4,
            epoch: Epoch(3),
            why: "n1 is preferred".to_owned(),
        }),
        holder: Some(Holder { node: node("n1"), incarnation: Incarnation::from_u128(7), take }),
        term: Some(Term::Held { node: node("n1"), take, grace: Duration::from_secs(2) }),
    };
    View {
        node: node("n2"),
        as_of_ms: 60_000,
        connected: true,
        known: true,
        leads: false,
        text: Arc::new(text),
        config: Arc::new(config),
        config_trouble: None,
        timing_trouble: BTreeMap::new(),
        drained: BTreeMap::new(),
        own: report("n2", LocalPhase::Idle),
        reports: reports.into(),
        services: [(iscsi(), documents)].into(),
        events: VecDeque::new(),
    }
}

/// Nobody has taken it; n1 is gone without a release.
fn vacant() -> View {
    let mut view = held();
    view.reports.remove(&node("n1"));
    documents(&mut view).holder = None;
    view
}

fn documents(view: &mut View) -> &mut Documents {
    view.services.get_mut(&iscsi()).unwrap()
}

/// Changes what a node says; this node's own report too.
fn says(view: &mut View, name: &str, change: impl FnOnce(&mut NodeReport)) {
    let report = view.reports.get_mut(&node(name)).unwrap();
    change(report);
    if view.node == node(name) {
        view.own = report.clone();
    }
}

fn service(report: &mut NodeReport) -> &mut LocalService {
    report.services.get_mut(&iscsi()).unwrap()
}

fn configured(view: &mut View, change: impl FnOnce(&mut Service)) {
    change(Arc::make_mut(&mut view.config).services.get_mut(&iscsi()).unwrap());
}

fn taken_by(view: &mut View, name: &str, phase: LocalPhase) {
    let holder = documents(view).holder.as_mut();
    if let Some(holder) = holder {
        holder.node = node(name);
    } else {
        let incarnation = Incarnation::from_u128(7);
        documents(view).holder = Some(Holder { node: node(name), incarnation, take: Uuid::from_u128(6) });
    }
    says(view, name, |report| service(report).phase = phase);
}

fn conflict() -> Conflict {
    Conflict {
        address: "172.0.20.241".parse().unwrap(),
        mac: "52:54:00:12:34:56".to_owned(),
        interface: "eth1".to_owned(),
    }
}

struct Texts(String);

impl Texts {
    fn add(&mut self, what: &str, view: &View, leader: Option<&str>) {
        let leader = leader.map(node);
        let page = page(view, leader.as_ref());
        writeln!(self.0, "## {what}").unwrap();
        for note in &page.notes {
            writeln!(self.0, "note: {note}").unwrap();
        }
        for service in &page.services {
            let holder = service.holder.as_ref().map_or("-", NodeId::as_str);
            writeln!(self.0, "{} is {:?}, holder {holder}", service.service, service.state).unwrap();
            if let Some(trouble) = &service.trouble {
                writeln!(self.0, "trouble: {trouble}").unwrap();
            }
            if let Some(remedy) = &service.remedy {
                writeln!(self.0, "what to do: {remedy}").unwrap();
            }
            let why = why(view, leader.as_ref(), &service.service).unwrap();
            assert_eq!((why.state, &why.remedy), (service.state, &service.remedy));
            // The state is said before it.
            let first = &why.reasons[0];
            assert!(first.starts_with(char::is_lowercase), "{what}: {first}");
            for reason in &why.reasons {
                writeln!(self.0, "why: {reason}").unwrap();
            }
        }
        self.0.push('\n');
    }
}

#[test]
fn texts() {
    let mut texts = Texts(String::new());
    texts.add("held", &held(), Some("n1"));

    let mut view = held();
    taken_by(&mut view, "n2", LocalPhase::Held);
    texts.add("a successor holds it", &view, Some("n1"));

    let mut view = vacant();
    texts.add("the holder is gone, successors are about to take it", &view, Some("n3"));
    taken_by(&mut view, "n2", LocalPhase::Waiting);
    texts.add("a successor waits for the grace", &view, Some("n3"));
    says(&mut view, "n2", |report| service(report).phase = LocalPhase::Probing);
    texts.add("it asks the network", &view, Some("n3"));
    says(&mut view, "n2", |report| {
        service(report).phase = LocalPhase::Blocked;
        service(report).conflict = Some(conflict());
    });
    texts.add("somebody foreign answers", &view, Some("n3"));

    let mut view = held();
    says(&mut view, "n1", |report| {
        service(report).conflict = Some(conflict());
        service(report).note = Some("one committed probe says that it is still the holder".to_owned());
    });
    texts.add("somebody foreign answers for what is held", &view, Some("n1"));

    let mut view = vacant();
    says(&mut view, "n2", |report| service(report).unfit = Some("eth1 has no carrier".to_owned()));
    says(&mut view, "n3", |report| report.stopping = true);
    texts.add("nobody can, each for its own reason", &view, Some("n3"));

    let mut view = vacant();
    for name in ["n2", "n3"] {
        let drained = Drained { since_ms: 5, why: "kernel update".to_owned() };
        view.drained.insert(node(name), drained);
    }
    texts.add("drained", &view, Some("n2"));

    let mut view = vacant();
    configured(&mut view, |service| {
        service.labels.insert("storage".to_owned(), "yes".to_owned());
    });
    texts.add("nobody has the label", &view, Some("n2"));

    let mut view = vacant();
    configured(&mut view, |service| service.enabled = false);
    texts.add("disabled", &view, Some("n2"));

    let mut view = held();
    Arc::make_mut(&mut view.config).services.clear();
    texts.add("not configured any more, but still held", &view, Some("n1"));

    let mut view = held();
    for name in ["n1", "n2", "n3"] {
        says(&mut view, name, |report| report.backend = Backend::DryRun);
    }
    texts.add("a dry run that was asked for", &view, Some("n1"));
    let mut unasked = view.clone();
    for name in ["n1", "n2", "n3"] {
        let why = if name == "n3" { "both are missing" } else { "another process has the name" };
        says(&mut unasked, name, |report| report.why_dry = Some(why.to_owned()));
    }
    texts.add("a dry run that nobody asked for", &unasked, Some("n1"));
    let count = |view: &View| super::troubles(view, Some(&node("n1"))).0.len();
    assert_eq!((count(&view), count(&unasked)), (0, 1), "for `cluster status`");
    says(&mut view, "n2", |report| report.backend = Backend::Netlink);
    taken_by(&mut view, "n1", LocalPhase::Idle);
    taken_by(&mut view, "n2", LocalPhase::Held);
    texts.add("dry runs beside one that is none", &view, Some("n1"));

    let mut view = vacant();
    documents(&mut view).assignment = None;
    texts.add("not assigned, no leader", &view, None);
    texts.add("not assigned yet", &view, Some("n3"));

    let mut view = vacant();
    view.timing_trouble.insert(iscsi(), "an address could not live for even a second".to_owned());
    texts.add("the lease is too short", &view, Some("n3"));

    let mut view = held();
    view.connected = false;
    taken_by(&mut view, "n2", LocalPhase::Idle);
    let what = "removed 172.0.20.241/24 from eth1: the lease has run out".to_owned();
    view.events.push_back(VipEvent { at_ms: 59_000, service: Some(iscsi()), what });
    texts.add("the lease ran out here", &view, None);

    let mut view = held();
    view.connected = false;
    texts.add("this node has no session, another held it", &view, None);
    documents(&mut view).holder = None;
    texts.add("this node has no session, nobody held it", &view, None);

    let mut view = vacant();
    says(&mut view, "n2", |report| service(report).unfit = Some("eth1 has no carrier".to_owned()));
    documents(&mut view).assignment.as_mut().unwrap().order = vec![node("n2")];
    texts.add("another can have it and is not assigned yet", &view, Some("n2"));
    let why = "nobody can have it: n2 is not fit, n3 was ordered to release it a moment ago".to_owned();
    documents(&mut view).assignment.as_mut().unwrap().why = why;
    texts.add("released where nobody else can have it", &view, Some("n2"));
    documents(&mut view).assignment.as_mut().unwrap().order.insert(0, node("n3"));
    taken_by(&mut view, "n3", LocalPhase::Held);
    texts.add("held, and the reason is still that of before", &view, Some("n2"));

    let mut view = vacant();
    says(&mut view, "n2", |report| report.services.clear());
    texts.add("a node has not looked yet", &view, Some("n2"));

    let mut view = held();
    view.config_trouble = Some("line 3: there is no such key: vip".to_owned());
    texts.add("a revision that this node does not understand", &view, Some("n1"));

    let mut view = held();
    says(&mut view, "n1", |report| {
        report.services.clear();
        report.backend = Backend::DryRun;
        report.unreadable = Some("/taskd/vip-nodes/n1 cannot be read: missing field `stopping`".to_owned());
    });
    texts.add("what the holder says cannot be read", &view, Some("n2"));
    documents(&mut view).holder = None;
    documents(&mut view).term = Some(Term::Unknown);
    texts.add("and then somebody has edited the term", &view, Some("n2"));
    let mut view = held();
    let grace = Duration::from_secs(60);
    documents(&mut view).term = Some(Term::Held { node: node("n1"), take: Uuid::from_u128(5), grace });
    texts.add("whoever follows waits longer than configured", &view, Some("n2"));
    insta::assert_snapshot!(texts.0);
}

#[test]
fn a_service_that_nobody_knows_has_no_reasons() {
    assert_eq!(why(&held(), None, &"nfs".parse().unwrap()), None);
}

/// What `cluster status` looks at: troubles are those of services that are down or blocked, and of those alone that
/// people can do something about.
#[test]
fn trouble_always_comes_with_a_remedy() {
    let mut view = held();
    for phase in [LocalPhase::Waiting, LocalPhase::Probing, LocalPhase::Held, LocalPhase::Blocked] {
        taken_by(&mut view, "n1", phase);
        let page = page(&view, Some(&node("n1")));
        let service = &page.services[0];
        assert_eq!(service.trouble.is_some(), service.state == ServiceState::Blocked, "{phase:?}");
        assert_eq!(service.trouble.is_some(), service.remedy.is_some(), "{phase:?}");
    }
}

/// What `cluster status` says besides what is down.
#[test]
fn a_revision_that_is_not_understood_is_trouble_and_a_drained_node_a_note() {
    let mut view = held();
    view.config_trouble = Some("line 3: there is no such key: vip".to_owned());
    view.drained.insert(node("n3"), Drained { since_ms: 5, why: "kernel update".to_owned() });
    let (said, notes) = troubles(&view, Some(&node("n1")));
    let remedy = "update taskd on n2, or apply what it understands: taskd config check FILE, then taskd config apply FILE";
    let trouble = "the configuration's revision 4 is not followed by n2: line 3: there is no such key: vip";
    assert_eq!(said, [(trouble.to_owned(), Some(remedy.to_owned()))]);
    assert_eq!(
        notes,
        ["n3 is drained (kernel update) and takes no virtual IPs; to end that: taskd vip undrain n3"]
    );
}
