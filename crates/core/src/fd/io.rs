//! Reading and writing: on an event loop without waiting, and files on a pool of threads.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{self as net, MsgFlags, SockType};
use nix::sys::stat::{SFlag, fstat};
use nix::sys::uio::{pread, pwrite};
use nix::unistd;

use crate::sys::errno::restart;
use crate::sys::fds::{self, set_blocking};

/// Flags of a send: it does not wait, and raises no `SIGPIPE`. macOS has no flag for the latter; Node ignores the signal.
#[cfg(not(target_vendor = "apple"))]
const SEND_FLAGS: MsgFlags = MsgFlags::MSG_DONTWAIT.union(MsgFlags::MSG_NOSIGNAL);
#[cfg(target_vendor = "apple")]
const SEND_FLAGS: MsgFlags = MsgFlags::MSG_DONTWAIT;

/// The number of bytes that one system call reads from a file, or writes.
const PIECE: usize = 1 << 20;

/// Returns whether a descriptor is read and written on a pool of threads: a regular file, a directory, a symbolic link or a block
/// device. poll(2) reports such files as always ready. A file system can refuse fstat(2), and such a file is one too.
pub fn is_file(fd: BorrowedFd<'_>) -> nix::Result<bool> {
  match restart(|| fstat(fd)) {
    Ok(status) => {
      let kind = SFlag::from_bits_truncate(status.st_mode) & SFlag::S_IFMT;
      Ok([SFlag::S_IFREG, SFlag::S_IFDIR, SFlag::S_IFBLK, SFlag::S_IFLNK].contains(&kind))
    }
    Err(errno @ (Errno::EBADF | Errno::ENOMEM)) => Err(errno),
    Err(_) => Ok(true),
  }
}

/// Returns whether a descriptor is ready to be read, or to be written: poll(2). An error and a hang-up count as both, because the
/// next operation reports them at once.
pub fn is_ready(fd: BorrowedFd<'_>, events: PollFlags) -> nix::Result<bool> {
  let mut polled = [PollFd::new(fd, events)];
  restart(|| poll(&mut polled, PollTimeout::ZERO))?;
  let found = polled.first().and_then(PollFd::revents).unwrap_or(PollFlags::empty());
  if found.contains(PollFlags::POLLNVAL) { Err(Errno::EBADF) } else { Ok(!found.is_empty()) }
}

/// How a call is made that must not wait.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Method {
  /// `MSG_DONTWAIT`.
  Socket,
  /// `RWF_NOWAIT` of preadv2(2) and pwritev2(2). Only some files support it.
  NoWait,
  /// On another open file description of the same file, which is in non-blocking mode.
  Reopened,
  /// In non-blocking mode, which is switched on for the duration of a call, if poll(2) reports readiness.
  Switched,
}

/// Reads and writes a descriptor that poll(2) reports on, without waiting. The mode of its open file description, which other
/// processes can share, is not changed, or only for the duration of a call: see `docs/internals/descriptors.md`.
pub struct NonBlocking {
  read: Method,
  write: Method,
  reopened: Option<OwnedFd>,
  /// Whether an empty read is a datagram and not the end.
  has_empty_messages: bool,
}

impl NonBlocking {
  /// Finds out how a descriptor is read and written.
  pub fn new(fd: BorrowedFd<'_>) -> nix::Result<Self> {
    let status = restart(|| fstat(fd))?;
    let is_socket = SFlag::from_bits_truncate(status.st_mode) & SFlag::S_IFMT == SFlag::S_IFSOCK;
    let method = if is_socket { Method::Socket } else { Method::NoWait };
    let has_empty_messages = is_socket && net::getsockopt(&fd, net::sockopt::SockType)? == SockType::Datagram;
    Ok(Self { read: method, write: method, reopened: None, has_empty_messages })
  }

  /// Reads: read(2), or recv(2) from a socket. Returns none at the end of the file, `EAGAIN` if it would wait.
  ///
  /// The master of a pseudoterminal fails with `EIO` on Linux once the other end is closed and everything was read. That is the
  /// end too.
  pub fn read(&mut self, fd: BorrowedFd<'_>, buffer: &mut [u8]) -> nix::Result<Option<usize>> {
    let result = loop {
      let result = match (self.read, &self.reopened) {
        (Method::Socket, _) => restart(|| net::recv(fds::number(fd), buffer, MsgFlags::MSG_DONTWAIT)),
        (Method::NoWait, _) => restart(|| fds::read_no_wait(fd, buffer)),
        (Method::Reopened, Some(reopened)) => restart(|| unistd::read(reopened, buffer)),
        _ => switched(fd, PollFlags::POLLIN, || unistd::read(fd, buffer)),
      };
      match result {
        Err(Errno::EOPNOTSUPP | Errno::ENOSYS) if self.read == Method::NoWait => self.read = self.other_method(fd),
        result => break result,
      }
    };
    match result {
      Ok(0) if !self.has_empty_messages => Ok(None),
      Err(Errno::EIO) if fds::is_pty_master(fd) => Ok(None),
      result => result.map(Some),
    }
  }

  /// Writes: write(2), or send(2) to a socket. Returns the number of bytes written, `EAGAIN` if it would wait.
  pub fn write(&mut self, fd: BorrowedFd<'_>, bytes: &[u8]) -> nix::Result<usize> {
    loop {
      let result = match (self.write, &self.reopened) {
        (Method::Socket, _) => restart(|| net::send(fds::number(fd), bytes, SEND_FLAGS)),
        (Method::NoWait, _) => restart(|| fds::write_no_wait(fd, bytes)),
        (Method::Reopened, Some(reopened)) => restart(|| unistd::write(reopened, bytes)),
        _ => switched(fd, PollFlags::POLLOUT, || unistd::write(fd, bytes)),
      };
      match result {
        Err(Errno::EOPNOTSUPP | Errno::ENOSYS) if self.write == Method::NoWait => self.write = self.other_method(fd),
        result => return result,
      }
    }
  }

  /// Returns the other descriptor of the file that was opened for reading and writing, if any.
  pub fn reopened(&self) -> Option<BorrowedFd<'_>> {
    self.reopened.as_ref().map(AsFd::as_fd)
  }

  /// Chooses the method for a file without `RWF_NOWAIT`.
  fn other_method(&mut self, fd: BorrowedFd<'_>) -> Method {
    if self.reopened.is_none() {
      self.reopened = reopened(fd);
    }
    if self.reopened.is_some() { Method::Reopened } else { Method::Switched }
  }
}

/// Makes a call in non-blocking mode if poll(2) reports that it would not wait, and restores the mode. `EAGAIN` otherwise.
///
/// poll(2) promises no room for a whole write, and another process can read first: hence the mode.
fn switched(fd: BorrowedFd<'_>, events: PollFlags, call: impl FnMut() -> nix::Result<usize>) -> nix::Result<usize> {
  if !is_ready(fd, events)? {
    return Err(Errno::EAGAIN);
  }
  let was_blocking = set_blocking(fd, false)?;
  let result = restart(call);
  if was_blocking {
    set_blocking(fd, true)?;
  }
  result
}

/// Opens a named pipe or a terminal anew, in non-blocking mode, as libuv opens a terminal (`uv_tty_init`); none if that is not
/// possible, for instance because the file's permissions forbid it.
///
/// A pseudoterminal's master cannot be opened anew: its file creates another one. Neither can a terminal whose file stands for
/// several: /dev/tty and /dev/console.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn reopened(fd: BorrowedFd<'_>) -> Option<OwnedFd> {
  use nix::fcntl::{FcntlArg, OFlag, fcntl, open};
  use std::io::IsTerminal;

  use nix::sys::stat::Mode;
  let status = restart(|| fstat(fd)).ok()?;
  let is_same_file = match SFlag::from_bits_truncate(status.st_mode) & SFlag::S_IFMT {
    SFlag::S_IFIFO => true,
    SFlag::S_IFCHR if fd.is_terminal() => fds::terminal_device(fd).is_ok_and(|device| device == status.st_rdev),
    _ => false,
  };
  // A terminal that hung up is at its end, while a new open file description of it could be in use.
  if !is_same_file || is_ready(fd, PollFlags::empty()) != Ok(false) {
    return None;
  }
  let access = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL).ok()?) & OFlag::O_ACCMODE;
  let flags = access | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
  open(format!("/proc/self/fd/{}", fds::number(fd)).as_str(), flags, Mode::empty()).ok()
}

/// As on Linux. Without /proc a descriptor's file cannot be opened anew.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn reopened(_: BorrowedFd<'_>) -> Option<OwnedFd> {
  None
}

/// Reads a file, from a position with pread(2), or from its offset with read(2). It can wait for a disk or a server.
///
/// Returns fewer bytes than `max` if a read returned fewer than it asked for, or with `to_end` at the end of the file only. Stops
/// early once `proceed` returns false. An error after the first bytes is left to the next call.
pub fn read_file(
  fd: BorrowedFd<'_>,
  max: usize,
  position: Option<i64>,
  to_end: bool,
  proceed: impl Fn() -> bool,
) -> nix::Result<Vec<u8>> {
  let mut data = Vec::new();
  while data.len() < max && (data.is_empty() || proceed()) {
    let before = data.len();
    let piece = PIECE.min(max.saturating_sub(before));
    data.try_reserve(piece).map_err(|_| Errno::ENOMEM)?;
    data.resize(before.saturating_add(piece), 0);
    let rest = data.get_mut(before..).unwrap_or_default();
    let result = match position {
      Some(position) => restart(|| pread(fd, rest, position.saturating_add_unsigned(before as u64))),
      None => restart(|| unistd::read(fd, rest)),
    };
    data.truncate(before.saturating_add(result.unwrap_or(0)));
    match result {
      Err(errno) if before == 0 => return Err(errno),
      Ok(count) if count == piece || (to_end && count > 0) => {}
      _ => break,
    }
  }
  data.shrink_to_fit();
  Ok(data)
}

/// Sets the size of a file: ftruncate(2). Bytes beyond the end are zeros.
pub fn set_size(fd: BorrowedFd<'_>, size: i64) -> nix::Result<()> {
  restart(|| unistd::ftruncate(fd, size))
}

/// Writes to a file, at a position with pwrite(2), or at its offset with write(2). It can wait for a disk or a server. Returns the
/// number of bytes written; an error after the first bytes is left to the next call.
pub fn write_file(fd: BorrowedFd<'_>, bytes: &[u8], position: Option<i64>) -> nix::Result<usize> {
  let mut written = 0_usize;
  loop {
    let rest = bytes.get(written..).unwrap_or_default();
    let result = match position {
      Some(position) => restart(|| pwrite(fd, rest, position.saturating_add_unsigned(written as u64))),
      None => restart(|| unistd::write(fd.as_fd(), rest)),
    };
    match result {
      Err(errno) if written == 0 => return Err(errno),
      Err(_) | Ok(0) => return Ok(written),
      Ok(count) => written = written.saturating_add(count),
    }
    if written >= bytes.len() {
      return Ok(written);
    }
  }
}
