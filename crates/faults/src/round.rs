//! One fault from its beginning until the cluster is whole again, and what is measured on the way.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::act::{self, Cause, Injected};
use crate::history::{self, Gap, STOP_MAX, Term};
use crate::kind::{Kind, Plan};
use crate::lab::{HEALTHY, Lab};
use crate::node::Stopped;
use crate::noise::Noise;
use crate::sys::{self, boot_ns};

/// What starting and reaping a process on a busy machine adds to a stop.
const STOP_SLACK: Duration = Duration::from_millis(500);
/// A node without a route retries; it does not spin.
const CPU_MAX: f64 = 0.5;
/// A JVM on a busy machine takes its time.
const ENSEMBLE: Duration = Duration::from_secs(90);

/// What became of one fault.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) kind: Kind,
    pub(crate) what: String,
    /// From the cause's end until a leader served; zero if one did all the time.
    pub(crate) back: Duration,
    pub(crate) bound: Duration,
    /// What this machine itself lost in that time, if it was longer than the bound.
    pub(crate) noise: Option<Duration>,
    pub(crate) stops: Vec<(String, Stopped)>,
    /// Nodes that ended although nobody told them to.
    pub(crate) ended: Vec<String>,
    /// What a node without a route used, in processors.
    pub(crate) cpu: Option<f64>,
    /// For how long the cluster's status called it healthy before a leader served again.
    pub(crate) praised: Duration,
    pub(crate) violations: Vec<String>,
}

/// Plays it. `leader` leads now; `known` are the checker's findings up to here.
pub(crate) fn play(
    lab: &mut Lab,
    plan: &Plan,
    leader: usize,
    noise: &Noise,
    known: &mut BTreeSet<String>,
) -> Result<Outcome> {
    let mut outcome = Outcome {
        kind: plan.kind,
        what: String::new(),
        back: Duration::ZERO,
        bound: lab.timing.failover(),
        noise: None,
        stops: Vec::new(),
        ended: Vec::new(),
        cpu: None,
        praised: Duration::ZERO,
        violations: Vec::new(),
    };
    let begun_ns = boot_ns();
    let elections = lab.elections();
    let mut injected = Vec::new();
    for (index, act) in plan.acts.iter().enumerate() {
        if index > 0 {
            lab.interrupt.sleep(plan.apart)?;
        }
        let mut one = act::inject(lab, *act, leader, plan)?;
        outcome.stops.extend(one.stopped.take().map(|stopped| (lab.nodes[leader].name.clone(), stopped)));
        injected.push(one);
    }
    outcome.what = injected.iter().map(|one| one.what.clone()).collect::<Vec<_>>().join(" and ");
    hold(lab, plan, &injected, &mut outcome)?;
    note_ended(lab, &mut outcome)?;
    for one in injected.iter().rev() {
        act::heal(lab, one)?;
    }
    let healed_ns = boot_ns();
    let net = Arc::clone(&lab.net);
    for node in lab.nodes.iter_mut().filter(|node| !node.runs()) {
        node.start(&net)?;
    }
    let over_ns = over(lab, &injected, healed_ns)?.max(begun_ns);
    let healthy = lab.healthy(over_ns.max(healed_ns), HEALTHY)?;
    note_ended(lab, &mut outcome)?;
    outcome.praised = healthy.as_ref().map_or(Duration::ZERO, |health| health.praised);
    if let Err(last) = healthy {
        outcome.violations.push(format!("not healthy {HEALTHY:?} after the healing: {last}"));
    }
    judge(lab, over_ns, &elections.seen(), noise, known, &mut outcome);
    Ok(outcome)
}

/// Waits for the end of the fault's time; tells a node to stop in it, if that is planned.
fn hold(lab: &mut Lab, plan: &Plan, injected: &[Injected], outcome: &mut Outcome) -> Result<()> {
    let begun = Instant::now();
    let mut stop = plan.stop.map(|(part, which)| (plan.hold.mul_f64(part), which));
    let mut cpu = None;
    while begun.elapsed() < plan.hold {
        if let Some((_, which)) = stop.take_if(|(at, _)| begun.elapsed() >= *at)
            && let Some(index) = stoppable(lab, injected, which)
        {
            let net = Arc::clone(&lab.net);
            if lab.nodes[index].ended()?.is_none() {
                let stopped = lab.nodes[index].stop(&net)?;
                outcome.stops.push((lab.nodes[index].name.clone(), stopped));
            }
        }
        // The client would begin to spin when its session's time is over.
        if plan.kind == Kind::RouteRemoved && cpu.is_none() && begun.elapsed() >= lab.timing.timeout {
            cpu = injected
                .iter()
                .find_map(|one| Some((one.node?, Instant::now(), lab.nodes[one.node?].cpu_s().ok()?)));
        }
        lab.interrupt.sleep(sys::POLL)?;
    }
    if let Some((index, since, before)) = cpu
        && let Ok(after) = lab.nodes[index].cpu_s()
    {
        let used = (after - before) / since.elapsed().as_secs_f64();
        outcome.cpu = Some(used);
        if used > CPU_MAX && since.elapsed() > Duration::from_millis(500) {
            outcome
                .violations
                .push(format!("{} used {used:.2} processors without a route", lab.nodes[index].name));
        }
    }
    Ok(())
}

/// A node to stop that can hear it, so that at least one healthy node is left.
fn stoppable(lab: &Lab, injected: &[Injected], which: usize) -> Option<usize> {
    let hit: Vec<usize> = injected.iter().filter_map(|one| one.node).collect();
    let paused = |index: usize| injected.iter().any(|one| one.paused && one.node == Some(index));
    let candidates: Vec<usize> = (0..lab.nodes.len())
        .filter(|index| lab.nodes[*index].runs() && !paused(*index))
        .filter(|index| hit.len() < 2 || hit.contains(index))
        .collect();
    (!candidates.is_empty()).then(|| candidates[which % candidates.len()])
}

fn note_ended(lab: &mut Lab, outcome: &mut Outcome) -> Result<()> {
    let net = Arc::clone(&lab.net);
    for node in &mut lab.nodes {
        if let Some(status) = node.ended()? {
            outcome.ended.push(format!("{} ended by itself ({status})", node.name));
            // As whoever keeps services running would.
            node.start(&net)?;
        }
    }
    Ok(())
}

/// When nothing kept the cluster from having a leader any more.
fn over(lab: &Lab, injected: &[Injected], healed_ns: u64) -> Result<u64> {
    let mut latest = 0;
    let after = lab.watch(None);
    for one in injected {
        let at = match &one.cause {
            Cause::Over(at) => *at,
            Cause::Heard(until_ns) => healed_ns.min(*until_ns),
            Cause::Healing => healed_ns,
            Cause::Ensemble(watch) if watch.seen().is_some() => watch.seen().unwrap_or_default(),
            Cause::Ensemble(_) | Cause::EnsembleHealed => {
                let seen = lab.interrupt.until(ENSEMBLE, || Ok(after.seen()))?;
                seen.ok_or_else(|| {
                    anyhow::anyhow!("ZooKeeper has no leader {ENSEMBLE:?} after it was healed")
                })?
            }
        };
        latest = latest.max(at);
    }
    Ok(latest)
}

/// Reads the histories: what must not be, and when a leader served again. `elected_ns`: when ZooKeeper had elected.
fn judge(
    lab: &Lab,
    over_ns: u64,
    elected_ns: &[u64],
    noise: &Noise,
    known: &mut BTreeSet<String>,
    outcome: &mut Outcome,
) {
    let now_ns = boot_ns();
    let report = history::check(&lab.histories(), lab.timing);
    if report.effects == 0 {
        outcome.violations.push("the histories hold no effect: is taskd armed?".to_owned());
    }
    for violation in report.violations {
        let text = violation.to_string();
        if known.insert(text.clone()) {
            outcome.violations.push(text);
        }
    }
    let told_ns = outcome.stops.iter().map(|(_, stopped)| stopped.at_ns).max();
    let later: Vec<u64> = told_ns.into_iter().chain(elected_ns.iter().copied()).collect();
    let served = Served { gaps: &report.gaps, terms: &report.terms, timeout: lab.timing.timeout, now_ns };
    let (back, from_ns, at_ns) = served.back(over_ns, &later);
    outcome.back = back;
    if from_ns > over_ns && elected_ns.contains(&from_ns) {
        outcome.what.push_str(", and ZooKeeper elected anew");
    }
    if back > outcome.bound {
        let lost = noise.within(from_ns, at_ns);
        outcome.noise = Some(lost);
        if back > outcome.bound + lost {
            outcome.violations.push(format!(
                "a leader served after {back:.2?} only; allowed are {:?}, and this machine lost {lost:.2?}",
                outcome.bound
            ));
        }
    }
    for (name, stopped) in &outcome.stops {
        outcome.violations.extend(wrong_stop(name, stopped, noise));
    }
}

/// What is wrong with a stop.
pub(crate) fn wrong_stop(name: &str, stopped: &Stopped, noise: &Noise) -> Vec<String> {
    let mut wrong = Vec::new();
    let took = stopped.took;
    let lost =
        noise.within(stopped.at_ns, stopped.at_ns + u64::try_from(took.as_nanos()).unwrap_or_default());
    if took > STOP_MAX + STOP_SLACK + lost {
        wrong.push(format!("{name} took {took:.2?} to stop; this machine lost {lost:.2?}"));
    }
    if stopped.status.is_none() {
        wrong.push(format!("{name} did not stop and was killed"));
    }
    if !stopped.left.is_empty() {
        wrong.push(format!("{name} stopped and left {}", stopped.left.join(", ")));
    }
    wrong
}

/// What the histories say about who served when.
#[derive(Clone, Copy, Debug)]
struct Served<'a> {
    gaps: &'a [Gap],
    terms: &'a [Term],
    timeout: Duration,
    now_ns: u64,
}

impl Served<'_> {
    /// How long it took until a leader served, from when, and until when. A node that was told to stop meanwhile, and an
    /// election of ZooKeeper's own, are causes too: what took until then counts from the one before, what was not over
    /// yet from it.
    fn back(self, over_ns: u64, later: &[u64]) -> (Duration, u64, u64) {
        let mut causes: Vec<u64> = later.iter().copied().filter(|cause| *cause > over_ns).collect();
        causes.push(over_ns);
        causes.sort_unstable();
        let mut worst = (Duration::ZERO, over_ns, over_ns);
        for (index, from_ns) in causes.iter().copied().enumerate() {
            let until_ns = causes.get(index + 1).copied().unwrap_or(u64::MAX);
            let (back, at_ns) = self.leaderless(from_ns, until_ns).max(self.relief(from_ns, until_ns));
            worst = worst.max((back, from_ns, at_ns));
        }
        worst
    }

    /// How long nobody was inside of a lease, and when that was over. A gap that begins within T of the cause's end is
    /// due to that cause and counts from its end; a later one has a cause of its own, such as the healing, and counts
    /// whole.
    fn leaderless(self, from_ns: u64, until_ns: u64) -> (Duration, u64) {
        let timeout_ns = u64::try_from(self.timeout.as_nanos()).unwrap_or(u64::MAX);
        let ends = self.gaps.iter().filter_map(|gap| {
            let to_ns = if gap.before.is_some() { gap.to_ns } else { self.now_ns };
            let due = gap.from_ns <= from_ns.saturating_add(timeout_ns);
            let since_ns = if due { from_ns } else { gap.from_ns };
            (from_ns < to_ns && to_ns <= until_ns).then(|| (sys::between(since_ns, to_ns), to_ns))
        });
        ends.max().unwrap_or((Duration::ZERO, from_ns))
    }

    /// How long it took from the cause's end, or from the last effect of those before, until the first effect of a new
    /// leader. It adds the time in which a leader was dead and its lease was not over yet.
    fn relief(self, from_ns: u64, until_ns: u64) -> (Duration, u64) {
        let times = self.terms.iter().enumerate().filter_map(|(index, term)| {
            let first_ns = term.first_effect?.as_nanos();
            let before = self.terms[..index].iter().filter_map(|term| term.last_effect).max()?;
            let since_ns = from_ns.max(before.as_nanos());
            (from_ns < first_ns && first_ns <= until_ns).then(|| (sys::between(since_ns, first_ns), first_ns))
        });
        times.max().unwrap_or((Duration::ZERO, from_ns))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_without_a_leader_counts_from_the_causes_end() {
        let gap = |from_ns, to_ns, before| Gap { after: 1, before, from_ns, to_ns };
        let rows: [(&[Gap], u64); 6] = [
            (&[], 0),
            (&[gap(10, 90, Some(2))], 0),
            (&[gap(10, 130, Some(2))], 30),
            (&[gap(120, 150, Some(2))], 50),
            (&[gap(120, 130, Some(2)), gap(300, 345, Some(3))], 45),
            (&[gap(120, 130, None)], 400),
        ];
        for (gaps, expected) in rows {
            let served = Served { gaps, terms: &[], timeout: Duration::from_nanos(50), now_ns: 500 };
            let (back, ..) = served.back(100, &[]);
            assert_eq!(back, Duration::from_nanos(expected), "{gaps:?}");
        }
    }

    #[test]
    fn a_dead_leader_serves_nobody_although_its_lease_goes_on() {
        let at = |ns| Some(clock::Instant::from_nanos(ns));
        let term = |epoch, first, last| Term {
            epoch,
            node: "n1".to_owned(),
            claimed: clock::Instant::default(),
            effects: 1,
            first_effect: first,
            last_effect: last,
            ended: None,
            released: None,
        };
        let terms = [
            term(1, at(10), at(99)),
            term(2, at(130), at(400)),
            term(3, None, None),
            term(4, at(410), at(500)),
        ];
        for (over_ns, expected) in [(100, 30), (95, 31), (200, 10), (450, 0)] {
            let served = Served { gaps: &[], terms: &terms, timeout: Duration::ZERO, now_ns: 500 };
            assert_eq!(served.back(over_ns, &[]).0, Duration::from_nanos(expected), "{over_ns}");
        }
    }

    #[test]
    fn a_later_cause_hides_nothing_that_was_over_before_it() {
        let gap = |from_ns, to_ns| Gap { after: 1, before: Some(2), from_ns, to_ns };
        let gaps = [gap(120, 170), gap(300, 340)];
        let served = Served { gaps: &gaps, terms: &[], timeout: Duration::from_nanos(50), now_ns: 500 };
        let back = |later: &[u64]| {
            let (back, from_ns, at_ns) = served.back(100, later);
            (back.as_nanos(), from_ns, at_ns)
        };
        assert_eq!(back(&[]), (70, 100, 170));
        assert_eq!(back(&[150]), (40, 150, 340));
        assert_eq!(back(&[180]), (70, 100, 170));
        assert_eq!(back(&[290]), (70, 100, 170));
        assert_eq!(back(&[320, 160]), (20, 320, 340));
        assert_eq!(back(&[50]), (70, 100, 170));
    }
}
