//! Listening sockets.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::time::Duration;

use nix::sys::socket::setsockopt;
use nix::{libc, setsockopt_impl, sockopt_impl};
use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};

/// Connections that may wait for `accept`, as the kernel's own limit allows.
const BACKLOG: i32 = 4096;

/// For how many seconds a client may be silent before it is accepted all the same.
const SILENCE: u32 = 1;

/// A listener could not be opened.
#[derive(Debug, thiserror::Error)]
#[error("can't listen on {address}: {source}")]
pub struct ListenError {
    /// Where.
    pub address: SocketAddr,
    /// Why not.
    pub source: io::Error,
}

/// A socket that `sk_lookup` gives connections to. `None` for IPv6 where the host has none.
pub(super) fn steered() -> Result<(TcpListener, Option<TcpListener>), ListenError> {
    let v4 = open(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
    let v6 = match open(SocketAddr::from((Ipv6Addr::LOCALHOST, 0))) {
        Ok(socket) => Some(socket),
        Err(error) => {
            tracing::warn!(%error, "no IPv6 loopback address: IPv6 VIPs are not served");
            None
        }
    };
    Ok((v4, v6))
}

/// Whether nobody listens there yet. Workers share their addresses, and so would another daemon's.
pub(super) fn check_free(address: SocketAddr) -> Result<(), ListenError> {
    let bound = socket(address).and_then(|socket| socket.bind(&address.into()));
    bound.map_err(|source| ListenError { address, source })
}

/// One worker's share of a listener: all workers bind the same address.
pub(super) fn open(address: SocketAddr) -> Result<TcpListener, ListenError> {
    try_open(address).map_err(|source| ListenError { address, source })
}

/// Probes that find a peer which vanished, within about seven minutes.
pub(super) fn keep_alive() -> TcpKeepalive {
    TcpKeepalive::new()
        .with_time(Duration::from_secs(120))
        .with_interval(Duration::from_secs(30))
        .with_retries(10)
}

fn socket(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    if address.is_ipv6() {
        // `[::]` and `0.0.0.0` are listeners of their own.
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    Ok(socket)
}

fn try_open(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = socket(address)?;
    if address.port() != 0 {
        socket.set_reuse_port(true)?;
    }
    // Accepted sockets inherit these, which saves system calls for each connection.
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_keepalive(&keep_alive())?;
    setsockopt(&socket, DeferAccept, &SILENCE)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

sockopt_impl!(
    /// A connection is accepted when its client's first bytes are there, or has been silent for so many
    /// seconds: one turn of the event loop less. Clients of HTTP and TLS speak first, and PROXY headers come
    /// first, too; who says nothing waits in the kernel for a moment, as in a longer listen queue. Like those in
    /// the queue, they are reset if the listener is closed meanwhile.
    DeferAccept,
    SetOnly,
    libc::IPPROTO_TCP,
    libc::TCP_DEFER_ACCEPT,
    u32
);
