//! A machine in memory, for tests and simulation: interfaces, addresses that expire as the kernel lets them (see
//! `table`), strangers who change things, and failures. Nothing in production uses it.
//!
//! Time is the clock that is handed in. With `clock::TokioClock` addresses expire, and are said to, by themselves while
//! somebody watches; with a clock that is moved by hand, call [`Memory::tick`] after moving it.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use clock::SharedClock;
use futures::FutureExt;
use futures::future::BoxFuture;
use ipnet::IpNet;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::table::{EVENTS_MAX, Shadow};
use super::{Address, Backend, BackendKind, Interface, NetError, NetEvent, Watch};

/// How many calls are remembered.
const CALLS_MAX: usize = 10_000;

/// A machine in memory. Clones are the same machine.
#[derive(Clone, Debug)]
pub struct Memory(Arc<Shared>);

/// What [`Memory::refuse`] can make fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    /// [`Backend::put`].
    Put,
    /// [`Backend::remove`].
    Remove,
    /// [`Backend::addresses`] and [`Backend::interfaces`].
    List,
    /// [`Backend::watch`].
    Watch,
}

/// A call of [`Backend::put`] or [`Backend::remove`], whether or not it succeeded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// [`Backend::put`].
    Put {
        /// The interface's number.
        link: u32,
        /// The address.
        address: IpNet,
        /// For how long.
        valid_s: u32,
    },
    /// [`Backend::remove`].
    Remove {
        /// The interface's number.
        link: u32,
        /// The address.
        address: IpNet,
    },
}

/// What is done at each put, before it has an effect.
type Hook = Arc<dyn Fn() + Send + Sync>;

#[derive(Debug)]
struct Shared {
    shadow: Shadow,
    machine: Mutex<Machine>,
}

#[derive(Default)]
struct Machine {
    links: BTreeMap<u32, Interface>,
    last_link: u32,
    refusals: BTreeMap<Operation, NetError>,
    calls: VecDeque<Call>,
    before_put: Option<Hook>,
}

impl fmt::Debug for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Machine")
            .field("links", &self.links)
            .field("refusals", &self.refusals)
            .finish_non_exhaustive()
    }
}

impl Memory {
    /// A machine without interfaces.
    pub fn new(clock: SharedClock) -> Self {
        Self(Arc::new(Shared { shadow: Shadow::new(clock), machine: Mutex::default() }))
    }

    /// Adds an interface that is up and has a carrier; its number. It has a hardware address of its own on this
    /// machine.
    pub fn add_interface(&self, name: &str) -> u32 {
        let mut machine = self.lock();
        machine.last_link += 1;
        let link = machine.last_link;
        let [_, _, a, b] = link.to_be_bytes();
        let mac = Some([2, 0, 0, 0, a, b]);
        let interface = Interface { link, name: name.to_owned(), mac, up: true, carrier: true };
        machine.links.insert(link, interface.clone());
        self.0.shadow.tell([NetEvent::LinkSet(interface)]);
        link
    }

    /// Removes an interface, with its addresses.
    pub fn remove_interface(&self, link: u32) {
        let gone = self.lock().links.remove(&link);
        self.0.shadow.remove_where(|address| address.link == link);
        self.0.shadow.tell(gone.map(|gone| NetEvent::LinkGone { link, name: gone.name }));
    }

    /// Plugs or unplugs the cable.
    pub fn set_carrier(&self, link: u32, carrier: bool) {
        self.change(link, |interface| interface.carrier = carrier);
    }

    /// Sets an interface up, or down: that takes its carrier, too, and, as on Linux, its IPv6 addresses.
    pub fn set_up(&self, link: u32, up: bool) {
        self.change(link, |interface| (interface.up, interface.carrier) = (up, up));
        if !up {
            self.0.shadow.remove_where(|address| address.link == link && address.address.addr().is_ipv6());
        }
    }

    fn change(&self, link: u32, change: impl FnOnce(&mut Interface)) {
        let mut machine = self.lock();
        if let Some(interface) = machine.links.get_mut(&link) {
            change(interface);
            self.0.shadow.tell([NetEvent::LinkSet(interface.clone())]);
        }
    }

    /// Somebody else adds an address, for ever. Whether there is such an interface.
    pub fn stranger_adds(&self, link: u32, address: IpNet) -> bool {
        self.leave(link, address, false, None)
    }

    /// Somebody else, for example `systemd-networkd`, removes an address. Whether it was there.
    pub fn stranger_removes(&self, link: u32, address: IpNet) -> bool {
        self.0.shadow.remove(link, address)
    }

    /// An address that a predecessor of ours has left, tagged as `ours` says. Whether there is such an interface.
    pub fn leave(&self, link: u32, address: IpNet, ours: bool, valid_s: Option<u32>) -> bool {
        let Some(name) = self.name(link) else { return false };
        self.0.shadow.put(link, &name, address, ours, valid_s);
        true
    }

    /// Makes every further call of that operation fail like that; none: they work again.
    pub fn refuse(&self, operation: Operation, with: Option<NetError>) {
        let mut machine = self.lock();
        match with {
            Some(error) => machine.refusals.insert(operation, error),
            None => machine.refusals.remove(&operation),
        };
    }

    /// Does something inside of each further put, before it has an effect: for example moves the clock, as if the
    /// kernel were slow.
    pub fn before_put(&self, hook: impl Fn() + Send + Sync + 'static) {
        self.lock().before_put = Some(Arc::new(hook));
    }

    /// Tells all watchers that events were lost.
    pub fn overrun(&self) {
        self.0.shadow.tell([NetEvent::Overrun]);
    }

    /// Removes what has expired by now.
    pub fn tick(&self) {
        self.0.shadow.tick();
    }

    /// Every address, now.
    pub fn list(&self) -> Vec<Address> {
        self.0.shadow.list()
    }

    /// Whether some interface has that address, now.
    pub fn has(&self, address: IpAddr) -> bool {
        self.list().iter().any(|one| one.address.addr() == address)
    }

    /// The calls since the beginning, or the last time this was asked: the last 10 000 of them.
    pub fn take_calls(&self) -> Vec<Call> {
        std::mem::take(&mut self.lock().calls).into()
    }

    fn name(&self, link: u32) -> Option<String> {
        Some(self.lock().links.get(&link)?.name.clone())
    }

    fn refused(&self, operation: Operation) -> Result<(), NetError> {
        match self.lock().refusals.get(&operation) {
            Some(error) => Err(error.clone()),
            None => Ok(()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Machine> {
        self.0.machine.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Machine {
    fn remember(&mut self, call: Call) {
        if self.calls.len() == CALLS_MAX {
            self.calls.pop_front();
        }
        self.calls.push_back(call);
    }
}

impl Backend for Memory {
    /// As the real one: who uses it is to behave as in production.
    fn kind(&self) -> BackendKind {
        BackendKind::Netlink
    }

    fn addresses(&self) -> BoxFuture<'_, Result<Vec<Address>, NetError>> {
        async { self.refused(Operation::List).map(|()| self.list()) }.boxed()
    }

    fn interfaces(&self) -> BoxFuture<'_, Result<Vec<Interface>, NetError>> {
        async {
            self.refused(Operation::List)?;
            Ok(self.lock().links.values().cloned().collect())
        }
        .boxed()
    }

    fn put(&self, link: u32, address: IpNet, valid_s: u32) -> Result<(), NetError> {
        let valid_s = valid_s.max(1);
        let hook = {
            let mut machine = self.lock();
            machine.remember(Call::Put { link, address, valid_s });
            machine.before_put.clone()
        };
        if let Some(hook) = hook {
            hook();
        }
        self.refused(Operation::Put)?;
        let interface = self.name(link).ok_or_else(|| NetError::NoInterface(format!("number {link}")))?;
        if self.0.shadow.find(link, address).is_some_and(|there| !there.ours) {
            return Err(NetError::Foreign { address, interface });
        }
        self.0.shadow.put(link, &interface, address, true, Some(valid_s));
        Ok(())
    }

    fn remove(&self, link: u32, address: IpNet) -> Result<bool, NetError> {
        self.lock().remember(Call::Remove { link, address });
        self.refused(Operation::Remove)?;
        Ok(self.0.shadow.remove(link, address))
    }

    fn watch(&self) -> BoxFuture<'_, Result<Watch, NetError>> {
        async {
            self.refused(Operation::Watch)?;
            let changes = self.0.shadow.subscribe();
            let (to, events) = mpsc::channel(EVENTS_MAX);
            let machine = Arc::clone(&self.0);
            let mut tasks = JoinSet::new();
            tasks.spawn(async move { machine.shadow.feed(changes, to).await });
            Ok(Watch { events, tasks })
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use clock::{Clock, ManualClock, TokioClock};

    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_watcher_sees_puts_expiry_strangers_and_cables() {
        let clock = Arc::new(TokioClock::start());
        let memory = Memory::new(clock.clone());
        let link = memory.add_interface("eth1");
        let mut watch = memory.watch().await.unwrap();
        let (a, b) = (net("192.0.2.9/24"), net("2001:db8::9/64"));

        memory.put(link, a, 2).unwrap();
        memory.put(link, b, 60).unwrap();
        memory.stranger_removes(link, b);
        memory.set_carrier(link, false);
        memory.remove_interface(link);
        memory.add_interface("eth2");
        let mut seen = Vec::new();
        for _ in 0..7 {
            seen.push(match watch.events.recv().await.unwrap() {
                NetEvent::AddressSet(one) => format!("set {}", one.address),
                NetEvent::AddressGone(one) => format!("gone {}", one.address),
                NetEvent::LinkSet(one) => format!("{} carrier {}", one.name, one.carrier),
                NetEvent::LinkGone { name, .. } => format!("{name} gone"),
                NetEvent::Overrun => "overrun".to_owned(),
            });
        }
        assert_eq!(
            seen,
            [
                "set 192.0.2.9/24",
                "set 2001:db8::9/64",
                "gone 2001:db8::9/64",
                "eth1 carrier false",
                "gone 192.0.2.9/24",
                "eth1 gone",
                "eth2 carrier true"
            ]
        );
        assert!(matches!(memory.put(link, a, 2), Err(NetError::NoInterface(_))));

        memory.put(2, a, 3).unwrap();
        let put = clock.now();
        assert!(matches!(watch.events.recv().await, Some(NetEvent::AddressSet(_))));
        assert!(matches!(watch.events.recv().await, Some(NetEvent::AddressGone(_))));
        let lived = clock.now().since(put);
        assert!(lived >= Duration::from_secs(3) && lived < Duration::from_millis(3_100), "{lived:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_not_read_is_one_overrun_and_what_comes_later_is_seen() {
        let memory = Memory::new(Arc::new(TokioClock::start()));
        let link = memory.add_interface("eth1");
        let mut watch = memory.watch().await.unwrap();
        for up in 0..EVENTS_MAX * 3 {
            memory.set_carrier(link, up % 2 == 0);
        }
        let mut overruns = 0;
        while overruns == 0 {
            overruns += usize::from(watch.events.recv().await.unwrap() == NetEvent::Overrun);
        }
        memory.stranger_adds(link, net("192.0.2.1/24"));
        assert!(matches!(watch.events.recv().await, Some(NetEvent::AddressSet(_))), "only one overrun");
    }

    #[test]
    fn failures_can_be_had() {
        let clock = Arc::new(ManualClock::default());
        let memory = Memory::new(clock.clone());
        let (link, a) = (memory.add_interface("eth1"), net("192.0.2.9/24"));
        memory.refuse(Operation::Put, Some(NetError::NotPermitted));
        assert!(matches!(memory.put(link, a, 2), Err(NetError::NotPermitted)));
        memory.refuse(Operation::Put, None);
        memory.stranger_adds(link, a);
        assert!(matches!(memory.put(link, a, 2), Err(NetError::Foreign { .. })));
        assert!(memory.remove(link, a).unwrap());

        let late = clock.clone();
        memory.before_put(move || late.advance(Duration::from_millis(700)));
        memory.put(link, a, 1).unwrap();
        clock.advance(Duration::from_millis(999));
        assert!(memory.has(a.addr()), "the lifetime counts from when the kernel did it");
        clock.advance(Duration::from_millis(1));
        assert!(!memory.has(a.addr()));
        assert_eq!(memory.take_calls().len(), 4);
    }
}
