//! The guard's own process: one thread, one `poll`.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use clock::{BootClock, Clock, Instant};
use ipnet::IpNet;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl;
use nix::sys::signal::SigSet;
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use nix::unistd::{close, setsid};
use proto::vip::ServiceName;

use super::wire::{Answer, Held, LINE_BYTES_MAX, Order, line};
use crate::net::{Backend, NetError};

/// Between two attempts to remove what the kernel did not let go.
const AGAIN: Duration = Duration::from_millis(10);
/// Attempts; by then the kernel's own lifetime has ended every address.
const TRIES: u32 = 500;

/// `O_CLOEXEC`, as `/proc/self/fdinfo` shows it.
const CLOEXEC: u32 = 0o2_000_000;

/// Keeps watch until the daemon is gone or says that nothing is left.
pub(super) fn run(dry_run: bool) -> io::Result<()> {
    prctl::set_name(c"taskd-vip-guard")?;
    // Not the daemon's session: a Ctrl-C at its terminal is the daemon's business alone, which removes first.
    let _ = setsid();
    // All that can be: whoever stops the daemon politely signals everything around it, and this has to outlive it.
    SigSet::all().thread_block()?;
    close_inherited();
    let socket = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    socket.set_nonblocking(true)?;
    let timer = TimerFd::new(ClockId::CLOCK_BOOTTIME, TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK)?;
    let backend = if dry_run { None } else { Some(super::backend()?) };
    let mut guard = Process { backend, socket, timer, unread: Vec::new(), table: Table::default() };
    guard.answer(0);
    guard.run()
}

/// Whatever the daemon's other libraries may have left open over the exec: a listening socket or a lock that lives on in
/// here would keep the daemon's successor out. What this process has opened itself carries the flag.
fn close_inherited() {
    let Ok(entries) = fs::read_dir("/proc/self/fdinfo") else { return };
    for entry in entries.flatten() {
        let Some(fd) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        let info = fs::read_to_string(entry.path()).unwrap_or_default();
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
        let flags = flags.and_then(|flags| u32::from_str_radix(flags.trim(), 8).ok());
        if fd > 2 && flags.is_some_and(|flags| flags & CLOEXEC == 0) {
            let _ = close(fd);
        }
    }
}

struct Process {
    /// None: a dry run.
    backend: Option<Box<dyn Backend>>,
    socket: UnixStream,
    timer: TimerFd,
    unread: Vec<u8>,
    table: Table,
}

impl Process {
    fn run(mut self) -> io::Result<()> {
        loop {
            match self.read() {
                Said::More => {}
                Said::Clean => return Ok(()),
                Said::Gone => {
                    self.table.lapse_all("taskd is gone");
                    self.remove_all();
                    return Ok(());
                }
            }
            self.table.lapse(BootClock.now());
            self.remove();
            self.arm()?;
            self.wait()?;
        }
    }

    fn read(&mut self) -> Said {
        let mut buffer = [0; 16 * 1024];
        loop {
            match self.socket.read(&mut buffer) {
                Ok(0) => return if self.obey() { Said::Clean } else { Said::Gone },
                Ok(count) => self.unread.extend_from_slice(&buffer[..count]),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(_) => return if self.obey() { Said::Clean } else { Said::Gone },
            }
            if self.unread.len() > LINE_BYTES_MAX {
                break;
            }
        }
        if self.obey() {
            Said::Clean
        } else if self.unread.len() > LINE_BYTES_MAX {
            // Nobody who can still be understood.
            Said::Gone
        } else {
            Said::More
        }
    }

    /// Whether the end is a clean one.
    fn obey(&mut self) -> bool {
        let Some(end) = self.unread.iter().rposition(|byte| *byte == b'\n') else { return false };
        let lines: Vec<u8> = self.unread.drain(..=end).collect();
        let mut newest = None;
        for text in lines.split(|byte| *byte == b'\n').filter(|text| !text.is_empty()) {
            match serde_json::from_slice(text) {
                Ok(Order::Start { dry_run }) => {
                    if dry_run {
                        self.backend = None;
                    }
                }
                Ok(Order::Hold { seq, holds }) => {
                    self.table.replace(holds);
                    newest = Some(seq);
                }
                Ok(Order::Clean) => return true,
                Err(error) => say(&format!("vip-guard: an order that is not understood: {error}")),
            }
        }
        if let Some(seq) = newest {
            self.answer(seq);
        }
        false
    }

    /// Does not wait for a daemon that is stopped: the next answer covers this one.
    fn answer(&mut self, seq: u64) {
        let _ = self.socket.write(&line(&Answer::Ack(seq)));
    }

    fn remove(&mut self) {
        for lapsed in self.table.take_due(BootClock.now()) {
            self.remove_one(lapsed);
        }
    }

    /// Until everything is gone, or nothing more can be done.
    fn remove_all(&mut self) {
        self.remove();
        while let Some(at) = self.table.retry_at() {
            let wait = at.since(BootClock.now());
            let _ = poll(&mut [], PollTimeout::try_from(wait.as_millis() + 1).unwrap_or(PollTimeout::ZERO));
            self.remove();
        }
    }

    fn remove_one(&mut self, mut lapsed: Lapsed) {
        let (link, address) = lapsed.address;
        let of = format!("{address} of service {} on interface {link}", lapsed.service);
        let why = lapsed.why;
        let removed = match &self.backend {
            None => {
                say(&format!("vip-guard: dry run: would remove {of}: {why}"));
                return;
            }
            Some(backend) => backend.remove(link, address),
        };
        match removed {
            Ok(true) => say(&format!("vip-guard: removed {of}: {why}")),
            Ok(false) | Err(NetError::NoInterface(_)) => {}
            Err(error) if lapsed.tries >= TRIES => {
                say(&format!("vip-guard: gave up removing {of}: {error}"));
            }
            Err(error) => {
                if lapsed.tries == 0 {
                    say(&format!("vip-guard: cannot remove {of}, trying again: {error}"));
                }
                lapsed.tries += 1;
                lapsed.at = BootClock.now() + AGAIN;
                self.table.lapsed.push(lapsed);
            }
        }
    }

    fn arm(&self) -> io::Result<()> {
        match self.table.next() {
            Some(at) => {
                // Zero would disarm it.
                let due = TimeSpec::from_duration(Duration::from_nanos(at.as_nanos().max(1)));
                self.timer.set(Expiration::OneShot(due), TimerSetTimeFlags::TFD_TIMER_ABSTIME)?;
            }
            None => self.timer.unset()?,
        }
        Ok(())
    }

    fn wait(&self) -> io::Result<()> {
        let mut fds = [self.socket.as_fd(), self.timer.as_fd()]
            .map(|fd: BorrowedFd<'_>| PollFd::new(fd, PollFlags::POLLIN));
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) | Err(nix::Error::EINTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

enum Said {
    More,
    Clean,
    Gone,
}

/// A line for people, unless nobody takes it: whoever reads the daemon's errors may be gone, and a guard that waits for
/// them guards nothing.
fn say(text: &str) {
    let stderr = io::stderr();
    let mut fds = [PollFd::new(stderr.as_fd(), PollFlags::POLLOUT)];
    let writable = poll(&mut fds, PollTimeout::ZERO).is_ok()
        && fds[0].revents().is_some_and(|is| is == PollFlags::POLLOUT);
    if writable {
        let _ = stderr.lock().write_all(format!("{text}\n").as_bytes());
    }
}

/// What is on the machine, and what has to go.
#[derive(Default)]
struct Table {
    held: BTreeMap<ServiceName, (Instant, Vec<(u32, IpNet)>)>,
    lapsed: Vec<Lapsed>,
}

/// An address that has to go.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Lapsed {
    service: ServiceName,
    address: (u32, IpNet),
    why: &'static str,
    tries: u32,
    at: Instant,
}

impl Table {
    /// What is held again need not go any more: its new lease was proved after the old one ended.
    fn replace(&mut self, holds: Vec<Held>) {
        let row = |held: Held| (held.service, (Instant::from_nanos(held.until_ns), held.addresses));
        self.held = holds.into_iter().map(row).collect();
        let held = &self.held;
        self.lapsed.retain(|lapsed| !held.values().any(|(_, addresses)| addresses.contains(&lapsed.address)));
    }

    fn lapse(&mut self, now: Instant) {
        self.lapse_if("taskd has not renewed its lease", now, |until| until <= now);
    }

    fn lapse_all(&mut self, why: &'static str) {
        self.lapse_if(why, BootClock.now(), |_| true);
    }

    fn lapse_if(&mut self, why: &'static str, at: Instant, over: impl Fn(Instant) -> bool) {
        for (service, (until, addresses)) in &mut self.held {
            if over(*until) {
                let lapsed = |address| Lapsed { service: service.clone(), address, why, tries: 0, at };
                self.lapsed.extend(addresses.drain(..).map(lapsed));
            }
        }
        self.held.retain(|_, (_, addresses)| !addresses.is_empty());
    }

    fn take_due(&mut self, now: Instant) -> Vec<Lapsed> {
        let (due, later) = std::mem::take(&mut self.lapsed).into_iter().partition(|lapsed| lapsed.at <= now);
        self.lapsed = later;
        due
    }

    fn retry_at(&self) -> Option<Instant> {
        self.lapsed.iter().map(|lapsed| lapsed.at).min()
    }

    fn next(&self) -> Option<Instant> {
        self.held.values().map(|(until, _)| *until).chain(self.retry_at()).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(service: &str, until_ns: u64, addresses: &[&str]) -> Held {
        let addresses = addresses.iter().map(|address| (3, address.parse().unwrap())).collect();
        Held { service: service.parse().unwrap(), until_ns, addresses }
    }

    fn due(table: &mut Table, now: u64) -> Vec<String> {
        let now = Instant::from_nanos(now);
        table.lapse(now);
        table.take_due(now).into_iter().map(|lapsed| lapsed.address.1.to_string()).collect()
    }

    #[test]
    fn each_service_lapses_by_itself_and_what_is_held_again_stays() {
        let mut table = Table::default();
        table.replace(vec![held("a", 10, &["10.0.0.1/24", "fd00::1/64"]), held("b", 20, &["10.0.0.2/24"])]);
        assert_eq!((table.next(), due(&mut table, 9)), (Some(Instant::from_nanos(10)), vec![]));
        assert_eq!(due(&mut table, 10), ["10.0.0.1/24", "fd00::1/64"]);
        assert_eq!((table.next(), due(&mut table, 11)), (Some(Instant::from_nanos(20)), vec![]));
        // What could not be removed is tried again later…
        table.lapse(Instant::from_nanos(20));
        let mut failed = table.take_due(Instant::from_nanos(20));
        failed[0].at = Instant::from_nanos(30);
        table.lapsed = failed;
        assert_eq!((table.next(), due(&mut table, 29)), (Some(Instant::from_nanos(30)), vec![]));
        // …but not if it is held again.
        table.replace(vec![held("b", 90, &["10.0.0.2/24"])]);
        assert_eq!((due(&mut table, 30), table.next()), (vec![], Some(Instant::from_nanos(90))));
    }

    #[test]
    fn an_order_that_came_too_late_is_carried_out_at_once() {
        let mut table = Table::default();
        table.replace(vec![held("a", 10, &["10.0.0.1/24"])]);
        assert_eq!(due(&mut table, 50), ["10.0.0.1/24"]);
    }
}
