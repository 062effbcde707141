//! Cleaning, the budget, bodies.

use super::*;
use crate::log::{AppendRefused, BodyError};

#[tokio::test(start_paused = true)]
async fn garbage_is_cleaned_and_the_bytes_stay_bounded() {
    let world = World::new();
    let (_, log, _) = term(&world).await;
    let handle = log.handle();
    // Ten keys that stay, and one that changes all the time.
    for key in 0..10 {
        handle.append(put(key, 1, &"stays".repeat(40))).unwrap().await.unwrap();
    }
    for revision in 1..2000 {
        handle.append(put(99, revision, &"x".repeat(200))).unwrap().await.unwrap();
        let stats = handle.stats();
        let stored: usize = world.segments().iter().map(|(_, bytes)| bytes).sum();
        assert_eq!(stats.bytes, stored as u64);
        assert!(stats.bytes <= 2 * stats.live_bytes + options().budget_bytes / 8 + 2048, "{stats:?}");
    }
    handle.append(gone(99, 2000)).unwrap().await.unwrap();
    log.stop(Duration::from_secs(1)).await.unwrap();
    let (_, _log, live) = term(&world).await;
    assert_eq!(states(&live), (0..10).map(|key| (key, 1)).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn many_small_segments_are_merged() {
    let world = World::new();
    let options = LogOptions { budget_bytes: 64 << 20, segment_bytes_max: 16 * 1024, ..options() };
    let (_, log, _) = term_with(&world, options).await;
    for key in 0..3000 {
        log.handle().append(put(key, 1, "small")).unwrap().await.unwrap();
    }
    let stats = log.handle().stats();
    assert!(stats.segments <= 1024 + stats.live_bytes / 4096 + 4, "{stats:?}");
    drop(log);
    let (_, _log, live) = term(&world).await;
    assert_eq!(live.len(), 3000);
}

#[tokio::test(start_paused = true)]
async fn an_idle_log_writes_nothing() {
    let world = World::new();
    let (_, log, _) = term(&world).await;
    for revision in 1..500 {
        log.handle().append(put(1, revision, &"x".repeat(300))).unwrap().await.unwrap();
    }
    settle().await;
    let before = world.segments();
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert_eq!(world.segments(), before);
}

#[tokio::test(start_paused = true)]
async fn at_the_budget_only_what_is_urgent_is_taken() {
    let world = World::new();
    let (_, log, _) = term(&world).await;
    let handle = log.handle();
    let body = "x".repeat(500);
    let mut key = 0;
    let refusal = loop {
        match handle.append(put(key, 1, &body)) {
            Ok(commit) => commit.await.unwrap(),
            Err(refusal) => break refusal,
        }
        key += 1;
    };
    assert!(matches!(refusal, AppendRefused::Full { .. }), "{refusal:?}");
    assert!(handle.stats().alarm());
    assert!(handle.stats().live_bytes > options().budget_bytes / 10 * 8, "garbage was not what filled it");
    assert!(matches!(handle.put_body(1, Bytes::from(vec![0; 4096])).await, Err(BodyError::Full { .. })));
    // Outcomes still fit, and make room.
    for done in 0..key {
        handle.append(gone(done, 2)).unwrap().await.unwrap();
    }
    settle().await;
    assert!(!handle.stats().alarm(), "{:?}", handle.stats());
    handle.append(put(key, 1, &body)).unwrap().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_does_not_fit_is_refused() {
    let world = World::new();
    let (session, log, _) = term(&world).await;
    session.automatic(false);
    let handle = log.handle();
    assert!(matches!(handle.append(put(1, 1, &"x".repeat(1000))), Err(AppendRefused::TooLarge { .. })));
    let refusal = (0..1000).find_map(|key| {
        handle.append(gone(key, 1)).and_then(|_| handle.append(put(key, 2, &"x".repeat(900)))).err()
    });
    assert!(
        matches!(refusal, Some(AppendRefused::QueueFull { .. } | AppendRefused::Full { .. })),
        "{refusal:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn bodies_are_written_once_and_collected() {
    let world = World::new();
    let (session, log, _) = term_with(&world, LogOptions { budget_bytes: 1 << 20, ..options() }).await;
    let handle = log.handle();
    let data = Bytes::from((0..200_000u32).map(|n| n as u8).collect::<Vec<u8>>());
    let before = handle.stats().bytes;
    let kept = handle.put_body(1, data.clone()).await.unwrap();
    let orphan = handle.put_body(1, data.clone()).await.unwrap();
    assert_ne!(kept, orphan, "a name is never used twice");
    assert_eq!(handle.stats().bytes - before, 400_000);
    assert_eq!(handle.get_body(&kept).await.unwrap(), data);
    assert_eq!(
        handle.collect_bodies(&[]).await.unwrap(),
        0,
        "this term's own are being referred to just now"
    );

    // A lost answer, with the part written and without.
    session.automatic(false);
    for applied in [0, 1] {
        let putting = handle.put_body(2, Bytes::from_static(b"tiny"));
        tokio::pin!(putting);
        assert!(futures::FutureExt::now_or_never(&mut putting).is_none());
        session.cut(applied, 1 - applied, false);
        session.reconnect();
        session.automatic(true);
        let body = putting.await.unwrap();
        assert_eq!(handle.get_body(&body).await.unwrap(), "tiny");
        handle.delete_body(&body).await.unwrap();
        handle.delete_body(&body).await.unwrap();
        assert!(matches!(handle.get_body(&body).await, Err(BodyError::Missing(_))));
        session.automatic(false);
    }
    session.automatic(true);
    assert_eq!(handle.stats().bytes - before, 400_000);

    let (_, next, _) = term(&world).await;
    assert!(next.handle().stats().bytes >= 400_000, "bodies count from the start");
    assert_eq!(next.handle().collect_bodies(std::slice::from_ref(&kept)).await.unwrap(), 1);
    assert_eq!(next.handle().get_body(&kept).await.unwrap(), data);
    assert!(
        matches!(handle.delete_body(&kept).await, Err(BodyError::Deposed)),
        "the old term deletes nothing"
    );
    assert_eq!(next.handle().get_body(&kept).await.unwrap(), data);
}
