//! The programs that JavaScript describes, and the processes that were started from them.

use std::collections::HashSet;
use std::ffi::CString;

use fdpass_core::{Errno, Program, ResourceLimit, RunAs};
use napi_derive::napi;

/// The user and groups that a program runs as.
#[napi(object, object_to_js = false)]
pub struct ProgramCredential {
  /// The user id.
  pub uid: u32,
  /// The group id.
  pub gid: u32,
  /// The ids of the supplementary groups.
  pub groups: Vec<u32>,
}

/// A resource limit of a program: setrlimit(2).
#[napi(object, object_to_js = false)]
pub struct ProgramLimit {
  /// The number of the resource: `RLIMIT_*`.
  pub resource: i32,
  /// The soft limit, which the kernel enforces; `Infinity` for no limit.
  pub soft: f64,
  /// The hard limit, up to which the program can raise the soft one; `Infinity` for no limit.
  pub hard: f64,
}

/// A program to execute.
#[napi(object, object_to_js = false)]
pub struct ProgramDescription {
  /// The path of the executable.
  pub path: String,
  /// The arguments, beginning with the program's own name.
  pub arguments: Vec<String>,
  /// The environment variables, each as `NAME=value`.
  pub environment: Vec<String>,
  /// The working directory. By default that of this process.
  pub directory: Option<String>,
  /// The file mode creation mask. By default that of this process.
  pub umask: Option<u32>,
  /// The resource limits.
  pub limits: Vec<ProgramLimit>,
  /// The user and groups. By default those of this process.
  pub credential: Option<ProgramCredential>,
  /// Whether the program can gain no privileges: `PR_SET_NO_NEW_PRIVS`.
  pub no_new_privileges: bool,
}

impl TryFrom<ProgramDescription> for Program {
  type Error = Errno;

  /// Fails with `EINVAL` if a string contains a NUL.
  fn try_from(description: ProgramDescription) -> Result<Self, Errno> {
    let string = |text: String| CString::new(text).map_err(|_| Errno::EINVAL);
    let strings = |texts: Vec<String>| texts.into_iter().map(string).collect::<Result<Vec<_>, _>>();
    // The conversion of a float saturates, so that `Infinity` becomes `u64::MAX`, which means no limit.
    let limit =
      |ProgramLimit { resource, soft, hard }| ResourceLimit { resource, soft: soft as u64, hard: hard as u64 };
    let run_as = description.credential.map(|ProgramCredential { uid, gid, groups }| RunAs { uid, gid, groups });
    Ok(Self {
      path: string(description.path)?,
      arguments: strings(description.arguments)?,
      environment: strings(description.environment)?,
      directory: description.directory.map(string).transpose()?,
      umask: description.umask,
      limits: description.limits.into_iter().map(limit).collect(),
      run_as,
      no_new_privileges: description.no_new_privileges,
    })
  }
}

/// The exit status of a process. One of the fields is null.
#[napi(object, object_from_js = false, use_nullable = true)]
pub struct ExitStatus {
  /// The exit code.
  pub code: Option<i32>,
  /// The number of the signal that ended the process.
  pub signal: Option<i32>,
}

impl From<fdpass_core::ExitStatus> for ExitStatus {
  fn from(status: fdpass_core::ExitStatus) -> Self {
    match status {
      fdpass_core::ExitStatus::Code(code) => Self { code: Some(code), signal: None },
      fdpass_core::ExitStatus::Signal(signal) => Self { code: None, signal: Some(signal) },
    }
  }
}

/// The processes that an environment started and has not reaped. When the environment ends, a thread reaps the rest.
#[derive(Default)]
pub(crate) struct Children(HashSet<i32>);

impl Children {
  /// Adds a process.
  pub(crate) fn insert(&mut self, pid: i32) {
    self.0.insert(pid);
  }

  /// Reaps a process. Returns none while it runs.
  pub(crate) fn reap(&mut self, pid: i32) -> Result<Option<fdpass_core::ExitStatus>, Errno> {
    let reaped = fdpass_core::reap(pid);
    if reaped != Ok(None) {
      self.0.remove(&pid);
    }
    reaped
  }
}

impl Drop for Children {
  fn drop(&mut self) {
    self.0.drain().for_each(fdpass_core::reap_in_background);
  }
}
