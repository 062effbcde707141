//! A `Drop` impl that the macro cannot see.

#[path = "support/runner.rs"]
mod runner;

use runner::phase::{Phase, Runner};

impl<P: Phase> Drop for Runner<P> {
    fn drop(&mut self) {}
}

fn main() {}
