//! Addresses with lifetimes, expiring as Linux lets them: never early, and not necessarily in time.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use clock::{Instant, SharedClock};
use ipnet::IpNet;
use tokio::sync::{broadcast, mpsc};

use super::{Address, NetEvent};

/// The least time between two looks for expired addresses (`ADDRCONF_TIMER_FUZZ_MAX` in the kernel). An address that
/// expires right after one look stays until the next.
const BETWEEN_CHECKS: Duration = Duration::from_secs(1);

/// How many events may wait for their watcher before it is told that some are lost.
pub(super) const EVENTS_MAX: usize = 1024;

/// The addresses, without IO.
#[derive(Debug, Default)]
pub(super) struct Table {
    entries: BTreeMap<(u32, IpNet), Entry>,
    next_check: Option<Instant>,
}

#[derive(Debug)]
struct Entry {
    interface: String,
    ours: bool,
    set: Instant,
    /// None: for ever.
    valid_s: Option<u32>,
}

impl Entry {
    fn until(&self) -> Option<Instant> {
        Some(self.set + Duration::from_secs(u64::from(self.valid_s?)))
    }

    fn address(&self, (link, address): (u32, IpNet), now: Instant) -> Address {
        Address {
            link,
            interface: self.interface.clone(),
            address,
            ours: self.ours,
            valid_for: self.until().map(|until| {
                u32::try_from(until.since(now).as_nanos().div_ceil(1_000_000_000)).unwrap_or(u32::MAX)
            }),
        }
    }
}

impl Table {
    /// Adds or renews an address, and looks for expired ones at once, as the kernel does after each write: what has
    /// changed, in order.
    pub(super) fn put(
        &mut self,
        now: Instant,
        link: u32,
        interface: &str,
        address: IpNet,
        ours: bool,
        valid_s: Option<u32>,
    ) -> Vec<NetEvent> {
        let key = (link, address);
        let entry = Entry { interface: interface.to_owned(), ours, set: now, valid_s };
        let mut events = vec![NetEvent::AddressSet(entry.address(key, now))];
        self.entries.insert(key, entry);
        events.extend(self.check(now));
        events
    }

    /// Removes an address, if it is there.
    pub(super) fn remove(&mut self, now: Instant, link: u32, address: IpNet) -> Option<Address> {
        let entry = self.entries.remove(&(link, address))?;
        Some(entry.address((link, address), now))
    }

    /// Removes every address of an interface that `which` names.
    pub(super) fn remove_where(&mut self, now: Instant, which: impl Fn(&Address) -> bool) -> Vec<Address> {
        let all: Vec<_> = self.list(now).into_iter().filter(|address| which(address)).collect();
        for address in &all {
            self.entries.remove(&(address.link, address.address));
        }
        all
    }

    pub(super) fn find(&self, now: Instant, link: u32, address: IpNet) -> Option<Address> {
        let entry = self.entries.get(&(link, address))?;
        Some(entry.address((link, address), now))
    }

    pub(super) fn list(&self, now: Instant) -> Vec<Address> {
        self.entries.iter().map(|(key, entry)| entry.address(*key, now)).collect()
    }

    /// Looks for expired addresses if it is time to, and says when it is next.
    pub(super) fn tick(&mut self, now: Instant) -> (Vec<NetEvent>, Option<Instant>) {
        let events = match self.next_check {
            Some(at) if at <= now => self.check(now),
            _ => Vec::new(),
        };
        (events, self.next_check)
    }

    fn check(&mut self, now: Instant) -> Vec<NetEvent> {
        let mut events = Vec::new();
        self.entries.retain(|key, entry| {
            let expired = entry.until().is_some_and(|until| until <= now);
            if expired {
                events.push(NetEvent::AddressGone(entry.address(*key, now)));
            }
            !expired
        });
        let soonest = self.entries.values().filter_map(Entry::until).min();
        self.next_check = soonest.map(|soonest| soonest.max(now + BETWEEN_CHECKS));
        events
    }
}

/// A table with its clock and those who watch it.
#[derive(Debug)]
pub(super) struct Shadow {
    clock: SharedClock,
    table: Mutex<Table>,
    events: broadcast::Sender<NetEvent>,
}

impl Shadow {
    pub(super) fn new(clock: SharedClock) -> Self {
        Self { clock, table: Mutex::default(), events: broadcast::Sender::new(EVENTS_MAX) }
    }

    pub(super) fn put(&self, link: u32, interface: &str, address: IpNet, ours: bool, valid_s: Option<u32>) {
        let mut table = self.now();
        let events = table.put(self.clock.now(), link, interface, address, ours, valid_s);
        self.tell(events);
    }

    /// Whether it was there.
    pub(super) fn remove(&self, link: u32, address: IpNet) -> bool {
        let gone = self.now().remove(self.clock.now(), link, address);
        let was = gone.is_some();
        self.tell(gone.map(NetEvent::AddressGone));
        was
    }

    pub(super) fn remove_where(&self, which: impl Fn(&Address) -> bool) {
        let gone = self.now().remove_where(self.clock.now(), which);
        self.tell(gone.into_iter().map(NetEvent::AddressGone));
    }

    pub(super) fn find(&self, link: u32, address: IpNet) -> Option<Address> {
        self.now().find(self.clock.now(), link, address)
    }

    pub(super) fn list(&self) -> Vec<Address> {
        self.now().list(self.clock.now())
    }

    /// Removes what has expired by now; when to look next.
    pub(super) fn tick(&self) -> Option<Instant> {
        let (events, next) = self.lock().tick(self.clock.now());
        self.tell(events);
        next
    }

    pub(super) fn tell(&self, events: impl IntoIterator<Item = NetEvent>) {
        for event in events {
            // Nobody may be watching.
            let _ = self.events.send(event);
        }
    }

    pub(super) fn subscribe(&self) -> broadcast::Receiver<NetEvent> {
        self.events.subscribe()
    }

    /// Hands events on until nobody takes them any more; removes what expires meanwhile.
    pub(super) async fn feed(&self, mut changes: broadcast::Receiver<NetEvent>, to: mpsc::Sender<NetEvent>) {
        loop {
            let next = self.tick();
            // A clock that a test moves by hand is not tokio's: look again from time to time.
            let wait = next.map_or(Duration::from_secs(1), |next| next.since(self.clock.now()));
            let wait = wait.clamp(Duration::from_millis(1), Duration::from_secs(1));
            let event = tokio::select! {
                event = changes.recv() => event,
                () = tokio::time::sleep(wait) => continue,
                () = to.closed() => return,
            };
            let event = match event {
                Ok(event) => event,
                Err(broadcast::error::RecvError::Lagged(_)) => {
                    changes = changes.resubscribe();
                    NetEvent::Overrun
                }
                Err(broadcast::error::RecvError::Closed) => return,
            };
            if to.send(event).await.is_err() {
                return;
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The table as it is by now, whether or not somebody watches it.
    fn now(&self) -> MutexGuard<'_, Table> {
        let mut table = self.lock();
        let (events, _) = table.tick(self.clock.now());
        self.tell(events);
        table
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Instant {
        Instant::from_nanos(ms * 1_000_000)
    }

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    type Row<'a> = (&'a [(u64, &'a str, u32)], &'a [(u64, &'a str)]);

    /// When each address goes, in milliseconds: the table is looked at every millisecond.
    fn leaves(puts: &[(u64, &str, u32)]) -> Vec<(u64, IpNet)> {
        let mut table = Table::default();
        let mut gone = Vec::new();
        for ms in 0..10_000 {
            let mut events = table.tick(at(ms)).0;
            for (_, address, valid_s) in puts.iter().filter(|put| put.0 == ms) {
                events.extend(table.put(at(ms), 1, "eth1", net(address), true, Some(*valid_s)));
            }
            gone.extend(events.into_iter().filter_map(|event| match event {
                NetEvent::AddressGone(address) => Some((ms, address.address)),
                _ => None,
            }));
        }
        gone
    }

    #[test]
    fn expiry_is_never_early_and_up_to_a_second_late() {
        let (a, b) = ("192.0.2.1/24", "2001:db8::1/64");
        let rows: [Row<'_>; 4] = [
            (&[(0, a, 1)], &[(1_000, a)]),
            // Measured on Linux: the second of two that come 80 ms apart stays 2.98 s.
            (&[(0, a, 2), (80, b, 2)], &[(2_000, a), (3_000, b)]),
            // A renewal counts from itself, and one that comes too late puts it back.
            (&[(0, a, 2), (1_500, a, 2)], &[(3_500, a)]),
            (&[(0, a, 1), (2_000, a, 1)], &[(1_000, a), (3_000, a)]),
        ];
        for (puts, expected) in rows {
            let expected: Vec<_> = expected.iter().map(|(ms, address)| (*ms, net(address))).collect();
            assert_eq!(leaves(puts), expected, "{puts:?}");
        }
    }

    #[test]
    fn what_has_no_lifetime_stays() {
        let mut table = Table::default();
        table.put(at(0), 1, "eth1", net("192.0.2.1/24"), false, None);
        assert_eq!(table.tick(at(u64::from(u32::MAX))), (vec![], None));
        assert_eq!(table.list(at(5))[0].valid_for, None);
    }
}
