//! Measures the keeper against Debian's ZooKeeper: whether it answers the same, whether it keeps what it acknowledged, and how fast it is.

mod bench;
mod client;
mod crash;
mod differential;
mod serve;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Measures the keeper against Debian's ZooKeeper.
#[derive(Debug, Parser)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Give the same random operations to two servers and compare everything they say.
    Differential(differential::Differential),
    /// Kill the server at random moments and check that nothing acknowledged is lost.
    Crash(crash::Args),
    /// Compare speed and size with Debian's ZooKeeper.
    Bench(bench::Args),
    /// Serve until the standard input ends.
    Serve(serve::Serve),
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Differential(options) => differential::run(&options),
        Command::Crash(args) => crash::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Serve(options) => serve::run(&options),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
