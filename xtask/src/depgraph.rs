//! The workspace's own dependency graph: a snapshot that has to be changed on purpose, and the rules it keeps.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;

use anyhow::{Context, Result, bail};

use crate::workspace::{Package, Workspace};

const SNAPSHOT: &str = "xtask/depgraph.txt";

/// Components side by side: data flows between them as values through `taskd`, never as imports.
const SIBLINGS: [&str; 4] = ["quorum", "runner", "dispatcher", "vip"];
/// What everybody may use and what uses nobody.
const LEAVES: [&str; 4] = ["clock", "cron", "proto", "typestate-derive"];
/// Who starts a keeper. Everybody else speaks to one, in ZooKeeper's protocol.
const STARTS_KEEPERS: [&str; 3] = ["taskd", "testkit", "conformance"];
/// What others would build with taskd.
const EXAMPLES: [&str; 2] = ["hello-tasks", "storage-maintenance"];
/// What only tests do: it measures, breaks or models, and nobody builds on it.
const TEST_CRATES: [&str; 4] = ["conformance", "faults", "model", "peers"];
/// taskd's own tests with planted bugs are judged by the checker that judges the long runs.
const JUDGED: (&str, &str) = ("taskd", "faults");
const ZOOKEEPER: &str = "zookeeper-client";

/// Compares the graph with its snapshot, or writes the snapshot, and checks the rules.
pub(crate) fn check(workspace: &Workspace, bless: bool) -> Result<()> {
    let broken = violations(&workspace.packages);
    if !broken.is_empty() {
        bail!("the dependency rules are broken:\n  {}", broken.join("\n  "));
    }
    let path = workspace.root.join(SNAPSHOT);
    let now = render(&workspace.packages);
    if bless {
        return fs::write(&path, now).with_context(|| format!("failed to write {}", path.display()));
    }
    let expected = fs::read_to_string(&path).unwrap_or_default();
    if now != expected {
        bail!(
            "the dependency graph differs from {SNAPSHOT}:\n{}if that is meant: cargo xtask check --bless",
            diff(&expected, &now)
        );
    }
    Ok(())
}

/// One line per package and kind of dependency: what it uses of the workspace.
fn render(packages: &[Package]) -> String {
    let own: BTreeSet<&str> = packages.iter().map(|package| package.name.as_str()).collect();
    let mut text =
        String::from("# What each crate uses of this workspace (and who names the ZooKeeper client).\n");
    for package in packages {
        let uses = |kind: Option<&str>| {
            let names: BTreeSet<&str> = package
                .dependencies
                .iter()
                .filter(|dependency| dependency.kind.as_deref() == kind)
                .map(|dependency| dependency.name.as_str())
                .filter(|name| own.contains(name) || *name == ZOOKEEPER)
                .collect();
            names.into_iter().collect::<Vec<_>>().join(" ")
        };
        let normal = uses(None);
        let _ =
            writeln!(text, "{} -> {}", package.name, if normal.is_empty() { "(nothing)" } else { &normal });
        for kind in ["dev", "build"] {
            let names = uses(Some(kind));
            if !names.is_empty() {
                let _ = writeln!(text, "{} [{kind}] -> {names}", package.name);
            }
        }
    }
    text
}

/// The edges that must not exist, of whatever kind.
fn violations(packages: &[Package]) -> Vec<String> {
    let own: BTreeSet<&str> = packages.iter().map(|package| package.name.as_str()).collect();
    let mut found = Vec::new();
    for package in packages {
        let from = package.name.as_str();
        for dependency in &package.dependencies {
            let to = dependency.name.as_str();
            let dev = dependency.kind.as_deref() == Some("dev");
            let reason = if from != to && SIBLINGS.contains(&from) && SIBLINGS.contains(&to) {
                "siblings never import each other"
            } else if from == "runner" && to == "coord" {
                "the runner knows no ZooKeeper"
            } else if to == ZOOKEEPER && from != "coord" {
                "only coord names the ZooKeeper client"
            } else if LEAVES.contains(&from) && own.contains(to) {
                "it is a leaf: everybody uses it, it uses nobody"
            } else if to == "drill"
                && dependency.features.iter().any(|feature| feature == "armed")
                && !dev
                && !TEST_CRATES.contains(&from)
            {
                "a product build must have no fault to switch on: armed only as a dev-dependency"
            } else if from == "election" && own.contains(to) && !["clock", "drill", "proto"].contains(&to) {
                "the election is without IO"
            } else if to == "taskd"
                && from != "xtask"
                && !TEST_CRATES.contains(&from)
                && !EXAMPLES.contains(&from)
            {
                "taskd is the composition root: nobody builds on it"
            } else if from == "keeper" && own.contains(to) && to != "clock" {
                "the keeper knows nobody but the clock"
            } else if from == "testkit" && own.contains(to) && !["clock", "keeper"].contains(&to) {
                "what every test uses, uses the keeper at most"
            } else if to == "keeper" && !STARTS_KEEPERS.contains(&from) {
                "only taskd and what tests it start a keeper, the others speak to one"
            } else if TEST_CRATES.contains(&to) && !(dev && (from, to) == JUDGED) {
                "it is for tests: nobody builds on it"
            } else if to == "testkit" && !dev && !TEST_CRATES.contains(&from) {
                "it is for tests alone"
            } else if to == "xtask" {
                "xtask is automation: nobody builds on it"
            } else {
                continue;
            };
            found.push(format!("{from} -> {to}: {reason}"));
        }
    }
    found
}

/// Lines that only one of the two has.
fn diff(old: &str, new: &str) -> String {
    let (before, after): (BTreeSet<&str>, BTreeSet<&str>) = (old.lines().collect(), new.lines().collect());
    let gone = old.lines().filter(|line| !after.contains(line)).map(|line| format!("  - {line}\n"));
    let come = new.lines().filter(|line| !before.contains(line)).map(|line| format!("  + {line}\n"));
    gone.chain(come).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace::Dependency;

    /// A dependency whose name ends in `!` is armed.
    fn package(name: &str, uses: &[(&str, Option<&str>)]) -> Package {
        let dependencies = uses
            .iter()
            .map(|(name, kind)| Dependency {
                name: name.trim_end_matches('!').to_owned(),
                kind: kind.map(str::to_owned),
                features: if name.ends_with('!') { vec!["armed".to_owned()] } else { Vec::new() },
            })
            .collect();
        Package { name: name.to_owned(), dependencies }
    }

    #[test]
    fn only_inner_edges_are_listed_and_dev_ones_apart() {
        let packages = [
            package("clock", &[("nix", None)]),
            package("coord", &[("clock", None), ("clock", Some("dev")), ("serde", None), (ZOOKEEPER, None)]),
        ];
        let text = render(&packages);
        let lines: Vec<_> = text.lines().skip(1).collect();
        assert_eq!(lines, ["clock -> (nothing)", "coord -> clock zookeeper-client", "coord [dev] -> clock"]);
    }

    #[test]
    fn forbidden_edges_are_named() {
        let rows: [(&str, &str, Option<&str>, &str); 26] = [
            ("quorum", "testkit", None, "for tests alone"),
            ("quorum", "testkit", Some("dev"), ""),
            ("quorum", "runner", None, "siblings"),
            ("dispatcher", "quorum", Some("dev"), "siblings"),
            ("runner", "coord", None, "knows no ZooKeeper"),
            ("quorum", ZOOKEEPER, Some("dev"), "only coord"),
            ("proto", "clock", None, "leaf"),
            ("coord", "taskd", None, "composition root"),
            ("hello-tasks", "taskd", None, ""),
            ("taskd", "xtask", None, "automation"),
            ("quorum", "coord", None, ""),
            ("keeper", "clock", None, ""),
            ("keeper", "testkit", Some("dev"), "nobody but the clock"),
            ("testkit", "keeper", None, ""),
            ("testkit", "coord", None, "the keeper at most"),
            ("taskd", "keeper", None, ""),
            ("coord", "keeper", Some("dev"), "speak to one"),
            ("conformance", "testkit", None, ""),
            ("taskd", "conformance", Some("dev"), "it is for tests"),
            ("taskd", "faults", Some("dev"), ""),
            ("taskd", "faults", None, "it is for tests"),
            ("coord", "drill", None, ""),
            ("coord", "drill!", None, "no fault to switch on"),
            ("coord", "drill!", Some("dev"), ""),
            ("faults", "drill!", None, ""),
            ("election", "coord", None, "without IO"),
        ];
        for (from, to, kind, reason) in rows {
            let packages =
                [package(from, &[(to, kind)]), package("clock", &[]), package(to.trim_end_matches('!'), &[])];
            let found = violations(&packages);
            if reason.is_empty() {
                assert!(found.is_empty(), "{found:?}");
            } else {
                assert!(found.iter().any(|line| line.contains(reason)), "{from} -> {to}: {found:?}");
            }
        }
    }

    #[test]
    fn drift_is_shown_both_ways() {
        assert_eq!(diff("a\nb\n", "b\nc\n"), "  - a\n  + c\n");
    }
}
