//! A channel: messages over a stream socket, each with exactly the descriptors that were sent with it.

mod decoder;
mod frame;
mod outbox;

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

pub use decoder::{BorrowedFrame, Decoder, DescriptorBatch};
pub use frame::{Format, FrameError, FrameKind, Header, Limits};
pub use outbox::Outbox;

use crate::socket::{AncillaryOptions, ControlBuffer, Socket, SocketType};

/// The pauses before a call is made again whose success no event announces.
const FIRST_PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(64);

/// A message to be sent.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
  /// What it is for.
  pub kind: FrameKind,
  /// What its data are.
  pub format: Format,
  /// Which request it is, or is about; 0 for a mere message.
  pub id: u32,
  /// Its bytes.
  pub data: &'a [u8],
}

impl<'a> Message<'a> {
  /// Bytes that ask for nothing.
  pub fn bytes(data: &'a [u8]) -> Self {
    Self { kind: FrameKind::Message, format: Format::Bytes, id: 0, data }
  }
}

/// A message that has arrived.
#[derive(Debug)]
pub struct Frame {
  /// What it is for.
  pub kind: FrameKind,
  /// What its data are.
  pub format: Format,
  /// Which request it is, or is about.
  pub id: u32,
  /// Its bytes.
  pub data: Vec<u8>,
  /// Its descriptors, in the order in which they were sent.
  pub fds: Vec<OwnedFd>,
}

/// Why a channel could not receive.
#[derive(Debug)]
pub enum ChannelError {
  /// What the kernel says; `EAGAIN` where nothing is there.
  System(Errno),
  /// The peer does not keep to the protocol or to the limits: nothing can be received any more.
  Frame(FrameError),
  /// The descriptors of this message could not be delivered: the table is full, or a security module refused one. Those
  /// that came are closed, its bytes are here, and the next message can be received.
  DescriptorsLost(Frame),
}

impl fmt::Display for ChannelError {
  fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
    match self {
      Self::System(errno) => errno.fmt(formatter),
      Self::Frame(error) => error.fmt(formatter),
      Self::DescriptorsLost(_) => write!(formatter, "the descriptors of a message were lost"),
    }
  }
}

impl std::error::Error for ChannelError {
  fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
    match self {
      Self::System(errno) => Some(errno),
      Self::Frame(error) => Some(error),
      Self::DescriptorsLost(_) => None,
    }
  }
}

impl From<Errno> for ChannelError {
  fn from(errno: Errno) -> Self {
    Self::System(errno)
  }
}

impl From<FrameError> for ChannelError {
  fn from(error: FrameError) -> Self {
    Self::Frame(error)
  }
}

/// A stream socket whose bytes are frames.
///
/// [`Channel::send`] and [`Channel::receive`] wait; [`Channel::try_send`], [`Channel::flush`] and
/// [`Channel::try_receive`] do not, for users with a poll loop of their own: ask for the descriptor's
/// ([`AsFd`]) readability, and for room while [`Channel::waiting`] is not 0. The socket's blocking mode is left as it is.
#[derive(Debug)]
pub struct Channel {
  fd: OwnedFd,
  decoder: Decoder,
  outbox: Outbox,
  control: Box<ControlBuffer>,
}

impl AsFd for Channel {
  fn as_fd(&self) -> BorrowedFd<'_> {
    self.fd.as_fd()
  }
}

impl Channel {
  /// Takes a connected stream socket over: as [`Socket::new`] fails, or with `EPROTOTYPE` if it is none.
  pub fn new(fd: OwnedFd, limits: Limits) -> nix::Result<Self> {
    if Socket::new(fd.as_fd())?.socket_type() != SocketType::Stream {
      return Err(Errno::EPROTOTYPE);
    }
    Ok(Self { fd, decoder: Decoder::new(limits), outbox: Outbox::default(), control: Box::default() })
  }

  /// How many messages wait for room.
  pub fn waiting(&self) -> usize {
    self.outbox.len()
  }

  /// Sends a message, or captures what of it cannot go out at once: false then, and [`Channel::flush`] sends the rest.
  /// The caller's descriptors stay open, and may be closed at once.
  pub fn try_send(&mut self, message: Message<'_>, fds: &[BorrowedFd<'_>]) -> nix::Result<bool> {
    let Message { kind, format, id, data } = message;
    let header = Header { kind, format, id, length: 0, fds: 0 };
    Ok(self.outbox.send(stream(&self.fd), header, data, fds)?.is_none())
  }

  /// Sends what waits, as far as there is available_descriptors; true if nothing waits any more. `ETOOMANYREFS` and `ENOBUFS` can be
  /// tried again after a pause: too many descriptors of this user are in flight (unix(7)), or memory is short, and no
  /// event tells of the end of either.
  pub fn flush(&mut self) -> nix::Result<bool> {
    match self.outbox.flush(stream(&self.fd)).1 {
      None => Ok(true),
      Some(Errno::EAGAIN) => Ok(false),
      Some(errno) => Err(errno),
    }
  }

  /// Sends a message, and waits until the kernel has taken it whole.
  pub fn send(&mut self, message: Message<'_>, fds: &[BorrowedFd<'_>]) -> nix::Result<()> {
    let mut whole = self.try_send(message, fds)?;
    let mut pause = FIRST_PAUSE;
    while !whole {
      whole = match self.flush() {
        Ok(true) => true,
        Ok(false) => {
          self.wait(PollFlags::POLLOUT)?;
          false
        }
        Err(Errno::ETOOMANYREFS | Errno::ENOBUFS) => {
          std::thread::sleep(pause);
          pause = LONGEST_PAUSE.min(pause * 2);
          false
        }
        Err(errno) => return Err(errno),
      };
    }
    Ok(())
  }

  /// The next message, if one is there (`EAGAIN` otherwise); `None` at the end of the connection.
  pub fn try_receive(&mut self) -> Result<Option<Frame>, ChannelError> {
    loop {
      if self.decoder.peek_header().is_some() {
        return self.take();
      }
      self.decoder.next_frame()?; // what went wrong, if something did
      if self.decoder.has_ended() {
        return Ok(None);
      }
      self.decoder.receive(stream(&self.fd), &mut self.control)?;
    }
  }

  fn take(&mut self) -> Result<Option<Frame>, ChannelError> {
    let Some(arrived) = self.decoder.next_frame()? else { return Ok(None) };
    let Header { kind, format, id, .. } = arrived.header;
    let frame = Frame { kind, format, id, data: arrived.data.to_vec(), fds: arrived.fds };
    if arrived.lost { Err(ChannelError::DescriptorsLost(frame)) } else { Ok(Some(frame)) }
  }

  /// The next message, when it comes; `None` at the end of the connection.
  pub fn receive(&mut self) -> Result<Option<Frame>, ChannelError> {
    loop {
      match self.try_receive() {
        Err(ChannelError::System(Errno::EAGAIN)) => self.wait(PollFlags::POLLIN)?,
        result => return result,
      }
    }
  }

  fn wait(&self, event: PollFlags) -> nix::Result<()> {
    match poll(&mut [PollFd::new(self.fd.as_fd(), event)], PollTimeout::NONE) {
      Ok(_) | Err(Errno::EINTR) => Ok(()),
      Err(errno) => Err(errno),
    }
  }
}

/// The socket of a channel. Whoever made it may have had the kernel tell who sends: that is no reason to refuse a frame.
fn stream(fd: &OwnedFd) -> Socket<'_> {
  Socket::from_parts(fd.as_fd(), SocketType::Stream, AncillaryOptions { credentials: true, pidfd: true })
}
