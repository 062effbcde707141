//! The log's store over a ZooKeeper session.
//!
//! Segments bypass the session's write actor: that resolves each lost answer by itself, and the log has to do so
//! for a whole chain at once.

use futures::FutureExt;
use futures::future::{BoxFuture, ready};
use zookeeper_client as zk;

use super::store::{Connection, ReadError, Refusal, Step, Store, Stored, Why};
use crate::{CallError, CallFailure, Link, LinkState};

impl Store for Link {
    fn writer(&self) -> u64 {
        self.session_id().0 as u64
    }

    fn submit(&self, steps: Vec<Step>) -> BoxFuture<'static, Result<(), Refusal>> {
        let Ok(client) = self.client() else { return ready(Err(Refusal::Ended)).boxed() };
        let acls = self.acls();
        let mut state = self.state();
        async move {
            // The client is dropped with this future, at the latest when the session ends: it must not keep it open.
            tokio::select! {
                biased;
                answer = commit(&client, &steps, acls) => answer,
                _ = state.wait_for(|state| state.ended().is_some()) => Err(Refusal::Ended),
            }
        }
        .boxed()
    }

    fn sync(&self, path: &str) -> BoxFuture<'_, Result<(), ReadError>> {
        let path = path.to_owned();
        async move { Link::sync(self, &path).await.map_err(read_error) }.boxed()
    }

    fn children(&self, path: &str) -> BoxFuture<'_, Result<Vec<String>, ReadError>> {
        let path = path.to_owned();
        async move {
            match Link::children(self, &path).await {
                Err(CallError { failure: CallFailure::NoNode, .. }) => Ok(Vec::new()),
                answer => answer.map_err(read_error),
            }
        }
        .boxed()
    }

    fn get(&self, path: &str) -> BoxFuture<'_, Result<Option<Stored>, ReadError>> {
        let path = path.to_owned();
        async move {
            let node = Link::get(self, &path).await.map_err(read_error)?;
            Ok(node.map(|node| Stored { data: node.data, version: node.stat.version }))
        }
        .boxed()
    }

    fn connection(&self) -> Connection {
        connection(&self.state().borrow())
    }

    fn up(&self) -> BoxFuture<'static, bool> {
        let mut state = self.state();
        async move {
            let settled = state.wait_for(|state| connection(state) != Connection::Down).await;
            settled.is_ok_and(|state| connection(&state) == Connection::Up)
        }
        .boxed()
    }

    fn down(&self) -> BoxFuture<'static, ()> {
        let mut state = self.state();
        async move {
            // An error means that nobody is left who could know: it is down.
            state.wait_for(|state| connection(state) != Connection::Up).await.ok();
        }
        .boxed()
    }
}

fn connection(state: &LinkState) -> Connection {
    match state {
        LinkState::Connected { .. } => Connection::Up,
        LinkState::Disconnected { .. } => Connection::Down,
        LinkState::Ended(_) => Connection::Ended,
    }
}

/// One transaction, sent at the first poll. Unlike the write actor's it wants no `Stat`s: some servers leave them
/// out (ZOOKEEPER-4026), and asking for them would queue a read behind the segments in flight.
async fn commit(client: &zk::Client, steps: &[Step], acls: zk::Acls<'static>) -> Result<(), Refusal> {
    let mut writer = client.new_multi_writer();
    for (at, step) in steps.iter().enumerate() {
        match step {
            Step::Check { path, version } => writer.add_check_version(path, *version),
            Step::Create { path, data } => {
                writer.add_create(path, data, &zk::CreateMode::Persistent.with_acls(acls))
            }
            Step::Set { path, data, version } => writer.add_set_data(path, data, Some(*version)),
            Step::Delete { path } => writer.add_delete(path, None),
        }
        .map_err(|error| refusal(at, error))?;
    }
    match writer.commit().await {
        Ok(_) => Ok(()),
        Err(zk::MultiWriteError::RequestFailed { source }) => Err(refusal(0, source)),
        Err(zk::MultiWriteError::OperationFailed { index, source }) => Err(refusal(index, source)),
    }
}

fn refusal(step: usize, error: zk::Error) -> Refusal {
    let why = match error {
        zk::Error::NodeExists => Why::NodeExists,
        zk::Error::NoNode => Why::NoNode,
        zk::Error::BadVersion => Why::BadVersion,
        zk::Error::SessionExpired | zk::Error::AuthFailed | zk::Error::ClientClosed => return Refusal::Ended,
        // The client cannot say whether the server got it. A moved session is one that has just reconnected.
        zk::Error::ConnectionLoss
        | zk::Error::SessionMoved
        | zk::Error::Timeout
        | zk::Error::Throttled
        | zk::Error::UnexpectedError(_)
        | zk::Error::UnmarshalError { .. }
        | zk::Error::Custom(_) => return Refusal::Lost,
        other => Why::Other(other.to_string()),
    };
    Refusal::Rejected { step, why }
}

fn read_error(error: CallError) -> ReadError {
    match error.failure {
        CallFailure::Deadline(_) => ReadError::Lost,
        CallFailure::Ended(_) => ReadError::Ended,
        CallFailure::NoNode | CallFailure::NoAuth | CallFailure::Other(_) => {
            ReadError::Refused(error.to_string())
        }
    }
}
