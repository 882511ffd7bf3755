//! What this kernel can do beyond passing descriptors: tried out, as kernels differ and sandboxes lie.

use std::os::fd::{AsFd, AsRawFd};

use nix::sys::socket as net;

use super::{
  Address, AncillaryOptions, ControlBuffer, SendOptions, Socket, SocketType, peer_pidfd, socket, socketpair,
};
use crate::sys::sockopt::refuse_rights;

/// What this kernel can do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capabilities {
  /// Addresses without a file.
  pub abstract_addresses: bool,
  /// Sockets of type seqpacket.
  pub seqpacket: bool,
  /// The sender's credentials with each message.
  pub credentials: bool,
  /// A pidfd of the sender with each message.
  pub pidfd: bool,
  /// A pidfd of a connection's peer.
  pub peer_pidfd: bool,
  /// Refusing descriptors where they are sent.
  pub pass_rights: bool,
  /// Received descriptors are close-on-exec from the start, so that no process started at that moment inherits them.
  pub close_on_exec: bool,
}

impl Capabilities {
  /// Tries each out. One that cannot be tried, for want of descriptors say, is not there.
  pub fn probe() -> Self {
    Self {
      abstract_addresses: abstract_addresses().is_ok_and(|named| named),
      seqpacket: socketpair(SocketType::Seqpacket).is_ok(),
      credentials: is_told(AncillaryOptions { credentials: true, pidfd: false }),
      pidfd: is_told(AncillaryOptions { credentials: false, pidfd: true }),
      peer_pidfd: socketpair(SocketType::Stream).and_then(|(a, _b)| peer_pidfd(a.as_fd())).is_ok(),
      pass_rights: socketpair(SocketType::Stream).and_then(|(a, _b)| refuse_rights(a.as_fd())).is_ok(),
      close_on_exec: cfg!(not(target_vendor = "apple")), // MSG_CMSG_CLOEXEC
    }
  }
}

fn abstract_addresses() -> nix::Result<bool> {
  let Some(any) = Address::autobind() else { return Ok(false) };
  let fd = socket(SocketType::Dgram)?;
  net::bind(fd.as_raw_fd(), any.raw())?;
  let bound = Socket::new(fd.as_fd())?.local_address()?;
  Ok(bound.is_some_and(|address| address.path().is_none()))
}

/// Whether a message comes with what was asked for.
fn is_told(receiving: AncillaryOptions) -> bool {
  let exchange = || {
    let (a, b) = socketpair(SocketType::Dgram)?;
    let [a, b] = [&a, &b].map(|end| Socket::from_parts(end.as_fd(), SocketType::Dgram, receiving));
    b.enable_ancillary(receiving)?;
    a.send(&[0], &[], SendOptions::default())?;
    b.recv(&mut [0], &mut ControlBuffer::default(), 0)
  };
  matches!(exchange(), Ok(Some(message))
    if message.credentials.is_some() == receiving.credentials && message.pidfd.is_some() == receiving.pidfd)
}
