//! Adopting, duplicating and closing descriptors; memfds and their seals.

#[path = "../fixtures/mod.rs"]
mod fixtures;

use std::fs::File;
use std::io::{Read, Seek};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};

use fdpass_core::{Errno, adopt, close, close_all, close_apart, closing, duplicate, keep_status_flags};
use fixtures::*;
use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};

#[test]
fn an_adopted_number_is_owned_and_close_on_exec() {
  let (fd, probe) = probe();
  fcntl(&fd, FcntlArg::F_SETFD(FdFlag::empty())).unwrap();
  let number = fd.into_raw_fd();
  // SAFETY: nothing else owns it.
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

#[cfg(any(target_os = "linux", target_os = "android", target_os = "freebsd"))]
mod memory {
  use std::fs::File;
  use std::io::Write;
  use std::os::fd::AsFd;

  use fdpass_core::{Errno, duplicate, memfd, pipe, seal, seals};

  use super::fixtures::*;

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
}

#[test]
fn a_close_that_blocks_delays_no_other_owner_and_nothing_else_s272() {
  let (blocking, peers): (Vec<_>, Vec<_>) = (0..20).map(|_| lingering()).unzip();
  blocking.into_iter().for_each(|fd| close_apart(1, fd));
  assert_eq!(closing(1), 20);
  for owner in [0, 2, 3] {
    let (fds, probes) = probes(3);
    fds.into_iter().for_each(|fd| close_apart(owner, fd));
    until(|| probes.iter().all(|probe| !probe.is_open()) && closing(owner) == 0);
  }
  until(|| threads_that_close() <= 6); // 4 for one owner, and those that have become idle
  assert_eq!(closing(1), 20);
  drop(peers); // which resets the connections
  until(|| closing(1) == 0);
}

/// Returns how many threads of this process close descriptors; 0 where the system does not list threads.
fn threads_that_close() -> usize {
  let tasks = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
  tasks.filter(|task| std::fs::read(task.path().join("comm")).is_ok_and(|name| name == b"fdpass-close\n")).count()
}

fn until(condition: impl Fn() -> bool) {
  while !condition() {
    std::thread::sleep(std::time::Duration::from_millis(1));
  }
}
