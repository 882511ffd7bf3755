//! Memfds and their seals.
#![cfg(any(target_os = "linux", target_os = "android", target_os = "freebsd"))]

#[path = "../fixtures/mod.rs"]
mod fixtures;

use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd;

use fdpass_core::{Errno, duplicate, memfd, pipe, seal, seals};
use fixtures::*;

/// `F_SEAL_EXEC`, which a sysctl can add to every memfd.
const EXEC: i32 = 0x20;

#[test]
fn memory_is_empty_close_on_exec_and_open_to_seals() {
  let memory = memfd(c"memory").unwrap();
  assert!(is_close_on_exec(&memory));
  assert_eq!(seals(memory.as_fd()).unwrap() & !EXEC, 0);
  assert_eq!(File::from(memory).metadata().unwrap().len(), 0);
}

#[test]
fn a_name_may_be_empty_or_as_long_as_the_kernel_takes() {
  memfd(c"").unwrap();
  let name = |length| std::ffi::CString::new(vec![b'x'; length]).unwrap();
  memfd(&name(249)).unwrap();
  assert_eq!(memfd(&name(250)).unwrap_err(), Errno::EINVAL);
}

#[test]
fn a_seal_holds_for_all_who_have_the_memory() {
  let memory = memfd(c"memory").unwrap();
  let copy = duplicate(memory.as_fd()).unwrap();
  let mut file = File::from(memory);
  file.write_all(b"text").unwrap();
  seal(copy.as_fd(), libc::F_SEAL_WRITE | libc::F_SEAL_SHRINK).unwrap();
  assert_eq!(seals(file.as_fd()).unwrap() & !EXEC, libc::F_SEAL_WRITE | libc::F_SEAL_SHRINK);
  assert_eq!(file.write_all(b"more").unwrap_err().raw_os_error(), Some(libc::EPERM));
  assert_eq!(file.set_len(1).unwrap_err().raw_os_error(), Some(libc::EPERM));
  file.set_len(100).unwrap();
}

#[test]
fn what_is_sealed_against_seals_takes_no_other() {
  let memory = memfd(c"memory").unwrap();
  seal(memory.as_fd(), libc::F_SEAL_SEAL).unwrap();
  assert_eq!(seal(memory.as_fd(), libc::F_SEAL_GROW), Err(Errno::EPERM));
  assert_eq!(seals(memory.as_fd()).unwrap() & !EXEC, libc::F_SEAL_SEAL);
}

#[test]
fn what_is_no_memory_has_no_seals() {
  let (_read, write) = pipe().unwrap();
  assert_eq!(seals(write.as_fd()), Err(Errno::EINVAL));
  assert_eq!(seal(write.as_fd(), libc::F_SEAL_WRITE), Err(Errno::EINVAL));
  assert_eq!(seals(bad_fd()), Err(Errno::EBADF));
  assert_eq!(seal(bad_fd(), 0), Err(Errno::EBADF));
}
