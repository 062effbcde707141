//! Virtual IPs and the cluster's configuration.

use proto::api::Via;
use proto::vip::{Applied, ConfigEntry, ConfigText, ServiceName, VipOrder, VipPage, VipWhy};

use super::{CallError, Client, Patience, Repeat};

impl Client {
    /// Virtual IPs as the node that answers sees them.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn vips(&self) -> Result<VipPage, CallError> {
        self.call(Patience::short(), Repeat::Yes, |api, context| async move {
            api.vips(context, Via::Client).await
        })
        .await
    }

    /// Why a service is where it is.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn vip_why(&self, service: &ServiceName) -> Result<VipWhy, CallError> {
        self.call(Patience::short(), Repeat::Yes, |api, context| {
            let service = service.clone();
            async move { api.vip_why(context, Via::Client, service).await }
        })
        .await
    }

    /// Has an order carried out; returns what was done. A drain may be given twice, so it is given again where an answer
    /// is lost; a move or a release is not.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn vip_order(&self, order: VipOrder) -> Result<String, CallError> {
        let repeat = match order {
            VipOrder::Drain { .. } | VipOrder::Undrain { .. } => Repeat::Yes,
            VipOrder::Move { .. } | VipOrder::Release { .. } => Repeat::No,
        };
        self.call(Patience::short(), repeat, |api, context| {
            let order = order.clone();
            async move { api.vip_order(context, Via::Client, order).await }
        })
        .await
    }

    /// The cluster's configuration: the one that holds, or an earlier revision.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn config(&self, revision: Option<u64>) -> Result<ConfigText, CallError> {
        self.call(Patience::short(), Repeat::Yes, |api, context| async move {
            api.config_get(context, Via::Client, revision).await
        })
        .await
    }

    /// The revisions that are kept, newest first.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn config_history(&self) -> Result<Vec<ConfigEntry>, CallError> {
        self.call(Patience::short(), Repeat::Yes, |api, context| async move {
            api.config_history(context, Via::Client).await
        })
        .await
    }

    /// Has `text` hold for the cluster, if `expected` is the revision that holds. It is asked once: where the answer is
    /// lost, the history shows whether it was done.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn config_apply(&self, text: &str, expected: Option<u64>) -> Result<Applied, CallError> {
        self.call(Patience::short(), Repeat::No, |api, context| {
            let text = text.to_owned();
            async move { api.config_apply(context, Via::Client, text, expected).await }
        })
        .await
    }
}
