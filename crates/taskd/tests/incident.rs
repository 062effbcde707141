//! The incident that this project is born from, replayed: a node has joined, runs, and is inside the recovery of the
//! task database when ZooKeeper stalls for 3.4 s; the connection is lost and comes back with the same session. There,
//! the boot failed, told its own server to stop, and waited for itself for ever while its session kept the leadership.
//!
//! Each node is behind a proxy of its own. `docs/incident.md` says which mistake each test is about.

#![expect(clippy::unwrap_used, reason = "a test fails where it stands, in its helpers too")]

mod support;

use std::cell::RefCell;
use std::process::ExitStatus;
use std::time::{Duration, SystemTime};

use nix::sys::signal::Signal;
use serde_json::Value;
use support::{Cluster, Node, NodeConfig, SOON, run, run_at};
use testkit::{Proxy, until};
use tokio::time::{Instant, sleep, sleep_until, timeout};

/// The seed's `kSessiontimeout`.
const T: Duration = Duration::from_secs(4);

/// Of the tests' ensembles and keepers.
const TICK: Duration = Duration::from_millis(500);

/// "Exceeded deadline by 3394ms".
const STALL: Duration = Duration::from_millis(3400);

/// A leader serves this long after the cause of its absence has ended.
const BOUND: Duration = T.saturating_add(TICK).saturating_add(Duration::from_millis(500));

/// What a machine with ten times the work that it can do adds to a claim and a recovery; alone they take 0.1 s.
const NOISE: Duration = Duration::from_secs(3);

/// The default of `stop.deadline`, and what the watchdog and a busy machine may add.
const STOPPED_BY: Duration = Duration::from_millis(5000 + 500);

/// How often a replay is tried again in which a slow machine lost the session that the seed's node kept.
const TRIES: usize = 4;

/// A task that is submitted while nobody leads.
const SUBMIT: [&str; 6] = ["task", "submit", "--wait", "--", "echo", "done"];

/// `serve`: the watchdog ended the process.
const WEDGED: i32 = 70;

/// What the node logs when its recovery has read the log, where a drill makes it hang, and when its boot fails.
const HANGS: &str = "task log open";
const BOOT_FAILED: &str = "the dispatcher could not recover";

/// How far the recovery gets, in bytes that ZooKeeper sends on its data session.
const CONNECTING: u64 = 0;

/// The session is there with the answers to the connect request and to the client's first ping (41 and 20 bytes).
const READING: u64 = 60;

/// Parts of log lines that tell the story, in the words of the seed's log.
const STORY: [&str; 22] = [
    "state change",
    "Joined by creating",
    "leader is",
    "MEMBER IDX",
    "role change",
    "registered as",
    "withdrawn as",
    "session",
    "lease",
    "data session",
    "task log",
    "could not recover",
    "cannot go on",
    "stopping",
    "missed its deadline",
    "runner",
    "left the cluster",
    "blocked",
    "wedged",
    "ending the process",
    "has ended",
    "removed",
];

/// Three nodes, each behind its proxy. A failed test shows the timeline.
struct Incident {
    cluster: Cluster,
    proxies: Vec<Proxy>,
    story: Story,
}

/// What the test itself did.
#[derive(Default)]
struct Story(RefCell<Vec<String>>);

impl Story {
    fn tell(&self, what: &str) {
        let at = humantime::format_rfc3339_micros(SystemTime::now());
        self.0.borrow_mut().push(format!("{at} ==== {what}"));
    }
}

impl Drop for Incident {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        let mut lines = self.story.0.take();
        for node in &self.cluster.nodes {
            let log = node.log();
            let told = log.lines().filter(|line| STORY.iter().any(|word| line.contains(word)));
            lines.extend(told.filter_map(|line| {
                let (at, said) = line.split_once(' ')?;
                Some(format!("{at} {}: {}", node.id, said.trim_start()))
            }));
        }
        lines.sort();
        eprintln!("---- the timeline");
        for line in lines {
            eprintln!("{line}");
        }
    }
}

/// When SIGTERM comes.
#[derive(Clone, Copy, Debug)]
enum Moment {
    /// This long after the stall began.
    IntoTheStall(Duration),
    /// The node has just said that its boot has failed.
    BootFailed,
    /// This long after the connection came back.
    AfterTheReturn(Duration),
}

impl Incident {
    async fn start() -> Self {
        Self::start_with(|_| ()).await
    }

    async fn start_with(change: impl Fn(&mut NodeConfig)) -> Self {
        let prepared = Cluster::behind_proxies(3, |config| {
            config.set("coordination.session_timeout", &format!("\"{}s\"", T.as_secs()));
            config.set("election.hold_down_max", "\"2s\"");
            // What stalls is to be the recovery of the term itself.
            config.set("election.head_start", "false");
            change(config);
        });
        let (cluster, proxies) = prepared.await;
        Self { cluster: cluster.started().await, proxies, story: Story::default() }
    }

    fn proxy(&self, id: &str) -> &Proxy {
        let at = self.cluster.nodes.iter().position(|node| node.id == id).unwrap();
        &self.proxies[at]
    }

    /// A running node that is not `victim`.
    fn witness(&self, victim: &str) -> &Node {
        self.cluster.nodes.iter().find(|node| node.id != victim && node.runs()).unwrap()
    }

    /// The last member that does not lead, like the seed's.
    async fn follower(&self) -> String {
        let status = self.cluster.healthy(3).await;
        let leader = status["leader"]["node"].as_str().unwrap();
        self.cluster.nodes.iter().rfind(|node| node.id != leader).unwrap().id.clone()
    }

    /// Waits until the other two are the cluster, as one of them sees it; `victim` runs, and is no part of it.
    async fn healthy_without(&self, victim: &str) -> Value {
        let what = format!("the others do without {victim}");
        until(&what, SOON, async || {
            let status = self.witness(victim).status().await?;
            let members = status["members"].as_array()?;
            let well = status["health"] == "healthy" && members.len() == 2;
            (well && members.iter().all(|member| member["node"] != victim)).then_some(status)
        })
        .await
    }

    /// The control session of a node that is connected.
    async fn session(&self, id: &str) -> String {
        let what = format!("{id} is connected");
        until(&what, SOON, async || {
            let status = self.cluster.node(id).status().await?;
            let coordination = &status["coordination"];
            (coordination["state"] == "connected")
                .then(|| coordination["session"].as_str().map(str::to_owned))?
        })
        .await
    }

    /// Hands the leadership over to `victim` until `done`; nobody waits for the answer, which a leader gives that serves.
    async fn hand_over(&self, victim: &str, done: impl Future<Output = ()>) {
        let addresses = self.cluster.addresses_from(&self.witness(victim).id);
        let handing = async {
            loop {
                run_at(&addresses, &["cluster", "handover", "--to", victim]).await;
                // Refused as long as it is held down, or not a candidate yet.
                sleep(Duration::from_millis(100)).await;
            }
        };
        tokio::select! {
            () = done => {}
            () = handing => {}
            () = sleep(SOON) => panic!("{victim} does not come to recover the task database"),
        }
    }

    /// Elects `victim`, and ZooKeeper stalls for it while its recovery is connecting or reading.
    async fn stalled_in_recovery(&self, victim: &str, recovered: u64) -> Instant {
        let proxy = self.proxy(victim);
        proxy.stall_at_next_connection(recovered);
        self.hand_over(victim, proxy.stalled()).await;
        self.story.tell(&format!("{victim} recovers the task database, and ZooKeeper stalls"));
        Instant::now()
    }

    /// Elects `victim`, whose boot hangs where it was told to; then ZooKeeper stalls.
    async fn stalled_in_its_hanging_boot(&self, victim: &str) -> Instant {
        let before = self.cluster.node(victim).log().matches(HANGS).count();
        self.hand_over(victim, self.cluster.node(victim).logged(HANGS, before + 1, SOON)).await;
        self.proxy(victim).stall();
        self.story.tell(&format!("the boot of {victim} hangs, and ZooKeeper stalls"));
        Instant::now()
    }

    /// Waits until somebody whom `suits` serves as leader, as a bystander sees it, and checks the bound: no look that
    /// began later than that may miss it. (A look takes a second where a process takes half of it to start.)
    async fn leads_within(
        &self,
        witness: &Node,
        bound: Duration,
        since: Instant,
        suits: impl Fn(&str) -> bool,
    ) -> String {
        let late = since + bound + NOISE;
        loop {
            let begun = Instant::now();
            let status = witness.status().await.unwrap_or_default();
            let leader = status["leader"]["node"].as_str().unwrap_or_default();
            if status["leader"]["serving"] == true && status["health"] != "no_leader" && suits(leader) {
                let epoch = &status["leader"]["epoch"];
                let took = since.elapsed();
                self.story.tell(&format!("{leader} leads (epoch {epoch}), {took:?} after the cause's end"));
                eprintln!("{leader} leads (epoch {epoch}) at most {took:?} after the cause's end");
                return leader.to_owned();
            }
            assert!(begun < late, "leaderless for {:?}: {status:#}", begun - since);
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// ZooKeeper stalls for the seed's time while a node that was just elected recovers. Whether its session survived.
    async fn replay(&self, recovered: u64, boot_fails: bool) -> bool {
        let victim = self.follower().await;
        let (node, witness) = (self.cluster.node(&victim), self.witness(&victim));
        let session = self.session(&victim).await;
        let failures = node.log().matches(BOOT_FAILED).count();
        let stalled = self.stalled_in_recovery(&victim, recovered).await;
        let submitted = run_at(&witness.address, &SUBMIT);
        // "Initializing LocalVIPDb" for the second time, and ok.
        let serve = ["serve", "--config", node.config_path().to_str().unwrap()];
        let opened_twice = run(&serve);
        let recovery = async {
            sleep_until(stalled + STALL).await;
            self.story.tell("the connection is lost, and comes back");
            self.proxy(&victim).replace(|faults| {
                if boot_fails {
                    (faults.forget_session, faults.remembered_session) = (true, id_of(&session));
                }
            });
            let suits = |leader: &str| !boot_fails || leader != victim;
            self.leads_within(witness, BOUND, Instant::now(), suits).await
        };
        let (ran, opened_twice, leader) = tokio::join!(submitted, opened_twice, recovery);
        opened_twice.refused(69, &["is in use by another taskd"]);
        assert_eq!((ran.code, ran.stdout.as_str()), (0, "done\n"), "submitted meanwhile: {ran:?}");
        if self.session(&victim).await != session {
            eprintln!("{victim} has lost its session, unlike the seed's: {leader} leads");
            return false;
        }
        if boot_fails {
            assert_eq!(node.log().matches(BOOT_FAILED).count(), failures + 1, "{victim}'s boot fails once");
        }
        self.proxy(&victim).heal();
        self.cluster.healthy(3).await;
        true
    }

    /// The same with SIGTERM to the node, at a moment before, while or after its boot fails at the connection's return.
    async fn replay_and_stop(&mut self, moment: Moment, times: usize) {
        let victim = self.follower().await;
        let session = self.session(&victim).await;
        let failures = self.cluster.node(&victim).log().matches(BOOT_FAILED).count();
        let stalled = self.stalled_in_recovery(&victim, READING).await;
        let at = self.cluster.nodes.iter().position(|node| node.id == victim).unwrap();
        let (node, proxy, story) = (&mut self.cluster.nodes[at], &self.proxies[at], &self.story);
        let returns = async {
            sleep_until(stalled + STALL).await;
            story.tell("the connection is lost, and comes back");
            proxy.replace(|faults| {
                (faults.forget_session, faults.remembered_session) = (true, id_of(&session));
            });
            Instant::now()
        };
        let stops = async {
            match moment {
                Moment::IntoTheStall(offset) => sleep_until(stalled + offset).await,
                Moment::AfterTheReturn(offset) => sleep_until(stalled + STALL + offset).await,
                Moment::BootFailed => node.logged(BOOT_FAILED, failures + 1, SOON).await,
            }
            story.tell(&format!("SIGTERM, {times} times"));
            (0..times).for_each(|_| node.signal(Signal::SIGTERM));
            node.ended(Duration::from_secs(30)).await
        };
        let ((status, took), returned) = tokio::join!(stops, returns);
        stopped_well(node, status, took, &format!("{moment:?}"));
        let since = returned.max(Instant::now());
        self.story.tell(&format!("{victim} has ended: {status}"));
        self.leads_within(self.witness(&victim), BOUND, since, |leader| leader != victim).await;
        // Nothing is left of it: neither its member node nor its candidacy.
        self.cluster.healthy(2).await;
        self.proxy(&victim).heal();
        self.cluster.node_mut(&victim).spawn();
        self.cluster.healthy(3).await;
    }

    /// Starts a follower anew, with a fault in it.
    async fn drilled_follower(&mut self, drill: &str) -> String {
        let victim = self.follower().await;
        let (status, took) = self.cluster.node_mut(&victim).stop().await;
        stopped_well(self.cluster.node(&victim), status, took, "a follower");
        self.story.tell(&format!("{victim} starts with {drill}"));
        self.cluster.node_mut(&victim).spawn_drilled(drill);
        victim
    }

    /// Whatever became of it: it stops when told to, or has ended as a wedged process does. Then all is well again.
    async fn end(&mut self, victim: &str) {
        let node = self.cluster.node_mut(victim);
        match node.has_ended() {
            Some(status) => assert_eq!(status.code(), Some(WEDGED), "{victim} ended by itself: {status}"),
            None => {
                let (status, took) = node.stop().await;
                stopped_well(node, status, took, "after its boot had hung");
            }
        }
        self.cluster.node_mut(victim).spawn();
        self.cluster.healthy(3).await;
    }
}

/// In time, by request, and without a process left behind.
fn stopped_well(node: &Node, status: ExitStatus, took: Duration, moment: &str) {
    stopped_as(0, node, status, took, moment);
}

/// The same with another exit code.
fn stopped_as(code: i32, node: &Node, status: ExitStatus, took: Duration, moment: &str) {
    eprintln!("{moment}: {} ended with {status} after {took:?}", node.id);
    assert!(took < STOPPED_BY, "{moment}: {} took {took:?} to stop", node.id);
    assert_eq!(status.code(), Some(code), "{moment}: {} ended with {status}", node.id);
    assert!(node.shims().is_empty(), "{moment}: {} left {:?}", node.id, node.shims());
}

/// As the protocol has it.
fn id_of(session: &str) -> i64 {
    u64::from_str_radix(session.trim_start_matches("0x"), 16).unwrap().cast_signed()
}

/// A connection that is lost for less than a session lasts is no reason to fail a boot, and none to lead in name only.
#[tokio::test]
async fn the_seed_replayed() {
    let mut incident = Incident::start().await;
    for recovered in [CONNECTING, READING] {
        let mut same_session = false;
        for _ in 0..TRIES {
            same_session = incident.replay(recovered, false).await;
            if same_session {
                break;
            }
        }
        assert!(same_session, "no session outlived a stall of {STALL:?}: too slow a machine for this test");
    }
    for node in &mut incident.cluster.nodes {
        let (status, took) = node.stop().await;
        stopped_well(node, status, took, "in the end");
    }
}

/// The boot does fail: its data session is gone when the connection comes back, with the control session as it was.
#[tokio::test]
async fn the_seed_replayed_with_a_boot_that_fails() {
    let incident = Incident::start().await;
    for _ in 0..TRIES {
        if incident.replay(READING, true).await {
            return;
        }
    }
    panic!("no session outlived a stall of {STALL:?}: too slow a machine for this test");
}

/// ZooKeeper stalls for everybody: nobody can take over, and followers, who say less to it, may lose their sessions.
#[tokio::test]
async fn the_stall_hits_every_node() {
    let incident = Incident::start().await;
    let victim = incident.follower().await;
    let witness = incident.witness(&victim);
    let stalled = incident.stalled_in_recovery(&victim, READING).await;
    incident.proxies.iter().for_each(Proxy::stall);
    let returns = async {
        sleep_until(stalled + STALL).await;
        incident.story.tell("the connections are lost, and come back");
        incident.proxies.iter().for_each(|proxy| proxy.replace(|_| ()));
        incident.leads_within(witness, BOUND, Instant::now(), |_| true).await
    };
    let (ran, _) = tokio::join!(run_at(&witness.address, &SUBMIT), returns);
    assert_eq!((ran.code, ran.stdout.as_str()), (0, "done\n"), "submitted meanwhile: {ran:?}");
    incident.cluster.healthy(3).await;
}

/// Then another node leads by the bound, counted from the moment when the connection was last there.
#[tokio::test]
async fn the_connection_does_not_come_back() {
    let mut incident = Incident::start().await;
    let victim = incident.follower().await;
    let stalled = incident.stalled_in_recovery(&victim, READING).await;
    let witness = incident.witness(&victim);
    let submitted = run_at(&witness.address, &SUBMIT);
    let leads = incident.leads_within(witness, BOUND, stalled, |leader| leader != victim);
    let (ran, _) = tokio::join!(submitted, leads);
    assert_eq!((ran.code, ran.stdout.as_str()), (0, "done\n"), "submitted meanwhile: {ran:?}");
    let node = incident.cluster.node_mut(&victim);
    let (status, took) = node.stop().await;
    stopped_well(node, status, took, "without ZooKeeper");
}

/// The seed's order, stop first: told to stop, its boot still under way or about to fail, the connection coming back in
/// the middle of the leave.
#[tokio::test]
async fn a_stop_before_the_boot_has_failed() {
    let mut incident = Incident::start().await;
    for (milliseconds, times) in [(50, 1), (2500, 2), (3350, 1)] {
        incident.replay_and_stop(Moment::IntoTheStall(Duration::from_millis(milliseconds)), times).await;
    }
}

/// The other order: the boot has failed, its term is being given up, and then the stop comes, twice.
#[tokio::test]
async fn a_stop_once_the_boot_has_failed() {
    let mut incident = Incident::start().await;
    incident.replay_and_stop(Moment::AfterTheReturn(Duration::ZERO), 1).await;
    incident.replay_and_stop(Moment::BootFailed, 2).await;
    incident.replay_and_stop(Moment::AfterTheReturn(Duration::from_millis(150)), 1).await;
}

/// A boot that hangs as `drill` says, a stall in the middle of it, and the connection's return: one that may lead then
/// leads within the bound.
async fn hanging_boot(mut incident: Incident, drill: &str, may_lead: impl Fn(&str, &str) -> bool) {
    let victim = incident.drilled_follower(drill).await;
    incident.cluster.healthy(3).await;
    let stalled = incident.stalled_in_its_hanging_boot(&victim).await;
    sleep_until(stalled + STALL).await;
    incident.story.tell("the connection is lost, and comes back");
    incident.proxy(&victim).replace(|_| ());
    let witness = incident.witness(&victim);
    incident.leads_within(witness, BOUND, Instant::now(), |leader| may_lead(leader, &victim)).await;
    incident.end(&victim).await;
}

/// The boot hangs at an await point: the election takes the term from a node that does not come to serve.
#[tokio::test]
async fn a_boot_that_never_ends_is_given_up_by_its_deadline() {
    let incident = Incident::start_with(|config| config.set("election.serve_deadline", "\"3s\"")).await;
    hanging_boot(incident, "hold:dispatcher.recover", |leader, victim| leader != victim).await;
}

/// The boot blocks a thread for ever, as the seed's did: no await point is left at which anything could end it. The
/// node ends by itself, or as it is told to.
async fn wedged_boot(told_to_stop: bool) {
    let mut incident = Incident::start().await;
    let victim = incident.drilled_follower("wedge:dispatcher.recover").await;
    incident.cluster.healthy(3).await;
    let stalled = incident.stalled_in_its_hanging_boot(&victim).await;
    let at = incident.cluster.nodes.iter().position(|node| node.id == victim).unwrap();
    let (node, proxy, story) = (&mut incident.cluster.nodes[at], &incident.proxies[at], &incident.story);
    let returns = async {
        sleep_until(stalled + STALL).await;
        story.tell("the connection is lost, and comes back");
        proxy.replace(|_| ());
        Instant::now()
    };
    let ends = async {
        if told_to_stop {
            sleep_until(stalled + Duration::from_millis(500)).await;
            story.tell("SIGTERM");
            node.signal(Signal::SIGTERM);
        }
        let (status, took) = node.ended(SOON).await;
        (status, took, Instant::now())
    };
    let ((status, took, ended), returned) = tokio::join!(ends, returns);
    story.tell(&format!("{victim} has ended: {status}"));
    if told_to_stop {
        // The boot has blocked its thread for 4 s before the stop has taken 5.
        stopped_as(WEDGED, node, status, took, "in a boot that blocks its thread");
    } else {
        assert_eq!(status.code(), Some(WEDGED), "{victim} ends by itself: {status}");
        assert!(node.shims().is_empty(), "{victim} left {:?}", node.shims());
    }
    // Nobody closes a session under what may be alive: it may have to expire.
    let witness = incident.witness(&victim);
    incident.leads_within(witness, BOUND, ended.max(returned), |leader| leader != victim).await;
    incident.cluster.node_mut(&victim).spawn();
    incident.cluster.healthy(3).await;
}

#[tokio::test]
async fn a_boot_that_blocks_its_thread_for_ever() {
    wedged_boot(false).await;
}

#[tokio::test]
async fn a_stop_while_the_boot_blocks_its_thread() {
    wedged_boot(true).await;
}

/// The boot blocks its thread and goes on after 3 s: by then it may be taken for wedged, or finish, but not just hang.
#[tokio::test]
async fn a_boot_that_blocks_its_thread_for_a_while() {
    hanging_boot(Incident::start().await, "block:dispatcher.recover=3s", |_, _| true).await;
}

/// A node whose runner boots is nobody yet: no member, no candidate, no leader, whatever ZooKeeper and its thread do.
#[tokio::test]
async fn a_runner_that_does_not_come_to_run_leads_nobody() {
    let mut incident = Incident::start().await;
    for (drill, ends_by_itself) in [("hold:runner.boot", false), ("wedge:runner.boot", true)] {
        let victim = incident.drilled_follower(drill).await;
        let before = incident.healthy_without(&victim).await;
        incident.proxy(&victim).stall();
        let stalled = Instant::now();
        if ends_by_itself {
            let (status, _) = incident.cluster.node_mut(&victim).ended(SOON).await;
            assert_eq!(status.code(), Some(WEDGED), "{victim} ends by itself: {status}");
        } else {
            sleep_until(stalled + STALL).await;
            let node = incident.cluster.node_mut(&victim);
            let (status, took) = node.stop().await;
            stopped_well(node, status, took, "in the runner's boot");
        }
        incident.proxy(&victim).replace(|_| ());
        let after = incident.cluster.healthy(2).await;
        assert_eq!(after["leader"]["epoch"], before["leader"]["epoch"], "nobody else had to lead");
        incident.cluster.node_mut(&victim).spawn();
        incident.cluster.healthy(3).await;
    }
}

/// The next leader's ZooKeeper stalls while it reads ahead: whoever leads goes on leading, and tasks run.
#[tokio::test]
async fn a_stall_while_the_next_leader_reads_ahead_costs_no_leadership() {
    let incident = Incident::start_with(|config| config.set("election.head_start", "true")).await;
    let victim = incident.follower().await;
    let (witness, proxy) = (incident.witness(&victim), incident.proxy(&victim));
    let (leader, epoch) = incident.cluster.leader(witness).await;
    proxy.stall_at_next_connection(CONNECTING);
    let addresses = incident.cluster.addresses_from(&witness.id);
    let hand_over = ["cluster", "handover", "--to", &victim];
    let handing = run_at(&addresses, &hand_over);
    let meanwhile = async {
        timeout(SOON, proxy.stalled()).await.expect("it reads ahead");
        incident.story.tell(&format!("{victim} reads ahead, and ZooKeeper stalls"));
        let ran = run_at(&witness.address, &SUBMIT).await;
        assert_eq!((ran.code, ran.stdout.as_str()), (0, "done\n"), "submitted meanwhile: {ran:?}");
        let status = witness.status().await.unwrap();
        let led = (status["leader"]["node"].as_str(), status["leader"]["epoch"].as_u64());
        assert_eq!(led, (Some(leader.as_str()), Some(epoch)), "{status:#}");
        proxy.heal();
    };
    let (handed, ()) = tokio::join!(handing, meanwhile);
    // Whether it could take over by then is another question.
    assert!(matches!(handed.code, 0 | 1 | 5 | 6), "{handed:?}");
    incident.cluster.healthy(3).await;
}
