//! A value is gone once it has taken an edge.

#[path = "support/runner.rs"]
mod runner;

use runner::phase::{Deadline, Runner, Running};

async fn stopped_twice(runner: Runner<Running>) {
    let _ = runner.stop().await;
    let _ = runner.stop().await;
}

fn submitted_after_drain(mut runner: Runner<Running>) {
    let _draining = runner.drain(Deadline);
    runner.submit("too late");
}

fn main() {}
