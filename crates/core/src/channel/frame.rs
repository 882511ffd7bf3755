//! Frames: messages of a stream with their descriptors. PROTOCOL.md describes them.

use std::fmt;

use crate::socket::MAX_SENT_FDS;

/// The first byte of each frame: what does not begin with it is no frame.
pub(super) const MAGIC: u8 = 0xfd;

/// The second byte.
const VERSION: u8 = 1;

/// What a frame is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameKind {
  /// A message that asks for nothing.
  Message,
  /// A message that asks for an answer with its id.
  Request,
  /// The answer to the request with its id.
  Response,
  /// The request with its id failed; the data say why, as JSON: `message`, and if known `code`, `errno`, `syscall`.
  Error,
  /// Nobody waits for the answer to the request with its id any more.
  Cancel,
  /// The sender ends the connection; the data say why, as in `Error`.
  Close,
}

const KINDS: [FrameKind; 6] =
  [FrameKind::Message, FrameKind::Request, FrameKind::Response, FrameKind::Error, FrameKind::Cancel, FrameKind::Close];

/// What the data of a frame are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
  /// Bytes, as they are.
  Bytes,
  /// A value as JSON in UTF-8; no data is no value.
  Json,
}

/// What a frame says of itself before its data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
  /// What it is for.
  pub kind: FrameKind,
  /// What its data are.
  pub format: Format,
  /// How many bytes of data follow the header.
  pub length: u32,
  /// How many descriptors belong to it.
  pub fds: u32,
  /// Which request it is, or is about.
  pub id: u32,
}

impl Header {
  /// How many bytes a header has.
  pub const SIZE: usize = 16;

  /// The most descriptors of a frame: one call sends 253, and each call needs a byte, of which an empty frame has 16.
  pub const MAX_FDS: usize = Self::SIZE * MAX_SENT_FDS;

  /// The most bytes of an error and of a close, also where a message may have less.
  pub const MAX_ERROR_BYTES: usize = 65_536;

  /// Its bytes; numbers go most significant byte first.
  pub fn encode(&self) -> [u8; Self::SIZE] {
    let mut bytes = [0; Self::SIZE];
    bytes[..4].copy_from_slice(&[MAGIC, VERSION, self.kind as u8, self.format as u8]);
    bytes[4..8].copy_from_slice(&self.length.to_be_bytes());
    bytes[8..12].copy_from_slice(&self.fds.to_be_bytes());
    bytes[12..].copy_from_slice(&self.id.to_be_bytes());
    bytes
  }

  /// What the bytes say, if they are a header.
  pub fn decode(bytes: &[u8; Self::SIZE]) -> Option<Self> {
    let [MAGIC, VERSION, kind, format, numbers @ ..] = bytes else { return None };
    let number = |index: usize| Some(u32::from_be_bytes(numbers.get(index * 4..index * 4 + 4)?.try_into().ok()?));
    let format = match format {
      0 => Format::Bytes,
      1 => Format::Json,
      _ => return None,
    };
    let kind = *KINDS.get(usize::from(*kind))?;
    Some(Self { kind, format, length: number(0)?, fds: number(1)?, id: number(2)? })
  }
}

/// How large a frame may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
  /// The most bytes of data; of an error and of a close at least [`Header::MAX_ERROR_BYTES`].
  pub max_bytes: usize,
  /// The most descriptors, at most [`Header::MAX_FDS`].
  pub max_fds: usize,
}

impl Default for Limits {
  fn default() -> Self {
    Self { max_bytes: 16 * 1024 * 1024, max_fds: 1024 }
  }
}

/// Why nothing can be received any more: where the next frame begins, or which descriptors are its own, is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameError {
  /// What came is no frame of this version.
  NotAFrame,
  /// A frame says that it has so many bytes, more than are accepted.
  TooLong(u32),
  /// A frame has so many descriptors, more than are accepted.
  TooManyDescriptors(u32),
  /// A frame said that it has descriptors, and another number came with its bytes.
  WrongDescriptors {
    /// What its header says.
    announced: u32,
    /// How many came.
    came: u32,
  },
  /// The connection ended inside of a frame.
  EndedInside,
}

impl fmt::Display for FrameError {
  fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
    match self {
      Self::NotAFrame => write!(formatter, "what came is no frame"),
      Self::TooLong(length) => write!(formatter, "a frame of {length} bytes is longer than is accepted"),
      Self::TooManyDescriptors(count) => write!(formatter, "a frame has {count} descriptors, more than are accepted"),
      Self::WrongDescriptors { announced, came } => {
        write!(formatter, "a frame announced {announced} descriptors, and {came} came")
      }
      Self::EndedInside => write!(formatter, "the connection ended inside of a frame"),
    }
  }
}

impl std::error::Error for FrameError {}
