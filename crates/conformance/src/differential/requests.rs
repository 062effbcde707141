//! Random requests, aimed at nodes that may exist.

use rand::RngExt as _;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;

use super::hex;
use super::jute::Writer;
use super::model::Model;
use super::script::{Access, Call, Data, ROOT};

/// More nodes than this, and deleting becomes more frequent than creating.
const NODES: usize = 120;

const USERS: [(&str, &str); 3] = [
    ("u1:p1", "u1:fpT/y03U+EjItKZOSLGvjnJlyng="),
    ("u2:p2", "u2:o9NxcCGDPOlcV7JVhmKHOf5ctVE="),
    ("u3:p3", "u3:Im5xY/YYc2xRYjWcy4eAeBEG1fk="),
];

/// The node below which a script works.
pub(super) fn root() -> Call {
    Call::Create2 { path: ROOT.to_owned(), data: Data::Text(String::new()), acl: open_acl(), flags: 0 }
}

pub(super) fn open_acl() -> Vec<Access> {
    vec![access(31, "world", "anyone")]
}

fn access(perms: i32, scheme: &str, id: &str) -> Access {
    Access { perms, scheme: scheme.to_owned(), id: id.to_owned() }
}

fn pick<T: Copy>(random: &mut StdRng, from: &[T]) -> T {
    *from.choose(random).expect("every list here has items")
}

/// Any request that can be pipelined, with `slot` for names that only one session uses.
pub(super) fn any(random: &mut StdRng, model: &Model, slot: usize) -> Call {
    let crowded = model.len() > NODES;
    let path = path(random, model);
    let watch = random.random_ratio(1, 3);
    match random.random_range(0..200) {
        0..30 if crowded => delete(random, model),
        0..20 => create(random, model, slot, false),
        20..30 => create(random, model, slot, true),
        30..32 => other_create(random, model, slot),
        32..46 => delete(random, model),
        46..58 => Call::Exists { path, watch },
        58..72 => Call::GetData { path, watch },
        72..90 => set_data(random, model),
        90..96 => Call::GetAcl { path },
        96..104 => set_acl(random, model),
        104..112 => Call::GetChildren { path, watch },
        112..122 => Call::GetChildren2 { path, watch },
        122..125 => Call::Sync { path },
        125..127 => Call::Ping,
        127..130 => lone_check(random, model),
        130..150 => multi(random, model, slot),
        150..158 => multi_read(random, model),
        158..164 => set_watches(random, model),
        164..172 => Call::AddWatch { path, mode: pick(random, &[0, 1, 0, 1, 0, 1, 2, -1]) },
        172..178 => Call::CheckWatches { path, kind: watch_kind(random) },
        178..184 => Call::RemoveWatches { path, kind: watch_kind(random) },
        184..188 => Call::GetEphemerals { prefix: prefix(random, path) },
        188..192 => Call::GetAllChildrenNumber { path },
        192..195 => Call::WhoAmI,
        195..196 => Call::Reconfig { joining: "server.2=127.0.0.1:1:2".to_owned() },
        _ => set_data(random, model),
    }
}

fn watch_kind(random: &mut StdRng) -> i32 {
    pick(random, &[1, 2, 3, 1, 2, 3, 1, 2, 3, 0, 4, 9])
}

fn prefix(random: &mut StdRng, path: String) -> String {
    match random.random_range(0..6) {
        0 => "/".to_owned(),
        1 => String::new(),
        2 => " ".to_owned(),
        3 => ROOT.to_owned(),
        _ => path,
    }
}

/// A path that may lead somewhere, mostly.
fn path(random: &mut StdRng, model: &Model) -> String {
    match random.random_range(0..100) {
        0..62 => model.any(random).unwrap_or_else(|| ROOT.to_owned()),
        62..92 => wild(random),
        92..95 => ROOT.to_owned(),
        95..98 => pick(random, &["/", "/zookeeper", "/zookeeper/config", "/zookeeper/quota"]).to_owned(),
        _ => bad_path(random),
    }
}

/// A path over a small alphabet, so that sessions meet.
fn wild(random: &mut StdRng) -> String {
    let mut path = ROOT.to_owned();
    for _ in 0..random.random_range(1..=3) {
        path.push('/');
        path.push_str(pick(random, &["a", "b", "c", "d", "ä"]));
    }
    path
}

fn bad_path(random: &mut StdRng) -> String {
    let below = [
        "/",
        "//a",
        "/./a",
        "/..",
        "/a/",
        "/\0",
        "/\u{1}",
        "/a\u{7f}",
        "/\u{e000}",
        "/\u{fff0}",
        "/😀",
        "/a/.",
    ];
    match random.random_range(0..16) {
        0 => String::new(),
        1 => "relative".to_owned(),
        2 => format!("{ROOT}/{}", "long".repeat(500)),
        _ => format!("{ROOT}{}", pick(random, &below)),
    }
}

fn version(random: &mut StdRng, known: i32) -> i32 {
    match random.random_range(0..20) {
        0..9 => -1,
        9..16 => known,
        16..18 => random.random_range(0..4),
        18 => known + 1,
        _ => pick(random, &[-2, i32::MIN, i32::MAX]),
    }
}

fn data(random: &mut StdRng) -> Data {
    match random.random_range(0..20) {
        0 => Data::Null,
        1 | 2 => Data::Text(String::new()),
        3 => Data::Fill(random.random_range(100..3_000)),
        4 => Data::Hex("00ff80fe".to_owned()),
        _ => Data::Text(format!("d{}", random.random_range(0..1_000))),
    }
}

fn acl(random: &mut StdRng) -> Vec<Access> {
    let (_, user) = pick(random, &USERS);
    match random.random_range(0..100) {
        0..78 => open_acl(),
        78 => vec![access(1, "world", "anyone")],
        79 => vec![access(15, "world", "anyone"), access(16, "digest", user)],
        80..84 => vec![access(31, "auth", "")],
        84..86 => vec![access(31, "digest", user), access(1, "world", "anyone")],
        86 => vec![access(31, "digest", user), access(31, "digest", "u9:nobody"), access(31, "auth", "x")],
        87 => vec![access(31, "ip", "127.0.0.1")],
        88 => {
            let net = pick(random, &["127.0.0.0/8", "10.0.0.0/8", "127.0.0.1/32", "0.0.0.0/0", "10.1.2.3"]);
            vec![access(31, "ip", net), access(1, "world", "anyone")]
        }
        89 => vec![access(
            31,
            "ip",
            pick(random, &["127.0.0.1/33", "300.1.1.1", "1.2.3", "", "::1", "127.0.0.1/"]),
        )],
        90 => Vec::new(),
        91 => vec![access(31, "nobody", "knows")],
        92 => vec![access(31, "world", "nobody")],
        93 => vec![access(31, "digest", pick(random, &["u1", "u1:", ":", "", "a:b:c", ":x"]))],
        94 => {
            vec![access(31, "world", "anyone"), access(31, "world", "anyone"), access(1, "world", "anyone")]
        }
        95 => vec![access(pick(random, &[0, 32, -1, 95]), "world", "anyone"), access(31, "digest", user)],
        96 => vec![access(31, pick(random, &["sasl", "x509", "super", ""]), "someone")],
        97 => vec![access(2, "world", "anyone"), access(31, "auth", "")],
        98 => vec![access(31, "digest", user)],
        _ => vec![access(29, "world", "anyone"), access(2, "ip", "127.0.0.1")],
    }
}

/// A path where a node may be created; mostly with a parent that exists.
fn place(random: &mut StdRng, model: &Model, slot: usize) -> String {
    let Some(parent) = model.parent(random).filter(|_| random.random_ratio(5, 6)) else {
        return path(random, model);
    };
    let name = match random.random_range(0..10) {
        0..7 => pick(random, &["a", "b", "c", "d", "ä"]).to_owned(),
        7 => format!("s{slot}"),
        _ => random.random_range(0..50).to_string(),
    };
    format!("{parent}/{name}")
}

fn create(random: &mut StdRng, model: &Model, slot: usize, two: bool) -> Call {
    let flags = match random.random_range(0..40) {
        0..20 => 0,
        20..28 => 1,
        28..32 => 2,
        32..36 => 3,
        36 => pick(random, &[5, 6, 7, 8, -1, 100]),
        _ => 0,
    };
    let mut path = place(random, model, slot);
    if matches!(flags, 2 | 3) {
        // The suffix goes behind the last component, which may be empty.
        let cut = path.rfind('/').unwrap_or(0);
        path.truncate(cut);
        path.push_str(pick(random, &["/", "/q-", "/a"]));
    }
    let (data, acl) = (data(random), acl(random));
    if two { Call::Create2 { path, data, acl, flags } } else { Call::Create { path, data, acl, flags } }
}

/// Time to live needs a setting that ZooKeeper does not have by default.
///
/// Containers are left out: ZooKeeper deletes them when it pleases. So is `createTTL` with flags that name no time to live: ZooKeeper logs a
/// transaction that it cannot read and dies.
fn other_create(random: &mut StdRng, model: &Model, slot: usize) -> Call {
    let path = place(random, model, slot);
    let flags = pick(random, &[5, 6]);
    let ttl = pick(random, &[1_000, 0, -1, i64::MAX]);
    Call::CreateTtl { path, data: data(random), acl: open_acl(), flags, ttl }
}

fn delete(random: &mut StdRng, model: &Model) -> Call {
    let path = match model.leaf(random) {
        Some(leaf) if random.random_ratio(3, 4) => leaf,
        _ => path(random, model),
    };
    let version = version(random, model.version(&path));
    Call::Delete { path, version }
}

fn set_data(random: &mut StdRng, model: &Model) -> Call {
    let path = path(random, model);
    let version = version(random, model.version(&path));
    Call::SetData { path, data: data(random), version }
}

fn set_acl(random: &mut StdRng, model: &Model) -> Call {
    let path = path(random, model);
    let version = version(random, model.aversion(&path));
    // What everything stands on stays open.
    let fixed = path == ROOT || path == "/" || path.starts_with("/zookeeper");
    let acl = if fixed { open_acl() } else { acl(random) };
    let version = if path.starts_with("/zookeeper") { 99 } else { version };
    Call::SetAcl { path, acl, version }
}

/// A check outside of a multi, which never succeeds here: ZooKeeper fails to write its answer, and its client waits for ever. The keeper answers.
fn lone_check(random: &mut StdRng, model: &Model) -> Call {
    Call::Check { path: path(random, model), version: pick(random, &[10_000, i32::MIN, i32::MAX]) }
}

fn check(random: &mut StdRng, model: &Model) -> Call {
    let path = path(random, model);
    let version = version(random, model.version(&path));
    Call::Check { path, version }
}

fn multi(random: &mut StdRng, model: &Model, slot: usize) -> Call {
    let careful = random.random_ratio(2, 3);
    let longest = random.random_range(1..=7);
    let length = random.random_range(0..=longest);
    let ops = (0..length).map(|_| if careful { sure(random, model) } else { part(random, model, slot) });
    Call::Multi { ops: ops.collect() }
}

/// An operation of a multi.
///
/// None is a create whose flags name a time to live: ZooKeeper finds out late that it has none, fails the multi as if it could not be read, and
/// leaves what the operations before it would have changed for the requests behind it to see, for a moment.
fn part(random: &mut StdRng, model: &Model, slot: usize) -> Call {
    let mut part = any_part(random, model, slot);
    if let Call::Create { flags, .. } | Call::Create2 { flags, .. } = &mut part
        && matches!(flags, 5 | 6)
    {
        *flags = 0;
    }
    part
}

fn any_part(random: &mut StdRng, model: &Model, slot: usize) -> Call {
    match random.random_range(0..60) {
        0..16 => create(random, model, slot, false),
        16..24 => create(random, model, slot, true),
        24..34 => delete(random, model),
        34..46 => set_data(random, model),
        46..58 => check(random, model),
        58 => other_create(random, model, slot),
        _ => Call::GetData { path: path(random, model), watch: false },
    }
}

/// An operation that most likely succeeds.
fn sure(random: &mut StdRng, model: &Model) -> Call {
    let known = model.any(random).unwrap_or_else(|| ROOT.to_owned());
    match random.random_range(0..10) {
        0..3 => {
            let parent = model.parent(random).unwrap_or_else(|| ROOT.to_owned());
            let flags = pick(random, &[2, 3, 2, 3, 0, 1]);
            let path = match flags {
                0 | 1 => format!("{parent}/n{}", random.random_range(0..100_000)),
                _ => format!("{parent}/m-"),
            };
            Call::Create { path, data: data(random), acl: open_acl(), flags }
        }
        3..6 => Call::SetData { path: known, data: data(random), version: -1 },
        6..8 => {
            let leaf = model.leaf(random).unwrap_or(known);
            Call::Delete { path: leaf, version: -1 }
        }
        _ => {
            let version = model.version(&known);
            Call::Check { path: known, version }
        }
    }
}

fn multi_read(random: &mut StdRng, model: &Model) -> Call {
    let length = random.random_range(0..5);
    let op = |_| {
        let path = path(random, model);
        let watch = random.random_ratio(1, 4);
        match random.random_range(0..40) {
            0..20 => Call::GetData { path, watch },
            20..39 => Call::GetChildren { path, watch },
            _ => Call::Exists { path, watch },
        }
    };
    Call::MultiRead { ops: (0..length).map(op).collect() }
}

pub(super) fn set_watches(random: &mut StdRng, model: &Model) -> Call {
    let mut some = || {
        let count = random.random_range(0..4);
        (0..count).map(|_| path(random, model)).collect::<Vec<_>>()
    };
    let (data, exist, child) = (some(), some(), some());
    let (persistent, recursive) = (some(), some());
    let back = pick(random, &[0, 0, 5, 50, -1_000, 1_000_000]);
    if random.random_ratio(1, 2) {
        Call::SetWatches { back, data, exist, child }
    } else {
        Call::SetWatches2 { back, data, exist, child, persistent, recursive }
    }
}

pub(super) fn digest(random: &mut StdRng) -> Call {
    let (secret, _) = pick(random, &USERS);
    Call::Auth { scheme: "digest".to_owned(), secret: Data::Text(secret.to_owned()) }
}

/// Identities, right and wrong; a refusal ends the connection.
pub(super) fn auth(random: &mut StdRng) -> Call {
    let (scheme, secret) = match random.random_range(0..20) {
        0..9 => return digest(random),
        9 => ("digest", Data::Text("u1:wrong".to_owned())),
        10 => ("digest", Data::Text("nobody".to_owned())),
        11 => ("digest", Data::Text(String::new())),
        12 => ("digest", Data::Null),
        13 => ("digest", Data::Text("super:secret".to_owned())),
        14 => ("ip", Data::Text("127.0.0.1".to_owned())),
        15 => ("world", Data::Text("anyone".to_owned())),
        16 => ("sasl", Data::Text("token".to_owned())),
        17 => ("kerberos", Data::Text("x".to_owned())),
        18 => return Call::Sasl { token: Data::Text("token".to_owned()) },
        _ => ("", Data::Null),
    };
    Call::Auth { scheme: scheme.to_owned(), secret }
}

/// A few nodes that end with their session.
pub(super) fn ephemerals(random: &mut StdRng) -> Vec<Call> {
    let node = |name: &str| Call::Create {
        path: format!("{ROOT}/{name}"),
        data: Data::Text("mine".to_owned()),
        acl: open_acl(),
        flags: 1,
    };
    ["e1", "e2", "e3"].into_iter().take(random.random_range(0..=3)).map(node).collect()
}

/// The first frame of a connection that is no request to connect, and too short to be taken for one.
pub(super) fn hello(random: &mut StdRng) -> String {
    let length = random.random_range(0..28);
    hex::encode(&(0..length).map(|_| random.random()).collect::<Vec<u8>>())
}

/// Bytes that are no request, or not quite.
pub(super) fn spoilt(random: &mut StdRng, model: &Model) -> Call {
    if random.random_ratio(1, 12) {
        return match random.random_range(0..3) {
            0 => Call::Length { length: pick(random, &[-1, i32::MIN, i32::MAX, 1_048_576]) },
            1 => Call::Frame { hex: String::new() },
            _ => Call::Frame { hex: "00".repeat(random.random_range(1..8)) },
        };
    }
    // Not 11 and -11 (nothing to spoil), not 102 (its answer names a mechanism), not -10, 20 and -1, which servers send each other.
    let unknown = [0, 10, 23, 99, 108, 1_000, -2, i32::MIN, i32::MAX];
    let mut request = any(random, model, 0);
    // Spoilt a little, the one would kill ZooKeeper, and the other would perhaps not be answered.
    while matches!(request, Call::Check { .. } | Call::CreateTtl { .. }) {
        request = any(random, model, 0);
    }
    let mut body = Writer::default();
    request.body(&mut body, 1);
    let mut body = body.0;
    let op = if random.random_ratio(1, 6) { pick(random, &unknown) } else { request.op() };
    match random.random_range(0..5) {
        0 => body.truncate(random.random_range(0..=body.len())),
        1 if body.len() >= 4 && op != 9 => {
            // A length, perhaps: null, negative, or more than there is.
            let at = random.random_range(0..=body.len() - 4);
            let length = pick(random, &[-1, -2, i32::MIN, i32::MAX, 1_000, 0]);
            body[at..at + 4].copy_from_slice(&length.to_be_bytes());
        }
        // A path that is null, among others. A sync of null is left out: ZooKeeper answers it, with null.
        2 if body.len() >= 4 && op != 9 => {
            body[..4].copy_from_slice(&pick(random, &[-1i32, -2, 0, 1 << 20]).to_be_bytes());
        }
        3 if !body.is_empty() => {
            let at = random.random_range(0..body.len());
            body[at] = 0xff;
        }
        _ => body.extend_from_slice(&[1, 2, 3]),
    }
    Call::Raw { op, hex: hex::encode(&body) }
}
