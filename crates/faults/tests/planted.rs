//! Every bug that can be planted has a test that finds it.
//!
//! A test called `finds_planted_<bug>` arms one bug and asserts that the suite notices, and that it is content without.
//! They stand beside what they use; `cargo xtask faults --planted` runs them all.

#![expect(clippy::unwrap_used, reason = "a test fails where it stands, in its helpers too")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use drill::Bug;

fn crates() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Every Rust file below `dir`.
fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// Whether the attributes before a line that begins at `function` make a test of it that is run.
fn is_test(text: &str, function: usize) -> bool {
    let attributes: Vec<_> = text[..function]
        .lines()
        .rev()
        .map(str::trim)
        .take_while(|line| line.starts_with("#[") || line.starts_with("//") || line.starts_with(')'))
        .collect();
    let has = |what: &str| attributes.iter().any(|line| line.contains(what));
    (has("#[test]") || has("::test")) && !has("#[ignore")
}

/// Of each bug the files with a test that arms and finds it.
fn finders(texts: &BTreeMap<PathBuf, String>, bug: &str, variant: &str) -> Vec<PathBuf> {
    let name = format!("fn finds_planted_{}", bug.replace('-', "_"));
    let arms = [format!("Bug::{variant}"), format!("plant:{bug}")];
    let finds = |text: &str| {
        let mut at = text.match_indices(&name);
        at.any(|(at, _)| is_test(text, text[..at].rfind('\n').map_or(0, |end| end + 1)))
            && arms.iter().any(|arm| text.contains(arm))
    };
    texts.iter().filter(|(_, text)| finds(text)).map(|(path, _)| path.clone()).collect()
}

fn workspace() -> BTreeMap<PathBuf, String> {
    let mut paths = Vec::new();
    for package in fs::read_dir(crates()).unwrap() {
        for part in ["src", "tests"] {
            let dir = package.as_ref().unwrap().path().join(part);
            if dir.is_dir() {
                sources(&dir, &mut paths);
            }
        }
    }
    let own = Path::new(file!()).file_name().unwrap();
    paths.retain(|path| !(path.file_name() == Some(own) && path.starts_with(crates().join("faults"))));
    paths.into_iter().map(|path| (path.clone(), fs::read_to_string(path).unwrap())).collect()
}

/// The variants as the source has them, since a list of them could have forgotten one.
fn variants() -> Vec<String> {
    let text = fs::read_to_string(crates().join("drill/src/bug.rs")).unwrap();
    let body = text.split_once("pub enum Bug {").unwrap().1.split_once("\n}").unwrap().0;
    let lines = body.lines().map(str::trim).filter(|line| !line.starts_with("//") && !line.is_empty());
    lines.map(|line| line.trim_end_matches(',').to_owned()).collect()
}

#[test]
fn every_bug_is_found_by_a_test() {
    let variants = variants();
    let all: Vec<_> = Bug::ALL.iter().map(|bug| format!("{bug:?}")).collect();
    assert_eq!(variants, all, "`Bug::ALL` does not have them all, or in another order");
    assert!(all.len() >= 8, "at least eight were promised");
    let texts = workspace();
    let missing: Vec<_> = Bug::ALL
        .iter()
        .filter(|bug| finders(&texts, bug.name(), &format!("{bug:?}")).is_empty())
        .map(|bug| format!("{bug:?}: no test `finds_planted_{}`", bug.name().replace('-', "_")))
        .collect();
    assert!(missing.is_empty(), "{missing:#?}");
}

#[test]
fn a_bug_without_a_test_is_noticed() {
    let found = |text: &str| {
        let texts = BTreeMap::from([(PathBuf::from("a.rs"), text.to_owned())]);
        finders(&texts, "no-lease", "NoLease").len()
    };
    let body = "fn finds_planted_no_lease() { run(Bug::NoLease) }";
    assert_eq!(found(&format!("#[test]\n{body}")), 1);
    assert_eq!(found(&format!("#[tokio::test(flavor = \"multi_thread\")]\n    async {body}")), 1);
    assert_eq!(found("#[test]\nfn finds_planted_no_lease_at_all() { run(\"plant:no-lease\") }"), 1);
    assert_eq!(found(body), 0, "a function that nobody runs");
    assert_eq!(found(&format!("#[test]\n#[ignore = \"slow\"]\n{body}")), 0, "nor this one");
    assert_eq!(found("#[test]\nfn finds_planted_no_lease() {}"), 0, "nothing is armed");
    assert_eq!(found("#[test]\nfn finds_planted_no_token_check() { run(Bug::NoLease) }"), 0, "another bug's");
}
