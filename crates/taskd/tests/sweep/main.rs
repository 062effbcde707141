//! Stop from everywhere: a node is told to stop at each poll of each of its components, in each thing that can happen to
//! it. Every life ends within the bound and in the right order, each resource is ended exactly once, and nothing is left:
//! no session, no ephemeral, no process, no task, no half file, no lock.
//!
//! - `TASKD_SWEEP_FULL=1`: every poll. Otherwise the first ones all, and of the rest a few at random.
//! - `TASKD_TEST_SEED`: draws the same ones again.

#![expect(clippy::unwrap_used, reason = "a test fails where it stands, in its helpers too")]

mod history;
mod ladder;
mod process;
mod run;
#[path = "../support/mod.rs"]
mod support;

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::run::{Life, Scene, Seen, live};

const SEED: &str = "TASKD_TEST_SEED";

/// Lives at a time: most of each is waiting.
const AT_A_TIME: usize = 12;

const COMPONENTS: [&str; 6] = ["vip", "runner", "quorum", "dispatcher", "supervisor", "listener"];

fn full() -> bool {
    std::env::var("TASKD_SWEEP_FULL").as_deref() == Ok("1")
}

/// Draws polls, and says which.
fn draw(what: &str) -> StdRng {
    let seed: u64 = std::env::var(SEED).ok().map_or_else(rand::random, |seed| seed.parse().unwrap());
    eprintln!("{what}: polls drawn with {SEED}={seed}");
    StdRng::seed_from_u64(seed)
}

/// Lives them all, several at a time.
fn live_all(lives: Vec<Life>) -> Vec<(Life, Seen)> {
    let (queue, seen) = (Mutex::new(lives), Mutex::new(Vec::new()));
    let failed = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..AT_A_TIME {
            scope.spawn(|| {
                let next = || queue.lock().unwrap().pop().filter(|_| !failed.load(Ordering::SeqCst));
                while let Some(life) = next() {
                    let lived = std::panic::catch_unwind(|| live(life));
                    match lived {
                        Ok(lived) => seen.lock().unwrap().push((life, lived)),
                        Err(_) => {
                            eprintln!("this failed: {life}");
                            failed.store(true, Ordering::SeqCst);
                        }
                    }
                }
            });
        }
    });
    assert!(!failed.load(Ordering::SeqCst), "see above");
    seen.into_inner().unwrap()
}

/// Sweeps a scene: every poll up to `dense` after its own part began, and `sampled` of the others.
fn sweep(scene: Scene, components: &[&'static str], dense: u64, sampled: u64) {
    let mut rng = draw(&format!("{scene:?}"));
    let begun = Instant::now();
    let undisturbed = components.iter().map(|component| Life { scene, component, poll: None }).collect();
    let mut lives = Vec::new();
    for (life, seen) in live_all(undisturbed) {
        // The scenes begin alike, and one of them is swept from the beginning. Polls come a little earlier or later.
        let from = if matches!(scene, Scene::Work | Scene::Embedded) {
            1
        } else {
            seen.began.saturating_sub(4).max(1)
        };
        let over = seen.over + seen.over / 8 + 2;
        let all: Vec<u64> = if full() || over <= from + dense + sampled {
            (from..=over).collect()
        } else {
            let rest = (0..sampled).map(|_| rng.random_range(from + dense..=over));
            (from..from + dense).chain(rest).collect()
        };
        eprintln!("{scene:?}: {}: {} of the polls {from}..={over}", life.component, all.len());
        lives.extend(all.into_iter().map(|poll| Life { poll: Some(poll), ..life }));
    }
    let seen = live_all(lives);
    let reached = seen.iter().filter(|(_, seen)| seen.reached).count();
    let longest = seen.iter().map(|(_, seen)| seen.took).max().unwrap_or_default();
    eprintln!(
        "{scene:?}: {} combinations, {reached} of them stopped before the end; the longest stop took {longest:?}; {:?}",
        seen.len(),
        begun.elapsed()
    );
    // A busier machine polls more often in the measured life than in the others.
    assert!(reached * 5 > seen.len(), "{scene:?}: only {reached} of {} were stopped in time", seen.len());
    assert!(longest < Duration::from_secs(5));
}

#[test]
fn while_it_boots_joins_claims_and_works() {
    sweep(Scene::Work, &COMPONENTS, 16, 8);
}

#[test]
fn while_a_task_ignores_sigterm() {
    sweep(Scene::Stubborn, &COMPONENTS, 3, 5);
}

#[test]
fn while_it_hands_over() {
    sweep(Scene::Handover, &COMPONENTS, 3, 5);
}

#[test]
fn while_its_session_expires() {
    sweep(Scene::Expiry, &COMPONENTS, 3, 5);
}

#[test]
fn while_zookeeper_is_silent() {
    sweep(Scene::Silence, &COMPONENTS, 2, 3);
}

#[test]
fn with_its_own_coordination_service() {
    sweep(Scene::Embedded, &["embedded keeper", "runner", "quorum", "dispatcher", "supervisor"], 4, 4);
}
