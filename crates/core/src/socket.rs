//! `AF_UNIX` sockets: `socketpair`, `sendmsg`, `recvmsg`, `shutdown`.

use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::sys::socket::{
  self as net, AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, Shutdown, SockFlag, SockType,
};

use crate::control::{ControlBuffer, MAX_RECEIVED_FDS, MAX_SENT_FDS};
use crate::{descriptor, sys};

/// The type of a socket, which decides what a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SocketType {
  /// `SOCK_STREAM`: bytes without boundaries.
  Stream,
  /// `SOCK_SEQPACKET`: packets over a connection.
  Seqpacket,
  /// `SOCK_DGRAM`: packets without one.
  Dgram,
}

impl From<SocketType> for SockType {
  fn from(socket_type: SocketType) -> Self {
    match socket_type {
      SocketType::Stream => SockType::Stream,
      SocketType::Seqpacket => SockType::SeqPacket,
      SocketType::Dgram => SockType::Datagram,
    }
  }
}

/// Which half of a connection `shutdown(2)` ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
  /// No more is received (`SHUT_RD`).
  Read,
  /// No more is sent; the peer sees the end (`SHUT_WR`).
  Write,
  /// Both (`SHUT_RDWR`).
  Both,
}

/// What came beside the bytes of a message.
#[derive(Debug)]
pub enum Control {
  /// The descriptors that were sent with it, in their order; none is an answer too.
  Complete(Vec<OwnedFd>),
  /// The kernel could not deliver all descriptors (`MSG_CTRUNC`): the descriptor table is full, or a security module
  /// refused one. Those that came are closed.
  Truncated,
  /// More descriptors than the caller takes. All are closed.
  TooMany,
  /// A control message of a level or type that nobody asked for. The descriptors that came with it are closed.
  Unexpected,
}

/// One message, its bytes in the caller's buffer.
#[derive(Debug)]
pub struct Received {
  /// Bytes in the buffer.
  pub length: usize,
  /// Bytes of the packet as it was sent: more than `length` where it did not fit. On a stream the same as `length`;
  /// on platforms that do not tell, one more than `length`.
  pub size: usize,
  /// What came beside them.
  pub control: Control,
}

/// Two connected sockets, close-on-exec and in blocking mode: `socketpair(2)`.
pub fn socketpair(socket_type: SocketType) -> nix::Result<(OwnedFd, OwnedFd)> {
  #[cfg(any(target_os = "linux", target_os = "android", target_os = "freebsd"))]
  let flags = SockFlag::SOCK_CLOEXEC;
  #[cfg(not(any(target_os = "linux", target_os = "android", target_os = "freebsd")))]
  let flags = SockFlag::empty();
  let (a, b) = net::socketpair(AddressFamily::Unix, socket_type.into(), None, flags)?;
  for end in [&a, &b] {
    descriptor::set_close_on_exec(end)?;
    Socket { fd: end.as_fd(), socket_type }.ignore_sigpipe()?;
  }
  Ok((a, b))
}

/// A borrowed `AF_UNIX` socket and its type.
#[derive(Clone, Copy, Debug)]
pub struct Socket<'fd> {
  fd: BorrowedFd<'fd>,
  socket_type: SocketType,
}

impl<'fd> Socket<'fd> {
  /// Finds out what a descriptor is: `ENOTSOCK` if no socket, `EAFNOSUPPORT` if of another family than `AF_UNIX`,
  /// `EPROTONOSUPPORT` if of a type that carries no descriptors.
  pub fn new(fd: BorrowedFd<'fd>) -> nix::Result<Self> {
    let socket_type = match net::getsockopt(&fd, net::sockopt::SockType)? {
      SockType::Stream => SocketType::Stream,
      SockType::SeqPacket => SocketType::Seqpacket,
      SockType::Datagram => SocketType::Dgram,
      _ => return Err(Errno::EPROTONOSUPPORT),
    };
    let address: net::SockaddrStorage = net::getsockname(fd.as_raw_fd())?;
    match net::SockaddrLike::family(&address) {
      Some(AddressFamily::Unix) => {}
      _ => return Err(Errno::EAFNOSUPPORT),
    }
    let socket = Self { fd, socket_type };
    socket.ignore_sigpipe()?;
    Ok(socket)
  }

  /// A socket that [`Socket::new`] or [`socketpair`] has already seen.
  pub fn known(fd: BorrowedFd<'fd>, socket_type: SocketType) -> Self {
    Self { fd, socket_type }
  }

  /// Its type.
  pub fn socket_type(&self) -> SocketType {
    self.socket_type
  }

  /// Sends bytes, and with the first of them the descriptors: `sendmsg(2)`, without waiting and without `SIGPIPE`.
  ///
  /// Gives the number of bytes that the kernel took. On a stream that may be fewer than `data` holds; the descriptors
  /// have gone all the same and must not be sent again with the rest. The caller's descriptors stay open.
  ///
  /// Errors, besides those of sendmsg(2): `EINVAL` for descriptors without a byte on a stream, which would lose them
  /// without a word (unix(7): at least one byte of real data), and for more than [`MAX_SENT_FDS`].
  pub fn send(&self, data: &[u8], fds: &[BorrowedFd<'_>]) -> nix::Result<usize> {
    if fds.len() > MAX_SENT_FDS || (!fds.is_empty() && data.is_empty() && self.socket_type == SocketType::Stream) {
      return Err(Errno::EINVAL);
    }
    let mut numbers: [RawFd; MAX_SENT_FDS] = [0; MAX_SENT_FDS];
    for (number, fd) in numbers.iter_mut().zip(fds) {
      *number = fd.as_raw_fd();
    }
    // One message of rights: several in one call are merged by Linux and refused elsewhere.
    let rights = [ControlMessage::ScmRights(&numbers[..fds.len()])];
    let control = if fds.is_empty() { &rights[..0] } else { &rights[..] };
    #[cfg(not(target_vendor = "apple"))]
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
    #[cfg(target_vendor = "apple")]
    let flags = MsgFlags::MSG_DONTWAIT;
    loop {
      match net::sendmsg::<()>(self.fd.as_raw_fd(), &[IoSlice::new(data)], control, flags, None) {
        Err(Errno::EINTR) => {}
        result => return result,
      }
    }
  }

  /// Receives one message: `recvmsg(2)`, without waiting. `None` is the end of a stream or seqpacket connection.
  ///
  /// Every descriptor that the kernel installed is owned from here on and is close-on-exec. On a stream a message is
  /// what the kernel gives: bytes that were sent without descriptors may come before those that carry some (unix(7)).
  ///
  /// More than `max_fds` descriptors are refused as a whole. `EAGAIN` where nothing is there; `ECONNRESET`, once, where
  /// the peer closed with bytes of ours unread: on a stream after what it sent, on a seqpacket connection before.
  pub fn recv(&self, buffer: &mut [u8], control: &mut ControlBuffer, max_fds: usize) -> nix::Result<Option<Received>> {
    let packets = self.socket_type != SocketType::Stream;
    #[cfg(not(target_vendor = "apple"))]
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC;
    #[cfg(target_vendor = "apple")]
    let flags = MsgFlags::MSG_DONTWAIT;
    // recv(2): give the packet's length even where it does not fit.
    #[cfg(any(target_os = "linux", target_os = "android"))]
    let flags = if packets { flags | MsgFlags::MSG_TRUNC } else { flags };
    let capacity = buffer.len();
    let (bytes, message_flags, decoded) = loop {
      let room = control.cleared();
      match net::recvmsg::<()>(self.fd.as_raw_fd(), &mut [IoSliceMut::new(buffer)], Some(room), flags) {
        Err(Errno::EINTR) => {}
        Err(errno) => return Err(errno),
        Ok(message) => {
          break (message.bytes, message.flags, message.cmsgs().map(Decoded::from_messages).unwrap_or_default());
        }
      }
    };
    let truncated = message_flags.contains(MsgFlags::MSG_CTRUNC);
    let decoded =
      if truncated { Decoded { rights: sys::own_truncated(control.bytes()), ..Decoded::default() } } else { decoded };
    #[cfg(target_vendor = "apple")]
    decoded.rights.iter().try_for_each(descriptor::set_close_on_exec)?;

    // Where SO_PASSCRED is on, Linux gives credentials of nobody with the end of a stream.
    let nothing_sent = decoded.rights.is_empty() && !truncated && !(packets && decoded.unexpected);
    if bytes == 0 && capacity > 0 && nothing_sent && self.at_end()? {
      return Ok(None);
    }
    let length = bytes.min(capacity);
    let cut = packets && message_flags.contains(MsgFlags::MSG_TRUNC);
    Ok(Some(Received {
      length,
      size: if cut { bytes.max(length + 1) } else { length },
      control: match decoded {
        _ if truncated => Control::Truncated,
        Decoded { unexpected: true, .. } => Control::Unexpected,
        Decoded { rights, .. } if rights.len() > max_fds => Control::TooMany,
        Decoded { rights, .. } => Control::Complete(rights),
      },
    }))
  }

  /// Whether a receive of no bytes and no control data was the end.
  ///
  /// On a stream it always is, on a datagram socket never. A seqpacket connection gives the same for an empty packet;
  /// it has not ended while the peer can still send (no `POLLRDHUP`) or while more is queued. Empty packets that nothing
  /// but the peer's close follows cannot be told from the end.
  fn at_end(&self) -> nix::Result<bool> {
    match self.socket_type {
      SocketType::Stream => Ok(true),
      SocketType::Dgram => Ok(false),
      SocketType::Seqpacket => Ok(sys::hung_up(self.fd)? && sys::bytes_waiting(self.fd) == 0),
    }
  }

  /// Ends one half of the connection, or both: `shutdown(2)`.
  pub fn shutdown(&self, direction: Direction) -> nix::Result<()> {
    net::shutdown(
      self.fd.as_raw_fd(),
      match direction {
        Direction::Read => Shutdown::Read,
        Direction::Write => Shutdown::Write,
        Direction::Both => Shutdown::Both,
      },
    )
  }

  /// A send to a peer that is gone must fail with `EPIPE`, not end the process. Elsewhere than on macOS each send says
  /// so by `MSG_NOSIGNAL`.
  fn ignore_sigpipe(&self) -> nix::Result<()> {
    #[cfg(target_vendor = "apple")]
    sys::set_no_sigpipe(self.fd)?;
    Ok(())
  }
}

/// The control messages of one receive.
#[derive(Default)]
struct Decoded {
  rights: Vec<OwnedFd>,
  unexpected: bool,
}

impl Decoded {
  fn from_messages(messages: impl Iterator<Item = ControlMessageOwned>) -> Self {
    let mut decoded = Self::default();
    for message in messages {
      match message {
        // Linux merges several into one, other kernels do not.
        ControlMessageOwned::ScmRights(numbers) if decoded.rights.is_empty() => {
          decoded.rights = sys::own_received(numbers);
        }
        ControlMessageOwned::ScmRights(numbers) => decoded.rights.extend(sys::own_received(numbers)),
        ControlMessageOwned::Unknown(message) => {
          drop(sys::own_unknown(&message));
          decoded.unexpected = true;
        }
        _ => decoded.unexpected = true,
      }
    }
    debug_assert!(decoded.rights.len() <= MAX_RECEIVED_FDS);
    decoded
  }
}
