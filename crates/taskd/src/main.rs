//! The `taskd` binary: the daemon and its command line.

mod cli;
mod exit;

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut args = std::env::args_os();
    // One shim per task attempt: it must start quickly, and knows nothing of the command line.
    if args.nth(1).is_some_and(|command| command == "shim") {
        return runner::shim::main(args);
    }
    cli::main().into()
}
