//! Load, as many clients make it: requests in a window, a thread for each connection.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use bytes::{Bytes, BytesMut};
use keeper::wire::{
    Acl, ConnectRequest, Create, MultiOp, ReplyHeader, Request, connect_request_frame, request_frame,
};

/// Bytes of data in each znode.
const DATA_BYTES: usize = 100;
const MULTI: u64 = 50;
/// A server that answers nothing for this long does not count as slow any more.
const PATIENCE: Duration = Duration::from_secs(30);

/// Names are used once in a process, whatever ran before.
static NAMES: AtomicU64 = AtomicU64::new(0);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Create,
    /// Fifty creates in one.
    Multi,
    Get,
}

/// One way to load a server.
#[derive(Clone, Copy, Debug)]
pub(super) struct Load {
    /// Of the row that says how many a second.
    pub(super) name: &'static str,
    /// Of the row that says what one costs.
    pub(super) cost: &'static str,
    pub(super) kind: Kind,
    pub(super) connections: usize,
    /// Requests of each connection on their way.
    pub(super) window: usize,
}

/// What came of it.
#[derive(Debug, Default)]
pub(super) struct Measured {
    operations: u64,
    seconds: f64,
    latencies: Vec<Duration>,
}

impl Measured {
    pub(super) fn per_second(&self) -> f64 {
        self.operations as f64 / self.seconds
    }

    pub(super) fn operations(&self) -> f64 {
        self.operations as f64
    }

    /// The latency below which this share of the requests stayed, in microseconds.
    pub(super) fn percentile_us(&self, percent: usize) -> f64 {
        let mut sorted = self.latencies.clone();
        sorted.sort();
        let index = sorted.len().saturating_sub(1) * percent / 100;
        sorted.get(index).map_or(f64::NAN, |latency| latency.as_secs_f64() * 1e6)
    }
}

impl Load {
    /// Loads the server for `during` and counts what it has acknowledged by then.
    pub(super) fn run(&self, address: SocketAddr, during: Duration) -> anyhow::Result<Measured> {
        let mut clients =
            (0..self.connections).map(|_| Client::connect(address)).collect::<Result<Vec<_>, _>>()?;
        let tops: Vec<String> = clients.iter().map(|_| format!("/load{}", unique())).collect();
        for (client, top) in clients.iter_mut().zip(&tops) {
            client.run(Some(1), Duration::MAX, 1, |_| create(top.clone()))?;
        }
        let began = Instant::now();
        let measured: Vec<anyhow::Result<Measured>> = std::thread::scope(|scope| {
            let threads: Vec<_> = clients
                .iter_mut()
                .zip(&tops)
                .map(|(client, top)| scope.spawn(move || self.one(client, top, during)))
                .collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap_or_else(|_| bail!("a client's thread panicked")))
                .collect()
        });
        let mut all = Measured { seconds: began.elapsed().as_secs_f64(), ..Measured::default() };
        for measured in measured {
            let measured = measured?;
            all.operations += measured.operations;
            all.latencies.extend(measured.latencies);
        }
        Ok(all)
    }

    fn one(&self, client: &mut Client, top: &str, during: Duration) -> anyhow::Result<Measured> {
        let mut measured = match self.kind {
            Kind::Create => {
                client.run(None, during, self.window, |index| create(format!("{top}/{index:010}")))
            }
            Kind::Get => client
                .run(None, during, self.window, |_| Request::GetData { path: top.to_owned(), watch: false }),
            Kind::Multi => client.run(None, during, self.window, |index| multi(top, index)),
        }?;
        if self.kind == Kind::Multi {
            measured.operations *= MULTI;
        }
        Ok(measured)
    }
}

/// Creates `znodes` small znodes.
pub(super) fn fill(address: SocketAddr, znodes: usize) -> anyhow::Result<()> {
    let mut client = Client::connect(address)?;
    let top = format!("/fill{}", unique());
    client.run(Some(1), Duration::MAX, 1, |_| create(top.clone()))?;
    let multis = (znodes as u64).div_ceil(MULTI);
    client.run(Some(multis), Duration::MAX, 10, |index| multi(&top, index))?;
    Ok(())
}

/// Whether the server takes a session now.
pub(super) fn connects(address: SocketAddr) -> bool {
    // A server that is starting may accept a connection and never answer on it.
    Client::connect_within(address, Duration::from_millis(250)).is_ok()
}

fn unique() -> u64 {
    NAMES.fetch_add(1, Ordering::Relaxed)
}

fn create(path: String) -> Request {
    let data = Some(Bytes::from_static(&[b'x'; DATA_BYTES]));
    Request::Create(Create { path, data, acl: Acl::open(), flags: 0 })
}

fn multi(top: &str, index: u64) -> Request {
    let op = |number| match create(format!("{top}/{:010}", index * MULTI + number)) {
        Request::Create(create) => MultiOp::Create(create),
        other => unreachable!("{other:?} is no create"),
    };
    Request::Multi((0..MULTI).map(op).collect())
}

/// A connection that sends requests in a window and counts the replies.
#[derive(Debug)]
struct Client {
    stream: TcpStream,
    xid: i32,
    received: Vec<u8>,
}

impl Client {
    fn connect(address: SocketAddr) -> anyhow::Result<Self> {
        let client = Self::connect_within(address, PATIENCE)?;
        client.stream.set_read_timeout(Some(PATIENCE))?;
        Ok(client)
    }

    fn connect_within(address: SocketAddr, within: Duration) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(within))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let mut client = Self { stream, xid: 0, received: Vec::new() };
        let request = ConnectRequest { timeout_ms: 30_000, ..ConnectRequest::default() };
        client.stream.write_all(&connect_request_frame(&request))?;
        let mut replies = 0;
        while replies == 0 {
            client.read(|_| {
                replies += 1;
                Ok(())
            })?;
        }
        Ok(client)
    }

    /// Keeps `window` requests on their way until there were `count` or the time is up, and waits for the last reply.
    fn run(
        &mut self,
        count: Option<u64>,
        during: Duration,
        window: usize,
        mut request: impl FnMut(u64) -> Request,
    ) -> anyhow::Result<Measured> {
        let began = Instant::now();
        let mut measured = Measured::default();
        let mut sent = 0;
        let mut frames = BytesMut::new();
        let mut sent_at = began;
        loop {
            let over = count.is_some_and(|count| sent == count) || began.elapsed() >= during;
            if over && measured.operations == sent {
                break;
            }
            // Half a window at a time, so that neither side waits for the other's last byte.
            let on_their_way = sent - measured.operations;
            if !over && on_their_way <= window as u64 / 2 {
                let mut room = window as u64 - on_their_way;
                if let Some(count) = count {
                    room = room.min(count - sent);
                }
                for _ in 0..room {
                    self.xid = self.xid.wrapping_add(1) & i32::MAX;
                    frames.extend_from_slice(&request_frame(self.xid, &request(sent)));
                    sent += 1;
                }
                sent_at = Instant::now();
                self.stream.write_all(&frames).context("the server takes no requests")?;
                frames.clear();
            }
            self.read(|frame| {
                measured.operations += 1;
                acknowledged(frame)
            })?;
            if window == 1 {
                measured.latencies.push(sent_at.elapsed());
            }
        }
        measured.seconds = began.elapsed().as_secs_f64();
        Ok(measured)
    }

    /// Reads what is there, at least something, and hands out the whole frames of it.
    fn read(&mut self, mut frame: impl FnMut(&[u8]) -> anyhow::Result<()>) -> anyhow::Result<()> {
        let mut chunk = [0; 64 << 10];
        let read = self.stream.read(&mut chunk).context("the server does not answer")?;
        ensure!(read > 0, "the server has closed the connection");
        self.received.extend_from_slice(&chunk[..read]);
        let mut rest = self.received.as_slice();
        while let Some((length, behind)) = rest.split_first_chunk::<4>() {
            let length = u32::from_be_bytes(*length) as usize;
            let Some(body) = behind.get(..length) else { break };
            frame(body)?;
            rest = &behind[length..];
        }
        let taken = self.received.len() - rest.len();
        self.received.drain(..taken);
        Ok(())
    }
}

fn acknowledged(frame: &[u8]) -> anyhow::Result<()> {
    let err = frame.get(12..16).context("a reply is too short")?;
    ensure!(err == [0; 4], "a request failed: {:?}", ReplyHeader::split(&Bytes::copy_from_slice(frame)));
    // The results of a multi that failed say so; its header does not.
    Ok(())
}
