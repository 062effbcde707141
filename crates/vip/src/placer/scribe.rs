//! A [`Placer`] with its writes: what the owner's loop holds while this node leads and may act.
//!
//! The loop calls [`look`](Scribe::look) whenever anything became known and at [`wake`](Scribe::wake), selects on
//! [`written`](Scribe::written), and [`end`](Scribe::end)s it with the term. Nothing here awaits a write.

use std::collections::BTreeMap;

use clock::Instant;
use pulse::Pulse;
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use super::{Effect, Event, Order, OrderId, Placer, World};
use crate::handle::OrderError;
use crate::store::{AssignError, Store};

/// Whoever waits for an order's end.
pub(crate) type Reply = oneshot::Sender<Result<String, OrderError>>;

/// A placer with its writes.
#[derive(Debug)]
pub(crate) struct Scribe {
    placer: Placer,
    leading: coord::Term,
    store: Store,
    pulse: Pulse,
    writes: JoinSet<Event>,
    replies: BTreeMap<OrderId, Reply>,
    next: OrderId,
}

impl Scribe {
    /// For a term, on the session of `store`.
    pub(crate) fn new(leading: coord::Term, store: Store, pulse: Pulse) -> Self {
        let placer = Placer::new(leading.token.epoch);
        Self { placer, leading, store, pulse, writes: JoinSet::new(), replies: BTreeMap::new(), next: 0 }
    }

    /// When to look again if nothing happens.
    pub(crate) fn wake(&self) -> Option<Instant> {
        self.placer.wake()
    }

    /// Does what is to be done now. `world` is none until everything has been seen once on this session.
    pub(crate) fn look(&mut self, now: Instant, world: Option<&World<'_>>) {
        self.step(now, world, Event::Look);
    }

    /// Takes an order; `reply` hears of its end, whatever that is.
    pub(crate) fn order(&mut self, now: Instant, world: Option<&World<'_>>, order: Order, reply: Reply) {
        self.next += 1;
        self.replies.insert(self.next, reply);
        self.step(now, world, Event::Order(self.next, order));
    }

    /// What became of a write; give it to [`heard`](Self::heard). Pends while there is none.
    ///
    /// # Cancel safety
    /// Safe: nothing is lost.
    pub(crate) async fn written(&mut self) -> Event {
        loop {
            match self.writes.join_next().await {
                Some(Ok(event)) => return event,
                // Its placer takes a write that is never answered for a lost one.
                Some(Err(error)) => tracing::error!(%error, "a write of the leader's failed"),
                None => std::future::pending().await,
            }
        }
    }

    /// Goes on after a write.
    pub(crate) fn heard(&mut self, now: Instant, world: Option<&World<'_>>, event: Event) {
        self.step(now, world, event);
    }

    /// The term or the session is over: whoever waits is told, writes on their way are left to their fence.
    pub(crate) fn end(mut self) {
        let effects = self.placer.end();
        for effect in effects {
            if let Effect::Answer(id, answer) = effect {
                tell(&mut self.replies, id, answer);
            }
        }
    }

    fn step(&mut self, now: Instant, world: Option<&World<'_>>, event: Event) {
        for effect in self.placer.step(now, world, event) {
            match effect {
                Effect::Answer(id, answer) => tell(&mut self.replies, id, answer),
                Effect::Assign(assignment) => {
                    let (store, leading) = (self.store.clone(), self.leading.clone());
                    let write = async move {
                        let (service, why) = (assignment.service.clone(), assignment.why.clone());
                        let order: Vec<_> = assignment.order.iter().map(|node| node.as_str()).collect();
                        let order = order.join(", ");
                        let written = store.assign(&leading, &assignment).await;
                        match &written {
                            Ok(version) => tracing::info!(%service, order, version, why, "assigned"),
                            Err(error) => complain(&service, error),
                        }
                        Event::Assigned(service, written.ok())
                    };
                    self.writes.spawn(self.pulse.watch("an assignment", write));
                }
                Effect::Remove { service, waited } => {
                    let (store, leading) = (self.store.clone(), self.leading.clone());
                    let write = async move {
                        let removed = store.remove(&leading, &service, waited).await;
                        match &removed {
                            Ok(removal) => tracing::info!(%service, ?removal, "configured no more"),
                            Err(error) => complain(&service, error),
                        }
                        Event::Removed(service, removed.ok())
                    };
                    self.writes.spawn(self.pulse.watch("the removal of a service", write));
                }
            }
        }
    }
}

fn complain(service: &proto::vip::ServiceName, error: &AssignError) {
    match error {
        AssignError::NotLeading => tracing::debug!(%service, %error, "not written"),
        AssignError::Store(_) => {
            tracing::warn!(%service, error = error as &dyn std::error::Error, "not written; again later");
        }
    }
}

fn tell(replies: &mut BTreeMap<OrderId, Reply>, id: OrderId, answer: Result<String, OrderError>) {
    if let Some(reply) = replies.remove(&id) {
        // Whoever asked may have left.
        let _ = reply.send(answer);
    }
}
