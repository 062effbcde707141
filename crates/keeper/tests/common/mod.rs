//! A raw client: frames over TCP, each wait with a deadline.

#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::future::Future;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use keeper::wire::{
    Acl, ConnectRequest, ConnectResponse, Create, Reply, ReplyHeader, Request, connect_request_frame,
    request_frame, take_frame,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A busy machine takes its time; nothing that works takes this long.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Waits for what must come.
pub(crate) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    let within = tokio::time::timeout(PATIENCE, future).await;
    within.unwrap_or_else(|_| panic!("not within {PATIENCE:?}: {what}"))
}

/// Asks again and again.
pub(crate) async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    soon(what, async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

/// One connection with a session.
#[derive(Debug)]
pub(crate) struct Client {
    stream: TcpStream,
    received: BytesMut,
    xid: i32,
    pub(crate) session: ConnectResponse,
}

impl Client {
    /// A new session.
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        Self::try_connect(address, &ConnectRequest { timeout_ms: 10_000, ..Default::default() })
            .await
            .expect("the server takes a new session")
    }

    /// Goes on with the session of `of`; `None` if the server refuses.
    pub(crate) async fn resume(address: SocketAddr, of: &ConnectResponse) -> Option<Self> {
        let request = ConnectRequest {
            timeout_ms: of.timeout_ms,
            session_id: of.session_id,
            password: Bytes::copy_from_slice(&of.password),
            ..Default::default()
        };
        Self::try_connect(address, &request).await
    }

    pub(crate) async fn try_connect(address: SocketAddr, request: &ConnectRequest) -> Option<Self> {
        let stream = soon("connect", TcpStream::connect(address)).await.ok()?;
        let mut client =
            Self { stream, received: BytesMut::new(), xid: 0, session: ConnectResponse::default() };
        client.write(&connect_request_frame(request)).await;
        let frame = client.frame().await?;
        client.session = ConnectResponse::decode(&frame).expect("a connect response");
        (client.session.session_id != 0).then_some(client)
    }

    /// Writes raw bytes. That the server may have closed shows in what is received.
    pub(crate) async fn write(&mut self, bytes: &[u8]) {
        let _ = soon("the server takes what is written", self.stream.write_all(bytes)).await;
    }

    /// Sends a request; its xid.
    pub(crate) async fn send(&mut self, request: &Request) -> i32 {
        self.xid += 1;
        let frame = request_frame(self.xid, request);
        self.write(&frame).await;
        self.xid
    }

    /// Sends many requests with one write; the xid of the last.
    pub(crate) async fn send_all(&mut self, requests: &[Request]) -> i32 {
        let mut frames = BytesMut::new();
        for request in requests {
            self.xid += 1;
            frames.extend_from_slice(&request_frame(self.xid, request));
        }
        self.write(&frames).await;
        self.xid
    }

    /// The next frame; `None` if the server has closed the connection.
    pub(crate) async fn frame(&mut self) -> Option<Bytes> {
        soon("a frame or the end", async {
            loop {
                if let Some(frame) = take_frame(&mut self.received, 64 << 20).expect("a sane length") {
                    return Some(frame);
                }
                if !matches!(self.stream.read_buf(&mut self.received).await, Ok(1..)) {
                    return None;
                }
            }
        })
        .await
    }

    /// The next reply or event; `None` if the server has closed the connection.
    pub(crate) async fn receive(&mut self) -> Option<(ReplyHeader, Bytes)> {
        let frame = self.frame().await?;
        Some(ReplyHeader::split(&frame).expect("a reply header"))
    }

    /// Whether something comes within `within`: for things that must not come.
    pub(crate) async fn hears_within(&mut self, within: Duration) -> bool {
        if !self.received.is_empty() {
            return true;
        }
        tokio::time::timeout(within, self.stream.read_buf(&mut self.received)).await.is_ok()
    }

    /// Sends a request and waits for its reply.
    pub(crate) async fn call(&mut self, request: &Request) -> Result<Reply, i32> {
        let xid = self.send(request).await;
        let (header, body) = self.receive().await.expect("the connection is open");
        assert_eq!(header.xid, xid, "replies come in the order of requests");
        if header.err != 0 {
            return Err(header.err);
        }
        Ok(Reply::decode(request.op(), &body).expect("a reply"))
    }
}

/// A persistent node that everybody may do everything with.
pub(crate) fn create(path: &str, data: &[u8]) -> Request {
    with_flags(path, data, 0)
}

/// A node that goes with its session.
pub(crate) fn ephemeral(path: &str) -> Request {
    with_flags(path, b"", 1)
}

/// A persistent node whose name is numbered.
pub(crate) fn sequential(path: &str) -> Request {
    with_flags(path, b"", 2)
}

fn with_flags(path: &str, data: &[u8], flags: i32) -> Request {
    let data = Some(Bytes::copy_from_slice(data));
    Request::Create(Create { path: path.to_owned(), data, acl: Acl::open(), flags })
}

pub(crate) fn get(path: &str) -> Request {
    Request::GetData { path: path.to_owned(), watch: false }
}

pub(crate) fn exists(path: &str) -> Request {
    Request::Exists { path: path.to_owned(), watch: false }
}

/// The data of a node, if it is there.
pub(crate) async fn data(client: &mut Client, path: &str) -> Option<Bytes> {
    match client.call(&get(path)).await {
        Ok(Reply::Data { data, .. }) => data,
        Ok(other) => panic!("{other:?} is no data"),
        Err(_) => None,
    }
}

/// What the server says to bytes that open a connection, until it closes.
pub(crate) async fn ask(address: SocketAddr, word: &[u8]) -> String {
    let mut stream = soon("connect", TcpStream::connect(address)).await.expect("the server listens");
    let _ = stream.write_all(word).await;
    let mut answer = Vec::new();
    let _ = soon("the server closes", stream.read_to_end(&mut answer)).await;
    String::from_utf8(answer).expect("text")
}
