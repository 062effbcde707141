//! What the dispatcher's slot should do next, given the role that the quorum publishes. Pure.

use std::time::Duration;

use clock::Instant;
use proto::Epoch;

/// The role, reduced to what matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RoleNow {
    Follower,
    Elected(Epoch),
    Suspended(Epoch),
    Resigning(Epoch),
}

/// The dispatcher's slot, reduced likewise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SlotNow {
    Idle,
    /// Nothing there, and this term was given up: its resignation is on its way to the quorum.
    Spent(Epoch),
    /// Recovering or dispatching for this term.
    Active(Epoch),
    Stopping,
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    Nothing,
    Boot(Epoch),
    Stop,
    /// Tell the quorum that nothing of this term is alive any more.
    ReportEnded(Epoch),
}

/// Decides.
///
/// **Invariant** a term's end is reported only while no dispatcher is active or stopping: whoever removes an
/// ephemeral early has first ended everything that it fenced.
pub(crate) fn next(role: RoleNow, slot: SlotNow, node_stops: bool) -> Next {
    match (role, slot) {
        (RoleNow::Elected(term) | RoleNow::Suspended(term), SlotNow::Spent(epoch))
            if term == epoch && !node_stops =>
        {
            Next::Nothing
        }
        (_, SlotNow::Spent(_)) => next(role, SlotNow::Idle, node_stops),
        (_, SlotNow::Stopping) => Next::Nothing,
        (RoleNow::Elected(epoch), SlotNow::Idle) if !node_stops => Next::Boot(epoch),
        (RoleNow::Elected(term) | RoleNow::Suspended(term), SlotNow::Active(epoch))
            if term == epoch && !node_stops =>
        {
            Next::Nothing
        }
        (_, SlotNow::Active(_)) => Next::Stop,
        (RoleNow::Resigning(epoch), SlotNow::Idle) => Next::ReportEnded(epoch),
        (RoleNow::Elected(epoch) | RoleNow::Suspended(epoch), SlotNow::Idle) if node_stops => {
            Next::ReportEnded(epoch)
        }
        (RoleNow::Follower | RoleNow::Elected(_) | RoleNow::Suspended(_), SlotNow::Idle) => Next::Nothing,
    }
}

/// Whether something that was asked to end has not done so in time.
pub(crate) fn is_overdue(asked: Option<Instant>, now: Instant, within: Duration) -> bool {
    asked.is_some_and(|asked| asked + within <= now)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table() {
        use Next::*;
        use RoleNow::*;
        use SlotNow::*;
        let (old, new) = (Epoch(3), Epoch(4));
        let rows = [
            // role, slot, node stops, what to do
            (Follower, Idle, false, Nothing),
            (Follower, Active(old), false, Stop),
            (Elected(new), Idle, false, Boot(new)),
            (Elected(new), Active(new), false, Nothing),
            (Elected(new), Active(old), false, Stop),
            (Elected(new), Stopping, false, Nothing),
            (Suspended(new), Active(new), false, Nothing),
            (Suspended(new), Idle, false, Nothing),
            (Suspended(new), Active(old), false, Stop),
            (Resigning(new), Active(new), false, Stop),
            (Resigning(new), Stopping, false, Nothing),
            (Resigning(new), Idle, false, ReportEnded(new)),
            (Elected(new), Idle, true, ReportEnded(new)),
            (Elected(new), Active(new), true, Stop),
            (Suspended(new), Idle, true, ReportEnded(new)),
            (Follower, Idle, true, Nothing),
            (Elected(new), Spent(new), false, Nothing),
            (Suspended(new), Spent(new), false, Nothing),
            (Resigning(new), Spent(new), false, ReportEnded(new)),
            (Elected(new), Spent(old), false, Boot(new)),
            (Elected(new), Spent(new), true, ReportEnded(new)),
            (Follower, Spent(old), false, Nothing),
        ];
        for (role, slot, stops, expected) in rows {
            assert_eq!(next(role, slot, stops), expected, "{role:?}, {slot:?}, node stops: {stops}");
        }
    }
}
