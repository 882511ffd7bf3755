//! Internet sockets, as far as they are made to be passed: TCP listeners, and the addresses of what was received.

use std::net::SocketAddr;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{self as net, AddressFamily, Backlog, SockProtocol, SockType, SockaddrStorage, sockopt};

use crate::{descriptor, socket};

/// Options of a TCP listener.
#[derive(Clone, Copy, Debug)]
pub struct TcpOptions {
  /// How many connections wait to be accepted; the kernel cuts it to its own limit.
  pub backlog: i32,
  /// Take no IPv4 connections on an IPv6 address.
  pub ipv6_only: bool,
  /// Share the port with other sockets that say so (`SO_REUSEPORT`).
  pub reuse_port: bool,
}

/// A TCP socket that listens, close-on-exec and in blocking mode: socket(2), bind(2), listen(2).
///
/// As servers do, it takes an address on which closed connections linger (`SO_REUSEADDR`).
pub fn tcp_listener(address: SocketAddr, options: TcpOptions) -> nix::Result<OwnedFd> {
  let family = if address.is_ipv6() { AddressFamily::Inet6 } else { AddressFamily::Inet };
  let fd = net::socket(family, SockType::Stream, socket::CLOSE_ON_EXEC, SockProtocol::Tcp)?;
  descriptor::set_close_on_exec(&fd)?;
  net::setsockopt(&fd, sockopt::ReuseAddr, &true)?;
  if options.reuse_port {
    net::setsockopt(&fd, sockopt::ReusePort, &true)?;
  }
  if address.is_ipv6() {
    net::setsockopt(&fd, sockopt::Ipv6V6Only, &options.ipv6_only)?;
  }
  net::bind(fd.as_raw_fd(), &SockaddrStorage::from(address))?;
  listen(&fd, options.backlog)?;
  Ok(fd)
}

/// A UDP socket with this address, close-on-exec and in blocking mode: socket(2), bind(2).
pub fn udp_socket(address: SocketAddr) -> nix::Result<OwnedFd> {
  let family = if address.is_ipv6() { AddressFamily::Inet6 } else { AddressFamily::Inet };
  let fd = net::socket(family, SockType::Datagram, socket::CLOSE_ON_EXEC, SockProtocol::Udp)?;
  descriptor::set_close_on_exec(&fd)?;
  net::bind(fd.as_raw_fd(), &SockaddrStorage::from(address))?;
  Ok(fd)
}

pub(crate) fn listen(fd: impl std::os::fd::AsFd, backlog: i32) -> nix::Result<()> {
  // nix takes a backlog of up to SOMAXCONN as it was at compile time.
  net::listen(&fd, Backlog::new(backlog).unwrap_or(Backlog::MAXCONN))
}

/// The own address of an Internet socket: `getsockname(2)`. `EAFNOSUPPORT` of another one.
pub fn local_internet_address(fd: BorrowedFd<'_>) -> nix::Result<SocketAddr> {
  internet(&net::getsockname(fd.as_raw_fd())?)
}

/// The address of an Internet socket's peer: `getpeername(2)`. `ENOTCONN` without one.
pub fn remote_internet_address(fd: BorrowedFd<'_>) -> nix::Result<SocketAddr> {
  internet(&net::getpeername(fd.as_raw_fd())?)
}

pub(crate) fn internet(address: &SockaddrStorage) -> nix::Result<SocketAddr> {
  let v4 = address.as_sockaddr_in().map(|&address| SocketAddr::V4(address.into()));
  v4.or_else(|| address.as_sockaddr_in6().map(|&address| SocketAddr::V6(address.into()))).ok_or(Errno::EAFNOSUPPORT)
}
