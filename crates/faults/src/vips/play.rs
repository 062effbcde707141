//! One run: everything is whole, something is done, it is undone, everything is whole again; and the judgement.

use std::time::Duration;

use anyhow::Result;

use super::ground::{ASKED, FIRST, Ground, VIPS};
use super::observer::Observer;
use super::record::{Gap, Record};
use super::scenario::{BLACK_HOLE, Bounds, Scenario};
use crate::noise::Noise;
use crate::sys::{Interrupt, between, boot_ns};

/// How long a client has to be answered without a gap for things to be well.
pub(crate) const STEADY: Duration = Duration::from_millis(300);
/// Black holes after a healing begin within this.
const AFTERMATH: Duration = Duration::from_millis(1_500);
/// After a partition, when two believe that they have the address, later: some announce themselves again 5 s later.
const AFTERMATH_OF_PARTITION: Duration = Duration::from_millis(6_500);

/// Answers stop that much before the instant that a healing is noted at, at the most: somebody always answered by then.
const BEFORE_HEALING: Duration = Duration::from_millis(100);

/// What was done, and when.
#[derive(Clone, Debug, Default)]
pub(crate) struct Played {
    /// For people.
    pub(crate) what: String,
    /// The one that held the first service, to whom it was done.
    pub(crate) victim: usize,
    pub(crate) fault_ns: u64,
    /// From when on the victim's addresses have to go; the fault if it is none.
    pub(crate) gone_from_ns: Option<u64>,
    /// When it was undone.
    pub(crate) healed_ns: u64,
    /// What ought not to be.
    pub(crate) wrong: Vec<String>,
    /// The second service's addresses moved as well, as they should.
    pub(crate) both: bool,
}

/// Something that keeps addresses on one of several nodes.
pub(crate) trait Side {
    /// For people.
    fn name(&self) -> String;
    fn ground(&self) -> &Ground;
    fn interrupt(&self) -> &Interrupt;
    /// What it promises; nothing, if it is only measured.
    fn bounds(&self, scenario: Scenario) -> Option<Bounds>;
    /// Which services' addresses it has: indices into [`ASKED`].
    fn services(&self) -> usize;
    /// Waits until everything is whole; what is the matter, if it is not in time.
    fn settle(&mut self, eyes: &Observer) -> Result<Result<(), String>>;
    /// Does it, waits for what comes of it, and undoes it.
    fn play(&mut self, scenario: Scenario, eyes: &Observer, hold: Duration) -> Result<Played>;
}

/// What was measured in one run.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    pub(crate) scenario: Scenario,
    pub(crate) what: String,
    pub(crate) bounds: Option<Bounds>,
    /// The longest time without an answer.
    pub(crate) gap: Duration,
    /// Until another node answered.
    pub(crate) switch: Option<Duration>,
    /// Until the victim had no address any more.
    pub(crate) gone: Option<Duration>,
    /// Two hardware addresses answered.
    pub(crate) dual: Duration,
    /// Two nodes had an address, heard or not.
    pub(crate) overlap: Duration,
    /// From the healing until somebody answered again, if nobody did before; for how long addresses were away that
    /// somebody removed.
    pub(crate) back: Option<Duration>,
    /// The longest time without an answer that began after the healing.
    pub(crate) black_hole: Duration,
    /// What this machine itself lost, if something took longer than it may.
    pub(crate) excused: Option<Duration>,
    pub(crate) violations: Vec<String>,
}

/// Plays it; `hold` is for how long the fault lasts after somebody else has taken over.
pub(crate) fn play(
    side: &mut dyn Side,
    scenario: Scenario,
    eyes: &Observer,
    hold: Duration,
    noise: &Noise,
) -> Result<Outcome> {
    if let Err(last) = side.settle(eyes)? {
        anyhow::bail!("{} is not whole before {}: {last}", side.name(), scenario.name());
    }
    eyes.begin();
    // What is told before and after counts as well.
    side.interrupt().sleep(Duration::from_millis(100))?;
    let mut played = side.play(scenario, eyes, hold)?;
    let settled = side.settle(eyes)?;
    if let Err(last) = settled {
        played.wrong.push(format!("not whole after the healing: {last}"));
    }
    let aftermath = if scenario == Scenario::Partition { AFTERMATH_OF_PARTITION } else { AFTERMATH };
    let rest = aftermath.saturating_sub(between(played.healed_ns, boot_ns()));
    side.interrupt().sleep(rest)?;
    for vip in &ASKED[..side.services()] {
        side.interrupt().until(Duration::from_secs(15), || Ok(eyes.steady(*vip, STEADY)))?;
    }
    let record = eyes.record()?;
    Ok(judge(side, scenario, &played, &record, noise))
}

fn judge(side: &dyn Side, scenario: Scenario, played: &Played, record: &Record, noise: &Noise) -> Outcome {
    let bounds = side.bounds(scenario);
    let Played { fault_ns, healed_ns, victim, .. } = *played;
    let first = ASKED[0];
    let gone_from_ns = played.gone_from_ns.unwrap_or(fault_ns);
    let healing_ns = healed_ns.saturating_sub(nanos(BEFORE_HEALING)).max(fault_ns);
    let nodes = side.ground();
    let each = |measure: &dyn Fn(usize) -> Duration| (0..VIPS.len()).map(measure).max().unwrap_or_default();
    let mut outcome = Outcome {
        scenario,
        what: played.what.clone(),
        bounds,
        gap: record.longest(first, fault_ns, healing_ns),
        switch: record.switched(first, Some(victim), fault_ns).map(|at_ns| between(fault_ns, at_ns)),
        gone: record.gone(victim, FIRST, gone_from_ns).map(|at_ns| between(gone_from_ns, at_ns)),
        dual: each(&|vip| record.dual(vip, |mac| nodes.is_ours(mac))),
        overlap: each(&|vip| record.overlap(vip)),
        black_hole: ASKED[..side.services()]
            .iter()
            .map(|vip| record.longest_begun(*vip, healing_ns))
            .max()
            .unwrap_or_default(),
        back: match scenario {
            Scenario::AddressRemoved => Some(record.lacked(victim, FIRST, fault_ns, healed_ns)),
            _ => back(&record.gaps(first), healing_ns, healed_ns),
        },
        excused: None,
        violations: played.wrong.clone(),
    };
    let Some(bounds) = bounds else { return outcome };
    if !outcome.dual.is_zero() {
        outcome.violations.push(format!("two nodes answered for {:?}", outcome.dual));
    }
    if !outcome.overlap.is_zero() {
        outcome.violations.push(format!("two nodes had an address for {:?}", outcome.overlap));
    }
    let lost = |took: Duration, from_ns: u64| noise.within(from_ns, from_ns + nanos(took));
    let bystander = if played.both || side.services() < 2 {
        Duration::ZERO
    } else {
        record.longest(ASKED[1], fault_ns, healing_ns)
    };
    let timed = [
        ("a client heard nothing", Some(outcome.gap), bounds.gap, fault_ns),
        ("the addresses were gone", outcome.gone, bounds.gone, gone_from_ns),
        ("somebody answered again", outcome.back, bounds.back, healed_ns),
        ("a black hole after the healing", Some(outcome.black_hole), Some(BLACK_HOLE), healed_ns),
        (
            "a client of the service that nothing was done to heard nothing",
            Some(bystander),
            Some(BLACK_HOLE),
            fault_ns,
        ),
    ];
    for (what, took, bound, from_ns) in timed {
        let Some(bound) = bound else { continue };
        let Some(took) = took else {
            outcome.violations.push(format!("{what}: never"));
            continue;
        };
        if took <= bound {
            continue;
        }
        let lost = lost(took, from_ns);
        if took <= bound + lost {
            outcome.excused = Some(outcome.excused.unwrap_or_default().max(lost));
        } else {
            outcome
                .violations
                .push(format!("{what}: {took:.3?}, bound {bound:.3?}, this machine lost {lost:.3?}"));
        }
    }
    outcome
}

/// From the healing to the end of a gap that was open then.
fn back(gaps: &[Gap], healing_ns: u64, healed_ns: u64) -> Option<Duration> {
    let open = gaps.iter().find(|gap| gap.from_ns < healing_ns && gap.to_ns > healed_ns);
    open.map(|gap| between(healed_ns, gap.to_ns))
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// Waits until a node other than `except` steadily answers for the first service; and which.
pub(crate) fn taken_over(
    eyes: &Observer,
    interrupt: &Interrupt,
    except: Option<usize>,
    within: Duration,
) -> Result<Option<usize>> {
    interrupt.until(within, || Ok(eyes.steady(ASKED[0], STEADY).filter(|node| Some(*node) != except)))
}
