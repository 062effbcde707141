//! A head start: the task log, read and understood by the node that is to lead next while another still leads.
//!
//! It is held by value and believed by nobody: [`Dispatcher::recover`](crate::Dispatcher::recover) goes on from it and reads
//! what has come since, behind a segment of the new term, as it would have read the whole.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use coord::log::{Ahead, Changed};
use coord::{Layout, Session};

use crate::config::Options;
use crate::record::{self, Record, Unreadable};

/// Records as they are understood, with what each takes up, by key.
pub(crate) type Records = BTreeMap<u128, (Record, u64)>;

/// The log is open for reading on a data session that the term can go on with.
#[derive(Debug)]
pub struct Standby {
    pub(crate) session: Session,
    pub(crate) ahead: Ahead,
    pub(crate) records: Records,
}

/// No head start: the term reads everything itself.
#[derive(Debug, thiserror::Error)]
pub enum StandbyError {
    /// The coordination service could not be reached.
    #[error("no data session")]
    Session(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The log could not be read.
    #[error(transparent)]
    Log(#[from] coord::log::ReadAheadError),
    /// It holds something that this release cannot read.
    #[error("the task log could not be read: {0}")]
    Unreadable(String),
}

/// What a storage knew of the log before it was opened, and what has changed since.
#[derive(Debug)]
pub struct HeadStart {
    pub(crate) records: Records,
    pub(crate) since: Vec<Changed>,
}

impl Standby {
    /// Opens a data session and reads the log.
    ///
    /// # Errors
    /// See [`StandbyError`]. What had been opened is closed.
    ///
    /// # Cancel safety
    /// Dropping the future abandons the session, which fences nothing.
    pub async fn read(options: &Options) -> Result<Self, StandbyError> {
        let connecting =
            Session::connect(&options.coord, Arc::clone(&options.runtime), Arc::clone(&options.clock));
        let session = connecting.await.map_err(|error| StandbyError::Session(Box::new(error)))?;
        match Self::read_on(&session, &Layout::of(&options.coord)).await {
            Ok((ahead, records)) => Ok(Self { session, ahead, records }),
            Err(error) => {
                // It fences nothing: whether it could be closed makes no difference to anybody.
                let _ = session.close(options.coord.call_deadline).await;
                Err(error)
            }
        }
    }

    async fn read_on(session: &Session, layout: &Layout) -> Result<(Ahead, Records), StandbyError> {
        let (ahead, live) = Ahead::read(&session.link(), layout).await?;
        // Up to a million: not on a thread that others need.
        let understood = tokio::task::spawn_blocking(move || {
            live.into_iter().map(|live| understood(live.key, &live.body)).collect::<Result<Records, _>>()
        });
        let understood = understood.await.map_err(|error| StandbyError::Unreadable(error.to_string()))?;
        Ok((ahead, understood.map_err(|error| StandbyError::Unreadable(error.to_string()))?))
    }

    /// Reads what has been added since. Returns how many segments that were.
    ///
    /// # Errors
    /// See [`StandbyError`]: it is of no use any more.
    ///
    /// # Cancel safety
    /// Safe: what was read is kept.
    pub async fn follow(&mut self) -> Result<usize, StandbyError> {
        let count = self.ahead.follow(&self.session.link()).await?;
        update(&mut self.records, self.ahead.take_changed())
            .map_err(|error| StandbyError::Unreadable(error.to_string()))?;
        Ok(count)
    }

    /// Gives it up.
    ///
    /// # Cancel safety
    /// Dropping the future abandons the session, which fences nothing.
    pub async fn close(self, within: Duration) {
        if let Err(error) = self.session.close(within).await {
            tracing::debug!(%error, "the data session of a head start was left to expire");
        }
    }
}

impl HeadStart {
    /// The records as they are now.
    pub(crate) fn finish(mut self) -> Result<Records, Unreadable> {
        update(&mut self.records, self.since)?;
        Ok(self.records)
    }
}

fn understood(key: u128, body: &[u8]) -> Result<(u128, (Record, u64)), Unreadable> {
    Ok((key, (record::decode(key, body)?, body.len() as u64)))
}

fn update(records: &mut Records, changed: Vec<Changed>) -> Result<(), Unreadable> {
    for Changed { key, state } in changed {
        match state {
            Some((_, body)) => {
                let (key, record) = understood(key, &body)?;
                records.insert(key, record);
            }
            None => drop(records.remove(&key)),
        }
    }
    Ok(())
}
