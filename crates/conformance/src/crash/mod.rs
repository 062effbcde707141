//! `kill -9` of the server at random moments under load, and whether everything that it had acknowledged is there.
//!
//! Several [workers](worker) each change a part of the tree that is their own, so each knows exactly what must be there:
//! what was acknowledged, and of the requests without an answer the first few, each wholly or not at all (they were
//! sent on one connection, so they are done in order). Data, versions, zxids, the directory's cversion and pzxid and the
//! owners of ephemerals are compared. [Short sessions](flies) expire, are closed and are resumed across the restarts.
//! Snapshots are so frequent that kills hit them and the rotation of the log too; some servers are killed again while
//! they recover. Before each restart a copy of the data is opened as well, to see what the kill has left.
//!
//! **What this does not prove**: a killed process does not lose what the kernel holds for it, so a missing fdatasync
//! goes unnoticed here. Power cuts are the matter of the tests of `keeper::store`, which go through every crash of a
//! fake disk.

mod child;
mod flies;
mod link;
mod model;
mod worker;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow, ensure};
use keeper::store::Store;
use keeper::wire::{Acl, Create, Request};
use rand::rngs::{StdRng, SysRng};
use rand::{RngExt as _, SeedableRng as _, TryRng as _};

use self::child::{Process, Recipe};
use self::flies::Flies;
use self::link::{Broken, Life, Link};
use self::model::SHARED;
use self::worker::{Counters, Worker};

/// Sessions last 2 to 20 of these.
const TICK_MS: u64 = 250;
/// Every so often the server lives until all short sessions have expired.
const REST_EVERY: u64 = 25;
const REST_MAX: Duration = Duration::from_secs(60);
/// Of all restarts, so many in a hundred are killed again while they recover, within so many milliseconds.
const RECOVERY_KILL_PERCENT: u32 = 20;
const RECOVERY_MS_MAX: u64 = 20;

/// Kill the server at random moments and check that nothing acknowledged is lost.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// How often.
    #[arg(long, default_value_t = 50)]
    kills: u64,
    /// What the load and the moments are drawn from. The interleaving with the server is not part of it.
    #[arg(long)]
    seed: Option<u64>,
    /// Clients that write.
    #[arg(long, default_value_t = 6)]
    workers: usize,
    /// Changes after which the server writes a snapshot.
    #[arg(long, default_value_t = 400)]
    snapshot_every: u64,
    /// A server lives up to so many milliseconds.
    #[arg(long, default_value_t = 300)]
    life_ms_max: u64,
    /// Where the data live, on the disk that counts.
    #[arg(long, default_value_os_t = std::env::temp_dir())]
    dir: PathBuf,
}

/// Kills and checks, and prints a summary.
///
/// # Errors
/// Something acknowledged is not there, something is half there, or a server fails; the data are kept then.
pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let seed = match args.seed {
        Some(seed) => seed,
        None => SysRng.try_next_u64().context("failed to get randomness")? >> 16,
    };
    println!("{} kills with --seed {seed}", args.kills);
    let dir = tempfile::Builder::new().prefix("keeper-crash-").tempdir_in(&args.dir)?;
    let mut run = Run::new(args, seed, dir.path());
    let result = run.all();
    run.print();
    result.map_err(|error| {
        let kept = dir.keep();
        error.context(format!("with --seed {seed}; the data and the server's log are in {}", kept.display()))
    })
}

/// What happened to the servers; what the clients saw is in their tallies.
#[derive(Debug, Default)]
struct Tally {
    kills: u64,
    kills_in_recovery: u64,
    torn_tails: u64,
    half_made_files: u64,
    txns_replayed: u64,
    restarts: Vec<Duration>,
}

struct Run<'a> {
    args: &'a Args,
    random: StdRng,
    data: PathBuf,
    scratch: PathBuf,
    log: PathBuf,
    workers: Vec<Worker>,
    flies: Flies,
    counters: Counters,
    zxid_seen: i64,
    killed: Instant,
    tally: Tally,
    begun: Instant,
}

impl<'a> Run<'a> {
    fn new(args: &'a Args, seed: u64, dir: &Path) -> Self {
        Self {
            args,
            random: StdRng::seed_from_u64(seed),
            data: dir.join("data"),
            scratch: dir.join("copy"),
            log: dir.join("server.log"),
            workers: (0..args.workers).map(|index| Worker::new(index, seed)).collect(),
            flies: Flies::new(seed ^ 0xf11e5),
            counters: Counters::default(),
            zxid_seen: 0,
            killed: Instant::now(),
            tally: Tally::default(),
            begun: Instant::now(),
        }
    }

    fn all(&mut self) -> anyhow::Result<()> {
        self.prepare()?;
        let mut lives = 0;
        while self.tally.kills < self.args.kills {
            lives += 1;
            self.inspect()?;
            if self.random.random_range(0..100) < RECOVERY_KILL_PERCENT {
                self.kill_in_recovery()?;
                continue;
            }
            self.life(lives % REST_EVERY == 0)?;
            if lives % 50 == 0 {
                let acknowledged: u64 = self.workers.iter().map(|worker| worker.tally.acknowledged).sum();
                println!(
                    "{} kills in {:.0?}, {acknowledged} writes acknowledged, none lost",
                    self.tally.kills,
                    self.begun.elapsed()
                );
            }
        }
        self.inspect()?;
        self.last_life()
    }

    /// The directories that the clients work in.
    fn prepare(&mut self) -> anyhow::Result<()> {
        let (server, life) = self.start()?;
        let mut paths = vec![SHARED.to_owned(), flies::DIRECTORY.to_owned()];
        paths.extend(self.workers.iter().flat_map(Worker::directories));
        let creates: Vec<Request> = paths
            .into_iter()
            .map(|path| Request::Create(Create { path, data: None, acl: Acl::open(), flags: 0 }))
            .collect();
        let made = Link::open(&life, Duration::from_secs(5)).and_then(|mut link| link.call_all(&creates));
        let answers = made.map_err(|broken| match broken {
            Broken::Killed => anyhow!("the server was killed"),
            Broken::Lost(error) | Broken::Wrong(error) => error,
        })?;
        for answer in answers {
            answer.result.map_err(|code| anyhow!("failed to prepare: {code:?}"))?;
        }
        self.end(server, life)
    }

    fn spawn(&self) -> anyhow::Result<Process> {
        Process::spawn(&Recipe {
            data: &self.data,
            log: &self.log,
            tick_ms: TICK_MS,
            snapshot_every: self.args.snapshot_every,
        })
    }

    fn start(&mut self) -> anyhow::Result<(Process, Life)> {
        let begun = Instant::now();
        let mut server = self.spawn()?;
        let address = server.address().with_context(|| self.last_words())?;
        self.tally.restarts.push(begun.elapsed());
        Ok((server, self.new_life(address, begun)))
    }

    fn new_life(&self, address: SocketAddr, begun: Instant) -> Life {
        Life {
            address,
            begun,
            killed_before: self.killed,
            zxid_floor: self.zxid_seen,
            zxid_seen: AtomicI64::new(self.zxid_seen),
            ending: AtomicBool::new(false),
        }
    }

    fn last_words(&self) -> String {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let tail = log.char_indices().rev().nth(2000).map_or(0, |(at, _)| at);
        format!("the server said: {}", log.get(tail..).unwrap_or_default().trim())
    }

    fn end(&mut self, server: Process, life: Life) -> anyhow::Result<()> {
        life.ending.store(true, Ordering::SeqCst);
        server.kill().with_context(|| self.last_words())?;
        self.killed = Instant::now();
        self.tally.kills += 1;
        self.zxid_seen = life.zxid_seen.into_inner();
        Ok(())
    }

    fn kill_in_recovery(&mut self) -> anyhow::Result<()> {
        let server = self.spawn()?;
        std::thread::sleep(Duration::from_millis(self.random.random_range(0..=RECOVERY_MS_MAX)));
        server.kill().with_context(|| self.last_words())?;
        self.killed = Instant::now();
        self.tally.kills += 1;
        self.tally.kills_in_recovery += 1;
        Ok(())
    }

    /// A server from its start to its kill.
    fn life(&mut self, rests: bool) -> anyhow::Result<()> {
        let lasts = Duration::from_millis(self.random.random_range(0..=self.args.life_ms_max));
        let (server, life) = self.start()?;
        let (workers, flies, counters) = (&mut self.workers, &mut self.flies, &self.counters);
        let (rested, rest) = mpsc::channel();
        let (killed, results) = std::thread::scope(|scope| {
            let life = &life;
            let mut clients: Vec<_> = workers
                .iter_mut()
                .map(|worker| scope.spawn(move || worker.live(life, counters, true)))
                .collect();
            clients.push(scope.spawn(move || {
                flies.live(life, rests, true, || {
                    // Nobody waits for it any more when it took too long.
                    let _ = rested.send(());
                })
            }));
            if rests {
                // If it does not come, the client says why.
                let _ = rest.recv_timeout(REST_MAX);
            }
            std::thread::sleep(lasts);
            life.ending.store(true, Ordering::SeqCst);
            let killed = server.kill();
            let results: Vec<_> = clients.into_iter().map(std::thread::ScopedJoinHandle::join).collect();
            (killed, results)
        });
        self.killed = Instant::now();
        self.tally.kills += 1;
        self.zxid_seen = life.zxid_seen.into_inner();
        killed.with_context(|| self.last_words())?;
        for result in results {
            result.map_err(|_| anyhow!("a client panicked"))??;
        }
        self.no_zxid_twice()
    }

    fn no_zxid_twice(&self) -> anyhow::Result<()> {
        let mut zxids: Vec<i64> = self.workers.iter().flat_map(|worker| &worker.zxids).copied().collect();
        zxids.sort_unstable();
        let twice = zxids.windows(2).find(|pair| pair[0] == pair[1]);
        ensure!(twice.is_none(), "two writes have one zxid: {twice:x?}");
        Ok(())
    }

    /// Everything is checked once more; then the server stops in order, and its data are whole.
    fn last_life(&mut self) -> anyhow::Result<()> {
        let (server, life) = self.start()?;
        for worker in &mut self.workers {
            worker.live(&life, &self.counters, false)?;
        }
        self.flies.live(&life, true, false, || {})?;
        self.zxid_seen = life.zxid_seen.into_inner();
        server.stop().with_context(|| self.last_words())?;
        let torn = self.tally.torn_tails;
        self.inspect()?;
        ensure!(self.tally.torn_tails == torn, "an orderly stop left a torn write");
        Ok(())
    }

    /// Opens a copy of what a kill has left.
    fn inspect(&mut self) -> anyhow::Result<()> {
        if self.scratch.exists() {
            std::fs::remove_dir_all(&self.scratch)?;
        }
        std::fs::create_dir(&self.scratch)?;
        for entry in std::fs::read_dir(&self.data)? {
            let entry = entry?;
            std::fs::copy(entry.path(), self.scratch.join(entry.file_name()))?;
        }
        let (store, state) = Store::open(&self.scratch, keeper::store::Options::default())?;
        ensure!(
            state.last_zxid() >= self.zxid_seen,
            "the log ends with {:#x}, but {:#x} was acknowledged",
            state.last_zxid(),
            self.zxid_seen
        );
        let recovery = store.recovery();
        self.tally.torn_tails += u64::from(recovery.torn.is_some());
        self.tally.half_made_files += recovery.temporaries_removed as u64;
        self.tally.txns_replayed += recovery.txns_replayed;
        Ok(())
    }

    fn print(&mut self) {
        let sum =
            |of: fn(&worker::Tally) -> u64| self.workers.iter().map(|worker| of(&worker.tally)).sum::<u64>();
        self.tally.restarts.sort_unstable();
        let (restarts, flies) = (&self.tally.restarts, &self.flies.tally);
        println!(
            "kills                 {} ({} during recovery)",
            self.tally.kills, self.tally.kills_in_recovery
        );
        println!("writes acknowledged   {}", sum(|tally| tally.acknowledged));
        println!(
            "writes unanswered     {} were there afterwards, {} were not, none in part",
            sum(|tally| tally.survived),
            sum(|tally| tally.vanished)
        );
        println!(
            "checks                {} of whole parts of the tree, {} znodes",
            sum(|tally| tally.checked),
            sum(|tally| tally.nodes_checked)
        );
        println!(
            "sessions              {} resumed, {} lost to a machine that stood still; short ones seen alive {} times, \
             {} expired, {} refused after their end",
            sum(|tally| tally.sessions_resumed),
            sum(|tally| tally.sessions_stalled),
            flies.seen_alive,
            flies.expired,
            flies.refused
        );
        println!(
            "torn tails truncated  {}; files found half-made {}; transactions replayed {}",
            self.tally.torn_tails, self.tally.half_made_files, self.tally.txns_replayed
        );
        println!(
            "restart               p50 {:.1?}, max {:.1?}, from exec to listening",
            restarts.get(restarts.len() / 2).copied().unwrap_or_default(),
            restarts.last().copied().unwrap_or_default()
        );
        println!("took                  {:.0?}", self.begun.elapsed());
    }
}
