//! Dropping a machine in the middle of its life is noticed.
#![deny(unused_must_use)]

#[path = "support/runner.rs"]
mod runner;

use runner::phase::{Deadline, Runner, Running};

async fn forgotten(runner: Runner<Running>) {
    Runner::new();
    runner.drain(Deadline);
}

fn main() {}
