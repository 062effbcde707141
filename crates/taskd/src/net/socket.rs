//! Sockets behind a seam: production uses [`Tcp`], a simulation brings its own [`Network`].

use std::fmt::Debug;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use proto::FRAME_BYTES_MAX;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::codec::{Framed, LengthDelimitedCodec};

use super::MessagePack;

/// How long a silent peer is trusted before the kernel asks whether it is still there.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(5);
/// How often the kernel asks.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(2);
/// How often it asks in vain before the connection fails.
const KEEPALIVE_RETRIES: u32 = 3;
/// How long sent bytes may stay unacknowledged before the connection fails.
const UNACKNOWLEDGED_MAX: Duration = Duration::from_secs(8);

/// A connected byte stream.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Duplex for T {}

/// Where connections come from.
pub trait Network: Debug + Send + Sync + 'static {
    /// Listens on `address`; port 0 picks a free one.
    fn bind(&self, address: SocketAddr) -> BoxFuture<'static, io::Result<Box<dyn Acceptor>>>;

    /// Connects to `address` (`HOST:PORT`). Has no deadline of its own.
    fn connect(&self, address: &str) -> BoxFuture<'static, io::Result<Box<dyn Duplex>>>;
}

/// A network that components share.
pub type SharedNetwork = Arc<dyn Network>;

/// A bound listener.
pub trait Acceptor: Send + 'static {
    /// The next connection and where it comes from.
    ///
    /// # Cancel safety
    /// A cancelled call loses no connection.
    fn accept(&mut self) -> BoxFuture<'_, io::Result<(Box<dyn Duplex>, SocketAddr)>>;

    /// Where it listens.
    fn local_addr(&self) -> io::Result<SocketAddr>;
}

/// The operating system's TCP.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tcp;

impl Tcp {
    /// Ready to be shared.
    pub fn shared() -> SharedNetwork {
        Arc::new(Self)
    }
}

impl Network for Tcp {
    fn bind(&self, address: SocketAddr) -> BoxFuture<'static, io::Result<Box<dyn Acceptor>>> {
        Box::pin(async move {
            let listener = TcpListener::bind(address).await?;
            Ok(Box::new(listener) as Box<dyn Acceptor>)
        })
    }

    fn connect(&self, address: &str) -> BoxFuture<'static, io::Result<Box<dyn Duplex>>> {
        let address = address.to_owned();
        Box::pin(async move {
            let stream = TcpStream::connect(address).await?;
            tune(&stream)?;
            Ok(Box::new(stream) as Box<dyn Duplex>)
        })
    }
}

impl Acceptor for TcpListener {
    fn accept(&mut self) -> BoxFuture<'_, io::Result<(Box<dyn Duplex>, SocketAddr)>> {
        Box::pin(async move {
            let (stream, from) = TcpListener::accept(self).await?;
            tune(&stream)?;
            Ok((Box::new(stream) as Box<dyn Duplex>, from))
        })
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        TcpListener::local_addr(self)
    }
}

/// Small messages leave at once, and a machine that vanished is noticed without traffic.
fn tune(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE_IDLE)
        .with_interval(KEEPALIVE_INTERVAL)
        .with_retries(KEEPALIVE_RETRIES);
    socket.set_tcp_keepalive(&keepalive)?;
    socket.set_tcp_user_timeout(Some(UNACKNOWLEDGED_MAX))
}

/// A connected stream cut into frames.
pub struct Wire(pub(super) Framed<Box<dyn Duplex>, LengthDelimitedCodec>);

impl Debug for Wire {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Wire")
    }
}

impl Wire {
    /// Frames of at most `frame_bytes_max` for now: a handshake needs few.
    pub(super) fn new(stream: Box<dyn Duplex>, frame_bytes_max: usize) -> Self {
        let codec = LengthDelimitedCodec::builder().max_frame_length(frame_bytes_max).new_codec();
        Self(Framed::new(stream, codec))
    }

    /// A tarpc transport over this wire, with frames of at most [`FRAME_BYTES_MAX`].
    pub fn transport<Item, SinkItem>(
        mut self,
    ) -> tarpc::serde_transport::Transport<Box<dyn Duplex>, Item, SinkItem, MessagePack>
    where
        Item: serde::de::DeserializeOwned,
        SinkItem: serde::Serialize,
    {
        self.0.codec_mut().set_max_frame_length(FRAME_BYTES_MAX);
        tarpc::serde_transport::new(self.0, MessagePack)
    }
}
