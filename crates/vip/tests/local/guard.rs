//! The guard with real processes.
//!
//! The daemon's part is played by this very file, started again ([`the_daemon`]): only a process of its own can be
//! killed. What is measured is printed; the bounds that are asserted leave room for a busy machine.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use clock::{BootClock, Clock};
use ipnet::IpNet;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, getsid};
use pulse::Pulse;
use vip::guard::{Guard, GuardProgram, Handle, Status};
use vip::net::Backend;
use vip::net::netlink::Netlink;

use crate::{ADDRESSES, FOREIGN, SOON, link, namespace, there};

/// Says what the daemon's part is to do; absent in an ordinary run.
const PART: &str = "VIP_GUARD_TEST_PART";
/// What the guard promises; it is asserted with room for other tests on the machine.
const PROMISED: Duration = Duration::from_millis(50);
const ROOM: Duration = Duration::from_millis(450);

fn program() -> GuardProgram {
    GuardProgram { program: PathBuf::from(env!("CARGO_BIN_EXE_taskd-vip-guard")), args: vec![] }
}

/// The daemon's part: holds the addresses for the time that it was told, puts them, and says so and who its guard is.
#[test]
#[ignore = "the daemon's part, which the other tests start"]
fn the_daemon() {
    let Ok(held_ms) = std::env::var(PART) else { return };
    let held = Duration::from_millis(held_ms.parse().unwrap());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    runtime.block_on(async {
        // What a library forgot to mark as close-on-exec.
        let _lock = nix::unistd::dup(std::fs::File::open("/").unwrap()).unwrap();
        let guard = Guard::start(Some(program()), false, &Pulse::default());
        let pid = up(&guard).await;
        let addresses: Vec<(u32, IpNet)> =
            ADDRESSES.map(|address| (link(), address.parse().unwrap())).to_vec();
        let kernel = Netlink::open().unwrap();
        let until = BootClock.now() + held;
        hold(&guard.handle(), "iscsi", addresses.clone(), until).await;
        for (link, address) in addresses {
            // Long enough for the kernel's own timer to have no part in this.
            kernel.put(link, address, 1000).unwrap();
        }
        println!("\nheld {pid} {}", until.as_nanos());
        std::future::pending::<()>().await;
    });
}

async fn up(guard: &Guard) -> u32 {
    let mut status = guard.handle().status();
    let up = tokio::time::timeout(SOON, status.wait_for(|status| matches!(status, Status::Up { .. }))).await;
    match *up.expect("the guard starts").unwrap() {
        Status::Up { pid } => pid,
        _ => unreachable!(),
    }
}

/// Until the guard knows: on a busy machine it may not say so in time.
async fn hold(handle: &Handle, service: &str, addresses: Vec<(u32, IpNet)>, until: clock::Instant) {
    let service = service.parse().unwrap();
    testkit::until("the guard knows", SOON, async || {
        handle.hold(&service, addresses.clone(), until).await.ok()
    })
    .await;
}

/// The daemon, killed at the end of the test whatever happens.
struct Daemon {
    child: Child,
    guard: Pid,
    until: clock::Instant,
    errors: std::process::ChildStderr,
}

impl Daemon {
    fn start(held: Duration) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "guard::the_daemon", "--ignored", "--nocapture"])
            .env(PART, held.as_millis().to_string())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        let errors = child.stderr.take().unwrap();
        let said = lines.find_map(|line| line.strip_prefix("held ").map(str::to_owned));
        let Some(said) = said else {
            let _ = child.kill();
            panic!("the daemon's part failed: {}", child.wait().unwrap());
        };
        let (guard, until) = said.split_once(' ').unwrap();
        let guard = Pid::from_raw(guard.parse().unwrap());
        let until = clock::Instant::from_nanos(until.parse().unwrap());
        Self { child, guard, until, errors }
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().cast_signed()), signal).unwrap();
    }

    /// Everything that it and its guard said, once both are gone.
    fn said(mut self) -> String {
        let _ = self.child.kill();
        let mut said = String::new();
        self.errors.read_to_string(&mut said).unwrap();
        said
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        // Killed with its daemon paused it would not end.
        let _ = kill(self.guard, Signal::SIGCONT);
    }
}

/// Asks again and again; what it took, and the test's failure if it took too long.
fn wait(what: &str, mut until: impl FnMut() -> bool) -> Duration {
    let began = Instant::now();
    while !until() {
        assert!(began.elapsed() < SOON, "not within {SOON:?}: {what}");
        // What is waited for needs the processor as well.
        std::thread::sleep(Duration::from_millis(1));
    }
    began.elapsed()
}

fn gone(pid: Pid) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).map_or(true, |stat| stat.contains(") Z "))
}

#[test]
fn a_daemon_that_is_killed_leaves_no_address() {
    let Some(()) = namespace() else { return };
    let daemon = Daemon::start(Duration::from_secs(3600));
    assert_eq!((there(&ADDRESSES), there(&FOREIGN)), (2, 2));
    // What whoever stops a service politely sends to everything in it.
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGPIPE, Signal::SIGUSR1] {
        kill(daemon.guard, signal).unwrap();
    }
    assert_eq!(getsid(Some(daemon.guard)).unwrap(), daemon.guard, "it has a session of its own");
    let inherited = std::fs::read_dir(format!("/proc/{}/fd", daemon.guard)).unwrap().count();
    // Standard input, output and errors; its copy of the socket, the timer, the kernel's socket. Nothing of its daemon.
    assert_eq!(inherited, 6, "descriptors of the guard");
    daemon.signal(Signal::SIGKILL);
    let took = wait("the addresses are gone", || there(&ADDRESSES) == 0);
    println!("kill -9 of the daemon: its addresses were gone after {took:?}");
    assert!(took < PROMISED + ROOM, "{took:?}");
    assert_eq!(there(&FOREIGN), 2, "nobody else's");
    let guard = daemon.guard;
    wait("the guard has ended", || gone(guard));
    let said = daemon.said();
    for address in ADDRESSES {
        let line =
            format!("vip-guard: removed {address} of service iscsi on interface {}: taskd is gone", link());
        assert_eq!(said.lines().filter(|said| *said == line).count(), 1, "{said}");
    }
}

#[test]
fn a_daemon_that_is_paused_loses_its_addresses_when_its_lease_ends() {
    let Some(()) = namespace() else { return };
    let daemon = Daemon::start(Duration::from_secs(2));
    daemon.signal(Signal::SIGSTOP);
    assert_eq!(there(&ADDRESSES), 2, "not before");
    wait("the addresses are gone", || there(&ADDRESSES) == 0);
    let late = BootClock.now().since(daemon.until);
    println!("SIGSTOP of the daemon: its addresses were gone {late:?} after its lease");
    assert!(BootClock.now() >= daemon.until && late < PROMISED + ROOM, "{late:?}");
    assert_eq!(there(&FOREIGN), 2, "nobody else's");
    assert!(!gone(daemon.guard), "it listens on");
    daemon.signal(Signal::SIGKILL);
    let guard = daemon.guard;
    wait("the guard has ended", || gone(guard));
    let said = daemon.said();
    assert_eq!(said.matches("taskd has not renewed its lease").count(), 2, "{said}");
}

fn with_runtime(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test);
}

#[test]
fn a_clean_end_touches_nothing_and_what_is_still_held_then_goes() {
    let Some(()) = namespace() else { return };
    with_runtime(async {
        let service = "iscsi".parse().unwrap();
        for (forgotten, left) in [(true, 2), (false, 0)] {
            let kernel = Netlink::open().unwrap();
            let guard = Guard::start(Some(program()), false, &Pulse::default());
            let pid = Pid::from_raw(up(&guard).await.cast_signed());
            let handle = guard.handle();
            let addresses: Vec<(u32, IpNet)> =
                ADDRESSES.map(|address| (link(), address.parse().unwrap())).to_vec();
            hold(&handle, "iscsi", addresses.clone(), BootClock.now() + SOON).await;
            for (link, address) in addresses {
                kernel.put(link, address, 1000).unwrap();
            }
            handle.extend(&service, BootClock.now() + SOON * 2);
            if forgotten {
                handle.forget(&service);
            }
            let began = Instant::now();
            guard.finish(SOON).await;
            println!("the guard was gone after {:?}", began.elapsed());
            assert!(!PathBuf::from(format!("/proc/{pid}")).exists(), "collected");
            assert_eq!((there(&ADDRESSES), there(&FOREIGN)), (left, 2));
        }
    });
}

#[test]
fn a_guard_that_is_killed_is_noticed_and_its_successor_knows_everything() {
    let Some(()) = namespace() else { return };
    with_runtime(async {
        let guard = Guard::start(Some(program()), false, &Pulse::default());
        let first = up(&guard).await;
        let handle = guard.handle();
        let addresses: Vec<(u32, IpNet)> =
            ADDRESSES.map(|address| (link(), address.parse().unwrap())).to_vec();
        let kernel = Netlink::open().unwrap();
        hold(&handle, "iscsi", addresses.clone(), BootClock.now() + SOON).await;
        for (link, address) in addresses {
            kernel.put(link, address, 1000).unwrap();
        }
        let mut status = handle.status();
        status.mark_unchanged();
        kill(Pid::from_raw(first.cast_signed()), Signal::SIGKILL).unwrap();
        let why =
            tokio::time::timeout(SOON, status.wait_for(|status| matches!(status, Status::Down(_)))).await;
        assert_eq!(*why.unwrap().unwrap(), Status::Down("it ended with signal: 9 (SIGKILL)".to_owned()));
        let second = up(&guard).await;
        assert_ne!(first, second);
        // Another service's order is acknowledged with what was held before.
        hold(&handle, "other", vec![], BootClock.now() + SOON).await;
        // Paused, it does not answer in time, and whoever asks goes on.
        kill(Pid::from_raw(second.cast_signed()), Signal::SIGSTOP).unwrap();
        let refused =
            handle.hold(&"other".parse().unwrap(), vec![], BootClock.now() + SOON).await.unwrap_err();
        assert!(refused.to_string().contains("has not answered within 50 ms"), "{refused}");
        kill(Pid::from_raw(second.cast_signed()), Signal::SIGCONT).unwrap();
        assert_eq!((there(&ADDRESSES), there(&FOREIGN)), (2, 2));
        drop(guard);
        tokio::task::yield_now().await;
        wait("the second one removes what the first one was told", || there(&ADDRESSES) == 0);
        assert_eq!(there(&FOREIGN), 2);
    });
}

#[test]
fn a_dry_run_says_what_it_would_do_and_removes_nothing() {
    let Some(()) = namespace() else { return };
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    let mut guard = Command::new(program().program)
        .arg("--dry-run")
        .stdin(OwnedFd::from(theirs))
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let (link, service) = (link(), "iscsi");
    let order = format!(
        r#"{{"hold":{{"seq":1,"holds":[{{"service":"{service}","until_ns":1,"addresses":[[{link},"{}"]]}}]}}}}"#,
        FOREIGN[0]
    );
    writeln!(ours, "{order}").unwrap();
    let answers: Vec<String> = BufReader::new(&ours).lines().take(2).map(Result::unwrap).collect();
    assert_eq!(answers, [r#"{"ack":0}"#, r#"{"ack":1}"#]);
    drop(ours);
    assert!(guard.wait().unwrap().success());
    let mut said = String::new();
    guard.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    let expected = format!(
        "vip-guard: dry run: would remove {} of service iscsi on interface {link}: taskd has not renewed its lease\n",
        FOREIGN[0]
    );
    assert_eq!((said, there(&FOREIGN)), (expected, 2));
}
