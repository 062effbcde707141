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
    answered: BTreeMap<NodeId, BTreeMap<Incarnation, Instant>>,
}

impl Fence {
    pub(crate) fn new(
        claimed: Instant,
        session_timeout: Duration,
        granted_max: Duration,
        drift: Duration,
    ) -> Self {
        Self { claimed, session_timeout, span: granted_max + drift, answered: BTreeMap::new() }
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
        match self.answered.get(node).and_then(|lives| lives.get(&life)) {
            Some(answered) => *answered + self.span,
            None => self.claimed + self.session_timeout + self.span,
        }
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
}
