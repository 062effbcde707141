//! Who may lead, and when.

use std::collections::BTreeMap;

use clock::Instant;

use super::super::Timing;
use super::super::report::{Rule, Violation, at, lease};
use super::once;
use super::tenure::{Proof, Tenure, Tenures};

pub(super) fn check(tenures: &Tenures<'_>, timing: Timing, found: &mut Vec<Violation>) {
    one_owner(tenures, found);
    epoch_order(tenures, found);
    for tenure in tenures.all() {
        found.extend(unclaimed(tenure));
        found.extend(outside_lease(tenure, timing));
        found.extend(after_drop(tenure));
        found.extend(released_before_the_last_effect(tenure));
        found.extend(released_while_entitled(tenure, timing));
        found.extend(arithmetic(tenure, timing));
    }
    overlap(tenures, found);
    two_entitled(tenures, timing, found);
}

fn one_owner(tenures: &Tenures<'_>, found: &mut Vec<Violation>) {
    let mut claims: BTreeMap<u64, Vec<(&str, Instant)>> = BTreeMap::new();
    for tenure in tenures.all() {
        let of_epoch = claims.entry(tenure.epoch).or_default();
        of_epoch.extend(tenure.claims().map(|claim| (tenure.node, claim.at)));
    }
    for (epoch, mut claims) in claims {
        claims.sort_by_key(|(_, at)| *at);
        if let [(first, then), (second, again), ..] = claims[..] {
            let text = format!(
                "epoch {epoch} was claimed by {first} at {} and by {second} at {}: a claim increments the epoch, so \
                 that nobody else can have it",
                at(then),
                at(again)
            );
            found.push(Violation { rule: Rule::OneOwner, text });
        }
    }
}

fn epoch_order(tenures: &Tenures<'_>, found: &mut Vec<Violation>) {
    // The higher epoch that was known of first.
    let mut higher: Option<(&Tenure<'_>, &Proof)> = None;
    let owners: Vec<_> = tenures.claimed().collect();
    for &(tenure, claim) in owners.iter().rev() {
        if let Some((above, earlier)) = higher.filter(|(_, earlier)| earlier.at < claim.sent) {
            let text = format!(
                "{} sent its claim of epoch {} at {}, after {} had claimed epoch {} at {}: epochs only go up",
                tenure.node,
                tenure.epoch,
                at(claim.sent),
                above.node,
                above.epoch,
                at(earlier.at)
            );
            found.push(Violation { rule: Rule::EpochOrder, text });
        }
        if higher.is_none_or(|(_, earlier)| claim.at < earlier.at) {
            higher = Some((tenure, claim));
        }
    }
}

fn unclaimed(tenure: &Tenure<'_>) -> Option<Violation> {
    let (node, epoch) = (tenure.node, tenure.epoch);
    let claim = tenure.claims().map(|claim| claim.at).min();
    let early = tenure.effects.iter().filter(|effect| claim.is_none_or(|claim| effect.at < claim));
    let offences = early.map(|effect| {
        let text = match claim {
            None => format!(
                "{node} had the effect {} of epoch {epoch} at {} and never claimed that epoch: it took itself for the \
                 leader",
                effect.kind,
                at(effect.at)
            ),
            Some(claim) => format!(
                "{node} had the effect {} of epoch {epoch} at {} and claimed that epoch only at {}",
                effect.kind,
                at(effect.at),
                at(claim)
            ),
        };
        (effect.at, text)
    });
    once(Rule::Unclaimed, offences.collect())
}

fn outside_lease(tenure: &Tenure<'_>, timing: Timing) -> Option<Violation> {
    let mut offences = Vec::new();
    for effect in &tenure.effects {
        // Without any proof it is another rule's business.
        let Some(proof) = tenure.best_at(effect.at) else { continue };
        let until = proof.until(timing);
        if effect.at >= until {
            let text = format!(
                "{} had the effect {} of epoch {} at {}, {:?} after its lease had ended at {} ({}): another node may \
                 have led by then",
                tenure.node,
                effect.kind,
                tenure.epoch,
                at(effect.at),
                effect.at.since(until),
                at(until),
                lease(proof.sent, timing)
            );
            offences.push((effect.at, text));
        }
    }
    once(Rule::OutsideLease, offences)
}

fn after_drop(tenure: &Tenure<'_>) -> Option<Violation> {
    effects_after(tenure, tenure.dropped?, Rule::AfterDrop, |late, dropped| {
        format!("{late} after it had dropped its lease at {dropped}, which is for good")
    })
}

fn released_before_the_last_effect(tenure: &Tenure<'_>) -> Option<Violation> {
    effects_after(tenure, tenure.released?, Rule::EarlyRelease, |late, released| {
        format!("{late} after it had deleted `leader` at {released}: its successor may have begun")
    })
}

/// The effects that came after an instant at which they had to be over. `words` make a sentence of what came how late,
/// and of that instant.
fn effects_after(
    tenure: &Tenure<'_>,
    end: Instant,
    rule: Rule,
    words: impl Fn(String, String) -> String,
) -> Option<Violation> {
    let late = tenure.effects.iter().filter(|effect| effect.at > end);
    let offences = late.map(|effect| {
        let late = format!(
            "{} had the effect {} of epoch {} at {}, {:?}",
            tenure.node,
            effect.kind,
            tenure.epoch,
            at(effect.at),
            effect.at.since(end)
        );
        (effect.at, words(late, at(end).to_string()))
    });
    once(rule, offences.collect())
}

fn released_while_entitled(tenure: &Tenure<'_>, timing: Timing) -> Option<Violation> {
    let released = tenure.released?;
    let proof = tenure.best_at(released)?;
    let until = proof.until(timing);
    if released >= until || tenure.dropped.is_some_and(|dropped| dropped <= released) {
        return None;
    }
    let text = format!(
        "{} deleted `leader` of epoch {} at {} and held its lease until {} ({}): it may have had effects beside its \
         successor's",
        tenure.node,
        tenure.epoch,
        at(released),
        at(tenure.dropped.map_or(until, |dropped| dropped.min(until))),
        lease(proof.sent, timing)
    );
    Some(Violation { rule: Rule::EarlyRelease, text })
}

fn arithmetic(tenure: &Tenure<'_>, timing: Timing) -> Option<Violation> {
    let wrong =
        tenure.proofs.iter().filter(|proof| proof.valid_until > proof.until(timing) || proof.sent > proof.at);
    let offences = wrong.map(|proof| {
        let text = format!(
            "{} takes its lease of epoch {} to last until {}, by a write that it knew of at {}; it ends at {} ({})",
            tenure.node,
            tenure.epoch,
            at(proof.valid_until),
            at(proof.at),
            at(proof.until(timing)),
            lease(proof.sent, timing)
        );
        (proof.at, text)
    });
    once(Rule::LeaseArithmetic, offences.collect())
}

fn overlap(tenures: &Tenures<'_>, found: &mut Vec<Violation>) {
    // Of all higher epochs, the one whose effects began first, and of those of the same epoch.
    let mut higher: Option<(&Tenure<'_>, Instant)> = None;
    let mut same: Option<(&Tenure<'_>, Instant)> = None;
    for tenure in tenures.all().rev() {
        let (Some(first), Some(last)) = (tenure.effects.first(), tenure.effects.last()) else { continue };
        if same.is_some_and(|(of_same, _)| of_same.epoch != tenure.epoch) {
            higher = earlier(higher, same.take());
        }
        if let Some((above, begun)) = higher.filter(|(_, begun)| last.at >= *begun) {
            let text = format!(
                "{} had an effect ({}) of epoch {} at {}, {:?} after the first of epoch {} by {} at {}: two led at a time",
                tenure.node,
                last.kind,
                tenure.epoch,
                at(last.at),
                last.at.since(begun),
                above.epoch,
                above.node,
                at(begun)
            );
            found.push(Violation { rule: Rule::Overlap, text });
        }
        same = earlier(same, Some((tenure, first.at)));
    }
}

fn earlier<T>(one: Option<(T, Instant)>, other: Option<(T, Instant)>) -> Option<(T, Instant)> {
    match (one, other) {
        (Some(one), Some(other)) => Some(if other.1 < one.1 { other } else { one }),
        (one, other) => one.or(other),
    }
}

fn two_entitled(tenures: &Tenures<'_>, timing: Timing, found: &mut Vec<Violation>) {
    let mut higher: Option<(&Tenure<'_>, Instant)> = None;
    let owners: Vec<_> = tenures.claimed().collect();
    for &(tenure, claim) in owners.iter().rev() {
        if let Some((above, claimed)) = higher {
            let beside = tenure.entitled_for_sure(timing).filter(|(_, until)| *until > claimed);
            let offences = beside.map(|(from, until)| {
                let text = format!(
                    "{} was entitled by epoch {} from {} until {} although {} had claimed epoch {} by {}: its lease did \
                     not end before its session, or its `leader` went too early",
                    tenure.node,
                    tenure.epoch,
                    at(from.max(claimed)),
                    at(until),
                    above.node,
                    above.epoch,
                    at(claimed)
                );
                (from, text)
            });
            found.extend(once(Rule::TwoEntitled, offences.collect()));
        }
        higher = earlier(higher, Some((tenure, claim.at)));
    }
}
