//! Addresses of `AF_UNIX` sockets as the kernel writes them.

use std::mem::{offset_of, size_of};

use nix::errno::Errno;
use nix::sys::socket::{SockaddrLike, SockaddrStorage, UnixAddr};

/// Size of `sun_path` in bytes.
pub(crate) const SUN_PATH: usize = size_of::<libc::sockaddr_un>() - offset_of!(libc::sockaddr_un, sun_path);

/// Returns the local address that `getsockname(2)` or `getpeername(2)` wrote; `EINVAL` for another family.
///
/// The address is read into a `sockaddr_storage`. Linux counts a final NUL even behind a path that fills `sun_path`, and
/// nix copies as many bytes as the kernel counts, one more than its `sockaddr_un` holds.
pub(crate) fn unix_address(address: &SockaddrStorage) -> nix::Result<UnixAddr> {
  let length = address.len().min(size_of::<libc::sockaddr_un>() as libc::socklen_t);
  // SAFETY: no more bytes than the storage has.
  unsafe { UnixAddr::from_raw(address.as_ptr(), Some(length)) }.ok_or(Errno::EINVAL)
}

/// Returns the bytes of an address, as many as its length counts.
///
/// nix's `UnixAddr::path` reads the NUL that Linux counts behind a path that fills `sun_path`, and it underflows on the
/// empty address of an unnamed sender.
pub(crate) fn sun_path(address: &UnixAddr) -> &[u8] {
  // SAFETY: the address is borrowed for as long as the result.
  let sun_path = unsafe { &(*address.as_ptr()).sun_path };
  let length = (address.len() as usize).saturating_sub(offset_of!(libc::sockaddr_un, sun_path)).min(sun_path.len());
  // SAFETY: c_char has the layout of u8, and the length is at most that of the array.
  unsafe { std::slice::from_raw_parts(sun_path.as_ptr().cast(), length) }
}
