//! How much this machine itself delays things, so that its load is not taken for lateness of what is measured.
//!
//! Two measures, and the larger counts. A thread sleeps for [`BEAT`] again and again and notes by how much each sleep was
//! too long: what even a thread that has next to nothing to do loses. And the kernel counts the time in which some thread
//! of the machine was ready to run and had no processor (`/proc/pressure/cpu`): what a chain of busy ones may lose.

use std::fs;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::sys::{Interrupt, boot_ns};

const BEAT: Duration = Duration::from_millis(10);
/// What a quiet machine does, too.
const USUAL: Duration = Duration::from_millis(2);
/// Kept; at one for each beat, ten minutes and more.
const KEPT_MAX: usize = 65_536;
/// Where the kernel tells about it, if it was built to.
const PRESSURE: &str = "/proc/pressure/cpu";

/// A beat.
#[derive(Clone, Copy, Debug)]
struct Beat {
    at_ns: u64,
    /// By how much the sleep was too long.
    over: Duration,
    /// Of all time, that in which somebody waited for a processor.
    waited: Duration,
}

/// The thread that measures. Dropping it ends it.
#[derive(Debug)]
pub(crate) struct Noise {
    beats: Arc<Mutex<Vec<Beat>>>,
    stop: Interrupt,
    thread: Option<JoinHandle<()>>,
}

impl Noise {
    pub(crate) fn start() -> Self {
        let beats: Arc<Mutex<Vec<Beat>>> = Arc::default();
        let stop = Interrupt::default();
        let (notes, until) = (Arc::clone(&beats), stop.clone());
        let thread = thread::spawn(move || {
            while !until.is_set() {
                let before = boot_ns();
                thread::sleep(BEAT);
                let at_ns = boot_ns();
                let over = Duration::from_nanos(at_ns - before).saturating_sub(BEAT);
                let over = if over > USUAL { over } else { Duration::ZERO };
                let waited =
                    fs::read_to_string(PRESSURE).ok().and_then(|text| waited(&text)).unwrap_or_default();
                let mut notes = lock(&notes);
                if notes.len() >= KEPT_MAX {
                    notes.drain(..KEPT_MAX / 2);
                }
                notes.push(Beat { at_ns, over, waited });
            }
        });
        Self { beats, stop, thread: Some(thread) }
    }

    /// What was lost between two instants.
    pub(crate) fn within(&self, from_ns: u64, to_ns: u64) -> Duration {
        lost(&lock(&self.beats), from_ns, to_ns)
    }
}

fn lost(beats: &[Beat], from_ns: u64, to_ns: u64) -> Duration {
    let inside = || beats.iter().filter(|beat| (from_ns..=to_ns).contains(&beat.at_ns));
    let over: Duration = inside().map(|beat| beat.over).sum();
    let waited = match (inside().next(), inside().next_back()) {
        (Some(first), Some(last)) => last.waited.saturating_sub(first.waited),
        _ => Duration::ZERO,
    };
    over.max(waited)
}

/// The total of the line `some`, which the kernel gives in microseconds.
fn waited(pressure: &str) -> Option<Duration> {
    let some = pressure.lines().find(|line| line.starts_with("some "))?;
    Some(Duration::from_micros(some.rsplit_once("total=")?.1.parse().ok()?))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_total_is_read() {
        let text = "some avg10=98.17 avg60=97.73 avg300=97.00 total=12455396433\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=7\n";
        assert_eq!(waited(text), Some(Duration::from_micros(12_455_396_433)));
        assert_eq!(waited("nonsense"), None);
    }

    #[test]
    fn only_what_was_lost_meanwhile_counts_and_of_both_measures_the_larger() {
        let ms = Duration::from_millis;
        let beat = |at_ns, over, waited| Beat { at_ns, over: ms(over), waited: ms(waited) };
        let beats = [beat(10, 9, 0), beat(20, 1, 5), beat(30, 0, 9), beat(40, 6, 10), beat(50, 9, 99)];
        for (from, to, expected) in [(20, 40, 7), (20, 30, 4), (0, 60, 99), (60, 90, 0), (35, 45, 6)] {
            assert_eq!(lost(&beats, from, to), ms(expected), "{from}..{to}");
        }
    }
}
