//! What a core does step by step, where the simulation only sees that it harms nobody.

use std::collections::BTreeSet;
use std::time::Duration;

use clock::Instant;
use drill::Drill;
use proto::NodeId;

use super::*;

const GRACE: Duration = Duration::from_secs(2);

fn node(name: &str) -> NodeId {
    name.parse().expect("a node's name")
}

const fn at(ms: u64) -> Instant {
    Instant::from_nanos(ms * 1_000_000)
}

fn settings() -> Settings {
    let probe_takes = Duration::from_millis(80);
    Settings { me: node("n1"), probe_takes, tickets: Tickets::default(), drill: Drill::none() }
}

/// A core of n1, whose turn it is, at 10 s.
fn first_in_line(settings: Settings) -> Core {
    let mut core = Core::new(settings, GRACE);
    let there: BTreeSet<_> = [node("n1")].into();
    for event in [
        Event::Session(Some(1)),
        Event::Assigned(Some(Assigned { version: 0, mark: 7, order: vec![node("n1"), node("n2")] })),
        Event::Peers { there: there.clone(), able: there, drained: false },
        Event::Fitness(None),
    ] {
        assert_eq!(core.step(event, at(0)), []);
    }
    core
}

fn ticket(effects: &[Effect]) -> Ticket {
    let of = |effect: &Effect| match effect {
        Effect::Take { ticket, .. }
        | Effect::Record(ticket)
        | Effect::Probe(ticket)
        | Effect::Forget(ticket)
        | Effect::Release { ticket, .. } => Some(*ticket),
        _ => None,
    };
    effects.iter().find_map(of).unwrap_or_else(|| panic!("no question in {effects:?}"))
}

fn only(effects: &[Effect], which: impl Fn(&Effect) -> bool) -> Vec<Effect> {
    effects.iter().filter(|effect| which(effect)).cloned().collect()
}

fn taken() -> Taken {
    let (sent, acked) = (at(10_000), at(10_000));
    Taken { take: Uuid::from_u128(1), sent, acked, term_version: 3, wait: Duration::ZERO, grace: GRACE }
}

/// It holds the service, whose addresses it put at 10.1 s.
fn holding() -> Core {
    let mut core = first_in_line(settings());
    let take = ticket(&core.step(Event::Holder(None), at(10_000)));
    let effects = core.step(Event::Taken(take, Ok(taken())), at(10_000));
    let record = ticket(&only(&effects, |effect| matches!(effect, Effect::Record(_))));
    let probe = ticket(&only(&effects, |effect| matches!(effect, Effect::Probe(_))));
    core.step(Event::Recorded(record, Ok(())), at(10_020));
    let effects = core.step(Event::Probed(probe, Ok(None)), at(10_080));
    assert_eq!(effects, [Effect::Put { grace: GRACE }]);
    let there = Some((at(10_100), 2));
    core.step(Event::Put(PutDone { there, end: PutEnd::Done }), at(10_100));
    assert!(core.may_announce());
    core
}

#[test]
fn whoever_waits_for_the_service_does_not_wait_for_the_disk() {
    let mut core = holding();
    let effects = core.step(Event::Stop, at(11_000));
    assert!(effects.contains(&Effect::Remove), "{effects:?}");
    assert!(!effects.iter().any(|effect| matches!(effect, Effect::Release { .. })), "{effects:?}");
    let effects = core.step(Event::Removed(Ok(())), at(11_000));
    let steps = only(&effects, |effect| matches!(effect, Effect::Forget(_) | Effect::Release { .. }));
    let [Effect::Forget(forget), Effect::Release { ticket, free: true, .. }] = steps[..] else {
        panic!("{effects:?}")
    };
    // It ends when both are done.
    core.step(Event::Released(ticket, Ok(())), at(11_020));
    assert!(!core.is_finished(), "its disk still names the address");
    core.step(Event::Forgotten(forget), at(11_060));
    assert!(core.is_finished());
}

#[test]
fn a_take_that_was_refused_under_an_older_assignment_is_tried_again_at_once() {
    let newer = || Event::Assigned(Some(Assigned { version: 1, mark: 8, order: vec![node("n1")] }));
    let stale = || Err(Refused::Stale("the service was assigned anew".to_owned()));
    let is_take = |effects: &[Effect]| matches!(effects, [Effect::Take { version: 1, .. }]);

    let mut core = first_in_line(settings());
    let take = ticket(&core.step(Event::Holder(None), at(10_000)));
    assert_eq!(core.step(newer(), at(10_005)), []);
    let effects = core.step(Event::Taken(take, stale()), at(10_010));
    assert!(is_take(&effects), "the new assignment came first: {effects:?}");

    let mut core = first_in_line(settings());
    let take = ticket(&core.step(Event::Holder(None), at(10_000)));
    assert_eq!(core.step(Event::Taken(take, stale()), at(10_010)), []);
    let effects = core.step(newer(), at(10_015));
    assert!(is_take(&effects), "the refusal came first: {effects:?}");
}

#[test]
fn a_holder_of_its_own_that_nobody_knows_of_goes_whatever_the_term_says() {
    let held = |name: &str| Term::Held { node: node(name), take: Uuid::from_u128(9), grace: GRACE };
    let free = Term::Free { node: None, release: None };
    for term in [Some(held("n1")), Some(held("n2")), Some(free), Some(Term::Unknown), None] {
        let mut core = first_in_line(settings());
        core.step(Event::Holder(Some((node("n1"), true))), at(10_000));
        core.step(Event::Term(term.clone().map(|term| (5, term))), at(10_000));
        assert_eq!(core.step(Event::Tick, at(12_999)), []);
        let effects = core.step(Event::Tick, at(13_000));
        let version = term.as_ref().map_or(-1, |_| 5);
        let [_, Effect::Release { term_version, free: false, .. }] = effects[..] else {
            panic!("{term:?}: {effects:?}")
        };
        assert_eq!(term_version, version);
    }
}

#[test]
fn whoever_has_just_released_it_is_not_waited_for() {
    let n2 = Settings { me: node("n2"), ..settings() };
    let assigned = |mark| {
        let order = vec![node("n1"), node("n2")];
        Event::Assigned(Some(Assigned { version: 0, mark, order }))
    };
    let follower = |term: Term| {
        let mut core = Core::new(n2.clone(), GRACE);
        let both: BTreeSet<_> = [node("n1"), node("n2")].into();
        core.step(Event::Session(Some(1)), at(0));
        core.step(Event::Fitness(None), at(0));
        core.step(Event::Peers { there: both.clone(), able: both, drained: false }, at(0));
        core.step(assigned(7), at(0));
        core.step(Event::Holder(Some((node("n1"), false))), at(0));
        core.step(Event::Term(Some((4, term))), at(10_000));
        core
    };
    let takes = |effects: &[Effect]| matches!(effects, [Effect::Take { .. }]);
    let takes_at_once = |term: Term| takes(&follower(term).step(Event::Holder(None), at(10_000)));
    let by = |name: &str| Term::Free { node: Some(node(name)), release: None };
    assert!(takes_at_once(by("n1")), "its report is on its way");
    assert!(!takes_at_once(by("n3")), "n1 has its turn first");
    assert!(!takes_at_once(Term::Held { node: node("n1"), take: Uuid::nil(), grace: GRACE }));

    // Who released it last may be the one that is to have it again.
    let unfit = |core: &mut Core| core.step(Event::Fitness(Some("a check fails".into())), at(9_000));
    let mut core = follower(by("n1"));
    unfit(&mut core);
    core.step(Event::Holder(None), at(10_000));
    core.step(Event::Fitness(None), at(10_100));
    assert!(!takes(&core.step(assigned(8), at(10_100))), "it is assigned anew: n1 has its turn first");
    let mut core = follower(by("n1"));
    unfit(&mut core);
    core.step(Event::Holder(None), at(10_000));
    core.step(assigned(8), at(40_000));
    assert!(!takes(&core.step(Event::Fitness(None), at(40_000))), "n1 has its turn first");
}

#[test]
fn what_was_just_released_is_no_orphan() {
    let mut core = holding();
    core.step(Event::Holder(Some((node("n1"), true))), at(10_100));
    core.step(Event::Stop, at(20_000));
    let release = ticket(&only(&core.step(Event::Removed(Ok(())), at(20_000)), |effect| {
        matches!(effect, Effect::Release { .. })
    }));
    let effects = core.step(Event::Released(release, Ok(())), at(20_020));
    assert!(!effects.iter().any(|effect| matches!(effect, Effect::Release { .. })), "{effects:?}");
}

#[test]
fn an_answer_to_a_core_that_is_no_more_says_nothing_to_its_successor() {
    let settings = settings();
    let mut old = first_in_line(settings.clone());
    let of_old = ticket(&old.step(Event::Holder(None), at(10_000)));
    // The service was removed from the configuration, and is there again.
    let mut new = first_in_line(settings);
    let of_new = ticket(&new.step(Event::Holder(None), at(10_000)));
    assert_eq!(new.step(Event::Taken(of_old, Ok(taken())), at(10_000)), []);
    assert!(new.awaits(of_new));
}

#[test]
fn an_address_that_went_with_its_interface_was_removed_by_nobody() {
    let said = |event: Event| {
        let effects = holding().step(event, at(10_500));
        assert!(effects.contains(&Effect::Put { grace: GRACE }), "{effects:?}");
        let say = |effect: &Effect| matches!(effect, Effect::Say(_));
        format!("{:?}", only(&effects, say))
    };
    let what = || "fd98::241 from eth1".to_owned();
    assert!(said(Event::Vanished(what())).contains("somebody removed fd98::241 from eth1"));
    let dropped = said(Event::Dropped(what()));
    assert!(dropped.contains("went down, and the kernel removed fd98::241") && !dropped.contains("somebody"));
}
