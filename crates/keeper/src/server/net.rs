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
    /// # Errors
    /// None can be accepted for now, whoever it is: no file descriptor or no memory is left.
    ///
    /// # Cancel safety
    /// No connection is lost.
    pub(super) async fn accept(&self) -> io::Result<(Stream, SocketAddr)> {
        loop {
            let accepted = self.listener.accept().await;
            match accepted {
                Ok((stream, peer)) => {
                    // Replies are small and must not wait for each other. It fails for a client that is gone already.
                    if stream.set_nodelay(true).is_ok() {
                        return Ok((stream, peer));
                    }
                }
                Err(error) if is_the_clients(&error) => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// Whether an error of `accept` is that of the connection it would have returned (see accept(2)), and says nothing
/// about the next one.
fn is_the_clients(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let errno = Errno::from_io_error(error);
    errno.is_some_and(|errno| {
        [
            Errno::CONNABORTED,
            Errno::CONNRESET,
            Errno::HOSTDOWN,
            Errno::HOSTUNREACH,
            Errno::INTR,
            Errno::NETDOWN,
            Errno::NETUNREACH,
            Errno::NONET,
            Errno::NOPROTOOPT,
            Errno::OPNOTSUPP,
            Errno::PROTO,
        ]
        .contains(&errno)
    })
}
