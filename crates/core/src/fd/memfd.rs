//! Memory that can be passed, and its seals; counters that can be waited for.

use std::ffi::CStr;
use std::os::fd::{BorrowedFd, OwnedFd};

#[cfg(not(any(target_os = "linux", target_os = "android", target_os = "freebsd")))]
use nix::errno::Errno;

/// Creates a memfd, empty, close-on-exec, and open to seals: `memfd_create(2)`.
///
/// The name has at most 249 bytes and is for display only, for example in /proc. `ENOSYS` on macOS.
pub fn memfd(name: &CStr) -> nix::Result<OwnedFd> {
  #[cfg(any(target_os = "linux", target_os = "android", target_os = "freebsd"))]
  {
    use nix::sys::memfd::{MFdFlags, memfd_create};
    memfd_create(name, MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)
  }
  #[cfg(not(any(target_os = "linux", target_os = "android", target_os = "freebsd")))]
  {
    let _ = name;
    Err(Errno::ENOSYS)
  }
}

/// Creates a counter, close-on-exec and in blocking mode: `eventfd(2)`. With `semaphore` a read takes one from it, and otherwise
/// everything. `ENOSYS` on macOS, `EINVAL` for the highest number, which no counter reaches.
pub fn eventfd(initial: u64, semaphore: bool) -> nix::Result<OwnedFd> {
  #[cfg(any(target_os = "linux", target_os = "android", target_os = "freebsd"))]
  {
    let fd = crate::sys::fds::eventfd(semaphore)?;
    // eventfd(2) takes 32 bits. A write to a new counter does not wait.
    nix::unistd::write(&fd, &initial.to_ne_bytes())?;
    Ok(fd)
  }
  #[cfg(not(any(target_os = "linux", target_os = "android", target_os = "freebsd")))]
  {
    let _ = (initial, semaphore);
    Err(Errno::ENOSYS)
  }
}

/// Returns the seals of memory as `F_SEAL_*` bits: `fcntl(F_GET_SEALS)`. `EINVAL` for a file that cannot have seals.
pub fn seals(fd: BorrowedFd<'_>) -> nix::Result<i32> {
  #[cfg(any(target_os = "linux", target_os = "android", target_os = "freebsd"))]
  return nix::fcntl::fcntl(fd, nix::fcntl::FcntlArg::F_GET_SEALS);
  #[cfg(not(any(target_os = "linux", target_os = "android", target_os = "freebsd")))]
  {
    let _ = fd;
    Err(Errno::EINVAL)
  }
}

/// Adds seals to memory: `fcntl(F_ADD_SEALS)`. They apply to every process that shares it and cannot be removed.
///
/// # Errors
///
/// - `EPERM`: the memory is sealed against further seals, or the descriptor was not opened for writing.
/// - `EBUSY`: a process has mapped the memory for writing.
pub fn seal(fd: BorrowedFd<'_>, seals: i32) -> nix::Result<()> {
  #[cfg(any(target_os = "linux", target_os = "android", target_os = "freebsd"))]
  {
    use nix::fcntl::{FcntlArg, SealFlag, fcntl};
    fcntl(fd, FcntlArg::F_ADD_SEALS(SealFlag::from_bits_retain(seals))).map(drop)
  }
  #[cfg(not(any(target_os = "linux", target_os = "android", target_os = "freebsd")))]
  {
    let _ = (fd, seals);
    Err(Errno::EINVAL)
  }
}
