//! A pidfd that was not requested. In a file of its own, because it counts the descriptors of the process.
#![cfg(any(target_os = "linux", target_os = "android"))]

#[path = "../fixtures/mod.rs"]
mod fixtures;

use fdpass_core::{Errno, ReceivedFds};
use fixtures::*;

#[test]
fn a_pidfd_that_nobody_asked_for_is_told_and_closed() {
  for &socket_type in TYPES {
    let (a, b) = pair(socket_type);
    match switch_on(&b, libc::SO_PASSPIDFD) {
      Err(Errno::ENOPROTOOPT) => return, // before Linux 6.5
      result => result.unwrap(),
    }
    let (fds, probes) = probes(2);
    let before = open_descriptors();
    a.send(b"bytes", &borrowed(&fds)).unwrap();
    let message = b.recv().unwrap().unwrap();
    assert_eq!(message.bytes, b"bytes");
    assert!(matches!(message.fds, ReceivedFds::Unexpected), "{message:?}");
    assert_eq!(open_descriptors(), before, "{socket_type:?}");
    drop(fds);
    assert_all_closed(&probes);
  }
}

fn open_descriptors() -> usize {
  std::fs::read_dir("/proc/self/fd").unwrap().count()
}
