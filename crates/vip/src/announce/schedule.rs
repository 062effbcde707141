//! When to announce: at once and several times, a few times more, then now and then for as long as it is held.

use std::time::Duration;

use clock::Instant;
use rand::{Rng, RngExt as _};

/// How often an address is announced.
///
/// Neighbours lose a frame now and then, and a switch that has just seen the link come up may drop the first ones; a
/// neighbour that missed all of them sends into a black hole until its own entry is old. So: a burst, repeats that
/// outlast a switch's start, and a slow refresh for whoever was away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AnnouncePolicy {
    /// Rounds at once.
    pub burst: u32,
    /// Between two rounds of the burst; no two rounds are ever closer.
    pub spacing: Duration,
    /// Rounds after the burst, counted from its begin, ascending.
    pub repeats: Vec<Duration>,
    /// Between two rounds after those; zero = none any more.
    pub refresh: Duration,
    /// A refresh comes earlier or later by at most this, or nodes would go on in step.
    pub jitter: Duration,
}

impl Default for AnnouncePolicy {
    fn default() -> Self {
        Self {
            burst: 5,
            spacing: Duration::from_millis(10),
            repeats: vec![Duration::from_millis(500), Duration::from_secs(1), Duration::from_secs(2)],
            refresh: Duration::from_secs(60),
            jitter: Duration::from_secs(6),
        }
    }
}

/// The rounds of one service's addresses. Without IO: whoever owns it announces when it says so.
///
/// ```text
///            start            due (burst, repeats, refresh …)
///  silent ──────────▶ going ──┐
///    ▲                 │  ▲───┘     start: from the beginning (taken, carrier up, conflict, reconnected)
///    └──────stop───────┘
/// ```
#[derive(Clone, Debug)]
pub struct Announcements {
    policy: AnnouncePolicy,
    started: Instant,
    /// Since `started`.
    rounds: usize,
    last: Option<Instant>,
    next: Option<Instant>,
}

impl Announcements {
    /// Silent until [`start`](Self::start).
    pub fn new(policy: AnnouncePolicy) -> Self {
        Self { policy, started: Instant::default(), rounds: 0, last: None, next: None }
    }

    /// From the beginning: the addresses have just come, the carrier is back, somebody else answered for one of them,
    /// or they were put back. The first round is due now, unless there was one less than the spacing ago.
    pub fn start(&mut self, now: Instant) {
        self.started = now;
        self.rounds = 0;
        self.next = Some(self.last.map_or(now, |last| now.max(last + self.policy.spacing)));
    }

    /// Says nothing any more: the addresses are not here.
    pub fn stop(&mut self) {
        self.next = None;
    }

    /// When to ask [`due`](Self::due) again; none = not before the next start.
    pub fn deadline(&self) -> Option<Instant> {
        self.next
    }

    /// Whether to announce one round now. If so, that one counts as done.
    ///
    /// Who comes late gets the rounds that were missed in the burst at its spacing, not all at once; a missed refresh
    /// is one round.
    pub fn due(&mut self, now: Instant, rng: &mut impl Rng) -> bool {
        if self.next.is_none_or(|next| now < next) {
            return false;
        }
        self.rounds += 1;
        self.last = Some(now);
        self.next = match self.offset(self.rounds) {
            Some(offset) => Some((self.started + offset).max(now + self.policy.spacing)),
            None => self.refresh(now, rng),
        };
        true
    }

    /// When the round comes, counted from the start; none for those after the repeats.
    fn offset(&self, round: usize) -> Option<Duration> {
        let burst = self.policy.burst as usize;
        match round.checked_sub(burst) {
            Some(repeat) => self.policy.repeats.get(repeat).copied(),
            None => Some(self.policy.spacing * u32::try_from(round).unwrap_or(u32::MAX)),
        }
    }

    fn refresh(&self, now: Instant, rng: &mut impl Rng) -> Option<Instant> {
        let AnnouncePolicy { spacing, refresh, jitter, .. } = self.policy;
        if refresh.is_zero() {
            return None;
        }
        let jitter = jitter.min(refresh);
        let wait = rng.random_range(refresh - jitter..=refresh + jitter);
        Some(now + wait.max(spacing).max(Duration::from_millis(1)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rand::SeedableRng as _;
    use rand::rngs::StdRng;

    fn at(ms: u64) -> Instant {
        Instant::from_nanos(ms * 1_000_000)
    }

    fn ms(at: Instant) -> u64 {
        at.as_nanos() / 1_000_000
    }

    fn steady() -> AnnouncePolicy {
        AnnouncePolicy { jitter: Duration::ZERO, ..AnnouncePolicy::default() }
    }

    /// The rounds until `until`, asked for exactly at each deadline, `late` after it.
    fn rounds(schedule: &mut Announcements, until: u64, late: u64) -> Vec<u64> {
        let mut rng = StdRng::seed_from_u64(1);
        let mut rounds = Vec::new();
        while let Some(next) = schedule.deadline() {
            let now = next + Duration::from_millis(late);
            if now > at(until) {
                break;
            }
            assert!(!schedule.due(next - Duration::from_nanos(1), &mut rng), "early");
            assert!(schedule.due(now, &mut rng), "not due at its own deadline");
            assert!(!schedule.due(now, &mut rng), "twice");
            rounds.push(ms(now));
        }
        rounds
    }

    #[test]
    fn a_burst_then_repeats_then_a_refresh_a_minute() {
        let refresh_off = AnnouncePolicy { refresh: Duration::ZERO, ..steady() };
        let burst_only = AnnouncePolicy { repeats: Vec::new(), ..refresh_off.clone() };
        let refresh_only = AnnouncePolicy { burst: 0, repeats: Vec::new(), ..steady() };
        let table: [(&str, AnnouncePolicy, u64, Vec<u64>); 5] = [
            (
                "as it is by default",
                steady(),
                0,
                vec![1000, 1010, 1020, 1030, 1040, 1500, 2000, 3000, 63_000, 123_000],
            ),
            ("no refresh", refresh_off, 0, vec![1000, 1010, 1020, 1030, 1040, 1500, 2000, 3000]),
            ("only a burst", burst_only.clone(), 0, vec![1000, 1010, 1020, 1030, 1040]),
            // The first round is at the start, whatever the policy: an address that came is announced.
            ("only refreshes", refresh_only, 0, vec![1000, 61_000, 121_000]),
            // Each 25 ms late: never closer than the spacing, none left out.
            ("late", burst_only, 25, vec![1025, 1060, 1095, 1130, 1165]),
        ];
        for (what, policy, late, expected) in table {
            let mut schedule = Announcements::new(policy);
            assert_eq!(schedule.deadline(), None, "{what}: silent before its start");
            schedule.start(at(1000));
            assert_eq!(rounds(&mut schedule, 125_000, late), expected, "{what}");
        }
    }

    #[test]
    fn a_start_begins_again_but_keeps_the_spacing() {
        let mut rng = StdRng::seed_from_u64(1);
        let mut schedule = Announcements::new(steady());
        schedule.start(at(1000));
        assert!(schedule.due(at(1000), &mut rng));
        // A conflict 4 ms later: the whole burst again, but not two rounds within 10 ms.
        schedule.start(at(1004));
        assert_eq!(schedule.deadline(), Some(at(1010)));
        let again = rounds(&mut schedule, 1900, 0);
        assert_eq!(again, [1010, 1020, 1030, 1040, 1050, 1504]);
        schedule.start(at(1900));
        schedule.stop();
        assert_eq!(schedule.deadline(), None);
        assert!(!schedule.due(at(9000), &mut rng), "stopped");
    }

    #[test]
    fn a_pause_of_an_hour_is_one_refresh() {
        let mut rng = StdRng::seed_from_u64(1);
        let mut schedule = Announcements::new(steady());
        schedule.start(at(1000));
        let _ = rounds(&mut schedule, 4000, 0);
        assert!(schedule.due(at(3_600_000), &mut rng));
        assert_eq!(schedule.deadline(), Some(at(3_660_000)));
    }

    proptest! {
        #[test]
        fn two_rounds_are_never_closer_than_the_spacing(
            starts in prop::collection::vec(0_u64..20_000, 1..20),
            polls in prop::collection::vec(0_u64..20_000, 1..200),
            seed: u64,
        ) {
            let mut rng = StdRng::seed_from_u64(seed);
            let policy = AnnouncePolicy::default();
            let mut schedule = Announcements::new(policy.clone());
            let mut moments: Vec<(u64, bool)> =
                starts.into_iter().map(|at| (at, true)).chain(polls.into_iter().map(|at| (at, false))).collect();
            moments.sort_unstable();
            let mut last: Option<Instant> = None;
            for (moment, start) in moments {
                let now = at(moment);
                if start {
                    schedule.start(now);
                }
                if schedule.due(now, &mut rng) {
                    if let Some(last) = last {
                        prop_assert!(now.since(last) >= policy.spacing);
                    }
                    last = Some(now);
                }
            }
        }

        #[test]
        fn a_refresh_stays_within_its_jitter(seed: u64) {
            let mut rng = StdRng::seed_from_u64(seed);
            let mut schedule = Announcements::new(AnnouncePolicy { burst: 0, repeats: Vec::new(), ..Default::default() });
            schedule.start(at(0));
            prop_assert!(schedule.due(at(0), &mut rng));
            let next = schedule.deadline().map(ms);
            prop_assert!(next.is_some_and(|next| (54_000..=66_000).contains(&next)), "{next:?}");
        }
    }
}
