//! A head start: the task log, read and understood by the node that is to lead next while another still leads.
//!
//! It is held by value and believed by nobody: [`Dispatcher::recover`](crate::Dispatcher::recover) goes on from it and reads
//! what has come since, behind a segment of the new term, as it would have read the whole.

use std::sync::Arc;
use std::time::Duration;

use coord::log::{Ahead, Changed};
use coord::{Layout, Session};

use crate::config::Options;
use crate::database::Database;
use crate::record::{self, Unreadable};

/// The log is open for reading on a data session that the term can go on with.
#[derive(Debug)]
pub struct Standby {
    pub(crate) session: Session,
    pub(crate) ahead: Ahead,
    pub(crate) database: Database,
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
    pub(crate) database: Database,
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
            Ok((ahead, database)) => Ok(Self { session, ahead, database }),
            Err(error) => {
                // It fences nothing: whether it could be closed makes no difference to anybody.
                let _ = session.close(options.coord.call_deadline).await;
                Err(error)
            }
        }
    }

    async fn read_on(session: &Session, layout: &Layout) -> Result<(Ahead, Database), StandbyError> {
        let (ahead, live) = Ahead::read(&session.link(), layout).await?;
        // Up to a million: not on a thread that others need.
        let replayed = tokio::task::spawn_blocking(move || Database::replay(live));
        let replayed = replayed.await.map_err(|error| StandbyError::Unreadable(error.to_string()))?;
        Ok((ahead, replayed.map_err(|error| StandbyError::Unreadable(error.to_string()))?))
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
        learn(&mut self.database, self.ahead.take_changed())
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
    /// The database as it is now.
    pub(crate) fn finish(mut self) -> Result<Database, Unreadable> {
        learn(&mut self.database, self.since)?;
        Ok(self.database)
    }
}

fn learn(database: &mut Database, changed: Vec<Changed>) -> Result<(), Unreadable> {
    let news = changed.into_iter().map(|Changed { key, state }| {
        let Some((_, body)) = state else { return Ok((key, None)) };
        Ok((key, Some((record::decode(key, &body)?, body.len() as u64))))
    });
    database.learn(news.collect::<Result<Vec<_>, _>>()?);
    Ok(())
}
