//! `taskd db`: the task log as it lies in the coordination service, for people.

pub(super) mod survey;

use std::io::Write as _;

use coord::log::reading;
use coord::{Layout, Link};
use serde_json::{Value, json};

use self::survey::{Found, Survey};
use super::args::{DbArgs, DbCommand, DumpArgs};
use super::failure::Failure;
use super::output::{self, Output, Tone, bytes, fields};
use super::store::{chain, on_store};
use crate::exit::Exit;

pub(super) fn main(args: &DbArgs) -> Result<Exit, Failure> {
    let output: Output = args.store.output.into();
    match &args.command {
        DbCommand::Dump(dump) => dump_all(&on_store(&args.store, read)?, dump),
        DbCommand::Stats => stats(output, &on_store(&args.store, read)?),
        DbCommand::Verify => {
            let survey = on_store(&args.store, async |link, layout| {
                let mut survey = Survey::of(&read(link, layout).await?);
                check_bodies(link, layout, &mut survey).await?;
                Ok(survey)
            })?;
            verify(output, &survey)
        }
    }
}

/// Everything but the content of large payloads.
pub(super) async fn read(link: &Link, layout: &Layout) -> Result<Found, Failure> {
    let log = reading::read(link, layout).await.map_err(|error| unread(&error))?;
    // Behind the log: what a task in it refers to was there before.
    let parts = reading::body_parts(link, layout).await.map_err(|error| unread(&error))?;
    let epoch = link.exists(&layout.epoch()).await.map_err(|error| unread(&error))?;
    let epoch = epoch.and_then(|stat| u64::try_from(stat.version).ok());
    if log.segments.is_empty() && epoch.is_none() {
        let message = format!("there is no cluster under {}: check --coordination HOSTS/ROOT", layout.root());
        return Err(Failure::new(Exit::NotFound, message));
    }
    Ok(Found { log, parts, epoch })
}

pub(super) fn unread(error: &(dyn std::error::Error + 'static)) -> Failure {
    Failure::new(Exit::Unavailable, chain(error))
}

/// Reads every payload that a task refers to. One that went away with its task meanwhile is no problem.
async fn check_bodies(link: &Link, layout: &Layout, survey: &mut Survey) -> Result<(), Failure> {
    for (key, body) in survey.references() {
        let mut data = Vec::new();
        let mut gone = false;
        for part in body.parts() {
            match reading::body_part(link, layout, &part).await.map_err(|error| unread(&error))? {
                Some(bytes) => data.extend_from_slice(&bytes),
                None => gone = true,
            }
        }
        if !gone && !body.is_of(&data) {
            survey.problems.push(format!("the payload of task {key:032x} is damaged"));
        }
    }
    Ok(())
}

fn stats(output: Output, found: &Found) -> Result<Exit, Failure> {
    let survey = Survey::of(found);
    let (first, tail) = (found.log.segments.first(), found.log.segments.last());
    let (live, body_bytes) = (survey.live_bytes(), found.parts.values().sum::<u64>());
    let (kinds, states) = (survey.kinds(), survey.states());
    let structured = || {
        json!({
            "segments": found.log.segments.len(),
            "first": first.map(|segment| segment.sequence),
            "tail": tail.map(|segment| segment.sequence),
            "bytes": survey.bytes,
            "live_bytes": live,
            "epoch": found.epoch,
            "records": kinds,
            "tombstones": survey.tombstones(),
            "dead_records": survey.dead,
            "tasks": states,
            "bodies": {
                "count": found.parts.len(),
                "bytes": body_bytes,
                "unreferenced": survey.unreferenced.len(),
                "unreferenced_bytes": survey.unreferenced_bytes,
            },
        })
    };
    let text = || {
        let span = match (first, tail) {
            (Some(first), Some(tail)) => {
                format!("{} (log-{} to log-{})", found.log.segments.len(), first.sequence, tail.sequence)
            }
            _ => "none".to_owned(),
        };
        let share = (live * 100).checked_div(survey.bytes).unwrap_or(0);
        let counts = |counts: Vec<(String, u64)>| {
            let counts: Vec<_> = counts.into_iter().map(|(what, count)| format!("{count} {what}")).collect();
            if counts.is_empty() { "none".to_owned() } else { counts.join(", ") }
        };
        fields(&[
            ("epoch", found.epoch.map_or_else(|| "-".to_owned(), |epoch| epoch.to_string())),
            ("segments", span),
            ("bytes", format!("{} ({share} % of it still counts)", bytes(survey.bytes))),
            ("large payloads", format!("{} parts, {}", found.parts.len(), bytes(body_bytes))),
            ("records", counts(kinds.iter().map(|(kind, count)| ((*kind).to_owned(), *count)).collect())),
            ("dead records", format!("{}, and {} of deleted keys", survey.dead, survey.tombstones())),
            ("tasks", counts(states.iter().map(|(state, count)| (state.to_string(), *count)).collect())),
        ])
    };
    output.either(structured, text)?;
    if !output.is_json() && !survey.problems.is_empty() {
        output::say(&format!("{} problems: see taskd db verify", survey.problems.len()));
    }
    Ok(Exit::Ok)
}

fn verify(output: Output, survey: &Survey) -> Result<Exit, Failure> {
    let sound = survey.problems.is_empty();
    let records: usize = survey.segments.values().map(|segment| segment.entries.len()).sum();
    let structured = || {
        json!({
            "sound": sound,
            "segments": survey.segments.len(),
            "records": records,
            "problems": survey.problems,
            "notes": survey.notes,
        })
    };
    let text = || {
        let mut lines: Vec<_> =
            survey.problems.iter().map(|problem| Tone::Bad.paint(&output::clean(problem))).collect();
        lines.extend(survey.notes.iter().map(|note| format!("note: {}", output::clean(note))));
        let verdict = format!("{} segments with {records} records", survey.segments.len());
        lines.push(match sound {
            true => Tone::Good.paint(&format!("{verdict}: sound")),
            false => format!("{verdict}: a leader would refuse this log, or has lost something of it"),
        });
        lines.join("\n")
    };
    output.either(structured, text)?;
    Ok(if sound { Exit::Ok } else { Exit::Failure })
}

fn dump_all(found: &Found, args: &DumpArgs) -> Result<Exit, Failure> {
    let survey = Survey::of(found);
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    let mut line = |value: &Value| writeln!(out, "{value}");
    for raw in &found.log.segments {
        let sequence = raw.sequence;
        if args.segment.is_some_and(|wanted| wanted != sequence) {
            continue;
        }
        let size = raw.bytes.len();
        let Some(segment) = survey.segments.get(&sequence) else {
            let error = raw.decode().err().map(|error| error.to_string());
            line(
                &json!({ "segment": sequence, "bytes": size, "written_ms": raw.written_ms, "error": error }),
            )?;
            continue;
        };
        line(&json!({
            "segment": sequence, "epoch": segment.epoch, "writer": format!("{:#x}", segment.writer),
            "oldest": segment.oldest, "bytes": size, "written_ms": raw.written_ms, "records": segment.entries.len(),
        }))?;
        for entry in &segment.entries {
            let newest = survey.keys.get(&entry.key);
            let live = entry.body.is_some()
                && newest
                    .is_some_and(|newest| newest.segment == sequence && newest.revision == entry.revision);
            if args.live && !live {
                continue;
            }
            let mut value = json!({
                "segment": sequence, "key": format!("{:032x}", entry.key), "revision": entry.revision, "live": live,
            });
            match entry.body.as_ref().map(|body| dispatcher::inspect(entry.key, body)) {
                None => value["kind"] = "gone".into(),
                Some(Ok(record)) => {
                    value["kind"] = record.kind().into();
                    value["record"] = output::json(&record);
                }
                Some(Err(error)) => {
                    value["kind"] = "unreadable".into();
                    value["error"] = error.into();
                }
            }
            line(&value)?;
        }
    }
    out.flush()?;
    Ok(Exit::Ok)
}
