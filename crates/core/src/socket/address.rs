//! Addresses of `AF_UNIX` sockets: paths, and names in Linux' abstract namespace.

#![cfg_attr(not(test), deny(clippy::arithmetic_side_effects))] // of numbers that a peer sends

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::errno::Errno;
use nix::sys::socket::UnixAddr;

use crate::sys::socket::{SUN_PATH, sun_path};

/// Address of a socket, as in unix(7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address(UnixAddr);

impl Address {
  /// Maximum length in bytes of a path (`sun_path` less its final NUL), or of an abstract address with its leading NUL.
  pub const MAX_PATH: usize = SUN_PATH - 1;

  /// Creates the address of a path, or of an abstract name if the bytes begin with a NUL. An abstract name may hold any
  /// bytes.
  ///
  /// # Errors
  ///
  /// - `ENAMETOOLONG`: longer than the platform supports. Nothing is truncated.
  /// - `EINVAL`: an empty path, a path with a NUL in it, or an abstract name on a platform without any.
  pub fn new(bytes: &[u8]) -> nix::Result<Self> {
    match bytes {
      [] => Err(Errno::EINVAL),
      #[cfg(any(target_os = "linux", target_os = "android"))]
      [0, name @ ..] => UnixAddr::new_abstract(name).map(Self),
      path => UnixAddr::new(path).map(Self),
    }
  }

  /// Creates the address with which `bind(2)` lets the kernel choose an abstract name; `None` on other platforms than Linux.
  pub fn autobind() -> Option<Self> {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    return Some(Self(UnixAddr::new_unnamed()));
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    return None;
  }

  /// Wraps an address that the kernel returned; `None` for that of an unnamed socket.
  pub(super) fn named(address: UnixAddr) -> Option<Self> {
    let address = Self(address);
    (!address.bytes().is_empty()).then_some(address)
  }

  /// Returns the bytes as [`Address::new`] takes them. Empty for [`Address::autobind`].
  pub fn bytes(&self) -> &[u8] {
    let bytes = sun_path(&self.0);
    if cfg!(any(target_os = "linux", target_os = "android")) && bytes.first() == Some(&0) {
      return bytes;
    }
    // Linux counts the final NUL, the BSDs may count the whole field.
    bytes.split(|&byte| byte == 0).next().unwrap_or(&[])
  }

  /// Returns the path, unless the address is abstract.
  pub fn path(&self) -> Option<&Path> {
    let bytes = self.bytes();
    bytes.first().is_some_and(|&first| first != 0).then(|| Path::new(OsStr::from_bytes(bytes)))
  }

  pub(super) fn raw(&self) -> &UnixAddr {
    &self.0
  }
}
