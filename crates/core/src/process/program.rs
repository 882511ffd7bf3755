//! Executing programs: fork(2), execve(2), waitpid(2).

use std::ffi::{CString, c_char};
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr;

use nix::errno::Errno;
use nix::sys::signal::SigSet;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::rlimit::{ResourceLimit, child_limit};
use crate::fd::{AtLeast, pipe};
pub use crate::sys::child::Step;
use crate::sys::child::{Child, ChildUser, REPORT, decode_report};
use crate::sys::fds::highest;
use crate::sys::wait::exit_descriptor;

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

impl SpawnError {
  fn before(errno: Errno) -> Self {
    Self { step: Step::Fork, errno }
  }

  /// Returns whether a resource of this machine or process is exhausted, so that a retry may succeed.
  pub fn is_temporary(&self) -> bool {
    self.step != Step::Execute && matches!(self.errno, Errno::EAGAIN | Errno::ENOMEM | Errno::EMFILE | Errno::ENFILE)
  }
}

/// How a program ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitStatus {
  /// It exited with this code.
  Code(i32),
  /// This signal killed it.
  Signal(i32),
}

/// A child process. If it is dropped before it was reaped, a thread reaps it.
#[derive(Debug)]
pub struct Process {
  pid: Pid,
  /// Becomes readable when the process ends: a pidfd, or a kqueue with this one event.
  exit: Option<OwnedFd>,
  is_reaped: bool,
}

impl AsFd for Process {
  /// Returns the descriptor that becomes readable when the process ends.
  fn as_fd(&self) -> BorrowedFd<'_> {
    self.exit.as_ref().expect("only `into_parts` takes it").as_fd()
  }
}

impl Process {
  /// Returns its pid. No other process has it until [`Process::reap`] has returned its exit status.
  pub fn pid(&self) -> i32 {
    self.pid.as_raw()
  }

  /// Returns how it ended: waitpid(2), without waiting. `None` while it runs.
  pub fn reap(&mut self) -> nix::Result<Option<ExitStatus>> {
    let ending = reap(self.pid.as_raw());
    // After an error other code has reaped it, and another process may have its pid.
    self.is_reaped = ending != Ok(None);
    ending
  }

  /// Returns its pid, for [`reap`], and the descriptor that becomes readable when it ends. The caller has to reap it.
  pub fn into_parts(mut self) -> (i32, OwnedFd) {
    self.is_reaped = true; // the caller reaps it
    (self.pid.as_raw(), self.exit.take().expect("only this method takes it"))
  }
}

impl Drop for Process {
  fn drop(&mut self) {
    if !self.is_reaped {
      reap_in_background(self.pid.as_raw());
    }
  }
}

/// Returns how a child process ended: waitpid(2), without waiting. `None` while it runs.
pub fn reap(pid: i32) -> nix::Result<Option<ExitStatus>> {
  loop {
    match waitpid(Pid::from_raw(pid), Some(WaitPidFlag::WNOHANG)) {
      Ok(WaitStatus::Exited(_, code)) => return Ok(Some(ExitStatus::Code(code))),
      Ok(WaitStatus::Signaled(_, signal, _)) => return Ok(Some(ExitStatus::Signal(signal as i32))),
      Ok(_) => return Ok(None),
      Err(Errno::EINTR) => {}
      Err(errno) => return Err(errno),
    }
  }
}

/// Blocks all signals in this thread, so that other threads handle them.
pub fn block_signals() {
  // It fails only for an invalid set.
  let _ = SigSet::all().thread_block();
}

/// Reaps a child process in a thread, so that it does not remain a zombie.
pub fn reap_in_background(pid: i32) {
  let wait = move || while waitpid(Pid::from_raw(pid), None) == Err(Errno::EINTR) {};
  // Without a thread it remains a zombie until this process ends.
  let _ = std::thread::Builder::new().name("fdpass-reaper".into()).stack_size(65_536).spawn(wait);
}

impl Program {
  /// Starts the program in a new process and a new session. It has these descriptors as its numbers from 0 on, and no
  /// others. Signals have their default actions, and none is blocked.
  ///
  /// Returns after execve(2) has succeeded or a step has failed. The caller's descriptors stay open.
  pub fn spawn(&self, fds: &[BorrowedFd<'_>]) -> Result<Process, SpawnError> {
    let (report, reporter) = pipe().map_err(SpawnError::before)?;
    // dup2(2) in the child would replace a descriptor that has one of the target numbers.
    let moved = fds.iter().copied().chain([reporter.as_fd()]).map(|fd| AtLeast::new(fd, fds.len()));
    let moved = moved.collect::<nix::Result<Vec<_>>>().map_err(SpawnError::before)?;
    let lent: Vec<BorrowedFd<'_>> = moved.iter().map(AsFd::as_fd).collect();
    let (reporter_above, fds) = lent.split_last().expect("the reporter is among them");
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
      reporter: *reporter_above,
      highest: highest().map_err(SpawnError::before)?,
    };
    let pid = child.fork().map_err(SpawnError::before)?;
    drop(moved);
    drop(reporter);
    let exit = exit_descriptor(pid);
    let reported = read_report(report);
    match (reported, exit) {
      (None, Ok(exit)) => Ok(Process { pid: Pid::from_raw(pid), exit: Some(exit), is_reaped: false }),
      (Some(error), _) => {
        while waitpid(Pid::from_raw(pid), None) == Err(Errno::EINTR) {}
        Err(error)
      }
      (None, Err(errno)) => {
        // Its end could not be observed.
        let _ = nix::sys::signal::kill(Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
        while waitpid(Pid::from_raw(pid), None) == Err(Errno::EINTR) {}
        Err(SpawnError::before(errno))
      }
    }
  }
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
