//! What every socket has in common: its flags, `listen(2)`, `accept(2)`.

use std::mem::{MaybeUninit, size_of};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{self as net, SockaddrLike};

/// The flag of `socket(2)` for close-on-exec, on platforms that have it.
#[cfg(any(target_os = "linux", target_os = "android", target_os = "freebsd"))]
pub(crate) const CLOSE_ON_EXEC: net::SockFlag = net::SockFlag::SOCK_CLOEXEC;
#[cfg(not(any(target_os = "linux", target_os = "android", target_os = "freebsd")))]
pub(crate) const CLOSE_ON_EXEC: net::SockFlag = net::SockFlag::empty();

/// Starts listening: `listen(2)`. The kernel reduces the backlog to its own limit.
pub(crate) fn listen(fd: impl AsFd, backlog: i32) -> nix::Result<()> {
  // nix accepts a backlog of at most the SOMAXCONN that it was compiled with.
  net::listen(&fd, net::Backlog::new(backlog).unwrap_or(net::Backlog::MAXCONN))
}

/// Accepts a connection, close-on-exec and in blocking mode.
pub(crate) fn accept(listener: BorrowedFd<'_>) -> nix::Result<OwnedFd> {
  #[cfg(not(target_vendor = "apple"))]
  let number = net::accept4(listener.as_raw_fd(), net::SockFlag::SOCK_CLOEXEC)?;
  #[cfg(target_vendor = "apple")]
  let number = net::accept(listener.as_raw_fd())?;
  // SAFETY: the kernel has just installed it, and nothing else owns it.
  let connection = unsafe { OwnedFd::from_raw_fd(number) };
  #[cfg(target_vendor = "apple")]
  set_flags(&connection)?;
  Ok(connection)
}

/// Accepts a connection of any family, close-on-exec and in blocking mode, and returns the peer's address.
///
/// nix's `accept4` returns no address.
pub(crate) fn accept_from(listener: BorrowedFd<'_>) -> nix::Result<(OwnedFd, Option<net::SockaddrStorage>)> {
  let mut address = MaybeUninit::<libc::sockaddr_storage>::zeroed();
  let mut length = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
  let room = address.as_mut_ptr().cast::<libc::sockaddr>();
  #[cfg(not(target_vendor = "apple"))]
  // SAFETY: the kernel writes at most `length` bytes to `room`.
  let number = unsafe { libc::accept4(listener.as_raw_fd(), room, &raw mut length, libc::SOCK_CLOEXEC) };
  #[cfg(target_vendor = "apple")]
  // SAFETY: the kernel writes at most `length` bytes to `room`.
  let number = unsafe { libc::accept(listener.as_raw_fd(), room, &raw mut length) };
  let number = Errno::result(number)?;
  // SAFETY: the kernel has just installed it, and nothing else owns it.
  let connection = unsafe { OwnedFd::from_raw_fd(number) };
  #[cfg(target_vendor = "apple")]
  set_flags(&connection)?;
  // SAFETY: every byte of the storage is zero or written by the kernel, which also wrote the length.
  let address = unsafe { net::SockaddrStorage::from_raw(room, Some(length)) };
  Ok((connection, address))
}

/// Sets what `accept4` sets elsewhere. macOS gives a connection its listener's blocking mode.
#[cfg(target_vendor = "apple")]
fn set_flags(connection: &OwnedFd) -> nix::Result<()> {
  super::fds::set_close_on_exec(connection)?;
  super::fds::set_blocking(connection.as_fd(), true).map(drop)
}
