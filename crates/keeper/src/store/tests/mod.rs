//! Every crash there is, on a fake disk; every bit flipped; every operation failing.

mod fake;
mod story;

use std::io::ErrorKind;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use rand::SeedableRng;
use rand::rngs::StdRng;

use self::fake::{Content, Cut, FakeDisk, Op, Refusal};
use self::story::{Story, image};
use super::{OpenError, Options, Recovery, Store, segment, snapshot};
use crate::state::{State, Txn};

fn options() -> Options {
    Options { snapshot_every_txns: 9, snapshots_kept: 2, ..Options::default() }
}

fn open(disk: &FakeDisk) -> Result<(Store, State), OpenError> {
    Store::open_on(Arc::new(disk.clone()), None, options())
}

/// What had been promised after so many operations of the disk.
struct Promise {
    ops: usize,
    zxid: i64,
}

/// Runs the story in groups of one to four transactions, with snapshots as they come due, each of which ends while
/// the groups go on. Returns what was acknowledged when, and the first error.
fn run(disk: &FakeDisk, story: &Story) -> (Vec<Promise>, Option<String>) {
    let mut promises = Vec::new();
    let mut go = || -> Result<(), String> {
        let (mut store, mut state) = open(disk).map_err(|error| error.to_string())?;
        let mut job = None;
        let mut at = usize::try_from(state.last_zxid()).unwrap();
        let mut group = 0;
        while at < story.txns.len() {
            group = group % 4 + 1;
            let txns = &story.txns[at..story.txns.len().min(at + group)];
            // Two writes before one sync are allowed.
            let (first, second) = txns.split_at(txns.len() / 3);
            store.append(first).map_err(|error| error.to_string())?;
            store.append(second).map_err(|error| error.to_string())?;
            store.sync().map_err(|error| error.to_string())?;
            at += txns.len();
            promises.push(Promise { ops: disk.ops().len(), zxid: i64::try_from(at).unwrap() });
            for txn in txns {
                state.replay(txn).unwrap();
            }
            if let Some(job) = job.take() {
                store.finished_snapshot(&super::SnapshotJob::run(job));
            }
            if store.snapshot_due() {
                job = store.begin_snapshot(state.image()).map_err(|error| error.to_string())?;
            }
        }
        store.close().map_err(|error| error.to_string())
    };
    let error = go().err();
    (promises, error)
}

fn promised(promises: &[Promise], ops: usize) -> i64 {
    promises.iter().filter(|promise| promise.ops <= ops).map(|promise| promise.zxid).max().unwrap_or(0)
}

/// Opens what a crash left: never refused, nothing promised lost, nothing made up. Returns the last zxid.
#[track_caller]
fn recovers(content: &Content, story: &Story, promised: i64, what: &str) -> (i64, FakeDisk, Recovery) {
    let disk = FakeDisk::with(content.clone());
    let (store, state) = open(&disk).unwrap_or_else(|error| panic!("{what}: {error}"));
    let zxid = state.last_zxid();
    assert!(zxid >= promised, "{what}: {zxid} of {promised} acknowledged");
    assert_eq!(
        image(&state),
        story.images[usize::try_from(zxid).unwrap()],
        "{what}: another state at {zxid}"
    );
    assert_eq!(store.last_zxid(), zxid);
    (zxid, disk, store.recovery().clone())
}

/// Another history than the story's begins where it ends: nothing of what was cut off may come back.
#[track_caller]
fn goes_elsewhere(disk: &FakeDisk, what: &str) {
    let (mut store, mut state) = open(disk).unwrap();
    let written = state.close_session(99, 0);
    store.append(&[written.txn]).unwrap();
    store.sync().unwrap();
    drop(store);
    let (store, found) = open(disk).unwrap_or_else(|error| panic!("{what}, elsewhere: {error}"));
    assert_eq!(found.fingerprint(), state.fingerprint(), "{what}, elsewhere");
    assert_eq!(store.recovery().torn, None, "{what}, elsewhere");
}

/// A crash after every operation, in many variants, and during the recovery from it, and work that goes on.
#[test]
fn every_crash_keeps_what_was_acknowledged() {
    let story = Story::new(40, 1300);
    let disk = FakeDisk::default();
    let (promises, error) = run(&disk, &story);
    assert_eq!(error, None);
    let ops = disk.ops();
    let mut random = StdRng::seed_from_u64(1);
    let (mut crashes, mut torn, mut second_crashes) = (0, 0, 0);
    for at in 0..=ops.len() {
        let promised = promised(&promises, at);
        let shorts: Vec<usize> = match at.checked_sub(1).map(|last| &ops[last]) {
            Some(Op::Write { bytes, .. }) if bytes.iter().any(|byte| *byte != 0) => {
                let step = (bytes.len() / 60).max(1);
                (0..bytes.len()).step_by(step).chain(bytes.len().saturating_sub(9)..bytes.len()).collect()
            }
            _ => Vec::new(),
        };
        let plain = [Cut::None, Cut::All, Cut::Names, Cut::Bytes].into_iter();
        let contents: Vec<Content> = plain
            .chain(shorts.into_iter().map(Cut::Short))
            .map(|mut cut| disk.after_power_cut(at, &mut cut))
            .chain((0..30).map(|_| disk.after_power_cut(at, &mut Cut::Any(&mut random))).collect::<Vec<_>>())
            .collect();
        // A kill instead of a power cut; what the next process shows must survive a power cut then.
        let killed = disk.killed_after(at);
        let (_, state) = open(&killed).unwrap();
        for mut cut in [Cut::None, Cut::Any(&mut random)] {
            let content = killed.after_power_cut(killed.ops().len(), &mut cut);
            recovers(&content, &story, state.last_zxid(), &format!("killed after {at}"));
        }
        for (variant, content) in contents.iter().enumerate() {
            let what = format!("operation {at} of {}, variant {variant}", ops.len());
            let (zxid, recovered, report) = recovers(content, &story, promised, &what);
            crashes += 1;
            torn += u64::from(report.torn.is_some());
            // What recovery showed to clients stays, whatever happens next.
            let opened = recovered.ops().len();
            for mut cut in [Cut::None, Cut::Any(&mut random)] {
                recovers(
                    &recovered.after_power_cut(opened, &mut cut),
                    &story,
                    zxid,
                    &format!("{what}, then"),
                );
            }
            if variant % 5 == 0 {
                for during in 0..opened {
                    let again = recovered.after_power_cut(during, &mut Cut::Any(&mut random));
                    recovers(&again, &story, promised, &format!("{what}, then {during} of recovery"));
                    second_crashes += 1;
                }
                goes_elsewhere(&FakeDisk::with(recovered.now()), &what);
                let (_, error) = run(&recovered, &story);
                assert_eq!(error, None, "{what}: goes on");
                recovers(&recovered.now(), &story, i64::try_from(story.txns.len()).unwrap(), &what);
            }
        }
    }
    // The enumeration is worth nothing if it never met what it is about.
    assert!(crashes > 3000 && torn > 300 && second_crashes > 1000, "{crashes} {torn} {second_crashes}");
    println!(
        "{} operations, {crashes} crashes, {torn} torn tails, {second_crashes} second crashes",
        ops.len()
    );
}

/// From the first operation that fails on, nothing is acknowledged and nothing is lost.
#[test]
fn a_disk_that_fails_stops_the_store_and_loses_nothing() {
    let story = Story::new(25, 1300);
    let good = FakeDisk::default();
    run(&good, &story);
    for at in 0..good.ops().len() {
        for bytes in [0, 1, 700] {
            let disk = FakeDisk::failing(at, bytes);
            let (promises, error) = run(&disk, &story);
            let promised = promised(&promises, usize::MAX);
            let message = error.unwrap_or_else(|| panic!("operation {at} failed and nobody said so"));
            assert!(message.contains("/fake/"), "which file? {message}");
            for mut cut in [Cut::None, Cut::All] {
                let content = disk.after_power_cut(disk.ops().len(), &mut cut);
                recovers(&content, &story, promised, &format!("operation {at} failed: {message}"));
            }
        }
    }
}

/// Writes transactions one by one.
#[track_caller]
fn go_on(store: &mut Store, state: &mut State, txns: &[Txn]) {
    for txn in txns {
        store.append(std::slice::from_ref(txn)).unwrap();
        store.sync().unwrap();
        state.replay(txn).unwrap();
    }
}

/// Whatever fails before a new segment has its name, the log goes on in the old one.
#[test]
fn a_rotation_that_fails_is_not_the_end() {
    let steps: [Refusal; 5] = [
        (|op| matches!(op, Op::Create { .. }), ErrorKind::StorageFull),
        // No file descriptor is left.
        (|op| matches!(op, Op::Create { .. }), ErrorKind::Other),
        (|op| matches!(op, Op::Write { offset: 0, .. }), ErrorKind::QuotaExceeded),
        (|op| matches!(op, Op::Sync { inode: 1 }), ErrorKind::QuotaExceeded),
        (|op| matches!(op, Op::Rename { .. }), ErrorKind::StorageFull),
    ];
    let story = Story::new(24, 1300);
    for (step, refused) in steps.into_iter().enumerate() {
        let disk = FakeDisk::default();
        let (mut store, mut state) = open(&disk).unwrap();
        go_on(&mut store, &mut state, &story.txns[..10]);
        disk.refuse(Some(refused));
        assert!(store.snapshot_due());
        let job = store.begin_snapshot(state.image()).unwrap_or_else(|error| panic!("step {step}: {error}"));
        assert!(job.is_none() && !store.snapshot_due(), "step {step}: tried again in its time");
        let names: Vec<_> = disk.now().names.into_keys().collect();
        assert_eq!(names, [segment::name(0)], "step {step}: nothing takes the room of the log");
        disk.refuse(None);
        go_on(&mut store, &mut state, &story.txns[10..20]);
        recovers(&disk.now(), &story, 20, &format!("step {step}"));
        let job = store.begin_snapshot(state.image()).unwrap().expect("there is room again");
        store.finished_snapshot(&job.run());
        go_on(&mut store, &mut state, &story.txns[20..]);
        let (_, _, recovery) = recovers(&disk.now(), &story, 24, &format!("step {step}, later"));
        assert_eq!((recovery.snapshot_zxid, recovery.txns_replayed), (Some(20), 4));
    }
}

/// A rename that may have been done all the same is the end: the log must not go on in two segments.
#[test]
fn a_rename_that_nobody_knows_about_is_the_end() {
    let story = Story::new(12, 1300);
    let disk = FakeDisk::default();
    let (mut store, mut state) = open(&disk).unwrap();
    go_on(&mut store, &mut state, &story.txns[..10]);
    let names: fn(&Op) -> bool = |op| matches!(op, Op::Rename { .. } | Op::Remove { .. });
    disk.refuse(Some((names, ErrorKind::Other)));
    assert!(store.begin_snapshot(state.image()).is_err());
    disk.refuse(None);
    assert!(store.append(&story.txns[10..]).is_err());
    recovers(&disk.now(), &story, 10, "after a rename that failed");
}

#[test]
fn without_room_for_zeros_ahead_the_log_goes_on() {
    let story = Story::new(24, 1300);
    for kind in [ErrorKind::StorageFull, ErrorKind::QuotaExceeded] {
        let disk = FakeDisk::default();
        let (mut store, mut state) = open(&disk).unwrap();
        let zeros: fn(&Op) -> bool =
            |op| matches!(op, Op::Write { bytes, .. } if bytes.iter().all(|byte| *byte == 0));
        disk.refuse(Some((zeros, kind)));
        go_on(&mut store, &mut state, &story.txns);
        recovers(&disk.now(), &story, 24, "without zeros ahead");
    }
}

#[test]
fn a_snapshot_that_is_given_up_leaves_nothing() {
    let story = Story::new(12, 1300);
    let disk = FakeDisk::default();
    let (mut store, mut state) = open(&disk).unwrap();
    store.append(&story.txns).unwrap();
    story.txns.iter().for_each(|txn| state.replay(txn).unwrap());
    let job = store.begin_snapshot(state.image()).unwrap().expect("there is room");
    store.give_up_snapshots();
    store.finished_snapshot(&job.run());
    store.close().unwrap();
    let names: Vec<_> = disk.now().names.into_keys().collect();
    assert_eq!(names, [segment::name(0), segment::name(12)]);
    recovers(&disk.now(), &story, 12, "after a snapshot that was given up");
}

/// Or one that is given up would still wait for the disk to take gigabytes.
#[test]
fn a_snapshot_is_synced_as_it_grows() {
    let disk = FakeDisk::default();
    let body = vec![1; 20 << 20];
    let bytes = snapshot::write(&disk, 1, |out| out.write_all(&body)).unwrap();
    assert!(bytes > body.len() as u64);
    let (mut unsynced, mut most) = (0, 0);
    for op in disk.ops() {
        match op {
            Op::Write { bytes, .. } => unsynced += bytes.len() as u64,
            Op::Sync { .. } => unsynced = 0,
            _ => {}
        }
        most = most.max(unsynced);
    }
    assert!(most < snapshot::SYNC_EVERY_BYTES * 5 / 4, "{most} bytes at once");
}

/// The snapshot counts, and the next one removes what this one could not.
#[test]
fn files_that_cannot_be_removed_are_no_failure_of_the_snapshot() {
    let story = Story::new(36, 1300);
    let disk = FakeDisk::default();
    let (mut store, mut state) = open(&disk).unwrap();
    let removes: fn(&Op) -> bool = |op| matches!(op, Op::Remove { .. });
    for (at, refuse) in [(0, false), (9, false), (18, true), (27, false)] {
        go_on(&mut store, &mut state, &story.txns[at..at + 9]);
        let job = store.begin_snapshot(state.image()).unwrap().expect("there is room");
        disk.refuse(refuse.then_some((removes, ErrorKind::PermissionDenied)));
        let done = job.run();
        assert_eq!((done.written.is_ok(), done.pruned.is_err()), (true, refuse), "{done:?}");
        store.finished_snapshot(&done);
    }
    let snapshots = disk.now().names.keys().filter_map(|name| snapshot::zxid_of(name)).collect::<Vec<_>>();
    assert_eq!(snapshots, [27, 36]);
}

#[test]
fn after_a_failed_sync_nothing_is_taken() {
    let story = Story::new(4, 1300);
    let good = FakeDisk::default();
    let (mut store, _) = open(&good).unwrap();
    store.append(&story.txns[..1]).unwrap();
    let before = good.ops().len();
    let disk = FakeDisk::failing(before, 0);
    let (mut store, _) = open(&disk).unwrap();
    store.append(&story.txns[..1]).unwrap();
    let message = store.sync().unwrap_err().to_string();
    assert!(message.contains("log.0000000000000000") && message.contains("make room"), "{message}");
    assert!(store.append(&story.txns[1..2]).is_err() && store.sync().is_err() && store.append(&[]).is_err());
}

/// A directory with two snapshots and a log that goes on.
fn busy(story: Story, closed: bool) -> (Story, Content) {
    let disk = FakeDisk::default();
    let (promises, error) = run(&disk, &story);
    assert_eq!(error, None);
    let content =
        if closed { disk.now() } else { disk.after_power_cut(promises.last().unwrap().ops, &mut Cut::All) };
    (story, content)
}

/// What opening makes of damage: the whole state, or a refusal that names the file.
fn endures(content: Content, story: &Story, what: &str) -> bool {
    let disk = FakeDisk::with(content);
    let opened = std::panic::catch_unwind(AssertUnwindSafe(|| open(&disk)));
    match opened.unwrap_or_else(|_| panic!("{what}: panicked")) {
        Ok((_, state)) => {
            assert_eq!(image(&state), *story.images.last().unwrap(), "{what}: another state");
            true
        }
        Err(error) => {
            assert!(error.to_string().contains("/fake/"), "{what}: which file? {error}");
            false
        }
    }
}

#[test]
fn a_flipped_bit_anywhere_is_harmless_or_refused() {
    for closed in [false, true] {
        let (story, content) = busy(Story::new(26, 60), closed);
        let (mut harmless, mut refused) = (0, 0);
        for name in content.names.keys() {
            for at in 0..content.clone().file(name).len() {
                let mut flipped = content.clone();
                let bit = at % 8;
                flipped.file(name)[at] ^= 1 << bit;
                let what = format!("{name}, byte {at}, bit {bit}, closed {closed}");
                if endures(flipped, &story, &what) { harmless += 1 } else { refused += 1 }
            }
        }
        assert!(harmless > 1000 && refused > 400, "{harmless} harmless, {refused} refused");
    }
}

#[test]
fn a_lost_file_is_missed() {
    let (story, content) = busy(Story::new(31, 1300), false);
    let last_snapshot = content.names.keys().filter_map(|name| snapshot::zxid_of(name)).max().unwrap();
    for name in content.names.keys() {
        let mut without = content.clone();
        without.names.remove(name);
        let endured = endures(without, &story, name);
        // A segment that its snapshot speaks of is missed even if a newer snapshot makes it superfluous.
        let needless = match segment::base_of(name) {
            Some(base) => base < last_snapshot && !content.names.contains_key(&snapshot::name(base)),
            None => true,
        };
        assert_eq!(endured, needless, "{name}");
    }
}

#[track_caller]
fn refusal(content: Content) -> String {
    open(&FakeDisk::with(content)).map(|_| ()).unwrap_err().to_string()
}

/// What people read: the file, the offset, what is known, what to do.
#[test]
fn refusals_say_what_to_do() {
    let (_, content) = busy(Story::new(8, 1300), false);
    let log = segment::name(0);

    let mut middle = content.clone();
    middle.file(&log)[64 + 50] ^= 1;
    let message = refusal(middle);
    assert!(message.contains("/fake/log.0000000000000000 is damaged at offset 64"), "{message}");
    assert!(
        message.contains("was safely on disk before transaction") && message.contains("backup"),
        "{message}"
    );

    let mut last = content.clone();
    let file = last.file(&log);
    let end = file.iter().rposition(|byte| *byte != 0).unwrap();
    file[end - 20] ^= 1;
    let message = refusal(last);
    assert!(message.contains("to give up every transaction after 0x7 instead: truncate -s"), "{message}");

    let mut renamed = content.clone();
    let inode = renamed.names.remove(&log).unwrap();
    renamed.names.insert(segment::name(3), inode);
    let message = refusal(renamed);
    assert!(
        message.contains("log.0000000000000000 is missing: the log begins after transaction 0x3"),
        "{message}"
    );

    let mut newer = content;
    newer.file(&log)[8] = 9;
    let crc = crc32fast::hash(&newer.file(&log)[..60]);
    newer.file(&log)[60..64].copy_from_slice(&crc.to_le_bytes());
    let message = refusal(newer);
    assert!(
        message.contains("format version 9") && message.contains("start the version that wrote it"),
        "{message}"
    );
}

/// Formats inside of the files: neither is damage, nor is an older snapshot taken instead.
#[test]
fn what_a_later_version_wrote_is_told_from_damage() {
    let (_, content) = busy(Story::new(31, 1300), false);
    let expect = |content: Content, file: &str| {
        let error = open(&FakeDisk::with(content)).map(|_| ()).unwrap_err();
        match &error {
            OpenError::Version { path, found: 9, supported: 1 } if path.ends_with(file) => {}
            _ => panic!("{file}: {error}"),
        }
    };

    let at = content.names.keys().filter_map(|name| snapshot::zxid_of(name)).max().unwrap();
    let log = segment::name(at);
    let mut newer = content.clone();
    let record = &mut newer.file(&log)[64..];
    let payload_bytes = u32::from_le_bytes(*record[4..].first_chunk().unwrap()) as usize;
    record[48] = 9;
    let crc = crc32fast::hash(&record[48..48 + payload_bytes]);
    record[32..36].copy_from_slice(&crc.to_le_bytes());
    let crc = crc32fast::hash(&record[..40]);
    record[40..44].copy_from_slice(&crc.to_le_bytes());
    expect(newer, &log);

    let newest = snapshot::name(at);
    let mut newer = content;
    let piece = &mut newer.file(&newest)[32..];
    let piece_bytes = u32::from_le_bytes(*piece.first_chunk().unwrap()) as usize;
    piece[8 + 8] = 9;
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&32_u64.to_le_bytes());
    hasher.update(&piece[8..8 + piece_bytes]);
    piece[4..8].copy_from_slice(&hasher.finalize().to_le_bytes());
    expect(newer, &newest);
}

#[test]
fn a_damaged_snapshot_is_passed_over_while_an_older_one_leads_here() {
    let (story, mut content) = busy(Story::new(31, 1300), false);
    let mut snapshots: Vec<String> =
        content.names.keys().filter(|name| snapshot::zxid_of(name).is_some()).cloned().collect();
    assert_eq!(snapshots.len(), 2);
    content.file(&snapshots.pop().unwrap())[100] ^= 1;
    let (_, disk, report) = recovers(&content, &story, 31, "one damaged");
    assert_eq!(report.snapshots_skipped, 1);
    drop(disk);
    content.file(&snapshots.pop().unwrap())[100] ^= 1;
    let message = refusal(content);
    assert!(message.contains("fails its checksum, and the log does not reach back"), "{message}");
}

#[test]
fn the_directory_stays_bounded() {
    let (_, content) = busy(Story::new(200, 1300), false);
    let count = |of: fn(&str) -> Option<i64>| content.names.keys().filter(|name| of(name).is_some()).count();
    assert_eq!(count(snapshot::zxid_of), 2);
    assert!(count(segment::base_of) <= 4, "{:?}", content.names.keys());
}

#[test]
fn a_directory_has_one_server_and_the_files_of_a_real_one_do_as_the_fake() {
    let story = Story::new(12, 1300);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("data");
    let (mut store, mut state) = Store::open(&path, options()).unwrap();
    let message = Store::open(&path, options()).map(|_| ()).unwrap_err().to_string();
    assert!(message.contains(&format!("in use by process {}", std::process::id())), "{message}");
    store.append(&story.txns[..10]).unwrap();
    story.txns[..10].iter().for_each(|txn| state.replay(txn).unwrap());
    assert!(store.snapshot_due());
    let job = store.begin_snapshot(state.image()).unwrap().expect("there is room");
    let done = std::thread::spawn(|| job.run()).join().unwrap();
    store.finished_snapshot(&done);
    store.append(&story.txns[10..]).unwrap();
    store.close().unwrap();
    std::fs::write(path.join(snapshot::TEMPORARY), "half").unwrap();

    let (store, state) = Store::open(&path, options()).unwrap();
    assert_eq!(image(&state), story.images[12]);
    let recovery = store.recovery();
    assert_eq!(
        (recovery.snapshot_zxid, recovery.txns_replayed, recovery.temporaries_removed),
        (Some(10), 2, 1)
    );
    assert!(recovery.torn.is_none() && !path.join(snapshot::TEMPORARY).exists());
}
