//! Giving up rights permanently, before executing another program.

use std::convert::Infallible;
use std::ffi::CStr;
use std::os::fd::RawFd;
use std::path::PathBuf;

use nix::unistd::{Group, User};

use crate::sys::errno::restart;
use crate::sys::fds::close_on_exec_from;

/// A user of this machine: passwd(5).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
  /// User id.
  pub uid: u32,
  /// Primary group id.
  pub gid: u32,
  /// Login name.
  pub name: String,
  /// Home directory.
  pub home: PathBuf,
  /// Login shell.
  pub shell: PathBuf,
}

impl Identity {
  /// Looks a user up by name: getpwnam(3).
  pub fn by_name(name: &str) -> nix::Result<Option<Self>> {
    Ok(restart(|| User::from_name(name))?.map(Self::from))
  }

  /// Looks a user up by number: getpwuid(3).
  pub fn by_number(uid: u32) -> nix::Result<Option<Self>> {
    Ok(restart(|| User::from_uid(uid.into()))?.map(Self::from))
  }
}

impl From<User> for Identity {
  fn from(user: User) -> Self {
    let User { uid, gid, name, dir: home, shell, .. } = user;
    Self { uid: uid.as_raw(), gid: gid.as_raw(), name, home, shell }
  }
}

/// Looks a group up by name: getgrnam(3).
pub fn group_by_name(name: &str) -> nix::Result<Option<u32>> {
  Ok(restart(|| Group::from_name(name))?.map(|group| group.gid.as_raw()))
}

/// Restricts the rights of the next program that this thread executes.
///
/// - It gains no rights by execve(2) (`PR_SET_NO_NEW_PRIVS`).
/// - Of root's capabilities it keeps those that open files and bind low ports, and with `changes_user` those that change
///   its user and groups.
///
/// The thread itself keeps its rights. On other platforms than Linux this does nothing. `EPERM` if root may not drop
/// capabilities.
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

/// Replaces this process's program: execv(3). The new program inherits the descriptors whose numbers are below `first`.
///
/// It returns only after a failure. All other descriptors are close-on-exec then.
pub fn execute(path: &CStr, arguments: &[&CStr], first: RawFd) -> nix::Result<Infallible> {
  close_on_exec_from(first)?;
  nix::unistd::execv(path, arguments)
}

/// Prevents other processes of this user from tracing this one and reading its memory: `PR_SET_DUMPABLE`. On other platforms
/// than Linux this does nothing.
pub fn set_undumpable() -> nix::Result<()> {
  #[cfg(any(target_os = "linux", target_os = "android"))]
  nix::sys::prctl::set_dumpable(false)?;
  Ok(())
}
