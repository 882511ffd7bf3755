//! Memory that can be passed, and seals that say what nobody will do to it any more.

use std::ffi::CStr;
use std::os::fd::{BorrowedFd, OwnedFd};

#[cfg(not(any(target_os = "linux", target_os = "android", target_os = "freebsd")))]
use nix::errno::Errno;

/// Makes memory behind a descriptor, empty, close-on-exec, and open to seals: `memfd_create(2)`.
///
/// The name, of at most 249 bytes, is only shown, by /proc for one. `ENOSYS` on macOS.
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

/// The seals of memory, `F_SEAL_*` bits: `fcntl(F_GET_SEALS)`. `EINVAL` of what has none.
pub fn seals(fd: BorrowedFd<'_>) -> nix::Result<i32> {
  #[cfg(any(target_os = "linux", target_os = "android", target_os = "freebsd"))]
  return nix::fcntl::fcntl(fd, nix::fcntl::FcntlArg::F_GET_SEALS);
  #[cfg(not(any(target_os = "linux", target_os = "android", target_os = "freebsd")))]
  {
    let _ = fd;
    Err(Errno::EINVAL)
  }
}

/// Adds seals, for ever and for all who share the memory: `fcntl(F_ADD_SEALS)`.
///
/// `EPERM` where it is sealed against further seals or the descriptor was not opened for writing; `EBUSY` where somebody
/// has mapped the memory for writing.
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
