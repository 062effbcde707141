//! The runner with real shims, real processes and a leader in a box. One module per behaviour.

mod common;
mod fence;
mod host;
mod lifecycle;
mod process;
mod refusals;
mod typestate;
