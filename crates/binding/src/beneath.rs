//! The calls that open files beneath a directory.

use std::ffi::OsStr;
use std::os::fd::RawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use fdpass_core::{Mode, OFlag};

use crate::calls::{Outcome, borrowed};
use crate::environment::Environment;

fn path(bytes: &[u8]) -> &Path {
  Path::new(OsStr::from_bytes(bytes))
}

pub(crate) fn open_root(environment: &mut Environment, bytes: &mut [u8], []: [i32; 0]) -> Outcome {
  Ok(environment.table.insert(fdpass_core::open_root(path(bytes))?))
}

pub(crate) fn find(environment: &mut Environment, bytes: &mut [u8], [root, flags]: [i32; 2]) -> Outcome {
  let roots = [root];
  let found = fdpass_core::find_beneath(borrowed(&roots)?[0], path(bytes), OFlag::from_bits_retain(flags))?;
  Ok(environment.table.insert(found))
}

pub(crate) fn open_found(environment: &mut Environment, bytes: &mut [u8], integers: [i32; 3]) -> Outcome {
  let [root, found, flags] = integers;
  let fds: [RawFd; 2] = [root, found];
  let fds = borrowed(&fds)?;
  let opened = fdpass_core::open_found(fds[0], path(bytes), fds[1], OFlag::from_bits_retain(flags))?;
  Ok(environment.table.insert(opened))
}

pub(crate) fn create(environment: &mut Environment, bytes: &mut [u8], [root, flags, bits]: [i32; 3]) -> Outcome {
  let roots = [root];
  let (flags, mode) = (OFlag::from_bits_retain(flags), Mode::from_bits_truncate(bits as libc::mode_t));
  let created = fdpass_core::create_beneath(borrowed(&roots)?[0], path(bytes), flags, mode)?;
  Ok(environment.table.insert(created))
}
