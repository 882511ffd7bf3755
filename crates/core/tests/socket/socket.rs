//! Sockets and their messages, without descriptors.

#[path = "../fixtures/mod.rs"]
mod fixtures;

use std::net::{TcpListener, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};

use fdpass_core::{Direction, Errno, ReceivedFds, Socket, SocketType};
use fixtures::*;
use nix::fcntl::{FcntlArg, OFlag, fcntl};

#[test]
fn a_pair_is_connected_both_ways_e14() {
  for &socket_type in TYPES {
    let (a, b) = pair(socket_type);
    assert_eq!(a.send(b"there", &[]), Ok(5));
    assert_eq!(b.send(b"back", &[]), Ok(4));
    assert_eq!(b.complete().0, b"there");
    assert_eq!(a.complete().0, b"back");
  }
}

#[test]
fn a_pair_is_close_on_exec_and_blocking() {
  for &socket_type in TYPES {
    let (a, b) = pair(socket_type);
    for end in [&a.fd, &b.fd] {
      assert!(is_close_on_exec(end));
      assert!(!is_nonblocking(end));
    }
  }
}

#[test]
fn no_call_changes_the_blocking_mode() {
  for &socket_type in TYPES {
    for mode in [OFlag::empty(), OFlag::O_NONBLOCK] {
      let (a, b) = pair(socket_type);
      fcntl(&a.fd, FcntlArg::F_SETFL(mode)).unwrap();
      let before = status_flags(&a.fd);
      Socket::new(a.fd.as_fd()).unwrap();
      a.assert_nothing_to_receive();
      a.send(b"there", &[]).unwrap();
      b.send(b"back", &[]).unwrap();
      a.complete();
      a.socket().shutdown(Direction::Both).unwrap();
      assert_eq!(status_flags(&a.fd), before, "{socket_type:?}");
    }
  }
}

#[test]
fn the_type_of_a_socket_is_found_out() {
  for &socket_type in TYPES {
    let (a, _b) = pair(socket_type);
    assert_eq!(Socket::new(a.fd.as_fd()).unwrap().socket_type(), socket_type);
  }
  let directory = tempfile::tempdir().unwrap();
  let listener = UnixListener::bind(directory.path().join("listener")).unwrap();
  let connection = UnixStream::connect(directory.path().join("listener")).unwrap();
  let datagrams = UnixDatagram::bind(directory.path().join("datagrams")).unwrap();
  let rows: [(OwnedFd, SocketType); 3] = [
    (listener.into(), SocketType::Stream),
    (connection.into(), SocketType::Stream),
    (datagrams.into(), SocketType::Dgram),
  ];
  for (fd, socket_type) in rows {
    assert_eq!(Socket::new(fd.as_fd()).unwrap().socket_type(), socket_type);
  }
}

#[test]
fn what_is_no_unix_socket_is_refused() {
  let rows: &[(OwnedFd, Errno)] = &[
    (file_holding("").into(), Errno::ENOTSOCK),
    (std::io::pipe().unwrap().0.into(), Errno::ENOTSOCK),
    (TcpListener::bind("127.0.0.1:0").unwrap().into(), Errno::EAFNOSUPPORT),
    (UdpSocket::bind("127.0.0.1:0").unwrap().into(), Errno::EAFNOSUPPORT),
    #[cfg(any(target_os = "linux", target_os = "android"))]
    (raw_netlink(), Errno::EPROTONOSUPPORT),
  ];
  for (fd, errno) in rows {
    assert_eq!(Socket::new(fd.as_fd()).unwrap_err(), *errno);
  }
  assert_eq!(Socket::new(bad_fd()).unwrap_err(), Errno::EBADF);
}

/// A socket of a type that carries no descriptors.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn raw_netlink() -> OwnedFd {
  use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
  socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, None).unwrap()
}

#[test]
fn a_receive_does_not_wait_even_in_blocking_mode() {
  for &socket_type in TYPES {
    let (a, _b) = pair(socket_type);
    assert!(!is_nonblocking(&a.fd));
    a.assert_nothing_to_receive();
  }
}

#[test]
fn a_send_does_not_wait_even_in_blocking_mode_e5() {
  for &socket_type in CONNECTION_TYPES {
    let (a, b) = pair(socket_type);
    let chunk = [7; 1024];
    let mut sent = 0;
    let errno = loop {
      match a.send(&chunk, &[]) {
        Ok(taken) => sent += taken,
        Err(errno) => break errno,
      }
    };
    assert_eq!(errno, Errno::EAGAIN);
    let mut received = 0;
    while let Ok(message) = b.recv() {
      received += message.unwrap().bytes.len();
    }
    assert_eq!(received, sent);
    assert_eq!(a.send(&chunk, &[]), Ok(chunk.len()));
  }
}

#[test]
fn a_stream_takes_what_fits_and_gives_it_in_order() {
  let (a, b) = pair(SocketType::Stream);
  let data: Vec<u8> = (0..4 << 20).map(|index: u32| (index % 251) as u8).collect();
  let taken = a.send(&data, &[]).unwrap();
  assert!(0 < taken && taken < data.len());
  let mut received = Vec::new();
  while let Ok(message) = b.recv() {
    received.extend(message.unwrap().bytes);
  }
  assert!(received == data[..taken]);
}

#[test]
fn a_stream_keeps_what_did_not_fit() {
  let (a, b) = pair(SocketType::Stream);
  a.send(b"abcdef", &[]).unwrap();
  let first = b.recv_at_most(4, 0).unwrap().unwrap();
  assert_eq!((first.bytes.as_slice(), first.size), (&b"abcd"[..], 4));
  assert_eq!(b.complete().0, b"ef");
}

#[test]
fn packets_keep_their_boundaries() {
  for &socket_type in PACKET_TYPES {
    let (a, b) = pair(socket_type);
    for packet in [&b"one"[..], b"two", b"three"] {
      a.send(packet, &[]).unwrap();
    }
    for packet in [&b"one"[..], b"two", b"three"] {
      let message = b.recv().unwrap().unwrap();
      assert_eq!((message.bytes.as_slice(), message.size), (packet, packet.len()));
    }
  }
}

#[test]
fn a_packet_that_does_not_fit_tells_its_size_and_is_gone() {
  for &socket_type in PACKET_TYPES {
    let (a, b) = pair(socket_type);
    a.send(b"abcdefghij", &[]).unwrap();
    a.send(b"next", &[]).unwrap();
    let cut = b.recv_at_most(4, 0).unwrap().unwrap();
    assert_eq!(cut.bytes, b"abcd");
    assert_eq!(cut.size, if cfg!(any(target_os = "linux", target_os = "android")) { 10 } else { 5 });
    assert_eq!(b.complete().0, b"next");
  }
}

#[test]
fn a_packet_that_just_fits_is_whole() {
  for &socket_type in PACKET_TYPES {
    let (a, b) = pair(socket_type);
    a.send(b"abcd", &[]).unwrap();
    let message = b.recv_at_most(4, 0).unwrap().unwrap();
    assert_eq!((message.bytes.as_slice(), message.size), (&b"abcd"[..], 4));
  }
}

#[test]
fn a_closed_connection_ends_after_what_was_sent_and_stays_ended() {
  for &socket_type in CONNECTION_TYPES {
    let (a, b) = pair(socket_type);
    a.send(b"last", &[]).unwrap();
    drop(a);
    assert_eq!(b.complete().0, b"last");
    b.assert_ended();
    b.assert_ended();
  }
}

#[test]
#[cfg(any(target_os = "linux", target_os = "android"))]
fn a_datagram_socket_has_no_end() {
  let (a, b) = pair(SocketType::Dgram);
  a.send(b"last", &[]).unwrap();
  drop(a);
  assert_eq!(b.complete().0, b"last");
  b.assert_nothing_to_receive();
}

#[test]
fn an_empty_packet_is_a_message() {
  for &socket_type in PACKET_TYPES {
    let (a, b) = pair(socket_type);
    for packet in [&b""[..], b"", b"x", b""] {
      assert_eq!(a.send(packet, &[]), Ok(packet.len()));
    }
    for packet in [&b""[..], b"", b"x", b""] {
      let message = b.recv().unwrap().unwrap();
      assert_eq!((message.bytes.as_slice(), message.size), (packet, packet.len()));
      assert!(matches!(message.fds, ReceivedFds::Complete(fds) if fds.is_empty()));
    }
    b.assert_nothing_to_receive();
  }
}

#[test]
#[cfg(any(target_os = "linux", target_os = "android"))]
fn an_empty_packet_with_more_behind_it_is_not_the_end_of_a_hung_up_connection() {
  let (a, b) = pair(SocketType::Seqpacket);
  for packet in [&b""[..], b"", b"last"] {
    a.send(packet, &[]).unwrap();
  }
  drop(a);
  for packet in [&b""[..], b"", b"last"] {
    assert_eq!(b.complete().0, packet);
  }
  b.assert_ended();
}

#[test]
#[cfg(any(target_os = "linux", target_os = "android"))]
fn descriptors_without_a_byte_behind_empty_packets_are_not_lost_to_the_end() {
  let (a, b) = pair(SocketType::Seqpacket);
  let (fd, probe) = probe();
  for fds in [&[][..], &[], &[fd.as_fd()], &[]] {
    a.send(b"", fds).unwrap();
  }
  drop((a, fd));
  for count in [0, 0, 1] {
    let (data, fds) = b.complete();
    assert_eq!((data, fds.len()), (vec![], count));
    assert!(probe.is_open());
  }
  assert!(!probe.is_open());
  b.assert_ended();
}

#[test]
#[cfg(any(target_os = "linux", target_os = "android"))]
fn empty_packets_that_only_the_close_follows_are_taken_for_the_end() {
  let (a, b) = pair(SocketType::Seqpacket);
  a.send(b"last", &[]).unwrap();
  a.send(b"", &[]).unwrap();
  drop(a);
  assert_eq!(b.complete().0, b"last");
  b.assert_ended();
}

#[test]
fn an_empty_packet_is_not_the_end_where_only_our_half_is_shut_down() {
  for &socket_type in PACKET_TYPES {
    let (a, b) = pair(socket_type);
    b.socket().shutdown(Direction::Write).unwrap();
    a.send(b"", &[]).unwrap();
    assert_eq!(b.complete().0, b"");
    b.assert_nothing_to_receive();
  }
}

#[test]
fn no_room_for_bytes_is_not_the_end() {
  for &socket_type in TYPES {
    let (a, b) = pair(socket_type);
    a.send(b"abc", &[]).unwrap();
    let message = b.recv_at_most(0, 0).unwrap().unwrap();
    assert_eq!(message.bytes, b"");
    if socket_type == SocketType::Stream {
      assert_eq!(b.complete().0, b"abc");
    }
  }
}

#[test]
fn shutting_down_writing_ends_the_peers_reading_only() {
  for &socket_type in CONNECTION_TYPES {
    let (a, b) = pair(socket_type);
    a.send(b"last", &[]).unwrap();
    a.socket().shutdown(Direction::Write).unwrap();
    assert_eq!(b.complete().0, b"last");
    b.assert_ended();
    assert_eq!(a.send(b"more", &[]), Err(Errno::EPIPE));
    b.send(b"still", &[]).unwrap();
    assert_eq!(a.complete().0, b"still");
  }
}

#[test]
fn shutting_down_reading_ends_our_reading_only() {
  for &socket_type in CONNECTION_TYPES {
    let (a, b) = pair(socket_type);
    a.socket().shutdown(Direction::Read).unwrap();
    a.assert_ended();
    assert_eq!(a.send(b"still", &[]), Ok(5));
    assert_eq!(b.complete().0, b"still");
    #[cfg(any(target_os = "linux", target_os = "android"))]
    assert_eq!(b.send(b"more", &[]), Err(Errno::EPIPE));
  }
}

#[test]
fn shutting_down_both_ends_both_sides() {
  for &socket_type in CONNECTION_TYPES {
    let (a, b) = pair(socket_type);
    a.socket().shutdown(Direction::Both).unwrap();
    a.assert_ended();
    b.assert_ended();
    assert_eq!(a.send(b"more", &[]), Err(Errno::EPIPE));
    assert_eq!(b.send(b"more", &[]), Err(Errno::EPIPE));
  }
}

#[test]
fn a_send_to_a_closed_peer_fails_with_epipe_and_without_a_signal() {
  // SAFETY: no handler. Rust's runtime ignores the signal: with the default it would end these tests.
  unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
  for &socket_type in CONNECTION_TYPES {
    let (a, b) = pair(socket_type);
    drop(b);
    assert_eq!(a.send(b"x", &[]), Err(Errno::EPIPE));
    assert_eq!(a.send(b"x", &[]), Err(Errno::EPIPE));
  }
}

#[test]
#[cfg(any(target_os = "linux", target_os = "android"))]
fn a_peer_that_closed_with_bytes_unread_resets_the_connection_once_and_what_it_sent_is_not_lost() {
  let (last, reset) = (Ok(Some(b"last".to_vec())), Err(Errno::ECONNRESET));
  let rows = [
    (SocketType::Stream, [last.clone(), reset.clone(), Ok(None), Ok(None)]),
    (SocketType::Seqpacket, [reset, last, Ok(None), Ok(None)]),
  ];
  for (socket_type, expected) in rows {
    let (a, b) = pair(socket_type);
    b.send(b"unread", &[]).unwrap();
    a.send(b"last", &[]).unwrap();
    drop(a);
    let received = [(); 4].map(|()| b.recv().map(|message| message.map(|message| message.bytes)));
    assert_eq!(received, expected, "{socket_type:?}");
  }
}

#[test]
#[cfg(any(target_os = "linux", target_os = "android"))]
fn a_connection_ends_where_credentials_come_with_the_end_too() {
  for &socket_type in CONNECTION_TYPES {
    let (a, b) = pair(socket_type);
    switch_on(&b, libc::SO_PASSCRED).unwrap();
    drop(a);
    b.assert_ended();
  }
}
