//! Waits, beside everything else, for ZooKeeper to have a leader.

use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::net::Net;
use crate::noise::lock;
use crate::sys::{Interrupt, boot_ns};
use crate::zookeeper::{self, Role};

const EVERY: Duration = Duration::from_millis(30);

/// The thread that looks. Dropping it ends it.
#[derive(Debug)]
pub(crate) struct Watch {
    seen: Arc<Mutex<Option<u64>>>,
    stop: Interrupt,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    /// Looks for a server other than `except` that leads.
    pub(crate) fn start(net: Arc<Net>, from: String, servers: Vec<Ipv4Addr>, except: Option<usize>) -> Self {
        let seen: Arc<Mutex<Option<u64>>> = Arc::default();
        let stop = Interrupt::default();
        let (note, until) = (Arc::clone(&seen), stop.clone());
        let thread = thread::spawn(move || {
            while !until.is_set() {
                // A look that fails is one that saw nothing.
                let roles = zookeeper::roles(&net, &from, &servers).unwrap_or_default();
                let mut roles = roles.iter().enumerate();
                if roles.any(|(index, role)| *role == Some(Role::Leader) && Some(index) != except) {
                    *lock(&note) = Some(boot_ns());
                    return;
                }
                thread::sleep(EVERY);
            }
        });
        Self { seen, stop, thread: Some(thread) }
    }

    /// When it was seen to lead, on the boot-time clock.
    pub(crate) fn seen(&self) -> Option<u64> {
        *lock(&self.seen)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop.set();
        if let Some(thread) = self.thread.take() {
            // It does not panic, and has nothing to say.
            let _ = thread.join();
        }
    }
}
