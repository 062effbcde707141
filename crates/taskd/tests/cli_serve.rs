//! `taskd serve` as a process: signals and exit codes while ZooKeeper cannot be reached.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// A node whose ZooKeeper nobody runs.
fn serve(listen: &str, data_dir: &std::path::Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_taskd"));
    command.args(["serve", "--node-id", "n1", "--coordination", "127.0.0.1:1", "--listen", listen]);
    command.arg("--data-dir").arg(data_dir).env("TASKD_VIP__BACKEND", "dry-run");
    command.stdin(Stdio::null()).stderr(Stdio::piped());
    command
}

/// Ends its process when the test fails.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // Fails when it has ended, as it should have.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_signal_ends_a_node_that_cannot_join() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let dir = tempfile::tempdir().unwrap();
        let mut node = Running(serve("127.0.0.1:0", dir.path()).spawn().unwrap());
        let mut log = BufReader::new(node.0.stderr.take().unwrap()).lines();
        let joining = log.by_ref().map(Result::unwrap).any(|line| line.contains("connecting"));
        assert!(joining, "the node ended before it tried to connect");

        let asked = Instant::now();
        kill(Pid::from_raw(i32::try_from(node.0.id()).unwrap()), signal).unwrap();
        // The log ends with the process.
        let rest: Vec<_> = log.map(Result::unwrap).collect();
        let status = node.0.wait().unwrap();
        assert!(asked.elapsed() < Duration::from_secs(5), "it took {:?}: {rest:#?}", asked.elapsed());
        assert_eq!(status.code(), Some(0), "{signal}: {rest:#?}");
    }
}

#[test]
fn a_log_that_nobody_reads_wedges_nothing() {
    // Full before the node says its first word.
    let (mut stderr, _unread) = UnixStream::pair().unwrap();
    stderr.set_nonblocking(true).unwrap();
    while stderr.write(&[b'x'; 1 << 10]).is_ok() {}
    while stderr.write(b"x").is_ok() {}
    stderr.set_nonblocking(false).unwrap();

    let dir = tempfile::tempdir().unwrap();
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut command = serve(&address.to_string(), dir.path());
    let mut node = Running(command.stderr(OwnedFd::from(stderr)).spawn().unwrap());
    drop(command);
    let deadline = Instant::now() + Duration::from_secs(20);
    while TcpStream::connect(address).is_err() {
        assert!(Instant::now() < deadline, "the node does not listen");
        std::thread::yield_now();
    }
    let asked = Instant::now();
    kill(Pid::from_raw(i32::try_from(node.0.id()).unwrap()), Signal::SIGTERM).unwrap();
    let status = loop {
        if let Some(status) = node.0.try_wait().unwrap() {
            break status;
        }
        assert!(asked.elapsed() < Duration::from_secs(5), "the node does not end");
        std::thread::yield_now();
    };
    assert_eq!(status.code(), Some(0));
}

#[test]
fn what_cannot_start_says_why() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let dir = tempfile::tempdir().unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let done = serve(&address, dir.path()).output().unwrap();
    let stderr = String::from_utf8(done.stderr).unwrap();
    assert_eq!(done.status.code(), Some(69), "{stderr}");
    assert!(stderr.contains(&format!("failed to listen on {address}")), "{stderr}");
}
