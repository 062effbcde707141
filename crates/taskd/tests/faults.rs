//! What three nodes survive: a killed and a paused leader, a node that stays away, an outage of the coordination service.
#![expect(clippy::unwrap_used, reason = "a test fails where it stands, in its helpers too")]

mod support;

use std::collections::BTreeMap;
use std::process::Stdio;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use support::{Cluster, SESSION_TIMEOUT, SOON, lines, none_left, run_at, taskd};
use testkit::until;

/// A script that writes `ID ATTEMPT start|end|overlap` and runs until `gate` exists.
fn recorded(cluster: &Cluster, gate: &str) -> String {
    let dir = cluster.dir.path().display();
    format!(
        "exec 9>{dir}/$TASKD_TASK_ID.lock; me=\"$TASKD_TASK_ID $TASKD_ATTEMPT\"; \
         flock -n 9 || {{ echo $me overlap >>{dir}/record; exit 9; }}; echo $me start >>{dir}/record; \
         until [ -e {dir}/{gate} ]; do sleep 0.05; done; echo $me end >>{dir}/record"
    )
}

/// A script that tells when it has begun and when it ends, which it does once `gate` exists, with exit code 3.
fn waits_for(cluster: &Cluster, gate: &str) -> String {
    let dir = cluster.dir.path().display();
    format!(
        "echo begun | tee {dir}/begun; until [ -e {dir}/{gate} ]; do sleep 0.05; done; echo ended; exit 3"
    )
}

/// Of each task: its attempts and what they wrote.
fn record(cluster: &Cluster) -> BTreeMap<String, Vec<(u32, String)>> {
    let mut tasks = BTreeMap::<_, Vec<_>>::new();
    for line in lines(&cluster.dir.path().join("record")) {
        let words: Vec<_> = line.split(' ').collect();
        tasks.entry(words[0].to_owned()).or_default().push((words[1].parse().unwrap(), words[2].to_owned()));
    }
    tasks
}

async fn recorded_starts(cluster: &Cluster, count: usize) {
    until("the tasks have started", SOON, async || {
        let starts = record(cluster).values().flatten().filter(|(_, what)| what == "start").count();
        (starts >= count).then_some(())
    })
    .await;
}

fn nothing_overlapped_or_ran_after_success(cluster: &Cluster) {
    for (id, events) in record(cluster) {
        assert!(events.iter().all(|(_, what)| what != "overlap"), "{id}: {events:?}");
        let end = events.iter().position(|(_, what)| what == "end");
        assert_eq!(end, Some(events.len() - 1), "{id} goes on after its success: {events:?}");
    }
}

#[tokio::test]
async fn a_killed_leader_is_replaced_and_its_tasks_come_back() {
    let mut cluster = Cluster::start(3).await;
    let (old, old_epoch) = cluster.leader(&cluster.nodes[0]).await;
    let others: Vec<_> = cluster.nodes.iter().map(|n| n.id.clone()).filter(|id| *id != old).collect();

    let mut done = Vec::new();
    for _ in 0..4 {
        let script = recorded(&cluster, "record");
        done.push(cluster.submit(&["--", "sh", "-c", &script]).await);
    }
    for id in &done {
        cluster.reaches(id, &["succeeded"]).await;
    }
    let script = recorded(&cluster, "gate");
    let on = async |node: &str, policy: &str| {
        let label = format!("node={node}");
        cluster.submit(&["--label", &label, "--on-lost", policy, "--", "sh", "-c", &script]).await
    };
    let kept = [on(&others[0], "requeue").await, on(&others[1], "requeue").await];
    let (adopted, not_lost) = (on(&old, "requeue").await, on(&old, "fail").await);
    recorded_starts(&cluster, 8).await;
    // Somebody waits for a task all the time, through the node that is about to die.
    let waiting = ["task", "submit", "--addr", &cluster.addresses_from(&old), "--wait", "--label"];
    let (label, script) = (format!("node={}", others[1]), waits_for(&cluster, "gate"));
    let waiting = taskd(&[&waiting[..], &[&label, "--", "sh", "-c", &script]].concat());
    let mut waiting = tokio::process::Command::from(waiting);
    let waiting = waiting.stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true).spawn().unwrap();
    let begun = cluster.dir.path().join("begun");
    until("the task that is waited for runs", SOON, async || begun.exists().then_some(())).await;

    cluster.node_mut(&old).kill();
    let killed = Instant::now();
    let witness = cluster.node(&others[0]);
    let words = run_at(&witness.address, &["cluster", "status"]).await;
    assert!(words.code == 3 && words.stdout.starts_with("NO LEADER"), "{words:?}");
    assert!(words.stdout.contains("takes over"), "{words:?}");
    let (new, epoch) = cluster.leader(witness).await;
    assert!(new != old && epoch > old_epoch, "{new} (epoch {epoch}) after {old} (epoch {old_epoch})");
    // Session timeout, tick, half a second; the rest is this machine's.
    assert!(killed.elapsed() < Duration::from_secs(3 + 5), "{:?}", killed.elapsed());
    let queued = cluster.submit(&["--", "true"]).await;
    cluster.reaches(&queued, &["succeeded"]).await;
    for id in &kept {
        let task = cluster.task(id).await;
        assert_eq!((&task["state"], &task["attempt_count"]), (&"running".into(), &1.into()), "{task:#}");
    }

    cluster.node_mut(&old).spawn();
    cluster.healthy(3).await;
    std::fs::write(cluster.dir.path().join("gate"), "").unwrap();
    for id in &kept {
        assert_eq!(cluster.reaches(id, &["succeeded"]).await["attempt_count"], 1);
    }
    let waited = tokio::time::timeout(SOON, waiting.wait_with_output()).await.unwrap().unwrap();
    assert_eq!(waited.status.code(), Some(3), "{waited:?}");
    assert_eq!(String::from_utf8_lossy(&waited.stdout), "begun\nended\n", "{waited:?}");
    // Its daemon came back before the fence, and went on with them.
    for id in [&adopted, &not_lost] {
        assert_eq!(cluster.reaches(id, &["succeeded"]).await["attempt_count"], 1);
    }
    for id in &done {
        let task = cluster.task(id).await;
        assert_eq!((&task["state"], &task["attempt_count"]), (&"succeeded".into(), &1.into()), "{task:#}");
    }
    nothing_overlapped_or_ran_after_success(&cluster);
}

/// What a leader that wakes up believes to know is old: it must not act on it.
#[tokio::test]
async fn a_paused_leader_is_replaced_and_steps_down() {
    let cluster = Cluster::start(3).await;
    let (old, old_epoch) = cluster.leader(&cluster.nodes[0]).await;
    let script = recorded(&cluster, "gate");
    let mut running = Vec::new();
    for node in &cluster.nodes {
        let label = format!("node={}", node.id);
        running.push(cluster.submit(&["--label", &label, "--", "sh", "-c", &script]).await);
    }
    recorded_starts(&cluster, running.len()).await;

    cluster.node(&old).signal(Signal::SIGSTOP);
    let witness = cluster.nodes.iter().find(|node| node.id != old).unwrap();
    // This one is passed on to the leader that hears nothing, and again to the next one under the same id.
    let submit = ["task", "submit", "--wait", "--", "echo", "done"];
    let submitted = run_at(&witness.address, &submit);
    let leads = until("another node leads", SOON, async || {
        let status = witness.status().await?;
        let leader = &status["leader"];
        let leads = leader["serving"] == true && leader["node"] != *old;
        leads.then(|| (leader["node"].as_str().unwrap().to_owned(), leader["epoch"].as_u64().unwrap()))
    });
    let (ran, (new, epoch)) = tokio::join!(submitted, leads);
    assert!(epoch > old_epoch, "epoch {epoch} after {old_epoch}");
    assert_eq!((ran.code, ran.stdout.as_str()), (0, "done\n"), "{ran:?}");

    cluster.node(&old).signal(Signal::SIGCONT);
    let ran = run_at(&cluster.node(&old).address, &submit).await;
    assert_eq!((ran.code, ran.stdout.as_str()), (0, "done\n"), "through the one that woke up: {ran:?}");
    let status = cluster.healthy(3).await;
    let page = cluster.cli(&["task", "list", "-o", "json"]).await.json();
    assert_eq!(page["total"], running.len() + 2, "nothing is there twice: {page:#}");
    assert_eq!((&status["leader"]["node"], &status["leader"]["epoch"]), (&new.into(), &epoch.into()));
    std::fs::write(cluster.dir.path().join("gate"), "").unwrap();
    for id in &running {
        let task = cluster.reaches(id, &["succeeded"]).await;
        assert_eq!(task["attempt_count"], 1, "{task:#}");
    }
    nothing_overlapped_or_ran_after_success(&cluster);
}

#[tokio::test]
async fn an_outage_of_coordination_ends_nothing() {
    let mut cluster = Cluster::prepare_own(3).await.started().await;
    let script = recorded(&cluster, "gate");
    let mut running = Vec::new();
    for _ in 0..6 {
        running.push(cluster.submit(&["--", "sh", "-c", &script]).await);
    }
    recorded_starts(&cluster, running.len()).await;

    cluster.coordinator_mut().stop().await;
    let stopped = Instant::now();
    let submit = ["task", "submit", "--submit-timeout", "1s", "--", "true"];
    // The log's write may still be under way when the lease ends: then nobody can know.
    let ran = run_at(&cluster.nodes[0].address, &submit).await;
    assert!(ran.code == 5 || ran.code == 6, "{ran:?}");
    until("every lease has ended", SOON, async || {
        (stopped.elapsed() > SESSION_TIMEOUT + Duration::from_millis(500)).then_some(())
    })
    .await;
    for node in &cluster.nodes {
        let ran = run_at(&node.address, &submit).await;
        ran.refused(5, &["nothing was queued"]);
        assert!(ran.took < Duration::from_secs(3), "{ran:?}");
    }
    for node in &cluster.nodes {
        let words = until("the status says what is wrong", SOON, async || {
            let ran = run_at(&node.address, &["cluster", "status"]).await;
            (ran.code == 3).then_some(ran)
        })
        .await;
        assert!(words.stdout.starts_with("NO LEADER") && words.stdout.contains("ZooKeeper"), "{words:?}");
    }
    until("six seconds have passed", SOON, async || {
        (stopped.elapsed() > Duration::from_secs(6)).then_some(())
    })
    .await;
    cluster.coordinator_mut().start_again().await;

    cluster.healthy(3).await;
    let after = cluster.submit(&["--", "true"]).await;
    cluster.reaches(&after, &["succeeded"]).await;
    for id in &running {
        let task = cluster.task(id).await;
        assert_eq!((&task["state"], &task["attempt_count"]), (&"running".into(), &1.into()), "{task:#}");
    }
    std::fs::write(cluster.dir.path().join("gate"), "").unwrap();
    for id in &running {
        assert_eq!(cluster.reaches(id, &["succeeded"]).await["attempt_count"], 1);
    }
    nothing_overlapped_or_ran_after_success(&cluster);
}

/// Each lost policy, when the daemon is gone and nobody starts it again.
#[tokio::test]
async fn a_node_that_stays_away_loses_its_tasks_after_the_fence() {
    let started = Cluster::start_with(3, |config| {
        config.set("tasks.fence_after", "\"6s\"");
        if config.id != "n1" {
            config.set("node.labels", "{ pair = \"yes\" }");
        }
    });
    let mut cluster = started.await;
    let script = recorded(&cluster, "gate");
    let on = async |policy: &str| {
        cluster.submit(&["--label", "pair=yes", "--on-lost", policy, "--", "sh", "-c", &script]).await
    };
    let mut ids = Vec::new();
    for policy in ["requeue", "requeue", "requeue", "requeue"] {
        ids.push(on(policy).await);
    }
    // What it is found by among the processes of this machine: another such test may run.
    let sleeps = format!("86399.{:08}", std::process::id());
    let quick =
        cluster.submit(&["--label", "pair=yes", "--on-lost", "requeue-now", "--", "sleep", &sleeps]).await;
    recorded_starts(&cluster, ids.len()).await;
    cluster.reaches(&quick, &["running"]).await;
    let victim = cluster.task(&quick).await["attempts"][0]["node"].as_str().unwrap().to_owned();
    let mut of_victim = Vec::new();
    for id in &ids {
        if cluster.task(id).await["attempts"][0]["node"] == *victim {
            of_victim.push(id.clone());
        }
    }
    assert!(!of_victim.is_empty(), "the tasks spread over the nodes that suit");

    cluster.node_mut(&victim).kill();
    until("requeue-now does not wait for the fence", SOON, async || {
        // It may have been the leader that was killed; what can be asked again tells soon enough.
        let ran = cluster.cli(&["task", "show", &quick, "-o", "json"]).await;
        (ran.code == 0 && ran.json()["attempt_count"] == 2).then_some(())
    })
    .await;
    // The shims of the dead daemon end their tasks at the deadline, so that nothing overlaps.
    recorded_starts(&cluster, ids.len() + of_victim.len()).await;
    assert!(cluster.node(&victim).shims().is_empty(), "{:?}", cluster.node(&victim).shims());
    std::fs::write(cluster.dir.path().join("gate"), "").unwrap();
    for id in &ids {
        let attempts = if of_victim.contains(id) { 2 } else { 1 };
        assert_eq!(cluster.reaches(id, &["succeeded"]).await["attempt_count"], attempts);
    }
    // By the leader's clock, not by ours, which a busy machine holds up.
    let again = async |id: &str| cluster.task(id).await["attempts"][1]["assigned_ms"].as_u64().unwrap();
    let at_once = again(&quick).await;
    for id in &of_victim {
        let fenced = again(id).await;
        assert!(at_once < fenced, "{at_once} {fenced}");
    }
    nothing_overlapped_or_ran_after_success(&cluster);
    cluster.cli(&["task", "cancel", &quick]).await;
    cluster.reaches(&quick, &["cancelled"]).await;
    none_left(&sleeps, SOON).await;
}
