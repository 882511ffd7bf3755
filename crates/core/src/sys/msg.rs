//! `sendmsg(2)` and `recvmsg(2)`, and what a socket reports about its queues.

#![cfg_attr(not(test), deny(clippy::arithmetic_side_effects))] // of numbers that a peer sends

use std::io::IoSlice;
use std::mem::{MaybeUninit, offset_of, size_of};
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};

use nix::errno::Errno;
use nix::sys::socket::{ControlMessage, MsgFlags, SockaddrLike, UnixAddr, sendmsg};

use super::errno::restart;

/// Sends one message with its descriptors: nix's `sendmsg`.
///
/// The descriptors go in one `SCM_RIGHTS` message: Linux merges several, other kernels refuse them. A number that is not
/// open is the kernel's to refuse, with `EBADF`.
pub(crate) fn send(
  socket: BorrowedFd<'_>,
  data: &[IoSlice<'_>],
  fds: &[RawFd],
  credentials: Option<ControlMessage<'_>>,
  to: Option<&UnixAddr>,
  flags: MsgFlags,
) -> nix::Result<usize> {
  let rights = ControlMessage::ScmRights(fds);
  let socket = socket.as_raw_fd();
  restart(|| match credentials {
    None if fds.is_empty() => sendmsg(socket, data, &[], flags, to),
    None => sendmsg(socket, data, &[rights], flags, to),
    Some(credentials) if fds.is_empty() => sendmsg(socket, data, &[credentials], flags, to),
    Some(credentials) => sendmsg(socket, data, &[credentials, rights], flags, to),
  })
}

/// Result of one `recvmsg(2)`.
pub(crate) struct RawMessage {
  /// Bytes written to the buffer; with `MSG_TRUNC` in the call's flags, the size of the packet.
  pub(crate) bytes: usize,
  /// `MSG_TRUNC`, `MSG_CTRUNC`.
  pub(crate) flags: MsgFlags,
  /// Bytes written to the control buffer.
  pub(crate) control: usize,
  /// The sender's address, if it was requested and the sender has one.
  pub(crate) sender: Option<UnixAddr>,
}

/// Receives one message: `recvmsg(2)`. The caller passes the written control bytes to `cmsg::own_control`.
///
/// nix's `recvmsg` does not fit: its `RecvMsg` keeps `msg_controllen` to itself and its `cmsgs()` refuses a message with
/// `MSG_CTRUNC`, whose descriptors are installed all the same. To find them, the whole buffer would have to be cleared
/// before every call, since stale numbers of an earlier message would be closed otherwise.
pub(crate) fn receive(
  socket: BorrowedFd<'_>,
  buffer: &mut [u8],
  control: &mut [u8],
  wants_sender: bool,
  flags: MsgFlags,
) -> nix::Result<RawMessage> {
  let mut bytes = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
  // Larger than a sockaddr_un: Linux counts a NUL behind a path that fills `sun_path`, and AddressSanitizer takes the length for
  // the number of bytes written.
  let mut sender = MaybeUninit::<libc::sockaddr_storage>::uninit();
  // SAFETY: a structure of integers and pointers, for which zero is a valid value.
  let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
  message.msg_iov = &raw mut bytes;
  message.msg_iovlen = 1;
  message.msg_control = control.as_mut_ptr().cast();
  message.msg_controllen = control.len() as _;
  if wants_sender {
    message.msg_name = sender.as_mut_ptr().cast();
    message.msg_namelen = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
  }
  // SAFETY: the header names memory that is borrowed exclusively, with its lengths. A call that fails leaves the header as it is.
  let received =
    restart(|| Errno::result(unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, flags.bits()) }))?;
  let received = received as usize;
  let length = message.msg_namelen.min(size_of::<libc::sockaddr_un>() as libc::socklen_t);
  let sender = if wants_sender && length as usize >= offset_of!(libc::sockaddr_un, sun_path) {
    // SAFETY: the kernel has written `length` bytes, the family among them.
    unsafe { UnixAddr::from_raw(sender.as_ptr().cast(), Some(length)) }
  } else {
    None
  };
  #[allow(clippy::unnecessary_cast, reason = "msg_controllen is a socklen_t on some platforms and a size_t on others")]
  let control = message.msg_controllen as usize;
  Ok(RawMessage { bytes: received, flags: MsgFlags::from_bits_retain(message.msg_flags), control, sender })
}

/// Returns whether the peer of a connection will send no more: `POLLRDHUP`, or `POLLHUP` where there is no such event.
pub(crate) fn hung_up(socket: BorrowedFd<'_>) -> nix::Result<bool> {
  #[cfg(any(target_os = "linux", target_os = "android", target_os = "freebsd"))]
  const HANG_UP: libc::c_short = libc::POLLRDHUP;
  #[cfg(not(any(target_os = "linux", target_os = "android", target_os = "freebsd")))]
  const HANG_UP: libc::c_short = libc::POLLHUP;
  let mut end = libc::pollfd { fd: socket.as_raw_fd(), events: HANG_UP, revents: 0 };
  // poll(2) returns EINTR for a pending signal even with a timeout of zero.
  // SAFETY: one pollfd, and a timeout of zero. nix's PollFlags has no POLLRDHUP, and its revents() hides unknown flags.
  restart(|| Errno::result(unsafe { libc::poll(&raw mut end, 1, 0) }))?;
  Ok(end.revents & (HANG_UP | libc::POLLHUP) != 0)
}

/// Returns how many bytes the next receive could return: `ioctl(FIONREAD)`. Zero if the kernel does not report it.
pub(crate) fn bytes_waiting(socket: BorrowedFd<'_>) -> usize {
  let mut bytes: libc::c_int = 0;
  // SAFETY: FIONREAD writes one int to the given address.
  let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::FIONREAD, &mut bytes) };
  if result == 0 { bytes.max(0) as usize } else { 0 }
}
