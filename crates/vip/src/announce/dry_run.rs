//! An announcer that sends nothing: for dry runs, and for tests, which tell it who answers.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::FutureExt as _;
use futures::future::BoxFuture;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::{Announcer, CONFLICTS_MAX, Listening, Port, ProbePolicy};
use crate::net::{Foreign, Mac, NetError};

/// Utterances that are remembered; the oldest are forgotten first.
const REMEMBERED_MAX: usize = 1024;

/// Sends nothing and hears nothing, except for what [`answers`](Self::answers) and [`hear`](Self::hear) tell it. A
/// probe takes as long as a real one. Clones are the same announcer.
#[derive(Clone, Debug, Default)]
pub struct DryRun {
    state: Arc<Mutex<State>>,
    /// Who answers probes, for which address.
    others: Arc<watch::Sender<BTreeMap<IpAddr, Mac>>>,
}

#[derive(Debug, Default)]
struct State {
    said: VecDeque<Said>,
    listeners: Vec<Listener>,
    refusal: Option<NetError>,
}

#[derive(Debug)]
struct Listener {
    addresses: Vec<IpAddr>,
    conflicts: mpsc::Sender<Foreign>,
}

/// Something that a real announcer would have sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    /// When.
    pub at: Instant,
    /// On which interface.
    pub link: u32,
    /// About which addresses.
    pub addresses: Vec<IpAddr>,
    /// What.
    pub what: Utterance,
}

/// What is said about addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Utterance {
    /// Who has them? One for a whole probe, at its begin.
    Probe,
    /// They are here. One for each round.
    Announcement,
}

impl DryRun {
    /// Nobody answers.
    pub fn new() -> Self {
        Self::default()
    }

    /// From now on `mac` answers probes for `address`, also those under way; none = nobody does.
    pub fn answers(&self, address: IpAddr, mac: Option<Mac>) {
        self.others.send_modify(|others| {
            match mac {
                Some(mac) => others.insert(address, mac),
                None => others.remove(&address),
            };
        });
    }

    /// Somebody says that he has an address. How many listeners were told.
    pub fn hear(&self, foreign: Foreign) -> usize {
        let mut state = self.state();
        state.listeners.retain(|listener| !listener.conflicts.is_closed());
        let concerned =
            state.listeners.iter().filter(|listener| listener.addresses.contains(&foreign.address));
        concerned.filter(|listener| listener.conflicts.try_send(foreign).is_ok()).count()
    }

    /// From now on everything fails with this; none = nothing does.
    pub fn refuse(&self, error: Option<NetError>) {
        self.state().refusal = error;
    }

    /// The last 1,024 utterances, oldest first.
    pub fn said(&self) -> Vec<Said> {
        self.state().said.iter().cloned().collect()
    }

    /// How often something was said about an address, as far as that is remembered.
    pub fn count(&self, address: IpAddr, what: Utterance) -> usize {
        let state = self.state();
        state.said.iter().filter(|said| said.what == what && said.addresses.contains(&address)).count()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change is one assignment or push: what a panic left is whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn say(&self, port: &Port, addresses: &[IpAddr], what: Utterance) -> Result<(), NetError> {
        let mut state = self.state();
        if let Some(refusal) = &state.refusal {
            return Err(refusal.clone());
        }
        if state.said.len() == REMEMBERED_MAX {
            state.said.pop_front();
        }
        state.said.push_back(Said {
            at: Instant::now(),
            link: port.link,
            addresses: addresses.to_vec(),
            what,
        });
        tracing::debug!(interface = port.interface, ?addresses, ?what, "dry run: not sent");
        Ok(())
    }
}

impl Announcer for DryRun {
    fn probe<'a>(
        &'a self,
        port: &'a Port,
        addresses: &'a [IpAddr],
        policy: ProbePolicy,
    ) -> BoxFuture<'a, Result<Option<Foreign>, NetError>> {
        async move {
            self.say(port, addresses, Utterance::Probe)?;
            let answer = |others: &BTreeMap<IpAddr, Mac>| {
                addresses
                    .iter()
                    .find_map(|address| others.get(address).map(|&mac| Foreign { address: *address, mac }))
            };
            let mut others = self.others.subscribe();
            let answered = others.wait_for(|others| answer(others).is_some());
            // The sender is ours: it is not dropped while we wait.
            let answered = tokio::time::timeout(policy.takes(), answered).await;
            Ok(answered.ok().and_then(Result::ok).and_then(|others| answer(&others)))
        }
        .boxed()
    }

    fn announce(&self, port: &Port, addresses: &[IpAddr]) -> Result<(), NetError> {
        self.say(port, addresses, Utterance::Announcement)
    }

    fn listen(&self, _: &Port, addresses: Vec<IpAddr>) -> Result<Listening, NetError> {
        let mut state = self.state();
        if let Some(refusal) = &state.refusal {
            return Err(refusal.clone());
        }
        let (tell, conflicts) = mpsc::channel(CONFLICTS_MAX);
        state.listeners.retain(|listener| !listener.conflicts.is_closed());
        state.listeners.push(Listener { addresses, conflicts: tell });
        Ok(Listening { conflicts, tasks: JoinSet::new() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const MAC: Mac = Mac([2, 0, 0, 0, 0, 9]);

    fn port() -> Port {
        Port { link: 3, interface: "eth1".to_owned(), mac: Mac([2, 0, 0, 0, 0, 1]) }
    }

    fn addresses() -> [IpAddr; 2] {
        ["192.0.2.1", "2001:db8::1"].map(|text| text.parse().unwrap())
    }

    #[tokio::test(start_paused = true)]
    async fn a_probe_takes_its_time_and_an_answer_ends_it() {
        let announcer = DryRun::new();
        let [v4, v6] = addresses();
        let begun = Instant::now();
        let nobody = announcer.probe(&port(), &[v4, v6], ProbePolicy::default()).await;
        assert_eq!(nobody.unwrap(), None);
        assert_eq!(begun.elapsed(), Duration::from_millis(80));

        let begun = Instant::now();
        let later = async {
            tokio::time::sleep(Duration::from_millis(30)).await;
            announcer.answers(v6, Some(MAC));
        };
        let (port, both) = (port(), [v4, v6]);
        let (answer, ()) = tokio::join!(announcer.probe(&port, &both, ProbePolicy::default()), later);
        assert_eq!(answer.unwrap(), Some(Foreign { address: v6, mac: MAC }));
        assert_eq!(begun.elapsed(), Duration::from_millis(30));

        announcer.answers(v6, None);
        assert_eq!(announcer.probe(&port, &both, ProbePolicy::default()).await.unwrap(), None);
        assert_eq!(announcer.count(v4, Utterance::Probe), 3);
        assert_eq!(announcer.count(v4, Utterance::Announcement), 0);
    }

    #[tokio::test]
    async fn a_listener_hears_of_its_own_addresses_until_it_is_dropped() {
        let announcer = DryRun::new();
        let [v4, v6] = addresses();
        let mut listening = announcer.listen(&port(), vec![v4]).unwrap();
        assert_eq!(announcer.hear(Foreign { address: v6, mac: MAC }), 0);
        assert_eq!(announcer.hear(Foreign { address: v4, mac: MAC }), 1);
        assert_eq!(listening.conflicts.recv().await, Some(Foreign { address: v4, mac: MAC }));
        drop(listening);
        assert_eq!(announcer.hear(Foreign { address: v4, mac: MAC }), 0);

        announcer.refuse(Some(NetError::NotPermitted));
        assert!(announcer.announce(&port(), &[v4]).is_err());
        assert!(announcer.listen(&port(), vec![v4]).is_err());
    }
}
