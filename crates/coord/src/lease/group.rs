//! Several authorities of one session, proved by the same probes.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use clock::{Instant, SharedClock};
use proto::Epoch;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;

use super::prober::Prober;
use super::{LeaseFlag, LeaseState, LeaseTiming};
use crate::{Link, Op};

/// Keeps authorities proved, as many as there are [`Hold`]s: one committed probe per period for all of them, none while
/// there is none. Owns the task that probes.
///
/// A check that fails ends its own hold and proves nothing for the others, which are proved again at once. When the
/// session is over, all of them are lost, and so is every later one.
///
/// Dropping it ends every hold at once.
#[derive(Debug)]
pub struct GroupLease {
    group: Arc<Group>,
    tasks: JoinSet<()>,
}

/// An authority that is kept proved until this is dropped, which gives it up at once: no probe that is sent later checks
/// it. Drop it before a write that removes what it checks, or the probe that finds it gone proves nothing for the others.
#[derive(Debug)]
pub struct Hold {
    /// The flag to read before every effect.
    pub flag: LeaseFlag,
    /// What it is worth, now and as it changes.
    pub states: watch::Receiver<LeaseState>,
}

impl Drop for Hold {
    /// Nobody is left who would end its effects, so it must not hold on.
    fn drop(&mut self) {
        self.flag.drop_now();
    }
}

impl GroupLease {
    /// Starts, with nothing to prove yet. `probe_path` is a node that nobody watches; it is created if missing.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn start(link: Link, probe_path: String, timing: LeaseTiming, clock: SharedClock) -> Self {
        let (commits, _) = watch::channel(Instant::default());
        let group = Arc::new(Group {
            link: link.clone(),
            timing,
            clock,
            members: Mutex::default(),
            stir: Arc::default(),
            commits,
        });
        let pulse = link.pulse().clone();
        let mut tasks = JoinSet::new();
        tasks.spawn(pulse.watch("its lease", Prober::new(Arc::clone(&group), link, probe_path).run()));
        Self { group, tasks }
    }

    /// Proves one more authority from now on. `authority` are the checks that must hold, `first_proof` the send instant
    /// of the committed write that took it. Lost from the start where the group is over.
    pub fn hold(&self, authority: Vec<Op>, first_proof: Instant) -> Hold {
        self.hold_in(authority, first_proof, None)
    }

    pub(super) fn hold_in(&self, authority: Vec<Op>, first_proof: Instant, epoch: Option<Epoch>) -> Hold {
        let Group { link, timing, clock, stir, .. } = &*self.group;
        let flag = LeaseFlag::new(timing.gap(), clock.clone(), epoch, link.drill().clone(), Arc::clone(stir));
        flag.extend(first_proof + timing.term());
        let first = if flag.holds() { LeaseState::Held } else { LeaseState::Lapsed };
        let (publish, states) = watch::channel(first);
        let member =
            Member { checks: authority, flag: flag.clone(), publish, not_before: Instant::default() };
        self.group.members().add(member);
        stir.notify_one();
        Hold { flag, states }
    }

    /// The send instants of the probes that have been committed, as they are: one that is later than an event proves
    /// every hold of then to have outlived it. [`Instant::default`] before the first.
    pub fn commits(&self) -> watch::Receiver<Instant> {
        self.group.commits.subscribe()
    }

    /// Ends every hold and stops probing.
    ///
    /// # Cancel safety
    /// Cancelled, it has done both all the same.
    pub async fn stop(mut self) {
        self.end();
        while self.tasks.join_next().await.is_some() {}
    }

    fn end(&self) {
        self.group.members().end(GIVEN_UP);
        self.group.stir.notify_one();
    }
}

impl Drop for GroupLease {
    /// Nobody extends the flags from here on, so they must not hold on.
    fn drop(&mut self) {
        self.end();
    }
}

/// Why an authority is lost that was given up.
pub(super) const GIVEN_UP: &str = "it was given up";

/// What the owner and its prober share.
#[derive(Debug)]
pub(super) struct Group {
    link: Link,
    pub(super) timing: LeaseTiming,
    pub(super) clock: SharedClock,
    members: Mutex<Members>,
    /// Wakes the prober: another hold, one that was dropped, or the end.
    pub(super) stir: Arc<Notify>,
    pub(super) commits: watch::Sender<Instant>,
}

impl Group {
    /// Never held across an await; nothing that is done under it waits.
    pub(super) fn members(&self) -> MutexGuard<'_, Members> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One authority.
#[derive(Debug)]
pub(super) struct Member {
    checks: Vec<Op>,
    pub(super) flag: LeaseFlag,
    publish: watch::Sender<LeaseState>,
    /// A proof that was sent before this is no proof: the clock had a gap since.
    not_before: Instant,
}

impl Member {
    fn lose(self, reason: &str) {
        self.flag.drop_now();
        tracing::info!(authority = self.checks.first().map_or("?", Op::path), %reason, "lease lost");
        self.publish.send_replace(LeaseState::Lost { reason: reason.to_owned() });
    }
}

/// The authorities that are held.
#[derive(Debug, Default)]
pub(super) struct Members {
    list: BTreeMap<u64, Member>,
    next: u64,
    /// Counts what was added and removed: a probe of an older set proves less, or was refused for nothing.
    pub(super) change: u64,
    /// The change that was the last to add one.
    added: u64,
    /// Why nothing is proved any more.
    over: Option<String>,
}

/// The checks of every member.
#[derive(Debug)]
pub(super) struct Checks {
    pub(super) ops: Vec<Op>,
    /// Whose each of the checks is.
    pub(super) owners: Vec<u64>,
    /// Whom they prove.
    pub(super) members: Vec<u64>,
    /// The set that they are of.
    pub(super) change: u64,
}

impl Members {
    fn add(&mut self, member: Member) {
        if let Some(reason) = &self.over {
            member.lose(reason);
            return;
        }
        self.list.insert(self.next, member);
        self.next += 1;
        self.change += 1;
        self.added = self.change;
    }

    pub(super) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Whether somebody came after a probe of the set `change`.
    pub(super) fn has_news(&self, change: u64) -> bool {
        self.added > change
    }

    pub(super) fn is_over(&self) -> bool {
        self.over.is_some()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Member> {
        self.list.values()
    }

    /// Everything is lost from now on.
    pub(super) fn end(&mut self, reason: &str) {
        self.over.get_or_insert_with(|| reason.to_owned());
        for (_, member) in std::mem::take(&mut self.list) {
            member.lose(reason);
        }
    }

    /// Forgets those that were given up.
    pub(super) fn sweep(&mut self) {
        for (_, member) in self.list.extract_if(.., |_, member| member.flag.is_dropped()) {
            self.change += 1;
            member.lose(GIVEN_UP);
        }
    }

    /// The authority of `owner` is gone.
    pub(super) fn lose(&mut self, owner: u64, reason: &str) {
        if let Some(member) = self.list.remove(&owner) {
            self.change += 1;
            member.lose(reason);
        }
    }

    /// The prober is alive: whoever was not seen for long starts anew.
    pub(super) fn beat(&mut self, now: Instant) {
        for member in self.list.values_mut() {
            if let Some(gap) = member.flag.beat(now) {
                let authority = member.checks.first().map_or("?", Op::path);
                tracing::warn!(
                    ?gap,
                    authority,
                    "this process stood still: authority is dropped until it is proved anew"
                );
                member.not_before = now;
            }
        }
    }

    pub(super) fn checks(&self) -> Checks {
        let members = self.list.keys().copied().collect();
        let mut checks = Checks { ops: Vec::new(), owners: Vec::new(), members, change: self.change };
        for (id, member) in &self.list {
            checks.ops.extend_from_slice(&member.checks);
            checks.owners.extend(std::iter::repeat_n(*id, member.checks.len()));
        }
        checks
    }

    /// A probe of these members' checks was sent at `sent` and committed. Whether it proves anything.
    pub(super) fn proved(&self, members: &[u64], sent: Instant, timing: &LeaseTiming) -> bool {
        let mut any = false;
        for member in members.iter().filter_map(|id| self.list.get(id)) {
            member.flag.note_probe(sent, timing.term());
            if sent >= member.not_before {
                member.flag.extend(sent + timing.term());
                any = true;
            }
        }
        any
    }

    /// Publishes what each is worth now.
    pub(super) fn show(&self) {
        for member in self.list.values() {
            let state = if member.flag.holds() { LeaseState::Held } else { LeaseState::Lapsed };
            member.publish.send_if_modified(|shown| {
                let changed = *shown != state;
                if changed {
                    let authority = member.checks.first().map_or("?", Op::path);
                    tracing::debug!(from = ?shown, to = ?state, authority, "lease");
                    *shown = state.clone();
                }
                changed
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use clock::{Clock, ManualClock};
    use drill::Drill;

    use super::*;

    const TIMING: LeaseTiming = LeaseTiming {
        timeout: Duration::from_millis(2000),
        margin: Duration::from_millis(600),
        period: Duration::from_millis(250),
    };

    struct World {
        clock: ManualClock,
        members: Members,
    }

    impl World {
        fn new() -> Self {
            let clock = ManualClock::default();
            clock.advance(Duration::from_secs(100));
            Self { clock, members: Members::default() }
        }

        /// Taken now.
        fn take(&mut self, paths: &[&str]) -> (LeaseFlag, watch::Receiver<LeaseState>) {
            let clock: SharedClock = Arc::new(self.clock.clone());
            let flag = LeaseFlag::new(TIMING.gap(), clock, None, Drill::none(), Arc::default());
            flag.extend(self.clock.now() + TIMING.term());
            let (publish, states) = watch::channel(LeaseState::Held);
            let checks = paths.iter().map(|path| Op::Check { path: (*path).into(), version: 0 }).collect();
            self.members.add(Member { checks, flag: flag.clone(), publish, not_before: Instant::default() });
            (flag, states)
        }

        fn tick(&mut self, by: Duration) -> Instant {
            self.clock.advance(by);
            let now = self.clock.now();
            self.members.beat(now);
            now
        }
    }

    #[test]
    fn each_check_has_its_owner_and_a_lost_one_takes_nobody_along() {
        let mut world = World::new();
        let (a, _) = world.take(&["/a/holder", "/a/term"]);
        let (b, states) = world.take(&["/b/holder", "/b/term"]);
        let checks = world.members.checks();
        assert_eq!(checks.owners, [0, 0, 1, 1]);
        assert_eq!(checks.ops[3].path(), "/b/term");
        world.members.lose(checks.owners[3], "gone");
        assert!(a.holds() && !b.holds());
        assert_eq!(*states.borrow(), LeaseState::Lost { reason: "gone".into() });
        let left = world.members.checks();
        assert_eq!(left.owners, [0, 0]);
        assert!(left.change > checks.change, "the old probe says nothing about this set");
    }

    #[test]
    fn a_probe_proves_those_that_it_checked_and_no_other() {
        let mut world = World::new();
        let (a, _) = world.take(&["/a"]);
        let checks = world.members.checks();
        let sent = world.tick(Duration::from_millis(300));
        let (b, _) = world.take(&["/b"]);
        let taken = b.proved_until();
        assert!(world.members.proved(&checks.members, sent + Duration::from_millis(1), &TIMING));
        assert_eq!(a.proved_until(), sent + Duration::from_millis(1) + TIMING.term());
        assert_eq!(b.proved_until(), taken);
    }

    #[test]
    fn after_a_gap_only_what_is_sent_later_counts_for_those_who_had_it() {
        let mut world = World::new();
        let (a, _) = world.take(&["/a"]);
        let sent = world.clock.now();
        let checks = world.members.checks();
        assert_eq!((a.remaining(), a.proved_remaining()), (TIMING.gap(), TIMING.term()));
        let back = world.tick(TIMING.gap() + Duration::from_millis(1));
        assert!(!a.holds() && a.proved_remaining().is_zero(), "although its term is not over");
        assert!(!world.members.proved(&checks.members, sent + Duration::from_millis(900), &TIMING));
        assert!(!a.holds());
        let (b, _) = world.take(&["/b"]);
        assert!(b.holds(), "it was taken after the gap");
        assert!(world.members.proved(&checks.members, back, &TIMING));
        assert!(a.holds());
    }

    #[test]
    fn what_is_dropped_is_swept_and_what_comes_after_the_end_is_lost() {
        let mut world = World::new();
        let (a, a_states) = world.take(&["/a"]);
        let (b, b_states) = world.take(&["/b"]);
        a.drop_now();
        world.members.sweep();
        assert_eq!(world.members.checks().owners, [1]);
        assert_eq!(*a_states.borrow(), LeaseState::Lost { reason: GIVEN_UP.into() });
        world.members.end("the session has expired");
        assert!(!b.holds() && world.members.is_empty());
        assert!(matches!(&*b_states.borrow(), LeaseState::Lost { reason } if reason.contains("expired")));
        let (late, states) = world.take(&["/c"]);
        assert!(!late.holds() && world.members.is_empty());
        assert!(matches!(&*states.borrow(), LeaseState::Lost { reason } if reason.contains("expired")));
    }
}
