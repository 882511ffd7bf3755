//! Control messages: the buffer that receives them, and the walker that takes ownership of their descriptors.

#![cfg_attr(not(test), deny(clippy::arithmetic_side_effects))] // of numbers that a peer sends

use std::mem::size_of;
use std::os::fd::{OwnedFd, RawFd};

use nix::errno::Errno;

use super::fds::own_received;

/// The most descriptors that one message can carry. Linux refuses a 254th with `EINVAL` (`SCM_MAX_FD`, unix(7)). The same
/// number applies on every platform, so that a program behaves alike on all of them.
pub const MAX_SENT_FDS: usize = 253;

/// The most descriptors that a peer can make the kernel deliver in one message.
///
/// macOS installs all descriptors of a message before it finds that the buffer is too small, and the surplus leaks with
/// unknown numbers (python/cpython#80931). The buffer therefore holds all that XNU delivers.
pub const MAX_RECEIVED_FDS: usize = if cfg!(any(target_os = "linux", target_os = "android")) { 253 } else { 512 };

/// Bytes for control messages that were not requested. `SO_PASSCRED`, or a timestamp that the peer of an inherited socket
/// switched on, comes before the descriptors and would push them out of a buffer sized for them alone.
const MAX_OTHER_CONTROL: usize = 256;

/// Buffer for the control messages of one `recvmsg`. Create it once and use it for every receive.
///
/// It holds the most that the platform can deliver. Of what does not fit, Linux closes the descriptors and macOS leaks
/// them.
#[derive(Debug)]
#[repr(C, align(8))] // the alignment of cmsghdr on every 64-bit platform
pub struct ControlBuffer {
  bytes: [u8; Self::SIZE],
}

impl Default for ControlBuffer {
  fn default() -> Self {
    Self { bytes: [0; Self::SIZE] }
  }
}

impl ControlBuffer {
  const SIZE: usize = space(MAX_RECEIVED_FDS * size_of::<RawFd>()) + MAX_OTHER_CONTROL;

  /// The whole buffer, for `recvmsg`.
  pub(crate) fn as_mut_bytes(&mut self) -> &mut [u8] {
    &mut self.bytes
  }

  /// The first `length` bytes, which the kernel has written.
  pub(crate) fn written(&self, length: usize) -> &[u8] {
    self.bytes.get(..length).unwrap_or(&self.bytes)
  }
}

/// Bytes that a control message with `length` bytes of data takes, with its header and padding.
///
/// nix's `cmsg_space!` takes the type of the data and allocates; this is a constant.
const fn space(length: usize) -> usize {
  // SAFETY: arithmetic on its argument, without a precondition.
  unsafe { libc::CMSG_SPACE(length as libc::c_uint) as usize }
}

/// Where the data of a control message begin, counted from its header.
const fn data_offset() -> usize {
  // SAFETY: arithmetic on its argument, without a precondition.
  unsafe { libc::CMSG_LEN(0) as usize }
}

/// `SCM_PIDFD`, a pidfd of the sender, which `SO_PASSPIDFD` adds to each message (linux/socket.h). libc and nix have no name
/// for it.
#[cfg(any(target_os = "linux", target_os = "android"))]
const SCM_PIDFD: libc::c_int = 4;

/// A received control message, with ownership of its descriptors.
pub(crate) enum ControlMessage {
  /// `SCM_RIGHTS`. `withheld` is true if the kernel wrote an error number in place of a descriptor, because a security
  /// module refused it. A process that shares the socket can switch this on with `SO_RIGHTS_NOTRUNC`
  /// (asm-generic/socket.h); further descriptors follow such a number.
  Rights { fds: Vec<OwnedFd>, withheld: bool },
  /// `SCM_PIDFD`: one descriptor, or none and the reason why the kernel could not install it.
  #[cfg_attr(not(any(target_os = "linux", target_os = "android")), allow(dead_code, reason = "only Linux has it"))]
  Pidfd { fds: Vec<OwnedFd>, failed: Errno },
  /// `SCM_CREDENTIALS`, on FreeBSD `SCM_CREDS2`.
  #[cfg_attr(target_vendor = "apple", allow(dead_code, reason = "macOS has none"))]
  Credentials { pid: i32, uid: u32, gid: u32 },
  /// A message of another level or type.
  Other,
}

/// Takes ownership of the descriptors in the control data of one receive, and passes each control message to `visit`.
///
/// nix's `cmsgs()` cannot do this:
/// - it refuses a message with `MSG_CTRUNC`, and the descriptors that the kernel has installed would leak;
/// - it trusts `cmsg_len`, but XNU leaves the untruncated length in the last header of a truncated receive
///   (bytecodealliance/rustix#1683); here it is clamped to the buffer;
/// - it has no `SCM_PIDFD` and no `SCM_CREDS2`.
///
/// Every received message passes here, so that there is one place where descriptors become owned.
pub(crate) fn own_control(control: &[u8], mut visit: impl FnMut(ControlMessage)) {
  let mut rest = control;
  while rest.len() >= size_of::<libc::cmsghdr>() {
    // SAFETY: `rest` holds at least a header's bytes, any bit pattern is a valid cmsghdr, and the read is unaligned.
    let header = unsafe { rest.as_ptr().cast::<libc::cmsghdr>().read_unaligned() };
    #[allow(clippy::unnecessary_cast, reason = "cmsg_len is a socklen_t on some platforms and a size_t on others")]
    let length = (header.cmsg_len as usize).min(rest.len());
    let Some(data) = rest.get(data_offset()..length) else { break };
    visit(own_message(&header, data));
    rest = rest.get(space(data.len())..).unwrap_or(&[]);
  }
}

fn own_message(header: &libc::cmsghdr, data: &[u8]) -> ControlMessage {
  if header.cmsg_level != libc::SOL_SOCKET {
    return ControlMessage::Other;
  }
  match header.cmsg_type {
    libc::SCM_RIGHTS => {
      let fds = own_received(data);
      ControlMessage::Rights { withheld: fds.len() < data.as_chunks::<{ size_of::<RawFd>() }>().0.len(), fds }
    }
    #[cfg(any(target_os = "linux", target_os = "android"))]
    SCM_PIDFD => match data.first_chunk() {
      None => ControlMessage::Other,
      Some(&first) => ControlMessage::Pidfd {
        fds: own_received(data),
        failed: Errno::from_raw(RawFd::from_ne_bytes(first).wrapping_neg()),
      },
    },
    // struct ucred: pid, uid, gid.
    #[cfg(any(target_os = "linux", target_os = "android"))]
    libc::SCM_CREDENTIALS => credentials(data, [0, 1, 2]),
    // struct sockcred2: version, pid, uid, euid, gid, egid, …; of user and group the effective ones.
    #[cfg(target_os = "freebsd")]
    libc::SCM_CREDS2 => credentials(data, [1, 3, 5]),
    _ => ControlMessage::Other,
  }
}

/// Reads pid, user and group_by_name, each four bytes, at these indices.
#[cfg(any(target_os = "linux", target_os = "android", target_os = "freebsd"))]
fn credentials(data: &[u8], indices: [usize; 3]) -> ControlMessage {
  let word = |index: usize| data.as_chunks().0.get(index).map(|&bytes| u32::from_ne_bytes(bytes));
  match indices.map(word) {
    [Some(pid), Some(uid), Some(gid)] => ControlMessage::Credentials { pid: pid as i32, uid, gid },
    _ => ControlMessage::Other,
  }
}

/// Takes ownership of all descriptors in the control data of one receive, in their order.
#[cfg(any(test, fuzzing))]
pub(crate) fn own_all(control: &[u8]) -> Vec<OwnedFd> {
  let mut owned = Vec::new();
  own_control(control, |message| match message {
    ControlMessage::Rights { fds, .. } | ControlMessage::Pidfd { fds, .. } => owned.extend(fds),
    ControlMessage::Credentials { .. } | ControlMessage::Other => {}
  });
  owned
}

#[cfg(test)]
#[allow(clippy::indexing_slicing, reason = "a test may panic")]
mod tests {
  use std::fs::File;
  use std::os::fd::{AsRawFd, IntoRawFd};

  use super::*;

  const RIGHTS: (libc::c_int, libc::c_int) = (libc::SOL_SOCKET, libc::SCM_RIGHTS);
  const OTHER: (libc::c_int, libc::c_int) = (libc::SOL_SOCKET, 0x7fff);
  const ALIGNMENT: usize = if cfg!(target_vendor = "apple") { 4 } else { 8 };

  /// A control message as the kernel lays it out: header, data, padding.
  fn message((level, kind): (libc::c_int, libc::c_int), data: &[u8]) -> Vec<u8> {
    // SAFETY: arithmetic on its argument.
    claiming(unsafe { libc::CMSG_LEN(data.len() as libc::c_uint) } as usize, (level, kind), data)
  }

  /// A control message whose header claims any length.
  fn claiming(length: usize, (level, kind): (libc::c_int, libc::c_int), data: &[u8]) -> Vec<u8> {
    // SAFETY: a structure of integers.
    let mut header: libc::cmsghdr = unsafe { std::mem::zeroed() };
    header.cmsg_len = length as _;
    header.cmsg_level = level;
    header.cmsg_type = kind;
    // SAFETY: the header's own bytes, which have no padding between them that was not zeroed.
    let header = unsafe { std::slice::from_raw_parts((&raw const header).cast::<u8>(), size_of::<libc::cmsghdr>()) };
    let mut bytes = header.to_vec();
    bytes.resize(bytes.len().next_multiple_of(ALIGNMENT), 0);
    bytes.extend(data);
    bytes.resize(bytes.len().next_multiple_of(ALIGNMENT), 0);
    bytes
  }

  /// Opens descriptors without an owner, as a receive leaves them.
  fn installed(count: usize) -> Vec<RawFd> {
    (0..count).map(|_| File::open("/dev/null").unwrap().into_raw_fd()).collect()
  }

  fn data(numbers: &[RawFd]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_ne_bytes()).collect()
  }

  #[track_caller]
  fn assert_owned(control: &[u8], numbers: &[RawFd]) {
    assert_eq!(own_all(control).iter().map(AsRawFd::as_raw_fd).collect::<Vec<_>>(), numbers);
  }

  #[test]
  fn an_error_number_in_the_place_of_a_descriptor_withholds_it_and_the_others_are_owned_c5_s27() {
    let numbers = installed(1);
    for (data, is_withheld) in [(data(&[-libc::EPERM, numbers[0], -libc::EACCES]), true), (data(&numbers), false)] {
      own_control(&message(RIGHTS, &data), |message| match message {
        ControlMessage::Rights { fds, withheld } => {
          assert_eq!(withheld, is_withheld);
          assert_eq!(fds.iter().map(AsRawFd::as_raw_fd).collect::<Vec<_>>(), numbers);
          fds.into_iter().for_each(std::mem::forget); // for the next
        }
        _ => panic!("no rights"),
      });
    }
    drop(own_received(&data(&numbers)));
  }

  #[test]
  fn nothing_is_owned_of_an_empty_buffer() {
    assert_owned(&[], &[]);
    assert_owned(&[0; 1], &[]);
    assert_owned(&[0; 1024], &[]);
  }

  #[test]
  fn every_descriptor_of_a_header_is_owned_whatever_the_padding_c7() {
    for count in 0..5 {
      let numbers = installed(count);
      let control = message(RIGHTS, &data(&numbers));
      assert_owned(&[control, vec![0; 64]].concat(), &numbers);
    }
  }

  #[test]
  fn a_header_may_end_with_the_buffer() {
    for count in 1..5 {
      let numbers = installed(count);
      assert_owned(&message(RIGHTS, &data(&numbers)), &numbers);
    }
  }

  #[test]
  fn a_last_header_may_lack_its_padding() {
    let numbers = installed(1);
    let mut control = message(RIGHTS, &data(&numbers));
    // SAFETY: arithmetic on its argument.
    control.truncate(unsafe { libc::CMSG_LEN(size_of::<RawFd>() as libc::c_uint) } as usize);
    assert_owned(&control, &numbers);
  }

  #[test]
  fn the_descriptors_of_several_headers_are_owned() {
    let numbers = installed(6);
    let parts = [&numbers[..1], &numbers[1..3], &numbers[3..]];
    let control = parts.map(|part| message(RIGHTS, &data(part))).concat();
    assert_owned(&[control, vec![0; 64]].concat(), &numbers);
  }

  #[test]
  fn a_header_of_another_kind_is_stepped_over() {
    let numbers = installed(3);
    for other in [OTHER, (libc::IPPROTO_IP, libc::SCM_RIGHTS)] {
      for length in [0, 1, 12, 17] {
        let between = message(other, &vec![0xff; length]);
        assert_owned(&[between.clone(), between].concat(), &[]);
      }
    }
    let control = [
      message(OTHER, &[0xff; 12]),
      message(RIGHTS, &data(&numbers[..1])),
      message(OTHER, &[0xff; 1]),
      message(RIGHTS, &data(&numbers[1..])),
      vec![0; 64],
    ];
    assert_owned(&control.concat(), &numbers);
  }

  #[test]
  fn a_header_that_claims_more_than_the_buffer_holds_is_clamped() {
    let numbers = installed(2);
    for length in [1 << 10, u32::MAX as usize] {
      let control = [message(OTHER, &[0xff; 4]), claiming(length, RIGHTS, &data(&numbers))].concat();
      let owned = own_all(&control);
      assert_eq!(owned.iter().map(AsRawFd::as_raw_fd).collect::<Vec<_>>(), numbers);
      owned.into_iter().for_each(std::mem::forget); // for the next length
    }
    drop(own_received(&data(&numbers)));
  }

  #[test]
  fn a_number_that_is_cut_off_is_none() {
    let numbers = installed(1);
    let mut control = claiming(1 << 10, RIGHTS, &data(&numbers));
    // SAFETY: arithmetic on its argument.
    control.truncate(unsafe { libc::CMSG_LEN(size_of::<RawFd>() as libc::c_uint) } as usize);
    control.extend([1, 0, 0]);
    assert_owned(&control, &numbers);
  }

  #[test]
  fn a_header_too_short_to_be_one_ends_the_walk() {
    let numbers = installed(1);
    for length in [0, 1, size_of::<libc::cmsghdr>() - 1] {
      let control = [claiming(length, RIGHTS, &[]), message(RIGHTS, &data(&numbers))].concat();
      assert_owned(&control, &[]);
    }
    drop(own_received(&data(&numbers)));
  }

  #[test]
  fn a_header_without_room_for_itself_ends_the_walk() {
    let numbers = installed(1);
    let control = [message(RIGHTS, &data(&numbers)), vec![0xff; size_of::<libc::cmsghdr>() - 1]].concat();
    assert_owned(&control, &numbers);
  }

  #[test]
  fn the_buffer_may_lie_at_an_odd_address() {
    let numbers = installed(3);
    let control = [vec![0], message(OTHER, &[0xff; 5]), message(RIGHTS, &data(&numbers)), vec![0; 64]].concat();
    assert_owned(&control[1..], &numbers);
  }

  #[test]
  #[cfg(any(target_os = "linux", target_os = "android"))]
  fn a_pidfd_is_owned_and_an_error_number_in_its_place_is_not() {
    let numbers = installed(2);
    let control = [
      message(RIGHTS, &data(&numbers[..1])),
      message((libc::SOL_SOCKET, SCM_PIDFD), &data(&numbers[1..])),
      message((libc::SOL_SOCKET, SCM_PIDFD), &data(&[-libc::EMFILE])),
      vec![0; 64],
    ];
    assert_owned(&control.concat(), &numbers);
  }

  #[test]
  fn the_buffer_has_room_for_all_descriptors_behind_what_nobody_asked_for_c7() {
    // SAFETY: arithmetic on its argument.
    let space = |size: usize| unsafe { libc::CMSG_SPACE(size as libc::c_uint) } as usize;
    let label = 128; // of SO_PASSSEC
    let other = space(size_of::<libc::timeval>()) + space(3 * size_of::<u32>()) + space(label) + space(4);
    assert!(ControlBuffer::default().as_mut_bytes().len() >= other + space(MAX_RECEIVED_FDS * size_of::<RawFd>()));
  }

  #[test]
  fn the_buffer_is_aligned_for_a_header() {
    assert_eq!(align_of::<ControlBuffer>() % align_of::<libc::cmsghdr>(), 0);
    let buffer = ControlBuffer::default();
    assert!(buffer.written(0).as_ptr().cast::<libc::cmsghdr>().is_aligned());
  }
}
