//! A full descriptor table. In a file of its own, because it lowers the limit of the process.
#![cfg(any(target_os = "linux", target_os = "android"))]

#[path = "../fixtures/mod.rs"]
mod fixtures;

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};

use fdpass_core::{
  Channel, ChannelError, Errno, Limits, Message, ReceivedFds, SocketType, available_descriptors, duplicate, socketpair,
};
use fixtures::*;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

#[test]
fn descriptors_without_room_are_told_and_closed_and_the_bytes_are_intact_c5() {
  let _alone = alone();
  for &socket_type in TYPES {
    for (count, room) in [(1, 0), (5, 0), (5, 2), (99, 50)] {
      let (a, b) = pair(socket_type);
      let probes = send_probes(&a, count);
      let table = Table::with_room_for(room);
      let message = b.recv().unwrap().unwrap();
      assert_eq!(message.bytes, b"bytes");
      assert!(matches!(message.fds, ReceivedFds::Truncated), "{message:?}");
      assert_all_closed(&probes);
      assert_eq!(table.available(), room, "{count} descriptors over {socket_type:?}");
    }
  }
}

#[test]
fn the_socket_can_be_used_after_a_truncated_message_c5() {
  let _alone = alone();
  for &socket_type in TYPES {
    let (a, b) = pair(socket_type);
    send_probes(&a, 5);
    a.send(b"next", &[file_holding("next").as_fd()]).unwrap();
    let table = Table::with_room_for(2);
    assert!(matches!(b.recv().unwrap().unwrap().fds, ReceivedFds::Truncated));
    let (bytes, fds) = b.complete();
    assert_eq!(bytes, b"next");
    let [fd] = fds.try_into().unwrap();
    assert_eq!(text_of(fd), "next");
    assert_eq!(table.available(), 2);
  }
}

#[test]
fn a_table_with_just_enough_room_gives_a_complete_message() {
  let _alone = alone();
  for &socket_type in TYPES {
    let (a, b) = pair(socket_type);
    send_probes(&a, 5);
    let table = Table::with_room_for(5);
    let (_, fds) = b.complete();
    assert_eq!((fds.len(), table.available()), (5, 0));
  }
}

#[test]
fn a_truncated_message_closes_what_came_with_credentials_before_it() {
  let _alone = alone();
  for &socket_type in TYPES {
    let (a, b) = pair(socket_type);
    switch_on(&b, libc::SO_PASSCRED).unwrap();
    let probes = send_probes(&a, 5);
    let table = Table::with_room_for(2);
    assert!(matches!(b.recv().unwrap().unwrap().fds, ReceivedFds::Truncated));
    assert_all_closed(&probes);
    assert_eq!(table.available(), 2);
  }
}

#[test]
fn a_pidfd_without_room_is_an_unexpected_message() {
  let _alone = alone();
  for &socket_type in TYPES {
    let (a, b) = pair(socket_type);
    match switch_on(&b, libc::SO_PASSPIDFD) {
      Err(Errno::ENOPROTOOPT) => return, // before Linux 6.5
      result => result.unwrap(),
    }
    a.send(b"bytes", &[]).unwrap();
    let table = Table::with_room_for(0);
    let message = b.recv().unwrap().unwrap();
    assert_eq!(message.bytes, b"bytes");
    assert!(matches!(message.fds, ReceivedFds::Unexpected), "{message:?}");
    assert_eq!(table.available(), 0);
  }
}

#[test]
fn a_pair_without_room_for_both_ends_fails_and_leaves_none() {
  let _alone = alone();
  let table = Table::with_room_for(1);
  assert_eq!(socketpair(SocketType::Stream).unwrap_err(), Errno::EMFILE);
  assert_eq!(table.available(), 1);
}

#[test]
fn the_room_is_what_the_limit_leaves_wherever_it_lies() {
  let _alone = alone();
  for left in [0, 1, 5] {
    let mut table = Table::with_room_for(left);
    assert_eq!(available_descriptors(), Ok(left as u64));
    table.fillers.swap_remove(0); // a low number
    assert_eq!(available_descriptors(), Ok(left as u64 + 1));
  }
}

#[test]
fn a_channel_loses_only_the_message_whose_descriptors_have_no_room() {
  let _alone = alone();
  for (count, room) in [(1, 0), (5, 2), (300, 250), (300, 260)] {
    let (a, b) = socketpair(SocketType::Stream).unwrap();
    let [mut a, mut b] = [a, b].map(|fd| Channel::new(fd, Limits::default()).unwrap());
    let (fds, probes) = probes(count);
    a.send(Message::bytes(b"before"), &[]).unwrap();
    a.send(Message::bytes(b"lost"), &borrowed(&fds)).unwrap();
    a.send(Message::bytes(b"behind"), &[]).unwrap();
    drop(fds);
    let table = Table::with_room_for(room);
    assert_eq!(b.receive().unwrap().unwrap().data, b"before");
    match b.receive() {
      Err(ChannelError::DescriptorsLost(frame)) => assert_eq!((&frame.data[..], frame.fds.len()), (&b"lost"[..], 0)),
      other => panic!("{count} descriptors with room for {room}: {other:?}"),
    }
    assert_all_closed(&probes);
    assert_eq!(table.available(), room);
    assert_eq!(b.receive().unwrap().unwrap().data, b"behind");
  }
}

const LIMIT: libc::rlim_t = 1024;

/// Lets one test at a time open descriptors.
fn alone() -> MutexGuard<'static, ()> {
  static ALONE: Mutex<()> = Mutex::new(());
  ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A descriptor table with a few free numbers.
struct Table {
  fillers: Vec<OwnedFd>,
  limits: (libc::rlim_t, libc::rlim_t),
}

impl Table {
  fn with_room_for(room: usize) -> Self {
    let limits = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, LIMIT, limits.1).unwrap();
    let mut fillers = vec![OwnedFd::from(File::open("/dev/null").unwrap())];
    fillers.extend(fill(&fillers[0]));
    fillers.truncate(fillers.len() - room);
    Self { fillers, limits }
  }

  /// Returns how many descriptors can be opened.
  fn available(&self) -> usize {
    fill(&self.fillers[0]).len()
  }
}

impl Drop for Table {
  fn drop(&mut self) {
    setrlimit(Resource::RLIMIT_NOFILE, self.limits.0, self.limits.1).unwrap();
  }
}

fn fill(fd: &OwnedFd) -> Vec<OwnedFd> {
  let mut duplicates = Vec::new();
  loop {
    match duplicate(fd.as_fd()) {
      Ok(fd) => duplicates.push(fd),
      Err(errno) => {
        assert_eq!(errno, Errno::EMFILE);
        return duplicates;
      }
    }
  }
}

/// Sends descriptors of which only the message has copies afterwards.
fn send_probes(socket: &End, count: usize) -> Vec<Probe> {
  let (fds, probes) = probes(count);
  socket.send(b"bytes", &borrowed(&fds)).unwrap();
  probes
}
