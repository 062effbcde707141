//! Every sentence that `cluster status` can say, one situation after the other: `snapshots/` is there to be read.

use std::collections::BTreeMap;
use std::time::Duration;

use proto::status::{
    Condition, ConditionKind, CoordinationKind, FenceStatus, Health, LogStatus, MemberStatus, ServerState,
    ServerStatus,
};
use proto::{Epoch, NodeId};

use super::judge::judge;
use super::members::{self, TWINS, UNREACHABLE};
use super::memory::Flapping;
use super::scene::{
    EndingFor, Holder, InLine, Link, Own, OwnTerm, Scene, Service, TermState, Timing, Vips, WedgedFor,
};
use super::words;
use crate::supervisor::published::Work;

fn node(name: &str) -> NodeId {
    name.parse().unwrap()
}

fn s(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds)
}

fn member(name: &str, index: u32) -> MemberStatus {
    MemberStatus {
        index,
        sequence: u64::from(index),
        node: node(name),
        address: format!("10.0.0.{index}:10601"),
        role: if index == 1 { "leader" } else { "candidate" }.to_owned(),
        phase: "Running".to_owned(),
        priority: 0,
        slots: None,
        version: "0.1.0".to_owned(),
        note: None,
        condition: None,
        heard_ms: None,
    }
}

fn place(name: &str, claims_in: Option<Duration>) -> InLine {
    InLine { node: node(name), held_down: None, claims_in, failed: None }
}

/// n1 leads n1, n2 and n3, and n2 is asked.
fn healthy() -> Scene {
    Scene {
        node: node("n2"),
        asked: true,
        own: Own { eligible: true, ..Own::default() },
        link: Link::Connected,
        leader: Some(Holder {
            node: node("n1"),
            address: "10.0.0.1:10601".to_owned(),
            epoch: Epoch(5),
            serving: true,
            known_for: s(3_600.0),
            silent_for: None,
        }),
        serving: Some((node("n1"), Epoch(5))),
        leaderless_for: None,
        line: vec![place("n1", None), place("n2", None), place("n3", None)],
        obstacle: None,
        members: vec![member("n1", 1), member("n2", 2), member("n3", 3)],
        fences: Vec::new(),
        paused: None,
        drained: BTreeMap::new(),
        log: Some(LogStatus { bytes: 30 << 20, live_bytes: 10 << 20, budget_bytes: 100 << 20, segments: 9 }),
        flapping: Vec::new(),
        vips: Vips::default(),
        timing: Timing { session: s(4.0), session_asked: s(4.0), tick: s(2.0), serve: s(10.0) },
        service: Service {
            embedded: false,
            kind: Some(CoordinationKind::Ensemble),
            hosts: "10.0.0.1:2181,10.0.0.2:2181,10.0.0.3:2181".to_owned(),
            servers: Vec::new(),
        },
    }
}

/// The same seen by the leader itself.
fn seen_by_leader() -> Scene {
    let own = Own {
        eligible: true,
        term: Some(OwnTerm { epoch: Epoch(5), state: TermState::Serving }),
        ..Own::default()
    };
    Scene { node: node("n1"), own, ..healthy() }
}

/// Nobody holds `leader`; n2 is asked, and is first in line.
fn vacant(since: f64) -> Scene {
    let mut scene = healthy();
    (scene.leader, scene.serving, scene.log) = (None, None, None);
    scene.leaderless_for = Some(s(since));
    scene.line = vec![place("n2", Some(s(0.0))), place("n3", Some(s(0.9)))];
    scene.members.remove(0);
    scene
}

fn silent(member: &mut MemberStatus) {
    UNREACHABLE.clone_into(&mut member.phase);
}

fn says(member: &mut MemberStatus, kind: ConditionKind, words: &str, remedy: Option<&str>) {
    member.condition = Some(Condition { kind, words: words.to_owned(), remedy: remedy.map(str::to_owned) });
}

fn servers(scene: &mut Scene, states: &[ServerState]) {
    let hosts: Vec<_> = scene.service.hosts.split(',').map(str::to_owned).collect();
    let each = hosts.into_iter().zip(states);
    scene.service.servers = each.map(|(address, state)| ServerStatus { address, state: *state }).collect();
}

/// What `member` would say of itself if it saw `scene`.
fn asked(member: &mut MemberStatus, scene: &Scene) {
    member.condition = words::own_condition(&Scene { node: member.node.clone(), ..scene.clone() });
}

/// n2 has not joined yet.
fn fresh(busy: Work, since: f64) -> Scene {
    let mut scene = vacant(0.0);
    scene.leaderless_for = None;
    scene.link = Link::Never;
    (scene.line, scene.members) = (Vec::new(), Vec::new());
    scene.own.busy = vec![(busy, s(since))];
    scene
}

/// A scene in which n1's term is in that state, seen by n1.
fn leading(state: TermState) -> Scene {
    let mut scene = seen_by_leader();
    scene.serving = None;
    scene.own.term = Some(OwnTerm { epoch: Epoch(5), state });
    scene
}

/// The same seen by n2, whom n1 has told.
fn told(state: TermState, change: impl Fn(&mut Scene)) -> Scene {
    let mut theirs = leading(state);
    change(&mut theirs);
    let mut scene = healthy();
    scene.serving = None;
    asked(&mut scene.members[0], &theirs);
    scene
}

#[test]
fn texts() {
    let mut table = String::new();
    let mut row = |situation: &str, scene: &Scene| {
        let verdict = judge(scene);
        assert_eq!(verdict.summary.starts_with("HEALTHY"), verdict.health == Health::Healthy, "{situation}");
        assert!(
            verdict.remedy.is_some() || verdict.health == Health::Healthy,
            "{situation}: it does not say what to do"
        );
        table.push_str(&format!("# {situation}\n{}\n", verdict.summary));
        if let Some(remedy) = verdict.remedy {
            table.push_str(&format!("what to do: {remedy}\n"));
        }
        for note in verdict.notes {
            table.push_str(&format!("note: {note}\n"));
        }
        table.push('\n');
    };
    let suspended = || TermState::Suspended { since: s(1.3), left: s(4.7) };

    row("all is well", &healthy());
    row("all is well, asked at the leader", &seen_by_leader());
    let mut scene = healthy();
    scene.vips.notes = vec!["DRY RUN on n1 and n2: no address is put on an interface there".to_owned()];
    row("all is well, but virtual IPs are nowhere", &scene);
    scene.vips.troubles = vec![(
        "service iscsi: BLOCKED: n1 does not put its addresses, since 52:54:00:12:34:56 answers for 172.0.20.241 on eth1"
            .to_owned(),
        Some("find the machine with 52:54:00:12:34:56 and take the address off it".to_owned()),
    )];
    row("a service is blocked", &scene);

    row("a node whose runner boots", &fresh(Work::BootRunner, 4.1));
    row("a node whose former life left addresses", &fresh(Work::CleanVips, 0.2));
    row("a node that joins, unasked servers", &fresh(Work::Join, 0.3));
    let mut scene = fresh(Work::Join, 95.0);
    scene.own.joins_failed = 3;
    scene.own.trouble = Some("no session with ZooKeeper".to_owned());
    servers(&mut scene, &[ServerState::Refuses, ServerState::NoAnswer, ServerState::Silent]);
    row("ZooKeeper unreachable at boot, each server in its own way", &scene);
    servers(&mut scene, &[ServerState::NoRoute; 3]);
    row("the route is gone, at boot", &scene);
    servers(&mut scene, &[ServerState::NoQuorum, ServerState::NoQuorum, ServerState::Refuses]);
    row("an ensemble without quorum, at boot", &scene);
    scene.service.servers.truncate(1);
    scene.service.servers[0].state = ServerState::UnknownName;
    row("a name that leads nowhere, at boot", &scene);
    let mut scene = fresh(Work::StartKeeper, 2.0);
    (scene.service.embedded, scene.service.hosts) = (true, "127.0.0.1:2181".to_owned());
    row("an embedded keeper starts", &scene);

    let mut scene = vacant(1.1);
    says(&mut scene.members[1], ConditionKind::Starting, "its runner has been booting for 4.1 s", None);
    scene.node = node("n3");
    scene.line = vec![place("n2", Some(s(0.0))), place("n3", Some(s(0.9)))];
    asked(&mut scene.members[0], &fresh(Work::BootRunner, 4.1));
    scene.members[1].condition = None;
    row("first in line is booting again", &scene);
    silent(&mut scene.members[0]);
    row("first in line does not answer", &scene);
    row("first in line is about to claim", &vacant(0.2));
    let mut scene = vacant(2.5);
    scene.line.truncate(1);
    scene.line[0].held_down = Some(s(12.3));
    scene.line[0].failed = Some((3, "the dispatcher could not recover: the log has a hole".to_owned()));
    row("the only candidate is held down", &scene);
    let mut scene = vacant(7.0);
    scene.line.clear();
    scene.own.eligible = false;
    silent(&mut scene.members[1]);
    let mut stopping = member("n4", 4);
    let mut theirs = healthy();
    theirs.own.ending = Some(EndingFor { since: s(1.2), left: s(3.8), failure: None });
    theirs.own.busy = vec![(Work::DrainRunner, s(1.1))];
    asked(&mut stopping, &theirs);
    scene.members.push(stopping);
    row("nobody stands: not eligible, silent, stopping", &scene);
    let mut scene = vacant(7.0);
    scene.line.clear();
    scene.own.trouble = Some("there are 7 candidates already, so this node does not stand".to_owned());
    row("nobody stands yet", &scene);
    let mut scene = vacant(0.4);
    (scene.line, scene.members) = (Vec::new(), Vec::new());
    row("the first moments of a cluster", &scene);

    let recovering = || TermState::Recovering { left: s(5.9) };
    let busy = |scene: &mut Scene| scene.own.busy = vec![(Work::Recover, s(4.1))];
    let mut scene = leading(recovering());
    busy(&mut scene);
    row("elected and recovering, asked at the elected", &scene);
    row("elected and recovering, asked elsewhere", &told(recovering(), busy));
    let mut scene = told(recovering(), busy);
    scene.line.truncate(1);
    row("elected and recovering, with nobody behind it", &scene);
    let mut scene = healthy();
    (scene.serving, scene.asked) = (None, false);
    if let Some(leader) = &mut scene.leader {
        (leader.serving, leader.known_for) = (false, s(2.2));
    }
    row("elected and not serving, as a write hears it", &scene);

    let mut scene = leading(suspended());
    scene.link = Link::Lost(s(1.4));
    servers(&mut scene, &[ServerState::Refuses, ServerState::NoAnswer, ServerState::NoAnswer]);
    row("the leader lost its connection, asked at the leader", &scene);
    let lost = |scene: &mut Scene| scene.link = Link::Lost(s(1.4));
    row("the leader lost its connection, asked elsewhere", &told(suspended(), lost));
    let mut scene = leading(suspended());
    servers(&mut scene, &[ServerState::Serves, ServerState::NoQuorum, ServerState::NoQuorum]);
    row("the leader is connected to a follower without quorum", &scene);

    let mut scene = healthy();
    scene.serving = None;
    silent(&mut scene.members[0]);
    row("the leader is gone, just now", &scene);
    let leader = |scene: &mut Scene, since: f64| {
        if let Some(leader) = &mut scene.leader {
            leader.silent_for = Some(s(since));
        }
    };
    leader(&mut scene, 2.3);
    row("the leader is gone or paused: its session is waited out", &scene);
    scene.line.truncate(1);
    row("the same with nobody behind it", &scene);
    scene.line = vec![place("n1", None), place("n3", None)];
    says(
        &mut scene.members[2],
        ConditionKind::Disconnected,
        "it has had no connection to ZooKeeper for 1.0 s",
        None,
    );
    row("the same, and the next one is in trouble", &scene);
    leader(&mut scene, 30.0);
    row("the leader is cut off from here alone, or hangs", &scene);
    let mut scene = healthy();
    scene.serving = None;
    asked(&mut scene.members[0], &fresh(Work::BootRunner, 0.8));
    row("the leader was killed and is started again", &scene);
    scene.members[0].condition = None;
    row("the leader has lost its lease and says nothing of it", &scene);

    let handover = || TermState::Resigning {
        why: "it hands over to n3".to_owned(),
        to: Some(node("n3")),
        left: s(8.2),
        overdue: false,
    };
    row("a handover, asked at the old leader", &leading(handover()));
    row("a handover, asked elsewhere", &told(handover(), |_| ()));
    let resigning = |overdue| TermState::Resigning {
        why: "the dispatcher cannot go on: the log is full".to_owned(),
        to: None,
        left: s(8.2),
        overdue,
    };
    row("a term is given up", &told(resigning(false), |_| ()));
    row("a term is given up and does not end", &told(resigning(true), |_| ()));

    let mut scene = healthy();
    scene.link = Link::Lost(s(3.1));
    servers(&mut scene, &[ServerState::NoRoute; 3]);
    row("the node that answers is cut off, another leads", &scene);
    scene.serving = None;
    silent(&mut scene.members[0]);
    silent(&mut scene.members[2]);
    row("the node that answers is cut off from everybody", &scene);
    let mut scene = healthy();
    (scene.link, scene.serving) = (Link::Lost(s(3.1)), None);
    for at in [0, 2] {
        says(&mut scene.members[at], ConditionKind::Disconnected, "it has had no connection either", None);
    }
    servers(&mut scene, &[ServerState::Refuses; 3]);
    row("ZooKeeper is down, every node is up", &scene);
    (scene.service.kind, scene.service.hosts) = (Some(CoordinationKind::Keeper), "10.0.0.9:2181".to_owned());
    servers(&mut scene, &[ServerState::Refuses]);
    row("the keeper is down", &scene);
    scene.members.truncate(2);
    scene.members.remove(0);
    scene.service.embedded = true;
    scene.service.servers.clear();
    row("one node whose own keeper is down", &scene);
    let mut scene = healthy();
    scene.serving = None;
    let why = "the session expired".to_owned();
    scene.link = Link::Over { why, since: s(2.3), tries: 2 };
    servers(&mut scene, &[ServerState::Closes, ServerState::Serves, ServerState::NoQuorum]);
    row("the session expired, and the node joins again", &scene);
    let said =
        "joining again: this node belongs to cluster 1, but /taskd/cluster is cluster 2: check the root";
    scene.own.trouble = Some(said.to_owned());
    scene.service.servers.clear();
    row("the session expired, and joining again is refused", &scene);
    scene.own.trouble =
        Some("joining again: no session with ZooKeeper at 10.0.0.1:2181 within 4s".to_owned());
    scene.serving = Some((node("n1"), Epoch(5)));
    row("the same while another leads", &scene);

    let mut scene = vacant(3.0);
    scene.obstacle = Some(
        "/taskd/epoch is at 4, although this node has seen epoch 5: the ensemble was restored from an older state; \
         restore its newest data; or start over"
            .to_owned(),
    );
    row("a restored ensemble", &scene);
    scene.obstacle = Some(
        "this node belongs to cluster 1, but /taskd/cluster is cluster 2: check the coordination hosts and root".to_owned(),
    );
    row("another cluster", &scene);

    let mut scene = seen_by_leader();
    scene.serving = None;
    let (component, phase) = ("runner".to_owned(), "Running".to_owned());
    scene.own.wedged = Some(WedgedFor { component, phase, since: s(2.3), left: s(1.7) });
    row("a component blocks its thread, asked at the leader", &scene);
    let mut elsewhere = healthy();
    elsewhere.serving = None;
    asked(&mut elsewhere.members[0], &scene);
    row("a component of the leader blocks its thread, asked elsewhere", &elsewhere);
    let mut scene = healthy();
    let failure = Some("the runner failed: the disk is full".to_owned());
    let mut theirs = healthy();
    theirs.own.ending = Some(EndingFor { since: s(0.4), left: s(4.6), failure });
    asked(&mut scene.members[2], &theirs);
    row("a member stops because something failed", &scene);

    let mut scene = healthy();
    silent(&mut scene.members[2]);
    scene.members[2].heard_ms = Some(12_300);
    row("a member is unreachable", &scene);
    scene.vips.holders = [("n1", "nfs"), ("n3", "iscsi"), ("n3", "management")]
        .map(|(holder, service)| (node(holder), service.to_owned()))
        .into();
    row("a member that holds services is unreachable", &scene);
    scene.members.remove(2);
    scene.fences = vec![FenceStatus { node: node("n3"), attempts: 3, run_again: 2, over_in_ms: 21_400 }];
    row("attempts wait for their fence", &scene);
    scene.fences[0] = FenceStatus { node: node("n3"), attempts: 1, run_again: 0, over_in_ms: 500 };
    row("an attempt waits for its fence, to be given up", &scene);
    let mut scene = healthy();
    let mut twin = member("n3", 4);
    twin.note = Some(TWINS.to_owned());
    scene.members[2].note = Some(TWINS.to_owned());
    scene.members.push(twin);
    row("two members share an id", &scene);
    let mut scene = healthy();
    scene.log =
        Some(LogStatus { bytes: 99 << 20, live_bytes: 87 << 20, budget_bytes: 100 << 20, segments: 9 });
    row("the log is nearly full", &scene);
    let mut scene = healthy();
    (scene.timing.session, scene.timing.session_asked) = (s(10.0), s(4.0));
    scene.flapping = vec![Flapping { node: node("n3"), again: 4, span: s(290.0) }];
    scene.line[2].held_down = Some(s(12.3));
    scene.line[2].failed = Some((1, "it did not come to serve by its deadline".to_owned()));
    row("worth knowing: another timeout, a node that comes and goes, a failed term", &scene);

    insta::assert_snapshot!(table);
}

/// What each row of the members says once everybody was asked.
#[test]
fn rows() {
    let mut scene = healthy();
    scene.serving = None;
    says(&mut scene.members[0], ConditionKind::Suspended, "it has suspended its work", None);
    silent(&mut scene.members[1]);
    scene.members[2].note = Some(TWINS.to_owned());
    members::finish(&mut scene);
    let rows: Vec<_> = scene
        .members
        .iter()
        .map(|member| (&*member.role, &*member.phase, member.note.as_deref().unwrap_or("")))
        .collect();
    assert_eq!(
        rows,
        [
            ("was leader", "Running", "lease gone; it has suspended its work"),
            ("candidate", "unreachable", "does not answer on its address"),
            ("candidate", "Running", "shares its id with another member"),
        ]
    );
}
