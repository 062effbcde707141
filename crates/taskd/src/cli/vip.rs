//! `taskd vip list`, `show`, `why` and the orders.

use proto::vip::{
    Backend, LocalPhase, LocalService, ServiceName, ServiceState, ServiceView, VipOrder, VipPage,
};
use taskd::client::Client;

use super::failure::Failure;
use super::output::{Output, Tone, ago, clean, date, fields, json, table};
use crate::exit::Exit;

/// Events that are shown; the JSON form has them all.
const EVENTS_SHOWN: usize = 10;

pub(super) async fn list(client: &Client, output: Output) -> Result<Exit, Failure> {
    let page = client.vips().await?;
    output.either(|| json(&page), || describe(&page))?;
    Ok(Exit::Ok)
}

fn describe(page: &VipPage) -> String {
    let mut parts = Vec::new();
    if page.services.is_empty() {
        let hint = match page.revision {
            0 => "no virtual IPs are configured: taskd config apply FILE; see taskd config --help",
            _ => "the configuration has no service",
        };
        parts.push(hint.to_owned());
    } else {
        let rows: Vec<_> = page.services.iter().map(row).collect();
        parts.push(table(&["SERVICE", "STATE", "HOLDER", "SINCE", "ADDRESSES", "NEXT"], &rows));
    }
    let troubles: Vec<_> = page.services.iter().filter_map(trouble).collect();
    parts.extend((!troubles.is_empty()).then(|| troubles.join("\n")));
    let notes: Vec<_> =
        page.notes.iter().map(|note| Tone::Busy.paint(&format!("note: {}", clean(note)))).collect();
    parts.extend((!notes.is_empty()).then(|| notes.join("\n")));
    let drained: Vec<_> = page
        .drained
        .iter()
        .map(|(node, drained)| {
            (Tone::Busy, vec![node.to_string(), ago(drained.since_ms), drained.why.clone()])
        })
        .collect();
    parts.extend((!drained.is_empty()).then(|| table(&["DRAINED", "FOR", "WHY"], &drained)));
    parts.join("\n\n")
}

fn row(service: &ServiceView) -> (Tone, Vec<String>) {
    let addresses: Vec<_> =
        service.vips.iter().map(|vip| format!("{} on {}", vip.address, vip.interface)).collect();
    let next: Vec<_> = service
        .order
        .iter()
        .filter(|node| Some(*node) != service.holder.as_ref())
        .map(ToString::to_string)
        .collect();
    let or_dash =
        |text: Option<String>| text.filter(|text| !text.is_empty()).unwrap_or_else(|| "-".to_owned());
    let cells = vec![
        service.service.to_string(),
        state(service.state).to_owned(),
        or_dash(service.holder.as_ref().map(ToString::to_string)),
        or_dash(service.since_ms.map(ago)),
        or_dash(Some(addresses.join(", "))),
        or_dash(Some(next.join(", "))),
    ];
    (tone(service), cells)
}

/// What is the matter with a service, and what to do.
fn trouble(service: &ServiceView) -> Option<String> {
    let trouble = service.trouble.as_ref()?;
    let mut text = tone(service).paint(&format!("{}: {}", service.service, clean(trouble)));
    if let Some(remedy) = &service.remedy {
        text.push_str(&format!("\n  what to do: {}", clean(remedy)));
    }
    Some(text)
}

fn tone(service: &ServiceView) -> Tone {
    match service.state {
        ServiceState::Held if service.trouble.is_none() => Tone::Good,
        ServiceState::Held | ServiceState::DryRun | ServiceState::Taking | ServiceState::Unknown => {
            Tone::Busy
        }
        ServiceState::Blocked | ServiceState::Down => Tone::Bad,
        ServiceState::Disabled => Tone::Plain,
    }
}

const fn state(state: ServiceState) -> &'static str {
    match state {
        ServiceState::Held => "held",
        ServiceState::DryRun => "DRY RUN",
        ServiceState::Taking => "taking",
        ServiceState::Blocked => "BLOCKED",
        ServiceState::Down => "DOWN",
        ServiceState::Disabled => "disabled",
        ServiceState::Unknown => "not known",
    }
}

pub(super) async fn show(client: &Client, output: Output, name: &ServiceName) -> Result<Exit, Failure> {
    let page = client.vips().await?;
    let Some(service) = page.services.iter().find(|service| service.service == *name) else {
        let known: Vec<_> = page.services.iter().map(|service| service.service.as_str()).collect();
        let known = if known.is_empty() {
            "none is configured".to_owned()
        } else {
            format!("there are {}", known.join(", "))
        };
        return Err(Failure::new(Exit::NotFound, format!("there is no service {name}; {known}")));
    };
    output.either(|| json(service), || details(&page, service))?;
    Ok(Exit::Ok)
}

fn details(page: &VipPage, service: &ServiceView) -> String {
    let order: Vec<_> = service.order.iter().map(ToString::to_string).collect();
    let mut rows = vec![
        ("service", service.service.to_string()),
        ("state", state(service.state).to_owned()),
        ("holder", service.holder.as_ref().map_or_else(|| "-".to_owned(), ToString::to_string)),
        (
            "order",
            if order.is_empty() { "-".to_owned() } else { format!("{}: {}", order.join(", "), service.why) },
        ),
    ];
    if let Some(since) = service.since_ms {
        rows.insert(3, ("since", format!("{} ({} ago)", date(since), ago(since))));
    }
    rows.extend(service.vips.iter().map(|vip| ("address", format!("{} on {}", vip.address, vip.interface))));
    let mut parts = vec![fields(&rows)];
    parts.extend(trouble(service));
    let nodes: Vec<_> = page
        .nodes
        .iter()
        .map(|report| {
            let local = service.nodes.get(&report.node);
            let backend = match report.backend {
                _ if report.unreadable.is_some() => "-",
                Backend::Netlink => "netlink",
                Backend::DryRun => "dry run",
            };
            let drained = page.drained.contains_key(&report.node).then(|| "drained".to_owned());
            let stopping = report.stopping.then(|| "stopping".to_owned());
            let remarks = [report.unreadable.clone(), stopping, drained, local.and_then(remarks)];
            let remarks: Vec<_> = remarks.into_iter().flatten().collect();
            let cells = vec![
                report.node.to_string(),
                backend.to_owned(),
                local.map_or("-", |local| phase(local.phase)).to_owned(),
                local.map_or_else(|| "-".to_owned(), |local| ago(local.since_ms)),
                remarks.join("; "),
            ];
            let tone = match local.map(|local| local.phase) {
                Some(LocalPhase::Held) => Tone::Good,
                Some(LocalPhase::Blocked) => Tone::Bad,
                _ if !remarks.is_empty() => Tone::Busy,
                _ => Tone::Plain,
            };
            (tone, cells)
        })
        .collect();
    parts.extend(
        (!nodes.is_empty()).then(|| table(&["NODE", "BACKEND", "PHASE", "SINCE", "REMARKS"], &nodes)),
    );
    let events: Vec<_> =
        page.events.iter().filter(|event| event.service.as_ref() == Some(&service.service)).collect();
    let shown = events.len().saturating_sub(EVENTS_SHOWN);
    let events: Vec<_> = events[shown..]
        .iter()
        .map(|event| (Tone::Plain, vec![date(event.at_ms), event.what.clone()]))
        .collect();
    if let (Some(node), false) = (&page.answered_by, events.is_empty()) {
        parts.push(table(&["WHEN", &format!("WHAT {} DID AND SAW", node.as_str().to_uppercase())], &events));
    }
    parts.join("\n\n")
}

fn remarks(local: &LocalService) -> Option<String> {
    let conflict =
        local.conflict.as_ref().map(|conflict| format!("{} answers for {}", conflict.mac, conflict.address));
    let all: Vec<_> = [local.unfit.clone(), conflict, local.note.clone()].into_iter().flatten().collect();
    (!all.is_empty()).then(|| all.join("; "))
}

const fn phase(phase: LocalPhase) -> &'static str {
    match phase {
        LocalPhase::Idle => "idle",
        LocalPhase::Waiting => "waiting",
        LocalPhase::Probing => "probing",
        LocalPhase::Held => "held",
        LocalPhase::Blocked => "BLOCKED",
        LocalPhase::Releasing => "releasing",
    }
}

pub(super) async fn why(client: &Client, output: Output, service: &ServiceName) -> Result<Exit, Failure> {
    let why = client.vip_why(service).await?;
    let text = || {
        let reasons: Vec<_> = why.reasons.iter().map(|reason| clean(reason)).collect();
        let mut text = format!("{}: {}", state(why.state), reasons.join("\n  "));
        if let Some(remedy) = &why.remedy {
            text.push_str(&format!("\nto change it: {}", clean(remedy)));
        }
        text
    };
    output.either(|| json(&why), text)?;
    Ok(Exit::Ok)
}

pub(super) async fn order(client: &Client, output: Output, order: VipOrder) -> Result<Exit, Failure> {
    let look = match &order {
        // It is no harm where it was done.
        VipOrder::Move { service, to: Some(_) } => {
            format!("taskd vip why {service}; or give the order again, which does no harm")
        }
        // Each would go to the next one.
        VipOrder::Move { service, to: None } | VipOrder::Release { service } => {
            format!("taskd vip why {service}, before you give the order again: it would be another one")
        }
        VipOrder::Drain { .. } | VipOrder::Undrain { .. } => {
            "taskd vip list; or give the order again, which does no harm".to_owned()
        }
    };
    let done = client.vip_order(order).await.map_err(|error| Failure::from(error).look(&look))?;
    output.either(|| serde_json::json!({ "done": done }), || clean(&done))?;
    Ok(Exit::Ok)
}
