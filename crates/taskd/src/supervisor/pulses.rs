//! What each component shows to the [watchdog](super::watchdog): one pulse for each.

use drill::Drill;
use pulse::Pulse;

/// The pulses of a node's components. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Pulses {
    pub(crate) runner: Pulse,
    pub(crate) quorum: Pulse,
    pub(crate) dispatcher: Pulse,
    pub(crate) keeper: Pulse,
    pub(crate) vip: Pulse,
    pub(crate) supervisor: Pulse,
    /// The listener and the connections that it has accepted.
    pub(crate) listener: Pulse,
}

impl Pulses {
    /// Of a node in which nothing runs yet.
    pub(crate) fn new(drill: &Drill) -> Self {
        let pulse = |component| Pulse::new(component, drill.clone());
        Self {
            runner: pulse("runner"),
            quorum: pulse("quorum"),
            dispatcher: pulse("dispatcher"),
            keeper: pulse("embedded keeper"),
            vip: pulse("vip"),
            supervisor: pulse("supervisor"),
            listener: pulse("listener"),
        }
    }

    /// All of them.
    pub(crate) fn all(&self) -> [&Pulse; 7] {
        [
            &self.runner,
            &self.quorum,
            &self.dispatcher,
            &self.keeper,
            &self.vip,
            &self.supervisor,
            &self.listener,
        ]
    }
}
