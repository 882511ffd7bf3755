//! Sending and receiving descriptors.

#[path = "../fixtures/mod.rs"]
mod fixtures;

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, AsRawFd};

use fdpass_core::{ControlBuffer, Errno, MAX_RECEIVED_FDS, MAX_SENT_FDS, ReceivedFds, SocketType};
use fixtures::*;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

#[test]
fn a_descriptor_arrives_with_its_bytes_and_is_the_same_file_a1() {
  for &socket_type in TYPES {
    let (a, b) = pair(socket_type);
    assert_eq!(a.send(b"here", &[file_holding("contents").as_fd()]), Ok(4));
    let (bytes, fds) = b.complete();
    assert_eq!(bytes, b"here");
    let [fd] = fds.try_into().unwrap();
    assert_eq!(text_of(fd), "contents");
  }
}

#[test]
fn every_number_of_descriptors_arrives_in_order_a3() {
  make_room_for_descriptors();
  for &socket_type in TYPES {
    for count in [0, 1, 2, 64, 99, MAX_SENT_FDS] {
      let (a, b) = pair(socket_type);
      let files: Vec<File> = (0..count).map(|index| file_holding(&index.to_string())).collect();
      assert_eq!(a.send(b"x", &borrowed(&files)), Ok(1));
      drop(files);
      let (bytes, fds) = b.complete();
      assert_eq!(bytes, b"x");
      let texts: Vec<String> = fds.into_iter().map(text_of).collect();
      assert_eq!(texts, (0..count).map(|index| index.to_string()).collect::<Vec<_>>(), "{socket_type:?}");
    }
  }
}

/// Raises the limit of open descriptors: macOS starts with 256.
fn make_room_for_descriptors() {
  let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
  setrlimit(Resource::RLIMIT_NOFILE, soft.max(hard.min(4096)), hard).unwrap();
}

#[test]
fn one_descriptor_may_be_sent_many_times_in_one_message() {
  let (a, b) = pair(SocketType::Stream);
  let (fd, probe) = probe();
  a.send(b"x", &[fd.as_fd(), fd.as_fd(), fd.as_fd()]).unwrap();
  drop(fd);
  let (_, mut fds) = b.complete();
  assert_eq!(fds.len(), 3);
  while let Some(fd) = fds.pop() {
    assert!(probe.is_open());
    drop(fd);
  }
  assert!(!probe.is_open());
}

#[test]
fn more_descriptors_than_a_message_may_carry_are_refused_and_nothing_is_sent() {
  for &socket_type in TYPES {
    let (a, b) = pair(socket_type);
    let (fd, probe) = probe();
    assert_eq!(a.send(b"x", &vec![fd.as_fd(); MAX_SENT_FDS + 1]), Err(Errno::EINVAL));
    b.assert_nothing_to_receive();
    drop(fd);
    assert!(!probe.is_open());
  }
}

#[test]
fn a_bad_descriptor_is_refused_and_the_good_ones_beside_it_are_not_sent_c10() {
  for &socket_type in TYPES {
    let (a, b) = pair(socket_type);
    let (fd, probe) = probe();
    for fds in [[fd.as_fd(), bad_fd()], [bad_fd(), fd.as_fd()]] {
      assert_eq!(a.send(b"x", &fds), Err(Errno::EBADF));
      b.assert_nothing_to_receive();
    }
    drop(fd);
    assert!(!probe.is_open());
  }
}

#[test]
fn a_stream_refuses_descriptors_without_a_byte_to_carry_them() {
  let (a, b) = pair(SocketType::Stream);
  let (fd, probe) = probe();
  assert_eq!(a.send(b"", &[fd.as_fd()]), Err(Errno::EINVAL));
  b.assert_nothing_to_receive();
  assert!(probe.is_open());
  drop(fd);
  assert!(!probe.is_open());
}

#[test]
fn a_packet_carries_descriptors_without_a_byte() {
  for &socket_type in PACKET_TYPES {
    let (a, b) = pair(socket_type);
    assert_eq!(a.send(b"", &[file_holding("alone").as_fd()]), Ok(0));
    let (bytes, fds) = b.complete();
    assert_eq!(bytes, b"");
    let [fd] = fds.try_into().unwrap();
    assert_eq!(text_of(fd), "alone");
    b.assert_nothing_to_receive();
  }
}

#[test]
#[cfg(any(target_os = "linux", target_os = "android"))]
fn an_empty_packet_with_descriptors_is_not_the_end_of_a_hung_up_connection() {
  let (a, b) = pair(SocketType::Seqpacket);
  a.send(b"", &[file_holding("last").as_fd()]).unwrap();
  drop(a);
  let [fd] = b.complete().1.try_into().unwrap();
  assert_eq!(text_of(fd), "last");
  b.assert_ended();
}

#[test]
fn a_receive_without_room_for_bytes_still_owns_the_descriptors() {
  for &socket_type in PACKET_TYPES {
    let (a, b) = pair(socket_type);
    let (fd, probe) = probe();
    a.send(b"x", &[fd.as_fd()]).unwrap();
    drop(fd);
    let message = b.recv_at_most(0, 1).unwrap().unwrap();
    assert!(matches!(&message.fds, ReceivedFds::Complete(fds) if fds.len() == 1));
    drop(message);
    assert!(!probe.is_open());
  }
}

#[test]
fn the_senders_descriptor_stays_open_and_may_be_closed_before_the_receive_a4() {
  for &socket_type in TYPES {
    let (a, b) = pair(socket_type);
    let (fd, probe) = probe();
    a.send(b"x", &[fd.as_fd()]).unwrap();
    assert!(is_close_on_exec(&fd));
    drop(fd);
    assert!(probe.is_open());
    let (_, fds) = b.complete();
    assert!(probe.is_open());
    drop(fds);
    assert!(!probe.is_open());
  }
}

#[test]
fn a_received_descriptor_is_close_on_exec_whatever_the_sent_one_was_d1() {
  for &socket_type in TYPES {
    let (a, b) = pair(socket_type);
    let file = file_holding("");
    fcntl(&file, FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty())).unwrap();
    a.send(b"x", &[file.as_fd()]).unwrap();
    let [fd] = b.complete().1.try_into().unwrap();
    assert!(is_close_on_exec(&fd));
    assert!(!is_close_on_exec(&file));
  }
}

#[test]
fn the_offset_is_shared_with_the_sender() {
  let (a, b) = pair(SocketType::Stream);
  let mut sent = file_holding("abcdef");
  sent.seek(SeekFrom::Start(2)).unwrap();
  a.send(b"x", &[sent.as_fd()]).unwrap();
  let [fd] = b.complete().1.try_into().unwrap();
  let mut byte = [0];
  File::from(fd).read_exact(&mut byte).unwrap();
  assert_eq!(&byte, b"c");
  assert_eq!(sent.stream_position().unwrap(), 3);
}

#[test]
fn the_status_flags_are_shared_with_the_sender() {
  let (a, b) = pair(SocketType::Stream);
  let mut sent = file_holding("abc");
  a.send(b"x", &[sent.as_fd()]).unwrap();
  let [fd] = b.complete().1.try_into().unwrap();
  fcntl(&fd, FcntlArg::F_SETFL(OFlag::O_APPEND)).unwrap();
  assert!(status_flags(&sent).contains(OFlag::O_APPEND));
  sent.write_all(b"def").unwrap(); // at offset zero if the offset were not shared
  assert_eq!(text_of(fd), "abcdef");
}

#[test]
fn descriptors_come_with_the_first_byte_of_their_message_b1() {
  let (a, b) = pair(SocketType::Stream);
  a.send(b"abc", &[file_holding("").as_fd()]).unwrap();
  let first = b.recv_at_most(1, 1).unwrap().unwrap();
  assert_eq!(first.bytes, b"a");
  assert!(matches!(first.fds, ReceivedFds::Complete(fds) if fds.len() == 1));
  let (bytes, fds) = b.complete();
  assert_eq!(bytes, b"bc");
  assert!(fds.is_empty());
}

#[test]
#[cfg(any(target_os = "linux", target_os = "android"))]
fn plain_bytes_may_come_before_a_messages_own_but_never_after_them() {
  let (a, b) = pair(SocketType::Stream);
  a.send(b"AA", &[]).unwrap();
  a.send(b"BB", &[file_holding("B").as_fd()]).unwrap();
  a.send(b"CC", &[]).unwrap();
  let (bytes, fds) = b.complete();
  assert_eq!(bytes, b"AABB");
  assert_eq!(fds.len(), 1);
  let (bytes, fds) = b.complete();
  assert_eq!(bytes, b"CC");
  assert!(fds.is_empty());
}

#[test]
fn the_descriptors_of_two_messages_are_not_merged_b2() {
  for &socket_type in TYPES {
    let (a, b) = pair(socket_type);
    a.send(b"A", &[file_holding("A").as_fd()]).unwrap();
    a.send(b"B", &[file_holding("B").as_fd()]).unwrap();
    for name in ["A", "B"] {
      let (bytes, fds) = b.complete();
      assert_eq!(bytes, name.as_bytes());
      let [fd] = fds.try_into().unwrap();
      assert_eq!(text_of(fd), name);
    }
  }
}

#[test]
fn a_partial_write_sends_the_descriptors_once_b5() {
  let (a, b) = pair(SocketType::Stream);
  let (fd, probe) = probe();
  let data: Vec<u8> = (0..4 << 20).map(|index: u32| (index % 251) as u8).collect();
  let mut sent = a.send(&data, &[fd.as_fd()]).unwrap();
  assert!(0 < sent && sent < data.len());
  drop(fd);
  let (mut received, mut fds) = (Vec::new(), Vec::new());
  while received.len() < data.len() {
    match b.recv() {
      Ok(message) => {
        let Some(Message { bytes, fds: ReceivedFds::Complete(came), .. }) = message else { panic!("{message:?}") };
        assert!(came.is_empty() || received.is_empty());
        received.extend(bytes);
        fds.extend(came);
      }
      Err(Errno::EAGAIN) => sent += a.send(&data[sent..], &[]).unwrap(),
      Err(errno) => panic!("{errno}"),
    }
  }
  assert!(received == data);
  assert_eq!(fds.len(), 1);
  drop(fds);
  assert!(!probe.is_open());
}

#[test]
fn a_full_socket_keeps_the_descriptors_with_the_caller() {
  for &socket_type in CONNECTION_TYPES {
    let (a, b) = pair(socket_type);
    while a.send(&[0; 1024], &[]).is_ok() {}
    let (fd, probe) = probe();
    assert_eq!(a.send(&[1; 1024], &[fd.as_fd()]), Err(Errno::EAGAIN));
    while let Ok(message) = b.recv() {
      assert!(matches!(message.unwrap().fds, ReceivedFds::Complete(fds) if fds.is_empty()));
    }
    assert!(probe.is_open());
    drop(fd);
    assert!(!probe.is_open());
  }
}

#[test]
fn more_descriptors_than_the_receiver_takes_are_all_closed() {
  for &socket_type in TYPES {
    for max_fds in [0, 2] {
      let (a, b) = pair(socket_type);
      let (fds, probes) = probes(3);
      a.send(b"three", &borrowed(&fds)).unwrap();
      drop(fds);
      let message = b.recv_at_most(16, max_fds).unwrap().unwrap();
      assert_eq!(message.bytes, b"three");
      assert!(matches!(message.fds, ReceivedFds::TooMany));
      assert_all_closed(&probes);
      a.send(b"next", &[file_holding("next").as_fd()]).unwrap();
      assert_eq!(b.complete().1.len(), 1);
    }
  }
}

#[test]
fn as_many_descriptors_as_the_receiver_takes_are_complete() {
  for &socket_type in TYPES {
    let (a, b) = pair(socket_type);
    let (fds, _probes) = probes(3);
    a.send(b"x", &borrowed(&fds)).unwrap();
    let message = b.recv_at_most(16, 3).unwrap().unwrap();
    assert!(matches!(message.fds, ReceivedFds::Complete(fds) if fds.len() == 3));
  }
}

#[test]
fn a_dropped_message_closes_its_descriptors_d2() {
  let (a, b) = pair(SocketType::Stream);
  let (fds, probes) = probes(3);
  a.send(b"x", &borrowed(&fds)).unwrap();
  drop(fds);
  let received = b.socket().recv(&mut [0], &mut ControlBuffer::default(), MAX_RECEIVED_FDS).unwrap().unwrap();
  assert!(probes.iter().all(Probe::is_open));
  drop(received);
  assert_all_closed(&probes);
}

#[test]
fn descriptors_that_nobody_received_are_closed_with_the_socket() {
  for &socket_type in TYPES {
    let (a, b) = pair(socket_type);
    let (fds, probes) = probes(3);
    a.send(b"x", &borrowed(&fds)).unwrap();
    drop(fds);
    assert!(probes.iter().all(Probe::is_open));
    drop(b);
    assert_all_closed(&probes);
  }
}

#[test]
fn a_queued_descriptor_comes_before_the_end_e1() {
  for &socket_type in CONNECTION_TYPES {
    let (a, b) = pair(socket_type);
    a.send(b"last", &[file_holding("last").as_fd()]).unwrap();
    drop(a);
    let [fd] = b.complete().1.try_into().unwrap();
    assert_eq!(text_of(fd), "last");
    b.assert_ended();
  }
}

#[test]
fn a_control_buffer_forgets_the_receive_before() {
  let (a, b) = pair(SocketType::Stream);
  let mut control = ControlBuffer::default();
  a.send(b"a", &[file_holding("").as_fd()]).unwrap();
  a.send(b"b", &[]).unwrap();
  for count in [1, 0] {
    let received = b.socket().recv(&mut [0; 8], &mut control, MAX_RECEIVED_FDS).unwrap().unwrap();
    assert!(matches!(received.fds, ReceivedFds::Complete(fds) if fds.len() == count));
  }
}

#[test]
fn a_socket_may_be_sent_over_itself() {
  let (a, b) = pair(SocketType::Stream);
  a.send(b"x", &[a.fd.as_fd()]).unwrap();
  drop(a);
  let [fd] = b.complete().1.try_into().unwrap();
  assert_ne!(fd.as_raw_fd(), b.fd.as_raw_fd());
  b.assert_nothing_to_receive();
  drop(fd);
  b.assert_ended();
}

#[test]
#[cfg(any(target_os = "linux", target_os = "android"))]
fn credentials_that_nobody_asked_for_are_told_and_close_the_descriptors() {
  make_room_for_descriptors();
  for &socket_type in TYPES {
    let (a, b) = pair(socket_type);
    switch_on(&b, libc::SO_PASSCRED).unwrap();
    let (fds, probes) = probes(MAX_SENT_FDS);
    a.send(b"bytes", &borrowed(&fds)).unwrap();
    drop(fds);
    let message = b.recv().unwrap().unwrap();
    assert_eq!(message.bytes, b"bytes");
    assert!(matches!(message.fds, ReceivedFds::Unexpected), "{message:?}");
    assert_all_closed(&probes);
  }
}
