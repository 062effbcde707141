//! Who comes first: (not held down, handover target, priority descending, member sequence ascending).

use std::collections::BTreeMap;
use std::time::Duration;

use clock::Instant;
use proto::{Epoch, Incarnation, NodeId};

use super::event::Survey;
use crate::record::Terms;

/// Longest hold-down that is believed: a record that was damaged, or written by a node with another configuration, must
/// not keep a cluster without a leader.
const HOLD_MAX: Duration = Duration::from_secs(600);

/// A candidate in its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ranked {
    /// Who.
    pub node: NodeId,
    /// Which life of its daemon.
    pub incarnation: Incarnation,
    /// Of its member node.
    pub sequence: u64,
    /// Higher leads.
    pub priority: i32,
    /// It is this node.
    pub mine: bool,
    /// Until when it may not claim.
    pub held_until: Option<Instant>,
}

/// Until when nodes whose terms failed stay out of the line, by our own clock.
///
/// A hold-down is counted from when *we* learn of the failed term: wall clocks of several machines decide nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct HoldDowns(BTreeMap<NodeId, (Epoch, Instant)>);

impl HoldDowns {
    /// Takes over what `terms` says now.
    pub(crate) fn learn(&mut self, terms: &Terms, now: Instant) {
        self.0.retain(|node, _| terms.failed.contains_key(node));
        for (node, failed) in &terms.failed {
            let known = self.0.get(node).is_some_and(|(epoch, _)| *epoch == failed.epoch);
            if !known {
                let until = now + Duration::from_millis(failed.hold_ms).min(HOLD_MAX);
                self.0.insert(node.clone(), (failed.epoch, until));
            }
        }
    }

    /// Until when `node` may not claim, if that is still to come.
    pub(crate) fn until(&self, node: &NodeId, now: Instant) -> Option<Instant> {
        self.0.get(node).map(|(_, until)| *until).filter(|until| *until > now)
    }

    #[cfg(feature = "canonical")]
    pub(super) fn instants(&mut self) -> impl Iterator<Item = &mut Instant> {
        self.0.values_mut().map(|(_, until)| until)
    }

    /// Those that are out of the line now.
    pub fn active(&self, now: Instant) -> impl Iterator<Item = (&NodeId, Instant)> {
        self.0.iter().map(|(node, (_, until))| (node, *until)).filter(move |(_, until)| *until > now)
    }
}

/// The line of candidates, first in line first.
pub(crate) fn line(survey: &Survey, holds: &HoldDowns, now: Instant) -> Vec<Ranked> {
    let mut line: Vec<Ranked> = survey
        .candidates
        .iter()
        .map(|candidate| Ranked {
            node: candidate.node.clone(),
            incarnation: candidate.incarnation,
            sequence: candidate.sequence,
            priority: survey.priorities.get(&candidate.node).copied().unwrap_or_default(),
            mine: candidate.mine,
            held_until: holds.until(&candidate.node, now),
        })
        .collect();
    line.sort_by_key(|ranked| {
        let targeted = survey.target.as_ref() == Some(&ranked.node);
        (ranked.held_until.is_some(), !targeted, -i64::from(ranked.priority), ranked.sequence)
    });
    line
}

/// When the candidate at `rank` may claim: each one ahead of it has had its grace, and its own hold-down is over.
pub(crate) fn claim_at(leaderless_since: Instant, grace: Duration, rank: usize, ranked: &Ranked) -> Instant {
    let turns = u32::try_from(rank).unwrap_or(u32::MAX);
    let turn = leaderless_since + grace.saturating_mul(turns);
    ranked.held_until.map_or(turn, |until| until.max(turn))
}

#[cfg(test)]
mod tests {
    use super::super::event::Candidate;
    use super::*;
    use crate::record::HoldDown;

    const LIFE: Incarnation = Incarnation::from_u128(1);

    fn node(name: &str) -> NodeId {
        name.parse().unwrap()
    }

    fn at(ms: u64) -> Instant {
        Instant::from_nanos(ms * 1_000_000)
    }

    fn survey(candidates: &[(&str, u64)], priorities: &[(&str, i32)], target: Option<&str>) -> Survey {
        Survey {
            target: target.map(node),
            candidates: candidates
                .iter()
                .map(|(name, sequence)| Candidate {
                    node: node(name),
                    incarnation: LIFE,
                    sequence: *sequence,
                    mine: false,
                })
                .collect(),
            priorities: priorities.iter().map(|(name, priority)| (node(name), *priority)).collect(),
            ..Survey::default()
        }
    }

    #[test]
    fn preference() {
        let all = [("a", 7), ("b", 3), ("c", 5)];
        type Row<'r> = (&'r [(&'r str, i32)], Option<&'r str>, &'r [&'r str], &'r str);
        let rows: [Row<'_>; 6] = [
            (&[], None, &[], "b c a"),
            (&[("a", 1)], None, &[], "a b c"),
            (&[("b", -1)], None, &[], "c a b"),
            (&[("c", 9), ("a", i32::MAX), ("b", i32::MIN)], None, &[], "a c b"),
            (&[("a", 1)], Some("c"), &[], "c a b"),
            (&[("a", 1)], Some("c"), &["c", "b"], "a c b"),
        ];
        for (priorities, target, failed, expect) in rows {
            let mut terms = Terms::default();
            for name in failed {
                let hold = HoldDown { first: Duration::from_secs(5), max: Duration::from_secs(5) };
                terms.fail(&node(name), LIFE, Epoch(1), "test", hold);
            }
            let mut holds = HoldDowns::default();
            holds.learn(&terms, at(0));
            let names = |now| -> String {
                let line = line(&survey(&all, priorities, target), &holds, now);
                line.iter().map(|ranked| ranked.node.as_str()).collect::<Vec<_>>().join(" ")
            };
            assert_eq!(names(at(4_999)), expect, "{priorities:?} {target:?} {failed:?}");
        }
    }

    #[test]
    fn a_hold_down_counts_once_per_failed_term_and_ends() {
        let hold = HoldDown { first: Duration::from_secs(5), max: Duration::from_secs(60) };
        let mut terms = Terms::default();
        let mut holds = HoldDowns::default();
        terms.fail(&node("a"), LIFE, Epoch(1), "test", hold);
        holds.learn(&terms, at(0));
        holds.learn(&terms, at(4_000));
        assert_eq!(holds.until(&node("a"), at(4_000)), Some(at(5_000)), "the same term does not prolong it");
        assert_eq!(holds.until(&node("a"), at(5_000)), None);
        terms.fail(&node("a"), LIFE, Epoch(3), "test", hold);
        holds.learn(&terms, at(6_000));
        assert_eq!(holds.active(at(6_000)).collect::<Vec<_>>(), [(&node("a"), at(16_000))]);
        holds.learn(&Terms::default(), at(6_001));
        assert_eq!(holds.active(at(6_001)).count(), 0, "forgiven");
        terms.fail(&node("a"), LIFE, Epoch(4), "test", hold);
        terms.failed.get_mut(&node("a")).unwrap().hold_ms = u64::MAX;
        holds.learn(&terms, at(7_000));
        assert_eq!(holds.until(&node("a"), at(7_000) + HOLD_MAX), None, "no record holds down for ever");
    }

    #[test]
    fn each_place_in_the_line_waits_one_grace_more() {
        let grace = Duration::from_millis(500);
        let ranked = |held_until| Ranked {
            node: node("a"),
            incarnation: LIFE,
            sequence: 1,
            priority: 0,
            mine: true,
            held_until,
        };
        for (rank, held, expect) in
            [(0, None, 100), (1, None, 600), (3, None, 1_600), (0, Some(900), 900), (2, Some(900), 1_100)]
        {
            assert_eq!(claim_at(at(100), grace, rank, &ranked(held.map(at))), at(expect), "rank {rank}");
        }
    }
}
