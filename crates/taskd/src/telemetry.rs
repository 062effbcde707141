//! The binary's log: to stderr, for eyes or as JSON. A library user brings their own subscriber.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

use crate::config::{Log, LogFormat};

/// What other crates may say at most unless asked for: their own view of what we report ourselves. (Each call that its
/// caller gave up is an error to tarpc, twice, and without saying which one.)
const QUIET: &str = "tarpc=off,zookeeper_client=error";

/// The filter for `level`.
///
/// # Errors
/// What is wrong with it, and what to use.
pub fn directives(level: &str) -> Result<EnvFilter, String> {
    EnvFilter::try_new(format!("{QUIET},{level}")).map_err(|error| {
        format!(
            "{level:?} is not a level ({error}): use error, warn, info, debug, trace, or info,quorum=debug"
        )
    })
}

/// Installs the process's log subscriber. Only the binary may call it.
///
/// # Errors
/// The level cannot be read, or there is a subscriber already.
pub fn install(log: &Log) -> Result<(), String> {
    let filter = directives(&log.level)?;
    let colours =
        std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let installed = match log.format {
        LogFormat::Human => builder.with_ansi(colours).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).with_ansi(false).try_init(),
    };
    installed.map_err(|error| format!("the log cannot be set up: {error}"))
}
