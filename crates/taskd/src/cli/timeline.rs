//! `taskd task show --timeline`: what happened to a task, in order, from what is recorded and nothing else.

use proto::task::{Attempt, TaskState, TaskView};
use serde::Serialize;

use super::output::{self, Tone, date, span, table};

/// What there is to tell of a task.
#[derive(Debug, Serialize)]
pub(super) struct Timeline {
    id: proto::TaskId,
    /// Where it stands now.
    state: TaskState,
    timeline: Vec<Event>,
    /// What happened and is not remembered, as sentences.
    gaps: Vec<String>,
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Event {
    /// Milliseconds since 1970.
    at_ms: u64,
    /// Whose: `leader`, or `node` where only the attempt's node knows.
    clock: &'static str,
    what: What,
    attempt: Option<u32>,
    node: Option<proto::NodeId>,
    /// Until when it was to wait.
    until_ms: Option<u64>,
    detail: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum What {
    Submitted,
    Scheduled,
    Blocked,
    Queued,
    Assigned,
    Started,
    AttemptEnded,
    BackingOff,
    CancelAsked,
    Ended,
}

impl What {
    const fn words(self) -> &'static str {
        match self {
            Self::Submitted => "submitted",
            Self::Scheduled => "waits for its time",
            Self::Blocked => "waits for other tasks",
            Self::Queued => "queued",
            Self::Assigned => "assigned",
            Self::Started => "started",
            Self::AttemptEnded => "attempt ended",
            Self::BackingOff => "waits for its retry",
            Self::CancelAsked => "cancel asked for",
            Self::Ended => "ended",
        }
    }
}

/// The place of an event: its time by the leader's clock, then what is certain of the order of things in one moment.
type Place = (u64, u64);

impl Timeline {
    pub(super) fn of(task: &TaskView) -> Self {
        let mut events = Vec::new();
        let mut add = |place: Place, event: Event| events.push((place, event));
        let origin = task.spec.origin.as_deref().map(|origin| format!("by schedule {}", origin.schedule));
        let submitted = Event { detail: origin, ..event(task.submitted_ms, What::Submitted) };
        add((task.submitted_ms, 0), submitted);
        let rules = task.spec.rules();
        let waits_for_nothing =
            rules.start_at_ms.is_none() && rules.delay_ms.is_none() && rules.after.is_empty();
        if waits_for_nothing && task.state != TaskState::Scheduled && task.state != TaskState::Blocked {
            add((task.submitted_ms, 1), event(task.submitted_ms, What::Queued));
        }
        // Attempts that had ended, or been assigned, by then.
        let ended = |at: u64| last(task, |attempt| attempt.ended_ms.is_some_and(|ended| ended <= at));
        let assigned = |at: u64| last(task, |attempt| attempt.assigned_ms <= at);
        for step in &task.steps.steps {
            let what = match step.state {
                TaskState::Scheduled => What::Scheduled,
                TaskState::Blocked => What::Blocked,
                TaskState::Queued => What::Queued,
                TaskState::Retrying => What::BackingOff,
                TaskState::Cancelling => What::CancelAsked,
                TaskState::Running => continue,
                _ => What::Ended,
            };
            let phase = match what {
                What::CancelAsked => assigned(step.at_ms) * 10 + 5,
                _ => ended(step.at_ms) * 10 + 7,
            };
            let detail = (what == What::Ended).then(|| format!("{}; it went on after that", step.state));
            add((step.at_ms, phase), Event { until_ms: step.until_ms, detail, ..event(step.at_ms, what) });
        }
        for attempt in &task.attempts {
            let of = u64::from(attempt.number) * 10;
            let its = |at_ms, what| Event {
                attempt: Some(attempt.number),
                node: Some(attempt.node.clone()),
                ..event(at_ms, what)
            };
            add((attempt.assigned_ms, of + 3), its(attempt.assigned_ms, What::Assigned));
            if let Some(at_ms) = attempt.started_ms {
                // Another clock may say that it was before the assignment, or after the end.
                let place = at_ms.clamp(
                    attempt.assigned_ms,
                    attempt.ended_ms.unwrap_or(u64::MAX).max(attempt.assigned_ms),
                );
                add((place, of + 4), Event { clock: "node", ..its(at_ms, What::Started) });
            }
            if let (Some(at_ms), Some(end)) = (attempt.ended_ms, &attempt.end) {
                let detail = Some(end.to_string());
                add((at_ms, of + 6), Event { detail, ..its(at_ms, What::AttemptEnded) });
            }
        }
        if let Some(at_ms) = task.finished_ms {
            let detail = match &task.note {
                Some(note) => format!("{}: {note}", task.state),
                None => task.state.to_string(),
            };
            add((at_ms, ended(at_ms) * 10 + 9), Event { detail: Some(detail), ..event(at_ms, What::Ended) });
        }
        // A stable sort: steps of one moment stay in the order in which they were written.
        events.sort_by_key(|(place, _)| *place);
        let timeline = events.into_iter().map(|(_, event)| event).collect();
        Self { id: task.id, state: task.state, timeline, gaps: gaps(task) }
    }

    pub(super) fn text(&self) -> String {
        let first = self.timeline.first().map_or(0, |event| event.at_ms);
        let rows: Vec<_> = self.timeline.iter().map(|event| event.row(first)).collect();
        let mut text = table(&["TIME", "AFTER", "ATTEMPT", "NODE", "WHAT", "DETAIL"], &rows);
        for gap in &self.gaps {
            text.push_str(&format!("\nnot remembered: {gap}"));
        }
        if !self.state.is_final() {
            text.push_str(&format!("\nnow: {}; taskd task why {} says why", self.state, self.id));
        }
        text
    }
}

impl Event {
    fn row(&self, first_ms: u64) -> (Tone, Vec<String>) {
        let none = || "-".to_owned();
        let mut detail = self.detail.as_deref().map_or_else(String::new, output::clean);
        if let Some(until) = self.until_ms {
            detail.push_str(&format!("until {}", date(until)));
        }
        if self.clock == "node" {
            detail.push_str("by the node's clock");
        }
        let cells = vec![
            date(self.at_ms),
            self.at_ms.checked_sub(first_ms).map_or_else(none, |ms| format!("+{}", span(ms))),
            self.attempt.map_or_else(none, |number| number.to_string()),
            self.node.as_ref().map_or_else(none, ToString::to_string),
            self.what.words().to_owned(),
            detail,
        ];
        let tone = match self.what {
            What::Ended => Tone::Title,
            What::Started | What::Assigned => Tone::Busy,
            _ => Tone::Plain,
        };
        (tone, cells)
    }
}

const fn event(at_ms: u64, what: What) -> Event {
    Event { at_ms, clock: "leader", what, attempt: None, node: None, until_ms: None, detail: None }
}

/// The number of the newest attempt of which that holds; 0 if of none.
fn last(task: &TaskView, holds: impl Fn(&Attempt) -> bool) -> u64 {
    task.attempts
        .iter()
        .filter(|attempt| holds(attempt))
        .map(|attempt| u64::from(attempt.number))
        .max()
        .unwrap_or(0)
}

fn gaps(task: &TaskView) -> Vec<String> {
    let mut gaps = Vec::new();
    let known = u32::try_from(task.attempts.len()).unwrap_or(u32::MAX);
    let attempts = task.attempt_count.saturating_sub(known);
    if attempts > 0 {
        gaps.push(format!(
            "{attempts} of its {} attempts: the oldest that ended, or what no node had begun",
            task.attempt_count
        ));
    }
    if task.steps.forgotten > 0 {
        gaps.push(format!(
            "{} changes of its state between the first and the newest ones",
            task.steps.forgotten
        ));
    }
    gaps
}

#[cfg(test)]
mod tests {
    use proto::history::{Step, Steps};
    use proto::task::{AttemptEnd, TaskSpec};
    use proto::{ClusterId, Epoch, FencingToken, Grant, Incarnation, TaskId};

    use super::*;

    fn attempt(number: u32, assigned_ms: u64, started_ms: Option<u64>, end: Option<(u64, i32)>) -> Attempt {
        Attempt {
            number,
            node: "n1".parse().expect("valid"),
            incarnation: Incarnation::from_u128(1),
            token: FencingToken { cluster: ClusterId::from_u128(1), epoch: Epoch(1) },
            grant: Grant(1),
            assigned_ms,
            started_ms,
            ended_ms: end.map(|(at, _)| at),
            end: end.map(|(_, code)| AttemptEnd::Exited { code }),
        }
    }

    fn told(task: &TaskView) -> Vec<(u64, &'static str, Option<u32>)> {
        let told = Timeline::of(task).timeline;
        told.iter().map(|event| (event.at_ms, event.what.words(), event.attempt)).collect()
    }

    #[test]
    fn one_line_for_each_thing_that_happened_and_in_order() {
        let step = |at_ms, state, until_ms| Step { at_ms, state, until_ms };
        let mut task: TaskView = serde_json::from_value(serde_json::json!({
            "id": TaskId::from_u128(7), "revision": 9, "spec": TaskSpec::new("noop", vec![]), "state": "running",
            "submitted_ms": 100, "attempt_count": 2, "attempts": [],
        }))
        .expect("a view of an older release");
        assert_eq!(told(&task), [(100, "submitted", None), (100, "queued", None)]);
        task.attempts = vec![attempt(1, 100, Some(90), Some((100, 1))), attempt(2, 400, None, None)];
        task.steps = Steps {
            steps: vec![step(100, TaskState::Retrying, Some(400)), step(400, TaskState::Queued, None)],
            forgotten: 0,
        };
        let running = [
            (100, "submitted", None),
            (100, "queued", None),
            (100, "assigned", Some(1)),
            // Another clock, which is late; the order is certain all the same.
            (90, "started", Some(1)),
            (100, "attempt ended", Some(1)),
            (100, "waits for its retry", None),
            (400, "queued", None),
            (400, "assigned", Some(2)),
        ];
        assert_eq!(told(&task), running);
        assert!(Timeline::of(&task).gaps.is_empty());
        task.steps.steps.push(step(450, TaskState::Cancelling, None));
        task.attempts[1] = attempt(2, 400, Some(430), Some((500, 143)));
        (task.state, task.finished_ms) = (TaskState::Cancelled, Some(500));
        let ended = [
            (430, "started", Some(2)),
            (450, "cancel asked for", None),
            (500, "attempt ended", Some(2)),
            (500, "ended", None),
        ];
        assert_eq!(told(&task), [&running[..], &ended].concat());
        let text = output_free(&Timeline::of(&task).text());
        assert!(text.contains("+300ms") && text.contains("until 1970-01-01T00:00:00.400Z"), "{text}");

        // What is not known is not told, but for that.
        task.attempts.remove(0);
        task.steps.forgotten = 3;
        let gaps = Timeline::of(&task).gaps;
        assert!(gaps[0].starts_with("1 of its 2 attempts") && gaps[1].starts_with("3 changes"), "{gaps:?}");
        let mut later = task.spec.clone();
        later.rules =
            Some(Box::new(proto::task::Rules { delay_ms: Some(5), ..proto::task::Rules::default() }));
        task.spec = later;
        task.steps = Steps::default();
        assert!(
            !told(&task).iter().any(|(_, what, _)| *what == "queued"),
            "an older release did not write it down"
        );
    }

    fn output_free(text: &str) -> String {
        anstream::adapter::strip_str(text).to_string()
    }
}
