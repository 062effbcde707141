//! The documents of the virtual IPs against a live coordination service: the keeper, or real ensembles on request.

#[cfg(test)]
mod assign;
#[cfg(test)]
mod config;
#[cfg(test)]
mod follow;
#[cfg(test)]
mod says;
#[cfg(test)]
mod tenure;
#[cfg(test)]
mod world;
