//! How sessions begin, are claimed, and end.

use std::time::{Duration, Instant};

use super::super::hex;
use super::super::jute::{Reader, Writer};
use super::super::observe::Observed;
use super::super::script::{Call, Credentials};
use super::{ANSWER_WITHIN, CLOSE_WITHIN, Side, Slot, Until, odd};
use crate::client::{Connection, Received};

const EXPIRY_WITHIN: Duration = Duration::from_secs(30);
const EXPIRY_POLL: Duration = Duration::from_millis(10);
const PASSWORD_BYTES: usize = 16;
/// A session that no server here ever handed out.
const UNKNOWN_SESSION: i64 = 0x1234_5678;

#[derive(Clone, Debug)]
pub(super) struct Claim {
    id: i64,
    password: Vec<u8>,
}

impl Claim {
    /// Who wants a new session.
    pub(super) fn nobody() -> Self {
        Self { id: 0, password: vec![0; PASSWORD_BYTES] }
    }
}

impl Side {
    pub(super) fn resume(&mut self, slot: usize, with: Credentials, seen: &mut Vec<Observed>) {
        let Some(claim) = &self.slots[slot].session else { return };
        let Claim { mut id, mut password } = claim.clone();
        self.ping(slot, seen);
        let former = self.slots[slot].connection.take();
        let mut last = self.slots[slot].seen;
        match with {
            Credentials::Right => {}
            Credentials::WrongPassword => password.iter_mut().for_each(|byte| *byte ^= 1),
            Credentials::ShortPassword => password.truncate(7),
            Credentials::NoPassword => password.clear(),
            Credentials::Unknown => id = UNKNOWN_SESSION,
            Credentials::Ahead => last = self.last + 1_000,
        }
        // The longest timeout that there is.
        self.handshake(slot, i32::MAX, Claim { id, password }, last, Some(false), seen);
        let resumed = self.slots[slot].connection.take();
        let is_resumed = resumed.is_some();
        if with == Credentials::Right && !is_resumed {
            self.slots[slot].alive = false;
        }
        // What the server did to the former connection, if there was one.
        self.slots[slot].connection = former;
        self.slots[slot].unanswered.clear();
        self.ping(slot, seen);
        if is_resumed {
            self.slots[slot].connection = resumed;
            self.slots[slot].xid = 0;
        }
    }

    pub(super) fn close_if_alive(&mut self, slot: usize, seen: &mut Vec<Observed>) {
        if !self.slots[slot].alive {
            return;
        }
        if !self.connected(slot) {
            self.resume(slot, Credentials::Right, seen);
        }
        self.ask(slot, &[Call::CloseSession]);
        self.burst(slot, &[Call::CloseSession], seen);
    }

    pub(super) fn handshake(
        &mut self,
        slot: usize,
        timeout_ms: i32,
        claim: Claim,
        last_zxid: i64,
        read_only: Option<bool>,
        seen: &mut Vec<Observed>,
    ) {
        let mut frame = Writer::default();
        frame.int(0).int(0).long(last_zxid).int(timeout_ms).long(claim.id).buffer(Some(&claim.password));
        if let Some(read_only) = read_only {
            frame.boolean(read_only);
        }
        let length = i32::try_from(frame.0.len() - 4).unwrap_or(i32::MAX);
        frame.0[..4].copy_from_slice(&length.to_be_bytes());

        let opened = Connection::open(self.server.address(), ANSWER_WITHIN);
        let mut connection = match opened {
            Ok(connection) => connection,
            Err(error) => return seen.push(odd(format!("no connection: {}", error.kind()))),
        };
        let sent = Instant::now();
        // A server that closes at once is seen when it is read from.
        let _ = connection.send(&frame.0);
        match connection.receive(Instant::now() + ANSWER_WITHIN) {
            Ok(Received::Frame(frame)) => match welcome(&frame) {
                Some(Welcome { version, timeout_ms, id, password, read_only }) => {
                    let number = if id == 0 { 0 } else { self.number(id) };
                    let given = password.len() == PASSWORD_BYTES && password.iter().any(|byte| *byte != 0);
                    seen.push(Observed::Session {
                        version,
                        timeout_ms,
                        session: number,
                        password: given,
                        read_only,
                    });
                    if id != 0 {
                        let slot = &mut self.slots[slot];
                        slot.session = Some(Claim { id, password });
                        slot.alive = true;
                        slot.sent = Some(sent);
                        slot.sent_before = None;
                        slot.timeout = Duration::from_millis(u64::try_from(timeout_ms).unwrap_or(0));
                        slot.connection = Some(connection);
                        return;
                    }
                    let closed = connection.receive(Instant::now() + CLOSE_WITHIN);
                    seen.push(if let Ok(Received::Closed) = closed {
                        Observed::Closed
                    } else {
                        Observed::Silence
                    });
                }
                None => seen.push(odd(format!("a first answer that holds {}", hex::encode(&frame)))),
            },
            Ok(Received::Closed) => seen.push(Observed::Closed),
            Ok(Received::Silence) => seen.push(Observed::Silence),
            Err(error) => seen.push(odd(format!("no answer: {}", error.kind()))),
        }
    }

    fn number(&mut self, id: i64) -> u32 {
        let next = self.opened + 1;
        let number = *self.translator.sessions.entry(id).or_insert(next);
        self.opened = self.opened.max(number);
        number
    }

    pub(super) fn expire(&mut self, slot: usize, witness: usize, seen: &mut Vec<Observed>) {
        if slot == witness || !self.slots[slot].alive || !self.connected(witness) {
            return;
        }
        let is_connected = self.connected(slot);
        let before = self.last;
        let deadline = Instant::now() + EXPIRY_WITHIN;
        while self.last == before && Instant::now() < deadline && self.connected(witness) {
            let mut glimpse = Vec::new();
            self.ping(witness, &mut glimpse);
            // How often one has to ask is nobody's business.
            seen.extend(glimpse.into_iter().filter(|seen| !matches!(seen, Observed::Reply { .. })));
            std::thread::sleep(EXPIRY_POLL);
        }
        if self.last == before {
            return seen.push(Observed::Silence);
        }
        let Slot { sent, timeout, .. } = self.slots[slot];
        if let Some(early) = sent.map(|sent| sent.elapsed()).filter(|silent| *silent < timeout) {
            seen.push(odd(format!("a session of {timeout:?} expired after {early:?}")));
        }
        seen.push(Observed::Expired { zxid: self.translator.zxid(self.last) });
        self.slots[slot].alive = false;
        if is_connected {
            // The events of its own ephemerals race with the end of its connection.
            let mut last_words = Vec::new();
            let stalled = self.stalled;
            self.collect(slot, Until::Closed, &mut last_words);
            self.stalled = stalled;
            seen.extend(last_words.pop());
        }
        self.slots[slot].connection = None;
    }

    pub(super) fn hello(&mut self, frame: &[u8], seen: &mut Vec<Observed>) {
        let mut bytes = Writer::default();
        bytes.buffer(Some(frame));
        let opened = Connection::open(self.server.address(), ANSWER_WITHIN);
        seen.push(match opened {
            Err(error) => odd(format!("no connection: {}", error.kind())),
            Ok(mut connection) => {
                let _ = connection.send(&bytes.0);
                match connection.receive(Instant::now() + CLOSE_WITHIN) {
                    Ok(Received::Closed) => Observed::Closed,
                    Ok(Received::Silence) => Observed::Silence,
                    Ok(Received::Frame(frame)) => odd(format!("an answer of {} bytes", frame.len())),
                    Err(error) => odd(format!("no answer: {}", error.kind())),
                }
            }
        });
    }
}

struct Welcome {
    version: i32,
    timeout_ms: i32,
    id: i64,
    password: Vec<u8>,
    read_only: Option<bool>,
}

fn welcome(frame: &[u8]) -> Option<Welcome> {
    let mut reader = Reader(frame);
    let (version, timeout_ms, id) = (reader.int()?, reader.int()?, reader.long()?);
    let password = reader.buffer()??.to_vec();
    let read_only = if reader.0.is_empty() { None } else { Some(reader.boolean()?) };
    reader.end(Welcome { version, timeout_ms, id, password, read_only })
}
