//! A connection to a server as its bytes: frames with a length of four bytes, sent and received by one thread.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// No server sends a larger frame in these tests; a larger length means that the two sides lost each other.
const FRAME_BYTES_MAX: usize = 64 << 20;

/// What came of waiting for a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Received {
    /// A frame, without its length.
    Frame(Vec<u8>),
    /// The server has closed the connection, politely or not.
    Closed,
    /// Nothing came in time.
    Silence,
}

/// A blocking connection that sends and receives frames. Dropped, it is closed.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: TcpStream,
    /// Received and not yet taken: `buffer[taken..]`.
    buffer: Vec<u8>,
    taken: usize,
}

impl Connection {
    /// Connects, within `within`.
    ///
    /// # Errors
    /// Nobody listens, or not in time.
    pub(crate) fn open(address: SocketAddr, within: Duration) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, within)?;
        stream.set_nodelay(true)?;
        stream.set_write_timeout(Some(within))?;
        Ok(Self { stream, buffer: Vec::new(), taken: 0 })
    }

    /// Sends `bytes`, which hold whole frames with their lengths.
    ///
    /// # Errors
    /// The connection is gone, or the server takes nothing for as long as connecting was allowed to take.
    pub(crate) fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// The next frame, if it comes before `deadline`.
    ///
    /// # Errors
    /// The length of the frame cannot be one, or the system refuses to read.
    pub(crate) fn receive(&mut self, deadline: Instant) -> io::Result<Received> {
        loop {
            if let Some(frame) = self.buffered()? {
                return Ok(Received::Frame(frame));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(Received::Silence);
            }
            self.stream.set_read_timeout(Some(left))?;
            match self.fill() {
                Ok(0) => return Ok(Received::Closed),
                Ok(_) => {}
                Err(error) => match error.kind() {
                    ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted => {}
                    ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => return Ok(Received::Closed),
                    _ => return Err(error),
                },
            }
        }
    }

    /// Ends the connection from this side and waits until the server has ended it too: it has forgotten the connection's watches by then, which
    /// other connections can otherwise see for a moment.
    pub(crate) fn cut(mut self, deadline: Instant) {
        if self.stream.shutdown(Shutdown::Write).is_ok() {
            while let Ok(Received::Frame(_)) = self.receive(deadline) {}
        }
    }

    fn buffered(&mut self) -> io::Result<Option<Vec<u8>>> {
        let waiting = &self.buffer[self.taken..];
        let Some((length, rest)) = waiting.split_first_chunk::<4>() else { return Ok(None) };
        let length = usize::try_from(i32::from_be_bytes(*length)).unwrap_or(usize::MAX);
        if length > FRAME_BYTES_MAX {
            return Err(io::Error::new(ErrorKind::InvalidData, "a frame of impossible length"));
        }
        let frame = rest.get(..length).map(<[u8]>::to_vec);
        if frame.is_some() {
            self.taken += 4 + length;
        }
        Ok(frame)
    }

    fn fill(&mut self) -> io::Result<usize> {
        self.buffer.drain(..self.taken);
        self.taken = 0;
        let end = self.buffer.len();
        self.buffer.resize(end + 64 * 1024, 0);
        let read = self.stream.read(&mut self.buffer[end..]);
        self.buffer.truncate(end + read.as_ref().copied().unwrap_or(0));
        read
    }
}
