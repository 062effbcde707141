//! The shim alone, for who embeds the runner in a program that cannot be its own shim, and for the tests.

use std::process::ExitCode;

fn main() -> ExitCode {
    runner::shim::main(std::env::args_os().skip(1))
}
