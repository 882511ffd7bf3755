//! Frames out of the bytes and descriptors that a stream delivers.

#![cfg_attr(not(test), deny(clippy::arithmetic_side_effects))] // of numbers that a peer sends

use std::collections::VecDeque;
use std::mem;
use std::ops::{Deref, DerefMut, Range};
use std::os::fd::OwnedFd;

use super::frame::{FrameError, FrameKind, Header, Limits, MAGIC};
use crate::fd::ForeignFds;
use crate::socket::{ControlBuffer, ReceivedFds, Socket};

/// Size in bytes of the buffer for the first receive. It doubles each time it is filled.
const FIRST_RECEIVE: usize = 4096;

/// Maximum size in bytes of one receive, except of the rest of a large frame.
const LARGEST_RECEIVE: usize = 65_536;

/// Maximum size in bytes of one receive of the rest of a large frame. A sender that fills the socket while it is emptied
/// cannot make the call longer.
const LARGEST_PART: usize = 1024 * 1024;

/// Maximum size in bytes of the buffer that an empty decoder keeps.
const MAX_IDLE_BUFFER: usize = 1024 * 1024;

/// Descriptors of one receive.
#[derive(Debug)]
pub enum DescriptorBatch {
  /// All descriptors that were sent; there may be none.
  Complete(Vec<OwnedFd>),
  /// Some could not be delivered: the descriptor table is full, or a security module refused one.
  Lost,
}

/// A complete frame. Its data are in the decoder's buffer until the next receive.
#[derive(Debug)]
pub struct BorrowedFrame<'a> {
  /// Its header.
  pub header: Header,
  /// Its data.
  pub data: &'a [u8],
  /// Its descriptors, in the order in which they were sent; none if they were lost.
  pub fds: Vec<OwnedFd>,
  /// Its descriptors could not be delivered. Later frames are not affected.
  pub lost: bool,
}

/// Descriptors that have arrived with a frame.
#[derive(Debug, Default)]
struct Attachments {
  fds: ForeignFds,
  lost: bool,
}

impl Attachments {
  fn new(batch: DescriptorBatch, owner: Option<u32>) -> Self {
    match batch {
      DescriptorBatch::Complete(list) => Self { fds: ForeignFds { list, owner }, lost: false },
      DescriptorBatch::Lost => Self { fds: ForeignFds::default(), lost: true },
    }
  }

  fn add(&mut self, mut batch: Self) {
    if self.fds.list.is_empty() {
      mem::swap(&mut self.fds, &mut batch.fds);
    } else {
      self.fds.list.append(&mut batch.fds.list);
    }
    self.lost |= batch.lost;
    if self.lost {
      self.fds = ForeignFds::default(); // it is unknown which of them are missing
    }
  }

  fn check(&self, announced: u32) -> Result<(), FrameError> {
    let arrived = self.fds.list.len() as u32;
    if self.lost || arrived == announced { Ok(()) } else { Err(FrameError::WrongDescriptors { announced, arrived }) }
  }
}

/// Decodes frames from what a stream delivers, however the kernel merged or split it.
///
/// A stream delivers at most one batch of descriptors with a receive. On Linux it was sent with the last of the bytes: plain
/// bytes before it are merged with it, and no bytes follow (`unix_stream_read_generic` in af_unix.c stops there). On other
/// platforms it was sent with the first byte. A sender sends descriptors with bytes of one frame only. The frame of each
/// descriptor is therefore unambiguous, and no frame can receive another frame's descriptors.
#[derive(Debug)]
pub struct Decoder {
  limits: Limits,
  buffer: Vec<u8>,
  /// Offset of the first frame that was not returned.
  start: usize,
  /// Offset of the incomplete frame.
  partial: usize,
  /// Offset of the end of the received bytes.
  end: usize,
  /// Descriptors of the incomplete frame.
  attachments: Attachments,
  /// Complete frames that were not returned.
  complete: VecDeque<(Header, Attachments)>,
  error: Option<FrameError>,
  has_ended: bool,
  owner: Option<u32>,
}

impl Decoder {
  /// How many bytes of one frame are received before other work has its turn. A peer can fill the socket while it is emptied.
  pub const BYTES_PER_CALL: usize = LARGEST_PART;

  /// Creates a decoder that has received nothing.
  pub fn new(limits: Limits) -> Self {
    let limits = Limits { max_fds: limits.max_fds.min(Header::MAX_FDS), ..limits };
    Self {
      limits,
      buffer: Vec::new(),
      start: 0,
      partial: 0,
      end: 0,
      attachments: Attachments::default(),
      complete: VecDeque::new(),
      error: None,
      has_ended: false,
      owner: None,
    }
  }

  /// Closes the descriptors that are received from now on, and belong to no frame, by [`close_apart`](crate::close_apart), for
  /// this owner.
  pub fn close_apart(&mut self, owner: u32) {
    self.owner = Some(owner);
  }

  /// Receives once: `recvmsg(2)`, without waiting. Returns how many bytes were received, which is 0 at the end of the stream.
  /// Receives nothing if [`Decoder::next_frame`] has a frame or an error to return.
  pub fn receive(&mut self, socket: Socket<'_>, control: &mut ControlBuffer) -> nix::Result<usize> {
    let Some(mut buffer) = self.read_buffer() else { return Ok(0) };
    let owner = buffer.decoder.owner;
    let refused = |fds| drop(ForeignFds { list: fds, owner });
    let Some(message) = socket.recv_refusing(&mut buffer, control, usize::MAX, refused)? else {
      self.end_of_stream();
      return Ok(0);
    };
    let batch = match message.fds {
      ReceivedFds::Complete(fds) => DescriptorBatch::Complete(fds),
      ReceivedFds::Truncated | ReceivedFds::TooMany | ReceivedFds::Unexpected => DescriptorBatch::Lost,
    };
    buffer.commit(message.length, batch);
    Ok(message.length)
  }

  /// Returns the buffer for the next bytes, which is never empty. `None` if [`Decoder::next_frame`] has a frame or an error
  /// to return: nothing is received behind them.
  pub fn read_buffer(&mut self) -> Option<ReadBuffer<'_>> {
    if self.has_next() {
      return None;
    }
    // All complete frames were returned, and none of them is borrowed any more: what is kept is the incomplete frame.
    self.buffer.copy_within(self.partial..self.end, 0);
    self.end = self.end.saturating_sub(self.partial);
    self.start = 0;
    self.partial = 0;
    if self.end == 0 && self.buffer.len() > MAX_IDLE_BUFFER {
      self.buffer = Vec::new();
    }
    let size = match self.partial_header() {
      // The buffer grows with the received bytes: a header alone cannot make it 4 GiB. It ends with the frame.
      Ok(Some(header)) => {
        let part = self.end.clamp(LARGEST_RECEIVE, LARGEST_PART);
        header.frame_size().min(self.end.saturating_add(part))
      }
      _ => FIRST_RECEIVE,
    };
    if self.buffer.len() < size {
      self.buffer.resize(size, 0);
    }
    debug_assert!(self.end < self.buffer.len());
    Some(ReadBuffer { decoder: self })
  }

  /// Adds `length` bytes that were written behind the incomplete frame, and the descriptors that arrived with them.
  fn commit(&mut self, length: usize, batch: DescriptorBatch) {
    self.end = self.end.saturating_add(length).min(self.buffer.len());
    let filled_up = self.end == self.buffer.len();
    let last_owns = cfg!(any(target_os = "linux", target_os = "android"));
    let mut batch = Some(Attachments::new(batch, self.owner));
    if !last_owns && let Some(batch) = batch.take() {
      self.attachments.add(batch);
    }
    loop {
      match self.partial_header() {
        Ok(Some(header)) if self.end.saturating_sub(self.partial) >= header.frame_size() => {
          self.partial = self.partial.saturating_add(header.frame_size());
          self.complete.push_back((header, mem::take(&mut self.attachments)));
        }
        Ok(_) => break,
        Err(error) => return self.fail(error),
      }
    }
    if let Some(batch) = batch {
      match self.complete.back_mut() {
        Some((_, attachments)) if self.partial == self.end => attachments.add(batch),
        _ => self.attachments.add(batch),
      }
    }
    if let Err(error) = self.check_partial() {
      return self.fail(error);
    }
    // The buffer of a large frame is as long as the frame and does not grow further.
    if filled_up && self.buffer.len() < LARGEST_RECEIVE {
      let twice = self.buffer.len().saturating_mul(2);
      self.buffer.resize(twice.min(LARGEST_RECEIVE), 0);
    }
    self.check_complete();
  }

  /// Records the end of the stream.
  pub fn end_of_stream(&mut self) {
    self.has_ended = true;
    if self.end > self.partial && self.error.is_none() {
      self.fail(FrameError::EndedInside);
    }
  }

  /// Returns whether the stream has ended.
  pub fn has_ended(&self) -> bool {
    self.has_ended
  }

  /// Returns the header of the next complete frame, if there is one.
  pub fn peek_header(&self) -> Option<&Header> {
    self.complete.front().map(|(header, _)| header)
  }

  /// Returns whether [`Decoder::next_frame`] would return a frame or an error without another receive.
  pub fn has_next(&self) -> bool {
    !self.complete.is_empty() || self.error.is_some()
  }

  /// Returns whether the next frame is a message above these limits, as far as it has arrived. A frame without a header counts
  /// as a message with the descriptors that have arrived.
  pub fn exceeds(&self, limits: Limits) -> bool {
    let next = match self.complete.front() {
      Some((header, _)) => Some(*header),
      None => self.partial_header().ok().flatten(),
    };
    match next {
      Some(Header { kind: FrameKind::Message, length, fds, .. }) => {
        length as usize > limits.max_bytes || fds as usize > limits.max_fds
      }
      Some(_) => false,
      None => self.attachments.fds.list.len() > limits.max_fds,
    }
  }

  /// Returns the next complete frame; `None` if more has to be received, or the stream has ended.
  pub fn next_frame(&mut self) -> Result<Option<BorrowedFrame<'_>>, FrameError> {
    let Some((header, Attachments { mut fds, lost })) = self.complete.pop_front() else {
      return self.error.map_or(Ok(None), Err);
    };
    let fds = mem::take(&mut fds.list);
    let data = self.start.saturating_add(Header::SIZE);
    self.start = self.start.saturating_add(header.frame_size());
    let data = self.buffer.get(data..self.start);
    debug_assert!(data.is_some(), "a complete frame is in the buffer");
    Ok(Some(BorrowedFrame { header, data: data.unwrap_or_default(), fds, lost }))
  }

  /// Returns the header of the incomplete frame once it has arrived; an error if it is no header, or exceeds a limit.
  fn partial_header(&self) -> Result<Option<Header>, FrameError> {
    let received = self.buffer.get(self.partial..self.end).unwrap_or_default();
    let Some(bytes) = received.first_chunk() else {
      // Checked before sixteen bytes have arrived, which a peer with another protocol may never send.
      let begins = received.first().is_none_or(|&byte| byte == MAGIC);
      return if begins { Ok(None) } else { Err(FrameError::NotAFrame) };
    };
    let header = Header::decode(bytes).ok_or(FrameError::NotAFrame)?;
    let control_bytes = match header.kind {
      FrameKind::Message | FrameKind::Request | FrameKind::Response => None,
      FrameKind::Error | FrameKind::Close => Some(Header::MAX_ERROR_BYTES),
      FrameKind::Cancel => Some(0),
    };
    if control_bytes.is_some_and(|max_bytes| header.length as usize > max_bytes) {
      return Err(FrameError::InvalidControlFrame);
    }
    if control_bytes.is_none() && header.length as usize > self.limits.max_bytes {
      return Err(FrameError::TooLong(header.length));
    }
    if header.fds as usize > self.limits.max_fds {
      return Err(FrameError::TooManyDescriptors(header.fds));
    }
    Ok(Some(header))
  }

  /// Checks that no more descriptors have arrived with the incomplete frame than it may have.
  fn check_partial(&self) -> Result<(), FrameError> {
    let arrived = self.attachments.fds.list.len() as u32;
    match self.partial_header()? {
      Some(Header { fds: announced, .. }) if arrived > announced => {
        Err(FrameError::WrongDescriptors { announced, arrived })
      }
      None if arrived as usize > self.limits.max_fds => Err(FrameError::TooManyDescriptors(arrived)),
      _ => Ok(()),
    }
  }

  /// Checks that each complete frame has the descriptors that it announced.
  fn check_complete(&mut self) {
    let mut frames = self.complete.iter().enumerate();
    let wrong = frames.find_map(|(index, (header, own))| Some((index, own.check(header.fds).err()?)));
    if let Some((index, error)) = wrong {
      self.complete.truncate(index);
      self.fail(error);
    }
  }

  /// Records an error: nothing after the complete frames can be decoded.
  fn fail(&mut self, error: FrameError) {
    self.error = Some(error);
    self.attachments = Attachments::default();
    self.check_complete();
  }
}

/// Room behind the bytes that a [`Decoder`] has received. It borrows the decoder: while it exists, no frame is borrowed, and
/// no frame was left in the decoder when it was created.
#[derive(Debug)]
pub struct ReadBuffer<'a> {
  decoder: &'a mut Decoder,
}

impl ReadBuffer<'_> {
  fn range(&self) -> Range<usize> {
    let Decoder { buffer, end, .. } = &*self.decoder;
    *end..buffer.len().min(end.saturating_add(LARGEST_PART))
  }

  /// Adds the first `length` bytes of the buffer, and the descriptors that arrived with them.
  pub fn commit(self, length: usize, batch: DescriptorBatch) {
    self.decoder.commit(length, batch);
  }
}

impl Deref for ReadBuffer<'_> {
  type Target = [u8];

  fn deref(&self) -> &[u8] {
    self.decoder.buffer.get(self.range()).unwrap_or_default()
  }
}

impl DerefMut for ReadBuffer<'_> {
  fn deref_mut(&mut self) -> &mut [u8] {
    let range = self.range();
    self.decoder.buffer.get_mut(range).unwrap_or_default()
  }
}
