//! The writer task: sends what the core seals, tells it the answers, and looks up what an answer left open.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesOrdered;
use tokio::time::{Instant, sleep, sleep_until};

use super::codec;
use super::core::{Answer, Sealed, Take};
use super::error::LogFailure;
use super::handle::Shared;
use super::names::{CHAIN, CREATE, FENCE, Leave, Names};
use super::store::{Connection, ReadError, Refusal, Why};

/// Pause before a look-up that failed while connected is tried again.
const RETRY: Duration = Duration::from_millis(50);

/// How often a lapsed lease is looked at while there is something to write.
const LAPSED: Duration = Duration::from_millis(20);

type Answers = FuturesOrdered<BoxFuture<'static, (u64, Result<(), Refusal>)>>;

/// Runs until the log is stopped and flushed, or fails. As long as the session lives, it waits for its connection, and
/// for its lease: how long a term may be without one, its owner decides.
pub(super) async fn run(shared: Arc<Shared>, linger: Duration) {
    let _alive = Alive(shared.clone());
    let mut answers = Answers::new();
    let mut sealed_at = Instant::now();
    loop {
        let connection = shared.store.connection();
        let mut lingering = false;
        let leave = shared.names.leave();
        if connection == Connection::Up && leave == Leave::Granted {
            loop {
                let take = shared.core().take(sealed_at.elapsed() >= linger);
                match take {
                    Take::Send(sealed) => {
                        sealed_at = Instant::now();
                        send(&shared, &sealed, &mut answers);
                    }
                    Take::Linger => {
                        lingering = true;
                        break;
                    }
                    Take::Nothing => break,
                }
            }
        }
        let (finished, doubtful) = {
            let core = shared.core();
            (core.finished(), core.doubtful())
        };
        if finished {
            return;
        }
        let waits = leave != Leave::Granted && shared.core().waits();
        if waits && leave == Leave::Over {
            shared.fail(LogFailure::LeaseOver);
            continue;
        }
        if let Some(doubtful) = doubtful {
            resolve(&shared, &doubtful).await;
            continue;
        }
        tokio::select! {
            biased;
            Some((sequence, result)) = answers.next() => answered(&shared, sequence, result),
            () = shared.wake.notified() => {}
            () = shared.store.down(), if connection == Connection::Up => {}
            up = shared.store.up(), if connection != Connection::Up => {
                if !up {
                    shared.fail(LogFailure::SessionEnded);
                }
            }
            () = sleep_until(sealed_at + linger), if lingering => {}
            () = sleep(LAPSED), if waits => {}
        }
    }
}

/// Nobody waits for ever for a writer that panicked.
struct Alive(Arc<Shared>);

impl Drop for Alive {
    fn drop(&mut self) {
        let finished = self.0.core().finished();
        if !finished {
            self.0.fail(LogFailure::Corrupt("the writer ended before its work did".to_owned()));
        }
    }
}

fn send(shared: &Shared, sealed: &Sealed, answers: &mut Answers) {
    shared.names.drill.polled("coord.send");
    shared.names.drill.pass("coord.send");
    let sequence = sealed.sequence;
    if !shared.names.lets_out() {
        // It lapsed in this very moment: taken back, by way of a look at what there is.
        shared.core().answered(sequence, Answer::Doubtful { maybe: false });
        return;
    }
    let answer = shared.store.submit(shared.names.commit(sealed));
    answers.push_back(Box::pin(async move { (sequence, answer.await) }));
    // Segments must leave in order, and a future leaves when it is first polled: `FuturesOrdered` polls those that
    // it was given since the last time in the order in which it was given them.
}

fn answered(shared: &Shared, sequence: u64, result: Result<(), Refusal>) {
    let answer = match result {
        Ok(()) => Answer::Committed,
        Err(Refusal::Lost) => Answer::Doubtful { maybe: true },
        Err(Refusal::Ended) => return shared.fail(LogFailure::SessionEnded),
        Err(Refusal::Rejected { step: FENCE, why: Why::BadVersion | Why::NoNode }) => Answer::Deposed,
        // The predecessor was lost on the way, or this very segment was not (and its answer was): look.
        Err(Refusal::Rejected { step: CHAIN, why: Why::NoNode })
        | Err(Refusal::Rejected { step: CREATE, why: Why::NodeExists }) => Answer::Doubtful { maybe: false },
        Err(Refusal::Rejected { step, why }) => {
            let path = shared.names.segment(sequence);
            return shared.fail(LogFailure::Corrupt(format!("step {step} of {path} was refused: {why:?}")));
        }
    };
    if answer == Answer::Deposed {
        let done = shared.core().answered(sequence, answer);
        Shared::tell(done);
        return shared.fail(LogFailure::Deposed);
    }
    let done = shared.core().answered(sequence, answer);
    Shared::tell(done);
}

/// Waits for the connection and finds out which of the `doubtful` segments were written.
async fn resolve(shared: &Shared, doubtful: &[Sealed]) {
    loop {
        if !shared.store.up().await {
            return shared.fail(LogFailure::SessionEnded);
        }
        match look_up(shared, doubtful).await {
            Ok(Found::Landed(landed)) => {
                tracing::info!(
                    doubtful = doubtful.len(),
                    landed,
                    "looked up what a lost connection left open"
                );
                let done = shared.core().resolved(landed);
                return Shared::tell(done);
            }
            Ok(Found::Foreign) => return shared.fail(LogFailure::Deposed),
            Ok(Found::Impossible(what)) => return shared.fail(LogFailure::Corrupt(what)),
            Err(ReadError::Ended) => return shared.fail(LogFailure::SessionEnded),
            Err(ReadError::Refused(why)) => return shared.fail(LogFailure::Corrupt(why)),
            Err(ReadError::Lost) => sleep(RETRY).await,
        }
    }
}

enum Found {
    /// This many of them, from the first, are written.
    Landed(usize),
    /// Another writer was here.
    Foreign,
    Impossible(String),
}

/// On the session that sent them: what it wrote before is visible after a `sync`.
async fn look_up(shared: &Shared, doubtful: &[Sealed]) -> Result<Found, ReadError> {
    let (store, names) = (&shared.store, &shared.names);
    let Some(first) = doubtful.first() else { return Ok(Found::Landed(0)) };
    store.sync(&names.log).await?;
    let mut sequences: Vec<u64> =
        store.children(&names.log).await?.iter().filter_map(|name| Names::sequence(name)).collect();
    sequences.sort_unstable();
    let mut landed = 0;
    for sealed in doubtful {
        if sequences.binary_search(&sealed.sequence).is_err() {
            break;
        }
        let path = names.segment(sealed.sequence);
        match store.get(&path).await? {
            Some(node) if node.data == sealed.bytes => landed += 1,
            // Listed and gone: somebody cleans, and it is not this term.
            None => return Ok(Found::Foreign),
            Some(node) => {
                let by = codec::decode(&node.data).map(|(header, _)| header);
                tracing::warn!(path, ?by, "a segment of another writer is where one of this term should be");
                return Ok(Found::Foreign);
            }
        }
    }
    // Its own segments are chained, so whatever stands beyond the last of them is another term's, or a hole.
    let expected_tail = first.sequence + landed as u64 - 1;
    match sequences.last() {
        Some(tail) if *tail == expected_tail => Ok(Found::Landed(landed)),
        Some(tail) if *tail > expected_tail => {
            let path = names.segment(*tail);
            let own = match store.get(&path).await? {
                Some(node) => codec::decode(&node.data).is_ok_and(|(header, _)| {
                    header.epoch == names.epoch as u64 && header.writer == store.writer()
                }),
                None => false,
            };
            if own {
                let hole = names.segment(expected_tail + 1);
                Ok(Found::Impossible(format!("{path} stands above a hole at {hole}")))
            } else {
                Ok(Found::Foreign)
            }
        }
        _ => Ok(Found::Impossible(format!("{} was confirmed and is gone", names.segment(expected_tail)))),
    }
}
