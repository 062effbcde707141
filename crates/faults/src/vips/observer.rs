//! Watches from outside: a client that asks every 5 ms, ARP questions every 20 ms, and a look at every node's addresses
//! every 5 ms. Nothing here knows how the nodes work.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::addresses::Tables;
use super::arp::Asker;
use super::ground::{ASKED, CLIENT, Ground, INTERFACE, OBSERVER, VIPS};
use super::record::{Claim, Receipt, Record, Sight};
use crate::noise::lock;
use crate::sys::{self, Interrupt, between, boot_ns};

const CLIENT_EVERY: Duration = Duration::from_millis(5);
const ARP_EVERY: Duration = Duration::from_millis(20);
const LOOK_EVERY: Duration = Duration::from_millis(5);
const PORT: u16 = 7;
/// For a thread to see that it has to end.
const PATIENCE: Duration = Duration::from_millis(100);
/// A client that hears nothing for longer is not steadily answered.
const STEADY_GAP: Duration = Duration::from_millis(60);

/// Who answers the client for one address now.
#[derive(Clone, Copy, Debug)]
struct Streak {
    node: usize,
    since_ns: u64,
    last_ns: u64,
}

#[derive(Debug, Default)]
struct Seen {
    record: Record,
    streaks: [Option<Streak>; VIPS.len()],
    /// The first thing that the observer itself could not do.
    failure: Option<String>,
}

/// The observer. Dropping it ends its threads.
#[derive(Debug)]
pub(crate) struct Observer {
    seen: Arc<Mutex<Seen>>,
    stop: Interrupt,
    threads: Vec<JoinHandle<()>>,
}

impl Observer {
    /// Starts watching, and a responder on every node.
    pub(crate) fn start(ground: &Ground) -> Result<Self> {
        let mut observer = Self { seen: Arc::default(), stop: Interrupt::default(), threads: Vec::new() };
        for (index, (name, _)) in ground.nodes.iter().enumerate() {
            let socket = socket(ground, name, PORT)?;
            observer.spawn(move |_, stop| respond(&socket, u8::try_from(index).unwrap_or(u8::MAX), stop));
        }
        let asking = socket(ground, CLIENT, 0)?;
        let hearing = asking.try_clone()?;
        observer.spawn(move |seen, stop| ask(&asking, seen, stop));
        observer.spawn(move |seen, stop| hear(&hearing, seen, stop));
        let asker = Asker::open(&ground.net, OBSERVER, INTERFACE)?;
        observer.spawn(move |seen, stop| probe(&asker, seen, stop));
        let names = ground.nodes.iter();
        let tables: Vec<Tables> =
            names.map(|(name, _)| Tables::open(&ground.net, name)).collect::<Result<_>>()?;
        observer.spawn(move |seen, stop| look(tables, seen, stop));
        Ok(observer)
    }

    fn spawn(&mut self, work: impl FnOnce(&Mutex<Seen>, &Interrupt) -> Result<()> + Send + 'static) {
        let (seen, stop) = (Arc::clone(&self.seen), self.stop.clone());
        self.threads.push(thread::spawn(move || {
            hurry();
            if let Err(error) = work(&seen, &stop) {
                lock(&seen).failure.get_or_insert(format!("{error:#}"));
            }
        }));
    }

    /// Forgets what it has seen; from here on a new record begins.
    pub(crate) fn begin(&self) {
        let mut seen = lock(&self.seen);
        let (last, next) = (seen.record.sights.last().cloned(), next_round(&seen.record));
        seen.record = Record::default();
        seen.record.first_round = next;
        seen.record.sights.extend(last);
    }

    /// What was seen since the beginning.
    ///
    /// # Errors
    /// It could not see everything.
    pub(crate) fn record(&self) -> Result<Record> {
        let seen = lock(&self.seen);
        if let Some(failure) = &seen.failure {
            anyhow::bail!("the observer failed: {failure}");
        }
        let mut record = seen.record.clone();
        record.end_ns = boot_ns();
        Ok(record)
    }

    /// Who has answered for `vip` without a gap for `time`, up to now.
    pub(crate) fn steady(&self, vip: usize, time: Duration) -> Option<usize> {
        let streak = lock(&self.seen).streaks[vip]?;
        let now = boot_ns();
        let fresh = between(streak.last_ns, now) < STEADY_GAP;
        (fresh && between(streak.since_ns, now) >= time).then_some(streak.node)
    }

    /// Which nodes have `vip` now.
    pub(crate) fn owners(&self, vip: usize) -> Vec<usize> {
        let seen = lock(&self.seen);
        let now = seen.record.sights.last().map_or(&[][..], |sight| &sight.has);
        (0..now.len()).filter(|node| now[*node] & (1 << vip) != 0).collect()
    }

    /// Whether no node has any of these now.
    pub(crate) fn nowhere(&self, mask: u32) -> bool {
        let seen = lock(&self.seen);
        seen.record.sights.last().is_some_and(|sight| sight.has.iter().all(|has| has & mask == 0))
    }
}

impl Drop for Observer {
    fn drop(&mut self) {
        self.stop.set();
        for thread in self.threads.drain(..) {
            // What it had to say is in `failure`.
            let _ = thread.join();
        }
    }
}

fn next_round(record: &Record) -> u64 {
    record.first_round + record.rounds.len() as u64
}

/// Lets this thread go first: it measures, and needs next to nothing. Where that is not permitted the noise counts.
fn hurry() {
    let thread = nix::unistd::gettid().to_string();
    let _ = sys::run(Command::new("chrt").args(["--fifo", "--pid", "20", &thread]));
}

fn socket(ground: &Ground, host: &str, port: u16) -> Result<UdpSocket> {
    ground.net.on(host, || {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)).context("failed to bind a UDP socket")?;
        socket.set_read_timeout(Some(PATIENCE))?;
        Ok(socket)
    })?
}

/// Answers every request with the node's number behind it.
fn respond(socket: &UdpSocket, node: u8, stop: &Interrupt) -> Result<()> {
    let mut buffer = [0; 16];
    while !stop.is_set() {
        if let Some((length, from)) = received(socket, &mut buffer)?
            && length < buffer.len()
        {
            buffer[length] = node;
            // A link that is down loses the answer, as it should.
            let _ = socket.send_to(&buffer[..=length], from);
        }
    }
    Ok(())
}

fn received(socket: &UdpSocket, buffer: &mut [u8]) -> Result<Option<(usize, SocketAddr)>> {
    match socket.recv_from(buffer) {
        Ok(received) => Ok(Some(received)),
        Err(error) => match error.kind() {
            ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted => Ok(None),
            _ => Err(error).context("failed to read a UDP socket"),
        },
    }
}

/// Asks every address again and again. An instant that was missed is not made up for.
fn ask(socket: &UdpSocket, seen: &Mutex<Seen>, stop: &Interrupt) -> Result<()> {
    let mut next = Instant::now();
    while !stop.is_set() {
        lock(seen).record.asked.push(boot_ns());
        for vip in ASKED {
            // Nobody there: then nobody answers, which is noted.
            let _ = socket.send_to(&[u8::try_from(vip).unwrap_or(u8::MAX)], (VIPS[vip], PORT));
        }
        next = pause(next, CLIENT_EVERY);
    }
    Ok(())
}

/// Sleeps until the next instant after `last`.
fn pause(last: Instant, every: Duration) -> Instant {
    let next = (last + every).max(Instant::now());
    thread::sleep(next.saturating_duration_since(Instant::now()));
    next
}

fn hear(socket: &UdpSocket, seen: &Mutex<Seen>, stop: &Interrupt) -> Result<()> {
    let mut buffer = [0; 16];
    while !stop.is_set() {
        let Some((2, _)) = received(socket, &mut buffer)? else { continue };
        let (vip, node) = (usize::from(buffer[0]), usize::from(buffer[1]));
        let at_ns = boot_ns();
        let mut seen = lock(seen);
        seen.record.receipts.push(Receipt { at_ns, vip, node });
        let Some(streak) = seen.streaks.get_mut(vip) else { continue };
        match streak {
            Some(streak) if streak.node == node && between(streak.last_ns, at_ns) < STEADY_GAP => {
                streak.last_ns = at_ns;
            }
            _ => *streak = Some(Streak { node, since_ns: at_ns, last_ns: at_ns }),
        }
    }
    Ok(())
}

/// Asks the network who has the addresses, and notes everybody who answers.
fn probe(asker: &Asker, seen: &Mutex<Seen>, stop: &Interrupt) -> Result<()> {
    while !stop.is_set() {
        let round = {
            let mut seen = lock(seen);
            let round = next_round(&seen.record);
            seen.record.rounds.push(boot_ns());
            round
        };
        for address in VIPS {
            if let IpAddr::V4(address) = address {
                asker.ask(address);
            }
        }
        let begun = Instant::now();
        while begun.elapsed() < ARP_EVERY {
            let Some(answer) = asker.next(ARP_EVERY.saturating_sub(begun.elapsed()))? else { continue };
            if let Some(vip) = VIPS.iter().position(|vip| *vip == IpAddr::V4(answer.address)) {
                lock(seen).record.claims.push(Claim { round, vip, mac: answer.mac });
            }
        }
    }
    Ok(())
}

/// Looks at the addresses of every node.
fn look(mut tables: Vec<Tables>, seen: &Mutex<Seen>, stop: &Interrupt) -> Result<()> {
    let mut next = Instant::now();
    let mut last = Vec::new();
    while !stop.is_set() {
        let mut has = tables.iter_mut().map(mask).collect::<Result<Vec<u32>>>()?;
        let doubled =
            |has: &[u32]| (0..has.len()).any(|one| (0..one).any(|other| has[one] & has[other] != 0));
        if doubled(&has) {
            // It may have gone from one while this thread was on its way to the other: only what is there before and
            // after the look at the others is there at the same time.
            for (table, has) in tables.iter_mut().zip(&mut has) {
                *has &= mask(table)?;
            }
        }
        if has != last {
            lock(seen).record.sights.push(Sight { at_ns: boot_ns(), has: has.clone() });
            last = has;
        }
        next = pause(next, LOOK_EVERY);
    }
    Ok(())
}

/// A bit for each of the addresses that is there.
fn mask(tables: &mut Tables) -> Result<u32> {
    let there = tables.read()?;
    Ok((0..VIPS.len()).filter(|vip| there.contains(&VIPS[*vip])).map(|vip| 1 << vip).sum())
}
