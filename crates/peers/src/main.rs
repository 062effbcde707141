//! Other people's task queues on the workload that taskd is measured with: `cargo xtask bench peers`.
//!
//! ```text
//! install ── server (Redis or PostgreSQL) ── worker ── submitter        one set-up at a time
//!                                               └── stamps file ──┘     who did what when, on one clock
//! ```
//!
//! - [`install`] gets the peers from Debian, PyPI and npm by their names, pinned, below one folder.
//! - [`server`] starts Redis and PostgreSQL as our own processes on loopback; [`process`] ends whatever was started.
//! - [`peer`] knows the peers; [`measure`] runs each in every durability it has, several rounds, interleaved.
//! - [`stamps`], [`cpu`] and [`stats`] turn what happened into figures, [`report`] those into a table with ratios.
//!
//! **Invariant**: a task counts as done only when the peer has stored its end, as far as the peer says so.

use std::process::ExitCode;

use clap::Parser as _;

use crate::options::Options;
use crate::process::{Interrupt, Interrupted};

mod cpu;
mod install;
mod measure;
mod options;
mod peer;
mod process;
mod report;
mod server;
mod stamps;
mod stats;

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.is::<Interrupted>() => {
            eprintln!("interrupted");
            ExitCode::from(130)
        }
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> anyhow::Result<()> {
    let interrupt = Interrupt::install()?;
    let beside = report::beside(options.beside.as_deref())?;
    let tools = install::everything(&options.dir, &options.peers(), &interrupt)?;
    if options.install_only {
        return tools.cleanup();
    }
    let machine = report::Machine::look(&options.dir, &tools)?;
    let rows = measure::all(options, &tools, &interrupt)?;
    let report = report::Report { machine, beside, rows, tasks: options.tasks() };
    println!("\n{}", report.text());
    if let Some(file) = &options.report {
        report.write(file)?;
        println!("written: {}", file.display());
    }
    Ok(())
}
