//! Transactions as bytes.

use super::*;
use crate::state::{Edit, Txn, TxnBody, TxnError};

fn txn(body: TxnBody) -> Txn {
    Txn { zxid: 0x1_0000_0001, time_ms: 1_700_000_000_000, session: i64::MIN + 5, cxid: -4, body }
}

fn all() -> Vec<Txn> {
    let path = || "/a/b".to_owned();
    let acl = || Acl::open().into();
    let edits = vec![
        Edit::Create { path: path(), data: None, acl: acl(), ephemeral: false, parent_cversion: i32::MIN },
        Edit::Create {
            path: path(),
            data: Some(Bytes::new()),
            acl: acl(),
            ephemeral: true,
            parent_cversion: 1,
        },
        Edit::Delete { path: path() },
        Edit::SetData { path: path(), data: Some(Bytes::from("data")), version: 3 },
        Edit::SetAcl { path: path(), acl: vec![].into(), version: 4 },
    ];
    vec![
        txn(TxnBody::CreateSession { timeout_ms: 4000, password: [9; 16] }),
        txn(TxnBody::CloseSession { paths: vec![path(), "/é".to_owned()] }),
        txn(TxnBody::Error { code: Code::NoNode }),
        txn(TxnBody::Edits(edits)),
    ]
}

#[test]
fn what_is_written_is_read_and_nothing_else() {
    for txn in all() {
        let mut bytes = vec![];
        txn.encode(&mut bytes);
        assert_eq!(Txn::decode(&bytes), Ok(txn));
        for len in 0..bytes.len() {
            assert_eq!(Txn::decode(&bytes[..len]), Err(TxnError::Corrupt("it ends early")));
        }
        bytes.push(0);
        assert_eq!(Txn::decode(&bytes), Err(TxnError::Corrupt("something follows it")));
        bytes[0] = 2;
        assert_eq!(Txn::decode(&bytes), Err(TxnError::Version { found: 2 }));
    }
}

#[test]
fn a_small_write_is_a_small_record() {
    let mut asker = Asker::new();
    let mut bytes = vec![];
    asker.write(plain("/a")).txn.encode(&mut bytes);
    assert!(bytes.len() < 40, "{} bytes", bytes.len());
}
