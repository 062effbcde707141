//! The owner loop: one `select!`, no call and no component is ever awaited in it. Calls run as joined tasks with
//! deadlines and come back as events of their generation.

mod upkeep;

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use clock::Instant;
use coord::{Layout, Lease, LeaseTiming, Session, Term};
use election::{Effect, Election, Event, Generation, HandoverError, Seen, Standing};
use proto::{Epoch, FencingToken, NodeId};
use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant as Timer, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use crate::calls::{Calls, epoch_of};
use crate::config::Options;
use crate::explain;
use crate::handle::{Inbox, Local, Request};
use crate::join::{self, Fresh, Membership, Uuids};
use crate::leave::{self, Remains, Report as Left};
use crate::view::{Member, Publisher, Readiness, Role};
use crate::watchers::{self, Report};

/// Reports that may wait for the loop; watchers wait beyond that.
const REPORTS_MAX: usize = 64;

/// Calls under way beyond which no request is taken: each effect is outstanding at most once, so the rest are requests.
const TASKS_MAX: usize = 48;

/// A new leader makes every node list the members: within this time, not all at once.
const MEMBERS_SPREAD: Duration = Duration::from_secs(3);

/// The loop and all that it owns.
pub(crate) struct Driver {
    options: Arc<Options>,
    publisher: Publisher,
    inbox: Inbox,
    local: Local,
    election: Election,
    uuids: Uuids,
    held: Option<Held>,
    watchers: JoinSet<()>,
    leading: Option<Leading>,
    /// Published until the effects of the term have ended.
    term: Option<Term>,
    claim_sent: Option<Instant>,
    tasks: JoinSet<Done>,
    reports: (watchers::Reports, mpsc::Receiver<Report>),
    replies: BTreeMap<u64, oneshot::Sender<Result<NodeId, HandoverError>>>,
    tickets: u64,
    members: Arc<BTreeMap<String, Member>>,
    members_pending: bool,
    members_due: Timer,
    audit_due: Option<Timer>,
    restore: upkeep::Restore,
    seen_epoch: Option<Epoch>,
    trouble: Option<String>,
    cancel: CancellationToken,
    stop: Option<StopBy>,
    left: bool,
}

/// The session we are a member with.
struct Held {
    session: Session,
    calls: Calls,
}

/// What exists only while we hold a term.
struct Leading {
    epoch: Epoch,
    lease: Lease,
    watchers: JoinSet<()>,
}

#[derive(Clone, Copy)]
struct StopBy {
    /// Until when things may end in their order.
    soft: Timer,
    hard: Timer,
}

/// What a task brings back.
pub(crate) enum Done {
    Seen(Generation, Seen),
    Claimed(Generation, Seen, Instant),
    Joined(Generation, Result<Box<Membership>, crate::error::JoinError>),
    Members(Generation, Result<BTreeMap<String, Member>, coord::CallError>),
    /// And how many restores had ended when it was asked for.
    Own(Generation, u64, Vec<String>),
    AuditFailed(Generation),
    Restored(Generation, String, u64),
    RestoreFailed(Generation),
    Nothing,
}

impl Driver {
    pub(crate) fn new(
        options: Arc<Options>,
        publisher: Publisher,
        inbox: Inbox,
        membership: Membership,
        uuids: Uuids,
    ) -> Self {
        let generation = Generation(1);
        let election =
            Election::new(options.settings(), generation, membership.place.sequence, options.clock.now());
        let local = inbox.local.borrow().clone();
        let mut driver = Self {
            options,
            publisher,
            inbox,
            local: Local {
                readiness: local.readiness.clone(),
                given_up: None,
                serving: None,
                ended: None,
                resign: None,
                keep: None,
            },
            election,
            uuids,
            held: None,
            watchers: JoinSet::new(),
            leading: None,
            term: None,
            claim_sent: None,
            tasks: JoinSet::new(),
            reports: mpsc::channel(REPORTS_MAX),
            replies: BTreeMap::new(),
            tickets: 0,
            members: Arc::default(),
            members_pending: false,
            members_due: Timer::now(),
            audit_due: None,
            restore: upkeep::Restore::default(),
            seen_epoch: None,
            trouble: None,
            cancel: CancellationToken::new(),
            stop: None,
            left: false,
        };
        driver.hold(membership);
        driver
    }

    /// Runs until told to stop, by `stop` bringing how long that may take or by its sender being gone.
    pub(crate) async fn run(mut self, mut stop: oneshot::Receiver<Duration>) -> Left {
        let (clock, drill) = (self.options.clock.clone(), self.options.coord.drill.clone());
        drill.record(clock.now(), || "open quorum id=1".to_owned());
        let ready = self.local.readiness == Readiness::Ready;
        self.feed(Event::Ready(ready));
        self.take_local();
        loop {
            self.options.coord.drill.hold("quorum.run").await;
            self.look_at_members();
            self.audit_if_due();
            self.publish();
            if self.left || self.stop.is_some_and(|stop| stop.soft <= Timer::now()) {
                break;
            }
            let wake = self.wake();
            tokio::select! {
                within = &mut stop, if self.stop.is_none() => {
                    self.begin_stop(within.unwrap_or(Duration::from_secs(5)));
                }
                Some(done) = self.tasks.join_next(), if !self.tasks.is_empty() => self.done(done),
                Some(report) = self.reports.1.recv() => self.report(report),
                Ok(()) = self.inbox.local.changed() => self.take_local(),
                Some(request) = self.inbox.requests.recv(), if self.tasks.len() < TASKS_MAX => {
                    self.request(request);
                }
                () = sleep_until(wake) => self.feed(Event::Tick),
            }
        }
        let left = self.leave().await;
        drill.record(clock.now(), || "close quorum id=1".to_owned());
        left
    }

    fn spawn(&mut self, what: &'static str, work: impl Future<Output = Done> + Send + 'static) {
        self.tasks.spawn(self.options.pulse.watch(what, work));
    }

    /// When the loop has something to do at the latest.
    fn wake(&self) -> Timer {
        let now = Timer::now();
        // The floor keeps a deadline that cannot be acted on yet from spinning the loop.
        let due = self.election.deadline().map(|due| {
            let wait = due.since(self.options.clock.now()).max(Duration::from_millis(1));
            now + wait
        });
        let members = (!self.members_pending && self.held.is_some()).then_some(self.members_due);
        let far = now + Duration::from_secs(60);
        [due, members, self.audit_due, self.stop.map(|stop| stop.soft)]
            .into_iter()
            .flatten()
            .fold(far, Timer::min)
    }

    /// One event into the election, its effects out of it.
    fn feed(&mut self, event: Event) {
        for effect in self.election.step(event, self.options.clock.now()) {
            self.perform(effect);
        }
    }

    fn feed_seen(&mut self, generation: Generation, seen: Seen) {
        // Also without a leader: whoever starts anew needs the present epoch as a floor.
        let epoch = match &seen {
            Seen::Leader(Some(leader)) => Some(leader.record.epoch),
            Seen::Surveyed(survey) if survey.obstacle.is_none() => Some(epoch_of(survey.epoch)),
            _ => None,
        };
        if generation == self.election.generation() {
            self.seen_epoch = self.seen_epoch.max(epoch);
        }
        if let Seen::Released { epoch } = &seen {
            let now = self.options.clock.now();
            self.options.coord.drill.record(now, || format!("released epoch={}", epoch.0));
        }
        if matches!(seen, Seen::Leader(_)) {
            self.members_due = self.members_due.min(Timer::now() + self.spread(MEMBERS_SPREAD));
        }
        if matches!(seen, Seen::RegisterRefused) {
            let max = self.options.eligible_max;
            self.trouble = Some(format!("there are {max} candidates already, so this node does not stand"));
        } else if matches!(seen, Seen::Registered) {
            self.trouble = None;
        }
        self.feed(Event::Seen(generation, seen));
    }

    fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::Join { generation } => self.join_again(generation),
            Effect::Survey => {
                let floor = self.seen_epoch;
                self.call(Seen::SurveyFailed, move |calls| async move { calls.survey(floor).await });
            }
            Effect::Register => {
                // It may be there when the answer is not: the next survey tells.
                self.call(Seen::Registered, |calls| async move { calls.register().await });
            }
            Effect::Withdraw => {
                self.call(Seen::WithdrawFailed, |calls| async move { calls.withdraw().await });
            }
            Effect::Claim { expect } => {
                let Some(calls) = self.calls() else { return };
                let (generation, within) = (self.election.generation(), self.options.effect_deadline());
                self.spawn("a claim", async move {
                    calls.options.coord.drill.hold("quorum.claim").await;
                    let asked = calls.options.clock.now();
                    let claimed = timeout(within, calls.claim(expect)).await;
                    let (seen, sent) = claimed.unwrap_or((Seen::ClaimFailed { unknown: true }, asked));
                    Done::Claimed(generation, seen, sent)
                });
            }
            Effect::StartLease { epoch } => self.start_lease(epoch),
            Effect::DropLease { epoch } => self.drop_lease(epoch),
            Effect::CheckResume { epoch } => {
                let failed = Seen::ResumeChecked { epoch, unchanged: None };
                self.call(failed, move |calls| async move { calls.check_resume(epoch).await });
            }
            Effect::Release { epoch, how } => {
                let failed = Seen::ReleaseFailed { epoch };
                self.call(failed, move |calls| async move {
                    calls.options.coord.drill.hold("quorum.release").await;
                    calls.release(epoch, how).await
                });
            }
            Effect::WriteTerms { epoch, change } => {
                let failed = Seen::TermsWritten { ok: false };
                self.call(failed, move |calls| async move { calls.write_terms(epoch, change).await });
            }
            Effect::Audit => self.audit(),
            Effect::HandoverDone { ticket, outcome } => {
                if let Some(reply) = self.replies.remove(&ticket) {
                    // Whoever asked may have left.
                    let _ = reply.send(outcome);
                }
            }
            Effect::Leave => self.left = true,
        }
    }

    fn calls(&self) -> Option<Calls> {
        self.held.as_ref().map(|held| held.calls.clone())
    }

    fn call<F: Future<Output = Seen> + Send + 'static>(
        &mut self,
        failed: Seen,
        work: impl FnOnce(Calls) -> F,
    ) {
        let generation = self.election.generation();
        let within = self.options.effect_deadline();
        // Without a session there is no answer, and the election's own deadline counts.
        let Some(work) = self.calls().map(work) else { return };
        self.spawn("a call", async move {
            let seen = timeout(within, work).await.unwrap_or(failed);
            Done::Seen(generation, seen)
        });
    }

    fn done(&mut self, done: Result<Done, JoinError>) {
        match done {
            Ok(Done::Seen(generation, seen)) => self.feed_seen(generation, seen),
            Ok(Done::Claimed(generation, seen, sent)) => {
                self.claim_sent = Some(sent);
                self.feed_seen(generation, seen);
            }
            Ok(Done::Joined(generation, joined)) => self.joined(generation, joined),
            Ok(Done::Members(generation, members)) => self.take_members(generation, members),
            Ok(Done::Own(generation, asked, own)) => self.audited(generation, asked, &own),
            Ok(Done::AuditFailed(generation)) if generation == self.election.generation() => {
                self.audit_due = Some(Timer::now() + Duration::from_secs(1));
            }
            Ok(Done::RestoreFailed(generation)) if generation == self.election.generation() => {
                self.restore.ended();
                self.audit_due = Some(Timer::now() + Duration::from_secs(1));
            }
            Ok(Done::Restored(generation, path, sequence)) if generation == self.election.generation() => {
                self.restore.ended();
                if let Some(held) = &mut self.held {
                    held.calls.place.path = path;
                    held.calls.place.sequence = sequence;
                }
                self.members_due = Timer::now();
                self.feed_seen(generation, Seen::Restored { sequence });
            }
            Ok(Done::Restored(..) | Done::RestoreFailed(_) | Done::AuditFailed(_) | Done::Nothing) => {}
            // The election's own deadline stands in for the answer.
            Err(error) if error.is_panic() => tracing::error!(%error, "a call of the quorum panicked"),
            Err(_) => {}
        }
    }

    fn report(&mut self, report: Report) {
        match report {
            Report::Seen(generation, seen) => self.feed_seen(generation, seen),
            Report::Members(generation) if generation == self.election.generation() => {
                self.members_due = Timer::now();
            }
            Report::Members(_) => {}
        }
    }

    fn take_local(&mut self) {
        let next = self.inbox.local.borrow_and_update().clone();
        let before = std::mem::replace(&mut self.local, next.clone());
        // First of all: what follows is then no orderly end of that term any more.
        if let Some(reason) = next.given_up.clone().filter(|_| before.given_up.is_none()) {
            self.feed(Event::GiveUp { reason });
        }
        if let Some(epoch) = next.serving.filter(|_| next.serving != before.serving) {
            self.feed(Event::Serving(epoch));
        }
        if let Some((_, reason)) = next.resign.filter(|_| self.local.resign != before.resign) {
            self.feed(Event::Resign { reason });
        }
        if let Some(epoch) = next.ended.filter(|_| next.ended != before.ended) {
            self.feed(Event::EffectsEnded(epoch));
        }
        let ready = self.local.readiness();
        if ready != before.readiness() {
            self.feed(Event::Ready(ready == Readiness::Ready));
        }
    }

    fn request(&mut self, request: Request) {
        match request {
            Request::Handover { to, reply } => {
                self.tickets += 1;
                self.replies.insert(self.tickets, reply);
                self.feed(Event::Handover { ticket: self.tickets, to });
            }
            Request::SetPriority { node, priority, reply } => {
                let failed = crate::error::PriorityError::Failed("no session with ZooKeeper".into());
                let Some(calls) = self.calls() else {
                    let _ = reply.send(Err(failed));
                    return;
                };
                let generation = self.election.generation();
                self.spawn("the setting of a priority", async move {
                    // Each call in it has its deadline.
                    let outcome = calls.set_priority(node, priority).await;
                    let _ = reply.send(outcome);
                    Done::Seen(generation, Seen::Stir)
                });
            }
            Request::Refresh => {
                self.members_due = Timer::now();
                self.feed_seen(self.election.generation(), Seen::Stir);
            }
        }
    }

    /// Starts to live on a session.
    fn hold(&mut self, membership: Membership) {
        let Membership { session, place } = membership;
        let calls = Calls {
            options: self.options.clone(),
            layout: Layout::of(&self.options.coord),
            link: session.link(),
            place,
        };
        self.watchers = JoinSet::new();
        watchers::follow(&mut self.watchers, &calls, self.election.generation(), &self.reports.0);
        self.held = Some(Held { session, calls });
        self.members_pending = false;
        self.members_due = Timer::now();
        self.audit_due = None;
        self.restore.ended();
    }

    fn join_again(&mut self, generation: Generation) {
        self.watchers = JoinSet::new();
        let old = self.held.take();
        let effects = self.election.effects_may_live();
        let fenced = old.as_ref().filter(|_| effects).map(|held| held.calls.link.session_id());
        let fresh = Fresh { uuid: self.uuids.draw(), cluster: self.uuids.draw_cluster(), fenced };
        let (options, cancel) = (self.options.clone(), self.cancel.clone());
        self.spawn("joining again", async move {
            let deadline = Timer::now() + options.rejoin_deadline();
            if let Some(held) = old {
                // Over on the server, or given up with nothing behind it that it fences.
                let closed = held.session.close(options.coord.call_deadline).await;
                tracing::debug!(?closed, "the session before");
            }
            let joined = join::attempt(&options, None, fresh, deadline, &cancel).await;
            Done::Joined(generation, joined.map(Box::new))
        });
    }

    fn joined(&mut self, generation: Generation, joined: Result<Box<Membership>, crate::error::JoinError>) {
        match joined {
            Ok(membership) if generation == self.election.generation() && self.held.is_none() => {
                let sequence = membership.place.sequence;
                self.trouble = None;
                self.hold(*membership);
                self.feed_seen(generation, Seen::Joined { sequence });
            }
            // It came when the election had gone on without it.
            Ok(membership) => {
                let within = self.options.coord.call_deadline;
                self.spawn("the closing of a session", async move {
                    let closed = membership.session.close(within).await;
                    tracing::debug!(?closed, "a session that came too late");
                    Done::Nothing
                });
            }
            Err(error) => {
                self.trouble = Some(format!("joining again: {error}"));
                self.feed_seen(generation, Seen::JoinFailed);
            }
        }
    }

    fn start_lease(&mut self, epoch: Epoch) {
        let Some(held) = &self.held else { return };
        let calls = &held.calls;
        let version = i32::try_from(epoch.0).unwrap_or(i32::MAX);
        let fence = coord::Fence { epoch_path: calls.layout.epoch(), version };
        let authority = vec![coord::Op::Check { path: calls.layout.leader(), version: 0 }, fence.check()];
        let coord = &self.options.coord;
        let timing = LeaseTiming::new(calls.link.session_timeout(), coord.margin, coord.tick);
        let first_proof = self.claim_sent.unwrap_or_default();
        let probe = calls.layout.probe(&self.options.node);
        let lease = Lease::start(
            calls.link.clone(),
            authority,
            probe,
            epoch,
            first_proof,
            timing,
            self.options.clock.clone(),
        );
        let (sent, until) = (first_proof.as_nanos(), (first_proof + timing.term()).as_nanos());
        let claimed = || format!("claimed epoch={} sent={sent} valid_until={until}", epoch.0);
        coord.drill.record(self.options.clock.now(), claimed);
        let token = FencingToken { cluster: calls.place.cluster, epoch };
        self.term = Some(Term { token, fence, lease: lease.flag() });
        self.seen_epoch = self.seen_epoch.max(Some(epoch));
        let generation = self.election.generation();
        let mut watchers = JoinSet::new();
        watchers::follow_lease(
            &mut watchers,
            &self.options.pulse,
            &lease,
            (epoch, generation),
            &self.reports.0,
        );
        watchers::follow_as_leader(&mut watchers, calls, generation, &self.reports.0);
        self.leading = Some(Leading { epoch, lease, watchers });
    }

    fn drop_lease(&mut self, epoch: Epoch) {
        let Some(leading) = self.leading.take_if(|leading| leading.epoch == epoch) else { return };
        leading.lease.flag().drop_now();
        self.spawn("the end of a lease", async move {
            let Leading { lease, mut watchers, .. } = leading;
            watchers.shutdown().await;
            lease.stop().await;
            Done::Nothing
        });
    }

    fn publish(&mut self) {
        let now = self.options.clock.now();
        let standing = self.election.standing();
        if standing == Standing::Follower {
            self.term = None;
        }
        let role = match (standing, self.term.clone()) {
            (Standing::Elected(_), Some(term)) => Role::Elected(term),
            (Standing::Suspended(_), Some(term)) => Role::Suspended(term),
            (Standing::Resigning(_), Some(term)) => Role::Resigning(term),
            (_, _) => Role::Follower,
        };
        let before = self.publisher.get();
        self.publisher.update(|view| {
            view.role = role;
            view.readiness = self.local.readiness();
            view.trouble.clone_from(&self.trouble);
            view.members = self.members.values().cloned().collect();
            view.members.sort_by_key(|member| member.sequence);
            view.session = None;
            view.control = None;
            view.member = None;
            if let Some(held) = &self.held {
                let link = &held.calls.link;
                if link.state().borrow().ended().is_none() {
                    view.control = Some(link.clone());
                    view.member = Some(held.calls.place.path.clone());
                }
                view.session = Some(link.session_id());
                view.session_timeout = link.session_timeout();
                view.link = *link.state().borrow();
                view.cluster = Some(held.calls.place.cluster);
                view.me = Some(held.calls.me());
            }
            let epoch = self.seen_epoch;
            view.seen_token = view.cluster.zip(epoch).map(|(cluster, epoch)| FencingToken { cluster, epoch });
            explain::fill(view, &self.election, now);
        });
        explain::log_changes(&before, &self.publisher.get());
    }

    fn begin_stop(&mut self, within: Duration) {
        let now = Timer::now();
        // What is left is for the member node and the session's goodbye.
        self.stop = Some(StopBy { soft: now + within.mul_f64(0.6), hard: now + within.mul_f64(0.95) });
        self.cancel.cancel();
        self.feed(Event::Stop);
    }

    async fn leave(mut self) -> Left {
        for (_, reply) in std::mem::take(&mut self.replies) {
            let _ = reply.send(Err(HandoverError::Stopped));
        }
        if let Some(leading) = &self.leading {
            leading.lease.flag().drop_now();
        }
        let effects = self.election.effects_may_live();
        let effects = effects.then(|| "effects of its last term had not ended in time".to_owned());
        let remains = Remains {
            options: self.options.clone(),
            keep: effects.or_else(|| self.inbox.local.borrow().keep.clone()),
            held: self.held.take().map(|held| (held.session, held.calls)),
            lease: self.leading.take().map(|leading| leading.lease),
            tasks: self.tasks,
            watchers: self.watchers,
            hard: self.stop.map_or_else(Timer::now, |stop| stop.hard),
        };
        leave::leave(remains).await
    }
}
