//! `AF_UNIX` sockets: made, connected, accepted; `sendmsg`, `recvmsg`, `shutdown`.

mod address;
mod capabilities;
mod credentials;
mod file;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod recv;

use std::io::IoSlice;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{self as net, AddressFamily, MsgFlags, Shutdown, SockType};

pub use crate::sys::cmsg::{ControlBuffer, MAX_RECEIVED_FDS, MAX_SENT_FDS};
pub use address::Address;
pub use capabilities::Capabilities;
pub use credentials::{Credentials, Peer, peer, peer_pidfd};
pub use file::{SocketFile, bind};
pub use recv::{Received, ReceivedFds};

use crate::fd::without_blocking;
use crate::sys::fds::set_close_on_exec;
use crate::sys::socket::{CLOSE_ON_EXEC, accept, listen};
use crate::sys::{msg, sockaddr, sockopt};
use credentials::SentCredentials;

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
pub struct AncillaryOptions {
  /// The sender's credentials: `SO_PASSCRED`, on FreeBSD `LOCAL_CREDS_PERSISTENT`.
  pub credentials: bool,
  /// A pidfd of the sender: `SO_PASSPIDFD`, from Linux 6.5 on.
  pub pidfd: bool,
}

/// What goes with a message beside its bytes and descriptors.
#[derive(Clone, Copy, Debug, Default)]
pub struct SendOptions<'a> {
  /// Where a datagram goes; without it to the socket's peer.
  pub to: Option<&'a Address>,
  /// Who is said to have sent it. The kernel refuses a lie with `EPERM`, except from root.
  pub credentials: Option<Credentials>,
}

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
  set_close_on_exec(socket)?;
  #[cfg(target_vendor = "apple")]
  sockopt::set_no_sigpipe(socket)?;
  Ok(())
}

/// A borrowed `AF_UNIX` socket, its type, and what it asks for.
#[derive(Clone, Copy, Debug)]
pub struct Socket<'fd> {
  fd: BorrowedFd<'fd>,
  socket_type: SocketType,
  receiving: AncillaryOptions,
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
    sockopt::set_no_sigpipe(fd)?;
    Ok(Self { fd, socket_type, receiving: AncillaryOptions::default() })
  }

  /// A socket that [`Socket::new`] or [`socketpair`] has already seen, and what was asked of it.
  pub fn from_parts(fd: BorrowedFd<'fd>, socket_type: SocketType, receiving: AncillaryOptions) -> Self {
    Self { fd, socket_type, receiving }
  }

  /// Has the kernel tell with each message what `receiving` asks for. What is already told goes on.
  ///
  /// `ENOPROTOOPT` where the platform cannot.
  pub fn enable_ancillary(&self, receiving: AncillaryOptions) -> nix::Result<()> {
    // First what fewer kernels have, so that nothing is on after a failure.
    if receiving.pidfd {
      sockopt::pass_pidfd(self.fd)?;
    }
    if receiving.credentials {
      sockopt::pass_credentials(self.fd)?;
    }
    Ok(())
  }

  /// Its type.
  pub fn socket_type(&self) -> SocketType {
    self.socket_type
  }

  /// What it asks the kernel to tell.
  pub fn receiving(&self) -> AncillaryOptions {
    self.receiving
  }

  /// Connects to a listening socket, or gives a datagram socket its peer: `connect(2)`, without waiting.
  ///
  /// `EAGAIN` where the listener's backlog is full, which no event announces the end of; the BSDs say `ECONNREFUSED`,
  /// as they do where nobody listens.
  pub fn connect(&self, address: &Address) -> nix::Result<()> {
    without_blocking(self.fd, || {
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
    listen(self.fd, backlog)
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
      match accept(self.fd) {
        // The second: accept(2), of a connection whose peer has gone meanwhile.
        Err(Errno::EINTR | Errno::ECONNABORTED) => {}
        Err(errno) => return Err(errno),
        Ok(connection) => {
          #[cfg(not(any(target_os = "linux", target_os = "android")))]
          {
            prepare(connection.as_fd())?;
            Socket::from_parts(connection.as_fd(), self.socket_type, self.receiving)
              .enable_ancillary(self.receiving)?;
          }
          return Ok(connection);
        }
      }
    }
  }

  /// Has peers that send descriptors refused with `EPERM`: `SO_PASSRIGHTS`, from Linux 6.16 on. On a listener it holds
  /// for connections that are made from then on. `ENOPROTOOPT` elsewhere.
  pub fn refuse_descriptors(&self) -> nix::Result<()> {
    sockopt::refuse_rights(self.fd)
  }

  /// Its own address, if it has one: `getsockname(2)`.
  pub fn local_address(&self) -> nix::Result<Option<Address>> {
    sockaddr::unix_address(&net::getsockname(self.fd.as_raw_fd())?).map(Address::named)
  }

  /// Its peer's address, if it has one: `getpeername(2)`. `ENOTCONN` without a peer.
  pub fn peer_address(&self) -> nix::Result<Option<Address>> {
    sockaddr::unix_address(&net::getpeername(self.fd.as_raw_fd())?).map(Address::named)
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
  pub fn send(&self, data: &[u8], fds: &[BorrowedFd<'_>], envelope: SendOptions<'_>) -> nix::Result<usize> {
    self.send_slices(&[IoSlice::new(data)], fds, envelope)
  }

  /// As [`Socket::send`], gathering the bytes from several places.
  pub(crate) fn send_slices(
    &self,
    data: &[IoSlice<'_>],
    fds: &[BorrowedFd<'_>],
    envelope: SendOptions<'_>,
  ) -> nix::Result<usize> {
    let empty = data.iter().all(|slice| slice.is_empty());
    if fds.len() > MAX_SENT_FDS || (!fds.is_empty() && empty && self.socket_type == SocketType::Stream) {
      return Err(Errno::EINVAL);
    }
    let credentials = envelope.credentials.map(SentCredentials::new).transpose()?;
    #[cfg(not(target_vendor = "apple"))]
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
    #[cfg(target_vendor = "apple")]
    let flags = MsgFlags::MSG_DONTWAIT;
    let to = envelope.to.map(Address::raw);
    loop {
      match msg::send(self.fd, data, fds, credentials.as_ref().map(SentCredentials::message), to, flags) {
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
