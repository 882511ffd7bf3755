//! Descriptors by number: ownership, flags, ranges, locks.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};

use super::errno::of_io_error;

/// Takes over a descriptor by its number and makes it close-on-exec.
///
/// `EBADF` if the number is not open; nothing is owned then.
///
/// # Safety
/// No other part of the process closes the number from now on.
pub unsafe fn adopt(number: RawFd) -> nix::Result<OwnedFd> {
  if number < 0 {
    return Err(Errno::EBADF);
  }
  // SAFETY: borrowed for two calls that fail with EBADF if the number is not open.
  set_close_on_exec(unsafe { BorrowedFd::borrow_raw(number) })?;
  // SAFETY: the calls have shown that it is open, and the caller promises that nothing else closes it.
  Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Makes a descriptor close-on-exec: `fcntl(F_SETFD, FD_CLOEXEC)`.
pub(crate) fn set_close_on_exec(fd: impl AsFd) -> nix::Result<()> {
  let flags = FdFlag::from_bits_retain(fcntl(&fd, FcntlArg::F_GETFD)?);
  if !flags.contains(FdFlag::FD_CLOEXEC) {
    fcntl(&fd, FcntlArg::F_SETFD(flags | FdFlag::FD_CLOEXEC))?;
  }
  Ok(())
}

/// Switches blocking mode on or off and returns what it was. `O_NONBLOCK` belongs to the open file description, so the
/// change applies to every process that shares it.
pub fn set_blocking(fd: BorrowedFd<'_>, blocking: bool) -> nix::Result<bool> {
  let before = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL)?);
  let after = if blocking { before - OFlag::O_NONBLOCK } else { before | OFlag::O_NONBLOCK };
  if after != before {
    fcntl(fd, FcntlArg::F_SETFL(after))?;
  }
  Ok(!before.contains(OFlag::O_NONBLOCK))
}

/// Duplicates a descriptor to the lowest free number that is at least `min`: `fcntl(F_DUPFD_CLOEXEC)`.
pub(crate) fn duplicate_at_least(fd: BorrowedFd<'_>, min: RawFd) -> nix::Result<OwnedFd> {
  let number = fcntl(fd, FcntlArg::F_DUPFD_CLOEXEC(min))?;
  // SAFETY: fcntl(2) has just installed it, and nothing else owns it.
  Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// The numbers of borrowed descriptors, without a copy.
pub(crate) fn numbers<'a>(fds: &'a [BorrowedFd<'_>]) -> &'a [RawFd] {
  // SAFETY: `BorrowedFd` is a `repr(transparent)` RawFd (std::os::fd), so both slices have the same layout.
  unsafe { std::slice::from_raw_parts(fds.as_ptr().cast(), fds.len()) }
}

/// Takes ownership of descriptors that `recvmsg(2)` has just installed, given the data of a control message.
///
/// The kernel writes a negative error number in place of a descriptor that it could not install.
pub(super) fn own_received(data: &[u8]) -> Vec<OwnedFd> {
  let mut fds = Vec::with_capacity(data.len() / size_of::<RawFd>());
  let (numbers, _) = data.as_chunks();
  for number in numbers.iter().map(|&number| RawFd::from_ne_bytes(number)).filter(|&number| number >= 0) {
    // SAFETY: the number is in a control message of this process's own recvmsg: it is open, and nothing else owns it.
    fds.push(unsafe { OwnedFd::from_raw_fd(number) });
  }
  fds
}

/// Closes descriptors, each run of adjacent numbers with one `close_range(2)`.
///
/// They are closed in the order of their numbers. The errors of `close_range` name no descriptor and are ignored, as
/// dropping an `OwnedFd` ignores them.
pub fn close_all(fds: Vec<OwnedFd>) {
  let mut numbers: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
  numbers.sort_unstable();
  // The numbers stay open until the loop below closes each exactly once.
  fds.into_iter().for_each(std::mem::forget);
  for run in numbers.chunk_by(|a, b| a + 1 == *b) {
    if run.len() == 1 || !close_range(run[0], run[run.len() - 1], 0) {
      for &number in run {
        // SAFETY: its owner was forgotten above, so this is the only one.
        drop(unsafe { OwnedFd::from_raw_fd(number) });
      }
    }
  }
}

/// Closes a range of numbers, or applies `flags` to it; false if the kernel cannot. Linux 5.9 and FreeBSD 12.2 can.
fn close_range(first: RawFd, last: RawFd, flags: libc::c_uint) -> bool {
  #[cfg(any(target_os = "linux", target_os = "android"))]
  // SAFETY: the caller owns every descriptor from `first` to `last`, or closes none. The call fails before it closes
  // anything (close_range(2): EINVAL, ENOSYS, or EPERM from a seccomp filter).
  let result = unsafe { libc::syscall(libc::SYS_close_range, first as libc::c_uint, last as libc::c_uint, flags) };
  #[cfg(target_os = "freebsd")]
  // SAFETY: as on Linux.
  let result = unsafe { libc::close_range(first as libc::c_uint, last as libc::c_uint, flags as libc::c_int) };
  #[cfg(not(any(target_os = "linux", target_os = "android", target_os = "freebsd")))]
  let result = {
    let _ = (first, last, flags);
    -1
  };
  result == 0
}

/// Makes every open number from `first` on close-on-exec with one `close_range(2)`; false if the kernel cannot. Linux
/// can from 5.11 on.
///
/// It makes one system call and nothing else, so it may be called between fork(2) and execve(2).
pub(super) fn mark_close_on_exec_from(first: RawFd) -> bool {
  const CLOSE_RANGE_CLOEXEC: libc::c_uint = 1 << 2; // the same on Linux and FreeBSD
  close_range(first, RawFd::MAX, CLOSE_RANGE_CLOEXEC)
}

/// Returns the highest open number if the kernel cannot mark a range of numbers, otherwise `RawFd::MAX`.
pub(crate) fn highest() -> nix::Result<RawFd> {
  // A range in which no number can be open.
  if mark_close_on_exec_from(RawFd::MAX) { Ok(RawFd::MAX) } else { Ok(open_numbers()?.max().unwrap_or(0)) }
}

/// Makes the numbers below `first` inheritable and all others close-on-exec, whatever owns them.
pub(crate) fn close_on_exec_from(first: RawFd) -> nix::Result<()> {
  (0..first).try_for_each(|number| set_descriptor_flags(number, 0))?;
  if mark_close_on_exec_from(first) {
    return Ok(());
  }
  let numbers: Vec<RawFd> = open_numbers()?.collect(); // first: the directory's own number is among them
  let mut numbers = numbers.into_iter().filter(|&number| number >= first);
  numbers.try_for_each(|number| set_descriptor_flags(number, libc::FD_CLOEXEC))
}

fn open_numbers() -> nix::Result<impl Iterator<Item = RawFd>> {
  let entries = std::fs::read_dir("/dev/fd").map_err(of_io_error)?;
  Ok(entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()))
}

/// Sets the descriptor flags of a number if it is open.
pub(super) fn set_descriptor_flags(number: RawFd, flags: libc::c_int) -> nix::Result<()> {
  // SAFETY: integers only.
  match Errno::result(unsafe { libc::fcntl(number, libc::F_SETFD, flags) }) {
    Err(Errno::EBADF) => Ok(()),
    result => result.map(drop),
  }
}

/// Locks a file exclusively without waiting: `flock(2)`. `EAGAIN` while another open file description holds the lock.
///
/// nix's `Flock` panics when unlocking fails.
pub(crate) fn lock(file: BorrowedFd<'_>) -> nix::Result<()> {
  loop {
    // SAFETY: integers only.
    match Errno::result(unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) }) {
      Err(Errno::EINTR) => {}
      result => return result.map(drop),
    }
  }
}

/// Unlocks a file, also for a child process that has inherited the descriptor. Closing the file unlocks it if this fails.
pub(crate) fn unlock(file: BorrowedFd<'_>) {
  // SAFETY: integers only.
  unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_UN) };
}
