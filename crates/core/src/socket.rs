//! `AF_UNIX` sockets: made, connected, accepted; `sendmsg`, `recvmsg`, `shutdown`.

use std::io::IoSlice;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{self as net, AddressFamily, MsgFlags, Shutdown, SockFlag, SockType};

use crate::control::{ControlBuffer, MAX_RECEIVED_FDS, MAX_SENT_FDS};
use crate::{Address, Credentials, descriptor, internet, sys};

#[cfg(any(test, fuzzing))]
pub mod fuzzing;

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

/// What a socket asks the kernel to tell with each message.
///
/// Ask before the first byte can arrive: what was sent before comes without, or as from nobody (no process, user 65534
/// on Linux).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Receiving {
  /// The sender's credentials: `SO_PASSCRED`, on FreeBSD `LOCAL_CREDS_PERSISTENT`.
  pub credentials: bool,
  /// A pidfd of the sender: `SO_PASSPIDFD`, from Linux 6.5 on.
  pub pidfd: bool,
}

/// What goes with a message beside its bytes and descriptors.
#[derive(Clone, Copy, Debug, Default)]
pub struct Envelope<'a> {
  /// Where a datagram goes; without it to the socket's peer.
  pub to: Option<&'a Address>,
  /// Who is said to have sent it. The kernel refuses a lie with `EPERM`, except from root.
  pub credentials: Option<Credentials>,
}

/// What became of the descriptors of a message.
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
  /// Who sent it, if [`Receiving`] asks.
  pub credentials: Option<Credentials>,
  /// The process that sent it, if [`Receiving`] asks and the kernel still knows it.
  pub pidfd: Option<OwnedFd>,
  /// On a datagram socket, the sender's address if it has one.
  pub address: Option<Address>,
}

#[cfg(any(target_os = "linux", target_os = "android", target_os = "freebsd"))]
pub(crate) const CLOSE_ON_EXEC: SockFlag = SockFlag::SOCK_CLOEXEC;
#[cfg(not(any(target_os = "linux", target_os = "android", target_os = "freebsd")))]
pub(crate) const CLOSE_ON_EXEC: SockFlag = SockFlag::empty();

/// A new socket, without a name and not connected, close-on-exec and in blocking mode: `socket(2)`.
pub fn socket(socket_type: SocketType) -> nix::Result<OwnedFd> {
  let fd = net::socket(AddressFamily::Unix, socket_type.into(), CLOSE_ON_EXEC, None)?;
  prepare(fd.as_fd())?;
  Ok(fd)
}

/// Two connected sockets, close-on-exec and in blocking mode: `socketpair(2)`.
pub fn socketpair(socket_type: SocketType) -> nix::Result<(OwnedFd, OwnedFd)> {
  let (a, b) = net::socketpair(AddressFamily::Unix, socket_type.into(), None, CLOSE_ON_EXEC)?;
  prepare(a.as_fd())?;
  prepare(b.as_fd())?;
  Ok((a, b))
}

/// What every socket of ours is: close-on-exec, and a send to a peer that is gone fails with `EPIPE` and does not end the
/// process. Elsewhere than on macOS each send says so by `MSG_NOSIGNAL`.
fn prepare(socket: BorrowedFd<'_>) -> nix::Result<()> {
  descriptor::set_close_on_exec(socket)?;
  #[cfg(target_vendor = "apple")]
  sys::set_no_sigpipe(socket)?;
  Ok(())
}

/// A borrowed `AF_UNIX` socket, its type, and what it asks for.
#[derive(Clone, Copy, Debug)]
pub struct Socket<'fd> {
  fd: BorrowedFd<'fd>,
  socket_type: SocketType,
  receiving: Receiving,
}

impl AsFd for Socket<'_> {
  fn as_fd(&self) -> BorrowedFd<'_> {
    self.fd
  }
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
    #[cfg(target_vendor = "apple")]
    sys::set_no_sigpipe(fd)?;
    Ok(Self { fd, socket_type, receiving: Receiving::default() })
  }

  /// A socket that [`Socket::new`] or [`socketpair`] has already seen, and what was asked of it.
  pub fn known(fd: BorrowedFd<'fd>, socket_type: SocketType, receiving: Receiving) -> Self {
    Self { fd, socket_type, receiving }
  }

  /// Has the kernel tell with each message what `receiving` asks for. What is already told goes on.
  ///
  /// `ENOPROTOOPT` where the platform cannot.
  pub fn ask(&self, receiving: Receiving) -> nix::Result<()> {
    // First what fewer kernels have, so that nothing is on after a failure.
    if receiving.pidfd {
      sys::pass_pidfd(self.fd)?;
    }
    if receiving.credentials {
      sys::pass_credentials(self.fd)?;
    }
    Ok(())
  }

  /// Its type.
  pub fn socket_type(&self) -> SocketType {
    self.socket_type
  }

  /// What it asks the kernel to tell.
  pub fn receiving(&self) -> Receiving {
    self.receiving
  }

  /// Connects to a listening socket, or gives a datagram socket its peer: `connect(2)`, without waiting.
  ///
  /// `EAGAIN` where the listener's backlog is full, which no event announces the end of; the BSDs say `ECONNREFUSED`,
  /// as they do where nobody listens.
  pub fn connect(&self, address: &Address) -> nix::Result<()> {
    descriptor::without_blocking(self.fd, || {
      loop {
        match net::connect(self.fd.as_raw_fd(), address.raw()) {
          Err(Errno::EINTR) => {}
          result => return result,
        }
      }
    })
  }

  /// Lets others connect: `listen(2)`. The kernel cuts the backlog to its own limit.
  pub fn listen(&self, backlog: i32) -> nix::Result<()> {
    internet::listen(self.fd, backlog)
  }

  /// Whether it listens: such a socket accepts, and neither sends nor receives.
  pub fn is_listening(&self) -> nix::Result<bool> {
    net::getsockopt(&self.fd, net::sockopt::AcceptConn)
  }

  /// Takes a connection off the backlog, close-on-exec and in blocking mode: `accept(2)`. It asks for what the listener
  /// asks for.
  ///
  /// There is no `MSG_DONTWAIT` here: with the listener in blocking mode the call waits where there is none. `EAGAIN`
  /// otherwise. After `EMFILE` the connection is still in the backlog.
  pub fn accept(&self) -> nix::Result<OwnedFd> {
    loop {
      match sys::accept(self.fd) {
        // The second: accept(2), of a connection whose peer has gone meanwhile.
        Err(Errno::EINTR | Errno::ECONNABORTED) => {}
        Err(errno) => return Err(errno),
        Ok(connection) => {
          #[cfg(not(any(target_os = "linux", target_os = "android")))]
          {
            prepare(connection.as_fd())?;
            Socket::known(connection.as_fd(), self.socket_type, self.receiving).ask(self.receiving)?;
          }
          return Ok(connection);
        }
      }
    }
  }

  /// Has peers that send descriptors refused with `EPERM`: `SO_PASSRIGHTS`, from Linux 6.16 on. On a listener it holds
  /// for connections that are made from then on. `ENOPROTOOPT` elsewhere.
  pub fn refuse_descriptors(&self) -> nix::Result<()> {
    sys::refuse_rights(self.fd)
  }

  /// Its own address, if it has one: `getsockname(2)`.
  pub fn local_address(&self) -> nix::Result<Option<Address>> {
    sys::unix_address(&net::getsockname(self.fd.as_raw_fd())?).map(Address::named)
  }

  /// Its peer's address, if it has one: `getpeername(2)`. `ENOTCONN` without a peer.
  pub fn peer_address(&self) -> nix::Result<Option<Address>> {
    sys::unix_address(&net::getpeername(self.fd.as_raw_fd())?).map(Address::named)
  }

  /// Sends bytes, and with the first of them the descriptors: `sendmsg(2)`, without waiting and without `SIGPIPE`.
  ///
  /// Gives the number of bytes that the kernel took. On a stream that may be fewer than `data` holds; the descriptors
  /// have gone all the same and must not be sent again with the rest. The caller's descriptors stay open.
  ///
  /// Errors, besides those of sendmsg(2): `EINVAL` for descriptors without a byte on a stream, which would lose them
  /// without a word (unix(7): at least one byte of real data), and for more than [`MAX_SENT_FDS`]; `ENOPROTOOPT` for
  /// credentials where the platform sends none, or only the true ones. `EAGAIN` for a datagram to an address of its own
  /// can mean that the receiver's queue is full, which no event announces the end of. `ETOOMANYREFS`, likewise, has the
  /// kernel collect what nobody can receive any more, and may be gone at the next try.
  pub fn send(&self, data: &[u8], fds: &[BorrowedFd<'_>], envelope: Envelope<'_>) -> nix::Result<usize> {
    self.send_slices(&[IoSlice::new(data)], fds, envelope)
  }

  /// As [`Socket::send`], gathering the bytes from several places.
  pub(crate) fn send_slices(
    &self,
    data: &[IoSlice<'_>],
    fds: &[BorrowedFd<'_>],
    envelope: Envelope<'_>,
  ) -> nix::Result<usize> {
    let empty = data.iter().all(|slice| slice.is_empty());
    if fds.len() > MAX_SENT_FDS || (!fds.is_empty() && empty && self.socket_type == SocketType::Stream) {
      return Err(Errno::EINVAL);
    }
    let claim = envelope.credentials.map(sys::Claim::new).transpose()?;
    #[cfg(not(target_vendor = "apple"))]
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
    #[cfg(target_vendor = "apple")]
    let flags = MsgFlags::MSG_DONTWAIT;
    let to = envelope.to.map(Address::raw);
    loop {
      match sys::send(self.fd, data, fds, claim.as_ref(), to, flags) {
        Err(Errno::EINTR) => {}
        Err(Errno::ETOOMANYREFS) => {
          // Sockets on their way over nothing but each other count for their sender until Linux collects them: when any
          // AF_UNIX socket is closed (unix_release_sock); a send has it look only beyond thousands (wait_for_unix_gc:
          // 16,000 on their way in all; unix_schedule_gc of later kernels: 2,024 of a user).
          let _ = socket(SocketType::Stream);
          return Err(Errno::ETOOMANYREFS);
        }
        result => return result,
      }
    }
  }

  /// Receives one message: `recvmsg(2)`, without waiting. `None` is the end of a stream or seqpacket connection, and of a
  /// datagram socket whose reading half was shut down.
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
    // Only a datagram can come from elsewhere than the peer.
    let ask_sender = self.socket_type == SocketType::Dgram;
    let arrived = loop {
      match sys::receive(self.fd, buffer, control.room(), ask_sender, flags) {
        Err(Errno::EINTR) => {}
        // Linux tells of the end that shutdown(2) made of a seqpacket socket, and only polls it of a datagram socket.
        Err(Errno::EAGAIN) if ask_sender && sys::hung_up(self.fd)? => return Ok(None),
        result => break result?,
      }
    };
    let decoded = Decoded::new(control.written(arrived.control), self.receiving);
    let truncated = arrived.flags.contains(MsgFlags::MSG_CTRUNC);
    let bytes = arrived.bytes;
    #[cfg(target_vendor = "apple")]
    decoded.rights.iter().try_for_each(descriptor::set_close_on_exec)?;

    // Where SO_PASSCRED is on, Linux gives credentials of nobody with the end of a stream.
    let nothing_sent = decoded.rights.is_empty() && !truncated && !(packets && decoded.has_others());
    if bytes == 0 && capacity > 0 && nothing_sent && self.at_end()? {
      return Ok(None);
    }
    let length = bytes.min(capacity);
    let cut = packets && arrived.flags.contains(MsgFlags::MSG_TRUNC);
    let Decoded { rights, unexpected, lost, credentials, pidfd } = decoded;
    Ok(Some(Received {
      length,
      size: if cut { bytes.max(length + 1) } else { length },
      control: match rights {
        _ if truncated || lost => Control::Truncated,
        _ if unexpected => Control::Unexpected,
        rights if rights.len() > max_fds => Control::TooMany,
        rights => Control::Complete(rights),
      },
      credentials,
      pidfd,
      address: arrived.sender.and_then(Address::named),
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
      SocketType::Seqpacket => {
        Ok(sys::hung_up(self.fd)? && sys::bytes_waiting(self.fd) == 0 && !sys::descriptors_wait(self.fd))
      }
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
}

/// The control messages of one receive.
#[derive(Default)]
struct Decoded {
  rights: Vec<OwnedFd>,
  credentials: Option<Credentials>,
  pidfd: Option<OwnedFd>,
  unexpected: bool,
  /// The table had no room for a pidfd.
  lost: bool,
}

impl Decoded {
  fn new(control: &[u8], asked: Receiving) -> Self {
    let mut decoded = Self::default();
    sys::own_control(control, |told| match told {
      sys::Told::Rights { mut fds, withheld } => {
        decoded.lost |= withheld;
        // Linux merges several into one, other kernels do not.
        if decoded.rights.is_empty() { decoded.rights = fds } else { decoded.rights.append(&mut fds) }
      }
      sys::Told::Pidfd { mut fds, failed } if asked.pidfd => {
        match fds.pop() {
          Some(pidfd) => decoded.pidfd = Some(pidfd),
          // Otherwise the sender has ended, and nothing names it any more.
          None => decoded.lost |= matches!(failed, Errno::EMFILE | Errno::ENFILE | Errno::ENOMEM),
        }
      }
      sys::Told::Credentials(sender) if asked.credentials => decoded.credentials = Some(sender),
      _ => decoded.unexpected = true,
    });
    debug_assert!(decoded.rights.len() <= MAX_RECEIVED_FDS);
    decoded
  }

  /// Whether anything but descriptors came.
  fn has_others(&self) -> bool {
    self.unexpected || self.credentials.is_some() || self.pidfd.is_some()
  }
}
