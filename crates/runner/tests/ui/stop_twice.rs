use std::time::Duration;

use runner::{Draining, Runner};

async fn the_same_value(runner: Runner<Draining>) {
    let _ = runner.stop(Duration::from_secs(5)).await;
    let _ = runner.stop(Duration::from_secs(5)).await;
}

async fn the_next_value(runner: Runner<Draining>) {
    let stopped = runner.stop(Duration::from_secs(5)).await;
    let _ = stopped.stop(Duration::from_secs(5)).await;
}

fn main() {}
