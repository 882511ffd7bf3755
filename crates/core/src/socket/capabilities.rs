//! Features of this kernel beyond passing descriptors. Each is tried out, because a version number does not show what a sandbox
//! forbids.

use std::os::fd::{AsFd, AsRawFd};

use nix::errno::Errno;
use nix::sys::socket as net;

use super::address::Address;
use super::credentials::peer_pidfd;
use super::unix::{AncillaryOptions, SendOptions, Socket, SocketType, socket, socketpair};
use crate::fd::duplicate;
use crate::sys::cmsg::ControlBuffer;
use crate::sys::sockopt::refuse_rights;
use crate::sys::wait::exit_descriptor;

/// Features that this kernel supports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capabilities {
  /// Addresses without a file.
  pub abstract_addresses: bool,
  /// Sockets of type seqpacket.
  pub seqpacket: bool,
  /// Credentials of the sender with each message.
  pub credentials: bool,
  /// Pidfd of the sender with each message.
  pub pidfd: bool,
  /// Pidfd of a connection's peer.
  pub peer_pidfd: bool,
  /// Refusing descriptors when they are sent.
  pub pass_rights: bool,
  /// The end of a child process is reported by a descriptor of the kernel. Otherwise a thread waits for each program that
  /// [`Program::spawn`](crate::Program::spawn) has started.
  pub exit_descriptors: bool,
  /// Received descriptors are close-on-exec from the start: a process that starts at that moment does not inherit them.
  pub close_on_exec: bool,
  /// Each feature could be tried. Otherwise some are reported as missing that could be there, for example because the descriptor
  /// table is full: probe again later.
  pub complete: bool,
}

impl Capabilities {
  /// Tries each feature. One that cannot be tried is reported as missing: see [`Capabilities::complete`].
  pub fn probe() -> Self {
    let mut complete = true;
    let mut has = |tried: nix::Result<bool>| {
      complete &= !tried.is_err_and(is_temporary);
      tried.unwrap_or(false)
    };
    Self {
      abstract_addresses: has(has_abstract_addresses()),
      seqpacket: has(socketpair(SocketType::Seqpacket).map(|_| true)),
      credentials: has(arrives(AncillaryOptions { credentials: true, pidfd: false })),
      pidfd: has(arrives(AncillaryOptions { credentials: false, pidfd: true })),
      peer_pidfd: has(socketpair(SocketType::Stream).and_then(|(a, _b)| peer_pidfd(a.as_fd())).map(|_| true)),
      pass_rights: has(socketpair(SocketType::Stream).and_then(|(a, _b)| refuse_rights(a.as_fd())).map(|_| true)),
      exit_descriptors: has(exit_descriptor(nix::unistd::getpid().as_raw()).map(|_| true)),
      close_on_exec: cfg!(not(target_vendor = "apple")), // MSG_CMSG_CLOEXEC
      complete,
    }
  }
}

/// Returns whether an error shows that a resource ran out, and nothing about a feature. bind(2) fails with `ENOSPC` where each
/// abstract address of its own choice is taken.
fn is_temporary(errno: Errno) -> bool {
  use Errno::{EAGAIN, EMFILE, ENFILE, ENOBUFS, ENOMEM, ENOSPC, ETOOMANYREFS};
  matches!(errno, EAGAIN | EMFILE | ENFILE | ENOBUFS | ENOMEM | ENOSPC | ETOOMANYREFS)
}

fn has_abstract_addresses() -> nix::Result<bool> {
  let Some(any) = Address::autobind() else { return Ok(false) };
  let fd = socket(SocketType::Dgram)?;
  net::bind(fd.as_raw_fd(), any.raw())?;
  let bound = Socket::new(fd.as_fd())?.local_address()?;
  Ok(bound.is_some_and(|address| address.path().is_none()))
}

/// Returns whether a message arrives with exactly these control messages.
fn arrives(options: AncillaryOptions) -> nix::Result<bool> {
  let (a, b) = socketpair(SocketType::Dgram)?;
  let [sender, receiver] = [&a, &b].map(|end| Socket::from_parts(end.as_fd(), SocketType::Dgram, options));
  receiver.enable_ancillary(options)?;
  sender.send(&[0], &[], SendOptions::default())?;
  let message = receiver.recv(&mut [0], &mut ControlBuffer::default(), 0)?;
  let arrived = message.is_some_and(|message| {
    message.credentials.is_some() == options.credentials && message.pidfd.is_some() == options.pidfd
  });
  if !arrived {
    duplicate(a.as_fd())?; // the kernel omits a pidfd for which the descriptor table has no room
  }
  Ok(arrived)
}
