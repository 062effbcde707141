//! One server with the sessions that a script has on it.

mod sessions;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::jute::Reader;
use super::observe::{Observed, Translator};
use super::script::{Call, PING_XID, ROOT, Step, Then};
use super::server::Server;
use crate::client::{Connection, Received};
use sessions::Claim;

/// Sessions that a script may have at a time.
pub(super) const SLOTS: usize = 6;

/// A healthy server answers within milliseconds; this is for a machine that stands still for a moment.
const ANSWER_WITHIN: Duration = Duration::from_secs(20);
/// How long to wait for something that a server may well not do: closing a connection.
const CLOSE_WITHIN: Duration = Duration::from_secs(5);

/// A server, and what has become of each slot.
#[derive(Debug)]
pub(super) struct Side {
    pub(super) server: Server,
    translator: Translator,
    slots: [Slot; SLOTS],
    /// What stands for [`ROOT`]; of the same length.
    root: String,
    /// The last zxid that any connection was told.
    last: i64,
    opened: u32,
    /// What the step's beginning brought.
    early: Vec<Observed>,
    /// The xid of the first request of the last burst.
    first_xid: i32,
    /// Something took so long that a session may have ended by itself.
    stalled: bool,
}

#[derive(Debug, Default)]
struct Slot {
    connection: Option<Connection>,
    session: Option<Claim>,
    /// As far as is known, the server has the session.
    alive: bool,
    xid: i32,
    /// The last zxid that this session was told, over all its connections.
    seen: i64,
    unanswered: VecDeque<Unanswered>,
    /// When something was last sent, and when before that: what the server heard of the session last, it heard between the two, or later.
    sent: Option<Instant>,
    sent_before: Option<Instant>,
    timeout: Duration,
}

#[derive(Clone, Copy, Debug)]
struct Unanswered {
    xid: i32,
    op: i32,
}

/// What a slot waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Until {
    Answered,
    Closed,
}

impl Side {
    pub(super) fn new(server: Server) -> Self {
        Self {
            server,
            translator: Translator::default(),
            slots: Default::default(),
            root: ROOT.to_owned(),
            last: 0,
            opened: 0,
            early: Vec::new(),
            first_xid: 0,
            stalled: false,
        }
    }

    /// Gets ready for a script below `root`, which nobody has used yet. Every session of the last script has been closed.
    pub(super) fn begin_script(&mut self, root: &str) {
        assert_eq!(root.len(), ROOT.len(), "the stand-in is replaced byte for byte");
        root.clone_into(&mut self.root);
        self.translator.begin(self.last);
        self.slots = Default::default();
        self.opened = 0;
        self.stalled = false;
    }

    /// The xid of the first request of the last burst.
    pub(super) fn first_xid(&self) -> i32 {
        self.first_xid
    }

    /// Whether in this script a session was left alone for half of its timeout, because the machine stood still. It may have ended on one server
    /// and not on the other.
    pub(super) fn stalled(&self) -> bool {
        self.stalled
    }

    /// Closes every session that a script has left, so that none expires later.
    pub(super) fn end_script(&mut self) {
        for slot in 0..SLOTS {
            self.close_if_alive(slot, &mut Vec::new());
        }
    }

    /// The slots whose sessions the server still has.
    pub(super) fn alive(&self) -> Vec<usize> {
        (0..SLOTS).filter(|slot| self.slots[*slot].alive).collect()
    }

    pub(super) fn connected(&self, slot: usize) -> bool {
        self.slots[slot].connection.is_some()
    }

    /// Connected slots that have been silent for so long.
    pub(super) fn silent_for(&self, time: Duration) -> Vec<usize> {
        let silent =
            |slot: &Slot| slot.connection.is_some() && slot.sent.is_some_and(|sent| sent.elapsed() > time);
        (0..SLOTS).filter(|slot| silent(&self.slots[*slot])).collect()
    }

    /// Sends what the step sends, if it can be sent without waiting; two servers work on it at the same time.
    pub(super) fn begin(&mut self, step: &Step) {
        if let Step::Expire { slot, cut, .. } = step {
            // Before anybody waits: the other server's session may be gone by then.
            let mut early = Vec::new();
            self.ping(*slot, &mut early);
            self.early = early;
            if *cut {
                self.cut(*slot);
            }
        }
        if let Step::Burst { slot, calls } = step {
            if calls.iter().any(Call::may_close) {
                // A connection that is closed with bytes unread is reset, and events on their way are lost: they are heard first.
                let mut early = Vec::new();
                self.ping(*slot, &mut early);
                early.retain(|seen| !matches!(seen, Observed::Reply { .. }));
                self.early = early;
            }
            self.first_xid = self.slots[*slot].xid + 1;
            self.ask(*slot, calls);
        }
    }

    /// Finishes the step that [`begin`](Self::begin) began, and says what it brought.
    pub(super) fn finish(&mut self, step: &Step) -> Vec<Observed> {
        let mut seen = std::mem::take(&mut self.early);
        match step {
            Step::Open { slot, timeout_ms, read_only } => {
                self.close_if_alive(*slot, &mut seen);
                self.slots[*slot] = Slot::default();
                self.handshake(*slot, *timeout_ms, Claim::nobody(), 0, *read_only, &mut seen);
            }
            Step::Resume { slot, with } => self.resume(*slot, *with, &mut seen),
            Step::Burst { slot, calls } => self.burst(*slot, calls, &mut seen),
            Step::Cut { slot } => {
                self.ping(*slot, &mut seen);
                self.cut(*slot);
            }
            Step::Expire { slot, witness, .. } => self.expire(*slot, *witness, &mut seen),
            Step::Hello { hex } => self.hello(&super::hex::decode(hex), &mut seen),
            Step::Restart => {
                for slot in 0..SLOTS {
                    self.ping(slot, &mut seen);
                    self.slots[slot].connection = None;
                }
                if let Err(error) = self.server.restart() {
                    seen.push(odd(format!("the server does not start again: {error:#}")));
                }
            }
        }
        seen.extend(self.translator.odd());
        seen
    }

    fn burst(&mut self, slot: usize, calls: &[Call], seen: &mut Vec<Observed>) {
        match calls.last().map_or(Then::More, Call::then) {
            Then::More => self.collect(slot, Until::Answered, seen),
            Then::Alone => {
                self.collect(slot, Until::Answered, seen);
                match seen.last() {
                    Some(Observed::Reply { err: 0, .. }) => {}
                    // An op code that ZooKeeper does not know: it answers, and closes the connection a moment later, in which it would answer more.
                    Some(Observed::Reply { zxid: -1, .. }) => self.collect(slot, Until::Closed, seen),
                    _ => self.ping(slot, seen),
                }
            }
            Then::End => {
                self.collect(slot, Until::Closed, seen);
                if seen.iter().any(|seen| matches!(seen, Observed::Reply { err: 0, .. })) {
                    self.slots[slot].alive = false;
                }
                self.slots[slot].connection = None;
            }
        }
    }

    fn cut(&mut self, slot: usize) {
        if let Some(connection) = self.slots[slot].connection.take() {
            connection.cut(Instant::now() + CLOSE_WITHIN);
        }
    }

    /// Everything that the slot's connection, if it has one, was still to be told.
    fn ping(&mut self, slot: usize, seen: &mut Vec<Observed>) {
        self.ask(slot, &[]);
        self.collect(slot, Until::Answered, seen);
    }

    /// Sends requests, and behind them, where it disturbs nothing, a ping: its reply says that they are all answered.
    fn ask(&mut self, slot: usize, calls: &[Call]) {
        let mut bytes = Vec::new();
        for call in calls {
            self.request(slot, call, &mut bytes);
        }
        if calls.last().map_or(Then::More, Call::then) == Then::More {
            self.request(slot, &Call::Ping, &mut bytes);
        }
        self.send(slot, &bytes);
    }

    fn request(&mut self, slot: usize, call: &Call, bytes: &mut Vec<u8>) {
        let slot = &mut self.slots[slot];
        let xid = match call {
            Call::Ping => PING_XID,
            _ => {
                slot.xid += 1;
                slot.xid
            }
        };
        bytes.extend(call.frame(xid, slot.seen));
        slot.unanswered.push_back(Unanswered { xid, op: call.op() });
    }

    fn send(&mut self, slot: usize, bytes: &[u8]) {
        let mut bytes = bytes.to_vec();
        replace(&mut bytes, ROOT, &self.root);
        let slot = &mut self.slots[slot];
        match &mut slot.connection {
            Some(connection) => {
                slot.sent_before = slot.sent.replace(Instant::now());
                // Now and then in two pieces, of which the first may end anywhere.
                let (start, rest) =
                    bytes.split_at(if bytes.len().is_multiple_of(7) { bytes.len() / 3 } else { 0 });
                // A connection that is gone says so when it is read from.
                let _ = connection.send(start);
                let _ = connection.send(rest);
            }
            None => slot.unanswered.clear(),
        }
    }

    /// Reads until everything is answered or the connection is closed.
    fn collect(&mut self, slot: usize, until: Until, seen: &mut Vec<Observed>) {
        let within = if until == Until::Closed { CLOSE_WITHIN } else { ANSWER_WITHIN };
        let deadline = Instant::now() + within;
        loop {
            if until == Until::Answered && self.slots[slot].unanswered.is_empty() {
                return;
            }
            let Some(connection) = &mut self.slots[slot].connection else { return };
            let received = connection.receive(deadline);
            let Slot { sent_before, timeout, .. } = self.slots[slot];
            self.stalled |= sent_before.is_some_and(|sent| sent.elapsed() > timeout / 2);
            let over = match received {
                Ok(Received::Frame(frame)) => {
                    let observed = self.frame(slot, frame);
                    seen.push(observed);
                    continue;
                }
                Ok(Received::Closed) => Observed::Closed,
                Ok(Received::Silence) => Observed::Silence,
                Err(error) => odd(format!("cannot be read from: {}", error.kind())),
            };
            seen.push(over);
            self.slots[slot].connection = None;
            self.slots[slot].unanswered.clear();
            return;
        }
    }

    fn frame(&mut self, slot: usize, mut frame: Vec<u8>) -> Observed {
        replace(&mut frame, &self.root, ROOT);
        let mut reader = Reader(&frame);
        let mut header = || Some((reader.int()?, reader.long()?, reader.int()?));
        let Some((xid, zxid, err)) = header() else {
            return odd(format!("a frame that holds {}", super::hex::encode(&frame)));
        };
        let body = reader.0;
        if xid == -1 {
            return self.translator.event((xid, zxid, err), body);
        }
        let slot = &mut self.slots[slot];
        // A request that was passed over has not been answered, which the two sides then disagree about or not.
        let mut op = i32::MIN;
        while let Some(unanswered) = slot.unanswered.pop_front() {
            if unanswered.xid == xid {
                op = unanswered.op;
                break;
            }
        }
        slot.seen = slot.seen.max(zxid);
        self.last = self.last.max(zxid);
        let answer = self.translator.answer(op, err, body);
        Observed::Reply { xid, zxid: self.translator.zxid(zxid), err, answer }
    }
}

/// Replaces every `from` by `to`, which is as long.
fn replace(bytes: &mut [u8], from: &str, to: &str) {
    if from == to || bytes.len() < from.len() {
        return;
    }
    for start in 0..=bytes.len() - from.len() {
        if bytes[start] == b'/' && bytes[start..].starts_with(from.as_bytes()) {
            bytes[start..start + from.len()].copy_from_slice(to.as_bytes());
        }
    }
}

fn odd(why: String) -> Observed {
    Observed::Odd { why }
}
