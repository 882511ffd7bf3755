//! The room that a received control message needs.

use std::mem::size_of;
use std::os::fd::RawFd;

/// The most descriptors that one message may carry: Linux refuses a 254th with `EINVAL` (`SCM_MAX_FD`, unix(7)), and
/// the number serves everywhere so that a program behaves alike on every platform.
pub const MAX_SENT_FDS: usize = 253;

/// The most descriptors that a peer can make the kernel deliver in one message.
///
/// macOS installs every descriptor of a message and only then finds that the buffer is too small, so that the surplus
/// leaks with unknown numbers (python/cpython#80931): the buffer has to hold all that XNU lets through.
pub const MAX_RECEIVED_FDS: usize = if cfg!(any(target_os = "linux", target_os = "android")) { 253 } else { 512 };

/// Room for what nobody asked for beside the descriptors. `SO_PASSCRED` or a timestamp that the peer of an inherited
/// socket switched on comes first in the buffer and would push descriptors out of one sized for them alone.
const MAX_OTHER_CONTROL: usize = 256;

// SAFETY: CMSG_SPACE is arithmetic on its argument, without a precondition.
const RIGHTS_SPACE: usize =
  unsafe { libc::CMSG_SPACE((MAX_RECEIVED_FDS * size_of::<RawFd>()) as libc::c_uint) } as usize;

/// Memory for the control messages of one `recvmsg`, to be made once and used for every receive.
///
/// It always has room for the most that the platform can deliver: with a smaller one Linux closes what does not fit
/// and macOS leaks it.
#[derive(Debug)]
#[repr(C, align(8))] // the alignment of cmsghdr on every 64-bit platform
pub struct ControlBuffer {
  bytes: [u8; RIGHTS_SPACE + MAX_OTHER_CONTROL],
}

impl Default for ControlBuffer {
  fn default() -> Self {
    Self { bytes: [0; RIGHTS_SPACE + MAX_OTHER_CONTROL] }
  }
}

impl ControlBuffer {
  pub(crate) fn room(&mut self) -> &mut [u8] {
    &mut self.bytes
  }

  /// What the kernel has written.
  pub(crate) fn written(&self, length: usize) -> &[u8] {
    &self.bytes[..length.min(self.bytes.len())]
  }
}

#[cfg(test)]
mod tests {
  use super::*;

  #[test]
  fn the_buffer_has_room_for_all_descriptors_behind_what_nobody_asked_for() {
    // SAFETY: arithmetic on its argument.
    let space = |size: usize| unsafe { libc::CMSG_SPACE(size as libc::c_uint) } as usize;
    let label = 128; // of SO_PASSSEC
    let other = space(size_of::<libc::timeval>()) + space(3 * size_of::<u32>()) + space(label) + space(4);
    assert!(ControlBuffer::default().room().len() >= other + space(MAX_RECEIVED_FDS * size_of::<RawFd>()));
  }

  #[test]
  fn the_buffer_is_aligned_for_a_header() {
    assert_eq!(align_of::<ControlBuffer>() % align_of::<libc::cmsghdr>(), 0);
    let buffer = ControlBuffer::default();
    assert!(buffer.written(0).as_ptr().cast::<libc::cmsghdr>().is_aligned());
  }
}
