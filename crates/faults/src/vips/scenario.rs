//! What is done to whoever holds the addresses, and what may come of it.

use std::time::Duration;

use clap::ValueEnum;

use crate::history::Timing;

/// How long a taker asks the network before it takes an address: two questions, 40 ms each.
pub(crate) const PROBE: Duration = Duration::from_millis(80);
/// How long a taker waits whose predecessor did not release; the configuration says so.
pub(crate) const GRACE: Duration = Duration::from_secs(2);
/// A look at the addresses every 5 ms sees a change that much later, and one more while it looks.
pub(crate) const SIGHT: Duration = Duration::from_millis(10);
/// No black hole may be longer where nothing is wrong.
pub(crate) const BLACK_HOLE: Duration = Duration::from_millis(250);

/// One of them.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scenario {
    /// SIGTERM
    Stop,
    /// `kill -9` of the daemon alone
    KillDaemon,
    /// `kill -9` of everything on the machine
    KillAll,
    /// SIGSTOP of the daemon alone, and SIGCONT
    PauseDaemon,
    /// SIGSTOP of everything, and SIGCONT
    PauseAll,
    /// The interface of the addresses is set down
    LinkDown,
    /// It loses its carrier
    CarrierLoss,
    /// The node is cut off from everything
    Partition,
    /// The node is cut off from ZooKeeper only
    CutCoordination,
    /// `kill -9` of everything, and started again at once
    Restart,
    /// `kill -9` of everything; the addresses leave the configuration before it starts again
    RemovedWhileDown,
    /// All of ZooKeeper is gone, and comes back
    ZookeeperGone,
    /// Two services that prefer each other's other node; one of the nodes stops
    Opposite,
    /// Somebody removes the addresses from the holder's interface
    AddressRemoved,
    /// A foreign machine has an address
    Foreign,
}

impl Scenario {
    /// As it is written on the command line.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::KillDaemon => "kill-daemon",
            Self::KillAll => "kill-all",
            Self::PauseDaemon => "pause-daemon",
            Self::PauseAll => "pause-all",
            Self::LinkDown => "link-down",
            Self::CarrierLoss => "carrier-loss",
            Self::Partition => "partition",
            Self::CutCoordination => "cut-coordination",
            Self::Restart => "restart",
            Self::RemovedWhileDown => "removed-while-down",
            Self::ZookeeperGone => "zookeeper-gone",
            Self::Opposite => "opposite",
            Self::AddressRemoved => "address-removed",
            Self::Foreign => "foreign",
        }
    }

    /// Those that a daemon without ZooKeeper has, too.
    pub(crate) const COMPARED: [Self; 6] =
        [Self::Stop, Self::LinkDown, Self::CarrierLoss, Self::KillAll, Self::Partition, Self::Restart];

    /// What taskd promises, where ZooKeeper has this timing.
    pub(crate) fn bounds(self, timing: Timing) -> Bounds {
        let ms = Duration::from_millis;
        let released = Some(ms(100) + PROBE);
        let lost = Some(timing.timeout + timing.tick + GRACE + ms(100) + PROBE);
        let none = Bounds::default();
        match self {
            Self::Stop | Self::Opposite => Bounds { gap: released, ..none },
            Self::LinkDown | Self::CarrierLoss => Bounds { gap: Some(ms(150) + PROBE), ..none },
            // The guard.
            Self::KillDaemon => Bounds { gap: lost, gone: Some(ms(50) + SIGHT), ..none },
            // The holder's authority ends that long after its last probe, and what it has with it. A guard that hears
            // nothing of its daemon acts by the same instant.
            Self::PauseDaemon | Self::Partition | Self::CutCoordination => {
                Bounds { gap: lost, gone: Some(timing.term() + ms(50) + SIGHT), ..none }
            }
            // From when all servers serve again: a session that is over, and a grace.
            Self::ZookeeperGone => {
                Bounds { gap: None, gone: Some(timing.term() + ms(50) + SIGHT), back: lost }
            }
            // The kernel, which looks about once a second; before a taker's grace is over.
            Self::KillAll | Self::PauseAll => Bounds { gap: lost, gone: Some(timing.term() + GRACE), ..none },
            // From the start of the process that finds them.
            Self::Restart => Bounds { gap: lost, gone: Some(ms(100) + SIGHT), ..none },
            // Nobody released it, so that whoever takes it anew waits.
            Self::RemovedWhileDown => {
                Bounds { gap: None, gone: Some(ms(100) + SIGHT), back: Some(GRACE + ms(1_000) + PROBE) }
            }
            // A client that asks in between may lose one question and its answer's time.
            Self::AddressRemoved => {
                Bounds { gap: Some(ms(20) + ms(5) + SIGHT), gone: None, back: Some(ms(20) + SIGHT) }
            }
            // The network is asked once a second.
            Self::Foreign => Bounds { back: Some(ms(1_500) + PROBE), ..none },
        }
    }
}

/// What is promised; no promise is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Bounds {
    /// For how long a client may hear nothing.
    pub(crate) gap: Option<Duration>,
    /// When the one that it was done to has the addresses no more: from the fault, or from its start if it was started.
    pub(crate) gone: Option<Duration>,
    /// Until somebody answers again where nobody did before the healing; or for how long they are away that somebody
    /// removes.
    pub(crate) back: Option<Duration>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scenarios_are_called_what_the_command_line_calls_them() {
        for scenario in Scenario::value_variants() {
            assert_eq!(scenario.to_possible_value().unwrap().get_name(), scenario.name());
        }
    }

    #[test]
    fn the_promises_are_those_of_the_issue() {
        let s = Duration::from_secs_f64;
        let timing = Timing { timeout: s(4.0), margin: s(2.1), tick: s(2.0) };
        assert_eq!(Scenario::Stop.bounds(timing).gap, Some(s(0.18)));
        assert_eq!(Scenario::LinkDown.bounds(timing).gap, Some(s(0.23)));
        assert_eq!(Scenario::KillAll.bounds(timing).gap, Some(s(8.18)));
        assert_eq!(Scenario::KillAll.bounds(timing).gone, Some(s(3.9)), "before anybody else has them");
    }
}
