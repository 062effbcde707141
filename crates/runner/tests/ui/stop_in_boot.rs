use std::time::Duration;

use runner::{Booting, Runner};

async fn boot_gives_up(runner: Runner<Booting>) {
    let _ = runner.stop(Duration::from_secs(5)).await;
}

fn main() {}
