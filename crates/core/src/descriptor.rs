//! Descriptors on their own: taken over, duplicated, closed.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::sys::resource::{Resource, getrlimit};

use crate::sys;

/// Takes over a descriptor by its number and makes it close-on-exec.
///
/// `EBADF` where the number is not open; then nothing is owned.
///
/// # Safety
/// No other part of the process closes the number from now on.
pub unsafe fn adopt(number: RawFd) -> nix::Result<OwnedFd> {
  if number < 0 {
    return Err(Errno::EBADF);
  }
  // SAFETY: borrowed for the two calls below, which fail with EBADF where it is not open.
  set_close_on_exec(unsafe { BorrowedFd::borrow_raw(number) })?;
  // SAFETY: it is open, as the calls have shown, and the caller promises that it is ours.
  Ok(unsafe { sys::own(number) })
}

/// Makes a descriptor close-on-exec: `fcntl(F_SETFD, FD_CLOEXEC)`.
pub(crate) fn set_close_on_exec(fd: impl AsFd) -> nix::Result<()> {
  let flags = FdFlag::from_bits_retain(fcntl(&fd, FcntlArg::F_GETFD)?);
  if !flags.contains(FdFlag::FD_CLOEXEC) {
    fcntl(&fd, FcntlArg::F_SETFD(flags | FdFlag::FD_CLOEXEC))?;
  }
  Ok(())
}

/// A second descriptor of the same open file description, close-on-exec: `fcntl(F_DUPFD_CLOEXEC)`.
pub fn duplicate(fd: BorrowedFd<'_>) -> nix::Result<OwnedFd> {
  fd.try_clone_to_owned().map_err(errno)
}

/// A descriptor lent or duplicated, so that its number is `least` or more.
pub(crate) enum Above<'a> {
  Lent(BorrowedFd<'a>),
  Duplicate(OwnedFd),
}

impl AsFd for Above<'_> {
  fn as_fd(&self) -> BorrowedFd<'_> {
    match self {
      Self::Lent(fd) => *fd,
      Self::Duplicate(fd) => fd.as_fd(),
    }
  }
}

/// The descriptor itself if its number is `least` or more; otherwise a duplicate whose number is: `fcntl(F_DUPFD_CLOEXEC)`.
pub(crate) fn above(fd: BorrowedFd<'_>, least: usize) -> nix::Result<Above<'_>> {
  if fd.as_raw_fd() as usize >= least {
    return Ok(Above::Lent(fd));
  }
  let number = fcntl(fd, FcntlArg::F_DUPFD_CLOEXEC(least as RawFd))?;
  // SAFETY: fcntl(2) has just installed it.
  Ok(Above::Duplicate(unsafe { sys::own(number) }))
}

/// Both ends of a pipe, the one to read and the one to write, close-on-exec and in blocking mode: `pipe2(2)`.
pub fn pipe() -> nix::Result<(OwnedFd, OwnedFd)> {
  #[cfg(not(target_vendor = "apple"))]
  return nix::unistd::pipe2(OFlag::O_CLOEXEC);
  #[cfg(target_vendor = "apple")]
  {
    let (read, write) = nix::unistd::pipe()?;
    set_close_on_exec(&read)?;
    set_close_on_exec(&write)?;
    Ok((read, write))
  }
}

pub(crate) fn errno(error: std::io::Error) -> Errno {
  Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO))
}

/// Closes a descriptor: `close(2)`.
///
/// The number is free afterwards even where an error is reported (a late write error of a network file system, say):
/// Linux closes first.
pub fn close(fd: OwnedFd) -> nix::Result<()> {
  match nix::unistd::close(fd) {
    // close(2): after EINTR the descriptor is closed on Linux and must not be closed again.
    Err(Errno::EINTR) => Ok(()),
    result => result,
  }
}

/// Closes many descriptors, neighbouring numbers with one `close_range(2)` where the kernel has it.
pub fn close_all(fds: Vec<OwnedFd>) {
  sys::close_runs(fds);
}

/// How many more descriptors this process may open: the soft `RLIMIT_NOFILE` less those that are open.
///
/// From Linux 6.2 on the size of /proc/self/fd is their number; elsewhere they are counted one by one.
pub fn room() -> nix::Result<u64> {
  let (limit, _hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
  let table = if cfg!(target_os = "linux") { "/proc/self/fd" } else { "/dev/fd" };
  let open = std::fs::metadata(table).map_err(errno)?.len();
  let open =
    if cfg!(target_os = "linux") && open > 0 { open } else { std::fs::read_dir(table).map_err(errno)?.count() as u64 };
  #[allow(clippy::unnecessary_cast, reason = "rlim_t is an i64 on FreeBSD")]
  Ok((limit as u64).saturating_sub(open))
}

/// The highest number that is open, where the kernel cannot mark a range of them (close_range(2)); otherwise any.
pub(crate) fn highest() -> nix::Result<RawFd> {
  if sys::marks_ranges() {
    return Ok(RawFd::MAX);
  }
  let entries = std::fs::read_dir("/dev/fd").map_err(errno)?;
  let numbers = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
  Ok(numbers.max().unwrap_or(0))
}

/// Runs what may switch a descriptor to non-blocking mode, and puts the mode back.
///
/// `O_NONBLOCK` belongs to the open file description: whoever shares it, the process at the other end of a pair's
/// inherited half included, would see the change.
pub fn keep_status_flags<T>(fd: BorrowedFd<'_>, change: impl FnOnce() -> T) -> nix::Result<T> {
  let before = fcntl(fd, FcntlArg::F_GETFL)?;
  let result = change();
  if fcntl(fd, FcntlArg::F_GETFL)? != before {
    fcntl(fd, FcntlArg::F_SETFL(OFlag::from_bits_retain(before)))?;
  }
  Ok(result)
}

/// Makes a call that would wait in blocking mode.
///
/// `O_NONBLOCK` belongs to the open file description, so this is for a socket that nobody else has yet.
pub(crate) fn without_blocking<T>(fd: BorrowedFd<'_>, call: impl FnOnce() -> nix::Result<T>) -> nix::Result<T> {
  let was_blocking = set_blocking(fd, false)?;
  let result = call();
  if was_blocking {
    set_blocking(fd, true)?;
  }
  result
}

/// Switches blocking mode on or off, for all who share the open file description; gives what it was.
pub fn set_blocking(fd: BorrowedFd<'_>, blocking: bool) -> nix::Result<bool> {
  let before = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL)?);
  let after = if blocking { before - OFlag::O_NONBLOCK } else { before | OFlag::O_NONBLOCK };
  if after != before {
    fcntl(fd, FcntlArg::F_SETFL(after))?;
  }
  Ok(!before.contains(OFlag::O_NONBLOCK))
}
