//! Addresses of sockets: paths, and names in Linux' abstract space.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::errno::Errno;
use nix::sys::socket::UnixAddr;

use crate::sys::sockaddr::{SUN_PATH, sun_path};

/// The address of a socket, as in unix(7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address(UnixAddr);

impl Address {
  /// The most bytes of a path (`sun_path` less its final NUL), or of an abstract address with its leading NUL.
  pub const MAX_PATH: usize = SUN_PATH - 1;

  /// The address of a path, or, where the bytes begin with a NUL, of a name in Linux' abstract space, which may hold
  /// any bytes.
  ///
  /// `ENAMETOOLONG` for more than the platform takes: nothing is cut. `EINVAL` for an empty path, for a NUL inside a
  /// path, which would end it there, and for an abstract name where there are none.
  pub fn new(bytes: &[u8]) -> nix::Result<Self> {
    match bytes {
      [] => Err(Errno::EINVAL),
      #[cfg(any(target_os = "linux", target_os = "android"))]
      [0, name @ ..] => UnixAddr::new_abstract(name).map(Self),
      path => UnixAddr::new(path).map(Self),
    }
  }

  /// What `bind(2)` takes to let the kernel choose an abstract name; `None` where it cannot.
  pub fn autobind() -> Option<Self> {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    return Some(Self(UnixAddr::new_unnamed()));
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    return None;
  }

  /// An address that the kernel gave; `None` for that of an unnamed socket.
  pub(crate) fn named(address: UnixAddr) -> Option<Self> {
    let address = Self(address);
    (!address.bytes().is_empty()).then_some(address)
  }

  /// The bytes as [`Address::new`] takes them. Empty for [`Address::autobind`].
  pub fn bytes(&self) -> &[u8] {
    let bytes = sun_path(&self.0);
    if cfg!(any(target_os = "linux", target_os = "android")) && bytes.first() == Some(&0) {
      return bytes;
    }
    // Linux counts the final NUL, the BSDs may count the whole field.
    bytes.split(|&byte| byte == 0).next().unwrap_or(&[])
  }

  /// The path, where it is one.
  pub fn path(&self) -> Option<&Path> {
    let bytes = self.bytes();
    (!bytes.is_empty() && bytes[0] != 0).then(|| Path::new(OsStr::from_bytes(bytes)))
  }

  pub(crate) fn raw(&self) -> &UnixAddr {
    &self.0
  }
}
