//! What pytest says of each test, and what that means here.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use super::skips::Skip;

/// How a test ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Outcome {
    /// kazoo itself found that it does not apply here.
    Skipped,
    Passed,
    /// An error while it was set up or torn down included.
    Failed,
}

const WORDS: [(&str, Outcome); 6] = [
    (" SKIPPED", Outcome::Skipped),
    (" PASSED", Outcome::Passed),
    (" XFAIL", Outcome::Passed),
    (" XPASS", Outcome::Failed),
    (" FAILED", Outcome::Failed),
    (" ERROR", Outcome::Failed),
];

/// Reads what `pytest -v` has printed so far. A test that passes and then fails to clean up has failed.
pub(super) fn outcomes(text: &str, into: &mut BTreeMap<String, Outcome>) {
    for line in text.lines().filter(|line| line.starts_with("kazoo/")) {
        let found = WORDS.iter().find_map(|(word, outcome)| {
            let (id, rest) = line.split_once(word)?;
            // Such as `PASSED [ 12%]` and `SKIPPED (no Kerberos) [ 12%]`.
            (rest.is_empty() || rest.starts_with(' ')).then_some((id, *outcome))
        });
        if let Some((id, outcome)) = found {
            let known = into.entry(id.to_owned()).or_insert(outcome);
            *known = (*known).max(outcome);
        }
    }
}

/// The tests that `pytest --collect-only -q` lists.
pub(super) fn collected(text: &str) -> BTreeSet<String> {
    let ids = text.lines().filter(|line| line.starts_with("kazoo/") && line.contains("::"));
    ids.map(str::to_owned).collect()
}

/// Files for `jobs` runs side by side, with about as many tests each.
pub(super) fn share_out(tests: &BTreeSet<String>, jobs: usize) -> Vec<Vec<String>> {
    let mut files: BTreeMap<&str, usize> = BTreeMap::new();
    for test in tests {
        *files.entry(test.split("::").next().unwrap_or(test)).or_default() += 1;
    }
    let mut files: Vec<_> = files.into_iter().collect();
    files.sort_by_key(|(_, tests)| std::cmp::Reverse(*tests));
    let mut shares = vec![(0, Vec::new()); jobs];
    for (file, tests) in files {
        if let Some(least) = shares.iter_mut().min_by_key(|(tests, _)| *tests) {
            least.0 += tests;
            least.1.push(file.to_owned());
        }
    }
    shares.into_iter().map(|(_, files)| files).filter(|files| !files.is_empty()).collect()
}

/// The whole.
#[derive(Debug)]
pub(super) struct Report<'a> {
    pub(super) collected: &'a BTreeSet<String>,
    pub(super) outcomes: &'a BTreeMap<String, Outcome>,
    pub(super) skips: &'a [Skip],
    /// Failed at first, and passed when it was run by itself.
    pub(super) second_try: &'a BTreeSet<String>,
}

impl Report<'_> {
    fn listed(&self, id: &str) -> bool {
        self.skips.iter().any(|skip| skip.id == id)
    }

    /// Outside of the list, those that did not pass: failed, or never ended.
    pub(super) fn failed(&self) -> Vec<&str> {
        let failed = |id: &&String| {
            !self.listed(id) && !matches!(self.outcomes.get(*id), Some(Outcome::Passed | Outcome::Skipped))
        };
        self.collected.iter().filter(failed).map(String::as_str).collect()
    }

    fn count(&self, outcome: Outcome) -> usize {
        let ids = self.collected.iter().filter(|id| !self.listed(id));
        ids.filter(|id| self.outcomes.get(*id) == Some(&outcome)).count()
    }

    /// Entries of the list that should not stand there, with the reason.
    pub(super) fn stale(&self) -> Vec<String> {
        let verdict = |skip: &Skip| match self.outcomes.get(&skip.id) {
            _ if !self.collected.contains(&skip.id) => Some("this kazoo has no such test"),
            Some(Outcome::Passed) => Some("it passes"),
            Some(Outcome::Skipped) => Some("kazoo skips it by itself"),
            Some(Outcome::Failed) | None => None,
        };
        self.skips.iter().filter_map(|skip| Some(format!("{}: {}", skip.id, verdict(skip)?))).collect()
    }

    /// Passed, and how many could have.
    pub(super) fn applicable(&self) -> (usize, usize) {
        let passed = self.count(Outcome::Passed);
        (passed, passed + self.failed().len())
    }

    /// What to print.
    pub(super) fn render(&self) -> String {
        let (passed, applicable) = self.applicable();
        let skipped = self.count(Outcome::Skipped);
        let with_listed = applicable + self.skips.len();
        let percent = |of: usize| 100.0 * passed as f64 / of.max(1) as f64;
        let mut text = format!(
            "  {passed:>4} passed\n  {:>4} failed\n  {skipped:>4} skipped by kazoo itself\n  {:>4} skipped by our list\n\
             {:.1} % of the {applicable} applicable tests; {:.1} % of the {with_listed} that kazoo runs here\n",
            self.failed().len(),
            self.skips.len(),
            percent(applicable),
            percent(with_listed),
        );
        for id in self.second_try {
            let _ = writeln!(text, "failed at first, passed when run by itself: {id}");
        }
        text
    }

    /// How the listed tests fare: what they are compared with does not pass all of them either.
    pub(super) fn render_listed(&self) -> String {
        let mut text = String::new();
        for skip in self.skips {
            let fares = match self.outcomes.get(&skip.id) {
                Some(Outcome::Passed) => "passes here",
                Some(Outcome::Skipped) => "skipped by kazoo",
                Some(Outcome::Failed) | None => "fails here too",
            };
            let _ = writeln!(text, "  {fares:<16}  {}  ({})", skip.id, skip.reason);
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(ids: &[&str]) -> BTreeSet<String> {
        ids.iter().map(|id| (*id).to_owned()).collect()
    }

    #[test]
    fn what_pytest_prints_is_read() {
        let text = "collected 4 items\nkazoo/a.py::A::one PASSED [ 25%]\nkazoo/a.py::A::two FAILED [ 50%]\n\
                    kazoo/a.py::A::three SKIPPED (no Kerberos) [ 75%]\nkazoo/a.py::A::one ERROR [ 75%]\n\
                    kazoo/b.py::B::four[x y] PASSED [100%]\nkazoo/b.py::B::five \nFAILED kazoo/a.py::A::two - x";
        let mut found = BTreeMap::new();
        outcomes(text, &mut found);
        let found: Vec<_> = found.iter().map(|(id, outcome)| (id.as_str(), *outcome)).collect();
        assert_eq!(
            found,
            [
                ("kazoo/a.py::A::one", Outcome::Failed),
                ("kazoo/a.py::A::three", Outcome::Skipped),
                ("kazoo/a.py::A::two", Outcome::Failed),
                ("kazoo/b.py::B::four[x y]", Outcome::Passed),
            ]
        );
        assert_eq!(collected("kazoo/a.py::A::one\n\n1 test collected\n"), ids(&["kazoo/a.py::A::one"]));
    }

    #[test]
    fn nothing_is_counted_that_did_not_happen() {
        let collected = ids(&["a", "b", "c", "d", "listed", "stale"]);
        let outcome = |(id, outcome): (&str, Outcome)| (id.to_owned(), outcome);
        let outcomes: BTreeMap<_, _> = [
            ("a", Outcome::Passed),
            ("b", Outcome::Failed),
            ("c", Outcome::Skipped),
            ("listed", Outcome::Failed),
            ("stale", Outcome::Passed),
        ]
        .map(outcome)
        .into();
        let skip = |id: &str| Skip { id: id.to_owned(), reason: "so".to_owned() };
        let skips = ["listed", "stale", "gone"].map(skip);
        let second_try = BTreeSet::new();
        let report =
            Report { collected: &collected, outcomes: &outcomes, skips: &skips, second_try: &second_try };
        // `d` never ended.
        assert_eq!(report.failed(), ["b", "d"]);
        assert_eq!(report.applicable(), (1, 3));
        assert_eq!(report.stale(), ["stale: it passes", "gone: this kazoo has no such test"]);
        assert!(report.render().contains("33.3 % of the 3 applicable"), "{}", report.render());
    }

    #[test]
    fn files_are_shared_out_by_their_tests() {
        let tests =
            ids(&["kazoo/a::1", "kazoo/a::2", "kazoo/a::3", "kazoo/b::1", "kazoo/b::2", "kazoo/c::1"]);
        let shares = share_out(&tests, 2);
        assert_eq!(shares, [vec!["kazoo/a"], vec!["kazoo/b", "kazoo/c"]]);
        assert_eq!(share_out(&ids(&["kazoo/a::1"]), 4), [vec!["kazoo/a"]]);
    }
}
