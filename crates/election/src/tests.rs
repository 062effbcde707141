//! Invariants of D5 that one node can show on its own, as small scripts.

use std::time::Duration;

use clock::Instant;
use proto::{Epoch, Incarnation, NodeId};

use super::event::{Candidate, HandoverError, Release, TermsChange};
use super::*;
use crate::record::{HoldDown, LeaderRecord, MemberUuid, Terms};

/// Of every other candidate.
const LIFE: Incarnation = Incarnation::from_u128(1);

pub(super) const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

pub(super) fn settings(node: &str) -> Settings {
    Settings {
        node: node.parse().unwrap(),
        eligible: true,
        claim_grace: ms(1_000),
        serve_deadline: ms(5_000),
        end_deadline: ms(5_000),
        hysteresis: ms(2_000),
        suspend_max: ms(6_000),
        give_up: ms(12_000),
        answer: ms(2_500),
        join: ms(8_000),
        retry: ms(500),
        refresh: ms(10_000),
        forgive_after: ms(120_000),
        seed: 1,
        drill: drill::Drill::none(),
    }
}

/// One election, a hand on its clock, and its effects since the last look.
struct Bench {
    core: Election,
    now: Instant,
}

/// A survey of candidates in order of their sequence; ours is `me`.
fn survey(epoch: i32, candidates: &[&str]) -> Survey {
    let candidate = |(sequence, name): (usize, &&str)| Candidate {
        node: name.parse().unwrap(),
        incarnation: LIFE,
        sequence: sequence as u64,
        mine: *name == "me",
    };
    Survey { epoch, candidates: candidates.iter().enumerate().map(candidate).collect(), ..Survey::default() }
}

fn leader(node: &str, epoch: u64) -> Option<LeaderSeen> {
    let record = LeaderRecord {
        node: node.parse().unwrap(),
        address: "127.0.0.1:1".into(),
        incarnation: Incarnation::from_u128(1),
        sequence: 1,
        epoch: Epoch(epoch),
        uuid: MemberUuid(1),
    };
    Some(LeaderSeen { record, mine: node == "me", session: "0x1".into() })
}

impl Bench {
    fn new() -> Self {
        let now = Instant::from_nanos(1_000_000_000);
        Self { core: Election::new(settings("me"), Generation(1), 0, now), now }
    }

    fn event(&mut self, event: Event) -> Vec<Effect> {
        let effects = self.core.step(event, self.now);
        assert_eq!(
            self.core.deadline().is_none(),
            matches!(self.core.state, State::Left),
            "invariant 4: {:?}",
            self.core
        );
        effects
    }

    fn seen(&mut self, seen: Seen) -> Vec<Effect> {
        self.event(Event::Seen(self.core.generation(), seen))
    }

    fn surveyed(&mut self, survey: Survey) -> Vec<Effect> {
        self.seen(Seen::Surveyed(Box::new(survey)))
    }

    fn pass(&mut self, time: Duration) -> Vec<Effect> {
        self.now = self.now + time;
        self.event(Event::Tick)
    }

    /// Ready, registered, and nobody leads.
    fn candidate() -> Self {
        let mut bench = Self::new();
        bench.seen(Seen::Leader(None));
        assert!(bench.event(Event::Ready(true)).contains(&Effect::Register));
        bench.seen(Seen::Registered);
        bench
    }

    /// Leads in epoch 1, in line before `other`.
    fn elected() -> Self {
        let mut bench = Self::candidate();
        assert!(bench.surveyed(survey(0, &["me", "other"])).contains(&Effect::Claim { expect: 0 }));
        let effects = bench.seen(Seen::Claimed { epoch: Epoch(1) });
        assert!(effects.contains(&Effect::StartLease { epoch: Epoch(1) }), "{effects:?}");
        bench.seen(Seen::Leader(leader("me", 1)));
        assert_eq!(bench.core.standing(), Standing::Elected(Epoch(1)));
        bench
    }

    fn serving() -> Self {
        let mut bench = Self::elected();
        let effects = bench.event(Event::Serving(Epoch(1)));
        let recorded = Effect::WriteTerms { epoch: Epoch(1), change: TermsChange::Serving };
        assert!(effects.contains(&recorded), "{effects:?}");
        bench.seen(Seen::TermsWritten { ok: true });
        bench
    }
}

fn release(effects: &[Effect]) -> Option<&Release> {
    effects.iter().find_map(|effect| match effect {
        Effect::Release { how, .. } => Some(how),
        _ => None,
    })
}

fn claims(effects: &[Effect]) -> bool {
    effects.iter().any(|effect| matches!(effect, Effect::Claim { .. }))
}

#[test]
fn not_ready_never_claims_and_withdraws() {
    let mut bench = Bench::new();
    bench.seen(Seen::Leader(None));
    let mut effects = bench.surveyed(survey(0, &[]));
    for _ in 0..50 {
        effects.extend(bench.pass(ms(1_000)));
        effects.extend(bench.surveyed(survey(0, &[])));
    }
    assert!(!claims(&effects) && !effects.contains(&Effect::Register), "{effects:?}");

    let mut bench = Bench::candidate();
    assert!(bench.event(Event::Ready(false)).contains(&Effect::Withdraw));
    assert!(!claims(&bench.surveyed(survey(0, &["me"]))));
}

#[test]
fn a_place_in_the_line_is_waited_for() {
    for (line, grace) in [(&["me", "a", "b"][..], 0), (&["a", "me", "b"], 1), (&["a", "b", "me"], 2)] {
        let mut bench = Bench::candidate();
        for _ in 0..grace {
            assert!(!claims(&bench.surveyed(survey(3, line))), "{line:?}");
            bench.pass(ms(1_000));
        }
        assert!(claims(&bench.surveyed(survey(3, line))), "{line:?}");
    }
}

#[test]
fn nobody_claims_over_an_obstacle_and_somebody_does_once_it_is_gone() {
    let mut bench = Bench::candidate();
    let obstacle = Some("`leader` is not ephemeral".to_owned());
    for _ in 0..20 {
        let mut effects = bench.surveyed(Survey { obstacle: obstacle.clone(), ..survey(0, &["me"]) });
        effects.extend(bench.pass(ms(1_250)));
        assert!(!effects.iter().any(|effect| matches!(effect, Effect::Claim { .. })), "{effects:?}");
        assert!(effects.contains(&Effect::Survey), "it keeps looking: {effects:?}");
    }
    bench.seen(Seen::Withdrawn);
    assert!(bench.surveyed(survey(0, &[])).contains(&Effect::Register));
    bench.seen(Seen::Registered);
    assert!(bench.surveyed(survey(0, &["me"])).contains(&Effect::Claim { expect: 0 }));
}

/// The watch never spoke of it: it came and went between two of its looks.
#[test]
fn a_leader_is_not_believed_in_once_there_is_an_obstacle_and_is_again_when_it_is_gone() {
    let mut bench = Bench::candidate();
    let led = Survey { leader: leader("a", 4), ..survey(4, &["a", "me"]) };
    bench.surveyed(led.clone());
    assert_eq!(bench.core.leader(), leader("a", 4).as_ref());
    bench.surveyed(Survey { obstacle: Some("another cluster".into()), ..Survey::default() });
    assert!(bench.core.leader().is_none(), "{:?}", bench.core);
    bench.surveyed(led);
    assert_eq!(bench.core.leader(), leader("a", 4).as_ref());
}

#[test]
fn whoever_is_passed_over_may_still_claim_and_a_leader_ends_the_race() {
    let mut bench = Bench::candidate();
    bench.pass(ms(5_000));
    bench.seen(Seen::Leader(leader("a", 4)));
    assert!(!claims(&bench.surveyed(survey(4, &["a", "me"]))));
    // A survey that is older than what the watch has said does not bring back a leader that is gone.
    bench.seen(Seen::Leader(None));
    bench.surveyed(Survey { leader: leader("a", 4), ..survey(4, &["a", "me"]) });
    assert!(bench.core.leader().is_none());
    // But one that is newer is believed, even if the watch has not spoken.
    bench.surveyed(Survey { leader: leader("b", 5), ..survey(5, &["a", "me"]) });
    assert_eq!(bench.core.leader(), leader("b", 5).as_ref());
    bench.surveyed(survey(5, &["a", "me"]));
    assert!(bench.core.leader().is_none());
}

#[test]
fn a_hint_during_a_survey_leads_to_another_one() {
    for hint in [Seen::Stir, Seen::Leader(None)] {
        let mut bench = Bench::candidate();
        bench.seen(Seen::Leader(leader("a", 4)));
        bench.surveyed(Survey { leader: leader("a", 4), ..survey(4, &["a", "me"]) });
        bench.pass(ms(60_000));
        assert!(!bench.seen(hint).contains(&Effect::Survey), "one is under way");
        let effects = bench.surveyed(Survey { leader: leader("a", 4), ..survey(4, &["a", "me"]) });
        assert!(effects.contains(&Effect::Survey), "{effects:?}");
    }
}

#[test]
fn a_refused_claim_is_not_an_election() {
    let mut bench = Bench::candidate();
    bench.surveyed(survey(0, &["me"]));
    assert!(!bench.seen(Seen::ClaimFailed { unknown: false }).contains(&Effect::Audit));
    assert_eq!(bench.core.standing(), Standing::Follower);
    bench.surveyed(survey(0, &["me"]));
    assert!(bench.seen(Seen::ClaimFailed { unknown: true }).contains(&Effect::Audit));
    // The answer of a claim that we had given up on: nobody was told, so it is released at once.
    let effects = bench.seen(Seen::Claimed { epoch: Epoch(1) });
    assert_eq!(release(&effects), Some(&Release::Plain));
    assert_eq!(bench.core.standing(), Standing::Follower);
}

#[test]
fn elected_but_not_serving_resigns_and_is_held_down() {
    let mut bench = Bench::elected();
    assert_eq!(release(&bench.pass(ms(4_999))), None);
    bench.pass(ms(1));
    assert_eq!(bench.core.standing(), Standing::Resigning(Epoch(1)));
    let effects = bench.event(Event::EffectsEnded(Epoch(1)));
    assert!(matches!(release(&effects), Some(Release::Failed { .. })), "{effects:?}");
    bench.seen(Seen::Released { epoch: Epoch(1) });
    bench.seen(Seen::Leader(None));

    let mut terms = Terms::default();
    terms.fail(
        &bench.core.settings.node,
        LIFE,
        Epoch(1),
        "test",
        HoldDown { first: ms(9_000), max: ms(60_000) },
    );
    let after = || Survey { terms: terms.clone(), ..survey(1, &["me"]) };
    assert!(!claims(&bench.surveyed(after())), "held down");
    bench.pass(ms(8_999));
    assert!(!claims(&bench.surveyed(after())));
    bench.pass(ms(1));
    assert!(claims(&bench.surveyed(after())), "alone, so it may try again when the hold-down is over");
}

#[test]
fn leader_is_deleted_only_after_the_effects_have_ended() {
    let reasons: [fn(&mut Bench) -> Vec<Effect>; 4] = [
        |bench| bench.event(Event::Ready(false)),
        |bench| bench.event(Event::Resign { reason: "log".into() }),
        |bench| bench.event(Event::Stop),
        |bench| bench.seen(Seen::LeaseLost { epoch: Epoch(1), reason: "gone".into() }),
    ];
    for reason in reasons {
        let mut bench = Bench::serving();
        assert_eq!(release(&reason(&mut bench)), None);
        assert_eq!(bench.core.standing(), Standing::Resigning(Epoch(1)));
        assert_eq!(release(&bench.pass(ms(4_900))), None);
        bench.event(Event::EffectsEnded(Epoch(0)));
        assert_eq!(bench.core.standing(), Standing::Resigning(Epoch(1)), "those of another term");
        assert!(release(&bench.event(Event::EffectsEnded(Epoch(1)))).is_some());
        assert_eq!(bench.core.standing(), Standing::Follower);
    }
}

#[test]
fn effects_that_do_not_end_cost_the_lease_and_the_place_in_the_line() {
    let mut bench = Bench::serving();
    bench.event(Event::Resign { reason: "log".into() });
    let effects = bench.pass(ms(5_000));
    let dropped = effects.iter().position(|e| *e == Effect::DropLease { epoch: Epoch(1) });
    let released =
        effects.iter().position(|e| matches!(e, Effect::Release { how: Release::Failed { .. }, .. }));
    assert!(dropped.is_some() && dropped < released, "{effects:?}");
    assert!(effects.contains(&Effect::Withdraw));
    bench.seen(Seen::Released { epoch: Epoch(1) });
    bench.seen(Seen::Withdrawn);
    for _ in 0..20 {
        let effects = bench.pass(ms(1_000));
        assert!(!effects.contains(&Effect::Register), "{effects:?}");
        assert_eq!(bench.core.standing(), Standing::Resigning(Epoch(1)));
    }
    assert!(bench.event(Event::EffectsEnded(Epoch(1))).contains(&Effect::Register));
}

/// Something blocks a thread: nobody can end the effects, so nothing waits for them.
#[test]
fn a_term_that_is_given_up_waits_for_nothing() {
    let before: [fn(&mut Bench) -> Vec<Effect>; 3] = [
        |_| Vec::new(),
        |bench| bench.event(Event::Resign { reason: "log".into() }),
        |bench| bench.seen(Seen::LeaseLost { epoch: Epoch(1), reason: "it was given up".into() }),
    ];
    for before in before {
        let mut bench = Bench::serving();
        let mut effects = before(&mut bench);
        effects.extend(bench.event(Event::GiveUp { reason: "wedged".into() }));
        effects.extend(bench.event(Event::Ready(false)));
        let dropped = effects.iter().position(|e| *e == Effect::DropLease { epoch: Epoch(1) });
        let how = Release::Failed { reason: "wedged".into() };
        let released =
            effects.iter().position(|e| *e == Effect::Release { epoch: Epoch(1), how: how.clone() });
        assert!(dropped.is_some() && dropped < released, "{effects:?}");
        assert!(effects.contains(&Effect::Withdraw), "{effects:?}");
        bench.seen(Seen::Released { epoch: Epoch(1) });
        bench.seen(Seen::Withdrawn);
        // It comes back: ready, but nothing of the term may be alive before it stands again.
        assert!(!bench.event(Event::Ready(true)).contains(&Effect::Register));
        assert!(bench.event(Event::EffectsEnded(Epoch(1))).contains(&Effect::Register));
    }
    let mut idle = Bench::new();
    idle.event(Event::Tick);
    assert_eq!(idle.event(Event::GiveUp { reason: "wedged".into() }), [], "there is no term");
}

#[test]
fn suspended_resumes_only_if_nothing_changed() {
    for (unchanged, expect) in [
        (Some(true), Standing::Elected(Epoch(1))),
        (Some(false), Standing::Resigning(Epoch(1))),
        (None, Standing::Suspended(Epoch(1))),
    ] {
        let mut bench = Bench::serving();
        bench.seen(Seen::Disconnected);
        assert_eq!(bench.core.standing(), Standing::Suspended(Epoch(1)));
        bench.seen(Seen::LeaseLapsed { epoch: Epoch(1) });
        let effects = bench.seen(Seen::Connected);
        assert!(effects.contains(&Effect::Audit));
        assert!(!effects.contains(&Effect::CheckResume { epoch: Epoch(1) }), "the lease is still lapsed");
        let effects = bench.seen(Seen::LeaseHeld { epoch: Epoch(1) });
        assert!(effects.contains(&Effect::CheckResume { epoch: Epoch(1) }));
        bench.seen(Seen::ResumeChecked { epoch: Epoch(1), unchanged });
        assert_eq!(bench.core.standing(), expect);
    }
    let mut bench = Bench::serving();
    bench.seen(Seen::LeaseLapsed { epoch: Epoch(1) });
    bench.pass(ms(6_000));
    assert_eq!(bench.core.standing(), Standing::Resigning(Epoch(1)), "suspended for too long");
}

#[test]
fn after_expiry_a_new_generation_joins_but_leads_nothing_until_the_old_effects_have_ended() {
    let mut bench = Bench::serving();
    let effects = bench.seen(Seen::Ended);
    assert!(effects.contains(&Effect::DropLease { epoch: Epoch(1) }));
    assert!(effects.contains(&Effect::Join { generation: Generation(2) }));
    assert_eq!(bench.core.standing(), Standing::Resigning(Epoch(1)));
    bench.seen(Seen::Joined { sequence: 9 });
    bench.seen(Seen::Leader(None));
    bench.seen(Seen::Registered);
    assert!(!claims(&bench.surveyed(survey(1, &["me"]))));
    let effects = bench.event(Event::EffectsEnded(Epoch(1)));
    assert_eq!(release(&effects), None, "that leader node went with its session");
    assert_eq!(bench.core.standing(), Standing::Follower);
    assert!(claims(&bench.surveyed(survey(1, &["me"]))));
}

#[test]
fn an_old_generation_changes_nothing() {
    let events = [
        Seen::Ended,
        Seen::Disconnected,
        Seen::Leader(leader("a", 99)),
        Seen::Claimed { epoch: Epoch(99) },
        Seen::LeaseLost { epoch: Epoch(1), reason: "old".into() },
        Seen::Released { epoch: Epoch(1) },
        Seen::Surveyed(Box::new(survey(99, &[]))),
        Seen::Withdrawn,
        Seen::Joined { sequence: 99 },
    ];
    for make in [Bench::candidate, Bench::elected, Bench::serving] {
        let mut bench = make();
        bench.seen(Seen::Ended);
        let before = format!("{:?}", bench.core);
        for seen in &events {
            assert_eq!(bench.event(Event::Seen(Generation(1), seen.clone())), []);
        }
        assert_eq!(format!("{:?}", bench.core), before);
    }
}

#[test]
fn a_handover_goes_to_a_live_candidate_and_leaves_the_line_to_it() {
    let ask = |to: Option<&str>| Event::Handover { ticket: 7, to: to.map(|to| to.parse().unwrap()) };
    let done = |outcome| Effect::HandoverDone { ticket: 7, outcome };
    let other: NodeId = "other".parse().unwrap();

    let mut bench = Bench::candidate();
    assert_eq!(bench.event(ask(None)), [done(Err(HandoverError::NotLeading { leader: None }))]);
    let mut bench = Bench::serving();
    bench.event(ask(None));
    let effects = bench.surveyed(survey(1, &["me"]));
    assert!(effects.contains(&done(Err(HandoverError::NobodyReady))), "{effects:?}");
    bench.event(ask(Some("absent")));
    let effects = bench.surveyed(survey(1, &["me", "other"]));
    assert!(matches!(&effects[..], [Effect::HandoverDone { outcome: Err(_), .. }, ..]), "{effects:?}");
    assert_eq!(bench.core.standing(), Standing::Elected(Epoch(1)), "refused without a gap");

    bench.event(ask(Some("other")));
    bench.surveyed(survey(1, &["me", "a", "other"]));
    assert_eq!(bench.core.standing(), Standing::Resigning(Epoch(1)));
    let effects = bench.event(Event::EffectsEnded(Epoch(1)));
    assert_eq!(release(&effects), Some(&Release::Handover { to: other.clone() }));
    bench.seen(Seen::Released { epoch: Epoch(1) });
    let effects = bench.seen(Seen::Leader(None));
    assert!(!effects.contains(&Effect::Register), "it left the line to the target");
    let effects = bench.seen(Seen::Leader(leader("other", 3)));
    assert!(effects.contains(&done(Ok(other))) && effects.contains(&Effect::Register), "{effects:?}");
}

#[test]
fn a_target_that_died_does_not_keep_leader_in_place() {
    let mut bench = Bench::serving();
    bench.event(Event::Handover { ticket: 7, to: None });
    bench.surveyed(survey(1, &["me", "other"]));
    bench.event(Event::EffectsEnded(Epoch(1)));
    bench.seen(Seen::ReleaseFailed { epoch: Epoch(1) });
    assert_eq!(release(&bench.pass(ms(500))), Some(&Release::Plain));
}

#[test]
fn a_higher_priority_takes_over_after_a_while_and_not_while_held_down() {
    let other: NodeId = "other".parse().unwrap();
    let better = |terms: Terms| Survey {
        terms,
        priorities: [(other.clone(), 5)].into(),
        ..survey(1, &["me", "other"])
    };
    let mut bench = Bench::serving();
    bench.pass(ms(10_000));
    bench.surveyed(better(Terms::default()));
    bench.pass(ms(1_999));
    bench.surveyed(better(Terms::default()));
    assert_eq!(bench.core.standing(), Standing::Elected(Epoch(1)), "not yet");
    bench.surveyed(survey(1, &["me"]));
    bench.surveyed(better(Terms::default()));
    bench.pass(ms(1_999));
    bench.surveyed(better(Terms::default()));
    assert_eq!(bench.core.standing(), Standing::Elected(Epoch(1)), "it was away in between");
    bench.pass(ms(1));
    bench.surveyed(better(Terms::default()));
    assert_eq!(bench.core.standing(), Standing::Resigning(Epoch(1)));
    assert_eq!(
        release(&bench.event(Event::EffectsEnded(Epoch(1)))),
        Some(&Release::Handover { to: other.clone() })
    );

    let hold = HoldDown { first: ms(60_000), max: ms(60_000) };
    let mut failed = Terms::default();
    failed.fail(&other, LIFE, Epoch(0), "test", hold);
    let mut repaired = Terms::default();
    repaired.fail(&other, Incarnation::from_u128(0), Epoch(0), "test", hold);
    for (terms, yields_after_s) in [(failed, None), (repaired, Some(60..64))] {
        let mut bench = Bench::serving();
        let mut yielded = None;
        for second in 0..110 {
            bench.pass(ms(1_000));
            bench.surveyed(better(terms.clone()));
            if bench.core.standing() != Standing::Elected(Epoch(1)) {
                yielded.get_or_insert(second);
            }
        }
        match yields_after_s {
            Some(range) => assert!(yielded.is_some_and(|at| range.contains(&at)), "{yielded:?}"),
            None => assert_eq!(yielded, None, "its last term failed in this very life"),
        }
    }
}

#[test]
fn stop_ends_from_every_state_and_each_thing_is_given_up_once() {
    let mut resigning = Bench::serving();
    resigning.event(Event::Resign { reason: "log".into() });
    let mut suspended = Bench::serving();
    suspended.seen(Seen::Disconnected);
    suspended.seen(Seen::Connected);
    let mut claiming = Bench::candidate();
    claiming.surveyed(survey(0, &["me"]));
    let mut joining = Bench::serving();
    joining.seen(Seen::Ended);
    for mut bench in
        [Bench::new(), Bench::candidate(), claiming, Bench::elected(), resigning, suspended, joining]
    {
        let from = format!("{:?}", bench.core.state);
        let (mut effects, mut all) = (bench.event(Event::Stop), Vec::new());
        for _ in 0..40 {
            let mut next = Vec::new();
            for effect in &effects {
                next.extend(match effect {
                    Effect::Withdraw => bench.seen(Seen::Withdrawn),
                    Effect::Release { epoch, .. } => bench.seen(Seen::Released { epoch: *epoch }),
                    _ => Vec::new(),
                });
            }
            if let Standing::Resigning(epoch) = bench.core.standing() {
                next.extend(bench.event(Event::EffectsEnded(epoch)));
            }
            next.extend(bench.pass(ms(100)));
            all.append(&mut effects);
            effects = next;
        }
        let count = |what: fn(&Effect) -> bool| all.iter().filter(|effect| what(effect)).count();
        assert_eq!(count(|effect| matches!(effect, Effect::Leave)), 1, "from {from}: {all:?}");
        assert!(count(|effect| matches!(effect, Effect::Withdraw)) <= 1, "from {from}: {all:?}");
        assert!(count(|effect| matches!(effect, Effect::Release { .. })) <= 1, "from {from}: {all:?}");
        assert!(matches!(all.last(), Some(Effect::Leave)), "from {from}: {all:?}");
    }
}

#[test]
fn a_session_out_of_touch_is_given_up_but_not_under_living_effects() {
    let mut bench = Bench::candidate();
    bench.seen(Seen::Disconnected);
    assert!(bench.pass(ms(11_999)).is_empty());
    assert_eq!(bench.pass(ms(1)), [Effect::Join { generation: Generation(2) }]);

    let mut bench = Bench::serving();
    bench.seen(Seen::Disconnected);
    for _ in 0..40 {
        let effects = bench.pass(ms(1_000));
        assert!(!effects.iter().any(|effect| matches!(effect, Effect::Join { .. })), "{effects:?}");
    }
    let effects = bench.event(Event::EffectsEnded(Epoch(1)));
    assert!(effects.contains(&Effect::Join { generation: Generation(2) }), "{effects:?}");
}
