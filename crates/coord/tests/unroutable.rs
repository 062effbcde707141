//! The route to an IP-literal endpoint is removed: the client's session task spins for ever once its own deadline
//! has passed. Ours ends it before, and gives it no literals. In a network namespace of its own, so it needs root.

use std::net::Ipv4Addr;
use std::process::Command;
use std::time::Duration;

use clock::BootClock;
use coord::{ClientRuntime, Ended, LinkState, Options, Session};
use nix::sched::{CloneFlags, unshare};
use testkit::{Keeper, Zoo, until};
use zookeeper_client as zk;

const TIMEOUT: Duration = Duration::from_secs(2);
const SOON: Duration = Duration::from_secs(10);

/// Moves this thread, and whatever it starts, into a network of its own with nothing but a loopback.
fn own_network() -> bool {
    if !nix::unistd::Uid::effective().is_root() || unshare(CloneFlags::CLONE_NEWNET).is_err() {
        testkit::skip("a network namespace needs root");
        return false;
    }
    ip(&["link", "set", "lo", "up"]);
    route("add");
    true
}

const SERVER: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 1);

/// Without it, connecting to the server fails at once with ENETUNREACH.
fn route(change: &str) {
    ip(&["address", change, &format!("{SERVER}/32"), "dev", "lo"]);
}

fn ip(args: &[&str]) {
    let done = Command::new("ip").args(args).status().expect("ip can be started");
    assert!(done.success(), "ip {args:?}");
}

/// Whatever the environment says: only a server in this process is in its network.
async fn keeper() -> Keeper {
    Keeper::start_with(Zoo::at(SERVER)).await
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

/// Seconds of processor time that the threads of this name have used.
fn busy(name: &str) -> f64 {
    let tasks = std::fs::read_dir("/proc/self/task").expect("/proc is there");
    let stats = tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("stat")).ok());
    let mine = stats.filter(|stat| stat.contains(&format!("({name})")));
    let ticks = |stat: String| -> f64 {
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        fields[11..13].iter().filter_map(|ticks| ticks.parse::<f64>().ok()).sum()
    };
    mine.map(ticks).sum::<f64>() / 100.0
}

#[test]
fn our_session_ends_and_so_does_its_thread() {
    if !own_network() {
        return;
    }
    runtime().block_on(async {
        let keeper = keeper().await;
        let runtime = ClientRuntime::start().unwrap();
        let options = Options {
            session_timeout: TIMEOUT,
            tick: Duration::from_millis(500),
            margin: Duration::from_millis(600),
            ..Options::new(keeper.hosts(), "/taskd")
        };
        let session = Session::connect(&options, runtime.clone(), BootClock::shared()).await.unwrap();
        let mut state = session.link().state();
        route("del");
        let over = state.wait_for(|state| state.ended().is_some());
        let over = *tokio::time::timeout(TIMEOUT * 2, over).await.expect("the session is given up").unwrap();
        assert_eq!(over, LinkState::Ended(Ended::Expired));
        assert!(runtime.shutdown(Duration::from_secs(1)).await, "the client's thread has ended");
        session.close(Duration::from_millis(100)).await.unwrap();
        // The next tries end too, and leave nothing that spins.
        for _ in 0..2 {
            Session::connect(&options, runtime.clone(), BootClock::shared()).await.unwrap_err();
        }
        assert!(runtime.shutdown(Duration::from_secs(1)).await, "a failed connect leaves no thread");
        route("add");
        let session = Session::connect(&options, runtime, BootClock::shared()).await.unwrap();
        session.close(SOON).await.unwrap();
    });
}

/// A client on a thread of that name, and how it is told apart from one that has ended.
struct Bare {
    client: zk::Client,
    thread: std::thread::JoinHandle<()>,
}

impl Bare {
    async fn connect(name: &str, hosts: String) -> Self {
        let (sender, receiver) = tokio::sync::oneshot::channel();
        let thread = std::thread::Builder::new().name(name.into()).spawn(move || {
            runtime().block_on(async {
                let connector = zk::Client::connector().with_session_timeout(TIMEOUT);
                let client = connector.connect(&hosts).await.expect("it connects");
                let mut state = client.state_watcher();
                assert!(sender.send(client).is_ok());
                while !state.peek_state().is_terminated() {
                    state.changed().await;
                }
            });
        });
        let client = tokio::time::timeout(SOON, receiver).await.expect("in time").expect("it connects");
        Self { client, thread: thread.expect("a thread can be started") }
    }

    async fn has_expired(&self) {
        until("it has ended", SOON, async || self.thread.is_finished().then_some(())).await;
        assert_eq!(self.client.state(), zk::SessionState::Expired);
    }
}

/// The canary: should this fail, the client has learned to give up.
#[test]
fn the_client_itself_spins_and_never_reports_expired() {
    if !own_network() {
        return;
    }
    runtime().block_on(async {
        let keeper = keeper().await;
        let bare = Bare::connect("spinner", keeper.hosts()).await;
        route("del");
        // Idle it uses a few milliseconds.
        until("it spins", TIMEOUT * 15, async || (busy("spinner") > 0.7).then_some(())).await;
        assert_eq!(bare.client.state(), zk::SessionState::Disconnected, "and it does not report it");
        // With a route it comes to its senses.
        route("add");
        bare.has_expired().await;
    });
}

/// Nobody ends it early here, as on a machine that is too busy to wake us.
#[test]
fn a_client_that_is_given_no_literals_gives_up_by_itself() {
    if !own_network() {
        return;
    }
    runtime().block_on(async {
        let keeper = keeper().await;
        let bare = Bare::connect("patient", Options::new(keeper.hosts(), "/").connect_string()).await;
        route("del");
        bare.has_expired().await;
        assert!(busy("patient") < 0.7, "it used {} s of processor time", busy("patient"));
    });
}
