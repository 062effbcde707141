//! The one place that names socket types, so that a simulation can put its own here.

use std::io;
use std::net::SocketAddr;

use tokio::net::{TcpListener, TcpSocket, TcpStream};

/// A client's connection: `AsyncRead + AsyncWrite + Unpin`.
pub(super) type Stream = TcpStream;

/// Connections that the kernel completes before they are accepted.
pub(super) const BACKLOG: u32 = 1_024;

/// Where clients connect.
#[derive(Debug)]
pub(super) struct Listener {
    listener: TcpListener,
    address: SocketAddr,
}

impl Listener {
    /// Listens, also when connections of a predecessor on that port linger.
    pub(super) fn bind(address: SocketAddr) -> io::Result<Self> {
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        let listener = socket.listen(BACKLOG)?;
        let address = listener.local_addr()?;
        Ok(Self { listener, address })
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The next client.
    ///
    /// # Cancel safety
    /// No connection is lost.
    pub(super) async fn accept(&self) -> io::Result<(Stream, SocketAddr)> {
        let (stream, peer) = self.listener.accept().await?;
        // Replies are small and must not wait for each other.
        stream.set_nodelay(true)?;
        Ok((stream, peer))
    }
}
