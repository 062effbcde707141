//! `taskd config check`, `diff`, `apply` and `history`: the cluster's configuration, as opposed to a node's own file.

use std::io::Read as _;
use std::path::Path;

use proto::vip::ConfigText;
use taskd::client::Client;
use taskd::vip::config::{self as vips, Config, TEXT_BYTES_MAX};

use super::args::ApplyArgs;
use super::failure::Failure;
use super::output::{self, Output, Tone, ago, bytes, clean, date, json, table};
use crate::exit::Exit;

pub(super) fn check(output: Output, file: &Path) -> Result<Exit, Failure> {
    let (_, config) = read(file)?;
    let (services, addresses) = counts(&config);
    output.either(
        || serde_json::json!({ "services": services, "addresses": addresses }),
        || {
            format!(
                "{}: fine: {services} service{}, {addresses} address{}",
                file.display(),
                s(services),
                es(addresses)
            )
        },
    )?;
    Ok(Exit::Ok)
}

pub(super) async fn diff(client: &Client, output: Output, file: &Path) -> Result<Exit, Failure> {
    let (_, new) = read(file)?;
    let now = client.config(None).await?;
    let changes = changes(&now, &new);
    output.either(
        || serde_json::json!({ "revision": now.revision, "changes": changes }),
        || if changes.is_empty() { same(now.revision) } else { lines(&changes) },
    )?;
    // As diff(1) has it.
    Ok(if changes.is_empty() { Exit::Ok } else { Exit::Failure })
}

pub(super) async fn apply(client: &Client, output: Output, args: &ApplyArgs) -> Result<Exit, Failure> {
    let (text, _) = read(&args.file)?;
    let expected = match args.expect {
        Some(expected) => expected,
        None => client.config(None).await?.revision,
    };
    let applied = client.config_apply(&text, Some(expected)).await?;
    output.either(
        || json(&applied),
        || match (applied.changes.as_slice(), applied.revision == expected) {
            ([], true) => same(applied.revision),
            ([], false) => format!("revision {} holds; it means what the one before did", applied.revision),
            (changes, _) => format!("{}\nrevision {} holds", lines(changes), applied.revision),
        },
    )?;
    if !output.is_json() {
        for warning in &applied.warnings {
            output::say(&format!("taskd: worth a look: {}", clean(warning)));
        }
        if !applied.changes.is_empty() && output::progress_is_seen() {
            output::say("see what becomes of it with: taskd vip list");
        }
    }
    Ok(Exit::Ok)
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
