//! Membership and leader election.
mod election;
mod record;
