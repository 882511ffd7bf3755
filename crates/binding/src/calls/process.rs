//! Calls that start programs, and that change or describe this process.

use std::ffi::CString;
use std::io::Write;
use std::os::fd::BorrowedFd;

use fdpass_core::{Errno, Identity, Program, Step};
use napi::bindgen_prelude::{Either, Either3, Null};
use napi_derive::napi;

use crate::children::{ExitStatus, ProgramDescription};
use crate::codes::{SystemFailure, code};
use crate::environment::Environment;

/// A process that `spawn` started.
#[napi(object, object_from_js = false)]
pub struct SpawnedProcess {
  /// The process id.
  pub pid: i32,
  /// A descriptor that becomes readable when the process ends. The environment owns it.
  pub exit_fd: i32,
}

#[napi]
impl Environment {
  /// Starts a program with duplicates of `fds`, which can be any descriptors of this process, as its descriptors from 0 on.
  #[napi]
  pub fn spawn(&self, program: ProgramDescription, fds: Vec<i32>) -> Either<SpawnedProcess, SystemFailure> {
    let failure = |step: Step, errno| SystemFailure { errno: code(errno), syscall: step.syscall().into() };
    let spawned = self.with(|state| {
      let spawned = Program::try_from(program).map_err(|errno| failure(Step::Execute, errno)).and_then(|program| {
        let fds = state.table.borrowed(&fds).map_err(|errno| failure(Step::Descriptors, errno))?;
        program.spawn(fds).map_err(|error| failure(error.step, error.errno))
      });
      Ok(spawned.map(|process| {
        let (pid, exit) = process.into_parts();
        state.children.insert(pid);
        SpawnedProcess { pid, exit_fd: state.table.insert(exit) }
      }))
    });
    match spawned.unwrap_or_else(|errno| Err(failure(Step::Fork, errno))) {
      Ok(spawned) => Either::A(spawned),
      Err(failure) => Either::B(failure),
    }
  }

  /// Reaps a process that `spawn` started: waitpid(2). Returns its exit status, null while it runs, or a negative error
  /// number.
  #[napi]
  pub fn reap(&self, pid: i32) -> Either3<ExitStatus, Null, i32> {
    match self.with(|state| state.children.reap(pid)) {
      Ok(Some(status)) => Either3::A(status.into()),
      Ok(None) => Either3::B(Null),
      Err(errno) => Either3::C(code(errno)),
    }
  }
}

/// Returns the number of a resource limit by its name in lower case, without `RLIMIT_`; negative if this system has no
/// such limit.
#[napi]
pub fn resource_by_name(name: String) -> i32 {
  fdpass_core::resource_by_name(&name).unwrap_or(-1)
}

/// A user of this system.
#[napi(object, object_from_js = false)]
pub struct UserEntry {
  /// The user id.
  pub uid: u32,
  /// The id of the user's primary group.
  pub gid: u32,
  /// The login name.
  pub name: String,
  /// The home directory.
  pub home: String,
  /// The login shell.
  pub shell: String,
}

/// Looks up a user by name or id. Returns null if there is no such user, or a negative error number.
#[napi]
pub fn find_user(user: Either<String, u32>) -> Either3<UserEntry, i32, Null> {
  let found = match user {
    Either::A(name) => Identity::by_name(&name),
    Either::B(uid) => Identity::by_number(uid),
  };
  match found {
    Ok(Some(Identity { uid, gid, name, home, shell })) => {
      let [home, shell] = [home, shell].map(|path| path.to_string_lossy().into_owned());
      Either3::A(UserEntry { uid, gid, name, home, shell })
    }
    Ok(None) => Either3::C(Null),
    Err(errno) => Either3::B(code(errno)),
  }
}

/// Looks up the id of a group by its name. Returns null if there is no such group, or a negative error number.
#[napi]
pub fn find_group(name: String) -> Either<i64, Null> {
  match fdpass_core::group_by_name(&name) {
    Ok(found) => found.map_or(Either::B(Null), |gid| Either::A(gid.into())),
    Err(errno) => Either::A(code(errno).into()),
  }
}

/// Executes a program in place of this one, with fewer privileges. It keeps only the descriptors below `first`. Returns
/// only if that fails: a negative error number.
#[napi]
pub fn execute_restricted(changes_user: bool, first: i32, path: String, arguments: Vec<String>) -> i32 {
  let execute = || {
    let path = CString::new(path).map_err(|_| Errno::EINVAL)?;
    let arguments: Vec<_> =
      arguments.into_iter().map(CString::new).collect::<Result<_, _>>().map_err(|_| Errno::EINVAL)?;
    fdpass_core::restrict(changes_user)?;
    fdpass_core::execute(&path, &arguments.iter().map(CString::as_c_str).collect::<Vec<_>>(), first)
  };
  match execute() {
    Ok(never) => match never {},
    Err(errno) => code(errno),
  }
}

/// Executes a program in place of this one, in its process and session, with `fds` as its descriptors from 0 on. Its standard streams are in
/// blocking mode, which the runtime may have changed. Signals have their default actions.
///
/// Returns the failure if no duplicate of a descriptor can be made. Any later failure ends the process, whose descriptors have been
/// replaced by then: it is printed, and the exit code is 127 for a missing program, otherwise 126.
#[napi]
pub fn execute_program(program: ProgramDescription, fds: Vec<i32>) -> SystemFailure {
  let failed = |step: Step, errno| SystemFailure { errno: code(errno), syscall: step.syscall().into() };
  let path = program.path.clone();
  let program = match Program::try_from(program) {
    Ok(program) => program,
    Err(errno) => return failed(Step::Execute, errno),
  };
  if let Err(errno) = fds.iter().try_for_each(|&fd| fdpass_core::check_open(fd)) {
    return failed(Step::Duplicates, errno);
  }
  // SAFETY: the numbers are open, and JavaScript, which could close them, does not run during this call.
  let fds: Vec<_> = fds.into_iter().map(|fd| unsafe { BorrowedFd::borrow_raw(fd) }).collect();
  for &fd in fds.iter().take(3) {
    let _ = fdpass_core::set_blocking(fd, true); // a mode that cannot be restored does not keep the program from running
  }
  let failure = program.execute(&fds);
  if failure.step == Step::Duplicates {
    return failed(failure.step, failure.errno);
  }
  let (_, text) = fdpass_core::errno_text(failure.errno as i32);
  let _ = writeln!(std::io::stderr(), "fdpass: {path}: {text}");
  let exit_code = if failure.errno == Errno::ENOENT { 127 } else { 126 };
  // SAFETY: an integer. Not exit(3), whose handlers are those of a runtime that has lost its descriptors.
  unsafe { libc::_exit(exit_code) }
}

/// Prevents other processes of this user from tracing this one: `PR_SET_DUMPABLE`. Returns 0 or a negative error number.
#[napi]
pub fn set_undumpable() -> i32 {
  fdpass_core::set_undumpable().map_or_else(code, |()| 0)
}

/// Makes the exit of this process end it by a signal, after everything that runs at the exit. Returns 0 or a negative error
/// number.
#[napi]
pub fn end_by_signal_at_exit(signal: i32) -> i32 {
  fdpass_core::end_by_signal_at_exit(signal).map_or_else(code, |()| 0)
}
