//! Features of this kernel beyond passing descriptors. Each is tried out, because a version number does not show what a sandbox
//! forbids.

use std::os::fd::{AsFd, AsRawFd};

use nix::sys::socket as net;

use super::address::Address;
use super::credentials::peer_pidfd;
use super::unix::{AncillaryOptions, SendOptions, Socket, SocketType, socket, socketpair};
use crate::sys::cmsg::ControlBuffer;
use crate::sys::sockopt::refuse_rights;

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
  /// Received descriptors are close-on-exec from the start: a process that starts at that moment does not inherit them.
  pub close_on_exec: bool,
}

impl Capabilities {
  /// Tries each feature. One that cannot be tried, for example because the descriptor table is full, is reported as missing.
  pub fn probe() -> Self {
    Self {
      abstract_addresses: has_abstract_addresses().is_ok_and(|named| named),
      seqpacket: socketpair(SocketType::Seqpacket).is_ok(),
      credentials: arrives(AncillaryOptions { credentials: true, pidfd: false }),
      pidfd: arrives(AncillaryOptions { credentials: false, pidfd: true }),
      peer_pidfd: socketpair(SocketType::Stream).and_then(|(a, _b)| peer_pidfd(a.as_fd())).is_ok(),
      pass_rights: socketpair(SocketType::Stream).and_then(|(a, _b)| refuse_rights(a.as_fd())).is_ok(),
      close_on_exec: cfg!(not(target_vendor = "apple")), // MSG_CMSG_CLOEXEC
    }
  }
}

fn has_abstract_addresses() -> nix::Result<bool> {
  let Some(any) = Address::autobind() else { return Ok(false) };
  let fd = socket(SocketType::Dgram)?;
  net::bind(fd.as_raw_fd(), any.raw())?;
  let bound = Socket::new(fd.as_fd())?.local_address()?;
  Ok(bound.is_some_and(|address| address.path().is_none()))
}

/// Returns whether a message arrives with exactly these control messages.
fn arrives(options: AncillaryOptions) -> bool {
  let exchange = || {
    let (a, b) = socketpair(SocketType::Dgram)?;
    let [a, b] = [&a, &b].map(|end| Socket::from_parts(end.as_fd(), SocketType::Dgram, options));
    b.enable_ancillary(options)?;
    a.send(&[0], &[], SendOptions::default())?;
    b.recv(&mut [0], &mut ControlBuffer::default(), 0)
  };
  matches!(exchange(), Ok(Some(message))
    if message.credentials.is_some() == options.credentials && message.pidfd.is_some() == options.pidfd)
}
