//! Credentials of a connection's peer and of a message's sender.

use std::os::fd::{BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::ControlMessage;
#[cfg(any(target_os = "linux", target_os = "android"))]
use nix::sys::socket::sockopt;
use nix::unistd::{getgid, getpid, getuid};

use crate::sys::sockopt as options;

/// Credentials of a process, as the kernel reports them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Credentials {
  /// Process id; `None` if the kernel reports none, for example for a process outside of this process's pid namespace.
  pub pid: Option<i32>,
  /// User id.
  pub uid: u32,
  /// Group id.
  pub gid: u32,
}

impl Credentials {
  /// Returns this process's credentials, with its real user and group. Linux sends the same for a sender that sends none.
  pub fn own() -> Self {
    Self { pid: Some(getpid().as_raw()), uid: getuid().as_raw(), gid: getgid().as_raw() }
  }

  /// Converts what a control message or a socket option holds.
  pub(super) fn from_raw(pid: i32, uid: u32, gid: u32) -> Self {
    Self { pid: (pid > 0).then_some(pid), uid, gid }
  }
}

/// Credentials to be sent with a message.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(super) struct SentCredentials(nix::sys::socket::UnixCredentials);

#[cfg(any(target_os = "linux", target_os = "android"))]
impl SentCredentials {
  /// Converts credentials; a missing pid becomes this process's.
  pub(super) fn new(Credentials { pid, uid, gid }: Credentials) -> nix::Result<Self> {
    let pid = pid.unwrap_or_else(|| getpid().as_raw());
    Ok(Self(libc::ucred { pid, uid, gid }.into()))
  }

  /// The control message that sends them.
  pub(super) fn message(&self) -> ControlMessage<'_> {
    ControlMessage::ScmCredentials(&self.0)
  }
}

/// Credentials to be sent with a message. FreeBSD's kernel fills them in, so only true ones can be sent; macOS sends none.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(super) struct SentCredentials(());

#[cfg(not(any(target_os = "linux", target_os = "android")))]
impl SentCredentials {
  pub(super) fn new(credentials: Credentials) -> nix::Result<Self> {
    let own = Credentials::own();
    let is_true = credentials.pid.is_none_or(|pid| Some(pid) == own.pid)
      && (credentials.uid, credentials.gid) == (own.uid, own.gid);
    if cfg!(target_os = "freebsd") && is_true { Ok(Self(())) } else { Err(Errno::ENOPROTOOPT) }
  }

  #[cfg(target_os = "freebsd")]
  pub(super) fn message(&self) -> ControlMessage<'_> {
    ControlMessage::ScmCreds
  }

  #[cfg(not(target_os = "freebsd"))]
  pub(super) fn message(&self) -> ControlMessage<'_> {
    unreachable!("`new` fails on this platform")
  }
}

/// Peer of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
  /// Its process, user and group at `connect(2)`, `listen(2)` or `socketpair(2)`.
  pub credentials: Credentials,
  /// Its supplementary groups, if the kernel reports them.
  pub groups: Option<Vec<u32>>,
  /// Its security label, if a security module sets one.
  pub label: Option<Vec<u8>>,
}

/// Returns the credentials of the process that created the other end of a connection. The kernel recorded them at
/// `connect(2)`, `listen(2)` or `socketpair(2)`. They change neither with the peer's user nor with the socket's owner.
///
/// # Errors
///
/// `ENOTCONN` if there is no such record: for an unconnected socket, and for a datagram socket that is not half of a pair.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub fn peer(socket: BorrowedFd<'_>) -> nix::Result<Peer> {
  let peer = nix::sys::socket::getsockopt(&socket, sockopt::PeerCredentials)?;
  if peer.pid() == 0 && peer.uid() == u32::MAX {
    return Err(Errno::ENOTCONN); // socket(7) has no error for it: the fields are 0, -1, -1
  }
  // ENOPROTOOPT: before Linux 4.13. ENODATA: the kernel has only the credentials of this peer.
  let groups = optional(options::option_bytes(socket, libc::SO_PEERGROUPS), &[Errno::ENOPROTOOPT, Errno::ENODATA])?;
  // ENOPROTOOPT: no security module with labels.
  let label = optional(options::option_bytes(socket, libc::SO_PEERSEC), &[Errno::ENOPROTOOPT])?;
  Ok(Peer {
    credentials: Credentials::from_raw(peer.pid(), peer.uid(), peer.gid()),
    groups: groups.map(|bytes| bytes.as_chunks().0.iter().map(|&group| u32::from_ne_bytes(group)).collect()),
    // Some modules count a final NUL.
    label: label
      .map(|bytes| bytes.strip_suffix(&[0]).map_or(bytes.clone(), Vec::from))
      .filter(|label| !label.is_empty()),
  })
}

/// Returns the result, or `None` if it is one of the errors that mean "not available".
#[cfg(any(target_os = "linux", target_os = "android"))]
fn optional<T>(result: nix::Result<T>, absent: &[Errno]) -> nix::Result<Option<T>> {
  match result {
    Ok(value) => Ok(Some(value)),
    Err(errno) if absent.contains(&errno) => Ok(None),
    Err(errno) => Err(errno),
  }
}

/// Returns the credentials of the process that created the other end of a connection: `LOCAL_PEERCRED`, or `getpeereid`
/// if that fails, as it does for some pairs (junixsocket's credentials.c).
#[cfg(any(target_vendor = "apple", target_os = "freebsd"))]
pub fn peer(socket: BorrowedFd<'_>) -> nix::Result<Peer> {
  let Ok(peer) = options::local_peer_credentials(socket) else {
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

/// Returns the pid in the audit token, which belongs to the process of the credentials. `LOCAL_PEERPID` alone could name a
/// later process.
#[cfg(target_vendor = "apple")]
fn peer_pid(socket: BorrowedFd<'_>, _: Option<&libc::xucred>) -> Option<i32> {
  const PID: usize = 5; // of audit_token_t's eight words: libbsm's audit_token_to_pid()
  use nix::sys::socket::{getsockopt, sockopt};
  let by_token = getsockopt(&socket, sockopt::LocalPeerToken).map(|token| token.val[PID] as i32);
  by_token.or_else(|_| getsockopt(&socket, sockopt::LocalPeerPid)).ok().filter(|&pid| pid > 0)
}

/// Returns the pid in the credentials, which FreeBSD has from 13 on.
#[cfg(target_os = "freebsd")]
fn peer_pid(_: BorrowedFd<'_>, peer: Option<&libc::xucred>) -> Option<i32> {
  peer.map(options::pid_of).filter(|&pid| pid > 0)
}

/// Opens a pidfd of the process that created the other end of a connection: `SO_PEERPIDFD`, from Linux 6.5 on. Unlike a pid
/// it never names another process.
///
/// # Errors
///
/// - `ENOPROTOOPT`: the kernel has no such option.
/// - `ESRCH`, `EINVAL`: the process has ended and the kernel has no more record of it.
/// - `ENODATA`: the socket is not connected.
pub fn peer_pidfd(socket: BorrowedFd<'_>) -> nix::Result<OwnedFd> {
  #[cfg(target_os = "linux")]
  return nix::sys::socket::getsockopt(&socket, sockopt::PeerPidfd);
  #[cfg(not(target_os = "linux"))]
  {
    let _ = socket;
    Err(Errno::ENOPROTOOPT)
  }
}
