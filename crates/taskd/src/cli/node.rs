//! `taskd node`, `taskd quota`, `taskd cluster pause` and `resume`.

use std::time::Duration;

use proto::NodeId;
use proto::operate::{Drain, NodeState, NodeView, OperateDone, OperateOrder, Operations, QuotaView, Said};
use serde_json::json;
use taskd::client::Client;

use super::args::{DrainArgs, SetQuotaArgs, Tasks};
use super::failure::Failure;
use super::output::{self, Output, Tone, ago, bytes, date, fields, json, span, table};
use super::submit::millis;
use crate::exit::Exit;

pub(super) async fn list(client: &Client, output: Output) -> Result<Exit, Failure> {
    let now = client.operations().await?;
    let text = || {
        let rows: Vec<_> = now.nodes.iter().map(row).collect();
        let table = table(&["NODE", "STATE", "SLOTS", "RUNNING", "HEARD", "LABELS", "DRAINED BY"], &rows);
        match &now.paused {
            Some(said) => {
                let words = format!("the cluster is paused {}; taskd cluster resume ends that", words(said));
                format!("{}\n\n{table}", Tone::Busy.paint(&output::clean(&words)))
            }
            None => table,
        }
    };
    output.either(|| json!({ "paused": json(&now.paused), "nodes": json(&now.nodes) }), text)?;
    Ok(Exit::Ok)
}

fn row(node: &NodeView) -> (Tone, Vec<String>) {
    let tone = match node.state {
        NodeState::Ready => Tone::Good,
        NodeState::Draining | NodeState::Stopping => Tone::Busy,
        NodeState::Drained => Tone::Plain,
        NodeState::Silent | NodeState::Gone => Tone::Bad,
    };
    let heard = node.heard_ms.map_or_else(|| "-".to_owned(), |ms| format!("{} ago", span(ms)));
    let cells = vec![
        node.node.to_string(),
        node.state.as_str().to_owned(),
        format!("{}/{}", node.used, node.slots),
        node.attempts.to_string(),
        heard,
        labels(node),
        node.drain.as_ref().map_or_else(|| "-".to_owned(), drained),
    ];
    (tone, cells)
}

fn labels(node: &NodeView) -> String {
    let labels: Vec<_> = node.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    labels.join(",")
}

/// By whom and for how long yet, in few words.
fn drained(drain: &Drain) -> String {
    let mut text = words(&drain.said);
    if let Some(deadline_ms) = drain.deadline_ms {
        let left = deadline_ms.saturating_sub(output::now_ms());
        let when = if left == 0 { "the deadline is over".to_owned() } else { format!("{} left", span(left)) };
        text.push_str(&format!("; {when}"));
    }
    text
}

fn words(said: &Said) -> String {
    let by = said.by.as_deref().unwrap_or("somebody");
    let reason = said.reason.as_deref().map_or_else(String::new, |reason| format!(": {reason}"));
    format!("by {by} {} ago{reason}", ago(said.at_ms))
}

pub(super) async fn show(client: &Client, output: Output, name: &NodeId) -> Result<Exit, Failure> {
    let now = client.operations().await?;
    let node = now.nodes.iter().find(|node| node.node == *name).ok_or_else(|| missing(name))?;
    output.either(|| json(node), || describe(&now, node))?;
    Ok(Exit::Ok)
}

fn missing(name: &NodeId) -> Failure {
    Failure::new(Exit::NotFound, format!("the leader knows no node {name}: see taskd node list"))
}

fn describe(now: &Operations, node: &NodeView) -> String {
    let mut rows = vec![
        ("node", node.node.to_string()),
        ("state", node.state.as_str().to_owned()),
        ("slots", format!("{} of {} taken", node.used, node.slots)),
        ("running", node.attempts.to_string()),
        ("labels", labels(node)),
        ("kinds", node.kinds.join(", ")),
        ("address", node.address.clone()),
        ("heard", node.heard_ms.map_or_else(|| "not yet".to_owned(), |ms| format!("{} ago", span(ms)))),
    ];
    if let Some(Drain { said, deadline_ms }) = &node.drain {
        rows.push(("drained", words(said)));
        let deadline = match deadline_ms {
            Some(ms) => format!("{}; what still runs then is ended and runs elsewhere", date(*ms)),
            None => "none: what runs there may go on to its end".to_owned(),
        };
        rows.push(("deadline", deadline));
        rows.push(("what to do", format!("taskd node undrain {}", node.node)));
    }
    if let Some(said) = &now.paused {
        rows.push(("paused", format!("{}; taskd cluster resume ends that", words(said))));
    }
    fields(&rows)
}

pub(super) async fn drain(client: &Client, output: Output, args: &DrainArgs) -> Result<Exit, Failure> {
    if args.tasks == Tasks::Requeue && args.deadline.is_some() {
        return Err(Failure::new(
            Exit::Usage,
            "--tasks requeue ends what runs at once: leave --deadline out, or say --tasks wait",
        ));
    }
    let deadline = if args.tasks == Tasks::Requeue { Some(Duration::ZERO) } else { args.deadline };
    let order = OperateOrder::Drain {
        node: args.node.clone(),
        deadline_in_ms: deadline.map(millis),
        absent: args.absent,
        said: said(args.reason.as_ref()),
    };
    let done = client.operate(order).await?;
    let text = || {
        let node = done.now.nodes.iter().find(|node| node.node == args.node);
        let running = node.map_or(0, |node| node.attempts);
        let what = match (running, deadline) {
            (0, _) => "nothing runs there".to_owned(),
            (count, None) => format!("{count} running may end by themselves; taskd node list shows when"),
            (count, Some(Duration::ZERO)) => format!("{count} running are ended and run elsewhere"),
            (count, Some(deadline)) => {
                format!("{count} running may go on for {}, and then run elsewhere", span(millis(deadline)))
            }
        };
        format!("node {} gets no new tasks; {what}", args.node)
    };
    report(output, &done, text)
}

pub(super) async fn undrain(client: &Client, output: Output, node: &NodeId) -> Result<Exit, Failure> {
    let done = client.operate(OperateOrder::Undrain { node: node.clone() }).await?;
    let text = || {
        if done.changed {
            format!("node {node} takes tasks again")
        } else {
            format!("node {node} was not drained")
        }
    };
    report(output, &done, text)
}

pub(super) async fn pause(client: &Client, output: Output, reason: Option<&String>) -> Result<Exit, Failure> {
    let done = client.operate(OperateOrder::Pause { said: said(reason) }).await?;
    let text = || {
        let running: u64 = done.now.nodes.iter().map(|node| node.attempts).sum();
        let before = if done.changed { "" } else { " already" };
        format!(
            "the cluster is paused{before}: nothing new starts, {running} running go on; taskd cluster resume ends that"
        )
    };
    report(output, &done, text)
}

pub(super) async fn resume(client: &Client, output: Output) -> Result<Exit, Failure> {
    let done = client.operate(OperateOrder::Resume).await?;
    let text = || {
        let text = if done.changed { "tasks start again" } else { "the cluster was not paused" };
        text.to_owned()
    };
    report(output, &done, text)
}

pub(super) async fn quotas(client: &Client, output: Output) -> Result<Exit, Failure> {
    let now = client.operations().await?;
    let text = || {
        if now.quotas.is_empty() {
            return "no kind has a quota: see taskd quota set --help".to_owned();
        }
        quota_table(&now.quotas)
    };
    output.either(|| json!({ "quotas": json(&now.quotas) }), text)?;
    Ok(Exit::Ok)
}

fn quota_table(quotas: &[QuotaView]) -> String {
    let of = |used: String, max: Option<String>| match max {
        Some(max) => format!("{used}/{max}"),
        None => format!("{used}/-"),
    };
    let row = |view: &QuotaView| {
        let QuotaView { kind, quota, running, queued, bytes: used } = view;
        let full =
            quota.queued.is_some_and(|max| *queued >= max) || quota.bytes.is_some_and(|max| *used >= max);
        let cells = vec![
            kind.clone(),
            of(running.to_string(), quota.running.map(|max| max.to_string())),
            quota.per_node.map_or_else(|| "-".to_owned(), |max| max.to_string()),
            of(queued.to_string(), quota.queued.map(|max| max.to_string())),
            of(bytes(*used), quota.bytes.map(bytes)),
        ];
        (if full { Tone::Busy } else { Tone::Plain }, cells)
    };
    let rows: Vec<_> = quotas.iter().map(row).collect();
    table(&["KIND", "RUNNING", "PER NODE", "WAITING", "PAYLOADS"], &rows)
}

pub(super) async fn set_quota(client: &Client, output: Output, args: &SetQuotaArgs) -> Result<Exit, Failure> {
    let order = OperateOrder::SetQuota { kind: args.kind.clone(), quota: args.quota() };
    let done = client.operate(order).await?;
    report(output, &done, || quota_table(&done.now.quotas))
}

pub(super) async fn remove_quota(client: &Client, output: Output, kind: &str) -> Result<Exit, Failure> {
    let done = client.operate(OperateOrder::RemoveQuota { kind: kind.to_owned() }).await?;
    let text = || {
        let had = if done.changed { "has no quota any more" } else { "had no quota" };
        format!("kind {kind} {had}")
    };
    report(output, &done, text)
}

fn report(output: Output, done: &OperateDone, text: impl FnOnce() -> String) -> Result<Exit, Failure> {
    output.either(|| json!({ "changed": done.changed, "now": json(&done.now) }), text)?;
    Ok(Exit::Ok)
}

/// This person, as their environment knows them.
fn said(reason: Option<&String>) -> Said {
    let user = ["SUDO_USER", "USER", "LOGNAME"].iter().find_map(|name| std::env::var(name).ok());
    Said { by: user.filter(|user| !user.is_empty()), reason: reason.cloned(), at_ms: 0 }
}
