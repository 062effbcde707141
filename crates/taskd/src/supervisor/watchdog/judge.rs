//! What a look means. Pure.

use std::fmt;
use std::time::Duration;

use pulse::Blocked;

use super::Wedge;

/// How long is too long.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Until leadership is given up.
    pub(crate) give_up: Duration,
    /// Until the process ends.
    pub(crate) last: Duration,
}

/// What one look shows. Pauses of the whole process are taken out of what is compared, not of what is told.
#[derive(Debug)]
pub(super) struct Look<'a> {
    /// What the owner loop is doing.
    pub(super) at: &'a str,
    /// For how long it has not turned.
    pub(super) silent: Duration,
    /// For how long a stop has been going on, and whether it has used up its time.
    pub(super) stop: Option<(Duration, bool)>,
    /// What has blocked a thread for longest, and for how long without the pauses.
    pub(super) blocked: Option<(Blocked, Duration)>,
}

/// What leadership is given up for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// A component blocks a thread.
    Blocked(Blocked),
    /// The owner loop does not turn, though it blocks no thread.
    Silent(String, Duration),
}

impl From<Trouble> for Wedge {
    fn from(trouble: Trouble) -> Self {
        match trouble {
            Trouble::Blocked(Blocked { component, phase, phase_for, what, blocked_for }) => {
                Self::Component { component, phase, phase_for, what, blocked_for }
            }
            Trouble::Silent(at, silent) => Self::Loop { at, silent },
        }
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Wedge::from(self.clone()).fmt(f)
    }
}

/// What is to be done.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Well,
    GiveUp(Trouble),
    End(Wedge),
}

/// Judges. A component that is known to block is named in place of the loop or the stop that waits for it.
pub(super) fn judge(look: &Look<'_>, limits: &Limits) -> Verdict {
    let blocked = look.blocked.as_ref().filter(|(_, awake)| *awake >= limits.give_up);
    let silent = (look.silent >= limits.give_up).then_some(look.silent);
    let trouble = match (blocked, silent) {
        (Some((blocked, _)), _) => Some(Trouble::Blocked(blocked.clone())),
        (None, Some(silent)) => Some(Trouble::Silent(look.at.to_owned(), silent)),
        (None, None) => None,
    };
    let longest = blocked.map(|(_, awake)| *awake).max(silent);
    match (trouble, look.stop) {
        (Some(trouble), Some((_, true))) => Verdict::End(trouble.into()),
        (None, Some((took, true))) => Verdict::End(Wedge::Stop { at: look.at.to_owned(), took }),
        (Some(trouble), _) if longest >= Some(limits.last) => Verdict::End(trouble.into()),
        (Some(trouble), _) => Verdict::GiveUp(trouble),
        (None, _) => Verdict::Well,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { give_up: Duration::from_secs(1), last: Duration::from_secs(4) };

    /// In tenths of a second: silence, a stop and whether its time is up, a block and what of it was no pause.
    fn said(silent: u64, stop: Option<(u64, bool)>, blocked: Option<(u64, u64)>) -> String {
        let tenths = |tenths| Duration::from_millis(tenths * 100);
        let block = |(blocked, awake)| {
            let blocked_for = tenths(blocked);
            let (component, phase, what) = ("runner", "Draining", "its loop");
            (Blocked { component, phase, phase_for: tenths(123), what, blocked_for }, tenths(awake))
        };
        let look = Look {
            at: "running",
            silent: tenths(silent),
            stop: stop.map(|(took, over)| (tenths(took), over)),
            blocked: blocked.map(block),
        };
        match judge(&look, &LIMITS) {
            Verdict::Well => "well".to_owned(),
            Verdict::GiveUp(trouble) => format!("give up: {trouble}"),
            Verdict::End(wedge) => format!("end: {wedge}"),
        }
    }

    #[test]
    fn table() {
        let runner = |what: &str, tenths: u64| {
            let seconds = tenths as f64 / 10.0;
            format!(
                "{what}: the runner is wedged: its loop has blocked a thread for {seconds:.1} s in phase Draining \
                 (entered 12.3 s ago)"
            )
        };
        let node = |what: &str, tenths: u64| {
            let seconds = tenths as f64 / 10.0;
            format!("{what}: the node is wedged in \"running\": nothing has moved for {seconds:.1} s")
        };
        let well = || "well".to_owned();
        let rows = [
            // silent, stop, blocked: verdict
            (0, None, None, well()),
            (9, None, Some((9, 9)), well()),
            (0, None, Some((10, 10)), runner("give up", 10)),
            (0, None, Some((39, 39)), runner("give up", 39)),
            (0, None, Some((40, 40)), runner("end", 40)),
            // Paused with everything else: what is told is true, what is held against it is not.
            (0, None, Some((55, 5)), well()),
            (0, None, Some((65, 15)), runner("give up", 65)),
            (0, None, Some((95, 40)), runner("end", 95)),
            (10, None, None, node("give up", 10)),
            (40, None, None, node("end", 40)),
            // The loop waits for the component, or stands in line behind it.
            (40, None, Some((12, 12)), runner("end", 12)),
            (40, None, Some((5, 5)), node("end", 40)),
            (0, Some((40, false)), None, well()),
            (0, Some((20, false)), Some((15, 15)), runner("give up", 15)),
            (0, Some((45, false)), Some((40, 40)), runner("end", 40)),
            (0, Some((49, true)), None, "end: stopping is wedged in \"running\" after 4.9 s".to_owned()),
            (0, Some((49, true)), Some((15, 15)), runner("end", 15)),
            (20, Some((49, true)), None, node("end", 20)),
            (
                0,
                Some((49, true)),
                Some((3, 3)),
                "end: stopping is wedged in \"running\" after 4.9 s".to_owned(),
            ),
        ];
        for (silent, stop, blocked, expected) in rows {
            assert_eq!(said(silent, stop, blocked), expected, "{silent} {stop:?} {blocked:?}");
        }
    }
}
