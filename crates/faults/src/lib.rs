//! A cluster of real processes in network namespaces, hundreds of faults, and what came of them.

pub mod history;
