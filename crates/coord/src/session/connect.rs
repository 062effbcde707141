//! Opening a session on the client's own thread, and handing it over.

use std::time::Duration;

use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use zookeeper_client as zk;

use super::ConnectError;
use crate::{ClientRuntime, Options};

/// How long a session that came too late may take to say goodbye.
const GOODBYE: Duration = Duration::from_millis(500);

#[derive(Debug)]
pub(super) struct Opened {
    pub(super) client: zk::Client,
    pub(super) release: CancellationToken,
}

pub(super) async fn open(options: &Options, runtime: &ClientRuntime) -> Result<Opened, ConnectError> {
    options.check()?;
    let hosts = options.hosts.clone();
    // Before its own deadline, in case the resolver does not know the forms of `Options::connect_string`.
    let within = options.session_timeout.mul_f64(0.8);
    let mut connector = zk::Client::connector().with_session_timeout(options.session_timeout);
    if let Some((scheme, credentials)) = &options.auth {
        connector = connector.with_auth(scheme, credentials);
    }
    let release = CancellationToken::new();
    let (sender, receiver) = oneshot::channel();
    runtime
        .run(Box::pin(host_session(connector, options.connect_string(), within, sender, release.clone())))
        .map_err(ConnectError::Thread)?;
    let unreachable = || ConnectError::Unreachable { hosts: hosts.clone(), within: options.session_timeout };
    match tokio::time::timeout(options.session_timeout, receiver).await {
        Ok(Ok(Ok(client))) if client.session_timeout() <= options.margin => {
            Err(ConnectError::TimeoutTooShort {
                hosts: hosts.clone(),
                // Dropping the client, the only handle, closes the session.
                granted: client.session_timeout(),
                margin: options.margin,
            })
        }
        Ok(Ok(Ok(client))) => Ok(Opened { client, release }),
        Ok(Ok(Err(zk::Error::AuthFailed))) => Err(ConnectError::AuthFailed { hosts: hosts.clone() }),
        // A server that gives a new session no id is one that cannot, for now: nothing of ours has expired.
        Ok(Ok(Err(
            zk::Error::Timeout | zk::Error::NoHosts | zk::Error::ConnectionLoss | zk::Error::SessionExpired,
        ))) => Err(unreachable()),
        Ok(Ok(Err(other))) => Err(ConnectError::Other { hosts: hosts.clone(), reason: other.to_string() }),
        Ok(Err(_)) | Err(_) => Err(unreachable()),
    }
}

/// The whole life of the client on its own thread: returning drops whatever it had spawned.
async fn host_session(
    connector: zk::Connector,
    hosts: String,
    within: Duration,
    sender: oneshot::Sender<Result<zk::Client, zk::Error>>,
    release: CancellationToken,
) {
    let connected = match tokio::time::timeout(within, connector.connect(&hosts)).await {
        Ok(connected) => connected,
        Err(_) => Err(zk::Error::Timeout),
    };
    let state = connected.as_ref().ok().map(zk::Client::state_watcher);
    let refused = sender.send(connected).err();
    let Some(state) = state else { return };
    if let Some(unwanted) = refused {
        // The last handle: dropping it closes the session.
        drop(unwanted);
        let closed = tokio::time::timeout(GOODBYE, terminated(state)).await;
        tracing::debug!(closed = closed.is_ok(), "a session came when nobody waited for it any more");
        return;
    }
    tokio::select! {
        () = release.cancelled() => {}
        _ = terminated(state) => {}
    }
}

/// Waits until the client has given the session up or closed it.
pub(super) async fn terminated(mut state: zk::StateWatcher) -> zk::SessionState {
    let mut now = state.peek_state();
    while !now.is_terminated() {
        now = state.changed().await;
    }
    now
}
