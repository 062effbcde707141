//! Three nodes on one coordination service, each with a machine in memory: what moves when, and that no two machines
//! have an address at the same time. One of them places, as a leader would.

use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use clock::{BootClock, Clock};
use coord::{
    ClientRuntime, Fence, Layout, LeaseFlag, LeaseTiming, Mode, Op, ReadBack, Session, Term, Undo, Write,
};
use proto::vip::{LocalPhase, LocalService, ServiceName, VipOrder};
use proto::{ClusterId, Epoch, FencingToken, Incarnation, NodeId};
use tempfile::TempDir;
use testkit::Proxy;
use tokio_util::sync::CancellationToken;
use vip::announce::{DryRun, Utterance};
use vip::config::Hooks;
use vip::net::memory::Memory;
use vip::net::{Foreign, Mac};
use vip::store::Store;
use vip::{AnnouncePolicy, Control, Facts, Handle, Options, Serving, Vip};

/// However busy the machine is.
const SOON: Duration = Duration::from_secs(40);

const TIMEOUT: Duration = Duration::from_secs(2);
const TICK: Duration = Duration::from_millis(500);
const MARGIN: Duration = Duration::from_millis(600);
const GRACE: Duration = Duration::from_secs(2);

const CONFIG: &str = r#"
[service.iscsi]
vips = [{ address = "172.0.20.241/24", interface = "storage" }]
preferred = ["n1", "n2", "n3"]
hold_down = "1s"
"#;

const STRANGER: Mac = Mac([0x52, 0x54, 0, 0x12, 0x34, 0x56]);

fn address() -> IpAddr {
    "172.0.20.241".parse().expect("an address")
}

fn iscsi() -> ServiceName {
    "iscsi".parse().expect("a service's name")
}

fn layout() -> Layout {
    Layout::new("/taskd")
}

/// A node: its virtual IPs, its machine, and what the quorum would do for it.
struct Node {
    name: NodeId,
    vip: Option<Vip<Serving>>,
    handle: Handle,
    machine: Memory,
    link: u32,
    network: DryRun,
    proxy: Proxy,
    session: Option<Session>,
    leads: bool,
    dir: TempDir,
}

impl Node {
    async fn start(hosts: String, name: &str) -> Self {
        let proxy = Proxy::start(hosts).await;
        let machine = Memory::new(BootClock::shared());
        let link = machine.add_interface("eth1");
        let (network, dir) = (DryRun::new(), tempfile::tempdir().expect("a directory"));
        let name: NodeId = name.parse().expect("a node's name");
        let vip = serve(&name, &machine, &network, &dir).await;
        let handle = vip.handle();
        let vip = Some(vip);
        let mut node =
            Self { name, vip, handle, machine, link, network, proxy, session: None, leads: false, dir };
        node.tend().await;
        node
    }

    /// What the quorum does: a session, a member node, and the news of both.
    async fn tend(&mut self) {
        let over =
            self.session.as_ref().is_none_or(|session| session.link().state().borrow().ended().is_some());
        if !over || self.vip.is_none() {
            return;
        }
        if let Some(session) = self.session.take() {
            self.handle.control(None);
            let _ = session.close(Duration::from_millis(100)).await;
        }
        let options = coord::Options {
            session_timeout: TIMEOUT,
            tick: TICK,
            margin: MARGIN,
            call_deadline: Duration::from_secs(2),
            ..coord::Options::new(self.proxy.hosts(), layout().root())
        };
        let runtime = ClientRuntime::start().expect("threads can be started");
        let Ok(session) = Session::connect(&options, runtime, BootClock::shared()).await else { return };
        let link = session.link();
        self.session = Some(session);
        if layout().ensure(&link).await.is_err() {
            return;
        }
        let member = format!("{}/{}-{}", layout().members(), self.name, link.session_id().0);
        let create = Op::Create { path: member.clone(), data: Vec::new(), mode: Mode::Ephemeral };
        let read_back = ReadBack::OwnEphemeral { path: member.clone() };
        let write = Write { ops: vec![create], read_back, undo: Undo::Keep };
        if link.write(write, SOON).await.is_err() {
            return;
        }
        let timing = LeaseTiming::new(link.session_timeout(), MARGIN, TICK);
        let term = if self.leads { Some(self.elect().await) } else { None };
        self.handle.control(Some(Control { link, layout: layout(), member, timing, term }));
    }

    /// Leads from now on.
    async fn elect(&self) -> Term {
        let link = self.session.as_ref().expect("it has one").link();
        let epoch_path = layout().epoch();
        let set = Op::Set { path: epoch_path.clone(), data: b"a term".to_vec(), version: None };
        let read_back = ReadBack::Gone { path: "/none".into() };
        link.write(Write { ops: vec![set], read_back, undo: Undo::Keep }, SOON)
            .await
            .expect("it can be written");
        let version = link.exists(&epoch_path).await.expect("it answers").expect("it is there").version;
        let lease =
            LeaseFlag::fixed_for_tests(BootClock.now() + Duration::from_secs(600), BootClock::shared());
        let epoch = Epoch(u64::try_from(version).expect("it counts from 0"));
        let token = FencingToken { cluster: ClusterId::from_u128(1), epoch };
        Term { token, fence: Fence { epoch_path, version }, lease }
    }

    fn has_it(&self) -> bool {
        self.machine.has(address())
    }

    fn says(&self) -> Option<LocalService> {
        self.handle.view().borrow().own.services.get(&iscsi()).cloned()
    }

    fn is(&self, phase: LocalPhase) -> bool {
        self.says().is_some_and(|says| says.phase == phase)
    }

    fn told(&self, what: &str) -> bool {
        self.handle.view().borrow().events.iter().any(|event| event.what.contains(what))
    }

    fn store(&self) -> Store {
        let link = self.session.as_ref().expect("it has one").link();
        Store::new(link, layout(), BootClock::shared())
    }

    /// Its process ends without a word; its machine stays.
    fn kill(&mut self) {
        self.proxy.blackhole();
        self.vip = None;
        if let Some(session) = self.session.take() {
            session.abandon();
        }
    }

    async fn stop(&mut self) {
        let vip = self.vip.take().expect("it runs");
        let stopped = vip.release(Duration::from_secs(20)).finish().await;
        assert!(stopped.report().is_clean(), "{:?}", stopped.report());
        assert!(!self.has_it(), "it left its address behind");
        if let Some(session) = self.session.take() {
            session.close(SOON).await.expect("it can be closed");
        }
    }
}

/// What the hooks have said.
fn hooks(dir: &TempDir) -> PathBuf {
    dir.path().join("hooks")
}

async fn serve(name: &NodeId, machine: &Memory, network: &DryRun, dir: &TempDir) -> Vip<Serving> {
    let hook = dir.path().join("hook");
    // That of a release takes its time.
    let text = format!("#!/bin/sh\n[ $1 = take ] || sleep 0.3\necho $* >> {}\n", hooks(dir).display());
    std::fs::write(&hook, text).expect("a writable directory");
    std::fs::set_permissions(&hook, std::fs::Permissions::from_mode(0o755)).expect("it is ours");
    let facts = Facts {
        interfaces: [("storage".to_owned(), "eth1".to_owned())].into(),
        hooks: Hooks { on_take: Some(hook.clone()), on_release: Some(hook) },
        ..Facts::default()
    };
    let options = Options {
        node: name.clone(),
        incarnation: Incarnation::from_u128(7),
        data_dir: dir.path().to_owned(),
        backend: Arc::new(machine.clone()),
        why_dry: None,
        announcer: Arc::new(network.clone()),
        facts,
        probe: Default::default(),
        announce: AnnouncePolicy::default(),
        clock: BootClock::shared(),
        rng_seed: u64::from(name.as_str().as_bytes()[1]),
        pulse: Default::default(),
        drill: drill::Drill::none(),
        guard: None,
    };
    Vip::new(options).clean(CancellationToken::new()).await.expect("it can be cleaned")
}

/// Looks at all machines the whole time.
struct Observer {
    stop: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<Vec<String>>>,
}

impl Observer {
    fn start(nodes: &[Node]) -> Self {
        let machines: Vec<_> = nodes.iter().map(|node| (node.name.clone(), node.machine.clone())).collect();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let mut seen = Vec::new();
            while !stopped.load(Ordering::SeqCst) {
                let have: Vec<_> = machines.iter().filter(|(_, machine)| machine.has(address())).collect();
                if have.len() > 1 {
                    // They are read one after the other: only what is still there was there at the same time.
                    let still: Vec<_> = have.iter().filter(|(_, machine)| machine.has(address())).collect();
                    if still.len() > 1 {
                        seen.push(format!("{:?}", still.iter().map(|(name, _)| name).collect::<Vec<_>>()));
                    }
                }
                thread::sleep(Duration::from_millis(2));
            }
            seen
        });
        Self { stop, thread: Some(thread) }
    }

    fn end(mut self) {
        self.stop.store(true, Ordering::SeqCst);
        let seen = self.thread.take().expect("it runs").join().expect("it does not panic");
        assert!(seen.is_empty(), "two machines had the address: {seen:?}");
    }
}

struct Cluster {
    nodes: Vec<Node>,
    observer: Observer,
}

impl Cluster {
    /// Three nodes, of which n3 places; the service is configured.
    async fn start(hosts: String) -> Self {
        let mut nodes = Vec::new();
        for name in ["n1", "n2", "n3"] {
            nodes.push(Node::start(hosts.clone(), name).await);
        }
        nodes[2].leads = true;
        let observer = Observer::start(&nodes);
        let mut cluster = Self { nodes, observer };
        cluster
            .until("all have a session", |nodes| {
                nodes.iter().all(|node| node.handle.view().borrow().connected)
            })
            .await;
        // Everybody is there before anybody places.
        cluster.until("all have reported", |nodes| nodes[0].handle.view().borrow().reports.len() == 3).await;
        cluster.lead(2).await;
        cluster
    }

    async fn lead(&mut self, n: usize) {
        let node = &self.nodes[n];
        let term = node.elect().await;
        let link = node.session.as_ref().expect("it has one").link();
        let member = format!("{}/{}-{}", layout().members(), node.name, link.session_id().0);
        let timing = LeaseTiming::new(link.session_timeout(), MARGIN, TICK);
        node.handle.control(Some(Control { link, layout: layout(), member, timing, term: Some(term) }));
    }

    async fn apply(&self, text: &str) {
        let (store, name) = (self.nodes[2].store(), &self.nodes[2].name);
        store.apply(text, None, name, 1).await.expect("it can be applied");
    }

    async fn until(&mut self, what: &str, reached: impl Fn(&[Node]) -> bool) {
        let deadline = Instant::now() + SOON;
        while !reached(&self.nodes) {
            if Instant::now() > deadline {
                for node in &self.nodes {
                    let view = node.handle.view().borrow().clone();
                    eprintln!("{}: {:?}\n  documents {:?}", node.name, view.own, view.services);
                    view.events.iter().for_each(|event| eprintln!("  {} {}", event.at_ms, event.what));
                }
                panic!("not within {SOON:?}: {what}");
            }
            for node in &mut self.nodes {
                node.tend().await;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn end(mut self) {
        for node in &mut self.nodes {
            if node.vip.is_some() {
                node.stop().await;
            }
        }
        self.observer.end();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn taken_moved_released_and_configured_no_more() {
    let coordinator = testkit::coordinator().await;
    let mut cluster = Cluster::start(coordinator.hosts()).await;
    cluster.apply(CONFIG).await;
    cluster.until("n1, the preferred one, holds it", |nodes| nodes[0].is(LocalPhase::Held)).await;
    assert!(cluster.nodes[0].has_it() && cluster.nodes[0].network.count(address(), Utterance::Probe) >= 1);
    cluster
        .until("it was announced 5 times", |nodes| {
            nodes[0].network.count(address(), Utterance::Announcement) >= 5
        })
        .await;

    let to = Some("n2".parse().expect("a name"));
    let order = VipOrder::Move { service: iscsi(), to };
    let refused = cluster.nodes[0].handle.order(order.clone()).await;
    assert_eq!(refused, Err(vip::OrderError::NotLeader));
    let leader = cluster.nodes[2].handle.clone();
    leader.order(order).await.expect("it can be moved");
    cluster.until("n2 holds it", |nodes| nodes[1].is(LocalPhase::Held) && nodes[1].has_it()).await;

    // Released in order: whoever is next need not wait the grace.
    let begun = Instant::now();
    cluster.nodes[1].stop().await;
    // The stop waits for the hook, but nobody waits for the stop.
    let heard = std::fs::read_to_string(hooks(&cluster.nodes[1].dir)).expect("hooks were run");
    assert_eq!(heard, "take iscsi 172.0.20.241\nrelease iscsi 172.0.20.241\n");
    cluster.until("somebody holds it", |nodes| nodes.iter().any(Node::has_it)).await;
    let taken = cluster.nodes.iter().find(|node| node.has_it()).expect("one does");
    assert!(!taken.told("waiting"), "the one before had released it; {:?}", begun.elapsed());

    // Another address: only what is changed is touched, and the service stays where it is.
    let at = cluster.nodes.iter().position(Node::has_it).expect("one has it");
    let second: IpAddr = "172.0.20.242".parse().expect("an address");
    let two = CONFIG.replace("}]", "}, { address = \"172.0.20.242/24\", interface = \"storage\" }]");
    cluster.apply(&two).await;
    cluster
        .until("it has both", |nodes| {
            nodes[at].has_it() && nodes[at].machine.has(second) && nodes[at].is(LocalPhase::Held)
        })
        .await;
    cluster.apply(CONFIG).await;
    cluster
        .until("it has the one", |nodes| {
            nodes[at].has_it() && !nodes[at].machine.has(second) && nodes[at].is(LocalPhase::Held)
        })
        .await;

    cluster.apply("").await;
    cluster.until("nobody holds it", |nodes| !nodes.iter().any(Node::has_it)).await;
    let store = cluster.nodes[2].store();
    testkit::until("nothing is left of it", SOON, async || store.services().await.ok().filter(Vec::is_empty))
        .await;
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_node_is_succeeded_after_its_session_and_the_grace() {
    let coordinator = testkit::coordinator().await;
    let mut cluster = Cluster::start(coordinator.hosts()).await;
    cluster.apply(CONFIG).await;
    cluster.until("n1 holds it", |nodes| nodes[0].is(LocalPhase::Held)).await;
    let killed = Instant::now();
    cluster.nodes[0].kill();
    assert!(cluster.nodes[0].has_it(), "nobody is left to remove it but the kernel");
    cluster.until("another has it", |nodes| nodes[1..].iter().any(Node::has_it)).await;
    let (gap, least) = (killed.elapsed(), TIMEOUT - TICK + GRACE);
    assert!(gap >= least, "{gap:?}: neither the session nor the grace was over");
    eprintln!("kill -9 to address: {gap:?}");
    assert!(!cluster.nodes[0].has_it());
    assert!(cluster.nodes[1..].iter().any(|node| node.told("waiting 2000 ms")));

    // It starts again: what it left is cleaned, and it takes nothing back.
    let node = &mut cluster.nodes[0];
    let net = "172.0.20.241/24".parse().expect("an address");
    assert!(node.machine.leave(node.link, net, true, None), "as if the kernel had kept it");
    let begun = Instant::now();
    cluster.observer.end();
    let vip = serve(&node.name, &node.machine, &node.network, &node.dir).await;
    assert!(!node.has_it(), "cleaned before it joins");
    eprintln!("cleaned in {:?}", begun.elapsed());
    cluster.observer = Observer::start(&cluster.nodes);
    let node = &mut cluster.nodes[0];
    node.handle = vip.handle();
    node.vip = Some(vip);
    node.proxy.heal();
    cluster
        .until("it is fit again", |nodes| {
            nodes[0].says().is_some_and(|says| says.unfit.is_none() && says.phase == LocalPhase::Idle)
        })
        .await;
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn somebody_else_has_it() {
    let coordinator = testkit::coordinator().await;
    let mut cluster = Cluster::start(coordinator.hosts()).await;
    cluster.nodes.iter().for_each(|node| node.network.answers(address(), Some(STRANGER)));
    cluster.apply(CONFIG).await;
    cluster.until("n1 is blocked", |nodes| nodes[0].is(LocalPhase::Blocked)).await;
    let says = cluster.nodes[0].says().expect("it says something");
    let conflict = says.conflict.expect("it says who");
    assert_eq!((conflict.mac.as_str(), conflict.interface.as_str()), ("52:54:00:12:34:56", "eth1"));
    assert!(says.note.is_some_and(|note| note.contains("find that machine")));
    assert!(!cluster.nodes.iter().any(Node::has_it));
    cluster.nodes.iter().for_each(|node| node.network.answers(address(), None));
    cluster.until("n1 holds it", |nodes| nodes[0].is(LocalPhase::Held) && nodes[0].has_it()).await;

    // While it is held: proved to be ours, it is announced again, and said.
    let announced = cluster.nodes[0].network.count(address(), Utterance::Announcement);
    cluster.nodes[0].network.hear(Foreign { address: address(), mac: STRANGER });
    cluster
        .until("it is defended", |nodes| {
            nodes[0].told("also says that it has")
                && nodes[0].network.count(address(), Utterance::Announcement) >= announced + 5
        })
        .await;
    assert!(cluster.nodes[0].has_it());
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn somebody_removes_it() {
    let coordinator = testkit::coordinator().await;
    let mut cluster = Cluster::start(coordinator.hosts()).await;
    cluster.apply(CONFIG).await;
    cluster.until("n1 holds it", |nodes| nodes[0].is(LocalPhase::Held)).await;
    let net = "172.0.20.241/24".parse().expect("an address");
    let mut best = SOON;
    // The machine may be busy with others: once has to be quick. More often within ten seconds would be a fight.
    let at_once = Duration::from_millis(20);
    for _ in 0..9 {
        let removed = Instant::now();
        let node = &cluster.nodes[0];
        assert!(node.machine.stranger_removes(node.link, net));
        while !node.has_it() {
            assert!(removed.elapsed() < SOON, "it is not put back");
            tokio::task::yield_now().await;
        }
        best = best.min(removed.elapsed());
        if best < at_once {
            break;
        }
    }
    assert!(best < at_once, "{best:?}");
    cluster.until("it says so", |nodes| nodes[0].told("put back and announced")).await;
    // The cable is out: it goes elsewhere; and stays there when it is in again.
    cluster.nodes[0].machine.set_carrier(cluster.nodes[0].link, false);
    cluster.until("n2 holds it", |nodes| nodes[1].is(LocalPhase::Held) && !nodes[0].has_it()).await;
    assert!(!cluster.nodes[1].told("waiting"), "it was released");
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_coordination_it_goes_within_the_lease_and_comes_back() {
    let coordinator = testkit::coordinator().await;
    let mut cluster = Cluster::start(coordinator.hosts()).await;
    cluster.apply(CONFIG).await;
    cluster.until("n1 holds it", |nodes| nodes[0].is(LocalPhase::Held)).await;
    let gone = Instant::now();
    cluster.nodes.iter().for_each(|node| node.proxy.blackhole());
    while cluster.nodes[0].has_it() {
        assert!(gone.elapsed() < SOON, "it outlives its lease");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let took = gone.elapsed();
    // T − margin at most, and how busy the machine is.
    assert!(took < TIMEOUT - MARGIN + Duration::from_secs(1), "{took:?}");
    cluster.nodes.iter().for_each(|node| node.proxy.heal());
    cluster
        .until("somebody holds it again", |nodes| {
            nodes.iter().any(|node| node.is(LocalPhase::Held) && node.has_it())
        })
        .await;
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_interface_of_the_same_name_is_what_the_disk_and_the_guard_are_told_of() {
    let coordinator = testkit::coordinator().await;
    let mut cluster = Cluster::start(coordinator.hosts()).await;
    // Recorded, and not put yet.
    cluster.nodes.iter().for_each(|node| node.network.answers(address(), Some(STRANGER)));
    cluster.apply(CONFIG).await;
    cluster.until("n1 is blocked", |nodes| nodes[0].is(LocalPhase::Blocked)).await;
    let recorded = |node: &Node, link: u32| {
        let file = std::fs::read_to_string(node.dir.path().join("vips.json")).unwrap_or_default();
        file.contains(&format!("\"link\":{link},"))
    };
    let old = cluster.nodes[0].link;
    cluster.until("the old one is recorded", |nodes| recorded(&nodes[0], old)).await;
    let new = cluster.nodes[0].machine.add_interface("eth1");
    cluster.nodes[0].machine.remove_interface(old);
    cluster.until("the new one is recorded", |nodes| recorded(&nodes[0], new)).await;
    cluster.nodes.iter().for_each(|node| node.network.answers(address(), None));
    cluster.until("n1 holds it", |nodes| nodes[0].is(LocalPhase::Held) && nodes[0].has_it()).await;
    assert!(cluster.nodes[0].machine.list().iter().all(|address| address.link == new));
    cluster.end().await;
}

async fn alone(hosts: String) -> Node {
    let node = Node::start(hosts, "n1").await;
    testkit::until("it has a session", SOON, async || node.handle.view().borrow().connected.then_some(()))
        .await;
    node
}

#[tokio::test(flavor = "multi_thread")]
async fn orders_do_not_gather_while_nobody_carries_them_out() {
    let coordinator = testkit::coordinator().await;
    let mut node = alone(coordinator.hosts()).await;
    node.proxy.blackhole();
    let drain = || VipOrder::Drain { node: "n9".parse().expect("a name"), why: "test".to_owned() };
    let orders: Vec<_> = (0..65).map(|_| Box::pin(node.handle.order(drain()))).collect();
    // The others are told when the session ends, at the earliest.
    let (first, _, _) = futures::future::select_all(orders).await;
    let Err(vip::OrderError::NotDone(why)) = first else { panic!("{first:?}") };
    assert!(why.contains("64 orders"), "{why}");
    node.proxy.heal();
    node.kill();
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_reconnect_nothing_stays_that_the_session_owns_and_nobody_knows_of() {
    let coordinator = testkit::coordinator().await;
    let mut node = alone(coordinator.hosts()).await;
    let link = node.session.as_ref().expect("it has one").link();
    let ghost: ServiceName = "ghost".parse().expect("a service's name");
    link.ensure(&layout().vip_term(&ghost)).await.expect("it can be created");
    let holder = layout().vip_holder(&ghost);
    let create = Op::Create { path: holder.clone(), data: Vec::new(), mode: Mode::Ephemeral };
    let read_back = ReadBack::OwnEphemeral { path: holder.clone() };
    link.write(Write { ops: vec![create], read_back, undo: Undo::Keep }, SOON).await.expect("it is written");
    node.proxy.cut();
    testkit::until("it is given up", SOON, async || match link.exists(&holder).await {
        Ok(None) => Some(()),
        _ => None,
    })
    .await;
    assert!(link.state().borrow().ended().is_none(), "it did not go with its session");
    assert!(node.told("that nobody here knows of"));
    node.stop().await;
}
