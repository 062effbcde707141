//! A component that blocks its thread for ever, in boot, in run and in stop: its node gives up its leadership at once,
//! another one leads without waiting for a session's end, and the process ends with an exit code of its own and a
//! message that names the component, its phase and how long it has been there. Its session is not closed: that would
//! release what it fences while it may be alive.

#![expect(clippy::unwrap_used, reason = "a test fails where it stands, in its helpers too")]

mod support;

use std::path::Path;
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use proto::api::Submitted;
use proto::task::TaskSpec;
use support::{Cluster, SOON, free_addresses, run_at};
use taskd::client::Client;
use taskd::runner::{ShimProgram, Task, TaskService, Unfit, Work};
use taskd::{Config, LastRung, Node, NodeHandle, Wedge};
use testkit::until;
use tokio::time::timeout;

/// Long, so that nobody can mistake the end of the session for a leadership that was given up.
const SESSION: Duration = Duration::from_secs(6);

/// Of the tests' coordination service.
const TICK: Duration = Duration::from_millis(500);

/// When leadership is given up, and when the process ends.
const GIVE_UP: Duration = Duration::from_secs(1);
const LAST: Duration = Duration::from_secs(4);

/// What a machine with many times the work that it can do adds to a claim and a recovery; alone they take 0.1 s.
const NOISE: Duration = Duration::from_secs(5);

/// `serve`: the watchdog ended the process; the stop missed its deadline.
const WEDGED: i32 = 70;
const STOP_LATE: i32 = 71;

/// What the node logs when it gives its leadership up, and when it ends.
const GAVE_UP: &str = "this node does not lead before that is over";
const ENDING: &str = "ending the process";

/// Two healthy nodes and `n1`, the leader, with faults switched on.
async fn led_by_n1(drill: &str) -> Cluster {
    let mut cluster = prepared().await;
    cluster.nodes[0].spawn_drilled(drill);
    let first = &cluster.nodes[0];
    until("n1 leads", SOON, async || {
        let status = first.status().await?;
        (status["leader"]["node"] == "n1").then_some(())
    })
    .await;
    for node in &mut cluster.nodes[1..] {
        node.spawn();
    }
    cluster.healthy(3).await;
    cluster
}

async fn prepared() -> Cluster {
    Cluster::prepare(3, |config| {
        config.set("coordination.session_timeout", &format!("\"{}s\"", SESSION.as_secs()));
    })
    .await
}

/// Makes every loop of `n1` turn until one of them hangs, and n1 says so.
async fn driven(cluster: &Cluster) {
    let n1 = cluster.node("n1");
    let drive = async {
        loop {
            let submit = ["task", "submit", "--submit-timeout", "500ms", "--label", "node=n1", "--", "true"];
            let (submitted, status) = tokio::join!(run_at(&n1.address, &submit), n1.status());
            // Some of them come to nothing, once it hangs.
            drop((submitted, status));
        }
    };
    tokio::select! {
        () = n1.logged(GAVE_UP, 1, SOON) => {}
        () = drive => {}
    }
}

/// What another node knows of who leads.
async fn others_leader(cluster: &Cluster) -> Option<(String, bool)> {
    let status = cluster.node("n2").status().await?;
    let leader = &status["leader"];
    let node = leader["node"].as_str().filter(|node| *node != "n1")?;
    Some((node.to_owned(), leader["serving"] == true))
}

async fn lists_n1(cluster: &Cluster) -> Option<bool> {
    let status = cluster.node("n2").status().await?;
    Some(status["members"].as_array()?.iter().any(|member| member["node"] == "n1"))
}

/// The line with which the process ended, checked: `the COMPONENT is wedged: WHAT has blocked a thread for S s in phase
/// PHASE (entered P s ago)`.
fn last_words(log: &str, component: &str, what: &str, phase: &str) {
    let ended =
        log.lines().rfind(|line| line.contains(ENDING)).unwrap_or_else(|| panic!("no end in:\n{log}"));
    let begins = format!("the {component} is wedged: {what} has blocked a thread for ");
    let (_, rest) = ended.split_once(&begins).unwrap_or_else(|| panic!("should say {begins:?}: {ended}"));
    let (blocked, rest) = rest.split_once(' ').unwrap();
    let (named, rest) = rest.split_once("in phase ").unwrap().1.split_once(" (entered ").unwrap();
    let entered = rest.split_once(' ').unwrap().0;
    assert_eq!(named, phase, "{ended}");
    let [blocked, entered] = [blocked, entered].map(|text| text.parse::<f64>().unwrap());
    assert!(blocked >= LAST.as_secs_f64() - 0.1 && blocked < (LAST + NOISE).as_secs_f64(), "{ended}");
    assert!(entered >= blocked - 0.2, "{ended}");
}

/// The leader hangs, and has just said so. If `turns`, its quorum does not, and deletes `leader`.
async fn the_leader_hangs(cluster: &mut Cluster, turns: bool) {
    let gave_up = Instant::now();
    if turns {
        let leads = until("another node leads", SOON, async || others_leader(cluster).await).await;
        eprintln!("{} leads {:?} after n1 gave up", leads.0, gave_up.elapsed());
        // Long before the end of the session, which begins to run out when the process ends.
        let ended = cluster.node_mut("n1").has_ended();
        assert!(
            ended.is_none(),
            "n1 ended before anybody took over, {:?} after it gave up",
            gave_up.elapsed()
        );
        let task = cluster.submit(&["--label", "node=n2", "--", "true"]).await;
        cluster.reaches(&task, &["succeeded"]).await;
        let took = gave_up.elapsed();
        eprintln!("a task has run {took:?} after n1 gave up");
        assert!(took < NOISE, "{took:?}");
    }
    let (status, _) = cluster.node_mut("n1").ended(SOON).await;
    let ended = Instant::now();
    assert_eq!(status.code(), Some(WEDGED), "{status}");
    // Nobody closed its session: its member node outlives it.
    let listed = until("n2 answers", SOON, async || lists_n1(cluster).await).await;
    assert!(listed, "{:?} after its end, n1 is no member any more", ended.elapsed());
    if !turns {
        until("another node serves", SOON, async || {
            others_leader(cluster).await.filter(|(_, serving)| *serving)
        })
        .await;
        let took = gave_up.elapsed();
        eprintln!("another node serves {took:?} after n1 gave up");
        let bound = LAST - GIVE_UP + SESSION + TICK + Duration::from_millis(500);
        assert!(took < bound + NOISE, "{took:?}");
        let task = cluster.submit(&["--label", "node=n2", "--", "true"]).await;
        cluster.reaches(&task, &["succeeded"]).await;
    }
    until("its member node expires", SOON, async || lists_n1(cluster).await.filter(|listed| !listed)).await;
    // And it can come back.
    cluster.node_mut("n1").spawn();
    cluster.healthy(3).await;
}

#[tokio::test]
async fn the_runners_loop() {
    let mut cluster = led_by_n1("wedge:runner.run@150").await;
    driven(&cluster).await;
    the_leader_hangs(&mut cluster, true).await;
    last_words(&cluster.node("n1").log(), "runner", "its loop", "Running");
}

#[tokio::test]
async fn the_dispatchers_loop() {
    let mut cluster = led_by_n1("wedge:dispatcher.run@300").await;
    driven(&cluster).await;
    the_leader_hangs(&mut cluster, true).await;
    last_words(&cluster.node("n1").log(), "dispatcher", "its loop", "Dispatching");
}

/// Nobody can delete `leader` then, but the lease flag is down.
#[tokio::test]
async fn the_quorums_loop() {
    let mut cluster = led_by_n1("wedge:quorum.run@400").await;
    driven(&cluster).await;
    the_leader_hangs(&mut cluster, false).await;
    last_words(&cluster.node("n1").log(), "quorum", "its loop", "Running");
}

/// Its addresses go with it, and another node takes them. (That the guard removes those of a daemon that hangs or ends is
/// tested where it can: in namespaces, `vip`'s `local`. A dry run has none.)
#[tokio::test]
async fn the_virtual_ips_loop() {
    let mut cluster = Cluster::prepare(3, |config| {
        config.set("coordination.session_timeout", &format!("\"{}s\"", SESSION.as_secs()));
        config.set("vip.interfaces", "{ storage = \"lo\" }");
    })
    .await;
    // Late enough that it has settled by then.
    cluster.nodes[0].spawn_drilled("wedge:vip.run@250");
    for node in &mut cluster.nodes[1..] {
        node.spawn();
    }
    cluster.healthy(3).await;
    let file = cluster.dir.path().join("vips.toml");
    let service = "[service.iscsi]\nvips = [{ address = \"192.0.2.241/24\", interface = \"storage\" }]\n\
                   preferred = [\"n1\"]\n";
    std::fs::write(&file, service).unwrap();
    let applied = cluster.cli(&["config", "apply", file.to_str().unwrap()]).await;
    assert_eq!(applied.code, 0, "{applied:?}");
    cluster.nodes[0].logged("its addresses would be here now", 1, SOON).await;
    let holds = || async {
        let ran = run_at(&cluster.node("n2").address, &["vip", "list", "-o", "json"]).await;
        let page = (ran.code == 0).then(|| ran.json())?;
        page["services"][0]["holder"].as_str().map(str::to_owned)
    };
    until("n1 holds it", SOON, async || holds().await.filter(|holder| holder == "n1")).await;
    // Each order turns its loop.
    let address = cluster.node("n1").address.clone();
    let turn = async {
        loop {
            let undrain = ["vip", "undrain", "n9"];
            let orders = [(); 6].map(|()| run_at(&address, &undrain));
            let ran = futures::future::join_all(orders).await;
            // Some of them come to nothing, once it hangs.
            drop(ran);
        }
    };
    tokio::select! {
        () = cluster.node("n1").logged(ENDING, 1, SOON) => {}
        () = turn => {}
    }
    let (status, _) = cluster.node_mut("n1").ended(SOON).await;
    assert_eq!(status.code(), Some(WEDGED), "{status}");
    last_words(&cluster.node("n1").log(), "vip", "its loop", "Serving");
    let holds = || async {
        let ran = run_at(&cluster.node("n2").address, &["vip", "list", "-o", "json"]).await;
        let page = (ran.code == 0).then(|| ran.json())?;
        page["services"][0]["holder"].as_str().map(str::to_owned)
    };
    until("another holds it", SOON, async || holds().await.filter(|holder| holder != "n1")).await;
}

#[tokio::test]
async fn the_dispatchers_recovery() {
    let mut cluster = prepared().await;
    // It takes over from a leader that goes.
    for node in &mut cluster.nodes[1..] {
        node.spawn();
    }
    cluster.leader(&cluster.nodes[1]).await;
    cluster.node_mut("n1").spawn_drilled("wedge:dispatcher.recover");
    cluster.healthy(3).await;
    let addresses = cluster.addresses_from("n2");
    let handed = run_at(&addresses, &["cluster", "handover", "--to", "n1"]).await;
    assert_eq!(handed.stdout, "n1 leads\n", "{handed:?}");
    cluster.node("n1").logged(GAVE_UP, 1, SOON).await;
    the_leader_hangs(&mut cluster, true).await;
    last_words(&cluster.node("n1").log(), "dispatcher", "its recovery", "Recovering");
}

#[tokio::test]
async fn the_boot_of_the_runner_and_of_the_quorum() {
    let mut cluster = prepared().await;
    cluster.nodes[0].spawn_drilled("wedge:runner.boot");
    cluster.nodes[1].spawn_drilled("wedge:quorum.join");
    cluster.nodes[2].spawn();
    for id in ["n1", "n2"] {
        let (status, took) = cluster.node_mut(id).ended(SOON).await;
        assert_eq!(status.code(), Some(WEDGED), "{id}: {status} after {took:?}");
    }
    last_words(&cluster.node("n1").log(), "runner", "its boot", "Booting");
    last_words(&cluster.node("n2").log(), "quorum", "its boot", "Connected");
    // Nobody waits for them.
    let task = cluster.submit(&["--label", "node=n3", "--", "true"]).await;
    cluster.reaches(&task, &["succeeded"]).await;
    for id in ["n1", "n2"] {
        cluster.node_mut(id).spawn();
    }
    cluster.healthy(3).await;
}

/// A stop that hangs ends within its deadline all the same, by the last rung.
async fn stopped(point: &str, component: &str, what: &str, phase: &str) {
    let mut cluster = led_by_n1(&format!("wedge:{point}")).await;
    cluster.node("n1").signal(Signal::SIGTERM);
    let told = Instant::now();
    until("another node leads", SOON, async || others_leader(&cluster).await).await;
    eprintln!("another node leads {:?} after the stop of n1", told.elapsed());
    let (status, _) = cluster.node_mut("n1").ended(SOON).await;
    let took = told.elapsed();
    assert_eq!(status.code(), Some(WEDGED), "{status} after {took:?}");
    // The deadline is the process's own; half a second is what this machine may add to a signal and to an exit.
    assert!(took < Duration::from_millis(5_000 + 500), "{took:?}");
    let listed = until("n2 answers", SOON, async || lists_n1(&cluster).await).await;
    assert!(listed, "its session was closed");
    last_words(&cluster.node("n1").log(), component, what, phase);
    let task = cluster.submit(&["--label", "node=n2", "--", "true"]).await;
    cluster.reaches(&task, &["succeeded"]).await;
}

#[tokio::test]
async fn the_stop_of_the_dispatcher() {
    stopped("dispatcher.stop", "dispatcher", "its stop", "Draining").await;
}

#[tokio::test]
async fn the_stop_of_the_runner() {
    stopped("runner.stop", "runner", "its stop", "Draining").await;
}

#[tokio::test]
async fn the_release_of_the_virtual_ips() {
    stopped("vip.stop", "vip", "its stop", "Serving").await;
}

#[tokio::test]
async fn the_stop_of_the_quorum() {
    stopped("quorum.stop", "quorum", "its stop", "Running").await;
}

/// Tells a node to stop whose component's stop waits for ever, without blocking a thread: how it ended, and its log.
async fn waits_in_stop(drill: &str) -> (Option<i32>, String) {
    let mut cluster = Cluster::prepare(1, |_| ()).await;
    cluster.nodes[0].spawn_drilled(drill);
    cluster.healthy(1).await;
    cluster.nodes[0].signal(Signal::SIGTERM);
    let told = Instant::now();
    let (status, _) = cluster.nodes[0].ended(SOON).await;
    let (took, log) = (told.elapsed(), cluster.nodes[0].log());
    assert!(took < Duration::from_millis(5_000 + 500), "{drill}: {status} after {took:?}\n{log}");
    (status.code(), log)
}

/// The owner loop waits for nobody: it aborts what misses its share, and ends the rest in order, within the deadline.
#[tokio::test]
async fn a_stop_that_waits_for_ever_is_aborted_and_the_rest_goes_on() {
    for part in ["dispatcher", "runner"] {
        let (code, log) = waits_in_stop(&format!("hold:{part}.stop")).await;
        let aborted = log.lines().any(|line| line.contains("missed its deadline") && line.contains(part));
        assert!(code == Some(STOP_LATE) && aborted && !log.contains("is wedged"), "{part}: {code:?}\n{log}");
    }
}

/// An owner loop that did wait, which is planted here, aborts nothing: it is the watchdog that ends the process.
#[tokio::test]
async fn an_owner_loop_that_waits_is_noticed() {
    let (code, log) = waits_in_stop("plant:inline-stop;hold:dispatcher.stop").await;
    assert_eq!(code, Some(WEDGED), "{log}");
    assert!(!log.contains("missed its deadline"), "{log}");
    assert!(log.contains("the node is wedged in \"stopping"), "{log}");
}

/// A thread that comes back in time: a warning, and the node leads again.
#[tokio::test]
async fn a_block_that_ends_costs_the_term_and_nothing_else() {
    let mut cluster = Cluster::prepare(1, |_| ()).await;
    cluster.nodes[0].spawn_drilled("block:runner.run@150=2s");
    cluster.healthy(1).await;
    let (_, before) = cluster.leader(&cluster.nodes[0]).await;
    driven(&cluster).await;
    cluster.nodes[0].logged("that is over, and the node is ready again", 1, SOON).await;
    let n1 = &cluster.nodes[0];
    until("it leads again", SOON, async || {
        let status = n1.status().await?;
        let epoch = status["leader"]["epoch"].as_u64()?;
        (epoch > before && status["leader"]["serving"] == true).then_some(())
    })
    .await;
    let task = cluster.submit(&["--", "true"]).await;
    cluster.reaches(&task, &["succeeded"]).await;
    let (status, took) = cluster.nodes[0].stop().await;
    assert!(status.success(), "{status} after {took:?}");
}

/// A process that stands still as a whole is not wedged.
#[tokio::test]
async fn a_stopped_process_is_not_taken_for_a_wedged_one() {
    let mut cluster = Cluster::start(1).await;
    for _ in 0..2 {
        cluster.nodes[0].signal(Signal::SIGSTOP);
        // The time that it stands still is what is tested.
        tokio::time::sleep(LAST + GIVE_UP).await;
        cluster.nodes[0].signal(Signal::SIGCONT);
        cluster.healthy(1).await;
    }
    let log = cluster.nodes[0].log();
    assert!(!log.contains("is wedged"), "{log}");
    let (status, took) = cluster.nodes[0].stop().await;
    assert!(status.success(), "{status} after {took:?}");
}

/// Hands on what the last rung is told.
#[derive(Debug)]
struct Tell(mpsc::Sender<Wedge>);

impl LastRung for Tell {
    fn abandon(&self, wedge: &Wedge) {
        self.0.send(wedge.clone()).unwrap();
    }
}

/// Blocks its thread in `prepare` or in its work, until the other end is dropped.
#[derive(Debug)]
struct Blocks {
    in_prepare: bool,
    until: Arc<Mutex<mpsc::Receiver<()>>>,
}

impl TaskService for Blocks {
    fn prepare(&self, _task: Task) -> Result<Work, Unfit> {
        let until = Arc::clone(&self.until);
        let block = move || until.lock().unwrap().recv().is_err();
        if self.in_prepare {
            return Err(Unfit(format!("it is over: {}", block())));
        }
        Ok(Work::InProcess(Box::pin(async move {
            if block() { Ok(Vec::new()) } else { Err("nobody blocked it".into()) }
        })))
    }
}

fn embedded(dir: &Path) -> Config {
    let mut config = Config::embedded("n1".parse().unwrap());
    config.node.listen = free_addresses(1).remove(0).parse().unwrap();
    config.node.data_dir = dir.join("n1");
    config.coordination.embedded_listen = "127.0.0.1:0".parse().unwrap();
    config
}

async fn start(config: Config, blocks: Blocks, last_rung: Tell) -> NodeHandle {
    let program = env!("CARGO_BIN_EXE_taskd").into();
    let shim = ShimProgram { program, args: vec!["shim".to_owned()] };
    let builder =
        Node::builder(config).task_service("blocks", blocks).shim(shim).last_rung(Arc::new(last_rung));
    builder.start().await.unwrap()
}

/// Embedders get the same: a task service of theirs that blocks is named, as work or as the loop that it is called on.
#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn an_embedders_service() {
    for (in_prepare, expected) in [(true, "its loop"), (false, "the work of an attempt")] {
        let dir = tempfile::tempdir().unwrap();
        let (release, released) = mpsc::channel();
        let (tell, told) = mpsc::channel();
        let blocks = Blocks { in_prepare, until: Arc::new(Mutex::new(released)) };
        let mut node = start(embedded(dir.path()), blocks, Tell(tell)).await;
        timeout(SOON, node.ready()).await.unwrap();
        let client = Client::connect(node.address().parse().unwrap()).await.unwrap();
        let submitted = client.submit_spec(TaskSpec::new("blocks", vec![]), SOON).await.unwrap();
        assert!(matches!(submitted, Submitted::Accepted { .. }), "{submitted:?}");
        let wedge = until("the last rung", SOON, async || told.try_recv().ok()).await;
        let Wedge::Component { component, phase, phase_for, what, blocked_for } = wedge else {
            panic!("{wedge}")
        };
        assert_eq!((component, phase, what), ("runner", "Running", expected));
        assert!(blocked_for >= LAST - TICK && phase_for >= blocked_for, "{blocked_for:?} {phase_for:?}");
        client.close().await;
        drop(release);
        // Called once; the embedder decides what follows. This one stops its node, which can now be stopped.
        let report = timeout(SOON, node.stop()).await.unwrap();
        assert!(report.is_clean(), "{report:?}");
        assert!(told.try_recv().is_err());
    }
}
