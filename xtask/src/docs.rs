//! Documents that name tests: each of them exists. A page that proves something by a test which was renamed proves
//! nothing, and nobody would notice.

use std::path::Path;

/// The documents that name tests as `FILE::FUNCTION` and files by their paths from the workspace's root.
const DOCUMENTS: [&str; 1] = ["docs/incident.md"];

/// Fewer references than this, and it is their form that has changed.
const REFERENCES_MIN: usize = 40;

/// What stands between backticks, outside of code blocks.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    let prose = text.split("\n```").step_by(2);
    prose.flat_map(|part| part.split('`').skip(1).step_by(2))
}

/// What is wrong with `reference`, if it is one and something is.
fn problem(root: &Path, reference: &str) -> Option<String> {
    let (path, function) = match reference.split_once(".rs::") {
        Some((path, function)) => (format!("{path}.rs"), Some(function)),
        None => (reference.to_owned(), None),
    };
    let Ok(text) = std::fs::read_to_string(root.join(&path)) else {
        return Some(format!("there is no file {path}"));
    };
    let function = function?;
    let mut is_test = false;
    for line in text.lines().map(str::trim_start) {
        if line.contains(&format!("fn {function}()")) {
            return (!is_test).then(|| format!("{function} in {path} is no test"));
        }
        // Attributes and comments may stand between.
        let attached = line.starts_with("#[") || line.starts_with("//");
        is_test = line.starts_with("#[test]") || line.starts_with("#[tokio::test") || is_test && attached;
    }
    Some(format!("there is no {function} in {path}"))
}

/// Whether it names a file or a test of this workspace.
fn is_reference(quoted: &str) -> bool {
    let ours = ["crates/", "xtask/", "docs/"].iter().any(|root| quoted.starts_with(root));
    ours && !quoted.ends_with('/') && !quoted.contains([' ', '*'])
}

#[test]
fn what_documents_name_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut problems = Vec::new();
    for document in DOCUMENTS {
        let text = std::fs::read_to_string(root.join(document)).unwrap();
        let references: Vec<_> = quoted(&text).filter(|quoted| is_reference(quoted)).collect();
        assert!(references.len() >= REFERENCES_MIN, "{document} names {} files and tests", references.len());
        problems.extend(references.iter().filter_map(|it| problem(&root, it)));
    }
    assert!(problems.is_empty(), "{problems:#?}");
}

#[test]
fn what_does_not_exist_is_found() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let rows = [
        ("xtask/src/docs.rs::what_does_not_exist_is_found", None),
        ("xtask/src/docs.rs", None),
        ("xtask/src/nowhere.rs", Some("no file")),
        ("xtask/src/docs.rs::nothing", Some("there is no nothing")),
        ("xtask/src/nowhere.rs::nothing", Some("no file")),
        ("xtask/src/depgraph.rs::main", Some("there is no main")),
        ("xtask/src/main.rs::main", Some("no test")),
    ];
    for (reference, says) in rows {
        let problem = problem(&root, reference);
        let right = match says {
            None => problem.is_none(),
            Some(says) => problem.as_ref().is_some_and(|problem| problem.contains(says)),
        };
        assert!(right, "{reference}: {problem:?}");
    }
    let text = "`crates/a` b `xtask/c`\n```\n`crates/d`\n```\n`docs/e.md`, `f`";
    let found: Vec<_> = quoted(text).filter(|quoted| is_reference(quoted)).collect();
    assert_eq!(found, ["crates/a", "xtask/c", "docs/e.md"]);
}
