//! A claim, and a join, whose caller waits or gives up while the connection is away.

use std::time::Duration;

use coord::{Link, Mode, Op, OpResult, ReadBack, Undo, Write, WriteError};
use drill::{Bug, Drill};
use futures::{StreamExt, stream};
use testkit::{Flow, Proxy};

use crate::common::{create, layout};
use crate::{LIMIT, PATIENCE, back_after, connection, faults, lost_unnoticed, session, within};

/// For how long a caller waits that gives up.
const BRIEF: Duration = Duration::from_millis(200);

/// For how long the link does not know that its client is disconnected: ample for the caller to come and go.
const UNNOTICED: &str = "hold:coord.lost=2s";

/// Scenarios at a time.
const AT_A_TIME: usize = 4;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Claim,
    Join,
}

/// Where the write is when the connection goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Moment {
    /// In the client, which has no connection and sends it on the next one.
    Queued,
    /// On a wire that brings it nowhere.
    InFlight,
    /// Executed, and the answer is on its way.
    Unanswered,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Caller {
    Waits,
    GivesUpBeforeTheCut,
    GivesUpWhileCut,
}

type Case = (Kind, Moment, Caller);

/// What became of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Summary {
    executed: bool,
    acknowledged: bool,
}

fn claim() -> Write {
    let layout = layout();
    Write {
        ops: vec![
            Op::Check { path: candidate(), version: 0 },
            create(&layout.leader(), Mode::Ephemeral),
            Op::Set { path: layout.epoch(), data: b"ours".into(), version: Some(0) },
        ],
        read_back: ReadBack::OwnEphemeral { path: layout.leader() },
        undo: Undo::DeleteOwn,
    }
}

fn candidate() -> String {
    format!("{}/ours", layout().candidates())
}

fn join() -> Write {
    let (dir, prefix) = (layout().members(), "_c_ours-z-".to_owned());
    Write {
        ops: vec![create(&format!("{dir}/{prefix}"), Mode::EphemeralSequential)],
        read_back: ReadBack::OwnSequential { dir, prefix },
        undo: Undo::DeleteOwn,
    }
}

/// Every ephemeral in the tree that the write may leave, as somebody else sees it.
async fn left(witness: &Link) -> Vec<String> {
    witness.sync("/").await.unwrap();
    let members = layout().members();
    let mut paths: Vec<_> = witness.children(&members).await.unwrap();
    paths.iter_mut().for_each(|name| *name = format!("{members}/{name}"));
    let leader = witness.exists(&layout().leader()).await.unwrap();
    paths.extend(leader.map(|_| layout().leader()));
    paths
}

async fn executed(kind: Kind, witness: &Link) -> bool {
    witness.sync("/").await.unwrap();
    match kind {
        Kind::Claim => witness.exists(&layout().epoch()).await.unwrap().unwrap().version > 0,
        Kind::Join => witness.exists(&layout().members()).await.unwrap().unwrap().cversion > 0,
    }
}

async fn scenario(drill: Drill, (kind, moment, caller): Case) -> Result<Summary, String> {
    let coordinator = testkit::coordinator().await;
    let proxy = Proxy::start(coordinator.hosts()).await;
    let others = session(coordinator.hosts(), &Drill::none()).await;
    let ours = session(proxy.hosts(), &drill).await;
    let (link, witness) = (ours.link(), others.link());
    let candidacy = Write {
        ops: vec![create(&candidate(), Mode::Ephemeral)],
        read_back: ReadBack::OwnEphemeral { path: candidate() },
        undo: Undo::Keep,
    };
    link.write(candidacy, PATIENCE).await.unwrap();
    let last = connection(&link);

    match moment {
        Moment::Queued => {
            proxy.replace(|faults| faults.refuse = true);
            lost_unnoticed(&drill).await;
        }
        Moment::InFlight => proxy.set(|faults| faults.to_server = Flow::Stall),
        Moment::Unanswered => proxy.set(|faults| faults.to_client = Flow::Stall),
    }
    let write = if kind == Kind::Claim { claim() } else { join() };
    let patience = if caller == Caller::Waits { PATIENCE } else { BRIEF };
    let mut write = Box::pin(link.write(write, patience));
    let mut answer = None;
    if caller == Caller::GivesUpBeforeTheCut {
        answer = Some(write.as_mut().await);
    }
    match moment {
        Moment::Queued => {}
        // It has left before what is asked after it.
        Moment::InFlight => {
            link.sync("/").await.expect_err("nothing arrives");
        }
        Moment::Unanswered => {
            within("it is executed", PATIENCE, async || executed(kind, &witness).await.then_some(())).await?;
        }
    }
    if caller == Caller::GivesUpWhileCut {
        proxy.replace(|faults| faults.refuse = true);
        answer = Some(write.as_mut().await);
    }
    proxy.replace(|_| {});
    let answer = match answer {
        Some(answer) => answer,
        None => write.await,
    };
    back_after(&link, last).await;

    let expected = match (caller, answer) {
        (Caller::Waits, Ok(results)) => {
            let created = results.into_iter().find_map(|result| match result {
                OpResult::Created { path, .. } => Some(path),
                _ => None,
            });
            vec![created.ok_or("the answer names no node")?]
        }
        (Caller::GivesUpBeforeTheCut | Caller::GivesUpWhileCut, Err(WriteError::Unknown)) => Vec::new(),
        (_, answer) => return Err(format!("the caller was told {answer:?}")),
    };
    let mut found = Vec::new();
    let settled = within("what was told is what there is", LIMIT, async || {
        found = left(&witness).await;
        (found == expected).then_some(())
    });
    let settled = settled.await;
    settled.map_err(|late| format!("{late}: expected {expected:?}, and there is {found:?}"))?;
    let mut own = link.own_ephemerals(layout().root()).await.unwrap();
    own.retain(|path| *path != candidate());
    if own != expected {
        return Err(format!("the session owns {own:?} instead of {expected:?}"));
    }
    let executed = executed(kind, &witness).await;
    ours.close(PATIENCE).await.unwrap();
    others.close(PATIENCE).await.unwrap();
    Ok(Summary { executed, acknowledged: !expected.is_empty() })
}

fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for kind in [Kind::Claim, Kind::Join] {
        for moment in [Moment::Queued, Moment::InFlight, Moment::Unanswered] {
            for caller in [Caller::Waits, Caller::GivesUpBeforeTheCut, Caller::GivesUpWhileCut] {
                // What is queued is queued because of the cut.
                if (moment, caller) != (Moment::Queued, Caller::GivesUpBeforeTheCut) {
                    cases.push((kind, moment, caller));
                }
            }
        }
    }
    cases
}

async fn run(bug: Option<Bug>, cases: Vec<Case>) -> Vec<(Case, Result<Summary, String>)> {
    let runs = cases.into_iter().map(|case| async move {
        let points = if case.1 == Moment::Queued { UNNOTICED } else { "" };
        (case, scenario(faults(bug, points), case).await)
    });
    stream::iter(runs).buffer_unordered(AT_A_TIME).collect().await
}

#[tokio::test]
async fn holds_that_nothing_stays_which_nobody_wants_and_nothing_is_lost_that_was_told() {
    for (case, outcome) in run(None, cases()).await {
        let summary = outcome.unwrap_or_else(|violation| panic!("{case:?}: {violation}"));
        let (_, moment, caller) = case;
        assert_eq!(summary.acknowledged, caller == Caller::Waits, "{case:?}");
        let late = moment != Moment::InFlight;
        assert!(summary.executed || !late, "{case:?}: this was to be a late write, and none was executed");
    }
}

#[tokio::test]
async fn finds_planted_undo_forgotten() {
    let mut cases = cases();
    cases.retain(|(_, moment, caller)| *moment != Moment::InFlight && *caller != Caller::Waits);
    for (case, outcome) in run(Some(Bug::UndoForgotten), cases).await {
        let violation = outcome.expect_err(&format!("{case:?}: the bug went unnoticed"));
        assert!(violation.contains("what was told is what there is"), "{case:?}: {violation}");
    }
}
