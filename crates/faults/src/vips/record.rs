//! What the observer saw, and what follows from it. Pure.
//!
//! All instants are nanoseconds on the boot-time clock; addresses and nodes are indices.

use std::collections::BTreeSet;
use std::time::Duration;

use super::arp::Mac;
use crate::sys::between;

/// This many requests without an answer are a gap. One may be late on a busy machine.
const UNANSWERED: usize = 3;

/// The client got an answer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Receipt {
    pub(crate) at_ns: u64,
    pub(crate) vip: usize,
    /// Who says that it was him.
    pub(crate) node: usize,
}

/// An answer to an ARP question.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Claim {
    /// The question that it came after, counted.
    pub(crate) round: u64,
    pub(crate) vip: usize,
    pub(crate) mac: Mac,
}

/// From here on these nodes have these addresses: a bit for each address, a number for each node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Sight {
    pub(crate) at_ns: u64,
    pub(crate) has: Vec<u32>,
}

/// Everything that was seen in a time.
#[derive(Clone, Debug, Default)]
pub(crate) struct Record {
    /// When the client asked all addresses.
    pub(crate) asked: Vec<u64>,
    pub(crate) receipts: Vec<Receipt>,
    pub(crate) claims: Vec<Claim>,
    /// When the ARP questions went out, by round; the first one's number.
    pub(crate) rounds: Vec<u64>,
    pub(crate) first_round: u64,
    /// The first is how it was at the beginning.
    pub(crate) sights: Vec<Sight>,
    pub(crate) end_ns: u64,
}

/// A time in which the client got no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Gap {
    pub(crate) from_ns: u64,
    pub(crate) to_ns: u64,
}

impl Gap {
    pub(crate) fn took(self) -> Duration {
        between(self.from_ns, self.to_ns)
    }
}

impl Record {
    /// The times without an answer from `vip`, between one answer and the next. A time in which the client itself did not
    /// ask is none.
    pub(crate) fn gaps(&self, vip: usize) -> Vec<Gap> {
        let mut instants: Vec<u64> =
            self.receipts.iter().filter(|one| one.vip == vip).map(|one| one.at_ns).collect();
        instants.push(self.end_ns);
        let pairs = instants.windows(2).map(|pair| Gap { from_ns: pair[0], to_ns: pair[1] });
        pairs.filter(|gap| self.asked_within(*gap) > UNANSWERED).collect()
    }

    fn asked_within(&self, gap: Gap) -> usize {
        let first = self.asked.partition_point(|at| *at <= gap.from_ns);
        self.asked[first..].iter().take_while(|at| **at < gap.to_ns).count()
    }

    /// The longest gap of `vip` that began before `to_ns` and had not ended by `from_ns`.
    pub(crate) fn longest(&self, vip: usize, from_ns: u64, to_ns: u64) -> Duration {
        let open = self.gaps(vip).into_iter().filter(|gap| gap.to_ns > from_ns && gap.from_ns < to_ns);
        open.map(Gap::took).max().unwrap_or_default()
    }

    /// The longest gap of `vip` that began at `from_ns` or later.
    pub(crate) fn longest_begun(&self, vip: usize, from_ns: u64) -> Duration {
        let begun = self.gaps(vip).into_iter().filter(|gap| gap.from_ns >= from_ns);
        begun.map(Gap::took).max().unwrap_or_default()
    }

    /// When a node other than `node` first answered for `vip`, from `from_ns` on.
    pub(crate) fn switched(&self, vip: usize, node: Option<usize>, from_ns: u64) -> Option<u64> {
        let other = |one: &&Receipt| one.vip == vip && one.at_ns >= from_ns && Some(one.node) != node;
        self.receipts.iter().find(other).map(|one| one.at_ns)
    }

    /// The time during which more than one of the hardware addresses that `counts` answered for `vip`: from question to
    /// question, since a question is answered at once.
    pub(crate) fn dual(&self, vip: usize, counts: impl Fn(Mac) -> bool) -> Duration {
        let mut total = Duration::ZERO;
        for (round, asked) in (self.first_round..).zip(&self.rounds) {
            let first = self.claims.partition_point(|claim| claim.round < round);
            let macs: BTreeSet<Mac> = self.claims[first..]
                .iter()
                .take_while(|claim| claim.round == round)
                .filter(|claim| claim.vip == vip && counts(claim.mac))
                .map(|claim| claim.mac)
                .collect();
            if macs.len() > 1 {
                let next = usize::try_from(round + 1 - self.first_round).unwrap_or(usize::MAX);
                total += between(*asked, self.rounds.get(next).copied().unwrap_or(self.end_ns));
            }
        }
        total
    }

    /// The time during which more than one node had `vip`, heard or not.
    pub(crate) fn overlap(&self, vip: usize) -> Duration {
        let ends = self.sights.iter().skip(1).map(|sight| sight.at_ns).chain([self.end_ns]);
        let spans = self.sights.iter().zip(ends);
        let doubled =
            spans.filter(|(sight, _)| sight.has.iter().filter(|has| *has & (1 << vip) != 0).count() > 1);
        doubled.map(|(sight, end_ns)| between(sight.at_ns, end_ns)).sum()
    }

    /// When, from `from_ns` on, `node` was first seen with none of the addresses in `mask`.
    pub(crate) fn gone(&self, node: usize, mask: u32, from_ns: u64) -> Option<u64> {
        self.seen(from_ns, |sight| sight.has.get(node).is_some_and(|has| has & mask == 0))
    }

    /// For how long, between two instants, `node` lacked any of the addresses in `mask`.
    pub(crate) fn lacked(&self, node: usize, mask: u32, from_ns: u64, to_ns: u64) -> Duration {
        let ends = self.sights.iter().skip(1).map(|sight| sight.at_ns).chain([self.end_ns]);
        let lacks = |sight: &Sight| sight.has.get(node).is_none_or(|has| has & mask != mask);
        let spans = self.sights.iter().zip(ends).filter(|(sight, _)| lacks(sight));
        spans.map(|(sight, end_ns)| between(sight.at_ns.max(from_ns), end_ns.min(to_ns))).sum()
    }

    fn seen(&self, from_ns: u64, is: impl Fn(&Sight) -> bool) -> Option<u64> {
        // How it was at `from_ns` counts, too.
        let first = self.sights.partition_point(|sight| sight.at_ns <= from_ns).saturating_sub(1);
        self.sights[first.min(self.sights.len())..]
            .iter()
            .find(|sight| is(sight))
            .map(|sight| sight.at_ns.max(from_ns))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;
    const ONE: Mac = [2, 0, 0, 0, 0, 1];
    const TWO: Mac = [2, 0, 0, 0, 0, 2];

    /// The client asks every 5 ms for a second; node 0 answers until 300 ms, node 1 from 400 ms on.
    fn record() -> Record {
        let asked: Vec<u64> = (0..200).map(|n| n * 5 * MS).collect();
        let receipts = asked
            .iter()
            .filter(|at| **at <= 300 * MS || **at >= 400 * MS)
            .map(|at| Receipt { at_ns: at + MS, vip: 0, node: usize::from(*at > 300 * MS) })
            .collect();
        Record { asked, receipts, end_ns: 1_000 * MS, ..Record::default() }
    }

    #[test]
    fn a_gap_is_from_answer_to_answer_while_the_client_asked() {
        let mut record = record();
        assert_eq!(record.gaps(0), [Gap { from_ns: 301 * MS, to_ns: 401 * MS }]);
        assert_eq!(record.longest(0, 350 * MS, 360 * MS), Duration::from_millis(100));
        assert_eq!(record.longest_begun(0, 302 * MS), Duration::ZERO);
        assert_eq!(record.switched(0, Some(0), 100 * MS), Some(401 * MS));
        assert_eq!(record.switched(0, Some(1), 100 * MS), Some(101 * MS));
        record.asked.retain(|at| *at < 310 * MS || *at > 395 * MS);
        assert_eq!(record.gaps(0), [], "the client stood still itself");
        record.end_ns = 2_000 * MS;
        record.asked.extend((200..400).map(|n| n * 5 * MS));
        assert_eq!(record.gaps(0).len(), 1, "one that has not ended counts until the end");
    }

    #[test]
    fn two_that_answer_the_same_question_are_dual() {
        let claim = |round, mac| Claim { round, vip: 0, mac };
        let record = Record {
            rounds: (0..5).map(|n| n * 20 * MS).collect(),
            first_round: 7,
            claims: vec![
                claim(7, ONE),
                claim(8, ONE),
                claim(8, TWO),
                claim(9, TWO),
                claim(11, TWO),
                claim(11, ONE),
            ],
            end_ns: 90 * MS,
            ..Record::default()
        };
        assert_eq!(record.dual(0, |_| true), Duration::from_millis(20 + 10));
        assert_eq!(record.dual(0, |mac| mac != TWO), Duration::ZERO);
        assert_eq!(record.dual(1, |_| true), Duration::ZERO);
    }

    #[test]
    fn presence_is_counted_by_node_and_address() {
        let sight = |at, has: [u32; 2]| Sight { at_ns: at * MS, has: has.to_vec() };
        let record = Record {
            sights: vec![sight(0, [1, 2]), sight(10, [1, 3]), sight(30, [0, 3]), sight(50, [0, 0])],
            end_ns: 100 * MS,
            ..Record::default()
        };
        assert_eq!(record.overlap(0), Duration::from_millis(20));
        assert_eq!(record.overlap(1), Duration::ZERO);
        assert_eq!(record.gone(0, 1, 5 * MS), Some(30 * MS));
        assert_eq!(record.gone(0, 1, 40 * MS), Some(40 * MS), "it has been gone for a while");
        assert_eq!(record.gone(1, 2, 0), Some(50 * MS));
        assert_eq!(record.lacked(1, 3, 5 * MS, 60 * MS), Duration::from_millis(5 + 10));
        assert_eq!(record.gone(0, 1, 60 * MS), Some(60 * MS));
    }
}
