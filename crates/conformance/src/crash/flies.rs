//! Short sessions: their ephemerals stay until they expire or are closed, all go at once, and none comes back.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{anyhow, bail, ensure};
use keeper::wire::{Acl, Create, CreateMode, Reply, Request};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use super::link::{Broken, Life, Link, Session};

pub(super) const DIRECTORY: &str = "/flies";
/// The timeout of the sessions that are left to expire.
const FLY_TIMEOUT: Duration = Duration::from_millis(500);
const WATCHER_TIMEOUT: Duration = Duration::from_secs(5);
const FLIES_PER_LIFE: usize = 6;
const EPHEMERALS: usize = 3;
const REST_MAX: Duration = Duration::from_secs(30);

/// What has become of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// Left alone: it expires some time.
    None,
    /// Its client asked to close it and was not answered.
    Asked,
    /// Closed, acknowledged; or seen to be gone.
    Certain,
}

#[derive(Debug)]
struct Fly {
    session: Session,
    paths: Vec<String>,
    /// How many of the creates were acknowledged, or seen to be there.
    made: usize,
    end: End,
}

/// What was seen of the flies.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tally {
    pub(super) seen_alive: u64,
    pub(super) expired: u64,
    pub(super) refused: u64,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Flies {
    random: StdRng,
    flies: Vec<Fly>,
    count: u64,
    pub(super) tally: Tally,
}

impl Flies {
    pub(super) fn new(seed: u64) -> Self {
        Self { random: StdRng::seed_from_u64(seed), flies: Vec::new(), count: 0, tally: Tally::default() }
    }

    /// Checks the flies of earlier lives, waits until all have gone if `rests`, and makes new ones if `works`.
    pub(super) fn live(
        &mut self,
        life: &Life,
        rests: bool,
        works: bool,
        rested: impl FnOnce(),
    ) -> anyhow::Result<()> {
        for fly in &mut self.flies {
            fly.session.restarted(life);
        }
        match self.try_to_live(life, rests, works, rested) {
            Ok(()) | Err(Broken::Killed) => Ok(()),
            Err(Broken::Lost(error) | Broken::Wrong(error)) => Err(error.context("in the short sessions")),
        }
    }

    fn try_to_live(
        &mut self,
        life: &Life,
        rests: bool,
        works: bool,
        rested: impl FnOnce(),
    ) -> Result<(), Broken> {
        let mut link = Link::open(life, WATCHER_TIMEOUT)?;
        self.check(&mut link)?;
        // Before those that a server had wrongly kept could expire.
        self.bury(life)?;
        self.resume_one(life)?;
        self.check(&mut link)?;
        if rests {
            let deadline = Instant::now() + REST_MAX;
            while self.flies.iter().any(|fly| fly.end != End::Certain) {
                if Instant::now() > deadline {
                    return Err(anyhow!("sessions of {FLY_TIMEOUT:?} live on: {:?}", self.flies).into());
                }
                std::thread::sleep(Duration::from_millis(20));
                self.check(&mut link)?;
            }
            self.bury(life)?;
            rested();
        }
        for _ in 0..if works { FLIES_PER_LIFE } else { 0 } {
            self.hatch(life)?;
        }
        // A session that nobody needs any more is not left to expire under load.
        link.call(Request::CloseSession)?;
        Ok(())
    }

    /// What is there of each fly is what must be there.
    fn check(&mut self, link: &mut Link<'_>) -> Result<(), Broken> {
        let answer = link.call(Request::GetChildren { path: DIRECTORY.to_owned(), watch: false })?;
        let now = Instant::now();
        let Ok(Reply::Children(names)) = answer.result else {
            return Err(anyhow!("{DIRECTORY} is answered with {:?}", answer.result).into());
        };
        let present: BTreeSet<String> = names.into_iter().map(|name| format!("{DIRECTORY}/{name}")).collect();
        for fly in &mut self.flies {
            self.tally.add(fly.judge(&present, now)?);
        }
        self.flies.retain(|fly| fly.made > 0);
        let known: BTreeSet<&String> = self.flies.iter().flat_map(|fly| &fly.paths).collect();
        match present.iter().find(|path| !known.contains(path)) {
            // Those whose end was certain were forgotten.
            Some(path) => Err(anyhow!("{path} came back").into()),
            None => Ok(()),
        }
    }

    /// Sessions that have ended are not resumed.
    fn bury(&mut self, life: &Life) -> Result<(), Broken> {
        while let Some(at) = self.flies.iter().position(|fly| fly.end == End::Certain) {
            if Link::resume(life, &self.flies[at].session)?.is_some() {
                return Err(anyhow!("an ended session was resumed: {:?}", self.flies[at]).into());
            }
            self.tally.refused += 1;
            self.flies.swap_remove(at);
        }
        Ok(())
    }

    /// One that is alive is resumed with its password, not with another, and then closed.
    fn resume_one(&mut self, life: &Life) -> Result<(), Broken> {
        let alive: Vec<usize> = (0..self.flies.len()).filter(|at| self.flies[*at].end == End::None).collect();
        if alive.is_empty() {
            return Ok(());
        }
        let fly = &mut self.flies[alive[self.random.random_range(0..alive.len())]];
        let mut wrong = fly.session.clone();
        wrong.password[0] ^= 1;
        if Link::resume(life, &wrong)?.is_some() {
            return Err(anyhow!("session {:#x} was resumed with another password", wrong.id).into());
        }
        match Link::resume(life, &fly.session)? {
            Some(mut link) => {
                fly.session = link.session.clone();
                fly.end = End::Asked;
                let closed = link.call(Request::CloseSession).map(|_| fly.end = End::Certain);
                forgive(closed, &fly.session)?;
            }
            None if fly.session.may_have_expired() => {}
            None => return Err(anyhow!("a session was lost: {fly:?}").into()),
        }
        Ok(())
    }

    /// A new session with ephemerals; every other one is closed.
    fn hatch(&mut self, life: &Life) -> Result<(), Broken> {
        let mut link = Link::open(life, FLY_TIMEOUT)?;
        let first = self.count;
        self.count += EPHEMERALS as u64;
        let paths = (first..self.count).map(|number| format!("{DIRECTORY}/f-{number}")).collect();
        let mut fly = Fly { session: link.session.clone(), paths, made: 0, end: End::None };
        let result = fly.live(&mut link, self.random.random_bool(0.5));
        fly.session = link.session;
        let session = fly.session.clone();
        self.flies.push(fly);
        forgive(result, &session)
    }
}

/// A short session may expire when this machine stands still, and its connection goes with it.
fn forgive(result: Result<(), Broken>, session: &Session) -> Result<(), Broken> {
    match result {
        Err(Broken::Lost(_)) if session.may_have_expired() => Ok(()),
        result => result,
    }
}

impl Fly {
    fn live(&mut self, link: &mut Link<'_>, closes: bool) -> Result<(), Broken> {
        let creates: Vec<Request> = self
            .paths
            .iter()
            .map(|path| {
                let flags = CreateMode::Ephemeral.number();
                Request::Create(Create { path: path.clone(), data: None, acl: Acl::open(), flags })
            })
            .collect();
        link.send(&creates)?;
        for _ in &creates {
            match link.receive()?.result {
                Ok(_) => self.made += 1,
                Err(code) => return Err(Broken::Lost(anyhow!("an ephemeral is refused: {code:?}"))),
            }
        }
        if closes {
            self.end = End::Asked;
            link.call(Request::CloseSession)?;
            self.end = End::Certain;
        }
        Ok(())
    }

    fn judge(&mut self, present: &BTreeSet<String>, now: Instant) -> anyhow::Result<Tally> {
        let mut tally = Tally::default();
        let there = self.paths.iter().filter(|path| present.contains(*path)).count();
        let begun = self.paths.iter().take_while(|path| present.contains(*path)).count();
        match self.end {
            End::Certain if there > 0 => bail!("ephemerals of an ended session are there: {self:?}"),
            End::Certain => {}
            End::None | End::Asked if there > 0 => {
                // An expiry takes all of them at once, and creates come in their order.
                ensure!(there == begun && begun >= self.made, "only {there} are there: {self:?}");
                self.made = begun;
                tally.seen_alive += 1;
            }
            // It made nothing: whether it lives does not show.
            _ if self.made == 0 => {}
            End::Asked => self.end = End::Certain,
            End::None if now < self.session.alive_until => {
                bail!("ephemerals of a living session are gone: {self:?}");
            }
            End::None => {
                self.end = End::Certain;
                tally.expired += 1;
            }
        }
        Ok(tally)
    }
}

impl Tally {
    fn add(&mut self, other: Self) {
        self.seen_alive += other.seen_alive;
        self.expired += other.expired;
        self.refused += other.refused;
    }
}
