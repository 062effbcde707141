//! The binary's log: to stderr, for eyes or as JSON. A library user brings their own subscriber.
//!
//! Nothing in the daemon may ever wait for whoever reads its log: a pipe that nobody empties would block every thread
//! that says something, the watchdog's last words included, while the ZooKeeper client goes on keeping the session.
//! A thread of its own writes, behind a bounded queue that drops lines when it is full, and says how many.

use std::io::{self, IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, SyncSender, TrySendError};
use std::time::Duration;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

use crate::config::{Log, LogFormat};

/// What other crates may say at most unless asked for: their own view of what we report ourselves. (Each call that its
/// caller gave up is an error to tarpc, twice, and without saying which one.)
const QUIET: &str = "tarpc=off,zookeeper_client=error";

/// The filter for `level`.
///
/// # Errors
/// What is wrong with it, and what to use.
pub fn directives(level: &str) -> Result<EnvFilter, String> {
    EnvFilter::try_new(format!("{QUIET},{level}")).map_err(|error| {
        format!(
            "{level:?} is not a level ({error}): use error, warn, info, debug, trace, or info,quorum=debug"
        )
    })
}

/// Lines that may wait to be written.
const LINES_MAX: usize = 4096;

/// How long the last words of a process may take.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// Where lines are queued. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Queue {
    entries: SyncSender<Entry>,
    dropped: Arc<AtomicU64>,
}

#[derive(Debug)]
enum Entry {
    Text(Vec<u8>),
    /// Answered once everything before it is written.
    Flush(SyncSender<()>),
}

impl Queue {
    /// Starts the thread that writes to `sink`. It ends with the last handle, or with the process.
    fn start(sink: impl Write + Send + 'static) -> io::Result<Self> {
        let (entries, queued) = mpsc::sync_channel(LINES_MAX);
        let dropped = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&dropped);
        std::thread::Builder::new()
            .name("taskd-log".to_owned())
            .spawn(move || write_out(&queued, &counted, sink))?;
        Ok(Self { entries, dropped })
    }

    /// Queues a line as it is, or drops it when too many wait. Never blocks.
    pub fn line(&self, text: &str) {
        self.push(format!("{text}\n").into_bytes());
    }

    /// Waits for what is queued to be written, for 200 ms at most.
    pub fn flush(&self) {
        let (written, answer) = mpsc::sync_channel(1);
        // A full queue has a reader that does not read: there is nothing to wait for.
        if self.entries.try_send(Entry::Flush(written)).is_ok() {
            // Late or never: the process must not wait for it.
            let _ = answer.recv_timeout(LAST_WORDS);
        }
    }

    fn push(&self, text: Vec<u8>) {
        match self.entries.try_send(Entry::Text(text)) {
            Ok(()) => {}
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
                self.dropped.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

/// The subscriber hands over each event in one piece.
impl Write for Queue {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        self.push(event.to_vec());
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Queue {
    type Writer = Queue;

    fn make_writer(&'a self) -> Queue {
        self.clone()
    }
}

fn write_out(queued: &Receiver<Entry>, dropped: &AtomicU64, mut sink: impl Write) {
    for entry in queued {
        // Whoever read the log may have gone; the daemon goes on.
        let _ = match entry {
            Entry::Text(text) => sink.write_all(&text),
            Entry::Flush(written) => {
                let flushed = sink.flush();
                let _ = written.send(());
                flushed
            }
        };
        let missing = dropped.swap(0, Ordering::Relaxed);
        if missing > 0 {
            let _ = writeln!(sink, "taskd: {missing} lines of the log were dropped: nobody read it in time");
        }
    }
}

/// Installs the process's log subscriber, and a panic hook that lets the last lines out. Only the binary may call it.
///
/// # Errors
/// The level cannot be read, or there is a subscriber already.
pub fn install(log: &Log) -> Result<Queue, String> {
    let filter = directives(&log.level)?;
    let colours = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
    let cannot = |error: &dyn std::fmt::Display| format!("the log cannot be set up: {error}");
    let queue = Queue::start(io::stderr()).map_err(|error| cannot(&error))?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(queue.clone());
    let installed = match log.format {
        LogFormat::Human => builder.with_ansi(colours).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).with_ansi(false).try_init(),
    };
    installed.map_err(|error| cannot(&error))?;
    let (before, last) = (std::panic::take_hook(), queue.clone());
    std::panic::set_hook(Box::new(move |info| {
        // What led to it comes first; and the process ends here, in a release build.
        last.flush();
        before(info);
    }));
    Ok(queue)
}

#[cfg(test)]
mod tests {
    use std::sync::{Condvar, Mutex};

    use super::*;

    /// Whether it is open, and what was written.
    type Pipe = (Mutex<(bool, Vec<u8>)>, Condvar);

    /// Blocks until it is opened, as a pipe that nobody reads.
    #[derive(Clone, Default)]
    struct Blocked(Arc<Pipe>);

    impl Write for Blocked {
        fn write(&mut self, data: &[u8]) -> io::Result<usize> {
            let (state, opened) = &*self.0;
            let mut state = opened.wait_while(state.lock().unwrap(), |(open, _)| !*open).unwrap();
            state.1.extend_from_slice(data);
            Ok(data.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_reader_that_does_not_read_blocks_nobody_and_learns_what_it_missed() {
        let sink = Blocked::default();
        let queue = Queue::start(sink.clone()).unwrap();
        for line in 0..LINES_MAX + 10 {
            queue.line(&line.to_string());
        }
        queue.flush();
        let (state, opened) = &*sink.0;
        state.lock().unwrap().0 = true;
        opened.notify_all();
        let written = || String::from_utf8(state.lock().unwrap().1.clone()).unwrap();
        // The first look may come before the thread has gone on.
        while !written().contains("were dropped") {
            queue.flush();
        }
        assert!(written().starts_with("0\n"), "what came first is kept");
    }
}
