//! `fill ADDRESSES TASKS` for `cargo xtask bench recovery`: pauses the cluster, submits so many tasks, which wait, and prints
//! how many a second were accepted.

mod common;

use std::time::Instant;

use anyhow::{Context, Result, bail};
use proto::operate::{OperateOrder, Said};
use proto::task::TaskSpec;

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [addresses, tasks] = &args[..] else { bail!("usage: fill ADDRESSES TASKS") };
    let tasks: usize = tasks.parse().context("TASKS is a number")?;
    let spec = TaskSpec::new("noop", vec![]);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let begun = Instant::now();
    runtime.block_on(async {
        let pause = OperateOrder::Pause { said: Said::default() };
        common::connect(addresses).await?.operate(pause).await.context("the cluster was not paused")?;
        common::submit_many(addresses, tasks, &spec).await
    })?;
    println!("{{\"accepted_per_s\":{:.1}}}", tasks as f64 / begun.elapsed().as_secs_f64());
    Ok(())
}
