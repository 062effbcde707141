//! When a schedule's ticks are: cron expressions in time zones. No clock, no IO; instants are milliseconds since 1970.
//!
//! Around a change of daylight saving time: a tick of a fixed time (`30 2 * * *`) that falls into the hour that does not
//! exist comes at the first instant after it, and one that falls into the hour that exists twice comes once, in the
//! first. What comes in steps (`*/10 * * * *`, `0 * * * *`) comes in every minute or hour that there really is.
//!
//! **Invariant:** whoever asks gets the same ticks: the time zones' data come with the release, not with the machine.

use std::fmt;

use chrono::{DateTime, SecondsFormat, Utc};
use chrono_tz::Tz;
use croner::Cron;
use croner::parser::{CronParser, Seconds, Year};

/// Longest expression, in bytes.
pub const EXPRESSION_BYTES_MAX: usize = 256;

/// Why there is no such schedule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// See the message.
    #[error(
        "{expression:?} is no cron expression: {reason}. Use MINUTE HOUR DAY MONTH WEEKDAY, with seconds in front if you \
         like, for example \"30 3 * * *\", \"*/15 * * * MON-FRI\" or @hourly"
    )]
    Expression {
        /// What was given.
        expression: String,
        /// What is wrong with it.
        reason: String,
    },
    /// See the message.
    #[error("{0:?} is no time zone: use a name of the IANA database, for example UTC or Europe/Vilnius")]
    Zone(String),
    /// See the message.
    #[error("{0:?} never comes: no day is like that")]
    Never(String),
}

/// Ticks: an expression in a time zone.
#[derive(Clone)]
pub struct Ticks {
    cron: Cron,
    zone: Tz,
}

impl fmt::Debug for Ticks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Ticks({:?} in {})", self.cron.as_str(), self.zone)
    }
}

impl Ticks {
    /// The ticks of `expression`, five fields or six with the seconds in front, in the IANA time zone `zone`.
    ///
    /// # Errors
    /// It makes no sense, or has no tick after `now_ms`.
    pub fn parse(expression: &str, zone: &str, now_ms: u64) -> Result<Self, Invalid> {
        let wrong = |reason: String| Invalid::Expression {
            expression: expression.chars().take(EXPRESSION_BYTES_MAX).collect(),
            reason,
        };
        if expression.len() > EXPRESSION_BYTES_MAX {
            return Err(wrong(format!("it is longer than {EXPRESSION_BYTES_MAX} bytes")));
        }
        // Nicknames would be looked for anywhere in it, and some of them are no times.
        let trimmed = expression.trim();
        const NICKNAMES: [&str; 6] = ["@yearly", "@annually", "@monthly", "@weekly", "@daily", "@hourly"];
        if trimmed.contains('@') && !NICKNAMES.iter().any(|name| name.eq_ignore_ascii_case(trimmed)) {
            return Err(wrong(format!("of the names there are {}", NICKNAMES.join(", "))));
        }
        let parser = CronParser::builder().seconds(Seconds::Optional).year(Year::Disallowed).build();
        let cron = parser.parse(trimmed).map_err(|error| wrong(error.to_string()))?;
        let zone: Tz = zone.parse().map_err(|_| Invalid::Zone(zone.chars().take(80).collect()))?;
        let ticks = Self { cron, zone };
        match ticks.next_after(now_ms) {
            Some(_) => Ok(ticks),
            None => Err(Invalid::Never(trimmed.to_owned())),
        }
    }

    /// The first tick after `ms`; none if there is none any more.
    pub fn next_after(&self, ms: u64) -> Option<u64> {
        let from = DateTime::from_timestamp_millis(i64::try_from(ms).ok()?)?.with_timezone(&self.zone);
        let next = self.cron.find_next_occurrence(&from, false).ok()?;
        u64::try_from(next.timestamp_millis()).ok().filter(|next| *next > ms)
    }

    /// The newest tick after `after_ms` and before `before_ms`, however many there are between them.
    pub fn newest_between(&self, after_ms: u64, before_ms: u64) -> Option<u64> {
        let is_before = |from: u64| self.next_after(from).is_some_and(|tick| tick < before_ms);
        if !is_before(after_ms) {
            return None;
        }
        // The first tick after an instant never comes sooner for a later instant.
        let (mut low, mut high) = (after_ms, before_ms);
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            if is_before(middle) { low = middle } else { high = middle }
        }
        self.next_after(low)
    }
}

/// An instant as it is written down: `2026-12-01T03:00:00Z`.
pub fn rfc3339(ms: u64) -> String {
    let at = i64::try_from(ms).ok().and_then(DateTime::<Utc>::from_timestamp_millis);
    let format = if ms.is_multiple_of(1_000) { SecondsFormat::Secs } else { SecondsFormat::Millis };
    at.map_or_else(|| format!("{ms} ms"), |at| at.to_rfc3339_opts(format, true))
}

#[cfg(test)]
mod tests;
