//! Calls that open files beneath a directory.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use fdpass_core::{Mode, OFlag};
use napi_derive::napi;

use crate::abi::borrowed;
use crate::environment::Environment;

fn path(bytes: &[u8]) -> &Path {
  Path::new(OsStr::from_bytes(bytes))
}

#[napi]
impl Environment {
  /// Opens a directory, beneath which the following calls open files. Returns its number.
  #[napi]
  pub fn open_root(&self, directory: &[u8]) -> i32 {
    self.number(|state| Ok(state.table.insert(fdpass_core::open_root(path(directory))?)))
  }

  /// Finds a file beneath a directory without opening it: openat2(2) with `O_PATH`. Returns its number.
  #[napi]
  pub fn find_beneath(&self, file: &[u8], root: i32, flags: i32) -> i32 {
    self.number(|state| {
      let found = fdpass_core::find_beneath(borrowed(&[root])?[0], path(file), OFlag::from_bits_retain(flags))?;
      Ok(state.table.insert(found))
    })
  }

  /// Opens the file that `findBeneath` found. Returns its number; `ESTALE` if the path leads to another file by now.
  #[napi]
  pub fn open_found(&self, file: &[u8], root: i32, found: i32, flags: i32) -> i32 {
    self.number(|state| {
      let fds = [root, found];
      let fds = borrowed(&fds)?;
      let opened = fdpass_core::open_found(fds[0], path(file), fds[1], OFlag::from_bits_retain(flags))?;
      Ok(state.table.insert(opened))
    })
  }

  /// Creates a file beneath a directory. Returns its number; `EEXIST` if there is a file.
  #[napi]
  pub fn create_beneath(&self, file: &[u8], root: i32, flags: i32, mode: u32) -> i32 {
    self.number(|state| {
      let (flags, mode) = (OFlag::from_bits_retain(flags), Mode::from_bits_truncate(mode as libc::mode_t));
      let created = fdpass_core::create_beneath(borrowed(&[root])?[0], path(file), flags, mode)?;
      Ok(state.table.insert(created))
    })
  }
}
