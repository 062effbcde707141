//! `taskd serve`: what the library does not do: log, signals, and the process's end.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use taskd::config::{self, Config, ConfigError, Flags, OnStop};
use taskd::drill::Drill;
use taskd::vip::guard::GuardProgram;
use taskd::{LastRung, Node, Reloaded, Reloader, StartError, StopCause, StopReport, Wedge, telemetry};
use tokio::runtime::Runtime;

use super::args::ServeArgs;
use super::failure::Failure;
use super::output;
use super::signals::{Hangup, Signals};
use crate::exit::Exit;

/// Threads of the runtime: the work is waiting.
const WORKERS: usize = 2;

/// What the runtime's blocking tasks get after the node has stopped.
const LEFTOVERS_WITHIN: Duration = Duration::from_millis(100);

pub(super) fn main(args: &ServeArgs) -> Result<Exit, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .thread_name("taskd")
        .enable_all()
        .build()
        .map_err(|error| died(error.into()))?;
    // First of all: before this, SIGTERM ends the process without a word.
    let signals = runtime
        .block_on(async { Ok((Signals::listen()?, Hangup::listen()?)) })
        .map_err(|error: std::io::Error| died(error.into()))?;
    let done = configured(args, &runtime, signals);
    runtime.shutdown_timeout(LEFTOVERS_WITHIN);
    done
}

fn died(error: anyhow::Error) -> Failure {
    Failure::new(Exit::Died, format!("the node cannot run: {error:#}"))
}

fn configured(args: &ServeArgs, runtime: &Runtime, signals: (Signals, Hangup)) -> Result<Exit, Failure> {
    let flags = Flags {
        node_id: args.node_id.clone(),
        listen: args.listen.clone(),
        coordination: args.coordination.clone(),
        embedded: args.embedded,
        data_dir: args.data_dir.clone(),
        allow_exec: args.allow_exec,
        on_stop: args.on_stop.clone(),
    };
    let unusable = |message: String| Failure::new(Exit::Config, message);
    let load = || config::load(args.config.as_deref(), &flags);
    let config = load().map_err(|error| unusable(error.to_string()))?;
    if args.print_config {
        let text = toml::to_string(&config).map_err(|error| unusable(error.to_string()))?;
        output::line(text.trim_end())?;
        return Ok(Exit::Ok);
    }
    let drill = Drill::from_env().map_err(|error| unusable(error.to_string()))?;
    let log = telemetry::install(&config.log).map_err(unusable)?;
    let done = runtime.block_on(run(config, drill, signals, load, &log));
    log.flush();
    done
}

/// Runs a node until it is told to stop, or fails.
async fn run(
    config: Config,
    drill: Drill,
    (mut signals, mut hangup): (Signals, Hangup),
    load: impl Fn() -> Result<Config, ConfigError>,
    log: &telemetry::Queue,
) -> Result<Exit, Failure> {
    let last_rung = Arc::new(EndProcess(log.clone()));
    if !drill.is_idle() {
        tracing::warn!(?drill, "FAULTS ARE SWITCHED ON: this is a test build, and it will fail on purpose");
    }
    let program = std::env::current_exe().map_err(|error| died(error.into()))?;
    let guard = GuardProgram { program, args: vec!["vip-guard".to_owned()] };
    let builder = Node::builder(config).last_rung(last_rung).vip_guard(guard).drill(drill);
    let node = builder.start().await.map_err(|error| {
        let exit = if matches!(error, StartError::Config(_)) { Exit::Config } else { Exit::Died };
        died(error.into()).ending(exit)
    })?;
    let (stop, reloader) = (node.stop_requester(), node.reloader());
    let mut joined = pin!(node.join());
    let mut asked = false;
    let report = loop {
        tokio::select! {
            report = &mut joined => break report,
            name = signals.next() => {
                tracing::info!(signal = name, "stopping");
                // Whoever presses Ctrl-C, or asks twice, does not want to wait, and nothing to be left.
                if name == "SIGINT" || std::mem::replace(&mut asked, true) {
                    stop.request_as(OnStop::Kill);
                } else {
                    stop.request();
                }
            }
            () = hangup.next() => reload(&reloader, load()),
        }
    };
    Ok(exit_of(&report, log))
}

/// Takes over from the file what a running node can, and says what it could not.
fn reload(reloader: &Reloader, loaded: Result<Config, ConfigError>) {
    let config = match loaded {
        Ok(config) => config,
        Err(error) => {
            tracing::error!("SIGHUP: nothing is changed, since {error}");
            return;
        }
    };
    let Reloaded { now, at_next_start } = reloader.reload(&config);
    if now.is_empty() && at_next_start.is_empty() {
        tracing::info!("SIGHUP: the configuration is what it was");
    }
    for line in now {
        tracing::info!("SIGHUP: {line}");
    }
    for line in at_next_start {
        tracing::warn!("SIGHUP: {line} holds only from the next start on");
    }
}

fn exit_of(report: &StopReport, log: &telemetry::Queue) -> Exit {
    match &report.cause {
        StopCause::Failed(why) => {
            // By way of the log: stderr itself may be a pipe that nobody reads, and the watchdog is gone.
            log.line(&format!("taskd: the node has ended: {why}"));
            Exit::Died
        }
        StopCause::Refused(why) => {
            log.line(&format!("taskd: the node cannot be part of the cluster: {why}"));
            Exit::Config
        }
        StopCause::Requested if report.abandoned.is_empty() => Exit::Ok,
        StopCause::Requested => Exit::StopLate,
    }
}

/// The end of a process that cannot be ended from inside.
#[derive(Debug)]
struct EndProcess(telemetry::Queue);

impl LastRung for EndProcess {
    #[expect(clippy::disallowed_methods, reason = "the last rung of the stop ladder is the process's end")]
    fn abandon(&self, wedge: &Wedge) {
        tracing::error!(%wedge, "ending the process");
        self.0.flush();
        let exit = match wedge {
            Wedge::Component { .. } | Wedge::Loop { .. } | Wedge::Overrun { .. } => Exit::Wedged,
            Wedge::Stop { .. } => Exit::StopLate,
        };
        std::process::exit(exit.code().into())
    }
}
