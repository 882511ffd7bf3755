//! Every `unsafe` operation of this crate: numbers that the kernel handed out become owners here, and nowhere else.

use std::mem::size_of;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;

/// Takes ownership of descriptors that `recvmsg` has just installed.
pub(crate) fn own_received(numbers: Vec<RawFd>) -> Vec<OwnedFd> {
  // SAFETY: the numbers come out of an SCM_RIGHTS message of this process's own recvmsg: they are open, and nobody
  // else knows them.
  numbers.into_iter().map(|number| unsafe { OwnedFd::from_raw_fd(number) }).collect()
}

/// Takes ownership of the descriptors in the control data of a truncated receive.
///
/// nix gives no way to them (`RecvMsg::cmsgs` fails with ENOBUFS), but the kernel has installed them, so they must be
/// found and closed. `control` was zeroed before the receive: the first header of length zero ends it. Lengths are
/// clamped to the buffer, because XNU leaves the untruncated length in the last header (bytecodealliance/rustix#1683).
pub(crate) fn own_truncated(control: &[u8]) -> Vec<OwnedFd> {
  const HEADER: usize = size_of::<libc::cmsghdr>();
  // SAFETY: CMSG_LEN and CMSG_SPACE are arithmetic on their argument, without a precondition.
  let data_offset = unsafe { libc::CMSG_LEN(0) } as usize;
  let mut numbers = Vec::new();
  let mut rest = control;
  while rest.len() >= HEADER {
    // SAFETY: `rest` holds at least a header's bytes, any bit pattern is a valid cmsghdr, and the read is unaligned.
    let header = unsafe { rest.as_ptr().cast::<libc::cmsghdr>().read_unaligned() };
    #[allow(clippy::unnecessary_cast, reason = "cmsg_len is a socklen_t on some platforms and a size_t on others")]
    let length = (header.cmsg_len as usize).min(rest.len());
    if length < data_offset {
      break;
    }
    if (header.cmsg_level, header.cmsg_type) == (libc::SOL_SOCKET, libc::SCM_RIGHTS) {
      let data = rest[data_offset..length].chunks_exact(size_of::<RawFd>());
      numbers.extend(data.map(|number| RawFd::from_ne_bytes(number.try_into().expect("a chunk of four bytes"))));
    }
    // SAFETY: as for CMSG_LEN above.
    let space = unsafe { libc::CMSG_SPACE((length - data_offset) as libc::c_uint) } as usize;
    rest = &rest[space.min(rest.len())..];
  }
  own_received(numbers)
}

/// Takes ownership of a number that the caller says is its own.
///
/// # Safety
/// The number is open and nobody else will close it.
pub(crate) unsafe fn own(number: RawFd) -> OwnedFd {
  // SAFETY: the caller's promise.
  unsafe { OwnedFd::from_raw_fd(number) }
}

/// Closes descriptors, a run of neighbouring numbers with one `close_range(2)`.
///
/// The order is the numbers' own. The errors of `close_range` cannot be told apart by descriptor and are dropped, as
/// dropping an `OwnedFd` does.
pub(crate) fn close_runs(fds: Vec<OwnedFd>) {
  let mut numbers: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
  numbers.sort_unstable();
  // The numbers stay open until the loop below closes each exactly once.
  fds.into_iter().for_each(std::mem::forget);
  for run in numbers.chunk_by(|a, b| a + 1 == *b) {
    if run.len() == 1 || !close_range(run[0], run[run.len() - 1]) {
      for &number in run {
        // SAFETY: its owner was forgotten above, so this is the only one.
        drop(unsafe { OwnedFd::from_raw_fd(number) });
      }
    }
  }
}

/// Whether the kernel closed the whole range: Linux 5.9 and FreeBSD 12.2 can.
fn close_range(first: RawFd, last: RawFd) -> bool {
  #[cfg(any(target_os = "linux", target_os = "android"))]
  // SAFETY: the caller owns every descriptor from `first` to `last`; the call fails before it closes anything
  // (close_range(2): EINVAL, ENOSYS, or EPERM from a seccomp filter).
  let result = unsafe { libc::syscall(libc::SYS_close_range, first as libc::c_uint, last as libc::c_uint, 0) };
  #[cfg(target_os = "freebsd")]
  // SAFETY: as on Linux.
  let result = unsafe { libc::close_range(first as libc::c_uint, last as libc::c_uint, 0) };
  #[cfg(not(any(target_os = "linux", target_os = "android", target_os = "freebsd")))]
  let result = {
    let _ = (first, last);
    -1
  };
  result == 0
}

/// Whether the peer of a connection will send no more: `POLLRDHUP`, or `POLLHUP` where there is none.
pub(crate) fn hung_up(socket: BorrowedFd<'_>) -> nix::Result<bool> {
  #[cfg(any(target_os = "linux", target_os = "android", target_os = "freebsd"))]
  const HANG_UP: libc::c_short = libc::POLLRDHUP;
  #[cfg(not(any(target_os = "linux", target_os = "android", target_os = "freebsd")))]
  const HANG_UP: libc::c_short = libc::POLLHUP;
  let mut end = libc::pollfd { fd: socket.as_raw_fd(), events: HANG_UP, revents: 0 };
  // SAFETY: one pollfd, and a timeout of zero. nix has no POLLRDHUP.
  Errno::result(unsafe { libc::poll(&mut end, 1, 0) })?;
  Ok(end.revents & (HANG_UP | libc::POLLHUP) != 0)
}

/// How many bytes the next receive could give: `ioctl(FIONREAD)`. Zero where the kernel does not tell.
pub(crate) fn bytes_waiting(socket: BorrowedFd<'_>) -> usize {
  let mut bytes: libc::c_int = 0;
  // SAFETY: FIONREAD writes one int to the address that it is given.
  let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::FIONREAD, &mut bytes) };
  if result == 0 { bytes.max(0) as usize } else { 0 }
}

/// No `SIGPIPE` for sends on this socket: macOS has no `MSG_NOSIGNAL`.
#[cfg(target_vendor = "apple")]
pub(crate) fn set_no_sigpipe(socket: BorrowedFd<'_>) -> nix::Result<()> {
  let on: libc::c_int = 1;
  // SAFETY: SO_NOSIGPIPE reads one int of the length given from the address given.
  let result = unsafe {
    libc::setsockopt(
      socket.as_raw_fd(),
      libc::SOL_SOCKET,
      libc::SO_NOSIGPIPE,
      (&raw const on).cast(),
      size_of::<libc::c_int>() as libc::socklen_t,
    )
  };
  Errno::result(result).map(drop)
}
