//! Runs the faults and prints what came of them.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use faults::{Interrupted, Options, tasks, vips};

/// Faults in a cluster of real processes, each in a network namespace of its own.
#[derive(Debug, Parser)]
#[command(args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(flatten)]
    options: Option<Options>,
    #[command(subcommand)]
    part: Option<Part>,
}

#[derive(Debug, Subcommand)]
enum Part {
    /// Virtual IPs, seen from outside
    Vips(vips::Options),
    /// Thousands of tasks, and a checker of what came of them
    Tasks(tasks::Options),
}

fn main() -> ExitCode {
    match Cli::parse() {
        Cli { part: Some(Part::Vips(options)), .. } => ended(vips::missing(&options), || {
            let verdict = vips::run(&options)?;
            let text = if options.compare.is_some() {
                format!("{}\n\n{}", verdict.table(), verdict.comparison())
            } else {
                verdict.table()
            };
            Ok((verdict.violations().to_vec(), text))
        }),
        Cli { part: Some(Part::Tasks(options)), .. } => ended(faults::missing(), || {
            let verdict = tasks::run(&options)?;
            Ok((verdict.violations().to_vec(), verdict.table().to_owned()))
        }),
        Cli { options: Some(options), .. } => ended(faults::missing(), || {
            let verdict = faults::run(&options)?;
            Ok((verdict.violations().to_vec(), verdict.table()))
        }),
        Cli { .. } => {
            eprintln!("error: nothing to do; --help says what there is");
            ExitCode::from(2)
        }
    }
}

/// Does it, if the machine can; prints the violations and the rest.
fn ended(missing: Option<String>, work: impl FnOnce() -> anyhow::Result<(Vec<String>, String)>) -> ExitCode {
    if let Some(reason) = missing {
        // In CI nothing may be skipped.
        if std::env::var("TASKD_REQUIRE_ALL").is_ok_and(|value| value == "1") {
            eprintln!("error: the faults cannot be skipped here: {reason}");
            return ExitCode::FAILURE;
        }
        println!("skipped: the faults: {reason}");
        return ExitCode::SUCCESS;
    }
    match work() {
        Ok((violations, text)) => {
            for violation in &violations {
                println!("violation: {violation}");
            }
            println!("\n{text}");
            if violations.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
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
