//! Answers one connection's requests.

use futures::StreamExt;
use tarpc::server::{BaseChannel, Channel, Serve};
use tarpc::{ClientMessage, RequestName, Response};

use super::Incoming;

/// Requests of one connection that are answered at a time; one more is told to come back.
const REQUESTS_MAX: usize = 1_024;

/// Answers requests with `answers` until the peer leaves. Requests run concurrently inside this future, so that
/// dropping it ends them all: handlers must be thin and hand their work to an owner.
pub async fn serve<S>(incoming: Incoming, answers: S)
where
    S: Serve + Clone,
    S::Req: RequestName + serde::de::DeserializeOwned,
    S::Resp: serde::Serialize,
{
    let Incoming { wire, permit, .. } = incoming;
    let transport = wire.transport::<ClientMessage<S::Req>, Response<S::Resp>>();
    BaseChannel::with_defaults(transport)
        .max_concurrent_requests(REQUESTS_MAX)
        .execute(answers)
        .for_each_concurrent(None, |request| request)
        .await;
    drop(permit);
}
