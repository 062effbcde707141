//! A deposed leader's late calls: refused, and without effect.

use drill::{Bug, Drill};
use proto::Epoch;
use proto::runner::{Presence, Refusal, RunnerRpc, Start};
use tarpc::context;

use crate::common::{EPOCH, Link, Node, Sleeper, attempt, options, sh, token};

/// The epochs whose leaders' calls were taken, in order.
fn accepted(drill: &Drill) -> Vec<u64> {
    let epoch = |fact: &String| fact.split_once(" accept epoch=")?.1.parse().ok();
    drill.history().iter().filter_map(epoch).collect()
}

/// A leader starts something, another one is elected and heard of, and then come the calls that the first had sent
/// before it knew. How many calls were accepted.
async fn scenario(drill: Drill, salt: u32) -> Result<usize, String> {
    let (dir, link, sleeper) = (tempfile::tempdir().unwrap(), Link::new(), Sleeper::new(salt));
    let mut options = options(dir.path(), &link, 1);
    options.drill = drill.clone();
    let node = Node::boot(options, &link).await;
    node.start(attempt(1), sh(&sleeper.command())).await;
    sleeper.runs(1).await;
    let server = || node.handle.server();
    let (deposed, present) = (token(EPOCH), token(EPOCH + 1));
    server().inventory(context::current(), present).await.map_err(|refusal| refusal.to_string())?;

    let stale = Refusal::StaleToken { seen: Epoch(EPOCH + 1) };
    let refused = |call: &str, answer: Result<(), Refusal>| match answer {
        Err(refusal) if refusal == stale => Ok(()),
        other => Err(format!("a deposed leader's {call} was answered {other:?}")),
    };
    let late = node.batch(vec![Start { attempt: attempt(2), spec: sh("true"), checkpoint: None }]);
    refused("start", node.try_start(late).await.map(drop))?;
    refused("question", server().confirm(context::current(), deposed, vec![attempt(3)]).await.map(drop))?;
    refused("cancel", server().cancel(context::current(), deposed, vec![attempt(1)]).await.map(drop))?;
    refused("inventory", server().inventory(context::current(), deposed).await.map(drop))?;

    let asked = vec![attempt(1), attempt(2)];
    let answer =
        server().confirm(context::current(), present, asked).await.map_err(|error| error.to_string())?;
    if answer != [Presence::Running, Presence::Unknown] || sleeper.is_gone() {
        return Err(format!("refused calls had effects: {answer:?}"));
    }
    let epochs = accepted(&drill);
    if !epochs.is_sorted() {
        return Err(format!("the accepted epochs went back: {epochs:?}"));
    }
    node.stop().await;
    Ok(epochs.len())
}

#[tokio::test]
async fn holds_that_a_deposed_leader_is_not_obeyed() {
    let accepted = scenario(Drill::parse("").unwrap(), 201).await;
    assert!(accepted.as_ref().is_ok_and(|accepted| *accepted >= 4), "{accepted:?}");
}

#[tokio::test]
async fn finds_planted_no_token_check() {
    let violation = scenario(Bug::NoTokenCheck.planted(), 202).await.expect_err("the bug went unnoticed");
    assert!(violation.contains("a deposed leader's"), "{violation}");
}
