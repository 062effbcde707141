//! The guard alone, for who embeds VIPs in a program that cannot be its own guard, and for the tests.

use std::process::ExitCode;

fn main() -> ExitCode {
    vip::guard::main()
}
