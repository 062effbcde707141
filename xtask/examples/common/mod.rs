//! What the load programs share.

#![allow(dead_code, reason = "each program uses a part of it")]

use std::io::BufRead as _;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use proto::TaskId;
use proto::api::{Submission, Submitted};
use proto::task::TaskSpec;
use taskd::client::{Client, draw_id};
use taskd::runner::{Task, TaskService, Unfit, Work};
use taskd::{Config, Node, NodeHandle};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// The node of this process, its label and its task service.
pub(crate) const STAMP: &str = "bench-stamp";
pub(crate) const SUBMITTERS: usize = 4;
const BATCH_TASKS: usize = 500;
const BATCH_WITHIN: Duration = Duration::from_secs(120);
const READY_WITHIN: Duration = Duration::from_secs(30);

pub(crate) async fn connect(addresses: &str) -> Result<Client> {
    let addresses = addresses.parse().map_err(anyhow::Error::msg)?;
    Ok(Client::connect(addresses).await?)
}

/// Tells when a task is handed to its service.
#[derive(Debug)]
pub(crate) struct Stamp(pub(crate) mpsc::Sender<(TaskId, Instant)>);

impl TaskService for Stamp {
    fn prepare(&self, task: Task) -> Result<Work, Unfit> {
        let stamps = self.0.clone();
        Ok(Work::InProcess(Box::pin(async move {
            stamps.try_send((task.attempt.task, Instant::now())).map_err(|error| error.to_string())?;
            Ok(Vec::new())
        })))
    }
}

/// A node's configuration on `HOSTS[/ROOT]` and a free port.
pub(crate) fn config(name: &str, hosts: &str, dir: PathBuf) -> Result<Config> {
    let (hosts, root) = hosts.split_once('/').unwrap_or((hosts, "taskd"));
    let mut config = Config::new(name.parse()?, hosts);
    config.coordination.root = format!("/{root}");
    let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
    config.node.listen = SocketAddr::from((Ipv4Addr::LOCALHOST, free));
    config.node.data_dir = dir;
    Ok(config)
}

/// Joins the cluster as a node that runs nothing but what asks for it, and never leads.
pub(crate) async fn join(hosts: &str, dir: PathBuf, slots: Option<u32>, stamp: Stamp) -> Result<NodeHandle> {
    let mut config = config(STAMP, hosts, dir)?;
    config.node.labels.insert(STAMP.to_owned(), "yes".to_owned());
    config.node.eligible = false;
    config.node.slots = slots;
    let mut node = Node::builder(config).task_service(STAMP, stamp).start().await?;
    timeout(READY_WITHIN, node.ready()).await.context("the benchmark's own node did not get ready")?;
    Ok(node)
}

/// A task for [`join`]'s node.
pub(crate) fn stamp_task() -> TaskSpec {
    let mut spec = TaskSpec::new(STAMP, vec![]);
    spec.labels.insert(STAMP.to_owned(), "yes".to_owned());
    spec
}

pub(crate) fn accepted(submitted: Submitted) -> Result<TaskId> {
    match submitted {
        Submitted::Accepted { id } | Submitted::Existing { id, .. } => Ok(id),
        Submitted::Refused(error) => Err(error).context("a task was refused"),
    }
}

/// Submits so many, from a few submitters.
pub(crate) async fn submit_many(addresses: &str, tasks: usize, spec: &TaskSpec) -> Result<()> {
    let mut submitters = JoinSet::new();
    for submitter in 0..SUBMITTERS {
        let share = tasks / SUBMITTERS + usize::from(submitter < tasks % SUBMITTERS);
        let (addresses, spec) = (addresses.to_owned(), spec.clone());
        submitters.spawn(async move { submit(&addresses, share, &spec).await });
    }
    while let Some(joined) = submitters.join_next().await {
        joined??;
    }
    Ok(())
}

async fn submit(addresses: &str, tasks: usize, spec: &TaskSpec) -> Result<()> {
    let client = connect(addresses).await?;
    let mut left = tasks;
    while left > 0 {
        let count = left.min(BATCH_TASKS);
        let one = |_| Submission { id: draw_id(), spec: spec.clone() };
        for submitted in client.submit_all((0..count).map(one).collect(), BATCH_WITHIN).await? {
            accepted(submitted)?;
        }
        left -= count;
    }
    client.close().await;
    Ok(())
}

/// The lines that whoever started this program writes, until they end.
pub(crate) fn orders() -> mpsc::Receiver<String> {
    let (lines, orders) = mpsc::channel(16);
    // It sits in a read that nothing can cancel, and ends with the process.
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            if lines.blocking_send(line).is_err() {
                return;
            }
        }
    });
    orders
}
