//! Channels: messages over a stream socket, each with exactly the descriptors that were sent with it.

mod decoder;
mod frame;
mod outbox;

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

pub use decoder::{BorrowedFrame, Decoder, DescriptorBatch, ReadBuffer};
pub use frame::{Format, FrameError, FrameKind, Header, Limits};
pub use outbox::Outbox;

use crate::socket::{AncillaryOptions, ControlBuffer, Socket, SocketType};
use crate::sys::errno::restart;

/// Delays before a call is retried when no event reports that it can succeed. They double.
const FIRST_DELAY: Duration = Duration::from_millis(1);
const MAX_DELAY: Duration = Duration::from_millis(64);

/// A message to be sent.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
  /// Kind of its frame.
  pub kind: FrameKind,
  /// Format of its data.
  pub format: Format,
  /// Id of the request that it is or belongs to; 0 for a message.
  pub id: u32,
  /// Its data.
  pub data: &'a [u8],
}

impl<'a> Message<'a> {
  /// Creates a message of bytes, without a response.
  pub fn bytes(data: &'a [u8]) -> Self {
    Self { kind: FrameKind::Message, format: Format::Bytes, id: 0, data }
  }
}

/// A received message.
#[derive(Debug)]
pub struct Frame {
  /// Kind of its frame.
  pub kind: FrameKind,
  /// Format of its data.
  pub format: Format,
  /// Id of the request that it is or belongs to; 0 for a message.
  pub id: u32,
  /// Its data.
  pub data: Vec<u8>,
  /// Its descriptors, in the order in which they were sent.
  pub fds: Vec<OwnedFd>,
}

/// Error of a receive.
#[derive(Debug)]
pub enum ChannelError {
  /// Error of the system call; `EAGAIN` if no message is queued.
  System(Errno),
  /// The peer violated the protocol or the limits: nothing can be received any more.
  Frame(FrameError),
  /// The descriptors of this message could not be delivered: the table is full, or a security module refused one. Those
  /// that arrived are closed. The message has its data, and the next message can be received.
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

/// A stream socket whose bytes are frames (PROTOCOL.md).
///
/// [`Channel::send`] and [`Channel::receive`] wait. [`Channel::try_send`], [`Channel::flush`] and [`Channel::try_receive`] do
/// not: they are for callers with an event loop. Wait for the descriptor ([`AsFd`]) to become readable, and writable while
/// [`Channel::waiting`] is not 0. The socket's blocking mode does not change.
///
/// ```
/// use std::os::fd::AsFd;
/// use fdpass_core::{Channel, Limits, Message, SocketType, pipe, socketpair};
///
/// let (a, b) = socketpair(SocketType::Stream)?;
/// let mut a = Channel::new(a, Limits::default())?;
/// let mut b = Channel::new(b, Limits::default())?;
/// let (reader, writer) = pipe()?;
/// a.send(Message::bytes(b"both ends of a pipe"), &[reader.as_fd(), writer.as_fd()])?;
/// drop((reader, writer)); // the message has its own descriptors
///
/// let message = b.receive()?.expect("no end of the connection");
/// assert_eq!(message.data, b"both ends of a pipe");
/// assert_eq!(message.fds.len(), 2);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
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
  /// Takes over a connected stream socket. Errors: those of [`Socket::new`], and `EPROTOTYPE` for another type.
  pub fn new(fd: OwnedFd, limits: Limits) -> nix::Result<Self> {
    if Socket::new(fd.as_fd())?.socket_type() != SocketType::Stream {
      return Err(Errno::EPROTOTYPE);
    }
    Ok(Self { fd, decoder: Decoder::new(limits), outbox: Outbox::default(), control: Box::default() })
  }

  /// Returns how many messages wait to be sent.
  pub fn waiting(&self) -> usize {
    self.outbox.len()
  }

  /// Sends a message, or captures the part that has to wait. Returns false then, and [`Channel::flush`] sends the rest.
  /// The caller's descriptors stay open and may be closed at once.
  pub fn try_send(&mut self, message: Message<'_>, fds: &[BorrowedFd<'_>]) -> nix::Result<bool> {
    let Message { kind, format, id, data } = message;
    let header = Header { kind, format, id, length: 0, fds: 0 };
    Ok(self.outbox.send(stream(&self.fd), header, data, fds)?.is_none())
  }

  /// Sends waiting messages as far as there is room. Returns true if nothing waits any more.
  ///
  /// After `ETOOMANYREFS` (too many descriptors of this user are in flight, unix(7)) and `ENOBUFS`, call it again after a
  /// delay: no event reports recovery.
  pub fn flush(&mut self) -> nix::Result<bool> {
    match self.outbox.flush(stream(&self.fd)).1 {
      None => Ok(true),
      Some(Errno::EAGAIN) => Ok(false),
      Some(errno) => Err(errno),
    }
  }

  /// Sends a message, and waits until the kernel has accepted all of it.
  pub fn send(&mut self, message: Message<'_>, fds: &[BorrowedFd<'_>]) -> nix::Result<()> {
    let mut whole = self.try_send(message, fds)?;
    let mut delay = FIRST_DELAY;
    while !whole {
      whole = match self.flush() {
        Ok(true) => true,
        Ok(false) => {
          self.wait(PollFlags::POLLOUT)?;
          false
        }
        Err(Errno::ETOOMANYREFS | Errno::ENOBUFS) => {
          std::thread::sleep(delay);
          delay = MAX_DELAY.min(delay * 2);
          false
        }
        Err(errno) => return Err(errno),
      };
    }
    Ok(())
  }

  /// Returns the next message without waiting; `EAGAIN` if none is queued, `None` at the end of the connection. `EAGAIN` also
  /// after 1 MiB of a longer message, although more may be queued, so that a peer cannot occupy the caller.
  pub fn try_receive(&mut self) -> Result<Option<Frame>, ChannelError> {
    let mut received = 0;
    loop {
      if self.decoder.peek_header().is_some() {
        return self.take();
      }
      self.decoder.next_frame()?; // returns an error of the decoder
      if self.decoder.has_ended() {
        return Ok(None);
      }
      if received >= Decoder::BYTES_PER_CALL {
        return Err(Errno::EAGAIN.into());
      }
      received += self.decoder.receive(stream(&self.fd), &mut self.control)?;
    }
  }

  fn take(&mut self) -> Result<Option<Frame>, ChannelError> {
    let Some(arrived) = self.decoder.next_frame()? else { return Ok(None) };
    let Header { kind, format, id, .. } = arrived.header;
    let frame = Frame { kind, format, id, data: arrived.data.to_vec(), fds: arrived.fds };
    if arrived.lost { Err(ChannelError::DescriptorsLost(frame)) } else { Ok(Some(frame)) }
  }

  /// Waits for the next message and returns it; `None` at the end of the connection.
  pub fn receive(&mut self) -> Result<Option<Frame>, ChannelError> {
    loop {
      match self.try_receive() {
        Err(ChannelError::System(Errno::EAGAIN)) => self.wait(PollFlags::POLLIN)?,
        result => return result,
      }
    }
  }

  fn wait(&self, event: PollFlags) -> nix::Result<()> {
    restart(|| poll(&mut [PollFd::new(self.fd.as_fd(), event)], PollTimeout::NONE)).map(drop)
  }
}

/// The socket of a channel. Its creator may have requested control messages; they are no reason to refuse a frame.
fn stream(fd: &OwnedFd) -> Socket<'_> {
  Socket::from_parts(fd.as_fd(), SocketType::Stream, AncillaryOptions { credentials: true, pidfd: true })
}
