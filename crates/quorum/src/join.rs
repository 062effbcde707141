//! Becoming a member: a session, the cluster's record, what a predecessor left, our own member node.

use std::sync::Arc;

use coord::{
    CallError, CallFailure, Layout, Link, Mode, Op, OpResult, ReadBack, Rejection, Session, SessionId,
};
use coord::{Undo, Write, WriteError};
use election::{LeaderRecord, MemberUuid};
use proto::ClusterId;
use tokio::sync::Mutex;
use tokio::time::{Instant as Deadline, sleep, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::config::Options;
use crate::error::{ConnectFailure, JoinError, JoinFailure};
use crate::identity::{Identity, Life};
use crate::record::{
    ClusterRecord, FEATURE_LEVEL, FORMAT, MemberRecord, encode, member_prefix, parse_member,
};

/// Pauses between attempts, growing.
const PAUSE_FIRST: std::time::Duration = std::time::Duration::from_millis(100);
const PAUSE_MAX: std::time::Duration = std::time::Duration::from_secs(1);

/// A place in the cluster, and the session that it lives with.
#[derive(Debug)]
pub(crate) struct Membership {
    pub(crate) session: Session,
    pub(crate) place: Place,
}

/// What is known of a membership apart from its session.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) cluster: ClusterId,
    pub(crate) uuid: MemberUuid,
    pub(crate) path: String,
    pub(crate) sequence: u64,
}

/// Opens a session, trying again until the deadline.
pub(crate) async fn connect(
    options: &Options,
    cancel: &CancellationToken,
) -> Result<Session, ConnectFailure> {
    let within = options.join_deadline;
    let deadline = Deadline::now() + within;
    let mut pause = PAUSE_FIRST;
    loop {
        let attempt = Session::connect(&options.coord, options.runtime.clone(), options.clock.clone());
        let failure = tokio::select! {
            () = cancel.cancelled() => return Err(ConnectFailure::Cancelled),
            session = attempt => match session {
                Ok(session) => return Ok(session),
                Err(error) => error,
            },
        };
        if !failure.is_transient() || Deadline::now() + pause >= deadline {
            return Err(ConnectFailure::Failed { within, source: failure });
        }
        tracing::warn!(error = %failure, "no session yet; trying again");
        tokio::select! {
            () = cancel.cancelled() => return Err(ConnectFailure::Cancelled),
            () = sleep(pause) => {}
        }
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// Joins on a first session, or on another one if that ends, trying again until the deadline.
pub(crate) async fn join_first(
    options: &Options,
    session: Session,
    uuids: &mut Uuids,
    cancel: &CancellationToken,
) -> Result<Membership, JoinFailure> {
    let within = options.join_deadline;
    let deadline = Deadline::now() + within;
    let mut pause = PAUSE_FIRST;
    let mut next = Some(session);
    loop {
        let fresh = Fresh { uuid: uuids.draw(), cluster: uuids.draw_cluster(), fenced: None };
        let failure = match attempt(options, next.take(), fresh, deadline, cancel).await {
            Ok(membership) => return Ok(membership),
            Err(JoinError::Cancelled) => return Err(JoinFailure::Cancelled),
            Err(error) => error,
        };
        if !failure.is_transient() || Deadline::now() + pause >= deadline {
            return Err(JoinFailure::Failed { within, source: failure });
        }
        tracing::warn!(error = %failure, "not joined yet; trying again");
        tokio::select! {
            () = cancel.cancelled() => return Err(JoinFailure::Cancelled),
            () = sleep(pause) => {}
        }
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// What one attempt starts from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fresh {
    /// Of the membership to be.
    pub(crate) uuid: MemberUuid,
    /// Of the cluster, if we turn out to found it.
    pub(crate) cluster: ClusterId,
    /// An earlier session of this very process whose effects may still be alive: nothing of it is removed early.
    pub(crate) fenced: Option<SessionId>,
}

/// One attempt, by `deadline`. On failure the session is closed.
///
/// Not cancel safe: a dropped future abandons the session. Use `cancel`.
pub(crate) async fn attempt(
    options: &Options,
    session: Option<Session>,
    fresh: Fresh,
    deadline: Deadline,
    cancel: &CancellationToken,
) -> Result<Membership, JoinError> {
    let started = Deadline::now();
    let late = || JoinError::Deadline(deadline.saturating_duration_since(started));
    let session = match session {
        Some(session) => session,
        None => {
            let connect = Session::connect(&options.coord, options.runtime.clone(), options.clock.clone());
            tokio::select! {
                () = cancel.cancelled() => return Err(JoinError::Cancelled),
                session = timeout_at(deadline, connect) => session.map_err(|_| late())??,
            }
        }
    };
    let (link, disk) = (session.link(), Disk::default());
    let joined = tokio::select! {
        () = cancel.cancelled() => Err(JoinError::Cancelled),
        joined = timeout_at(deadline, join(options, &link, &disk, fresh)) => {
            joined.unwrap_or_else(|_| Err(late()))
        }
    };
    match joined {
        Ok(place) => Ok(Membership { session, place }),
        Err(error) => {
            // Whatever was created goes with it. Nothing is fenced by it yet.
            if let Err(error) = session.close(options.coord.call_deadline).await {
                tracing::warn!(%error, "closing after a failed join");
            }
            // Nothing goes on behind the failure: what is still being written must not replace what the next try writes.
            if timeout(options.coord.call_deadline, disk.lock()).await.is_err() {
                tracing::warn!("the disk does not answer after a failed join");
            }
            Err(error)
        }
    }
}

async fn join(options: &Options, link: &Link, disk: &Disk, fresh: Fresh) -> Result<Place, JoinError> {
    let Fresh { uuid, fenced, .. } = fresh;
    let (negotiated, margin) = (link.session_timeout(), options.coord.margin);
    if negotiated <= margin {
        return Err(JoinError::TimeoutTooShort { negotiated, margin });
    }
    let layout = Layout::of(&options.coord);
    let known = load(options, disk).await?;
    let expected = options.expected_cluster.or(known.as_ref().map(|identity| identity.cluster));
    let cluster = cluster(link, &layout, expected, fresh.cluster).await?;
    layout.ensure(link).await?;

    let before = known.as_ref().map(Identity::lives).unwrap_or_default();
    let (kept, ended): (Vec<Life>, Vec<Life>) =
        before.iter().partition(|life| Some(life.session) == fenced || life.session == link.session_id());
    for life in ended {
        end_predecessor(options, link, &layout, life).await?;
    }
    // First remembered, then created: a node that dies in between leaves a name that nothing bears, not the reverse.
    let life = Life { session: link.session_id(), member_uuid: uuid };
    store(options, disk, Identity::beginning(cluster, life, before)).await?;

    let (path, sequence) = create_member(options, link, uuid).await?;
    store(options, disk, Identity::beginning(cluster, life, kept)).await?;
    Ok(Place { cluster, uuid, path, sequence })
}

/// Held by whoever works on the disk, which cannot be called off: by the work itself, not by whoever waits for it.
type Disk = Arc<Mutex<()>>;

async fn load(options: &Options, disk: &Disk) -> Result<Option<Identity>, JoinError> {
    let store = options.identity.clone();
    blocking(disk, move || store.load()).await
}

async fn store(options: &Options, disk: &Disk, identity: Identity) -> Result<(), JoinError> {
    let store = options.identity.clone();
    blocking(disk, move || store.store(&identity)).await
}

/// A disk may be slow; the event loop must not be.
async fn blocking<T: Send + 'static>(
    disk: &Disk,
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> Result<T, JoinError> {
    let held = Arc::clone(disk).lock_owned().await;
    let done = tokio::task::spawn_blocking(move || {
        let _held = held;
        work()
    })
    .await;
    done.map_err(std::io::Error::other).and_then(|done| done).map_err(JoinError::Identity)
}

/// The cluster's uuid. Only a node that belongs nowhere creates one: an ensemble that lost its data must not become
/// another cluster under nodes that remember the old.
async fn cluster(
    link: &Link,
    layout: &Layout,
    expected: Option<ClusterId>,
    new: ClusterId,
) -> Result<ClusterId, JoinError> {
    let path = layout.cluster();
    link.sync("/").await?;
    let node = match expected {
        None => {
            link.ensure(layout.root()).await?;
            let record = ClusterRecord { uuid: new, format: FORMAT, feature_level: FEATURE_LEVEL };
            Some(link.create_or_get(&path, &encode(&record)).await?)
        }
        Some(_) => link.get(&path).await?,
    };
    check_cluster(node.as_ref(), expected, path)
}

/// The cluster's uuid, if the record at `path` is that of the `expected` one.
pub(crate) fn check_cluster(
    node: Option<&coord::Node>,
    expected: Option<ClusterId>,
    path: String,
) -> Result<ClusterId, JoinError> {
    let Some(node) = node else {
        return Err(expected.map_or_else(
            || JoinError::Garbage { path: path.clone(), reason: "there is nothing".into() },
            |expected| JoinError::Wiped { expected, path: path.clone() },
        ));
    };
    let record: ClusterRecord = serde_json::from_slice(&node.data)
        .map_err(|error| JoinError::Garbage { path: path.clone(), reason: error.to_string() })?;
    if record.format != FORMAT {
        return Err(JoinError::Format { found: record.format, path });
    }
    match expected {
        Some(expected) if expected != record.uuid => {
            Err(JoinError::Foreign { expected, found: record.uuid, path })
        }
        _ => Ok(record.uuid),
    }
}

/// Deletes what a membership of an earlier life left: by session and uuid, never by node id, which a cloned machine
/// shares with its living twin. The caller has ended that life's processes before.
async fn end_predecessor(
    options: &Options,
    link: &Link,
    layout: &Layout,
    life: Life,
) -> Result<(), JoinError> {
    let prefix = format!("_c_{}-", life.member_uuid);
    for dir in [layout.candidates(), layout.members()] {
        for name in link.children(&dir).await?.into_iter().filter(|name| name.starts_with(&prefix)) {
            let path = format!("{dir}/{name}");
            let owner = link.exists(&path).await?.and_then(|stat| stat.ephemeral_owner);
            if owner == Some(life.session) {
                delete(options, link, &path, Vec::new()).await?;
                tracing::info!(%path, session = %life.session, "removed what this node's previous life left");
            }
        }
    }
    if delete_leader_of(options, link, layout, life.session, Some(life.member_uuid)).await? {
        tracing::info!(session = %life.session, "removed the leader node of this node's previous life");
    }
    end_vips(options, link, layout, life.session).await
}

/// Deletes what that session says of virtual IPs, and what it holds if this machine has none of them any more: a holder is a
/// fence as long as it may. The terms stay, so that whoever takes next waits all the same.
async fn end_vips(
    options: &Options,
    link: &Link,
    layout: &Layout,
    session: SessionId,
) -> Result<(), JoinError> {
    let owned = async |path: &str| {
        let stat = link.exists(path).await?;
        Ok::<_, CallError>(stat.filter(|stat| stat.ephemeral_owner == Some(session)))
    };
    for name in link.children(&layout.vips()).await? {
        let Ok(service) = name.parse() else { continue };
        let path = layout.vip_holder(&service);
        if owned(&path).await?.is_none() {
            continue;
        }
        if !*options.vips_gone.borrow() {
            tracing::info!(%path, %session, "an address of it may be left on this machine: it goes with its session");
            continue;
        }
        // The term before another look: every take writes it, and another node may take between look and delete.
        let Some(term) = link.exists(&layout.vip_term(&service)).await? else { continue };
        if owned(&path).await?.is_some() {
            let guard = Op::Check { path: layout.vip_term(&service), version: term.version };
            delete(options, link, &path, vec![guard]).await?;
            tracing::info!(%path, %session, "removed the holder node of this node's previous life");
        }
    }
    let path = layout.vip_node(&options.node);
    if let Some(stat) = owned(&path).await? {
        let delete = Op::Delete { path: path.clone(), version: Some(stat.version) };
        let read_back = ReadBack::Gone { path: path.clone() };
        let write = Write { ops: vec![delete], read_back, undo: Undo::Keep };
        match link.write(write, options.coord.call_deadline).await {
            Ok(_) | Err(WriteError::Rejected { reason: Rejection::NoNode | Rejection::BadVersion, .. }) => {}
            Err(source) => {
                return Err(JoinError::Write { what: format!("the removal of {path}"), source });
            }
        }
    }
    Ok(())
}

/// Deletes `leader` if that session owns it. Guarded by `epoch`, so that never another leader's is hit: between the
/// read and the delete, ours may expire and another node may claim.
pub(crate) async fn delete_leader_of(
    options: &Options,
    link: &Link,
    layout: &Layout,
    session: SessionId,
    uuid: Option<MemberUuid>,
) -> Result<bool, JoinError> {
    let Some(epoch) = link.exists(&layout.epoch()).await? else { return Ok(false) };
    let path = layout.leader();
    let Some(node) = link.get(&path).await? else { return Ok(false) };
    let record = serde_json::from_slice::<LeaderRecord>(&node.data).ok();
    let named = uuid.is_none_or(|uuid| record.is_some_and(|record| record.uuid == uuid));
    if node.stat.ephemeral_owner != Some(session) || !named {
        return Ok(false);
    }
    let guard = Op::Check { path: layout.epoch(), version: epoch.version };
    delete(options, link, &path, vec![guard]).await?;
    Ok(true)
}

/// Deletes an ephemeral that may vanish on its own.
pub(crate) async fn delete(
    options: &Options,
    link: &Link,
    path: &str,
    mut ops: Vec<Op>,
) -> Result<(), JoinError> {
    ops.push(Op::Delete { path: path.to_owned(), version: Some(0) });
    let write = Write { ops, read_back: ReadBack::Gone { path: path.to_owned() }, undo: Undo::Keep };
    match link.write(write, options.coord.call_deadline).await {
        Ok(_) | Err(WriteError::Rejected { reason: Rejection::NoNode | Rejection::BadVersion, .. }) => Ok(()),
        Err(source) => Err(JoinError::Write { what: format!("the removal of {path}"), source }),
    }
}

/// Creates our member node. Its name holds the uuid, by which it is found again when the answer is lost.
pub(crate) async fn create_member(
    options: &Options,
    link: &Link,
    uuid: MemberUuid,
) -> Result<(String, u64), JoinError> {
    let dir = Layout::of(&options.coord).members();
    let prefix = member_prefix(uuid);
    let record = MemberRecord {
        node: options.node.clone(),
        incarnation: options.incarnation,
        address: options.address.clone(),
        labels: options.labels.clone(),
        version: options.version.clone(),
    };
    let create = Op::Create {
        path: format!("{dir}/{prefix}"),
        data: encode(&record),
        mode: Mode::EphemeralSequential,
    };
    let read_back = ReadBack::OwnSequential { dir: dir.clone(), prefix };
    let write = Write { ops: vec![create], read_back, undo: Undo::DeleteOwn };
    let results = link
        .write(write, options.coord.call_deadline)
        .await
        .map_err(|source| JoinError::Write { what: format!("our member node below {dir}"), source })?;
    let path = results.into_iter().find_map(|result| match result {
        OpResult::Created { path, .. } => Some(path),
        _ => None,
    });
    let parsed = path.and_then(|path| {
        let (_, sequence) = parse_member(path.rsplit('/').next()?)?;
        Some((path, sequence))
    });
    let (path, sequence) = parsed.ok_or_else(|| {
        let failure = CallFailure::Other("the answer to a sequential create names no sequence".into());
        JoinError::Call(CallError { operation: "create a member below", path: dir, failure })
    })?;
    tracing::info!("Joined by creating path: {path} with value: {}", options.address);
    Ok((path, sequence))
}

/// Draws uuids from the seed that was handed in.
#[derive(Debug)]
pub(crate) struct Uuids(rand::rngs::StdRng);

impl Uuids {
    pub(crate) fn new(seed: u64) -> Self {
        Self(rand::SeedableRng::seed_from_u64(seed))
    }

    pub(crate) fn draw(&mut self) -> MemberUuid {
        MemberUuid(self.bits())
    }

    pub(crate) fn draw_cluster(&mut self) -> ClusterId {
        ClusterId::from_u128(self.bits())
    }

    /// A number below `limit`, to spread what many nodes do.
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        (self.bits() as u64) % limit.max(1)
    }

    fn bits(&mut self) -> u128 {
        use rand::Rng;
        (u128::from(self.0.next_u64()) << 64) | u128::from(self.0.next_u64())
    }
}
