//! TCP listeners, and the addresses of Internet sockets.

mod fixtures;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};

use fdpass_core::{Errno, SocketType, TcpOptions, local_internet_address, remote_internet_address, tcp_listener};
use fixtures::*;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

const OPTIONS: TcpOptions = TcpOptions { backlog: 511, ipv6_only: false, reuse_port: false };
const V6_ONLY: TcpOptions = TcpOptions { ipv6_only: true, ..OPTIONS };

fn listen(address: &str, options: TcpOptions) -> Result<OwnedFd, Errno> {
  tcp_listener(address.parse().unwrap(), options)
}

fn address_of(fd: &OwnedFd) -> SocketAddr {
  local_internet_address(fd.as_fd()).unwrap()
}

#[track_caller]
fn assert_accepts(listener: OwnedFd, address: SocketAddr) {
  let mut client = TcpStream::connect(address).unwrap();
  let (mut accepted, _) = TcpListener::from(listener).accept().unwrap();
  accepted.write_all(b"text").unwrap();
  drop(accepted);
  let mut text = String::new();
  client.read_to_string(&mut text).unwrap();
  assert_eq!(text, "text");
}

#[test]
fn a_listener_is_close_on_exec_in_blocking_mode_and_accepts() {
  let listener = listen("127.0.0.1:0", OPTIONS).unwrap();
  assert!(is_close_on_exec(&listener));
  assert!(!is_nonblocking(&listener));
  let address = address_of(&listener);
  assert_ne!(address.port(), 0);
  assert_accepts(listener, address);
}

#[test]
fn a_listener_on_all_of_ipv6_takes_ipv4_unless_told_not_to() {
  let Ok(both) = listen("[::]:0", OPTIONS) else { return };
  let mut address = address_of(&both);
  address.set_ip([127, 0, 0, 1].into());
  assert_accepts(both, address);
  let only = listen("[::]:0", V6_ONLY).unwrap();
  address.set_port(address_of(&only).port());
  assert!(TcpStream::connect(address).is_err());
  address.set_ip(std::net::Ipv6Addr::LOCALHOST.into());
  assert_accepts(only, address);
}

fn connect(listener: &OwnedFd, local: Option<SocketAddr>) -> Result<OwnedFd, Errno> {
  let address = address_of(listener);
  let connection = fdpass_core::tcp_socket(address.is_ipv6(), local)?;
  fdpass_core::begin_tcp_connection(connection.as_fd(), address)?;
  poll(&mut [PollFd::new(connection.as_fd(), PollFlags::POLLOUT)], PollTimeout::NONE).unwrap();
  fdpass_core::finish_tcp_connection(connection.as_fd())?;
  Ok(connection)
}

#[test]
fn a_connection_is_close_on_exec_and_in_blocking_mode_and_talks() {
  let listener = listen("127.0.0.1:0", OPTIONS).unwrap();
  let connection = connect(&listener, Some("127.0.0.2:0".parse().unwrap())).unwrap();
  assert!(is_close_on_exec(&connection));
  assert!(!is_nonblocking(&connection));
  let (mut accepted, from) = TcpListener::from(listener).accept().unwrap();
  assert_eq!(from.ip().to_string(), "127.0.0.2");
  accepted.write_all(b"text").unwrap();
  drop(accepted);
  let mut text = String::new();
  TcpStream::from(connection).read_to_string(&mut text).unwrap();
  assert_eq!(text, "text");
}

#[test]
fn a_connection_that_nobody_accepts_is_refused_and_so_is_one_to_itself() {
  let listener = listen("127.0.0.1:0", OPTIONS).unwrap();
  let address = address_of(&listener);
  drop(listener);
  for local in [None, Some(address)] {
    let socket = fdpass_core::tcp_socket(false, local).unwrap();
    let begun = fdpass_core::begin_tcp_connection(socket.as_fd(), address);
    let outcome = begun.and_then(|()| {
      poll(&mut [PollFd::new(socket.as_fd(), PollFlags::POLLOUT)], PollTimeout::NONE).unwrap();
      fdpass_core::finish_tcp_connection(socket.as_fd())
    });
    assert_eq!(outcome, Err(Errno::ECONNREFUSED));
  }
}

#[test]
fn a_port_is_shared_only_by_those_who_all_say_so() {
  let shared = TcpOptions { reuse_port: true, ..OPTIONS };
  let first = listen("127.0.0.1:0", shared).unwrap();
  let address = address_of(&first);
  let second = tcp_listener(address, shared).unwrap();
  assert_eq!(address_of(&second), address);
  assert_eq!(tcp_listener(address, OPTIONS).unwrap_err(), Errno::EADDRINUSE);
}

#[test]
fn an_address_of_another_machine_is_not_available() {
  assert_eq!(listen("192.0.2.1:0", OPTIONS).unwrap_err(), Errno::EADDRNOTAVAIL);
}

#[test]
fn any_backlog_is_taken() {
  for backlog in [0, 1, 4096, i32::MAX] {
    let listener = listen("127.0.0.1:0", TcpOptions { backlog, ..OPTIONS }).unwrap();
    let address = address_of(&listener);
    assert_accepts(listener, address);
  }
}

#[test]
fn a_connection_has_the_addresses_of_both_ends() {
  let listener = TcpListener::bind("127.0.0.1:0").unwrap();
  let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
  let (accepted, _) = listener.accept().unwrap();
  assert_eq!(local_internet_address(client.as_fd()), remote_internet_address(accepted.as_fd()));
  assert_eq!(remote_internet_address(client.as_fd()), local_internet_address(accepted.as_fd()));
  assert_eq!(remote_internet_address(listener.as_fd()), Err(Errno::ENOTCONN));
}

#[test]
fn a_udp_socket_has_a_peer_once_it_is_connected() {
  let [a, b] = [(); 2].map(|()| UdpSocket::bind("127.0.0.1:0").unwrap());
  assert_eq!(remote_internet_address(a.as_fd()), Err(Errno::ENOTCONN));
  a.connect(b.local_addr().unwrap()).unwrap();
  assert_eq!(remote_internet_address(a.as_fd()), Ok(b.local_addr().unwrap()));
}

#[test]
fn what_is_no_internet_socket_has_no_internet_address() {
  let unix = pair(SocketType::Stream).0.fd;
  assert_eq!(local_internet_address(unix.as_fd()), Err(Errno::EAFNOSUPPORT));
  assert_eq!(local_internet_address(file_holding("").as_fd()), Err(Errno::ENOTSOCK));
  assert_eq!(local_internet_address(bad_fd()), Err(Errno::EBADF));
}
