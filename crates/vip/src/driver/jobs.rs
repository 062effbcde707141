//! Calls that take their time.

use std::collections::BTreeSet;
use std::time::Duration;

use coord::Generation;
use proto::vip::{NodeReport, ServiceName};
use tokio::sync::oneshot;
use tokio::time;
use uuid::Uuid;

use super::Driver;
use crate::handle::OrderError;
use crate::holder::{Event, Refused, Taken, Ticket};
use crate::net::{Address, Interface};
use crate::store::{Holder, Release, TakeError, TakeRequest, Taken as StoreTaken};

/// Orders that are being carried out at a time; a coordination service that does not answer could gather any number.
const ORDERS_MAX: usize = 64;

/// What a job came back with.
#[derive(Debug)]
pub(super) enum Job {
    /// Something that the core waits for.
    Core(ServiceName, Event),
    Taken(ServiceName, Ticket, Box<Result<(StoreTaken, clock::Instant), Refused>>),
    /// What is on the machine; none if that could not be seen.
    Looked(u64, Option<(Vec<Address>, Vec<Interface>)>),
    Watched(Option<crate::net::Watch>),
    /// The report was written, or not.
    Reported(Result<Box<NodeReport>, String>),
    Ordered,
    /// Of which services this session is the holder; none if that is not known.
    Audited(Generation, Option<BTreeSet<ServiceName>>),
    Disowned,
}

impl Driver {
    pub(super) fn spawn(
        &mut self,
        what: &'static str,
        instead: Job,
        job: impl Future<Output = Job> + Send + 'static,
    ) {
        let handle = self.jobs.spawn(self.options.pulse.watch(what, job));
        self.instead.insert(handle.id(), instead);
    }

    pub(super) fn done(&mut self, job: Job) {
        match job {
            Job::Core(service, event) => self.feed(&service, event),
            Job::Taken(service, ticket, result) => {
                let answer = result.map(|(taken, acked)| {
                    let StoreTaken { take, term_version, wait, grace, sent, .. } = taken;
                    if let Some(local) = self.services.get_mut(&service)
                        && local.core.awaits(ticket)
                    {
                        local.taken = Some(taken);
                    }
                    Taken { take, sent, acked, term_version, wait, grace }
                });
                self.feed(&service, Event::Taken(ticket, answer));
            }
            Job::Looked(events, seen) => self.looked(events, seen),
            Job::Watched(watch) => {
                if watch.is_some() {
                    self.watch = watch;
                }
                self.looking = false;
                let soon = if self.watch.is_some() { Duration::ZERO } else { super::LOOK_AGAIN };
                self.look_at = Some(time::Instant::now() + soon);
            }
            Job::Reported(report) => self.reported(report),
            Job::Audited(generation, own) => self.audited(generation, own),
            Job::Disowned => {}
            Job::Ordered => self.ordering = self.ordering.saturating_sub(1),
        }
    }

    pub(super) fn take(
        &mut self,
        service: &ServiceName,
        ticket: Ticket,
        version: i32,
        grace: Duration,
        take: Uuid,
    ) {
        let name = service.clone();
        let failed =
            |why: &str| Job::Taken(name.clone(), ticket, Box::new(Err(Refused::Failed(why.to_owned()))));
        let instead = failed("it crashed");
        let Some(connected) = &self.connected else {
            let job = failed("there is no session");
            return self.spawn("a take", instead, async move { job });
        };
        let (store, member, clock) =
            (connected.store.clone(), connected.control.member.clone(), self.options.clock.clone());
        let holder = Holder { node: self.options.node.clone(), incarnation: self.options.incarnation, take };
        self.spawn("a take", instead, async move {
            let request =
                TakeRequest { service: &name, holder: &holder, assignment: version, member: &member, grace };
            let result = store.take(request).await;
            // The grace counts from here.
            let acked = clock.now();
            let result = match result {
                Ok(taken) => Ok((taken, acked)),
                Err(error) => {
                    tracing::info!(service = %name, %error, "not taken");
                    Err(match error {
                        TakeError::Refused(_) => Refused::Stale(error.to_string()),
                        _ => Refused::Failed(error.to_string()),
                    })
                }
            };
            Job::Taken(name, ticket, Box::new(result))
        });
    }

    pub(super) fn release(&mut self, service: &ServiceName, ticket: Ticket, term_version: i32, free: bool) {
        let name = service.clone();
        let failed = |why: &str| {
            Job::Core(name.clone(), Event::Released(ticket, Err(Refused::Failed(why.to_owned()))))
        };
        let instead = failed("it crashed");
        let (Some(connected), Some(local)) = (&self.connected, self.services.get(service)) else {
            // Whatever is left of it goes with its session.
            let job = Job::Core(
                name,
                Event::Released(ticket, Err(Refused::Stale("there is no session".to_owned()))),
            );
            return self.spawn("a release", instead, async move { job });
        };
        let taken = local.taken.clone().filter(|taken| taken.term_version == term_version);
        let (store, release) = (connected.store.clone(), self.uuid());
        self.spawn("a release", instead, async move {
            let done = match &taken {
                Some(taken) if free => store.release(taken, release).await,
                Some(taken) => store.withdraw(taken).await,
                None => store.disown(&name).await,
            };
            let answer = match done {
                Ok(Release::Done) => Ok(()),
                Ok(Release::NotOurs) => Err(Refused::Stale("it is not ours any more".to_owned())),
                Err(error) => {
                    tracing::warn!(service = %name, %error, "not released; trying again");
                    Err(Refused::Failed(error.to_string()))
                }
            };
            Job::Core(name, Event::Released(ticket, answer))
        });
    }

    /// Answers an order by what a call brings.
    pub(super) fn answer(
        &mut self,
        reply: oneshot::Sender<Result<String, OrderError>>,
        call: impl Future<Output = Result<String, OrderError>> + Send + 'static,
    ) {
        if self.ordering >= ORDERS_MAX {
            let what = format!(
                "{} carries out {ORDERS_MAX} orders already, and the coordination service does not answer: nothing was \
                 changed; taskd cluster status says how it is",
                self.options.node
            );
            // Whoever asked may have left.
            let _ = reply.send(Err(OrderError::NotDone(what)));
            return;
        }
        self.ordering += 1;
        self.spawn("an order", Job::Ordered, async move {
            // Whoever asked may have left.
            let _ = reply.send(call.await);
            Job::Ordered
        });
    }
}
