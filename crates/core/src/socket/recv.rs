//! Receiving one message.

#![cfg_attr(not(test), deny(clippy::arithmetic_side_effects))] // of numbers that a peer sends

use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::MsgFlags;

use super::address::Address;
use super::credentials::Credentials;
use super::unix::{AncillaryOptions, Socket, SocketType};
use crate::sys::cmsg::{self, ControlBuffer, MAX_RECEIVED_FDS};
use crate::sys::msg;

/// The descriptors of a received message.
#[derive(Debug)]
pub enum ReceivedFds {
  /// The descriptors that were sent with it, in their order. There may be none.
  Complete(Vec<OwnedFd>),
  /// The kernel could not deliver all descriptors (`MSG_CTRUNC`): the descriptor table is full, or a security module
  /// refused one. Those that were delivered are closed.
  Truncated,
  /// More descriptors than the caller accepts. All are closed.
  TooMany,
  /// A control message of a level or type that was not requested. The descriptors that came with it are closed.
  Unexpected,
}

/// One received message. Its bytes are in the caller's buffer.
#[derive(Debug)]
pub struct Received {
  /// Bytes in the buffer.
  pub length: usize,
  /// Size in bytes of the packet as it was sent: more than `length` if it did not fit. On a stream the same as `length`; on
  /// platforms that do not report it, one more than `length`.
  pub size: usize,
  /// Its descriptors.
  pub fds: ReceivedFds,
  /// Credentials of the sender, if [`AncillaryOptions`] requests them.
  pub credentials: Option<Credentials>,
  /// Pidfd of the sender, if [`AncillaryOptions`] requests it and the process has not been reaped.
  pub pidfd: Option<OwnedFd>,
  /// On a datagram socket, the sender's address if it has one.
  pub address: Option<Address>,
}

impl Socket<'_> {
  /// Receives one message: `recvmsg(2)`, without waiting. `None` is the end of a stream or seqpacket connection, and of a
  /// datagram socket whose reading half was shut down.
  ///
  /// The result owns every descriptor that the kernel installed; each is close-on-exec. On a stream a message is what one
  /// call returns: bytes that were sent without descriptors may precede those that carry some (unix(7)).
  ///
  /// A message with more than `max_fds` descriptors is refused as a whole.
  ///
  /// # Errors
  ///
  /// - `EAGAIN`: no message is queued.
  /// - `ECONNRESET`, once: the peer closed while it had unread bytes. On a stream it follows the peer's bytes, on a
  ///   seqpacket connection it precedes them.
  pub fn recv(&self, buffer: &mut [u8], control: &mut ControlBuffer, max_fds: usize) -> nix::Result<Option<Received>> {
    self.recv_refusing(buffer, control, max_fds, drop)
  }

  /// Receives as [`Socket::recv`]. `refuse` closes the descriptors of a message that is refused.
  pub(crate) fn recv_refusing(
    &self,
    buffer: &mut [u8],
    control: &mut ControlBuffer,
    max_fds: usize,
    refuse: impl FnOnce(Vec<OwnedFd>),
  ) -> nix::Result<Option<Received>> {
    let packets = self.socket_type() != SocketType::Stream;
    #[cfg(not(target_vendor = "apple"))]
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC;
    #[cfg(target_vendor = "apple")]
    let flags = MsgFlags::MSG_DONTWAIT;
    // recv(2): return the packet's size even if it does not fit.
    #[cfg(any(target_os = "linux", target_os = "android"))]
    let flags = if packets { flags | MsgFlags::MSG_TRUNC } else { flags };
    let capacity = buffer.len();
    // Only a datagram can come from another address than the peer's.
    let wants_sender = self.socket_type() == SocketType::Dgram;
    let message = match msg::receive(self.as_fd(), buffer, control.as_mut_bytes(), wants_sender, flags) {
      // After shutdown(2), Linux returns the end of a seqpacket socket, but of a datagram socket reports it by poll(2) only.
      Err(Errno::EAGAIN) if wants_sender && msg::hung_up(self.as_fd())? => return Ok(None),
      result => result?,
    };
    let decoded = Decoded::new(control.written(message.control), self.ancillary());
    let truncated = message.flags.contains(MsgFlags::MSG_CTRUNC);
    let bytes = message.bytes;
    #[cfg(target_vendor = "apple")]
    decoded.rights.iter().try_for_each(crate::sys::fds::set_close_on_exec)?;

    // With SO_PASSCRED, Linux adds credentials without a process to the end of a stream.
    let nothing_sent = decoded.rights.is_empty() && !truncated && !(packets && decoded.has_others());
    if bytes == 0 && capacity > 0 && nothing_sent && self.at_end()? {
      return Ok(None);
    }
    let length = bytes.min(capacity);
    let cut = packets && message.flags.contains(MsgFlags::MSG_TRUNC);
    let Decoded { rights, unexpected, lost, credentials, pidfd } = decoded;
    Ok(Some(Received {
      length,
      size: if cut { bytes.max(length.saturating_add(1)) } else { length },
      fds: {
        let refused = match () {
          () if truncated || lost => Some(ReceivedFds::Truncated),
          () if unexpected => Some(ReceivedFds::Unexpected),
          () if rights.len() > max_fds => Some(ReceivedFds::TooMany),
          () => None,
        };
        match refused {
          Some(reason) => {
            refuse(rights);
            reason
          }
          None => ReceivedFds::Complete(rights),
        }
      },
      credentials,
      pidfd,
      address: message.sender.and_then(Address::named),
    }))
  }

  /// Returns whether a receive of no bytes and no control data was the end of the connection.
  ///
  /// On a stream it always is, on a datagram socket never. On a seqpacket connection an empty packet looks the same. The
  /// connection has not ended while the peer can still send (no `POLLRDHUP`) or while more is queued. An empty packet
  /// that only the peer's close follows is indistinguishable from the end.
  fn at_end(&self) -> nix::Result<bool> {
    match self.socket_type() {
      SocketType::Stream => Ok(true),
      SocketType::Dgram => Ok(false),
      SocketType::Seqpacket => {
        Ok(msg::hung_up(self.as_fd())? && msg::bytes_waiting(self.as_fd()) == 0 && !self.has_queued_descriptors())
      }
    }
  }

  /// Returns whether descriptors are queued. Only /proc reports those of packets without a byte, from Linux 5.6 on
  /// (`unix_show_fdinfo` in af_unix.c).
  fn has_queued_descriptors(&self) -> bool {
    use std::os::fd::AsRawFd;
    let path = format!("/proc/self/fdinfo/{}", self.as_fd().as_raw_fd());
    let info = std::fs::read_to_string(path).unwrap_or_default();
    info.lines().filter_map(|line| line.strip_prefix("scm_fds:")).any(|count| count.trim() != "0")
  }
}

/// The control messages of one receive.
#[derive(Default)]
pub(crate) struct Decoded {
  pub(crate) rights: Vec<OwnedFd>,
  pub(crate) credentials: Option<Credentials>,
  pub(crate) pidfd: Option<OwnedFd>,
  /// There was a control message that was not requested.
  pub(crate) unexpected: bool,
  /// A descriptor could not be installed: the table is full, or a security module refused it.
  pub(crate) lost: bool,
}

impl Decoded {
  pub(crate) fn new(control: &[u8], requested: AncillaryOptions) -> Self {
    let mut decoded = Self::default();
    cmsg::own_control(control, |message| match message {
      cmsg::ControlMessage::Rights { mut fds, withheld } => {
        decoded.lost |= withheld;
        // Linux merges several into one, other kernels do not.
        if decoded.rights.is_empty() { decoded.rights = fds } else { decoded.rights.append(&mut fds) }
      }
      cmsg::ControlMessage::Pidfd { mut fds, failed } if requested.pidfd => {
        match fds.pop() {
          Some(pidfd) => decoded.pidfd = Some(pidfd),
          // Any other error means that the sender has ended and was reaped.
          None => decoded.lost |= matches!(failed, Errno::EMFILE | Errno::ENFILE | Errno::ENOMEM),
        }
      }
      cmsg::ControlMessage::Credentials { pid, uid, gid } if requested.credentials => {
        decoded.credentials = Some(Credentials::from_raw(pid, uid, gid));
      }
      _ => decoded.unexpected = true,
    });
    debug_assert!(decoded.rights.len() <= MAX_RECEIVED_FDS);
    decoded
  }

  /// Returns whether anything but descriptors came.
  fn has_others(&self) -> bool {
    self.unexpected || self.credentials.is_some() || self.pidfd.is_some()
  }
}
