//! Frames: messages of a stream with their descriptors. PROTOCOL.md describes them.

#![cfg_attr(not(test), deny(clippy::arithmetic_side_effects))] // of numbers that a peer sends

use std::fmt;

use crate::socket::MAX_SENT_FDS;

/// First byte of each frame.
pub(super) const MAGIC: u8 = 0xfd;

/// Second byte of each frame.
const VERSION: u8 = 1;

/// Kind of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameKind {
  /// A message without a response.
  Message,
  /// A message that requests a response with its id.
  Request,
  /// The response to the request with its id.
  Response,
  /// The request with its id failed. The data are the error as JSON: `message`, and if known `code`, `errno`, `syscall`.
  Error,
  /// The sender no longer waits for the response to the request with its id.
  Cancel,
  /// The sender ends the connection. The data are the error, as in `Error`.
  Close,
}

const KINDS: [FrameKind; 6] =
  [FrameKind::Message, FrameKind::Request, FrameKind::Response, FrameKind::Error, FrameKind::Cancel, FrameKind::Close];

/// Format of the data of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
  /// Bytes.
  Bytes,
  /// A value as JSON in UTF-8. No data means no value.
  Json,
}

/// Header of a frame. It precedes the data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
  /// Kind of the frame.
  pub kind: FrameKind,
  /// Format of its data.
  pub format: Format,
  /// Length of its data in bytes.
  pub length: u32,
  /// Number of its descriptors.
  pub fds: u32,
  /// Id of the request that it is or belongs to; 0 for a message.
  pub id: u32,
}

impl Header {
  /// Size of a header in bytes.
  pub const SIZE: usize = 16;

  /// Maximum number of descriptors of a frame. One call sends 253 and needs a byte; an empty frame has 16 bytes.
  pub const MAX_FDS: usize = Self::SIZE * MAX_SENT_FDS;

  /// Maximum length in bytes of the data of an error and of a close, whatever the limits of messages.
  pub const MAX_ERROR_BYTES: usize = 65_536;

  /// Returns how many bytes the frame has: its header and its data.
  pub(super) fn frame_size(&self) -> usize {
    Self::SIZE.saturating_add(self.length as usize)
  }

  /// Returns its bytes; numbers are big-endian.
  pub fn encode(&self) -> [u8; Self::SIZE] {
    let mut bytes = [0; Self::SIZE];
    bytes[..4].copy_from_slice(&[MAGIC, VERSION, self.kind as u8, self.format as u8]);
    bytes[4..8].copy_from_slice(&self.length.to_be_bytes());
    bytes[8..12].copy_from_slice(&self.fds.to_be_bytes());
    bytes[12..].copy_from_slice(&self.id.to_be_bytes());
    bytes
  }

  /// Reads a header; `None` if the bytes are none of this version.
  pub fn decode(bytes: &[u8; Self::SIZE]) -> Option<Self> {
    let [MAGIC, VERSION, kind, format, numbers @ ..] = bytes else { return None };
    let ([length, fds, id], []) = numbers.as_chunks() else { return None };
    let format = match format {
      0 => Format::Bytes,
      1 => Format::Json,
      _ => return None,
    };
    let kind = *KINDS.get(usize::from(*kind))?;
    let [length, fds, id] = [length, fds, id].map(|bytes| u32::from_be_bytes(*bytes));
    Some(Self { kind, format, length, fds, id })
  }
}

/// Limits of received messages, requests and responses. The data of errors, cancellations and closes
/// have limits of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
  /// Maximum length of the data in bytes. Default: 16 MiB.
  pub max_bytes: usize,
  /// Maximum number of descriptors, at most [`Header::MAX_FDS`]. Default: 1024.
  pub max_fds: usize,
}

impl Default for Limits {
  fn default() -> Self {
    Self { max_bytes: 16 * 1024 * 1024, max_fds: 1024 }
  }
}

/// Error after which nothing can be received: the start of the next frame, or its descriptors, are unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameError {
  /// The bytes are no frame of this version.
  NotAFrame,
  /// A frame announces this many bytes, more than the limit.
  TooLong(u32),
  /// A frame has this many descriptors, more than the limit.
  TooManyDescriptors(u32),
  /// An error, a cancellation or a close has more data than its kind can have.
  InvalidControlFrame,
  /// Another number of descriptors arrived with a frame than its header announces.
  WrongDescriptors {
    /// Number in the header.
    announced: u32,
    /// Number that arrived.
    arrived: u32,
  },
  /// The connection ended within a frame.
  EndedInside,
}

impl fmt::Display for FrameError {
  fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
    match self {
      Self::NotAFrame => write!(formatter, "the bytes are no frame"),
      Self::TooLong(length) => write!(formatter, "a frame of {length} bytes exceeds the limit"),
      Self::TooManyDescriptors(count) => write!(formatter, "a frame with {count} descriptors exceeds the limit"),
      Self::WrongDescriptors { announced, arrived } => {
        write!(formatter, "a frame announced {announced} descriptors, and {arrived} arrived")
      }
      Self::InvalidControlFrame => write!(formatter, "a frame has more data than its kind can have"),
      Self::EndedInside => write!(formatter, "the connection ended within a frame"),
    }
  }
}

impl std::error::Error for FrameError {}
