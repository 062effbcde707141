//! Every correct history passes, and every way to make it wrong is found.

use std::cell::Cell;
use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::TestRunner;

use super::super::{End, Life, Rule, Timing, check};

const TERM: u64 = 800;

const TIMING: Timing = Timing {
    timeout: Duration::from_nanos(1_000),
    margin: Duration::from_nanos(1_000 - TERM),
    tick: Duration::from_nanos(100),
};

const NODES: [&str; 3] = ["n1", "n2", "n3"];

/// How an epoch ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Finish {
    /// The leader resigns and goes on as a follower.
    Resigns,
    /// Its lease lapses; another claims when it has.
    Lapses,
    /// Its node is stopped in an orderly way, and comes back.
    Stops,
    /// Its process is killed, and comes back.
    Dies,
}

/// One epoch, in what there is to choose about it.
#[derive(Clone, Debug)]
struct Plan {
    leader: usize,
    /// Of the claim and of each probe: time since the one before was sent, time to its answer, and where within the time
    /// from its answer to the end of what it proves an effect lies (0 to 1,000).
    proofs: Vec<(u64, u64, u64)>,
    finish: Finish,
    pause: u64,
    /// Epochs that are skipped, since a handover takes one.
    skips: u64,
}

fn plan() -> impl Strategy<Value = Plan> {
    let finish =
        prop_oneof![Just(Finish::Resigns), Just(Finish::Lapses), Just(Finish::Stops), Just(Finish::Dies)];
    let proofs = prop::collection::vec((1..700_u64, 1..(TERM - 1), 0..=1_000_u64), 1..6);
    (0..NODES.len(), proofs, finish, 0..2_000_u64, 0..2_u64)
        .prop_map(|(leader, proofs, finish, pause, skips)| Plan { leader, proofs, finish, pause, skips })
}

#[derive(Clone, Debug)]
struct Draft {
    node: usize,
    end: End,
    lines: Vec<(u64, String)>,
}

impl Draft {
    fn born(node: usize, at: u64) -> Self {
        let lines = vec![(at, "open session id=1".to_owned()), (at, "open listener id=2".to_owned())];
        Self { node, end: End::Running, lines }
    }

    fn say(&mut self, at: u64, fact: impl Into<String>) {
        self.lines.push((at, fact.into()));
    }

    fn stop(&mut self, at: u64) {
        for (after, fact) in
            [(0, "stop"), (1, "close listener id=2"), (2, "close session id=1"), (3, "stopped")]
        {
            self.say(at + after, fact);
        }
        self.end = End::Stopped;
    }
}

/// A correct history: lives, those that are over first.
fn history(plans: &[Plan]) -> Vec<Draft> {
    let mut alive: Vec<Draft> = (0..NODES.len()).map(|node| Draft::born(node, 1)).collect();
    let mut over = Vec::new();
    let (mut now, mut epoch) = (10, 0);
    for plan in plans {
        epoch += 1 + plan.skips;
        let (mut sent, mut last, mut until) = (now, now, now);
        for (index, (since, answer, place)) in plan.proofs.iter().enumerate() {
            if index > 0 {
                sent += since;
            }
            let (known, ends) = (sent + answer, sent + TERM);
            let kind = if index == 0 { "claimed" } else { "probe" };
            let fact = format!("{kind} epoch={epoch} sent={sent} valid_until={ends}");
            alive[plan.leader].say(known, fact);
            if index == 0 {
                for (node, life) in alive.iter_mut().enumerate() {
                    let heard = known + node as u64;
                    life.say(heard, format!("leader node={} epoch={epoch}", NODES[plan.leader]));
                    life.say(heard, format!("accept epoch={epoch}"));
                    last = last.max(heard);
                }
            }
            // A probe may be answered before the claim is; the claim comes first all the same.
            let from = known.max(now + plan.proofs[0].1);
            let effect = from + (ends - 1).saturating_sub(from) * place / 1_000;
            if effect < ends {
                alive[plan.leader].say(effect, format!("effect epoch={epoch} kind=ack"));
                last = last.max(effect);
            }
            (last, until) = (last.max(known), until.max(ends));
        }
        let life = &mut alive[plan.leader];
        match plan.finish {
            Finish::Resigns | Finish::Stops => {
                life.say(last, format!("lease-dropped epoch={epoch}"));
                life.say(last + 1, format!("released epoch={epoch}"));
                now = last + 1;
            }
            Finish::Lapses | Finish::Dies => now = until.max(last),
        }
        if plan.finish == Finish::Stops {
            life.stop(last + 1);
            now = last + 5;
        }
        if plan.finish == Finish::Dies {
            life.end = End::Killed;
        }
        if life.end != End::Running {
            over.push(std::mem::replace(life, Draft::born(plan.leader, now)));
        }
        now += plan.pause;
    }
    for life in &mut alive {
        life.stop(now + 10);
    }
    over.append(&mut alive);
    over
}

fn lives(drafts: &[Draft]) -> Vec<Life> {
    let text =
        |draft: &Draft| draft.lines.iter().map(|(at, fact)| format!("{at} {fact}\n")).collect::<String>();
    drafts.iter().map(|draft| Life::new(NODES[draft.node], text(draft), draft.end)).collect()
}

/// Where a fact stands: life, line.
type Place = (usize, usize);

fn places(drafts: &[Draft], begins: &str) -> Vec<Place> {
    let mut found = Vec::new();
    for (life, draft) in drafts.iter().enumerate() {
        let lines = draft.lines.iter().enumerate();
        found.extend(lines.filter(|(_, (_, fact))| fact.starts_with(begins)).map(|(line, _)| (life, line)));
    }
    found
}

fn epoch_of(fact: &str) -> u64 {
    let word = fact.split(' ').find_map(|word| word.strip_prefix("epoch=")).unwrap();
    word.parse().unwrap()
}

fn sent_of(fact: &str) -> u64 {
    fact.split(' ').find_map(|word| word.strip_prefix("sent=")).unwrap().parse().unwrap()
}

/// A way to make a correct history wrong.
#[derive(Clone, Copy, Debug)]
enum Wrong {
    EffectPastTheLease,
    EffectAfterTheDrop,
    EffectBesideTheNextEpoch,
    EffectOfTheNextEpoch,
    ReleaseBeforeTheLastEffect,
    LeaseLonger,
    ClaimForgotten,
    ClaimTwice,
    ClaimInsideALease,
    EpochsSwapped,
    OrderOfALowerEpoch,
    CloseTwice,
    CloseForgotten,
    StopLate,
    LineBroken,
}

impl Wrong {
    const ALL: [Self; 15] = [
        Self::EffectPastTheLease,
        Self::EffectAfterTheDrop,
        Self::EffectBesideTheNextEpoch,
        Self::EffectOfTheNextEpoch,
        Self::ReleaseBeforeTheLastEffect,
        Self::LeaseLonger,
        Self::ClaimForgotten,
        Self::ClaimTwice,
        Self::ClaimInsideALease,
        Self::EpochsSwapped,
        Self::OrderOfALowerEpoch,
        Self::CloseTwice,
        Self::CloseForgotten,
        Self::StopLate,
        Self::LineBroken,
    ];

    /// Does it at one of the places where it can be done; which rule that breaks, if there is such a place.
    fn apply(self, drafts: &mut [Draft], pick: prop::sample::Index) -> Option<Rule> {
        let choose = |places: Vec<Place>| (!places.is_empty()).then(|| places[pick.index(places.len())]);
        match self {
            Self::EffectPastTheLease => {
                let (life, line) = choose(places(drafts, "effect "))?;
                let lines = &mut drafts[life].lines;
                let epoch = epoch_of(&lines[line].1);
                let proofs = lines.iter().filter(|(_, fact)| {
                    (fact.starts_with("claimed ") || fact.starts_with("probe ")) && epoch_of(fact) == epoch
                });
                lines[line].0 = proofs.map(|(_, fact)| sent_of(fact) + TERM).max()?;
                Some(Rule::OutsideLease)
            }
            Self::EffectAfterTheDrop => {
                let (life, line) = choose(places(drafts, "lease-dropped "))?;
                let (at, fact) = drafts[life].lines[line].clone();
                drafts[life].say(at + 1, format!("effect epoch={} kind=start", epoch_of(&fact)));
                Some(Rule::AfterDrop)
            }
            Self::EffectBesideTheNextEpoch => {
                let (life, line) = choose(places(drafts, "effect "))?;
                let epoch = epoch_of(&drafts[life].lines[line].1);
                let all = drafts.iter().flat_map(|draft| &draft.lines);
                let higher = all.filter(|(_, fact)| fact.starts_with("effect ") && epoch_of(fact) > epoch);
                drafts[life].lines[line].0 = higher.map(|(at, _)| *at).min()?;
                Some(Rule::Overlap)
            }
            Self::EffectOfTheNextEpoch => {
                let (life, line) = choose(places(drafts, "effect "))?;
                let fact = &mut drafts[life].lines[line].1;
                *fact = format!("effect epoch={} kind=ack", epoch_of(fact) + 1);
                Some(Rule::Unclaimed)
            }
            Self::ReleaseBeforeTheLastEffect => {
                let (life, line) = choose(places(drafts, "effect "))?;
                let (at, fact) = drafts[life].lines[line].clone();
                drafts[life].say(at - 1, format!("released epoch={}", epoch_of(&fact)));
                Some(Rule::EarlyRelease)
            }
            Self::LeaseLonger => {
                let proofs = places(drafts, "claimed ").into_iter().chain(places(drafts, "probe "));
                let (life, line) = choose(proofs.collect())?;
                let fact = &mut drafts[life].lines[line].1;
                let (front, until) = fact.split_once("valid_until=")?;
                *fact = format!("{front}valid_until={}", until.parse::<u64>().ok()? + 1);
                Some(Rule::LeaseArithmetic)
            }
            Self::ClaimForgotten => {
                let (life, line) = choose(places(drafts, "claimed "))?;
                drafts[life].lines.remove(line);
                Some(Rule::Unclaimed)
            }
            Self::ClaimTwice => {
                let (life, line) = choose(places(drafts, "claimed "))?;
                let (at, fact) = drafts[life].lines[line].clone();
                let other = (life + 1) % drafts.len();
                drafts[other].say(at, fact);
                Some(Rule::OneOwner)
            }
            Self::ClaimInsideALease => {
                // The claim that follows one whose leader lives on.
                let (life, line) = choose(places(drafts, "claimed "))?;
                let epoch = epoch_of(&drafts[life].lines[line].1);
                let lines = &drafts[life].lines;
                let dropped = |fact: &str| fact.starts_with("lease-dropped ") && epoch_of(fact) == epoch;
                if drafts[life].end == End::Killed || lines.iter().any(|(_, fact)| dropped(fact)) {
                    return None;
                }
                let at = lines[line].0;
                let other = (life + 1) % drafts.len();
                drafts[other].say(at, format!("claimed epoch={} sent={at} valid_until={at}", epoch + 1_000));
                Some(Rule::TwoEntitled)
            }
            Self::EpochsSwapped => {
                let (life, line) = choose(places(drafts, "claimed "))?;
                let epoch = epoch_of(&drafts[life].lines[line].1);
                let claims = places(drafts, "claimed ").into_iter();
                let epochs = claims.map(|(life, line)| epoch_of(&drafts[life].lines[line].1));
                let next = epochs.filter(|other| *other > epoch).min()?;
                for (_, fact) in drafts.iter_mut().flat_map(|draft| &mut draft.lines) {
                    if !fact.contains("epoch=") {
                        continue;
                    }
                    let (own, swapped) = match epoch_of(fact) {
                        own if own == epoch => (own, next),
                        own if own == next => (own, epoch),
                        _ => continue,
                    };
                    *fact = fact.replace(&format!("epoch={own}"), &format!("epoch={swapped}"));
                }
                Some(Rule::EpochOrder)
            }
            Self::OrderOfALowerEpoch => {
                let (life, line) = choose(places(drafts, "accept "))?;
                let (at, fact) = drafts[life].lines[line].clone();
                drafts[life].say(at + 1, format!("accept epoch={}", epoch_of(&fact) - 1));
                Some(Rule::StaleAccepted)
            }
            Self::CloseTwice => {
                let (life, line) = choose(places(drafts, "close "))?;
                let (at, fact) = drafts[life].lines[line].clone();
                drafts[life].say(at, fact);
                Some(Rule::ClosedOnce)
            }
            Self::CloseForgotten => {
                let (life, line) = choose(places(drafts, "close "))?;
                drafts[life].lines.remove(line);
                Some(Rule::ClosedOnce)
            }
            Self::StopLate => {
                let (life, line) = choose(places(drafts, "stopped"))?;
                drafts[life].lines[line].0 += 5_000_000_000;
                Some(Rule::SlowStop)
            }
            Self::LineBroken => {
                let (life, line) = choose(places(drafts, ""))?;
                let fact = &mut drafts[life].lines[line].1;
                *fact = fact.chars().skip(1).collect();
                Some(Rule::Malformed)
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_correct_history_passes(plans in prop::collection::vec(plan(), 1..8)) {
        let report = check(&lives(&history(&plans)), TIMING);
        prop_assert!(report.violations.is_empty(), "{report}");
        prop_assert_eq!(report.epochs, plans.len() as u64);
        prop_assert!(report.effects >= plans.len() as u64);
    }
}

#[test]
fn a_wrong_one_does_not() {
    let applied = Cell::new([0_u32; Wrong::ALL.len()]);
    let config = ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() };
    let input = (prop::collection::vec(plan(), 2..8), any::<prop::sample::Index>());
    let judged = |(plans, pick): (Vec<Plan>, prop::sample::Index)| {
        let mut counts = applied.get();
        for (wrong, count) in Wrong::ALL.into_iter().zip(&mut counts) {
            let mut drafts = history(&plans);
            let Some(rule) = wrong.apply(&mut drafts, pick) else { continue };
            let report = check(&lives(&drafts), TIMING);
            prop_assert!(report.breaks(rule), "{wrong:?} breaks {rule:?}: {report}\n{drafts:#?}");
            *count += 1;
        }
        applied.set(counts);
        Ok(())
    };
    // How often the rarest can be done is chance, one history of twelve on average: on, until each has been 20 times.
    for batch in 0..40 {
        if batch >= 4 && applied.get().iter().all(|count| *count >= 20) {
            break;
        }
        // A runner counts its successes over all its runs.
        TestRunner::new(config.clone()).run(&input, judged).unwrap_or_else(|error| panic!("{error}"));
    }
    for (wrong, count) in Wrong::ALL.into_iter().zip(applied.get()) {
        assert!(count >= 20, "{wrong:?} could be done {count} times only");
    }
}
