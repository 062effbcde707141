//! What the rest of the node may see of its components: cheap handles, never the owners.

use std::sync::Arc;

use proto::Epoch;
use proto::status::CoordinationService;
use tokio::sync::watch;

/// The handles of the components that exist now.
#[derive(Clone, Debug, Default)]
pub(crate) struct Published {
    /// What the node is doing, for people.
    pub(crate) stage: String,
    /// Once the runner runs.
    pub(crate) runner: Option<runner::Handle>,
    /// Once the quorum runs.
    pub(crate) quorum: Option<quorum::Handle>,
    /// The quorum's last view; kept here so that it outlives a stopped quorum.
    pub(crate) view: Option<Arc<quorum::View>>,
    /// While this node dispatches.
    pub(crate) dispatcher: Option<(Epoch, dispatcher::Handle)>,
    /// Why the coordination service cannot be joined at the moment.
    pub(crate) trouble: Option<String>,
    /// Where the coordination service is.
    pub(crate) hosts: String,
    /// What it is, once it has said so.
    pub(crate) service: Option<CoordinationService>,
}

impl Published {
    /// What the node is doing, or `otherwise` if it has not said yet.
    pub(crate) fn stage_or<'a>(&'a self, otherwise: &'a str) -> &'a str {
        if self.stage.is_empty() { otherwise } else { &self.stage }
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

    pub(crate) fn quorum(&self) -> Option<quorum::Handle> {
        self.0.borrow().quorum.clone()
    }

    /// The newest view.
    pub(crate) fn view(&self) -> Option<Arc<quorum::View>> {
        self.0.borrow().view.clone()
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
