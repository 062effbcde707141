//! The command line, as the built binary understands it.

mod cli_support;
mod cli_vips;

use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::Stdio;

use cli_support::{FakeNode, run, taskd};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

/// Nothing listens there: it is the port multiplexer's, and bound by nobody.
const NOBODY: &str = "127.0.0.1:1";

#[test]
fn help_is_there_for_every_command() {
    let rows: [(&[&str], &str); 26] = [
        (&["--help"], "Exit codes:"),
        (&["-h"], "`taskd --help` explains the exit codes"),
        (&["serve", "--help"], "TASKD_<SECTION>__<KEY>"),
        (&["task", "--help"], "With -o json"),
        (&["task", "submit", "--help"], "Examples:"),
        (&["task", "list", "--help"], "timed_out"),
        (&["task", "show", "--help"], "unique beginning"),
        (&["task", "why", "--help"], "what would change it"),
        (&["task", "logs", "--help"], "--follow"),
        (&["task", "cancel", "--help"], "processes are gone"),
        (&["task", "wait", "--help"], "--timeout"),
        (&["task", "retry", "--help"], "fresh budget"),
        (&["cluster", "--help"], "\"health\": \"healthy\"|\"degraded\"|\"no_leader\""),
        (&["cluster", "status", "--help"], "exit code 3"),
        (&["cluster", "handover", "--help"], "--to"),
        (&["cluster", "switchover", "--help"], "--to"),
        (&["cluster", "priority", "--help"], "<NODE> <N>"),
        (&["serve", "--help"], "CAP_NET_ADMIN"),
        (&["vip", "--help"], "\"conflict\": {\"address\", \"mac\", \"interface\"}"),
        (&["vip", "list", "--help"], "what is the matter"),
        (&["vip", "move", "--help"], "--to"),
        (&["vip", "drain", "--help"], "taskd vip undrain n1"),
        (&["config", "--help"], "takeover_grace = \"2s\""),
        (&["config", "-h"], "Example of a file"),
        (&["config", "apply", "--help"], "--expect"),
        (&["config", "history", "--help"], "--show"),
    ];
    for (args, text) in rows {
        let (code, stdout, stderr) = run(args);
        assert_eq!((code, stderr.as_str()), (0, ""), "{args:?}");
        let stdout = stdout.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(stdout.contains(text), "{args:?} should say {text:?}: {stdout}");
        for hidden in ["shim", "vip-guard"] {
            assert!(!stdout.contains(hidden), "{hidden} is nobody's business");
        }
    }
}

#[test]
fn bad_input_is_refused_before_anything_is_sent() {
    let dir = tempfile::tempdir().unwrap();
    let big = dir.path().join("big");
    std::fs::write(&big, vec![b' '; 256 * 1024 + 1]).unwrap();
    let big = format!("@{}", big.display());
    let rows: [(&[&str], &str); 19] = [
        (&["cluster", "status", "--addr", "nonsense"], "use HOST:PORT"),
        (&["cluster", "status", "--addr", "127.0.0.1:99999"], "no usable port"),
        (&["cluster", "status", "--addr", "127.0.0.1:1,"], "use HOST:PORT"),
        (&["cluster", "status", "-o", "xml"], "table, json"),
        (&["cluster", "priority", "n1", "high"], "invalid digit"),
        (&["cluster", "priority", "N_1", "3"], "is not a node id"),
        (&["cluster", "handover", "--to", "-"], "is not a node id"),
        (&["task", "list", "--state", "done"], "\"done\" is not a task state: use one of scheduled"),
        (&["task", "list", "--limit", "0"], "1..=10000"),
        (&["task", "show", "xyz"], "32 hexadecimal digits"),
        (&["task", "wait"], "<ID>"),
        (&["task", "submit"], "put it after --"),
        (&["task", "submit", "--priority", "101", "--", "x"], "-100..=100"),
        (&["task", "submit", "--retries", "1001", "--", "x"], "0..=1000"),
        (&["task", "submit", "--run-timeout", "0s", "--", "x"], "leave it out"),
        (&["task", "submit", "--label", "zone", "--", "x"], "use KEY=VALUE"),
        (&["task", "submit", "--kind", "noop", "--payload", &big], "262145 bytes, the limit is 262144"),
        (&["task", "submit", "--kind", "sleep", "--payload", "@/nowhere"], "/nowhere"),
        (&["task", "submit", "--wait", "-o", "json", "--", "x"], "no JSON form"),
    ];
    for (args, text) in rows {
        let (code, stdout, stderr) = run(args);
        assert_eq!((code, stdout.as_str()), (2, ""), "{args:?}: {stderr}");
        assert!(stderr.contains(text), "{args:?} should say {text:?}: {stderr}");
    }
}

#[test]
fn nobody_there() {
    let rows: [(&[&str], i32); 3] = [
        (&["cluster", "status"], 5),
        (&["task", "submit", "--submit-timeout", "100ms", "--", "true"], 5),
        (&["task", "submit", "--wait", "--submit-timeout", "100ms", "--", "true"], 125),
    ];
    for (args, code) in rows {
        let args = [&args[..2], &["--addr", NOBODY], &args[2..]].concat();
        let (got, stdout, stderr) = run(&args);
        assert_eq!((got, stdout.as_str()), (code, ""), "{args:?}: {stderr}");
        assert!(stderr.contains("cannot reach 127.0.0.1:1") && stderr.contains("--addr"), "{stderr}");
    }
}

#[test]
fn a_node_that_hangs_does_not_hide_the_others() {
    // The kernel accepts, nobody answers: a node that was stopped.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let node = FakeNode::start();
    let addresses = format!("{},{}", silent.local_addr().unwrap(), node.address);
    let (code, stdout, stderr) = run(&["cluster", "status", "--addr", &addresses]);
    assert_eq!(code, 3, "{stderr}");
    assert!(stdout.starts_with("DEGRADED: n1 leads"), "{stdout}");
}

#[test]
fn something_else_there() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let (mut stream, _) = listener.accept().unwrap();
            stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").unwrap();
        });
        let (code, stdout, stderr) = run(&["cluster", "status", "--addr", &address]);
        assert_eq!((code, stdout.as_str()), (5, ""), "{stderr}");
        assert!(stderr.contains(&format!("what listens at {address} is not taskd")), "{stderr}");
    });
}

#[test]
fn the_configuration_is_judged_before_anything_starts() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("taskd.toml");
    std::fs::write(&file, "[exec]\nalow = true\n").unwrap();
    let file = file.to_str().unwrap();
    let given = ["--node-id", "n1", "--coordination", "zk1:2181"];
    let rows: [(&[&str], &str); 5] = [
        (&["--config", file, given[0], given[1]], "exec.alow"),
        (&["--config", "/nowhere.toml"], "there is no file /nowhere.toml"),
        (&["--node-id", "n1"], "coordination.hosts: not set"),
        (&[given[0], given[1], given[2], given[3], "--listen", "0.0.0.0:1"], "node.insecure = true"),
        (&["--node-id", "n1", "--coordination", "zk1"], "(from the flag --coordination)"),
    ];
    for (args, text) in rows {
        let (code, stdout, stderr) = run(&[&["serve"], args].concat());
        assert_eq!((code, stdout.as_str()), (78, ""), "{args:?}: {stderr}");
        assert!(stderr.contains(text), "{args:?} should say {text:?}: {stderr}");
    }
    let (code, stdout, _) = run(&[&["serve", "--print-config"], &given[..]].concat());
    assert_eq!(code, 0);
    let shown: toml::Table = stdout.parse().unwrap();
    assert_eq!(shown["coordination"]["hosts"].as_str(), Some("zk1:2181"));
    assert_eq!(shown["stop"]["deadline"].as_str(), Some("5s"));
    let (code, stdout, _) =
        run(&["serve", "--print-config", "--node-id", "n1", "--embedded", "--allow-exec"]);
    assert_eq!(code, 0);
    let shown: toml::Table = stdout.parse().unwrap();
    let coordination = shown["coordination"].as_table().unwrap();
    assert!(coordination["embedded"].as_bool() == Some(true) && !coordination.contains_key("hosts"));
    assert_eq!(shown["exec"]["allow"].as_bool(), Some(true));
    let (code, _, stderr) = run(&[&["serve", "--embedded"], &given[..]].concat());
    assert!(code == 2 && stderr.contains("--coordination"), "{code}: {stderr}");
}

#[test]
fn submitting_prints_the_id_alone_and_other_commands_find_it() {
    let node = FakeNode::start();
    let id = node.submit(&["exit", "0"]);
    assert_eq!(id.len(), 32, "{id}");
    let prefix = &id[..8];

    let (code, stdout, _) = node.run(&["task", "show", prefix, "-o", "json"]);
    let task: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(
        (code, task["id"].as_str()),
        (0, Some(id.as_str())),
        "the JSON id is the one that was printed"
    );
    assert_eq!(task["spec"]["payload"], r#"{"argv":["exit","0"],"env":{},"cwd":null}"#);
    assert_eq!(task["attempts"][0]["end"]["exited"]["code"], 0);

    let (code, stdout, _) = node.run(&["task", "show", prefix]);
    assert!(code == 0 && stdout.contains("succeeded") && !stdout.contains('\x1b'), "{stdout}");
    let (code, stdout, _) = node.run(&["task", "list", "--state", "succeeded"]);
    let lines: Vec<_> = stdout.lines().collect();
    assert!(
        code == 0 && lines.len() == 2 && lines[0].starts_with("ID ") && lines[1].starts_with(&id),
        "{stdout}"
    );
    let (_, stdout, _) = node.run(&["task", "list", "--state", "dead", "-o", "json"]);
    assert_eq!(
        serde_json::from_str::<Value>(&stdout).unwrap(),
        serde_json::json!({ "tasks": [], "total": 0, "next": null })
    );
    let (code, stdout, _) = node.run(&["task", "logs", &id]);
    assert_eq!((code, stdout.as_str()), (0, "ran exit 0\n"));
    let (code, stdout, _) = node.run(&["task", "why", &id]);
    assert_eq!((code, stdout), (0, format!("succeeded: n1 runs it\nto change it: taskd task cancel {id}\n")));
    let (code, stdout, _) = node.run(&["task", "cancel", &id]);
    assert_eq!((code, stdout), (0, format!("{id}  cancelling\n")));
    let (code, stdout, stderr) = node.run(&["task", "retry", &id]);
    assert_eq!((code, stdout.as_str(), stderr), (1, "", format!("taskd: task {id} is succeeded\n")));
    let (code, _, stderr) = node.run(&["task", "show", "ffffffff"]);
    assert_eq!((code, stderr.as_str()), (4, "taskd: there is no task ffffffff\n"));
}

#[test]
fn waiting_ends_as_the_task_did() {
    let node = FakeNode::start();
    let rows: [(&[&str], i32, &str); 4] = [
        (&["exit", "0"], 0, ""),
        (&["exit", "3"], 3, "failed (exit 3)"),
        (&["signal", "9"], 137, "failed (signal 9)"),
        (&["lost"], 125, "lost (lost: the node is gone)"),
    ];
    for (command, code, text) in rows {
        let args = [&["task", "submit", "--wait", "--addr", &node.address, "--"], command].concat();
        let (got, stdout, stderr) = run(&args);
        assert_eq!((got, stdout), (code, format!("ran {}\n", command.join(" "))), "{stderr}");
        assert!(stderr.contains(text), "{stderr}");
        assert_eq!(stderr.is_empty(), code == 0, "{stderr}");
    }
    let (good, bad) = (node.submit(&["exit", "0"]), node.submit(&["exit", "1"]));
    let (code, stdout, _) = node.run(&["task", "wait", &good]);
    assert_eq!((code, stdout), (0, format!("{good}  succeeded\n")));
    let (code, stdout, _) = node.run(&["task", "wait", &good, &bad]);
    assert!(code == 1 && stdout.contains(&format!("{bad}  failed  exit 1")), "{stdout}");
    let running = node.submit(&["hang"]);
    let (code, _, stderr) = node.run(&["task", "wait", "--timeout", "100ms", &running]);
    assert_eq!((code, stderr.as_str()), (1, "taskd: 1 of 1 tasks have not ended\n"));
}

#[test]
fn ctrl_c_leaves_the_task_alone_and_says_so() {
    let node = FakeNode::start();
    let mut waiting = taskd(&["task", "submit", "--wait", "--addr", &node.address, "--", "hang"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut first = [0; 4];
    waiting.stdout.as_mut().unwrap().read_exact(&mut first).unwrap();
    assert_eq!(&first, b"ran ");
    kill(Pid::from_raw(i32::try_from(waiting.id()).unwrap()), Signal::SIGINT).unwrap();
    let done = waiting.wait_with_output().unwrap();
    let stderr = String::from_utf8(done.stderr).unwrap();
    assert_eq!(done.status.code(), Some(130), "{stderr}");
    assert!(stderr.contains("goes on; to end it: taskd task cancel"), "{stderr}");
}

#[test]
fn a_reader_that_has_gone_is_no_panic() {
    let node = FakeNode::start();
    node.submit(&["exit", "0"]);
    for args in [&["task", "list"][..], &["task", "list", "-o", "json"], &["--help"]] {
        let args = if args.len() > 1 { [args, &["--addr", &node.address]].concat() } else { args.to_vec() };
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let done = taskd(&args).stdout(writer).stderr(Stdio::piped()).output().unwrap();
        assert_eq!(String::from_utf8(done.stderr).unwrap(), "", "{args:?}");
        assert!(matches!(done.status.code(), Some(0 | 141)), "{args:?}: {:?}", done.status);
    }
}

#[test]
fn the_cluster_in_one_sentence_and_a_table() {
    let node = FakeNode::start();
    let (code, stdout, _) = node.run(&["cluster", "status"]);
    let lines: Vec<_> = stdout.lines().collect();
    assert_eq!(code, 3, "degraded is not healthy");
    assert_eq!(lines[0], "DEGRADED: n1 leads (epoch 3), 1 member; but n2 is unreachable");
    let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    assert_eq!(lines[1..4], ["what to do: look at n2", "note: n2 has joined again 3 times", ""]);
    assert_eq!(words(lines[4]), "# SEQUENCE NODE ADDRESS ROLE PHASE PRIORITY SLOTS LEASE VERSION NOTE");
    assert_eq!(words(lines[5]), "1 7 n1 127.0.0.1:10601 leader running -5 1/4 1.5s 0.1.0");
    for text in ["connected for 1m01s (zk1:2181/taskd)", "session timeout  4.0s", "2.0 KiB live", "1 running"]
    {
        assert!(stdout.contains(text), "{text:?}: {stdout}");
    }
    let (code, stdout, _) = node.run(&["cluster", "status", "--output", "json"]);
    let status: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((code, status["health"].as_str()), (3, Some("degraded")));

    let (code, stdout, _) = node.run(&["cluster", "switchover", "--to", "n2"]);
    assert_eq!((code, stdout.as_str()), (0, "n2 leads\n"));
    assert_eq!(node.run(&["cluster", "handover"]).0, 1);
    assert_eq!(node.run(&["cluster", "priority", "n1", "-5"]).1, "n1 has priority -5\n");
    let (code, _, stderr) = node.run(&["cluster", "priority", "n9", "5"]);
    assert_eq!((code, stderr.as_str()), (4, "taskd: there is no node n9\n"));
}

#[test]
fn a_node_that_is_down_is_passed_over_and_a_missing_leader_is_reported() {
    let node = FakeNode::start();
    let both = format!("{NOBODY},{}", node.address);
    let done = taskd(&["task", "submit", "--", "exit", "0"]).env("TASKD_ADDR", &both).output().unwrap();
    assert_eq!(done.status.code(), Some(0), "{}", String::from_utf8_lossy(&done.stderr));
    let (code, stdout, stderr) = run(&[
        "task",
        "submit",
        "--addr",
        &both,
        "--submit-timeout",
        "300ms",
        "--idempotency-key",
        "leaderless",
        "--",
        "x",
    ]);
    assert_eq!((code, stdout.as_str()), (5, ""));
    assert_eq!(stderr, "taskd: nobody leads; nothing was queued\n");
}
