//! `taskd cluster status`, `handover` and `priority`.

use proto::status::{ClusterStatus, CoordinationStatus, Health, MemberStatus};
use taskd::client::Client;

use super::args::{HandoverArgs, PriorityArgs};
use super::failure::Failure;
use super::output::{Output, Tone, bytes, clean, fields, json, span, table};
use crate::exit::Exit;

pub(super) async fn status(client: &Client, output: Output) -> Result<Exit, Failure> {
    let status = client.status().await?;
    output.either(|| json(&status), || describe(&status))?;
    Ok(if status.health == Health::Healthy { Exit::Ok } else { Exit::Unhealthy })
}

fn describe(status: &ClusterStatus) -> String {
    let tone = match status.health {
        Health::Healthy => Tone::Good,
        Health::Degraded => Tone::Busy,
        Health::NoLeader => Tone::Bad,
    };
    let mut text = tone.paint(&clean(&status.summary));
    if let Some(remedy) = &status.remedy {
        text.push_str(&format!("\nwhat to do: {}", clean(remedy)));
    }
    for note in &status.notes {
        text.push_str(&format!("\nnote: {}", clean(note)));
    }
    let members: Vec<_> = status.members.iter().map(|member| row(status, member)).collect();
    if !members.is_empty() {
        text.push_str("\n\n");
        text.push_str(&table(
            &[
                "#", "SEQUENCE", "NODE", "ADDRESS", "ROLE", "PHASE", "PRIORITY", "SLOTS", "LEASE", "VERSION",
                "NOTE",
            ],
            &members,
        ));
    }
    let coordination = &status.coordination;
    let mut rows = vec![
        ("coordination", coordination.service.as_ref().map_or_else(|| "-".to_owned(), ToString::to_string)),
        (
            "connection",
            format!("{} for {} ({})", coordination.state, span(coordination.for_ms), coordination.hosts),
        ),
        ("servers", servers(coordination)),
        ("session", coordination.session.clone().unwrap_or_else(|| "-".to_owned())),
        ("session timeout", span(coordination.session_timeout_ms)),
        ("cluster", status.cluster.map_or_else(|| "-".to_owned(), |cluster| cluster.to_string())),
        ("answered by", status.answered_by.to_string()),
    ];
    if coordination.servers.is_empty() {
        rows.retain(|(name, _)| *name != "servers");
    }
    if let Some(log) = &status.log {
        rows.push((
            "task log",
            format!(
                "{} in {} segments, {} live, {}% of the budget of {}",
                bytes(log.bytes),
                log.segments,
                bytes(log.live_bytes),
                log.live_bytes.saturating_mul(100) / log.budget_bytes.max(1),
                bytes(log.budget_bytes)
            ),
        ));
    }
    let tasks: Vec<_> = status
        .tasks
        .iter()
        .filter(|(_, count)| **count > 0)
        .map(|(state, count)| format!("{count} {state}"))
        .collect();
    if !tasks.is_empty() {
        rows.push(("tasks", tasks.join(", ")));
    }
    text.push_str("\n\n");
    text.push_str(&fields(&rows));
    text
}

/// Each server as the node that answers reaches it.
fn servers(coordination: &CoordinationStatus) -> String {
    let servers = coordination.servers.iter();
    servers.map(|server| format!("{} {}", server.address, server.state)).collect::<Vec<_>>().join(", ")
}

fn row(status: &ClusterStatus, member: &MemberStatus) -> (Tone, Vec<String>) {
    let leader = status.leader.as_ref().filter(|leader| leader.node == member.node);
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    let tone = match (&member.note, leader) {
        (Some(_), _) => Tone::Busy,
        (None, Some(_)) => Tone::Good,
        (None, None) => Tone::Plain,
    };
    let cells = vec![
        member.index.to_string(),
        member.sequence.to_string(),
        member.node.to_string(),
        member.address.clone(),
        member.role.clone(),
        member.phase.clone(),
        member.priority.to_string(),
        or_dash(
            member.slots.map(|slots| format!("{}/{}", slots.total.saturating_sub(slots.free), slots.total)),
        ),
        or_dash(leader.and_then(|leader| leader.lease_ms).map(span)),
        member.version.clone(),
        member.note.clone().unwrap_or_default(),
    ];
    (tone, cells)
}

pub(super) async fn handover(client: &Client, output: Output, args: &HandoverArgs) -> Result<Exit, Failure> {
    let leader = client.handover(args.to.clone()).await?;
    if let Some(to) = args.to.as_ref().filter(|to| **to != leader) {
        return Err(Failure::new(Exit::Failure, format!("{to} did not take over; {leader} leads")));
    }
    output.either(|| serde_json::json!({ "leader": leader }), || format!("{leader} leads"))?;
    Ok(Exit::Ok)
}

pub(super) async fn priority(client: &Client, output: Output, args: &PriorityArgs) -> Result<Exit, Failure> {
    client.set_priority(args.node.clone(), args.priority).await?;
    output.either(
        || serde_json::json!({ "node": args.node, "priority": args.priority }),
        || format!("{} has priority {}", args.node, args.priority),
    )?;
    Ok(Exit::Ok)
}
