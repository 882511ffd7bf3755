//! Credentials of a connection's peer and of a message's sender.
#![cfg(any(target_os = "linux", target_os = "android"))]

#[path = "../fixtures/mod.rs"]
mod fixtures;

use std::os::fd::{AsFd, OwnedFd};

use fdpass_core::{
  AncillaryOptions, Capabilities, Credentials, Errno, MAX_SENT_FDS, ReceivedFds, SocketType, peer, peer_pidfd, socket,
};
use fixtures::*;

const BOTH: AncillaryOptions = AncillaryOptions { credentials: true, pidfd: true };
const CREDENTIALS: AncillaryOptions = AncillaryOptions { credentials: true, pidfd: false };

/// What can be requested: pidfds from Linux 6.5 on.
fn requests() -> Vec<AncillaryOptions> {
  let all = [BOTH, CREDENTIALS, AncillaryOptions { credentials: false, pidfd: true }];
  let has_pidfds = Capabilities::probe().pidfd;
  all.into_iter().filter(|options| has_pidfds || !options.pidfd).collect()
}

/// Returns the pid of a pidfd, from /proc/self/fdinfo.
fn pid_of(pidfd: &OwnedFd) -> String {
  use std::os::fd::AsRawFd;
  let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd())).unwrap();
  info.lines().find_map(|line| line.strip_prefix("Pid:")).expect("a pidfd").trim().to_owned()
}

#[test]
fn the_peer_of_a_pair_is_its_maker() {
  for &socket_type in TYPES {
    let (a, b) = pair(socket_type);
    for end in [&a, &b] {
      assert_eq!(peer(end.fd.as_fd()).unwrap().credentials, Credentials::own());
      let pidfd = match peer_pidfd(end.fd.as_fd()) {
        Err(Errno::ENOPROTOOPT) if !Capabilities::probe().peer_pidfd => continue,
        pidfd => pidfd.unwrap(),
      };
      assert_eq!(pid_of(&pidfd), std::process::id().to_string());
      assert!(is_close_on_exec(&pidfd));
    }
  }
}

#[test]
fn the_peer_has_its_supplementary_groups() {
  let (a, _b) = pair(SocketType::Stream);
  let mut own: Vec<u32> = nix::unistd::getgroups().unwrap().into_iter().map(|group| group.as_raw()).collect();
  let mut groups = peer(a.fd.as_fd()).unwrap().groups.unwrap();
  own.sort_unstable();
  groups.sort_unstable();
  assert_eq!(groups, own);
}

#[test]
fn a_socket_without_a_peer_has_none() {
  for &socket_type in TYPES {
    let fd = socket(socket_type).unwrap();
    assert_eq!(peer(fd.as_fd()), Err(Errno::ENOTCONN));
    let error = if Capabilities::probe().peer_pidfd { Errno::ENODATA } else { Errno::ENOPROTOOPT };
    assert_eq!(peer_pidfd(fd.as_fd()).unwrap_err(), error);
  }
}

#[test]
fn a_message_comes_with_what_was_asked_for_and_with_its_descriptors() {
  for &socket_type in TYPES {
    for receiving in requests() {
      let (a, b) = pair_requesting(socket_type, receiving);
      let files: Vec<_> = (0..MAX_SENT_FDS).map(|_| file_holding("x")).collect();
      for count in [0, 1, MAX_SENT_FDS] {
        let fds: Vec<_> = files[..count].iter().map(AsFd::as_fd).collect();
        a.send(b"x", &fds).unwrap();
        let message = b.recv().unwrap().unwrap();
        assert!(matches!(&message.fds, ReceivedFds::Complete(fds) if fds.len() == count), "{message:?}");
        assert_eq!(message.credentials, receiving.credentials.then(Credentials::own));
        assert_eq!(message.pidfd.is_some(), receiving.pidfd);
        if let Some(pidfd) = &message.pidfd {
          assert_eq!(pid_of(pidfd), std::process::id().to_string());
          assert!(is_close_on_exec(pidfd));
        }
      }
    }
  }
}

#[test]
fn what_was_sent_before_anybody_asked_is_from_nobody() {
  let (a, b) = pair(SocketType::Stream);
  a.send(b"early", &[]).unwrap();
  b.socket().enable_ancillary(CREDENTIALS).unwrap();
  let message = b.requesting(CREDENTIALS).recv().unwrap().unwrap();
  assert_eq!(message.credentials, Some(Credentials { pid: None, uid: 65534, gid: 65534 }));
}

#[test]
fn credentials_that_nobody_asked_for_are_told_as_such() {
  let (a, b) = pair_requesting(SocketType::Stream, CREDENTIALS);
  a.send(b"x", &[]).unwrap();
  let message = b.requesting(AncillaryOptions::default()).recv().unwrap().unwrap();
  assert!(matches!(message.fds, ReceivedFds::Unexpected));
  assert_eq!(message.credentials, None);
}

#[test]
fn own_credentials_may_be_sent_and_others_only_by_root() {
  let (a, b) = pair_requesting(SocketType::Stream, CREDENTIALS);
  a.send_as(Credentials::own(), b"x").unwrap();
  assert_eq!(b.recv().unwrap().unwrap().credentials, Some(Credentials::own()));
  let init = Credentials { pid: Some(1), uid: 1, gid: 2 };
  let forged = a.send_as(init, b"x");
  if nix::unistd::geteuid().is_root() {
    assert_eq!(forged, Ok(1));
    assert_eq!(b.recv().unwrap().unwrap().credentials, Some(init));
  } else {
    assert_eq!(forged, Err(Errno::EPERM));
  }
}

#[test]
fn the_end_of_a_connection_is_the_end_although_credentials_were_asked_for() {
  for (&socket_type, receiving) in
    CONNECTION_TYPES.iter().flat_map(|each| requests().into_iter().map(move |one| (each, one)))
  {
    let (a, b) = pair_requesting(socket_type, receiving);
    a.send(b"x", &[]).unwrap();
    drop(a);
    assert_eq!(b.recv().unwrap().unwrap().bytes, b"x");
    b.assert_ended();
    b.assert_ended();
  }
}

#[test]
fn empty_packets_before_the_end_are_told_from_it_by_their_credentials() {
  let (a, b) = pair_requesting(SocketType::Seqpacket, CREDENTIALS);
  a.send(b"", &[]).unwrap();
  a.send(b"", &[]).unwrap();
  drop(a);
  for _ in 0..2 {
    assert_eq!(b.recv().unwrap().unwrap().bytes, b"");
  }
  b.assert_ended();
}

#[test]
fn a_listener_that_refuses_descriptors_hands_that_on() {
  if !Capabilities::probe().pass_rights {
    return; // before Linux 6.16
  }
  let (a, b) = pair(SocketType::Stream);
  b.socket().refuse_descriptors().unwrap();
  let file = file_holding("x");
  assert_eq!(a.send(b"x", &[file.as_fd()]), Err(Errno::EPERM));
  assert_eq!(a.send(b"x", &[]), Ok(1));
}

#[test]
fn this_kernel_can_what_the_tests_of_this_file_show() {
  let Capabilities { credentials, seqpacket, abstract_addresses, close_on_exec, pidfd, peer_pidfd, complete, .. } =
    Capabilities::probe();
  assert!(credentials && seqpacket && abstract_addresses && close_on_exec && complete);
  let (a, _b) = pair(SocketType::Stream);
  assert_eq!(peer_pidfd, fdpass_core::peer_pidfd(a.fd.as_fd()).is_ok());
  assert_eq!(pidfd, a.socket().enable_ancillary(AncillaryOptions { credentials: false, pidfd: true }).is_ok());
}
