//! Kinds and access modes of descriptors.

#[path = "../fixtures/mod.rs"]
mod fixtures;

use std::fs::{File, OpenOptions};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
#[cfg(target_os = "linux")]
use std::os::fd::OwnedFd;
#[cfg(target_os = "linux")]
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixListener;

use fdpass_core::{Access, Errno, Kind, SocketType, pipe};
use fixtures::*;

#[track_caller]
fn assert_kind(fd: impl AsFd, kind: Kind) {
  assert_eq!(Kind::of(fd.as_fd()), Ok(kind));
}

#[test]
fn files_folders_and_devices_have_their_file_type() {
  assert_kind(file_holding("text"), Kind::File);
  assert_kind(File::open("/").unwrap(), Kind::Directory);
  assert_kind(File::open("/dev/null").unwrap(), Kind::CharacterDevice);
}

#[test]
fn both_ends_of_a_pipe_are_fifos() {
  let (read, write) = pipe().unwrap();
  assert_kind(read, Kind::Fifo);
  assert_kind(write, Kind::Fifo);
}

#[test]
fn the_ends_of_a_pseudoterminal_are_distinct() {
  let master = OpenOptions::new().read(true).write(true).open("/dev/ptmx").unwrap();
  let number = std::os::fd::AsRawFd::as_raw_fd(&master);
  let mut name = [0_u8; 128];
  // SAFETY: integers only.
  assert_eq!(unsafe { libc::unlockpt(number) }, 0);
  // SAFETY: writes at most the array's length.
  assert_eq!(unsafe { libc::ptsname_r(number, name.as_mut_ptr().cast(), name.len()) }, 0);
  let path = std::ffi::CStr::from_bytes_until_nul(&name).unwrap().to_str().unwrap().to_owned();
  assert_kind(OpenOptions::new().read(true).write(true).open(path).unwrap(), Kind::Tty);
  assert_kind(master, Kind::Pty);
}

#[test]
fn a_tcp_socket_listens_or_does_not() {
  for host in ["127.0.0.1:0", "[::1]:0"] {
    let Ok(listener) = TcpListener::bind(host) else { continue };
    assert_kind(TcpStream::connect(listener.local_addr().unwrap()).unwrap(), Kind::Tcp);
    assert_kind(listener, Kind::TcpListener);
  }
}

#[test]
fn a_udp_socket_is_one_on_both_families() {
  for host in ["127.0.0.1:0", "[::1]:0"] {
    let Ok(socket) = UdpSocket::bind(host) else { continue };
    assert_kind(socket, Kind::Udp);
  }
}

#[test]
fn a_unix_socket_has_the_kind_of_its_type() {
  for &socket_type in TYPES {
    let kind = match socket_type {
      SocketType::Stream => Kind::UnixStream,
      SocketType::Seqpacket => Kind::UnixSeqpacket,
      SocketType::Dgram => Kind::UnixDgram,
    };
    assert_kind(pair(socket_type).0.fd, kind);
  }
}

#[test]
fn a_unix_listener_is_one_and_the_place_of_its_file_is_a_socket() {
  let folder = tempfile::tempdir().unwrap();
  let path = folder.path().join("socket");
  let listener = UnixListener::bind(&path).unwrap();
  assert_kind(listener, Kind::UnixListener);
  #[cfg(target_os = "linux")]
  assert_kind(opened_as_a_place(&path, 0), Kind::Socket);
}

#[cfg(target_os = "linux")]
#[test]
fn what_has_no_name_in_a_file_system_is_told_by_proc() {
  assert_kind(fdpass_core::memfd(c"memory").unwrap(), Kind::Memfd);
  assert_kind(fdpass_core::memfd(c"").unwrap(), Kind::Memfd);
  // SAFETY: these calls take integers only.
  assert_kind(made(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) }), Kind::Eventfd);
  // SAFETY: as above.
  assert_kind(made(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) }), Kind::Epoll);
  // SAFETY: as above.
  assert_kind(made(unsafe { libc::inotify_init1(libc::IN_CLOEXEC) }), Kind::Other);
}

/// Takes ownership of a number that a system call has just returned.
#[cfg(target_os = "linux")]
fn made(number: i32) -> OwnedFd {
  assert!(number >= 0);
  // SAFETY: open, and owned by nothing else.
  unsafe { std::os::fd::FromRawFd::from_raw_fd(number) }
}

#[cfg(target_os = "linux")]
fn opened_as_a_place(path: &std::path::Path, flags: i32) -> OwnedFd {
  OpenOptions::new().read(true).custom_flags(libc::O_PATH | flags).open(path).unwrap().into()
}

#[cfg(target_os = "linux")]
#[test]
fn a_place_has_the_kind_of_what_is_there_and_no_access() {
  let folder = tempfile::tempdir().unwrap();
  let file = folder.path().join("file");
  let link = folder.path().join("link");
  std::fs::write(&file, "").unwrap();
  std::os::unix::fs::symlink(&file, &link).unwrap();
  for (place, kind) in [
    (opened_as_a_place(&file, 0), Kind::File),
    (opened_as_a_place(folder.path(), 0), Kind::Directory),
    (opened_as_a_place(&link, libc::O_NOFOLLOW), Kind::Symlink),
    (opened_as_a_place(&link, 0), Kind::File),
  ] {
    assert_eq!(Access::of(place.as_fd()), Ok(Access::Path));
    assert_kind(place, kind);
  }
}

#[test]
fn access_is_as_it_was_opened() {
  let folder = tempfile::tempdir().unwrap();
  let path = folder.path().join("file");
  let options = |read, write| OpenOptions::new().read(read).write(write).create(write).truncate(false).open(&path);
  assert_eq!(Access::of(options(false, true).unwrap().as_fd()), Ok(Access::Write));
  assert_eq!(Access::of(options(true, false).unwrap().as_fd()), Ok(Access::Read));
  assert_eq!(Access::of(options(true, true).unwrap().as_fd()), Ok(Access::Both));
  let (read, write) = pipe().unwrap();
  assert_eq!(Access::of(read.as_fd()), Ok(Access::Read));
  assert_eq!(Access::of(write.as_fd()), Ok(Access::Write));
  assert_eq!(Access::of(pair(SocketType::Stream).0.fd.as_fd()), Ok(Access::Both));
}

#[test]
fn a_bad_descriptor_is_nothing() {
  assert_eq!(Kind::of(bad_fd()), Err(Errno::EBADF));
  assert_eq!(Access::of(bad_fd()), Err(Errno::EBADF));
}
