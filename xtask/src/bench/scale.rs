//! What a leader change costs the coordination service, with more and more nodes. They all run in one process: what is
//! counted is requests, and those are the same.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use super::companion::Companion;
use super::tasks::example;
use crate::run::cluster::RunDir;
use crate::run::coordinator::{self, Coordinator, Kind};
use crate::shell::{self, Interrupt};
use crate::stats;
use crate::workspace::{Profile, Workspace};

const READY_WITHIN: Duration = Duration::from_secs(300);
const HANDOVER_WITHIN: Duration = Duration::from_secs(90);
/// What a start or a change leaves to be done.
const SETTLE: Duration = Duration::from_secs(10);
/// For the requests of an idle cluster, which are not the change's.
const IDLE: Duration = Duration::from_secs(10);
const ROUNDS: usize = 3;

pub(crate) fn run(workspace: &Workspace, sizes: &[u16]) -> Result<()> {
    let interrupt = Interrupt::install()?;
    let scale = example(workspace, "xtask", "scale")?;
    let taskd = workspace.build_taskd(Profile::Release)?;
    let head = ["nodes", "idle requests/s", "requests per change", "per node", "until all know"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for size in sizes {
        println!("{size} nodes");
        let dir = RunDir::create(&workspace.target.join("run"))?;
        let mut server = Coordinator::prepare(Kind::Keeper, &taskd, dir.path().join("keeper"))?;
        server.start(&interrupt)?;
        let measured = measure(&scale, &server.address(), dir.path(), *size, &interrupt);
        server.stop()?;
        rows.push(measured?);
    }
    println!("\n{}", stats::table(&rows));
    Ok(())
}

fn measure(
    scale: &std::path::Path,
    hosts: &str,
    dir: &std::path::Path,
    size: u16,
    interrupt: &Interrupt,
) -> Result<Vec<String>> {
    let mut command = Command::new(scale);
    command.arg(hosts).arg(dir).arg(size.to_string());
    let mut nodes = Companion::start(&mut command, READY_WITHIN, interrupt)?;
    let requests = || coordinator::received(hosts);
    shell::pause(SETTLE, interrupt)?;
    let before = requests()?;
    shell::pause(IDLE, interrupt)?;
    let idle_per_s = (requests()? - before) as f64 / IDLE.as_secs_f64();

    let (mut changes, mut took) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let (begun, before) = (std::time::Instant::now(), requests()?);
        let answer = nodes.ask("handover", HANDOVER_WITHIN, interrupt)?;
        took.push(answer.parse::<f64>().with_context(|| format!("{answer:?} is no time"))?);
        shell::pause(SETTLE, interrupt)?;
        let all = (requests()? - before) as f64;
        changes.push((all - idle_per_s * begun.elapsed().as_secs_f64()).max(0.0));
    }
    nodes.end()?;
    let median = |values: &mut Vec<f64>| {
        values.sort_by(f64::total_cmp);
        stats::percentile(values, 50).unwrap_or_default()
    };
    let change = median(&mut changes);
    Ok(vec![
        size.to_string(),
        format!("{idle_per_s:.1}"),
        format!("{change:.0}"),
        format!("{:.1}", change / f64::from(size)),
        stats::human(Duration::from_secs_f64(median(&mut took) / 1e3)),
    ])
}
