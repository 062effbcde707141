//! A session's connection, which may break at any moment because the server is killed.

use std::collections::VecDeque;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow};
use bytes::Bytes;
use keeper::wire::{
    Code, ConnectRequest, ConnectResponse, OpCode, Reply, ReplyHeader, Request, connect_request_frame,
    request_frame,
};

use crate::client::{Connection, Received};

/// A server that is alive answers within this, or something is wrong with it.
const SILENCE_MAX: Duration = Duration::from_secs(20);

/// Why a cycle ended for a client.
#[derive(Debug)]
pub(super) enum Broken {
    /// The server is being killed, and the connection with it.
    Killed,
    /// The connection broke while the server lived: it must not, unless the session expired because this machine
    /// stood still.
    Lost(anyhow::Error),
    /// The server did something that it must not.
    Wrong(anyhow::Error),
}

impl<E: Into<anyhow::Error>> From<E> for Broken {
    fn from(error: E) -> Self {
        Self::Wrong(error.into())
    }
}

/// One life of the server.
#[derive(Debug)]
pub(super) struct Life {
    pub(super) address: SocketAddr,
    /// Before it was started.
    pub(super) begun: Instant,
    /// When the server before it was killed.
    pub(super) killed_before: Instant,
    /// The highest zxid that any client had seen before this life.
    pub(super) zxid_floor: i64,
    /// The highest that any has seen.
    pub(super) zxid_seen: AtomicI64,
    /// Set before it is killed: connections break from now on.
    pub(super) ending: AtomicBool,
}

impl Life {
    /// What a connection that broke means.
    fn broken(&self, what: impl std::fmt::Display) -> Broken {
        if self.ending.load(Ordering::SeqCst) {
            Broken::Killed
        } else {
            Broken::Lost(anyhow!("the server was not killed, but {what}"))
        }
    }

    pub(super) fn is_ending(&self) -> bool {
        self.ending.load(Ordering::SeqCst)
    }
}

/// What resumes a session.
#[derive(Clone, Debug)]
pub(super) struct Session {
    pub(super) id: i64,
    pub(super) password: [u8; 16],
    pub(super) timeout: Duration,
    /// It certainly lives until then, if the server does.
    pub(super) alive_until: Instant,
}

impl Session {
    /// Whether so much time has passed that the session may have expired.
    pub(super) fn may_have_expired(&self) -> bool {
        self.alive_until <= Instant::now()
    }

    /// A server that starts gives every session that it knows its whole timeout.
    pub(super) fn restarted(&mut self, life: &Life) {
        if self.alive_until > life.killed_before {
            self.alive_until = self.alive_until.max(life.begun + self.timeout);
        }
    }
}

/// An answer.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) zxid: i64,
    pub(super) result: Result<Reply, Code>,
}

/// A connection with a session on it.
#[derive(Debug)]
pub(super) struct Link<'a> {
    life: &'a Life,
    connection: Connection,
    /// As of the last answer.
    pub(super) session: Session,
    xid: i32,
    sent: VecDeque<(i32, OpCode, Instant)>,
}

impl<'a> Link<'a> {
    /// Opens a session.
    pub(super) fn open(life: &'a Life, timeout: Duration) -> Result<Self, Broken> {
        Self::handshake(life, 0, [0; 16], timeout)?.ok_or_else(|| anyhow!("a new session was refused").into())
    }

    /// Resumes a session; `None` if the server does not know it, or not with this password.
    pub(super) fn resume(life: &'a Life, session: &Session) -> Result<Option<Self>, Broken> {
        let link = Self::handshake(life, session.id, session.password, session.timeout)?;
        if let Some(link) = &link
            && (link.session.id != session.id || link.session.password != session.password)
        {
            return Err(anyhow!("session {:#x} was resumed as {:#x}", session.id, link.session.id).into());
        }
        Ok(link)
    }

    fn handshake(
        life: &'a Life,
        id: i64,
        password: [u8; 16],
        timeout: Duration,
    ) -> Result<Option<Self>, Broken> {
        let mut connection = Connection::open(life.address, SILENCE_MAX)
            .map_err(|error| life.broken(format_args!("takes no connection: {error}")))?;
        let request = ConnectRequest {
            protocol_version: 0,
            // A server that had gone back would refuse it.
            last_zxid_seen: life.zxid_seen.load(Ordering::SeqCst),
            timeout_ms: i32::try_from(timeout.as_millis())?,
            session_id: id,
            password: Bytes::copy_from_slice(&password),
            read_only: Some(false),
        };
        let now = Instant::now();
        connection
            .send(&connect_request_frame(&request))
            .map_err(|error| life.broken(format_args!("takes no handshake: {error}")))?;
        let frame = receive(life, &mut connection, "in the handshake")?;
        let response = ConnectResponse::decode(&frame)?;
        if response.session_id == 0 {
            return Ok(None);
        }
        let timeout = Duration::from_millis(u64::try_from(response.timeout_ms)?);
        let session = Session {
            id: response.session_id,
            password: response.password,
            timeout,
            alive_until: now + timeout,
        };
        Ok(Some(Self { life, connection, session, xid: 0, sent: VecDeque::new() }))
    }

    /// Sends requests, in one write.
    pub(super) fn send(&mut self, requests: &[Request]) -> Result<(), Broken> {
        let mut bytes = Vec::new();
        for request in requests {
            self.xid += 1;
            self.sent.push_back((self.xid, request.op(), Instant::now()));
            bytes.extend_from_slice(&request_frame(self.xid, request));
        }
        self.connection
            .send(&bytes)
            .map_err(|error| self.life.broken(format_args!("takes no requests: {error}")))
    }

    /// The answer to the first request that has none yet.
    pub(super) fn receive(&mut self) -> Result<Answer, Broken> {
        let (xid, op, at) = self.sent.pop_front().context("nothing was asked")?;
        let frame = receive(self.life, &mut self.connection, "while requests are waiting")?;
        let (header, body) = ReplyHeader::split(&frame)?;
        if header.xid != xid {
            return Err(anyhow!("the answer to request {xid} says {}", header.xid).into());
        }
        self.session.alive_until = self.session.alive_until.max(at + self.session.timeout);
        self.life.zxid_seen.fetch_max(header.zxid, Ordering::SeqCst);
        let result = match header.err {
            0 => Ok(Reply::decode(op, &body)?),
            number => Err(Code::try_from(number)?),
        };
        Ok(Answer { zxid: header.zxid, result })
    }

    /// One request and its answer.
    pub(super) fn call(&mut self, request: Request) -> Result<Answer, Broken> {
        self.send(&[request])?;
        self.receive()
    }

    /// Many requests and their answers, without waiting for one before sending the next.
    pub(super) fn call_all(&mut self, requests: &[Request]) -> Result<Vec<Answer>, Broken> {
        let mut answers = Vec::with_capacity(requests.len());
        for group in requests.chunks(50) {
            self.send(group)?;
            for _ in group {
                answers.push(self.receive()?);
            }
        }
        Ok(answers)
    }
}

fn receive(life: &Life, connection: &mut Connection, when: &str) -> Result<Bytes, Broken> {
    match connection.receive(Instant::now() + SILENCE_MAX) {
        Ok(Received::Frame(frame)) => Ok(Bytes::from(frame)),
        Ok(Received::Closed) => Err(life.broken(format_args!("closes a connection {when}"))),
        Ok(Received::Silence) => Err(life.broken(format_args!("says nothing for {SILENCE_MAX:?} {when}"))),
        Err(error) if error.kind() == ErrorKind::InvalidData => Err(error.into()),
        Err(error) => Err(life.broken(format_args!("a connection fails {when}: {error}"))),
    }
}
