//! Virtual IPs as an operator sees them: three real daemons that make dry runs on this machine's loopback interface.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::Value;
use testkit::until;

use support::{Cluster, Node, NodeConfig, SESSION_TIMEOUT, SOON, free_addresses, run_at};

/// Of the testkit's coordination service.
const TICK: Duration = Duration::from_millis(500);
/// The default of `takeover_grace`.
const GRACE: Duration = Duration::from_secs(2);
/// What this machine may be late by, with everything else that runs on it.
const NOISE: Duration = Duration::from_secs(10);

/// Nodes whose role `storage` is the loopback interface.
async fn cluster(count: usize) -> Cluster {
    Cluster::start_with(count, |config| {
        config.set("vip.interfaces", "{ storage = \"lo\" }");
        config.set("vip.on_take", "\"/bin/false\"");
    })
    .await
}

fn iscsi(more: &str) -> String {
    format!("[service.iscsi]\nvips = [{{ address = \"192.0.2.241/24\", interface = \"storage\" }}]\n{more}\n")
}

trait Operator {
    fn file(&self, name: &str, text: &str) -> PathBuf;
    async fn apply(&self, text: &str) -> Value;
    async fn service(&self, name: &str) -> Option<Value>;
    async fn held_by(&self, nodes: &[&str]) -> String;
    async fn orders(&self, args: &[&str]) -> String;
}

impl Operator for Cluster {
    fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    /// Applies a configuration, which must be accepted.
    async fn apply(&self, text: &str) -> Value {
        let file = self.file("vips.toml", text);
        let ran = self.cli(&["config", "apply", file.to_str().unwrap(), "-o", "json"]).await;
        assert_eq!(ran.code, 0, "{ran:?}");
        ran.json()
    }

    /// One service of `vip list`, as whichever node answers sees it.
    async fn service(&self, name: &str) -> Option<Value> {
        let ran = self.cli(&["vip", "list", "-o", "json"]).await;
        let page = (ran.code == 0).then(|| ran.json())?;
        page["services"].as_array()?.iter().find(|service| service["service"] == name).cloned()
    }

    /// Waits until one of the nodes holds `iscsi` and nobody else is said to; returns which.
    async fn held_by(&self, nodes: &[&str]) -> String {
        let mut last = Value::Null;
        let held = tokio::time::timeout(SOON, async {
            loop {
                last = self.service("iscsi").await.unwrap_or_default();
                let holder = last["holder"].as_str().unwrap_or_default().to_owned();
                if last["state"] == "dry_run" && nodes.contains(&&*holder) {
                    return holder;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        });
        held.await.unwrap_or_else(|_| panic!("iscsi never was held by one of {nodes:?}: {last:#}"))
    }

    /// Gives an order, which must be carried out; returns what was said.
    async fn orders(&self, args: &[&str]) -> String {
        let ran = self.cli(args).await;
        assert_eq!(ran.code, 0, "{ran:?}");
        ran.stdout.trim().to_owned()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_is_applied_moved_drained_and_stopped() {
    let mut cluster = cluster(3).await;
    // Not before it has looked.
    until("it is known that none is configured", SOON, async || {
        let ran = cluster.cli(&["vip", "list"]).await;
        (ran.code == 0).then(|| assert!(ran.stdout.contains("no virtual IPs are configured"), "{ran:?}"))
    })
    .await;

    let applied = cluster.apply(&iscsi("preferred = [\"n1\", \"n2\"]")).await;
    assert_eq!(applied["revision"], 1);
    assert!(applied["changes"][0].as_str().unwrap().starts_with("service iscsi"), "{applied:#}");
    // n1 has half a second before the next in the order may: a busy machine may be later, and that is right.
    if cluster.held_by(&["n1", "n2", "n3"]).await != "n1" {
        cluster.orders(&["vip", "move", "iscsi", "--to", "n1"]).await;
        cluster.held_by(&["n1"]).await;
    }

    // Each node by itself knows the same, and says that it is a dry run.
    for node in &cluster.nodes {
        let what = format!("{} knows who holds it", node.id);
        until(&what, SOON, async || {
            let list = run_at(&node.address, &["vip", "list"]).await;
            let told = list.stdout.contains("note: DRY RUN on n1, n2 and n3");
            (told && list.stdout.contains("iscsi    DRY RUN  n1")).then_some(())
        })
        .await;
    }
    // Nothing of this machine believes in addresses that are not there.
    cluster.nodes[0].logged("dry run: would run the hook `/bin/false take iscsi 192.0.2.241`", 1, SOON).await;
    cluster.nodes[0].logged("dry run: its addresses would be here now", 1, SOON).await;
    assert!(!cluster.nodes[0].log().contains("exited with"), "no hook was run");
    let status = cluster.cli(&["cluster", "status", "-o", "json"]).await;
    assert_eq!(status.code, 0, "a dry run that was asked for is no fault: {status:?}");
    assert!(status.json()["notes"].to_string().contains("DRY RUN on n1, n2 and n3"), "{status:?}");
    let why = cluster.orders(&["vip", "why", "iscsi"]).await;
    assert!(why.contains("n1 would hold it") && why.contains("the order is n1, then n2"), "{why}");

    // Moves are for the leader, whoever is asked; what has moved stays.
    for node in ["n3", "n1", "n2"] {
        cluster.orders(&["vip", "move", "iscsi", "--to", node]).await;
        cluster.held_by(&[node]).await;
    }
    cluster.cli(&["vip", "move", "ftp"]).await.refused(4, &["ftp"]);

    // A drained node holds nothing, and says why.
    cluster.orders(&["vip", "drain", "n2", "--why", "kernel update"]).await;
    let holder = cluster.held_by(&["n1", "n3"]).await;
    let list = cluster.orders(&["vip", "list"]).await;
    assert!(list.contains("kernel update"), "{list}");
    let why = cluster.orders(&["vip", "why", "iscsi"]).await;
    assert!(why.contains("n2 is drained (kernel update)"), "{why}");
    cluster.orders(&["vip", "undrain", "n2"]).await;

    // A node that is stopped gives it up before it leaves: nobody waits for its session, nor for a grace.
    let since = Instant::now();
    let (status, _) = cluster.node_mut(&holder).stop().await;
    assert_eq!(status.code(), Some(0));
    let others: Vec<_> = ["n1", "n2", "n3"].into_iter().filter(|node| *node != holder).collect();
    let next = cluster.held_by(&others).await;
    assert!(since.elapsed() < NOISE, "it took {:?}", since.elapsed());
    let log = cluster.node(&next).log();
    assert!(!log.contains("panicked"), "{log}");

    // Disabled, it is nobody's, which is no fault.
    let applied = cluster.apply(&iscsi("preferred = [\"n1\", \"n2\"]\nenabled = false")).await;
    assert_eq!(applied["changes"], serde_json::json!(["service iscsi: enabled true → false"]));
    until("nobody holds it", SOON, async || {
        let service = cluster.service("iscsi").await?;
        (service["state"] == "disabled" && service["holder"].is_null()).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_kill_9_a_successor_takes_it() {
    let mut cluster = cluster(3).await;
    cluster.apply(&iscsi("")).await;
    let mut holder = cluster.held_by(&["n1", "n2", "n3"]).await;
    // The second one is the leader, whether or not the first was.
    for _ in 0..2 {
        let since = Instant::now();
        cluster.node_mut(&holder).kill();
        let others: Vec<_> = ["n1", "n2", "n3"].into_iter().filter(|node| *node != holder).collect();
        let next = cluster.held_by(&others).await;
        let took = since.elapsed();
        assert!(took >= GRACE, "the grace was not waited: {took:?}");
        assert!(took < SESSION_TIMEOUT + TICK + GRACE + NOISE, "it took {took:?}");
        // What comes back does not take it back.
        cluster.node_mut(&holder).spawn();
        cluster.healthy(3).await;
        assert_eq!(cluster.held_by(&["n1", "n2", "n3"]).await, next);
        let asked = cluster.node(&next);
        let (leader, _) = cluster.leader(asked).await;
        if leader != next {
            cluster.orders(&["vip", "move", "iscsi", "--to", &leader]).await;
        }
        holder = cluster.held_by(&[&leader]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_configuration_has_revisions_and_one_writer_at_a_time() {
    let cluster = Cluster::start_with(1, |config| config.set("vip.backend", "\"off\"")).await;
    // A node that takes no part serves the configuration all the same.
    let (first, second) = (iscsi(""), iscsi("failback = true\npreferred = [\"n1\"]"));
    let file = cluster.file("vips.toml", &first);
    let file = file.to_str().unwrap();
    let ran = cluster.cli(&["config", "diff", file]).await;
    assert_eq!(ran.code, 1, "{ran:?}");
    assert_eq!(cluster.apply(&first).await["revision"], 1);
    assert_eq!(
        cluster.apply(&first).await,
        serde_json::json!({ "revision": 1, "changes": [], "warnings": [] })
    );
    let ran = cluster.cli(&["config", "diff", file]).await;
    assert_eq!((ran.code, ran.stdout.as_str()), (0, "nothing differs from revision 1\n"));
    assert_eq!(cluster.apply(&second).await["revision"], 2);

    let file = cluster.file("third.toml", &iscsi("enabled = false"));
    let file = file.to_str().unwrap();
    let ran = cluster.cli(&["config", "apply", file, "--expect", "1"]).await;
    ran.refused(1, &["revision 1 was expected, but 2 holds"]);
    let history = cluster.cli(&["config", "history", "-o", "json"]).await.json();
    let revisions: Vec<_> =
        history.as_array().unwrap().iter().map(|entry| entry["revision"].as_u64().unwrap()).collect();
    assert_eq!(revisions, [2, 1]);
    assert_eq!(history[0]["by"], "n1");
    let ran = cluster.cli(&["config", "history", "--show", "1"]).await;
    assert_eq!((ran.code, ran.stdout.as_str()), (0, first.as_str()));
    cluster
        .cli(&["config", "history", "--show", "9"])
        .await
        .refused(4, &["no revision 9", "taskd config history"]);

    // Fences belong to services: an address does not go from one to another in one step, nor soon after.
    let renamed = first.replace("service.iscsi", "service.block");
    let file = cluster.file("renamed.toml", &renamed);
    let rename = ["config", "apply", file.to_str().unwrap(), "--remove"];
    cluster.cli(&rename).await.refused(1, &["cannot go from service iscsi to block", "wait"]);
    let file = cluster.file("empty.toml", "");
    let ran = cluster.cli(&["config", "apply", file.to_str().unwrap(), "--remove"]).await;
    assert_eq!(ran.code, 0, "{ran:?}");
    cluster.cli(&rename).await.refused(1, &["cannot go from service iscsi to block", "wait"]);
    let applied = until("nobody can have the address any more", SOON, async || {
        let ran = cluster.cli(&rename).await;
        (ran.code == 0).then_some(ran)
    });
    applied.await;

    // Where the kernel could not keep an address for a second, the service is refused.
    let short = cluster.file("short.toml", &iscsi("takeover_grace = \"100ms\""));
    let ran = cluster.cli(&["config", "apply", short.to_str().unwrap(), "--remove"]).await;
    ran.refused(2, &["service.iscsi.takeover_grace", "set takeover_grace to"]);

    // What only a node that takes part can do.
    cluster.cli(&["vip", "list"]).await.refused(1, &["takes no part", "--addr"]);
    assert_eq!(cluster.orders(&["vip", "drain", "n7"]).await, "n7 is drained");
    assert_eq!(cluster.orders(&["vip", "undrain", "n7"]).await, "n7 may hold services again");
}

#[tokio::test(flavor = "multi_thread")]
async fn sighup_reads_the_facts_again() {
    let cluster =
        Cluster::start_with(1, |config| config.set("vip.interfaces", "{ storage = \"nosuch0\" }")).await;
    let node = &cluster.nodes[0];
    cluster.apply(&iscsi("labels = { zone = \"a\" }")).await;
    until("nobody can hold it", SOON, async || {
        let service = cluster.service("iscsi").await?;
        (service["state"] == "down").then_some(())
    })
    .await;
    // It is a fault that people see without looking for it.
    let status = cluster.cli(&["cluster", "status"]).await;
    assert_eq!(status.code, 3, "{status:?}");
    assert!(status.stdout.contains("service iscsi: DOWN: no node can hold it"), "{status:?}");

    let good = std::fs::read_to_string(node.config_path()).unwrap();
    let rewritten = |from: &str, to: &str| {
        assert!(good.contains(from), "{good}");
        std::fs::write(node.config_path(), good.replace(from, to)).unwrap();
        node.signal(Signal::SIGHUP);
    };
    rewritten("[vip]", "[vip]\nprobe_count = 0");
    node.logged(
        "SIGHUP: nothing is changed, since the configuration cannot be used: vip.probe_count",
        1,
        SOON,
    )
    .await;
    rewritten("labels = { node = \"n1\" }", "labels = { node = \"n1\", zone = \"a\" }");
    node.logged("SIGHUP: node.labels.zone none → \"a\"", 1, SOON).await;
    node.logged("for the placing of tasks holds only from the next start on", 1, SOON).await;
    let why = cluster.orders(&["vip", "why", "iscsi"]).await;
    assert!(why.contains("nosuch0"), "{why}");

    let good = std::fs::read_to_string(node.config_path()).unwrap();
    std::fs::write(node.config_path(), good.replace("nosuch0", "lo").replace("slots = 8", "slots = 9"))
        .unwrap();
    node.signal(Signal::SIGHUP);
    node.logged("SIGHUP: vip.interfaces.storage \"nosuch0\" → \"lo\"", 1, SOON).await;
    node.logged("SIGHUP: node.slots 8 → 9 holds only from the next start on", 1, SOON).await;
    cluster.held_by(&["n1"]).await;
    let status = cluster.cli(&["cluster", "status"]).await;
    assert_eq!(status.code, 0, "{status:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_takes_no_part_lets_the_leader_answer() {
    let cluster = Cluster::start_with(2, |config| {
        config.set("vip.interfaces", "{ storage = \"lo\" }");
        if config.id == "n2" {
            config.set("vip.backend", "\"off\"");
            config.set("node.eligible", "false");
        }
    })
    .await;
    cluster.apply(&iscsi("")).await;
    cluster.held_by(&["n1"]).await;
    let address = &cluster.node("n2").address;
    let ran = run_at(address, &["vip", "list", "-o", "json"]).await;
    assert_eq!((ran.code, &ran.json()["answered_by"]), (0, &"n1".into()), "{ran:?}");
    let ran = run_at(address, &["vip", "why", "iscsi"]).await;
    assert!(ran.code == 0 && ran.stdout.contains("n1 would hold it"), "{ran:?}");
    run_at(address, &["vip", "why", "ftp"]).await.refused(4, &["there is no service ftp; there are iscsi"]);
}

/// "None is configured" would be taken for an answer.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_has_read_nothing_yet_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let address = free_addresses(1).remove(0);
    // Nobody listens on port 1.
    let mut node =
        Node::new(NodeConfig::new("n1", &address, "127.0.0.1:1", &dir.path().join("n1")), dir.path());
    node.spawn();
    let commands: [&[&str]; 3] = [&["vip", "list"], &["vip", "show", "iscsi"], &["vip", "why", "iscsi"]];
    for command in commands {
        let ran = until("it answers", SOON, async || {
            let ran = run_at(&address, command).await;
            // At first nothing listens, and then its virtual IPs are not started yet.
            ran.stderr.contains("does not know yet").then_some(ran)
        })
        .await;
        ran.refused(
            5,
            &["n1 does not know yet which virtual IPs there are", "--addr", "taskd cluster status"],
        );
    }
    node.stop().await;
}
