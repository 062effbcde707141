//! Load for `cargo xtask bench tasks` and `bench peers`: `load ADDRESSES TASKS HOSTS[/ROOT] DIR [SINGLES PER_S]` prints
//! one JSON object. With `PER_S` the single tasks come at that rate, if each is done in time, else one after another.
//!
//! Latency first: this process joins the cluster as a node of its own, with a task service that notes when it is called,
//! and submits one task at a time to it. Then throughput, with batches from a few submitters, from the first
//! submission until the cluster has nothing left to do.

mod common;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use common::{Stamp, accepted, connect, join, stamp_task, submit_many};
use proto::TaskId;
use proto::task::{TaskSpec, TaskState};
use taskd::client::Client;
use tokio::sync::mpsc;
use tokio::time::timeout;

const WARM_UP: usize = 50;
const SINGLES: usize = 300;
const ONE_WITHIN: Duration = Duration::from_secs(10);
const DRAIN_WITHIN: Duration = Duration::from_secs(400);

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let (addresses, tasks, hosts, dir, singles, period) = match &args[..] {
        [addresses, tasks, hosts, dir] => (addresses, tasks, hosts, dir, SINGLES, Duration::ZERO),
        [addresses, tasks, hosts, dir, singles, per_s] => {
            let per_s: f64 = per_s.parse().context("PER_S is a number")?;
            let singles: usize = singles.parse().context("SINGLES is a number")?;
            if singles == 0 || per_s < 0.001 {
                bail!("SINGLES is 1 or more, and PER_S 0.001 or more");
            }
            (addresses, tasks, hosts, dir, singles, Duration::from_secs_f64(1.0 / per_s))
        }
        _ => bail!("usage: load ADDRESSES TASKS HOSTS[/ROOT] DIR [SINGLES PER_S]"),
    };
    let tasks: usize = tasks.parse().context("TASKS is a number")?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let measured = measure(addresses, tasks, hosts, PathBuf::from(dir), singles, period);
    println!("{}", runtime.block_on(measured)?);
    Ok(())
}

async fn measure(
    addresses: &str,
    tasks: usize,
    hosts: &str,
    dir: PathBuf,
    count: usize,
    period: Duration,
) -> Result<String> {
    let client = connect(addresses).await?;
    let (stamps, mut started) = mpsc::channel(WARM_UP + count);
    let node = join(hosts, dir, None, Stamp(stamps)).await?;
    let mut singles = Vec::new();
    let mut due = tokio::time::Instant::now();
    for n in 0..WARM_UP + count {
        // What was late does not make what follows come in a burst.
        due = (due + period).max(tokio::time::Instant::now());
        tokio::time::sleep_until(due).await;
        let single = single(&client, &mut started).await?;
        if n >= WARM_UP {
            singles.push(single);
        }
    }
    node.stop().await;
    let micros = |percent: usize, of: fn(&Single) -> Duration| {
        let mut values: Vec<Duration> = singles.iter().map(of).collect();
        values.sort();
        values[(count * percent).div_ceil(100) - 1].as_secs_f64() * 1e6
    };
    let per_s = throughput(&client, addresses, tasks).await?;
    client.close().await;
    Ok(format!(
        "{{\"tasks\":{tasks},\"tasks_per_s\":{per_s:.1},\"accepted_p50_us\":{:.1},\"started_p50_us\":{:.1},\
         \"started_p99_us\":{:.1},\"finished_p50_us\":{:.1}}}",
        micros(50, |single| single.accepted),
        micros(50, |single| single.started),
        micros(99, |single| single.started),
        micros(50, |single| single.finished)
    ))
}

/// How long after its submission was sent a task had come how far.
struct Single {
    accepted: Duration,
    /// Its service was called.
    started: Duration,
    /// The client knew that it had succeeded.
    finished: Duration,
}

async fn single(client: &Client, started: &mut mpsc::Receiver<(TaskId, Instant)>) -> Result<Single> {
    let begun = Instant::now();
    let id = accepted(client.submit_spec(stamp_task(), ONE_WITHIN).await?)?;
    let accepted = begun.elapsed();
    let stamp = timeout(ONE_WITHIN, started.recv()).await.context("a task did not start")?;
    let (stamped, at) = stamp.context("the service is gone")?;
    if stamped != id {
        bail!("task {stamped} started instead of {id}");
    }
    let mut revision = 0;
    loop {
        let views = client.watch(vec![(id, revision)], ONE_WITHIN).await?;
        let view = views.into_iter().find(|view| view.id == id).context("the task is gone")?;
        if view.state == TaskState::Succeeded {
            return Ok(Single { accepted, started: at - begun, finished: begun.elapsed() });
        }
        if view.state.is_final() || begun.elapsed() > ONE_WITHIN {
            bail!("a task is {} after {:?}", view.state, begun.elapsed());
        }
        revision = view.revision;
    }
}

/// Tasks per second, from the first submission until nothing waits or runs.
async fn throughput(client: &Client, addresses: &str, tasks: usize) -> Result<f64> {
    let begun = Instant::now();
    submit_many(addresses, tasks, &TaskSpec::new("noop", vec![])).await?;
    loop {
        let status = client.status().await?;
        if status.tasks.is_empty() {
            bail!("the leader does not say how many tasks there are: {}", status.summary);
        }
        let open: u64 =
            status.tasks.iter().filter(|(state, _)| !state.is_final()).map(|(_, count)| count).sum();
        if open == 0 {
            return Ok(tasks as f64 / begun.elapsed().as_secs_f64());
        }
        if begun.elapsed() > DRAIN_WITHIN {
            bail!("{open} tasks are open after {DRAIN_WITHIN:?}");
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
