//! Looks, beside everything else, at who leads ZooKeeper.

use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::net::Net;
use crate::noise::lock;
use crate::sys::{Interrupt, boot_ns};
use crate::zookeeper::{self, Role};

const EVERY: Duration = Duration::from_millis(30);

/// Where to look from, and at whom.
#[derive(Clone, Debug)]
pub(crate) struct Ensemble {
    pub(crate) net: Arc<Net>,
    pub(crate) from: String,
    pub(crate) servers: Vec<Ipv4Addr>,
}

impl Ensemble {
    /// Whether each server leads. A look that fails is one that saw nothing.
    fn leading(&self) -> Vec<bool> {
        let roles = zookeeper::roles(&self.net, &self.from, &self.servers).unwrap_or_default();
        roles.into_iter().map(|role| role == Some(Role::Leader)).collect()
    }
}

/// A thread that looks until it has seen enough. Dropping it ends it.
#[derive(Debug)]
struct Looks {
    stop: Interrupt,
    thread: Option<JoinHandle<()>>,
}

impl Looks {
    /// Calls `look` again and again, as long as it says so.
    fn start(mut look: impl FnMut() -> bool + Send + 'static) -> Self {
        let stop = Interrupt::default();
        let until = stop.clone();
        let thread = thread::spawn(move || {
            while !until.is_set() && look() {
                thread::sleep(EVERY);
            }
        });
        Self { stop, thread: Some(thread) }
    }
}

impl Drop for Looks {
    fn drop(&mut self) {
        self.stop.set();
        if let Some(thread) = self.thread.take() {
            // It does not panic, and has nothing to say.
            let _ = thread.join();
        }
    }
}

/// The elections of ZooKeeper's own, from each of which on all sessions begin again. A fault need not mean one to cause
/// it: a machine that stands still for a second may.
#[derive(Debug)]
pub(crate) struct Elections {
    seen: Arc<Mutex<Vec<u64>>>,
    _looks: Looks,
}

impl Elections {
    /// Looks from now on.
    pub(crate) fn start(ensemble: Ensemble) -> Self {
        let seen: Arc<Mutex<Vec<u64>>> = Arc::default();
        let note = Arc::clone(&seen);
        let mut known = None;
        let looks = Looks::start(move || {
            let now = zookeeper::epoch(&ensemble.net, &ensemble.from, &ensemble.servers);
            if known.is_some() && now > known {
                lock(&note).push(boot_ns());
            }
            known = known.max(now);
            true
        });
        Self { seen, _looks: looks }
    }

    /// When a new leader was first seen to lead, on the boot-time clock, oldest first.
    pub(crate) fn seen(&self) -> Vec<u64> {
        lock(&self.seen).clone()
    }
}

/// The first look at which a server led.
#[derive(Debug)]
pub(crate) struct Watch {
    seen: Arc<Mutex<Option<u64>>>,
    _looks: Looks,
}

impl Watch {
    /// Looks for a server other than `except` that leads.
    pub(crate) fn start(ensemble: Ensemble, except: Option<usize>) -> Self {
        let seen: Arc<Mutex<Option<u64>>> = Arc::default();
        let note = Arc::clone(&seen);
        let looks = Looks::start(move || {
            let leading = ensemble.leading();
            let found = leading.iter().enumerate().any(|(index, leads)| *leads && Some(index) != except);
            if found {
                *lock(&note) = Some(boot_ns());
            }
            !found
        });
        Self { seen, _looks: looks }
    }

    /// When it was seen to lead, on the boot-time clock.
    pub(crate) fn seen(&self) -> Option<u64> {
        *lock(&self.seen)
    }
}
