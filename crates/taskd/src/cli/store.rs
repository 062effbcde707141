//! A session with the coordination service, for commands that talk to no node.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clock::BootClock;
use coord::{ClientRuntime, Layout, Link, Session};
use taskd::config::{self, Coordination, Flags};

use super::args::StoreArgs;
use super::failure::Failure;
use crate::exit::Exit;

/// What is asked where nobody says otherwise: the service of this machine.
const DEFAULT: &str = "127.0.0.1:2181/taskd";

/// For a session to be had.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);

/// Between two tries.
const RETRY: Duration = Duration::from_millis(200);

/// For a session to be closed.
const CLOSE_WITHIN: Duration = Duration::from_secs(2);

/// Runs `action` with a session of its own, on this thread.
pub(super) fn on_store<T>(
    args: &StoreArgs,
    action: impl AsyncFnOnce(&Link, &Layout) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let options = options(args)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(Exit::Failure, format!("the runtime cannot be started: {error}")))?;
    let done = runtime.block_on(async {
        let session = connect(&options).await?;
        let done = action(&session.link(), &Layout::of(&options)).await;
        // What it has read or written stands, whether the service hears the goodbye or not.
        drop(session.close(CLOSE_WITHIN).await);
        done
    });
    runtime.shutdown_background();
    done
}

async fn connect(options: &coord::Options) -> Result<Session, Failure> {
    let threads = ClientRuntime::start()
        .map_err(|error| Failure::new(Exit::Failure, format!("the client cannot be started: {error}")))?;
    let deadline = Instant::now() + CONNECT_WITHIN;
    loop {
        match Session::connect(options, Arc::clone(&threads), BootClock::shared()).await {
            Ok(session) => return Ok(session),
            Err(error) if error.is_transient() && Instant::now() < deadline => {}
            Err(error) => return Err(Failure::new(Exit::Unavailable, chain(&error))),
        }
        tokio::time::sleep(RETRY).await;
    }
}

fn options(args: &StoreArgs) -> Result<coord::Options, Failure> {
    let coordination = coordination(args.config.as_deref(), args.coordination.as_deref())?;
    let hosts = match &coordination.hosts {
        Some(hosts) => hosts.clone(),
        None => coordination.embedded_listen.to_string(),
    };
    let auth = coordination.auth().map_err(|problem| Failure::new(Exit::Usage, problem.to_string()))?;
    Ok(coord::Options {
        session_timeout: coordination.session_timeout,
        tick: coordination.tick,
        margin: coordination.margin(),
        call_deadline: coordination.call_deadline,
        auth,
        ..coord::Options::new(hosts, coordination.root)
    })
}

/// What a node with this file would use; without one, and without a flag, the service of this machine.
fn coordination(file: Option<&Path>, flag: Option<&str>) -> Result<Coordination, Failure> {
    let given = flag.or_else(|| file.is_none().then_some(DEFAULT));
    let flags = Flags {
        // Its name does not matter here, and the machine's may be none.
        node_id: Some("reader".to_owned()),
        coordination: given.map(str::to_owned),
        ..Flags::default()
    };
    let config = config::load(file, &flags).map_err(|error| Failure::new(Exit::Usage, error.to_string()))?;
    Ok(config.coordination)
}

/// An error with everything that is behind it.
pub(super) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut words = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        words.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    words
}
