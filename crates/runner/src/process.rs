//! A process task, as the daemon sees it: a shim that was started, is told things, and leaves a record.

use std::fs::{self, DirBuilder};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use drill::Drill;
use nix::unistd::User;
use proto::progress::Checkpoint;
use proto::runner::Outcome;
use proto::task::AttemptEnd;
use proto::{AttemptId, FencingToken, NodeId};
use tokio::process::Child;
use tokio::sync::Semaphore;
use tokio::{task, time};

use crate::ShimProgram;
use crate::adopt::Shim;
use crate::attempt::{Control, EndRequest, Ended, shortened};
use crate::leftovers::{self, Leftover};
use crate::service::{Process, Reports};
use crate::shim::stage::Stage;
use crate::shim::wire::{LINE_BYTES_MAX, Order, ShimReport, StartFile, Task, line};
use crate::store::{self, Store};

/// Where a task finds what an earlier attempt has left.
const CHECKPOINT: &str = "TASKD_CHECKPOINT";
/// Between two looks at a tree that is being killed.
const KILL_AGAIN: Duration = Duration::from_millis(20);
/// How often a record that cannot be read is looked at.
const READ_TRIES: usize = 20;
/// Between two looks at it.
const READ_AGAIN: Duration = Duration::from_millis(200);
/// Looks before it is tried more slowly: each reads all of `/proc`.
const KILL_ROUNDS: u32 = 100;
/// Between two looks from then on.
const KILL_SLOWLY: Duration = Duration::from_secs(1);

/// What all shims of a runner have in common.
#[derive(Debug)]
pub(crate) struct Shims {
    pub(crate) program: ShimProgram,
    pub(crate) node: NodeId,
    pub(crate) store: Store,
    pub(crate) output_bytes_max: u64,
    pub(crate) grace: Duration,
    pub(crate) pid_namespace: bool,
    /// How many may be in the making at a time: each holds a thread while it is.
    pub(crate) starting: Semaphore,
    pub(crate) drill: Drill,
}

/// What one attempt is given.
#[derive(Debug)]
pub(crate) struct Given {
    pub(crate) token: FencingToken,
    pub(crate) process: Process,
    pub(crate) run_timeout_ms: Option<u64>,
    pub(crate) progress_timeout_ms: Option<u64>,
    /// Where an earlier one has left off.
    pub(crate) checkpoint: Option<Checkpoint>,
    /// Takes what it says of itself.
    pub(crate) reports: Reports,
}

/// Runs one attempt to its end: the returned one's whole tree is gone.
pub(crate) async fn run(shims: Arc<Shims>, attempt: AttemptId, given: Given, mut control: Control) -> Ended {
    let Given { token, process, run_timeout_ms, progress_timeout_ms, checkpoint, reports } = given;
    let clock = Arc::clone(&control.clock);
    let permit = tokio::select! {
        biased;
        request = control.ended() => return Ended::in_memory(attempt, request.end, None, &clock),
        permit = shims.starting.acquire() => permit,
    };
    let deadline = match control.may_begin() {
        Ok(deadline) => deadline,
        Err(end) => return Ended::in_memory(attempt, end, None, &clock),
    };
    let dir = shims.store.attempt(attempt);
    let mut env: Vec<(String, String)> = process.env.into_iter().collect();
    // Another service of the same kind may have left one that is no text.
    let checkpoint = checkpoint.and_then(|checkpoint| String::from_utf8(checkpoint.into_bytes()).ok());
    env.extend(checkpoint.map(|text| (CHECKPOINT.to_owned(), text)));
    let mut order = StartFile {
        attempt,
        task: Task {
            argv: process.argv,
            env,
            cwd: process.cwd.unwrap_or_else(|| dir.join(store::WORK)),
            stdin: process.stdin.is_some().then(|| dir.join(store::STDIN)),
            stage: Stage {
                umask: process.umask,
                resources: process.resources,
                unfit: dir.join(store::UNFIT),
                ..Stage::default()
            },
            reexec: shims.program.args.clone(),
        },
        deadline_ns: deadline.as_nanos(),
        run_timeout_ms,
        progress_timeout_ms,
        grace_ms: shims.grace.as_millis() as u64,
        output_bytes_max: shims.output_bytes_max,
        pid_namespace: shims.pid_namespace,
        reexec: shims.program.args.clone(),
    };
    let launched = {
        let (shims, dir) = (Arc::clone(&shims), dir.clone());
        let (stdin, user) = (process.stdin, process.user);
        blocking(move || {
            if let Some(user) = user {
                order.task.become_user(&user)?;
            }
            launch(&shims, &dir, token, &order, stdin.as_deref())
        })
        .await
    };
    drop(permit);
    let (child, link) = match launched {
        Ok(launched) => launched,
        Err(error) => {
            let program = shims.program.program.display();
            let reason = format!("its node could not start the shim {program}: {error}");
            tracing::error!(%attempt, "{reason}");
            // The failure may have come after the shim: with that running, nothing has ended.
            kill_all(&shims.store, attempt).await;
            let _ = blocking(move || shims.store.forget(attempt)).await;
            // No fault of the task, which has not run: another node may have what this one lacks.
            let end = AttemptEnd::Lost { reason: shortened(reason) };
            return Ended::in_memory(attempt, end, None, &clock);
        }
    };
    shims.drill.record(clock.now(), || format!("open shim id={attempt}"));
    let status = attend(&shims.store, attempt, Shim::Child(child), link, &reports, &mut control).await;
    shims.drill.record(clock.now(), || format!("close shim id={attempt}"));
    let fallback = fallback(&control.request(), status);
    let outcome = conclude(&shims.store, attempt, fallback, clock.wall().0).await;
    let on_disk = outcome.output_bytes.min(shims.output_bytes_max) + 4096;
    Ended { outcome, on_disk: Some(on_disk) }
}

/// Blocking: makes the directory, listens for the shim, starts and reaches it.
fn launch(
    shims: &Shims,
    dir: &Path,
    token: FencingToken,
    order: &StartFile,
    stdin: Option<&str>,
) -> io::Result<(Child, UnixStream)> {
    DirBuilder::new().mode(0o700).create(dir)?;
    if order.task.cwd == dir.join(store::WORK) {
        DirBuilder::new().mode(0o700).create(&order.task.cwd)?;
        if let Some((user, group)) = order.task.stage.identity {
            std::os::unix::fs::chown(&order.task.cwd, Some(user), Some(group))?;
        }
    }
    if let Some(stdin) = stdin {
        fs::write(dir.join(store::STDIN), stdin)?;
    }
    store::write(&dir.join(store::START), order)?;
    let listener = leftovers::listen(dir)?;
    // Before there is a shim: whatever fails from here on, none is left running behind a reported failure.
    let link = leftovers::connect(dir)?;
    link.set_nonblocking(true)?;
    let mut command = std::process::Command::new(&shims.program.program);
    command
        .arg0("taskd-shim")
        .args(&shims.program.args)
        .arg(dir)
        // Elsewhere a shim would keep a file system busy.
        .current_dir("/")
        .stdin(Stdio::from(OwnedFd::from(listener)))
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    // The daemon's own configuration, secrets among it, is none of the task's business.
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"TASKD_")) {
        command.env_remove(name);
    }
    command
        .env("TASKD_TASK_ID", order.attempt.task.to_string())
        .env("TASKD_ATTEMPT", order.attempt.number.to_string())
        .env("TASKD_NODE", shims.node.as_str())
        .env("TASKD_TOKEN", format!("{}:{}:{}", token.cluster, token.epoch, order.attempt))
        .env(leftovers::MARKER, dir);
    Ok((tokio::process::Command::from(command).spawn()?, link))
}

/// Passes on deadlines and orders until the shim has ended.
pub(crate) async fn attend(
    store: &Store,
    attempt: AttemptId,
    mut shim: Shim,
    link: UnixStream,
    reports: &Reports,
    control: &mut Control,
) -> Option<ExitStatus> {
    let mut ear = Ear::new(&link);
    let mut link = Some(link);
    let mut ending: Option<EndRequest> = None;
    loop {
        let hard = ending.as_ref().map(|request| control.until(request.hard_at));
        tokio::select! {
            biased;
            status = shim.ended() => return status,
            Ok(()) = control.end.changed() => {
                let Some(request) = control.request() else { continue };
                let grace_ms = request.grace.as_millis() as u64;
                tell(&mut link, &Order::Terminate { grace_ms, end: request.end.clone() });
                ending = Some(request);
            }
            Ok(()) = control.fence.changed(), if ending.is_none() => {
                if let Some(deadline) = *control.fence.borrow_and_update() {
                    tell(&mut link, &Order::Extend { deadline_ns: deadline.as_nanos() });
                }
            }
            report = ear.hear() => {
                if let Some(checkpoint) = report.checkpoint {
                    reports.checkpoint(checkpoint);
                }
                reports.progress(report.progress);
            }
            () = time::sleep(hard.unwrap_or_default()), if hard.is_some() => {
                tracing::warn!(%attempt, "its shim does not end it in time: killing the processes directly");
                kill_all(store, attempt).await;
            }
        }
    }
}

impl Task {
    /// Blocking: asks the system's user database.
    fn become_user(&mut self, user: &str) -> io::Result<()> {
        let known = match user.parse::<u32>() {
            Ok(id) => User::from_uid(id.into()),
            Err(_) => User::from_name(user),
        };
        let unknown = || io::Error::new(io::ErrorKind::NotFound, format!("there is no user {user:?} here"));
        let found = known.map_err(io::Error::from)?.ok_or_else(unknown)?;
        // Those are the daemon's own otherwise.
        let home = found.dir.to_string_lossy().into_owned();
        for (name, value) in [("HOME", home), ("USER", found.name.clone()), ("LOGNAME", found.name)] {
            if !self.env.iter().any(|(known, _)| known == name) {
                self.env.push((name.to_owned(), value));
            }
        }
        self.stage.identity = Some((found.uid.as_raw(), found.gid.as_raw()));
        Ok(())
    }
}

/// Hears what a shim tells.
#[derive(Debug)]
struct Ear {
    link: Option<tokio::net::UnixStream>,
    pending: Vec<u8>,
}

impl Ear {
    /// On the same connection. Without one, nothing is heard, and nothing else is amiss.
    fn new(link: &UnixStream) -> Self {
        Self { link: link.try_clone().and_then(tokio::net::UnixStream::from_std).ok(), pending: Vec::new() }
    }

    /// The newest that came; for ever if nothing comes. Cancel safe.
    async fn hear(&mut self) -> ShimReport {
        loop {
            let Some(link) = &self.link else { return std::future::pending().await };
            if link.readable().await.is_err() {
                self.link = None;
                continue;
            }
            let mut chunk = [0; 16 * 1024];
            match link.try_read(&mut chunk) {
                Ok(count) if count > 0 && self.pending.len() < LINE_BYTES_MAX => {
                    self.pending.extend_from_slice(&chunk[..count]);
                }
                Err(error)
                    if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
                Ok(_) | Err(_) => self.link = None,
            }
            if let Some(end) = self.pending.iter().rposition(|byte| *byte == b'\n') {
                let lines: Vec<u8> = self.pending.drain(..=end).collect();
                let newest = lines[..end].rsplit(|byte| *byte == b'\n').next().unwrap_or_default();
                if let Ok(report) = serde_json::from_slice(newest) {
                    return report;
                }
            }
        }
    }
}

/// Never waits: what a stopped shim does not take is not worth waiting for, its processes are then killed directly.
fn tell(link: &mut Option<UnixStream>, order: &Order) {
    let Some(stream) = link else { return };
    // Not through the runtime: its stream refuses to be written to until the reactor has first seen it.
    let told = line(order).and_then(|line| Ok(stream.write(&line)? == line.len()));
    match told {
        Ok(true) => {}
        // A shim that goes on after a stop must hear the next one.
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
        // Half a line would garble the next one.
        Ok(false) | Err(_) => *link = None,
    }
}

/// Returns when none of the attempt's processes is left.
async fn kill_all(store: &Store, attempt: AttemptId) {
    let mut rounds = 0_u32;
    loop {
        let store = store.clone();
        let killed = blocking(move || {
            let leftover = Leftover::take(attempt, store.attempt(attempt))?;
            leftovers::kill(&[leftover])
        });
        let left = killed.await;
        // From here on they hang in the kernel, or `/proc` cannot be read.
        let hopeless = rounds >= KILL_ROUNDS;
        match left {
            Ok(0) => return,
            Ok(count) if rounds == KILL_ROUNDS => {
                tracing::error!(%attempt, count, "processes survive SIGKILL")
            }
            Err(error) if rounds.is_multiple_of(KILL_ROUNDS) => {
                tracing::error!(%attempt, %error, "cannot look for its processes: it does not count as ended");
            }
            Ok(_) | Err(_) => {}
        }
        rounds = rounds.saturating_add(1);
        time::sleep(if hopeless { KILL_SLOWLY } else { KILL_AGAIN }).await;
    }
}

/// What to say of an attempt whose shim left no record.
pub(crate) fn fallback(request: &Option<EndRequest>, status: Option<ExitStatus>) -> AttemptEnd {
    match (request, status.and_then(|status| status.code())) {
        (Some(request), _) => request.end.clone(),
        (None, Some(code)) if code != 0 => {
            AttemptEnd::Failed { message: format!("its shim could not do its work (exit {code})") }
        }
        (None, _) => AttemptEnd::Lost { reason: "its shim was killed".to_owned() },
    }
}

/// The shim's record; or, if it left none, one made here once nothing of the tree is left.
pub(crate) async fn conclude(
    store: &Store,
    attempt: AttemptId,
    fallback: AttemptEnd,
    now_ms: u64,
) -> Outcome {
    let path = store.attempt(attempt).join(store::EXIT);
    // A record that cannot be read now (no file descriptor is left, say) is not replaced by what is known less well.
    for _ in 0..READ_TRIES {
        let (store, path) = (store.clone(), path.clone());
        let read = blocking(move || {
            let _held = store;
            store::read_whole::<Outcome>(&path)
        });
        match read.await {
            Ok(Some(outcome)) => return outcome,
            Ok(None) => break,
            Err(error) => tracing::warn!(%attempt, %error, "cannot read how it ended: trying again"),
        }
        time::sleep(READ_AGAIN).await;
    }
    kill_all(store, attempt).await;
    let outcome = Outcome {
        attempt,
        end: fallback,
        started_ms: None,
        ended_ms: now_ms,
        output_bytes: 0,
        checkpoint: None,
    };
    let written = {
        let (store, outcome) = (store.clone(), outcome.clone());
        blocking(move || {
            let _held = store;
            store::write_durably(&path, &outcome)
        })
        .await
    };
    if let Err(error) = written {
        tracing::error!(%attempt, %error, "cannot record its end: a crash would lose it");
    }
    outcome
}

/// Disk and process work off the runtime's threads. Short, and always awaited.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    match task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(io::Error::other(error)),
    }
}
