//! Requests of every kind, about few enough paths that they meet.

use bytes::{BufMut, Bytes, BytesMut};
use keeper::wire::{Acl, Create, MultiOp, MultiReadOp, OpCode, Perms, Request, Watches};

use crate::entropy::Entropy;

const PATHS: &[&str] = &[
    "/a",
    "/a/b",
    "/a/b/c",
    "/a/s-",
    "/a/s-0000000000",
    "/a/s-0000000001",
    "/b",
    "/b/e",
    "/",
    "/zookeeper",
    "/zookeeper/config",
    "/zookeeper/quota/a/zookeeper_limits",
    "/\u{E9}",
];
const ODD_PATHS: &[&str] = &["", "a", "//", "/a/", "/a//b", "/a/..", "/a\0", "/\u{1F600}", "/\u{FFFD}"];

fn path(entropy: &mut Entropy<'_>) -> String {
    match entropy.byte() {
        odd @ 245.. => ODD_PATHS[usize::from(odd) % ODD_PATHS.len()].to_owned(),
        even => PATHS[usize::from(even) % PATHS.len()].to_owned(),
    }
}

fn data(entropy: &mut Entropy<'_>) -> Option<Bytes> {
    match entropy.byte() {
        0..=31 => None,
        length => Some(Bytes::copy_from_slice(entropy.bytes(usize::from(length % 24)))),
    }
}

fn acl(entropy: &mut Entropy<'_>) -> Vec<Acl> {
    const WHO: &[(&str, &str)] = &[
        ("world", "anyone"),
        ("auth", ""),
        ("digest", "user:tpUq/4Pn5A64fVZyQ0gOJ8ZWqkY="),
        ("ip", "127.0.0.1"),
        ("ip", "10.0.0.0/8"),
        ("digest", "nobody"),
        ("nothing", ""),
    ];
    if entropy.byte() < 200 {
        return Acl::open();
    }
    entropy.several(3, |entropy| {
        let (scheme, id) = entropy.choose(WHO);
        Acl { perms: Perms(i32::from(entropy.byte() & 31)), scheme: scheme.to_owned(), id: id.to_owned() }
    })
}

fn create(entropy: &mut Entropy<'_>) -> Create {
    let flags = if entropy.byte() < 220 { entropy.below(4) as i32 } else { entropy.number().wrapping_add(4) };
    Create { path: path(entropy), data: data(entropy), acl: acl(entropy), flags }
}

fn watches(entropy: &mut Entropy<'_>) -> Watches {
    Watches {
        data: entropy.several(2, path),
        exist: entropy.several(2, path),
        child: entropy.several(2, path),
    }
}

fn multi_op(entropy: &mut Entropy<'_>) -> MultiOp {
    match entropy.below(7) {
        0 | 1 => MultiOp::Create(create(entropy)),
        2 => MultiOp::CreateContainer(create(entropy)),
        3 => MultiOp::CreateTtl { create: create(entropy), ttl: i64::from(entropy.number()) },
        4 => MultiOp::Delete { path: path(entropy), version: entropy.number() },
        5 => MultiOp::SetData { path: path(entropy), data: data(entropy), version: entropy.number() },
        _ => MultiOp::Check { path: path(entropy), version: entropy.number() },
    }
}

fn multi_read_op(entropy: &mut Entropy<'_>) -> MultiReadOp {
    let path = path(entropy);
    if entropy.bool() { MultiReadOp::GetData { path } } else { MultiReadOp::GetChildren { path } }
}

/// Writes come first, and so are what an input that has ended asks for.
pub(crate) fn request(entropy: &mut Entropy<'_>) -> Request {
    match entropy.below(36) {
        0..=3 => Request::Create(create(entropy)),
        4 => Request::Create2(create(entropy)),
        5..=6 => Request::Delete { path: path(entropy), version: entropy.number() },
        7..=8 => Request::SetData { path: path(entropy), data: data(entropy), version: entropy.number() },
        9 => Request::SetAcl { path: path(entropy), acl: acl(entropy), version: entropy.number() },
        10..=12 => Request::Multi(entropy.several(5, multi_op)),
        13 => Request::MultiRead(entropy.several(4, multi_read_op)),
        14 => Request::CreateContainer(create(entropy)),
        15 => Request::CreateTtl { create: create(entropy), ttl: i64::from(entropy.number()) },
        16 => Request::Check { path: path(entropy), version: entropy.number() },
        17 => Request::Exists { path: path(entropy), watch: entropy.bool() },
        18 => Request::GetData { path: path(entropy), watch: entropy.bool() },
        19 => Request::GetChildren { path: path(entropy), watch: entropy.bool() },
        20 => Request::GetChildren2 { path: path(entropy), watch: entropy.bool() },
        21 => Request::GetAcl { path: path(entropy) },
        22 => Request::Sync { path: path(entropy) },
        23 => Request::Ping,
        24 => Request::SetWatches { relative_zxid: i64::from(entropy.byte()), watches: watches(entropy) },
        25 => Request::SetWatches2 {
            relative_zxid: i64::from(entropy.byte()),
            watches: watches(entropy),
            persistent: entropy.several(2, path),
            persistent_recursive: entropy.several(2, path),
        },
        26..=27 => Request::AddWatch { path: path(entropy), mode: entropy.below(3) as i32 },
        28 => Request::CheckWatches { path: path(entropy), kind: entropy.below(5) as i32 },
        29 => Request::RemoveWatches { path: path(entropy), kind: entropy.below(5) as i32 },
        30 => {
            let (scheme, auth) =
                entropy.choose(&[("digest", "user:secret"), ("ip", ""), ("world", "x"), ("", "")]);
            Request::Auth { kind: 0, scheme: scheme.to_owned(), auth: Some(Bytes::from(auth)) }
        }
        31 => Request::GetEphemerals { prefix: path(entropy) },
        32 => Request::GetAllChildrenNumber { path: path(entropy) },
        33 => Request::WhoAmI,
        34 => match entropy.below(3) {
            0 => Request::Sasl { token: data(entropy) },
            1 => Request::Reconfig {
                joining: Some(path(entropy)),
                leaving: None,
                members: None,
                config_id: -1,
            },
            _ => Request::CloseSession,
        },
        _ => Request::Sync { path: path(entropy) },
    }
}

/// The body of a request, most often as it should be, and the op code before it.
pub(crate) fn body(entropy: &mut Entropy<'_>, spoil: bool) -> (i32, Bytes) {
    let request = request(entropy);
    let mut op = request.op().number();
    let mut body = BytesMut::new();
    request.encode(&mut body);
    if spoil {
        for _ in 0..=entropy.below(3) {
            let at = if body.is_empty() { 0 } else { entropy.below(body.len()) };
            match entropy.below(5) {
                0 => body.truncate(at),
                1 => body.put_slice(entropy.bytes(8)),
                2 => op = entropy.choose(OpCode::ALL).number(),
                3 if at + 4 <= body.len() => {
                    body[at..at + 4].copy_from_slice(&entropy.number().to_be_bytes())
                }
                _ => body.iter_mut().skip(at).take(1).for_each(|byte| *byte = entropy.byte()),
            }
        }
    }
    (op, body.freeze())
}
