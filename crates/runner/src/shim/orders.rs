//! The socket over which a shim is told things.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream};

use super::wire::{LINE_BYTES_MAX, Order, Standing, line};

/// Callers at a time; more wait in the backlog.
const CALLERS_MAX: usize = 8;

/// The listener and whoever is connected.
#[derive(Debug)]
pub(super) struct Orders {
    listener: UnixListener,
    callers: Vec<Caller>,
    /// Somebody came since the last call of `tell`.
    newcomers: bool,
}

#[derive(Debug)]
struct Caller {
    stream: UnixStream,
    pending: Vec<u8>,
    /// It waits for an answer.
    asks: bool,
}

impl Orders {
    pub(super) fn new(listener: UnixListener) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        Ok(Self { listener, callers: Vec::new(), newcomers: false })
    }

    /// What to poll for reading.
    pub(super) fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let listener = (self.callers.len() < CALLERS_MAX).then(|| self.listener.as_fd());
        listener.into_iter().chain(self.callers.iter().map(|caller| caller.stream.as_fd()))
    }

    /// Everything that has come in. Never waits.
    pub(super) fn take(&mut self) -> Vec<Order> {
        while self.callers.len() < CALLERS_MAX {
            match self.listener.accept() {
                Ok((stream, _)) if stream.set_nonblocking(true).is_ok() => {
                    self.callers.push(Caller { stream, pending: Vec::new(), asks: false });
                    self.newcomers = true;
                }
                Ok(_) => {}
                Err(_) => break,
            }
        }
        let mut orders = Vec::new();
        self.callers.retain_mut(|caller| caller.read(&mut orders));
        orders
    }

    /// Tells it to everybody who has asked. Never waits: who does not take one line is not told.
    pub(super) fn answer(&mut self, standing: Standing) {
        self.callers.retain_mut(|caller| {
            let asked = std::mem::take(&mut caller.asks);
            !asked || line(&standing).and_then(|line| caller.stream.write_all(&line)).is_ok()
        });
    }

    /// Whether somebody has come who was told nothing yet.
    pub(super) fn has_newcomers(&self) -> bool {
        self.newcomers
    }

    /// Tells everybody. Never waits: whoever does not listen misses it, and hears the next one.
    pub(super) fn tell(&mut self, line: &[u8]) {
        self.newcomers = false;
        self.callers.retain_mut(|caller| match caller.stream.write(line) {
            Ok(count) => count == line.len(),
            Err(error) => error.kind() == io::ErrorKind::WouldBlock,
        });
    }
}

impl Caller {
    /// Whether it is still there.
    fn read(&mut self, orders: &mut Vec<Order>) -> bool {
        let mut chunk = [0; 4096];
        let open = loop {
            match self.stream.read(&mut chunk) {
                Ok(0) => break false,
                Ok(count) => self.pending.extend_from_slice(&chunk[..count]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break true,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => break false,
            }
            if self.pending.len() > LINE_BYTES_MAX {
                break false;
            }
        };
        let complete = self.pending.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        for line in self.pending.drain(..complete).collect::<Vec<_>>().split(|byte| *byte == b'\n') {
            match serde_json::from_slice::<Order>(line) {
                Ok(Order::Describe) => self.asks = true,
                order => orders.extend(order.ok()),
            }
        }
        open
    }
}
