//! What operators set: drained nodes, a pause, quotas.

use proto::api::Via;
use proto::operate::{OperateDone, OperateOrder, Operations};

use super::{CallError, Client, Patience, Repeat};

impl Client {
    /// Carries an order out. It is given again where an answer is lost: the second time changes nothing.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn operate(&self, order: OperateOrder) -> Result<OperateDone, CallError> {
        self.call(Patience::short(), Repeat::Yes, |api, context| {
            let order = order.clone();
            async move { api.operate(context, Via::Client, order).await }
        })
        .await
    }

    /// What is set, and the nodes.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn operations(&self) -> Result<Operations, CallError> {
        self.call(Patience::short(), Repeat::Yes, |api, context| async move {
            api.operations(context, Via::Client).await
        })
        .await
    }
}
