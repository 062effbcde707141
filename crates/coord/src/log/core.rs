//! The writer's decisions, without IO: what goes into the next segment, what is confirmed, what is left in doubt.
//!
//! ```text
//! append ─▶ queue ─▶ (take: seal) ─▶ flight: Waiting ─▶ Sent ─▶ Landed ─▶ confirmed, in order
//!                                       ▲                │
//!                                       └── resolved ◀── Doubtful (connection lost, chain broken, node exists)
//! ```
//!
//! **Invariant**: nothing is sent while anything is doubtful. **Invariant**: a ticket is confirmed only after
//! those of every earlier append.

use std::collections::VecDeque;
use std::ops::Range;

use bytes::Bytes;

use super::codec::{Encoder, Header, Record, record_bytes};
use super::error::{AppendRefused, CommitError, LogFailure};
use super::index::{Index, payload_bytes_max};
use super::{Change, Live, LogOptions, LogStats};

/// Segments that are always fine, however little they hold.
const SEGMENTS_FLOOR: u64 = 1024;

/// Beyond the floor, a segment should hold this much that counts.
const SEGMENT_LIVE_BYTES: u64 = 16 * 1024;

/// Garbage that is always fine, in segments.
const SLACK_SEGMENTS: u64 = 64;

/// A segment as it is sent, and sent again.
#[derive(Clone, Debug)]
pub(super) struct Sealed {
    pub(super) sequence: u64,
    pub(super) bytes: Bytes,
    /// Segments deleted in the same transaction.
    pub(super) deletes: Range<u64>,
}

/// What the service said to a segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Committed,
    /// The fence failed: surely not written.
    Deposed,
    /// Lost, or a check failed that says nothing by itself: to be looked up. `maybe`: it may have been written.
    Doubtful {
        maybe: bool,
    },
}

/// What to do next.
#[derive(Debug)]
pub(super) enum Take {
    Send(Sealed),
    /// More may come; ask again in a moment.
    Linger,
    Nothing,
}

/// Tickets with what became of them, in the order of their appends.
pub(super) type Done<T> = Vec<(T, Result<(), CommitError>)>;

#[derive(Debug)]
struct Queued<T> {
    changes: Vec<Change>,
    bytes: usize,
    ticket: T,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Waiting,
    Sent,
    Doubtful,
    Landed,
}

#[derive(Debug)]
struct Flight<T> {
    sealed: Sealed,
    tickets: Vec<T>,
    stage: Stage,
    /// It was sent once without a clear answer.
    maybe: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    Open,
    Stopping,
    Failed,
}

/// The writer. `T` is what an appender is told through.
#[derive(Debug)]
pub(super) struct Core<T> {
    options: LogOptions,
    epoch: u64,
    writer: u64,
    index: Index,
    queue: VecDeque<Queued<T>>,
    queue_bytes: usize,
    flight: VecDeque<Flight<T>>,
    body_bytes: u64,
    state: State,
}

impl<T> Core<T> {
    /// A writer that continues the log that `index` describes, its opening segment included.
    pub(super) fn new(options: LogOptions, epoch: u64, writer: u64, index: Index, body_bytes: u64) -> Self {
        Self {
            options,
            epoch,
            writer,
            index,
            queue: VecDeque::new(),
            queue_bytes: 0,
            flight: VecDeque::new(),
            body_bytes,
            state: State::Open,
        }
    }

    /// The state of every key that has one, by key.
    pub(super) fn live(&self) -> Vec<Live> {
        let live = self.index.live();
        live.map(|(key, revision, body)| Live { key, revision, body: body.clone() }).collect()
    }

    /// Queues changes that are to be committed together.
    pub(super) fn append(&mut self, changes: Vec<Change>, ticket: T) -> Result<(), AppendRefused> {
        if self.state != State::Open {
            return Err(AppendRefused::Stopped);
        }
        let bytes: usize =
            changes.iter().map(|c| record_bytes(c.revision, c.body.as_ref().map(Bytes::len))).sum();
        let bytes_max = payload_bytes_max(self.options.segment_bytes_max);
        if bytes > bytes_max {
            return Err(AppendRefused::TooLarge { bytes, bytes_max });
        }
        if self.queue_bytes + bytes > self.options.queue_bytes_max {
            return Err(AppendRefused::QueueFull { queued_bytes: self.queue_bytes });
        }
        let urgent = changes.iter().any(|change| change.urgent);
        let (used_bytes, budget_bytes) = (self.used_bytes(), self.options.budget_bytes);
        let limit = if urgent { budget_bytes + self.options.reserve_bytes } else { budget_bytes };
        if used_bytes + bytes as u64 > limit {
            return Err(AppendRefused::Full { used_bytes, budget_bytes });
        }
        self.queue_bytes += bytes;
        self.queue.push_back(Queued { changes, bytes, ticket });
        Ok(())
    }

    /// The next segment to send. `lingered`: the moment to wait for more has passed.
    pub(super) fn take(&mut self, lingered: bool) -> Take {
        if self.state == State::Failed || self.flight.iter().any(|flight| flight.stage == Stage::Doubtful) {
            return Take::Nothing;
        }
        if self.sent() >= self.options.in_flight {
            return Take::Nothing;
        }
        if let Some(waiting) = self.flight.iter_mut().find(|flight| flight.stage == Stage::Waiting) {
            waiting.stage = Stage::Sent;
            return Take::Send(waiting.sealed.clone());
        }
        if self.queue.is_empty() {
            // One place is left to whoever appends next.
            let room = self.flight.is_empty() || self.flight.len() + 1 < self.options.in_flight;
            return if room && self.state == State::Open && self.dirty() {
                self.seal()
            } else {
                Take::Nothing
            };
        }
        let little = self.queue_bytes < self.options.segment_bytes_max / 2;
        if little && !self.flight.is_empty() && !lingered && !self.options.linger.is_zero() {
            return Take::Linger;
        }
        self.seal()
    }

    fn seal(&mut self) -> Take {
        let payload_max = payload_bytes_max(self.options.segment_bytes_max);
        let dirty = self.dirty();
        // Cleaning gets its share of each segment, so that neither side starves the other.
        let share = match dirty {
            false => 0,
            true if self.used_bytes() > self.options.budget_bytes => payload_max / 4 * 3,
            true => payload_max / 2,
        };
        let mut encoder = Encoder::new();
        let mut tickets = Vec::new();
        self.index.begin_segment();
        while let Some(next) = self.queue.front() {
            if !tickets.is_empty() && encoder.payload_bytes() + next.bytes > payload_max - share {
                break;
            }
            let Some(Queued { changes, bytes, ticket }) = self.queue.pop_front() else { break };
            self.queue_bytes -= bytes;
            tickets.push(ticket);
            for Change { key, revision, body, .. } in changes {
                if self.index.apply(Record { key, revision, body: body.clone() }) {
                    encoder.push(key, revision, body.as_deref());
                }
            }
        }
        let sequence = self.index.next() - 1;
        let mut deletes = self.index.oldest()..self.index.oldest();
        if dirty {
            let unconfirmed = self.flight.front().map_or(sequence, |flight| flight.sealed.sequence);
            deletes = self.index.clean(&mut encoder, payload_max, unconfirmed);
        }
        if tickets.is_empty() && deletes.is_empty() && encoder.payload_bytes() == 0 {
            self.index.abort_segment();
            return Take::Nothing;
        }
        let header = Header { epoch: self.epoch, writer: self.writer, sequence, oldest: self.index.oldest() };
        let bytes = encoder.finish(header);
        self.index.end_segment(bytes.len());
        let sealed = Sealed { sequence, bytes, deletes };
        self.flight.push_back(Flight { sealed: sealed.clone(), tickets, stage: Stage::Sent, maybe: false });
        Take::Send(sealed)
    }

    /// Whether there is more garbage, or there are more segments, than there should be.
    fn dirty(&self) -> bool {
        let (bytes, live) = (self.index.bytes(), self.index.live_bytes());
        let segment = self.options.segment_bytes_max as u64;
        let garbage = bytes.saturating_sub(live);
        let segments_max = SEGMENTS_FLOOR + live / SEGMENT_LIVE_BYTES.min(segment / 4);
        let slack = (SLACK_SEGMENTS * segment).min(self.options.budget_bytes / 8).max(4 * segment);
        let crowded = self.used_bytes() > self.options.budget_bytes / 4 * 3;
        self.index.segments() > segments_max
            || garbage > live + slack
            || (crowded && garbage > (bytes / 8).max(4 * segment))
    }

    /// Takes the service's answer to a segment that was sent.
    pub(super) fn answered(&mut self, sequence: u64, answer: Answer) -> Done<T> {
        let Some(flight) = self.flight.iter_mut().find(|flight| flight.sealed.sequence == sequence) else {
            return Vec::new();
        };
        match answer {
            Answer::Committed => {
                flight.stage = Stage::Landed;
                self.confirm()
            }
            Answer::Doubtful { maybe } => {
                flight.stage = Stage::Doubtful;
                flight.maybe |= maybe;
                Vec::new()
            }
            // Whatever was sent after it, its fence refuses as well.
            Answer::Deposed => self.end(CommitError::Deposed, sequence),
        }
    }

    fn confirm(&mut self) -> Done<T> {
        let mut done = Vec::new();
        while self.flight.front().is_some_and(|flight| flight.stage == Stage::Landed) {
            let tickets = self.flight.pop_front().map(|flight| flight.tickets).unwrap_or_default();
            done.extend(tickets.into_iter().map(|ticket| (ticket, Ok(()))));
        }
        done
    }

    /// The unconfirmed segments in order, once every answer is in and some left a doubt.
    pub(super) fn doubtful(&self) -> Option<Vec<Sealed>> {
        let doubt = self.flight.iter().any(|flight| flight.stage == Stage::Doubtful);
        (doubt && self.sent() == 0).then(|| self.flight.iter().map(|flight| flight.sealed.clone()).collect())
    }

    /// The look-up found the first `landed` of the unconfirmed segments; the others are sent again.
    pub(super) fn resolved(&mut self, landed: usize) -> Done<T> {
        for (at, flight) in self.flight.iter_mut().enumerate() {
            flight.stage = if at < landed { Stage::Landed } else { Stage::Waiting };
        }
        self.confirm()
    }

    /// Ends it. What may have been written is `Unknown`; the rest is known not to be.
    pub(super) fn fail(&mut self, failure: &LogFailure) -> Done<T> {
        let unwritten =
            if *failure == LogFailure::Deposed { CommitError::Deposed } else { CommitError::Stopped };
        self.end(unwritten, u64::MAX)
    }

    /// Ends it without a failure: what is left did not make it in time.
    pub(super) fn give_up(&mut self) -> Done<T> {
        self.end(CommitError::Stopped, u64::MAX)
    }

    /// `refused_from`: the first segment whose last sending was refused.
    fn end(&mut self, unwritten: CommitError, refused_from: u64) -> Done<T> {
        self.state = State::Failed;
        let mut done = self.confirm();
        for flight in self.flight.drain(..) {
            let unanswered = matches!(flight.stage, Stage::Sent | Stage::Landed);
            let maybe = flight.maybe || (unanswered && flight.sealed.sequence < refused_from);
            let error = if maybe { CommitError::Unknown } else { unwritten };
            done.extend(flight.tickets.into_iter().map(|ticket| (ticket, Err(error))));
        }
        done.extend(self.queue.drain(..).map(|queued| (queued.ticket, Err(unwritten))));
        self.queue_bytes = 0;
        done
    }

    /// Takes no more appends.
    pub(super) fn stop(&mut self) {
        if self.state == State::Open {
            self.state = State::Stopping;
        }
    }

    /// Whether it is over: failed, or stopping with nothing left to write.
    pub(super) fn finished(&self) -> bool {
        match self.state {
            State::Open => false,
            State::Stopping => self.flight.is_empty() && self.queue.is_empty(),
            State::Failed => true,
        }
    }

    /// Segments sent and not confirmed, appends not sent.
    pub(super) fn backlog(&self) -> (usize, usize) {
        (self.flight.len(), self.queue.len())
    }

    /// Whether something is to be sent, and every answer to what was sent is in.
    pub(super) fn waits(&self) -> bool {
        let unsent =
            self.flight.iter().any(|flight| flight.stage == Stage::Waiting) || !self.queue.is_empty();
        unsent && self.sent() == 0
    }

    fn sent(&self) -> usize {
        self.flight.iter().filter(|flight| flight.stage == Stage::Sent).count()
    }

    fn used_bytes(&self) -> u64 {
        self.index.bytes() + self.queue_bytes as u64 + self.body_bytes
    }

    /// Takes room for a body; gives (used, budget) when there is none.
    pub(super) fn reserve_body(&mut self, bytes: u64) -> Result<(), (u64, u64)> {
        let used = self.used_bytes();
        if used + bytes > self.options.budget_bytes {
            return Err((used, self.options.budget_bytes));
        }
        self.body_bytes += bytes;
        Ok(())
    }

    /// Gives a body's room back.
    pub(super) fn release_body(&mut self, bytes: u64) {
        self.body_bytes = self.body_bytes.saturating_sub(bytes);
    }

    /// How full it is.
    pub(super) fn stats(&self) -> LogStats {
        LogStats {
            bytes: self.used_bytes() - self.queue_bytes as u64,
            live_bytes: self.index.live_bytes() + self.body_bytes,
            budget_bytes: self.options.budget_bytes,
            segments: self.index.segments(),
            queued_bytes: self.queue_bytes as u64,
        }
    }
}
