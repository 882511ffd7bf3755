//! Frames out of the bytes and descriptors that a stream delivers.

#![deny(clippy::indexing_slicing)] // a panic ends the process, and a peer must not cause one

use std::collections::VecDeque;
use std::mem;
use std::os::fd::OwnedFd;

use super::frame::{FrameError, FrameKind, Header, Limits, MAGIC};
use crate::socket::{ControlBuffer, ReceivedFds, Socket};

/// Size in bytes of the buffer for the first receive. It doubles each time it is filled.
const FIRST_RECEIVE: usize = 4096;

/// Maximum size in bytes of one receive.
const LARGEST_RECEIVE: usize = 65_536;

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
  fds: Vec<OwnedFd>,
  lost: bool,
}

impl Attachments {
  fn add(&mut self, batch: DescriptorBatch) {
    match batch {
      DescriptorBatch::Complete(fds) if self.fds.is_empty() => self.fds = fds,
      DescriptorBatch::Complete(fds) => self.fds.extend(fds),
      DescriptorBatch::Lost => self.lost = true,
    }
    if self.lost {
      self.fds = Vec::new(); // it is unknown which of them are missing
    }
  }

  fn check(&self, announced: u32) -> Result<(), FrameError> {
    let arrived = self.fds.len() as u32;
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
}

impl Decoder {
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
    }
  }

  /// Receives once: `recvmsg(2)`, without waiting. Call [`Decoder::next_frame`] until it returns none before. After an error
  /// this does nothing.
  pub fn receive(&mut self, socket: Socket<'_>, control: &mut ControlBuffer) -> nix::Result<()> {
    if self.error.is_some() {
      return Ok(());
    }
    let Some(message) = socket.recv(self.read_buffer(), control, usize::MAX)? else {
      self.end_of_stream();
      return Ok(());
    };
    let batch = match message.fds {
      ReceivedFds::Complete(fds) => DescriptorBatch::Complete(fds),
      ReceivedFds::Truncated | ReceivedFds::TooMany | ReceivedFds::Unexpected => DescriptorBatch::Lost,
    };
    self.commit(message.length, batch);
    Ok(())
  }

  /// Returns the buffer for the next bytes, which is never empty. Call [`Decoder::next_frame`] until it returns none before:
  /// the buffer of returned frames is reused.
  pub fn read_buffer(&mut self) -> &mut [u8] {
    debug_assert!(self.complete.is_empty(), "next_frame has to return none first");
    self.buffer.copy_within(self.partial..self.end, 0);
    self.end -= self.partial;
    self.start = 0;
    self.partial = 0;
    if self.end == 0 && self.buffer.len() > MAX_IDLE_BUFFER {
      self.buffer = Vec::new();
    }
    let size = match self.partial_header() {
      // The buffer grows with the received bytes: a header alone cannot make it 4 GiB. It ends with the frame.
      Ok(Some(header)) => (Header::SIZE + header.length as usize).min((self.end * 2).max(LARGEST_RECEIVE)),
      _ => FIRST_RECEIVE,
    };
    if self.buffer.len() < size {
      self.buffer.resize(size, 0);
    }
    debug_assert!(self.end < self.buffer.len());
    self.buffer.get_mut(self.end..).unwrap_or_default()
  }

  /// Adds `length` bytes that were written to [`Decoder::read_buffer`], and the descriptors that arrived with them.
  pub fn commit(&mut self, length: usize, batch: DescriptorBatch) {
    let filled_up = self.end + length == self.buffer.len();
    self.end += length;
    let complete_before = self.complete.len();
    let last_owns = cfg!(any(target_os = "linux", target_os = "android"));
    let mut batch = Some(batch);
    if !last_owns {
      self.attachments.add(batch.take().expect("set above"));
    }
    loop {
      match self.partial_header() {
        Ok(Some(header)) if self.end - self.partial - Header::SIZE >= header.length as usize => {
          self.partial += Header::SIZE + header.length as usize;
          self.complete.push_back((header, mem::take(&mut self.attachments)));
        }
        Ok(_) => break,
        Err(error) => return self.fail(complete_before, error),
      }
    }
    if let Some(batch) = batch {
      match self.complete.back_mut() {
        Some((_, attachments)) if self.partial == self.end => attachments.add(batch),
        _ => self.attachments.add(batch),
      }
    }
    if let Err(error) = self.check_partial() {
      return self.fail(complete_before, error);
    }
    // The buffer of a large frame is as long as the frame and does not grow further.
    if filled_up && self.buffer.len() < LARGEST_RECEIVE {
      let twice = self.buffer.len() * 2;
      self.buffer.resize(twice.min(LARGEST_RECEIVE), 0);
    }
    self.check_complete(complete_before);
  }

  /// Records the end of the stream.
  pub fn end_of_stream(&mut self) {
    self.has_ended = true;
    if self.end > self.partial && self.error.is_none() {
      self.fail(self.complete.len(), FrameError::EndedInside);
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

  /// Returns the next complete frame; `None` if more has to be received, or the stream has ended.
  pub fn next_frame(&mut self) -> Result<Option<BorrowedFrame<'_>>, FrameError> {
    let Some((header, Attachments { fds, lost })) = self.complete.pop_front() else {
      return self.error.map_or(Ok(None), Err);
    };
    let data = self.start + Header::SIZE;
    self.start = data + header.length as usize;
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
    let max_bytes = match header.kind {
      FrameKind::Error | FrameKind::Close => self.limits.max_bytes.max(Header::MAX_ERROR_BYTES),
      _ => self.limits.max_bytes,
    };
    if header.length as usize > max_bytes {
      return Err(FrameError::TooLong(header.length));
    }
    if header.fds as usize > self.limits.max_fds {
      return Err(FrameError::TooManyDescriptors(header.fds));
    }
    Ok(Some(header))
  }

  /// Checks that no more descriptors have arrived with the incomplete frame than it may have.
  fn check_partial(&self) -> Result<(), FrameError> {
    let arrived = self.attachments.fds.len() as u32;
    match self.partial_header()? {
      Some(Header { fds: announced, .. }) if arrived > announced => {
        Err(FrameError::WrongDescriptors { announced, arrived })
      }
      None if arrived as usize > self.limits.max_fds => Err(FrameError::TooManyDescriptors(arrived)),
      _ => Ok(()),
    }
  }

  /// Checks that each frame from index `from` on has the descriptors that it announced.
  fn check_complete(&mut self, from: usize) {
    let wrong = self.complete.iter().enumerate().skip(from);
    let mut wrong = wrong.filter_map(|(index, (header, own))| Some((index, own.check(header.fds).err()?)));
    if let Some((index, error)) = wrong.next() {
      drop(wrong);
      self.complete.truncate(index);
      self.fail(index, error);
    }
  }

  /// Records an error: nothing after the complete frames can be decoded.
  fn fail(&mut self, from: usize, error: FrameError) {
    self.error = Some(error);
    self.attachments = Attachments::default();
    self.check_complete(from);
  }
}
