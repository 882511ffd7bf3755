//! What happens between fork(2) and execve(2), and the descriptor that tells of a process's end.

use std::convert::Infallible;
use std::ffi::{CStr, c_char};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::sys::signal::{SigSet, SigmaskHow, sigprocmask};

use super::{CLOSE_RANGE_CLOEXEC, close_range, set_descriptor_flags};
use crate::spawn::{Credential, ResourceLimit, Step, report};

/// What a new process needs, all of it made before fork(2).
pub(crate) struct Child<'a> {
  pub(crate) path: &'a CStr,
  /// Ends with a null pointer, as does `environment`.
  pub(crate) arguments: &'a [*const c_char],
  pub(crate) environment: &'a [*const c_char],
  pub(crate) directory: Option<&'a CStr>,
  pub(crate) umask: Option<u32>,
  pub(crate) limits: &'a [ResourceLimit],
  pub(crate) credential: Option<&'a Credential>,
  pub(crate) no_new_privileges: bool,
  /// What become its numbers from 0 on. None of them, nor the reporter, lies among these numbers.
  pub(crate) fds: &'a [BorrowedFd<'a>],
  /// What a failure is written to; close-on-exec.
  pub(crate) reporter: BorrowedFd<'a>,
  /// The highest number that is open, for kernels that cannot mark a range.
  pub(crate) highest: RawFd,
}

impl Child<'_> {
  /// Makes the process, which executes the program or writes to the reporter why not: fork(2). Gives its number.
  pub(crate) fn fork(&self) -> nix::Result<libc::pid_t> {
    // A handler of this process's would run in the new one, and write to what both have: to libuv's signal pipe.
    let mut before = SigSet::empty();
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), Some(&mut before))?;
    // SAFETY: the new process makes async-signal-safe calls only (signal-safety(7)) and allocates nothing, as the threads
    // that this one has may have been in the midst of anything.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
      let Err((step, errno)) = self.run();
      let report = report(step, errno);
      // SAFETY: bytes of this stack, to a descriptor that is open here.
      unsafe { libc::write(self.reporter.as_raw_fd(), report.as_ptr().cast(), report.len()) };
      // SAFETY: without what exit(3) does, which is the other process's.
      unsafe { libc::_exit(127) };
    }
    let forked = Errno::result(pid);
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&before), None)?;
    forked
  }

  /// Becomes the program; gives what failed.
  fn run(&self) -> Result<Infallible, (Step, Errno)> {
    // SAFETY: no arguments. It fails for the leader of a group only, which a new process is not.
    unsafe { libc::setsid() };
    self.place_descriptors().map_err(|errno| (Step::Descriptors, errno))?;
    if let Some(umask) = self.umask {
      // SAFETY: an integer.
      unsafe { libc::umask(umask as libc::mode_t) };
    }
    self.limits.iter().try_for_each(set_limit).map_err(|errno| (Step::Limits, errno))?;
    if let Some(Credential { uid, gid, groups }) = self.credential {
      set_groups(groups).map_err(|errno| (Step::Groups, errno))?;
      set_group(*gid).map_err(|errno| (Step::Group, errno))?;
      set_user(*uid).map_err(|errno| (Step::User, errno))?;
      // What a service manager has given to this process is not for another user, and execve(2) would keep it.
      #[cfg(any(target_os = "linux", target_os = "android"))]
      // SAFETY: integers only; the unused ones are zero. It fails only where the kernel has no such set.
      unsafe {
        libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
      };
    }
    if let Some(directory) = self.directory {
      // SAFETY: a C string.
      Errno::result(unsafe { libc::chdir(directory.as_ptr()) }).map_err(|errno| (Step::Directory, errno))?;
    }
    #[cfg(any(target_os = "linux", target_os = "android"))]
    if self.no_new_privileges {
      // SAFETY: integers only; the unused ones are zero, as prctl(2) asks for.
      let result = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1 as libc::c_ulong, 0, 0, 0) };
      Errno::result(result).map_err(|errno| (Step::Privileges, errno))?;
    }
    reset_signals();
    // SAFETY: a C string, and two arrays of such that end with a null pointer.
    unsafe { libc::execve(self.path.as_ptr(), self.arguments.as_ptr(), self.environment.as_ptr()) };
    Err((Step::Execute, Errno::last()))
  }

  /// Gives the descriptors their numbers, and has execve(2) close all others.
  fn place_descriptors(&self) -> nix::Result<()> {
    for (target, fd) in self.fds.iter().enumerate() {
      // SAFETY: integers only. The copy is not close-on-exec.
      Errno::result(unsafe { libc::dup2(fd.as_raw_fd(), target as RawFd) })?;
    }
    let first = self.fds.len() as RawFd;
    if close_range(first, RawFd::MAX, CLOSE_RANGE_CLOEXEC) {
      return Ok(());
    }
    if self.highest == RawFd::MAX {
      return Err(Errno::last()); // it could be done before; one by one it would take minutes
    }
    (first..=self.highest).try_for_each(|number| set_descriptor_flags(number, libc::FD_CLOEXEC))
  }
}

fn set_limit(&ResourceLimit { resource, soft, hard }: &ResourceLimit) -> nix::Result<()> {
  // RLIM_INFINITY is all ones on Linux, and the highest that is no negative number elsewhere.
  let value = |limit: u64| if limit == u64::MAX { libc::RLIM_INFINITY } else { limit as libc::rlim_t };
  let limit = libc::rlimit { rlim_cur: value(soft), rlim_max: value(hard) };
  // SAFETY: one rlimit of this stack.
  Errno::result(unsafe { libc::setrlimit(resource as _, &limit) }).map(drop)
}

// On Linux by the system calls themselves: those of libc have every thread of the process change its user, for which they
// stop the threads by signals that the new process does not have.

fn set_groups(groups: &[u32]) -> nix::Result<()> {
  #[cfg(any(target_os = "linux", target_os = "android"))]
  // SAFETY: an array of `gid_t`, and its length.
  let result = unsafe { libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) };
  #[cfg(not(any(target_os = "linux", target_os = "android")))]
  // SAFETY: as on Linux.
  let result = unsafe { libc::setgroups(groups.len() as _, groups.as_ptr().cast()) };
  Errno::result(result).map(drop)
}

/// All ones mean "unchanged" to setresuid(2), and to setresgid(2).
fn check_number(number: u32) -> nix::Result<()> {
  if number == u32::MAX { Err(Errno::EINVAL) } else { Ok(()) }
}

fn set_group(gid: u32) -> nix::Result<()> {
  check_number(gid)?;
  #[cfg(any(target_os = "linux", target_os = "android"))]
  // SAFETY: integers only.
  let result = unsafe { libc::syscall(libc::SYS_setresgid, gid, gid, gid) };
  #[cfg(not(any(target_os = "linux", target_os = "android")))]
  // SAFETY: an integer.
  let result = unsafe { libc::setgid(gid) };
  Errno::result(result).map(drop)
}

fn set_user(uid: u32) -> nix::Result<()> {
  check_number(uid)?;
  #[cfg(any(target_os = "linux", target_os = "android"))]
  // SAFETY: integers only.
  let result = unsafe { libc::syscall(libc::SYS_setresuid, uid, uid, uid) };
  #[cfg(not(any(target_os = "linux", target_os = "android")))]
  // SAFETY: an integer.
  let result = unsafe { libc::setuid(uid) };
  Errno::result(result).map(drop)
}

/// Has every signal do what it does by default, and none be blocked: execve(2) keeps what is ignored, and what is blocked.
fn reset_signals() {
  const SIGNALS: std::ops::RangeInclusive<libc::c_int> = 1..=if cfg!(target_os = "freebsd") { 128 } else { 64 };
  for signal in SIGNALS {
    // SAFETY: integers only. It fails for numbers that are no signal, or not to be changed.
    unsafe { libc::signal(signal, libc::SIG_DFL) };
  }
  // It fails only for an unknown `how`.
  let _ = sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None);
}

/// A descriptor that becomes readable when a process of ours ends: pidfd_open(2), from Linux 5.3 on; elsewhere a kqueue(2)
/// with this one event.
pub(crate) fn exit_descriptor(pid: libc::pid_t) -> nix::Result<OwnedFd> {
  #[cfg(any(target_os = "linux", target_os = "android"))]
  {
    // SAFETY: integers only. A pidfd is close-on-exec.
    let number = Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })?;
    // SAFETY: the kernel has just installed it.
    Ok(unsafe { OwnedFd::from_raw_fd(number as RawFd) })
  }
  #[cfg(not(any(target_os = "linux", target_os = "android")))]
  {
    // SAFETY: no arguments.
    let number = Errno::result(unsafe { libc::kqueue() })?;
    // SAFETY: the kernel has just installed it.
    let queue = unsafe { OwnedFd::from_raw_fd(number) };
    crate::descriptor::set_close_on_exec(&queue)?;
    // SAFETY: a structure of integers and a pointer that the kernel only hands back.
    let mut change: libc::kevent = unsafe { std::mem::zeroed() };
    change.ident = pid as _;
    change.filter = libc::EVFILT_PROC;
    change.flags = libc::EV_ADD;
    change.fflags = libc::NOTE_EXIT;
    // SAFETY: one change, and no room for events, so that it does not wait.
    let result = unsafe { libc::kevent(number, &change, 1, std::ptr::null_mut(), 0, std::ptr::null()) };
    match Errno::result(result) {
      // It has ended already, and nothing would tell.
      Err(Errno::ESRCH) => Err(Errno::ESRCH),
      result => result.map(|_| queue),
    }
  }
}
