//! What these tests share.

use std::time::Duration;

use clock::{BootClock, Clock};
use coord::{
    ClientRuntime, Fence, Layout, LeaseFlag, Mode, Op, Options, ReadBack, Session, Term, Undo, Write,
};
use proto::vip::ServiceName;
use proto::{ClusterId, Epoch, FencingToken, Incarnation, NodeId};
use testkit::until;
use uuid::Uuid;
use vip::store::{Assignment, Holder, Store};

/// However busy the machine is.
pub(crate) const SOON: Duration = Duration::from_secs(30);

pub(crate) fn layout() -> Layout {
    Layout::new("/taskd")
}

pub(crate) fn web() -> ServiceName {
    "web".parse().expect("a service's name")
}

pub(crate) fn node(name: &str) -> NodeId {
    name.parse().expect("a node's name")
}

/// A node, as far as documents are concerned.
pub(crate) struct Party {
    pub(crate) session: Session,
    pub(crate) store: Store,
    pub(crate) node: NodeId,
    pub(crate) member: String,
}

impl Party {
    /// With everything in place that a node creates when it joins.
    pub(crate) async fn start(hosts: impl Into<String>, name: &str) -> Self {
        let options = Options {
            session_timeout: Duration::from_secs(10),
            tick: Duration::from_millis(500),
            margin: Duration::from_millis(600),
            call_deadline: SOON,
            ..Options::new(hosts, layout().root())
        };
        let runtime = ClientRuntime::start().expect("threads can be started");
        let session =
            Session::connect(&options, runtime, BootClock::shared()).await.expect("a session can be opened");
        let link = session.link();
        layout().ensure(&link).await.expect("it can be written");
        let member = format!("{}/{name}", layout().members());
        let party = Self {
            store: Store::new(link, layout(), BootClock::shared()),
            session,
            node: node(name),
            member,
        };
        party.write(Op::Create { path: party.member.clone(), data: Vec::new(), mode: Mode::Ephemeral }).await;
        party
    }

    pub(crate) async fn write(&self, op: Op) {
        let read_back = ReadBack::Gone { path: "/none".into() };
        let write = Write { ops: vec![op], read_back, undo: Undo::Keep };
        self.store.link().write(write, SOON).await.expect("it can be written");
    }

    pub(crate) async fn set(&self, path: String, data: &[u8]) {
        self.write(Op::Set { path, data: data.to_vec(), version: None }).await;
    }

    /// Leads from now on.
    pub(crate) async fn elect(&self) -> Term {
        let epoch_path = layout().epoch();
        self.set(epoch_path.clone(), self.node.as_str().as_bytes()).await;
        let stat = self.store.link().exists(&epoch_path).await.expect("it can be read").expect("it is there");
        let epoch = Epoch(u64::try_from(stat.version).expect("it counts from 0"));
        let lease =
            LeaseFlag::fixed_for_tests(BootClock.now() + Duration::from_secs(600), BootClock::shared());
        Term {
            token: FencingToken { cluster: ClusterId::from_u128(1), epoch },
            fence: Fence { epoch_path, version: stat.version },
            lease,
        }
    }

    pub(crate) fn holder(&self, take: u128) -> Holder {
        let incarnation = Incarnation::from_u128(7);
        Holder { node: self.node.clone(), incarnation, take: Uuid::from_u128(take) }
    }

    pub(crate) async fn exists(&self, path: &str) -> bool {
        let link = self.store.link();
        link.sync(path).await.expect("it answers");
        link.exists(path).await.expect("it can be looked at").is_some()
    }

    pub(crate) async fn present(&self, path: &str) {
        until(&format!("{path} exists"), SOON, async || self.exists(path).await.then_some(())).await;
    }

    pub(crate) async fn absent(&self, path: &str) {
        until(&format!("{path} is gone"), SOON, async || (!self.exists(path).await).then_some(())).await;
    }

    pub(crate) async fn end(self) {
        self.session.close(SOON).await.expect("it closes");
    }
}

pub(crate) fn assignment(order: &[&str]) -> Assignment {
    Assignment {
        service: web(),
        order: order.iter().map(|name| node(name)).collect(),
        revision: 1,
        epoch: Epoch(1),
        why: "n1 is preferred".into(),
    }
}
