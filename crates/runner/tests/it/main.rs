//! The runner with real shims, real processes and a leader in a box. One module per behaviour.
#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod adopt;
mod common;
mod fence;
mod host;
mod lifecycle;
mod process;
mod refusals;
mod sweep;
mod tokens;
mod typestate;
