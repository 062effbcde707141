//! `taskd config check`, `diff`, `apply` and `history`: the cluster's configuration, as opposed to a node's own file.

use std::io::Read as _;
use std::path::Path;
use std::time::Duration;

use coord::LeaseTiming;
use proto::api::ApiErrorKind;
use proto::vip::{ConfigText, ServiceName};
use taskd::client::{CallError, Client};
use taskd::config::Coordination;
use taskd::vip::config::{self as vips, Config, TEXT_BYTES_MAX};

use super::args::{ApplyArgs, CheckArgs, Expect};
use super::failure::Failure;
use super::output::{self, Output, Tone, ago, bytes, clean, date, json, table};
use crate::exit::Exit;

pub(super) fn check(output: Output, args: &CheckArgs) -> Result<Exit, Failure> {
    let (_, config) = read(&args.file.file)?;
    let verdict = vips::check(&config, timing(args.session_timeout, args.tick));
    if !verdict.errors.is_empty() {
        let timeout = humantime::format_duration(args.session_timeout);
        let mut message = format!(
            "{} cannot be applied to a cluster with a session timeout of {timeout} (another: --session-timeout):",
            args.file.file.display()
        );
        verdict.errors.iter().for_each(|error| message.push_str(&format!("\n  {error}")));
        return Err(Failure::new(Exit::Usage, message));
    }
    let (services, addresses) = counts(&config);
    output.either(
        || serde_json::json!({ "services": services, "addresses": addresses, "warnings": verdict.warnings }),
        || {
            format!(
                "{}: fine: {services} service{}, {addresses} address{}",
                args.file.file.display(),
                s(services),
                es(addresses)
            )
        },
    )?;
    warn(output, &verdict.warnings);
    Ok(Exit::Ok)
}

pub(super) async fn diff(client: &Client, output: Output, file: &Path) -> Result<Exit, Failure> {
    // As diff(1) has it: 1 is a difference, and 2 is trouble.
    compare(client, output, file).await.map_err(|failure| failure.not_ending(Exit::Failure, Exit::Usage))
}

async fn compare(client: &Client, output: Output, file: &Path) -> Result<Exit, Failure> {
    let (_, new) = read(file)?;
    let now = client.config(None).await?;
    let changes = changes(&now, &new);
    // Only the cluster knows its timing, and says it when the file is applied; most have the usual one.
    let usual = Coordination::default();
    let verdict = vips::check(&new, timing(usual.session_timeout, usual.tick));
    let refusals = verdict.errors.iter().map(|error| {
        let timeout = humantime::format_duration(usual.session_timeout);
        format!("a cluster with a session timeout of {timeout} refuses it: {error}")
    });
    let warnings: Vec<_> = refusals.chain(verdict.warnings.iter().cloned()).collect();
    let revision = now.revision;
    output.either(
        || serde_json::json!({ "revision": revision, "changes": changes, "warnings": warnings }),
        || {
            if changes.is_empty() {
                return same(revision);
            }
            let remove = if gone(&now, &new).is_some() { " --remove" } else { "" };
            let file = file.display();
            format!(
                "{}\nagainst revision {revision}: taskd config apply {file} --expect {revision}{remove}",
                lines(&changes)
            )
        },
    )?;
    warn(output, &warnings);
    Ok(if changes.is_empty() { Exit::Ok } else { Exit::Failure })
}

pub(super) async fn apply(client: &Client, output: Output, args: &ApplyArgs) -> Result<Exit, Failure> {
    let (text, new) = read(&args.file)?;
    let (expected, now) = match (args.expect, client.config(None).await) {
        (Some(Expect::Revision(expected)), now) => (Some(expected), Some(now?)),
        (None, now) => {
            let now = now?;
            (Some(now.revision), Some(now))
        }
        (Some(Expect::Any), Ok(now)) => (None, Some(now)),
        // It cannot be read, which is what `any` is for.
        (Some(Expect::Any), Err(CallError::Api(error))) if error.kind == ApiErrorKind::Conflict => {
            (None, None)
        }
        (Some(Expect::Any), Err(error)) => return Err(error.into()),
    };
    // Over another revision than the expected one it is refused anyhow.
    let looked_at = now.filter(|now| expected.is_none_or(|expected| expected == now.revision));
    if let (false, Some(gone)) = (args.remove, looked_at.and_then(|now| gone(&now, &new))) {
        let file = args.file.display();
        let message =
            format!("{gone}. Nothing was changed. If that is meant: taskd config apply {file} --remove");
        return Err(Failure::new(Exit::Failure, message));
    }
    let applied = client.config_apply(&text, expected).await;
    let applied = applied.map_err(|error| Failure::from(error).look("taskd config history"))?;
    output.either(
        || json(&applied),
        || match (applied.changes.as_slice(), Some(applied.revision) == expected) {
            ([], true) => same(applied.revision),
            ([], false) => format!("revision {} holds; it means what the one before did", applied.revision),
            (changes, _) => format!("{}\nrevision {} holds", lines(changes), applied.revision),
        },
    )?;
    warn(output, &applied.warnings);
    if !output.is_json() && !applied.changes.is_empty() && output::progress_is_seen() {
        output::say("see what becomes of it with: taskd vip list");
    }
    Ok(Exit::Ok)
}

/// What is allowed but probably not meant.
fn warn(output: Output, warnings: &[String]) {
    if !output.is_json() {
        for warning in warnings {
            output::say(&format!("taskd: worth a look: {}", clean(warning)));
        }
    }
}

/// What leases are worth in a cluster with these figures and the usual margin.
fn timing(session_timeout: Duration, tick: Duration) -> LeaseTiming {
    let coordination = Coordination { session_timeout, tick, ..Coordination::default() };
    LeaseTiming::new(session_timeout, coordination.margin(), tick)
}

/// Which services would be gone, as a sentence without its end; none if none would.
fn gone(now: &ConfigText, new: &Config) -> Option<String> {
    let revision = now.revision;
    let Ok(old) = vips::parse(&now.text) else {
        return Some(format!(
            "revision {revision} is not understood here (another release's?), and would be replaced as a whole"
        ));
    };
    let gone: Vec<_> = old
        .services
        .keys()
        .filter(|name| !new.services.contains_key(*name))
        .map(ServiceName::as_str)
        .collect();
    (!gone.is_empty()).then(|| {
        format!(
            "revision {revision} has services that are not in the file, and would go: {}",
            gone.join(", ")
        )
    })
}

pub(super) async fn history(client: &Client, output: Output) -> Result<Exit, Failure> {
    let entries = client.config_history().await?;
    let text = || {
        if entries.is_empty() {
            return "no configuration was ever applied: taskd config apply FILE".to_owned();
        }
        let rows: Vec<_> = entries
            .iter()
            .enumerate()
            .map(|(index, entry)| {
                let cells = vec![
                    entry.revision.to_string(),
                    date(entry.applied_ms),
                    ago(entry.applied_ms),
                    entry.by.as_ref().map_or_else(|| "-".to_owned(), ToString::to_string),
                    bytes(entry.bytes),
                ];
                (if index == 0 { Tone::Good } else { Tone::Plain }, cells)
            })
            .collect();
        table(&["REVISION", "APPLIED", "AGO", "THROUGH", "SIZE"], &rows)
    };
    output.either(|| json(&entries), text)?;
    Ok(Exit::Ok)
}

pub(super) async fn show(client: &Client, output: Output, revision: u64) -> Result<Exit, Failure> {
    let found = client.config(Some(revision)).await?;
    if output.is_json() {
        output::line(&output::pretty(&json(&found)))?;
    } else {
        // As it is, so that it can be applied again.
        output::raw(found.text.as_bytes())?;
    }
    Ok(Exit::Ok)
}

/// A file's text, and what it means.
fn read(path: &Path) -> Result<(String, Config), Failure> {
    let cannot = |why: String| Failure::new(Exit::Usage, format!("{} cannot be read: {why}", path.display()));
    let file = std::fs::File::open(path).map_err(|error| cannot(error.to_string()))?;
    let mut text = String::new();
    // No more than what shows that it is too much.
    let limit = u64::try_from(TEXT_BYTES_MAX).unwrap_or(u64::MAX).saturating_add(1);
    file.take(limit).read_to_string(&mut text).map_err(|error| cannot(error.to_string()))?;
    match vips::parse(&text) {
        Ok(config) => Ok((text, config)),
        Err(errors) => {
            let lines: Vec<_> = errors.0.iter().map(|problem| format!("\n  {problem}")).collect();
            let message = format!("{} cannot be applied:{}", path.display(), lines.concat());
            Err(Failure::new(Exit::Usage, message))
        }
    }
}

/// What applying `new` changes. What holds may be from another release, of which this one does not understand all.
fn changes(now: &ConfigText, new: &Config) -> Vec<String> {
    let now = vips::parse(&now.text).unwrap_or_default();
    vips::diff(&now, new).iter().map(ToString::to_string).collect()
}

fn lines(changes: &[String]) -> String {
    changes.iter().map(|line| clean(line)).collect::<Vec<_>>().join("\n")
}

fn same(revision: u64) -> String {
    match revision {
        0 => "nothing differs: no configuration was ever applied, and the file has no service".to_owned(),
        revision => format!("nothing differs from revision {revision}"),
    }
}

fn counts(config: &Config) -> (usize, usize) {
    let addresses = config.services.values().map(|service| service.vips.len()).sum();
    (config.services.len(), addresses)
}

const fn s(count: usize) -> &'static str {
    if count == 1 { "" } else { "s" }
}

const fn es(count: usize) -> &'static str {
    if count == 1 { "" } else { "es" }
}
