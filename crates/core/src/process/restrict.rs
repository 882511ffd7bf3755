//! A process that gives rights up: before it executes another program, and for good.

use std::convert::Infallible;
use std::ffi::CStr;
use std::os::fd::RawFd;

use nix::unistd::{Group, User};

use crate::sys::fds::close_on_exec_from;

/// A user of this machine, and the group that is theirs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
  /// The user.
  pub uid: u32,
  /// The group that the user database has for it.
  pub gid: u32,
}

impl Identity {
  /// Looks a user up by name: getpwnam(3).
  pub fn by_name(name: &str) -> nix::Result<Option<Self>> {
    Ok(User::from_name(name)?.map(Self::from))
  }

  /// Looks a user up by number: getpwuid(3).
  pub fn by_number(uid: u32) -> nix::Result<Option<Self>> {
    Ok(User::from_uid(uid.into())?.map(Self::from))
  }
}

impl From<User> for Identity {
  fn from(user: User) -> Self {
    Self { uid: user.uid.as_raw(), gid: user.gid.as_raw() }
  }
}

/// Looks a group up by name: getgrnam(3).
pub fn group_by_name(name: &str) -> nix::Result<Option<u32>> {
  Ok(Group::from_name(name)?.map(|group| group.gid.as_raw()))
}

/// Has the next program that this thread executes run with fewer rights: without any that it would gain by being executed
/// (`PR_SET_NO_NEW_PRIVS`), and of root's capabilities with those alone that open files, take low ports, and, if it is
/// to change its user, do that.
///
/// The thread itself keeps what it has. Nothing happens on other systems than Linux. `EPERM` where root may not give
/// capabilities up.
pub fn restrict(changes_user: bool) -> nix::Result<()> {
  #[cfg(any(target_os = "linux", target_os = "android"))]
  {
    // linux/capability.h
    const CAP_DAC_OVERRIDE: u32 = 1;
    const CAP_DAC_READ_SEARCH: u32 = 2;
    const CAP_SETGID: u32 = 6;
    const CAP_SETUID: u32 = 7;
    const CAP_NET_BIND_SERVICE: u32 = 10;
    let mut kept = vec![CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_NET_BIND_SERVICE];
    if changes_user {
      kept.extend([CAP_SETGID, CAP_SETUID]);
    }
    nix::sys::prctl::set_no_new_privs()?;
    crate::sys::capabilities::limit_capabilities(&kept, nix::unistd::geteuid().is_root())
  }
  #[cfg(not(any(target_os = "linux", target_os = "android")))]
  {
    let _ = changes_user;
    Ok(())
  }
}

/// Executes a program in this one's place, with those descriptors alone whose numbers are below `first`: execv(3). It
/// returns only where that fails; the descriptors are close-on-exec then.
pub fn execute(path: &CStr, arguments: &[&CStr], first: RawFd) -> nix::Result<Infallible> {
  close_on_exec_from(first)?;
  nix::unistd::execv(path, arguments)
}

/// Keeps other processes of this user from tracing this one, and from reading its memory: `PR_SET_DUMPABLE`. Nothing
/// happens on other systems than Linux.
pub fn set_undumpable() -> nix::Result<()> {
  #[cfg(any(target_os = "linux", target_os = "android"))]
  nix::sys::prctl::set_dumpable(false)?;
  Ok(())
}
