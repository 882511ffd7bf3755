//! Internet sockets: TCP listeners, TCP connections and UDP sockets to be passed, and addresses of received sockets.

#![cfg_attr(not(test), deny(clippy::arithmetic_side_effects))] // of numbers that a peer sends

use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{self as net, AddressFamily, SockProtocol, SockType, SockaddrStorage, sockopt};

use crate::sys::errno::restart;
use crate::sys::fds::{set_blocking, set_close_on_exec};
use crate::sys::socket::{CLOSE_ON_EXEC, listen};

/// Options of a TCP listener.
#[derive(Clone, Copy, Debug)]
pub struct TcpOptions {
  /// How many connections may wait to be accepted. The kernel reduces it to its own limit.
  pub backlog: i32,
  /// Accept no IPv4 connections on an IPv6 address.
  pub ipv6_only: bool,
  /// Share the port with other sockets that set this option: `SO_REUSEPORT`.
  pub reuse_port: bool,
}

/// Creates a TCP socket that listens, close-on-exec and in blocking mode: socket(2), bind(2), listen(2).
///
/// It binds to an address even if closed connections linger on it (`SO_REUSEADDR`), as servers do.
pub fn tcp_listener(address: SocketAddr, options: TcpOptions) -> nix::Result<OwnedFd> {
  let fd = net::socket(family(address), SockType::Stream, CLOSE_ON_EXEC, SockProtocol::Tcp)?;
  set_close_on_exec(&fd)?;
  net::setsockopt(&fd, sockopt::ReuseAddr, &true)?;
  if options.reuse_port {
    net::setsockopt(&fd, sockopt::ReusePort, &true)?;
  }
  if address.is_ipv6() {
    net::setsockopt(&fd, sockopt::Ipv6V6Only, &options.ipv6_only)?;
  }
  restart(|| net::bind(fd.as_raw_fd(), &SockaddrStorage::from(address)))?;
  listen(&fd, options.backlog)?;
  Ok(fd)
}

/// Creates a TCP socket to connect, close-on-exec and in non-blocking mode: socket(2), and bind(2) with a local address.
pub fn tcp_socket(ipv6: bool, local: Option<SocketAddr>) -> nix::Result<OwnedFd> {
  let family = if ipv6 { AddressFamily::Inet6 } else { AddressFamily::Inet };
  let fd = net::socket(family, SockType::Stream, CLOSE_ON_EXEC, SockProtocol::Tcp)?;
  set_close_on_exec(&fd)?;
  set_blocking(fd.as_fd(), false)?;
  if let Some(local) = local {
    restart(|| net::bind(fd.as_raw_fd(), &SockaddrStorage::from(local)))?;
  }
  Ok(fd)
}

/// Begins to connect a socket of `tcp_socket`: connect(2). The socket becomes writable when it is connected, or when that has failed.
pub fn begin_tcp_connection(fd: BorrowedFd<'_>, address: SocketAddr) -> nix::Result<()> {
  match restart(|| net::connect(fd.as_raw_fd(), &SockaddrStorage::from(address))) {
    // After a signal: the interrupted call has begun to connect, or has connected.
    Ok(()) | Err(Errno::EINPROGRESS | Errno::EALREADY | Errno::EISCONN) => Ok(()),
    Err(errno) => Err(errno),
  }
}

/// Returns whether a socket was connected, once it is writable (`SO_ERROR`), and switches it to blocking mode.
///
/// The kernel may choose the port that is being connected to, at which no process listens, for the socket itself, and connect it to
/// itself: that is `ECONNREFUSED`.
pub fn finish_tcp_connection(fd: BorrowedFd<'_>) -> nix::Result<()> {
  match net::getsockopt(&fd, sockopt::SocketError)? {
    0 => {}
    error => return Err(Errno::from_raw(error)),
  }
  if local_internet_address(fd)? == remote_internet_address(fd)? {
    return Err(Errno::ECONNREFUSED);
  }
  set_blocking(fd, true).map(drop)
}

/// Creates a UDP socket bound to an address, close-on-exec and in blocking mode: socket(2), bind(2).
pub fn udp_socket(address: SocketAddr) -> nix::Result<OwnedFd> {
  let fd = net::socket(family(address), SockType::Datagram, CLOSE_ON_EXEC, SockProtocol::Udp)?;
  set_close_on_exec(&fd)?;
  restart(|| net::bind(fd.as_raw_fd(), &SockaddrStorage::from(address)))?;
  Ok(fd)
}

fn family(address: SocketAddr) -> AddressFamily {
  if address.is_ipv6() { AddressFamily::Inet6 } else { AddressFamily::Inet }
}

/// Returns the local address of an Internet socket: `getsockname(2)`. `EAFNOSUPPORT` for another family.
pub fn local_internet_address(fd: BorrowedFd<'_>) -> nix::Result<SocketAddr> {
  internet_address(&net::getsockname(fd.as_raw_fd())?)
}

/// Returns the address of an Internet socket's peer: `getpeername(2)`. `ENOTCONN` without a peer.
pub fn remote_internet_address(fd: BorrowedFd<'_>) -> nix::Result<SocketAddr> {
  internet_address(&net::getpeername(fd.as_raw_fd())?)
}

/// Converts the address of an Internet socket; `EAFNOSUPPORT` for another family.
pub(crate) fn internet_address(address: &SockaddrStorage) -> nix::Result<SocketAddr> {
  let v4 = address.as_sockaddr_in().map(|&address| SocketAddr::V4(address.into()));
  v4.or_else(|| address.as_sockaddr_in6().map(|&address| SocketAddr::V6(address.into()))).ok_or(Errno::EAFNOSUPPORT)
}
