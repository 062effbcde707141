//! `fill ADDRESSES TASKS` for `cargo xtask bench recovery`: submits so many tasks that no node can run, so that they
//! wait, and prints how many a second were accepted.

mod common;

use std::time::Instant;

use anyhow::{Context, Result, bail};
use proto::task::TaskSpec;

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [addresses, tasks] = &args[..] else { bail!("usage: fill ADDRESSES TASKS") };
    let tasks: usize = tasks.parse().context("TASKS is a number")?;
    let mut spec = TaskSpec::new("noop", vec![]);
    spec.labels.insert("bench".to_owned(), "nowhere".to_owned());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let begun = Instant::now();
    runtime.block_on(common::submit_many(addresses, tasks, &spec))?;
    println!("{{\"accepted_per_s\":{:.1}}}", tasks as f64 / begun.elapsed().as_secs_f64());
    Ok(())
}
