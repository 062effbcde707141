//! Schedules: every tick is one task, whoever leads and whatever the clock does.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicI64;

use clock::{Clock, Instant, WallMs};
use proto::api::ApiError;
use proto::schedule::{
    Misfire, Overlap, ScheduleDone, ScheduleName, ScheduleOrder, ScheduleSpec, ScheduleView, TickEnd,
};
use proto::task::Rules;
use proto::{ScheduleId, TaskId};

use super::*;

fn name() -> ScheduleName {
    "nightly".parse().expect("valid")
}

/// At every full minute.
fn minutely(kind: &str) -> ScheduleSpec {
    ScheduleSpec::new("* * * * *", TaskSpec::new(kind, vec![]))
}

fn add(spec: ScheduleSpec, replace: bool) -> ScheduleOrder {
    ScheduleOrder::Add { name: name(), id: ScheduleId::from_u128(7), spec: Box::new(spec), replace }
}

async fn order(handle: &Handle, order: ScheduleOrder) -> Result<ScheduleDone, ApiError> {
    handle.schedule_order(order).await
}

async fn added(handle: &Handle, spec: ScheduleSpec) {
    assert!(order(handle, add(spec, false)).await.expect("added").changed);
}

/// The tasks of ticks, by when those were, in seconds.
async fn ticks(handle: &Handle) -> BTreeMap<u64, TaskView> {
    let page = handle.list(ListFilter::default()).await.expect("listed");
    let of_ticks =
        page.tasks.into_iter().filter(|task| task.spec.origin.as_ref().is_some_and(|it| !it.triggered));
    let mut ticks = BTreeMap::new();
    for task in of_ticks {
        let tick_ms = task.spec.origin.as_ref().map_or(0, |origin| origin.tick_ms);
        assert_eq!(tick_ms % 1_000, 0);
        let twice = ticks.insert(tick_ms / 1_000, task);
        assert!(twice.is_none(), "{tick_ms} came twice: {twice:#?}");
    }
    ticks
}

async fn seconds(handle: &Handle) -> Vec<u64> {
    ticks(handle).await.into_keys().collect()
}

async fn shown(handle: &Handle) -> ScheduleView {
    handle.schedule(name()).await.expect("there is one")
}

/// Until the wall clock stands there.
async fn at(clock: &dyn Clock, handle: &Handle, runners: &[FakeRunner], second: u64) {
    while clock.wall().0 < second * 1_000 {
        for runner in runners.iter().filter(|runner| !runner.state().unreachable) {
            runner.beat(handle).await;
            runner.report(handle).await;
        }
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
}

async fn nobody_until(clock: TokioClock, second: u64) {
    let left = (second * 1_000).saturating_sub(clock.wall().0);
    tokio::time::sleep(Duration::from_millis(left)).await;
}

#[tokio::test(start_paused = true)]
async fn every_tick_is_one_task_under_every_leader() {
    let (log, clock) = (MemoryLog::new(), TokioClock::start());
    let runners = [FakeRunner::new("n1", 8)];
    let term = lead(&log, clock, 1, &runners).await;
    let spec = ScheduleSpec::new("* * * * * *", TaskSpec::new("noop", vec![1]));
    added(&term.handle, spec).await;
    let first = shown(&term.handle).await.next_ms[0] / 1_000;
    let mut term = Some(term);
    for epoch in 2..7 {
        let before = term.take().expect("one leads");
        at(&clock, &before.handle, &runners, epoch * 6).await;
        if epoch % 2 == 0 {
            // What it decides from here on is lost with it.
            log.hold(true);
            tokio::time::sleep(Duration::from_secs(2)).await;
            log.fail();
        }
        drop(before);
        log.hold(false);
        nobody_until(clock, epoch * 6 + 4).await;
        term = Some(lead(&MemoryLog::clone(&log), clock, epoch, &runners).await);
    }
    let term = term.expect("one leads");
    at(&clock, &term.handle, &runners, 45).await;
    let ticks = ticks(&term.handle).await;
    let last = ticks.last_key_value().map_or(0, |(second, _)| *second);
    assert!(last >= 44, "{last}");
    assert!(ticks.keys().copied().eq(first..=last), "{:?}", ticks.keys());
    let view = shown(&term.handle).await;
    let decided = view.last.map_or(0, |tick| tick.at_ms / 1_000);
    assert_eq!(view.counts.tasks, decided - first + 1);
    let task = &ticks[&last];
    assert_eq!(task.spec.name.as_deref(), Some(format!("nightly@1970-01-01T00:00:{last}Z").as_str()));
    let why = term.handle.why(task.id.to_string()).await.expect("it exists").reason;
    assert!(why.contains(&format!("the tick of 1970-01-01T00:00:{last}Z of schedule nightly")), "{why}");
}

#[tokio::test(start_paused = true)]
async fn ticks_wait_for_the_lease() {
    let (log, clock) = (MemoryLog::new(), TokioClock::start());
    let runners = [FakeRunner::new("n1", 8)];
    let term = lead(&log, clock, 1, &runners).await;
    added(&term.handle, ScheduleSpec { misfire: Misfire::Skip, ..minutely("noop") }).await;
    at(&clock, &term.handle, &runners, 55).await;
    term.lease.0.store(false, Ordering::Relaxed);
    at(&clock, &term.handle, &runners, 70).await;
    assert_eq!(seconds(&term.handle).await, [0_u64; 0], "another leader may decide it");
    term.lease.0.store(true, Ordering::Relaxed);
    at(&clock, &term.handle, &runners, 71).await;
    assert_eq!(seconds(&term.handle).await, [60], "it is late by less than the grace");
}

#[tokio::test(start_paused = true)]
async fn what_was_missed_is_skipped_made_good_once_or_all() {
    let until_720: Vec<u64> = (1..=12).map(|minute| minute * 60).collect();
    let rows = [
        (Misfire::Skip, vec![60, 720], 10),
        (Misfire::Once, vec![60, 660, 720], 9),
        (Misfire::All, until_720, 0),
    ];
    for (misfire, expected, missed) in rows {
        let (log, clock) = (MemoryLog::new(), TokioClock::start());
        let runners = [FakeRunner::new("n1", 8)];
        let term = lead(&log, clock, 1, &runners).await;
        added(&term.handle, ScheduleSpec { misfire, ..minutely("noop") }).await;
        at(&clock, &term.handle, &runners, 90).await;
        drop(term);
        nobody_until(clock, 750).await;
        let term = lead(&log, clock, 2, &runners).await;
        at(&clock, &term.handle, &runners, 755).await;
        assert_eq!(seconds(&term.handle).await, expected, "{misfire}");
        let view = shown(&term.handle).await;
        assert_eq!((view.counts.tasks, view.counts.missed), (expected.len() as u64, missed), "{misfire}");
        assert_eq!(view.next_ms, [780_000, 840_000, 900_000, 960_000, 1_020_000]);
    }
}

#[tokio::test(start_paused = true)]
async fn the_wall_clock_jumps_and_no_tick_comes_twice() {
    #[derive(Clone, Debug)]
    struct Jumping(TokioClock, Arc<AtomicI64>);
    impl Clock for Jumping {
        fn now(&self) -> Instant {
            self.0.now()
        }
        fn wall(&self) -> WallMs {
            WallMs(self.0.wall().0.saturating_add_signed(self.1.load(Ordering::Relaxed)))
        }
    }
    let (log, clock) = (MemoryLog::new(), Jumping(TokioClock::start(), Arc::default()));
    let runners = [FakeRunner::new("n1", 8)];
    let term = lead(&log, clock.clone(), 1, &runners).await;
    added(&term.handle, minutely("noop")).await;
    at(&clock, &term.handle, &runners, 130).await;
    clock.1.fetch_sub(80_000, Ordering::Relaxed);
    at(&clock, &term.handle, &runners, 170).await;
    assert_eq!(seconds(&term.handle).await, [60, 120]);
    let trouble = shown(&term.handle).await.trouble;
    assert_eq!(trouble, None, "it is not ahead by much");
    at(&clock, &term.handle, &runners, 190).await;
    assert_eq!(seconds(&term.handle).await, [60, 120, 180]);
    // Ten minutes that nobody saw are ten that were missed.
    clock.1.fetch_add(600_000, Ordering::Relaxed);
    at(&clock, &term.handle, &runners, 795).await;
    assert_eq!(seconds(&term.handle).await, [60, 120, 180, 720, 780]);
    // It was wrong: what was decided stays so, and it is said.
    clock.1.fetch_sub(600_000, Ordering::Relaxed);
    at(&clock, &term.handle, &runners, 330).await;
    assert_eq!(seconds(&term.handle).await.len(), 5);
    let trouble = shown(&term.handle).await.trouble.expect("something is the matter");
    assert!(trouble.contains("has been at 1970-01-01T00:13:00Z before"), "{trouble}");
}

#[tokio::test(start_paused = true)]
async fn ticks_overlap_or_are_skipped_or_take_over() {
    let good = AttemptEnd::Exited { code: 0 };
    for overlap in [Overlap::Allow, Overlap::Forbid, Overlap::Replace] {
        let (log, clock) = (MemoryLog::new(), TokioClock::start());
        let runners = [FakeRunner::new("n1", 8)];
        let term = lead(&log, clock, 1, &runners).await;
        let handle = &term.handle;
        added(handle, ScheduleSpec { overlap, ..minutely("wait") }).await;
        at(&clock, handle, &runners, 62).await;
        let first = ticks(handle).await[&60].id;
        assert_eq!(ticks(handle).await[&60].state, TaskState::Running);
        let state_of =
            |ticks: &BTreeMap<u64, TaskView>| ticks.values().map(|task| task.state).collect::<Vec<_>>();
        match overlap {
            Overlap::Allow => {
                at(&clock, handle, &runners, 122).await;
                assert_eq!(state_of(&ticks(handle).await), [TaskState::Running; 2]);
            }
            Overlap::Forbid => {
                at(&clock, handle, &runners, 182).await;
                assert_eq!(seconds(handle).await, [60]);
                let view = shown(handle).await;
                assert_eq!(
                    view.last.map(|tick| (tick.at_ms, tick.end)),
                    Some((180_000, TickEnd::Overlapped(first)))
                );
                assert_eq!(view.counts.overlapped, 2);
                let why = handle.why(first.to_string()).await.expect("it exists").reason;
                assert!(why.contains("the 2 ticks after it were skipped"), "{why}");
                let attempt = *runners[0].state().running.keys().next().expect("it runs");
                runners[0].end(attempt, good.clone());
                at(&clock, handle, &runners, 242).await;
                assert_eq!(seconds(handle).await, [60, 240]);
            }
            Overlap::Replace => {
                // What becomes of it cannot be known for a while.
                at(&clock, handle, &runners, 118).await;
                runners[0].state().unreachable = true;
                at(&clock, handle, &runners, 122).await;
                assert_eq!(state_of(&ticks(handle).await), [TaskState::Cancelling, TaskState::Blocked]);
                runners[0].state().unreachable = false;
                at(&clock, handle, &runners, 130).await;
                assert_eq!(state_of(&ticks(handle).await), [TaskState::Cancelled, TaskState::Running]);
            }
        }
    }
}

/// Several ticks come while the one that runs does not end: none of them begins beside it.
#[tokio::test(start_paused = true)]
async fn whoever_takes_over_waits_for_all_that_may_run() {
    let (log, clock) = (MemoryLog::new(), TokioClock::start());
    let runners = [FakeRunner::new("n1", 8), FakeRunner::new("n2", 8)];
    let term = lead(&log, clock, 1, &runners).await;
    let handle = &term.handle;
    let spec = ScheduleSpec::new("*/5 * * * * *", TaskSpec::new("wait", vec![]));
    added(handle, ScheduleSpec { overlap: Overlap::Replace, ..spec }).await;
    at(&clock, handle, &runners, 6).await;
    let on = usize::from(runners[1].state().running.len() == 1);
    assert_eq!(runners[on].state().running.len(), 1);
    runners[on].state().unreachable = true;
    at(&clock, handle, &runners, 21).await;
    let states: Vec<_> = ticks(handle).await.into_values().map(|task| task.state).collect();
    use TaskState::{Blocked, Cancelled, Cancelling, Running};
    assert_eq!(states, [Cancelling, Cancelled, Cancelled, Blocked]);
    assert_eq!(runners[1 - on].state().started.len(), 0);
    runners[on].state().unreachable = false;
    at(&clock, handle, &runners, 24).await;
    let states: Vec<_> = ticks(handle).await.into_values().map(|task| task.state).collect();
    assert_eq!(states, [Cancelled, Cancelled, Cancelled, Running]);
}

#[tokio::test(start_paused = true)]
async fn orders_may_be_repeated_and_pauses_are_no_misfires() {
    let (log, clock) = (MemoryLog::new(), TokioClock::start());
    let runners = [FakeRunner::new("n1", 8)];
    let term = lead(&log, clock, 1, &runners).await;
    let spec = ScheduleSpec { misfire: Misfire::All, ..minutely("noop") };
    added(&term.handle, spec.clone()).await;
    assert!(!order(&term.handle, add(spec.clone(), false)).await.expect("the same").changed);
    let other = ScheduleSpec { cron: "*/2 * * * *".to_owned(), ..spec.clone() };
    let error = order(&term.handle, add(other.clone(), false)).await.expect_err("another");
    assert_eq!(error.kind, ApiErrorKind::Conflict);
    assert!(error.message.contains("--replace"), "{error}");

    at(&clock, &term.handle, &runners, 70).await;
    assert!(order(&term.handle, ScheduleOrder::Pause(name())).await.expect("paused").changed);
    assert!(!order(&term.handle, ScheduleOrder::Pause(name())).await.expect("it is").changed);
    // A paused schedule can be triggered, once for each time that it is wanted.
    let task = TaskId::from_u128(5 << 96);
    for first in [true, false] {
        let done =
            order(&term.handle, ScheduleOrder::Trigger { name: name(), task }).await.expect("triggered");
        assert_eq!((done.changed, done.task), (first, Some(task)));
    }
    let why = term.handle.why(task.to_string()).await.expect("it exists").reason;
    assert!(why.contains("schedule nightly was triggered at 1970-01-01T00:01:1"), "{why}");
    at(&clock, &term.handle, &runners, 190).await;
    drop(term);
    let term = lead(&log, clock, 2, &runners).await;
    at(&clock, &term.handle, &runners, 200).await;
    let view = shown(&term.handle).await;
    assert!(view.paused && view.next_ms.is_empty(), "{view:#?}");
    let resumed = order(&term.handle, ScheduleOrder::Resume(name())).await.expect("resumed");
    assert_eq!(resumed.schedule.next_ms[0], 240_000);
    at(&clock, &term.handle, &runners, 250).await;
    assert_eq!(seconds(&term.handle).await, [60, 240]);

    assert!(order(&term.handle, add(other, true)).await.expect("replaced").changed);
    at(&clock, &term.handle, &runners, 370).await;
    assert_eq!(seconds(&term.handle).await, [60, 240, 360]);
    // Another of that name has tasks of its own, and none of this one's.
    order(&term.handle, ScheduleOrder::Remove(name())).await.expect("removed");
    assert_eq!(term.handle.schedule(name()).await.map_err(|error| error.kind), Err(ApiErrorKind::NotFound));
    let again = ScheduleOrder::Add {
        name: name(),
        id: ScheduleId::from_u128(8),
        spec: Box::new(spec),
        replace: false,
    };
    assert!(order(&term.handle, again).await.expect("added").changed);
    drop(term);
    let term = lead(&log, clock, 3, &runners).await;
    at(&clock, &term.handle, &runners, 430).await;
    assert_eq!(seconds(&term.handle).await, [60, 240, 360, 420]);
    let page = term.handle.schedules(None).await.expect("listed");
    assert_eq!((page.total, page.schedules[0].id), (1, ScheduleId::from_u128(8)));
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_is_refused_and_what_has_no_room_comes_later() {
    let (log, clock) = (MemoryLog::new(), TokioClock::start());
    let runners = [FakeRunner::new("n1", 8)];
    let term = lead(&log, clock, 1, &runners).await;
    at(&clock, &term.handle, &runners, 1).await;
    let refused = |spec: ScheduleSpec| {
        let handle = term.handle.clone();
        async move { order(&handle, add(spec, false)).await.expect_err("refused").to_string() }
    };
    let with = |change: &dyn Fn(&mut ScheduleSpec)| {
        let mut spec = minutely("noop");
        change(&mut spec);
        spec
    };
    let rows: [(ScheduleSpec, &str); 5] = [
        (with(&|spec| spec.cron = "* * *".to_owned()), "\"* * *\" is no cron expression"),
        (with(&|spec| spec.zone = "Mars".to_owned()), "\"Mars\" is no time zone"),
        (
            with(&|spec| spec.task.payload = vec![0; 65]),
            "the payload has 65 bytes, and a schedule keeps at most 64",
        ),
        (with(&|spec| spec.task.kind = "none".to_owned()), "no node runs tasks of kind \"none\""),
        (
            with(&|spec| {
                spec.task.rules = Some(Box::new(Rules { start_at_ms: Some(1), ..Rules::default() }))
            }),
            "every tick is a task of its own",
        ),
    ];
    for (spec, expected) in rows {
        let said = refused(spec).await;
        assert!(said.contains(expected), "{said}");
    }
    let mut forged = task(1, "noop");
    forged.spec.origin =
        Some(Box::new(proto::schedule::Origin { schedule: name(), tick_ms: 1, triggered: false }));
    match term.handle.submit(vec![forged]).await.expect("answered").pop() {
        Some(Submitted::Refused(error)) => assert!(error.message.contains("origin"), "{error}"),
        other => panic!("{other:?}"),
    }

    log.state().room = 3_000;
    added(&term.handle, minutely("noop")).await;
    log.state().room = 0;
    at(&clock, &term.handle, &runners, 70).await;
    assert_eq!(seconds(&term.handle).await, [0_u64; 0]);
    let trouble = shown(&term.handle).await.trouble.expect("something is the matter");
    assert!(trouble.contains("no room"), "{trouble}");
    log.state().room = 1 << 20;
    at(&clock, &term.handle, &runners, 73).await;
    assert_eq!(seconds(&term.handle).await, [60]);
    assert_eq!(shown(&term.handle).await.trouble, None);
}

/// More was missed than is ever made good: the oldest are, and what follows is counted as missed.
#[test]
fn however_much_was_missed_turns_are_short() {
    use crate::core::{Core, Now, Settings};
    for (misfire, expected) in [(Misfire::All, 10_000 + 61), (Misfire::Once, 1 + 61), (Misfire::Skip, 61)] {
        let settings = Settings {
            token: FencingToken { cluster: ClusterId::from_u128(1), epoch: Epoch(1) },
            fence_after: FENCE,
            retention: crate::Retention {
                count: 100_000,
                age: Duration::from_secs(1_000_000),
                ..crate::Retention::default()
            },
            queue_tasks_max: 100_000,
            payload_inline_max: 64,
            priority_ageing: Duration::ZERO,
        };
        let fence = crate::fence::Fence::new(Instant::default(), FENCE, FENCE, Duration::from_secs(1));
        let now = |second: u64| Now {
            at: Instant::default() + Duration::from_secs(second),
            wall_ms: second * 1_000,
        };
        let rng = rand::SeedableRng::seed_from_u64(1);
        let mut core = Core::recover(settings, Default::default(), fence, FENCE, rng, now(0));
        let spec = ScheduleSpec::new("* * * * * *", TaskSpec::new("noop", vec![]));
        let spec = ScheduleSpec { misfire, ..spec };
        let mut room = u64::MAX;
        core.schedule_order(now(0), add(spec, false), &mut room).expect("added");
        // A month without a leader.
        let later = 30 * 24 * 3_600;
        let mut turns = 0;
        core.tick(now(later));
        while core.schedules_are_due() {
            core.run_schedules(now(later), &mut room);
            turns += 1;
            assert!(turns < 100, "it never catches up");
        }
        assert_eq!(core.db.iter().count(), expected, "{misfire}");
        let view = core.schedule_view(now(later), &name()).expect("there is one");
        assert_eq!(view.next_ms[0], (later + 1) * 1_000);
    }
}

/// The tick between was cancelled by a person before it began: what it waited for may still run.
#[tokio::test(start_paused = true)]
async fn a_replacing_tick_waits_also_for_what_a_cancelled_one_waited_for() {
    let (log, clock) = (MemoryLog::new(), TokioClock::start());
    let runners = [FakeRunner::new("n1", 2)];
    let term = lead(&log, clock, 1, &runners).await;
    let every_ten = ScheduleSpec {
        overlap: Overlap::Replace,
        ..ScheduleSpec::new("*/10 * * * * *", TaskSpec::new("wait", vec![]))
    };
    let first = (clock.wall().0 / 10_000 + 1) * 10;
    added(&term.handle, every_ten).await;
    at(&clock, &term.handle, &runners, first + 8).await;
    runners[0].state().unreachable = true;
    at(&clock, &term.handle, &runners, first + 11).await;
    let made = ticks(&term.handle).await;
    assert_eq!(made[&first].state, TaskState::Cancelling, "{made:#?}");
    assert_eq!(made[&(first + 10)].state, TaskState::Blocked);
    term.handle.cancel(made[&(first + 10)].id.to_string()).await.expect("cancelled");
    at(&clock, &term.handle, &runners, first + 21).await;
    let made = ticks(&term.handle).await;
    assert_eq!(made[&first].state, TaskState::Cancelling);
    assert_eq!(made[&(first + 10)].state, TaskState::Cancelled);
    let third = &made[&(first + 20)];
    assert_eq!((third.state, third.waits_for.len()), (TaskState::Blocked, 1), "{third:#?}");
    runners[0].state().unreachable = false;
    until(&term.handle, &runners, third.id, is(TaskState::Running)).await;
    assert!(term.handle.show(made[&first].id.to_string()).await.expect("kept").state.is_final());
}
