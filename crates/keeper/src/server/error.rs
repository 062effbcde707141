use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use thiserror::Error;

use super::InvalidOptions;

/// Why a server did not start. Nothing of it is left running.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum StartError {
    /// An option makes no sense.
    #[error("the keeper's options are not valid: {0}")]
    Options(InvalidOptions),
    /// The data directory cannot be used; the message says what to do about it.
    #[error("failed to open the keeper's data")]
    Store(#[source] crate::store::OpenError),
    /// The address cannot be listened on.
    #[error("failed to listen on {address} for ZooKeeper clients")]
    Listen {
        /// The address asked for.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A thread or its runtime cannot be had.
    #[error("failed to start the keeper's threads")]
    Thread(#[source] io::Error),
    /// The server ended while it was starting.
    #[error("the keeper ended while it was starting")]
    Ended(#[source] Failure),
}

/// Why a server ended by itself.
#[derive(Clone, Debug, Error)]
#[non_exhaustive]
pub enum Failure {
    /// The disk refused a write or a sync. What had not been acknowledged may be lost; nothing was retried, because a
    /// sync that failed once may claim success the next time without having written anything.
    #[error("the keeper's disk failed: writing its log is final when it fails")]
    Disk(#[source] Arc<io::Error>),
    /// A bug.
    #[error("the keeper panicked: {0}")]
    Panicked(String),
    /// It was stopped or aborted: not a failure, but there is nothing left to wait for.
    #[error("the keeper was stopped")]
    Stopped,
}

/// Why a graceful stop was not one. Its threads have ended all the same, or end by themselves.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum StopError {
    /// It had already ended by itself.
    #[error("the keeper had ended before it was stopped")]
    Ended(#[source] Failure),
    /// The disk did not finish in time. What was acknowledged is safe.
    #[error("the keeper did not stop in time and was cut off")]
    TooSlow,
}
