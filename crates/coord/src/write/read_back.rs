//! Was it done? Asked after a reconnect, on the same session.

use super::{Mode, Op, OpResult, ReadBack, Write};
use crate::{CallError, CallFailure, Link, SessionId, Stat};

/// What became of a write whose answer was lost.
#[derive(Debug)]
pub(super) enum Fate {
    Done(Vec<OpResult>),
    NotDone,
}

pub(super) async fn read_back(link: &Link, write: &Write) -> Result<Fate, CallError> {
    link.sync(write.read_back.path()).await?;
    let ours = link.session_id();
    let found = match &write.read_back {
        ReadBack::OwnEphemeral { path } => owned(link.exists(path).await?, ours).then(|| path.clone()),
        ReadBack::OwnSequential { dir, prefix } => sequential(link, dir, prefix, ours).await?,
        ReadBack::Gone { path } => (!owned(link.exists(path).await?, ours)).then(|| path.clone()),
        ReadBack::Data { path, data } => {
            link.get(path).await?.filter(|node| node.data == *data).map(|_| path.clone())
        }
    };
    let Some(found) = found else { return Ok(Fate::NotDone) };
    let mut results = Vec::with_capacity(write.ops.len());
    for op in &write.ops {
        results.push(result(link, op, &found).await?);
    }
    Ok(Fate::Done(results))
}

/// The path of our child of `dir` whose name starts with `prefix`.
async fn sequential(
    link: &Link,
    dir: &str,
    prefix: &str,
    ours: SessionId,
) -> Result<Option<String>, CallError> {
    let names = match link.children(dir).await {
        Ok(names) => names,
        Err(CallError { failure: CallFailure::NoNode, .. }) => return Ok(None),
        Err(error) => return Err(error),
    };
    for name in names.iter().filter(|name| name.starts_with(prefix)) {
        let path = format!("{dir}/{name}");
        if owned(link.exists(&path).await?, ours) {
            return Ok(Some(path));
        }
    }
    Ok(None)
}

fn owned(stat: Option<Stat>, ours: SessionId) -> bool {
    stat.is_some_and(|stat| stat.ephemeral_owner == Some(ours))
}

/// What the lost answer would have said, as far as it can still be read.
async fn result(link: &Link, op: &Op, found: &str) -> Result<OpResult, CallError> {
    Ok(match op {
        Op::Create { path, mode: Mode::EphemeralSequential | Mode::PersistentSequential, .. } => {
            let path = if found.starts_with(path.as_str()) { found } else { path };
            OpResult::Created { path: path.to_owned(), stat: link.exists(path).await?.unwrap_or_default() }
        }
        Op::Create { path, .. } => {
            OpResult::Created { path: path.clone(), stat: link.exists(path).await?.unwrap_or_default() }
        }
        Op::Set { version: Some(version), .. } => OpResult::Set { version: version.wrapping_add(1) },
        Op::Set { path, version: None, .. } => {
            OpResult::Set { version: link.exists(path).await?.unwrap_or_default().version }
        }
        Op::Delete { .. } => OpResult::Deleted,
        Op::Check { .. } => OpResult::Checked,
    })
}
