//! What of a task is refused before anybody keeps it.

use super::{Rules, TaskSpec};
use crate::PAYLOAD_BYTES_MAX;
use crate::placing::Placing;

/// Why a [`TaskSpec`] is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSpec {
    /// See the message.
    #[error(
        "the payload has {bytes} bytes, the limit is {PAYLOAD_BYTES_MAX}: put the data on shared storage and pass its path"
    )]
    PayloadTooLarge {
        /// Its size.
        bytes: usize,
    },
    /// See the message.
    #[error("priority {0} is out of range: use -100 to 100")]
    Priority(i32),
    /// See the message.
    #[error("{what} has {chars} bytes, the limit is {limit}")]
    TooLong {
        /// The field.
        what: &'static str,
        /// Its length in bytes.
        chars: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// See the message.
    #[error("{0} labels, the limit is 32")]
    TooManyLabels(usize),
    /// See the message.
    #[error("the run timeout is zero: leave it out to have none")]
    ZeroTimeout,
    /// See the message.
    #[error("{0} retries, the limit is 1000")]
    TooManyRetries(u32),
    /// See the message.
    #[error("{count} {what}, the limit is {limit}")]
    TooMany {
        /// What there are too many of.
        what: &'static str,
        /// How many.
        count: usize,
        /// The limit.
        limit: usize,
    },
    /// See the message.
    #[error("a time to start and a delay: leave one of them out")]
    TwoStarts,
    /// See the message.
    #[error("the delay is longer than ten years")]
    TooLate,
    /// See the message.
    #[error("the time to start is after the year 9999: it is counted in milliseconds since 1970")]
    NoYear,
    /// See the message.
    #[error("the queue timeout is zero: leave it out to have none")]
    ZeroQueueTimeout,
    /// See the message.
    #[error("the progress timeout is zero: leave it out to have none")]
    ZeroProgressTimeout,
    /// See the message.
    #[error("a lock or limit needs a key, and a limit lets at least 1 run")]
    EmptyLimit,
    /// See the message.
    #[error("{key:?} is locked or limited twice: name each key once")]
    LimitTwice {
        /// Which.
        key: String,
    },
    /// See the message.
    #[error("the key to spread by is empty: leave it out, or name what is to be spread")]
    EmptySpread,
    /// See the message.
    #[error("{0} slots: a task takes 1 to 100000 of its node's")]
    Slots(u32),
    /// See the message.
    #[error("the task has no kind: use exec, sleep, noop or a kind that the nodes register")]
    NoKind,
}

impl TaskSpec {
    /// Checks every limit.
    ///
    /// # Errors
    /// The first limit that is exceeded, with what to do about it.
    pub fn check(&self) -> Result<(), InvalidSpec> {
        let length = |what, text: &str, limit| {
            if text.len() > limit {
                Err(InvalidSpec::TooLong { what, chars: text.len(), limit })
            } else {
                Ok(())
            }
        };
        if self.kind.is_empty() {
            return Err(InvalidSpec::NoKind);
        }
        if self.payload.len() > PAYLOAD_BYTES_MAX {
            return Err(InvalidSpec::PayloadTooLarge { bytes: self.payload.len() });
        }
        if !(-100..=100).contains(&self.priority) {
            return Err(InvalidSpec::Priority(self.priority));
        }
        if self.run_timeout_ms == Some(0) {
            return Err(InvalidSpec::ZeroTimeout);
        }
        if self.retries.max > 1000 {
            return Err(InvalidSpec::TooManyRetries(self.retries.max));
        }
        if self.labels.len() > 32 {
            return Err(InvalidSpec::TooManyLabels(self.labels.len()));
        }
        length("the kind", &self.kind, 64)?;
        length("the name", self.name.as_deref().unwrap_or(""), 256)?;
        length("the idempotency key", self.idempotency_key.as_deref().unwrap_or(""), 256)?;
        for (key, value) in &self.labels {
            length("a label's key", key, 64)?;
            length("a label's value", value, 256)?;
        }
        self.rules().check()
    }
}

impl Rules {
    fn check(&self) -> Result<(), InvalidSpec> {
        let many = |what, count: usize, limit| {
            if count > limit { Err(InvalidSpec::TooMany { what, count, limit }) } else { Ok(()) }
        };
        many("tasks to wait for", self.after.len(), Self::AFTER_MAX)?;
        many("locks and limits", self.limits.len(), Self::LIMITS_MAX)?;
        many("exit codes", self.permanent_exit_codes.len(), Self::CODES_MAX)?;
        if self.start_at_ms.is_some() && self.delay_ms.is_some() {
            return Err(InvalidSpec::TwoStarts);
        }
        if self.start_at_ms.is_some_and(|ms| ms > Self::START_MS_MAX) {
            return Err(InvalidSpec::NoYear);
        }
        if self.delay_ms.is_some_and(|ms| ms > Self::DELAY_MS_MAX) {
            return Err(InvalidSpec::TooLate);
        }
        if self.progress_timeout_ms == Some(0) {
            return Err(InvalidSpec::ZeroProgressTimeout);
        }
        if self.queue_timeout_ms == Some(0) {
            return Err(InvalidSpec::ZeroQueueTimeout);
        }
        let mut keys: Vec<&str> = self.limits.iter().map(|limit| limit.key.as_str()).collect();
        keys.sort_unstable();
        for limit in &self.limits {
            if limit.key.is_empty() || limit.max == 0 {
                return Err(InvalidSpec::EmptyLimit);
            }
            if limit.key.len() > 128 {
                return Err(InvalidSpec::TooLong {
                    what: "a lock's or limit's key",
                    chars: limit.key.len(),
                    limit: 128,
                });
            }
        }
        if let Some(twice) = keys.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(InvalidSpec::LimitTwice { key: twice[0].to_owned() });
        }
        self.placing.as_deref().map_or(Ok(()), Placing::check)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Condition, Dependency, Limit};
    use super::*;
    use crate::TaskId;

    #[test]
    fn limits_are_checked() {
        let with = |change: fn(&mut TaskSpec)| {
            let mut spec = TaskSpec::new("noop", vec![]);
            change(&mut spec);
            spec.check().map_err(|error| error.to_string())
        };
        assert_eq!(with(|_| ()), Ok(()));
        type Change = fn(&mut TaskSpec);
        let refused: [(Change, &str); 9] = [
            (|s| s.payload = vec![0; PAYLOAD_BYTES_MAX + 1], "262145 bytes"),
            (|s| s.priority = 101, "-100 to 100"),
            (|s| s.kind.clear(), "no kind"),
            (|s| s.run_timeout_ms = Some(0), "leave it out"),
            (|s| s.name = Some("x".repeat(257)), "the limit is 256"),
            (
                |s| {
                    s.rules =
                        Some(Box::new(Rules { start_at_ms: Some(1), delay_ms: Some(1), ..Rules::default() }))
                },
                "leave one of them out",
            ),
            (
                |s| {
                    let lock = Limit { key: "disk".into(), max: 1 };
                    s.rules = Some(Box::new(Rules { limits: vec![lock.clone(), lock], ..Rules::default() }));
                },
                "name each key once",
            ),
            (
                |s| {
                    let never = Limit { key: "disk".into(), max: 0 };
                    s.rules = Some(Box::new(Rules { limits: vec![never], ..Rules::default() }));
                },
                "at least 1",
            ),
            (
                |s| {
                    let on = Dependency { task: TaskId::from_u128(1), on: Condition::Always };
                    s.rules = Some(Box::new(Rules { after: vec![on; 65], ..Rules::default() }));
                },
                "65 tasks to wait for, the limit is 64",
            ),
        ];
        for (change, message) in refused {
            let error = with(change).unwrap_err();
            assert!(error.contains(message), "{error:?} should say {message:?}");
        }
    }
}
