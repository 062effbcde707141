//! The `taskd` binary: the daemon and its command line.

mod cli;
mod exit;

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut args = std::env::args_os();
    // Processes beside the daemon: they must start quickly, and know nothing of the command line.
    match args.nth(1) {
        Some(command) if command == "shim" => return runner::shim::main(args),
        Some(command) if command == "vip-guard" => return vip::guard::main(),
        _ => {}
    }
    cli::main().into()
}
