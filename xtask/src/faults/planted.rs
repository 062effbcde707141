//! `cargo xtask faults --planted`: the tests that take a protection out, and which of them found it how quickly.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::workspace::Workspace;
use crate::{install, shell};

/// What their names begin with; the bug follows, in snake case.
const PREFIX: &str = "finds_planted_";

/// Within what a bug has to be found.
const FOUND_WITHIN_S: f64 = 300.0;

/// A test that ran.
#[derive(Clone, Debug, PartialEq)]
struct Ran {
    passed: bool,
    seconds: f64,
    /// Package and, for integration tests, the file.
    binary: String,
    test: String,
}

/// Runs them all, with the profile of the tests, and says of each bug who found it.
pub(crate) fn run(workspace: &Workspace) -> Result<()> {
    let bugs = bugs(&fs::read_to_string(workspace.root.join("crates/drill/src/bug.rs"))?);
    if bugs.is_empty() {
        bail!("crates/drill/src/bug.rs names no bug");
    }
    let nextest = install::NEXTEST.ensure(workspace).context("the planted bugs need cargo-nextest")?;
    let mut command = Command::new(nextest);
    command.current_dir(&workspace.root).args(["nextest", "run", "--no-fail-fast", "--color", "never"]);
    command.args(["--status-level", "pass", "--final-status-level", "none", "--failure-output", "final"]);
    // Where the registry of them is, which fails when one is missing, and where they are: nothing else is built.
    let mut targets =
        BTreeSet::from([["--package", "faults"], ["--test", "planted"]].map(|arg| arg.map(str::to_owned)));
    for package in &workspace.packages {
        let own = targets_with_finders(&workspace.root.join("crates").join(&package.name));
        if !own.is_empty() {
            targets.insert(["--package".to_owned(), package.name.clone()]);
            targets.extend(own.into_iter().map(|test| ["--test".to_owned(), test]));
        }
    }
    command.args(targets.iter().flatten());
    command.args(["-E", &format!("test({PREFIX}) | (package(faults) & binary(planted))")]);
    let (ran, ok) = watch(&mut command)?;
    println!("\n{}", table(&bugs, &ran));
    let wrong = wrong(&bugs, &ran);
    if !wrong.is_empty() {
        bail!("{}", wrong.join("; "));
    }
    if !ok {
        bail!("a test about the planted bugs failed");
    }
    Ok(())
}

/// The names of the bugs, as `Bug::name` spells them.
fn bugs(source: &str) -> Vec<String> {
    let names = source.lines().filter_map(|line| line.trim().strip_prefix("Self::")?.split_once("=> \""));
    names.filter_map(|(_, rest)| rest.split('"').next()).map(str::to_owned).collect()
}

/// The integration tests of a package, by name, that find a planted bug.
fn targets_with_finders(package: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(package.join("tests")) else { return Vec::new() };
    let paths = entries.flatten().map(|entry| entry.path()).filter(|path| has_finders(path));
    paths.filter_map(|path| Some(path.file_stem()?.to_string_lossy().into_owned())).collect()
}

/// Whether a Rust file, or one below a folder, has a test that finds a planted bug.
fn has_finders(path: &Path) -> bool {
    if path.is_dir() {
        let Ok(entries) = fs::read_dir(path) else { return false };
        return entries.flatten().any(|entry| has_finders(&entry.path()));
    }
    let is_rust = path.extension().is_some_and(|extension| extension == "rs");
    is_rust && fs::read_to_string(path).is_ok_and(|text| text.contains(&format!("fn {PREFIX}")))
}

/// Runs nextest, shows what it says, and gathers what ran; and whether all of it passed.
fn watch(command: &mut Command) -> Result<(Vec<Ran>, bool)> {
    let interrupt = shell::Interrupt::install()?;
    let mut child =
        command.stderr(Stdio::piped()).spawn().with_context(|| format!("failed to start {command:?}"))?;
    let mut ran = Vec::new();
    if let Some(stderr) = child.stderr.take() {
        for line in BufReader::new(stderr).lines() {
            let line = line.context("failed to read what nextest says")?;
            eprintln!("{line}");
            ran.extend(parse(&line));
        }
    }
    let status = child.wait().context("failed to wait for nextest")?;
    interrupt.check()?;
    Ok((ran, status.success()))
}

/// Reads `PASS [   0.010s] (1/9) taskd::planted finds_planted_no_lease`.
fn parse(line: &str) -> Option<Ran> {
    let (status, rest) = line.trim().split_once('[')?;
    let passed = match status.trim() {
        "PASS" => true,
        "FAIL" | "TIMEOUT" | "ABORT" | "LEAK-FAIL" => false,
        _ => return None,
    };
    let (seconds, rest) = rest.split_once("s]")?;
    let seconds = seconds.trim_matches([' ', '>']).parse().ok()?;
    let mut words = rest.split_whitespace().rev();
    let (test, binary) = (words.next()?, words.next()?);
    Some(Ran { passed, seconds, binary: binary.to_owned(), test: test.to_owned() })
}

/// The bug that a test is about: its name goes on after it at most.
fn about<'a>(bugs: &'a [String], test: &str) -> Option<&'a String> {
    let name = test.rsplit("::").next()?.strip_prefix(PREFIX)?;
    let fits = |bug: &&String| {
        let rest = name.strip_prefix(&bug.replace('-', "_"));
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('_'))
    };
    bugs.iter().filter(fits).max_by_key(|bug| bug.len())
}

fn finders<'a>(bugs: &'a [String], ran: &'a [Ran], bug: &str) -> Vec<&'a Ran> {
    let mut found: Vec<_> =
        ran.iter().filter(|ran| about(bugs, &ran.test).is_some_and(|about| about == bug)).collect();
    found.sort_by(|a, b| a.seconds.total_cmp(&b.seconds));
    found
}

fn table(bugs: &[String], ran: &[Ran]) -> String {
    let mut rows = vec![["planted bug".to_owned(), "found".to_owned(), "by".to_owned()]];
    for bug in bugs {
        let finders = finders(bugs, ran, bug);
        if finders.is_empty() {
            rows.push([bug.clone(), "NO".to_owned(), "no test ran".to_owned()]);
        }
        for (index, ran) in finders.into_iter().enumerate() {
            let name = if index == 0 { bug.clone() } else { String::new() };
            let found = if ran.passed { format!("{:.1} s", ran.seconds) } else { "NO".to_owned() };
            rows.push([name, found, format!("{} {}", ran.binary, ran.test)]);
        }
    }
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or_default();
    let (first, second) = (width(0), width(1));
    rows.iter().map(|[bug, found, by]| format!("{bug:first$}  {found:>second$}  {by}\n")).collect()
}

/// What keeps the promise that every bug is found in time.
fn wrong(bugs: &[String], ran: &[Ran]) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut missed = BTreeSet::new();
    for bug in bugs {
        let finders = finders(bugs, ran, bug);
        if finders.is_empty() {
            missed.insert(bug.as_str());
        }
        for ran in finders {
            if !ran.passed {
                wrong.push(format!("{} did not find {bug}, or found something without it", ran.test));
            } else if ran.seconds > FOUND_WITHIN_S {
                wrong.push(format!("{} took {:.0} s to find {bug}", ran.test, ran.seconds));
            }
        }
    }
    if !missed.is_empty() {
        wrong.push(format!("nobody looked for {}", missed.into_iter().collect::<Vec<_>>().join(", ")));
    }
    wrong
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> Vec<String> {
        ["no-lease", "no-token-check"].map(str::to_owned).to_vec()
    }

    #[test]
    fn what_nextest_says_is_understood() {
        let ran = parse("        PASS [  12.010s] (1/9) taskd::planted finds_planted_no_lease").unwrap();
        assert_eq!((ran.passed, ran.seconds, &ran.binary[..]), (true, 12.01, "taskd::planted"));
        assert_eq!(ran.test, "finds_planted_no_lease");
        assert!(
            !parse("  TIMEOUT [> 240.000s] (2/9) coord::late log::finds_planted_no_chain_check")
                .unwrap()
                .passed
        );
        for line in
            ["    SLOW [> 60.000s] coord x", "     Summary [   1.898s] 9 tests run: 9 passed", "", "note: x"]
        {
            assert_eq!(parse(line), None, "{line}");
        }
    }

    #[test]
    fn each_bug_has_to_be_found_in_time() {
        let line = |status: &str, seconds: &str, test: &str| {
            parse(&format!("{status} [ {seconds}s] (1/2) coord::late {test}")).unwrap()
        };
        let lease = line("PASS", "1.5", "lease::finds_planted_no_lease_of_a_follower");
        let token = line("PASS", "2.5", "finds_planted_no_token_check");
        let rows: [(&[Ran], &str); 5] = [
            (&[lease.clone(), token.clone()], ""),
            (std::slice::from_ref(&token), "nobody looked for no-lease"),
            (&[line("FAIL", "3.0", "finds_planted_no_lease"), token.clone()], "did not find no-lease"),
            (&[line("PASS", "301.0", "finds_planted_no_lease"), token.clone()], "took 301 s"),
            (&[lease.clone(), token.clone(), line("FAIL", "3.0", "finds_planted_no_lease")], "did not find"),
        ];
        for (ran, expected) in rows {
            let wrong = wrong(&names(), ran).join("; ");
            assert!(wrong.contains(expected) && wrong.is_empty() == expected.is_empty(), "{ran:?}: {wrong}");
        }
        assert_eq!(
            table(&names(), &[token, lease]),
            "planted bug     found  by\n\
             no-lease        1.5 s  coord::late lease::finds_planted_no_lease_of_a_follower\n\
             no-token-check  2.5 s  coord::late finds_planted_no_token_check\n"
        );
    }

    #[test]
    fn the_bugs_are_read_from_the_source() {
        let source = include_str!("../../../crates/drill/src/bug.rs");
        let bugs = bugs(source);
        assert!(bugs.len() >= 8 && bugs.contains(&"no-lease".to_owned()), "{bugs:?}");
        assert_eq!(bugs.len(), source.matches("=> \"").count());
    }
}
