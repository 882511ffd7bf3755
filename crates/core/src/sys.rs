//! Every `unsafe` operation of this crate: numbers that the kernel handed out become owners here, and nowhere else.

use std::ffi::OsStr;
use std::io::IoSlice;
use std::mem::{offset_of, size_of};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::errno::Errno;
use nix::sys::socket::{self as net, MsgFlags, SockaddrLike, UnixAddr};

use crate::{Credentials, MAX_SENT_FDS};

mod child;

pub(crate) use child::{Child, exit_descriptor};

/// The pidfd of the sender, which `SO_PASSPIDFD` adds to every message: linux/socket.h. libc has no name for it.
const SCM_PIDFD: libc::c_int = 4;

/// What one `recvmsg` gave.
pub(crate) struct Arrived {
  /// Bytes in the buffer, or those that the packet had.
  pub(crate) bytes: usize,
  /// `MSG_TRUNC`, `MSG_CTRUNC`.
  pub(crate) flags: MsgFlags,
  /// Bytes in the room for control messages.
  pub(crate) control: usize,
  /// The sender's address, if it was asked for.
  pub(crate) sender: Option<UnixAddr>,
}

/// Receives one message: `recvmsg(2)`.
///
/// Not by nix, which makes three vectors of a message with one descriptor, gives no way to the control messages of a truncated
/// receive, although the descriptors in them are open, and takes the kernel's word for the length of an address, which may
/// count a NUL behind a path that fills `sun_path`.
pub(crate) fn receive(
  socket: BorrowedFd<'_>,
  buffer: &mut [u8],
  control: &mut [u8],
  ask_sender: bool,
  flags: MsgFlags,
) -> nix::Result<Arrived> {
  let mut bytes = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
  // Not a sockaddr_un: Linux tells the length with a NUL behind a path that fills it, and AddressSanitizer takes that for written.
  let mut sender = std::mem::MaybeUninit::<libc::sockaddr_storage>::uninit();
  // SAFETY: a structure of integers and pointers, for which zero is none.
  let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
  message.msg_iov = &raw mut bytes;
  message.msg_iovlen = 1;
  message.msg_control = control.as_mut_ptr().cast();
  message.msg_controllen = control.len() as _;
  if ask_sender {
    message.msg_name = sender.as_mut_ptr().cast();
    message.msg_namelen = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
  }
  // SAFETY: the header names memory that is borrowed exclusively, with its lengths.
  let received = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, flags.bits()) };
  let received = Errno::result(received)? as usize;
  let length = message.msg_namelen.min(size_of::<libc::sockaddr_un>() as libc::socklen_t);
  let sender = if ask_sender && length as usize >= offset_of!(libc::sockaddr_un, sun_path) {
    // SAFETY: the kernel has written so many bytes, the family among them.
    unsafe { UnixAddr::from_raw(sender.as_ptr().cast(), Some(length)) }
  } else {
    None
  };
  #[allow(clippy::unnecessary_cast, reason = "msg_controllen is a socklen_t on some platforms and a size_t on others")]
  let control = message.msg_controllen as usize;
  Ok(Arrived { bytes: received, flags: MsgFlags::from_bits_retain(message.msg_flags), control, sender })
}

/// Sends one message, with at most [`MAX_SENT_FDS`] descriptors: `sendmsg(2)`. Not by nix, which makes a vector for the
/// control messages.
pub(crate) fn send(
  socket: BorrowedFd<'_>,
  data: &[IoSlice<'_>],
  fds: &[BorrowedFd<'_>],
  claim: Option<&Claim>,
  to: Option<&UnixAddr>,
  flags: MsgFlags,
) -> nix::Result<usize> {
  let mut control = ControlRoom::default();
  // SAFETY: BorrowedFd is a transparent RawFd: as many bytes as integers.
  let numbers = unsafe { std::slice::from_raw_parts(fds.as_ptr().cast::<u8>(), size_of_val(fds)) };
  if let Some(claim) = claim {
    control.push(Claim::KIND, claim.bytes());
  }
  // One message of rights: several in one call are merged by Linux and refused elsewhere.
  if !fds.is_empty() {
    control.push(libc::SCM_RIGHTS, numbers);
  }
  // SAFETY: a structure of integers and pointers, for which zero is none.
  let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
  message.msg_iov = data.as_ptr().cast_mut().cast(); // IoSlice is an iovec (std::io)
  message.msg_iovlen = data.len() as _;
  if control.length > 0 {
    message.msg_control = control.bytes.as_mut_ptr().cast();
    message.msg_controllen = control.length as _;
  }
  if let Some(to) = to {
    message.msg_name = to.as_ptr().cast_mut().cast();
    message.msg_namelen = to.len();
  }
  // SAFETY: the kernel reads what the header names, which is borrowed for the call.
  let sent = unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const message, flags.bits()) };
  Errno::result(sent).map(|sent| sent as usize)
}

/// Control messages to be sent. Only what is used of it is written.
#[repr(C, align(8))] // the alignment of cmsghdr on every 64-bit platform
struct ControlRoom {
  bytes: [std::mem::MaybeUninit<u8>; Self::SIZE],
  length: usize,
}

impl Default for ControlRoom {
  fn default() -> Self {
    Self { bytes: [const { std::mem::MaybeUninit::uninit() }; Self::SIZE], length: 0 }
  }
}

impl ControlRoom {
  // Of all descriptors, and of the credentials that are claimed: a cmsgcred of FreeBSD has 84 bytes.
  // SAFETY: CMSG_SPACE is arithmetic on its argument, without a precondition.
  const SIZE: usize = unsafe { libc::CMSG_SPACE((MAX_SENT_FDS * size_of::<RawFd>()) as libc::c_uint) } as usize + 128;

  /// Appends a message of the socket level: header, data, padding.
  fn push(&mut self, kind: libc::c_int, data: &[u8]) {
    // SAFETY: arithmetic on its argument.
    let space = unsafe { libc::CMSG_SPACE(data.len() as libc::c_uint) } as usize;
    // SAFETY: as above.
    let length = unsafe { libc::CMSG_LEN(data.len() as libc::c_uint) };
    // SAFETY: as above.
    let offset = unsafe { libc::CMSG_LEN(0) } as usize;
    let room = &mut self.bytes[self.length..][..space];
    room.fill(std::mem::MaybeUninit::new(0));
    // SAFETY: a structure of integers.
    let mut header: libc::cmsghdr = unsafe { std::mem::zeroed() };
    header.cmsg_len = length as _;
    header.cmsg_level = libc::SOL_SOCKET;
    header.cmsg_type = kind;
    // SAFETY: the room holds a header, as CMSG_SPACE says, and every message begins aligned.
    unsafe { room.as_mut_ptr().cast::<libc::cmsghdr>().write(header) };
    for (byte, &value) in room[offset..].iter_mut().zip(data) {
      byte.write(value);
    }
    self.length += space;
  }
}

/// Takes ownership of descriptors that `recvmsg` has just installed: the numbers in the data of a control message.
fn own_received(data: &[u8]) -> Vec<OwnedFd> {
  let mut fds = Vec::with_capacity(data.len() / size_of::<RawFd>());
  let (numbers, _) = data.as_chunks();
  // What the kernel could not make, or was not to, is an error number, negative.
  for number in numbers.iter().map(|&number| RawFd::from_ne_bytes(number)).filter(|&number| number >= 0) {
    // SAFETY: it comes out of a control message of this process's own recvmsg: it is open, and nobody else knows it.
    fds.push(unsafe { OwnedFd::from_raw_fd(number) });
  }
  fds
}

/// A control message that was received, and what is owned of it.
pub(crate) enum Told {
  /// `SCM_RIGHTS`, and whether an error number stands for one of its descriptors, which a security module keeps back: whoever
  /// shares the socket may have switched `SO_RIGHTS_NOTRUNC` on (asm-generic/socket.h), and others follow it then.
  Rights { fds: Vec<OwnedFd>, withheld: bool },
  /// `SCM_PIDFD`, or none and why the kernel could not make it.
  Pidfd { fds: Vec<OwnedFd>, failed: Errno },
  /// `SCM_CREDENTIALS`, or FreeBSD's `SCM_CREDS2`.
  Credentials(Credentials),
  /// Something else.
  Other,
}

/// Takes ownership of what is in the control data of a receive, each descriptor once.
///
/// Lengths are clamped to the buffer, because XNU leaves the untruncated length in the last header of a truncated receive
/// (bytecodealliance/rustix#1683).
pub(crate) fn own_control(control: &[u8], mut tell: impl FnMut(Told)) {
  const HEADER: usize = size_of::<libc::cmsghdr>();
  // SAFETY: CMSG_LEN and CMSG_SPACE are arithmetic on their argument, without a precondition.
  let data_offset = unsafe { libc::CMSG_LEN(0) } as usize;
  let mut rest = control;
  while rest.len() >= HEADER {
    // SAFETY: `rest` holds at least a header's bytes, any bit pattern is a valid cmsghdr, and the read is unaligned.
    let header = unsafe { rest.as_ptr().cast::<libc::cmsghdr>().read_unaligned() };
    #[allow(clippy::unnecessary_cast, reason = "cmsg_len is a socklen_t on some platforms and a size_t on others")]
    let length = (header.cmsg_len as usize).min(rest.len());
    if length < data_offset {
      break;
    }
    tell(own_message(&header, &rest[data_offset..length]));
    // SAFETY: as for CMSG_LEN above.
    let space = unsafe { libc::CMSG_SPACE((length - data_offset) as libc::c_uint) } as usize;
    rest = &rest[space.min(rest.len())..];
  }
}

fn own_message(header: &libc::cmsghdr, data: &[u8]) -> Told {
  if header.cmsg_level != libc::SOL_SOCKET {
    return Told::Other;
  }
  match header.cmsg_type {
    libc::SCM_RIGHTS => {
      let fds = own_received(data);
      Told::Rights { withheld: fds.len() < data.len() / size_of::<RawFd>(), fds }
    }
    #[cfg(any(target_os = "linux", target_os = "android"))]
    SCM_PIDFD => match data.first_chunk() {
      None => Told::Other,
      Some(&first) => {
        Told::Pidfd { fds: own_received(data), failed: Errno::from_raw(RawFd::from_ne_bytes(first).wrapping_neg()) }
      }
    },
    #[cfg(any(target_os = "linux", target_os = "android"))]
    libc::SCM_CREDENTIALS => {
      let word = |index: usize| data.get(index * 4..)?.first_chunk().map(|&bytes| u32::from_ne_bytes(bytes));
      match (word(0), word(1), word(2)) {
        (Some(pid), Some(uid), Some(gid)) => {
          Told::Credentials(crate::credentials::from_ucred(libc::ucred { pid: pid as i32, uid, gid }))
        }
        _ => Told::Other,
      }
    }
    #[cfg(target_os = "freebsd")]
    libc::SCM_CREDS2 => own_sockcred2(data).map_or(Told::Other, Told::Credentials),
    _ => Told::Other,
  }
}

/// The effective user and group of a `struct sockcred2`: version, pid, uid, euid, gid, egid, …, four bytes each.
#[cfg(target_os = "freebsd")]
fn own_sockcred2(data: &[u8]) -> Option<Credentials> {
  let word = |index: usize| Some(u32::from_ne_bytes(data.get(index * 4..index * 4 + 4)?.try_into().ok()?));
  Some(Credentials { pid: Some(word(1)? as i32).filter(|&pid| pid > 0), uid: word(3)?, gid: word(5)? })
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
    if run.len() == 1 || !close_range(run[0], run[run.len() - 1], 0) {
      for &number in run {
        // SAFETY: its owner was forgotten above, so this is the only one.
        drop(unsafe { OwnedFd::from_raw_fd(number) });
      }
    }
  }
}

/// Whether the kernel closed the whole range, or did to it what the flags say: Linux 5.9 and FreeBSD 12.2 can.
fn close_range(first: RawFd, last: RawFd, flags: libc::c_uint) -> bool {
  #[cfg(any(target_os = "linux", target_os = "android"))]
  // SAFETY: the caller owns every descriptor from `first` to `last`, or closes none; the call fails before it closes
  // anything (close_range(2): EINVAL, ENOSYS, or EPERM from a seccomp filter).
  let result = unsafe { libc::syscall(libc::SYS_close_range, first as libc::c_uint, last as libc::c_uint, flags) };
  #[cfg(target_os = "freebsd")]
  // SAFETY: as on Linux.
  let result = unsafe { libc::close_range(first as libc::c_uint, last as libc::c_uint, flags as libc::c_int) };
  #[cfg(not(any(target_os = "linux", target_os = "android", target_os = "freebsd")))]
  let result = {
    let _ = (first, last, flags);
    -1
  };
  result == 0
}

/// Whether a whole range of numbers can be made close-on-exec: close_range(2), from Linux 5.11 on.
pub(crate) fn marks_ranges() -> bool {
  // A range in which nothing can be open.
  close_range(RawFd::MAX, RawFd::MAX, CLOSE_RANGE_CLOEXEC)
}

/// The same on Linux and FreeBSD.
const CLOSE_RANGE_CLOEXEC: libc::c_uint = 1 << 2;

/// Leaves those descriptors alone to the next program whose numbers are below `first`, whoever owns them.
pub(crate) fn close_on_exec_from(first: RawFd) -> nix::Result<()> {
  (0..first).try_for_each(|number| set_descriptor_flags(number, 0))?;
  if close_range(first, RawFd::MAX, CLOSE_RANGE_CLOEXEC) {
    return Ok(());
  }
  let entries = std::fs::read_dir("/dev/fd").map_err(crate::descriptor::errno)?;
  let numbers: Vec<RawFd> = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect();
  let mut numbers = numbers.into_iter().filter(|&number| number >= first);
  numbers.try_for_each(|number| set_descriptor_flags(number, libc::FD_CLOEXEC))
}

/// Sets the flags of a number, if it is open.
fn set_descriptor_flags(number: RawFd, flags: libc::c_int) -> nix::Result<()> {
  // SAFETY: integers only.
  match Errno::result(unsafe { libc::fcntl(number, libc::F_SETFD, flags) }) {
    Err(Errno::EBADF) => Ok(()),
    result => result.map(drop),
  }
}

/// Takes capabilities from what this thread will execute, all but those that are kept: from the bounding, the ambient and
/// the inheritable set. `EPERM` counts only for root: nobody else's program gains any.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(crate) fn limit_capabilities(kept: &[u32], is_root: bool) -> nix::Result<()> {
  #[repr(C)]
  struct Header {
    version: u32,
    pid: libc::c_int,
  }
  #[repr(C)]
  #[derive(Clone, Copy, Default)]
  struct Data {
    effective: u32,
    permitted: u32,
    inheritable: u32,
  }
  const VERSION_3: u32 = 0x2008_0522; // _LINUX_CAPABILITY_VERSION_3, whose data are two
  for capability in (0..64).filter(|capability| !kept.contains(capability)) {
    let capability = libc::c_ulong::from(capability);
    // SAFETY: integers only; the unused arguments are zero, as prctl(2) asks for.
    let lowered = unsafe { libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_LOWER, capability, 0, 0) };
    // SAFETY: as above.
    let dropped = unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) };
    match Errno::result(dropped).and(Errno::result(lowered)) {
      Err(Errno::EINVAL) => break, // the kernel has no more
      Err(Errno::EPERM) if !is_root => {}
      result => drop(result?),
    }
  }
  let mut header = Header { version: VERSION_3, pid: 0 };
  let mut data = [Data::default(); 2];
  // SAFETY: a header, and as many data as its version has.
  Errno::result(unsafe { libc::syscall(libc::SYS_capget, &raw mut header, data.as_mut_ptr()) })?;
  for (data, word) in data.iter_mut().zip([0, 32]) {
    let bits = kept.iter().filter(|&&capability| (word..word + 32).contains(&capability));
    data.inheritable &= bits.fold(0, |set, capability| set | 1 << (capability - word));
  }
  // SAFETY: as above.
  Errno::result(unsafe { libc::syscall(libc::SYS_capset, &raw const header, data.as_ptr()) })?;
  Ok(())
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

/// Whether descriptors are queued behind what was received. Of packets without a byte nothing tells but /proc, from Linux 5.6
/// on (`unix_show_fdinfo` in af_unix.c).
pub(crate) fn descriptors_wait(socket: BorrowedFd<'_>) -> bool {
  let told = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", socket.as_raw_fd())).unwrap_or_default();
  told.lines().filter_map(|line| line.strip_prefix("scm_fds:")).any(|count| count.trim() != "0")
}

/// The size of `sun_path`.
pub(crate) const SUN_PATH: usize = size_of::<libc::sockaddr_un>() - offset_of!(libc::sockaddr_un, sun_path);

/// The local address in what `getsockname(2)` or `getpeername(2)` gave; `EINVAL` for another family's.
///
/// Linux counts a final NUL even behind a path that fills `sun_path`. Where nix has room for a `sockaddr_un` only, it
/// takes the kernel's word for the length and copies a byte too many over its own stack; here is room for more.
pub(crate) fn unix_address(address: &net::SockaddrStorage) -> nix::Result<UnixAddr> {
  let length = address.len().min(size_of::<libc::sockaddr_un>() as libc::socklen_t);
  // SAFETY: no more than the storage has.
  unsafe { UnixAddr::from_raw(address.as_ptr(), Some(length)) }.ok_or(Errno::EINVAL)
}

/// The bytes of an address, as many as it says that it has.
///
/// Not by nix: a path that fills `sun_path` has no final NUL, Linux counts one all the same, and nix would read it; and
/// of the empty address of a datagram's sender, nix subtracts more than there is.
pub(crate) fn sun_path(address: &UnixAddr) -> &[u8] {
  // SAFETY: the address is borrowed for as long as the result.
  let sun_path = unsafe { &(*address.as_ptr()).sun_path };
  let length = (address.len() as usize).saturating_sub(offset_of!(libc::sockaddr_un, sun_path)).min(sun_path.len());
  // SAFETY: characters are bytes; the length is no more than there are.
  unsafe { std::slice::from_raw_parts(sun_path.as_ptr().cast(), length) }
}

/// Bytes as a path.
pub(crate) fn path(bytes: &[u8]) -> &Path {
  Path::new(OsStr::from_bytes(bytes))
}

/// Takes a connection: `accept4(2)`, or `accept(2)` and what it lacks.
pub(crate) fn accept(listener: BorrowedFd<'_>) -> nix::Result<OwnedFd> {
  #[cfg(not(target_vendor = "apple"))]
  let number = net::accept4(listener.as_raw_fd(), net::SockFlag::SOCK_CLOEXEC)?;
  #[cfg(target_vendor = "apple")]
  let number = net::accept(listener.as_raw_fd())?;
  // SAFETY: the kernel has just installed it.
  let connection = unsafe { OwnedFd::from_raw_fd(number) };
  #[cfg(target_vendor = "apple")]
  {
    use std::os::fd::AsFd;
    crate::descriptor::set_close_on_exec(&connection)?;
    crate::descriptor::set_blocking(connection.as_fd(), true)?; // it has the listener's mode
  }
  Ok(connection)
}

/// Takes a connection of any family, close-on-exec and in blocking mode, and tells where it comes from.
pub(crate) fn accept_from(listener: BorrowedFd<'_>) -> nix::Result<(OwnedFd, Option<net::SockaddrStorage>)> {
  let mut address = std::mem::MaybeUninit::<libc::sockaddr_storage>::zeroed();
  let mut length = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
  let room = address.as_mut_ptr().cast::<libc::sockaddr>();
  #[cfg(not(target_vendor = "apple"))]
  // SAFETY: writes at most the length given to the address given.
  let number = unsafe { libc::accept4(listener.as_raw_fd(), room, &raw mut length, libc::SOCK_CLOEXEC) };
  #[cfg(target_vendor = "apple")]
  // SAFETY: as above.
  let number = unsafe { libc::accept(listener.as_raw_fd(), room, &raw mut length) };
  let number = Errno::result(number)?;
  // SAFETY: the kernel has just installed it.
  let connection = unsafe { OwnedFd::from_raw_fd(number) };
  #[cfg(target_vendor = "apple")]
  {
    use std::os::fd::AsFd;
    crate::descriptor::set_close_on_exec(&connection)?;
    crate::descriptor::set_blocking(connection.as_fd(), true)?; // it has the listener's mode
  }
  // SAFETY: integers, all of them zero or written by the kernel, and as many as it says.
  let address = unsafe { net::SockaddrStorage::from_raw(room, Some(length)) };
  Ok((connection, address))
}

/// Locks a file, if nobody has: `flock(2)`. Not by nix, whose lock ends the process by a panic where unlocking fails.
pub(crate) fn lock(file: BorrowedFd<'_>) -> nix::Result<()> {
  loop {
    // SAFETY: integers only.
    match Errno::result(unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) }) {
      Err(Errno::EINTR) => {}
      result => return result.map(drop),
    }
  }
}

/// Unlocks it at once, also where a process that was just forked has it too. Where that fails, closing it does.
pub(crate) fn unlock(file: BorrowedFd<'_>) {
  // SAFETY: integers only.
  unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_UN) };
}

/// Takes a datagram, if one is there, and drops it; false where the socket is not of datagrams.
pub(crate) fn drop_datagram(socket: BorrowedFd<'_>) -> bool {
  if !matches!(net::getsockopt(&socket, net::sockopt::SockType), Ok(net::SockType::Datagram)) {
    return false;
  }
  // SAFETY: room for no bytes.
  unsafe { libc::recv(socket.as_raw_fd(), std::ptr::null_mut(), 0, libc::MSG_DONTWAIT) };
  true
}

/// Has the last close of a connection reset it, where its protocol knows that: `SO_LINGER` of zero seconds (socket(7)).
pub(crate) fn reset_on_close(connection: BorrowedFd<'_>) {
  // It fails only for what is no socket.
  let _ = net::setsockopt(&connection, net::sockopt::Linger, &libc::linger { l_onoff: 1, l_linger: 0 });
}

/// Whether this side of a connection, whoever had it, has ended its sending half: a send of nothing fails with `EPIPE` then,
/// and otherwise does nothing.
pub(crate) fn has_ended(connection: BorrowedFd<'_>) -> bool {
  #[cfg(not(target_vendor = "apple"))]
  let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
  #[cfg(target_vendor = "apple")]
  let flags = libc::MSG_DONTWAIT;
  // SAFETY: no bytes are read.
  let result = unsafe { libc::send(connection.as_raw_fd(), std::ptr::null(), 0, flags) };
  Errno::result(result).is_err_and(|errno| errno != Errno::EAGAIN)
}

/// The credentials that a message claims.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(crate) struct Claim(libc::ucred);

#[cfg(any(target_os = "linux", target_os = "android"))]
impl Claim {
  const KIND: libc::c_int = libc::SCM_CREDENTIALS;

  pub(crate) fn new(Credentials { pid, uid, gid }: Credentials) -> nix::Result<Self> {
    let pid = pid.unwrap_or_else(|| nix::unistd::getpid().as_raw());
    Ok(Self(libc::ucred { pid, uid, gid }))
  }

  fn bytes(&self) -> &[u8] {
    // SAFETY: three integers of four bytes, without padding.
    unsafe { std::slice::from_raw_parts((&raw const self.0).cast(), size_of::<libc::ucred>()) }
  }
}

/// FreeBSD's kernel fills the credentials in, so that only true ones can be sent; macOS sends none.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(crate) struct Claim([u8; Self::SIZE]);

#[cfg(not(any(target_os = "linux", target_os = "android")))]
impl Claim {
  #[cfg(target_os = "freebsd")]
  const SIZE: usize = size_of::<libc::cmsgcred>();
  #[cfg(not(target_os = "freebsd"))]
  const SIZE: usize = 0; // never made
  const KIND: libc::c_int = libc::SCM_CREDS;

  pub(crate) fn new(credentials: Credentials) -> nix::Result<Self> {
    let is_true = credentials.pid.is_none_or(|pid| Some(pid) == Credentials::own().pid)
      && (credentials.uid, credentials.gid) == (Credentials::own().uid, Credentials::own().gid);
    if cfg!(target_os = "freebsd") && is_true { Ok(Self([0; Self::SIZE])) } else { Err(Errno::ENOPROTOOPT) }
  }

  fn bytes(&self) -> &[u8] {
    &self.0
  }
}

/// Has the sender's credentials come with each message.
pub(crate) fn pass_credentials(socket: BorrowedFd<'_>) -> nix::Result<()> {
  #[cfg(any(target_os = "linux", target_os = "android"))]
  return set_option(socket, libc::SOL_SOCKET, libc::SO_PASSCRED, 1);
  #[cfg(target_os = "freebsd")]
  return set_option(socket, SOL_LOCAL, libc::LOCAL_CREDS_PERSISTENT, 1);
  #[cfg(not(any(target_os = "linux", target_os = "android", target_os = "freebsd")))]
  {
    let _ = socket;
    Err(Errno::ENOPROTOOPT)
  }
}

/// asm-generic/socket.h; neither libc nor nix has a name for it.
const SO_PASSPIDFD: libc::c_int = 76;

/// Has a pidfd of the sender come with each message.
pub(crate) fn pass_pidfd(socket: BorrowedFd<'_>) -> nix::Result<()> {
  if cfg!(any(target_os = "linux", target_os = "android")) {
    set_option(socket, libc::SOL_SOCKET, SO_PASSPIDFD, 1)
  } else {
    Err(Errno::ENOPROTOOPT)
  }
}

/// asm-generic/socket.h from Linux 6.16; neither libc nor nix has a name for it.
const SO_PASSRIGHTS: libc::c_int = 83;

/// Has sends of descriptors to this socket refused.
pub(crate) fn refuse_rights(socket: BorrowedFd<'_>) -> nix::Result<()> {
  if cfg!(any(target_os = "linux", target_os = "android")) {
    set_option(socket, libc::SOL_SOCKET, SO_PASSRIGHTS, 0)
  } else {
    Err(Errno::ENOPROTOOPT)
  }
}

/// The level of the options of local sockets on macOS and FreeBSD.
#[cfg(any(target_vendor = "apple", target_os = "freebsd"))]
pub(crate) const SOL_LOCAL: libc::c_int = 0;

fn set_option(socket: BorrowedFd<'_>, level: libc::c_int, name: libc::c_int, value: libc::c_int) -> nix::Result<()> {
  // SAFETY: reads one int of the length given from the address given.
  let result = unsafe {
    libc::setsockopt(
      socket.as_raw_fd(),
      level,
      name,
      (&raw const value).cast(),
      size_of::<libc::c_int>() as libc::socklen_t,
    )
  };
  Errno::result(result).map(drop)
}

/// linux/in.h: TCP over several paths.
pub(crate) const MPTCP: libc::c_int = 262;

/// The protocol of a socket, where the kernel tells: `SO_PROTOCOL`, for which nix has no name.
pub(crate) fn protocol(socket: BorrowedFd<'_>) -> Option<libc::c_int> {
  #[cfg(any(target_os = "linux", target_os = "android", target_os = "freebsd"))]
  return option(socket, libc::SOL_SOCKET, libc::SO_PROTOCOL).ok();
  #[cfg(not(any(target_os = "linux", target_os = "android", target_os = "freebsd")))]
  {
    let _ = socket;
    None
  }
}

/// An option that is an integer or a structure of integers.
pub(crate) fn option<T: Copy>(socket: BorrowedFd<'_>, level: libc::c_int, name: libc::c_int) -> nix::Result<T> {
  let mut value = std::mem::MaybeUninit::<T>::zeroed();
  let mut length = size_of::<T>() as libc::socklen_t;
  // SAFETY: writes at most the length given to the address given.
  let result = unsafe { libc::getsockopt(socket.as_raw_fd(), level, name, value.as_mut_ptr().cast(), &raw mut length) };
  Errno::result(result)?;
  // SAFETY: integers, all of them zero or written.
  Ok(unsafe { value.assume_init() })
}

/// An option of `SOL_SOCKET` whose length only the kernel knows.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(crate) fn option_bytes(socket: BorrowedFd<'_>, name: libc::c_int) -> nix::Result<Vec<u8>> {
  let mut value = vec![0; 256];
  loop {
    let mut length = value.len() as libc::socklen_t;
    // SAFETY: writes at most the length given to the address given.
    let result = unsafe {
      libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, name, value.as_mut_ptr().cast(), &raw mut length)
    };
    match Errno::result(result) {
      // The kernel has put the length that it needs in its place.
      Err(Errno::ERANGE) if length as usize > value.len() => value.resize(length as usize, 0),
      Err(errno) => return Err(errno),
      Ok(_) => {
        value.truncate(length as usize);
        return Ok(value);
      }
    }
  }
}

/// The process of FreeBSD's credentials.
#[cfg(target_os = "freebsd")]
pub(crate) fn pid_of(credentials: &libc::xucred) -> libc::pid_t {
  // SAFETY: a union of the pid and of a pointer that is not used any more; zeroed where the kernel wrote neither.
  unsafe { credentials.cr_pid__c_anonymous_union.cr_pid }
}

/// No `SIGPIPE` for sends on this socket: macOS has no `MSG_NOSIGNAL`.
#[cfg(target_vendor = "apple")]
pub(crate) fn set_no_sigpipe(socket: BorrowedFd<'_>) -> nix::Result<()> {
  set_option(socket, libc::SOL_SOCKET, libc::SO_NOSIGPIPE, 1)
}

#[cfg(test)]
mod tests {
  use std::fs::File;
  use std::os::fd::IntoRawFd;

  use super::*;
  use crate::socket::fuzzing::own_all;

  const RIGHTS: (libc::c_int, libc::c_int) = (libc::SOL_SOCKET, libc::SCM_RIGHTS);
  const OTHER: (libc::c_int, libc::c_int) = (libc::SOL_SOCKET, 0x7fff);
  const ALIGNMENT: usize = if cfg!(target_vendor = "apple") { 4 } else { 8 };

  /// A control message as the kernel lays it out: header, data, padding.
  fn message((level, kind): (libc::c_int, libc::c_int), data: &[u8]) -> Vec<u8> {
    // SAFETY: arithmetic on its argument.
    claiming(unsafe { libc::CMSG_LEN(data.len() as libc::c_uint) } as usize, (level, kind), data)
  }

  /// One whose header claims any length.
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

  /// Open descriptors that nobody owns, as a receive leaves them.
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
  fn an_error_number_in_the_place_of_a_descriptor_withholds_it_and_the_others_are_owned() {
    let numbers = installed(1);
    for (data, is_withheld) in [(data(&[-libc::EPERM, numbers[0], -libc::EACCES]), true), (data(&numbers), false)] {
      own_control(&message(RIGHTS, &data), |told| match told {
        Told::Rights { fds, withheld } => {
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
  fn every_descriptor_of_a_header_is_owned_whatever_the_padding() {
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
}
