//! What operators set: drained nodes, a pause, quotas; and where tasks would rather run.

use proto::operate::{NodeState, OperateOrder, Operations, Quota, Said};
use proto::placing::{Placing, Term};
use proto::task::{LostPolicy, Rules};

use super::*;

fn said() -> Said {
    Said { by: Some("ops".into()), reason: Some("new disks".into()), at_ms: 0 }
}

fn drain(node: &str, deadline_in_ms: Option<u64>) -> OperateOrder {
    OperateOrder::Drain { node: node.parse().expect("valid"), deadline_in_ms, absent: false, said: said() }
}

fn undrain(node: &str) -> OperateOrder {
    OperateOrder::Undrain { node: node.parse().expect("valid") }
}

async fn operate(handle: &Handle, order: OperateOrder) -> Operations {
    handle.operate(order).await.expect("it is carried out").now
}

fn state_of(now: &Operations, node: &str) -> NodeState {
    now.nodes.iter().find(|view| view.node.as_str() == node).expect("it is known").state
}

fn placed(id: u64, kind: &str, placing: Placing) -> Submission {
    let mut submission = task(id, kind);
    submission.spec.rules = Some(Box::new(Rules { placing: Some(Box::new(placing)), ..Rules::default() }));
    submission
}

fn term(text: &str) -> Term {
    text.parse().expect("a term")
}

async fn why(handle: &Handle, id: TaskId) -> (String, Option<String>) {
    let why = handle.why(id.to_string()).await.expect("it exists");
    (why.reason, why.remedy)
}

async fn beat(handle: &Handle, runners: &[FakeRunner]) {
    for runner in runners {
        assert!(runner.beat(handle).await);
    }
}

/// Where the newest attempt is.
fn node_of(view: &TaskView) -> &str {
    view.attempts.last().expect("there is one").node.as_str()
}

fn end_all(runners: &[FakeRunner]) {
    for runner in runners {
        let running: Vec<_> = runner.state().running.keys().copied().collect();
        for attempt in running {
            runner.end(attempt, AttemptEnd::Exited { code: 0 });
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_drained_node_gets_nothing_and_what_runs_there_moves_at_the_deadline_also_under_the_next_leader() {
    let (log, clock) = (MemoryLog::new(), TokioClock::start());
    let runners = [FakeRunner::new("n1", 4), FakeRunner::new("n2", 4)];
    let term = lead(&log, clock, 1, &runners).await;
    beat(&term.handle, &runners[..1]).await;
    let (stays, moves) = (task(1, "wait"), task(2, "wait"));
    let mut fails = task(3, "wait");
    fails.spec.on_lost = LostPolicy::Fail;
    let mut ids = Vec::new();
    for submission in [stays, moves, fails] {
        let id = submit(&term.handle, submission).await;
        let view = until(&term.handle, &runners[..1], id, is(TaskState::Running)).await;
        assert_eq!(node_of(&view), "n1");
        ids.push(id);
    }
    beat(&term.handle, &runners).await;
    let unknown = term.handle.operate(drain("n7", None)).await.expect_err("it is no member");
    assert!(unknown.message.contains("members are n1, n2"), "{unknown}");

    let now = operate(&term.handle, drain("n1", Some(60_000))).await;
    assert_eq!((state_of(&now, "n1"), state_of(&now, "n2")), (NodeState::Draining, NodeState::Ready));
    let later = submit(&term.handle, task(4, "wait")).await;
    let view = until(&term.handle, &runners, later, is(TaskState::Running)).await;
    assert_eq!(node_of(&view), "n2", "n1 has more free slots and is drained");
    let (reason, remedy) = why(&term.handle, ids[1]).await;
    assert!(reason.contains("runs on node n1; n1 is drained by ops 0 s ago (new disks): in "), "{reason}");
    assert_eq!(remedy.as_deref(), Some("taskd node undrain n1"));
    // One ends by itself before the deadline, and succeeds.
    let first = runners[0].state().started[0];
    runners[0].end(first, AttemptEnd::Exited { code: 0 });
    until(&term.handle, &runners, ids[0], is(TaskState::Succeeded)).await;

    // The leader that was told is gone; the next one knows.
    drop(term);
    let began = tokio::time::Instant::now();
    let term = lead(&log, clock, 2, &runners).await;
    assert_eq!(state_of(&term.handle.operations().await.expect("it leads"), "n1"), NodeState::Draining);
    let moved = until(&term.handle, &runners, ids[1], |view| view.attempt_count == 2).await;
    assert!(began.elapsed() > Duration::from_secs(50), "{:?}", began.elapsed());
    assert_eq!((moved.state, node_of(&moved)), (TaskState::Running, "n2"));
    let end = moved.attempts[0].end.as_ref().expect("it was ended").to_string();
    assert!(end.contains("n1 was drained"), "{end}");
    let lost = until(&term.handle, &runners, ids[2], is(TaskState::Lost)).await;
    assert_eq!(lost.attempt_count, 1, "its policy is not to run again");
    let now = term.handle.operations().await.expect("it leads");
    assert_eq!(state_of(&now, "n1"), NodeState::Drained);

    // With nobody else, it waits and says for what.
    operate(&term.handle, drain("n2", None)).await;
    let waits = submit(&term.handle, task(5, "noop")).await;
    beat(&term.handle, &runners).await;
    let (reason, remedy) = why(&term.handle, waits).await;
    assert!(reason.starts_with("n1 is drained by ops") && reason.contains("so is the other one"), "{reason}");
    assert_eq!(remedy.as_deref(), Some("taskd node undrain n1"));
    let done = term.handle.operate(undrain("n1")).await.expect("it is carried out");
    assert!(done.changed);
    assert!(!term.handle.operate(undrain("n1")).await.expect("it is carried out").changed);
    let view = until(&term.handle, &runners, waits, is(TaskState::Succeeded)).await;
    assert_eq!(node_of(&view), "n1");
    // Drained again, and undrained, in a row: the newest record holds.
    operate(&term.handle, drain("n1", Some(0))).await;
    operate(&term.handle, undrain("n1")).await;
    drop(term);
    let term = lead(&log, clock, 3, &runners).await;
    let now = term.handle.operations().await.expect("it leads");
    let drained: Vec<_> =
        now.nodes.iter().filter(|view| view.drain.is_some()).map(|view| view.node.as_str()).collect();
    assert_eq!(drained, ["n2"]);
}

/// A start that has not left yet comes back and goes elsewhere, and costs nothing.
#[tokio::test(start_paused = true)]
async fn what_was_assigned_and_not_sent_is_taken_back_from_a_drained_node() {
    let (log, clock) = (MemoryLog::new(), TokioClock::start());
    let runners = [FakeRunner::new("n1", 4), FakeRunner::new("n2", 1)];
    let term = lead(&log, clock, 1, &runners).await;
    beat(&term.handle, &runners).await;
    log.hold(true);
    let mut submission = Box::pin(term.handle.submit(vec![task(1, "wait")]));
    let early = tokio::time::timeout(Duration::from_millis(500), &mut submission).await;
    assert!(early.is_err(), "{early:?}");
    // Its assignment to n1, which has more room, waits for the commit; so does this.
    let mut drained = Box::pin(term.handle.operate(drain("n1", None)));
    let early = tokio::time::timeout(Duration::from_millis(500), &mut drained).await;
    assert!(early.is_err(), "{early:?}");
    log.hold(false);
    submission.await.expect("accepted");
    drained.await.expect("carried out");
    let id = task(1, "wait").id;
    let view = until(&term.handle, &runners, id, |view| view.attempt_count == 2).await;
    assert_eq!((view.state, node_of(&view)), (TaskState::Running, "n2"));
    assert!(runners[0].state().started.is_empty());
}

#[tokio::test(start_paused = true)]
async fn nothing_starts_while_the_cluster_is_paused_and_what_is_submitted_is_not_lost() {
    let (log, clock) = (MemoryLog::new(), TokioClock::start());
    let runners = [FakeRunner::new("n1", 4)];
    let term = lead(&log, clock, 1, &runners).await;
    let before = submit(&term.handle, task(1, "wait")).await;
    until(&term.handle, &runners, before, is(TaskState::Running)).await;
    let now = operate(&term.handle, OperateOrder::Pause { said: said() }).await;
    assert_eq!(now.paused.and_then(|said| said.by).as_deref(), Some("ops"));
    assert!(!term.handle.operate(OperateOrder::Pause { said: said() }).await.expect("carried out").changed);
    let waits = submit(&term.handle, task(2, "noop")).await;
    end_all(&runners);
    until(&term.handle, &runners, before, is(TaskState::Succeeded)).await;
    for epoch in [1, 2] {
        let next;
        let handle = if epoch == 1 {
            &term.handle
        } else {
            next = lead(&log, clock, 2, &runners).await;
            &next.handle
        };
        for _ in 0..50 {
            beat(handle, &runners).await;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let (reason, remedy) = why(handle, waits).await;
        assert!(
            reason.starts_with("the cluster is paused by ops") && reason.contains("(new disks)"),
            "{reason}"
        );
        assert_eq!(remedy.as_deref(), Some("taskd cluster resume"));
        assert_eq!(runners[0].state().started.len(), 1);
        if epoch == 2 {
            assert!(handle.operate(OperateOrder::Resume).await.expect("carried out").changed);
            until(handle, &runners, waits, is(TaskState::Succeeded)).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn quotas_limit_what_runs_and_refuse_what_may_not_wait_and_say_so() {
    let (log, clock) = (MemoryLog::new(), TokioClock::start());
    let runners = [FakeRunner::new("n1", 8), FakeRunner::new("n2", 8)];
    let term = lead(&log, clock, 1, &runners).await;
    beat(&term.handle, &runners).await;
    let quota = Quota { running: Some(2), ..Quota::default() };
    let set = |quota| OperateOrder::SetQuota { kind: "wait".into(), quota };
    operate(&term.handle, set(quota)).await;
    // What is not given stays.
    let now = operate(&term.handle, set(Quota { queued: Some(3), ..Quota::default() })).await;
    assert_eq!(now.quotas[0].quota, Quota { running: Some(2), queued: Some(3), ..Quota::default() });
    let mut ids = Vec::new();
    for id in 1..=2 {
        ids.push(submit(&term.handle, task(id, "wait")).await);
        until(&term.handle, &runners, ids[ids.len() - 1], is(TaskState::Running)).await;
    }
    for id in 3..=5 {
        ids.push(submit(&term.handle, task(id, "wait")).await);
    }
    let refused = |id: u64| {
        let handle = term.handle.clone();
        async move {
            match handle.submit(vec![task(id, "wait")]).await.expect("answered").pop() {
                Some(Submitted::Refused(error)) => error,
                other => panic!("{other:?}"),
            }
        }
    };
    let error = refused(6).await;
    assert_eq!(error.kind, ApiErrorKind::Full);
    let words = ["3 tasks of kind \"wait\" wait, and its quota is 3", "taskd quota set wait --queued N"];
    assert!(words.iter().all(|word| error.message.contains(word)), "{error}");
    // Others are not concerned, and are not held up.
    let other = submit(&term.handle, task(7, "noop")).await;
    until(&term.handle, &runners, other, is(TaskState::Succeeded)).await;
    let (reason, remedy) = why(&term.handle, ids[2]).await;
    assert_eq!(reason, "2 tasks of kind \"wait\" run, and its quota is 2");
    assert_eq!(remedy.as_deref(), Some("taskd quota set wait --running N"));
    let view = term.handle.operations().await.expect("it leads").quotas.remove(0);
    assert_eq!((view.running, view.queued), (2, 3));

    // The next leader counts the same.
    drop(term);
    let term = lead(&log, clock, 2, &runners).await;
    beat(&term.handle, &runners).await;
    let view = term.handle.operations().await.expect("it leads").quotas.remove(0);
    assert_eq!((view.running, view.queued), (2, 3));
    end_all(&runners);
    until(&term.handle, &runners, ids[0], is(TaskState::Succeeded)).await;
    until(&term.handle, &runners, ids[3], is(TaskState::Running)).await;
    let running = |runner: &FakeRunner| runner.state().running.len();
    assert_eq!(runners.iter().map(running).sum::<usize>(), 2);
    // More may run at once when the quota grows, also those that are parked.
    operate(&term.handle, set(Quota { running: Some(3), ..Quota::default() })).await;
    until(&term.handle, &runners, ids[4], is(TaskState::Running)).await;

    // A limit for each node.
    operate(&term.handle, OperateOrder::RemoveQuota { kind: "wait".into() }).await;
    operate(&term.handle, set(Quota { per_node: Some(2), ..Quota::default() })).await;
    for id in 11..=13 {
        ids.push(submit(&term.handle, task(id, "wait")).await);
    }
    for _ in 0..20 {
        beat(&term.handle, &runners).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(runners.iter().map(running).collect::<Vec<_>>(), [2, 2]);
    let (reason, remedy) = why(&term.handle, ids[7]).await;
    assert!(reason.contains("2 tasks of kind \"wait\" run on each node that could run it"), "{reason}");
    assert_eq!(remedy.as_deref(), Some("taskd quota set wait --per-node N"));

    // Bytes.
    operate(&term.handle, set(Quota { bytes: Some(40), ..Quota::default() })).await;
    let mut large = task(21, "wait");
    large.spec.payload = vec![7; 30];
    submit(&term.handle, large.clone()).await;
    large.id = TaskId::from_u128(22 << 96);
    match term.handle.submit(vec![large]).await.expect("answered").pop() {
        Some(Submitted::Refused(error)) => {
            assert!(error.message.contains("have 30 bytes, this one has 30, and its quota is 40"), "{error}");
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn tasks_run_where_they_have_to_and_where_they_would_rather() {
    let (log, clock) = (MemoryLog::new(), TokioClock::start());
    let runners = [
        FakeRunner::new("n1", 9).with("zone", "a"),
        FakeRunner::new("n2", 8).with("zone", "b").with("disk", "ssd"),
        FakeRunner::new("n3", 7).with("zone", "c").with("disk", "ssd"),
    ];
    let leader = lead(&log, clock, 1, &runners).await;
    let handle = &leader.handle;
    beat(handle, &runners).await;
    let require =
        |terms: &[&str]| Placing { require: terms.iter().map(|it| term(it)).collect(), ..Placing::default() };
    let prefer =
        |terms: &[&str]| Placing { prefer: terms.iter().map(|it| term(it)).collect(), ..Placing::default() };
    let rows = [
        (require(&["disk=ssd"]), "n2"),
        (require(&["disk=ssd", "zone!=b"]), "n3"),
        (require(&["!disk"]), "n1"),
        (prefer(&["zone=c"]), "n3"),
        (prefer(&["zone!=a", "disk=ssd", "zone=c"]), "n3"),
        // Nobody meets it, so that it runs where there is most room.
        (prefer(&["zone=x"]), "n1"),
    ];
    for (id, (placing, node)) in (1..).zip(rows) {
        let id = submit(handle, placed(id, "noop", placing.clone())).await;
        let view = until(handle, &runners, id, is(TaskState::Succeeded)).await;
        assert_eq!(node_of(&view), node, "{placing:?}");
    }
    let nowhere = submit(handle, placed(11, "noop", require(&["disk=ssd", "zone=a"]))).await;
    let (reason, remedy) = why(handle, nowhere).await;
    assert!(reason.contains("carries disk=ssd, zone=a") && remedy.is_some(), "{reason}");
    let huge = submit(handle, placed(12, "noop", Placing { slots: 10, ..Placing::default() })).await;
    let (reason, _) = why(handle, huge).await;
    assert!(reason.contains("takes 10 slots of one node") && reason.contains("more than 9"), "{reason}");

    let spread = Placing { spread: Some("copies".into()), ..Placing::default() };
    let mut nodes = Vec::new();
    for id in 21..=26 {
        let id = submit(handle, placed(id, "wait", spread.clone())).await;
        nodes.push(node_of(&until(handle, &runners, id, is(TaskState::Running)).await).to_owned());
    }
    for half in nodes.chunks(3) {
        let mut half = half.to_vec();
        half.sort_unstable();
        assert_eq!(half, ["n1", "n2", "n3"], "{nodes:?}");
    }
}

/// Small tasks keep coming; one that needs many slots gets them all the same, and takes them all.
#[tokio::test(start_paused = true)]
async fn a_task_that_takes_many_slots_is_not_starved() {
    let (log, clock) = (MemoryLog::new(), TokioClock::start());
    let runners = [FakeRunner::new("n1", 4)];
    let leader = lead(&log, clock, 1, &runners).await;
    let handle = &leader.handle;
    beat(handle, &runners).await;
    for id in 1..=4 {
        let id = submit(handle, task(id, "wait")).await;
        until(handle, &runners, id, is(TaskState::Running)).await;
    }
    let heavy = submit(handle, placed(5, "wait", Placing { slots: 3, ..Placing::default() })).await;
    for id in 6..=9 {
        submit(handle, task(id, "wait")).await;
    }
    for ended in 1..=3 {
        let first = *runners[0].state().running.keys().next().expect("something runs");
        runners[0].end(first, AttemptEnd::Exited { code: 0 });
        for _ in 0..10 {
            beat(handle, &runners).await;
            runners[0].report(handle).await;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let running: Vec<_> = runners[0].state().running.keys().map(|attempt| attempt.task).collect();
        if ended < 3 {
            let (reason, _) = why(handle, heavy).await;
            assert!(
                reason.contains(&format!(
                    "takes 3 slots of one node, and no node that could run it has more than {ended} free"
                )),
                "{reason}"
            );
            assert_eq!(running.len(), 4 - ended, "a slot that became free was kept");
        } else {
            assert!(running.contains(&heavy) && running.len() == 2, "{running:?}");
        }
    }
    let view = handle.operations().await.expect("it leads").nodes.remove(0);
    assert_eq!((view.used, view.attempts), (4, 2));
    end_all(&runners);
    let last = TaskId::from_u128(9 << 96);
    until(handle, &runners, last, is(TaskState::Running)).await;
}
