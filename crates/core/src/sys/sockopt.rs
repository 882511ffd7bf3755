//! Socket options that nix does not define.

use std::os::fd::BorrowedFd;

use nix::errno::Errno;
use nix::sys::socket::{setsockopt, sockopt};

/// asm-generic/socket.h; libc and nix have no name for it.
#[cfg(any(target_os = "linux", target_os = "android"))]
const SO_PASSPIDFD: libc::c_int = 76;

/// asm-generic/socket.h, from Linux 6.16 on; libc and nix have no name for it.
#[cfg(any(target_os = "linux", target_os = "android"))]
const SO_PASSRIGHTS: libc::c_int = 83;

/// linux/in.h: multipath TCP.
pub(crate) const IPPROTO_MPTCP: libc::c_int = 262;

/// Level of the options of local sockets on macOS and FreeBSD.
#[cfg(any(target_vendor = "apple", target_os = "freebsd"))]
pub(crate) const SOL_LOCAL: libc::c_int = 0;

/// The options themselves, by nix's macros.
mod options {
  #[cfg(any(target_os = "linux", target_os = "android", target_os = "freebsd"))]
  use nix::getsockopt_impl;
  #[cfg(any(target_os = "linux", target_os = "android", target_os = "freebsd", target_vendor = "apple"))]
  use nix::{setsockopt_impl, sockopt_impl};

  #[cfg(any(target_os = "linux", target_os = "android"))]
  sockopt_impl!(PassPidfd, SetOnly, libc::SOL_SOCKET, super::SO_PASSPIDFD, bool);
  #[cfg(any(target_os = "linux", target_os = "android"))]
  sockopt_impl!(PassRights, SetOnly, libc::SOL_SOCKET, super::SO_PASSRIGHTS, bool);
  #[cfg(target_os = "freebsd")]
  sockopt_impl!(CredsPersistent, SetOnly, super::SOL_LOCAL, libc::LOCAL_CREDS_PERSISTENT, bool);
  #[cfg(target_vendor = "apple")]
  sockopt_impl!(NoSigPipe, SetOnly, libc::SOL_SOCKET, libc::SO_NOSIGPIPE, bool);
  #[cfg(any(target_os = "linux", target_os = "android", target_os = "freebsd"))]
  sockopt_impl!(Protocol, GetOnly, libc::SOL_SOCKET, libc::SO_PROTOCOL, libc::c_int);
}

/// Makes the kernel add the sender's credentials to each received message.
pub(crate) fn pass_credentials(socket: BorrowedFd<'_>) -> nix::Result<()> {
  #[cfg(any(target_os = "linux", target_os = "android"))]
  return setsockopt(&socket, sockopt::PassCred, &true);
  #[cfg(target_os = "freebsd")]
  return setsockopt(&socket, options::CredsPersistent, &true);
  #[cfg(not(any(target_os = "linux", target_os = "android", target_os = "freebsd")))]
  {
    let _ = socket;
    Err(Errno::ENOPROTOOPT)
  }
}

/// Makes the kernel add a pidfd of the sender to each received message: `SO_PASSPIDFD`.
pub(crate) fn pass_pidfd(socket: BorrowedFd<'_>) -> nix::Result<()> {
  #[cfg(any(target_os = "linux", target_os = "android"))]
  return setsockopt(&socket, options::PassPidfd, &true);
  #[cfg(not(any(target_os = "linux", target_os = "android")))]
  {
    let _ = socket;
    Err(Errno::ENOPROTOOPT)
  }
}

/// Makes sends of descriptors to this socket fail with `EPERM`: `SO_PASSRIGHTS` off.
pub(crate) fn refuse_rights(socket: BorrowedFd<'_>) -> nix::Result<()> {
  #[cfg(any(target_os = "linux", target_os = "android"))]
  return setsockopt(&socket, options::PassRights, &false);
  #[cfg(not(any(target_os = "linux", target_os = "android")))]
  {
    let _ = socket;
    Err(Errno::ENOPROTOOPT)
  }
}

/// Makes sends on this socket fail with `EPIPE` without `SIGPIPE`: macOS has no `MSG_NOSIGNAL`.
#[cfg(target_vendor = "apple")]
pub(crate) fn set_no_sigpipe(socket: BorrowedFd<'_>) -> nix::Result<()> {
  setsockopt(&socket, options::NoSigPipe, &true)
}

/// Makes the last close of a connection reset it, if its protocol has resets: `SO_LINGER` of zero seconds (socket(7)).
pub(crate) fn reset_on_close(connection: BorrowedFd<'_>) {
  // It fails only for a descriptor that is no socket.
  let _ = setsockopt(&connection, sockopt::Linger, &libc::linger { l_onoff: 1, l_linger: 0 });
}

/// Switches `SO_LINGER` off if it has a time, which close(2) would wait for, also in non-blocking mode (socket(7)). The kernel sends the
/// rest in the background then.
pub(crate) fn stop_lingering(connection: BorrowedFd<'_>) {
  let linger = nix::sys::socket::getsockopt(&connection, sockopt::Linger);
  if linger.is_ok_and(|libc::linger { l_onoff, l_linger }| l_onoff != 0 && l_linger != 0) {
    let _ = setsockopt(&connection, sockopt::Linger, &libc::linger { l_onoff: 0, l_linger: 0 });
  }
}

/// Returns the protocol of a socket, `None` if the kernel does not report it: `SO_PROTOCOL`.
pub(crate) fn protocol(socket: BorrowedFd<'_>) -> Option<libc::c_int> {
  #[cfg(any(target_os = "linux", target_os = "android", target_os = "freebsd"))]
  return nix::sys::socket::getsockopt(&socket, options::Protocol).ok();
  #[cfg(not(any(target_os = "linux", target_os = "android", target_os = "freebsd")))]
  {
    let _ = socket;
    None
  }
}

/// Returns the credentials of a connection's peer: `LOCAL_PEERCRED`.
///
/// nix's `LocalPeerCred` panics if the kernel writes less than a whole `xucred`.
#[cfg(any(target_vendor = "apple", target_os = "freebsd"))]
pub(crate) fn local_peer_credentials(socket: BorrowedFd<'_>) -> nix::Result<libc::xucred> {
  use std::os::fd::AsRawFd;
  let mut value = std::mem::MaybeUninit::<libc::xucred>::zeroed();
  let mut length = size_of::<libc::xucred>() as libc::socklen_t;
  // SAFETY: the kernel writes at most `length` bytes to the given address.
  let result = unsafe {
    libc::getsockopt(socket.as_raw_fd(), SOL_LOCAL, libc::LOCAL_PEERCRED, value.as_mut_ptr().cast(), &raw mut length)
  };
  Errno::result(result)?;
  // SAFETY: a structure of integers, each of them zero or written by the kernel.
  Ok(unsafe { value.assume_init() })
}

/// Returns the pid in FreeBSD's peer credentials.
#[cfg(target_os = "freebsd")]
pub(crate) fn pid_of(credentials: &libc::xucred) -> libc::pid_t {
  // SAFETY: a union of the pid and of an unused pointer; it was zeroed, or written by the kernel.
  unsafe { credentials.cr_pid__c_anonymous_union.cr_pid }
}

/// Returns the value of a `SOL_SOCKET` option whose length only the kernel knows: `SO_PEERGROUPS`, `SO_PEERSEC`.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(crate) fn option_bytes(socket: BorrowedFd<'_>, name: libc::c_int) -> nix::Result<Vec<u8>> {
  use std::os::fd::AsRawFd;
  let mut value = vec![0; 256];
  loop {
    let mut length = value.len() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes to the given address.
    let result = unsafe {
      libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, name, value.as_mut_ptr().cast(), &raw mut length)
    };
    match Errno::result(result) {
      // With ERANGE the kernel writes the length that it needs.
      Err(Errno::ERANGE) if length as usize > value.len() => value.resize(length as usize, 0),
      Err(errno) => return Err(errno),
      Ok(_) => {
        value.truncate(length as usize);
        return Ok(value);
      }
    }
  }
}
