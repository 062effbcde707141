//! The command line: parses, calls the [`client`](taskd::client), prints, and says how the process ends.
//!
//! What was asked for goes to stdout; hints, progress and errors go to stderr.

mod args;
mod batch;
mod cluster;
mod config;
mod db;
mod failure;
mod follow;
mod keeper;
mod list;
mod node;
mod output;
mod schedule;
mod serve;
mod signals;
mod snapshot;
mod store;
mod submit;
mod task;
mod timeline;
mod vip;
mod wait;

use clap::Parser;
use taskd::client::Client;

use self::args::{
    Cli, ClusterCommand, Command, Common, ConfigCommand, NodeCommand, QuotaCommand, ScheduleCommand,
    TaskCommand, VipCommand,
};
use self::failure::Failure;
use self::output::Output;
use crate::exit::Exit;

/// Runs the command that the process was started with.
pub(crate) fn main() -> Exit {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are what was asked for; a reader that has gone is no reason to panic.
            let asked = !error.use_stderr();
            let _ = error.print();
            return if asked { Exit::Ok } else { Exit::Usage };
        }
    };
    let done = match cli.command {
        Command::Serve(args) => serve::main(&args),
        Command::Keeper(args) => keeper::main(&args),
        Command::Db(args) => db::main(&args),
        Command::Snapshot(args) => snapshot::main(&args),
        Command::Task(args) => on_client(&args.common, async |client, output| match &args.command {
            TaskCommand::Submit(args) => submit::run(client, output, args).await,
            TaskCommand::List(args) => list::run(client, output, args).await,
            TaskCommand::Show(args) => task::show(client, output, args).await,
            TaskCommand::Why(args) => task::why(client, output, args).await,
            TaskCommand::Logs(args) => follow::logs(client, output, args).await,
            TaskCommand::Cancel(args) => task::cancel(client, output, args).await,
            TaskCommand::Wait(args) => wait::run(client, output, args).await,
            TaskCommand::Retry(args) => task::retry(client, output, args).await,
        }),
        Command::Schedule(args) => on_client(&args.common, async |client, output| match &args.command {
            ScheduleCommand::Add(args) => schedule::add(client, output, args).await,
            ScheduleCommand::List => schedule::list(client, output).await,
            ScheduleCommand::Show(args) => schedule::show(client, output, &args.name).await,
            ScheduleCommand::Pause(args) => schedule::order(client, output, args.pause()).await,
            ScheduleCommand::Resume(args) => schedule::order(client, output, args.resume()).await,
            ScheduleCommand::Remove(args) => schedule::order(client, output, args.remove()).await,
            ScheduleCommand::Trigger(args) => schedule::trigger(client, output, &args.name).await,
        }),
        Command::Cluster(args) => on_client(&args.common, async |client, output| match &args.command {
            ClusterCommand::Status => cluster::status(client, output).await,
            ClusterCommand::Handover(args) => cluster::handover(client, output, args).await,
            ClusterCommand::Priority(args) => cluster::priority(client, output, args).await,
            ClusterCommand::Pause(args) => node::pause(client, output, args.reason.as_ref()).await,
            ClusterCommand::Resume => node::resume(client, output).await,
        }),
        Command::Node(args) => on_client(&args.common, async |client, output| match &args.command {
            NodeCommand::List => node::list(client, output).await,
            NodeCommand::Show(args) => node::show(client, output, &args.node).await,
            NodeCommand::Drain(args) => node::drain(client, output, args).await,
            NodeCommand::Undrain(args) => node::undrain(client, output, &args.node).await,
        }),
        Command::Quota(args) => on_client(&args.common, async |client, output| match &args.command {
            QuotaCommand::List => node::quotas(client, output).await,
            QuotaCommand::Set(args) => node::set_quota(client, output, args).await,
            QuotaCommand::Remove(args) => node::remove_quota(client, output, &args.kind).await,
        }),
        Command::Vip(args) => on_client(&args.common, async |client, output| match &args.command {
            VipCommand::List => vip::list(client, output).await,
            VipCommand::Show(service) => vip::show(client, output, &service.service).await,
            VipCommand::Why(service) => vip::why(client, output, &service.service).await,
            VipCommand::Move(args) => vip::order(client, output, args.order()).await,
            VipCommand::Release(service) => vip::order(client, output, service.release()).await,
            VipCommand::Drain(args) => vip::order(client, output, args.order()).await,
            VipCommand::Undrain(args) => vip::order(client, output, args.order()).await,
        }),
        Command::Config(args) => match &args.command {
            // The one that asks nobody.
            ConfigCommand::Check(check) => config::check(args.common.output.into(), check),
            ConfigCommand::Diff(diff) => {
                on_client(&args.common, async |client, output| config::diff(client, output, &diff.file).await)
            }
            ConfigCommand::Apply(apply) => {
                on_client(&args.common, async |client, output| config::apply(client, output, apply).await)
            }
            ConfigCommand::History(history) => {
                on_client(&args.common, async |client, output| match history.show {
                    Some(revision) => config::show(client, output, revision).await,
                    None => config::history(client, output).await,
                })
            }
        },
    };
    done.unwrap_or_else(|failure| failure.report())
}

/// Runs `action` with a client, on this thread.
fn on_client(
    common: &Common,
    action: impl AsyncFnOnce(&Client, Output) -> Result<Exit, Failure>,
) -> Result<Exit, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(Exit::Failure, format!("the runtime cannot be started: {error}")))?;
    let done = runtime.block_on(async {
        let client = Client::new(common.addr.clone());
        let done = action(&client, common.output.into()).await;
        client.close().await;
        done
    });
    // A name that is still being resolved must not hold the process.
    runtime.shutdown_background();
    done
}
