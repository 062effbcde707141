//! The task log on a coordination service: cut connections, other terms, a killed server.

#![expect(clippy::unwrap_used, reason = "a test fails where it panics")]

mod common;

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use common::{SOON, elect, layout, session};
use coord::log::{
    AppendRefused, BodyError, Change, Commit, CommitError, Live, LogFailure, LogOptions, OpenError, TaskLog,
};
use coord::{Link, LinkState};
use testkit::{Flow, Proxy, until};

async fn term(link: &Link, options: LogOptions) -> (TaskLog, Vec<Live>) {
    let fence = elect(link).await;
    TaskLog::open(link.clone(), layout(), fence, options).await.unwrap()
}

fn put(key: u128, revision: u64, body: impl Into<Vec<u8>>) -> Vec<Change> {
    vec![Change { key, revision, body: Some(Bytes::from(body.into())), urgent: false }]
}

fn states(live: &[Live]) -> BTreeMap<u128, u64> {
    live.iter().map(|live| (live.key, live.revision)).collect()
}

async fn segments(link: &Link) -> Vec<String> {
    let names = link.children(&layout().log_dir()).await.unwrap();
    names.into_iter().filter(|name| name.starts_with("log-")).collect()
}

async fn done(commit: Commit) -> Result<(), CommitError> {
    tokio::time::timeout(SOON, commit).await.expect("a commit resolves")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cut_connections_lose_and_reorder_nothing() {
    let coordinator = testkit::coordinator().await;
    let proxy = Proxy::start(coordinator.hosts()).await;
    let cut = session(proxy.hosts()).await;
    let (log, live) = term(&cut.link(), LogOptions::default()).await;
    assert_eq!(live, []);

    // Twelve cuts in the middle of the traffic; before every second one the answers are lost for a while, so that
    // what was sent has been done.
    let mut model = BTreeMap::new();
    let mut revision = 0;
    for round in 0..12 {
        let mut commits = Vec::new();
        for key in 0..300 {
            revision += 1;
            commits.push(log.handle().append(put(key, revision, vec![7; 200])).unwrap());
            model.insert(key, revision);
            if key % 20 == 0 {
                tokio::task::yield_now().await;
            }
            if key == 100 && round % 2 == 0 {
                proxy.set(|faults| faults.to_client = Flow::Drop);
            }
            if key == 200 {
                proxy.cut();
                proxy.heal();
            }
        }
        for commit in commits {
            assert_eq!(done(commit).await, Ok(()), "round {round}");
        }
    }
    let state = *cut.link().state().borrow();
    assert!(matches!(state, LinkState::Connected { connection, .. } if connection > 6), "{state:?}");
    log.stop(SOON).await.unwrap();

    let other = session(coordinator.hosts()).await;
    let (log, live) = term(&other.link(), LogOptions::default()).await;
    assert_eq!(states(&live), model);
    log.stop(SOON).await.unwrap();
    cut.close(SOON).await.unwrap();
    other.close(SOON).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_later_term_ends_the_earlier_one() {
    let coordinator = testkit::coordinator().await;
    let (first, second) = (session(coordinator.hosts()).await, session(coordinator.hosts()).await);
    let fence = elect(&first.link()).await;
    let old_fence = fence.clone();
    let (old, _) = TaskLog::open(first.link(), layout(), fence, LogOptions::default()).await.unwrap();
    done(old.handle().append(put(1, 1, "kept")).unwrap()).await.unwrap();

    let (new, live) = term(&second.link(), LogOptions::default()).await;
    assert_eq!(states(&live), [(1, 1)].into());
    let late = old.handle().append(put(1, 2, "too late")).unwrap();
    assert_eq!(done(late).await, Err(CommitError::Deposed));
    let mut failure = old.handle().failure();
    assert_eq!(*failure.wait_for(Option::is_some).await.unwrap(), Some(LogFailure::Deposed));
    assert!(matches!(old.handle().append(put(1, 3, "")), Err(AppendRefused::Stopped)));
    let again = TaskLog::open(first.link(), layout(), old_fence, LogOptions::default()).await;
    assert!(matches!(again, Err(OpenError::Deposed)));

    done(new.handle().append(put(2, 1, "new")).unwrap()).await.unwrap();
    new.stop(SOON).await.unwrap();
    let (_log, live) = term(&first.link(), LogOptions::default()).await;
    assert_eq!(states(&live), [(1, 1), (2, 1)].into());
    first.close(SOON).await.unwrap();
    second.close(SOON).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_confirmed_survives_a_killed_server() {
    let mut coordinator = testkit::own_coordinator().await;
    let before = session(coordinator.hosts()).await;
    let (log, _) = term(&before.link(), LogOptions::default()).await;
    let handle = log.handle();
    let mut commits = Vec::new();
    for key in 0..5000 {
        commits.push(handle.append(put(key, 1, vec![1; 500])).unwrap());
    }
    let mut commits = commits.into_iter();
    for commit in commits.by_ref().take(500) {
        done(commit).await.unwrap();
    }
    coordinator.kill().await;
    let mut confirmed = 500;
    let mut fates = Vec::new();
    coordinator.start_again().await;
    for commit in commits {
        let fate = done(commit).await;
        confirmed += usize::from(fate == Ok(()));
        fates.push(fate);
    }
    let after_first_failure = fates.iter().skip_while(|fate| fate.is_ok());
    assert!(after_first_failure.clone().all(|fate| fate.is_err()), "commits resolve in order");
    // The session either lived on or ended; both are fine, and said.
    if confirmed < 5000 {
        assert_eq!(*handle.failure().borrow(), Some(LogFailure::SessionEnded));
    }

    let after = session(coordinator.hosts()).await;
    let (_log, live) = term(&after.link(), LogOptions::default()).await;
    let live = states(&live);
    let written = live.len();
    assert!((0..written as u128).eq(live.keys().copied()), "a prefix of the appends, without a gap");
    assert!(written >= confirmed, "{written} found, {confirmed} confirmed");
    let refused = fates.iter().filter(|fate| matches!(fate, Err(CommitError::Stopped))).count();
    assert!(written <= 5000 - refused, "what is said not to be written is not");
    drop(log);
    after.close(SOON).await.unwrap();
    before.abandon();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_stays_small_and_keeps_what_counts() {
    let coordinator = testkit::coordinator().await;
    let session = session(coordinator.hosts()).await;
    let options = LogOptions { segment_bytes_max: 8 * 1024, budget_bytes: 1 << 20, ..LogOptions::default() };
    let (log, _) = term(&session.link(), options.clone()).await;
    let handle = log.handle();
    for key in 0..100 {
        done(handle.append(put(key, 1, vec![9; 300])).unwrap()).await.unwrap();
    }
    // Ten times the budget, through one key.
    for revision in 1..=10_000 {
        let commit =
            until("room", SOON, async || handle.append(put(1000, revision, vec![8; 1000])).ok()).await;
        if revision % 100 == 0 {
            done(commit).await.unwrap();
        }
    }
    log.stop(SOON).await.unwrap();
    let stats = handle.stats();
    assert_eq!(stats.segments, segments(&session.link()).await.len() as u64);
    assert!(stats.bytes < 512 * 1024, "{stats:?}");
    assert!(!stats.alarm());

    let (log, live) = term(&session.link(), options).await;
    assert_eq!(states(&live), (0..100).map(|key| (key, 1)).chain([(1000, 10_000)]).collect());
    assert!(live.iter().filter(|live| live.key < 100).all(|live| live.body == vec![9; 300]));
    log.stop(SOON).await.unwrap();
    session.close(SOON).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_are_kept_while_they_are_referred_to() {
    let coordinator = testkit::coordinator().await;
    let proxy = Proxy::start(coordinator.hosts()).await;
    let session = session(proxy.hosts()).await;
    let (log, _) = term(&session.link(), LogOptions::default()).await;
    let handle = log.handle();
    let data = Bytes::from((0..256 * 1024u32).map(|n| (n % 251) as u8).collect::<Vec<u8>>());
    let kept = handle.put_body(1, data.clone()).await.unwrap();
    let orphan = handle.put_body(2, data.clone()).await.unwrap();
    let deleted = handle.put_body(3, data.clone()).await.unwrap();
    handle.delete_body(&deleted).await.unwrap();
    assert!(matches!(handle.get_body(&deleted).await, Err(BodyError::Missing(_))));

    // Across a cut that takes the answers with it.
    proxy.set(|faults| faults.to_client = Flow::Drop);
    let writing = tokio::join!(handle.put_body(4, data.clone()), async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        proxy.cut();
        proxy.heal();
    })
    .0
    .unwrap();
    assert_eq!(handle.get_body(&writing).await.unwrap(), data);
    let bytes = handle.stats().bytes;
    assert!((3 * 256 * 1024..3 * 256 * 1024 + 4096).contains(&bytes), "{bytes}");
    log.stop(SOON).await.unwrap();

    let (next, _) = term(&session.link(), LogOptions::default()).await;
    assert_eq!(next.handle().collect_bodies(&[kept.clone(), writing.clone()]).await.unwrap(), 1);
    assert_eq!(next.handle().get_body(&kept).await.unwrap(), data);
    assert!(matches!(next.handle().get_body(&orphan).await, Err(BodyError::Missing(_))));
    assert!(matches!(handle.put_body(5, data).await, Err(BodyError::Deposed)));
    next.stop(SOON).await.unwrap();
    session.close(SOON).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_loss_of_the_leading_server_leaves_no_hole() {
    let Some(mut ensemble) = testkit::ensemble_or_skip(3).await else { return };
    let before = session(ensemble.hosts()).await;
    let (log, _) = term(&before.link(), LogOptions::default()).await;
    let handle = log.handle();
    let commits: Vec<Commit> =
        (0..3000).map(|key| handle.append(put(key, 1, vec![1; 500])).unwrap()).collect();
    let mut commits = commits.into_iter();
    for commit in commits.by_ref().take(300) {
        done(commit).await.unwrap();
    }
    let leader = ensemble.leader().await;
    ensemble.servers[leader].kill().await;
    let mut confirmed = 300;
    for commit in commits {
        // An election may take longer than a session lives; then the rest is not known, and said so.
        confirmed += usize::from(tokio::time::timeout(SOON * 3, commit).await.expect("it resolves").is_ok());
    }
    let after = session(ensemble.hosts()).await;
    let (_log, live) = term(&after.link(), LogOptions::default()).await;
    let live = states(&live);
    assert!((0..live.len() as u128).eq(live.keys().copied()), "a prefix of the appends, without a gap");
    assert!(live.len() >= confirmed, "{} found, {confirmed} confirmed", live.len());
    after.close(SOON).await.unwrap();
    drop(log);
    before.abandon();
}
