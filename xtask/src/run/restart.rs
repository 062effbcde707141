//! Which nodes are started again, and when: what an init system does for them elsewhere. Pure.

use std::collections::BTreeMap;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

/// The first pause, and the longest that it grows to.
const PAUSE_FIRST: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(10);

/// A node that has run for so long is not one that keeps dying.
const STEADY: Duration = Duration::from_secs(30);

/// Exit codes of `taskd serve`.
const OK: i32 = 0;
const WEDGED: i32 = 70;
const STOP_LATE: i32 = 71;
const CONFIG: i32 = 78;

/// What is known of the nodes that ended.
#[derive(Debug, Default)]
pub(super) struct Restarts {
    nodes: BTreeMap<String, Node>,
}

#[derive(Debug)]
struct Node {
    started: Option<Instant>,
    /// Its last pause.
    pause: Duration,
    due: Option<Instant>,
}

impl Restarts {
    /// A node has ended although nobody here told it to. Says what that means and what follows.
    pub(super) fn ended(&mut self, name: &str, status: ExitStatus, now: Instant) -> String {
        let what = match status.code() {
            Some(OK) => return format!("{name} was told to stop, and stays so"),
            Some(CONFIG) => {
                return format!("{name} cannot be part of this cluster, and is not started again");
            }
            Some(WEDGED) => format!("{name} was wedged, and its watchdog ended it"),
            Some(STOP_LATE) => format!("{name} did not stop in time, and ended itself"),
            _ => format!("{name} died ({status})"),
        };
        let node = self.nodes.entry(name.to_owned()).or_insert(Node {
            started: None,
            pause: Duration::ZERO,
            due: None,
        });
        let steady = node.started.is_none_or(|started| now - started >= STEADY);
        node.pause = if steady { PAUSE_FIRST } else { (node.pause * 2).min(PAUSE_MAX) };
        node.due = Some(now + node.pause);
        format!("{what}; it is started again in {:.1} s", node.pause.as_secs_f64())
    }

    /// Those that are to be started now.
    pub(super) fn due(&mut self, now: Instant) -> Vec<String> {
        let due = self.nodes.iter_mut().filter(|(_, node)| node.due.is_some_and(|due| due <= now));
        due.map(|(name, node)| {
            (node.due, node.started) = (None, Some(now));
            name.clone()
        })
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    #[test]
    fn what_ends_is_started_again_after_a_growing_pause() {
        let mut restarts = Restarts::default();
        let mut now = Instant::now();
        let exit = |code| ExitStatus::from_raw(code << 8);
        for (status, said, pause_ms) in [
            (exit(WEDGED), "n1 was wedged, and its watchdog ended it; it is started again in 0.5 s", 500),
            (exit(WEDGED), "n1 was wedged, and its watchdog ended it; it is started again in 1.0 s", 1_000),
            (
                exit(STOP_LATE),
                "n1 did not stop in time, and ended itself; it is started again in 2.0 s",
                2_000,
            ),
            (ExitStatus::from_raw(9), "n1 died (signal: 9 (SIGKILL)); it is started again in 4.0 s", 4_000),
            (exit(69), "n1 died (exit status: 69); it is started again in 8.0 s", 8_000),
            (exit(69), "n1 died (exit status: 69); it is started again in 10.0 s", 10_000),
        ] {
            assert_eq!(restarts.ended("n1", status, now), said);
            let pause = Duration::from_millis(pause_ms);
            assert_eq!(restarts.due(now + pause - Duration::from_millis(1)), Vec::<String>::new());
            now += pause;
            assert_eq!(restarts.due(now), ["n1"]);
            assert_eq!(restarts.due(now + STEADY), Vec::<String>::new(), "once");
        }
        let again = restarts.ended("n1", exit(WEDGED), now + STEADY);
        assert!(again.ends_with("in 0.5 s"), "it had run for a while: {again}");
    }

    #[test]
    fn what_was_meant_to_end_is_left_alone() {
        let mut restarts = Restarts::default();
        let now = Instant::now();
        for code in [OK, CONFIG] {
            let said = restarts.ended("n1", ExitStatus::from_raw(code << 8), now);
            assert!(!said.contains("started again in"), "{said}");
            assert_eq!(restarts.due(now + STEADY), Vec::<String>::new());
        }
    }
}
