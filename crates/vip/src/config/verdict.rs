//! What depends on the cluster's timing: D8's arithmetic; and what is allowed but probably not meant.

use std::time::Duration;

use coord::LeaseTiming;
use humantime::format_duration;

use super::Config;
use crate::holder::timing::check_timing;

/// What [`check`] says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// It cannot be applied.
    pub errors: Vec<String>,
    /// It can, but it is worth a look.
    pub warnings: Vec<String>,
}

/// Judges a configuration that [`parse()`](super::parse()) has read, for a cluster of this timing.
pub fn check(config: &Config, timing: LeaseTiming) -> Verdict {
    let mut verdict = Verdict::default();
    for (name, service) in &config.services {
        let key = format!("service.{name}");
        match check_timing(timing.timeout, timing.margin, service.takeover_grace) {
            Ok(None) => {}
            Ok(Some(thin)) => verdict.warnings.push(format!("{key}.takeover_grace: {thin}")),
            Err(refusal) => verdict.errors.push(format!("{key}.takeover_grace: {refusal}")),
        }
        if service.failback && service.preferred.is_empty() && service.spread.is_none() {
            let what =
                "does nothing without preferred nodes or a spread group: add one of them, or remove it";
            verdict.warnings.push(format!("{key}.failback: {what}"));
        }
        if let Some(group) = &service.spread
            && config.services.values().filter(|other| other.spread.as_ref() == Some(group)).count() == 1
        {
            verdict.warnings.push(format!("{key}.spread: no other service is in the group {group:?}"));
        }
        for check in &service.checks {
            let notices = (check.interval + check.timeout) * check.fall;
            if notices > Duration::from_secs(60) {
                let (title, notices) = (check.title(), format_duration(notices));
                verdict
                    .warnings
                    .push(format!("{key}.check: {title:?} may notice a failure only after {notices}"));
            }
        }
    }
    verdict
}
