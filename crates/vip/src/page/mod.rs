//! What people read of virtual IPs: pure, a [`View`] in, sentences out. Every one of them stands in `snapshots/`.

pub(crate) mod judge;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use proto::NodeId;
use proto::vip::{Backend, NodeReport, ServiceName, ServiceState, ServiceView, VipPage, VipView, VipWhy};

use self::judge::{Scene, judge};
use crate::view::View;

/// Everything about virtual IPs as one node sees it. `leader` is who leads, as far as that node knows.
pub fn page(view: &View, leader: Option<&NodeId>) -> VipPage {
    let reports = reports(view);
    let services: Vec<_> = services(view).map(|service| describe(view, &reports, leader, service)).collect();
    VipPage {
        revision: view.text.revision,
        notes: notes(view, &reports, leader, &services),
        services,
        nodes: reports.into_values().collect(),
        drained: view.drained.clone(),
        events: view.events.iter().cloned().collect(),
        answered_by: Some(view.node.clone()),
    }
}

/// Why a service is where it is, and what would change it; none if there is no such service.
pub fn why(view: &View, leader: Option<&NodeId>, service: &ServiceName) -> Option<VipWhy> {
    services(view).find(|known| *known == service)?;
    let reports = reports(view);
    let scene = Scene::of(view, &reports, leader, service);
    let verdict = judge(&scene);
    let mut reasons = vec![verdict.words.clone()];
    reasons.extend(scene.background(&verdict));
    Some(VipWhy { service: service.clone(), state: verdict.state, reasons, remedy: verdict.remedy })
}

/// What `cluster status` says of virtual IPs: what is down or blocked, or not understood, each with its remedy; and what else
/// is worth a note.
pub fn troubles(view: &View, leader: Option<&NodeId>) -> (Vec<(String, Option<String>)>, Vec<String>) {
    let reports = reports(view);
    let down =
        services(view).map(|service| describe(view, &reports, leader, service)).filter_map(|service| {
            let needs_a_look =
                matches!(service.state, ServiceState::Down | ServiceState::Blocked | ServiceState::DryRun);
            let trouble = service.trouble.filter(|_| needs_a_look)?;
            let word = match service.state {
                ServiceState::Down => "DOWN: ",
                ServiceState::Blocked => "BLOCKED: ",
                ServiceState::DryRun => "DRY RUN: ",
                _ => "",
            };
            Some((format!("service {}: {word}{trouble}", service.service), service.remedy))
        });
    let remedy = format!(
        "update taskd on {}, or apply what it understands: taskd config check FILE, then taskd config apply FILE",
        view.node
    );
    let troubles =
        not_followed(view).map(|trouble| (trouble, Some(remedy))).into_iter().chain(down).collect();
    if view.config.services.is_empty() {
        return (troubles, Vec::new());
    }
    let drained = view.drained.iter().map(|(node, drained)| {
        let why = judge::in_brackets(&drained.why);
        format!("{node} is drained{why} and takes no virtual IPs; to end that: taskd vip undrain {node}")
    });
    (troubles, dry_run(&reports).into_iter().chain(drained).collect())
}

/// Those of the configuration, and those that are not in it any more while somebody still holds them.
fn services(view: &View) -> impl Iterator<Item = &ServiceName> {
    let gone = view
        .services
        .iter()
        .filter(|(name, documents)| documents.holder.is_some() && !view.config.services.contains_key(*name));
    view.config.services.keys().chain(gone.map(|(name, _)| name))
}

/// What each node says of itself. What this one says, it knows better than what it wrote last.
fn reports(view: &View) -> BTreeMap<NodeId, NodeReport> {
    let mut reports = view.reports.clone();
    reports.insert(view.node.clone(), view.own.clone());
    reports
}

fn describe(
    view: &View,
    reports: &BTreeMap<NodeId, NodeReport>,
    leader: Option<&NodeId>,
    service: &ServiceName,
) -> ServiceView {
    let scene = Scene::of(view, reports, leader, service);
    let verdict = judge(&scene);
    let vips = scene.config.map(|config| config.vips.as_slice()).unwrap_or_default();
    ServiceView {
        service: service.clone(),
        state: verdict.state,
        vips: vips
            .iter()
            .map(|vip| VipView { address: vip.address.to_string(), interface: vip.interface.clone() })
            .collect(),
        holder: scene.documents.holder.as_ref().map(|holder| holder.node.clone()),
        since_ms: scene.held_by().map(|(_, local)| local.since_ms),
        order: scene.order().to_vec(),
        why: scene.reason().unwrap_or_default().to_owned(),
        trouble: verdict.is_trouble.then_some(verdict.words),
        remedy: verdict.remedy,
        nodes: reports
            .iter()
            .filter_map(|(node, report)| Some((node.clone(), report.services.get(service)?.clone())))
            .collect(),
    }
}

fn notes(
    view: &View,
    reports: &BTreeMap<NodeId, NodeReport>,
    leader: Option<&NodeId>,
    services: &[ServiceView],
) -> Vec<String> {
    let mut notes = Vec::new();
    if !view.connected {
        notes.push(format!(
            "{} has no session with the coordination service: what it knows of the other nodes is as it was last seen",
            view.node
        ));
    }
    if leader.is_none() && !services.is_empty() {
        notes.push(
            "nobody leads: successors take over by themselves, but nobody is assigned anew before somebody does"
                .to_owned(),
        );
    }
    notes.extend(not_followed(view));
    notes.extend(dry_run(reports));
    let unreadable = reports.values().filter_map(|report| Some((&report.node, report.unreadable.as_ref()?)));
    notes.extend(unreadable.map(|(node, why)| format!("{node} is there, and is given nothing: {why}")));
    notes
}

/// That this node does not understand the applied configuration, if so.
fn not_followed(view: &View) -> Option<String> {
    let (node, revision) = (&view.node, view.text.revision);
    view.config_trouble.as_ref().map(|trouble| {
        format!("the configuration's revision {revision} is not followed by {node}: {trouble}")
    })
}

/// Says which nodes only make a dry run, and why; none if none does.
fn dry_run(reports: &BTreeMap<NodeId, NodeReport>) -> Option<String> {
    let is_dry = |report: &NodeReport| report.backend == Backend::DryRun && report.unreadable.is_none();
    let dry: Vec<_> = reports.iter().filter(|(_, report)| is_dry(report)).collect();
    if dry.is_empty() {
        return None;
    }
    let names: Vec<_> = dry.iter().map(|(node, _)| node.to_string()).collect();
    let mut reasons: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for (node, report) in dry {
        let why = report.why_dry.as_deref().unwrap_or("vip.backend says \"dry-run\"");
        reasons.entry(why).or_default().push(node.to_string());
    }
    let alike = reasons.len() == 1;
    let reasons: Vec<_> = reasons
        .iter()
        .map(
            |(why, nodes)| if alike { (*why).to_owned() } else { format!("on {}, {why}", judge::and(nodes)) },
        )
        .collect();
    Some(format!(
        "DRY RUN on {}: no address is put on an interface there; {}",
        judge::and(&names),
        reasons.join("; ")
    ))
}
