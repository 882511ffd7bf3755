//! Who is at the other end: of a connection, and of one message.

use std::os::fd::{BorrowedFd, OwnedFd};

use nix::errno::Errno;
#[cfg(any(target_os = "linux", target_os = "android"))]
use nix::sys::socket::sockopt;
use nix::unistd::{getgid, getpid, getuid};

use crate::sys;

/// A process as the kernel names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Credentials {
  /// The process; `None` where the kernel does not tell, as for one outside of this process's pid namespace.
  pub pid: Option<i32>,
  /// The user.
  pub uid: u32,
  /// The group.
  pub gid: u32,
}

impl Credentials {
  /// This process, with its real user and group, which are what Linux gives for a sender that names none.
  pub fn own() -> Self {
    Self { pid: Some(getpid().as_raw()), uid: getuid().as_raw(), gid: getgid().as_raw() }
  }
}

/// The process at the other end of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
  /// Its process, user and group at `connect(2)`, `listen(2)` or `socketpair(2)`.
  pub credentials: Credentials,
  /// Its supplementary groups, where the kernel tells them.
  pub groups: Option<Vec<u32>>,
  /// Its security label, where a security module gives one.
  pub label: Option<Vec<u8>>,
}

/// Who made the other end of a connection: a snapshot that the kernel took at `connect(2)`, `listen(2)` or
/// `socketpair(2)`. It does not change with the peer's user, nor with who holds the socket now.
///
/// `ENOTCONN` where there is no such snapshot: for an unconnected socket, and for a datagram socket that is not half of
/// a pair.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub fn peer(socket: BorrowedFd<'_>) -> nix::Result<Peer> {
  let peer = nix::sys::socket::getsockopt(&socket, sockopt::PeerCredentials)?;
  if peer.pid() == 0 && peer.uid() == u32::MAX {
    return Err(Errno::ENOTCONN); // socket(7) has no error for it: the fields are 0, -1, -1
  }
  // ENOPROTOOPT: before Linux 4.13. ENODATA: the peer is known by its credentials alone.
  let groups = optional(sys::option_bytes(socket, libc::SO_PEERGROUPS), &[Errno::ENOPROTOOPT, Errno::ENODATA])?;
  // ENOPROTOOPT: no security module that gives labels.
  let label = optional(sys::option_bytes(socket, libc::SO_PEERSEC), &[Errno::ENOPROTOOPT])?;
  Ok(Peer {
    credentials: from_ucred(peer.into()),
    groups: groups.map(|bytes| {
      bytes.chunks_exact(4).map(|group| u32::from_ne_bytes(group.try_into().expect("four bytes"))).collect()
    }),
    // Some modules count a final NUL.
    label: label
      .map(|bytes| bytes.strip_suffix(&[0]).map_or(bytes.clone(), Vec::from))
      .filter(|label| !label.is_empty()),
  })
}

/// The result, or `None` where it failed in a way that means "not here".
#[cfg(any(target_os = "linux", target_os = "android"))]
fn optional<T>(result: nix::Result<T>, absent: &[Errno]) -> nix::Result<Option<T>> {
  match result {
    Ok(value) => Ok(Some(value)),
    Err(errno) if absent.contains(&errno) => Ok(None),
    Err(errno) => Err(errno),
  }
}

#[cfg(any(target_os = "linux", target_os = "android"))]
pub(crate) fn from_ucred(ucred: libc::ucred) -> Credentials {
  Credentials { pid: (ucred.pid > 0).then_some(ucred.pid), uid: ucred.uid, gid: ucred.gid }
}

/// Who made the other end of a connection: `LOCAL_PEERCRED`, or `getpeereid` where that fails, as it does for some
/// pairs (junixsocket's credentials.c).
#[cfg(any(target_vendor = "apple", target_os = "freebsd"))]
pub fn peer(socket: BorrowedFd<'_>) -> nix::Result<Peer> {
  let Ok(peer) = sys::option::<libc::xucred>(socket, sys::SOL_LOCAL, libc::LOCAL_PEERCRED) else {
    let (uid, gid) = nix::unistd::getpeereid(socket)?;
    let credentials = Credentials { pid: peer_pid(socket, None), uid: uid.as_raw(), gid: gid.as_raw() };
    return Ok(Peer { credentials, groups: None, label: None });
  };
  let count = usize::try_from(peer.cr_ngroups).unwrap_or(0).min(peer.cr_groups.len());
  // The first group is the effective one.
  let [gid, groups @ ..] = &peer.cr_groups[..count] else { return Err(Errno::ENOTCONN) };
  let credentials = Credentials { pid: peer_pid(socket, Some(&peer)), uid: peer.cr_uid, gid: *gid };
  Ok(Peer { credentials, groups: Some(groups.to_vec()), label: None })
}

/// The audit token is of the process that the credentials are of; the pid alone may have been given out again.
#[cfg(target_vendor = "apple")]
fn peer_pid(socket: BorrowedFd<'_>, _: Option<&libc::xucred>) -> Option<i32> {
  const PID: usize = 5; // of audit_token_t's eight words: libbsm's audit_token_to_pid()
  use nix::sys::socket::{getsockopt, sockopt};
  let by_token = getsockopt(&socket, sockopt::LocalPeerToken).map(|token| token.val[PID] as i32);
  by_token.or_else(|_| getsockopt(&socket, sockopt::LocalPeerPid)).ok().filter(|&pid| pid > 0)
}

/// From FreeBSD 13 on the credentials name the process.
#[cfg(target_os = "freebsd")]
fn peer_pid(_: BorrowedFd<'_>, peer: Option<&libc::xucred>) -> Option<i32> {
  peer.map(sys::pid_of).filter(|&pid| pid > 0)
}

/// A pidfd of the process that made the other end of a connection: `SO_PEERPIDFD`, from Linux 6.5 on. Unlike its pid it
/// can never come to mean another process.
///
/// `ENOPROTOOPT` where the kernel has none; `ESRCH` or `EINVAL` where the process is gone and the kernel cannot name it
/// any more; `ENODATA` for an unconnected socket.
pub fn peer_pidfd(socket: BorrowedFd<'_>) -> nix::Result<OwnedFd> {
  #[cfg(target_os = "linux")]
  return nix::sys::socket::getsockopt(&socket, sockopt::PeerPidfd);
  #[cfg(not(target_os = "linux"))]
  {
    let _ = socket;
    Err(Errno::ENOPROTOOPT)
  }
}
