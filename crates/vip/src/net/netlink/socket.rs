//! Netlink sockets: one that asks and waits, for writes; short-lived ones for lists; and one that listens.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::Duration;

use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR};
use netlink_packet_route::RouteNetlinkMessage;
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, send, setsockopt,
    socket, sockopt,
};
use nix::sys::time::TimeVal;
use tokio::io::unix::AsyncFd;

use super::wire::{self, Said};

/// How long the kernel may take to acknowledge a write. It has in fact done so when `send` returns; what may take long
/// is `send`, while another process holds the lock of the network's configuration.
pub(super) const ANSWER_WITHIN: Duration = Duration::from_millis(250);

/// How long a list may take.
pub(super) const LIST_WITHIN: Duration = Duration::from_secs(1);

/// Larger than what the kernel puts into one datagram of a list (32 KiB).
const DATAGRAM_MAX: usize = 64 * 1024;

/// Answers to earlier questions that are skipped before we give up.
const STALE_MAX: usize = 64;

/// What the listening socket may hold: several thousand events.
const LISTEN_BYTES: usize = 4 << 20;

/// `RTMGRP_LINK | RTMGRP_IPV4_IFADDR | RTMGRP_IPV6_IFADDR`.
const GROUPS: u32 = 0x1 | 0x10 | 0x100;

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    /// The kernel refuses, or the socket does.
    Refused(Errno),
    /// There was no answer in time.
    Late(Duration),
}

impl From<Errno> for Trouble {
    fn from(errno: Errno) -> Self {
        Self::Refused(errno)
    }
}

fn open(flags: SockFlag) -> Result<OwnedFd, Errno> {
    let flags = flags | SockFlag::SOCK_CLOEXEC;
    let fd = socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkRoute)?;
    Ok(fd)
}

fn receive(fd: &impl AsRawFd, buffer: &mut [u8]) -> Result<usize, Errno> {
    loop {
        match recv(fd.as_raw_fd(), buffer, MsgFlags::MSG_TRUNC) {
            Ok(length) if length > buffer.len() => return Err(Errno::EMSGSIZE),
            Err(Errno::EINTR) => {}
            result => return result,
        }
    }
}

/// A blocking socket: one question at a time.
#[derive(Debug)]
pub(super) struct Exchange {
    fd: OwnedFd,
    buffer: Vec<u8>,
    sequence: u32,
}

impl Exchange {
    pub(super) fn open() -> Result<Self, Errno> {
        let fd = open(SockFlag::empty())?;
        let within = TimeVal::new(0, i64::try_from(ANSWER_WITHIN.as_micros()).unwrap_or(i64::MAX));
        setsockopt(&fd, sockopt::ReceiveTimeout, &within)?;
        Ok(Self { fd, buffer: vec![0; DATAGRAM_MAX], sequence: 0 })
    }

    /// Has something changed: returns when the kernel has done it, or refused to.
    pub(super) fn change(&mut self, message: RouteNetlinkMessage, flags: u16) -> Result<(), Trouble> {
        self.ask(message, flags | NLM_F_ACK).map(drop)
    }

    /// A list, or the one thing that was asked for (`flags` without a dump).
    pub(super) fn ask(
        &mut self,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> Result<Vec<RouteNetlinkMessage>, Trouble> {
        self.sequence = self.sequence.wrapping_add(1);
        let bytes = wire::encode(message, flags, self.sequence);
        send(self.fd.as_raw_fd(), &bytes, MsgFlags::empty())?;
        let mut messages = Vec::new();
        let mut stale = 0;
        while stale <= STALE_MAX {
            let length = match receive(&self.fd, &mut self.buffer) {
                Err(Errno::EAGAIN) => break,
                length => length?,
            };
            for (sequence, _, said) in wire::decode(&self.buffer[..length]) {
                match said {
                    // The answer to a question that was given up.
                    _ if sequence != self.sequence => stale += 1,
                    Said::Message(message) => messages.push(message),
                    Said::Refused(errno) => return Err(errno.into()),
                    Said::Done => return Ok(messages),
                    Said::Other => stale += 1,
                }
            }
        }
        Err(Trouble::Late(ANSWER_WITHIN))
    }
}

/// A list, without blocking the thread.
pub(super) async fn list(ask: impl Fn() -> RouteNetlinkMessage) -> Result<Vec<RouteNetlinkMessage>, Trouble> {
    let listing = async {
        loop {
            if let Some(messages) = list_once(ask()).await? {
                return Ok(messages);
            }
        }
    };
    tokio::time::timeout(LIST_WITHIN, listing).await.unwrap_or(Err(Trouble::Late(LIST_WITHIN)))
}

/// None: it changed while it was written down.
async fn list_once(ask: RouteNetlinkMessage) -> Result<Option<Vec<RouteNetlinkMessage>>, Trouble> {
    let socket = Socket::new(open(SockFlag::SOCK_NONBLOCK)?)?;
    send(socket.0.as_raw_fd(), &wire::encode(ask, NLM_F_DUMP, 1), MsgFlags::empty())?;
    let mut buffer = vec![0; DATAGRAM_MAX];
    let mut messages = Vec::new();
    let mut whole = true;
    loop {
        let length = socket.receive(&mut buffer).await?;
        for (_, flags, said) in wire::decode(&buffer[..length]) {
            whole &= flags & NLM_F_DUMP_INTR == 0;
            match said {
                Said::Message(message) => messages.push(message),
                Said::Refused(errno) => return Err(errno.into()),
                Said::Done => return Ok(whole.then_some(messages)),
                Said::Other => {}
            }
        }
    }
}

/// A socket that is waited for.
#[derive(Debug)]
pub(super) struct Socket(AsyncFd<OwnedFd>);

impl Socket {
    #[expect(
        deprecated,
        reason = "its successor is unsafe to call, which this workspace forbids; an OwnedFd stays open"
    )]
    fn new(fd: OwnedFd) -> Result<Self, Errno> {
        AsyncFd::new(fd).map(Self).map_err(|error| errno(&error))
    }

    /// One that hears of every change of addresses and links from now on.
    pub(super) fn listening() -> Result<Self, Errno> {
        let fd = open(SockFlag::SOCK_NONBLOCK)?;
        // Beyond the system's limit only with CAP_NET_ADMIN; a dry run has none, and makes do with what it gets.
        if setsockopt(&fd.as_fd(), sockopt::RcvBufForce, &LISTEN_BYTES).is_err() {
            setsockopt(&fd.as_fd(), sockopt::RcvBuf, &LISTEN_BYTES)?;
        }
        bind(fd.as_raw_fd(), &NetlinkAddr::new(0, GROUPS))?;
        Self::new(fd)
    }

    /// The next datagram.
    ///
    /// # Errors
    /// `ENOBUFS`: the kernel had no room for some.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub(super) async fn receive(&self, buffer: &mut [u8]) -> Result<usize, Errno> {
        loop {
            let mut ready = self.0.readable().await.map_err(|error| errno(&error))?;
            match receive(&self.0, buffer) {
                Err(Errno::EAGAIN) => ready.clear_ready(),
                result => return result,
            }
        }
    }

    /// Throws away what waits, until nothing does: only then does the kernel say again that it had no room.
    pub(super) async fn drain(&self, buffer: &mut [u8]) -> Result<(), Errno> {
        loop {
            match receive(&self.0, buffer) {
                Ok(_) | Err(Errno::ENOBUFS) => tokio::task::consume_budget().await,
                Err(Errno::EAGAIN) => return Ok(()),
                Err(errno) => return Err(errno),
            }
        }
    }
}

fn errno(error: &std::io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or(Errno::EIO as i32))
}
