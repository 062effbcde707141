//! Whose orders are taken, and which are taken twice.

use proto::runner::{Presence, Refusal, RunnerRpc, Start, StartBatch, StartReply};
use proto::task::{AttemptEnd, TaskSpec};
use proto::{ClusterId, Epoch, FencingToken, Grant, Incarnation};
use runner::{Task, TaskService, Unfit, Work};
use tarpc::context;
use tokio_util::sync::CancellationToken;

use crate::common::{EPOCH, Link, Node, attempt, eventually, options, sh, token};

fn noop() -> TaskSpec {
    TaskSpec::new("noop", vec![])
}

#[tokio::test]
async fn orders_of_the_deposed_the_foreign_and_the_outdated_are_refused() {
    let (dir, link) = (tempfile::tempdir().unwrap(), Link::new());
    let node = Node::boot(options(dir.path(), &link, 1), &link).await;
    let good = node.batch(vec![Start { attempt: attempt(1), spec: noop(), checkpoint: None }]);
    let foreign = FencingToken { cluster: ClusterId::from_u128(2), epoch: Epoch(EPOCH) };
    let (other_life, other_grant) = (Incarnation::from_u128(9), Grant::new(Epoch(EPOCH), 9));
    let cases: [(StartBatch, Refusal); 4] = [
        (StartBatch { token: token(EPOCH - 1), ..good.clone() }, Refusal::StaleToken { seen: Epoch(EPOCH) }),
        (StartBatch { token: foreign, ..good.clone() }, Refusal::ForeignCluster),
        (
            StartBatch { incarnation: other_life, ..good.clone() },
            Refusal::WrongIncarnation { current: node.life },
        ),
        (
            StartBatch { grant: other_grant, ..good.clone() },
            Refusal::WrongGrant { current: Some(good.grant) },
        ),
    ];
    for (batch, refusal) in cases {
        assert_eq!(node.try_start(batch).await, Err(refusal));
    }
    let stale = Err(Refusal::StaleToken { seen: Epoch(EPOCH) });
    let server = node.handle.server();
    assert_eq!(server.clone().inventory(context::current(), token(1)).await.map(|_| ()), stale);
    assert_eq!(server.cancel(context::current(), token(1), vec![attempt(1)]).await.map(|_| ()), stale);
    assert_eq!(node.confirm(attempt(1)).await, Presence::Unknown, "none of them started it");
    node.stop().await;
}

#[tokio::test]
async fn nothing_is_taken_before_the_epoch_was_observed() {
    let (dir, link) = (tempfile::tempdir().unwrap(), Link::new());
    let runner =
        runner::Runner::new(options(dir.path(), &link, 1)).boot(CancellationToken::new()).await.unwrap();
    let refused = runner.handle().server().inventory(context::current(), token(99)).await;
    assert!(matches!(refused, Err(Refusal::Failed(_))), "{refused:?}");
    assert!(link.with(|leader| leader.beats.is_empty()), "and nobody is told anything");
    // All at once: the loop sees only what is left.
    for epoch in [EPOCH + 1, EPOCH] {
        runner.handle().observe(token(epoch));
    }
    let floor = eventually("a floor", || runner.handle().status().borrow().floor).await;
    assert_eq!(floor, token(EPOCH + 1));
    let _ = runner.drain().stop(crate::common::PATIENCE).await;
}

#[tokio::test]
async fn a_repeated_start_runs_once_even_after_its_end_was_acknowledged() {
    let (dir, link) = (tempfile::tempdir().unwrap(), Link::new());
    let node = Node::boot(options(dir.path(), &link, 1), &link).await;
    let traces = dir.path().join("traces");
    let spec = sh(&format!("echo run >> {}", traces.display()));
    for _ in 0..3 {
        node.start(attempt(1), spec.clone()).await;
    }
    link.end_of(attempt(1)).await;
    eventually("the acknowledgement", || (node.handle.status().borrow().unacknowledged == 0).then_some(()))
        .await;
    node.start(attempt(1), spec).await;
    assert!(matches!(node.confirm(attempt(1)).await, Presence::Ended(_)));
    assert_eq!(std::fs::read_to_string(traces).unwrap(), "run\n");
    node.stop().await;
}

#[tokio::test]
async fn any_number_of_questions_takes_bounded_work() {
    let (dir, link) = (tempfile::tempdir().unwrap(), Link::new());
    let node = Node::boot(options(dir.path(), &link, 1), &link).await;
    let ask = |n| node.handle.server().confirm(context::current(), token(EPOCH), vec![attempt(n)]);
    let answers = futures::future::join_all((1..=200).map(ask)).await;
    let refused = |answer: &&Result<_, _>| matches!(answer, Err(Refusal::Failed(_)));
    assert!(answers.iter().any(|answer| refused(&answer)), "each is a write to disk");
    for (n, answer) in (1..).zip(answers) {
        match answer {
            Ok(presences) => assert_eq!(presences, [Presence::Unknown]),
            Err(_) => assert_eq!(node.confirm(attempt(n)).await, Presence::Unknown, "when asked again"),
        }
    }
    node.stop().await;
}

#[tokio::test]
async fn a_repeated_start_runs_once_even_after_its_output_was_removed() {
    let (dir, link) = (tempfile::tempdir().unwrap(), Link::new());
    let mut options = options(dir.path(), &link, 1);
    options.retention.attempts_max = 0;
    let node = Node::boot(options, &link).await;
    let traces = dir.path().join("traces");
    let spec = sh(&format!("echo run | tee -a {}", traces.display()));
    node.start(attempt(1), spec.clone()).await;
    let attempts = dir.path().join("runner/attempts");
    eventually("the removal", || {
        (link.outcome(attempt(1)).is_some() && std::fs::read_dir(&attempts).unwrap().count() == 0)
            .then_some(())
    })
    .await;
    node.start(attempt(1), spec).await;
    assert!(matches!(node.confirm(attempt(1)).await, Presence::Ended(_)));
    assert_eq!(node.output(attempt(1), 0).await, Err(Refusal::OutputRemoved { bytes: 4 }));
    assert_eq!(std::fs::read_to_string(traces).unwrap(), "run\n");
    node.stop().await;
}

#[tokio::test]
async fn what_was_declared_unknown_is_refused_for_ever() {
    let (dir, link) = (tempfile::tempdir().unwrap(), Link::new());
    let node = Node::boot(options(dir.path(), &link, 1), &link).await;
    assert_eq!(node.confirm(attempt(1)).await, Presence::Unknown);
    assert_eq!(node.cancel(attempt(2)).await, [Presence::Unknown]);
    let refused = |replies: Result<Vec<StartReply>, Refusal>| {
        replies.is_ok_and(|replies| replies.iter().all(|reply| matches!(reply, StartReply::Refused { .. })))
    };
    let starts = || (1..=2).map(|n| Start { attempt: attempt(n), spec: noop(), checkpoint: None }).collect();
    assert!(refused(node.try_start(node.batch(starts())).await));
    node.stop().await;
    let node = Node::boot(options(dir.path(), &link, 2), &link).await;
    assert!(refused(node.try_start(node.batch(starts())).await), "also by the next life");
    node.stop().await;
}

/// An embedder's mistake.
#[derive(Debug)]
struct Crashing;

impl TaskService for Crashing {
    fn prepare(&self, _: Task) -> Result<Work, Unfit> {
        panic!("on purpose")
    }
}

#[tokio::test]
async fn a_service_that_crashes_ends_nothing_but_its_own() {
    let (dir, link) = (tempfile::tempdir().unwrap(), Link::new());
    let mut options = options(dir.path(), &link, 1);
    options.services = options.services.with("crashing", Crashing);
    let node = Node::boot(options, &link).await;
    let starts =
        vec![Start { attempt: attempt(1), spec: TaskSpec::new("crashing", vec![]), checkpoint: None }];
    let replies = node.try_start(node.batch(starts)).await.unwrap();
    assert!(matches!(&replies[..], [StartReply::Refused { .. }]), "{replies:?}");
    node.start(attempt(2), noop()).await;
    let handle = node.handle.clone();
    assert!(!handle.has_ended());
    node.stop().await;
    assert!(handle.has_ended());
}

#[tokio::test]
async fn each_start_gets_its_own_answer() {
    let (dir, link) = (tempfile::tempdir().unwrap(), Link::new());
    let mut options = options(dir.path(), &link, 1);
    options.slots = 1;
    let node = Node::boot(options, &link).await;
    let specs = [
        TaskSpec::new("unheard-of", vec![]),
        TaskSpec::new("sleep", b"not json".to_vec()),
        TaskSpec::new("sleep", br#"{"ms": 100000}"#.to_vec()),
        noop(),
    ];
    let starts =
        (1..).zip(specs).map(|(n, spec)| Start { attempt: attempt(n), spec, checkpoint: None }).collect();
    let replies = node.try_start(node.batch(starts)).await.unwrap();
    let [StartReply::Refused { reason }, StartReply::Refused { .. }, StartReply::Accepted, StartReply::Busy] =
        &replies[..]
    else {
        panic!("{replies:?}")
    };
    assert!(reason.contains("unheard-of"), "{reason}");
    node.cancel(attempt(3)).await;
    assert_eq!(link.end_of(attempt(3)).await, AttemptEnd::Cancelled);

    let handle = node.handle.clone();
    let batch = node.batch(vec![Start { attempt: attempt(5), spec: noop(), checkpoint: None }]);
    let draining = node.runner.drain();
    eventually("the drain", || (handle.status().borrow().free == 0).then_some(())).await;
    assert_eq!(handle.server().start(context::current(), batch).await, Err(Refusal::Draining));
    let _ = draining.stop(crate::common::PATIENCE).await;
}
