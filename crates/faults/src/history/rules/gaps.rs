//! When nobody led.

use clock::Instant;

use super::super::Timing;
use super::super::report::Gap;
use super::Parsed;
use super::tenure::Tenures;

/// The intervals, from the first effect of all on, in which no node that had begun to serve was inside its lease.
pub(super) fn of(lives: &[Parsed<'_>], tenures: &Tenures<'_>, timing: Timing) -> Vec<Gap> {
    let mut led = Vec::new();
    for tenure in tenures.all() {
        let Some(begun) = tenure.effects.first().map(|effect| effect.at) else { continue };
        let spans = tenure.entitled(timing).filter(|(_, until)| *until >= begun);
        led.extend(spans.map(|(from, until)| (from.max(begun), until, tenure.epoch)));
    }
    led.sort_unstable();
    let end = lives.iter().filter_map(|life| life.facts.last()).map(|(at, _)| *at).max();
    let mut gaps = Vec::new();
    let mut covered: Option<(Instant, u64)> = None;
    for (from, until, epoch) in led {
        if let Some((to, after)) = covered.filter(|(to, _)| *to < from) {
            gaps.push(gap(to, from, after, Some(epoch)));
        }
        if covered.is_none_or(|(to, _)| to < until) {
            covered = Some((until, epoch));
        }
    }
    if let (Some((to, after)), Some(end)) = (covered, end)
        && to < end
    {
        gaps.push(gap(to, end, after, None));
    }
    gaps
}

fn gap(from: Instant, to: Instant, after: u64, before: Option<u64>) -> Gap {
    Gap { after, before, from_ns: from.as_nanos(), to_ns: to.as_nanos() }
}
