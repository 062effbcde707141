//! The last rung: an OS thread that notices when the owner loop no longer turns, and when a stop takes too long.
//!
//! `abort` acts only at await points, so a component that blocks a thread for ever can be ended by nobody inside
//! the runtime. The ZooKeeper client meanwhile goes on pinging and keeps the session, the shape of the incident
//! this project was born from. The watchdog therefore lives outside of the runtime and ends the process *without*
//! closing the session: a close would release fences under effects that may still be alive.

use std::fmt::{self, Debug};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use clock::{Instant, SharedClock};
use coord::LeaseFlag;

/// Why the process has to end now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wedge {
    /// The owner loop has not turned for too long.
    Loop {
        /// What it did last.
        at: String,
        /// For how long.
        silent: Duration,
    },
    /// A stop has passed its deadline.
    Stop {
        /// The stage it is in.
        at: String,
        /// How long it has taken.
        took: Duration,
    },
    /// Work inside this process goes on past the deadline of its right to run.
    Overrun {
        /// Which.
        what: String,
    },
}

impl fmt::Display for Wedge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Loop { at, silent } => {
                write!(
                    f,
                    "the node is wedged in \"{at}\": nothing has moved for {:.1} s",
                    silent.as_secs_f64()
                )
            }
            Self::Stop { at, took } => {
                write!(f, "stopping is wedged in \"{at}\" after {:.1} s", took.as_secs_f64())
            }
            Self::Overrun { what } => write!(f, "work inside this process outlives its right to run: {what}"),
        }
    }
}

/// What to do when nothing else helps. Injected, because a library never ends its process.
pub trait LastRung: Debug + Send + Sync {
    /// Ends the process, or at least everything that the node fenced, at once. Called from an OS thread.
    fn abandon(&self, wedge: &Wedge);
}

#[derive(Debug)]
struct State {
    /// When the owner loop last turned.
    turned: Instant,
    /// What it is doing.
    at: String,
    /// Start and deadline of the stop, once one is under way.
    stop: Option<(Instant, Instant)>,
    /// Authority that is given up before anything else.
    lease: Option<LeaseFlag>,
    done: bool,
}

#[derive(Debug)]
struct Inner {
    state: Mutex<State>,
    ended: Condvar,
    clock: SharedClock,
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        // The state is plain data; a panic elsewhere cannot have left it half-written in a way that matters here.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the owner loop tells the watchdog. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Pulse(Arc<Inner>);

impl Pulse {
    /// "I am alive, and about to do this."
    pub(crate) fn beat(&self, at: &str) {
        let mut state = self.0.state();
        state.turned = self.0.clock.now();
        if state.at != at {
            at.clone_into(&mut state.at);
        }
    }

    /// The authority that has to go first if the loop wedges.
    pub(crate) fn guard(&self, lease: Option<LeaseFlag>) {
        self.0.state().lease = lease;
    }

    /// A stop began and must be over `within`.
    pub(crate) fn stopping(&self, within: Duration) {
        let now = self.0.clock.now();
        self.0.state().stop.get_or_insert((now, now + within));
    }
}

/// The thread. Ends when dropped.
#[derive(Debug)]
pub(crate) struct Watchdog {
    inner: Arc<Inner>,
    thread: Option<JoinHandle<()>>,
}

impl Watchdog {
    /// Watches from now on: calls `last_rung` once when no [`Pulse::beat`] came for `silence_max`, or when a stop
    /// passed its deadline.
    ///
    /// # Errors
    /// The operating system has no thread to give.
    pub(crate) fn start(
        clock: SharedClock,
        silence_max: Duration,
        last_rung: Arc<dyn LastRung>,
    ) -> std::io::Result<Self> {
        let state =
            State { turned: clock.now(), at: "starting".to_owned(), stop: None, lease: None, done: false };
        let inner = Arc::new(Inner { state: Mutex::new(state), ended: Condvar::new(), clock });
        let watched = Arc::clone(&inner);
        let thread = std::thread::Builder::new()
            .name("taskd-watchdog".to_owned())
            .spawn(move || watch(&watched, silence_max, &*last_rung))?;
        Ok(Self { inner, thread: Some(thread) })
    }

    pub(crate) fn pulse(&self) -> Pulse {
        Pulse(Arc::clone(&self.inner))
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.inner.state().done = true;
        self.inner.ended.notify_all();
        if let Some(thread) = self.thread.take() {
            // Bounded: the thread waits on the condition variable or is inside `abandon`, which ends us anyway.
            drop(thread.join());
        }
    }
}

fn watch(inner: &Inner, silence_max: Duration, last_rung: &dyn LastRung) {
    let look_every = (silence_max / 8).clamp(Duration::from_millis(10), Duration::from_millis(250));
    let mut state = inner.state();
    while !state.done {
        let before = inner.clock.now();
        state = inner.ended.wait_timeout(state, look_every).unwrap_or_else(PoisonError::into_inner).0;
        let now = inner.clock.now();
        if now.since(before) > look_every * 4 {
            // We were paused with everything else (SIGSTOP, a suspended machine): the loop gets its chance to turn.
            state.turned = state.turned.max(now - silence_max / 2);
            if let Some((_, deadline)) = &mut state.stop {
                *deadline = (*deadline).max(now + silence_max / 2);
            }
            continue;
        }
        let Some(wedge) = judge(&state, now, silence_max) else { continue };
        if let Some(lease) = &state.lease {
            lease.drop_now();
        }
        state.done = true;
        drop(state);
        last_rung.abandon(&wedge);
        return;
    }
}

fn judge(state: &State, now: Instant, silence_max: Duration) -> Option<Wedge> {
    if let Some((begun, deadline)) = state.stop
        && now > deadline
    {
        return Some(Wedge::Stop { at: state.at.clone(), took: now.since(begun) });
    }
    let silent = now.since(state.turned);
    (silent > silence_max).then(|| Wedge::Loop { at: state.at.clone(), silent })
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use clock::BootClock;

    use super::*;

    #[derive(Debug)]
    struct Tell(mpsc::Sender<Wedge>);

    impl LastRung for Tell {
        fn abandon(&self, wedge: &Wedge) {
            self.0.send(wedge.clone()).expect("the test listens");
        }
    }

    fn start(silence_max: Duration) -> (Watchdog, mpsc::Receiver<Wedge>) {
        let (tell, told) = mpsc::channel();
        let dog = Watchdog::start(BootClock::shared(), silence_max, Arc::new(Tell(tell))).unwrap();
        (dog, told)
    }

    #[test]
    fn a_silent_loop_is_noticed_and_named() {
        let (dog, told) = start(Duration::from_millis(100));
        dog.pulse().beat("booting the runner");
        let wedge = told.recv_timeout(Duration::from_secs(10)).unwrap();
        assert!(matches!(&wedge, Wedge::Loop { at, .. } if at == "booting the runner"), "{wedge}");
    }

    #[test]
    fn a_late_stop_is_noticed_although_the_loop_turns() {
        let (dog, told) = start(Duration::from_secs(5));
        let pulse = dog.pulse();
        pulse.stopping(Duration::from_millis(50));
        pulse.beat("draining the runner");
        let wedge = told.recv_timeout(Duration::from_secs(10)).unwrap();
        assert!(matches!(&wedge, Wedge::Stop { at, .. } if at == "draining the runner"), "{wedge}");
    }

    #[test]
    fn an_ended_node_is_not_watched() {
        let (dog, told) = start(Duration::from_millis(100));
        drop(dog);
        assert!(told.try_recv().is_err());
    }
}
