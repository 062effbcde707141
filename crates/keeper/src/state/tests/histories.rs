//! A state is its transactions, and its image.

use proptest::prelude::*;

use super::steps::{history, take};
use super::*;
use crate::state::node::Node;
use crate::state::tree::ROOT;
use crate::state::{Edit, Image, ImageError, Txn, TxnBody};
use crate::wire::MultiResult;

fn written(image: &Image) -> Vec<u8> {
    let mut bytes = Vec::new();
    image.write_to(&mut bytes).unwrap();
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20))]

    #[test]
    fn replay_gives_the_same_state(steps in history(200)) {
        let (mut state, mut replayed) = (State::new(), State::new());
        for (step, time_ms) in steps.into_iter().zip(1000..) {
            let written = take(&mut state, step, time_ms);
            let mut bytes = Vec::new();
            written.txn.encode(&mut bytes);
            let txn = Txn::decode(&bytes).unwrap();
            prop_assert_eq!(&txn, &written.txn);
            replayed.replay(&txn).unwrap();
        }
        prop_assert_eq!(replayed.fingerprint(), state.fingerprint());
        prop_assert_eq!(replayed.counts(), state.counts());
    }

    #[test]
    fn an_image_stays_as_it_was_and_can_be_read(steps in history(200), after in 0..150_usize) {
        let mut state = State::new();
        let mut image = None;
        for (index, step) in steps.into_iter().enumerate() {
            if index == after {
                image = Some((state.image(), state.fingerprint(), state.counts()));
            }
            take(&mut state, step, index as i64);
        }
        let (image, fingerprint, counts) =
            image.unwrap_or_else(|| (state.image(), state.fingerprint(), state.counts()));
        let bytes = written(&image);
        let mut rest = &bytes[..];
        let mut read = State::read_from(&mut rest).unwrap();
        prop_assert!(rest.is_empty());
        prop_assert_eq!(read.last_zxid(), image.last_zxid());
        prop_assert_eq!(read.fingerprint(), fingerprint);
        prop_assert_eq!(read.counts(), counts);
        // What is derived is there again, too: both close the session alike.
        let mut copy = State::read_from(&bytes[..]).unwrap();
        prop_assert_eq!(read.close_session(1, 5).changes.len(), 2 * ephemerals(&copy, 1));
        copy.close_session(1, 5);
        prop_assert_eq!(read.fingerprint(), copy.fingerprint());
    }

    #[test]
    fn a_failed_write_leaves_nothing_but_its_zxid(steps in history(120)) {
        let mut state = State::new();
        for step in steps {
            let mut before = state.clone();
            let written = take(&mut state, step, 7);
            let failed = match &written.result {
                Err(_) => true,
                Ok(Reply::Multi(results)) => matches!(results.first(), Some(MultiResult::Error(_))),
                Ok(_) => false,
            };
            prop_assert_eq!(failed, matches!(written.txn.body, TxnBody::Error { .. }));
            if failed {
                before.refuse(&Caller { session: 1, ids: &[], cxid: 0, time_ms: 0 }, Code::SystemError);
                prop_assert_eq!(state.fingerprint(), before.fingerprint());
                prop_assert_eq!(state.counts(), before.counts());
                prop_assert_eq!(written.changes, vec![]);
            }
        }
    }
}

fn ephemerals(state: &State, session: i64) -> usize {
    match state.ephemerals(session, "") {
        Reply::Ephemerals(paths) => paths.len(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_damaged_image_is_refused() {
    let mut asker = Asker::new();
    asker.write(plain("/a"));
    asker.write(WriteOp::Create(create("/a/b", "data", 1)));
    let bytes = written(&asker.state.image());
    for len in 0..bytes.len() {
        assert!(State::read_from(&bytes[..len]).is_err(), "the first {len} bytes are no image");
    }
    let fingerprint = asker.state.fingerprint();
    for (index, bit) in (0..bytes.len()).flat_map(|index| (0..8).map(move |bit| (index, bit))) {
        let mut damaged = bytes.clone();
        damaged[index] ^= 1 << bit;
        if let Ok(state) = State::read_from(&damaged[..]) {
            assert_ne!(state.fingerprint(), fingerprint, "byte {index} means nothing");
        }
    }
    assert!(matches!(State::read_from(&b"something else entirely"[..]), Err(ImageError::NoImage)));
    let mut newer = bytes;
    newer[8] = 2;
    assert!(matches!(State::read_from(&newer[..]), Err(ImageError::Version { found: 2 })));
}

#[test]
fn a_path_may_be_as_deep_as_a_frame_is_long() {
    const DEPTH: i32 = 5000;
    let mut state = State::new();
    let (mut slot, mut path) = (ROOT, String::new());
    for zxid in 0..DEPTH {
        path.push_str("/a");
        slot = state.tree.add(slot, &path, Node::new(None, Acl::open().into(), 0, zxid.into(), 0));
    }
    let bytes = written(&state.image());
    assert_eq!(State::read_from(&bytes[..]).unwrap().fingerprint(), state.fingerprint());
    assert_eq!(state.all_children_number(&[], "/a"), Ok(Reply::Count(DEPTH - 1)));
    assert_eq!(state.stat(&path).map(|stat| stat.czxid), Some(i64::from(DEPTH) - 1));
}

#[test]
fn what_does_not_fit_is_not_replayed() {
    let mut asker = Asker::new();
    let first = asker.write(plain("/a")).txn;
    let again = Txn { zxid: first.zxid + 1, ..first.clone() };
    let error = |asker: &mut Asker, txn: &Txn| asker.state.replay(txn).unwrap_err().to_string();
    assert_eq!(error(&mut asker, &first), "transaction 0x2 follows 0x2");
    assert_eq!(
        error(&mut asker, &again),
        r#"transaction 0x3 cannot be applied to "/a": it is there already"#
    );
    let close = TxnBody::CloseSession { paths: vec!["/b".to_owned()] };
    let close = Txn { body: close, ..again.clone() };
    assert_eq!(
        error(&mut asker, &close),
        r#"transaction 0x3 cannot be applied to "/b": there is no such znode"#
    );
    asker.write(WriteOp::Create(create("/e", "", 1)));
    let (path, acl) = ("/e/x".to_owned(), Acl::open().into());
    let below = Edit::Create { path, data: None, acl, ephemeral: false, parent_cversion: 1 };
    let below = Txn { zxid: 4, body: TxnBody::Edits(vec![below]), ..again };
    assert_eq!(
        error(&mut asker, &below),
        r#"transaction 0x4 cannot be applied to "/e/x": its parent is ephemeral"#
    );
}
