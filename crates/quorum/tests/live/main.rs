//! Quorums against a live coordination service: the keeper, or real ensembles on request.

#[cfg(test)]
mod cluster;
#[cfg(test)]
mod late;
#[cfg(test)]
mod life;
#[cfg(test)]
mod node;
#[cfg(test)]
mod sweep;
