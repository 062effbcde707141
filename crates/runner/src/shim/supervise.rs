//! The shim's one loop: output, orders, deadlines, the end.

use std::io::{self, PipeReader, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::time::Duration;

use clock::{BootClock, Clock, Instant};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::sys::signalfd::SignalFd;
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use nix::unistd::setsid;
use proto::runner::Outcome;
use proto::task::AttemptEnd;

use super::capture::Capture;
use super::ladder::{Ladder, Step};
use super::orders::Orders;
use super::said::Said;
use super::tree::{self, Tree};
use super::wire::{Order, ShimState, Standing, StartFile, line};
use crate::attempt::shortened;
use crate::{proc, store};

/// Where a task finds the number of the descriptor over which it says how it gets on.
const PROGRESS_FD: &str = "TASKD_PROGRESS_FD";
/// Between two kills of a tree that may give birth meanwhile.
const KILL_AGAIN: Duration = Duration::from_millis(10);
/// Output that is moved at a time.
const CHUNK_BYTES: usize = 64 * 1024;
/// The most that a pipe can be made to hold, without privileges.
const PIPE_BYTES_MAX: usize = 1 << 20;

/// Runs the attempt whose directory is `dir`. Standard input is the socket to listen on.
pub(super) fn run(dir: &Path) -> io::Result<()> {
    prctl::set_name(c"taskd-shim")?;
    let mut said = Said::open()?;
    // Not the daemon's session: a Ctrl-C at its terminal is none of the task's business.
    let _ = setsid();
    let wanted = [Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP];
    let signals = tree::signals(&wanted)?;
    let shim = proc::identify(std::process::id().cast_signed())?
        .ok_or_else(|| io::Error::other("cannot read /proc: is it mounted?"))?;
    // In this order: whoever renames the start file away finds either this state, or a shim that ends by itself.
    let state = ShimState { boot: proc::boot_id(), shim, tree: None };
    store::write(&dir.join(store::SHIM_STATE), &state)?;
    let start: StartFile = match store::read(&dir.join(store::START)) {
        Ok(start) => start,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    store::reserve(&dir.join(store::EXIT))?;
    let listener = UnixListener::from(io::stdin().as_fd().try_clone_to_owned()?);
    let clock = BootClock;
    let started_ms = clock.wall().0;
    let mut capture = Capture::new(dir, start.output_bytes_max);
    let (end, ran) = match Supervisor::start(dir, &start, state, signals, listener, &mut capture, &mut said) {
        Ok(Some(supervisor)) => {
            let end = supervisor.finish()?;
            match tree::unfit(&start.task).filter(|_| end == AttemptEnd::Exited { code: 1 }) {
                Some(message) => (AttemptEnd::Failed { message: shortened(message) }, false),
                None => (end, true),
            }
        }
        Ok(None) => {
            let reason = "its right to run had lapsed before it was started".to_owned();
            (AttemptEnd::Lost { reason }, false)
        }
        Err(error) => (AttemptEnd::Failed { message: shortened(error.to_string()) }, false),
    };
    let outcome = Outcome {
        attempt: start.attempt,
        end,
        started_ms: ran.then_some(started_ms),
        ended_ms: clock.wall().0,
        output_bytes: capture.total(),
        checkpoint: None,
    };
    let checkpoint = said.latest().checkpoint.clone().filter(|_| !outcome.end.is_success());
    let path = dir.join(store::EXIT);
    if checkpoint.is_some() && store::write_durably(&path, &Outcome { checkpoint, ..outcome.clone() }).is_ok()
    {
        return Ok(());
    }
    // What was reserved has room for this one.
    store::write_durably(&path, &outcome)
}

struct Supervisor<'c> {
    tree: Tree,
    ladder: Ladder,
    signals: SignalFd,
    timer: TimerFd,
    orders: Orders,
    output: PipeReader,
    output_open: bool,
    capture: &'c mut Capture,
    said: &'c mut Said,
}

impl<'c> Supervisor<'c> {
    /// None if it is too late to start.
    fn start(
        dir: &Path,
        start: &StartFile,
        state: ShimState,
        signals: SignalFd,
        listener: UnixListener,
        capture: &'c mut Capture,
        said: &'c mut Said,
    ) -> io::Result<Option<Self>> {
        let clock = BootClock;
        let timeout = start.run_timeout_ms.map(|ms| clock.now() + Duration::from_millis(ms));
        let grace = Duration::from_millis(start.grace_ms);
        let quiet = start.progress_timeout_ms.map(Duration::from_millis);
        let mut ladder = Ladder::new(Instant::from_nanos(start.deadline_ns), timeout, grace)
            .may_be_quiet(quiet, clock.now());
        let mut orders = Orders::new(listener)?;
        obey(&mut ladder, orders.take(), clock.now());
        let timer = TimerFd::new(ClockId::CLOCK_BOOTTIME, TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK)
            .map_err(io::Error::from)?;
        let (output, writer) = io::pipe()?;
        let flags = OFlag::from_bits_retain(fcntl(&output, FcntlArg::F_GETFL)?);
        fcntl(&output, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
        if !ladder.may_start(clock.now()) {
            return Ok(None);
        }
        let mut task = start.task.clone();
        task.env.extend(said.number().map(|number| (PROGRESS_FD.to_owned(), number.to_string())));
        let tree = Tree::start(&task, start, || Ok(OwnedFd::from(writer.try_clone()?)))?;
        drop(writer);
        said.handed_over();
        let state = ShimState { tree: tree.root(), ..state };
        if let Err(error) = store::write(&dir.join(store::SHIM_STATE), &state) {
            // The tree exists: it has to be gone before anything is said of it.
            let message = format!("cannot record its processes: {error}");
            ladder.end(clock.now(), Duration::ZERO, AttemptEnd::Failed { message });
        }
        Ok(Some(Self { tree, ladder, signals, timer, orders, output, output_open: true, capture, said }))
    }

    /// Goes on until the whole tree is gone.
    fn finish(mut self) -> io::Result<AttemptEnd> {
        let clock = BootClock;
        let mut verdict = None;
        loop {
            self.tree.reap()?;
            // The task's own end counts if it came before any order to end it.
            if verdict.is_none() {
                verdict = self.ladder.verdict().or(self.tree.ended()).cloned();
            }
            if self.tree.is_gone() {
                // What a pipe can hold: somebody outside the tree who was handed it may go on writing for ever.
                self.pump(PIPE_BYTES_MAX / CHUNK_BYTES);
                self.said.pump(PIPE_BYTES_MAX / CHUNK_BYTES);
                // Never a success that nobody has seen.
                return Ok(verdict.unwrap_or_else(|| {
                    let message = "how it ended could not be collected".to_owned();
                    AttemptEnd::Failed { message }
                }));
            }
            let now = clock.now();
            let step = if self.tree.ended().is_some() { Step::Kill } else { self.ladder.step(now) };
            match step {
                Step::Terminate => self.tree.terminate(),
                Step::Kill => self.tree.kill(),
                Step::Wait => {}
            }
            let again = (step == Step::Kill && self.tree.kill_again()).then_some(now + KILL_AGAIN);
            let next = [again.or_else(|| self.ladder.next()), self.said.next()];
            self.orders.answer(Standing { deadline_ns: self.ladder.fence().as_nanos() });
            self.arm(next.into_iter().flatten().min())?;
            self.wait()?;
            self.pump(16);
            if self.said.pump(16) {
                self.ladder.heard(clock.now());
            }
            let orders = self.orders.take();
            obey(&mut self.ladder, orders, clock.now());
            self.tell(clock.now())?;
            while let Some(signal) = self.signals.read_signal()? {
                if signal.ssi_signo != Signal::SIGCHLD as u32 {
                    let reason = format!("its supervisor was told to end by signal {}", signal.ssi_signo);
                    self.ladder.end(clock.now(), Duration::from_secs(2), AttemptEnd::Lost { reason });
                }
            }
        }
    }

    /// Whoever has come late hears what the others know.
    fn tell(&mut self, now: Instant) -> io::Result<()> {
        if let Some(report) = self.said.due(now) {
            self.orders.tell(&line(report)?);
        } else if self.orders.has_newcomers() && self.said.latest().count > 0 {
            self.orders.tell(&line(self.said.latest())?);
        }
        Ok(())
    }

    fn arm(&self, at: Option<Instant>) -> io::Result<()> {
        match at {
            Some(at) => {
                // Zero would disarm it.
                let due = TimeSpec::from_duration(Duration::from_nanos(at.as_nanos().max(1)));
                self.timer.set(Expiration::OneShot(due), TimerSetTimeFlags::TFD_TIMER_ABSTIME)?;
            }
            None => self.timer.unset()?,
        }
        Ok(())
    }

    fn wait(&self) -> io::Result<()> {
        let mut fds: Vec<PollFd<'_>> = [self.signals.as_fd(), self.timer.as_fd()]
            .into_iter()
            .chain(self.output_open.then(|| self.output.as_fd()))
            .chain(self.said.fd())
            .chain(self.orders.fds())
            .map(|fd| PollFd::new(fd, PollFlags::POLLIN))
            .collect();
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) | Err(nix::Error::EINTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Moves output to disk, at most `rounds` buffers of it.
    fn pump(&mut self, rounds: usize) {
        let mut buffer = [0; CHUNK_BYTES];
        for _ in 0..rounds {
            if !self.output_open {
                return;
            }
            match self.output.read(&mut buffer) {
                Ok(0) => self.output_open = false,
                Ok(count) => self.capture.write(&buffer[..count]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => self.output_open = false,
            }
        }
    }
}

fn obey(ladder: &mut Ladder, orders: Vec<Order>, now: Instant) {
    for order in orders {
        match order {
            Order::Extend { deadline_ns } => ladder.extend(Instant::from_nanos(deadline_ns)),
            Order::Terminate { grace_ms, end } => ladder.end(now, Duration::from_millis(grace_ms), end),
            Order::Kill { end } => ladder.end(now, Duration::ZERO, end),
            // Answered where it came in.
            Order::Describe => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use proto::{AttemptId, TaskId};

    use super::super::stage::Stage;
    use super::super::wire::Task;
    use super::*;

    #[test]
    fn a_tree_that_cannot_be_recorded_is_gone_before_that_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let argv = ["sleep", "1000"].map(str::to_owned).to_vec();
        let start = StartFile {
            attempt: AttemptId { task: TaskId::from_u128(1), number: 1 },
            task: Task {
                argv,
                env: vec![],
                cwd: "/".into(),
                stdin: None,
                stage: Stage::default(),
                reexec: vec![],
            },
            deadline_ns: (BootClock.now() + Duration::from_secs(60)).as_nanos(),
            run_timeout_ms: None,
            progress_timeout_ms: None,
            grace_ms: 0,
            output_bytes_max: 1024,
            pid_namespace: false,
            reexec: vec![],
        };
        let shim = proc::identify(std::process::id().cast_signed()).unwrap().unwrap();
        let listener = UnixListener::bind(dir.path().join("ctl")).unwrap();
        let signals = tree::signals(&[Signal::SIGCHLD]).unwrap();
        let mut capture = Capture::new(dir.path(), 1024);
        // As good as a full disk.
        let gone = dir.path().join("gone");
        let state = ShimState { boot: proc::boot_id(), shim, tree: None };
        let mut said = Said::open().unwrap();
        let started =
            Supervisor::start(&gone, &start, state, signals, listener, &mut capture, &mut said).unwrap();
        let end = started.unwrap().finish().unwrap();
        assert!(matches!(&end, AttemptEnd::Failed { message } if message.contains("record")), "{end:?}");
        assert!(proc::descendants(&[shim.pid], &proc::table().unwrap()).is_empty());
    }
}
