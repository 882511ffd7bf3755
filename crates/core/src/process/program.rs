//! Executing programs: fork(2), what has to be done as whom, execve(2), and their end.

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

/// Whom a program runs as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunAs {
  /// The user: setuid(2).
  pub uid: u32,
  /// The group: setgid(2).
  pub gid: u32,
  /// The supplementary groups, and no others: setgroups(2).
  pub groups: Vec<u32>,
}

/// A program to be executed: everything that its process needs is made beforehand, as nothing may be between fork(2) and
/// execve(2).
#[derive(Clone, Debug, Default)]
pub struct Program {
  /// The path of the executable; no search takes place.
  pub path: CString,
  /// Its arguments, its own name among them.
  pub arguments: Vec<CString>,
  /// Its environment, as `NAME=value`.
  pub environment: Vec<CString>,
  /// Its working directory, entered with the rights that it will have. Without it that of this process.
  pub directory: Option<CString>,
  /// Its file mode creation mask. Without it that of this process.
  pub umask: Option<u32>,
  /// Limits, set before the rights are given up that raising them takes.
  pub limits: Vec<ResourceLimit>,
  /// Whom it runs as. Without it as this process.
  pub credential: Option<RunAs>,
  /// Gain no rights by executing anything, for good: `PR_SET_NO_NEW_PRIVS` (Linux).
  pub no_new_privileges: bool,
}

/// Why a program was not executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpawnError {
  /// What failed.
  pub step: Step,
  /// Why.
  pub errno: Errno,
}

impl SpawnError {
  fn before(errno: Errno) -> Self {
    Self { step: Step::Fork, errno }
  }

  /// Whether this machine or process lacks something now that it may have again: the program is not to blame.
  pub fn is_temporary(&self) -> bool {
    self.step != Step::Execute && matches!(self.errno, Errno::EAGAIN | Errno::ENOMEM | Errno::EMFILE | Errno::ENFILE)
  }
}

/// How a program has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitStatus {
  /// With this code.
  Code(i32),
  /// By this signal.
  Signal(i32),
}

/// A process that was started here. Dropping it before its end was seen leaves that to a thread.
#[derive(Debug)]
pub struct Process {
  pid: Pid,
  /// Readable from the process's end on: a pidfd, or a kqueue with this one event.
  exit: Option<OwnedFd>,
  reaped: bool,
}

impl AsFd for Process {
  /// What becomes readable at the process's end.
  fn as_fd(&self) -> BorrowedFd<'_> {
    self.exit.as_ref().expect("taken by `into_parts` only").as_fd()
  }
}

impl Process {
  /// Its number, which is no other process's until [`Process::reap`] has told its end.
  pub fn pid(&self) -> i32 {
    self.pid.as_raw()
  }

  /// How it has ended, once it has: waitpid(2), without waiting. None while it runs.
  pub fn reap(&mut self) -> nix::Result<Option<ExitStatus>> {
    let ending = reap(self.pid.as_raw());
    // Where somebody else has waited for it, its number can be another one's already.
    self.reaped = ending != Ok(None);
    ending
  }

  /// Its number, to be given to [`reap`], and the descriptor that becomes readable at its end.
  pub fn into_parts(mut self) -> (i32, OwnedFd) {
    self.reaped = true; // it is the caller's to do
    (self.pid.as_raw(), self.exit.take().expect("taken here only"))
  }
}

impl Drop for Process {
  fn drop(&mut self) {
    if !self.reaped {
      reap_in_background(self.pid.as_raw());
    }
  }
}

/// How a process of ours has ended, once it has: waitpid(2), without waiting. None while it runs.
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

/// Has this thread handle no signals of the process.
pub fn block_signals() {
  // It fails only for an unknown set.
  let _ = SigSet::all().thread_block();
}

/// Leaves the end of a process to a thread, so that it does not stay a zombie.
pub fn reap_in_background(pid: i32) {
  let wait = move || while waitpid(Pid::from_raw(pid), None) == Err(Errno::EINTR) {};
  // Without a thread it stays one until this process ends.
  let _ = std::thread::Builder::new().name("fdpass-reaper".into()).stack_size(65_536).spawn(wait);
}

impl Program {
  /// Starts it in a process of its own: with these descriptors as its numbers from 0 on and no others, in a session of its
  /// own, with every signal as it is by default and none blocked.
  ///
  /// Returns when it executes the program, or could not. The caller's descriptors stay open.
  pub fn spawn(&self, fds: &[BorrowedFd<'_>]) -> Result<Process, SpawnError> {
    let (report, reporter) = pipe().map_err(SpawnError::before)?;
    // What lies where another one belongs would be replaced by it.
    let moved = fds.iter().copied().chain([reporter.as_fd()]).map(|fd| AtLeast::new(fd, fds.len()));
    let moved = moved.collect::<nix::Result<Vec<_>>>().map_err(SpawnError::before)?;
    let lent: Vec<BorrowedFd<'_>> = moved.iter().map(AsFd::as_fd).collect();
    let (reporter_above, fds) = lent.split_last().expect("the reporter at least");
    let arguments = pointers(&self.arguments);
    let environment = pointers(&self.environment);
    let limits: Vec<_> = self.limits.iter().map(child_limit).collect();
    let user = self.credential.as_ref().map(|RunAs { uid, gid, groups }| ChildUser { uid: *uid, gid: *gid, groups });
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
      (None, Ok(exit)) => Ok(Process { pid: Pid::from_raw(pid), exit: Some(exit), reaped: false }),
      (Some(error), _) => {
        while waitpid(Pid::from_raw(pid), None) == Err(Errno::EINTR) {}
        Err(error)
      }
      (None, Err(errno)) => {
        // Nobody could tell its end.
        let _ = nix::sys::signal::kill(Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
        while waitpid(Pid::from_raw(pid), None) == Err(Errno::EINTR) {}
        Err(SpawnError::before(errno))
      }
    }
  }
}

/// What the new process has written where it failed; nothing where execve(2) has closed its end.
fn read_report(report: OwnedFd) -> Option<SpawnError> {
  let mut bytes = [0; REPORT];
  std::fs::File::from(report).read_exact(&mut bytes).ok()?;
  let (step, errno) = decode_report(bytes)?;
  Some(SpawnError { step, errno })
}

/// An array as execve(2) wants it.
fn pointers(strings: &[CString]) -> Vec<*const c_char> {
  strings.iter().map(|string| string.as_ptr()).chain([ptr::null()]).collect()
}
