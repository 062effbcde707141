//! Virtual IPs: each service's addresses on exactly one healthy node (D8).
//!
//! ```text
//! Vip<Cleaning> ──clean──▶ Vip<Serving> ──release──▶ Vip<Releasing> ──finish──▶ Vip<Stopped>
//!       └─ fails: CleanFailure, nothing started
//! ```
//!
//! One loop per node follows the coordination service's documents ([`store`]) and feeds, for each service, a core
//! without IO (`holder`): events in, effects out.
//!
//! ```text
//!          nobody holds it, and it is our turn
//!   Idle ────────────────────────────────────▶ Taking ── refused ──▶ Idle
//!    ▲                                           │ taken
//!    │                                           ▼
//!    │           ┌──────────── somebody answers: Blocked (asks again each second)
//!    │           ▼                               ▲
//!    │        Waiting (the grace of a term that was not free) ──▶ Probing ──▶ Held ◀──▶ lapsed: removed, asks anew
//!    │           │                               │                  │ unfit, moved, stopping
//!    │           ▼                               ▼                  ▼
//!    └───────────┴──── Releasing: remove, then the database, then [delete holder, term = free]
//! ```
//!
//! # Invariants
//!
//! - An address is here only inside a lease that committed probes prove, and the kernel itself removes it before anybody
//!   else who took the service may put it: see [`valid_s`] for the arithmetic.
//! - Whoever takes a service whose term is not free waits the grace that it found, whatever else it believes to know.
//! - `term` becomes free only after the addresses are gone, and only by one who had waited its own grace.
//! - An address is in the local database, on disk, and known to the guard before it is in the kernel.
//! - The loop awaits nothing but the next event; what takes time is a task in a set that it joins.
//! - Absent on purpose: the task log. Addresses move while no dispatcher runs.

mod driver;
mod error;
mod handle;
mod holder;
mod options;
mod page;
mod phase;
mod placer;
mod program;
mod view;

pub mod announce;
pub mod checks;
pub mod clean;
pub mod config;
pub mod guard;
pub mod hooks;
pub mod local_db;
pub mod net;
pub mod placement;
pub mod store;

pub use announce::AnnouncePolicy;
pub use error::CleanFailure;
pub use handle::{Handle, OrderError};
pub use holder::timing::{ThinTiming, TimingRefusal, check_timing, valid_s};
pub use options::{Control, Facts, GuardProgram, Options};
pub use page::{page, troubles, why};
pub use phase::{Cleaning, EDGES, Edge, MERMAID, Phase, PhaseId, Releasing, Report, Serving, Stopped, Vip};
pub use view::{Documents, EVENTS_MAX, View};
