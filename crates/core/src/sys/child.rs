//! A child process between fork(2) and execve(2), and its end as a readable descriptor.

use std::convert::Infallible;
use std::ffi::{CStr, c_char};
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};

use nix::errno::Errno;
use nix::sys::signal::{SigSet, SigmaskHow};

use super::errno::restart;
use super::fds::{mark_close_on_exec_from, set_descriptor_flags};

/// Step of starting a program, in the order in which they are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
  /// Creating the pipe by which the child reports a failure: pipe(2).
  Pipe,
  /// Duplicating descriptors whose numbers the child needs, and finding the open ones: fcntl(2).
  Duplicates,
  /// fork(2)
  Fork,
  /// Opening the descriptor that reports the child's end: pidfd_open(2), from Linux 5.3 on; elsewhere kqueue(2). The child was killed.
  Watch,
  /// Starting the thread that waits for the child's end, where pidfd_open(2) is missing: clone(2). The child was killed.
  Thread,
  /// Placing the descriptors: dup2(2).
  Descriptors,
  /// setrlimit(2)
  Limits,
  /// setgroups(2)
  Groups,
  /// setgid(2)
  Group,
  /// setuid(2)
  User,
  /// chdir(2)
  Directory,
  /// prctl(2)
  Privileges,
  /// execve(2)
  Execute,
}

const STEPS: [Step; 13] = [
  Step::Pipe,
  Step::Duplicates,
  Step::Fork,
  Step::Watch,
  Step::Thread,
  Step::Descriptors,
  Step::Limits,
  Step::Groups,
  Step::Group,
  Step::User,
  Step::Directory,
  Step::Privileges,
  Step::Execute,
];

impl Step {
  /// Returns the step with this number, which `step as u8` returns.
  pub fn from_number(number: u8) -> Option<Self> {
    STEPS.get(usize::from(number)).copied()
  }

  /// Returns the name of the system call that the step makes.
  pub fn syscall(self) -> &'static str {
    match self {
      Self::Pipe => "pipe",
      Self::Duplicates => "fcntl",
      Self::Fork => "fork",
      Self::Watch if cfg!(any(target_os = "linux", target_os = "android")) => "pidfd_open",
      Self::Watch => "kqueue",
      Self::Thread => "clone",
      Self::Descriptors => "dup2",
      Self::Limits => "setrlimit",
      Self::Groups => "setgroups",
      Self::Group => "setgid",
      Self::User => "setuid",
      Self::Directory => "chdir",
      Self::Privileges => "prctl",
      Self::Execute => "execve",
    }
  }
}

/// Size of a failure report in bytes: the step, and the error number.
pub(crate) const REPORT: usize = 5;

fn encode_report(step: Step, errno: Errno) -> [u8; REPORT] {
  let [a, b, c, d] = (errno as i32).to_ne_bytes();
  [step as u8, a, b, c, d]
}

/// Returns the step that failed and its error.
pub(crate) fn decode_report([step, errno @ ..]: [u8; REPORT]) -> Option<(Step, Errno)> {
  Some((Step::from_number(step)?, Errno::from_raw(i32::from_ne_bytes(errno))))
}

/// User, group and supplementary groups of a child.
#[derive(Clone, Copy)]
pub(crate) struct ChildUser<'a> {
  pub(crate) uid: u32,
  pub(crate) gid: u32,
  pub(crate) groups: &'a [u32],
}

/// One `setrlimit(2)` of a child.
pub(crate) struct ChildLimit {
  pub(crate) resource: i32,
  pub(crate) limit: libc::rlimit,
}

/// Everything that a new process needs. It is built before fork(2), because the child may not allocate.
pub(crate) struct Child<'a> {
  pub(crate) path: &'a CStr,
  /// Ends with a null pointer, as does `environment`.
  pub(crate) arguments: &'a [*const c_char],
  pub(crate) environment: &'a [*const c_char],
  pub(crate) directory: Option<&'a CStr>,
  pub(crate) umask: Option<u32>,
  pub(crate) limits: &'a [ChildLimit],
  pub(crate) user: Option<ChildUser<'a>>,
  #[cfg_attr(not(any(target_os = "linux", target_os = "android")), allow(dead_code, reason = "only Linux has it"))]
  pub(crate) no_new_privileges: bool,
  /// Descriptors that get the child's numbers from 0 on. Neither they nor the reporter have one of these numbers.
  pub(crate) fds: &'a [BorrowedFd<'a>],
  /// Pipe that a failure is reported to; close-on-exec.
  pub(crate) reporter: BorrowedFd<'a>,
  /// The highest open number, for kernels that cannot mark a range of numbers; `RawFd::MAX` for those that can.
  pub(crate) highest: RawFd,
}

impl Child<'_> {
  /// Starts the process: fork(2). It executes the program, or writes a failure report to the reporter. Returns its pid.
  pub(crate) fn fork(&self) -> nix::Result<libc::pid_t> {
    // Signals are blocked: a handler would run in the child, and write to pipes that both share, such as libuv's.
    let before = SigSet::all().thread_swap_mask(SigmaskHow::SIG_SETMASK)?;
    // SAFETY: the child makes async-signal-safe calls only (signal-safety(7)) and allocates nothing, because another thread may
    // have held any lock at the fork.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
      // SAFETY: no arguments. It fails only for a process group leader, which a new process is not.
      unsafe { libc::setsid() };
      let Err((step, errno)) = self.run();
      let report = encode_report(step, errno);
      // SAFETY: bytes on this stack, to a descriptor that is open. Signals are blocked, so that nothing interrupts it.
      unsafe { libc::write(self.reporter.as_raw_fd(), report.as_ptr().cast(), report.len()) };
      // SAFETY: an integer. _exit(2) runs no handlers of the parent's.
      unsafe { libc::_exit(127) };
    }
    let forked = Errno::result(pid);
    before.thread_set_mask()?;
    forked
  }

  /// Executes the program in this process; returns the step that failed.
  pub(crate) fn run(&self) -> Result<Infallible, (Step, Errno)> {
    self.place_descriptors().map_err(|errno| (Step::Descriptors, errno))?;
    if let Some(umask) = self.umask {
      // SAFETY: an integer.
      unsafe { libc::umask(umask as libc::mode_t) };
    }
    self.limits.iter().try_for_each(set_limit).map_err(|errno| (Step::Limits, errno))?;
    if let Some(ChildUser { uid, gid, groups }) = self.user {
      set_groups(groups).map_err(|errno| (Step::Groups, errno))?;
      set_group(gid).map_err(|errno| (Step::Group, errno))?;
      set_user(uid).map_err(|errno| (Step::User, errno))?;
      // Ambient capabilities from a service manager are not meant for another user, and execve(2) would keep them.
      #[cfg(any(target_os = "linux", target_os = "android"))]
      // SAFETY: integers only; the unused ones are zero. It fails only if the kernel has no ambient set.
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
      // SAFETY: integers only; the unused ones are zero, as prctl(2) requires.
      let result = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1 as libc::c_ulong, 0, 0, 0) };
      Errno::result(result).map_err(|errno| (Step::Privileges, errno))?;
    }
    reset_signals();
    // SAFETY: a C string, and two arrays of C strings that end with a null pointer.
    unsafe { libc::execve(self.path.as_ptr(), self.arguments.as_ptr(), self.environment.as_ptr()) };
    Err((Step::Execute, Errno::last()))
  }

  /// Moves the descriptors to their numbers, and makes all others close-on-exec.
  fn place_descriptors(&self) -> nix::Result<()> {
    for (target, fd) in self.fds.iter().enumerate() {
      // SAFETY: integers only. The copy is not close-on-exec.
      restart(|| Errno::result(unsafe { libc::dup2(fd.as_raw_fd(), target as RawFd) }))?;
    }
    let first = self.fds.len() as RawFd;
    if mark_close_on_exec_from(first) {
      return Ok(());
    }
    if self.highest == RawFd::MAX {
      return Err(Errno::last()); // the parent could mark ranges; one number at a time would take minutes
    }
    (first..=self.highest).try_for_each(|number| set_descriptor_flags(number, libc::FD_CLOEXEC))
  }
}

fn set_limit(ChildLimit { resource, limit }: &ChildLimit) -> nix::Result<()> {
  // SAFETY: one rlimit, borrowed for the call.
  Errno::result(unsafe { libc::setrlimit(*resource as _, limit) }).map(drop)
}

// On Linux by direct system calls: libc's functions change the user of every thread, and signal threads that the child does
// not have. On 32-bit x86 and ARM the numbers without a suffix are calls with ids of 16 bits.
#[cfg(all(any(target_os = "linux", target_os = "android"), not(any(target_arch = "x86", target_arch = "arm"))))]
use libc::{SYS_setgroups as SYS_SETGROUPS, SYS_setresgid as SYS_SETRESGID, SYS_setresuid as SYS_SETRESUID};
#[cfg(all(any(target_os = "linux", target_os = "android"), any(target_arch = "x86", target_arch = "arm")))]
use libc::{SYS_setgroups32 as SYS_SETGROUPS, SYS_setresgid32 as SYS_SETRESGID, SYS_setresuid32 as SYS_SETRESUID};

#[cfg(all(any(target_os = "linux", target_os = "android"), any(target_arch = "m68k", target_arch = "sparc")))]
compile_error!("the system calls that set users and groups have ids of 16 bits on this architecture");

fn set_groups(groups: &[u32]) -> nix::Result<()> {
  #[cfg(any(target_os = "linux", target_os = "android"))]
  // SAFETY: an array of `gid_t`, and its length.
  let result = unsafe { libc::syscall(SYS_SETGROUPS, groups.len(), groups.as_ptr()) };
  #[cfg(not(any(target_os = "linux", target_os = "android")))]
  // SAFETY: as on Linux.
  let result = unsafe { libc::setgroups(groups.len() as _, groups.as_ptr().cast()) };
  Errno::result(result).map(drop)
}

/// Refuses all ones, which mean "unchanged" to setresuid(2) and setresgid(2).
fn check_number(number: u32) -> nix::Result<()> {
  if number == u32::MAX { Err(Errno::EINVAL) } else { Ok(()) }
}

fn set_group(gid: u32) -> nix::Result<()> {
  check_number(gid)?;
  #[cfg(any(target_os = "linux", target_os = "android"))]
  // SAFETY: integers only.
  let result = unsafe { libc::syscall(SYS_SETRESGID, gid, gid, gid) };
  #[cfg(not(any(target_os = "linux", target_os = "android")))]
  // SAFETY: an integer.
  let result = unsafe { libc::setgid(gid) };
  Errno::result(result).map(drop)
}

fn set_user(uid: u32) -> nix::Result<()> {
  check_number(uid)?;
  #[cfg(any(target_os = "linux", target_os = "android"))]
  // SAFETY: integers only.
  let result = unsafe { libc::syscall(SYS_SETRESUID, uid, uid, uid) };
  #[cfg(not(any(target_os = "linux", target_os = "android")))]
  // SAFETY: an integer.
  let result = unsafe { libc::setuid(uid) };
  Errno::result(result).map(drop)
}

/// Sets every signal to its default action and unblocks all: execve(2) keeps ignored and blocked signals.
fn reset_signals() {
  const SIGNALS: std::ops::RangeInclusive<libc::c_int> = 1..=if cfg!(target_os = "freebsd") { 128 } else { 64 };
  for signal in SIGNALS {
    // SAFETY: integers only. It fails for numbers that are no signal, or a signal that cannot be changed.
    unsafe { libc::signal(signal, libc::SIG_DFL) };
  }
  // It fails only for an unknown `how`. The child has one thread.
  let _ = SigSet::empty().thread_set_mask();
}
