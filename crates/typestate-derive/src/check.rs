//! What a well-formed machine is. Every finding carries the span to look at and says what to do.

use quote::ToTokens;

use crate::diagram;
use crate::model::{Edge, Machine};

/// Findings, gathered so that one compile shows them all.
#[derive(Default)]
pub(crate) struct Findings(Option<syn::Error>);

impl Findings {
    pub(crate) fn push(&mut self, at: impl ToTokens, message: impl std::fmt::Display) {
        self.add(syn::Error::new_spanned(at, message));
    }

    pub(crate) fn add(&mut self, error: syn::Error) {
        match &mut self.0 {
            Some(first) => first.combine(error),
            None => self.0 = Some(error),
        }
    }

    /// For where no machine came of the module, which has always left a finding.
    pub(crate) fn into_error(self, module: &syn::Ident) -> syn::Error {
        self.0.unwrap_or_else(|| syn::Error::new_spanned(module, "this module declares no machine"))
    }

    pub(crate) fn into_result(self) -> syn::Result<()> {
        self.0.map_or(Ok(()), Err)
    }
}

/// Judges the graph: each phase on a way from the initial one to a terminal one, each edge unambiguous.
pub(crate) fn check(machine: &Machine) -> syn::Result<()> {
    let mut findings = Findings::default();
    ways(machine, &mut findings);
    names(machine, &mut findings);
    findings.into_result()
}

fn ways(machine: &Machine, findings: &mut Findings) {
    let from_initial = machine.reached([machine.initial], true);
    let terminals = (0..machine.phases.len()).filter(|&index| machine.phases[index].terminal);
    let to_terminal = machine.reached(terminals, false);
    for (index, phase) in machine.phases.iter().enumerate() {
        let ident = &phase.ident;
        if !from_initial[index] {
            findings.push(
                ident,
                format!(
                    "phase `{ident}` is unreachable: no path of edges leads to it from `{}`; \
                     add an edge with `to = {ident}`, or remove the phase",
                    machine.phase(machine.initial).ident
                ),
            );
        }
        let dead_end = machine.edges_from(index).next().is_none();
        if dead_end && !phase.terminal {
            findings.push(
                ident,
                format!(
                    "phase `{ident}` is a dead end: no edge leaves it; \
                     add an edge in `impl {}<{ident}>`, or list it in `terminal = [..]`",
                    machine.ident
                ),
            );
        } else if !to_terminal[index] {
            findings.push(
                ident,
                format!(
                    "phase `{ident}` never ends: its edges lead to no terminal phase; \
                     add an edge towards one, or list a phase of the cycle in `terminal = [..]`"
                ),
            );
        }
    }
    for edge in machine.edges.iter().filter(|edge| machine.phase(edge.from).terminal) {
        let (name, from) = (&edge.name, &machine.phase(edge.from).ident);
        findings.push(
            name,
            format!(
                "edge `{name}` leaves the terminal phase `{from}`; \
                 take `{from}` out of `terminal = [..]`, or make this a plain function that does not change the phase"
            ),
        );
    }
}

fn names(machine: &Machine, findings: &mut Findings) {
    for (index, edge) in machine.edges.iter().enumerate() {
        let name = &edge.name;
        if machine.edges[..index].iter().any(|other| other.name == *name && other.from == edge.from) {
            findings.push(
                name,
                format!(
                    "`{}` already has an edge `{name}`; give one of the two another name ({})",
                    machine.phase(edge.from).ident,
                    diagram::edges_out(machine, edge.from)
                ),
            );
        }
    }
    for (plain, phase) in &machine.plain {
        let clash = |edge: &&Edge| edge.name == *plain && phase.is_none_or(|phase| phase == edge.from);
        if machine.edges.iter().any(|edge| clash(&edge)) {
            findings.push(plain, format!("`{plain}` is also an edge; give this function another name"));
        }
    }
    let taken = machine.plain.iter().map(|(name, _)| name).chain(machine.edges.iter().map(|edge| &edge.name));
    for name in taken.filter(|name| *name == "phase_id") {
        findings.push(name, "`phase_id` is generated for every machine; give this function another name");
    }
}

#[cfg(test)]
mod tests {
    use syn::parse_quote;

    use crate::{check, parse};

    /// All findings of a module with phases `A`, `B`, `C` and these edges, given as `from name to`.
    fn findings(initial: &str, terminal: &[&str], edges: &[(&str, &str, &str)]) -> Vec<String> {
        let ident = |name: &str| syn::Ident::new(name, proc_macro2::Span::call_site());
        let (initial, terminal) = (ident(initial), terminal.iter().map(|name| ident(name)));
        let impls = edges.iter().map(|(from, name, to)| -> syn::ItemImpl {
            let (from, name, to) = (ident(from), ident(name), ident(to));
            parse_quote!(impl M<#from> {
                #[edge(to = #to)]
                fn #name(self) -> M<#to> {}
            })
        });
        let mut module = parse_quote! {
            mod m {
                #[machine(initial = #initial, terminal = [#(#terminal),*])]
                struct M<P>(P);
                #[phase] struct A;
                #[phase] struct B;
                #[phase] struct C;
                #(#impls)*
            }
        };
        match parse::parse(&mut module).and_then(|machine| check::check(&machine)) {
            Ok(()) => Vec::new(),
            Err(errors) => errors.into_iter().map(|error| error.to_string()).collect(),
        }
    }

    #[test]
    fn well_formed_graphs_pass() {
        for edges in [
            &[("A", "go", "B"), ("B", "go", "C")][..],
            &[("A", "go", "B"), ("B", "stay", "B"), ("B", "back", "A"), ("B", "go", "C")],
            &[("A", "b", "B"), ("A", "c", "C"), ("B", "c", "C")],
        ] {
            assert_eq!(findings("A", &["C"], edges), [""; 0], "{edges:?}");
        }
        assert_eq!(findings("A", &["B", "C"], &[("A", "b", "B"), ("A", "c", "C")]), [""; 0]);
    }

    #[test]
    fn every_flaw_is_found_once() {
        for (terminal, edges, expect) in [
            (&["C"][..], &[("A", "go", "C"), ("B", "go", "C")][..], &["phase `B` is unreachable"][..]),
            (&["C"], &[("A", "go", "C"), ("A", "b", "B")], &["phase `B` is a dead end"]),
            (&["C"], &[("A", "go", "C"), ("A", "b", "B"), ("B", "b", "B")], &["phase `B` never ends"]),
            (&["B", "C"], &[("A", "b", "B"), ("B", "c", "C")], &["edge `c` leaves the terminal phase `B`"]),
            (
                &["C"],
                &[("A", "go", "B"), ("A", "go", "C"), ("B", "go", "C")],
                &["`A` already has an edge `go`"],
            ),
            (&["C"], &[("A", "phase_id", "B"), ("B", "go", "C")], &["`phase_id` is generated"]),
            (&["C"], &[("A", "go", "X")], &["unknown phase `X`"]),
            (&["X"], &[], &["unknown phase `X`"]),
            (&[], &[], &["a machine ends somewhere"]),
            (
                &["C"],
                &[],
                &[
                    "phase `A` is a dead end",
                    "phase `B` is unreachable",
                    "phase `B` is a dead end",
                    "phase `C` is unreachable",
                ],
            ),
        ] {
            let found = findings("A", terminal, edges);
            assert_eq!(found.len(), expect.len(), "{edges:?}: {found:?}");
            for (found, expect) in found.iter().zip(expect) {
                assert!(found.starts_with(expect), "{found}");
            }
        }
    }
}
