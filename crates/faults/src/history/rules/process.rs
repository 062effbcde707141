//! What holds for every process, leader or not.

use std::collections::BTreeMap;

use clock::Instant;

use super::super::STOP_MAX;
use super::super::fact::Fact;
use super::super::report::{Report, Rule, Violation, at};
use super::tenure::{DISPATCHER, Tenures};
use super::{Parsed, once};

pub(super) fn check(lives: &[Parsed<'_>], tenures: &Tenures<'_>, report: &mut Report) {
    accepts(lives, &mut report.violations);
    leaders(lives, tenures, &mut report.violations);
    for life in lives {
        resources(life, &mut report.violations);
        left_with_effects(life, &mut report.violations);
        stops(life, report);
    }
}

/// Over all lives of a node: a restarted runner takes the current epoch as its floor.
fn accepts(lives: &[Parsed<'_>], found: &mut Vec<Violation>) {
    let mut highest: BTreeMap<&str, (u64, Instant)> = BTreeMap::new();
    for life in lives {
        let mut offences = Vec::new();
        for (when, fact) in &life.facts {
            let Fact::Accept { epoch } = fact else { continue };
            let (seen, since) = *highest.entry(life.node).or_insert((*epoch, *when));
            if *epoch < seen {
                let text = format!(
                    "the runner of {} took orders of epoch {epoch} at {} after it had taken them of epoch {seen} at {}: a \
                     leader that was replaced gave them",
                    life.node,
                    at(*when),
                    at(since)
                );
                offences.push((*when, text));
            } else if *epoch > seen {
                highest.insert(life.node, (*epoch, *when));
            }
        }
        found.extend(once(Rule::StaleAccepted, offences));
    }
}

/// Whom the nodes take for the leader of an epoch is who claimed it, as far as the claim is known.
fn leaders(lives: &[Parsed<'_>], tenures: &Tenures<'_>, found: &mut Vec<Violation>) {
    let owners: BTreeMap<u64, (&str, Instant)> =
        tenures.claimed().map(|(tenure, claim)| (tenure.epoch, (tenure.node, claim.at))).collect();
    for life in lives {
        let mut offences = Vec::new();
        for (when, fact) in &life.facts {
            let Fact::Leader { node, epoch } = fact else { continue };
            if let Some((owner, claimed)) = owners.get(epoch).filter(|(owner, _)| owner != node) {
                let text = format!(
                    "{} took {node} for the leader of epoch {epoch} at {}; {owner} had claimed that at {}",
                    life.node,
                    at(*when),
                    at(*claimed)
                );
                offences.push((*when, text));
            }
        }
        found.extend(once(Rule::OneOwner, offences));
    }
}

/// When a resource was opened and closed.
#[derive(Debug, Default)]
struct Used {
    opens: Vec<Instant>,
    closes: Vec<Instant>,
}

fn resources(life: &Parsed<'_>, found: &mut Vec<Violation>) {
    let mut resources: BTreeMap<(&str, &str), Used> = BTreeMap::new();
    for (when, fact) in &life.facts {
        match fact {
            Fact::Open { name, id } => resources.entry((name, id)).or_default().opens.push(*when),
            Fact::Close { name, id } | Fact::Abandon { name, id } => {
                resources.entry((name, id)).or_default().closes.push(*when)
            }
            _ => {}
        }
    }
    for ((name, id), Used { opens, closes }) in resources {
        let what = format!("{name} {id} of {}", life.node);
        let text = match (&opens[..], &closes[..]) {
            ([], [closed, ..]) => format!("{what} was closed at {} and never opened", at(*closed)),
            ([first, second, ..], _) => {
                format!("{what} was opened at {} and again at {}: ids are used once", at(*first), at(*second))
            }
            (_, [first, second, ..]) => format!(
                "{what} was closed at {} and again at {}: the second may have been somebody else's",
                at(*first),
                at(*second)
            ),
            ([opened], [closed]) if closed < opened => {
                format!("{what} was closed at {} before it was opened at {}", at(*closed), at(*opened))
            }
            ([opened], []) if life.end.is_orderly() => format!(
                "{what} was opened at {} and never closed, though the process stopped in an orderly way{}",
                at(*opened),
                life.over().map(|over| format!(" at {}", at(over))).unwrap_or_default()
            ),
            _ => continue,
        };
        found.push(Violation { rule: Rule::ClosedOnce, text });
    }
}

fn left_with_effects(life: &Parsed<'_>, found: &mut Vec<Violation>) {
    let mut serving: BTreeMap<&str, Instant> = BTreeMap::new();
    for (when, fact) in &life.facts {
        match fact {
            Fact::Open { name, id } if name == DISPATCHER => drop(serving.insert(id, *when)),
            Fact::Close { name, id } if name == DISPATCHER => drop(serving.remove(&id[..])),
            Fact::Leaving => {
                for (epoch, since) in std::mem::take(&mut serving) {
                    let text = format!(
                        "{} left at {} although its dispatcher of epoch {epoch}, begun at {}, was not known to have \
                         ended: a closed session releases its fences over effects that may be alive",
                        life.node,
                        at(*when),
                        at(since)
                    );
                    found.push(Violation { rule: Rule::LeftWithEffects, text });
                }
            }
            _ => {}
        }
    }
}

fn stops(life: &Parsed<'_>, report: &mut Report) {
    let first = |wanted: &Fact| life.facts.iter().find(|(_, fact)| fact == wanted).map(|(at, _)| *at);
    let (Some(asked), Some(stopped)) = (first(&Fact::Stop), first(&Fact::Stopped)) else { return };
    let took = stopped.since(asked);
    report.stops.push((life.node.to_owned(), took));
    if took > STOP_MAX {
        let text = format!(
            "{} was told to stop at {} and had stopped at {}, {took:?} later; {STOP_MAX:?} is the bound",
            life.node,
            at(asked),
            at(stopped)
        );
        report.violations.push(Violation { rule: Rule::SlowStop, text });
    }
}
