//! Transactions, and the state after each.

use bytes::Bytes;

use crate::state::{Caller, State, Txn, WriteOp};
use crate::wire::{Acl, Create, Id, MultiOp};

const EPHEMERAL_SEQUENTIAL: i32 = 3;

pub(super) struct Story {
    pub(super) txns: Vec<Txn>,
    /// The state after so many of them, as a snapshot has it.
    pub(super) images: Vec<Vec<u8>>,
}

pub(super) fn image(state: &State) -> Vec<u8> {
    let mut bytes = Vec::new();
    state.image().write_to(&mut bytes).unwrap();
    bytes
}

impl Story {
    /// Sessions that come and go, nodes of all kinds, refused writes, data of up to `bytes_max`, some of it zeros.
    pub(super) fn new(len: usize, bytes_max: usize) -> Self {
        let mut state = State::new();
        let mut story = Self { txns: Vec::new(), images: vec![image(&state)] };
        let ids = [Id { scheme: "ip".to_owned(), id: "127.0.0.1".to_owned() }];
        for at in 0..len {
            let time_ms = 1_700_000_000_000 + at as i64;
            let session = 1 + at as i64 / 9;
            let caller = Caller { session, ids: &ids, cxid: at as i32, time_ms };
            let byte = if at % 5 == 0 { 0 } else { at as u8 };
            let data = Some(Bytes::from(vec![byte; (at + 7) * at * 37 % bytes_max]));
            let create = |path: &str, flags| Create {
                path: path.to_owned(),
                data: data.clone(),
                acl: Acl::open(),
                flags,
            };
            let written = match at % 9 {
                0 => state.create_session(session, 4000, [at as u8; 16], time_ms),
                8 => state.close_session(session, time_ms),
                1 => state.write(&caller, WriteOp::Create(create(&format!("/n-{at}"), 0))),
                2 | 5 => state.write(&caller, WriteOp::Create(create("/e-", EPHEMERAL_SEQUENTIAL))),
                3 => state.write(&caller, WriteOp::Delete { path: "/none".to_owned(), version: -1 }),
                4 => {
                    let path = format!("/n-{}", at - 3);
                    state.write(&caller, WriteOp::SetData { path, data, version: 0 })
                }
                6 => {
                    let ops = vec![
                        MultiOp::Create(create(&format!("/m-{at}"), 0)),
                        MultiOp::Delete { path: format!("/n-{}", at - 5), version: -1 },
                    ];
                    state.write(&caller, WriteOp::Multi(ops))
                }
                _ => {
                    let path = format!("/m-{}", at - 1);
                    state.write(&caller, WriteOp::SetData { path, data, version: -1 })
                }
            };
            assert_eq!(written.txn.zxid, at as i64 + 1);
            story.images.push(image(&state));
            story.txns.push(written.txn);
        }
        story
    }
}
