//! Runs a command whose tests use one real ensemble: `cargo run -p testkit --example ensemble -- COMMAND…`. What it
//! sets is documented in the library.

use std::process::ExitCode;

use testkit::{COORDINATION, ENSEMBLE, Ensemble};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    let Some(program) = args.next() else {
        eprintln!("usage: ensemble COMMAND [ARGUMENT…]");
        return ExitCode::from(2);
    };
    if let Some(reason) = testkit::missing() {
        eprintln!("ensemble: {reason}");
        return ExitCode::FAILURE;
    }
    let ensemble = Ensemble::start(3).await;
    eprintln!("ensemble: {}", ensemble.hosts());
    // Ctrl-C reaches the command too, which ends in its own way; the ensemble ends with us.
    let mut interrupt = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::interrupt())
        .expect("signals can be listened for");
    let mut command = tokio::process::Command::new(&program);
    command.args(args).env(COORDINATION, "zookeeper").env(ENSEMBLE, ensemble.hosts()).kill_on_drop(true);
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) => {
            eprintln!("ensemble: {} cannot be started: {error}", program.display());
            return ExitCode::FAILURE;
        }
    };
    let status = loop {
        tokio::select! {
            status = child.wait() => break status,
            _ = interrupt.recv() => {}
        }
    };
    let code = status.ok().and_then(|status| status.code()).and_then(|code| u8::try_from(code).ok());
    ExitCode::from(code.unwrap_or(1))
}
