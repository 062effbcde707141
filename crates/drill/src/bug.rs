/// A protection that a test takes out, to see that the suite notices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Bug {
    /// The lease flag holds for ever.
    NoLease,
    /// A lease is proved by a read instead of a committed write.
    ReadProbe,
    /// A runner takes orders of any leader, however old its token.
    NoTokenCheck,
    /// Whoever is first in line takes itself for the leader, without a claim.
    ImpliedLeadership,
    /// The supervisor's loop waits for a component's stop itself.
    InlineStop,
    /// A watch is armed once and never again.
    WatchNotRearmed,
    /// A segment of the log does not check the one before it.
    NoChainCheck,
    /// `leader` is deleted before what it fenced has ended.
    EarlyDelete,
    /// A write that nobody wants any more stays when it is executed late.
    UndoForgotten,
    /// A session is closed although what it fences may be alive.
    CloseOnAbandon,
    /// Whoever takes a service's addresses puts them at once, whatever the one before it left.
    NoTakeoverGrace,
    /// It waits as long as it is configured to itself, not as long as it finds recorded.
    OwnGraceOnly,
    /// An address's lifetime is renewed as if a probe had just been committed.
    RefreshUnproved,
    /// A service is released while its addresses are still there.
    ReleaseBeforeRemoval,
    /// Addresses stay although their session or lease is over.
    KeepOnWithoutSession,
    /// A cancelled task gives its locks back before its processes are gone.
    EarlyUnlock,
    /// Whoever asked is answered before the commit that the answer depends on.
    AckUncommitted,
    /// A new leader decides the last ticks once more, into tasks of other ids.
    TickTwice,
}

impl Bug {
    /// All of them.
    pub const ALL: [Self; 18] = [
        Self::NoLease,
        Self::ReadProbe,
        Self::NoTokenCheck,
        Self::ImpliedLeadership,
        Self::InlineStop,
        Self::WatchNotRearmed,
        Self::NoChainCheck,
        Self::EarlyDelete,
        Self::UndoForgotten,
        Self::CloseOnAbandon,
        Self::NoTakeoverGrace,
        Self::OwnGraceOnly,
        Self::RefreshUnproved,
        Self::ReleaseBeforeRemoval,
        Self::KeepOnWithoutSession,
        Self::EarlyUnlock,
        Self::AckUncommitted,
        Self::TickTwice,
    ];

    /// How a specification names it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::NoLease => "no-lease",
            Self::ReadProbe => "read-probe",
            Self::NoTokenCheck => "no-token-check",
            Self::ImpliedLeadership => "implied-leadership",
            Self::InlineStop => "inline-stop",
            Self::WatchNotRearmed => "watch-not-rearmed",
            Self::NoChainCheck => "no-chain-check",
            Self::EarlyDelete => "early-delete",
            Self::UndoForgotten => "undo-forgotten",
            Self::CloseOnAbandon => "close-on-abandon",
            Self::NoTakeoverGrace => "no-takeover-grace",
            Self::OwnGraceOnly => "own-grace-only",
            Self::RefreshUnproved => "refresh-unproved",
            Self::ReleaseBeforeRemoval => "release-before-removal",
            Self::KeepOnWithoutSession => "keep-on-without-session",
            Self::EarlyUnlock => "early-unlock",
            Self::AckUncommitted => "ack-uncommitted",
            Self::TickTwice => "tick-twice",
        }
    }

    /// A drill that plants nothing but this.
    ///
    /// # Panics
    /// In a build that is not armed: such a test would prove nothing.
    #[must_use]
    pub fn planted(self) -> crate::Drill {
        match crate::Drill::parse(&format!("plant:{}", self.name())) {
            Ok(drill) => drill,
            Err(error) => panic!("{error}"),
        }
    }
}
