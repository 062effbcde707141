//! What is no edge exists only where it is written, and a phase is a type.

#[path = "support/runner.rs"]
mod runner;

use runner::phase::{Phase, PhaseId, Runner, Running};

struct Intruder;

impl Phase for Intruder {
    const ID: PhaseId = PhaseId::Running;
}

fn serve(_: Runner<Running>) {}

fn main() {
    Runner::new().submit("too early");
    serve(Runner::new());
}
