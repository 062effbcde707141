//! What the rest of the node may see of its components: cheap handles, never the owners.

use std::sync::Arc;

use clock::Instant;
use proto::Epoch;
use proto::status::CoordinationService;
use tokio::sync::watch;

use crate::status::Memory;

/// Something that a node does besides running: it ends, or keeps the node from leading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Work {
    StartKeeper,
    BootRunner,
    CleanVips,
    Join,
    Recover,
    EndDispatcher,
    DrainRunner,
    ReleaseVips,
    LeaveQuorum,
    StopKeeper,
}

impl Work {
    /// As people read it: "is …".
    pub(crate) const fn doing(self) -> &'static str {
        match self {
            Self::StartKeeper => "starting the embedded keeper",
            Self::BootRunner => "booting the runner",
            Self::CleanVips => "removing leftover addresses",
            Self::Join => "joining the cluster",
            Self::Recover => "recovering the task database",
            Self::EndDispatcher => "ending the dispatcher",
            Self::DrainRunner => "draining the runner",
            Self::ReleaseVips => "releasing its virtual IPs",
            Self::LeaveQuorum => "leaving the quorum",
            Self::StopKeeper => "stopping the embedded keeper",
        }
    }
}

/// Work under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Busy {
    pub(crate) with: Work,
    pub(crate) since: Instant,
}

/// A stop under way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ending {
    pub(crate) since: Instant,
    /// When the process ends at the latest.
    pub(crate) by: Instant,
    /// What failed, if nobody asked for it.
    pub(crate) failure: Option<String>,
}

/// A component that blocks its thread, as the watchdog sees it from outside of the runtime.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Wedged {
    pub(crate) component: &'static str,
    pub(crate) phase: &'static str,
    pub(crate) since: Instant,
    /// When the process ends because of it.
    pub(crate) ends_at: Instant,
}

/// The handles of the components that exist now.
#[derive(Clone, Debug, Default)]
pub(crate) struct Published {
    /// What the node is doing, for people.
    pub(crate) stage: String,
    /// The same for `cluster status`, in the order in which things come up and go down.
    pub(crate) busy: Vec<Busy>,
    /// Once the node stops.
    pub(crate) ending: Option<Ending>,
    /// While a component blocks its thread.
    pub(crate) wedged: Option<Wedged>,
    /// Tries to join that have failed since the last one that did not.
    pub(crate) joins_failed: u32,
    /// Once the runner runs.
    pub(crate) runner: Option<runner::Handle>,
    /// Once the quorum runs.
    pub(crate) quorum: Option<quorum::Handle>,
    /// The quorum's last view; kept here so that it outlives a stopped quorum.
    pub(crate) view: Option<Arc<quorum::View>>,
    /// While this node dispatches.
    pub(crate) dispatcher: Option<(Epoch, dispatcher::Handle)>,
    /// Once the virtual IPs are served, if this node takes part in them.
    pub(crate) vips: Option<vip::Handle>,
    /// Why the coordination service cannot be joined at the moment.
    pub(crate) trouble: Option<String>,
    /// What is remembered of the leader and the members.
    pub(crate) memory: Memory,
    /// Where the coordination service is.
    pub(crate) hosts: String,
    /// What it is, once it has said so.
    pub(crate) service: Option<CoordinationService>,
}

impl Published {
    /// Takes note of what the owner loop is about to do; whether that is news. What goes on keeps its beginning.
    pub(crate) fn turn(
        &mut self,
        stage: String,
        work: &[Work],
        ending: Option<Ending>,
        now: Instant,
    ) -> bool {
        let since = |with| self.busy.iter().find(|busy| busy.with == with).map_or(now, |busy| busy.since);
        let busy: Vec<_> = work.iter().map(|with| Busy { with: *with, since: since(*with) }).collect();
        let news = self.stage != stage || self.busy != busy || self.ending != ending;
        (self.stage, self.busy, self.ending) = (stage, busy, ending);
        news
    }
}

/// The sending side, held by the supervisor.
pub(crate) type Publisher = watch::Sender<Published>;

/// The receiving side. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Board(pub(crate) watch::Receiver<Published>);

impl Board {
    /// The leader's dispatcher, if it lives here.
    pub(crate) fn dispatcher(&self) -> Option<dispatcher::Handle> {
        self.0.borrow().dispatcher.as_ref().map(|(_, handle)| handle.clone())
    }

    pub(crate) fn runner(&self) -> Option<runner::Handle> {
        self.0.borrow().runner.clone()
    }

    pub(crate) fn vips(&self) -> Option<vip::Handle> {
        self.0.borrow().vips.clone()
    }

    pub(crate) fn quorum(&self) -> Option<quorum::Handle> {
        self.0.borrow().quorum.clone()
    }

    /// The newest view.
    pub(crate) fn view(&self) -> Option<Arc<quorum::View>> {
        self.0.borrow().view.clone()
    }

    /// What is remembered of the leader and the members.
    pub(crate) fn memory(&self) -> Memory {
        self.0.borrow().memory.clone()
    }

    /// Address of the node that holds the leadership, as far as this node knows.
    pub(crate) fn leader_address(&self) -> Option<String> {
        Some(self.0.borrow().view.as_ref()?.leader.as_ref()?.address.clone())
    }

    pub(crate) fn snapshot(&self) -> Published {
        self.0.borrow().clone()
    }

    /// Waits for anything to change. Cancel safe. Never returns once the node has ended.
    pub(crate) async fn changed(&mut self) {
        if self.0.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
