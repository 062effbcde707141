//! When an attempt on a silent runner is certainly over: rule (b) of the task fence.
//!
//! A runner may run what was fenced until `fence_after` from the *sending* of its last answered heartbeat. That
//! sending lies before the answer, so the right has ended once the longest `fence_after` ever granted, plus drift,
//! has passed since the answer. A new leader does not know when its predecessor answered last, only that it was
//! inside its lease, which had ended when this term was claimed; one session timeout is added for good measure.

use std::collections::BTreeMap;
use std::time::Duration;

use clock::Instant;
use proto::{Incarnation, NodeId};

/// The fence of every runner's life.
#[derive(Debug)]
pub(crate) struct Fence {
    /// Not before the claim of this term.
    claimed: Instant,
    session_timeout: Duration,
    /// The longest right ever granted, plus drift.
    span: Duration,
    drift: Duration,
    answered: BTreeMap<NodeId, BTreeMap<Incarnation, Instant>>,
    /// Nodes that were granted more than is usual, for a planned restart: nothing on them is over before that.
    extended: BTreeMap<NodeId, Instant>,
}

impl Fence {
    pub(crate) fn new(
        claimed: Instant,
        session_timeout: Duration,
        granted_max: Duration,
        drift: Duration,
    ) -> Self {
        let span = granted_max + drift;
        Self { claimed, session_timeout, span, drift, answered: BTreeMap::new(), extended: BTreeMap::new() }
    }

    /// A heartbeat of this life was answered.
    pub(crate) fn answered(&mut self, node: &NodeId, life: Incarnation, now: Instant) {
        if let Some(lives) = self.answered.get_mut(node) {
            lives.insert(life, now);
        } else {
            self.answered.insert(node.clone(), BTreeMap::from([(life, now)]));
        }
    }

    /// From when on nothing that was fenced on this life can run.
    pub(crate) fn over_at(&self, node: &NodeId, life: Incarnation) -> Instant {
        let usual = match self.answered.get(node).and_then(|lives| lives.get(&life)) {
            Some(answered) => *answered + self.span,
            None => self.claimed + self.session_timeout + self.span,
        };
        self.extended_until(node).map_or(usual, |until| usual.max(until))
    }

    /// A life has adopted what an earlier one ran: its right to run reaches at least as far.
    pub(crate) fn inherit(&mut self, node: &NodeId, from: Incarnation, to: Incarnation) {
        let lives = self.answered.entry(node.clone()).or_default();
        let answered = lives.get(&from).copied().unwrap_or(self.claimed + self.session_timeout);
        let own = lives.entry(to).or_insert(answered);
        *own = (*own).max(answered);
    }

    /// A heartbeat that was received at `received` is answered with this right, which is longer than usual.
    pub(crate) fn extend(&mut self, node: &NodeId, received: Instant, right: Duration) {
        let until = received + right + self.drift;
        let known = self.extended.entry(node.clone()).or_insert(until);
        *known = (*known).max(until);
    }

    /// The log says that such a right was granted, and nobody knows when: at the latest by who led before.
    pub(crate) fn was_extended(&mut self, node: &NodeId, right: Duration) {
        self.extend(node, self.claimed + self.session_timeout, right);
    }

    pub(crate) fn extended_until(&self, node: &NodeId) -> Option<Instant> {
        self.extended.get(node).copied()
    }

    /// Takes out the extensions that are over.
    pub(crate) fn end_extensions(&mut self, now: Instant) -> Vec<NodeId> {
        let over: Vec<_> =
            self.extended.iter().filter(|(_, until)| **until <= now).map(|(node, _)| node.clone()).collect();
        self.extended.retain(|_, until| *until > now);
        over
    }

    /// Forgets the lives for which `keep` is false and whose right has ended, whichever rule they ended by.
    pub(crate) fn retain(&mut self, now: Instant, keep: impl Fn(&NodeId, Incarnation) -> bool) {
        let floor = self.claimed + self.session_timeout + self.span;
        let span = self.span;
        for (node, lives) in &mut self.answered {
            lives.retain(|life, at| keep(node, *life) || now < floor || now < *at + span);
        }
        self.answered.retain(|_, lives| !lives.is_empty());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_life_is_over_after_the_longest_right_and_never_earlier() {
        let node: NodeId = "n1".parse().expect("valid");
        let (old, new) = (Incarnation::from_u128(1), Incarnation::from_u128(2));
        let at = |s| Instant::default() + Duration::from_secs(s);
        let mut fence =
            Fence::new(at(100), Duration::from_secs(4), Duration::from_secs(30), Duration::from_secs(1));
        assert_eq!(
            fence.over_at(&node, old),
            at(135),
            "never answered in this term: claim + T + right + drift"
        );
        fence.answered(&node, new, at(110));
        assert_eq!(fence.over_at(&node, old), at(135), "another life's answer changes nothing");
        fence.answered(&node, old, at(120));
        assert_eq!(fence.over_at(&node, old), at(151));
        fence.retain(at(150), |_, _| false);
        assert_eq!(fence.over_at(&node, old), at(151), "not forgotten while it counts");
        fence.retain(at(151), |_, _| false);
        assert_eq!(fence.over_at(&node, old), at(135), "forgotten: the claim's floor lies in the past");
    }

    #[test]
    fn who_adopts_the_attempts_adopts_the_right_to_run() {
        let node: NodeId = "n1".parse().expect("valid");
        let [old, new, silent] = [1, 2, 3].map(Incarnation::from_u128);
        let at = |s| Instant::default() + Duration::from_secs(s);
        let mut fence =
            Fence::new(at(100), Duration::from_secs(4), Duration::from_secs(30), Duration::from_secs(1));
        fence.inherit(&node, silent, new);
        assert_eq!(fence.over_at(&node, new), at(135), "as if answered at the last moment before this term");
        fence.answered(&node, old, at(200));
        fence.inherit(&node, old, new);
        assert_eq!(fence.over_at(&node, new), at(231));
        fence.answered(&node, new, at(210));
        fence.inherit(&node, old, new);
        assert_eq!(fence.over_at(&node, new), at(241), "it never gets shorter");
    }

    #[test]
    fn an_extension_holds_for_its_node_and_ends() {
        let [node, other]: [NodeId; 2] = ["n1", "n2"].map(|node| node.parse().expect("valid"));
        let life = Incarnation::from_u128(1);
        let at = |s| Instant::default() + Duration::from_secs(s);
        let mut fence =
            Fence::new(at(100), Duration::from_secs(4), Duration::from_secs(30), Duration::from_secs(1));
        fence.was_extended(&node, Duration::from_secs(90));
        assert_eq!((fence.over_at(&node, life), fence.over_at(&other, life)), (at(195), at(135)));
        fence.answered(&node, life, at(120));
        fence.extend(&node, at(120), Duration::from_secs(90));
        assert_eq!(fence.over_at(&node, life), at(211));
        fence.answered(&node, life, at(130));
        assert_eq!(fence.over_at(&node, life), at(211), "a usual answer takes nothing back");
        assert_eq!(fence.end_extensions(at(210)), []);
        assert_eq!(fence.end_extensions(at(211)), std::slice::from_ref(&node));
        assert_eq!(fence.over_at(&node, life), at(161));
    }
}
