//! Adopting, duplicating and closing descriptors.

#[path = "../fixtures/mod.rs"]
mod fixtures;

use std::fs::File;
use std::io::{Read, Seek};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};

use fdpass_core::{Errno, adopt, close, close_all, duplicate, keep_status_flags};
use fixtures::*;
use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};

#[test]
fn an_adopted_number_is_owned_and_close_on_exec() {
  let (fd, probe) = probe();
  fcntl(&fd, FcntlArg::F_SETFD(FdFlag::empty())).unwrap();
  let number = fd.into_raw_fd();
  // SAFETY: nobody else owns it.
  let adopted = unsafe { adopt(number) }.unwrap();
  assert_eq!(adopted.as_raw_fd(), number);
  assert!(is_close_on_exec(&adopted));
  assert!(probe.is_open());
  drop(adopted);
  assert!(!probe.is_open());
}

#[test]
fn a_number_that_is_not_open_is_not_adopted() {
  for number in [-1, RawFd::MIN, RawFd::MAX] {
    // SAFETY: no process has a descriptor of this number.
    assert_eq!(unsafe { adopt(number) }.unwrap_err(), Errno::EBADF);
  }
}

#[test]
fn a_duplicate_shares_the_offset_and_outlives_the_original() {
  let mut original = file_holding("abcdef");
  let copy = duplicate(original.as_fd()).unwrap();
  original.read_exact(&mut [0; 2]).unwrap();
  assert_eq!(File::from(copy.try_clone().unwrap()).stream_position().unwrap(), 2);
  drop(original);
  assert_eq!(text_of(copy), "abcdef");
}

#[test]
fn a_duplicate_is_close_on_exec_whatever_the_original_is() {
  let original = file_holding("");
  fcntl(&original, FcntlArg::F_SETFD(FdFlag::empty())).unwrap();
  assert!(is_close_on_exec(duplicate(original.as_fd()).unwrap()));
  assert!(!is_close_on_exec(&original));
}

#[test]
fn a_bad_number_is_not_duplicated() {
  assert_eq!(duplicate(bad_fd()).unwrap_err(), Errno::EBADF);
}

#[test]
fn closing_succeeds_and_frees_the_descriptor() {
  let (fd, probe) = probe();
  assert_eq!(close(fd), Ok(()));
  assert!(!probe.is_open());
}

#[test]
fn closing_one_descriptor_leaves_its_duplicate_open() {
  let (fd, probe) = probe();
  let copy = duplicate(fd.as_fd()).unwrap();
  close(fd).unwrap();
  assert!(probe.is_open());
  close(copy).unwrap();
  assert!(!probe.is_open());
}

#[test]
fn closing_all_closes_runs_and_single_numbers_and_not_their_neighbours() {
  // Above the numbers of the other tests, which are the lowest.
  const BASE: RawFd = 180;
  let listed = [0, 1, 2, 3, 5, 7, 8, 12, 14];
  let unlisted = [4, 6, 9, 11, 13, 15];
  let (mut to_close, mut closed) = placed(BASE, &listed);
  let (kept, open) = placed(BASE, &unlisted);
  to_close.reverse();
  to_close.swap(1, 6);
  close_all(to_close);
  assert_all_closed(&closed);
  assert!(open.iter().all(Probe::is_open));
  drop(kept);
  closed.extend(open);
  assert_all_closed(&closed);
}

/// Duplicates of probes with given numbers.
fn placed(base: RawFd, offsets: &[RawFd]) -> (Vec<OwnedFd>, Vec<Probe>) {
  let place = |&offset: &RawFd| {
    let (fd, probe) = probe();
    let number = fcntl(&fd, FcntlArg::F_DUPFD_CLOEXEC(base + offset)).unwrap();
    assert_eq!(number, base + offset);
    // SAFETY: made above.
    (unsafe { OwnedFd::from_raw_fd(number) }, probe)
  };
  offsets.iter().map(place).unzip()
}

#[test]
fn closing_all_of_none_or_one_is_nothing_special() {
  close_all(Vec::new());
  let (fd, probe) = probe();
  close_all(vec![fd]);
  assert!(!probe.is_open());
}

#[test]
fn closing_all_closes_many() {
  let (fds, probes) = probes(50);
  close_all(fds);
  assert_all_closed(&probes);
}

#[test]
fn a_switch_to_non_blocking_mode_is_taken_back() {
  let (socket, _peer) = pair(fdpass_core::SocketType::Stream);
  let before = status_flags(&socket.fd);
  let result = keep_status_flags(socket.fd.as_fd(), || {
    fcntl(&socket.fd, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
    assert!(is_nonblocking(&socket.fd));
    "the result"
  });
  assert_eq!(result, Ok("the result"));
  assert_eq!(status_flags(&socket.fd), before);
}

#[test]
fn a_non_blocking_descriptor_stays_so_with_its_other_flags() {
  let file = file_holding("");
  fcntl(&file, FcntlArg::F_SETFL(OFlag::O_NONBLOCK | OFlag::O_APPEND)).unwrap();
  let before = status_flags(&file);
  keep_status_flags(file.as_fd(), || ()).unwrap();
  assert_eq!(status_flags(&file), before);
  keep_status_flags(file.as_fd(), || fcntl(&file, FcntlArg::F_SETFL(OFlag::empty())).unwrap()).unwrap();
  assert_eq!(status_flags(&file), before);
}

#[test]
fn nothing_is_run_for_a_bad_descriptor() {
  let result = keep_status_flags(bad_fd(), || panic!("was run"));
  assert_eq!(result, Err::<(), _>(Errno::EBADF));
}
