//! Executing programs: fork(2), execve(2), waitpid(2).

use std::ffi::{CString, c_char};
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr;

use nix::errno::Errno;
use nix::sys::signal::{SigSet, SigmaskHow};
use nix::unistd::Pid;

use crate::fd::{AtLeast, pipe};
pub use crate::sys::child::Step;
use crate::sys::child::{Child, ChildLimit, ChildUser, REPORT, decode_report};
use crate::sys::errno::of_io_error;
use crate::sys::fds::highest;
pub use crate::sys::wait::ExitStatus;
use crate::sys::wait::{exit_descriptor, wait_for, wait_until_ended};

/// User and groups that a program runs as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunAs {
  /// User id: setuid(2).
  pub uid: u32,
  /// Group id: setgid(2).
  pub gid: u32,
  /// All supplementary groups: setgroups(2).
  pub groups: Vec<u32>,
}

/// A program to be executed. Everything that its process needs is allocated before fork(2), because nothing may be
/// allocated between fork(2) and execve(2).
#[derive(Clone, Debug, Default)]
pub struct Program {
  /// Path of the executable. `PATH` is not searched.
  pub path: CString,
  /// Arguments, the program's name first.
  pub arguments: Vec<CString>,
  /// Environment, each entry `NAME=value`.
  pub environment: Vec<CString>,
  /// Working directory, entered with the rights of `run_as`. Default: that of this process.
  pub directory: Option<CString>,
  /// File mode creation mask. Default: that of this process.
  pub umask: Option<u32>,
  /// Resource limits, set before the user changes, because raising a limit takes privileges.
  pub limits: Vec<ResourceLimit>,
  /// User and groups. Default: those of this process.
  pub run_as: Option<RunAs>,
  /// It can gain no rights by executing other programs: `PR_SET_NO_NEW_PRIVS`. Linux only.
  pub no_new_privileges: bool,
}

/// Error of starting a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpawnError {
  /// Step that failed.
  pub step: Step,
  /// Error of its system call.
  pub errno: Errno,
}

impl Step {
  fn failed(self, errno: Errno) -> SpawnError {
    SpawnError { step: self, errno }
  }
}

impl SpawnError {
  /// Returns whether a resource of this machine or process is exhausted, so that a retry may succeed.
  pub fn is_temporary(&self) -> bool {
    self.step != Step::Execute && matches!(self.errno, Errno::EAGAIN | Errno::ENOMEM | Errno::EMFILE | Errno::ENFILE)
  }
}

/// A child process. If it is dropped before it was reaped, a thread reaps it.
#[derive(Debug)]
pub struct Process {
  child: Unreaped,
  /// Becomes readable when the process ends: a pidfd, a kqueue with this one event, or a pipe that a thread closes.
  exit: OwnedFd,
}

/// The pid of a child process, which no other process has until it was reaped.
#[derive(Debug)]
struct Unreaped {
  pid: Pid,
  is_reaped: bool,
}

impl AsFd for Process {
  /// Returns the descriptor that becomes readable when the process ends.
  fn as_fd(&self) -> BorrowedFd<'_> {
    self.exit.as_fd()
  }
}

impl Process {
  /// Returns its pid. No other process has it until [`Process::reap`] has returned its exit status.
  pub fn pid(&self) -> i32 {
    self.child.pid.as_raw()
  }

  /// Returns how it ended: waitpid(2), without waiting. `None` while it runs.
  pub fn reap(&mut self) -> nix::Result<Option<ExitStatus>> {
    let ending = reap(self.pid());
    // After an error other code has reaped it, and another process may have its pid.
    self.child.is_reaped = ending != Ok(None);
    ending
  }

  /// Returns its pid, for [`reap`], and the descriptor that becomes readable when it ends. The caller has to reap it.
  pub fn into_parts(self) -> (i32, OwnedFd) {
    let Self { mut child, exit } = self;
    child.is_reaped = true; // the caller reaps it
    (child.pid.as_raw(), exit)
  }
}

impl Drop for Unreaped {
  fn drop(&mut self) {
    if !self.is_reaped {
      reap_in_background(self.pid.as_raw());
    }
  }
}

/// Returns how a child process ended: waitpid(2), without waiting. `None` while it runs.
pub fn reap(pid: i32) -> nix::Result<Option<ExitStatus>> {
  wait_for(pid, libc::WNOHANG)
}

/// Starts a thread in which all signals are blocked from its first instruction on, so that other threads handle them.
pub fn spawn_thread(
  builder: std::thread::Builder,
  task: impl FnOnce() + Send + 'static,
) -> std::io::Result<std::thread::JoinHandle<()>> {
  spawn_boxed(builder, Box::new(task)) // each type of task would have its own copy of std's code
}

fn spawn_boxed(
  builder: std::thread::Builder,
  task: Box<dyn FnOnce() + Send>,
) -> std::io::Result<std::thread::JoinHandle<()>> {
  // A thread starts with the mask of the thread that creates it.
  let before = SigSet::all().thread_swap_mask(SigmaskHow::SIG_SETMASK)?;
  let thread = builder.spawn(task);
  before.thread_set_mask()?;
  thread
}

/// Reaps a child process in a thread, so that it does not remain a zombie.
pub fn reap_in_background(pid: i32) {
  let wait = move || {
    let _ = wait_for(pid, 0);
  };
  // Without a thread it remains a zombie until this process ends.
  let _ = spawn_thread(std::thread::Builder::new().name("fdpass-reaper".into()).stack_size(65_536), wait);
}

impl Program {
  /// Starts the program in a new process and a new session. It has these descriptors as its numbers from 0 on, and no
  /// others. Signals have their default actions, and none is blocked.
  ///
  /// Returns after execve(2) has succeeded or a step has failed. The caller's descriptors stay open.
  pub fn spawn(&self, fds: &[BorrowedFd<'_>]) -> Result<Process, SpawnError> {
    let (report, reporter) = pipe().map_err(|errno| Step::Pipe.failed(errno))?;
    let moved = fds.iter().copied().chain([reporter.as_fd()]);
    let moved = move_above(moved, fds.len()).map_err(|errno| Step::Duplicates.failed(errno))?;
    let pid = self.with_child(&moved, |child| child.fork().map_err(|errno| Step::Fork.failed(errno)))?;
    drop(moved);
    drop(reporter);
    let exit = exit_descriptor(pid);
    if let Some(error) = read_report(report) {
      let _ = wait_for(pid, 0);
      return Err(error);
    }
    let exit = match exit {
      // Before Linux 5.3, and under a seccomp profile that does not know the call.
      Err(Errno::ENOSYS | Errno::EPERM) => watch_in_thread(pid),
      exit => exit.map_err(|errno| Step::Watch.failed(errno)),
    };
    let child = Unreaped { pid: Pid::from_raw(pid), is_reaped: exit.is_err() };
    exit.map(|exit| Process { child, exit }).inspect_err(|error| {
      // Its end could not be observed. After ESRCH it is gone: SIGCHLD is ignored, and another process may have its pid.
      if error.errno != Errno::ESRCH {
        let _ = nix::sys::signal::kill(Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
      }
      let _ = wait_for(pid, 0);
    })
  }

  /// Executes the program in this process, whose pid and session it gets, with these descriptors as its numbers from 0 on, and no
  /// others. A script without an interpreter is executed by sh(1), as by shells.
  ///
  /// Returns only if a step fails. After [`Step::Duplicates`] nothing has changed; after any other step the numbers of this process are
  /// those of the program, and it must end.
  pub fn execute(&self, fds: &[BorrowedFd<'_>]) -> SpawnError {
    let failure = (|| {
      // The last one, which no step writes to, is in the place of the reporter.
      let moved = fds.iter().chain(fds.last()).copied();
      let moved = move_above(moved, fds.len()).map_err(|errno| Step::Duplicates.failed(errno))?;
      self.with_child(&moved, |child| child.run().map_err(|(step, errno)| step.failed(errno)))
    })();
    let Err(failure) = failure;
    if failure == Step::Execute.failed(Errno::ENOEXEC) {
      let script = [c"sh".to_owned(), self.path.clone()];
      let arguments: Vec<_> = script.iter().chain(self.arguments.iter().skip(1)).collect();
      let _ = nix::unistd::execve(c"/bin/sh", &arguments, &self.environment);
    }
    failure
  }

  /// Describes the process to the function, which runs it. The last descriptor is the reporter.
  fn with_child<T>(
    &self,
    fds: &[AtLeast<'_>],
    run: impl FnOnce(&Child<'_>) -> Result<T, SpawnError>,
  ) -> Result<T, SpawnError> {
    let lent: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
    let Some((reporter, fds)) = lent.split_last() else { return Err(Step::Duplicates.failed(Errno::EINVAL)) };
    let arguments = pointers(&self.arguments);
    let environment = pointers(&self.environment);
    let limits: Vec<_> = self.limits.iter().map(child_limit).collect();
    let user = self.run_as.as_ref().map(|RunAs { uid, gid, groups }| ChildUser { uid: *uid, gid: *gid, groups });
    let child = Child {
      path: &self.path,
      arguments: &arguments,
      environment: &environment,
      directory: self.directory.as_deref(),
      umask: self.umask,
      limits: &limits,
      user,
      no_new_privileges: self.no_new_privileges,
      fds,
      reporter: *reporter,
      highest: highest().map_err(|errno| Step::Duplicates.failed(errno))?,
    };
    run(&child)
  }
}

/// Returns duplicates of the descriptors whose numbers are below a minimum, because dup2(2) would replace them.
fn move_above<'a>(fds: impl Iterator<Item = BorrowedFd<'a>>, min: usize) -> nix::Result<Vec<AtLeast<'a>>> {
  fds.map(|fd| AtLeast::new(fd, min)).collect()
}

/// Returns a descriptor that becomes readable when a child process ends: a pipe, whose other end a thread closes then. The process remains to
/// be reaped, and no other is waited for.
fn watch_in_thread(pid: libc::pid_t) -> Result<OwnedFd, SpawnError> {
  let (exit, held) = pipe().map_err(|errno| Step::Watch.failed(errno))?;
  let wait = move || {
    wait_until_ended(pid);
    drop(held);
  };
  spawn_thread(std::thread::Builder::new().name("fdpass-child".into()).stack_size(65_536), wait)
    .map_err(|error| Step::Thread.failed(of_io_error(error)))?;
  Ok(exit)
}

/// Reads the failure report of the child; `None` after execve(2) has closed its end of the pipe.
fn read_report(report: OwnedFd) -> Option<SpawnError> {
  let mut bytes = [0; REPORT];
  std::fs::File::from(report).read_exact(&mut bytes).ok()?;
  let (step, errno) = decode_report(bytes)?;
  Some(SpawnError { step, errno })
}

/// Returns the array that execve(2) takes, which ends with a null pointer.
fn pointers(strings: &[CString]) -> Vec<*const c_char> {
  strings.iter().map(|string| string.as_ptr()).chain([ptr::null()]).collect()
}

/// Resource limit of a program: setrlimit(2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResourceLimit {
  /// `RLIMIT_*`; see [`resource_by_name`].
  pub resource: i32,
  /// Limit that the kernel enforces; `u64::MAX` for none.
  pub soft: u64,
  /// Maximum to which the program may raise the soft limit; `u64::MAX` for none.
  pub hard: u64,
}

/// Converts a limit to what setrlimit(2) takes.
fn child_limit(&ResourceLimit { resource, soft, hard }: &ResourceLimit) -> ChildLimit {
  // RLIM_INFINITY is all ones on Linux, and the highest positive number on other platforms.
  let value = |limit: u64| if limit == u64::MAX { libc::RLIM_INFINITY } else { limit as libc::rlim_t };
  ChildLimit { resource, limit: libc::rlimit { rlim_cur: value(soft), rlim_max: value(hard) } }
}

/// Returns the number of a resource by its name in lower case, `nofile` for `RLIMIT_NOFILE`; `None` if the platform has no
/// such resource.
pub fn resource_by_name(name: &str) -> Option<i32> {
  #[allow(clippy::unnecessary_cast, reason = "an unsigned enum on glibc, an integer elsewhere")]
  let resource = match name {
    "as" => libc::RLIMIT_AS as i32,
    "core" => libc::RLIMIT_CORE as i32,
    "cpu" => libc::RLIMIT_CPU as i32,
    "data" => libc::RLIMIT_DATA as i32,
    "fsize" => libc::RLIMIT_FSIZE as i32,
    "memlock" => libc::RLIMIT_MEMLOCK as i32,
    "nofile" => libc::RLIMIT_NOFILE as i32,
    "nproc" => libc::RLIMIT_NPROC as i32,
    "rss" => libc::RLIMIT_RSS as i32,
    "stack" => libc::RLIMIT_STACK as i32,
    #[cfg(any(target_os = "linux", target_os = "android"))]
    "msgqueue" => libc::RLIMIT_MSGQUEUE as i32,
    #[cfg(any(target_os = "linux", target_os = "android"))]
    "nice" => libc::RLIMIT_NICE as i32,
    #[cfg(any(target_os = "linux", target_os = "android"))]
    "rtprio" => libc::RLIMIT_RTPRIO as i32,
    #[cfg(any(target_os = "linux", target_os = "android"))]
    "sigpending" => libc::RLIMIT_SIGPENDING as i32,
    _ => return None,
  };
  Some(resource)
}
