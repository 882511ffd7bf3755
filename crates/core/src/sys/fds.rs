//! Descriptors by number: ownership, flags, ranges, locks, and what nix does not do with them.

#![cfg_attr(not(test), deny(clippy::arithmetic_side_effects))] // of numbers that a peer sends

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::sys::resource::{Resource, getrlimit};

#[cfg(any(target_os = "linux", target_os = "android"))]
use super::errno::restart_io;
use super::errno::{of_io_error, restart};

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

/// Returns `EBADF` if a number of this process is not open.
pub fn check_open(number: RawFd) -> nix::Result<()> {
  // SAFETY: integers only.
  Errno::result(unsafe { libc::fcntl(number, libc::F_GETFD) }).map(drop)
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
  let after = if blocking { before.difference(OFlag::O_NONBLOCK) } else { before | OFlag::O_NONBLOCK };
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
  let (numbers, _) = data.as_chunks();
  let mut fds = Vec::with_capacity(numbers.len());
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
  for run in numbers.chunk_by(|a, b| a.checked_add(1) == Some(*b)) {
    let is_closed = matches!(run, [first, .., last] if close_range(*first, *last, 0));
    if !is_closed {
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
  if mark_close_on_exec_from(RawFd::MAX) { Ok(RawFd::MAX) } else { Ok(open_numbers()?.into_iter().max().unwrap_or(0)) }
}

/// Makes the numbers below `first` inheritable and all others close-on-exec, whatever owns them.
pub(crate) fn close_on_exec_from(first: RawFd) -> nix::Result<()> {
  (0..first).try_for_each(|number| set_descriptor_flags(number, 0))?;
  if mark_close_on_exec_from(first) {
    return Ok(());
  }
  let mut numbers = open_numbers()?.into_iter().filter(|&number| number >= first);
  numbers.try_for_each(|number| set_descriptor_flags(number, libc::FD_CLOEXEC))
}

/// Returns the open numbers, and perhaps one that is closed again: that of the directory that lists them. Without /dev/fd, which needs /proc on
/// Linux, each number is tried up to the limit of this process, if it is not too high. A number beyond a limit that was lowered is not found.
fn open_numbers() -> nix::Result<Vec<RawFd>> {
  const MAX_TRIED: libc::rlim_t = 1 << 20; // a tenth of a second
  match std::fs::read_dir("/dev/fd") {
    Ok(entries) => Ok(entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect()),
    Err(error) => {
      let (_, limit) = getrlimit(Resource::RLIMIT_NOFILE)?;
      let numbers = 0..RawFd::try_from(limit).unwrap_or(RawFd::MAX);
      if limit > MAX_TRIED { Err(of_io_error(error)) } else { Ok(numbers.filter(|&n| check_open(n).is_ok()).collect()) }
    }
  }
}

/// Sets the descriptor flags of a number if it is open.
pub(super) fn set_descriptor_flags(number: RawFd, flags: libc::c_int) -> nix::Result<()> {
  // SAFETY: integers only.
  match Errno::result(unsafe { libc::fcntl(number, libc::F_SETFD, flags) }) {
    Err(Errno::EBADF) => Ok(()),
    result => result.map(drop),
  }
}

/// Sets the permissions of a file that was opened with `O_PATH`, whatever its path names now: fchmodat2(2), from Linux 6.6 on, or the
/// file's link in /proc. `EOPNOTSUPP` without either.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(crate) fn set_mode(file: BorrowedFd<'_>, mode: u32) -> nix::Result<()> {
  const FCHMODAT2: libc::c_long = 452; // the same number on each architecture that Rust supports
  let empty = c"".as_ptr();
  // SAFETY: an empty C string, and integers.
  let changed =
    restart(|| Errno::result(unsafe { libc::syscall(FCHMODAT2, file.as_raw_fd(), empty, mode, libc::AT_EMPTY_PATH) }));
  // EPERM also from a seccomp filter that does not know the call.
  if !matches!(changed, Err(Errno::ENOSYS | Errno::EPERM)) {
    return changed.map(drop);
  }
  let link = format!("/proc/self/fd/{}", file.as_raw_fd());
  let permissions: std::fs::Permissions = std::os::unix::fs::PermissionsExt::from_mode(mode);
  match restart_io(|| std::fs::set_permissions(&link, permissions.clone())) {
    Err(Errno::ENOENT) => Err(Errno::EOPNOTSUPP), // no /proc
    result => result,
  }
}

/// Locks a file exclusively without waiting: `flock(2)`. `EAGAIN` while another open file description holds the lock.
///
/// nix's `Flock` panics when unlocking fails.
pub(crate) fn lock(file: BorrowedFd<'_>) -> nix::Result<()> {
  // SAFETY: integers only.
  restart(|| Errno::result(unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) })).map(drop)
}

/// Unlocks a file, also for a child process that has inherited the descriptor. Closing the file unlocks it if this fails.
pub(crate) fn unlock(file: BorrowedFd<'_>) {
  // SAFETY: integers only.
  unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_UN) };
}

/// Returns the number of a descriptor, for a call that takes one.
pub(crate) fn number(fd: BorrowedFd<'_>) -> RawFd {
  fd.as_raw_fd()
}

/// Reads without waiting: preadv2(2) with `RWF_NOWAIT`. `EAGAIN` if it would wait, `EOPNOTSUPP` if the file has no such reads.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(crate) fn read_no_wait(fd: BorrowedFd<'_>, buffer: &mut [u8]) -> nix::Result<usize> {
  let part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
  no_wait(libc::SYS_preadv2, fd, &part)
}

/// Writes without waiting: pwritev2(2) with `RWF_NOWAIT`. `EAGAIN` if it would wait, `EOPNOTSUPP` if the file has no such writes.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(crate) fn write_no_wait(fd: BorrowedFd<'_>, bytes: &[u8]) -> nix::Result<usize> {
  let part = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
  no_wait(libc::SYS_pwritev2, fd, &part)
}

/// Calls preadv2(2) or pwritev2(2) at the file's offset. By number, because musl has them since 1.2.5 only.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn no_wait(call: libc::c_long, fd: BorrowedFd<'_>, part: &libc::iovec) -> nix::Result<usize> {
  const OFFSET: libc::c_long = -1;
  let (number, flags) = (fd.as_raw_fd(), libc::RWF_NOWAIT);
  // SAFETY: one vector of live memory. Only pwritev2 gets a vector whose memory is not writable.
  let result = unsafe { libc::syscall(call, number, std::ptr::from_ref(part), 1, OFFSET, OFFSET, flags) };
  Errno::result(result).map(|count| count as usize)
}

/// As on Linux, which alone has such reads.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(crate) fn read_no_wait(_: BorrowedFd<'_>, _: &mut [u8]) -> nix::Result<usize> {
  Err(Errno::EOPNOTSUPP)
}

/// As on Linux, which alone has such writes.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(crate) fn write_no_wait(_: BorrowedFd<'_>, _: &[u8]) -> nix::Result<usize> {
  Err(Errno::EOPNOTSUPP)
}

/// Creates a counter at zero: eventfd(2).
#[cfg(any(target_os = "linux", target_os = "android", target_os = "freebsd"))]
pub(crate) fn eventfd(semaphore: bool) -> nix::Result<OwnedFd> {
  let flags = libc::EFD_CLOEXEC | if semaphore { libc::EFD_SEMAPHORE } else { 0 };
  // SAFETY: integers only.
  let number = Errno::result(unsafe { libc::eventfd(0, flags) })?;
  // SAFETY: created above, and nothing else owns it.
  Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Returns whether a descriptor is the master of a pseudoterminal: an ioctl(2) that only a master supports.
pub(crate) fn is_pty_master(fd: BorrowedFd<'_>) -> bool {
  let mut answer = [0_u8; 128];
  #[cfg(any(target_os = "linux", target_os = "android"))]
  let request = libc::TIOCGPTN; // ioctl_tty(2): the number of the other end, an int
  #[cfg(target_os = "freebsd")]
  let request = libc::TIOCPTMASTER; // pts(4): no argument
  #[cfg(target_vendor = "apple")]
  let request = libc::TIOCPTYGNAME as libc::c_ulong; // the name of the other end, 128 bytes (sys/ttycom.h)
  // SAFETY: each of these requests writes at most 128 bytes.
  unsafe { libc::ioctl(fd.as_raw_fd(), request, answer.as_mut_ptr()) == 0 }
}

/// Returns the device number of a terminal itself, which /dev/tty and /dev/console hide: `TIOCGDEV` of ioctl_tty(2).
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(crate) fn terminal_device(fd: BorrowedFd<'_>) -> nix::Result<libc::dev_t> {
  let mut device: libc::c_uint = 0;
  // SAFETY: writes an unsigned int.
  Errno::result(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TIOCGDEV, &raw mut device) })?;
  Ok(libc::dev_t::from(device))
}

/// Returns the size of a terminal's window: `TIOCGWINSZ` of ioctl_tty(2). `ENOTTY` for anything else.
pub(crate) fn window_size(fd: BorrowedFd<'_>) -> nix::Result<libc::winsize> {
  let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
  // SAFETY: the request writes a winsize.
  Errno::result(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TIOCGWINSZ, &raw mut size) })?;
  Ok(size)
}

/// Sets the size of a terminal's window: `TIOCSWINSZ` of ioctl_tty(2).
pub(crate) fn set_window_size(fd: BorrowedFd<'_>, size: libc::winsize) -> nix::Result<()> {
  // SAFETY: the request reads a winsize.
  Errno::result(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) }).map(drop)
}
