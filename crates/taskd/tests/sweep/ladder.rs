//! The ladder of a stop, rung by rung: what lets itself be cancelled is; what does not is aborted when its share of the
//! deadline is over, is named, and the session is abandoned, so that what it fences stays fenced.

use std::fs::File;
use std::path::Path;
use std::time::Duration;

use rand::RngExt;
use taskd::client::Client;
use taskd::drill::Drill;
use taskd::{NodeHandle, StopReport};
use testkit::{Alive, until};

use crate::history::Resources;
use crate::run::{DEADLINE, Life, Scene, Stage, run_stubborn};
use crate::support::{SOON, processes_with};
use crate::{draw, full};

/// What a machine with too much to do may add to the deadline.
const NOISE: Duration = Duration::from_millis(500);

/// Something hangs, the stop comes, and this is how it has to go.
struct Rung {
    /// What hangs.
    hangs: &'static str,
    /// When the stop comes: once the history says this, or a leader serves.
    once: Option<&'static str>,
    /// Who is abandoned.
    abandoned: &'static [&'static str],
    /// The share of the deadline that is waited for it, in percent.
    share: u32,
}

const RUNGS: [Rung; 9] = [
    Rung { hangs: "runner.boot", once: Some("open listener"), abandoned: &[], share: 0 },
    Rung { hangs: "quorum.connect", once: Some("open runner"), abandoned: &[], share: 0 },
    Rung { hangs: "quorum.join", once: Some("open session"), abandoned: &[], share: 0 },
    Rung { hangs: "dispatcher.recover", once: Some("claimed"), abandoned: &[], share: 0 },
    Rung { hangs: "dispatcher.stop", once: None, abandoned: &["dispatcher", "quorum"], share: 30 },
    Rung { hangs: "runner.stop", once: None, abandoned: &["runner", "quorum"], share: 72 },
    // The loop itself, which is given less than what it is aborted after; then the one that waits for it.
    Rung { hangs: "vip.run", once: None, abandoned: &["VIP driver", "quorum"], share: 84 * 85 / 100 },
    Rung { hangs: "vip.stop", once: None, abandoned: &["VIP driver", "quorum"], share: 84 },
    Rung { hangs: "quorum.stop", once: None, abandoned: &["quorum"], share: 93 },
];

#[tokio::test]
async fn what_hangs_is_cancelled_or_aborted_at_its_share_and_named() {
    for rung in &RUNGS {
        climb(rung).await;
    }
}

async fn climb(rung: &Rung) {
    let what = rung.hangs;
    let dir = tempfile::tempdir().unwrap();
    let life = Life { scene: Scene::Work, component: "supervisor", poll: None };
    let stage = Stage::set(life, dir.path()).await;
    let drill = Drill::parse(&format!("hold:{what}")).unwrap();
    let (mut node, _) = stage.start("n1", drill.clone()).await;
    match rung.once {
        None => tokio::time::timeout(SOON, node.ready()).await.unwrap(),
        Some(once) => {
            until(once, SOON, async || drill.history().iter().any(|fact| fact.contains(once)).then_some(()))
                .await;
        }
    }
    let report = node.stop().await;
    eprintln!("{what} hangs: {report:?}");
    assert_eq!(report.abandoned, rung.abandoned, "{what} hangs: {report:?}");
    assert!(report.took <= DEADLINE + NOISE, "{what} hangs: {report:?}");
    assert!(report.took >= DEADLINE * rung.share / 100, "{what} hangs, too early: {report:?}");
    let (history, alive) = (drill.history(), stage.keeper.as_ref().unwrap().alive().await);
    let resources = Resources::of(&history);
    if rung.abandoned.is_empty() {
        assert!(report.took < DEADLINE / 2, "{what} lets itself be cancelled: {report:?}");
        assert_eq!(resources.wrong(), Vec::<String>::new(), "{what} hangs: {history:#?}");
        // Closed, and long before it would expire.
        until(&format!("{what} hangs: no session is left"), DEADLINE * 4 / 5, async || {
            (stage.keeper.as_ref()?.alive().await == Alive { sessions: 0, ephemerals: 0 }).then_some(())
        })
        .await;
    } else {
        // At least the member node; what hung is the only thing that was not ended.
        assert!(alive.sessions >= 1 && alive.ephemerals >= 1, "{what} hangs: {alive:?}, {history:#?}");
        let unfinished = resources.unfinished(&["close", "abandon"]);
        let component = what.split('.').next().unwrap();
        assert!(unfinished.iter().all(|one| one.starts_with(component)), "{what} hangs: {unfinished:?}");
    }
    next_life(&stage, dir.path(), what).await;
}

/// Cancelled instead of stopped: its owner drops it.
#[tokio::test]
async fn a_node_that_is_dropped_leaves_nothing_that_its_next_life_does_not_end() {
    let mut rng = draw("drops");
    let drawn: Vec<u64> = (0..if full() { 60 } else { 3 }).map(|_| rng.random_range(1..=60)).collect();
    // Without a number: once it leads and runs a task that does not hear SIGTERM.
    for poll in [1, 4, 8, 16, 32].into_iter().chain(drawn).map(Some).chain([None]) {
        let what = format!("dropped at {poll:?}");
        let dir = tempfile::tempdir().unwrap();
        let life = Life { scene: Scene::Work, component: "supervisor", poll: None };
        let stage = Stage::set(life, dir.path()).await;
        let drill = Drill::parse("").unwrap();
        let (node, address) = stage.start("n1", drill.clone()).await;
        match poll {
            Some(poll) => {
                until(&what, SOON, async || (drill.polls("supervisor") >= poll).then_some(())).await;
            }
            None => {
                let client = Client::new(address.parse().unwrap());
                run_stubborn(&client, dir.path()).await;
                client.close().await;
            }
        }
        drop(node);
        for lock in ["lock", "runner/lock"] {
            let path = dir.path().join("n1").join(lock);
            until(&format!("{lock} is free, {what}"), SOON, async || {
                File::open(&path).map_or(true, |file| file.try_lock().is_ok()).then_some(())
            })
            .await;
        }
        next_life(&stage, dir.path(), &what).await;
        let left = processes_with(dir.path().to_str().unwrap());
        assert!(left.is_empty(), "{what}: {left:?}");
    }
}

/// Whatever was left, the node's next life leads and stops in order, and leaves nothing of either.
async fn next_life(stage: &Stage<'_>, dir: &Path, what: &str) {
    let (mut node, _): (NodeHandle, _) = stage.start("n1", Drill::none()).await;
    tokio::time::timeout(SOON, node.ready()).await.unwrap_or_else(|_| panic!("nobody serves: {what}"));
    let report: StopReport = node.stop().await;
    assert!(report.is_clean(), "after that, {what}: {report:?}");
    until(&format!("no ephemeral is left: {what}"), SOON, async || {
        (stage.keeper.as_ref().unwrap().alive().await.ephemerals == 0).then_some(())
    })
    .await;
    assert!(!dir.join("n1/identity.new").exists());
}
