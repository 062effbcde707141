//! What the documents become: one task per session that follows them all and delivers each change, typed.
//!
//! One-shot watches only (`coord`'s followers), so that a lost connection loses no change. Changes that come faster than
//! the receiver takes them are reported as one.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use coord::{ChildrenFollower, Ended, Node, NodeFollower};
use futures::StreamExt;
use futures::future::{AbortHandle, Abortable, BoxFuture};
use futures::stream::FuturesUnordered;
use proto::NodeId;
use proto::vip::{ConfigText, Drained, NodeReport, ServiceName};
use pulse::Pulse;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::{Assignment, Document, Holder, Store, Term, document};

/// Services that are followed at most, and nodes. More are said in the log, and ignored.
pub const FOLLOWED_MAX: usize = 1024;

/// Changes that may wait for their receiver; what follows waits beyond that.
const CHANGES_MAX: usize = 64;

/// What a document is now. Each comes once at first, absent ones included: what has not come yet is not known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// The configuration. None: the cluster is not prepared yet, which is as if none was ever applied.
    Config(Document<Arc<ConfigText>>),
    /// The nodes that are to hold nothing.
    Drained(Document<BTreeMap<NodeId, Drained>>),
    /// The services about which there is anything, configured or not. What was known of others is void.
    Services(BTreeSet<ServiceName>),
    /// Who is to hold a service.
    Assignment(ServiceName, Document<Assignment>),
    /// Who holds it.
    Holder(ServiceName, Document<Holder>),
    /// What is known of the last one who did; never garbage, which is [`Term::Unknown`].
    Term(ServiceName, Document<Term>),
    /// The nodes that say anything of themselves. What was known of others is void.
    Nodes(BTreeSet<NodeId>),
    /// What a node says of itself; never garbage, which is [`NodeReport::unreadable`].
    Report(NodeId, Document<NodeReport>),
    /// The session is over; nothing follows.
    Ended(Ended),
}

/// The changes on one session. Dropping it ends the task behind it.
#[derive(Debug)]
pub struct Followers {
    changes: mpsc::Receiver<Change>,
    _task: JoinSet<()>,
}

impl Followers {
    /// Follows everything on the store's session. It ends when that is over.
    ///
    /// Every node that follows is woken by every report, so that n nodes cost n² small reads when all of them start.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn start(store: &Store, pulse: &Pulse) -> Self {
        let (to, changes) = mpsc::channel(CHANGES_MAX);
        let mut task = JoinSet::new();
        task.spawn(pulse.watch("what it follows", run(store.clone(), to)));
        Self { changes, _task: task }
    }

    /// The next change; none once the session is over, or the task has failed.
    ///
    /// # Cancel safety
    /// Safe: no change is lost.
    pub async fn next(&mut self) -> Option<Change> {
        self.changes.recv().await
    }
}

/// What is followed one by one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    Config,
    Drained,
    Assignment(ServiceName),
    Holder(ServiceName),
    Term(ServiceName),
    Report(NodeId),
}

/// One follower's next state.
struct Turn {
    key: Key,
    follower: NodeFollower,
    node: Result<Option<Node>, Ended>,
}

/// The receiver is gone.
struct Unwanted;

struct Loop {
    store: Store,
    to: mpsc::Sender<Change>,
    turns: FuturesUnordered<Abortable<BoxFuture<'static, Turn>>>,
    live: BTreeMap<Key, AbortHandle>,
}

async fn run(store: Store, to: mpsc::Sender<Change>) {
    let mut services = store.link.follow_children(store.layout.vips());
    let mut nodes = store.link.follow_children(store.layout.vip_nodes());
    let mut all = Loop { store, to: to.clone(), turns: FuturesUnordered::new(), live: BTreeMap::new() };
    for key in [Key::Config, Key::Drained] {
        all.follow(key);
    }
    tokio::select! {
        () = to.closed() => {}
        _ = all.run(&mut services, &mut nodes) => {}
    }
}

impl Loop {
    async fn run(
        &mut self,
        services: &mut ChildrenFollower,
        nodes: &mut ChildrenFollower,
    ) -> Result<(), Unwanted> {
        let ended = loop {
            tokio::select! {
                names = services.next() => match names {
                    Ok(names) => self.services(&names).await?,
                    Err(ended) => break ended,
                },
                names = nodes.next() => match names {
                    Ok(names) => self.nodes(&names).await?,
                    Err(ended) => break ended,
                },
                Some(turn) = self.turns.next(), if !self.turns.is_empty() => {
                    // An aborted one was given up.
                    let Ok(turn) = turn else { continue };
                    if let Err(ended) = self.turn(turn).await? {
                        break ended;
                    }
                }
            }
        };
        self.send(Change::Ended(ended)).await
    }

    async fn send(&mut self, change: Change) -> Result<(), Unwanted> {
        self.to.send(change).await.map_err(|_| Unwanted)
    }

    fn follow(&mut self, key: Key) {
        if !self.live.contains_key(&key) {
            let follower = self.store.link.follow_node(self.path(&key));
            self.go_on(key, follower);
        }
    }

    fn go_on(&mut self, key: Key, mut follower: NodeFollower) {
        let (handle, registration) = AbortHandle::new_pair();
        self.live.insert(key.clone(), handle);
        let turn = async move {
            let node = follower.next().await;
            Turn { key, follower, node }
        };
        self.turns.push(Abortable::new(Box::pin(turn), registration));
    }

    /// Gives up what is not wanted any more.
    fn keep(&mut self, wanted: impl Fn(&Key) -> bool) {
        for (_, unwanted) in self.live.extract_if(.., |key, _| !wanted(key)) {
            unwanted.abort();
        }
    }

    fn path(&self, key: &Key) -> String {
        let layout = &self.store.layout;
        match key {
            Key::Config => layout.config(),
            Key::Drained => layout.drained(),
            Key::Assignment(service) => layout.vip_assignment(service),
            Key::Holder(service) => layout.vip_holder(service),
            Key::Term(service) => layout.vip_term(service),
            Key::Report(node) => layout.vip_node(node),
        }
    }

    async fn services(&mut self, names: &[String]) -> Result<(), Unwanted> {
        let services: BTreeSet<ServiceName> = parsed("vips", names);
        self.keep(|key| match key {
            Key::Assignment(service) | Key::Holder(service) | Key::Term(service) => {
                services.contains(service)
            }
            Key::Config | Key::Drained | Key::Report(_) => true,
        });
        self.send(Change::Services(services.clone())).await?;
        for service in services {
            self.follow(Key::Assignment(service.clone()));
            self.follow(Key::Holder(service.clone()));
            self.follow(Key::Term(service));
        }
        Ok(())
    }

    async fn nodes(&mut self, names: &[String]) -> Result<(), Unwanted> {
        let nodes: BTreeSet<NodeId> = parsed("vip-nodes", names);
        self.keep(|key| !matches!(key, Key::Report(node) if !nodes.contains(node)));
        self.send(Change::Nodes(nodes.clone())).await?;
        for node in nodes {
            self.follow(Key::Report(node));
        }
        Ok(())
    }

    async fn turn(&mut self, last: Turn) -> Result<Result<(), Ended>, Unwanted> {
        let Turn { key, follower, node } = last;
        let node = match node {
            Ok(node) => node,
            Err(ended) => return Ok(Err(ended)),
        };
        let (path, node) = (follower.path(), node.as_ref());
        let change = match key.clone() {
            Key::Config => {
                let config = document::config(path, node);
                Change::Config(config.map(|found| found.map(shared)))
            }
            Key::Drained => Change::Drained(document::drained(path, node)),
            Key::Assignment(service) => {
                let assignment = document::assignment(path, &service, node);
                Change::Assignment(service, assignment)
            }
            Key::Holder(service) => Change::Holder(service, document::holder(path, node)),
            Key::Term(service) => {
                let term = document::term(node);
                if term.as_ref().is_some_and(|found| found.value == Term::Unknown) {
                    let wait_s = super::GRACE_MAX.as_secs();
                    tracing::warn!(
                        path,
                        wait_s,
                        "a term was edited or deleted: whoever takes the service next waits"
                    );
                }
                Change::Term(service, Ok(term))
            }
            Key::Report(of) => {
                let report = document::report(path, &of, node).or_else(|garbage| {
                    tracing::warn!(%garbage, "its node counts as there, and as able to hold nothing");
                    Ok(node.map(|node| document::stand_in(&of, node, &garbage)))
                });
                Change::Report(of, report)
            }
        };
        if let Some(garbage) = change.garbage() {
            tracing::warn!(%garbage, "a document of the virtual IPs is not followed until it changes");
        }
        self.go_on(key, follower);
        self.send(change).await.map(Ok)
    }
}

impl Change {
    fn garbage(&self) -> Option<&super::Garbage> {
        match self {
            Self::Config(document) => document.as_ref().err(),
            Self::Drained(document) => document.as_ref().err(),
            Self::Assignment(_, document) => document.as_ref().err(),
            Self::Holder(_, document) => document.as_ref().err(),
            Self::Term(_, document) => document.as_ref().err(),
            Self::Report(_, document) => document.as_ref().err(),
            Self::Services(_) | Self::Nodes(_) | Self::Ended(_) => None,
        }
    }
}

fn shared<T>(found: super::Found<T>) -> super::Found<Arc<T>> {
    let super::Found { value, version, mark, owner } = found;
    super::Found { value: Arc::new(value), version, mark, owner }
}

/// The names that are what they should be, no more than are followed.
fn parsed<T: Ord + std::str::FromStr>(dir: &str, names: &[String]) -> BTreeSet<T> {
    let (good, bad): (Vec<_>, Vec<_>) =
        names.iter().map(|name| name.parse::<T>().map_err(|_| name)).partition(Result::is_ok);
    for name in bad.into_iter().filter_map(Result::err) {
        tracing::warn!(dir, %name, "ignoring a node that nobody of us would have created");
    }
    if good.len() > FOLLOWED_MAX {
        tracing::error!(dir, found = good.len(), followed = FOLLOWED_MAX, "too many; the rest is ignored");
    }
    good.into_iter().filter_map(Result::ok).take(FOLLOWED_MAX).collect()
}
