//! Measures the keeper against Debian's ZooKeeper.

mod bench;
mod crash;
mod differential;

fn main() {}
