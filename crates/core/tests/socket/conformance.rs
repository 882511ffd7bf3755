//! Cases of other suites that need raw system calls: see docs/proof/conformance.md.

#[path = "../fixtures/mod.rs"]
mod fixtures;

use std::os::fd::{AsFd, AsRawFd};
use std::ptr;

use fdpass_core::{ReceivedFds, SocketType};
use fixtures::*;
use nix::errno::Errno;

/// Receives a byte with `length` bytes of control data written to `control`; returns the result and the flags.
fn recv_raw(end: &End, control: *mut libc::c_void, length: usize) -> (nix::Result<isize>, libc::c_int) {
  let mut byte = [0u8; 1];
  let mut place = libc::iovec { iov_base: byte.as_mut_ptr().cast(), iov_len: 1 };
  // SAFETY: a structure of integers and pointers.
  let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
  message.msg_iov = &raw mut place;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = length as _;
  // SAFETY: the byte outlives the call; the kernel checks the address of the control data.
  let result = unsafe { libc::recvmsg(end.fd.as_raw_fd(), &raw mut message, libc::MSG_DONTWAIT) };
  (Errno::result(result), message.msg_flags)
}

/// FreeBSD unix_passfd_test `copyout_rights_error` (C8). FreeBSD's recvmsg fails with EFAULT, Linux' returns the bytes and
/// reports missing control data. Neither leaves a descriptor.
#[test]
fn descriptors_whose_numbers_cannot_be_written_are_closed_and_the_next_message_is_whole_c8() {
  for &socket_type in TYPES {
    let (a, b) = pair(socket_type);
    let (fd, probe) = probe();
    a.send(b"x", &[fd.as_fd(), fd.as_fd()]).unwrap();
    let (result, flags) = recv_raw(&b, ptr::without_provenance_mut(usize::MAX & !0xfff), 64);
    match result {
      Ok(length) => {
        assert_eq!(length, 1);
        assert_ne!(flags & libc::MSG_CTRUNC, 0);
      }
      Err(errno) => assert_eq!(errno, Errno::EFAULT),
    }
    drop(fd);
    assert!(!probe.is_open(), "{socket_type:?}");
    let (next, next_probe) = fixtures::probe();
    a.send(b"y", &[next.as_fd()]).unwrap();
    drop(next);
    let (bytes, fds) = b.complete();
    assert_eq!((bytes.as_slice(), fds.len()), (b"y".as_slice(), 1));
    drop(fds);
    assert!(!next_probe.is_open());
  }
}

/// rustix `test_truncated_scm_rights` (C3): sixteen sockets for a receiver that accepts five.
#[test]
fn sixteen_sockets_for_a_receiver_that_takes_five_are_all_closed_c3_s12() {
  let (a, b) = pair(SocketType::Stream);
  let pairs: Vec<(End, End)> = (0..16).map(|_| pair(SocketType::Stream)).collect();
  let sent: Vec<_> = pairs.iter().map(|(sent, _)| sent.fd.as_fd()).collect();
  a.send(b"hello", &sent).unwrap();
  let message = b.recv_at_most(100, 5).unwrap().unwrap();
  assert_eq!(message.bytes, b"hello");
  assert!(matches!(message.fds, ReceivedFds::TooMany));
  let kept: Vec<End> = pairs.into_iter().map(|(_, kept)| kept).collect();
  kept.iter().for_each(End::assert_ended);
}

/// CPython `CmsgMacroTests`, rustix `test_buffer_sizes` (C7): the sizes that the platform's macros compute.
#[test]
fn the_room_for_descriptors_grows_with_their_number_and_never_by_less_than_one_takes_c7() {
  const ONE: usize = size_of::<libc::c_int>();
  let round = |count: usize| {
    // SAFETY: arithmetic on its argument.
    let length = unsafe { libc::CMSG_LEN((count * ONE) as libc::c_uint) };
    // SAFETY: as above.
    let space = unsafe { libc::CMSG_SPACE((count * ONE) as libc::c_uint) };
    (length as usize, space as usize)
  };
  let (header, _) = round(0);
  for count in 0..=512 {
    let (length, space) = round(count);
    assert_eq!(length, header + count * ONE);
    assert!(space >= length && space < length + 2 * size_of::<usize>());
    assert!(round(count + 1).1 >= space);
    assert!(2 * space >= round(2 * count).1, "two headers take no less than one");
  }
}
