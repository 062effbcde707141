//! Runs the faults.

fn main() {}
