//! Addresses: paths, abstract names, unnamed sockets.

#[path = "../fixtures/mod.rs"]
mod fixtures;

use std::os::fd::AsFd;
use std::path::Path;

use fdpass_core::{Address, AncillaryOptions, ControlBuffer, Errno, SendOptions, Socket, SocketType, bind, socket};
use fixtures::file_holding;
use tempfile::tempdir;

fn known(fd: &impl AsFd, socket_type: SocketType) -> Socket<'_> {
  Socket::from_parts(fd.as_fd(), socket_type, AncillaryOptions::default())
}

fn path_address(path: &Path) -> Address {
  Address::new(path.as_os_str().as_encoded_bytes()).unwrap()
}

#[test]
fn a_path_has_its_bytes_and_is_a_path_f3() {
  for bytes in [b"/run/x.sock".as_slice(), b"relative", b"@at", "Grüße".as_bytes(), b"\xff\xfe"] {
    let address = Address::new(bytes).unwrap();
    assert_eq!(address.bytes(), bytes);
    assert_eq!(address.path().unwrap().as_os_str().as_encoded_bytes(), bytes);
  }
}

#[test]
fn a_path_may_be_as_long_as_the_platform_takes_and_is_never_cut_f2() {
  let longest = vec![b'a'; Address::MAX_PATH];
  assert_eq!(Address::new(&longest).unwrap().bytes(), longest);
  for length in [Address::MAX_PATH + 1, 200, 5000] {
    assert_eq!(Address::new(&vec![b'a'; length]), Err(Errno::ENAMETOOLONG));
  }
}

#[test]
fn an_empty_path_and_one_with_a_nul_are_refused() {
  for bytes in [b"".as_slice(), b"a\0", b"a\0b"] {
    assert_eq!(Address::new(bytes), Err(Errno::EINVAL));
  }
}

#[test]
#[cfg(any(target_os = "linux", target_os = "android"))]
fn an_abstract_address_is_all_its_bytes_f1() {
  let longest = [&[0][..], &[b'a'; Address::MAX_PATH]].concat();
  for bytes in [b"\0".as_slice(), b"\0name", b"\0name\0", b"\0\0\0", b"\0a\0b", &longest] {
    let address = Address::new(bytes).unwrap();
    assert_eq!(address.bytes(), bytes);
    assert_eq!(address.path(), None);
  }
  assert_eq!(Address::new(&[longest, vec![b'a']].concat()), Err(Errno::ENAMETOOLONG));
}

#[test]
#[cfg(any(target_os = "linux", target_os = "android"))]
fn an_abstract_name_is_bound_as_it_is() {
  let name = format!("\0fdpass-{}", std::process::id());
  // Names with a common prefix, or with trailing NULs, are different names.
  for suffix in ["", "\0", "\0\0", "\0x"] {
    let bytes = format!("{name}{suffix}");
    let fd = socket(SocketType::Dgram).unwrap();
    bind(known(&fd, SocketType::Dgram), &Address::new(bytes.as_bytes()).unwrap(), None).unwrap();
    assert_eq!(known(&fd, SocketType::Dgram).local_address().unwrap().unwrap().bytes(), bytes.as_bytes());
    let again = socket(SocketType::Dgram).unwrap();
    let result = bind(known(&again, SocketType::Dgram), &Address::new(bytes.as_bytes()).unwrap(), None);
    assert_eq!(result.unwrap_err(), Errno::EADDRINUSE);
    std::mem::forget(fd); // bound until the process ends
  }
}

#[test]
#[cfg(any(target_os = "linux", target_os = "android"))]
fn the_kernel_chooses_an_abstract_name() {
  let fd = socket(SocketType::Dgram).unwrap();
  let file = bind(known(&fd, SocketType::Dgram), &Address::autobind().unwrap(), None).unwrap();
  assert!(file.is_none());
  let address = known(&fd, SocketType::Dgram).local_address().unwrap().unwrap();
  assert!(matches!(address.bytes(), [0, name @ ..] if name.len() == 5), "{address:?}");
}

#[test]
fn a_socket_without_a_name_has_no_address_f1() {
  let fd = socket(SocketType::Dgram).unwrap();
  assert_eq!(known(&fd, SocketType::Dgram).local_address(), Ok(None));
  assert_eq!(known(&fd, SocketType::Dgram).peer_address(), Err(Errno::ENOTCONN));
  let (a, _b) = fixtures::pair(SocketType::Stream);
  assert_eq!(a.socket().local_address(), Ok(None));
  assert_eq!(a.socket().peer_address(), Ok(None));
}

#[test]
fn a_datagram_goes_to_an_address_with_its_descriptors_and_tells_where_from_a8_f3() {
  let folder = tempdir().unwrap();
  let [to, from] = ["to", "from"].map(|name| path_address(&folder.path().join(name)));
  let [receiver, sender, nameless] = [(); 3].map(|()| socket(SocketType::Dgram).unwrap());
  let _files = [
    bind(known(&receiver, SocketType::Dgram), &to, None).unwrap(),
    bind(known(&sender, SocketType::Dgram), &from, None).unwrap(),
  ];
  let file = file_holding("contents");
  for (fd, address) in [(&sender, Some(from)), (&nameless, None)] {
    let envelope = SendOptions { to: Some(&to), ..SendOptions::default() };
    assert_eq!(known(fd, SocketType::Dgram).send(b"data", &[file.as_fd()], envelope), Ok(4));
    let mut buffer = [0; 16];
    let message = known(&receiver, SocketType::Dgram).recv(&mut buffer, &mut ControlBuffer::default(), 1);
    let message = message.unwrap().unwrap();
    assert_eq!(&buffer[..message.length], b"data");
    assert_eq!(message.address, address);
    assert!(matches!(message.fds, fdpass_core::ReceivedFds::Complete(fds) if fds.len() == 1));
  }
}

#[test]
fn a_connection_knows_both_its_addresses_f1() {
  for &socket_type in fixtures::CONNECTION_TYPES {
    let folder = tempdir().unwrap();
    let [to, from] = ["to", "from"].map(|name| path_address(&folder.path().join(name)));
    let [listener, client] = [(); 2].map(|()| socket(socket_type).unwrap());
    let _files = [
      bind(known(&listener, socket_type), &to, None).unwrap(),
      bind(known(&client, socket_type), &from, None).unwrap(),
    ];
    known(&listener, socket_type).listen(1).unwrap();
    known(&client, socket_type).connect(&to).unwrap();
    let connection = known(&listener, socket_type).accept().unwrap();
    for (fd, local, peer) in [(&client, from, to), (&connection, to, from)] {
      assert_eq!(known(fd, socket_type).local_address(), Ok(Some(local)));
      assert_eq!(known(fd, socket_type).peer_address(), Ok(Some(peer)));
    }
    assert!(fixtures::is_close_on_exec(&connection));
    assert!(!fixtures::is_nonblocking(&connection));
    assert!(!fixtures::is_nonblocking(&client));
  }
}

/// Binds to a path that fills `sun_path` without a final NUL, which Linux accepts. A peer with such a path must do no harm.
#[test]
#[cfg(any(target_os = "linux", target_os = "android"))]
fn a_path_of_108_bytes_that_another_program_has_bound_is_told_whole() {
  let folder = tempdir().unwrap();
  let folder_length = folder.path().as_os_str().len() + 1;
  let path = folder.path().join("x".repeat(108 - folder_length));
  let bytes = path.as_os_str().as_encoded_bytes();
  let sender = socket(SocketType::Dgram).unwrap();
  // SAFETY: a structure of integers.
  let mut raw: libc::sockaddr_un = unsafe { std::mem::zeroed() };
  raw.sun_family = libc::AF_UNIX as libc::sa_family_t;
  for (to, &from) in raw.sun_path.iter_mut().zip(bytes) {
    *to = from as libc::c_char;
  }
  let length = size_of::<libc::sockaddr_un>() as libc::socklen_t;
  use std::os::fd::AsRawFd;
  // SAFETY: a whole address and its length.
  let result = unsafe { libc::bind(sender.as_raw_fd(), (&raw const raw).cast(), length) };
  assert_eq!(Errno::result(result).map(drop), Ok(()));

  let local = known(&sender, SocketType::Dgram).local_address().unwrap().unwrap();
  assert_eq!(local.bytes(), bytes);
  let receiver = socket(SocketType::Dgram).unwrap();
  bind(known(&receiver, SocketType::Dgram), &Address::autobind().unwrap(), None).unwrap();
  let to = known(&receiver, SocketType::Dgram).local_address().unwrap();
  let envelope = SendOptions { to: to.as_ref(), ..SendOptions::default() };
  known(&sender, SocketType::Dgram).send(b"x", &[], envelope).unwrap();
  let message = known(&receiver, SocketType::Dgram).recv(&mut [0], &mut ControlBuffer::default(), 0);
  let from = message.unwrap().unwrap().address.unwrap();
  assert_eq!((from.bytes(), from), (bytes, local));
  // Neither counts more bytes than the address has: an answer arrives.
  for to in [from, local] {
    let envelope = SendOptions { to: Some(&to), ..SendOptions::default() };
    assert_eq!(known(&receiver, SocketType::Dgram).send(b"y", &[], envelope), Ok(1));
    known(&sender, SocketType::Dgram).recv(&mut [0], &mut ControlBuffer::default(), 0).unwrap().unwrap();
  }
}

#[test]
fn a_full_backlog_is_told_and_not_waited_for() {
  if !cfg!(any(target_os = "linux", target_os = "android")) {
    return; // the BSDs return ECONNREFUSED
  }
  for &socket_type in fixtures::CONNECTION_TYPES {
    let folder = tempdir().unwrap();
    let address = path_address(&folder.path().join("full"));
    let listener = socket(socket_type).unwrap();
    let _file = bind(known(&listener, socket_type), &address, None).unwrap();
    known(&listener, socket_type).listen(0).unwrap();
    let waiting = socket(socket_type).unwrap();
    known(&waiting, socket_type).connect(&address).unwrap();
    let refused = socket(socket_type).unwrap();
    assert_eq!(known(&refused, socket_type).connect(&address), Err(Errno::EAGAIN));
    assert!(!fixtures::is_nonblocking(&refused));
    drop(known(&listener, socket_type).accept().unwrap());
    assert_eq!(known(&refused, socket_type).connect(&address), Ok(()));
  }
}

#[test]
fn nobody_listening_is_told() {
  let folder = tempdir().unwrap();
  let fd = socket(SocketType::Stream).unwrap();
  let address = path_address(&folder.path().join("x"));
  assert_eq!(known(&fd, SocketType::Stream).connect(&address), Err(Errno::ENOENT));
  let bound = socket(SocketType::Stream).unwrap();
  let _file = bind(known(&bound, SocketType::Stream), &address, None).unwrap();
  assert_eq!(known(&fd, SocketType::Stream).connect(&address), Err(Errno::ECONNREFUSED));
  assert_eq!(known(&fd, SocketType::Stream).is_listening(), Ok(false));
  known(&bound, SocketType::Stream).listen(1).unwrap();
  assert_eq!(known(&bound, SocketType::Stream).is_listening(), Ok(true));
}
