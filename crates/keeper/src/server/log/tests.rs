//! Snapshots that go wrong, and an end in the middle of one.

use std::path::Path;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::*;
use crate::state::State;
use crate::store;

/// A busy machine takes its time; nothing that works takes this long.
const PATIENCE: Duration = Duration::from_secs(20);

/// A log for which a snapshot is due after each change, and what hands it the changes.
struct Fixture {
    dir: TempDir,
    state: State,
    log: Log,
    reports: mpsc::Receiver<Report>,
}

fn open(dir: &Path) -> (Store, State) {
    let options = store::Options { snapshot_every_txns: 1, ..store::Options::default() };
    Store::open(dir, options).expect("the directory is free and whole")
}

impl Fixture {
    fn new(start_snapshot: StartSnapshot) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let (store, state) = open(dir.path());
        let control = Arc::new(Control::default());
        let (log, reports) =
            Log::start_with(store, BeforeSync::default(), control, start_snapshot).expect("a thread");
        Self { dir, state, log, reports }
    }

    /// One more change, with an image for the snapshot.
    fn change(&mut self) {
        let id = self.state.last_zxid() + 1;
        let txn = self.state.create_session(id, 1_000, [0; 16], 0).txn;
        self.log.jobs().write(vec![txn], Some(self.state.image()));
        let report = self.reports.blocking_recv();
        assert!(matches!(report, Some(Report::Synced { groups: 1, .. })), "{report:?}");
    }

    fn snapshots(&self) -> usize {
        let entries = std::fs::read_dir(self.dir.path()).expect("it is there");
        let names = entries.map(|entry| entry.expect("a name").file_name());
        names.filter(|name| name.as_encoded_bytes().starts_with(b"snapshot.")).count()
    }

    /// Closes the log in order.
    fn close(&mut self) {
        self.log.close();
        let report = self.reports.blocking_recv();
        assert!(matches!(report, Some(Report::Closed)), "{report:?}");
    }
}

#[test]
fn a_snapshot_that_cannot_be_begun_or_panics_is_not_the_last_one() {
    type Start = fn(SyncSender<Job>) -> io::Result<JoinHandle<()>>;
    let first_goes_wrong: [Start; 2] =
        [|_| Err(io::Error::other("too many threads")), |done| start_snapshot(|| panic!("a bug"), done)];
    for wrong in first_goes_wrong {
        let mut begun = 0;
        let mut fixture = Fixture::new(Box::new(move |job, done| {
            begun += 1;
            if begun == 1 { wrong(done) } else { start_snapshot(|| job.run(), done) }
        }));
        let deadline = Instant::now() + PATIENCE;
        while fixture.snapshots() == 0 {
            assert!(Instant::now() < deadline, "no snapshot was tried again");
            fixture.change();
        }
        fixture.close();
    }
}

#[test]
fn an_end_in_the_middle_of_a_snapshot_does_not_wait_for_it() {
    let mut fixture = Fixture::new(Box::new(|job, done| {
        // Only the end of the log lets it go on: a snapshot that takes as long as that.
        let slow = move || {
            let deadline = Instant::now() + PATIENCE;
            while !job.is_given_up() && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(1));
            }
            job.run()
        };
        start_snapshot(slow, done)
    }));
    fixture.change();
    fixture.close();
    assert_eq!(fixture.snapshots(), 0, "it was cut short, and took its half-made file along");
    let (store, state) = open(fixture.dir.path());
    assert_eq!(state.fingerprint(), fixture.state.fingerprint());
    assert_eq!(store.recovery().snapshot_zxid, None);
}
