//! The log thread: one write and one fdatasync for all groups of changes that are there, and the snapshots.

#[cfg(test)]
mod tests;

use std::fmt::{self, Debug, Formatter};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{Builder, JoinHandle};

use tokio::sync::mpsc;
use tracing::{error, info};

use super::control::Control;
use super::group::GROUPS_MAX;
use crate::state::{Image, Txn};
use crate::store::{SnapshotDone, SnapshotJob, Store};

/// The groups that the engine may have on their way, a snapshot's end, and the server's: nobody ever waits for room.
const JOBS: usize = GROUPS_MAX + 4;

enum Job {
    /// Write these and sync; then begin a snapshot of the state after them, if there is an image of it.
    Write(Vec<Txn>, Option<Snapshot>),
    /// A snapshot was written, or not, or its thread has panicked.
    SnapshotDone(Option<SnapshotDone>),
    /// End in order.
    Close,
}

struct Snapshot {
    image: Image,
    /// Where its end is told. It comes with the image because the log thread must not keep its own queue open.
    done: SyncSender<Job>,
}

/// What the log thread reports.
#[derive(Debug)]
pub(super) enum Report {
    /// So many groups more are on the disk. Their changes come back for their allocation.
    Synced { groups: usize, txns: Vec<Txn>, snapshot_due: bool },
    /// The disk failed: the last report.
    Failed(io::Error),
    /// The log is closed in order: the last report.
    Closed,
}

/// Runs before each sync: how tests make a disk slow or broken.
#[derive(Default)]
pub(super) struct BeforeSync(pub(super) Option<Box<dyn FnMut() -> io::Result<()> + Send>>);

impl Debug for BeforeSync {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("BeforeSync").field(&self.0.is_some()).finish()
    }
}

/// How a snapshot gets its thread, which tells its end to the sender.
type StartSnapshot = Box<dyn FnMut(SnapshotJob, SyncSender<Job>) -> io::Result<JoinHandle<()>> + Send>;

fn start_snapshot(
    work: impl FnOnce() -> SnapshotDone + Send + 'static,
    done: SyncSender<Job>,
) -> io::Result<JoinHandle<()>> {
    Builder::new().name("keeper-snapshot".to_owned()).spawn(move || {
        // A bug in there costs this snapshot. The panic has been printed.
        let written = catch_unwind(AssertUnwindSafe(work)).ok();
        let _ = done.send(Job::SnapshotDone(written));
    })
}

/// The way to the log thread.
#[derive(Clone, Debug)]
pub(super) struct Jobs(SyncSender<Job>);

impl Jobs {
    /// Hands a group over.
    pub(super) fn write(&self, txns: Vec<Txn>, image: Option<Image>) {
        // A thread that has ended says why, or that it panicked, by its reports.
        let snapshot = image.map(|image| Snapshot { image, done: self.0.clone() });
        let _ = self.0.send(Job::Write(txns, snapshot));
    }
}

/// The engine's side of the log thread.
#[derive(Debug)]
pub(super) struct Log {
    jobs: Jobs,
    thread: JoinHandle<()>,
}

impl Log {
    /// Starts the thread; its reports end with it.
    pub(super) fn start(
        store: Store,
        before_sync: BeforeSync,
        control: Arc<Control>,
    ) -> io::Result<(Self, mpsc::Receiver<Report>)> {
        let snapshots = Box::new(|job: SnapshotJob, done| start_snapshot(|| job.run(), done));
        Self::start_with(store, before_sync, control, snapshots)
    }

    fn start_with(
        store: Store,
        before_sync: BeforeSync,
        control: Arc<Control>,
        start_snapshot: StartSnapshot,
    ) -> io::Result<(Self, mpsc::Receiver<Report>)> {
        let (jobs, queue) = sync_channel(JOBS);
        let (report, reports) = mpsc::channel(JOBS);
        let writer = Writer { store, before_sync, control, report, start_snapshot, snapshot: None };
        let thread = Builder::new().name("keeper-log".to_owned()).spawn(move || writer.run(&queue))?;
        Ok((Self { jobs: Jobs(jobs), thread }, reports))
    }

    /// The way to hand groups over.
    pub(super) fn jobs(&self) -> &Jobs {
        &self.jobs
    }

    /// Has the log closed in order after what was handed over; after an abort the thread just ends.
    pub(super) fn close(&self) {
        let _ = self.jobs.0.send(Job::Close);
    }

    /// Joins the thread, which the end of its reports has shown to be at its end.
    pub(super) fn join(self) {
        // That it panicked has been seen by its missing last report.
        let _ = self.thread.join();
    }
}

struct Writer {
    store: Store,
    before_sync: BeforeSync,
    control: Arc<Control>,
    report: mpsc::Sender<Report>,
    start_snapshot: StartSnapshot,
    snapshot: Option<JoinHandle<()>>,
}

impl Writer {
    /// The last report, and with it the end of the thread, comes after everything it had started has ended.
    fn run(mut self, queue: &Receiver<Job>) {
        let last = self.serve(queue);
        if let Some(snapshot) = self.snapshot.take() {
            // An end that waits for a snapshot of gigabytes is no end in time.
            self.store.give_up_snapshots();
            // Nobody asks for its result any more.
            let _ = snapshot.join();
        }
        let last = match last {
            Ok(true) => self.store.close().map(|()| Some(Report::Closed)),
            Ok(false) => {
                drop(self.store);
                Ok(None)
            }
            Err(error) => {
                drop(self.store);
                Err(error)
            }
        };
        let last = last.unwrap_or_else(|error| Some(Report::Failed(error)));
        if let Some(last) = last {
            let _ = self.report.blocking_send(last);
        }
    }

    /// Whether the log is to be closed in order.
    fn serve(&mut self, queue: &Receiver<Job>) -> io::Result<bool> {
        let mut next = None;
        loop {
            // Also waits for as long as the server is paused: its engine stands still then.
            let job = next.take().or_else(|| queue.recv().ok());
            if self.control.aborted() {
                return Ok(false);
            }
            match job {
                Some(Job::Write(mut txns, mut snapshot)) => {
                    let mut groups = 1;
                    // All that is there shares one sync. An image is of the moment after its own group.
                    while snapshot.is_none() && next.is_none() {
                        match queue.try_recv() {
                            Ok(Job::Write(mut more, image)) => {
                                groups += 1;
                                txns.append(&mut more);
                                snapshot = image;
                            }
                            Ok(other) => next = Some(other),
                            Err(_) => break,
                        }
                    }
                    self.write(&txns)?;
                    if let Some(snapshot) = snapshot {
                        self.begin_snapshot(snapshot)?;
                    }
                    let snapshot_due = self.store.snapshot_due();
                    let report = Report::Synced { groups, txns, snapshot_due };
                    if self.report.blocking_send(report).is_err() {
                        return Ok(false);
                    }
                }
                Some(Job::SnapshotDone(done)) => {
                    match done {
                        Some(done) => self.store.finished_snapshot(&done),
                        None => self.store.lost_snapshot(),
                    }
                    if let Some(thread) = self.snapshot.take() {
                        let _ = thread.join();
                    }
                }
                Some(Job::Close) => return Ok(true),
                None => return Ok(false),
            }
        }
    }

    fn write(&mut self, txns: &[Txn]) -> io::Result<()> {
        self.store.append(txns)?;
        if let Some(before_sync) = &mut self.before_sync.0 {
            before_sync()?;
        }
        self.store.sync()
    }

    fn begin_snapshot(&mut self, Snapshot { image, done }: Snapshot) -> io::Result<()> {
        // The engine may have asked for it while another was still being written.
        if !self.store.snapshot_due() {
            return Ok(());
        }
        let zxid = image.last_zxid();
        let Some(job) = self.store.begin_snapshot(image)? else { return Ok(()) };
        info!(zxid = %format_args!("{zxid:#x}"), "writes a snapshot");
        match (self.start_snapshot)(job, done) {
            Ok(thread) => self.snapshot = Some(thread),
            Err(error) => {
                error!(%error, "failed to start the thread that writes snapshots");
                self.store.lost_snapshot();
            }
        }
        Ok(())
    }
}
