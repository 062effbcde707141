//! The owner's loop: one closed [`Event`], one place that changes anything. It awaits nothing but the next event;
//! whatever takes time (the coordination service, the disk, the network) is a task in a set that it joins, and its result
//! an event. Writing and removing addresses are calls of some 50 µs each.

mod cluster;
mod jobs;
mod local;
mod machine;
mod orders;
mod prepare;
mod publish;
mod quiet;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use clock::Instant;
use coord::{Generation, GroupLease, LeaseState, LinkState};
use proto::vip::{NodeReport, ServiceName, VipEvent};
use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::sync::{mpsc, watch};
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time;
use uuid::Uuid;

use crate::checks::{Checks, Fitnesses, Links};
use crate::guard::{self, Guard};
use crate::handle::{Handle, QUEUE_MAX, Request};
use crate::holder::{Event as Heard, LeaseNow, Tickets};
use crate::hooks::{self, HookRunner};
use crate::local_db::LocalDb;
use crate::net::{Foreign, NetEvent, Watch};
use crate::options::{Control, Facts, Options};
use crate::phase::Report;
use crate::placer;
use crate::store::{Change, Followers, Store};
use crate::view::{EVENTS_MAX, View};

use cluster::Cluster;
use jobs::Job;
use local::Local;
use orders::Placing;
pub(crate) use prepare::Prepared;

/// What holds and listeners may have said before the loop hears it; they wait beyond that.
const SAID_MAX: usize = 64;

/// How often a stop looks whether there is still somebody to tell.
const STOP_LOOK: Duration = Duration::from_millis(50);

/// What hooks have that still run at the end of a stop: what is left of it, between these.
const HOOKS_LEAST: Duration = Duration::from_millis(50);
const HOOKS_MOST: Duration = Duration::from_secs(1);

/// After a look at the machine that failed.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// What the phases ask of the loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Serving,
    Stopping { deadline: time::Instant },
}

/// Everything that can happen.
#[derive(Debug)]
enum Event {
    Mode(Mode),
    Request(Request),
    Control,
    Facts,
    Change(Option<Change>),
    /// A probe of ours was committed.
    Commit(Instant),
    /// The connection is lost, or there again.
    Connection,
    Said(Said),
    Net(Option<NetEvent>),
    Fitness,
    Guard,
    Hook(hooks::Failure),
    Job(Result<(Id, Job), JoinError>),
    /// A write of the leader's has ended.
    Placed(placer::Event),
    /// Something is due.
    Due,
}

/// What the tasks that only pass something on have to say.
#[derive(Debug)]
enum Said {
    Lease(ServiceName, Uuid, LeaseState),
    Conflict(ServiceName, Foreign),
}

/// A session, and what lives no longer than it.
#[derive(Debug)]
struct Connected {
    generation: Generation,
    control: Control,
    store: Store,
    followers: Followers,
    lease: GroupLease,
    commits: watch::Receiver<Instant>,
    state: watch::Receiver<LinkState>,
    /// The connection on which it was looked at last what this session owns.
    audited: Option<u64>,
}

/// The loop and all that it owns.
#[derive(Debug)]
pub(crate) struct Driver {
    options: Options,
    rng: StdRng,
    mode: Mode,
    db: LocalDb,
    guard: Guard,
    guard_status: watch::Receiver<guard::Status>,
    links: watch::Sender<Arc<Links>>,
    watch: Option<Watch>,
    look_at: Option<time::Instant>,
    looking: bool,
    /// Counts what the kernel said of links, so that an older list does not replace it.
    link_events: u64,
    checks: Checks,
    fitness: watch::Receiver<Arc<Fitnesses>>,
    hooks: HookRunner,
    hook_failures: mpsc::Receiver<hooks::Failure>,
    connected: Option<Connected>,
    /// A follower has ended: nothing is followed until there is another session.
    ended: Option<Generation>,
    cluster: Cluster,
    services: BTreeMap<ServiceName, Local>,
    tickets: Tickets,
    placing: Option<Placing>,
    jobs: JoinSet<Job>,
    /// Orders among them.
    ordering: usize,
    /// What to assume where a job crashes.
    instead: HashMap<Id, Job>,
    passing_on: JoinSet<()>,
    said: (mpsc::Sender<Said>, mpsc::Receiver<Said>),
    /// What was last written of this node, and what is being written.
    written: Option<NodeReport>,
    writing: bool,
    reports_fail: quiet::Quiet,
    report_at: time::Instant,
    events: VecDeque<VipEvent>,
    dirty: bool,
    requests: mpsc::Receiver<Request>,
    control: watch::Receiver<Option<Control>>,
    facts: watch::Receiver<Facts>,
    mode_seen: watch::Receiver<Mode>,
    view: watch::Sender<Arc<View>>,
}

impl Driver {
    fn new(prepared: Prepared, mode_seen: watch::Receiver<Mode>) -> (Self, Handle) {
        let Prepared { options, db, watch, links, cleaned } = prepared;
        let (request_sender, requests) = mpsc::channel(QUEUE_MAX);
        let (control_sender, control) = watch::channel(None);
        let (facts_sender, facts) = watch::channel(options.facts.clone());
        let dry = options.backend.kind() == crate::net::BackendKind::DryRun;
        let guard = Guard::start(options.guard.clone(), dry, &options.pulse);
        let guard_status = guard.handle().status();
        let (links, links_seen) = watch::channel(Arc::new(links));
        let checks = Checks::start(links_seen, options.pulse.clone());
        let fitness = checks.fitness();
        let (hooks, hook_failures) = HookRunner::new(options.facts.hooks.clone(), options.pulse.clone());
        let cluster = Cluster::new();
        let (view, view_seen) = watch::channel(Arc::new(publish::first_view(&options, &cluster)));
        let mut driver = Self {
            rng: StdRng::seed_from_u64(options.rng_seed),
            options,
            mode: Mode::Serving,
            db,
            guard,
            guard_status,
            links,
            watch: Some(watch),
            look_at: None,
            looking: false,
            link_events: 0,
            checks,
            fitness,
            hooks,
            hook_failures,
            connected: None,
            ended: None,
            cluster,
            services: BTreeMap::new(),
            tickets: Tickets::default(),
            placing: None,
            jobs: JoinSet::new(),
            ordering: 0,
            instead: HashMap::new(),
            passing_on: JoinSet::new(),
            said: mpsc::channel(SAID_MAX),
            written: None,
            writing: false,
            reports_fail: quiet::Quiet::default(),
            report_at: time::Instant::now(),
            events: VecDeque::new(),
            dirty: true,
            requests,
            control,
            facts,
            mode_seen,
            view,
        };
        for left in cleaned.removed {
            let what = format!("an earlier life had left {} on {}: removed", left.address, left.interface);
            driver.note(left.service.as_ref(), what);
        }
        let handle = Handle {
            requests: request_sender,
            control: control_sender,
            facts: facts_sender,
            view: view_seen,
        };
        (driver, handle)
    }

    pub(crate) async fn run(mut self) -> Report {
        tracing::info!(node = %self.options.node, backend = ?self.options.backend.kind(), "virtual IPs are served");
        loop {
            self.options.drill.hold("vip.run").await;
            self.announce_due();
            self.write_report();
            self.look_again();
            self.publish();
            if self.is_finished() {
                return self.wind_up().await;
            }
            let event = self.next().await;
            self.handle(event);
        }
    }

    /// # Cancel safety
    /// Every branch is cancel safe: an event is either returned or still there.
    async fn next(&mut self) -> Event {
        let wake = self.wake();
        let watch = async {
            match &mut self.watch {
                Some(watch) => watch.next().await,
                None => std::future::pending().await,
            }
        };
        let coordination = async {
            let Some(Connected { followers, commits, state, .. }) = &mut self.connected else {
                return std::future::pending().await;
            };
            tokio::select! {
                change = followers.next(), if self.ended.is_none() => Event::Change(change),
                Ok(()) = commits.changed() => Event::Commit(*commits.borrow_and_update()),
                Ok(()) = state.changed() => Event::Connection,
                else => std::future::pending().await,
            }
        };
        let placed = async {
            match &mut self.placing {
                Some(placing) => placing.scribe.written().await,
                None => std::future::pending().await,
            }
        };
        // What the kernel and the leases say comes first: it is what addresses have to go for.
        tokio::select! {
            biased;
            Ok(()) = self.mode_seen.changed() => Event::Mode(*self.mode_seen.borrow_and_update()),
            Some(said) = self.said.1.recv() => Event::Said(said),
            event = watch => Event::Net(event),
            Some(job) = self.jobs.join_next_with_id() => Event::Job(job),
            event = coordination => event,
            event = placed => Event::Placed(event),
            Ok(()) = self.control.changed() => Event::Control,
            Ok(()) = self.fitness.changed() => Event::Fitness,
            Ok(()) = self.facts.changed() => Event::Facts,
            Some(request) = self.requests.recv() => Event::Request(request),
            Ok(()) = self.guard_status.changed() => Event::Guard,
            Some(failure) = self.hook_failures.recv() => Event::Hook(failure),
            () = time::sleep_until(wake) => Event::Due,
        }
    }

    fn handle(&mut self, event: Event) {
        // Ends of tasks that only pass on are of no interest.
        while self.passing_on.try_join_next().is_some() {}
        self.dirty |= !matches!(event, Event::Commit(_) | Event::Due);
        match event {
            Event::Mode(mode) => {
                self.mode = mode;
                if let Mode::Stopping { .. } = mode {
                    self.end_placing();
                    self.report_at = time::Instant::now();
                    // On its way before the releases: whoever hears of those need not leave this node its turn.
                    self.write_report();
                    self.feed_all(&Heard::Stop);
                }
            }
            Event::Request(request) => self.request(request),
            Event::Control => self.take_control(),
            Event::Facts => self.take_facts(),
            Event::Change(Some(change)) => self.change(change),
            Event::Change(None) => self.session_over(),
            Event::Commit(sent) => self.committed(sent),
            Event::Connection => self.audit(),
            Event::Said(Said::Lease(service, take, state)) => self.lease(&service, take, &state),
            Event::Said(Said::Conflict(service, foreign)) => self.feed(&service, Heard::Conflict(foreign)),
            Event::Net(event) => self.net(event),
            Event::Fitness => self.refresh_fitness(),
            Event::Guard => self.guard_changed(),
            Event::Hook(failure) => {
                let service = failure.service.clone();
                self.note(Some(&service), failure.what);
            }
            Event::Job(Ok((id, job))) => {
                self.instead.remove(&id);
                self.done(job);
            }
            Event::Job(Err(error)) => {
                tracing::error!(%error, "a task of the virtual IPs crashed");
                if let Some(job) = self.instead.remove(&error.id()) {
                    self.done(job);
                }
            }
            Event::Placed(event) => self.placed(event),
            Event::Due => self.due(),
        }
        self.place();
    }

    /// When to look again at the latest.
    fn wake(&self) -> time::Instant {
        let (now, clock_now) = (time::Instant::now(), self.options.clock.now());
        let cores =
            self.services.values().flat_map(|local| [local.core.wake(), local.announcements.deadline()]);
        let placer = self.placing.as_ref().and_then(|placing| placing.scribe.wake());
        // The floor keeps what is due and waits for an answer from spinning the loop.
        let by_clock =
            cores.chain([placer]).flatten().map(|at| now + at.since(clock_now).max(Duration::from_millis(1)));
        let stop = match self.mode {
            Mode::Serving => None,
            // The connection may be lost meanwhile.
            Mode::Stopping { deadline } => Some(deadline.min(now + STOP_LOOK)),
        };
        let others = [self.look_at, self.report_due(), stop].into_iter().flatten();
        by_clock.chain(others).fold(now + Duration::from_secs(60), time::Instant::min)
    }

    /// Brings on what is due.
    fn due(&mut self) {
        let now = self.options.clock.now();
        let due = |local: &Local| local.core.wake().is_some_and(|at| at <= now);
        let services: Vec<_> = self
            .services
            .iter()
            .filter(|(_, local)| due(local))
            .map(|(service, _)| service.clone())
            .collect();
        for service in services {
            self.feed(&service, Heard::Tick);
        }
    }

    fn lease(&mut self, service: &ServiceName, take: Uuid, state: &LeaseState) {
        let Some(local) = self.services.get(service) else { return };
        if local.hold.as_ref().is_none_or(|hold| hold.take != take) {
            return;
        }
        let now = match state {
            LeaseState::Held => LeaseNow::Held,
            LeaseState::Lapsed => LeaseNow::Lapsed,
            LeaseState::Lost { reason } => LeaseNow::Lost(reason.clone()),
        };
        self.feed(service, Heard::Lease(now));
    }

    /// A probe was committed: what is held is proved, and may stay longer.
    fn committed(&mut self, sent: Instant) {
        let now = self.options.clock.now();
        let guard = self.guard.handle();
        let mut proved = Vec::new();
        for (service, local) in &self.services {
            let Some(hold) = &local.hold else { continue };
            let remaining = hold.hold.flag.proved_remaining();
            if !remaining.is_zero() {
                // Recorded is what the guard was told of; it may be put any moment.
                if !local.recorded.is_empty() {
                    guard.extend(service, now + remaining);
                }
                proved.push((service.clone(), remaining));
            }
        }
        for (service, remaining) in proved {
            self.feed(&service, Heard::Proved { sent, remaining });
        }
    }

    fn guard_changed(&mut self) {
        let status = self.guard_status.borrow_and_update().clone();
        if let guard::Status::Down(why) = status {
            self.note(None, format!("the guard of the addresses is down and is started again: {why}"));
        }
    }

    fn is_finished(&self) -> bool {
        let Mode::Stopping { deadline } = self.mode else { return false };
        if time::Instant::now() >= deadline {
            return true;
        }
        // Whoever cannot be told of a release waits for the grace instead; the addresses are gone either way.
        let tells = self
            .connected
            .as_ref()
            .filter(|_| self.ended.is_none())
            .is_some_and(|connected| connected.control.link.state().borrow().connection().is_some());
        let done = |local: &Local| local.core.is_finished() || (!tells && local.put.is_empty());
        self.services.values().all(done)
    }

    /// Joins what is left. What could not be released was at least removed, or is named.
    async fn wind_up(mut self) -> Report {
        self.requests.close();
        self.end_placing();
        let mut abandoned = Vec::new();
        for (service, local) in &mut self.services {
            for (link, address) in local.put.drain(..) {
                if let Err(error) = self.options.backend.remove(link, address) {
                    tracing::error!(%service, %address, %error, "the address could not be removed");
                    abandoned.push(format!("{address} of {service}: {error}"));
                }
            }
            if !local.core.is_finished() {
                tracing::warn!(%service, "stopped before the service was released: its next holder waits");
            }
        }
        self.jobs.shutdown().await;
        self.passing_on.shutdown().await;
        self.checks.finish().await;
        let left = match self.mode {
            Mode::Serving => Duration::ZERO,
            Mode::Stopping { deadline } => deadline.saturating_duration_since(time::Instant::now()),
        };
        if !self.hooks.finish(left.clamp(HOOKS_LEAST, HOOKS_MOST)).await {
            tracing::warn!("hooks that still ran at the end of the stop were killed");
        }
        self.guard.finish(Duration::from_millis(100)).await;
        Report { abandoned, aborted: false }
    }

    /// For the record, and the log.
    fn note(&mut self, service: Option<&ServiceName>, what: String) {
        match service {
            Some(service) => tracing::info!(%service, "{what}"),
            None => tracing::info!("{what}"),
        }
        if self.events.len() == EVENTS_MAX {
            self.events.pop_front();
        }
        self.events.push_back(VipEvent {
            at_ms: self.options.clock.wall().0,
            service: service.cloned(),
            what,
        });
        self.dirty = true;
    }
}
