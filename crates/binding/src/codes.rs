//! Result codes, events and limits that JavaScript and the native calls share. Each is defined here once and exported.

use fdpass_core::Errno;
use napi_derive::napi;

/// The call cannot proceed now. The reactor reports when to call again.
#[napi]
pub const AGAIN: i32 = -0x1_0000;

/// The call cannot proceed now, and no event reports when it can: retry after a delay.
#[napi]
pub const BUSY: i32 = -0x1_0001;

/// The peer closed its writing side.
#[napi]
pub const END: i32 = -0x1_0002;

/// A channel's peer violated the protocol or a limit.
#[napi]
pub const BROKEN: i32 = -0x1_0003;

/// The next frame is a message above the given limits. It was left for a later call.
#[napi]
pub const FULL: i32 = -0x1_0004;

/// The event of a socket that can be read or accepted from.
#[napi]
pub const READABLE: i32 = 1;

/// The event of a socket that can be written to.
#[napi]
pub const WRITABLE: i32 = 2;

/// The maximum number of descriptors that one message can carry.
#[napi]
pub const MAX_SENT_FDS: i32 = fdpass_core::MAX_SENT_FDS as i32;

/// The maximum number of descriptors that the kernel can deliver in one message.
#[napi]
pub const MAX_RECEIVED_FDS: i32 = fdpass_core::MAX_RECEIVED_FDS as i32;

/// The maximum number of descriptors in one message of a channel.
#[napi]
pub const MAX_CHANNEL_FDS: i32 = fdpass_core::Header::MAX_FDS as i32;

/// The maximum length of a socket's path, in bytes.
#[napi]
pub const MAX_PATH: i32 = fdpass_core::Address::MAX_PATH as i32;

/// Returns an error as JavaScript sees it: `AGAIN`, `BUSY` or the negative error number.
pub(crate) fn code(errno: Errno) -> i32 {
  match errno {
    Errno::EAGAIN => AGAIN,
    // Too many descriptors of this user are in flight (unix(7)). No event reports that a receiver took them.
    Errno::ETOOMANYREFS => BUSY,
    // macOS: the peer's buffer is full, although kqueue reports the socket as writable.
    #[cfg(target_vendor = "apple")]
    Errno::ENOBUFS => BUSY,
    errno => -(errno as i32),
  }
}

/// The name and the text of an error number.
#[napi(object, object_from_js = false)]
pub struct ErrnoText {
  /// The symbolic name: `'EPIPE'`.
  pub name: String,
  /// The description: `'Broken pipe'`.
  pub text: String,
}

/// Returns the name and the text of a positive error number of this platform.
#[napi]
pub fn errno_text(errno: i32) -> ErrnoText {
  let (name, text) = fdpass_core::errno_text(errno);
  ErrnoText { name, text: text.into() }
}

/// A system call that failed.
#[napi(object, object_from_js = false)]
pub struct SystemFailure {
  /// The error's code: `AGAIN`, `BUSY` or a negative error number.
  pub errno: i32,
  /// The name of the system call.
  pub syscall: String,
}

/// The source of readiness events.
#[napi(string_enum = "lowercase")]
pub enum Backend {
  /// `uv_poll` on the environment's own loop: Node and Electron.
  Uv,
  /// A thread with epoll or kqueue: runtimes without a working `uv_poll`.
  Thread,
}

/// The error of an environment that could not be opened.
pub(crate) enum OpenError {
  /// A system call failed.
  System(Errno, &'static str),
  /// A call of the runtime failed.
  Runtime(napi::Error),
}

impl From<napi::Error> for OpenError {
  fn from(error: napi::Error) -> Self {
    Self::Runtime(error)
  }
}

/// The outcome of a received message's descriptors. Every status but `Complete` means that all of them were closed.
#[napi]
pub enum ControlStatus {
  /// The message's descriptors arrived whole.
  Complete,
  /// The kernel discarded some of them, for instance because the descriptor table was full.
  Truncated,
  /// More descriptors arrived than the receiver accepts.
  TooMany,
  /// Control messages arrived that the receiver did not enable.
  Unexpected,
}

/// The kind of a channel's frame.
#[napi]
pub enum FrameKind {
  /// A message that expects no response.
  Message,
  /// A request.
  Request,
  /// The response to a request.
  Response,
  /// The error that a request failed with.
  Error,
  /// The cancellation of a request.
  Cancel,
  /// The reason why the sender closes the channel.
  Close,
}

/// The format of a frame's data.
#[napi]
pub enum FrameFormat {
  /// Bytes.
  Bytes,
  /// JSON text in UTF-8.
  Json,
}

/// The reason for `BROKEN`.
#[napi]
pub enum ProtocolViolation {
  /// The bytes are no frame.
  NotAFrame,
  /// A frame announced more bytes than the limit.
  TooLong,
  /// A frame announced more descriptors than the limit.
  TooManyDescriptors,
  /// An error, a cancellation or a close announced more bytes than its kind can have.
  InvalidControlFrame,
  /// Another number of descriptors arrived than a frame announced.
  WrongDescriptors,
  /// The stream ended inside a frame.
  EndedInside,
}

/// The type of a Unix domain socket.
#[napi(string_enum = "lowercase")]
pub enum SocketType {
  /// `SOCK_STREAM`
  Stream,
  /// `SOCK_SEQPACKET`
  Seqpacket,
  /// `SOCK_DGRAM`
  Dgram,
}

/// The direction of a connection that `shutdown` ends.
#[napi(string_enum = "lowercase")]
pub enum ShutdownDirection {
  /// `SHUT_RD`: nothing more is received.
  Read,
  /// `SHUT_WR`: nothing more is sent, and the peer sees the end.
  Write,
  /// `SHUT_RDWR`
  Both,
}

/// The operations that a descriptor allows.
#[napi(string_enum = "lowercase")]
pub enum Access {
  /// None: the descriptor was opened with `O_PATH`.
  Path,
  /// Reading only.
  Read,
  /// Writing only.
  Write,
  /// Reading and writing.
  Both,
}

/// The kind of a descriptor.
#[napi(string_enum = "kebab-case")]
pub enum Kind {
  /// A regular file. Also a memfd or a pidfd on a system without /proc.
  File,
  /// A directory.
  Directory,
  /// A pipe's end, or a named pipe.
  Fifo,
  /// A character device other than a terminal.
  CharacterDevice,
  /// A block device.
  BlockDevice,
  /// A terminal, or the end of a pseudoterminal that is used like one.
  Tty,
  /// The master of a pseudoterminal.
  Pty,
  /// A symbolic link.
  Symlink,
  /// A TCP socket that does not listen.
  Tcp,
  /// A TCP socket that listens.
  TcpListener,
  /// A UDP socket.
  Udp,
  /// A Unix domain stream socket.
  UnixStream,
  /// A Unix domain seqpacket socket.
  UnixSeqpacket,
  /// A Unix domain datagram socket.
  UnixDgram,
  /// A Unix domain socket that listens.
  UnixListener,
  /// A memfd.
  Memfd,
  /// A pidfd.
  Pidfd,
  /// An eventfd.
  Eventfd,
  /// An epoll instance.
  Epoll,
  /// A socket of another family or protocol.
  Socket,
  /// Anything else.
  Other,
}

/// Converts an enum of core to the enum of the same variants that JavaScript uses.
macro_rules! from_core {
  ($name:ident, $core:ident, [$($variant:ident),*]) => {
    impl From<fdpass_core::$core> for $name {
      fn from(value: fdpass_core::$core) -> Self {
        match value {
          $(fdpass_core::$core::$variant => Self::$variant,)*
        }
      }
    }
  };
}

/// Converts an enum that JavaScript uses to the enum of core with the same variants.
macro_rules! into_core {
  ($name:ident, $core:ident, [$($variant:ident),*]) => {
    impl From<$name> for fdpass_core::$core {
      fn from(value: $name) -> Self {
        match value {
          $($name::$variant => Self::$variant,)*
        }
      }
    }
  };
}

/// Converts a number that JavaScript passes to a hot call.
macro_rules! from_number {
  ($name:ident, [$($variant:ident),*]) => {
    impl $name {
      /// Returns the variant with a number; `EINVAL` if there is none.
      pub(crate) fn from_number(number: i32) -> Result<Self, Errno> {
        match number {
          $(_ if number == Self::$variant as i32 => Ok(Self::$variant),)*
          _ => Err(Errno::EINVAL),
        }
      }
    }
  };
}

from_core!(SocketType, SocketType, [Stream, Seqpacket, Dgram]);
into_core!(SocketType, SocketType, [Stream, Seqpacket, Dgram]);
into_core!(ShutdownDirection, Direction, [Read, Write, Both]);
from_core!(Access, Access, [Path, Read, Write, Both]);
from_core!(
  Kind,
  Kind,
  [
    File,
    Directory,
    Fifo,
    CharacterDevice,
    BlockDevice,
    Tty,
    Pty,
    Symlink,
    Tcp,
    TcpListener,
    Udp,
    UnixStream,
    UnixSeqpacket,
    UnixDgram,
    UnixListener,
    Memfd,
    Pidfd,
    Eventfd,
    Epoll,
    Socket,
    Other
  ]
);
from_core!(FrameKind, FrameKind, [Message, Request, Response, Error, Cancel, Close]);
into_core!(FrameKind, FrameKind, [Message, Request, Response, Error, Cancel, Close]);
from_number!(FrameKind, [Message, Request, Response, Error, Cancel, Close]);
from_core!(FrameFormat, Format, [Bytes, Json]);
into_core!(FrameFormat, Format, [Bytes, Json]);
from_number!(FrameFormat, [Bytes, Json]);
