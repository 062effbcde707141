//! Tables of what was measured.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use serde::Serialize;

use super::play::Outcome;
use super::scenario::Scenario;

/// What came of all runs.
#[derive(Debug, Default)]
pub struct Verdict {
    /// By side, then by scenario.
    sides: BTreeMap<String, BTreeMap<Scenario, Vec<Outcome>>>,
    violations: Vec<String>,
}

/// Median and maximum in milliseconds.
#[derive(Clone, Copy, Debug, Serialize)]
struct Figure {
    median_ms: f64,
    max_ms: f64,
}

impl Figure {
    fn of(times: impl Iterator<Item = Duration>) -> Option<Self> {
        let mut times: Vec<Duration> = times.collect();
        times.sort();
        let ms = |time: &Duration| time.as_secs_f64() * 1e3;
        Some(Self { median_ms: ms(times.get((times.len().checked_sub(1)?) / 2)?), max_ms: ms(times.last()?) })
    }

    fn text(figure: Option<Self>) -> String {
        figure.map_or_else(
            || "-".to_owned(),
            |figure| format!("{:.0} / {:.0}", figure.median_ms, figure.max_ms),
        )
    }
}

/// One row, for programs.
#[derive(Debug, Serialize)]
struct Row {
    side: String,
    scenario: &'static str,
    runs: usize,
    gap: Option<Figure>,
    gap_bound_ms: Option<f64>,
    switch: Option<Figure>,
    gone: Option<Figure>,
    gone_bound_ms: Option<f64>,
    dual: Option<Figure>,
    overlap: Option<Figure>,
    black_hole: Option<Figure>,
    back: Option<Figure>,
    back_bound_ms: Option<f64>,
    excused: usize,
    violations: Vec<String>,
}

type Column = fn(&Row) -> Option<Figure>;

impl Verdict {
    /// Adds a run; `place` says where to look.
    pub(crate) fn add(&mut self, side: &str, place: &str, outcome: Outcome) {
        self.violations.extend(outcome.violations.iter().map(|text| format!("{place}: {text}")));
        let side = self.sides.entry(side.to_owned()).or_default();
        side.entry(outcome.scenario).or_default().push(outcome);
    }

    /// Adds what was found when a side was taken down.
    pub(crate) fn close(&mut self, side: &str, wrong: Vec<String>) {
        self.violations.extend(wrong.into_iter().map(|text| format!("{side}, in the end: {text}")));
    }

    /// Adds another part of the run.
    pub(crate) fn merge(&mut self, other: Self) {
        for (side, scenarios) in other.sides {
            let mine = self.sides.entry(side).or_default();
            for (scenario, outcomes) in scenarios {
                mine.entry(scenario).or_default().extend(outcomes);
            }
        }
        self.violations.extend(other.violations);
    }

    /// Everything that must not be.
    pub fn violations(&self) -> &[String] {
        &self.violations
    }

    fn rows(&self) -> Vec<Row> {
        let mut rows = Vec::new();
        for (side, scenarios) in &self.sides {
            for (scenario, outcomes) in scenarios {
                let bounds = outcomes.iter().find_map(|one| one.bounds).unwrap_or_default();
                let ms = |time: Duration| time.as_secs_f64() * 1e3;
                let figure =
                    |of: &dyn Fn(&Outcome) -> Option<Duration>| Figure::of(outcomes.iter().filter_map(of));
                rows.push(Row {
                    side: side.clone(),
                    scenario: scenario.name(),
                    runs: outcomes.len(),
                    gap: figure(&|one| Some(one.gap)),
                    gap_bound_ms: bounds.gap.map(ms),
                    switch: figure(&|one| one.switch),
                    gone: figure(&|one| one.gone),
                    gone_bound_ms: bounds.gone.map(ms),
                    dual: figure(&|one| Some(one.dual)),
                    overlap: figure(&|one| Some(one.overlap)),
                    black_hole: figure(&|one| Some(one.black_hole)),
                    back: figure(&|one| one.back),
                    back_bound_ms: bounds.back.map(ms),
                    excused: outcomes.iter().filter(|one| one.excused.is_some()).count(),
                    violations: outcomes.iter().flat_map(|one| one.violations.clone()).collect(),
                });
            }
        }
        rows
    }

    /// For programs.
    ///
    /// # Errors
    /// There is no such error in practice: everything in it is a number or a text.
    pub fn json(&self) -> serde_json::Result<String> {
        serde_json::to_string_pretty(&self.rows())
    }

    /// Every side and scenario, and the last line that sums it up.
    pub fn table(&self) -> String {
        let mut cells = vec![
            [
                "scenario",
                "runs",
                "client gap",
                "bound",
                "gone",
                "bound",
                "dual",
                "overlap",
                "black hole",
                "back",
                "bound",
                "late",
            ]
            .map(str::to_owned),
        ];
        let mut text = String::from("milliseconds, median / max\n");
        let rows = self.rows();
        for side in self.sides.keys() {
            cells.push(std::array::from_fn(
                |column| if column == 0 { format!("[{side}]") } else { String::new() },
            ));
            for row in rows.iter().filter(|row| row.side == *side) {
                let bound =
                    |bound: Option<f64>| bound.map_or_else(String::new, |bound| format!("{bound:.0}"));
                cells.push([
                    row.scenario.to_owned(),
                    row.runs.to_string(),
                    Figure::text(row.gap),
                    bound(row.gap_bound_ms),
                    Figure::text(row.gone),
                    bound(row.gone_bound_ms),
                    Figure::text(row.dual),
                    Figure::text(row.overlap),
                    Figure::text(row.black_hole),
                    Figure::text(row.back),
                    bound(row.back_bound_ms),
                    row.excused.to_string(),
                ]);
            }
        }
        text += &aligned(&cells);
        let all = || self.sides.values().flat_map(BTreeMap::values).flatten();
        let ours = || all().filter(|one| one.bounds.is_some());
        let _ = write!(
            text,
            "late: later than the bound by no more than what this machine lost in that time\n\
             {} runs of taskd: two nodes answered for {:?} at most, two had an address for {:?} at most; {} violations",
            ours().count(),
            ours().map(|one| one.dual).max().unwrap_or_default(),
            ours().map(|one| one.overlap).max().unwrap_or_default(),
            self.violations.len(),
        );
        text
    }

    /// The sides beside each other, in what they have in common.
    pub fn comparison(&self) -> String {
        let rows = self.rows();
        let sides: Vec<&String> = self.sides.keys().collect();
        let find = |side: &str, scenario: Scenario| {
            rows.iter().find(|row| row.side == side && row.scenario == scenario.name())
        };
        let (theirs, ours): (Vec<&&String>, Vec<&&String>) =
            sides.iter().partition(|side| side.starts_with("keepalived"));
        let mut text = String::new();
        for our in ours {
            let mut head = vec!["client gap, ms: median / max".to_owned()];
            head.extend(theirs.iter().map(|side| side.to_string()));
            head.extend([our.to_string(), "target".to_owned(), "met".to_owned()]);
            head.extend(
                theirs.iter().map(|side| {
                    format!("× {}", side.rsplit_once("advert ").map_or("", |(_, advert)| advert))
                }),
            );
            let mut cells = vec![head];
            for scenario in Scenario::COMPARED {
                let Some(mine) = find(our, scenario) else { continue };
                let gap = |side: &str| find(side, scenario).and_then(|row| row.gap);
                let mut line = vec![scenario.name().to_owned()];
                line.extend(theirs.iter().map(|side| Figure::text(gap(side))));
                line.push(Figure::text(mine.gap));
                line.push(mine.gap_bound_ms.map_or_else(String::new, |bound| format!("{bound:.0}")));
                let met = mine
                    .gap
                    .zip(mine.gap_bound_ms)
                    .map(|(gap, bound)| if gap.max_ms <= bound { "yes" } else { "NO" });
                line.push(met.unwrap_or_default().to_owned());
                line.extend(theirs.iter().map(|side| {
                    let ratio =
                        gap(side).zip(mine.gap).map(|(their, my)| their.median_ms / my.median_ms.max(1.0));
                    ratio.map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.2}"))
                }));
                cells.push(line);
            }
            text += &aligned(&cells);
            text.push('\n');
        }
        let mut head = vec!["max over all runs, ms".to_owned()];
        head.extend(sides.iter().map(ToString::to_string));
        let mut cells = vec![head];
        let most = |side: &str, of: Column| {
            let each = rows.iter().filter(|row| row.side == side).filter_map(of).map(|figure| figure.max_ms);
            format!("{:.0}", each.fold(0.0, f64::max))
        };
        let lines: [(&str, Column); 3] = [
            ("two nodes answered for the address", |row| row.dual),
            ("two nodes had the address", |row| row.overlap),
            ("black hole after the healing", |row| row.black_hole),
        ];
        for (what, of) in lines {
            let mut line = vec![what.to_owned()];
            line.extend(sides.iter().map(|side| most(side, of)));
            cells.push(line);
        }
        text += &aligned(&cells);
        text += "×: theirs ÷ ours. After kill -9 keepalived's two answer until somebody removes the address, which was done 2 s later here.";
        text
    }
}

/// The first column to the left, the others to the right.
fn aligned<T: AsRef<[String]>>(rows: &[T]) -> String {
    let columns = rows.iter().map(|row| row.as_ref().len()).max().unwrap_or_default();
    // A heading of several columns' width is in a row of its own.
    let cell = |row: &T, column: usize| row.as_ref().get(column).map_or(0, |cell| cell.chars().count());
    let alone = |row: &T| row.as_ref().iter().skip(1).all(String::is_empty);
    let width =
        |column: usize| rows.iter().filter(|row| !alone(row)).map(|row| cell(row, column)).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        for (column, (cell, width)) in row.as_ref().iter().zip(&widths).enumerate() {
            let _ =
                if column == 0 { write!(text, "{cell:<width$}") } else { write!(text, "  {cell:>width$}") };
        }
        text.truncate(text.trim_end().len());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vips::scenario::Bounds;

    fn outcome(scenario: Scenario, gap_ms: u64, bound_ms: Option<u64>, violations: &[&str]) -> Outcome {
        let ms = Duration::from_millis;
        Outcome {
            scenario,
            what: String::new(),
            bounds: bound_ms.map(|bound| Bounds { gap: Some(ms(bound)), ..Bounds::default() }),
            gap: ms(gap_ms),
            switch: Some(ms(gap_ms)),
            gone: None,
            dual: if bound_ms.is_none() { ms(2_000) } else { Duration::ZERO },
            overlap: Duration::ZERO,
            black_hole: Duration::ZERO,
            back: None,
            excused: None,
            violations: violations.iter().map(|text| (*text).to_owned()).collect(),
        }
    }

    #[test]
    fn both_sides_stand_beside_each_other_with_the_target() {
        let mut verdict = Verdict::default();
        verdict.add("taskd, T = 4s", "run 1", outcome(Scenario::Stop, 50, Some(180), &[]));
        verdict.add("taskd, T = 4s", "run 2", outcome(Scenario::Stop, 200, Some(180), &["too late"]));
        let mut other = Verdict::default();
        other.add("keepalived, advert 1 s", "run 1", outcome(Scenario::Stop, 600, None, &[]));
        verdict.merge(other);
        let text = verdict.comparison();
        let line = text.lines().find(|line| line.starts_with("stop")).unwrap();
        let words: Vec<&str> = line.split_whitespace().collect();
        assert_eq!(words, ["stop", "600", "/", "600", "50", "/", "200", "180", "NO", "12.00"], "{text}");
        assert!(
            text.contains("two nodes answered for the address                    2000              0"),
            "{text}"
        );
        assert_eq!(verdict.violations(), ["run 2: too late"]);
        assert!(verdict.table().ends_with("2 runs of taskd: two nodes answered for 0ns at most, two had an address for 0ns at most; 1 violations"));
        assert!(verdict.json().unwrap().contains("\"gap_bound_ms\": 180.0"));
    }
}
