//! What a test build has.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use clock::Instant;

use crate::spec::{self, Deed, Item};
use crate::{Bug, HISTORY_VAR, SPEC_VAR, SpecError};

/// The facts that are kept in memory; a file has them all.
const HISTORY_MAX: usize = 200_000;

/// What is switched on. Cheap to clone; clones share counts and history.
#[derive(Clone, Default)]
pub struct Drill(Option<Arc<Inner>>);

struct Inner {
    bugs: Vec<Bug>,
    points: Vec<(String, u64, Deed)>,
    stops: Vec<(String, u64)>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    passed: BTreeMap<String, u64>,
    polls: BTreeMap<&'static str, u64>,
    stop: Option<Arc<dyn Fn() + Send + Sync>>,
    /// A stop was due before anybody could be asked for it.
    stop_due: bool,
    facts: Vec<String>,
    file: Option<File>,
}

impl fmt::Debug for Drill {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            None => f.write_str("Drill(none)"),
            Some(inner) => f
                .debug_struct("Drill")
                .field("bugs", &inner.bugs)
                .field("points", &inner.points)
                .field("stops", &inner.stops)
                .finish_non_exhaustive(),
        }
    }
}

impl Drill {
    /// No faults, and nothing is counted or recorded.
    pub const fn none() -> Self {
        Self(None)
    }

    /// Follows a specification. An empty one counts and records all the same.
    ///
    /// # Errors
    /// An item makes no sense.
    pub fn parse(spec: &str) -> Result<Self, SpecError> {
        Self::with(spec, None)
    }

    /// What the environment asks for; nothing if it says nothing.
    ///
    /// # Errors
    /// The specification makes no sense, or the file of the history cannot be opened.
    pub fn from_env() -> Result<Self, SpecError> {
        let spec = std::env::var(SPEC_VAR).unwrap_or_default();
        let path = std::env::var(HISTORY_VAR).unwrap_or_default();
        let open = |path: &str| OpenOptions::new().create(true).append(true).open(path);
        let file = match path.as_str() {
            "" if spec.trim().is_empty() => return Ok(Self::none()),
            "" => None,
            path => Some(
                open(path)
                    .map_err(|error| SpecError::History { path: path.to_owned(), why: error.to_string() })?,
            ),
        };
        Self::with(&spec, file)
    }

    fn with(spec: &str, file: Option<File>) -> Result<Self, SpecError> {
        let (mut bugs, mut points, mut stops) = (Vec::new(), Vec::new(), Vec::new());
        for item in spec::parse(spec)? {
            match item {
                Item::Plant(bug) => bugs.push(bug),
                Item::At { point, nth, deed } => points.push((point, nth, deed)),
                Item::Stop { component, nth } => stops.push((component, nth)),
            }
        }
        let state = Mutex::new(State { file, ..State::default() });
        Ok(Self(Some(Arc::new(Inner { bugs, points, stops, state }))))
    }

    /// Whether no fault is switched on; a history may be written all the same.
    pub fn is_idle(&self) -> bool {
        self.0
            .as_ref()
            .is_none_or(|inner| inner.bugs.is_empty() && inner.points.is_empty() && inner.stops.is_empty())
    }

    /// Whether a bug is planted.
    pub fn plants(&self, bug: Bug) -> bool {
        self.0.as_ref().is_some_and(|inner| inner.bugs.contains(&bug))
    }

    /// Passes a point, or blocks the thread there.
    pub fn pass(&self, point: &'static str) {
        let Some(inner) = &self.0 else { return };
        match inner.due(point) {
            Some(Deed::Wedge) => loop {
                // Parking may end by itself at any time.
                std::thread::park();
            },
            Some(Deed::Block(time)) => std::thread::sleep(time),
            Some(Deed::Hold(_)) | None => {}
        }
    }

    /// Passes a point, blocks the thread there, or waits there.
    ///
    /// # Cancel safety
    /// Cancelled, the point has been passed.
    pub async fn hold(&self, point: &'static str) {
        let Some(inner) = &self.0 else { return };
        match inner.due(point) {
            Some(Deed::Wedge) => loop {
                std::thread::park();
            },
            Some(Deed::Block(time)) => std::thread::sleep(time),
            Some(Deed::Hold(Some(time))) => tokio::time::sleep(time).await,
            Some(Deed::Hold(None)) => std::future::pending().await,
            None => {}
        }
    }

    /// Adds a line to the history: `<nanoseconds since boot> <fact>`. One write, so that a killed process tears at most
    /// its last line.
    pub fn record(&self, now: Instant, fact: impl FnOnce() -> String) {
        let Some(inner) = &self.0 else { return };
        let line = format!("{} {}", now.as_nanos(), fact());
        let mut state = inner.state();
        if let Some(file) = &mut state.file {
            // A test that cannot write its history finds it too short.
            let _ = file.write_all(format!("{line}\n").as_bytes());
        }
        if state.facts.len() < HISTORY_MAX {
            state.facts.push(line);
        }
    }

    /// Whether [`record`](Self::record) keeps anything: where a look at the clock is too much otherwise.
    pub fn keeps_history(&self) -> bool {
        self.0.is_some()
    }

    /// Whom `stop:` asks. Asked at once if that was due already.
    pub fn on_stop(&self, request: impl Fn() + Send + Sync + 'static) {
        let Some(inner) = &self.0 else { return };
        let request = Arc::new(request);
        let due = {
            let mut state = inner.state();
            state.stop = Some(request.clone());
            state.stop_due
        };
        if due {
            request();
        }
    }

    /// Counts a poll of a component.
    pub fn polled(&self, component: &'static str) {
        let Some(inner) = &self.0 else { return };
        let request = {
            let mut state = inner.state();
            let polls = state.polls.entry(component).or_default();
            *polls += 1;
            let polls = *polls;
            if !inner.stops.iter().any(|(name, nth)| name == component && *nth == polls) {
                return;
            }
            state.stop_due = true;
            state.stop.clone()
        };
        if let Some(request) = request {
            request();
        }
    }

    /// How often a component has been polled.
    pub fn polls(&self, component: &str) -> u64 {
        self.0.as_ref().and_then(|inner| inner.state().polls.get(component).copied()).unwrap_or_default()
    }

    /// What was recorded, up to a bound.
    pub fn history(&self) -> Vec<String> {
        self.0.as_ref().map(|inner| inner.state().facts.clone()).unwrap_or_default()
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a passing; what is due at it.
    fn due(&self, point: &str) -> Option<Deed> {
        if !self.points.iter().any(|(name, ..)| name == point) {
            return None;
        }
        let mut state = self.state();
        let passed = state.passed.entry(point.to_owned()).or_default();
        *passed += 1;
        let passed = *passed;
        self.points.iter().find(|(name, nth, _)| name == point && *nth == passed).map(|(.., deed)| *deed)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::Duration;

    use super::*;

    #[test]
    fn nothing_is_switched_on_by_itself() {
        let drill = Drill::parse("").unwrap();
        assert!(drill.is_idle() && Bug::ALL.iter().all(|bug| !drill.plants(*bug)));
        assert!(Bug::NoLease.planted().plants(Bug::NoLease));
        assert!(!Bug::NoLease.planted().plants(Bug::ReadProbe));
    }

    #[tokio::test(start_paused = true)]
    async fn a_point_holds_at_its_nth_passing_only() {
        let drill = Drill::parse("hold:a.b@2=3s").unwrap();
        for (passing, waits) in [(1, 0), (2, 3), (3, 0)] {
            let begun = tokio::time::Instant::now();
            drill.hold("a.b").await;
            assert_eq!(begun.elapsed().as_secs(), waits, "passing {passing}");
        }
    }

    #[test]
    fn a_block_blocks_the_thread_and_a_wedge_never_ends() {
        let drill = Drill::parse("block:a=50ms;wedge:b").unwrap();
        let begun = std::time::Instant::now();
        drill.pass("a");
        assert!(begun.elapsed() >= Duration::from_millis(50));
        let (tell, told) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            drill.pass("b");
            tell.send(()).unwrap();
        });
        assert!(told.recv_timeout(Duration::from_millis(200)).is_err(), "it went on");
    }

    #[test]
    fn a_stop_is_requested_once_even_if_nobody_listened_yet() {
        let count = |drill: &Drill| {
            let asked = Arc::new(AtomicU64::new(0));
            let counted = Arc::clone(&asked);
            drill.on_stop(move || {
                counted.fetch_add(1, Ordering::SeqCst);
            });
            asked
        };
        let early = Drill::parse("stop:quorum@2").unwrap();
        early.polled("quorum");
        early.polled("runner");
        early.polled("quorum");
        assert_eq!(count(&early).load(Ordering::SeqCst), 1);
        let late = Drill::parse("stop:quorum@2").unwrap();
        let asked = count(&late);
        for expected in [0, 1, 1] {
            late.polled("quorum");
            assert_eq!(asked.load(Ordering::SeqCst), expected);
        }
    }

    #[test]
    fn history_is_kept_in_order() {
        let drill = Drill::parse("").unwrap();
        drill.record(Instant::from_nanos(7), || "effect epoch=1".to_owned());
        drill.record(Instant::from_nanos(9), || "released epoch=1".to_owned());
        assert_eq!(drill.history(), ["7 effect epoch=1", "9 released epoch=1"]);
    }
}
