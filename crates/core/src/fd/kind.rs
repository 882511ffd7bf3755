//! Kind of a descriptor: its file type, the options of a socket, and on Linux its link in /proc/self/fd.

#![cfg_attr(not(test), deny(clippy::arithmetic_side_effects))] // of numbers that a peer sends

use std::io::IsTerminal;
use std::os::fd::{AsRawFd, BorrowedFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::socket::{self as net, AddressFamily, SockType, SockaddrLike, SockaddrStorage};
use nix::sys::stat::{SFlag, fstat};

use crate::fd::memfd;
use crate::sys::errno::restart;
use crate::sys::{fds, sockopt};

/// Kind of a descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
  /// A regular file; without /proc also a memfd and a pidfd.
  File,
  /// A directory.
  Directory,
  /// An end of a pipe, or a named pipe.
  Fifo,
  /// A character device other than a terminal.
  CharacterDevice,
  /// A block device.
  BlockDevice,
  /// A terminal, or the end of a pseudoterminal that is used like one.
  Tty,
  /// The master of a pseudoterminal.
  Pty,
  /// A symbolic link (`O_PATH | O_NOFOLLOW`).
  Symlink,
  /// A TCP connection, or a TCP socket that could become one.
  Tcp,
  /// A TCP socket that listens.
  TcpListener,
  /// A UDP socket.
  Udp,
  /// A Unix domain stream socket.
  UnixStream,
  /// A Unix domain seqpacket socket.
  UnixSeqpacket,
  /// A Unix domain datagram socket.
  UnixDgram,
  /// A Unix domain stream or seqpacket socket that listens.
  UnixListener,
  /// Memory: memfd_create(2).
  Memfd,
  /// A process: pidfd_open(2).
  Pidfd,
  /// A counter: eventfd(2).
  Eventfd,
  /// An interest list: epoll(7).
  Epoll,
  /// A socket of another family or protocol, or a socket's file opened with `O_PATH`.
  Socket,
  /// Any other file.
  Other,
}

impl Kind {
  /// Returns the kind of a descriptor: fstat(2), isatty(3), ioctl_tty(2), getsockopt(2), and the links of /proc/self/fd.
  ///
  /// `EBADF` if the number is not open; `ENOMEM`. A file system can refuse fstat(2) for an open file (FUSE, NFS, procfs with
  /// `hidepid`): such a file is [`Kind::Other`], if it is no socket and has no kind in /proc.
  pub fn of(fd: BorrowedFd<'_>) -> nix::Result<Self> {
    let status = match restart(|| fstat(fd)) {
      Err(errno @ (Errno::EBADF | Errno::ENOMEM)) => return Err(errno),
      Err(_) => return Ok(socket(fd).ok().or_else(|| special(fd)).unwrap_or(Self::Other)),
      Ok(status) => status,
    };
    Ok(match SFlag::from_bits_truncate(status.st_mode) & SFlag::S_IFMT {
      // A file of a tmpfs has seals too, and its path can look like a memfd's. Only a memfd is in no folder.
      SFlag::S_IFREG => special(fd).filter(|&kind| kind != Self::Memfd || status.st_nlink == 0).unwrap_or(Self::File),
      SFlag::S_IFDIR => Self::Directory,
      SFlag::S_IFIFO => Self::Fifo,
      SFlag::S_IFCHR if fd.is_terminal() && fds::is_pty_master(fd) => Self::Pty,
      SFlag::S_IFCHR if fd.is_terminal() => Self::Tty,
      SFlag::S_IFCHR => Self::CharacterDevice,
      SFlag::S_IFBLK => Self::BlockDevice,
      SFlag::S_IFLNK => Self::Symlink,
      SFlag::S_IFSOCK => socket(fd).unwrap_or(Self::Socket),
      _ => special(fd).unwrap_or(Self::Other),
    })
  }
}

fn socket(fd: BorrowedFd<'_>) -> nix::Result<Kind> {
  let socket_type = net::getsockopt(&fd, net::sockopt::SockType)?;
  let listens = net::getsockopt(&fd, net::sockopt::AcceptConn)?;
  let address: SockaddrStorage = net::getsockname(fd.as_raw_fd())?;
  // An SCTP association is a stream too, and an ICMP socket is a datagram socket.
  let is = |known: &[libc::c_int]| sockopt::protocol(fd).is_none_or(|protocol| known.contains(&protocol));
  Ok(match (address.family(), socket_type) {
    (Some(AddressFamily::Unix), SockType::Stream | SockType::SeqPacket) if listens => Kind::UnixListener,
    (Some(AddressFamily::Unix), SockType::Stream) => Kind::UnixStream,
    (Some(AddressFamily::Unix), SockType::SeqPacket) => Kind::UnixSeqpacket,
    (Some(AddressFamily::Unix), SockType::Datagram) => Kind::UnixDgram,
    (Some(AddressFamily::Inet | AddressFamily::Inet6), SockType::Stream)
      if is(&[libc::IPPROTO_TCP, sockopt::IPPROTO_MPTCP]) =>
    {
      if listens {
        Kind::TcpListener
      } else {
        Kind::Tcp
      }
    }
    (Some(AddressFamily::Inet | AddressFamily::Inet6), SockType::Datagram) if is(&[libc::IPPROTO_UDP]) => Kind::Udp,
    _ => Kind::Socket,
  })
}

/// Returns the kind of a file without a path: its link in /proc/self/fd shows the kind instead (proc(5)).
///
/// A path begins with a slash, so it is distinct from these kinds. A memfd's link begins with one too; seals distinguish it
/// from a file with the same path.
fn special(fd: BorrowedFd<'_>) -> Option<Kind> {
  let link = std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd())).ok()?;
  match link.to_str()? {
    "anon_inode:[eventfd]" => Some(Kind::Eventfd),
    "anon_inode:[eventpoll]" => Some(Kind::Epoll),
    "anon_inode:[pidfd]" => Some(Kind::Pidfd),
    link if link.starts_with("pidfd:[") => Some(Kind::Pidfd), // from Linux 6.9 on
    link if link.starts_with("/memfd:") && memfd::seals(fd).is_ok() => Some(Kind::Memfd),
    _ => None,
  }
}

/// Access mode of a descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
  /// Neither reading nor writing: it names a place in the file system (`O_PATH`).
  Path,
  /// Reading.
  Read,
  /// Writing.
  Write,
  /// Reading and writing.
  Both,
}

impl Access {
  /// Returns the access mode with which a descriptor was opened: `fcntl(F_GETFL)`.
  pub fn of(fd: BorrowedFd<'_>) -> nix::Result<Self> {
    let flags = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL)?);
    #[cfg(any(target_os = "linux", target_os = "android", target_os = "freebsd"))]
    if flags.contains(OFlag::O_PATH) {
      return Ok(Self::Path);
    }
    match flags & OFlag::O_ACCMODE {
      OFlag::O_RDONLY => Ok(Self::Read),
      OFlag::O_WRONLY => Ok(Self::Write),
      OFlag::O_RDWR => Ok(Self::Both),
      _ => Err(Errno::EINVAL),
    }
  }
}
