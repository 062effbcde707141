//! Both of its ways of running, as a user starts them.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const SOON: Duration = Duration::from_secs(90);

/// Ended with the test, however that ends.
struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn the_demonstration_shows_everything_and_ends() {
    let run = Command::new(env!("CARGO_BIN_EXE_storage-maintenance")).output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&run.stderr));
    assert!(run.status.success(), "{out}{err}");
    for says in ["damaged: []", r#"damaged: ["block-17"]"#, "a higher token has been shown", "stopped after"]
    {
        assert!(out.contains(says), "{out} should say {says:?}");
    }
}

#[test]
fn the_daemon_rotates_until_it_is_told_to_stop() {
    let dir = tempfile::tempdir().unwrap();
    let volume = dir.path().join("Volume 1");
    fs::create_dir(&volume).unwrap();
    fs::write(volume.join("file"), "content").unwrap();
    let mut daemon = Daemon(
        Command::new(env!("CARGO_BIN_EXE_storage-maintenance"))
            .args(["--serve", "--listen", "127.0.0.1:0", "--rotate", "* * * * * *", "--keep", "2"])
            .arg("--data-dir")
            .arg(dir.path().join("data"))
            .arg(&volume)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap(),
    );
    let second = volume.join(".snapshots/snapshot-000002/file");
    let give_up = Instant::now() + SOON;
    while !second.is_file() {
        assert!(Instant::now() < give_up && daemon.0.try_wait().unwrap().is_none(), "no second snapshot");
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(fs::read(second).unwrap(), b"content");

    let told = Instant::now();
    kill(Pid::from_raw(daemon.0.id().cast_signed()), Signal::SIGTERM).unwrap();
    let lines: Vec<String> =
        BufReader::new(daemon.0.stdout.take().unwrap()).lines().map(Result::unwrap).collect();
    assert!(daemon.0.wait().unwrap().success(), "{lines:?}");
    assert!(told.elapsed() < Duration::from_secs(10), "it has taken {:?}", told.elapsed());
    assert!(lines.iter().any(|line| line == "SIGTERM: stopping"), "{lines:?}");
}
