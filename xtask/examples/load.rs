//! Load for `cargo xtask bench tasks`: `load ADDRESSES TASKS` prints one JSON object.
//!
//! Latency first, with one task at a time on an idle cluster; then throughput, with batches from a few submitters, from
//! the first submission until the cluster has nothing left to do.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use proto::TaskId;
use proto::api::{Submission, Submitted};
use proto::task::{TaskSpec, TaskState};
use taskd::client::{Client, draw_id};
use tokio::task::JoinSet;

const WARM_UP: usize = 50;
const SINGLES: usize = 300;
const BATCH_TASKS: usize = 500;
const SUBMITTERS: usize = 4;
const ONE_WITHIN: Duration = Duration::from_secs(10);
const BATCH_WITHIN: Duration = Duration::from_secs(120);
const DRAIN_WITHIN: Duration = Duration::from_secs(400);

fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let (Some(addresses), Some(tasks)) = (args.next(), args.next()) else {
        bail!("usage: load ADDRESSES TASKS")
    };
    let tasks: usize = tasks.parse().context("TASKS is a number")?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    println!("{}", runtime.block_on(measure(&addresses, tasks))?);
    Ok(())
}

async fn measure(addresses: &str, tasks: usize) -> Result<String> {
    let client = connect(addresses).await?;
    let mut singles = Vec::new();
    for n in 0..WARM_UP + SINGLES {
        let single = single(&client).await?;
        if n >= WARM_UP {
            singles.push(single);
        }
    }
    let micros = |percent: usize, of: fn(&Single) -> Duration| {
        let mut values: Vec<Duration> = singles.iter().map(of).collect();
        values.sort();
        values[(SINGLES * percent).div_ceil(100) - 1].as_secs_f64() * 1e6
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

async fn connect(addresses: &str) -> Result<Client> {
    let addresses = addresses.parse().map_err(anyhow::Error::msg)?;
    Ok(Client::connect(addresses).await?)
}

/// How long after its submission was sent a task was seen to be there.
struct Single {
    accepted: Duration,
    /// Assigned and committed, or already done.
    started: Duration,
    finished: Duration,
}

async fn single(client: &Client) -> Result<Single> {
    let begun = Instant::now();
    let id = accepted(client.submit(TaskSpec::new("noop", vec![]), ONE_WITHIN).await?)?;
    let accepted = begun.elapsed();
    let (mut revision, mut started) = (0, None);
    loop {
        let views = client.watch(vec![(id, revision)], ONE_WITHIN).await?;
        let view = views.into_iter().find(|view| view.id == id).context("the task is gone")?;
        if view.state != TaskState::Queued {
            started.get_or_insert_with(|| begun.elapsed());
        }
        if view.state.is_final() {
            if view.state != TaskState::Succeeded {
                bail!("a noop task ended {}", view.state);
            }
            let finished = begun.elapsed();
            return Ok(Single { accepted, started: started.unwrap_or(finished), finished });
        }
        if begun.elapsed() > ONE_WITHIN {
            bail!("a noop task is {} after {ONE_WITHIN:?}", view.state);
        }
        revision = view.revision;
    }
}

fn accepted(submitted: Submitted) -> Result<TaskId> {
    match submitted {
        Submitted::Accepted { id } | Submitted::Existing { id, .. } => Ok(id),
        Submitted::Refused(error) => Err(error).context("a task was refused"),
    }
}

/// Tasks per second, from the first submission until nothing waits or runs.
async fn throughput(client: &Client, addresses: &str, tasks: usize) -> Result<f64> {
    let begun = Instant::now();
    let mut submitters = JoinSet::new();
    for submitter in 0..SUBMITTERS {
        let (addresses, share) =
            (addresses.to_owned(), tasks / SUBMITTERS + usize::from(submitter < tasks % SUBMITTERS));
        submitters.spawn(async move { submit(&addresses, share).await });
    }
    while let Some(joined) = submitters.join_next().await {
        joined??;
    }
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

async fn submit(addresses: &str, tasks: usize) -> Result<()> {
    let client = connect(addresses).await?;
    let mut left = tasks;
    while left > 0 {
        let count = left.min(BATCH_TASKS);
        let noop = |_| Submission { id: draw_id(), spec: TaskSpec::new("noop", vec![]) };
        for submitted in client.submit_all((0..count).map(noop).collect(), BATCH_WITHIN).await? {
            accepted(submitted)?;
        }
        left -= count;
    }
    client.close().await;
    Ok(())
}
