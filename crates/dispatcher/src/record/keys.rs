//! The keys of records that are no tasks.

use proto::schedule::ScheduleName;
use proto::{NodeId, ScheduleId, TaskId};
use sha2::{Digest, Sha256};

use super::META_KEY;

/// The key of a schedule's record, which follows from its name. It is not [`META_KEY`], and a task that has it is refused.
pub(crate) fn schedule_key(name: &ScheduleName) -> u128 {
    digest("taskd schedule", &[name.as_str().as_bytes()])
}

/// The key of a drained node's record.
pub(crate) fn node_key(node: &NodeId) -> u128 {
    digest("taskd node", &[node.as_str().as_bytes()])
}

/// The key of the record of a pause.
pub(crate) fn pause_key() -> u128 {
    digest("taskd pause", &[])
}

/// The key of a kind's quota.
pub(crate) fn quota_key(kind: &str) -> u128 {
    digest("taskd quota", &[kind.as_bytes()])
}

/// The key of the record of an idempotency key, which follows from it.
pub(crate) fn key_key(key: &str) -> u128 {
    digest("taskd idempotency key", &[key.as_bytes()])
}

/// The task of a tick, under whichever leader.
pub(crate) fn tick_task(schedule: ScheduleId, tick_ms: u64) -> TaskId {
    TaskId::from_u128(digest("taskd tick", &[&schedule.as_u128().to_be_bytes(), &tick_ms.to_be_bytes()]))
}

/// Changing this doubles ticks and loses schedules.
fn digest(domain: &str, parts: &[&[u8]]) -> u128 {
    let mut hash = Sha256::new_with_prefix(domain);
    for part in parts {
        hash.update([0]);
        hash.update(part);
    }
    let bits = hash.finalize().iter().take(16).fold(0, |bits: u128, byte| bits << 8 | u128::from(*byte));
    if bits == META_KEY { 1 } else { bits }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is written today has to be found by tomorrow's release.
    #[test]
    fn names_and_ticks_keep_their_keys() {
        let name: ScheduleName = "nightly".parse().expect("valid");
        assert_eq!(format!("{:032x}", schedule_key(&name)), "a4f63cf13587070067496666bd232b32");
        let tick = tick_task(ScheduleId::from_u128(7), 1_796_000_000_000);
        assert_eq!(tick.to_string(), "eb17557b890a741c36df35d2b9ff0ff6");
        assert_ne!(tick, tick_task(ScheduleId::from_u128(7), 1_796_000_001_000));
    }
}
