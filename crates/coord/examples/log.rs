//! What the task log does on a ZooKeeper: `log HOSTS` prints one JSON object.
//!
//! Appends one at a time (an idle log's latency), then as many as the queue takes (group commit), then the replay.
//! Everything is below one root of its own, and deleted again.

use std::collections::VecDeque;
use std::error::Error;
use std::time::{Duration, Instant};

use bytes::Bytes;
use clock::BootClock;
use coord::log::{AppendRefused, Change, LogHandle, LogOptions, TaskLog};
use coord::{ClientRuntime, Fence, Layout, Link, Op, Options, ReadBack, Session, Undo, Write};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const ROOT: &str = "/taskd-bench-log";
/// As much as a small task record has.
const BODY: [u8; 300] = [7; 300];
const SINGLES: u64 = 1_000;
const APPENDS: u64 = 200_000;
const KEYS: u64 = 50_000;
const WITHIN: Duration = Duration::from_secs(30);

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let hosts = std::env::args().nth(1).ok_or("usage: log HOSTS")?;
    let session =
        Session::connect(&Options::new(hosts, ROOT), ClientRuntime::start()?, BootClock::shared()).await?;
    let link = session.link();
    let layout = Layout::new(ROOT);
    layout.ensure(&link).await?;
    let measured = measure(&link, &layout).await;
    clean(&link, &layout).await?;
    session.close(WITHIN).await?;
    println!("{}", measured?);
    Ok(())
}

async fn measure(link: &Link, layout: &Layout) -> Result<String> {
    let fence = Fence { epoch_path: layout.epoch(), version: 0 };
    let (log, _) = TaskLog::open(link.clone(), layout.clone(), fence.clone(), LogOptions::default()).await?;
    let handle = log.handle();

    let mut took = Vec::new();
    for revision in 0..SINGLES {
        let start = Instant::now();
        handle.append(change(u64::MAX, revision))?.await?;
        took.push(start.elapsed());
    }
    took.sort();
    let single_p50_us = took[took.len() / 2].as_secs_f64() * 1e6;

    let segments = tail(link, layout).await?;
    let start = Instant::now();
    many(&handle).await?;
    let seconds = start.elapsed().as_secs_f64();
    let segments = tail(link, layout).await? - segments;
    let stats = handle.stats();
    log.stop(WITHIN).await?;

    let start = Instant::now();
    let (log, live) = TaskLog::open(link.clone(), layout.clone(), fence, LogOptions::default()).await?;
    let replay_s = start.elapsed().as_secs_f64();
    log.stop(WITHIN).await?;
    Ok(format!(
        "{{\"single_p50_us\":{single_p50_us:.1},\"appends_per_s\":{:.1},\"segments_per_s\":{:.1},\
         \"appended_mb_per_s\":{:.2},\"bytes\":{},\"live_bytes\":{},\"replayed_keys\":{},\"replay_s\":{replay_s:.3}}}",
        APPENDS as f64 / seconds,
        segments as f64 / seconds,
        APPENDS as f64 * BODY.len() as f64 / seconds / 1e6,
        stats.bytes,
        stats.live_bytes,
        live.len(),
    ))
}

async fn many(handle: &LogHandle) -> Result<()> {
    let mut commits = VecDeque::new();
    for n in 0..APPENDS {
        let commit = loop {
            match handle.append(change(n % KEYS, n)) {
                Err(AppendRefused::QueueFull { .. }) => {
                    if let Some(oldest) = commits.pop_front() {
                        let oldest: coord::log::Commit = oldest;
                        oldest.await?;
                    }
                }
                other => break other?,
            }
        };
        commits.push_back(commit);
    }
    for commit in commits {
        commit.await?;
    }
    Ok(())
}

fn change(key: u64, revision: u64) -> Vec<Change> {
    vec![Change { key: key.into(), revision, body: Some(Bytes::from_static(&BODY)), urgent: false }]
}

/// The sequence of the newest segment.
async fn tail(link: &Link, layout: &Layout) -> Result<u64> {
    let names = link.children(&layout.log_dir()).await?;
    let sequences = names.iter().filter_map(|name| name.strip_prefix("log-")?.parse().ok());
    Ok(sequences.max().unwrap_or(0))
}

/// Deletes the root and everything below.
async fn clean(link: &Link, layout: &Layout) -> Result<()> {
    let mut below = vec![ROOT.to_owned()];
    let mut paths = Vec::new();
    while let Some(path) = below.pop() {
        let names = link.children(&path).await?;
        below.extend(names.iter().map(|name| format!("{path}/{name}")));
        paths.push(path);
    }
    tracing::debug!(root = layout.root(), nodes = paths.len(), "deleting");
    paths.reverse();
    paths.sort_by_key(|path| std::cmp::Reverse(path.matches('/').count()));
    for chunk in paths.chunks(500) {
        let ops = chunk.iter().map(|path| Op::Delete { path: path.clone(), version: None }).collect();
        let last = chunk.last().cloned().unwrap_or_default();
        link.write(Write { ops, read_back: ReadBack::Gone { path: last }, undo: Undo::Keep }, WITHIN).await?;
    }
    Ok(())
}
