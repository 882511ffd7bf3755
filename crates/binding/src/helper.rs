//! What a broker's helper does to itself before it serves.

use std::ffi::CString;

use fdpass_core::{Errno, Identity};
use napi::bindgen_prelude::Either;
use napi_derive::napi;

use crate::codes::code;

/// A user of this machine.
#[napi(object, object_from_js = false)]
pub struct UserEntry {
  /// The user.
  pub uid: u32,
  /// Its group.
  pub gid: u32,
}

/// Look a user up, by name or number; null where there is none.
#[napi(ts_return_type = "UserEntry | number | null")]
pub fn find_user(user: Either<String, u32>) -> Option<Either<UserEntry, i32>> {
  let found = match user {
    Either::A(name) => Identity::by_name(&name),
    Either::B(uid) => Identity::by_number(uid),
  };
  match found {
    Ok(found) => found.map(|Identity { uid, gid }| Either::A(UserEntry { uid, gid })),
    Err(errno) => Some(Either::B(code(errno))),
  }
}

/// Look a group up by name; null where there is none.
#[napi(ts_return_type = "number | null")]
pub fn find_group(name: String) -> Option<i64> {
  match fdpass_core::group_by_name(&name) {
    Ok(found) => found.map(i64::from),
    Err(errno) => Some(code(errno).into()),
  }
}

/// Execute a program in this one's place with fewer rights, and with those descriptors alone whose numbers are below
/// `first`. It returns only where that fails: an error number, negative.
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

/// Keep other processes of this user from tracing this one. Gives 0 or an error number, negative.
#[napi]
pub fn hide() -> i32 {
  fdpass_core::set_undumpable().map_or_else(code, |()| 0)
}
