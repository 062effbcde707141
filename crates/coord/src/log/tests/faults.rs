//! Lost connections, other terms, damage: one story each.

use super::*;
use crate::log::{AppendRefused, LogFailure, StopError};

#[tokio::test(start_paused = true)]
async fn what_was_confirmed_is_replayed() {
    let world = World::new();
    let (_, log, live) = term(&world).await;
    assert_eq!(live, []);
    let handle = log.handle();
    handle.append(put(1, 1, "a")).unwrap().await.unwrap();
    let last = handle.append([put(1, 2, "b"), put(2, 1, "c"), gone(3, 1)].concat()).unwrap();
    log.stop(Duration::from_secs(1)).await.unwrap();
    assert_eq!(last.await, Ok(()), "stop writes what is queued");
    assert_eq!(handle.append(put(1, 3, "d")).unwrap_err(), AppendRefused::Stopped);
    let (_, _log, live) = term(&world).await;
    assert_eq!(states(&live), [(1, 2), (2, 1)]);
    assert_eq!(live[0].body, "b");
}

#[tokio::test(start_paused = true)]
async fn a_term_may_open_its_log_again() {
    let world = World::new();
    let session = Session::new(&world);
    let epoch = world.elect();
    let (log, _) = open_at(&session, epoch).await.unwrap();
    log.handle().append(put(1, 1, "a")).unwrap().await.unwrap();
    drop(log);
    let (log, live) = open_at(&session, epoch).await.unwrap();
    assert_eq!(states(&live), [(1, 1)]);
    log.handle().append(Vec::new()).unwrap().await.expect("no changes are a barrier");
    // A log that outlived its term's own second opening must not write between that one's segments.
    let (_second, _) = open_at(&session, epoch).await.unwrap();
    assert!(log.handle().append(put(1, 2, "b")).unwrap().await.is_err());
    assert_eq!(*log.handle().failure().borrow(), Some(LogFailure::Deposed));
}

#[tokio::test(start_paused = true)]
async fn an_epoch_that_went_backwards_is_noticed() {
    let world = World::new();
    world.elect();
    let (_, log, _) = term(&world).await;
    drop(log);
    world.with(|nodes| nodes.get_mut("/epoch").unwrap().version = 0);
    let Err(error) = open_at(&Session::new(&world), world.elect()).await else { panic!("opened") };
    assert!(error.to_string().contains("segments of term 2, and /epoch is at 1"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn appends_share_a_segment_while_others_are_in_flight() {
    let world = World::new();
    let (session, log, _) = term(&world).await;
    session.automatic(false);
    let handle = log.handle();
    let mut commits = Vec::new();
    for key in 0..100 {
        commits.push(handle.append(put(key, 1, "x")).unwrap());
        tokio::task::yield_now().await;
    }
    settle().await;
    assert_eq!(session.pending(), options().in_flight, "no more than that in flight");
    session.automatic(true);
    for commit in commits {
        commit.await.unwrap();
    }
    assert!(world.segments().len() < 20, "a hundred appends in {} segments", world.segments().len());
}

/// Segments 2, 3, 4 are under way when the connection breaks: 2 is lost, 3 and 4 wait in the client and are sent
/// after the reconnect.
async fn lose_the_first_of_three(world: &World) -> (Session, TaskLog, Vec<Commit>) {
    let (session, log, _) = term(world).await;
    session.automatic(false);
    let mut commits = Vec::new();
    for key in 0..3 {
        commits.push(log.handle().append(put(key, 1, "x")).unwrap());
        settle().await;
    }
    assert_eq!(session.pending(), 3);
    session.cut(0, 1, false);
    session.reconnect();
    session.automatic(true);
    settle().await;
    (session, log, commits)
}

#[tokio::test(start_paused = true)]
async fn without_the_chain_a_segment_is_acknowledged_above_a_hole() {
    let world = World::new();
    world.unchain();
    let (_session, log, mut commits) = lose_the_first_of_three(&world).await;
    let names: Vec<String> = world.segments().into_iter().map(|(name, _)| name).collect();
    assert_eq!(
        names,
        ["log-0000000001", "log-0000000003", "log-0000000004"],
        "the service acknowledged 3 and 4"
    );
    // Even then nobody was told so, and the hole is named.
    assert!(commits.iter_mut().all(|commit| told(commit) == Some(Err(CommitError::Unknown))));
    assert!(matches!(log.stop(Duration::from_secs(1)).await, Err(StopError::Failed(LogFailure::Corrupt(_)))));
    let session = Session::new(&world);
    let Err(OpenError::Corrupt { why, .. }) = open_at(&session, world.elect()).await else {
        panic!("a hole must not be replayed over")
    };
    assert!(why.contains("log-0000000002 is missing"), "{why}");
}

#[tokio::test(start_paused = true)]
async fn with_the_chain_everything_is_written_in_order() {
    let world = World::new();
    let (_session, _log, mut commits) = lose_the_first_of_three(&world).await;
    assert!(commits.iter_mut().all(|commit| told(commit) == Some(Ok(()))));
    assert_eq!(world.segments().len(), 4);
    assert_eq!(states(&term(&world).await.2), [(0, 1), (1, 1), (2, 1)]);
}

#[tokio::test(start_paused = true)]
async fn a_write_that_arrives_late_is_recognised() {
    let world = World::new();
    let (session, log, _) = term(&world).await;
    session.automatic(false);
    let mut commit = log.handle().append(put(1, 1, "x")).unwrap();
    settle().await;
    session.cut(0, 1, true);
    session.reconnect();
    settle().await;
    assert_eq!(session.pending(), 1, "looked up, not there, sent again");
    session.arrive();
    session.automatic(true);
    settle().await;
    assert_eq!(told(&mut commit), Some(Ok(())));
    assert_eq!(world.segments().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_term_that_has_passed_writes_nothing() {
    let world = World::new();
    let (old_session, old, _) = term(&world).await;
    old_session.automatic(false);
    let mut applied = old.handle().append(put(1, 1, "x")).unwrap();
    settle().await;
    let mut refused = old.handle().append(put(2, 1, "x")).unwrap();
    settle().await;
    old_session.cut(1, 0, false);
    let (_, _new, live) = term(&world).await;
    assert_eq!(states(&live), [(1, 1)]);
    old_session.reconnect();
    let mut queued = old.handle().append(put(3, 1, "x")).unwrap();
    old_session.automatic(true);
    settle().await;
    assert_eq!(
        told(&mut applied),
        Some(Err(CommitError::Unknown)),
        "it was written, and this term cannot know"
    );
    assert_eq!(told(&mut refused), Some(Err(CommitError::Deposed)));
    assert_eq!(told(&mut queued), Some(Err(CommitError::Deposed)));
    assert_eq!(*old.handle().failure().borrow(), Some(LogFailure::Deposed));
    assert_eq!(old.handle().append(put(4, 1, "x")).unwrap_err(), AppendRefused::Stopped);
}

#[tokio::test(start_paused = true)]
async fn the_end_of_the_session_leaves_what_was_sent_unknown() {
    let world = World::new();
    let (session, log, _) = term(&world).await;
    session.automatic(false);
    let mut sent = log.handle().append(put(1, 1, "x")).unwrap();
    settle().await;
    session.expire();
    settle().await;
    assert_eq!(told(&mut sent), Some(Err(CommitError::Unknown)));
    assert_eq!(*log.handle().failure().borrow(), Some(LogFailure::SessionEnded));
    // Idle or not, it is noticed.
    let (session, log, _) = term(&world).await;
    session.expire();
    settle().await;
    assert_eq!(*log.handle().failure().borrow(), Some(LogFailure::SessionEnded));
}

#[tokio::test(start_paused = true)]
async fn a_short_tail_is_not_believed() {
    for empty in [true, false] {
        let world = World::new();
        let reader = Session::new(&world);
        if empty {
            reader.freeze();
        }
        let (_, log, _) = term(&world).await;
        log.handle().append(put(1, 1, "a")).unwrap().await.unwrap();
        if !empty {
            reader.freeze();
        }
        // Far enough that what the stale reader takes for the tail has been cleaned away.
        for revision in 2..400 {
            log.handle().append(put(1, revision, &"x".repeat(300))).unwrap().await.unwrap();
        }
        assert!(!world.segments().iter().any(|(name, _)| name == "log-0000000001"), "log-1 was cleaned");
        let epoch = world.elect();
        let opening = open_at(&reader, epoch);
        tokio::pin!(opening);
        assert!(futures::FutureExt::now_or_never(&mut opening).is_none(), "not opened on the stale view");
        assert!(tokio::time::timeout(Duration::from_secs(1), &mut opening).await.is_err());
        reader.thaw();
        let (_log, live) = opening.await.unwrap();
        assert_eq!(states(&live), [(1, 399)], "empty: {empty}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_deposed_term_cannot_open() {
    let world = World::new();
    let epoch = world.elect();
    world.elect();
    assert!(matches!(open_at(&Session::new(&world), epoch).await, Err(OpenError::Deposed)));
}

#[tokio::test(start_paused = true)]
async fn opening_survives_a_lost_connection() {
    for applied in [0, 1] {
        let world = World::new();
        let (_, log, _) = term(&world).await;
        log.handle().append(put(7, 1, "x")).unwrap().await.unwrap();
        let session = Session::new(&world);
        session.automatic(false);
        let epoch = world.elect();
        let ((), opened) = tokio::join!(
            async {
                settle().await;
                session.cut(applied, 1 - applied, false);
                session.reconnect();
                session.automatic(true);
            },
            open_at(&session, epoch)
        );
        assert_eq!(states(&opened.unwrap().1), [(7, 1)], "applied: {applied}");
    }
}

#[tokio::test(start_paused = true)]
async fn damage_is_named() {
    type Damage = fn(&World);
    let damages: [(&str, Damage); 5] = [
        ("log-0000000003 is missing", |world| {
            world.with(|nodes| drop(nodes.remove("/tasks/log-0000000003")))
        }),
        ("should begin at /tasks/log-0000000001", |world| {
            world.with(|nodes| drop(nodes.remove("/tasks/log-0000000001")))
        }),
        ("checksum", |world| {
            world.with(|nodes| nodes.get_mut("/tasks/log-0000000002").unwrap().data[60] ^= 1);
        }),
        ("says that it is segment 2", |world| {
            world.with(|nodes| {
                let copy = nodes["/tasks/log-0000000002"].clone();
                nodes.insert("/tasks/log-0000000003".to_owned(), copy)
            });
        }),
        ("all of them are gone", |world| world.with(|nodes| nodes.retain(|path, _| !path.contains("log-")))),
    ];
    for (expected, damage) in damages {
        let world = World::new();
        let (_, log, _) = term(&world).await;
        for key in 0..4 {
            log.handle().append(put(key, 1, "x")).unwrap().await.unwrap();
        }
        log.stop(Duration::from_secs(1)).await.unwrap();
        damage(&world);
        let before = world.segments();
        let Err(error) = open_at(&Session::new(&world), world.elect()).await else {
            panic!("{expected}: opened")
        };
        assert!(error.to_string().contains(expected), "{expected}: {error}");
        assert_eq!(world.segments(), before, "nothing was changed");
    }
}

#[tokio::test(start_paused = true)]
async fn stop_does_not_wait_for_ever() {
    let world = World::new();
    let (session, log, _) = term(&world).await;
    session.cut(0, 0, false);
    let mut queued = log.handle().append(put(1, 1, "x")).unwrap();
    let within = Duration::from_secs(1);
    assert_eq!(log.stop(within).await, Err(StopError::Unflushed { segments: 0, appends: 1, within }));
    assert_eq!(told(&mut queued), Some(Err(CommitError::Stopped)));
}
