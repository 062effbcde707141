//! The codec against what ZooKeeper sent, and against itself.

mod recorded;
mod round_trip;
