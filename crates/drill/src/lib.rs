//! Faults that tests switch on, inside the very code that runs in production.
//!
//! A test that only ever passes proves little. A *planted bug* ([`Bug`]) takes one protection out, and the suite has to
//! notice; a *point* ([`Drill::pass`], [`Drill::hold`]) is a place where a component can be made to hang or to wait; the
//! *history* ([`Drill::record`]) is what a checker reads afterwards.
//!
//! **Invariant** without the cargo feature `armed`, which only dev-dependencies enable, a [`Drill`] is a type without
//! size, every method is empty, and [`Drill::plants`] is `false` at compile time: a product build has no way to plant
//! anything, and says so when it is asked to.
//!
//! A specification is a list of items, separated by `;`:
//!
//! | item | what happens |
//! |---|---|
//! | `plant:no-lease` | the bug is planted |
//! | `wedge:runner.run` | the thread that passes that point blocks for ever |
//! | `block:runner.boot=3s` | it blocks for that long (`ms` and `s`) |
//! | `hold:dispatcher.recover=2s` | whoever passes that point waits for that long; without a time, for ever |
//! | `stop:quorum@17` | the node's stop is requested at the 17th poll of that component |
//!
//! `@N` after a point means its N-th passing; without it, the first.

#[cfg(feature = "armed")]
mod armed;
mod bug;
#[cfg(feature = "armed")]
mod spec;
#[cfg(not(feature = "armed"))]
mod unarmed;

#[cfg(feature = "armed")]
pub use armed::Drill;
pub use bug::Bug;
#[cfg(not(feature = "armed"))]
pub use unarmed::Drill;

/// Where [`Drill::from_env`] finds its specification.
pub const SPEC_VAR: &str = "TASKD_DRILL";

/// Where [`Drill::from_env`] finds the file that the history is appended to.
pub const HISTORY_VAR: &str = "TASKD_DRILL_HISTORY";

/// A specification that cannot be followed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// A product build plants nothing.
    #[error("{SPEC_VAR} and {HISTORY_VAR} are for tests; this build has no faults to switch on: unset them")]
    Unarmed,
    /// An item makes no sense.
    #[error("\"{item}\" in {SPEC_VAR} is not understood: {why}")]
    Item {
        /// The item.
        item: String,
        /// What is wrong with it.
        why: String,
    },
    /// The history cannot be written.
    #[error("the history cannot be written to {path}: {why}")]
    History {
        /// The file.
        path: String,
        /// What is wrong with it.
        why: String,
    },
}
