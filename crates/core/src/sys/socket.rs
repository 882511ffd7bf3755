//! Flags, `listen(2)` and `accept(2)` of every socket, and addresses of `AF_UNIX` as the kernel writes them.

use std::mem::{MaybeUninit, offset_of, size_of};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{self as net, SockaddrLike};

use super::errno::restart;

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
  let number = restart(|| net::accept4(listener.as_raw_fd(), net::SockFlag::SOCK_CLOEXEC))?;
  #[cfg(target_vendor = "apple")]
  let number = restart(|| net::accept(listener.as_raw_fd()))?;
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
  let number = restart(|| {
    #[cfg(not(target_vendor = "apple"))]
    // SAFETY: the kernel writes at most `length` bytes to `room`.
    let number = unsafe { libc::accept4(listener.as_raw_fd(), room, &raw mut length, libc::SOCK_CLOEXEC) };
    #[cfg(target_vendor = "apple")]
    // SAFETY: the kernel writes at most `length` bytes to `room`.
    let number = unsafe { libc::accept(listener.as_raw_fd(), room, &raw mut length) };
    Errno::result(number)
  })?;
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

/// Size of `sun_path` in bytes.
pub(crate) const SUN_PATH: usize = size_of::<libc::sockaddr_un>() - offset_of!(libc::sockaddr_un, sun_path);

/// Returns the local address that `getsockname(2)` or `getpeername(2)` wrote; `EINVAL` for another family.
///
/// The address is read into a `sockaddr_storage`. Linux counts a final NUL even behind a path that fills `sun_path`, and
/// nix copies as many bytes as the kernel counts, one more than its `sockaddr_un` holds.
pub(crate) fn unix_address(address: &net::SockaddrStorage) -> nix::Result<net::UnixAddr> {
  let length = address.len().min(size_of::<libc::sockaddr_un>() as libc::socklen_t);
  // SAFETY: no more bytes than the storage has.
  unsafe { net::UnixAddr::from_raw(address.as_ptr(), Some(length)) }.ok_or(Errno::EINVAL)
}

/// Returns the bytes of an address, as many as its length counts.
///
/// nix's `UnixAddr::path` reads the NUL that Linux counts behind a path that fills `sun_path`, and it underflows on the
/// empty address of an unnamed sender.
pub(crate) fn sun_path(address: &net::UnixAddr) -> &[u8] {
  // SAFETY: the address is borrowed for as long as the result.
  let sun_path = unsafe { &(*address.as_ptr()).sun_path };
  let length = (address.len() as usize).saturating_sub(offset_of!(libc::sockaddr_un, sun_path)).min(sun_path.len());
  // SAFETY: c_char has the layout of u8, and the length is at most that of the array.
  unsafe { std::slice::from_raw_parts(sun_path.as_ptr().cast(), length) }
}
