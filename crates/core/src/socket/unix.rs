//! One `AF_UNIX` socket: creating, connecting, accepting, sending. Receiving is in `recv`.

use std::io::IoSlice;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::sys::socket::{self as net, AddressFamily, MsgFlags, Shutdown, SockType};

use super::address::Address;
use super::credentials::{Credentials, SentCredentials};
use crate::fd::without_blocking;
use crate::sys::cmsg::MAX_SENT_FDS;
use crate::sys::errno::restart;
use crate::sys::fds::{self, set_close_on_exec};
use crate::sys::socket::{CLOSE_ON_EXEC, accept, listen, unix_address};
use crate::sys::{msg, sockopt};

/// Type of a socket. It decides what one message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SocketType {
  /// `SOCK_STREAM`: bytes without boundaries.
  Stream,
  /// `SOCK_SEQPACKET`: packets over a connection.
  Seqpacket,
  /// `SOCK_DGRAM`: packets without a connection.
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

/// Half of a connection that `shutdown(2)` ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
  /// Nothing more is received (`SHUT_RD`).
  Read,
  /// Nothing more is sent; the peer sees the end (`SHUT_WR`).
  Write,
  /// Both (`SHUT_RDWR`).
  Both,
}

/// Control messages that a socket requests with each received message.
///
/// Enable them before the first message can arrive: a message that was sent before has none, or names no sender (no process,
/// user 65534 on Linux).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AncillaryOptions {
  /// Credentials of the sender: `SO_PASSCRED`, on FreeBSD `LOCAL_CREDS_PERSISTENT`.
  pub credentials: bool,
  /// Pidfd of the sender: `SO_PASSPIDFD`, from Linux 6.5 on.
  pub pidfd: bool,
}

/// Options of one send.
#[derive(Clone, Copy, Debug, Default)]
pub struct SendOptions<'a> {
  /// Destination of a datagram. Default: the socket's peer.
  pub to: Option<&'a Address>,
  /// Credentials to send. The kernel refuses other than true ones with `EPERM`, except from root.
  pub credentials: Option<Credentials>,
}

/// Creates a socket, close-on-exec and in blocking mode: `socket(2)`.
pub fn socket(socket_type: SocketType) -> nix::Result<OwnedFd> {
  let fd = net::socket(AddressFamily::Unix, socket_type.into(), CLOSE_ON_EXEC, None)?;
  prepare(fd.as_fd())?;
  Ok(fd)
}

/// Creates two connected sockets, close-on-exec and in blocking mode: `socketpair(2)`.
pub fn socketpair(socket_type: SocketType) -> nix::Result<(OwnedFd, OwnedFd)> {
  let (a, b) = net::socketpair(AddressFamily::Unix, socket_type.into(), None, CLOSE_ON_EXEC)?;
  prepare(a.as_fd())?;
  prepare(b.as_fd())?;
  Ok((a, b))
}

/// Makes a new socket close-on-exec, and its sends fail with `EPIPE` without `SIGPIPE`. On other platforms than macOS each
/// send passes `MSG_NOSIGNAL`.
fn prepare(socket: BorrowedFd<'_>) -> nix::Result<()> {
  set_close_on_exec(socket)?;
  #[cfg(target_vendor = "apple")]
  sockopt::set_no_sigpipe(socket)?;
  Ok(())
}

/// A borrowed `AF_UNIX` socket, with its type and the control messages that it requests.
///
/// ```
/// use std::fs::File;
/// use std::io::Write;
/// use std::os::fd::AsFd;
/// use fdpass_core::{ControlBuffer, MAX_RECEIVED_FDS, ReceivedFds, SendOptions, Socket, SocketType, pipe, socketpair};
///
/// let (a, b) = socketpair(SocketType::Seqpacket)?;
/// let (a, b) = (Socket::new(a.as_fd())?, Socket::new(b.as_fd())?);
/// let (reader, writer) = pipe()?;
/// a.send(b"a pipe", &[writer.as_fd()], SendOptions::default())?;
/// drop(writer); // the message has its own descriptor
///
/// let mut buffer = [0; 64];
/// let message = b.recv(&mut buffer, &mut ControlBuffer::default(), MAX_RECEIVED_FDS)?.expect("no end of the connection");
/// assert_eq!(&buffer[..message.length], b"a pipe");
/// let ReceivedFds::Complete(mut fds) = message.fds else { panic!("{message:?}") };
/// File::from(fds.remove(0)).write_all(b"hello")?;
/// assert_eq!(std::io::read_to_string(File::from(reader))?, "hello");
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Socket<'fd> {
  fd: BorrowedFd<'fd>,
  socket_type: SocketType,
  ancillary: AncillaryOptions,
}

impl AsFd for Socket<'_> {
  fn as_fd(&self) -> BorrowedFd<'_> {
    self.fd
  }
}

impl<'fd> Socket<'fd> {
  /// Borrows a descriptor after checking that it is an `AF_UNIX` socket. It requests no control messages.
  ///
  /// # Errors
  ///
  /// - `ENOTSOCK`: the descriptor is no socket.
  /// - `EAFNOSUPPORT`: the socket is of another family.
  /// - `EPROTONOSUPPORT`: the socket is of a type that carries no descriptors.
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
    #[cfg(target_vendor = "apple")]
    sockopt::set_no_sigpipe(fd)?;
    Ok(Self { fd, socket_type, ancillary: AncillaryOptions::default() })
  }

  /// Borrows a socket whose type is known from [`Socket::new`] or [`socketpair`], with the options that
  /// [`Socket::enable_ancillary`] enabled. It makes no system call.
  pub fn from_parts(fd: BorrowedFd<'fd>, socket_type: SocketType, ancillary: AncillaryOptions) -> Self {
    Self { fd, socket_type, ancillary }
  }

  /// Enables control messages with each received message. Those that are already enabled stay so.
  ///
  /// `ENOPROTOOPT` if the platform does not support one of them; then none is newly enabled.
  pub fn enable_ancillary(&self, options: AncillaryOptions) -> nix::Result<()> {
    // First the option that fewer kernels have, so that a failure leaves both off.
    if options.pidfd {
      sockopt::pass_pidfd(self.fd)?;
    }
    if options.credentials {
      sockopt::pass_credentials(self.fd)?;
    }
    Ok(())
  }

  /// Returns its type.
  pub fn socket_type(&self) -> SocketType {
    self.socket_type
  }

  /// Returns the control messages that it requests.
  pub fn ancillary(&self) -> AncillaryOptions {
    self.ancillary
  }

  /// Connects to a listening socket, or sets the peer of a datagram socket: `connect(2)`, without waiting.
  ///
  /// `EAGAIN` if the listener's backlog is full; no event reports when it has room. The BSDs return `ECONNREFUSED` for it,
  /// as they do if no process listens.
  pub fn connect(&self, address: &Address) -> nix::Result<()> {
    without_blocking(self.fd, || restart(|| net::connect(self.fd.as_raw_fd(), address.raw())))
  }

  /// Starts listening for connections: `listen(2)`. The kernel reduces the backlog to its own limit.
  pub fn listen(&self, backlog: i32) -> nix::Result<()> {
    listen(self.fd, backlog)
  }

  /// Returns whether the socket listens. Such a socket accepts, and neither sends nor receives.
  pub fn is_listening(&self) -> nix::Result<bool> {
    net::getsockopt(&self.fd, net::sockopt::AcceptConn)
  }

  /// Accepts a connection, close-on-exec and in blocking mode: `accept(2)`. It has the listener's [`AncillaryOptions`].
  ///
  /// accept(2) has no `MSG_DONTWAIT`: a listener in blocking mode waits, one in non-blocking mode returns `EAGAIN`. After
  /// `EMFILE` the connection is still in the backlog.
  pub fn accept(&self) -> nix::Result<OwnedFd> {
    loop {
      match accept(self.fd) {
        // ECONNABORTED: the peer has closed the connection before it was accepted.
        Err(Errno::ECONNABORTED) => {}
        Err(errno) => return Err(errno),
        Ok(connection) => {
          #[cfg(not(any(target_os = "linux", target_os = "android")))]
          {
            prepare(connection.as_fd())?;
            Socket::from_parts(connection.as_fd(), self.socket_type, self.ancillary)
              .enable_ancillary(self.ancillary)?;
          }
          return Ok(connection);
        }
      }
    }
  }

  /// Makes sends of descriptors to this socket fail with `EPERM`: `SO_PASSRIGHTS`, from Linux 6.16 on. On a listener it
  /// applies to later connections. `ENOPROTOOPT` on other platforms.
  pub fn refuse_descriptors(&self) -> nix::Result<()> {
    sockopt::refuse_rights(self.fd)
  }

  /// Returns its own address, if it has one: `getsockname(2)`.
  pub fn local_address(&self) -> nix::Result<Option<Address>> {
    unix_address(&net::getsockname(self.fd.as_raw_fd())?).map(Address::named)
  }

  /// Returns its peer's address, if the peer has one: `getpeername(2)`. `ENOTCONN` without a peer.
  pub fn peer_address(&self) -> nix::Result<Option<Address>> {
    unix_address(&net::getpeername(self.fd.as_raw_fd())?).map(Address::named)
  }

  /// Sends bytes, and the descriptors with the first of them: `sendmsg(2)`, without waiting and without `SIGPIPE`.
  ///
  /// Returns how many bytes the kernel accepted. On a stream it may be fewer than `data` has. The descriptors were sent all
  /// the same: send the rest without them. The caller's descriptors stay open.
  ///
  /// # Errors
  ///
  /// Besides those of sendmsg(2):
  ///
  /// - `EINVAL`: more than [`MAX_SENT_FDS`] descriptors, or descriptors without a byte on a stream. The kernel would drop
  ///   those silently (unix(7): at least one byte of real data).
  /// - `ENOPROTOOPT`: credentials that the platform cannot send.
  /// - `EAGAIN`: no room. For a datagram with an address it can mean that the receiver's queue is full; no event reports
  ///   when that has room.
  /// - `ETOOMANYREFS`: too many descriptors of this user are in flight; no event reports when there are fewer. The kernel was
  ///   made to collect unreachable ones, so the next attempt may succeed.
  pub fn send(&self, data: &[u8], fds: &[BorrowedFd<'_>], options: SendOptions<'_>) -> nix::Result<usize> {
    self.send_numbers(data, fds::numbers(fds), options)
  }

  /// As [`Socket::send`], with descriptors by their numbers. The kernel borrows them for the call: `EBADF` for one that is not open.
  pub fn send_numbers(&self, data: &[u8], numbers: &[RawFd], options: SendOptions<'_>) -> nix::Result<usize> {
    let data = if self.socket_type == SocketType::Stream { part(data) } else { data };
    self.send_slices(&[IoSlice::new(data)], numbers, options)
  }

  /// Sends the bytes of several slices, as [`Socket::send`]. Each should be a [`part`].
  pub(crate) fn send_slices(
    &self,
    data: &[IoSlice<'_>],
    fds: &[RawFd],
    options: SendOptions<'_>,
  ) -> nix::Result<usize> {
    let empty = data.iter().all(|slice| slice.is_empty());
    if fds.len() > MAX_SENT_FDS || (!fds.is_empty() && empty && self.socket_type == SocketType::Stream) {
      return Err(Errno::EINVAL);
    }
    let credentials = options.credentials.map(SentCredentials::new).transpose()?;
    #[cfg(not(target_vendor = "apple"))]
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
    #[cfg(target_vendor = "apple")]
    let flags = MsgFlags::MSG_DONTWAIT;
    let to = options.to.map(Address::raw);
    msg::send(self.fd, data, fds, credentials.as_ref().map(SentCredentials::message), to, flags).inspect_err(|&errno| {
      if errno == Errno::ETOOMANYREFS {
        // Sockets that are in flight over each other only count for their sender until Linux collects them. It does so when
        // any AF_UNIX socket is closed (unix_release_sock). A send starts it only beyond thousands in flight: 16,000 in
        // all (wait_for_unix_gc), in later kernels 2,024 of a user (unix_schedule_gc).
        let _ = socket(SocketType::Stream);
      }
    })
  }

  /// Shuts one half of the connection down, or both: `shutdown(2)`.
  pub fn shutdown(&self, direction: Direction) -> nix::Result<()> {
    let how = match direction {
      Direction::Read => Shutdown::Read,
      Direction::Write => Shutdown::Write,
      Direction::Both => Shutdown::Both,
    };
    net::shutdown(self.fd.as_raw_fd(), how)
  }
}

/// Returns the first bytes of a stream's data, as many as one call may take: macOS and FreeBSD refuse more than `i32::MAX`
/// (sendmsg(2): `EINVAL`), and Linux sends a part of them.
pub(crate) fn part(data: &[u8]) -> &[u8] {
  const MAX: usize = 1 << 30;
  data.get(..MAX).unwrap_or(data)
}
