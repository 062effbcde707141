//! Three nodes, one leader, real tasks: what a user does with a cluster.

#![expect(clippy::unwrap_used, reason = "a test fails where it stands, in its helpers too")]

mod support;

use std::time::Duration;

use support::{Cluster, SOON, processes_with, run_at};
use testkit::until;

#[tokio::test]
async fn tasks_run_and_can_be_asked_about_through_every_node() {
    let cluster = Cluster::start(3).await;
    every_node_takes_tasks(&cluster).await;
    the_tasks_own_status_comes_back(&cluster).await;
    much_output_stays_on_disk(&cluster).await;
    cancelled_means_gone(&cluster).await;
    retries_and_timeouts(&cluster).await;
    why_is_answered(&cluster).await;
    one_key_is_one_task(&cluster).await;
    lists_and_json(&cluster).await;
    leadership_moves_on_request(&cluster).await;
    let mut cluster = cluster;
    a_stopped_leader_passes_its_tasks_on(&mut cluster).await;
    for node in cluster.nodes.iter_mut().filter(|node| node.runs()) {
        let (status, took) = node.stop().await;
        assert!(status.success() && took < Duration::from_secs(5), "{}: {status} after {took:?}", node.id);
    }
}

async fn every_node_takes_tasks(cluster: &Cluster) {
    let serial = std::process::Command::new("sha256sum").arg("/etc/os-release").output().unwrap();
    let serial = String::from_utf8(serial.stdout).unwrap();
    for node in &cluster.nodes {
        let ran =
            run_at(&node.address, &["task", "submit", "--wait", "--", "sha256sum", "/etc/os-release"]).await;
        assert_eq!((ran.code, &*ran.stdout, &*ran.stderr), (0, &*serial, ""), "through {}", node.id);
    }
    // And on every node: its label is its name.
    for node in &cluster.nodes {
        let label = format!("node={}", node.id);
        let ran = cluster
            .cli(&["task", "submit", "--wait", "--label", &label, "--", "sh", "-c", "echo $TASKD_NODE"])
            .await;
        assert_eq!((ran.code, ran.stdout.trim()), (0, &*node.id), "{ran:?}");
    }
}

async fn the_tasks_own_status_comes_back(cluster: &Cluster) {
    let rows =
        [("exit 7", 7, "failed (exit 7)"), ("kill -9 $$", 137, "failed (signal 9)"), ("exit 0", 0, "")];
    for (script, code, says) in rows {
        let ran = cluster.cli(&["task", "submit", "--wait", "--", "sh", "-c", script]).await;
        assert_eq!(ran.code, code, "{script}: {ran:?}");
        assert!(ran.stderr.contains(says), "{script}: {ran:?}");
    }
    let ran = cluster.cli(&["task", "submit", "--wait", "--", "/no/such/program"]).await;
    assert!(ran.code != 0 && ran.stderr.contains("/no/such/program"), "{ran:?}");
}

/// 10 MiB on stdout grow neither the daemon nor ZooKeeper's state.
async fn much_output_stays_on_disk(cluster: &Cluster) {
    const BYTES: usize = 10 * 1024 * 1024;
    let log_bytes = async || {
        let status = cluster.nodes[0].status().await.unwrap();
        (status["log"]["bytes"].as_u64().unwrap(), status["log"]["live_bytes"].as_u64().unwrap())
    };
    let memory = || cluster.nodes.iter().map(|node| node.memory_peak_kib()).collect::<Vec<_>>();
    let (bytes_before, _) = log_bytes().await;
    let memory_before = memory();
    let script = format!("yes 0123456789abcde | head -c {BYTES}; echo the end");
    let id = cluster.submit(&["--label", "node=n2", "--", "sh", "-c", &script]).await;
    cluster.reaches(&id, &["succeeded"]).await;
    for node in &cluster.nodes {
        let ran = run_at(&node.address, &["task", "logs", &id]).await;
        assert_eq!((ran.code, ran.stdout.len()), (0, BYTES + 8), "through {}: {}", node.id, ran.stderr);
        assert!(ran.stdout.ends_with("the end\n"), "through {}", node.id);
    }
    let ran = cluster.cli(&["task", "submit", "--wait", "--", "sh", "-c", &script]).await;
    assert_eq!((ran.code, ran.stdout.len()), (0, BYTES + 8), "{}", ran.stderr);

    let (bytes_after, _) = log_bytes().await;
    assert!(bytes_after < bytes_before + 8 * 1024, "{bytes_before} → {bytes_after} bytes of log");
    for ((node, before), after) in cluster.nodes.iter().zip(memory_before).zip(memory()) {
        assert!(after < before + 6 * 1024, "{} grew from {before} to {after} KiB", node.id);
    }
}

/// Also what has left the process group, and has no parent any more.
async fn cancelled_means_gone(cluster: &Cluster) {
    let marks = ["86400.125", "86400.25", "86400.5"].map(|mark| format!("{mark}{}", std::process::id()));
    let [child, orphan, own] = &marks;
    let script = format!(
        "trap '' TERM; sleep {child} & (setsid sh -c 'sleep {orphan} & exit' &) ; echo up; exec sleep {own}"
    );
    let id = cluster.submit(&["--", "sh", "-c", &script]).await;
    let sleeps =
        |mark: &str| processes_with(mark).iter().any(|(_, line)| line.trim() == format!("sleep {mark}"));
    until("the whole tree runs", SOON, async || marks.iter().all(|mark| sleeps(mark)).then_some(())).await;
    let ran = cluster.cli(&["task", "cancel", &id[..8]]).await;
    assert_eq!(ran.code, 0, "{ran:?}");
    cluster.reaches(&id, &["cancelled"]).await;
    for mark in &marks {
        let left = processes_with(mark);
        assert!(left.is_empty(), "cancelled, but there is {left:?}");
    }
    let again = cluster.cli(&["task", "cancel", &id]).await;
    assert_eq!((again.code, again.stdout), (0, format!("{id}  cancelled\n")), "{}", again.stderr);
    let queued = cluster.submit(&["--label", "node=n9", "--", "true"]).await;
    cluster.cli(&["task", "cancel", &queued]).await;
    assert_eq!(cluster.reaches(&queued, &["cancelled"]).await["attempt_count"], 0);
}

async fn retries_and_timeouts(cluster: &Cluster) {
    let started = std::time::Instant::now();
    let id = cluster
        .submit(&[
            "--retries",
            "2",
            "--retry-backoff",
            "200ms",
            "--",
            "sh",
            "-c",
            "echo try $TASKD_ATTEMPT; exit 3",
        ])
        .await;
    let ran = cluster.cli(&["task", "wait", &id]).await;
    assert_eq!(ran.code, 1, "{ran:?}");
    let task = cluster.task(&id).await;
    assert_eq!((&task["state"], &task["attempt_count"]), (&"dead".into(), &3.into()), "{task:#}");
    assert!(started.elapsed() >= Duration::from_millis(600), "200 ms, then 400 ms");
    let output = cluster.cli(&["task", "logs", &id, "--attempt", "2"]).await.stdout;
    assert_eq!(output, "try 2\n");
    let retried = cluster.cli(&["task", "retry", &id, "-o", "json"]).await;
    assert_eq!(retried.code, 0, "{retried:?}");
    assert_eq!(cluster.reaches(&id, &["dead"]).await["attempt_count"], 6, "a fresh budget");

    let ran = cluster
        .cli(&["task", "submit", "--wait", "--run-timeout", "2s", "--", "sh", "-c", "echo begun; sleep 60"])
        .await;
    assert_eq!((ran.code, ran.stdout.as_str()), (125, "begun\n"), "{ran:?}");
    assert!(ran.stderr.contains("timed_out"), "{ran:?}");
}

async fn why_is_answered(cluster: &Cluster) {
    let id = cluster.submit(&["--label", "zone=mars", "--", "true"]).await;
    for node in &cluster.nodes {
        let ran = run_at(&node.address, &["task", "why", &id]).await;
        assert!(ran.code == 0 && ran.stdout.starts_with("queued: "), "{ran:?}");
        assert!(ran.stdout.contains("no node") && ran.stdout.contains("zone=mars"), "{ran:?}");
    }
    let why = cluster.cli(&["task", "why", &id, "-o", "json"]).await.json();
    assert_eq!((&why["id"], &why["state"]), (&id.clone().into(), &"queued".into()));
    assert_eq!(cluster.cli(&["task", "cancel", &id]).await.code, 0);
    // Every node has been heard of, so that a kind that none of them runs is a mistake.
    for node in &cluster.nodes {
        let unheard_of = ["task", "submit", "--kind", "unheard-of", "--payload", "x"];
        run_at(&node.address, &unheard_of).await.refused(2, &["unheard-of", "exec", "noop"]);
    }
}

async fn one_key_is_one_task(cluster: &Cluster) {
    let submit = ["--idempotency-key", "nightly-7", "--", "true"];
    let first = cluster.submit(&submit).await;
    let again = cluster.cli(&[&["task", "submit"], &submit[..]].concat()).await;
    assert_eq!((again.code, again.stdout.trim()), (0, &*first), "{again:?}");
    assert!(again.stderr.contains("submitted before"), "{again:?}");
}

async fn lists_and_json(cluster: &Cluster) {
    let id = cluster.submit(&["--name", "a name", "--priority", "-7", "--", "true"]).await;
    cluster.reaches(&id, &["succeeded"]).await;
    let page = cluster.cli(&["task", "list", "-o", "json", "--limit", "1"]).await.json();
    assert_eq!(page["tasks"].as_array().unwrap().len(), 1);
    assert_eq!(page["tasks"][0]["id"], *id, "newest first");
    assert!(page["total"].as_u64().unwrap() > 5, "{page}");
    let table = cluster.cli(&["task", "list", "--limit", "2"]).await;
    assert_eq!(table.stdout.lines().count(), 3, "{table:?}");
    assert!(table.stderr.starts_with("2 of ") && table.stderr.contains("with --after s"), "{table:?}");

    let task = cluster.task(&id[..10]).await;
    assert_eq!((&task["id"], &task["spec"]["priority"]), (&id.clone().into(), &(-7).into()));
    assert_eq!(task["attempts"][0]["end"]["exited"]["code"], 0, "{task:#}");
    let shown = cluster.cli(&["task", "show", &id]).await;
    assert!(shown.stdout.contains("a name") && !shown.stdout.contains('\x1b'), "{shown:?}");
    let waited = cluster.cli(&["task", "wait", &id, "-o", "json"]).await;
    assert_eq!((waited.code, &waited.json()[0]["id"]), (0, &id.into()));
    cluster.cli(&["task", "show", "ffffffffffff"]).await.refused(4, &["there is no task"]);

    let status = cluster.nodes[1].status().await.unwrap();
    assert_eq!(status["coordination"]["session_timeout_ms"], 2000, "{status:#}");
    assert_eq!(status["members"].as_array().unwrap().len(), 3);
    let words = cluster.cli(&["cluster", "status"]).await;
    assert!(words.code == 0 && words.stdout.starts_with("HEALTHY: "), "{words:?}");
    let service = until("the coordination service says what it is", SOON, async || {
        let status = cluster.nodes[1].status().await?;
        Some(status["coordination"]["service"].clone()).filter(|service| !service.is_null())
    })
    .await;
    let several = service["kind"] == "ensemble";
    assert!(several || service["kind"] == "keeper", "{service:#}");
    assert_eq!(service["highly_available"], several, "{service:#}");
}

/// Handover and priority: another node leads within seconds, and running tasks notice nothing.
async fn leadership_moves_on_request(cluster: &Cluster) {
    let witness = &cluster.nodes[0];
    let gate = cluster.dir.path().join("gate");
    let script = format!("until [ -e {} ]; do sleep 0.05; done", gate.display());
    let mut running = Vec::new();
    for node in &cluster.nodes {
        let label = format!("node={}", node.id);
        running.push(cluster.submit(&["--label", &label, "--", "sh", "-c", &script]).await);
    }
    for id in &running {
        cluster.reaches(id, &["running"]).await;
    }

    let (old, old_epoch) = cluster.leader(witness).await;
    let target = cluster.nodes.iter().find(|node| node.id != old).unwrap();
    let asked = std::time::Instant::now();
    let ran = cluster.cli(&["cluster", "handover", "--to", &target.id]).await;
    assert_eq!((ran.code, ran.stdout), (0, format!("{} leads\n", target.id)), "{}", ran.stderr);
    let (new, epoch) = cluster.leader(witness).await;
    assert!(
        new == target.id && epoch > old_epoch,
        "{new} (epoch {epoch}) leads after {old} (epoch {old_epoch})"
    );
    assert!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
    // It had read the log while the old one still led.
    target.logged("warm=true", 1, SOON).await;

    let preferred = cluster.nodes.iter().find(|node| node.id != old && node.id != new).unwrap();
    let ran = cluster.cli(&["cluster", "priority", &preferred.id, "10"]).await;
    assert_eq!(ran.code, 0, "{ran:?}");
    let ran = cluster.cli(&["cluster", "handover"]).await;
    assert_eq!((ran.code, ran.stdout), (0, format!("{} leads\n", preferred.id)), "{}", ran.stderr);
    let status = cluster.healthy(3).await;
    assert_eq!(status["leader"]["node"], *preferred.id);
    assert!(status["members"].as_array().unwrap().iter().any(|m| m["priority"] == 10), "{status:#}");

    std::fs::write(&gate, "").unwrap();
    for id in &running {
        assert_eq!(cluster.reaches(id, &["succeeded"]).await["attempt_count"], 1);
    }
}

/// Its tasks run elsewhere at once: their processes are known to be gone, so that nobody waits for the fence.
async fn a_stopped_leader_passes_its_tasks_on(cluster: &mut Cluster) {
    let mut ids = Vec::new();
    for _ in 0..6 {
        ids.push(cluster.submit(&["--", "sleep", "86398"]).await);
    }
    let (leader, _) = cluster.leader(&cluster.nodes[0]).await;
    let mut moved = 0;
    for id in &ids {
        let task = cluster.reaches(id, &["running"]).await;
        moved += usize::from(task["attempts"][0]["node"] == *leader);
    }
    assert!(moved > 0, "the tasks spread over all nodes");
    let (status, took) = cluster.node_mut(&leader).stop().await;
    assert!(status.success() && took < Duration::from_secs(5), "{status} after {took:?}");
    let stopped = std::time::Instant::now();
    for id in &ids {
        until("the task runs on another node", Duration::from_secs(5), async || {
            let task = cluster.reaches(id, &["running"]).await;
            let attempts = task["attempts"].as_array().unwrap();
            let first = attempts[0]["node"] == *leader;
            assert!(task["attempt_count"].as_u64() <= Some(1 + u64::from(first)), "{task:#}");
            (attempts.last().unwrap()["node"] != *leader).then_some(())
        })
        .await;
    }
    assert!(stopped.elapsed() < Duration::from_secs(5), "{:?}", stopped.elapsed());
    for id in &ids {
        assert_eq!(cluster.cli(&["task", "cancel", id]).await.code, 0);
        cluster.reaches(id, &["cancelled"]).await;
    }
}
