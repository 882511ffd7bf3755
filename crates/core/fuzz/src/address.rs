//! Addresses: for any bytes of any length, the kernel returns the address that was created from them.

use std::mem::offset_of;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::LazyLock;

use fdpass_core::{
  Address, AncillaryOptions, ControlBuffer, Errno, SendOptions, Socket, SocketType, TcpOptions, bind,
  local_internet_address, socket, tcp_listener, udp_socket,
};

use super::probes::{Input, below, byte, flag, open_descriptors};

/// Size of Linux' `sun_path`.
const SUN_PATH: usize = 108;

/// Folder for socket files.
static FOLDER: LazyLock<tempfile::TempDir> = LazyLock::new(|| tempfile::tempdir().unwrap());

pub fn run(input: &[u8]) {
  LazyLock::force(&FOLDER);
  let before = open_descriptors();
  let mut input = Input::new(input);
  match byte(&mut input) % 5 {
    0 => any_bytes(input.bytes(input.len()).unwrap_or_default()),
    1 => abstract_name(&mut input),
    2 => file(&mut input),
    3 => raw(&mut input),
    _ => internet(&mut input),
  }
  assert_eq!(open_descriptors(), before);
}

/// Checks that an address accepts exactly the bytes that unix(7) allows, and returns them.
fn any_bytes(bytes: &[u8]) {
  let is_abstract = bytes.first() == Some(&0);
  let expected = if bytes.is_empty() || (!is_abstract && bytes.contains(&0)) {
    Err(Errno::EINVAL)
  } else if bytes.len() > if is_abstract { SUN_PATH } else { Address::MAX_PATH } {
    Err(Errno::ENAMETOOLONG)
  } else {
    Ok(bytes)
  };
  let address = Address::new(bytes);
  match (&address, expected) {
    (Ok(address), Ok(expected)) => {
      assert_eq!(address.bytes(), expected);
      assert_eq!(address.path().map(|path| path.as_os_str().as_bytes()), Some(bytes).filter(|_| !is_abstract));
    }
    (Err(_), Err(errno)) => {
      // Too long, and with a NUL in it: either error is right.
      let either = bytes.len() > Address::MAX_PATH;
      assert!(either || address == Err(errno), "{address:?} in place of {errno}");
    }
    other => panic!("{other:?}"),
  }
}

/// Checks that a socket of this name reports it locally, to a connected peer, and with a datagram.
fn abstract_name(input: &mut Input<'_>) {
  let socket_type = [SocketType::Stream, SocketType::Seqpacket, SocketType::Dgram][below(input, 3)];
  let mut bytes = vec![0];
  bytes.extend(input.bytes(input.len().min(SUN_PATH - 1)).unwrap_or_default());
  let address = if bytes.len() > 1 { Address::new(&bytes).unwrap() } else { Address::autobind().unwrap() };
  let fd = socket(socket_type).unwrap();
  let bound = known(&fd, socket_type);
  match bind(bound, &address, None) {
    Ok(file) => assert!(file.is_none(), "a name without a file"),
    Err(Errno::EADDRINUSE) => return,
    Err(errno) => panic!("{errno}"),
  }
  seen_by_others(bound, socket_type, if bytes.len() > 1 { Some(&bytes) } else { None });
}

fn file(input: &mut Input<'_>) {
  let socket_type = [SocketType::Stream, SocketType::Seqpacket, SocketType::Dgram][below(input, 3)];
  let mode = if flag(input) { Some(u32::from(byte(input)) & 0o777) } else { None };
  let mut path = FOLDER.path().as_os_str().as_bytes().to_vec();
  path.push(b'/');
  path.extend(input.bytes(input.len().min(2 * SUN_PATH)).unwrap_or_default());
  let name = &path[FOLDER.path().as_os_str().len() + 1..];
  if name.contains(&b'/') || [&b""[..], b".", b".."].contains(&name) {
    return; // the folder itself, or outside of it
  }
  let fits = path.len() <= Address::MAX_PATH && !name.contains(&0);
  let address = match Address::new(&path) {
    Ok(address) => address,
    Err(errno) => {
      assert!(!fits && matches!(errno, Errno::EINVAL | Errno::ENAMETOOLONG), "{errno}");
      return;
    }
  };
  assert!(fits);
  let fd = socket(socket_type).unwrap();
  let file = bind(known(&fd, socket_type), &address, mode).unwrap().expect("a path has a file");
  assert!(Path::new(std::ffi::OsStr::from_bytes(&path)).symlink_metadata().is_ok());
  seen_by_others(known(&fd, socket_type), socket_type, Some(&path));
  drop(file);
  std::fs::remove_file(std::ffi::OsStr::from_bytes(&path)).ok();
}

/// Checks that every address which bind(2) accepts can be read back, for example a path that fills the field without a NUL.
fn raw(input: &mut Input<'_>) {
  let socket_type = [SocketType::Stream, SocketType::Seqpacket, SocketType::Dgram][below(input, 3)];
  // SAFETY: a structure of integers.
  let mut address: libc::sockaddr_un = unsafe { std::mem::zeroed() };
  address.sun_family = libc::AF_UNIX as libc::sa_family_t;
  let mut path = if flag(input) { vec![0] } else { [FOLDER.path().as_os_str().as_bytes(), b"/"].concat() };
  let folder = path.len();
  path.extend(input.bytes(input.len().min(SUN_PATH - folder)).unwrap_or_default());
  if path[0] != 0 {
    path[folder..].iter_mut().filter(|byte| **byte == b'/').for_each(|byte| *byte = b'_');
  }
  for (to, from) in address.sun_path.iter_mut().zip(&path) {
    *to = *from as libc::c_char;
  }
  let length = offset_of!(libc::sockaddr_un, sun_path) + path.len();
  let fd = socket(socket_type).unwrap();
  // SAFETY: an address of as many bytes.
  let result = unsafe { libc::bind(fd.as_raw_fd(), (&raw const address).cast(), length as libc::socklen_t) };
  if Errno::result(result).is_err() {
    return; // the name of a folder, or of an existing file
  }
  let expected = if path[0] == 0 { &path[..] } else { path.split(|&byte| byte == 0).next().unwrap() };
  seen_by_others(known(&fd, socket_type), socket_type, Some(expected));
  if path[0] != 0 {
    std::fs::remove_file(std::ffi::OsStr::from_bytes(expected)).unwrap();
  }
}

fn known(fd: &OwnedFd, socket_type: SocketType) -> Socket<'_> {
  Socket::from_parts(fd.as_fd(), socket_type, AncillaryOptions::default())
}

/// Checks that others see the bound address. `expected` is `None` if the kernel has chosen the name.
fn seen_by_others(bound: Socket<'_>, socket_type: SocketType, expected: Option<&[u8]>) {
  let local = bound.local_address().unwrap().expect("a name");
  match expected {
    Some(bytes) => assert_eq!(local.bytes(), bytes),
    None => assert_eq!((local.bytes().len(), local.bytes()[0]), (6, 0), "unix(7): five characters"),
  }
  let other = socket(socket_type).unwrap();
  let other = known(&other, socket_type);
  assert_eq!(other.local_address(), Ok(None));
  // `Address` does not accept a path that fills the field: it has no room for the final NUL.
  let Ok(again) = Address::new(local.bytes()) else {
    assert_eq!(local.bytes().len(), SUN_PATH);
    return;
  };
  if socket_type == SocketType::Dgram {
    let mut control = ControlBuffer::default();
    let receiver = socket(SocketType::Dgram).unwrap();
    bind(known(&receiver, SocketType::Dgram), &Address::autobind().unwrap(), None).unwrap();
    let receiver = known(&receiver, SocketType::Dgram);
    let to = receiver.local_address().unwrap().unwrap();
    bound.send(b"x", &[], SendOptions { to: Some(&to), credentials: None }).unwrap();
    let received = receiver.recv(&mut [0], &mut control, 0).unwrap().unwrap();
    assert_eq!(received.address.map(|address| address.bytes().to_vec()).as_deref(), Some(local.bytes()));
    other.send(b"y", &[], SendOptions { to: Some(&again), credentials: None }).unwrap();
    let received = bound.recv(&mut [0], &mut control, 0).unwrap().unwrap();
    assert_eq!((received.length, received.address), (1, None));
  } else {
    bound.listen(1).unwrap();
    other.connect(&again).unwrap();
    assert_eq!(other.peer_address().unwrap().map(|address| address.bytes().to_vec()).as_deref(), Some(local.bytes()));
    let connection = bound.accept().unwrap();
    let connection = known(&connection, socket_type);
    assert_eq!(connection.peer_address(), Ok(None));
    assert_eq!(connection.local_address().unwrap().as_ref().map(Address::bytes), Some(local.bytes()));
  }
}

/// Loopback addresses only.
fn internet(input: &mut Input<'_>) {
  let ip = if flag(input) {
    IpAddr::V4(Ipv4Addr::new(127, byte(input), byte(input), byte(input)))
  } else {
    IpAddr::V6(Ipv6Addr::LOCALHOST)
  };
  let tcp = flag(input);
  let options = TcpOptions { backlog: input.arbitrary().unwrap_or(0), ipv6_only: flag(input), reuse_port: flag(input) };
  let address = SocketAddr::new(ip, 0);
  let made = if tcp { tcp_listener(address, options) } else { udp_socket(address) };
  let fd = match made {
    // There is no IPv6, or it is a broadcast address.
    Err(Errno::EADDRNOTAVAIL | Errno::EAFNOSUPPORT | Errno::EACCES) => return,
    made => made.unwrap(),
  };
  let local = local_internet_address(fd.as_fd()).unwrap();
  assert_eq!(local.ip(), ip);
  assert_ne!(local.port(), 0);
  assert_eq!(Socket::new(fd.as_fd()).unwrap_err(), Errno::EAFNOSUPPORT);
}
