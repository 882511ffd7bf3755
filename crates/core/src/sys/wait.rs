//! The end of a child process as a readable descriptor.

use std::os::fd::{FromRawFd, OwnedFd};

use nix::errno::Errno;

/// Opens a descriptor that becomes readable when a child process ends: `pidfd_open(2)`, from Linux 5.3 on; elsewhere a
/// `kqueue(2)` with this one event.
pub(crate) fn exit_descriptor(pid: libc::pid_t) -> nix::Result<OwnedFd> {
  #[cfg(any(target_os = "linux", target_os = "android"))]
  {
    // SAFETY: integers only. A pidfd is close-on-exec.
    let number = Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })?;
    // SAFETY: the kernel has just installed it, and nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(number as std::os::fd::RawFd) })
  }
  #[cfg(not(any(target_os = "linux", target_os = "android")))]
  {
    // SAFETY: no arguments.
    let number = Errno::result(unsafe { libc::kqueue() })?;
    // SAFETY: the kernel has just installed it, and nothing else owns it.
    let queue = unsafe { OwnedFd::from_raw_fd(number) };
    super::fds::set_close_on_exec(&queue)?;
    // SAFETY: a structure of integers and a pointer that the kernel does not dereference.
    let mut change: libc::kevent = unsafe { std::mem::zeroed() };
    change.ident = pid as _;
    change.filter = libc::EVFILT_PROC;
    change.flags = libc::EV_ADD;
    change.fflags = libc::NOTE_EXIT;
    // SAFETY: one change, and no room for events, so that the call does not wait.
    let result = unsafe { libc::kevent(number, &change, 1, std::ptr::null_mut(), 0, std::ptr::null()) };
    // ESRCH: the process has already ended, and no event would follow.
    Errno::result(result).map(|_| queue)
  }
}
