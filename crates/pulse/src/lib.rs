//! Which component blocks its thread, as seen from outside of the runtime.
//!
//! An abort acts at await points only. A component that blocks a thread for ever is therefore beyond the reach of
//! everything inside the runtime, while the ZooKeeper client goes on pinging and keeps its session: the incident's
//! shape. Somebody outside has to see it and to say *which* component it is.
//!
//! ```text
//!  a component's task ── Watched::poll ──▶ count is odd ─▶ the task's own poll ─▶ count is even
//!                                              ▲
//!  the watchdog's thread ── Pulse::look ───────┘   odd, and the same as at an earlier look: blocked since then
//! ```
//!
//! Nothing is timed where the work is done: a poll costs two atomic additions. The watchdog measures, with its own clock,
//! and so underestimates by at most the time between two looks.

use std::fmt;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use clock::Instant;
use drill::Drill;

/// What one component shows to whoever watches it. Cheap to clone. The default one is watched by nobody.
#[derive(Clone, Default)]
pub struct Pulse(Arc<Inner>);

#[derive(Default)]
struct Inner {
    component: &'static str,
    drill: Drill,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    phase: &'static str,
    phase_since: Option<Instant>,
    tasks: Vec<Seen>,
    /// From how many on ended ones are looked for.
    prune_at: usize,
}

/// One watched future, as the looks have seen it.
struct Seen {
    what: &'static str,
    count: Weak<AtomicU64>,
    inside: Option<Inside>,
}

/// A poll that was going on at a look.
#[derive(Clone, Copy)]
struct Inside {
    count: u64,
    since: Instant,
    /// The phase then: what waits for the component may have asked it to go on to the next one meanwhile.
    phase: &'static str,
    phase_since: Option<Instant>,
}

/// A component has kept a thread for itself since an earlier look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blocked {
    /// Which component.
    pub component: &'static str,
    /// The phase in which it was first seen so.
    pub phase: &'static str,
    /// How long ago it entered that phase.
    pub phase_for: Duration,
    /// Which of its tasks.
    pub what: &'static str,
    /// For how long, at least, one poll of that task has been going on.
    pub blocked_for: Duration,
}

impl fmt::Display for Blocked {
    /// `runner has blocked a thread in "driver" for 4.2 s (phase Running, since 12.3 s)`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} has blocked a thread in \"{}\" for {:.1} s (phase {}, since {:.1} s)",
            self.component,
            self.what,
            self.blocked_for.as_secs_f64(),
            self.phase,
            self.phase_for.as_secs_f64()
        )
    }
}

impl fmt::Debug for Pulse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pulse").field("component", &self.0.component).finish_non_exhaustive()
    }
}

impl Pulse {
    /// The pulse of `component`.
    pub fn new(component: &'static str, drill: Drill) -> Self {
        Self(Arc::new(Inner { component, drill, state: Mutex::default() }))
    }

    /// The component enters a phase.
    pub fn phase(&self, phase: &'static str, now: Instant) {
        let mut state = self.0.state();
        if state.phase != phase {
            state.phase = phase;
            state.phase_since = Some(now);
        }
    }

    /// Watches each poll of a future. `what` names it within its component.
    pub fn watch<F: Future>(&self, what: &'static str, future: F) -> Watched<F> {
        let count = Arc::new(AtomicU64::new(0));
        let seen = Seen { what, count: Arc::downgrade(&count), inside: None };
        let mut state = self.0.state();
        // Ended ones go when as many have come as lived the last time: the list is bounded by what lives at a time, and
        // a new one costs the same however many there are.
        if state.tasks.len() >= state.prune_at {
            state.tasks.retain(|seen| seen.count.strong_count() > 0);
            state.prune_at = (state.tasks.len() * 2).max(16);
        }
        state.tasks.push(seen);
        drop(state);
        Watched { future, count, pulse: self.clone() }
    }

    /// Looks at every watched future: the one that has been inside one poll for the longest time, if any has been since
    /// an earlier look. To be called from a thread of its own, again and again.
    pub fn look(&self, now: Instant) -> Option<Blocked> {
        let mut state = self.0.state();
        let (phase, phase_since) = (state.phase, state.phase_since);
        let mut worst: Option<Blocked> = None;
        for seen in &mut state.tasks {
            let count = seen.count.upgrade().map_or(0, |count| count.load(Ordering::Acquire));
            if count % 2 == 0 {
                seen.inside = None;
                continue;
            }
            let inside = match seen.inside {
                Some(inside) if inside.count == count => inside,
                _ => {
                    seen.inside = Some(Inside { count, since: now, phase, phase_since });
                    continue;
                }
            };
            let blocked_for = now.since(inside.since);
            if worst.as_ref().is_none_or(|worst| worst.blocked_for < blocked_for) {
                let (component, phase, what) = (self.0.component, inside.phase, seen.what);
                let phase_for = inside.phase_since.map(|since| now.since(since)).unwrap_or_default();
                worst = Some(Blocked { component, phase, phase_for, what, blocked_for });
            }
        }
        worst
    }

    /// Forgets since when anything has been blocked: the looks themselves stood still, so they prove nothing.
    pub fn forget(&self) {
        for seen in &mut self.0.state().tasks {
            seen.inside = None;
        }
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        // Plain data, consistent between any two statements.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pin_project_lite::pin_project! {
    /// A future whose polls are watched.
    #[must_use = "futures do nothing unless polled"]
    pub struct Watched<F> {
        #[pin]
        future: F,
        count: Arc<AtomicU64>,
        pulse: Pulse,
    }
}

impl<F> fmt::Debug for Watched<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watched").field("pulse", &self.pulse).finish_non_exhaustive()
    }
}

impl<F: Future> Future for Watched<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        // Also leaves the poll when it panics.
        struct Leave<'a>(&'a AtomicU64);
        impl Drop for Leave<'_> {
            fn drop(&mut self) {
                self.0.fetch_add(1, Ordering::Release);
            }
        }
        this.count.fetch_add(1, Ordering::Release);
        let _leave = Leave(this.count);
        this.pulse.0.drill.polled(this.pulse.0.component);
        this.future.poll(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    fn at(seconds: u64) -> Instant {
        Instant::from_nanos(seconds * 1_000_000_000)
    }

    #[test]
    fn a_blocked_poll_is_seen_named_and_measured_from_the_first_look() {
        let pulse = Pulse::new("runner", Drill::none());
        pulse.phase("Running", at(1));
        let (inside, is_inside) = mpsc::channel();
        let (release, released) = mpsc::channel::<()>();
        let watched = pulse.watch("driver", async move {
            inside.send(()).unwrap();
            released.recv().unwrap();
        });
        assert_eq!(pulse.look(at(2)), None, "not polled yet");
        let thread = std::thread::spawn(move || {
            tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(watched);
        });
        is_inside.recv().unwrap();
        assert_eq!(pulse.look(at(3)), None, "the first look begins to measure");
        pulse.phase("Draining", at(4));
        let blocked = pulse.look(at(7)).unwrap();
        assert_eq!(
            blocked.to_string(),
            "runner has blocked a thread in \"driver\" for 4.0 s (phase Running, since 6.0 s)"
        );
        pulse.forget();
        assert_eq!(pulse.look(at(8)), None, "forgotten");
        release.send(()).unwrap();
        thread.join().unwrap();
        assert_eq!(pulse.look(at(30)), None, "over");
    }

    #[tokio::test]
    async fn waiting_is_not_blocking() {
        let pulse = Pulse::new("runner", Drill::none());
        let mut watched = Box::pin(pulse.watch("driver", std::future::pending::<()>()));
        assert!(futures_poll(&mut watched).is_pending());
        assert_eq!((pulse.look(at(1)), pulse.look(at(60))), (None, None));
    }

    #[test]
    fn what_has_ended_is_forgotten() {
        let pulse = Pulse::new("runner", Drill::none());
        let alive: Vec<_> = (0..100).map(|_| pulse.watch("it lives", std::future::pending::<()>())).collect();
        for _ in 0..10_000 {
            drop(pulse.watch("a job", std::future::pending::<()>()));
        }
        let known = pulse.0.state().tasks.len();
        assert!((alive.len()..=2 * alive.len()).contains(&known), "{known}");
    }

    #[tokio::test]
    async fn polls_are_counted_for_drills() {
        let drill = Drill::parse("").unwrap();
        let pulse = Pulse::new("quorum", drill.clone());
        for _ in 0..3 {
            let mut watched = Box::pin(pulse.watch("boot", std::future::pending::<()>()));
            assert!(futures_poll(&mut watched).is_pending());
        }
        assert_eq!((drill.polls("quorum"), drill.polls("runner")), (3, 0));
    }

    fn futures_poll<F: Future>(future: &mut Pin<Box<F>>) -> Poll<F::Output> {
        future.as_mut().poll(&mut Context::from_waker(std::task::Waker::noop()))
    }
}
