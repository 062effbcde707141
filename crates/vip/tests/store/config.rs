//! The configuration: counted, compared and set, and kept.

use coord::Op;
use testkit::{Flow, Proxy};
use vip::store::{ApplyError, HISTORY_MAX, StoreError, TEXT_BYTES_MAX};

use crate::world::{Party, layout, node};

#[tokio::test]
async fn applies_are_counted_and_thirty_two_earlier_ones_kept() {
    let coordinator = testkit::coordinator().await;
    let n1 = Party::start(coordinator.hosts(), "n1").await;
    let store = &n1.store;
    assert_eq!((store.config().await.unwrap().revision, store.config_history().await.unwrap().len()), (0, 0));

    let first = store.apply("# 1", Some(0), &n1.node, 1_001).await.unwrap();
    assert_eq!((first.before.revision, first.now.revision, first.now.text.as_str()), (0, 1, "# 1"));
    let same = store.apply("# 1", None, &node("n9"), 2_000).await.unwrap();
    assert_eq!(
        (same.now.revision, same.now.applied_ms, &same.now),
        (1, 1_001, &store.config().await.unwrap())
    );
    let stale = store.apply("# 2", Some(0), &n1.node, 1_002).await;
    assert_eq!(stale, Err(ApplyError::Conflict { expected: 0, found: 1 }));

    let last = HISTORY_MAX as u64 + 8;
    for revision in 2..=last {
        let applied =
            store.apply(&format!("# {revision}"), Some(revision - 1), &n1.node, 1_000 + revision).await;
        assert_eq!(applied.unwrap().now.revision, revision);
    }
    let history = store.config_history().await.unwrap();
    let revisions: Vec<u64> = history.iter().map(|entry| entry.revision).collect();
    assert_eq!(revisions, (8..=last).rev().collect::<Vec<_>>(), "the present one and 32 before it");
    let oldest = history.last().unwrap();
    assert_eq!((oldest.applied_ms, &oldest.by, oldest.bytes), (1_008, &Some(n1.node.clone()), 3));
    assert_eq!(store.config_at(8).await.unwrap().unwrap().text, "# 8");
    assert_eq!(store.config_at(last).await.unwrap().unwrap().revision, last);
    assert_eq!(store.config_at(7).await.unwrap(), None);
    n1.end().await;
}

#[tokio::test]
async fn the_largest_text_fits_twice_into_a_write_and_a_larger_one_is_refused() {
    let coordinator = testkit::coordinator().await;
    let n1 = Party::start(coordinator.hosts(), "n1").await;
    for (revision, letter) in [(1, "\""), (2, "\\"), (3, "#")] {
        let text = letter.repeat(TEXT_BYTES_MAX);
        assert_eq!(n1.store.apply(&text, None, &n1.node, 1).await.unwrap().now.revision, revision);
    }
    let refused = n1.store.apply(&"#".repeat(TEXT_BYTES_MAX + 1), None, &n1.node, 1).await.unwrap_err();
    assert_eq!(refused.to_string(), "the configuration has 262145 bytes, and 262144 are allowed");
    assert_eq!(n1.store.config().await.unwrap().revision, 3);
    n1.end().await;
}

#[tokio::test]
async fn of_two_who_apply_at_once_neither_is_lost() {
    let coordinator = testkit::coordinator().await;
    let (n1, n2) =
        (Party::start(coordinator.hosts(), "n1").await, Party::start(coordinator.hosts(), "n2").await);
    let apply = async |party: &Party| {
        for n in 0..4 {
            let text = format!("# {n} of {}", party.node);
            party.store.apply(&text, None, &party.node, n).await.unwrap();
        }
    };
    tokio::join!(apply(&n1), apply(&n2));
    let mut texts = Vec::new();
    for revision in 1..=8 {
        texts.push(n1.store.config_at(revision).await.unwrap().unwrap().text);
    }
    texts.sort_unstable();
    texts.dedup();
    assert_eq!(texts.len(), 8, "{texts:?}");
    assert_eq!(n2.store.config().await.unwrap().revision, 8);
    n1.end().await;
    n2.end().await;
}

#[tokio::test]
async fn a_lost_answer_is_found_out() {
    let coordinator = testkit::coordinator().await;
    let proxy = Proxy::start(coordinator.hosts()).await;
    let (n1, witness) =
        (Party::start(proxy.hosts(), "n1").await, Party::start(coordinator.hosts(), "n2").await);
    let apply = n1.store.apply("# 1", Some(0), &n1.node, 1);
    let apply = crate::tenure::until_it_writes(2, apply, || {
        proxy.set(|faults| faults.to_client = Flow::Drop);
    });
    let (applied, ()) = tokio::join!(apply, async {
        testkit::until("it is applied", crate::world::SOON, async || {
            (witness.store.config().await.unwrap().revision == 1).then_some(())
        })
        .await;
        proxy.heal();
        proxy.cut();
    });
    assert_eq!(applied.unwrap().now.revision, 1);
    assert_eq!(n1.store.config_history().await.unwrap().len(), 1, "it was not done twice");
    n1.end().await;
    witness.end().await;
}

#[tokio::test]
async fn what_cannot_be_read_names_its_path_and_can_be_replaced() {
    let coordinator = testkit::coordinator().await;
    let n1 = Party::start(coordinator.hosts(), "n1").await;
    let store = &n1.store;
    store.apply("# 1", None, &n1.node, 1).await.unwrap();
    store.apply("# 2", None, &n1.node, 2).await.unwrap();
    n1.set(layout().config(), b"\xff\xfe").await;
    let unreadable = store.config().await.unwrap_err().to_string();
    assert!(unreadable.starts_with("/taskd/config cannot be read: "), "{unreadable}");
    let expecting = store.apply("# 3", Some(2), &n1.node, 3).await;
    assert!(matches!(expecting, Err(ApplyError::Store(StoreError::Read(_)))), "{expecting:?}");
    let replaced = store.apply("# 3", None, &n1.node, 3).await.unwrap();
    assert!(replaced.now.revision > 2, "a revision never comes twice: {replaced:?}");
    assert_eq!(store.config().await.unwrap(), replaced.now);
    // Also among the earlier ones.
    n1.write(Op::Set { path: layout().config_history(1), data: b"junk".to_vec(), version: None }).await;
    assert!(store.config_at(1).await.unwrap_err().to_string().contains("/taskd/config/0000000001"));
    let kept: Vec<u64> = store.config_history().await.unwrap().iter().map(|entry| entry.revision).collect();
    assert_eq!(kept, [replaced.now.revision], "what can be read");
    n1.end().await;
}
