//! Where an owned component stands (D2).
//!
//! The typed value is either here, at rest, or inside a joined task that brings it back: the owner loop never
//! awaits a component.

use tokio::task::AbortHandle;
use tokio_util::sync::CancellationToken;

/// A component's place in its owner.
#[derive(Debug)]
pub(crate) enum Slot<T> {
    /// Not there, and nothing under way.
    Idle,
    /// A joined task brings it up.
    Booting {
        /// The polite way to end the boot.
        cancel: CancellationToken,
        /// The impolite one.
        abort: AbortHandle,
    },
    /// Up.
    Running(T),
    /// A joined task ends it.
    Stopping {
        /// The impolite way to hurry it.
        abort: AbortHandle,
    },
    /// Ended for good.
    Done,
}

impl<T> Slot<T> {
    /// Whether there is nothing left to end.
    pub(crate) const fn is_at_rest(&self) -> bool {
        matches!(self, Self::Idle | Self::Done)
    }

    /// Takes the value of a running component; the slot is idle until the caller fills it.
    pub(crate) fn take_running(&mut self) -> Option<T> {
        match std::mem::replace(self, Self::Idle) {
            Self::Running(value) => Some(value),
            other => {
                *self = other;
                None
            }
        }
    }

    /// Ends whatever is under way without asking again. The task still has to be joined.
    pub(crate) fn abort(&self) {
        if let Self::Booting { abort, .. } | Self::Stopping { abort } = self {
            abort.abort();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_running_value_can_be_taken() {
        let mut slot = Slot::Running(7);
        assert_eq!(slot.take_running(), Some(7));
        assert_eq!(slot.take_running(), None);
        assert!(slot.is_at_rest());
        let mut done = Slot::<u8>::Done;
        assert_eq!(done.take_running(), None);
        assert!(matches!(done, Slot::Done));
    }
}
