//! Calls that start programs, and that change or describe this process.

use std::ffi::CString;

use fdpass_core::{Errno, Identity, Program, Step};
use napi::bindgen_prelude::{Either, Either3, Null};
use napi_derive::napi;

use crate::abi::borrowed;
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
      let spawned = Program::try_from(program).map_err(|errno| failure(Step::Fork, errno)).and_then(|program| {
        let fds = borrowed(&fds).map_err(|errno| failure(Step::Fork, errno))?;
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
}

/// Looks up a user by name or id. Returns null if there is no such user, or a negative error number.
#[napi]
pub fn find_user(user: Either<String, u32>) -> Either3<UserEntry, i32, Null> {
  let found = match user {
    Either::A(name) => Identity::by_name(&name),
    Either::B(uid) => Identity::by_number(uid),
  };
  match found {
    Ok(Some(Identity { uid, gid })) => Either3::A(UserEntry { uid, gid }),
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

/// Prevents other processes of this user from tracing this one: `PR_SET_DUMPABLE`. Returns 0 or a negative error number.
#[napi]
pub fn set_undumpable() -> i32 {
  fdpass_core::set_undumpable().map_or_else(code, |()| 0)
}
