//! Who may give orders, and until when what they started may run: the pure part.

use std::time::Duration;

use clock::Instant;
use drill::{Bug, Drill};
use proto::leader::HeartbeatReply;
use proto::runner::{Refusal, StartBatch};
use proto::{FencingToken, Grant, Incarnation};

use crate::shim::KILL_ALLOWANCE;

/// The floor under tokens and the grant that is held.
#[derive(Debug)]
pub(crate) struct Fence {
    incarnation: Incarnation,
    /// SIGTERM goes out this long before SIGKILL.
    grace: Duration,
    floor: Option<FencingToken>,
    held: Option<Held>,
    /// The highest grant that has lapsed; it never comes back.
    lapsed: Option<Grant>,
    drill: Drill,
}

#[derive(Clone, Copy, Debug)]
struct Held {
    grant: Grant,
    deadline: Instant,
}

impl Fence {
    pub(crate) fn new(incarnation: Incarnation, grace: Duration, drill: Drill) -> Self {
        Self { incarnation, grace, floor: None, held: None, lapsed: None, drill }
    }

    /// Takes the coordination service's word. Returns whether it is of the cluster that was seen first.
    pub(crate) fn observe(&mut self, token: FencingToken) -> bool {
        match &mut self.floor {
            None => self.floor = Some(token),
            Some(floor) if floor.cluster != token.cluster => return false,
            Some(floor) => floor.epoch = floor.epoch.max(token.epoch),
        }
        true
    }

    /// Lets a leader's call in, or says why not. A higher token raises the floor.
    pub(crate) fn admit(&mut self, token: FencingToken, now: Instant) -> Result<(), Refusal> {
        self.judge(token)?;
        self.accepted(token, now);
        Ok(())
    }

    /// For the history of a drill.
    fn accepted(&self, token: FencingToken, now: Instant) {
        self.drill.record(now, || format!("accept epoch={}", token.epoch.0));
    }

    fn judge(&mut self, token: FencingToken) -> Result<(), Refusal> {
        let Some(floor) = &mut self.floor else {
            return Err(Refusal::Failed(
                "this node has not seen the cluster's epoch yet: ask again".to_owned(),
            ));
        };
        if floor.cluster != token.cluster {
            Err(Refusal::ForeignCluster)
        } else if token.epoch < floor.epoch && !self.drill.plants(Bug::NoTokenCheck) {
            Err(Refusal::StaleToken { seen: floor.epoch })
        } else {
            floor.epoch = floor.epoch.max(token.epoch);
            Ok(())
        }
    }

    /// Lets starts in, or says why not.
    pub(crate) fn admit_starts(&mut self, batch: &StartBatch, now: Instant) -> Result<(), Refusal> {
        self.judge(batch.token)?;
        if batch.incarnation != self.incarnation {
            return Err(Refusal::WrongIncarnation { current: self.incarnation });
        }
        let current = self.grant(now);
        if current != Some(batch.grant) {
            return Err(Refusal::WrongGrant { current });
        }
        self.accepted(batch.token, now);
        Ok(())
    }

    /// A heartbeat that was sent at `sent` has been answered. Returns whether the right to run was extended.
    pub(crate) fn answered(&mut self, sent: Instant, reply: &HeartbeatReply, now: Instant) -> bool {
        // A lapse that nobody has noticed yet comes first: its grant must not be revived.
        if self.held.is_some() && self.grant(now).is_none() {
            return false;
        }
        if self.judge(reply.token).is_err() || self.lapsed.is_some_and(|lapsed| reply.grant <= lapsed) {
            return false;
        }
        let deadline = sent + Duration::from_millis(reply.fence_after_ms);
        if now >= self.lapse_before(deadline) {
            return false;
        }
        match &mut self.held {
            Some(held) if reply.grant < held.grant => return false,
            Some(held) => *held = Held { grant: reply.grant, deadline: held.deadline.max(deadline) },
            None => self.held = Some(Held { grant: reply.grant, deadline }),
        }
        self.accepted(reply.token, now);
        true
    }

    /// If the grant has lapsed: gives it up, once, and returns the instant by which everything under it must be gone.
    pub(crate) fn lapse(&mut self, now: Instant) -> Option<Instant> {
        let held = self.held.filter(|held| now >= self.lapse_before(held.deadline))?;
        self.held = None;
        self.lapsed = self.lapsed.max(Some(held.grant));
        Some(held.deadline)
    }

    /// When [`lapse`](Self::lapse) must be called.
    pub(crate) fn lapse_at(&self) -> Option<Instant> {
        self.held.map(|held| self.lapse_before(held.deadline))
    }

    /// The grant, unless it has lapsed.
    pub(crate) fn grant(&self, now: Instant) -> Option<Grant> {
        self.held.filter(|held| now < self.lapse_before(held.deadline)).map(|held| held.grant)
    }

    /// Until when what runs may run.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.held.map(|held| held.deadline)
    }

    pub(crate) fn floor(&self) -> Option<FencingToken> {
        self.floor
    }

    /// Early enough for SIGTERM, grace and a *complete* SIGKILL.
    fn lapse_before(&self, deadline: Instant) -> Instant {
        deadline - (self.grace + KILL_ALLOWANCE)
    }
}

#[cfg(test)]
mod tests {
    use proto::{ClusterId, Epoch};

    use super::*;

    const LIFE: Incarnation = Incarnation::from_u128(1);

    const fn token(cluster: u128, epoch: u64) -> FencingToken {
        FencingToken { cluster: ClusterId::from_u128(cluster), epoch: Epoch(epoch) }
    }

    const fn at(ms: u64) -> Instant {
        Instant::from_nanos(ms * 1_000_000)
    }

    const fn grant(epoch: u64, n: u32) -> Grant {
        Grant::new(Epoch(epoch), n)
    }

    fn reply(epoch: u64, n: u32) -> HeartbeatReply {
        let (token, grant) = (token(1, epoch), grant(epoch, n));
        HeartbeatReply { token, grant, fence_after_ms: 30_000, end: vec![] }
    }

    fn fence() -> Fence {
        let mut fence = Fence::new(LIFE, Duration::from_secs(2), Drill::none());
        assert!(fence.observe(token(1, 5)));
        fence
    }

    #[test]
    fn tokens() {
        let mut fresh = Fence::new(LIFE, Duration::ZERO, Drill::none());
        assert!(
            matches!(fresh.admit(token(1, 9), at(0)), Err(Refusal::Failed(_))),
            "nothing before the first observation"
        );
        let mut fence = fence();
        assert!(!fence.observe(token(2, 9)), "another cluster is not ours");
        for (shown, answer) in [
            (token(1, 4), Err(Refusal::StaleToken { seen: Epoch(5) })),
            (token(2, 6), Err(Refusal::ForeignCluster)),
            (token(1, 5), Ok(())),
            (token(1, 7), Ok(())),
            (token(1, 6), Err(Refusal::StaleToken { seen: Epoch(7) })),
        ] {
            assert_eq!(fence.admit(shown, at(0)), answer, "{shown}");
        }
    }

    #[test]
    fn starts() {
        let mut fence = fence();
        let batch =
            |incarnation, grant| StartBatch { token: token(1, 5), incarnation, grant, starts: vec![] };
        let good = batch(LIFE, grant(5, 1));
        assert_eq!(fence.admit_starts(&good, at(0)), Err(Refusal::WrongGrant { current: None }));
        assert!(fence.answered(at(0), &reply(5, 1), at(10)));
        assert_eq!(fence.admit_starts(&good, at(27_499)), Ok(()));
        let other = batch(Incarnation::from_u128(2), grant(5, 1));
        assert_eq!(fence.admit_starts(&other, at(20)), Err(Refusal::WrongIncarnation { current: LIFE }));
        let other = batch(LIFE, grant(5, 2));
        assert_eq!(
            fence.admit_starts(&other, at(20)),
            Err(Refusal::WrongGrant { current: Some(grant(5, 1)) })
        );
        assert_eq!(
            fence.admit_starts(&good, at(27_500)),
            Err(Refusal::WrongGrant { current: None }),
            "lapsed, though nobody has called it so yet"
        );
    }

    #[test]
    fn the_right_to_run_counts_from_the_sending() {
        let mut fence = fence();
        assert!(fence.answered(at(1_000), &reply(5, 1), at(4_000)));
        assert_eq!((fence.deadline(), fence.lapse_at()), (Some(at(31_000)), Some(at(28_500))));
        assert!(fence.answered(at(500), &reply(5, 1), at(5_000)), "an older beat shortens nothing");
        assert_eq!(fence.deadline(), Some(at(31_000)));
        assert_eq!(fence.lapse(at(28_499)), None);
        assert_eq!(fence.lapse(at(28_500)), Some(at(31_000)));
        assert_eq!(fence.lapse(at(28_501)), None, "once");
    }

    #[test]
    fn a_lapsed_grant_never_comes_back() {
        let mut fence = fence();
        assert!(fence.answered(at(0), &reply(5, 1), at(0)));
        assert!(
            !fence.answered(at(27_000), &reply(5, 1), at(28_000)),
            "the lapse was not noticed, and still is one"
        );
        assert!(fence.lapse(at(28_000)).is_some());
        assert!(!fence.answered(at(27_000), &reply(5, 1), at(28_100)), "answered late, for the old grant");
        assert_eq!(fence.grant(at(28_200)), None);
        assert!(fence.answered(at(28_000), &reply(5, 2), at(28_300)));
        assert_eq!(fence.grant(at(28_400)), Some(grant(5, 2)));
    }

    #[test]
    fn grants_only_grow() {
        let mut fence = fence();
        assert!(fence.answered(at(0), &reply(6, 1), at(0)));
        assert!(!fence.answered(at(1), &reply(5, 9), at(1)), "a deposed leader");
        assert!(fence.answered(at(2), &reply(7, 0), at(2)), "a new leader");
        assert_eq!((fence.grant(at(3)), fence.floor()), (Some(grant(7, 0)), Some(token(1, 7))));
        assert!(!fence.answered(at(2), &reply(7, 1), at(28_000)), "an answer that is too old to be of use");
    }
}
