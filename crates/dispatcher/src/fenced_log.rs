//! The storage of production: the fenced log in ZooKeeper, over a data session of its own.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use clock::SharedClock;
use coord::log::{
    Ahead, AppendRefused, BodyError, CommitError, LogFailure, LogHandle, LogOptions, Replayed, TaskLog,
};
use coord::{ClientRuntime, Layout, LeaseFlag, Link, LinkState, Session, Term};
use futures::FutureExt;
use futures::future::BoxFuture;
use proto::status::LogStatus;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::config::Options;
use crate::database::Database;
use crate::standby::{HeadStart, Standby};
use crate::storage::{
    Authority, BodyFailure, BodyRef, Change, Commit, Failure, Log, Opened, Refused, Storage,
};

/// Pause before the data session is tried again.
const RECONNECT: Duration = Duration::from_millis(200);

impl Authority for LeaseFlag {
    fn holds(&self) -> bool {
        LeaseFlag::holds(self)
    }

    fn lets_out(&self, kind: &'static str) -> bool {
        LeaseFlag::lets_out(self, kind)
    }
}

/// The log of one term, not yet open or open.
#[derive(Debug)]
pub(crate) struct FencedLog {
    coord: coord::Options,
    options: LogOptions,
    runtime: Arc<ClientRuntime>,
    clock: SharedClock,
    term: Term,
    session: Option<Session>,
    /// What was read before the term, until it is opened.
    standby: Option<Standby>,
    log: Option<TaskLog>,
    /// Translates the log's failure for as long as the log is open.
    relay: JoinSet<()>,
}

impl FencedLog {
    pub(crate) fn new(options: &Options, term: Term, standby: Option<Standby>) -> Self {
        Self {
            coord: options.coord.clone(),
            options: options.log.clone(),
            runtime: Arc::clone(&options.runtime),
            clock: Arc::clone(&options.clock),
            term,
            session: None,
            standby,
            log: None,
            relay: JoinSet::new(),
        }
    }

    /// A data session, and what was read on it ahead of the term, if anything was.
    ///
    /// The session is kept as soon as it is there, so that a cancelled opening leaves it to `close`.
    async fn connected(&mut self) -> (Link, Option<(Ahead, Database)>) {
        if let Some(Standby { session, ahead, database }) = self.standby.take() {
            let link = session.link();
            if matches!(*link.state().borrow(), LinkState::Connected { .. }) {
                self.session = Some(session);
                return (link, Some((ahead, database)));
            }
            tracing::info!("the head start has lost its session: reading the task log anew");
        }
        loop {
            match Session::connect(&self.coord, Arc::clone(&self.runtime), Arc::clone(&self.clock)).await {
                Ok(session) => {
                    let link = session.link();
                    self.session = Some(session);
                    return (link, None);
                }
                Err(error) => {
                    tracing::warn!(%error, "no data session yet; trying again");
                    tokio::time::sleep(RECONNECT).await;
                }
            }
        }
    }

    async fn opened(&mut self) -> Result<Opened, String> {
        let (link, known) = self.connected().await;
        let (ahead, database) = known.unzip();
        let session_timeout = link.session_timeout().max(self.coord.session_timeout);
        let layout = Layout::of(&self.coord);
        let opened = TaskLog::open_under(link, layout, &self.term, self.options.clone(), ahead).await;
        let (log, replayed) = opened.map_err(|error| error.to_string())?;
        let (live, ahead) = match (replayed, database) {
            (Replayed::Whole(live), _) => (live, None),
            (Replayed::Since(since), Some(database)) => (Vec::new(), Some(HeadStart { database, since })),
            (Replayed::Since(_), None) => return Err("a head start that nobody had".to_owned()),
        };
        let handle = log.handle();
        self.log = Some(log);
        let mut failures = handle.failure();
        let (tell, failure) = watch::channel(None);
        let relay = async move {
            if let Ok(failed) = failures.wait_for(Option::is_some).await
                && let Some(failed) = failed.clone()
            {
                tell.send_replace(Some(translate(failed)));
            }
            // Kept open: a closed channel would say nothing that this one does not.
            tell.closed().await;
        };
        self.relay.spawn(self.coord.pulse.watch("the relay of its log's failure", relay));
        Ok(Opened { log: Arc::new(Fenced { handle, failure }), live, ahead, session_timeout })
    }
}

impl Storage for FencedLog {
    fn open(&mut self, cancel: CancellationToken) -> BoxFuture<'_, Result<Opened, String>> {
        async move {
            tokio::select! {
                biased;
                () = cancel.cancelled() => Err("cancelled".to_owned()),
                opened = self.opened() => opened,
            }
        }
        .boxed()
    }

    fn close(mut self: Box<Self>, within: Duration) -> BoxFuture<'static, Result<(), String>> {
        async move {
            let mut problems = Vec::new();
            self.relay.shutdown().await;
            let until = tokio::time::Instant::now() + within;
            if let Some(log) = self.log.take()
                && let Err(error) = log.stop(within / 2).await
            {
                problems.push(error.to_string());
            }
            let unused = self.standby.take().map(|standby| standby.session);
            tracing::debug!("the task log is closed");
            if let Some(session) = self.session.take().or(unused) {
                // It owns no ephemeral node: no fence hangs on it, so it may be closed whatever became of the rest.
                let left = until.saturating_duration_since(tokio::time::Instant::now());
                if let Err(error) = session.close(left).await {
                    problems.push(error.to_string());
                }
            }
            if problems.is_empty() { Ok(()) } else { Err(problems.join("; ")) }
        }
        .boxed()
    }
}

#[derive(Debug)]
struct Fenced {
    handle: LogHandle,
    failure: watch::Receiver<Option<Failure>>,
}

impl Log for Fenced {
    fn append(&self, changes: Vec<Change>) -> Result<Commit, Refused> {
        let commit = self.handle.append(changes).map_err(|error| match error {
            AppendRefused::Full { .. } => Refused::Full,
            AppendRefused::QueueFull { .. } => Refused::Busy,
            AppendRefused::TooLarge { .. } => Refused::TooLarge,
            AppendRefused::Stopped => Refused::Stopped,
        })?;
        Ok(async move {
            commit.await.map_err(|error| match error {
                CommitError::Deposed => Failure::Deposed,
                error => Failure::Broken(error.to_string()),
            })
        }
        .boxed())
    }

    fn room(&self) -> u64 {
        let stats = self.handle.stats();
        stats.budget_bytes.saturating_sub(stats.bytes + stats.queued_bytes)
    }

    fn status(&self) -> LogStatus {
        self.handle.stats().into()
    }

    fn put_body(&self, key: u128, data: Bytes) -> BoxFuture<'static, Result<BodyRef, BodyFailure>> {
        let handle = self.handle.clone();
        async move { handle.put_body(key, data).await.map_err(body_failure) }.boxed()
    }

    fn get_body(&self, body: BodyRef) -> BoxFuture<'static, Result<Bytes, BodyFailure>> {
        let handle = self.handle.clone();
        async move { handle.get_body(&body).await.map_err(body_failure) }.boxed()
    }

    fn delete_body(&self, body: BodyRef) -> BoxFuture<'static, Result<(), BodyFailure>> {
        let handle = self.handle.clone();
        async move { handle.delete_body(&body).await.map_err(body_failure) }.boxed()
    }

    fn collect_bodies(&self, referenced: Vec<BodyRef>) -> BoxFuture<'static, Result<usize, BodyFailure>> {
        let handle = self.handle.clone();
        async move { handle.collect_bodies(&referenced).await.map_err(body_failure) }.boxed()
    }

    fn failure(&self) -> watch::Receiver<Option<Failure>> {
        self.failure.clone()
    }
}

fn translate(failure: LogFailure) -> Failure {
    match failure {
        LogFailure::Deposed => Failure::Deposed,
        failure => Failure::Broken(failure.to_string()),
    }
}

fn body_failure(error: BodyError) -> BodyFailure {
    match error {
        BodyError::Full { .. } => BodyFailure::Full,
        BodyError::Missing(_) | BodyError::Corrupt(_) => BodyFailure::Missing,
        error => BodyFailure::Broken(error.to_string()),
    }
}
