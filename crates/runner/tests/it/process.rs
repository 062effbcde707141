//! Process tasks from start to end: exit, signals, trees, timeouts, output.

use std::time::Duration;

use crate::common::{Link, MODES, Node, Sleeper, attempt, eventually, exec, options, sh, shim_by};
use proto::runner::{Presence, Start, StartReply};
use proto::task::AttemptEnd;
use tokio::time::Instant;

#[tokio::test]
async fn a_task_ends_as_its_process_does() {
    for mode in MODES {
        let (dir, link) = (tempfile::tempdir().unwrap(), Link::new());
        let mut options = options(dir.path(), &link, 1);
        options.pid_namespace = mode;
        let node = Node::boot(options, &link).await;
        let cases = [
            (sh("echo out; echo err >&2"), AttemptEnd::Exited { code: 0 }),
            (sh("exit 3"), AttemptEnd::Exited { code: 3 }),
            (sh("kill -9 $$"), AttemptEnd::Signaled { signal: 9 }),
        ];
        for (n, (spec, end)) in (1..).zip(cases) {
            node.start(attempt(n), spec).await;
            assert_eq!(node.link.end_of(attempt(n)).await, end, "{mode:?}");
        }
        assert_eq!(node.text(attempt(1)).await, "out\nerr\n");
        let outcome = link.outcome(attempt(1)).unwrap();
        assert!(outcome.output_bytes == 8 && outcome.started_ms.unwrap() <= outcome.ended_ms);
        node.start(attempt(9), exec(&["/no/such/program"])).await;
        let AttemptEnd::Failed { message } = link.end_of(attempt(9)).await else {
            panic!("it cannot have run")
        };
        assert!(message.contains("/no/such/program"), "{message}");
        node.stop().await;
    }
}

#[tokio::test]
async fn a_task_knows_who_it_is_and_not_what_the_daemon_knows() {
    let (dir, link) = (tempfile::tempdir().unwrap(), Link::new());
    let node = Node::boot(options(dir.path(), &link, 1), &link).await;
    let id = attempt(0xabc);
    node.start(id, sh("env | grep ^TASKD_ | sort; pwd; ls -A | wc -l")).await;
    let text = node.text(id).await;
    let task = id.task.to_string();
    let own = dir.path().canonicalize().unwrap().join(format!("runner/attempts/{id}")).display().to_string();
    let expected = format!(
        "TASKD_ATTEMPT=1\nTASKD_ATTEMPT_DIR={own}\nTASKD_NODE=n1\nTASKD_PROGRESS_FD=4\nTASKD_TASK_ID={task}\nTASKD_TOKEN={:032}:5:{task}.1\n{own}/work\n0\n",
        1,
    );
    assert_eq!(text, expected);
    node.stop().await;
}

#[tokio::test]
async fn how_a_task_ends_is_seen_though_the_daemon_was_started_with_its_children_ignored() {
    for mode in MODES {
        let (dir, link) = (tempfile::tempdir().unwrap(), Link::new());
        let mut options = options(dir.path(), &link, 1);
        options.pid_namespace = mode;
        options.shim = shim_by(dir.path(), "exec env --ignore-signal=CHLD $SHIM \"$@\"");
        let node = Node::boot(options, &link).await;
        node.start(attempt(1), sh("exec >/dev/null 2>&1; exit 3")).await;
        assert_eq!(link.end_of(attempt(1)).await, AttemptEnd::Exited { code: 3 }, "{mode:?}");
        node.stop().await;
    }
}

#[tokio::test]
async fn messages_are_bounded_whatever_they_quote() {
    let long = format!("/{}", "a".repeat(100_000));
    for mode in MODES {
        let (dir, link) = (tempfile::tempdir().unwrap(), Link::new());
        let mut options = options(dir.path(), &link, 1);
        options.pid_namespace = mode;
        let node = Node::boot(options, &link).await;
        node.start(attempt(1), exec(&[&long])).await;
        let AttemptEnd::Failed { message } = link.end_of(attempt(1)).await else {
            panic!("it cannot have run")
        };
        assert!(message.len() <= 1024 && message.contains("too long"), "{mode:?}: {message}");
        let mut spec = exec(&[&long]);
        spec.kind = long.clone();
        let replies = node
            .try_start(node.batch(vec![Start { attempt: attempt(2), spec, checkpoint: None }]))
            .await
            .unwrap();
        assert!(matches!(&replies[..], [StartReply::Refused { reason }] if reason.len() <= 1024), "{mode:?}");
        node.stop().await;
    }
}

#[tokio::test]
async fn a_node_that_cannot_start_shims_loses_attempts_and_fails_none() {
    let (dir, link) = (tempfile::tempdir().unwrap(), Link::new());
    let mut options = options(dir.path(), &link, 1);
    options.shim.program = dir.path().join("no-shim");
    let node = Node::boot(options, &link).await;
    node.start(attempt(1), sh("true")).await;
    let AttemptEnd::Lost { reason } = link.end_of(attempt(1)).await else {
        panic!("the task has not failed")
    };
    assert!(reason.contains("no-shim") && reason.contains("No such file"), "{reason}");
    assert_eq!(std::fs::read_dir(dir.path().join("runner/attempts")).unwrap().count(), 0);
    node.stop().await;
}

#[tokio::test]
async fn an_end_that_cannot_be_read_at_once_is_not_replaced() {
    let (dir, link) = (tempfile::tempdir().unwrap(), Link::new());
    let mut options = options(dir.path(), &link, 1);
    options.pid_namespace = MODES[1];
    // For half a second it is a directory, which cannot be read.
    let script =
        "$SHIM \"$@\"; cd \"$1\"; mv exit.json kept; ln -s / exit.json; (sleep 0.5; mv -fT kept exit.json) &";
    options.shim = shim_by(dir.path(), script);
    let node = Node::boot(options, &link).await;
    node.start(attempt(1), sh("exit 3")).await;
    assert_eq!(link.end_of(attempt(1)).await, AttemptEnd::Exited { code: 3 });
    node.stop().await;
}

#[tokio::test]
async fn a_cancelled_task_is_gone_with_everything_it_forked() {
    for (salt, mode) in (1..).zip(MODES) {
        let (dir, link, sleeper) = (tempfile::tempdir().unwrap(), Link::new(), Sleeper::new(salt));
        let mut options = options(dir.path(), &link, 1);
        options.pid_namespace = mode;
        let node = Node::boot(options, &link).await;
        // Three generations, each out of the sight of the one before: other sessions, no environment, orphans.
        let sleep = sleeper.command();
        let script =
            format!("trap '' TERM; env -i setsid sh -c 'trap \"\" TERM; {sleep} & {sleep}' & {sleep}");
        node.start(attempt(1), sh(&script)).await;
        sleeper.runs(3).await;
        assert_eq!(node.cancel(attempt(1)).await, [Presence::Running]);
        assert_eq!(link.end_of(attempt(1)).await, AttemptEnd::Cancelled);
        assert!(sleeper.is_gone(), "{mode:?}: reported before the tree was gone");
        assert!(matches!(node.confirm(attempt(1)).await, Presence::Ended(_)));
        node.stop().await;
    }
}

#[tokio::test]
async fn what_a_task_leaves_behind_ends_with_it() {
    for (salt, mode) in (11..).zip(MODES) {
        let (dir, link, sleeper) = (tempfile::tempdir().unwrap(), Link::new(), Sleeper::new(salt));
        let mut options = options(dir.path(), &link, 1);
        options.pid_namespace = mode;
        let node = Node::boot(options, &link).await;
        node.start(attempt(1), sh(&format!("setsid {} & sleep 0.2; exit 7", sleeper.command()))).await;
        assert_eq!(link.end_of(attempt(1)).await, AttemptEnd::Exited { code: 7 }, "{mode:?}");
        assert!(sleeper.is_gone());
        node.stop().await;
    }
}

#[tokio::test]
async fn sigterm_is_tried_first_and_sigkill_follows_the_grace() {
    for (salt, mode) in (21..).zip(MODES) {
        let (dir, link, sleeper) = (tempfile::tempdir().unwrap(), Link::new(), Sleeper::new(salt));
        let mut options = options(dir.path(), &link, 1);
        options.pid_namespace = mode;
        options.kill_grace = Duration::from_millis(1_500);
        let node = Node::boot(options, &link).await;
        node.start(attempt(1), sh("trap 'echo asked; exit 0' TERM; sleep 100 & echo ready; wait")).await;
        node.start(attempt(2), sh(&format!("trap '' TERM; {}", sleeper.command()))).await;
        sleeper.runs(1).await;
        ready(&node, attempt(1)).await;
        let begun = Instant::now();
        node.cancel(attempt(1)).await;
        node.cancel(attempt(2)).await;
        for n in 1..=2 {
            assert_eq!(link.end_of(attempt(n)).await, AttemptEnd::Cancelled);
            assert!(link.outcome(attempt(n)).unwrap().started_ms.is_some(), "its own shim ended it");
        }
        let took = begun.elapsed();
        assert!(took >= Duration::from_millis(1_500) && took < Duration::from_secs(4), "{mode:?}: {took:?}");
        let text = node.text(attempt(1)).await;
        assert!(text.ends_with("asked\n"), "{mode:?}: {text:?}");
        node.stop().await;
    }
}

async fn ready(node: &Node, attempt: proto::AttemptId) {
    let deadline = Instant::now() + crate::common::PATIENCE;
    while node.output(attempt, 0).await.unwrap().bytes.is_empty() {
        assert!(Instant::now() < deadline, "it never gets ready");
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_run_timeout_ends_processes_and_services() {
    let (dir, link, sleeper) = (tempfile::tempdir().unwrap(), Link::new(), Sleeper::new(31));
    let node = Node::boot(options(dir.path(), &link, 1), &link).await;
    let specs = [exec(&sleeper.command().split(' ').collect::<Vec<_>>()), {
        proto::task::TaskSpec::new("sleep", br#"{"ms": 100000}"#.to_vec())
    }];
    for (n, mut spec) in (1..).zip(specs) {
        spec.run_timeout_ms = Some(200);
        node.start(attempt(n), spec).await;
    }
    for n in 1..=2 {
        assert_eq!(link.end_of(attempt(n)).await, AttemptEnd::TimedOut);
    }
    assert!(sleeper.is_gone());
    node.stop().await;
}

#[tokio::test]
async fn ten_mebibytes_of_output_are_bounded_on_disk_and_never_block() {
    let (dir, link) = (tempfile::tempdir().unwrap(), Link::new());
    let mut options = options(dir.path(), &link, 1);
    options.output_bytes_max = 256 * 1024;
    let node = Node::boot(options, &link).await;
    let before = resident_kib();
    node.start(attempt(1), sh("head -c 10485760 /dev/zero; echo the end")).await;
    assert_eq!(link.end_of(attempt(1)).await, AttemptEnd::Exited { code: 0 });
    assert_eq!(link.outcome(attempt(1)).unwrap().output_bytes, 10_485_760 + 8);
    let (mut offset, mut kept, mut last) = (0, 0, Vec::new());
    loop {
        let chunk = node.output(attempt(1), offset).await.unwrap();
        kept += chunk.bytes.len();
        offset = chunk.offset + chunk.bytes.len() as u64;
        last.extend(chunk.bytes);
        if chunk.complete {
            break;
        }
    }
    assert!(
        last.ends_with(b"the end\n") && (128 * 1024..=256 * 1024).contains(&kept),
        "{kept} bytes are kept"
    );
    let grown = resident_kib().saturating_sub(before);
    assert!(grown < 5 * 1024, "the daemon grew by {grown} KiB");
    node.stop().await;
}

fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn many_small_tasks_of_both_sorts() {
    let (dir, link) = (tempfile::tempdir().unwrap(), Link::new());
    let mut options = options(dir.path(), &link, 1);
    options.slots = 64;
    options.retention.attempts_max = 10;
    let node = Node::boot(options, &link).await;
    let begun = Instant::now();
    let run = async |total: u128, spec: proto::task::TaskSpec, first: u128| {
        let mut next = 0;
        while next < total {
            let starts = (next..total.min(next + 64))
                .map(|n| Start { attempt: attempt(first + n), spec: spec.clone(), checkpoint: None })
                .collect();
            let replies = node.try_start(node.batch(starts)).await.unwrap();
            next += replies.iter().take_while(|reply| **reply == StartReply::Accepted).count() as u128;
            tokio::task::yield_now().await;
        }
        eventually("every outcome", || {
            link.with(|leader| {
                leader.outcomes.iter().filter(|o| o.attempt.task.as_u128() >= first).count() as u128 == total
            })
            .then_some(())
        })
        .await;
    };
    run(200, exec(&["true"]), 1).await;
    let processes = begun.elapsed();
    let begun = Instant::now();
    run(20_000, proto::task::TaskSpec::new("noop", vec![]), 1_000_000).await;
    let noops = begun.elapsed();
    println!("exec: {:.0}/s, noop: {:.0}/s", 200.0 / processes.as_secs_f64(), 20_000.0 / noops.as_secs_f64());
    assert!(link.with(|leader| leader.outcomes.iter().all(|outcome| outcome.end.is_success())));
    assert!(link.with(|leader| leader.reports) < 10_000, "outcomes are batched");
    eventually("old attempts to be removed", || {
        (std::fs::read_dir(dir.path().join("runner/attempts")).unwrap().count() <= 10).then_some(())
    })
    .await;
    node.stop().await;
}

/// A daemon that holds virtual IPs may change addresses. What it runs may not.
#[tokio::test]
async fn a_task_inherits_no_capability() {
    if !nix::unistd::geteuid().is_root() {
        testkit::skip("capabilities can only be given by root");
        return;
    }
    let (dir, link) = (tempfile::tempdir().unwrap(), Link::new());
    let mut options = options(dir.path(), &link, 1);
    // As the shim of a daemon that an ordinary user runs, with AmbientCapabilities= in its unit.
    let two = "-all,+net_admin,+net_raw";
    let script = format!(
        "cp \"$SHIM\" {0}/shim && chown -R 65534:65534 {0}\n\
         exec setpriv --reuid=65534 --regid=65534 --clear-groups --inh-caps={two} --ambient-caps={two} \
         --bounding-set={two} {0}/shim \"$@\"",
        dir.path().display()
    );
    options.shim = shim_by(dir.path(), &script);
    let node = Node::boot(options, &link).await;
    node.start(attempt(1), sh("id -u; grep -E 'Cap(Inh|Prm|Eff|Amb)' /proc/self/status")).await;
    let text = node.text(attempt(1)).await;
    let none = |set: &str| format!("{set}:\t0000000000000000\n");
    assert_eq!(text, format!("65534\n{}", ["CapInh", "CapPrm", "CapEff", "CapAmb"].map(none).concat()));
    node.stop().await;
}
