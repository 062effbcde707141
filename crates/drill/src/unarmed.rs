//! What a product build has: nothing.

use clock::Instant;

use crate::{Bug, HISTORY_VAR, SPEC_VAR, SpecError};

/// No faults.
#[derive(Clone, Debug, Default)]
pub struct Drill;

impl Drill {
    /// No faults.
    pub const fn none() -> Self {
        Self
    }

    /// Refuses everything but an empty specification.
    ///
    /// # Errors
    /// The specification asks for something.
    pub fn parse(spec: &str) -> Result<Self, SpecError> {
        if spec.trim().is_empty() { Ok(Self) } else { Err(SpecError::Unarmed) }
    }

    /// Refuses an environment that asks for something: whoever set it would believe in a test that tests nothing.
    ///
    /// # Errors
    /// The environment asks for something.
    pub fn from_env() -> Result<Self, SpecError> {
        let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        if set(SPEC_VAR) || set(HISTORY_VAR) { Err(SpecError::Unarmed) } else { Ok(Self) }
    }

    /// Whether anything is switched on: no.
    pub const fn is_idle(&self) -> bool {
        true
    }

    /// Whether a bug is planted: no.
    #[inline(always)]
    pub const fn plants(&self, _bug: Bug) -> bool {
        false
    }

    /// Goes on.
    #[inline(always)]
    pub const fn pass(&self, _point: &'static str) {}

    /// Goes on.
    #[inline(always)]
    pub async fn hold(&self, _point: &'static str) {}

    /// Forgets it, without making it.
    #[inline(always)]
    pub fn record(&self, _now: Instant, _fact: impl FnOnce() -> String) {}

    /// Whether [`record`](Self::record) keeps anything: no.
    pub const fn keeps_history(&self) -> bool {
        false
    }

    /// Forgets it.
    #[inline(always)]
    pub fn on_stop(&self, _request: impl Fn() + Send + Sync + 'static) {}

    /// Does not count.
    #[inline(always)]
    pub const fn polled(&self, _component: &'static str) {}

    /// Nothing was counted.
    pub const fn polls(&self, _component: &str) -> u64 {
        0
    }

    /// Nothing was recorded.
    pub const fn history(&self) -> Vec<String> {
        Vec::new()
    }
}
