//! `taskd snapshot`: the state of a cluster, into a file and back.

mod file;
mod restore;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use bytes::Bytes;
use coord::log::reading::{self, RawSegment, Stored};
use coord::{Layout, Link};
use proto::ClusterId;
use serde_json::{Value, json};

use self::file::{Copy, FORMAT, Header, Snapshot};
use self::restore::Over;
use super::args::{SnapshotArgs, SnapshotCommand};
use super::db::survey::{Found, Survey};
use super::db::{self, unread};
use super::failure::Failure;
use super::output::{self, Output, ago, bytes, date, fields};
use super::store::on_store;
use crate::exit::Exit;

/// How often the log is read again because a payload went away with its task meanwhile.
const TRIES: usize = 20;

pub(super) fn main(args: &SnapshotArgs) -> Result<Exit, Failure> {
    let output: Output = args.store.output.into();
    match &args.command {
        SnapshotCommand::Save(args_file) => {
            let path = &args_file.file;
            // Before anything is read for nothing.
            if path.exists() {
                return Err(Failure::new(
                    Exit::Usage,
                    format!("{} is there already: name a new file", path.display()),
                ));
            }
            let snapshot = on_store(&args.store, collect)?;
            let bytes = snapshot.encode().map_err(|error| cannot(path, "written", &error))?;
            store(path, &bytes).map_err(|error| cannot(path, "written", &error))?;
            describe(output, path, bytes.len(), &snapshot)
        }
        SnapshotCommand::Inspect(args) => {
            let (snapshot, bytes) = load(&args.file)?;
            describe(output, &args.file, bytes, &snapshot)
        }
        SnapshotCommand::Restore(restore) => {
            let (snapshot, _) = load(&restore.file.file)?;
            let survey = survey(&snapshot);
            if let Some(problem) = survey.problems.first() {
                let message = format!("{} cannot be restored: {problem}", restore.file.file.display());
                return Err(Failure::new(Exit::Failure, message));
            }
            let over = Over { replaces: restore.force, waits: !restore.stopped, fence: survey.fence() };
            let restored = on_store(&args.store, async |link, layout| {
                restore::restore(link, layout, &snapshot, over).await
            })?;
            let old = snapshot.header.cluster;
            output.either(
                || {
                    json!({
                        "cluster": restored.cluster, "restored_from": old,
                        "epoch": restored.epoch, "nodes": restored.nodes,
                    })
                },
                || {
                    format!(
                        "restored as cluster {}, which was {old}: start the nodes with empty data directories",
                        restored.cluster
                    )
                },
            )?;
            Ok(Exit::Ok)
        }
    }
}

/// Reads a cluster's state. What matters of it is the state of one moment: the log; everything else changes by a
/// person's order alone.
async fn collect(link: &Link, layout: &Layout) -> Result<Snapshot, Failure> {
    let saved_ms = output::now_ms();
    let root = layout.root();
    let failed = |error: coord::CallError| unread(&error);
    let cluster = link.get(&layout.cluster()).await.map_err(failed)?;
    let Some(cluster) = cluster else {
        let message = format!("there is no cluster under {root}: check --coordination HOSTS/ROOT");
        return Err(Failure::new(Exit::NotFound, message));
    };
    let mut nodes = vec![Copy { path: "cluster".to_owned(), data: cluster.data }];
    let mut open = vec!["priority".to_owned(), "config".to_owned(), "drained".to_owned()];
    while let Some(path) = open.pop() {
        let full = format!("{root}/{path}");
        let Some(node) = link.get(&full).await.map_err(failed)? else { continue };
        if node.stat.num_children > 0 {
            open.extend(
                link.children(&full).await.map_err(failed)?.iter().map(|name| format!("{path}/{name}")),
            );
        }
        nodes.push(Copy { path, data: node.data });
    }
    let epoch = tasks(link, layout, &mut nodes).await?;
    let record: Value = serde_json::from_slice(&nodes[0].data).unwrap_or_default();
    let cluster: ClusterId = serde_json::from_value(record["uuid"].clone())
        .map_err(|_| Failure::new(Exit::Failure, format!("{} cannot be read", layout.cluster())))?;
    let by = env!("CARGO_PKG_VERSION").to_owned();
    let header = Header { saved_ms, by, root: root.to_owned(), cluster, epoch };
    Ok(Snapshot { header, nodes })
}

/// The task log with the large payloads that it refers to, as they were at one moment; returns the epoch after it.
async fn tasks(link: &Link, layout: &Layout, nodes: &mut Vec<Copy>) -> Result<u64, Failure> {
    let mut missing = String::new();
    for _ in 0..TRIES {
        let found = db::read(link, layout).await?;
        let survey = Survey::of(&found);
        let mut parts = Vec::new();
        let mut whole = true;
        'bodies: for (key, body) in survey.references() {
            for part in body.parts() {
                let data = reading::body_part(link, layout, &part).await.map_err(|error| unread(&error))?;
                let Some(data) = data else {
                    // Its task has been forgotten since: the log knows by now.
                    missing = format!("part {part} of the payload of task {key:032x} is not there");
                    whole = false;
                    break 'bodies;
                };
                parts.push(Copy { path: format!("tasks/bodies/{part}"), data: data.to_vec() });
            }
        }
        if !whole {
            continue;
        }
        if let Some(problem) = survey.problems.first() {
            let message = format!(
                "the task log is damaged, and so would be the snapshot: {problem}. See taskd db verify"
            );
            return Err(Failure::new(Exit::Failure, message));
        }
        // Its content stands for the fact that it was begun.
        let mark = if found.log.begun { b"taskd log 1".to_vec() } else { Vec::new() };
        nodes.push(Copy { path: "tasks".to_owned(), data: mark });
        let segments = found.log.segments.into_iter();
        nodes.extend(segments.map(|segment| Copy {
            path: format!("tasks/log-{:010}", segment.sequence),
            data: segment.bytes.to_vec(),
        }));
        nodes.push(Copy { path: "tasks/bodies".to_owned(), data: Vec::new() });
        nodes.extend(parts);
        return Ok(found.epoch.unwrap_or(0));
    }
    Err(Failure::new(Exit::Failure, format!("{missing}: see taskd db verify")))
}

/// What is in the file's log, and what is wrong with it.
fn survey(snapshot: &Snapshot) -> Survey {
    let mut segments: Vec<_> = snapshot
        .children("tasks")
        .filter_map(|(name, data)| {
            let sequence = name.strip_prefix("log-")?.parse().ok()?;
            Some(RawSegment { sequence, bytes: Bytes::copy_from_slice(data), written_ms: 0 })
        })
        .collect();
    segments.sort_by_key(|segment| segment.sequence);
    let begun = snapshot.get("tasks").is_some_and(|mark| !mark.is_empty());
    let parts = snapshot.children("tasks/bodies");
    let parts: BTreeMap<_, _> = parts.map(|(name, data)| (name.to_owned(), data.len() as u64)).collect();
    Survey::of(&Found { log: Stored { segments, begun }, parts, epoch: Some(snapshot.header.epoch) })
}

fn describe(output: Output, path: &Path, size: usize, snapshot: &Snapshot) -> Result<Exit, Failure> {
    let survey = survey(snapshot);
    let Header { saved_ms, by, root, cluster, epoch } = &snapshot.header;
    let bodies: BTreeSet<_> = snapshot.children("tasks/bodies").map(|(name, _)| name).collect();
    let (states, kinds) = (survey.states(), survey.kinds());
    let structured = || {
        json!({
            "file": path, "bytes": size, "format": FORMAT, "saved_ms": saved_ms, "by": by, "root": root,
            "cluster": cluster, "epoch": epoch, "nodes": snapshot.nodes.len(),
            "segments": survey.segments.len(), "bodies": bodies.len(), "tasks": states, "records": kinds,
        })
    };
    let text = || {
        let counts: Vec<_> = states.iter().map(|(state, count)| format!("{count} {state}")).collect();
        let other: Vec<_> = kinds
            .iter()
            .filter(|(kind, _)| !matches!(**kind, "task" | "meta"))
            .map(|(kind, count)| format!("{count} {kind}"))
            .collect();
        let or_none = |list: Vec<String>| if list.is_empty() { "none".to_owned() } else { list.join(", ") };
        fields(&[
            ("file", format!("{} ({})", path.display(), bytes(size as u64))),
            ("saved", format!("{} ({} ago), by taskd {by}", date(*saved_ms), ago(*saved_ms))),
            ("cluster", format!("{cluster}, at {root}, epoch {epoch}")),
            ("tasks", or_none(counts)),
            ("other records", or_none(other)),
            ("log", format!("{} segments, {} parts of large payloads", survey.segments.len(), bodies.len())),
        ])
    };
    output.either(structured, text)?;
    Ok(Exit::Ok)
}

fn load(path: &Path) -> Result<(Snapshot, usize), Failure> {
    let bytes = std::fs::read(path).map_err(|error| cannot(path, "read", &error))?;
    let snapshot = Snapshot::decode(&bytes).map_err(|error| cannot(path, "used", &error))?;
    Ok((snapshot, bytes.len()))
}

/// A file under that name is there whole, or not at all, also after a crash.
fn store(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}", std::process::id()));
    let part = path.with_file_name(name);
    let written = write(&part, bytes).and_then(|()| std::fs::hard_link(&part, path));
    // A link, unlike a rename, replaces nobody's file; this name is of no use either way.
    let removed = std::fs::remove_file(&part);
    written?;
    removed?;
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::File::open(dir)?.sync_all()
}

fn write(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

fn cannot(path: &Path, what: &str, error: &dyn std::fmt::Display) -> Failure {
    Failure::new(Exit::Failure, format!("{} cannot be {what}: {error}", path.display()))
}
