//! All of it in some seconds, on a volume of our own.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use taskd::Config;
use taskd::client::{Client, Schedule, Task};
use taskd::proto::schedule::Overlap;
use taskd::proto::{AttemptId, Epoch, FencingToken};
use taskd::service::Token;
use tokio::time::timeout;

use crate::guard::Guard;
use crate::rotate::{self, Rotate};
use crate::scrub::{self, Found, Scrub};
use crate::volume::SNAPSHOTS;

const FILES: usize = 32;
const FILE_BYTES: usize = 64 * 1024;
/// Generous: somebody may run this beside a build.
const PATIENCE: Duration = Duration::from_secs(90);

pub(crate) async fn run() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let volume = dir.path().join("v1");
    fs::create_dir(&volume)?;
    for n in 0..FILES {
        let bytes: Vec<u8> = (0..FILE_BYTES).map(|at| ((at * (n + 7)) % 251) as u8).collect();
        fs::write(volume.join(format!("block-{n:02}")), bytes)?;
    }
    let mut config = Config::embedded("n1".parse()?);
    config.node.data_dir = dir.path().join("node");
    config.node.listen = "127.0.0.1:0".parse()?;
    config.coordination.embedded_listen = "127.0.0.1:0".parse()?;
    let mut node = crate::start(config).await?;
    timeout(PATIENCE, node.ready()).await.context("the node does not come up")?;
    let client = Client::connect(node.address().parse()?).await?;
    println!("a node at {}, and a volume of {FILES} files", node.address());

    let shown = show(&client, &volume).await;
    client.close().await;
    let report = node.stop().await;
    shown?;
    ensure!(report.is_clean(), "the node left something behind: {report:?}");
    println!("stopped after {:?}", report.took);
    Ok(())
}

async fn show(client: &Client, volume: &Path) -> Result<()> {
    println!(
        "\nA scrub that gets about a second at a time: each attempt goes on where the last one stopped."
    );
    let found = scrubbed(client, volume, true).await?;
    ensure!(found.files == FILES as u64 && found.damaged.is_empty(), "{found:?}");

    println!("\nA bit flips where nobody wrote. The next scrub finds it.");
    flip_a_bit(&volume.join("block-17"))?;
    let found = scrubbed(client, volume, false).await?;
    ensure!(found.damaged == [Path::new("block-17")], "{found:?}");

    println!("\nA snapshot every other second, of which two are kept.");
    rotated(client, volume).await?;

    println!("\nWhoever comes back from the past is refused by the storage itself.");
    let stale = refused(volume)?;
    println!("  {stale}");
    Ok(())
}

async fn scrubbed(client: &Client, volume: &Path, in_parts: bool) -> Result<Found> {
    let payload = Scrub { volume: volume.to_owned(), pause_ms: if in_parts { 60 } else { 0 } };
    let mut task = Task::new(scrub::KIND, &payload)?.lock(crate::lock(volume));
    if in_parts {
        task = task
            .run_timeout(Duration::from_millis(1_200))
            .retries(20)
            .backoff(Duration::from_millis(100), Duration::from_millis(100));
    }
    let scrub = client.submit(task).await?;
    let mut told = String::new();
    let ended = scrub.follow(PATIENCE, |task| {
        let progress = task.progress.as_ref().map(|progress| format!(": {progress}")).unwrap_or_default();
        let line = format!("  attempt {} is {}{progress}", task.attempt_count, task.state);
        if line != told {
            println!("{line}");
            told = line;
        }
    });
    let task = ended.await?.context("the scrub does not end")?;
    let found: Found = scrub.result().await?;
    println!(
        "  {} files, {} bytes in {} attempts; damaged: {:?}",
        found.files, found.bytes, task.attempt_count, found.damaged
    );
    ensure!(!in_parts || task.attempt_count > 1, "it was to take several attempts");
    Ok(found)
}

/// Changes a file's content, but not the time of its last change, as a disk does.
fn flip_a_bit(path: &Path) -> Result<()> {
    let modified = fs::metadata(path)?.modified()?;
    let mut bytes = fs::read(path)?;
    bytes[1_000] ^= 4;
    let mut file = File::create(path)?;
    file.write_all(&bytes)?;
    file.set_modified(modified)?;
    Ok(())
}

async fn rotated(client: &Client, volume: &Path) -> Result<()> {
    let payload = Rotate { volume: volume.to_owned(), keep: 2 };
    let task = Task::new(rotate::KIND, &payload)?.lock(crate::lock(volume)).retries(3);
    let schedule = Schedule::new("rotate-v1".parse()?, "*/2 * * * * *", task).overlap(Overlap::Forbid);
    client.put_schedule(schedule).await?;
    let dir = volume.join(SNAPSHOTS);
    let mut seen = Vec::new();
    let rotations = async {
        while seen.last().is_none_or(|last| *last < 4) {
            tokio::time::sleep(Duration::from_millis(100)).await;
            let snapshots = if dir.is_dir() { rotate::list(&dir)? } else { Vec::new() };
            if snapshots != seen {
                println!("  snapshots {snapshots:?}");
                seen = snapshots;
            }
        }
        anyhow::Ok(())
    };
    timeout(PATIENCE, rotations).await.context("no four snapshots")??;
    let name = "rotate-v1".parse()?;
    client.schedule_order(taskd::proto::schedule::ScheduleOrder::Pause(name)).await?;
    Ok(())
}

/// What the storage says to an attempt of an earlier leader.
fn refused(volume: &Path) -> Result<String> {
    let text = fs::read(volume.join(crate::volume::OWN).join("token.json"))?;
    let last: serde_json::Value = serde_json::from_slice(&text)?;
    let stale = Token {
        leader: FencingToken { cluster: serde_json::from_value(last["cluster"].clone())?, epoch: Epoch(0) },
        attempt: AttemptId { task: serde_json::from_value(last["task"].clone())?, number: 1 },
    };
    let refusal = Guard::show(volume, stale).err().context("a token of the past was let in")?;
    Ok(refusal.to_string())
}
