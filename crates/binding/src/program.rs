//! Programs that are executed: workers, and those of inetd.

use std::collections::HashSet;
use std::ffi::CString;

use fdpass_core::{Errno, ExitStatus, Program, ResourceLimit, RunAs, Step};
use napi::bindgen_prelude::FromNapiValue;
use napi::sys;
use napi_derive::napi;

use crate::calls::{Outcome, borrowed};
use crate::codes::AGAIN;
use crate::environment::Environment;
use crate::memory::Memory;

/// Whom a program runs as.
#[napi(object, object_to_js = false)]
pub struct ProgramCredential {
  /// The user.
  pub uid: u32,
  /// The group.
  pub gid: u32,
  /// The supplementary groups.
  pub groups: Vec<u32>,
}

/// A limit on what a program may use.
#[napi(object, object_to_js = false)]
pub struct ProgramLimit {
  /// `RLIMIT_*`
  pub resource: i32,
  /// What the kernel holds it to; infinite for no limit.
  pub soft: f64,
  /// How far it may raise that.
  pub hard: f64,
}

/// A program to be executed, and how.
#[napi(object, object_to_js = false)]
pub struct ProgramDescription {
  /// The path of its executable.
  pub path: String,
  /// Its arguments, its own name among them.
  pub arguments: Vec<String>,
  /// Its environment, as `NAME=value`.
  pub environment: Vec<String>,
  /// Its working directory.
  pub directory: Option<String>,
  /// Its file mode creation mask.
  pub umask: Option<u32>,
  /// Limits on what it may use.
  pub limits: Vec<ProgramLimit>,
  /// Whom it runs as.
  pub credential: Option<ProgramCredential>,
  /// Whether it can gain no rights.
  pub no_new_privileges: bool,
}

/// The processes that an environment has started and whose end it has not seen. A thread waits for those that
/// outlive it.
#[derive(Default)]
pub(crate) struct Children(HashSet<i32>);

impl Drop for Children {
  fn drop(&mut self) {
    self.0.drain().for_each(fdpass_core::reap_in_background);
  }
}

/// The number of a limit by its name in lower case, without `RLIMIT_`; negative where this system has no such.
#[napi]
pub fn resource_by_name(name: String) -> i32 {
  fdpass_core::resource_by_name(&name).unwrap_or(-1)
}

/// The system call of a step that a new process has failed at.
#[napi]
pub fn describe_step(step: i32) -> &'static str {
  u8::try_from(step).ok().and_then(Step::from_number).map_or("spawn", Step::syscall)
}

/// The program that a value of JavaScript describes. `EINVAL` for a string with a NUL.
pub(crate) fn program(env: sys::napi_env, value: sys::napi_value) -> Result<Program, Errno> {
  // SAFETY: a live value of this environment.
  let description = unsafe { ProgramDescription::from_napi_value(env, value) }.map_err(|_| Errno::EINVAL)?;
  let string = |text: String| CString::new(text).map_err(|_| Errno::EINVAL);
  let strings = |texts: Vec<String>| texts.into_iter().map(string).collect::<Result<Vec<_>, _>>();
  // A float beyond it becomes the highest number there is, which is that of no limit.
  let limit = |ProgramLimit { resource, soft, hard }| ResourceLimit { resource, soft: soft as u64, hard: hard as u64 };
  let run_as = description.credential.map(|ProgramCredential { uid, gid, groups }| RunAs { uid, gid, groups });
  Ok(Program {
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

pub(crate) fn spawn(environment: &mut Environment, program: Result<Program, Errno>, [count]: [i32; 1]) -> Outcome {
  let Environment { table, children, memory: Memory { fds, outcome, .. }, .. } = environment;
  outcome.get()[0] = Step::Fork as i32;
  let process = program?.spawn(borrowed(&fds.get()[..count as usize])?).map_err(|error| {
    outcome.get()[0] = error.step as i32;
    error.errno
  })?;
  let (pid, exit) = process.into_parts();
  children.0.insert(pid);
  outcome.get()[0] = table.insert(exit);
  Ok(pid)
}

pub(crate) fn reap(environment: &mut Environment, [pid]: [i32; 1]) -> Outcome {
  let ended = fdpass_core::reap(pid);
  if ended != Ok(None) {
    environment.children.0.remove(&pid);
  }
  Ok(ended?.map_or(AGAIN, ending))
}

/// The end of a program as a number: its code, or 256 and its signal.
pub(crate) fn ending(ending: ExitStatus) -> i32 {
  match ending {
    ExitStatus::Code(code) => code,
    ExitStatus::Signal(signal) => 256 + signal,
  }
}

/// A Node-API function over a program and integers.
macro_rules! program_and_integers {
  ($call:path, $count:literal) => {{
    unsafe extern "C" fn callback(
      env: napi::sys::napi_env,
      info: napi::sys::napi_callback_info,
    ) -> napi::sys::napi_value {
      // SAFETY: called by the runtime, with the environment that `function` gave.
      let (environment, [value, values @ ..]) = unsafe { $crate::calls::arguments::<{ $count + 1 }>(env, info) };
      let integers: [i32; $count] = values.map(|value| $crate::calls::integer(env, value));
      let program = $crate::program::program(env, value);
      $crate::calls::number(env, $call(environment, program, integers))
    }
    callback
  }};
}

pub(crate) use program_and_integers;
