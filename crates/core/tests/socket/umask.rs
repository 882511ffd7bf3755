//! The mode of a bound socket's file. In a file of its own, because the umask applies to the whole process.

#[path = "../fixtures/mod.rs"]
mod fixtures;

use std::os::unix::fs::MetadataExt;

use fdpass_core::SocketType;
use fixtures::{TYPES, assert_nothing_in, bound};
use nix::sys::stat::{Mode, umask};
use tempfile::tempdir;

#[test]
fn the_file_has_exactly_the_mode_asked_for_whatever_the_umask_s2() {
  let folder = tempdir().unwrap();
  let before = umask(Mode::empty());
  for mask in [0, 0o022, 0o077, 0o777] {
    for mode in [0o600, 0o660, 0o666, 0o777, 0o000, 0o640] {
      umask(Mode::from_bits_truncate(mask));
      for &socket_type in TYPES {
        let path = folder.path().join("x");
        let (_fd, _file) = bound(socket_type, &path, Some(mode)).unwrap();
        assert_eq!(path.symlink_metadata().unwrap().mode() & 0o7777, mode, "{mode:o}, umask {mask:o}");
      }
    }
    umask(Mode::from_bits_truncate(mask));
    let path = folder.path().join("x");
    let (_fd, _file) = bound(SocketType::Stream, &path, None).unwrap();
    assert_eq!(path.symlink_metadata().unwrap().mode() & 0o7777, 0o777 & !mask);
    let after = umask(Mode::empty());
    assert_eq!(after.bits(), mask, "the umask is as it was");
  }
  umask(before);
  assert_nothing_in(folder.path());
}
