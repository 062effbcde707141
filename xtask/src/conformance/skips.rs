//! The tests that the keeper is not asked to pass: a public list, with a reason each.

use anyhow::{Result, bail};

/// One test.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Skip {
    /// `kazoo/tests/FILE::CLASS::TEST`
    pub(super) id: String,
    /// Why.
    pub(super) reason: String,
}

/// A line that begins a line is a test, an indented one below it the reason. `#` begins a comment.
pub(super) fn parse(text: &str) -> Result<Vec<Skip>> {
    let mut skips: Vec<Skip> = Vec::new();
    for (line, number) in text.lines().zip(1..) {
        let entry = line.trim();
        if entry.is_empty() || entry.starts_with('#') {
            continue;
        }
        if !line.starts_with(char::is_whitespace) {
            if skips.iter().any(|skip| skip.id == entry) {
                bail!("line {number}: {entry} stands there twice");
            }
            skips.push(Skip { id: entry.to_owned(), reason: String::new() });
            continue;
        }
        match skips.last_mut() {
            None => bail!("line {number}: a reason without a test"),
            Some(skip) if skip.reason.is_empty() => skip.reason = entry.to_owned(),
            Some(skip) => skip.reason = format!("{} {entry}", skip.reason),
        }
    }
    if let Some(skip) = skips.iter().find(|skip| skip.reason.is_empty()) {
        bail!("{} has no reason", skip.id);
    }
    Ok(skips)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_test_has_a_reason() {
        let skips = parse("# why\na::b\n  it is\n  so\n\nc::d\n\tthat\n").unwrap();
        let expected = [("a::b", "it is so"), ("c::d", "that")];
        let found: Vec<_> = skips.iter().map(|skip| (skip.id.as_str(), skip.reason.as_str())).collect();
        assert_eq!(found, expected);
        for (text, problem) in
            [("a::b\n", "has no reason"), ("  so\n", "without a test"), ("a\n x\na\n y\n", "twice")]
        {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(problem), "{text:?}: {error}");
        }
    }

    #[test]
    fn the_committed_list_can_be_read() {
        assert!(!parse(include_str!("../../kazoo/skips.txt")).unwrap().is_empty());
    }
}
