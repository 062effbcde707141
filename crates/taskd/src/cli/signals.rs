//! The signals that a daemon listens to.

use tokio::signal::unix::{Signal, SignalKind, signal};

/// SIGHUP, which asks it to read its file again.
pub(super) struct Hangup(Signal);

impl Hangup {
    /// From now on, it does not end the process.
    pub(super) fn listen() -> std::io::Result<Self> {
        Ok(Self(signal(SignalKind::hangup())?))
    }

    /// Waits for the next one.
    ///
    /// # Cancel safety
    /// None is lost; several at once are one.
    pub(super) async fn next(&mut self) {
        self.0.recv().await;
    }
}

/// SIGTERM and SIGINT, which ask it to stop.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// From now on, they do not end the process.
    pub(super) fn listen() -> std::io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// The name of the next one.
    ///
    /// # Cancel safety
    /// None is lost.
    pub(super) async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}
