//! The machine as people read it: Mermaid text and the sentences of the compile errors.

use std::fmt::Write;

use crate::model::{Edge, Family, Machine, PhaseIndex};

/// A `stateDiagram-v2`, one line per edge; a failure leaves the diagram, as it consumes the machine.
pub(crate) fn mermaid(machine: &Machine) -> String {
    let mut out = String::from("stateDiagram-v2\n");
    let mut line = |from: &dyn std::fmt::Display, to: &dyn std::fmt::Display, label: &str| {
        let colon = if label.is_empty() { "" } else { " : " };
        // Writing to a string cannot fail.
        _ = writeln!(out, "    {from} --> {to}{colon}{label}");
    };
    line(&"[*]", &machine.phase(machine.initial).ident, "");
    for edge in &machine.edges {
        let from = &machine.phase(edge.from).ident;
        line(from, &machine.phase(edge.to).ident, &edge.name.to_string());
        if let Some(fails) = edge.fails_text() {
            line(from, &"[*]", &format!("{} fails with {}", edge.name, escape(&fails)));
        }
    }
    for phase in machine.phases.iter().filter(|phase| phase.terminal) {
        line(&phase.ident, &"[*]", "");
    }
    out
}

/// "edges out of Booting: boot → Running | BootFailure"
pub(crate) fn edges_out(machine: &Machine, phase: PhaseIndex) -> String {
    let edges: Vec<String> =
        machine.edges_from(phase).map(|edge| format!("{} → {}", edge.name, target(machine, edge))).collect();
    let edges = if edges.is_empty() { "none, it is terminal".to_owned() } else { edges.join(", ") };
    format!("edges out of {}: {edges}", machine.phase(phase).ident)
}

/// "`Joined` and `Running`"
pub(crate) fn sources(machine: &Machine, family: &Family<'_>) -> String {
    let names: Vec<String> =
        family.edges.iter().map(|edge| format!("`{}`", machine.phase(edge.from).ident)).collect();
    match names.split_last() {
        Some((last, [])) => last.clone(),
        Some((last, rest)) => format!("{} and {last}", rest.join(", ")),
        None => String::new(),
    }
}

/// The line that an edge's documentation ends with: "**Edge:** `Booting → Running | BootFailure`"
pub(crate) fn doc_line(machine: &Machine, edge: &Edge) -> String {
    format!("**Edge:** `{} → {}`", machine.phase(edge.from).ident, target(machine, edge))
}

fn target(machine: &Machine, edge: &Edge) -> String {
    let to = &machine.phase(edge.to).ident;
    match edge.fails_text() {
        Some(fails) => format!("{to} | {fails}"),
        None => to.to_string(),
    }
}

/// Mermaid renders labels as HTML and splits them at colons.
fn escape(label: &str) -> String {
    label.replace(':', "#colon;").replace('<', "#lt;").replace('>', "#gt;")
}
