//! Descriptors of any kind: adopting, duplicating, closing, and their flags.

mod apart;
mod io;
mod kind;
mod memfd;

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::stat::fstat;

pub use crate::sys::fds::{adopt, check_open, close_all, set_blocking};
pub(crate) use apart::{ForeignFds, SharedSocket};
pub use apart::{POOL_OWNER, close_apart, closing};
pub use io::{NonBlocking, is_file, is_ready, read_file, set_size, write_file};
pub use kind::{Access, Kind};
pub use memfd::{eventfd, memfd, seal, seals};

use crate::sys::errno::{of_io_error, restart, restart_io};
use crate::sys::fds;

/// The identity of a file, socket or pipe while it is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileId {
  device: u64,
  inode: u64,
}

impl FileId {
  /// Returns the identity of what a descriptor refers to: `fstat(2)`.
  pub fn of(fd: BorrowedFd<'_>) -> nix::Result<Self> {
    let status = restart(|| fstat(fd))?;
    #[allow(clippy::unnecessary_cast, reason = "their types differ between systems")]
    Ok(Self { device: status.st_dev as u64, inode: status.st_ino as u64 })
  }
}

/// The size of a terminal's window, in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WindowSize {
  /// The characters of a line.
  pub columns: u16,
  /// The lines.
  pub rows: u16,
}

impl WindowSize {
  /// Returns the size of a terminal's window: `TIOCGWINSZ`. Both ends of a pseudoterminal have the same one. `ENOTTY` for
  /// anything else.
  pub fn of(fd: BorrowedFd<'_>) -> nix::Result<Self> {
    let size = fds::window_size(fd)?;
    Ok(Self { columns: size.ws_col, rows: size.ws_row })
  }

  /// Sets the size of a terminal's window: `TIOCSWINSZ`. If it changes, the kernel sends SIGWINCH to the terminal's foreground
  /// processes.
  pub fn apply_to(self, fd: BorrowedFd<'_>) -> nix::Result<()> {
    let Self { columns, rows } = self;
    fds::set_window_size(fd, nix::libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 })
  }
}

/// Ends this side's half of a connection: `shutdown(SHUT_WR)`.
pub fn end_output(fd: BorrowedFd<'_>) -> nix::Result<()> {
  nix::sys::socket::shutdown(fd.as_raw_fd(), nix::sys::socket::Shutdown::Write)
}

/// Duplicates a descriptor, close-on-exec: `fcntl(F_DUPFD_CLOEXEC)`. Both share one open file description.
pub fn duplicate(fd: BorrowedFd<'_>) -> nix::Result<OwnedFd> {
  fd.try_clone_to_owned().map_err(of_io_error)
}

/// A descriptor whose number is at least a minimum: the caller's own, or a duplicate of it.
pub(crate) enum AtLeast<'a> {
  Borrowed(BorrowedFd<'a>),
  Duplicate(OwnedFd),
}

impl<'a> AtLeast<'a> {
  /// Duplicates the descriptor if its number is less than `min`: `fcntl(F_DUPFD_CLOEXEC)`.
  pub(crate) fn new(fd: BorrowedFd<'a>, min: usize) -> nix::Result<Self> {
    if fd.as_raw_fd() as usize >= min {
      return Ok(Self::Borrowed(fd));
    }
    fds::duplicate_at_least(fd, min as RawFd).map(Self::Duplicate)
  }
}

impl AsFd for AtLeast<'_> {
  fn as_fd(&self) -> BorrowedFd<'_> {
    match self {
      Self::Borrowed(fd) => *fd,
      Self::Duplicate(fd) => fd.as_fd(),
    }
  }
}

/// Creates a pipe, close-on-exec and in blocking mode: `pipe2(2)`. Returns the end to read and the end to write.
pub fn pipe() -> nix::Result<(OwnedFd, OwnedFd)> {
  #[cfg(not(target_vendor = "apple"))]
  return nix::unistd::pipe2(OFlag::O_CLOEXEC);
  #[cfg(target_vendor = "apple")]
  {
    let (read, write) = nix::unistd::pipe()?;
    fds::set_close_on_exec(&read)?;
    fds::set_close_on_exec(&write)?;
    Ok((read, write))
  }
}

/// Closes a descriptor: `close(2)`.
///
/// The number is free afterwards even if an error is returned, such as a late write error of a network file system: Linux
/// closes first.
pub fn close(fd: OwnedFd) -> nix::Result<()> {
  match nix::unistd::close(fd) {
    // close(2): after EINTR the descriptor is closed on Linux and must not be closed again.
    Err(Errno::EINTR) => Ok(()),
    result => result,
  }
}

/// Returns how many more descriptors this process may open: the soft `RLIMIT_NOFILE` less the number of open ones.
///
/// From Linux 6.2 on the size of /proc/self/fd is their number; elsewhere they are counted one by one.
pub fn available_descriptors() -> nix::Result<u64> {
  let (limit, _hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
  let table = if cfg!(target_os = "linux") { "/proc/self/fd" } else { "/dev/fd" };
  let open = restart_io(|| std::fs::metadata(table))?.len();
  let open = if cfg!(target_os = "linux") && open > 0 {
    open
  } else {
    match restart_io(|| std::fs::read_dir(table)) {
      Err(Errno::EMFILE) => return Ok(0), // no number below the limit is free
      entries => (entries?.count() as u64).saturating_sub(1), // the directory itself is closed again
    }
  };
  #[allow(clippy::unnecessary_cast, reason = "rlim_t is an i64 on FreeBSD")]
  Ok((limit as u64).saturating_sub(open))
}

/// Runs a function that may change a descriptor's status flags, and restores them.
///
/// `O_NONBLOCK` belongs to the open file description: every process that shares it would see the change.
pub fn keep_status_flags<T>(fd: BorrowedFd<'_>, change: impl FnOnce() -> T) -> nix::Result<T> {
  let before = fcntl(fd, FcntlArg::F_GETFL)?;
  let result = change();
  if fcntl(fd, FcntlArg::F_GETFL)? != before {
    fcntl(fd, FcntlArg::F_SETFL(OFlag::from_bits_retain(before)))?;
  }
  Ok(result)
}

/// Makes a call in non-blocking mode that would wait in blocking mode, and restores the mode.
///
/// `O_NONBLOCK` belongs to the open file description, so this is for a socket that no other process has yet.
pub(crate) fn without_blocking<T>(fd: BorrowedFd<'_>, call: impl FnOnce() -> nix::Result<T>) -> nix::Result<T> {
  let was_blocking = set_blocking(fd, false)?;
  let result = call();
  if was_blocking {
    set_blocking(fd, true)?;
  }
  result
}
