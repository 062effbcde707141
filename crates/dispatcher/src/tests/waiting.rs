//! What tasks wait for: their time, other tasks, locks and limits.

use proto::task::{Condition, Dependency, Limit, Rules};

use super::*;

fn with(id: u64, kind: &str, rules: Rules) -> Submission {
    let mut submission = task(id, kind);
    submission.spec.rules = Some(Box::new(rules));
    submission
}

fn after(task: TaskId, on: Condition) -> Rules {
    Rules { after: vec![Dependency { task, on }], ..Rules::default() }
}

fn under(key: &str, max: u32) -> Rules {
    Rules { limits: vec![Limit { key: key.to_owned(), max }], ..Rules::default() }
}

/// Ends what runs of a task.
fn end(runners: &[FakeRunner], id: TaskId, end: &AttemptEnd) {
    for runner in runners {
        let running: Vec<_> = runner.state().running.keys().copied().filter(|it| it.task == id).collect();
        for attempt in running {
            runner.end(attempt, end.clone());
        }
    }
}

const GOOD: AttemptEnd = AttemptEnd::Exited { code: 0 };

async fn why(handle: &Handle, id: TaskId) -> String {
    handle.why(id.to_string()).await.expect("it exists").reason
}

#[tokio::test(start_paused = true)]
async fn a_task_starts_at_its_time_also_under_the_next_leader() {
    let (log, clock) = (MemoryLog::new(), TokioClock::start());
    let runners = [FakeRunner::new("n1", 2)];
    let term = lead(&log, clock, 1, &runners).await;
    let delay = Rules { delay_ms: Some(60_000), ..Rules::default() };
    let id = submit(&term.handle, with(1, "noop", delay)).await;
    let began = tokio::time::Instant::now();
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert_eq!(term.handle.show(id.to_string()).await.map(|view| view.state), Ok(TaskState::Scheduled));
    let said = why(&term.handle, id).await;
    assert!(said.contains("not before 40.0 s from now"), "{said}");
    drop(term);
    let term = lead(&log, clock, 2, &runners).await;
    until(&term.handle, &runners, id, is(TaskState::Succeeded)).await;
    let took = began.elapsed();
    assert!((60..62).contains(&took.as_secs()), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_graph_runs_in_order_and_what_cannot_be_is_cancelled_and_says_why() {
    let (log, clock) = (MemoryLog::new(), TokioClock::start());
    let runners = [FakeRunner::new("n1", 8)];
    let term = lead(&log, clock, 1, &runners).await;
    let id = |n: u64| TaskId::from_u128(u128::from(n) << 96);
    let graph = vec![
        task(1, "wait"),
        with(2, "wait", after(id(1), Condition::Success)),
        with(3, "noop", after(id(2), Condition::Failure)),
        with(4, "noop", after(id(2), Condition::Success)),
        with(5, "noop", after(id(4), Condition::Success)),
        with(6, "noop", after(id(5), Condition::Always)),
    ];
    let answers = term.handle.submit(graph).await.expect("answered");
    assert!(answers.iter().all(|answer| matches!(answer, Submitted::Accepted { .. })), "{answers:?}");
    until(&term.handle, &runners, id(1), is(TaskState::Running)).await;
    let said = why(&term.handle, id(2)).await;
    assert!(said.contains(&format!("once task {} succeeds, which is running", id(1))), "{said}");
    assert_eq!(runners[0].state().started.len(), 1, "the others wait");

    // A leader that comes to power meanwhile knows what is left to wait for.
    drop(term);
    end(&runners, id(1), &GOOD);
    let term = lead(&log, clock, 2, &runners).await;
    until(&term.handle, &runners, id(2), is(TaskState::Running)).await;
    end(&runners, id(2), &AttemptEnd::Exited { code: 3 });
    until(&term.handle, &runners, id(3), is(TaskState::Succeeded)).await;
    until(&term.handle, &runners, id(6), is(TaskState::Succeeded)).await;
    for (cancelled, because) in [(4, 2), (5, 4)] {
        let view = term.handle.show(id(cancelled).to_string()).await.expect("it exists");
        assert_eq!((view.state, view.attempt_count), (TaskState::Cancelled, 0));
        let state = if because == 2 { "failed" } else { "cancelled" };
        let said = why(&term.handle, id(cancelled)).await;
        assert!(said.contains(&format!("task {} succeeds, and that is {state}", id(because))), "{said}");
    }
    // What has ended before counts at once, either way.
    submit(&term.handle, with(7, "noop", after(id(2), Condition::Failure))).await;
    until(&term.handle, &runners, id(7), is(TaskState::Succeeded)).await;
    submit(&term.handle, with(8, "noop", after(id(2), Condition::Success))).await;
    until(&term.handle, &runners, id(8), is(TaskState::Cancelled)).await;
    let unknown = with(9, "noop", after(id(77), Condition::Success));
    match term.handle.submit(vec![unknown]).await.expect("answered").pop() {
        Some(Submitted::Refused(error)) => {
            assert_eq!(error.kind, ApiErrorKind::Invalid);
            assert!(error.message.contains("not known here"), "{error}");
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn locks_and_limits_hold_until_nothing_runs_any_more_and_do_not_hold_up_others() {
    let (log, clock) = (MemoryLog::new(), TokioClock::start());
    let mut runners = [FakeRunner::new("n1", 8), FakeRunner::new("n2", 8)];
    let term = lead(&log, clock, 1, &runners).await;
    let mut locked = with(1, "wait", under("disk", 1));
    locked.spec.on_lost = proto::task::LostPolicy::RequeueNow;
    let first = submit(&term.handle, locked).await;
    until(&term.handle, &runners, first, is(TaskState::Running)).await;
    let second = submit(&term.handle, with(2, "noop", under("disk", 1))).await;
    let other = submit(&term.handle, with(3, "noop", under("tape", 1))).await;
    until(&term.handle, &runners, other, is(TaskState::Succeeded)).await;
    let said = why(&term.handle, second).await;
    assert!(said.contains(&format!("\"disk\" is locked by task {first}")), "{said}");

    // Its node is gone: the lock is not, whatever its policy, before its right to run has ended.
    let at = usize::from(runners[1].state().running.keys().any(|attempt| attempt.task == first));
    let gone = runners[at].clone();
    gone.state().unreachable = true;
    runners.rotate_left(at);
    let left = &runners[1..];
    term.members.send_replace(members_of(left));
    let began = tokio::time::Instant::now();
    until(&term.handle, left, first, |view| view.attempt_count == 2).await;
    assert!(began.elapsed() >= FENCE - Duration::from_secs(1), "{:?}", began.elapsed());
    until(&term.handle, left, first, |_| left[0].state().running.keys().any(|it| it.task == first)).await;
    end(left, first, &GOOD);
    until(&term.handle, left, second, is(TaskState::Succeeded)).await;

    // A limit lets as many run as it says.
    let ids: Vec<TaskId> = (10..15).map(|n| TaskId::from_u128(n << 96)).collect();
    let tasks = (10..15).map(|n| with(n, "wait", under("pool", 2))).collect();
    assert!(term.handle.submit(tasks).await.is_ok());
    let pool = |runner: &FakeRunner| {
        runner.state().running.keys().filter(|attempt| ids.contains(&attempt.task)).count()
    };
    for expected in [2, 2, 2, 2, 1] {
        for _ in 0..20 {
            left[0].beat(&term.handle).await;
            left[0].report(&term.handle).await;
            tokio::time::sleep(Duration::from_millis(100)).await;
            assert!(pool(&left[0]) <= 2);
        }
        assert_eq!(pool(&left[0]), expected);
        let one = left[0].state().running.keys().find(|attempt| ids.contains(&attempt.task)).copied();
        left[0].end(one.expect("some run"), GOOD);
    }
}

#[tokio::test(start_paused = true)]
async fn whoever_waits_for_longer_than_it_may_ends_and_what_no_retry_helps_is_not_tried_again() {
    let (log, clock) = (MemoryLog::new(), TokioClock::start());
    let runners = [FakeRunner::new("n1", 1)];
    let term = lead(&log, clock, 1, &runners).await;
    let busy = submit(&term.handle, task(1, "wait")).await;
    until(&term.handle, &runners, busy, is(TaskState::Running)).await;
    let hurry = Rules { queue_timeout_ms: Some(5_000), ..Rules::default() };
    let hurried = submit(&term.handle, with(2, "noop", hurry.clone())).await;
    let view = until(&term.handle, &runners, hurried, is(TaskState::TimedOut)).await;
    assert_eq!(view.note.as_deref(), Some("it waited for a slot for 5s, its queue timeout"));
    let waited = view.finished_ms.unwrap_or(0) - view.submitted_ms;
    assert!((5_000..6_000).contains(&waited), "{waited}");

    let mut picky = with(3, "wait", Rules { permanent_exit_codes: vec![2], ..hurry });
    (picky.spec.retries.max, picky.spec.retries.backoff_ms) = (5, 10);
    let picky = submit(&term.handle, picky).await;
    end(&runners, busy, &GOOD);
    for code in [1, 2] {
        until(&term.handle, &runners, picky, is(TaskState::Running)).await;
        end(&runners, picky, &AttemptEnd::Exited { code });
        runners[0].report(&term.handle).await;
    }
    let view = until(&term.handle, &runners, picky, |view| view.state.is_final()).await;
    assert_eq!((view.state, view.attempt_count), (TaskState::Failed, 2));
}

#[tokio::test(start_paused = true)]
async fn a_time_that_comes_while_nobody_leads_is_over_and_its_wait_counts() {
    let (log, clock) = (MemoryLog::new(), TokioClock::start());
    let runners = [FakeRunner::new("n1", 1)];
    let term = lead(&log, clock, 1, &runners).await;
    let busy = submit(&term.handle, task(1, "wait")).await;
    until(&term.handle, &runners, busy, is(TaskState::Running)).await;
    let rules = Rules { delay_ms: Some(5_000), queue_timeout_ms: Some(10_000), ..Rules::default() };
    let hurried = submit(&term.handle, with(2, "noop", rules)).await;
    drop(term);
    tokio::time::sleep(Duration::from_secs(8)).await;
    let term = lead(&log, clock, 2, &runners).await;
    assert_eq!(term.handle.show(hurried.to_string()).await.map(|view| view.state), Ok(TaskState::Queued));
    let view = until(&term.handle, &runners, hurried, is(TaskState::TimedOut)).await;
    let waited = view.finished_ms.unwrap_or(0) - view.submitted_ms;
    assert!((15_000..16_000).contains(&waited), "{waited}");
}

/// A file that was sent in part is sent again, with ids drawn anew and the same keys.
#[tokio::test(start_paused = true)]
async fn who_waits_for_a_task_that_is_there_by_its_key_waits_for_that_one() {
    let (log, clock) = (MemoryLog::new(), TokioClock::start());
    let runners = [FakeRunner::new("n1", 1)];
    let term = lead(&log, clock, 1, &runners).await;
    let keyed = |n| {
        let mut task = task(n, "wait");
        task.spec.idempotency_key = Some("copy".to_owned());
        task
    };
    let first = submit(&term.handle, keyed(1)).await;
    let again = keyed(11);
    let behind = with(12, "noop", after(again.id, Condition::Success));
    let id = behind.id;
    let answers = term.handle.submit(vec![again, behind]).await.expect("answered");
    assert!(
        matches!(answers[..], [Submitted::Existing { id: known, .. }, Submitted::Accepted { .. }] if known == first)
    );
    until(&term.handle, &runners, first, is(TaskState::Running)).await;
    end(&runners, first, &GOOD);
    until(&term.handle, &runners, id, is(TaskState::Succeeded)).await;
}

#[tokio::test(start_paused = true)]
async fn what_waits_can_be_cancelled_and_those_behind_it_are_told() {
    let (log, clock) = (MemoryLog::new(), TokioClock::start());
    let runners = [FakeRunner::new("n1", 1)];
    let term = lead(&log, clock, 1, &runners).await;
    let delay = Rules { delay_ms: Some(3_600_000), ..Rules::default() };
    let later = submit(&term.handle, with(1, "noop", delay)).await;
    let then = submit(&term.handle, with(2, "noop", after(later, Condition::Success))).await;
    let undo = submit(&term.handle, with(3, "noop", after(then, Condition::Failure))).await;
    assert_eq!(term.handle.cancel(later.to_string()).await.map(|view| view.state), Ok(TaskState::Cancelled));
    until(&term.handle, &runners, then, is(TaskState::Cancelled)).await;
    until(&term.handle, &runners, undo, is(TaskState::Succeeded)).await;
    // Whoever retries it wants it now, whatever it was to wait for.
    assert_eq!(term.handle.retry(then.to_string()).await.map(|view| view.note), Ok(None));
    until(&term.handle, &runners, then, is(TaskState::Succeeded)).await;
}
