//! Where one service stands, in one sentence; and what to do. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use proto::NodeId;
use proto::vip::{Backend, LocalPhase, LocalService, NodeReport, ServiceName, ServiceState};

use crate::config::Service;
use crate::placement::{Input, NOBODY, Obstacle, obstacle};
use crate::store::Term;
use crate::view::{Documents, View};

/// What each successor waits longer than the one before it, while those ahead of it seem to be able to take.
const SUCCESSION_STEP: Duration = Duration::from_millis(300);

/// Everything that the words about one service are made of.
pub(super) struct Scene<'a> {
    view: &'a View,
    reports: &'a BTreeMap<NodeId, NodeReport>,
    leader: Option<&'a NodeId>,
    name: &'a ServiceName,
    /// None: it is not in the configuration any more.
    pub(super) config: Option<&'a Service>,
    pub(super) documents: Documents,
}

/// What is said of a service.
pub(super) struct Verdict {
    pub(super) state: ServiceState,
    /// One sentence without a full stop.
    pub(super) words: String,
    /// Whether that needs a look.
    pub(super) is_trouble: bool,
    pub(super) remedy: Option<String>,
}

impl Verdict {
    fn fine(state: ServiceState, words: String) -> Self {
        Self { state, words, is_trouble: false, remedy: None }
    }

    fn trouble(state: ServiceState, words: String, remedy: impl Into<String>) -> Self {
        Self { state, words, is_trouble: true, remedy: Some(remedy.into()) }
    }
}

impl<'a> Scene<'a> {
    pub(super) fn of(
        view: &'a View,
        reports: &'a BTreeMap<NodeId, NodeReport>,
        leader: Option<&'a NodeId>,
        name: &'a ServiceName,
    ) -> Self {
        let documents = view.services.get(name).cloned().unwrap_or_default();
        Self { view, reports, leader, name, config: view.config.services.get(name), documents }
    }

    /// Who is to hold it, and who follows.
    pub(super) fn order(&self) -> &[NodeId] {
        self.documents.assignment.as_ref().map(|found| found.order.as_slice()).unwrap_or_default()
    }

    /// Why that order; none if it was written while nobody could have the service, and its first has it now.
    pub(super) fn reason(&self) -> Option<&str> {
        let assignment = self.documents.assignment.as_ref()?;
        let holder = self.documents.holder.as_ref().map(|holder| &holder.node);
        let is_old =
            holder.is_some() && holder == assignment.order.first() && assignment.why.starts_with(NOBODY);
        (!is_old).then_some(assignment.why.as_str())
    }

    fn local(&self, node: &NodeId) -> Option<&'a LocalService> {
        self.reports.get(node)?.services.get(self.name)
    }

    /// The holder, and what it says of the service.
    pub(super) fn held_by(&self) -> Option<(&NodeId, &'a LocalService)> {
        let node = &self.documents.holder.as_ref()?.node;
        Some((node, self.local(node)?))
    }

    /// Why `node` cannot hold it, as a clause that begins with its name; none if it can.
    fn unfit(&self, node: &NodeId) -> Option<String> {
        let standings = BTreeMap::new();
        let View { config, drained, .. } = self.view;
        let input = Input { config, nodes: self.reports, drained, standings: &standings };
        let obstacle = obstacle(&input, self.name, node)?;
        let words = || format!("{node} {}", obstacle.clause());
        Some(match obstacle {
            Obstacle::Absent => format!("{node} is gone, or takes no part"),
            Obstacle::Unreadable => {
                let why = self.reports.get(node).and_then(|report| report.unreadable.as_deref());
                format!("{node} is there, but {}", why.unwrap_or_default())
            }
            Obstacle::Drained => {
                let why = drained.get(node).map(|drained| in_brackets(&drained.why)).unwrap_or_default();
                format!("{}{why}", words())
            }
            Obstacle::Unlabelled => {
                let has = |key| self.reports.get(node).and_then(|report| report.labels.get(key));
                let labels = self.config.iter().flat_map(|config| &config.labels);
                let missing: Vec<_> = labels
                    .filter(|(key, value)| has(*key) != Some(*value))
                    .map(|(key, value)| format!("{key}={value}"))
                    .collect();
                format!("{node} has no label {}", and(&missing))
            }
            Obstacle::Unfit => match self.local(node).map(|local| &local.unfit) {
                Some(Some(why)) => format!("on {node}, {why}"),
                Some(None) => words(),
                None => format!("{node} has not looked at it yet"),
            },
            Obstacle::Stopping | Obstacle::KeptOff | Obstacle::DryRun => words(),
        })
    }

    /// Why each of the nodes that takes part cannot hold it.
    fn obstacles(&self) -> Vec<String> {
        self.reports.keys().filter_map(|node| self.unfit(node)).collect()
    }

    /// Those of the order who could take it now, in that order.
    fn takers(&self) -> Vec<&NodeId> {
        self.order().iter().filter(|node| self.unfit(node).is_none()).collect()
    }

    /// What else explains it, for who asks why.
    pub(super) fn background(&self, verdict: &Verdict) -> Vec<String> {
        let mut more = Vec::new();
        if verdict.state == ServiceState::Disabled {
            return more;
        }
        if let Some(assignment) = &self.documents.assignment {
            let order: Vec<_> = assignment.order.iter().map(ToString::to_string).collect();
            let order = if order.is_empty() { "nobody".to_owned() } else { order.join(", then ") };
            let reason = self.reason().map(|why| format!(": {why}")).unwrap_or_default();
            more.push(format!("the order is {order}{reason}"));
        }
        if let (Some((holder, _)), Some(first)) = (self.held_by(), self.order().first())
            && holder != first
        {
            more.push(format!(
                "{holder} took it over, and keeps it until a newer assignment names somebody else first"
            ));
        }
        if let (Some(Term::Held { node, grace, .. }), Some(config)) = (&self.documents.term, self.config)
            && self.documents.holder.is_some()
            && *grace > config.takeover_grace
        {
            more.push(format!(
                "if {node} goes without a release, whoever follows waits {} and not {}, since that is what {node} found \
                 when it took it; a move ends that: taskd vip move {}",
                span(*grace),
                span(config.takeover_grace),
                self.name
            ));
        }
        for (node, report) in self.reports {
            if let Some(why) = self.unfit(node)
                && !verdict.words.contains(&why)
            {
                more.push(why);
            }
            if let Some(note) = report.services.get(self.name).and_then(|local| local.note.as_ref())
                && !verdict.words.contains(note.as_str())
            {
                more.push(format!("{node} says: {note}"));
            }
        }
        let mut seen = self.view.events.iter().filter(|event| event.service.as_ref() == Some(self.name));
        if let Some(last) = seen.next_back() {
            more.push(format!("the last that {} saw of it: {}", self.view.node, last.what));
        }
        more
    }
}

/// Decides.
pub(super) fn judge(scene: &Scene<'_>) -> Verdict {
    let holder = scene.documents.holder.as_ref().map(|holder| &holder.node);
    match (scene.config, holder) {
        (None, holder) => {
            let holder = holder.map_or_else(|| "nobody".to_owned(), ToString::to_string);
            let words = format!("it is not in the configuration any more; {holder} gives it up");
            Verdict::fine(ServiceState::Disabled, words)
        }
        (Some(config), _) if !config.enabled => Verdict {
            remedy: Some(
                "set enabled = true and apply the configuration: taskd config apply FILE".to_owned(),
            ),
            ..Verdict::fine(
                ServiceState::Disabled,
                "its configuration says that nobody is to have it (enabled = false)".to_owned(),
            )
        },
        (Some(_), Some(holder)) if !scene.view.connected && *holder != scene.view.node => {
            let me = &scene.view.node;
            unknown(
                scene,
                &format!(
                    "{holder} held it when {me} last knew; unless it still has a session, its lease has run out"
                ),
            )
        }
        (Some(_), Some(holder)) => taken(scene, holder),
        (Some(_), None) if !scene.view.connected => {
            unknown(scene, &format!("nobody held it when {} last knew", scene.view.node))
        }
        (Some(config), None) => vacant(scene, config),
    }
}

/// This node has no session, and others decide.
fn unknown(scene: &Scene<'_>, last: &str) -> Verdict {
    Verdict::trouble(
        ServiceState::Unknown,
        format!("{} has no session with the coordination service and does not know: {last}", scene.view.node),
        "ask a node that has one, with --addr; why this one has none: taskd cluster status",
    )
}

/// Somebody has taken it.
fn taken(scene: &Scene<'_>, holder: &NodeId) -> Verdict {
    let Some(local) = scene.local(holder) else {
        if let Some(why) = scene.reports.get(holder).and_then(|report| report.unreadable.as_ref()) {
            return Verdict::trouble(
                ServiceState::Unknown,
                format!("{holder} has taken it, and nobody here can tell where it stands: {why}"),
                format!(
                    "ask {holder} itself, with --addr; if its taskd is newer, update {} too",
                    scene.view.node
                ),
            );
        }
        let words = format!("{holder} has taken it, and has not said yet where it stands");
        return Verdict::fine(ServiceState::Taking, words);
    };
    let dry = scene.reports.get(holder).is_some_and(|report| report.backend == Backend::DryRun);
    match local.phase {
        LocalPhase::Held => match &local.conflict {
            Some(conflict) => Verdict::trouble(
                ServiceState::Held,
                format!(
                    "{holder} holds it, and {} answers for {} on {} as well: clients reach one or the other",
                    conflict.mac, conflict.address, conflict.interface
                ),
                evict(&conflict.mac, "until then taskd announces where the address belongs"),
            ),
            None if dry => dry_run(scene, holder),
            None => Verdict::fine(ServiceState::Held, format!("{holder} holds it")),
        },
        LocalPhase::Waiting => {
            let grace = match &scene.documents.term {
                Some(Term::Held { grace, .. }) => format!(" {}", span(*grace)),
                _ => String::new(),
            };
            let words = format!(
                "{holder} has taken it and waits{grace} from then, until the one before, which did not release it, \
                 cannot have the addresses any more"
            );
            Verdict::fine(ServiceState::Taking, words)
        }
        LocalPhase::Probing => {
            let words =
                format!("{holder} has taken it and asks the network whether anybody has its addresses");
            Verdict::fine(ServiceState::Taking, words)
        }
        LocalPhase::Blocked => {
            let (who, remedy) = match &local.conflict {
                Some(conflict) => (
                    format!("{} answers for {} on {}", conflict.mac, conflict.address, conflict.interface),
                    evict(&conflict.mac, &format!("{holder} asks again each second and goes on by itself")),
                ),
                None => {
                    ("somebody else answers for an address".to_owned(), "look at that node's log".to_owned())
                }
            };
            let words = format!("{holder} does not put its addresses, since {who}");
            Verdict::trouble(ServiceState::Blocked, words, remedy)
        }
        LocalPhase::Releasing => {
            Verdict::fine(ServiceState::Taking, format!("{holder} removes its addresses and gives it up"))
        }
        LocalPhase::Idle if !scene.view.connected && *holder == scene.view.node => Verdict::trouble(
            ServiceState::Down,
            format!(
                "{holder} held it until its lease ran out without the coordination service, and has removed its addresses"
            ),
            "wait: they come back by themselves once it answers, here or on the next node; see: taskd cluster status",
        ),
        LocalPhase::Idle => {
            let note = local.note.as_ref().or(local.unfit.as_ref());
            let note = note.map_or_else(|| "it is about to take up or give up".to_owned(), Clone::clone);
            Verdict::fine(ServiceState::Taking, format!("{holder} is named as its holder: {note}"))
        }
    }
}

/// Its holder puts no address anywhere: trouble, unless somebody here has asked for a dry run.
fn dry_run(scene: &Scene<'_>, holder: &NodeId) -> Verdict {
    let wished = |report: &NodeReport| {
        report.backend == Backend::DryRun && report.why_dry.is_none() && report.unreadable.is_none()
    };
    let is_trouble = !scene.reports.values().any(wished);
    let (why, remedy) = match scene.reports.get(holder).and_then(|report| report.why_dry.as_ref()) {
        Some(why) => (why.clone(), format!("put that right on {holder}, and restart taskd there")),
        None => (
            "vip.backend there says \"dry-run\"".to_owned(),
            format!("set vip.backend = \"netlink\" in the file of {holder}, and restart taskd there"),
        ),
    };
    let words = format!("{holder} would hold it, but its addresses are on no interface: {why}");
    Verdict { state: ServiceState::DryRun, words, is_trouble, remedy: Some(remedy) }
}

/// Nobody has taken it.
fn vacant(scene: &Scene<'_>, config: &Service) -> Verdict {
    if let Some(trouble) = scene.view.timing_trouble.get(scene.name) {
        return Verdict::trouble(
            ServiceState::Down,
            format!("nobody holds it; {} cannot: {trouble}", scene.view.node),
            "give the service a longer takeover_grace, or the nodes a longer coordination.session_timeout",
        );
    }
    let fit: Vec<_> = scene.reports.keys().filter(|node| scene.unfit(node).is_none()).collect();
    let takers = scene.takers();
    if let Some(first) = takers.first() {
        return Verdict::fine(ServiceState::Taking, succession(scene, first, &takers[1..]));
    }
    let refusal = scene.reason().and_then(|why| why.strip_prefix(NOBODY));
    if let (Some(first), Some(why)) = (fit.first(), refusal) {
        return Verdict::trouble(
            ServiceState::Down,
            format!("nobody holds it, and the leader gives it to nobody{why}"),
            format!("taskd vip move {} --to {first}", scene.name),
        );
    }
    if !fit.is_empty() {
        let fit: Vec<_> = fit.iter().map(ToString::to_string).collect();
        let could = format!("{} could", and(&fit));
        return match scene.leader {
            None => Verdict::trouble(
                ServiceState::Down,
                format!("nobody holds it, and nobody leads who could assign it anew; {could}"),
                "see why nobody leads: taskd cluster status",
            ),
            Some(leader) => Verdict::fine(
                ServiceState::Taking,
                format!("nobody holds it; {could}, and {leader}, which leads, is about to assign it"),
            ),
        };
    }
    let mut obstacles = scene.obstacles();
    obstacles.extend(
        scene
            .order()
            .iter()
            .filter(|node| !scene.reports.contains_key(node))
            .filter_map(|node| scene.unfit(node)),
    );
    Verdict::trouble(
        ServiceState::Down,
        format!("no node can hold it: {}", obstacles.join("; ")),
        remedy(scene, config),
    )
}

/// Nobody has it, and somebody is about to.
fn succession(scene: &Scene<'_>, first: &NodeId, others: &[&NodeId]) -> String {
    let before = match &scene.documents.term {
        Some(Term::Held { node, grace, .. }) => format!(
            "; {node}, which had it last, did not release it, so that the taker waits {} before it puts the addresses",
            span(*grace)
        ),
        Some(last @ Term::Unknown) => format!(
            "; who had it last was edited or deleted by hand, so that the taker waits {} before it puts the addresses",
            span(last.wait())
        ),
        _ => String::new(),
    };
    let others: Vec<_> = others
        .iter()
        .zip(1_u32..)
        .map(|(node, place)| format!("{node} in {} if those before it do not", span(SUCCESSION_STEP * place)))
        .collect();
    let others = if others.is_empty() { String::new() } else { format!(", {}", others.join(", ")) };
    format!("nobody holds it at the moment; {first} takes it at once{others}{before}")
}

/// What would let somebody hold it; what is easiest first.
fn remedy(scene: &Scene<'_>, config: &Service) -> String {
    if let Some(node) = scene.view.drained.keys().find(|node| scene.reports.contains_key(node)) {
        return format!("taskd vip undrain {node}");
    }
    if !config.labels.is_empty() && scene.reports.values().all(|report| !has_labels(report, config)) {
        let labels: Vec<_> = config.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
        return format!(
            "give a node {} in node.labels of its file and send it SIGHUP, or ask for another label: taskd config apply FILE",
            and(&labels)
        );
    }
    "put right what the nodes say; it is taken by itself then".to_owned()
}

fn has_labels(report: &NodeReport, config: &Service) -> bool {
    config.labels.iter().all(|(key, value)| report.labels.get(key) == Some(value))
}

/// What to do about a foreign hardware address.
fn evict(mac: &str, meanwhile: &str) -> String {
    format!(
        "find the machine with {mac} (`ip neigh` on its network, or the switch's table) and take the address off it; \
         {meanwhile}"
    )
}

/// "a", "a and b", "a, b and c".
pub(crate) fn and(items: &[String]) -> String {
    match items {
        [] => String::new(),
        [one] => one.clone(),
        [first @ .., last] => format!("{} and {last}", first.join(", ")),
    }
}

pub(super) fn in_brackets(text: &str) -> String {
    if text.is_empty() { String::new() } else { format!(" ({text})") }
}

fn span(span: Duration) -> String {
    format!("{:.1} s", span.as_secs_f64())
}
