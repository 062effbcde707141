//! The rules, each on its own: what one of them misses, another still finds.

mod gaps;
mod leadership;
mod process;
mod tenure;

use clock::Instant;

use super::fact::Fact;
use super::report::{Report, Rule, Term, Violation, at};
use super::{End, Timing};
use tenure::Tenures;

/// A life whose lines were read.
#[derive(Debug)]
pub(crate) struct Parsed<'a> {
    pub(crate) node: &'a str,
    pub(crate) end: End,
    /// By time.
    pub(crate) facts: Vec<(Instant, Fact)>,
}

impl Parsed<'_> {
    /// When it was last heard of, if it is over.
    fn over(&self) -> Option<Instant> {
        let last = self.facts.last().map(|(at, _)| *at);
        last.filter(|_| self.end != End::Running)
    }
}

/// Applies every rule to lives that are sorted by their beginning.
pub(crate) fn apply(lives: &[Parsed<'_>], timing: Timing) -> Report {
    let tenures = Tenures::of(lives);
    let mut report = Report::default();
    leadership::check(&tenures, timing, &mut report.violations);
    process::check(lives, &tenures, &mut report);
    for tenure in tenures.all() {
        for effect in &tenure.effects {
            *report.kinds.entry(effect.kind.clone()).or_default() += 1;
            report.effects += 1;
            report.served.push((effect.at, tenure.epoch));
        }
    }
    report.served.sort_unstable();
    report.terms = tenures.claimed().map(|(tenure, claim)| term(tenure, claim.at)).collect();
    report.epochs = report.terms.len() as u64;
    report.gaps = gaps::of(lives, &tenures, timing);
    report
}

fn term(tenure: &tenure::Tenure<'_>, claimed: Instant) -> Term {
    Term {
        epoch: tenure.epoch,
        node: tenure.node.to_owned(),
        claimed,
        effects: tenure.effects.len() as u64,
        first_effect: tenure.effects.first().map(|effect| effect.at),
        last_effect: tenure.effects.last().map(|effect| effect.at),
        ended: tenure.ended,
        released: tenure.released,
    }
}

/// One violation of what happened several times to one node in one epoch: the first time, and how often.
fn once(rule: Rule, mut offences: Vec<(Instant, String)>) -> Option<Violation> {
    offences.sort_by_key(|(at, _)| *at);
    let (count, last) = (offences.len(), offences.last()?.0);
    let mut text = offences.swap_remove(0).1;
    if count > 1 {
        text.push_str(&format!(" (and {} more like it, the last at {})", count - 1, at(last)));
    }
    Some(Violation { rule, text })
}
