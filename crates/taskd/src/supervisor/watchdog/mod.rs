//! The last rung: an OS thread that notices a component that blocks a thread, an owner loop that no longer turns, and a
//! stop that takes too long.
//!
//! `abort` acts only at await points, so a component that blocks a thread for ever can be ended by nobody inside
//! the runtime. The ZooKeeper client meanwhile goes on pinging and keeps the session, the shape of the incident
//! this project was born from. The watchdog therefore lives outside of the runtime, and has two rungs:
//!
//! ```text
//!  blocked for 1 s   leadership is given up at once: the lease flag goes down, the quorum, if it still turns, deletes
//!       │            `leader` and leaves the line, so that another node leads without waiting for the session's end
//!       ├─ it comes back: a warning, and the node is ready again
//!       ▼
//!  blocked for 4 s   the process ends *without* closing the session, which would release fences under effects that may
//!                    still be alive; so does a stop that has used up its deadline
//! ```
//!
//! The client's own threads are not watched. They spin by design of that client while no route leads to ZooKeeper
//! (D5); authority then ends by its lease, the session by our own timer, and the tasks live on.
//!
//! **Invariant** the thread takes no lock that is held over anybody else's code: what blocks there would block it too.

mod judge;
mod pauses;
mod wedge;

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use clock::{Instant, SharedClock};
use coord::LeaseFlag;

pub(crate) use self::judge::{Limits, Trouble};
use self::judge::{Look, Verdict, judge};
use self::pauses::Pauses;
pub use self::wedge::{LastRung, Wedge};
use super::pulses::Pulses;

/// Between two looks. A block is measured from the first look that sees it, so this is by how much it is
/// underestimated; the looks themselves cost a tenth of a per mille of a core.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Of a stop's deadline, in percent: when the last rung is taken. The rest is for the process to end in.
const STOP_BY: u32 = 98;

#[derive(Debug)]
struct State {
    /// When the owner loop last turned.
    turned: Instant,
    /// What it is doing.
    at: String,
    /// When a stop began, and how long it may take.
    stop: Option<(Instant, Duration)>,
    /// Authority that is given up before anything else.
    lease: Option<LeaseFlag>,
    /// Who can delete `leader` and leave the line.
    quorum: Option<quorum::Handle>,
    /// What leadership was given up for, as long as it lasts.
    trouble: Option<Trouble>,
    done: bool,
}

#[derive(Debug)]
struct Inner {
    state: Mutex<State>,
    changed: Condvar,
    clock: SharedClock,
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        // The state is plain data; a panic elsewhere cannot have left it half-written in a way that matters here.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the owner loop tells the watchdog, and hears from it. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Beat(Arc<Inner>);

impl Beat {
    /// "I am alive, and about to do this."
    pub(crate) fn beat(&self, at: &str) {
        let mut state = self.0.state();
        state.turned = self.0.clock.now();
        if state.at != at {
            at.clone_into(&mut state.at);
        }
    }

    /// The authority that has to go first if anything blocks.
    pub(crate) fn guard(&self, lease: Option<LeaseFlag>) {
        let mut state = self.0.state();
        if let (Some(lease), true) = (&lease, state.trouble.is_some()) {
            lease.drop_now();
        }
        state.lease = lease;
    }

    /// Who gives leadership up if anything blocks.
    pub(crate) fn quorum(&self, quorum: quorum::Handle) {
        let mut state = self.0.state();
        if let Some(trouble) = &state.trouble {
            quorum.give_up(trouble.to_string());
        }
        state.quorum = Some(quorum);
    }

    /// A stop began and must be over `within`.
    pub(crate) fn stopping(&self, within: Duration) {
        let now = self.0.clock.now();
        let mut state = self.0.state();
        state.stop.get_or_insert((now, within * STOP_BY / 100));
        "stopping".clone_into(&mut state.at);
        drop(state);
        self.0.changed.notify_all();
    }

    /// What leadership is given up for at the moment.
    pub(crate) fn trouble(&self) -> Option<Trouble> {
        self.0.state().trouble.clone()
    }
}

/// The thread. Ends when dropped.
#[derive(Debug)]
pub(crate) struct Watchdog {
    inner: Arc<Inner>,
    thread: Option<JoinHandle<()>>,
}

impl Watchdog {
    /// Watches from now on, and calls `last_rung` at most once; should that let the node go on, what is over then is forgiven.
    ///
    /// # Errors
    /// The operating system has no thread to give.
    pub(crate) fn start(
        clock: SharedClock,
        limits: Limits,
        pulses: Pulses,
        last_rung: Arc<dyn LastRung>,
    ) -> std::io::Result<Self> {
        let state = State {
            turned: clock.now(),
            at: "starting".to_owned(),
            stop: None,
            lease: None,
            quorum: None,
            trouble: None,
            done: false,
        };
        let inner = Arc::new(Inner { state: Mutex::new(state), changed: Condvar::new(), clock });
        let watched = Arc::clone(&inner);
        let thread = std::thread::Builder::new()
            .name("taskd-watchdog".to_owned())
            .spawn(move || watch(&watched, limits, &pulses, &*last_rung))?;
        Ok(Self { inner, thread: Some(thread) })
    }

    pub(crate) fn beat(&self) -> Beat {
        Beat(Arc::clone(&self.inner))
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.inner.state().done = true;
        self.inner.changed.notify_all();
        if let Some(thread) = self.thread.take() {
            // Bounded: the thread waits on the condition variable or is inside `abandon`, which ends us anyway.
            drop(thread.join());
        }
    }
}

fn watch(inner: &Inner, limits: Limits, pulses: &Pulses, last_rung: &dyn LastRung) {
    let mut pauses = Pauses::default();
    let mut state = inner.state();
    // Since the last look, and not since the wait began: this thread can be made to stand still outside of it, too.
    let mut before = inner.clock.now();
    let mut told = false;
    while !state.done {
        let deadline = state.stop.map(|(since, within)| within.saturating_sub(pauses.awake(since, before)));
        // Exactly until the deadline, so that a stop's last rung is not late by up to a look.
        let wait = deadline.map_or(LOOK_EVERY, |left| LOOK_EVERY.min(left)).max(Duration::from_millis(1));
        state = inner.changed.wait_timeout(state, wait).unwrap_or_else(PoisonError::into_inner).0;
        let now = inner.clock.now();
        pauses.waited(before, wait, now);
        before = now;
        let blocked = pulses.all().into_iter().filter_map(|pulse| pulse.look(now));
        let blocked = blocked.map(|blocked| {
            let awake = pauses.awake(now - blocked.blocked_for, now);
            (blocked, awake)
        });
        let look = Look {
            at: &state.at,
            silent: pauses.awake(state.turned, now),
            stop: state.stop.map(|(since, within)| (now.since(since), pauses.awake(since, now) >= within)),
            blocked: blocked.max_by_key(|(_, awake)| *awake),
        };
        match judge(&look, &limits) {
            Verdict::Well => well_again(&mut state),
            Verdict::GiveUp(trouble) => give_up(&mut state, trouble, &limits),
            // It was told, and we are still here: whoever embeds the node let it go on. Then what blocks it may yet come
            // back, and a node that never leads again would be one that is alive and does not serve.
            Verdict::End(_) if told => {}
            Verdict::End(wedge) => {
                told = true;
                if let Some(lease) = &state.lease {
                    lease.drop_now();
                }
                drop(state);
                last_rung.abandon(&wedge);
                state = inner.state();
            }
        }
    }
}

/// Leadership goes at once, whoever holds what: another node leads, and what it starts is not started here too.
fn give_up(state: &mut State, trouble: Trouble, limits: &Limits) {
    if let Some(known) = &mut state.trouble {
        *known = trouble;
        return;
    }
    if let Some(lease) = &state.lease {
        lease.drop_now();
    }
    if let Some(quorum) = &state.quorum {
        quorum.give_up(trouble.to_string());
    }
    let ends_after = limits.last;
    tracing::error!(?ends_after, "{trouble}: this node does not lead before that is over");
    state.trouble = Some(trouble);
}

fn well_again(state: &mut State) {
    if let Some(trouble) = state.trouble.take() {
        tracing::warn!("{trouble}: that is over, and the node is ready again");
        if let Some(quorum) = &state.quorum {
            quorum.take_back();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::sync::mpsc;

    use clock::{BootClock, Clock, WallMs};
    use drill::Drill;

    use super::*;

    #[derive(Debug)]
    struct Tell(mpsc::Sender<Wedge>);

    impl LastRung for Tell {
        fn abandon(&self, wedge: &Wedge) {
            self.0.send(wedge.clone()).expect("the test listens");
        }
    }

    const SOON: Duration = Duration::from_secs(20);

    fn start(last: Duration) -> (Watchdog, Pulses, mpsc::Receiver<Wedge>) {
        let (tell, told) = mpsc::channel();
        let (clock, pulses) = (BootClock::shared(), Pulses::new(&Drill::none()));
        let limits = Limits { give_up: last / 4, last };
        let dog = Watchdog::start(clock, limits, pulses.clone(), Arc::new(Tell(tell))).unwrap();
        (dog, pulses, told)
    }

    fn flag() -> LeaseFlag {
        let clock = BootClock::shared();
        LeaseFlag::fixed_for_tests(clock.now() + Duration::from_secs(600), clock)
    }

    /// Polls a future that blocks its thread until the other end is dropped.
    fn block(pulses: &Pulses) -> (mpsc::Sender<()>, JoinHandle<bool>) {
        let (release, released) = mpsc::channel::<()>();
        pulses.runner.phase("Running", BootClock::shared().now());
        let task = pulses.runner.watch("its loop", async move { released.recv().is_err() });
        let thread = std::thread::spawn(move || {
            tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(task)
        });
        (release, thread)
    }

    #[test]
    fn a_silent_loop_is_noticed_and_named() {
        let (dog, _, told) = start(Duration::from_millis(400));
        dog.beat().beat("booting the runner");
        let wedge = told.recv_timeout(SOON).unwrap();
        assert!(matches!(&wedge, Wedge::Loop { at, .. } if at == "booting the runner"), "{wedge}");
    }

    #[test]
    fn a_late_stop_is_noticed_at_its_deadline_although_the_loop_turns() {
        let (dog, _, told) = start(SOON);
        let beat = dog.beat();
        beat.stopping(Duration::from_millis(350));
        beat.beat("draining the runner");
        let Wedge::Stop { at, took } = told.recv_timeout(SOON).unwrap() else { panic!("it is a stop") };
        // Not at the next look, which would come after the deadline; the rest is this machine's.
        assert!(at == "draining the runner" && took < Duration::from_millis(350 + 100), "{took:?}");
    }

    #[test]
    fn a_blocked_component_costs_the_lease_first_and_then_the_process_and_is_named() {
        let (dog, pulses, told) = start(Duration::from_secs(2));
        let (lease, later) = (flag(), flag());
        let beat = dog.beat();
        beat.guard(Some(lease.clone()));
        let (release, thread) = block(&pulses);
        let begun = std::time::Instant::now();
        while lease.holds() {
            assert!(begun.elapsed() < SOON);
            beat.beat("running");
            std::thread::sleep(Duration::from_millis(5));
        }
        // A term that comes now is not led either.
        beat.guard(Some(later.clone()));
        assert!(told.try_recv().is_err() && !later.holds());
        let trouble = beat.trouble().unwrap().to_string();
        assert!(
            trouble.starts_with("the runner is wedged: its loop has blocked a thread for 0."),
            "{trouble}"
        );
        let wedge = loop {
            beat.beat("running");
            if let Ok(wedge) = told.recv_timeout(Duration::from_millis(5)) {
                break wedge;
            }
            assert!(begun.elapsed() < SOON);
        };
        let named = matches!(&wedge, Wedge::Component { component: "runner", phase: "Running", what: "its loop", blocked_for, .. } if *blocked_for >= Duration::from_secs(2));
        assert!(named, "{wedge:?}");
        drop(release);
        thread.join().unwrap();
    }

    #[test]
    fn what_comes_back_in_time_is_forgiven() {
        let (dog, pulses, told) = start(Duration::from_secs(8));
        let beat = dog.beat();
        let (release, thread) = block(&pulses);
        let begun = std::time::Instant::now();
        let mut release = Some(release);
        let mut seen = false;
        while !seen || beat.trouble().is_some() {
            if beat.trouble().is_some() {
                seen = true;
                release.take();
            }
            beat.beat("running");
            assert!(begun.elapsed() < SOON && told.try_recv().is_err());
            std::thread::sleep(Duration::from_millis(5));
        }
        thread.join().unwrap();
    }

    /// An hour passes before two of the watchdog's looks at the clock, one after the other: wherever its thread is then.
    #[derive(Debug, Default)]
    struct Leaps(AtomicU64);

    impl Clock for Leaps {
        fn now(&self) -> Instant {
            let mine = std::thread::current().name() == Some("taskd-watchdog");
            let looks = self.0.fetch_add(u64::from(mine), Ordering::SeqCst);
            BootClock.now() + Duration::from_secs(3_600) * looks.saturating_sub(4).min(2) as u32
        }

        fn wall(&self) -> WallMs {
            BootClock.wall()
        }
    }

    #[test]
    fn a_pause_counts_for_nobody_wherever_it_finds_the_watchdog() {
        let (tell, told) = mpsc::channel();
        let clock = Arc::new(Leaps::default());
        let limits = Limits { give_up: SOON, last: SOON };
        let pulses = Pulses::new(&Drill::none());
        let dog = Watchdog::start(clock.clone(), limits, pulses, Arc::new(Tell(tell))).unwrap();
        let beat = dog.beat();
        beat.stopping(Duration::from_secs(600));
        while clock.0.load(Ordering::SeqCst) < 12 {
            beat.beat("stopping");
            assert_eq!(told.recv_timeout(Duration::from_millis(5)).ok(), None);
        }
        drop(dog);
    }

    #[test]
    fn a_last_rung_that_lets_the_node_go_on_is_told_once_and_what_comes_back_then_is_forgiven() {
        let (dog, pulses, told) = start(Duration::from_millis(800));
        let beat = dog.beat();
        let (release, thread) = block(&pulses);
        let begun = std::time::Instant::now();
        while told.try_recv().is_err() {
            beat.beat("running");
            assert!(begun.elapsed() < SOON);
            std::thread::sleep(Duration::from_millis(5));
        }
        assert!(beat.trouble().is_some(), "leadership stays given up while it lasts");
        drop(release);
        while beat.trouble().is_some() {
            beat.beat("running");
            assert!(begun.elapsed() < SOON && told.try_recv().is_err());
            std::thread::sleep(Duration::from_millis(5));
        }
        thread.join().unwrap();
    }

    #[test]
    fn an_ended_node_is_not_watched() {
        let (dog, _, told) = start(Duration::from_millis(400));
        drop(dog);
        assert!(told.try_recv().is_err());
    }
}
