//! The backend of unprivileged runs: changes nothing, says each step, and remembers what it would hold, so that
//! whoever uses it sees the addresses that it has put, their events and their expiry.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use clock::SharedClock;
use futures::FutureExt;
use futures::future::BoxFuture;
use ipnet::IpNet;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tracing::{debug, info};

use super::table::{EVENTS_MAX, Shadow};
use super::{Address, Backend, BackendKind, Interface, NetError, NetEvent, Watch};

/// The machine as it is, and on top of it what would have been put.
#[derive(Debug)]
pub struct DryRun {
    real: Arc<dyn Backend>,
    shadow: Arc<Shadow>,
    names: Arc<Mutex<BTreeMap<u32, String>>>,
}

impl DryRun {
    /// A dry run on the machine that `real` shows; `real` is never asked to change anything. `clock` is what lifetimes
    /// are measured with.
    pub fn new(real: Arc<dyn Backend>, clock: SharedClock) -> Self {
        Self { real, shadow: Arc::new(Shadow::new(clock)), names: Arc::default() }
    }

    fn name(&self, link: u32) -> String {
        let names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        names.get(&link).cloned().unwrap_or_else(|| format!("number {link}"))
    }
}

fn learn(names: &Mutex<BTreeMap<u32, String>>, interface: &Interface) {
    let mut names = names.lock().unwrap_or_else(PoisonError::into_inner);
    names.insert(interface.link, interface.name.clone());
}

impl Backend for DryRun {
    fn kind(&self) -> BackendKind {
        BackendKind::DryRun
    }

    fn keeps_tags(&self) -> bool {
        self.real.keeps_tags()
    }

    fn addresses(&self) -> BoxFuture<'_, Result<Vec<Address>, NetError>> {
        async {
            let mut all = self.real.addresses().await?;
            let held = self.shadow.list();
            // An address that is really there is what would have been renewed: it is shown once.
            all.retain(|real| !held.iter().any(|one| (one.link, one.address) == (real.link, real.address)));
            all.extend(held);
            Ok(all)
        }
        .boxed()
    }

    fn interfaces(&self) -> BoxFuture<'_, Result<Vec<Interface>, NetError>> {
        async {
            let all = self.real.interfaces().await?;
            all.iter().for_each(|interface| learn(&self.names, interface));
            Ok(all)
        }
        .boxed()
    }

    fn put(&self, link: u32, address: IpNet, valid_s: u32) -> Result<(), NetError> {
        let valid_s = valid_s.max(1);
        let interface = self.name(link);
        if self.shadow.find(link, address).is_some() {
            debug!("dry run: would keep {address} on {interface} for {valid_s} s");
        } else {
            info!("dry run: would add {address} to {interface} for {valid_s} s");
        }
        self.shadow.put(link, &interface, address, true, Some(valid_s));
        Ok(())
    }

    fn remove(&self, link: u32, address: IpNet) -> Result<bool, NetError> {
        let was = self.shadow.remove(link, address);
        let interface = self.name(link);
        if was {
            info!("dry run: would remove {address} from {interface}");
        } else {
            info!("dry run: would remove {address} from {interface}, where this run has not put it");
        }
        Ok(was)
    }

    fn watch(&self) -> BoxFuture<'_, Result<Watch, NetError>> {
        async {
            let mut real = self.real.watch().await?;
            let changes = self.shadow.subscribe();
            let (shadow, names) = (Arc::clone(&self.shadow), Arc::clone(&self.names));
            let (to, events) = mpsc::channel(EVENTS_MAX);
            let mut tasks = JoinSet::new();
            tasks.spawn(async move {
                let forward = async {
                    while let Some(event) = real.next().await {
                        if let NetEvent::LinkSet(interface) = &event {
                            learn(&names, interface);
                        }
                        if to.send(event).await.is_err() {
                            break;
                        }
                    }
                };
                // The end of either is the end of the subscription.
                tokio::select! {
                    () = forward => {}
                    () = shadow.feed(changes, to.clone()) => {}
                }
            });
            Ok(Watch { events, tasks })
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests {
    use clock::TokioClock;

    use super::super::memory::Memory;
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn nothing_is_changed_and_what_would_be_is_seen() {
        let clock: SharedClock = Arc::new(TokioClock::start());
        let real = Memory::new(Arc::clone(&clock));
        let link = real.add_interface("eth1");
        let main: IpNet = "192.0.2.1/24".parse().unwrap();
        let vip: IpNet = "192.0.2.9/24".parse().unwrap();
        real.stranger_adds(link, main);
        let dry = DryRun::new(Arc::new(real.clone()), clock);
        assert_eq!(dry.interfaces().await.unwrap()[0].name, "eth1");
        let mut watch = dry.watch().await.unwrap();

        dry.put(link, vip, 2).unwrap();
        let addresses = dry.addresses().await.unwrap();
        let seen: Vec<_> =
            addresses.iter().map(|one| (one.address, one.ours, one.interface.as_str())).collect();
        assert_eq!(seen, [(main, false, "eth1"), (vip, true, "eth1")]);
        assert!(matches!(watch.events.recv().await, Some(NetEvent::AddressSet(one)) if one.address == vip));
        assert!(matches!(watch.events.recv().await, Some(NetEvent::AddressGone(one)) if one.address == vip));

        dry.put(link, vip, 2).unwrap();
        assert!(dry.remove(link, vip).unwrap());
        assert!(!dry.remove(link, vip).unwrap());
        real.set_carrier(link, false);
        // The machine's own events and the imagined ones are in no order.
        let (mut set, mut gone, mut unplugged) = (0, 0, 0);
        for _ in 0..3 {
            match watch.events.recv().await.unwrap() {
                NetEvent::AddressSet(_) => set += 1,
                NetEvent::AddressGone(_) => gone += 1,
                NetEvent::LinkSet(one) if !one.carrier => unplugged += 1,
                other => panic!("{other:?}"),
            }
        }
        assert_eq!((set, gone, unplugged), (1, 1, 1));
        assert_eq!((real.list().len(), real.take_calls()), (1, vec![]), "the machine was left alone");
    }
}
