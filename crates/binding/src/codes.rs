//! Result codes, events and limits that JavaScript and the native calls share. Each is defined here once and exported.

use fdpass_core::{Errno, Format as CoreFormat, FrameKind as CoreFrameKind};
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

/// The source of readiness events.
#[napi(string_enum = "lowercase")]
pub enum Backend {
  /// `uv_poll` on the environment's own loop: Node and Electron.
  Uv,
  /// A thread with epoll or kqueue: runtimes without a working `uv_poll`.
  Thread,
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
  /// Another number of descriptors arrived than a frame announced.
  WrongDescriptors,
  /// The stream ended inside a frame.
  EndedInside,
}

/// Relates an enum of JavaScript's numbers to the enum of core that it stands for.
macro_rules! relate {
  ($name:ident, $core:ident, [$($variant:ident),*]) => {
    impl From<$core> for $name {
      fn from(value: $core) -> Self {
        match value {
          $($core::$variant => Self::$variant,)*
        }
      }
    }

    impl $name {
      /// Returns the core's value for a number of this enum; `EINVAL` for any other number.
      pub(crate) fn to_core(number: i32) -> Result<$core, Errno> {
        match number {
          $(_ if number == Self::$variant as i32 => Ok($core::$variant),)*
          _ => Err(Errno::EINVAL),
        }
      }
    }
  };
}

relate!(FrameKind, CoreFrameKind, [Message, Request, Response, Error, Cancel, Close]);
relate!(FrameFormat, CoreFormat, [Bytes, Json]);
