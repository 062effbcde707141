//! The same with real processes: how they exit, and what the machine has of them afterwards.

use std::path::Path;
use std::process::ExitStatus;
use std::time::Duration;

use clock::{BootClock, Clock, Instant};
use futures::{StreamExt, stream};
use nix::sys::signal::Signal;
use rand::RngExt;
use taskd::client::Client;
use testkit::{Alive, until};

use crate::history::Resources;
use crate::run::{DEADLINE, files, is_known, run_stubborn};
use crate::support::{Node, NodeConfig, SOON, free_addresses};
use crate::{COMPONENTS, draw, full};

/// What the process needs around its stop, on a machine with too much to do.
const NOISE: Duration = Duration::from_millis(500);

/// Processes at a time.
const AT_A_TIME: usize = 6;

#[tokio::test]
async fn a_process_stopped_anywhere_exits_in_time_with_0() {
    let mut rng = draw("processes");
    let polls = if full() { 60 } else { 4 };
    let draw = |component| {
        let polls: Vec<u64> = (0..polls).map(|_| rng.random_range(1..=120)).collect();
        [1, 2].into_iter().chain(polls).map(move |poll| (component, poll))
    };
    let lives: Vec<_> = COMPONENTS.into_iter().flat_map(draw).collect();
    let addresses = free_addresses(lives.len());
    let lives = stream::iter(lives.into_iter().zip(addresses));
    let lived: Vec<_> = lives
        .map(|((component, poll), address)| async move { live(component, poll, &address).await })
        .buffer_unordered(AT_A_TIME)
        .collect()
        .await;
    let reached = lived.iter().filter(|(reached, _)| *reached).count();
    let longest = lived.iter().map(|(_, took)| *took).max().unwrap_or_default();
    eprintln!(
        "{} processes, {reached} stopped before SIGTERM; the longest stop took {longest:?}",
        lived.len()
    );
    assert!(reached >= lived.len() / 4, "only {reached} of {} were stopped in time", lived.len());
}

/// One process: whether it was stopped before its SIGTERM came, and how long its stop took.
async fn live(component: &str, poll: u64, address: &str) -> (bool, Duration) {
    let what = format!("stop:{component}@{poll}");
    let (dir, keeper) = (tempfile::tempdir().unwrap(), testkit::keeper().await);
    let (data_dir, history) = (dir.path().join("n1"), dir.path().join("n1.history"));
    let mut config = NodeConfig::new("n1", address, &keeper.hosts(), &data_dir);
    config.set("tasks.kill_grace", "\"300ms\"");
    // No machine is so busy that it expires by itself.
    config.set("coordination.session_timeout", "\"5s\"");
    let mut node = Node::new(config, dir.path());
    node.spawn_recorded(&what, &history);
    let scene = async {
        let client = Client::new(address.parse().unwrap());
        run_stubborn(&client, dir.path()).await;
        client.close().await;
    };
    let scene = tokio::time::timeout(SOON * 3, scene);
    let ended = tokio::select! {
        ended = end_of(&mut node) => Some(ended),
        over = scene => {
            over.unwrap_or_else(|_| panic!("{what}: its scene never ends\n{}", node.log()));
            None
        }
    };
    let reached = ended.is_some();
    let (status, at) = match ended {
        Some(ended) => ended,
        None => {
            node.signal(Signal::SIGTERM);
            end_of(&mut node).await
        }
    };
    let said = || format!("{what}: {status}\n{}", node.log());
    assert_eq!(status.code(), Some(0), "{}", said());
    let facts: Vec<_> = std::fs::read_to_string(&history).unwrap().lines().map(str::to_owned).collect();
    let took = at.since(stopped_at(&facts).unwrap_or_else(|| panic!("it says when: {}", said())));
    assert!(took <= DEADLINE + NOISE, "after {took:?}, {}", said());
    assert_eq!(Resources::of(&facts).wrong(), Vec::<String>::new(), "{}", said());
    assert!(node.shims().is_empty(), "{:?} is left, {}", node.shims(), said());
    nothing_is_left(dir.path(), &what);
    until(&format!("{what}: neither session nor ephemeral is left"), SOON, async || {
        (keeper.alive().await == Alive { sessions: 0, ephemerals: 0 }).then_some(())
    })
    .await;
    (reached, took)
}

/// How it ended, and when.
async fn end_of(node: &mut Node) -> (ExitStatus, Instant) {
    let (status, _) = node.ended(SOON * 4).await;
    (status, BootClock.now())
}

/// When the stop was asked for.
fn stopped_at(facts: &[String]) -> Option<Instant> {
    let stop = facts.iter().find_map(|fact| fact.strip_suffix(" stop"))?;
    Some(Instant::from_nanos(stop.parse().ok()?))
}

fn nothing_is_left(dir: &Path, what: &str) {
    let mine = |file: &str| ["n1.toml", "n1.log", "n1.history"].contains(&file);
    let strange: Vec<_> = files(dir).into_iter().filter(|file| !is_known(file) && !mine(file)).collect();
    assert!(strange.is_empty(), "{what}: it left {strange:?}");
}
