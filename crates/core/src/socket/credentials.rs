//! Credentials of a connection's peer and of a message's sender.

#![cfg_attr(not(test), deny(clippy::arithmetic_side_effects))] // of numbers that a peer sends

use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::OnceLock;

use nix::errno::Errno;
use nix::sys::socket::ControlMessage;
#[cfg(any(target_os = "linux", target_os = "android"))]
use nix::sys::socket::sockopt;
use nix::unistd::{getgid, getpid, getuid};

use crate::sys::errno::restart_io;
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

  /// Returns which of the ids of a connection's peer identify no user.
  pub fn unknown_ids(&self) -> UnknownIds {
    UnknownIds { uid: is_unknown_user(self.uid), gid: is_unknown_group(self.gid) }
  }

  /// Returns which of the ids of a message's sender identify no user: also those that Linux reports for bytes that were sent
  /// before the receiver requested credentials. They are the overflow ids, without a pid.
  pub fn unknown_sender_ids(&self) -> UnknownIds {
    let unknown = self.unknown_ids();
    if self.pid.is_some() || !cfg!(any(target_os = "linux", target_os = "android")) {
      return unknown;
    }
    UnknownIds { uid: unknown.uid || self.uid == USERS.overflow(), gid: unknown.gid || self.gid == GROUPS.overflow() }
  }

  /// Converts what a control message or a socket option holds.
  pub(super) fn from_raw(pid: i32, uid: u32, gid: u32) -> Self {
    Self { pid: (pid > 0).then_some(pid), uid, gid }
  }
}

/// The ids among a process's credentials that identify no user.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UnknownIds {
  /// Whether the user id does.
  pub uid: bool,
  /// Whether the group id does.
  pub gid: bool,
}

/// Ids of users or of groups, as the kernel translates them for this process (user_namespaces(7)).
///
/// An id that this process's user namespace does not map is reported as the overflow id. It can stand for any user outside,
/// and for a user inside to whom the same id is mapped. Without /proc both files count as unreadable.
struct Ids<'a> {
  /// The file with the mapping: lines of the first id inside, the first one outside, and their number.
  map: &'a str,
  /// The file with the overflow id.
  overflow: &'a str,
  /// Set once every id is known to be mapped. A mapping is written once, but possibly after this process has started.
  is_complete: OnceLock<()>,
  /// Set once it was read.
  overflow_id: OnceLock<u32>,
}

static USERS: Ids<'static> = Ids::new("/proc/self/uid_map", "/proc/sys/kernel/overflowuid");
static GROUPS: Ids<'static> = Ids::new("/proc/self/gid_map", "/proc/sys/kernel/overflowgid");

impl<'a> Ids<'a> {
  /// `DEFAULT_OVERFLOWUID` of Linux.
  const DEFAULT_OVERFLOW: u32 = 65534;
  /// The number of ids: all ones are none.
  const COUNT: u64 = 0xffff_ffff;

  const fn new(map: &'a str, overflow: &'a str) -> Self {
    Self { map, overflow, is_complete: OnceLock::new(), overflow_id: OnceLock::new() }
  }

  fn overflow(&self) -> u32 {
    if let Some(&id) = self.overflow_id.get() {
      return id;
    }
    let read = restart_io(|| std::fs::read_to_string(self.overflow)).ok().and_then(|text| text.trim().parse().ok());
    read.map_or(Self::DEFAULT_OVERFLOW, |id| *self.overflow_id.get_or_init(|| id))
  }

  /// Returns whether an id may stand for others.
  fn is_unknown(&self, id: u32) -> bool {
    if self.is_complete.get().is_some() || id != self.overflow() {
      return false;
    }
    let complete = restart_io(|| std::fs::read_to_string(self.map)).is_ok_and(|map| Self::is_complete(&map));
    if complete {
      self.is_complete.get_or_init(|| ());
    }
    !complete
  }

  /// Returns whether a mapping has every id. Its lines do not overlap.
  fn is_complete(map: &str) -> bool {
    let counts = map.lines().filter_map(|line| line.split_whitespace().nth(2)?.parse::<u64>().ok());
    counts.fold(0, u64::saturating_add) >= Self::COUNT
  }
}

/// Returns whether a user id that the kernel has reported identifies no user: it is the overflow id, and this process's user
/// namespace does not map all users. Check it before an id is compared with another one.
///
/// An unreadable mapping counts as an incomplete one. Always false on other systems than Linux.
pub fn is_unknown_user(uid: u32) -> bool {
  cfg!(any(target_os = "linux", target_os = "android")) && USERS.is_unknown(uid)
}

/// As [`is_unknown_user`], for a group id.
pub fn is_unknown_group(gid: u32) -> bool {
  cfg!(any(target_os = "linux", target_os = "android")) && GROUPS.is_unknown(gid)
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

/// Credentials to be sent with a message. FreeBSD's kernel fills them in, so only true ones can be sent.
#[cfg(target_os = "freebsd")]
pub(super) struct SentCredentials(());

#[cfg(target_os = "freebsd")]
impl SentCredentials {
  pub(super) fn new(credentials: Credentials) -> nix::Result<Self> {
    let own = Credentials::own();
    let is_true = credentials.pid.is_none_or(|pid| Some(pid) == own.pid)
      && (credentials.uid, credentials.gid) == (own.uid, own.gid);
    if is_true { Ok(Self(())) } else { Err(Errno::ENOPROTOOPT) }
  }

  pub(super) fn message(&self) -> ControlMessage<'_> {
    ControlMessage::ScmCreds
  }
}

/// Credentials to be sent with a message, of which there are none on this platform.
#[cfg(not(any(target_os = "linux", target_os = "android", target_os = "freebsd")))]
pub(super) enum SentCredentials {}

#[cfg(not(any(target_os = "linux", target_os = "android", target_os = "freebsd")))]
impl SentCredentials {
  pub(super) fn new(_: Credentials) -> nix::Result<Self> {
    Err(Errno::ENOPROTOOPT)
  }

  pub(super) fn message(&self) -> ControlMessage<'_> {
    match *self {}
  }
}

/// Peer of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
  /// Its process, user and group at `connect(2)`, `listen(2)` or `socketpair(2)`.
  pub credentials: Credentials,
  /// Its supplementary groups, if the kernel reports them, without those that [`is_unknown_group`] refuses.
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
    groups: groups.map(|bytes| {
      let ids = bytes.as_chunks().0.iter().map(|&group| u32::from_ne_bytes(group));
      ids.filter(|&group| !is_unknown_group(group)).collect()
    }),
    // Some modules count a final NUL.
    label: label
      .map(|bytes| bytes.strip_suffix(&[0]).map_or(bytes.clone(), Vec::from))
      .filter(|label| !label.is_empty()),
  })
}

/// Returns whether the peer of a connection is root or the user of this process, either of which could end this process anyway.
pub(crate) fn is_peer_trusted(socket: BorrowedFd<'_>) -> bool {
  #[cfg(any(target_os = "linux", target_os = "android"))]
  let uid = nix::sys::socket::getsockopt(&socket, sockopt::PeerCredentials).map(|peer| peer.uid());
  #[cfg(not(any(target_os = "linux", target_os = "android")))]
  let uid = nix::unistd::getpeereid(socket).map(|(uid, _)| uid.as_raw());
  uid.is_ok_and(|uid| (uid == 0 || uid == nix::unistd::geteuid().as_raw()) && !is_unknown_user(uid))
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
  let Some([gid, groups @ ..]) = peer.cr_groups.get(..count) else { return Err(Errno::ENOTCONN) };
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

#[cfg(test)]
mod tests {
  use super::*;

  #[test]
  fn only_a_mapping_of_all_ids_makes_the_overflow_id_a_user_s200() {
    assert!(Ids::is_complete("         0          0 4294967295\n"));
    assert!(Ids::is_complete("0 0 65534\n65534 65534 4294901761\n"));
    for map in ["", "\n", "65534 1000 1\n", "0 100000 65536\n", "0 0 4294967294\n", "0 0 none\n"] {
      assert!(!Ids::is_complete(map), "{map}");
      let file = std::env::temp_dir().join(format!("fdpass-map-{}-{}", std::process::id(), map.len()));
      std::fs::write(&file, map).unwrap();
      let ids = Ids::new(file.to_str().unwrap(), "/no/such/file");
      assert!(ids.is_unknown(65534));
      assert!(!ids.is_unknown(65533));
      // A mapping is written after a namespace was created.
      std::fs::write(&file, "0 0 4294967295\n").unwrap();
      assert!(!ids.is_unknown(65534));
      std::fs::remove_file(&file).unwrap();
    }
    assert!(Ids::new("/no/such/file", "/no/such/file").is_unknown(65534));
  }
}
