//! Planted histories: each kind of violation is found, and nothing is found where nothing is wrong.

use super::*;
use crate::tasks::job::{Condition, Lost};

fn job(name: &str) -> Job {
    Job { name: name.to_owned(), ..Job::default() }
}

/// `a:1=exited 0, a:2=lost` and the like: attempts of a view.
fn view(id: &str, name: &str, state: &str, ends: &[Value]) -> View {
    let attempts: Vec<_> =
        (1..).zip(ends).map(|(number, end)| Attempt { number, end: end.clone() }).collect();
    View {
        id: id.to_owned(),
        revision: 1,
        state: state.to_owned(),
        attempt_count: attempts.len() as u32,
        attempts,
        spec: Spec { name: Some(name.to_owned()), origin: None },
    }
}

fn exited(code: i32) -> Value {
    serde_json::json!({"exited": {"code": code}})
}

fn lost() -> Value {
    serde_json::json!({"lost": {"reason": "its node"}})
}

/// Lines such as `S a 1`: the rest is filled in, and a task is called as its job is, with an `id-` before it.
fn history(text: &str) -> String {
    let lines = text.split(';').map(str::trim).filter(|line| !line.is_empty());
    lines
        .map(|line| {
            let words: Vec<_> = line.split(' ').collect();
            match words[..] {
                ["A", job] => format!("A {job} id-{job}\n"),
                [kind @ ("C" | "D"), job, state] => format!("{kind} id-{job} {state}\n"),
                ["S" | "P", job, attempt] => format!("{} id-{job} {attempt} {job} 1.00 n1 \n", words[0]),
                ["E", job, attempt, code] => format!("E id-{job} {attempt} {job} 1.00 n1 {code}\n"),
                _ => format!("{line}\n"),
            }
        })
        .collect()
}

fn judged(jobs: &[Job], text: &str, views: &[View]) -> Report {
    check(Evidence { jobs, history: &history(text), views, schedules: &[] })
}

#[track_caller]
fn finds(rule: Rule, jobs: &[Job], text: &str, views: &[View]) {
    let report = judged(jobs, text, views);
    let rules: Vec<_> = report.violations.iter().map(|violation| violation.rule).collect();
    assert_eq!(rules, [rule], "{text}: {report}");
}

#[track_caller]
fn clean(jobs: &[Job], text: &str, views: &[View]) {
    let report = judged(jobs, text, views);
    assert!(report.violations.is_empty(), "{text}: {report}");
}

fn well(name: &str) -> View {
    view(&format!("id-{name}"), name, "succeeded", &[exited(0)])
}

#[test]
fn a_task_that_ran_once_and_well_is_as_it_should_be() {
    clean(&[job("a")], "A a; S a 1; P a 1; E a 1 0; D a succeeded", &[well("a")]);
    // Its submission was not answered, and it ran all the same.
    clean(&[job("a")], "S a 1; E a 1 0", &[well("a")]);
    let retried = view("id-a", "a", "succeeded", &[exited(7), lost(), exited(0)]);
    clean(&[job("a")], "A a; S a 1; E a 1 7; S a 2; P a 2; S a 3; E a 3 0; D a succeeded", &[retried]);
}

#[test]
fn what_was_acknowledged_is_not_lost() {
    finds(Rule::Lost, &[job("a")], "A a", &[]);
    finds(Rule::Lost, &[job("a")], "A a", &[view("id-a", "a", "queued", &[])]);
}

#[test]
fn attempts_do_not_overlap_unless_nobody_promised_it() {
    let twice = [view("id-a", "a", "succeeded", &[lost(), exited(0)])];
    let text = "A a; S a 1; S a 2; P a 1; E a 2 0";
    finds(Rule::Overlap, &[job("a")], text, &twice);
    clean(&[job("a")], "A a; S a 1; P a 1; S a 2; E a 2 0", &twice);
    let now = Job { lost: Lost::RequeueNow, ..job("a") };
    assert_eq!(judged(std::slice::from_ref(&now), text, &twice).unfenced, 1);
    // With a key it is fenced all the same.
    let locked = Job { limits: vec![("disk".to_owned(), 1)], ..now };
    let found = judged(&[locked], text, &twice);
    assert!(found.breaks(Rule::Overlap) && found.breaks(Rule::KeyOverfull), "{found}");
    finds(Rule::StartedTwice, &[job("a")], "A a; S a 1; S a 1; E a 1 0", &[well("a")]);
}

#[test]
fn no_more_run_under_a_key_than_it_allows() {
    let under = |name: &str, max| Job { limits: vec![("k".to_owned(), max)], ..job(name) };
    let views = ["a", "b", "c"].map(well);
    let pair = "S a 1; S b 1; E a 1 0; S c 1; E b 1 0; E c 1 0";
    clean(&["a", "b", "c"].map(|name| under(name, 2)), pair, &views);
    let found = judged(&["a", "b", "c"].map(|name| under(name, 1)), pair, &views);
    assert_eq!(found.violations.iter().filter(|it| it.rule == Rule::KeyOverfull).count(), 2, "{found}");
    // One that was killed counts until it was last heard.
    let killed = [view("id-a", "a", "cancelled", &[Value::from("cancelled")]), well("b")];
    let jobs = ["a", "b"].map(|name| Job { cancel_after_ms: Some(1), ..under(name, 1) });
    clean(&jobs, "S a 1; P a 1; S b 1; E b 1 0", &killed);
    finds(Rule::KeyOverfull, &jobs, "S a 1; S b 1; P a 1; E b 1 0", &killed);
}

#[test]
fn nothing_runs_after_an_end_that_was_acknowledged() {
    let again = [view("id-a", "a", "succeeded", &[exited(0), exited(0)])];
    finds(Rule::AfterTheEnd, &[job("a")], "A a; S a 1; E a 1 0; D a succeeded; S a 2; E a 2 0", &again);
    let cancelled = [view("id-a", "a", "cancelled", &[Value::from("cancelled")])];
    finds(Rule::AfterTheEnd, &[job("a")], "A a; S a 1; C a cancelled; P a 1", &cancelled);
    clean(&[job("a")], "A a; S a 1; C a cancelling; P a 1; D a cancelled", &cancelled);
    // Of what is not fenced an attempt that was given up may go on; none may begin.
    let now = [Job { lost: Lost::RequeueNow, ..job("a") }];
    let given_up = [view("id-a", "a", "succeeded", &[lost(), exited(0)])];
    clean(&now, "A a; S a 1; S a 2; E a 2 0; D a succeeded; P a 1", &given_up);
    finds(Rule::AfterTheEnd, &now, "A a; S a 1; E a 1 0; D a succeeded; S a 2; E a 2 0", &again);
}

#[test]
fn dependencies_are_kept() {
    let after = |on| [job("a"), Job { after: vec![("a".to_owned(), on)], ..job("b") }];
    let (a, b) = (well("a"), well("b"));
    let both = "A a; A b; S a 1; E a 1 0; S b 1; E b 1 0";
    clean(&after(Condition::Success), both, &[a.clone(), b.clone()]);
    finds(Rule::Condition, &after(Condition::Failure), both, &[a.clone(), b.clone()]);
    finds(
        Rule::TooEarly,
        &after(Condition::Always),
        "A a; A b; S a 1; S b 1; E a 1 0; E b 1 0",
        &[a.clone(), b],
    );
    let never = view("id-b", "b", "cancelled", &[]);
    let alone = "A a; A b; S a 1; E a 1 0";
    clean(&after(Condition::Failure), alone, &[a.clone(), never.clone()]);
    finds(Rule::Condition, &after(Condition::Success), alone, &[a.clone(), never.clone()]);
    let failed = view("id-a", "a", "failed", &[exited(7)]);
    clean(&after(Condition::Success), "A a; A b; S a 1; E a 1 7", &[failed, never.clone()]);
    finds(Rule::Unasked, &[job("a"), job("b")], alone, &[a, never]);
}

#[test]
fn one_submission_is_one_task() {
    let other = view("id-x", "a", "succeeded", &[exited(0)]);
    let text = "A a; A a id-x; S a 1; E a 1 0; S id-x 1 a 1.00 n1; ";
    let found = judged(&[job("a")], &format!("{text} E id-x 1 a 1.00 n1 0"), &[well("a"), other]);
    assert!(found.breaks(Rule::TwoTasks), "{found}");
    clean(&[job("a")], "A a; A a; S a 1; E a 1 0", &[well("a")]);
}

#[test]
fn what_taskd_says_is_true() {
    finds(Rule::Untrue, &[job("a")], "A a; S a 1", &[view("id-a", "a", "succeeded", &[lost()])]);
    let found = judged(&[job("a")], "A a; S a 1; E a 1 7", &[well("a")]);
    assert_eq!(found.violations.len(), 2, "neither the exit code nor the state: {found}");
    let dead = view("id-a", "a", "dead", &[]);
    finds(Rule::Untrue, &[job("a")], "A a", &[dead]);
    finds(Rule::Unasked, &[job("a")], "A a; S a 1", &[view("id-a", "a", "timed_out", &["timed_out".into()])]);
    finds(Rule::Unasked, &[job("a")], "A a; S a 1", &[view("id-a", "a", "lost", &[lost()])]);
    finds(Rule::Unknown, &[job("a")], "A a; S a 1; E a 1 0; S a 2; E a 2 0", &[well("a")]);
    // Its shim was killed when it had said so.
    assert_eq!(
        judged(&[job("a")], "A a; S a 1; E a 1 7", &[view("id-a", "a", "dead", &[lost()])]).unheard,
        1
    );
    finds(Rule::Malformed, &[job("a")], "A a; S a 1; E a 1 0; X y z", &[well("a")]);
    finds(Rule::Malformed, &[job("a")], "A a; S a 1; E a 1 0; P b 1", &[well("a")]);
}

fn ticking(ticks: &[u64], counts: (u64, u64, u64), last_s: u64, all: bool) -> Report {
    let (tasks, overlapped, missed) = counts;
    let schedule = ScheduleView {
        name: "beat".to_owned(),
        created_ms: 10_200,
        last: Some(Tick { at_ms: last_s * 1_000 }),
        counts: Counts { tasks, overlapped, missed },
        every_s: 2,
        all,
    };
    let views: Vec<_> = ticks
        .iter()
        .enumerate()
        .map(|(index, tick)| {
            let mut view = view(&format!("id-{index}"), "beat@", "succeeded", &[exited(0)]);
            let origin = Origin { schedule: "beat".to_owned(), tick_ms: tick * 1_000, triggered: false };
            view.spec.origin = Some(origin);
            view
        })
        .collect();
    let lines = |index| format!("S id-{index} 1 beat 1.00 n1\nE id-{index} 1 beat 1.00 n1 0\n");
    let history: String = (0..ticks.len()).map(lines).collect();
    check(Evidence { jobs: &[], history: &history, views: &views, schedules: &[schedule] })
}

#[test]
fn every_tick_is_one_task_or_a_reason() {
    let clean = |report: Report| assert!(report.violations.is_empty(), "{report}");
    clean(ticking(&[12, 14, 16, 18], (4, 0, 0), 18, true));
    clean(ticking(&[12, 18], (2, 1, 1), 18, false));
    clean(ticking(&[], (0, 0, 0), 10, true));
    type Row = (&'static [u64], (u64, u64, u64), bool, Rule);
    let rows: [Row; 6] = [
        (&[12, 16, 18], (3, 0, 0), false, Rule::TickSkipped),
        (&[12, 18], (2, 1, 1), true, Rule::TickSkipped),
        (&[12, 14, 16], (4, 0, 0), false, Rule::TickSkipped),
        (&[12, 14, 14, 16, 18], (4, 0, 0), false, Rule::TickTwice),
        (&[12, 14, 15, 16, 18], (4, 0, 0), false, Rule::TickTwice),
        (&[12, 14, 16, 20], (4, 0, 0), false, Rule::TickTwice),
    ];
    for (ticks, counts, all, rule) in rows {
        let report = ticking(ticks, counts, 18, all);
        assert!(report.breaks(rule), "{ticks:?} {counts:?}: {report}");
    }
    // A task that ran in its name, and that nobody knows.
    let history = "S id-9 1 beat 1.00 n1\n";
    let beat = ScheduleView { name: "beat".to_owned(), every_s: 2, ..ScheduleView::default() };
    let report = check(Evidence { jobs: &[], history, views: &[], schedules: &[beat] });
    assert!(report.breaks(Rule::TickTwice), "{report}");
}
