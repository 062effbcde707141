//! What the engine's tasks share: the core, the connections' bookkeeping, and what waits for the disk.

use std::collections::BTreeMap;
use std::mem;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use clock::{Clock, Instant, SharedClock};
use tokio::io::AsyncWrite;
use tokio::sync::Notify;
use tracing::{debug, warn};

use super::Options;
use super::control::Control;
use super::group::{Group, Groups, Requests};
use super::hearing::Hearing;
use super::limited::Limited;
use super::line::{Fate, Line};
use super::net::Stream;
use super::words::{self, Word};
use crate::core::{ConnId, Core, Effect, Now};
use crate::state::{Image, Txn};

/// What is read at a time.
const READ_BYTES: usize = 64 << 10;
/// What is executed before an idle disk gets the first of it.
const FIRST_BYTES: usize = 16 << 10;
/// How long the requests of one connection are executed before the others have their turn: some take a thousand times
/// as long as others, without a byte that would show it.
const TURN: Duration = Duration::from_millis(5);

/// What the engine's tasks share. They run on one thread and never hold it across an await.
pub(super) struct Shell {
    pub(super) core: Core,
    pub(super) options: Options,
    pub(super) control: Arc<Control>,
    clock: SharedClock,
    lines: BTreeMap<ConnId, Line>,
    next_conn: u64,
    groups: Groups,
    pub(super) hearing: Hearing,
    /// Connections that wait until less waits for the disk.
    crowded: Vec<ConnId>,
    /// Tells the committer that there is something for the log thread.
    commit: Rc<Notify>,
    /// The last change that is on the disk.
    synced_zxid: i64,
    snapshot_wanted: bool,
    reading: bool,
    buffered_bytes: usize,
    scratch: BytesMut,
    address: SocketAddr,
    started: Instant,
    /// Connections that were closed for want of room.
    rejected: u64,
    snapshots: u64,
    refused: Limited,
    cut: Limited,
}

/// Where a connection stands after a flush.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flushed {
    /// It may be read.
    Readable,
    /// It waits: for its client to take bytes, or to be let read again.
    Waiting,
    /// It has ended.
    Ended,
}

/// How far the received bytes got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taken {
    /// More bytes are needed for the next request.
    All,
    /// The next request waits for a bound, or there will be none: [`Shell::flush`] tells.
    Held,
}

impl Shell {
    pub(super) fn new(
        core: Core,
        options: Options,
        address: SocketAddr,
        control: Arc<Control>,
        clock: SharedClock,
        commit: Rc<Notify>,
    ) -> Self {
        let started = clock.now();
        let synced_zxid = core.state().last_zxid();
        Self {
            core,
            options,
            control,
            clock,
            lines: BTreeMap::new(),
            next_conn: 1,
            groups: Groups::default(),
            hearing: Hearing::default(),
            crowded: Vec::new(),
            commit,
            synced_zxid,
            snapshot_wanted: false,
            reading: true,
            buffered_bytes: 0,
            scratch: BytesMut::new(),
            address,
            started,
            rejected: 0,
            snapshots: 0,
            refused: Limited::default(),
            cut: Limited::default(),
        }
    }

    pub(super) fn now(&self) -> Now {
        now(&*self.clock)
    }

    /// Connections that are open.
    pub(super) fn connections(&self) -> usize {
        self.lines.len()
    }

    /// Requests executed whose replies wait for the log.
    pub(super) fn outstanding(&self) -> usize {
        self.lines.values().map(|line| line.outstanding).sum()
    }

    /// Requests of `conn` executed whose replies wait for the log.
    pub(super) fn outstanding_of(&self, conn: ConnId) -> usize {
        self.lines.get(&conn).map_or(0, |line| line.outstanding)
    }

    /// The last change that is on the disk.
    pub(super) fn synced_zxid(&self) -> i64 {
        self.synced_zxid
    }

    /// Where it listens.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// How long it has served.
    pub(super) fn uptime(&self) -> Duration {
        self.clock.now().since(self.started)
    }

    /// Connections that were closed because there were too many.
    pub(super) fn rejected(&self) -> u64 {
        self.rejected
    }

    /// Snapshots begun.
    pub(super) fn snapshots(&self) -> u64 {
        self.snapshots
    }

    /// When a connection that has sent nothing is closed.
    pub(super) fn handshake_due(&self, conn: ConnId) -> Option<Instant> {
        self.lines.get(&conn).map(|line| line.opened + self.options.handshake_timeout)
    }

    /// Takes a new connection in, unless there are too many.
    pub(super) fn open(&mut self, peer: SocketAddr) -> Option<ConnId> {
        let now = self.now();
        if self.lines.len() >= self.options.connections_max {
            self.rejected += 1;
            if let Some(suppressed) = self.refused.due(now.monotonic) {
                let max = self.options.connections_max;
                warn!(%peer, max, suppressed, "refused a connection: as many as connections_max are open");
            }
            return None;
        }
        let conn = ConnId(self.next_conn);
        self.next_conn += 1;
        self.lines.insert(conn, Line::new(peer, now.monotonic));
        self.core.open(conn, peer, now);
        Some(conn)
    }

    /// Forgets a connection whose socket is closed.
    pub(super) fn closed(&mut self, conn: ConnId) {
        if let Some(line) = self.lines.remove(&conn) {
            self.buffered_bytes -= line.buffered();
            let now = self.now();
            self.core.closed(conn, now);
        }
    }

    /// Has `waker` woken when something happens to the connection that its socket does not tell.
    pub(super) fn wake_later(&mut self, conn: ConnId, waker: &Waker) {
        if let Some(line) = self.lines.get_mut(&conn) {
            line.waker = Some(waker.clone());
        }
    }

    /// Must precede what a connection's task does in one turn: it need not be woken by what it does itself.
    pub(super) fn awake(&mut self, conn: ConnId) {
        if let Some(line) = self.lines.get_mut(&conn) {
            line.waker = None;
        }
    }

    /// The buffer for a connection's next read: its own if it has a part of a request, otherwise one that all share,
    /// so that idle connections hold none. Says whether it is the shared one.
    pub(super) fn lend(&mut self, input: &mut BytesMut) -> bool {
        let shared = input.is_empty();
        if shared {
            mem::swap(input, &mut self.scratch);
        }
        // Grows with what has come, not with what the client says will come.
        input.reserve(READ_BYTES);
        shared
    }

    /// Takes the shared buffer back, and leaves the connection what is left of its bytes.
    pub(super) fn give_back(&mut self, conn: ConnId, input: &mut BytesMut, shared: bool) {
        if shared {
            let rest = BytesMut::from(&input[..]);
            self.scratch = mem::replace(input, rest);
            self.scratch.clear();
        } else if input.is_empty() {
            *input = BytesMut::new();
        }
        let Some(line) = self.lines.get_mut(&conn).filter(|line| line.fate != Fate::Cut) else { return };
        self.buffered_bytes = self.buffered_bytes - line.partial + input.len();
        line.partial = input.len();
        self.make_room();
    }

    /// Cuts the connections that hold most bytes until all together hold no more than they may: who holds little is never
    /// cut for what others hold.
    fn make_room(&mut self) {
        while self.buffered_bytes > self.options.buffered_bytes_max {
            let open = self.lines.iter_mut().filter(|(_, line)| line.fate != Fate::Cut);
            let Some((conn, line)) = open.max_by_key(|(_, line)| line.buffered()) else { return };
            let conn = *conn;
            self.buffered_bytes -= line.cut();
            self.complain(
                conn,
                "all connections together held too many unsent and half-received bytes, it the most",
            );
        }
    }

    /// Executes the whole requests at the front of `input`.
    pub(super) fn take(&mut self, conn: ConnId, input: &mut BytesMut) -> Taken {
        let Some(line) = self.lines.get_mut(&conn).filter(|line| line.fate == Fate::Open) else {
            return Taken::Held;
        };
        if !line.greeted
            && let Some(first) = input.first_chunk::<4>()
            && let Some(word) = Word::of(*first)
        {
            self.answer_word(conn, word);
            input.clear();
            return Taken::Held;
        }
        let now = now(&*self.clock);
        let mut room = if line.outbox.len() >= self.options.reply_bytes_pause {
            0
        } else {
            self.options.requests_outstanding_max.saturating_sub(line.outstanding)
        };
        let (mut count, mut executed) = (0, 0);
        let taken = loop {
            let Some(header) = input.first_chunk::<4>() else { break Taken::All };
            let announced = i32::from_be_bytes(*header);
            let Some(length) =
                usize::try_from(announced).ok().filter(|length| *length <= self.options.frame_bytes_max)
            else {
                line.fate = Fate::Cut;
                self.complain(conn, "it announced a request of an impossible length");
                break Taken::Held;
            };
            if input.len() < 4 + length {
                break Taken::All;
            }
            if count >= room || self.groups.are_full(self.options.group_txns_max) {
                break Taken::Held;
            }
            input.advance(4);
            let frame = input.split_to(length).freeze();
            let group = &mut self.groups.gathered;
            let (before, changes) = (group.output.effects.len(), group.output.txns.len());
            group.bytes += length;
            self.core.frame(conn, &frame, now, &mut group.output);
            if changes == 0 && !group.output.txns.is_empty() {
                if count > 0 {
                    group.requests.push(Requests { conn, count, at: now.monotonic });
                    line.outstanding += count;
                    room -= mem::take(&mut count);
                }
                group.free = (before, group.requests.len());
            }
            count += 1;
            let mut closed = false;
            for effect in group.output.effects.get(before..).unwrap_or_default() {
                match effect {
                    Effect::Send { frame, .. } => group.bytes += frame.len(),
                    Effect::Close { conn: other } => closed |= *other == conn,
                }
            }
            if closed {
                line.fate = Fate::Leaving;
                break Taken::Held;
            }
            executed += length;
            if executed >= FIRST_BYTES && self.groups.keep_the_disk_waiting() {
                break Taken::Held;
            }
            if self.clock.now().since(now.monotonic) >= TURN {
                break Taken::Held;
            }
        };
        if count > 0 {
            if let Some(line) = self.lines.get_mut(&conn) {
                line.greeted = true;
                line.outstanding += count;
            }
            self.groups.gathered.requests.push(Requests { conn, count, at: now.monotonic });
            self.settle();
        }
        taken
    }

    /// Lets become known what waits for no change, and has the changes committed once the connections that are ready
    /// have had their turn.
    fn settle(&mut self) {
        if let Some(group) = self.groups.settle() {
            self.release(group);
        }
        if self.groups.has_changes() {
            self.commit.notify_one();
        }
    }

    /// Whether the disk has nothing to do although there is something for it.
    pub(super) fn keeps_the_disk_waiting(&self) -> bool {
        self.groups.keep_the_disk_waiting()
    }

    /// What the log thread is to write next, if there is something; an image of the state after that if a snapshot is
    /// due.
    pub(super) fn commit(&mut self) -> Option<(Vec<Txn>, Option<Image>)> {
        let txns = self.groups.hand_over()?;
        let image = mem::take(&mut self.snapshot_wanted).then(|| self.core.state().image());
        self.snapshots += u64::from(image.is_some());
        Some((txns, image))
    }

    /// The first `groups` that the log thread had are on the disk.
    pub(super) fn synced(&mut self, groups: usize, txns: Vec<Txn>, snapshot_due: bool) {
        self.snapshot_wanted |= snapshot_due;
        self.synced_zxid = txns.last().map_or(self.synced_zxid, |txn| txn.zxid);
        for _ in 0..groups {
            if let Some(group) = self.groups.synced() {
                self.release(group);
            }
        }
        self.groups.recycle_changes(txns);
        self.settle();
    }

    /// Whether nothing waits for the disk.
    pub(super) fn is_settled(&self) -> bool {
        self.groups.are_settled()
    }

    /// When the next session is due.
    pub(super) fn next_expiry(&self) -> Option<Instant> {
        let due = self.core.next_deadline()?;
        Some(self.hearing.spares_until().map_or(due, |until| until.max(due)))
    }

    /// Expires what is due, but for the sessions that the server itself does not hear.
    pub(super) fn tick(&mut self) {
        let now = self.now();
        let crowded = self.crowded.iter();
        let unread = self.lines.iter().filter(|(_, line)| line.waits_for_the_disk(&self.options));
        for conn in crowded.chain(unread.map(|(conn, _)| conn)) {
            self.core.held_back(*conn, now);
        }
        if !self.hearing.may_judge(now.monotonic, self.options.tick) {
            return;
        }
        let group = &mut self.groups.gathered;
        let (before, changes) = (group.output.effects.len(), group.output.txns.len());
        self.core.tick(now, &mut group.output);
        if changes == 0 && !group.output.txns.is_empty() {
            group.free = (before, group.requests.len());
        }
        self.settle();
    }

    fn release(&mut self, mut group: Group) {
        let now = self.clock.now();
        for requests in group.requests.drain(..) {
            let latency = now.since(requests.at);
            if let Some(line) = self.lines.get_mut(&requests.conn) {
                line.outstanding -= requests.count;
                line.wake();
                for _ in 0..requests.count {
                    self.core.answered(requests.conn, latency);
                }
            }
        }
        let mut effects = group.output.effects.drain(..).peekable();
        while let Some(effect) = effects.next() {
            let conn = effect.conn();
            // It may have ended meanwhile.
            let Some(line) = self.lines.get_mut(&conn) else { continue };
            let before = line.outbox.len();
            line.follow(effect);
            while let Some(effect) = effects.next_if(|effect| effect.conn() == conn) {
                line.follow(effect);
            }
            self.buffered_bytes += line.outbox.len() - before;
            let bytes = line.outbox.len();
            if bytes > self.options.reply_bytes_max {
                line.fate = Fate::Cut;
                if let Some(suppressed) = self.cut.due(now) {
                    let peer = line.peer;
                    warn!(%peer, bytes, suppressed, "closed a connection: its client does not read its replies");
                }
            }
            line.wake();
            self.make_room();
        }
        drop(effects);
        for conn in self.crowded.drain(..) {
            if let Some(line) = self.lines.get_mut(&conn) {
                line.wake();
            }
        }
        self.groups.recycle(group);
    }

    /// Writes what waits for the client, as far as it takes it. `held` says whether something of the client's is
    /// already held back by a bound.
    pub(super) fn flush(
        &mut self,
        conn: ConnId,
        held: Taken,
        stream: &mut Stream,
        context: &mut Context<'_>,
    ) -> Flushed {
        let Some(line) = self.lines.get_mut(&conn) else { return Flushed::Ended };
        loop {
            if line.fate == Fate::Cut {
                return Flushed::Ended;
            }
            if line.outbox.is_empty() {
                return match line.fate {
                    Fate::Open | Fate::Leaving => self.readable(conn, held),
                    Fate::Closing | Fate::Cut => match Pin::new(&mut *stream).poll_shutdown(context) {
                        Poll::Ready(_) => Flushed::Ended,
                        Poll::Pending => Flushed::Waiting,
                    },
                };
            }
            match Pin::new(&mut *stream).poll_write(context, line.outbox.waiting()) {
                Poll::Ready(Ok(0) | Err(_)) => return Flushed::Ended,
                Poll::Ready(Ok(written)) => {
                    line.outbox.consume(written);
                    line.stalled = None;
                    self.buffered_bytes -= written;
                }
                Poll::Pending => {
                    if line.stalled.is_none() {
                        line.stalled = Some(self.clock.now());
                    }
                    return self.readable(conn, held);
                }
            }
        }
    }

    /// Whether bounds let the connection be read. If one of them does not, the connection is woken when it may.
    fn readable(&mut self, conn: ConnId, held: Taken) -> Flushed {
        let Some(line) = self.lines.get(&conn) else { return Flushed::Ended };
        let within =
            line.outbox.len() < self.options.reply_bytes_pause && !line.waits_for_the_disk(&self.options);
        if line.fate != Fate::Open || !self.reading || !within {
            return Flushed::Waiting;
        }
        // However slow the disk is, a four-letter word is heard.
        let may_say_a_word = !line.greeted && held == Taken::All;
        if self.groups.are_full(self.options.group_txns_max) && !may_say_a_word {
            self.crowded.push(conn);
            return Flushed::Waiting;
        }
        Flushed::Readable
    }

    /// Cuts the connections that never said who they are, and those whose clients take nothing.
    pub(super) fn sweep(&mut self) {
        let now = self.clock.now();
        for line in self.lines.values_mut() {
            let silent = !line.greeted
                && line.fate == Fate::Open
                && now.since(line.opened) >= self.options.handshake_timeout;
            let stalled =
                line.stalled.is_some_and(|stalled| now.since(stalled) >= self.options.write_timeout);
            if silent || stalled {
                line.fate = Fate::Cut;
                line.wake();
                if let Some(suppressed) = self.cut.due(now) {
                    let peer = line.peer;
                    let what = if silent { "sent no request in time" } else { "took no bytes in time" };
                    warn!(%peer, suppressed, "closed a connection: its client {what}");
                }
            }
        }
    }

    /// Reads no more: what was read is still executed, written and answered.
    pub(super) fn stop_reading(&mut self) {
        self.reading = false;
    }

    /// Closes every connection as soon as its client has taken its replies.
    pub(super) fn close_all(&mut self) {
        for line in self.lines.values_mut() {
            if line.fate != Fate::Cut {
                line.fate = Fate::Closing;
            }
            line.wake();
        }
    }

    fn answer_word(&mut self, conn: ConnId, word: Word) {
        let answer = words::answer(self, conn, word);
        let Some(line) = self.lines.get_mut(&conn) else { return };
        debug!(peer = %line.peer, ?word, "answers a four-letter word");
        line.greeted = true;
        line.fate = Fate::Closing;
        line.outbox.push(answer.as_bytes());
        self.buffered_bytes += answer.len();
        self.core.count_packets(1, 0);
    }

    fn complain(&mut self, conn: ConnId, why: &str) {
        if let Some(line) = self.lines.get(&conn)
            && let Some(suppressed) = self.cut.due(self.clock.now())
        {
            let peer = line.peer;
            warn!(%peer, suppressed, "closed a connection: {why}");
        }
    }
}

/// The time as the core takes it.
pub(super) fn now(clock: &dyn Clock) -> Now {
    Now { monotonic: clock.now(), wall_ms: i64::try_from(clock.wall().0).unwrap_or(i64::MAX) }
}
