use runner::{Runner, Running};

fn drained(runner: Runner<Running>) {
    let draining = runner.drain();
    let _ = runner.handle();
    drop(draining);
}

fn main() {}
