//! Schedules in the world: a tick each second, under each overlap policy; what was missed is made good.

use proto::ScheduleId;
use proto::schedule::{Misfire, Overlap, ScheduleOrder, ScheduleSpec};

use super::*;
use crate::record::tick_task;

pub(super) const NAMES: [(&str, Overlap); 3] =
    [("allow", Overlap::Allow), ("forbid", Overlap::Forbid), ("replace", Overlap::Replace)];

fn named(index: usize) -> (ScheduleName, Overlap) {
    let (name, overlap) = NAMES[index % NAMES.len()];
    (name.parse().expect("valid"), overlap)
}

impl World {
    /// It may be there already.
    pub(super) fn add_schedule(&mut self, choice: u8) {
        let (name, overlap) = named(usize::from(choice));
        let spec = ScheduleSpec {
            misfire: Misfire::All,
            misfire_grace_ms: 1_000 + u64::from(choice % 2) * 1_500,
            overlap,
            ..ScheduleSpec::new("* * * * * *", TaskSpec::new("noop", vec![]))
        };
        let id = ScheduleId::from_u128(u128::from(choice));
        let add = ScheduleOrder::Add { name: name.clone(), id, spec: Box::new(spec), replace: true };
        self.core.schedule_order(self.now(), add, &mut 1_000_000).expect("there is room");
        self.write(Vec::new(), None);
        match self.pending.back_mut() {
            Some(group) => group.scheduled.push(name),
            // Nothing had to be changed, and everything is durable.
            None => drop(self.scheduled.insert(name)),
        }
    }

    pub(super) fn set_wall(&mut self, choice: u8) {
        let by = u64::from(choice) * 30;
        self.skew_ms = if choice.is_multiple_of(2) { self.skew_ms + by } else { self.skew_ms - by };
        self.skew_ms = self.skew_ms.max(SKEW_MS / 2);
    }

    pub(super) fn trigger(&mut self, choice: u8) {
        let (name, _) = named(usize::from(choice));
        let task = TaskId::from_u128((self.submitted << 64) + u128::from(self.ms) + 1);
        if self.core.schedule_order(self.now(), ScheduleOrder::Trigger { name, task }, &mut 1_000_000).is_ok()
        {
            self.write(vec![task], None);
        }
    }

    /// No further tick comes; those that have are decided.
    pub(super) fn pause_all(&mut self) {
        for (name, _) in (0..NAMES.len()).map(named) {
            let wall_ms = self.now().wall_ms;
            let pause = ScheduleOrder::Pause(name.clone());
            if self.core.schedule_order(self.now(), pause, &mut 1_000_000).is_ok() {
                let until_ms = self.core.db.schedule(&name).map(|schedule| schedule.progress.until_ms);
                assert!(
                    until_ms >= Some(wall_ms / 1_000 * 1_000),
                    "{name} is decided until {until_ms:?} at {wall_ms}"
                );
            }
            self.write(Vec::new(), None);
        }
    }

    pub(super) fn check_schedules(&self) {
        for name in &self.scheduled {
            assert!(self.core.db.schedule(name).is_some(), "schedule {name} is lost");
        }
        let mut running: BTreeMap<&str, Vec<AttemptId>> = BTreeMap::new();
        for attempt in
            self.machines.iter().flat_map(|machine| machine.processes.keys().chain(machine.orphans.keys()))
        {
            let origin = self.core.db.get(attempt.task).and_then(|task| task.spec.origin.as_ref());
            if let Some(origin) = origin.filter(|origin| !origin.triggered) {
                running.entry(origin.schedule.as_str()).or_default().push(*attempt);
            }
        }
        for (name, overlap) in NAMES {
            let count = running.get(name).map_or(0, Vec::len);
            assert!(overlap == Overlap::Allow || count <= 1, "{count} ticks of {name} run at {} ms", self.ms);
        }
    }

    /// Between the schedule's beginning and its end every tick is one task, or was skipped for the sake of one.
    pub(super) fn check_ticks(&self) {
        for (name, overlap) in (0..NAMES.len()).map(named) {
            let Some(schedule) = self.core.db.schedule(&name) else { continue };
            let first = schedule.created_ms / 1_000 + 1;
            let last = schedule.progress.until_ms / 1_000;
            let ticks: BTreeSet<u64> = (first..=last).collect();
            let of_it = |task: &&crate::record::Task| {
                task.spec.origin.as_ref().is_some_and(|origin| origin.schedule == name && !origin.triggered)
            };
            let mut made = BTreeSet::new();
            for task in self.core.db.iter().filter(of_it) {
                let tick_ms = task.spec.origin.as_ref().map_or(0, |origin| origin.tick_ms);
                assert_eq!(task.id, tick_task(schedule.id, tick_ms));
                assert!(made.insert(tick_ms / 1_000), "{tick_ms} came twice");
            }
            let counts = schedule.progress.counts;
            assert_eq!((counts.tasks, counts.missed), (made.len() as u64, 0));
            assert_eq!(counts.tasks + counts.overlapped, ticks.len() as u64, "{name}");
            if overlap == Overlap::Forbid {
                assert!(made.is_subset(&ticks), "{made:?} of {ticks:?}");
            } else {
                assert_eq!(made, ticks, "{name}");
            }
        }
    }
}
