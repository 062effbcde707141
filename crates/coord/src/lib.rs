//! Coordination through ZooKeeper: the only crate that names `zookeeper-client`.

pub mod log;
