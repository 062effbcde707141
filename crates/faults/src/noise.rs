//! How much this machine itself delays things, so that its load is not taken for lateness of what is measured.
//!
//! A thread sleeps for [`BEAT`] again and again and notes by how much each sleep was too long. The sum of that within a
//! time is what a thread that had nothing else to do lost to the others in it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::sys::{Interrupt, boot_ns};

const BEAT: Duration = Duration::from_millis(10);
/// What a quiet machine does, too.
const USUAL: Duration = Duration::from_millis(2);
/// Kept; at one for each beat, more than ten minutes of the worst.
const KEPT_MAX: usize = 65_536;

/// The thread that measures. Dropping it ends it.
#[derive(Debug)]
pub(crate) struct Noise {
    late: Arc<Mutex<Vec<(u64, Duration)>>>,
    stop: Interrupt,
    thread: Option<JoinHandle<()>>,
}

impl Noise {
    pub(crate) fn start() -> Self {
        let late: Arc<Mutex<Vec<(u64, Duration)>>> = Arc::default();
        let stop = Interrupt::default();
        let (notes, until) = (Arc::clone(&late), stop.clone());
        let thread = thread::spawn(move || {
            while !until.is_set() {
                let before = boot_ns();
                thread::sleep(BEAT);
                let now = boot_ns();
                let over = Duration::from_nanos(now - before).saturating_sub(BEAT);
                if over > USUAL {
                    let mut notes = lock(&notes);
                    if notes.len() >= KEPT_MAX {
                        notes.drain(..KEPT_MAX / 2);
                    }
                    notes.push((now, over));
                }
            }
        });
        Self { late, stop, thread: Some(thread) }
    }

    /// What was lost between two instants.
    pub(crate) fn within(&self, from_ns: u64, to_ns: u64) -> Duration {
        let notes = lock(&self.late);
        notes.iter().filter(|(at, _)| (from_ns..=to_ns).contains(at)).map(|(_, over)| *over).sum()
    }
}

impl Drop for Noise {
    fn drop(&mut self) {
        self.stop.set();
        if let Some(thread) = self.thread.take() {
            // It does not panic, and nobody needs it any more.
            let _ = thread.join();
        }
    }
}

/// A poisoned lock means that another thread panicked, which its owner reports; the data is whole.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
