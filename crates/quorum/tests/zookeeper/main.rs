//! Quorums against a real ZooKeeper.

#[cfg(test)]
mod cluster;
#[cfg(test)]
mod life;
#[cfg(test)]
mod node;
