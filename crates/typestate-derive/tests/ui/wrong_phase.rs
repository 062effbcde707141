//! Edges out of phases that they do not leave, also with a wrong number of arguments.

#[path = "support/runner.rs"]
mod runner;

use runner::phase::{Draining, Runner, Stopped};

async fn drained_before_boot() {
    let _ = Runner::new().drain();
}

async fn stopped_for_good(runner: Runner<Stopped>) {
    let _ = runner.stop().await;
}

async fn booted_again(runner: Runner<Draining>) {
    let _ = runner.boot(7).await;
}

fn main() {}
