//! Runs the faults and prints what came of them.

use std::process::ExitCode;

use clap::Parser;
use faults::{Interrupted, Options};

/// Faults in a cluster of real processes, each in a network namespace of its own.
#[derive(Debug, Parser)]
struct Cli {
    #[command(flatten)]
    options: Options,
}

fn main() -> ExitCode {
    let options = Cli::parse().options;
    if let Some(reason) = faults::missing() {
        // In CI nothing may be skipped.
        if std::env::var("TASKD_REQUIRE_ALL").is_ok_and(|value| value == "1") {
            eprintln!("error: the faults cannot be skipped here: {reason}");
            return ExitCode::FAILURE;
        }
        println!("skipped: the faults: {reason}");
        return ExitCode::SUCCESS;
    }
    match faults::run(&options) {
        Ok(verdict) => {
            for violation in verdict.violations() {
                println!("violation: {violation}");
            }
            println!("\n{}", verdict.table());
            if verdict.violations().is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
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
