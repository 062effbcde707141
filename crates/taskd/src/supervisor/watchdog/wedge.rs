//! What the last rung is told, and who takes it.

use std::fmt::{self, Debug};
use std::time::Duration;

/// Why the process has to end now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wedge {
    /// A component blocks a thread.
    Component {
        /// Which.
        component: &'static str,
        /// The phase that it is in.
        phase: &'static str,
        /// For how long it has been in that phase.
        phase_for: Duration,
        /// What of it blocks: "its loop".
        what: &'static str,
        /// For how long.
        blocked_for: Duration,
    },
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
            Self::Component { component, phase, phase_for, what, blocked_for } => write!(
                f,
                "the {component} is wedged: {what} has blocked a thread for {:.1} s in phase {phase} (entered {:.1} s \
                 ago)",
                blocked_for.as_secs_f64(),
                phase_for.as_secs_f64()
            ),
            Self::Loop { at, silent } => write!(
                f,
                "the node is wedged in \"{at}\": nothing has moved for {:.1} s",
                silent.as_secs_f64()
            ),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts() {
        let ms = Duration::from_millis;
        let rows = [
            (
                Wedge::Component {
                    component: "runner",
                    phase: "Running",
                    phase_for: ms(12_340),
                    what: "its loop",
                    blocked_for: ms(4_210),
                },
                "the runner is wedged: its loop has blocked a thread for 4.2 s in phase Running (entered 12.3 s ago)",
            ),
            (
                Wedge::Loop { at: "joining the cluster".to_owned(), silent: ms(4_049) },
                "the node is wedged in \"joining the cluster\": nothing has moved for 4.0 s",
            ),
            (
                Wedge::Stop { at: "stopping: draining the runner".to_owned(), took: ms(4_951) },
                "stopping is wedged in \"stopping: draining the runner\" after 5.0 s",
            ),
            (
                Wedge::Overrun { what: "2 attempts".to_owned() },
                "work inside this process outlives its right to run: 2 attempts",
            ),
        ];
        for (wedge, expected) in rows {
            assert_eq!(wedge.to_string(), expected);
        }
    }
}
