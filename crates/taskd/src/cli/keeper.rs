//! `taskd keeper`: the coordination service by itself.

use std::path::Path;
use std::time::{Duration, Instant};

use clock::BootClock;
use keeper::server::{Failure as Died, Options, Server, StartError, StopError};
use taskd::config::{self, Log, LogFormat};
use taskd::telemetry;

use super::args::{KeeperArgs, Lines};
use super::failure::Failure;
use super::signals::Signals;
use crate::exit::Exit;

/// How long a stop may take; the process ends then, whatever is left.
const STOP_WITHIN: Duration = Duration::from_secs(5);

/// Signals this close to each other ask for one stop.
const SAME_REQUEST: Duration = Duration::from_millis(300);

pub(super) fn main(args: &KeeperArgs) -> Result<Exit, Failure> {
    // The server has threads of its own; this one waits for it and for signals.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| died(&format!("the runtime cannot be started: {error}")))?;
    // First of all: before this, SIGTERM ends the process without a word.
    let signals = runtime.block_on(async { Signals::listen() });
    let signals = signals.map_err(|error| died(&format!("signals cannot be listened for: {error}")))?;
    let format = match args.log_format {
        Lines::Human => LogFormat::Human,
        Lines::Json => LogFormat::Json,
    };
    let log = telemetry::install(&Log { format, level: args.log_level.clone() })
        .map_err(|error| Failure::new(Exit::Usage, format!("--log-level: {error}")))?;
    let done = runtime.block_on(run(args, signals));
    log.flush();
    done
}

/// Runs the server until it is told to stop, or fails.
async fn run(args: &KeeperArgs, mut signals: Signals) -> Result<Exit, Failure> {
    let data_dir = args.data_dir.clone().unwrap_or_else(|| config::data_dir().join("keeper"));
    not_a_nodes(&data_dir)?;
    if !args.listen.ip().is_loopback() && !args.insecure {
        let why = format!(
            "--listen: {} is reachable from other machines, and nothing there is encrypted: listen on 127.0.0.1, or say \
             --insecure if the network is trusted",
            args.listen
        );
        return Err(Failure::new(Exit::Usage, why));
    }
    let mut options = Options::new(data_dir, args.listen);
    options.tick = args.tick;
    options.connections_max = args.connections_max;
    let server = tokio::select! {
        started = Server::start(options, BootClock::shared(), rand::random()) => started.map_err(unstarted)?,
        // Nothing was promised to anybody yet.
        _ = signals.next() => return Ok(Exit::Ok),
    };
    // The server itself says where it serves, and that it is one machine.
    if !args.listen.ip().is_loopback() {
        tracing::warn!(address = %server.address(), "reachable from other machines, and nothing is encrypted");
    }
    tokio::select! {
        failure = server.failed() => return Err(ended(&failure)),
        name = signals.next() => tracing::info!(signal = name, "stopping"),
    }
    let stopped = tokio::select! {
        stopped = tokio::time::timeout(STOP_WITHIN, server.stop()) => stopped.unwrap_or(Err(StopError::TooSlow)),
        name = again(&mut signals) => {
            tracing::warn!(signal = name, "told twice: ending at once");
            return Ok(Exit::StopLate);
        }
    };
    match stopped {
        Ok(()) => Ok(Exit::Ok),
        Err(StopError::Ended(Died::Stopped)) => Ok(Exit::Ok),
        Err(StopError::Ended(failure)) => Err(ended(&failure)),
        Err(error) => Err(Failure::new(Exit::StopLate, format!("the keeper: {}", chain(&error)))),
    }
}

/// The next signal that is another request to stop: one that comes at once is the same, told to the process and to its
/// group, as `timeout` and terminals do.
async fn again(signals: &mut Signals) -> &'static str {
    let told = Instant::now();
    loop {
        let name = signals.next().await;
        if told.elapsed() > SAME_REQUEST {
            return name;
        }
    }
}

/// A node's data directory has its keeper's inside; taking it for the keeper's own would begin an empty one beside it.
fn not_a_nodes(data_dir: &Path) -> Result<(), Failure> {
    let inside = data_dir.join("keeper");
    if !inside.is_dir() {
        return Ok(());
    }
    Err(died(&format!(
        "{} is the data directory of a node, whose keeper has its data inside: use --data-dir {}",
        data_dir.display(),
        inside.display()
    )))
}

/// What to do about a server that does not start.
fn unstarted(error: StartError) -> Failure {
    match &error {
        StartError::Options(_) => Failure::new(Exit::Usage, chain(&error)),
        StartError::Listen { address, source } => died(&format!(
            "failed to listen on {address}: {source}: choose another --listen, or stop what uses it"
        )),
        StartError::Store(_) => died(&format!("{} (--data-dir)", chain(&error))),
        _ => died(&chain(&error)),
    }
}

/// It served, and cannot any more.
fn ended(failure: &Died) -> Failure {
    Failure::new(Exit::Died, format!("the keeper has ended: {}", chain(failure)))
}

fn died(why: &str) -> Failure {
    Failure::new(Exit::Died, format!("the keeper cannot run: {why}"))
}

/// An error with everything that caused it.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}
