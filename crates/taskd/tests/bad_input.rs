//! What is wrong is refused with a clear error and an exit code, and the node goes on.

#![expect(clippy::unwrap_used, reason = "a test fails where it stands, in its helpers too")]

mod support;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use proto::api::{ApiErrorKind, Submission, Submitted};
use proto::hello::{Hello, MAGIC, PROTOCOL, Service};
use proto::task::TaskSpec;
use proto::{FRAME_BYTES_MAX, PAYLOAD_BYTES_MAX};
use serde_json::json;
use support::{Cluster, Node, NodeConfig, SOON, free_addresses, run, run_at};
use taskd::client::{Client, draw_id};
use testkit::until;

#[tokio::test]
async fn a_node_that_cannot_start_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let [here, there] = [free_addresses(2).remove(0), free_addresses(2).remove(1)];
    let config = |id: &str, listen: &str, data_dir: &str| {
        NodeConfig::new(id, listen, "127.0.0.1:1", &dir.path().join(data_dir))
    };
    let mut first = Node::new(config("n1", &here, "n1"), dir.path());
    first.spawn();
    first.logged("connecting", 1, SOON).await;

    let file = dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    let below_file = NodeConfig::new("n5", &there, "127.0.0.1:1", &file.join("n5"));
    let outside = NodeConfig::new("n6", "192.0.2.1:10601", "127.0.0.1:1", &dir.path().join("n6"));
    let malformed = dir.path().join("malformed.toml");
    std::fs::write(&malformed, "[node]\nid = n1\n").unwrap();
    let slots = dir.path().join("slots.toml");
    std::fs::write(&slots, "[node]\nslots = \"many\"\n[coordination]\nhosts = \"zk:2181\"\n").unwrap();
    let written = |config: NodeConfig| Node::new(config, dir.path()).config_path().to_owned();

    let rows = [
        (malformed, 78, vec!["malformed.toml", "line 2"]),
        (slots, 78, vec!["node.slots", "slots.toml"]),
        (written(outside), 78, vec!["192.0.2.1", "insecure"]),
        (written(config("n2", &there, "n1")), 69, vec!["another taskd", "--data-dir"]),
        (written(config("n3", &here, "n3")), 69, vec![&here, "--listen", "in use"]),
        (written(below_file), 69, vec!["data directory", "taskd may write there"]),
    ];
    for (path, code, says) in rows {
        let ran = run(&["serve", "--config", path.to_str().unwrap()]).await;
        ran.refused(code, &says);
        assert!(!ran.stderr.contains("panicked"), "{ran:?}");
        assert!(ran.took < Duration::from_secs(5), "{ran:?}");
    }
    let (status, _) = first.stop().await;
    assert!(status.success(), "the first one was not disturbed: {status}");
}

#[tokio::test]
async fn a_running_cluster_refuses_nonsense_and_goes_on() {
    let cluster = Cluster::start(2).await;
    requests_out_of_bounds(&cluster).await;
    nodes_that_are_not_there(&cluster).await;
    payloads_that_no_service_understands(&cluster).await;
    strangers_on_the_port(&cluster).await;
    for node in &cluster.nodes {
        assert!(!node.log().contains("panicked"), "{}", node.log());
    }
}

async fn requests_out_of_bounds(cluster: &Cluster) {
    let spec = |change: fn(&mut TaskSpec)| {
        let mut spec = TaskSpec::new("noop", vec![]);
        change(&mut spec);
        spec
    };
    let rows: [(TaskSpec, &str); 5] = [
        (spec(|spec| spec.payload = vec![b'x'; PAYLOAD_BYTES_MAX + 1]), "the limit is 262144"),
        (spec(|spec| spec.priority = 101), "-100 to 100"),
        (spec(|spec| spec.kind = "no such kind!".into()), "is not a kind"),
        (spec(|spec| spec.retries.max = u32::MAX), "the limit is 1000"),
        (spec(|spec| spec.run_timeout_ms = Some(0)), "leave it out"),
    ];
    for node in &cluster.nodes {
        let client = Client::connect(node.address.parse().unwrap()).await.unwrap();
        for (spec, says) in &rows {
            match client.submit_spec(spec.clone(), SOON).await {
                Ok(Submitted::Refused(error)) => {
                    assert_eq!(error.kind, ApiErrorKind::Invalid, "{error}");
                    assert!(error.message.contains(says), "{error}");
                }
                other => panic!("{says}: {other:?}"),
            }
        }
        // One bad task of several does not take the others with it, and the largest payload that may be fits.
        let largest = spec(|spec| spec.payload = vec![b'x'; PAYLOAD_BYTES_MAX]);
        let ids = [draw_id(), draw_id(), draw_id()];
        let specs = [spec(|_| ()), rows[0].0.clone(), largest];
        let tasks = ids.into_iter().zip(specs).map(|(id, spec)| Submission { id, spec }).collect();
        let answers = client.submit_all(tasks, SOON).await.unwrap();
        assert!(matches!(answers[0], Submitted::Accepted { id } if id == ids[0]), "{answers:?}");
        assert!(matches!(answers[1], Submitted::Refused(_)), "{answers:?}");
        assert!(matches!(answers[2], Submitted::Accepted { id } if id == ids[2]), "{answers:?}");
        cluster.reaches(&ids[2].to_string(), &["succeeded"]).await;
        client.close().await;
    }
}

async fn nodes_that_are_not_there(cluster: &Cluster) {
    let (leader, epoch) = cluster.leader(&cluster.nodes[0]).await;
    for node in &cluster.nodes {
        let at = async |args: &[&str]| run_at(&node.address, args).await;
        at(&["cluster", "priority", "n9", "5"]).await.refused(4, &["n9 is not a member", "n1, n2"]);
        at(&["cluster", "handover", "--to", "n9"]).await.refused(4, &["n9 is not a member"]);
        at(&["cluster", "priority", "n1", "101"]).await.refused(2, &["-100 to 100"]);
        at(&["cluster", "handover", "--to", &leader]).await.refused(1, &["leads already"]);
    }
    assert_eq!(cluster.leader(&cluster.nodes[0]).await, (leader, epoch));
}

async fn payloads_that_no_service_understands(cluster: &Cluster) {
    for (kind, payload) in [("sleep", "a while"), ("sleep", r#"{"ms": -1}"#)] {
        let ran = cluster.cli(&["task", "submit", "--wait", "--kind", kind, "--payload", payload]).await;
        assert_eq!(ran.code, 125, "{ran:?}");
        assert!(ran.stderr.contains("failed") && !ran.stderr.contains("cannot be read"), "{ran:?}");
        assert!(ran.took < Duration::from_secs(4), "there is no output to wait for: {ran:?}");
    }
    let client = Client::connect(cluster.nodes[0].address.parse().unwrap()).await.unwrap();
    for payload in ["", "true", r#"{"argv": []}"#, r#"{"argv": ["true"], "user": "root"}"#] {
        let spec = TaskSpec::new("exec", payload.as_bytes().to_vec());
        let Ok(Submitted::Accepted { id }) = client.submit_spec(spec, SOON).await else {
            panic!("{payload}")
        };
        let task = cluster.reaches(&id.to_string(), &["failed"]).await;
        assert!(task["attempts"][0]["end"]["failed"]["message"].is_string(), "{payload}: {task:#}");
    }
    client.close().await;
}

fn frame(payload: &[u8]) -> Vec<u8> {
    let mut frame = u32::try_from(payload.len()).unwrap().to_be_bytes().to_vec();
    frame.extend_from_slice(payload);
    frame
}

/// A connection that has been let in.
fn let_in(address: &str) -> TcpStream {
    let hello = Hello {
        magic: MAGIC.to_owned(),
        protocol: PROTOCOL,
        version: "0.0.0".to_owned(),
        service: Service::Api,
        cluster: None,
        node: None,
    };
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    stream.write_all(&frame(&rmp_serde::to_vec_named(&hello).unwrap())).unwrap();
    let mut length = [0; 4];
    stream.read_exact(&mut length).unwrap();
    let mut welcome = vec![0; u32::from_be_bytes(length) as usize];
    stream.read_exact(&mut welcome).unwrap();
    assert!(String::from_utf8_lossy(&welcome).contains("Accepted"));
    stream
}

/// Whether the node has closed the connection, and said nothing before.
fn closed_without_a_word(stream: &mut TcpStream) -> bool {
    stream.set_read_timeout(Some(SOON)).unwrap();
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        Ok(_) => answer.is_empty(),
        Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
    }
}

async fn strangers_on_the_port(cluster: &Cluster) {
    const SILENT: usize = 300;
    let node = &cluster.nodes[0];
    let memory = node.memory_peak_kib();
    // Connected, and silent; more of them than there may be handshakes at a time.
    let mut half_open: Vec<_> = (0..SILENT).map(|_| TcpStream::connect(&node.address).unwrap()).collect();
    for stream in half_open.iter_mut().step_by(2) {
        stream.write_all(&[0, 0, 0]).unwrap();
    }
    let asked = Instant::now();
    let status = run_at(&node.address, &["cluster", "status"]).await;
    assert_eq!(status.code, 0, "{status:?}");
    assert!(asked.elapsed() < Duration::from_secs(1), "strangers hold others up for {:?}", asked.elapsed());

    let garbage: [&[u8]; 5] = [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        &[0xff; 4096],
        &frame(b"\xdf\xff\xff\xff\xff"),
        &[0; 64],
    ];
    for bytes in garbage {
        let mut stream = TcpStream::connect(&node.address).unwrap();
        stream.write_all(bytes).unwrap();
        assert!(closed_without_a_word(&mut stream), "{bytes:?}");
    }

    // Let in, and then:
    let request = |secs: u64, nanos: u32, message: serde_json::Value| {
        let trace = json!({ "trace_id": vec![0; 16], "span_id": 0, "sampling_decision": "Unsampled" });
        let context = json!({ "deadline": { "secs": secs, "nanos": nanos }, "trace_context": trace });
        let request = json!({ "Request": { "context": context, "id": 0, "message": message } });
        frame(&rmp_serde::to_vec_named(&request).unwrap())
    };
    let status = || json!({ "Status": { "via": "client" } });
    let too_large = u32::try_from(FRAME_BYTES_MAX + 1).unwrap().to_be_bytes();
    let rows = [
        ("garbage", frame(&[0xc1; 100])),
        ("nesting without end", frame(&[0x91; 100_000])),
        ("a frame over the limit", too_large.to_vec()),
        ("a deadline at the end of time", request(u64::MAX, 999_999_999, status())),
        ("a deadline in ages", request(1 << 40, 0, status())),
        ("no such method", request(5, 0, json!({ "Reboot": {} }))),
    ];
    for (what, bytes) in rows {
        let mut stream = let_in(&node.address);
        stream.write_all(&bytes).unwrap();
        assert!(closed_without_a_word(&mut stream), "{what}");
    }
    // The same by the book is answered, so that the rows above are refused for what they say they are.
    let mut stream = let_in(&node.address);
    stream.write_all(&request(5, 0, status())).unwrap();
    let mut length = [0; 4];
    stream.read_exact(&mut length).unwrap();
    // And one that never finishes its request does no harm.
    let mut unfinished = let_in(&node.address);
    unfinished.write_all(&[0, 0, 1, 0, 7]).unwrap();

    let ran = run_at(&node.address, &["task", "submit", "--wait", "--", "echo", "still here"]).await;
    assert_eq!((ran.code, ran.stdout.as_str()), (0, "still here\n"), "{ran:?}");
    for stream in &mut half_open {
        assert!(closed_without_a_word(stream), "a silent connection is closed");
    }
    let grown = node.memory_peak_kib() - memory;
    assert!(grown < 16 * 1024, "strangers made it grow by {grown} KiB");
}

#[tokio::test]
async fn a_node_of_another_cluster_is_turned_away() {
    let mut cluster = Cluster::prepare(1, |_| ()).await;
    let [other_address, moved_address] = [free_addresses(3).remove(1), free_addresses(3).remove(2)];
    let hosts = cluster.coordinator().hosts();
    let dir = cluster.dir.path().to_owned();
    let at_root = |id: &str, file: &str, address: &str, root: &str| {
        let mut config = NodeConfig::new(id, address, &hosts, &dir.join(id));
        config.set_root(root);
        config.file = file.to_owned();
        Node::new(config, &dir)
    };
    cluster.nodes[0].spawn();
    cluster.healthy(1).await;
    let task = cluster.submit(&["--label", "node=n9", "--", "true"]).await;
    assert_eq!(cluster.nodes[0].stop().await.0.code(), Some(0));

    // Its cluster is not there any more, as after a wiped ensemble.
    let mut moved = at_root("n1", "wiped", &moved_address, "/elsewhere");
    refuses_to_join(&mut moved, &["/elsewhere", "does not exist", "wipe the data directory"]).await;

    let mut other = at_root("n2", "other", &other_address, "/other");
    other.spawn();
    until("the other cluster has its leader", SOON, async || {
        other.status().await.filter(|status| status["health"] == "healthy")
    })
    .await;
    let mut moved = at_root("n1", "foreign", &moved_address, "/other");
    refuses_to_join(&mut moved, &["/other", "belongs to cluster", "wipe its data directory"]).await;
    let status = other.status().await.unwrap();
    assert_eq!(status["members"].as_array().unwrap().len(), 1, "{status:#}");
    assert_eq!(other.stop().await.0.code(), Some(0));

    cluster.nodes[0].spawn();
    cluster.healthy(1).await;
    assert_eq!(cluster.task(&task).await["state"], "queued", "at home nothing was lost");
}

/// Two machines with one name, as after a careless copy of a configuration.
#[tokio::test]
async fn two_nodes_of_one_name_are_told_apart_and_shown() {
    let cluster = Cluster::start(2).await;
    let address = free_addresses(3).remove(2);
    let data_dir = cluster.dir.path().join("twin");
    let mut config = NodeConfig::new("n2", &address, &cluster.coordinator().hosts(), &data_dir);
    config.file = "twin".to_owned();
    let mut twin = Node::new(config, cluster.dir.path());
    twin.spawn();
    for asked in [&cluster.nodes[0].address, &cluster.nodes[1].address, &address] {
        until("the status says what is wrong", SOON, async || {
            let ran = run_at(asked, &["cluster", "status"]).await;
            let said = ran.stdout.starts_with("DEGRADED") && ran.stdout.contains("shares its id");
            (ran.code == 3 && said).then_some(())
        })
        .await;
    }
    let ran = cluster.cli(&["task", "submit", "--wait", "--label", "node=n2", "--", "echo", "done"]).await;
    assert_eq!((ran.code, ran.stdout.as_str()), (0, "done\n"), "{ran:?}");
    twin.stop().await;
    cluster.healthy(2).await;
}

async fn refuses_to_join(node: &mut Node, says: &[&str]) {
    node.spawn();
    let (status, took) = node.ended(SOON).await;
    assert_eq!(status.code(), Some(78), "{}", node.log());
    assert!(took < Duration::from_secs(10), "it took {took:?} to say so");
    let log = node.log();
    let last = log.lines().last().unwrap_or_default();
    for text in says {
        assert!(last.contains(text), "the last line should say {text:?}: {last}");
    }
}
