//! The table, and the last line.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use crate::kind::Kind;
use crate::round::Outcome;

/// What became of all faults.
#[derive(Debug, Default)]
pub struct Verdict {
    kinds: BTreeMap<&'static str, Row>,
    /// With where they were found.
    violations: Vec<String>,
    slowest_stop: Duration,
    stops: u64,
    ended: u64,
    cpu: Option<f64>,
    tasks: u64,
    effects: u64,
    epochs: u64,
}

#[derive(Debug, Default)]
struct Row {
    faults: u64,
    violations: u64,
    back: Vec<Duration>,
    bounds: Vec<Duration>,
    excused: u64,
    slowest_stop: Duration,
    stops: u64,
}

impl Verdict {
    /// Adds a fault; `place` says where to look.
    pub(crate) fn add(&mut self, outcome: &Outcome, place: &str) {
        let row = self.kinds.entry(name(outcome.kind)).or_default();
        row.faults += 1;
        row.violations += outcome.violations.len() as u64;
        row.back.push(outcome.back);
        row.bounds.push(outcome.bound);
        row.excused += u64::from(outcome.noise.is_some());
        for (_, stopped) in &outcome.stops {
            row.stops += 1;
            row.slowest_stop = row.slowest_stop.max(stopped.took);
        }
        self.ended += outcome.ended.len() as u64;
        self.cpu = outcome.cpu.into_iter().chain(self.cpu).reduce(f64::max);
        self.violations.extend(outcome.violations.iter().map(|text| format!("{place}: {text}")));
    }

    /// Adds what was found when a cluster was taken down.
    pub(crate) fn close(
        &mut self,
        place: &str,
        violations: &[String],
        tasks: u64,
        effects: u64,
        epochs: u64,
    ) {
        self.violations.extend(violations.iter().map(|text| format!("{place}: {text}")));
        (self.tasks, self.effects, self.epochs) =
            (self.tasks + tasks, self.effects + effects, self.epochs + epochs);
    }

    /// Adds a stop that was no fault's.
    pub(crate) fn stop(&mut self, took: Duration) {
        self.stops += 1;
        self.slowest_stop = self.slowest_stop.max(took);
    }

    /// Everything that must not be.
    pub fn violations(&self) -> &[String] {
        &self.violations
    }

    /// Everything as a table, with the last line that sums it up.
    pub fn table(&self) -> String {
        let mut text = format!(
            "{:<17} {:>6} {:>10}   {:>24}   {:>7} {:>14}\n",
            "kind", "faults", "violations", "leader back: median, max", "excused", "stops, slowest"
        );
        let seconds = |time: Duration| format!("{:.2} s", time.as_secs_f64());
        let (mut all, mut faults) = (Vec::new(), 0);
        let (mut stops, mut slowest) = (self.stops, self.slowest_stop);
        let mut bounds = Vec::new();
        for (kind, row) in &self.kinds {
            let (median, most) = middle_and_last(&row.back);
            let stopped = if row.stops == 0 {
                "-".to_owned()
            } else {
                format!("{}, {}", row.stops, seconds(row.slowest_stop))
            };
            let _ = writeln!(
                text,
                "{kind:<17} {:>6} {:>10}   {:>24}   {:>7} {stopped:>14}",
                row.faults,
                row.violations,
                format!("{}, {}", seconds(median), seconds(most)),
                row.excused,
            );
            all.extend(&row.back);
            bounds.extend(row.bounds.iter().copied());
            faults += row.faults;
            stops += row.stops;
            slowest = slowest.max(row.slowest_stop);
        }
        bounds.sort();
        bounds.dedup();
        let bounds: Vec<_> = bounds.into_iter().map(seconds).collect();
        let _ = writeln!(
            text,
            "\nexcused: later than the bound by no more than what this machine lost in that time\n\
             {} tasks acknowledged and final; {} leader effects in {} epochs checked; {stops} stops; {} nodes ended by themselves{}",
            self.tasks,
            self.effects,
            self.epochs,
            self.ended,
            self.cpu
                .map_or(String::new(), |cpu| format!("; without a route at most {cpu:.2} of a processor")),
        );
        let (median, most) = middle_and_last(&all);
        let _ = write!(
            text,
            "{faults} faults of {} kinds, {} violations; leader back: median {}, max {} (bound {}); slowest stop {}",
            self.kinds.len(),
            self.violations.len(),
            seconds(median),
            seconds(most),
            bounds.join(" or "),
            seconds(slowest)
        );
        text
    }

    /// Adds another part of the run.
    pub(crate) fn merge(&mut self, other: Verdict) {
        for (kind, row) in other.kinds {
            let mine = self.kinds.entry(kind).or_default();
            mine.faults += row.faults;
            mine.violations += row.violations;
            mine.back.extend(row.back);
            mine.bounds.extend(row.bounds);
            mine.excused += row.excused;
            mine.slowest_stop = mine.slowest_stop.max(row.slowest_stop);
            mine.stops += row.stops;
        }
        self.violations.extend(other.violations);
        self.slowest_stop = self.slowest_stop.max(other.slowest_stop);
        self.cpu = other.cpu.into_iter().chain(self.cpu).reduce(f64::max);
        self.stops += other.stops;
        self.ended += other.ended;
        self.tasks += other.tasks;
        self.effects += other.effects;
        self.epochs += other.epochs;
    }
}

fn middle_and_last(times: &[Duration]) -> (Duration, Duration) {
    let mut times = times.to_vec();
    times.sort();
    (
        times.get(times.len().saturating_sub(1) / 2).copied().unwrap_or_default(),
        times.last().copied().unwrap_or_default(),
    )
}

/// A kind as it is written on the command line.
pub(crate) fn name(kind: Kind) -> &'static str {
    match kind {
        Kind::NodeCut => "node-cut",
        Kind::NodeDeaf => "node-deaf",
        Kind::NodeMute => "node-mute",
        Kind::NodeRejected => "node-rejected",
        Kind::RouteRemoved => "route-removed",
        Kind::CoordinationCut => "coordination-cut",
        Kind::PacketLoss => "packet-loss",
        Kind::FollowerCut => "follower-cut",
        Kind::LeaderPaused => "leader-paused",
        Kind::FollowerPaused => "follower-paused",
        Kind::EnsemblePaused => "ensemble-paused",
        Kind::ServerKilled => "server-killed",
        Kind::ServersRolled => "servers-rolled",
        Kind::EnsembleDown => "ensemble-down",
        Kind::LeaderKilled => "leader-killed",
        Kind::FollowerKilled => "follower-killed",
        Kind::LeaderStopped => "leader-stopped",
        Kind::ClockStepped => "clock-stepped",
        Kind::Pair => "pair",
    }
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum as _;

    use super::*;

    #[test]
    fn kinds_are_called_what_the_command_line_calls_them() {
        for kind in Kind::value_variants() {
            assert_eq!(kind.to_possible_value().unwrap().get_name(), name(*kind));
        }
    }

    #[test]
    fn the_last_line_sums_it_up() {
        let outcome = |kind, back_ms, violations: &[&str]| Outcome {
            kind,
            what: String::new(),
            back: Duration::from_millis(back_ms),
            bound: Duration::from_secs(3),
            noise: None,
            stops: Vec::new(),
            ended: Vec::new(),
            cpu: None,
            praised: Duration::ZERO,
            violations: violations.iter().map(|text| (*text).to_owned()).collect(),
        };
        let (mut verdict, mut other) = (Verdict::default(), Verdict::default());
        verdict.add(&outcome(Kind::NodeCut, 1_000, &[]), "lab 1");
        verdict.add(&outcome(Kind::NodeCut, 2_500, &["an overlap"]), "lab 1");
        other.add(&outcome(Kind::Pair, 500, &[]), "lab 2");
        other.stop(Duration::from_millis(400));
        verdict.merge(other);
        let table = verdict.table();
        assert!(table.contains("node-cut               2          1             1.00 s, 2.50 s"), "{table}");
        assert!(
            table.ends_with(
                "3 faults of 2 kinds, 1 violations; leader back: median 1.00 s, max 2.50 s (bound 3.00 s); slowest stop 0.40 s"
            ),
            "{table}"
        );
        assert_eq!(verdict.violations(), ["lab 1: an overlap"]);
    }
}
