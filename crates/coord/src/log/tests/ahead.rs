//! A head start: what was read before the term.

use super::*;

async fn read(world: &World) -> (Session, Ahead) {
    let session = Session::new(world);
    let mut ahead = Ahead::new("/tasks");
    ahead.advance(&session).await.unwrap();
    ahead.changed.clear();
    (session, ahead)
}

async fn lead(world: &World, session: &Session, ahead: Ahead) -> (TaskLog, Replayed) {
    let store = Arc::new(session.clone());
    TaskLog::open_on(store, names(world.elect()), options(), Some(ahead)).await.unwrap()
}

async fn write(log: &TaskLog, changes: Vec<Change>) {
    log.handle().append(changes).unwrap().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn only_what_is_new_is_replayed() {
    let world = World::new();
    let (_session, log, _) = term(&world).await;
    for key in 1..=3 {
        write(&log, put(key, 1, "before")).await;
    }
    let (next, mut ahead) = read(&world).await;
    write(&log, put(1, 2, "followed")).await;
    assert_eq!(ahead.follow_on(&next).await.unwrap(), 1);
    assert_eq!(ahead.follow_on(&next).await.unwrap(), 0, "nothing is new");
    write(&log, gone(2, 2)).await;

    let changed = |key, state: Option<(u64, &'static str)>| {
        let state = state.map(|(revision, body)| (revision, Bytes::from_static(body.as_bytes())));
        Changed { key, state }
    };
    let (_log, replayed) = lead(&world, &next, ahead).await;
    let expected = vec![changed(1, Some((2, "followed"))), changed(2, None)];
    assert_eq!(replayed, Replayed::Since(expected), "what was not asked for while it was followed, too");
}

#[tokio::test(start_paused = true)]
async fn another_log_is_read_from_its_beginning() {
    let world = World::new();
    let (_session, log, _) = term(&world).await;
    write(&log, put(1, 1, "of the former ensemble")).await;
    let (_, ahead) = read(&world).await;

    let anew = World::new();
    let (_other, log, _) = term(&anew).await;
    write(&log, put(7, 1, "x")).await;
    write(&log, put(8, 1, "y")).await;
    let (_log, replayed) = lead(&anew, &Session::new(&anew), ahead).await;
    let Replayed::Whole(live) = replayed else { panic!("{replayed:?}") };
    assert_eq!(states(&live), [(7, 1), (8, 1)]);
}

#[tokio::test(start_paused = true)]
async fn what_was_cleaned_away_is_no_head_start() {
    let world = World::new();
    let (_session, log, _) = term(&world).await;
    write(&log, put(1, 1, "x")).await;
    let (next, ahead) = read(&world).await;
    let (last, _) = world.segments().pop().unwrap();
    // Each is garbage as soon as the next is there.
    let large = "z".repeat(900);
    for revision in 1..200 {
        write(&log, put(2, revision, &large)).await;
    }
    assert!(world.segments().iter().all(|(name, _)| *name != last), "it was to be cleaned: {last}");
    let (_log, replayed) = lead(&world, &next, ahead).await;
    let Replayed::Whole(live) = replayed else { panic!("{replayed:?}") };
    assert_eq!(states(&live), [(1, 1), (2, 199)]);
}
