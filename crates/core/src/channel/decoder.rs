//! Frames out of the bytes and descriptors that a stream delivers.

use std::collections::VecDeque;
use std::mem;
use std::os::fd::OwnedFd;

use super::frame::{FrameError, FrameKind, Header, Limits, MAGIC};
use crate::socket::{ControlBuffer, ReceivedFds, Socket};

/// How much a first receive takes at most; as much again each time that is filled.
const FIRST_RECEIVE: usize = 4096;

/// How much a receive takes at most.
const LARGEST_RECEIVE: usize = 65_536;

/// The most memory that an empty decoder keeps.
const KEPT: usize = 1024 * 1024;

/// What came beside the bytes of one receive.
#[derive(Debug)]
pub enum DescriptorBatch {
  /// These descriptors, or none.
  Complete(Vec<OwnedFd>),
  /// Descriptors of which some could not be delivered: the table is full, or a security module refused one.
  Lost,
}

/// A frame that has arrived whole. Its data are the decoder's until the next receive.
#[derive(Debug)]
pub struct BorrowedFrame<'a> {
  /// What it says of itself.
  pub header: Header,
  /// Its bytes.
  pub data: &'a [u8],
  /// Its descriptors, in their order; none where they were lost.
  pub fds: Vec<OwnedFd>,
  /// Whether its descriptors could not be delivered. Frames behind it are whole.
  pub lost: bool,
}

/// The descriptors that have come with a frame.
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
      self.fds = Vec::new(); // which of them are missing is not known
    }
  }

  fn check(&self, announced: u32) -> Result<(), FrameError> {
    let came = self.fds.len() as u32;
    if self.lost || came == announced { Ok(()) } else { Err(FrameError::WrongDescriptors { announced, came }) }
  }
}

/// Takes frames out of what a stream delivers, whatever the kernel merged or split.
///
/// A stream delivers at most one batch of descriptors with a receive. On Linux it was sent with the last of the bytes that
/// came: plain bytes before it are merged with it, and nothing is behind it (`unix_stream_read_generic` in af_unix.c stops
/// at it). Elsewhere it was sent with the first. As who sends descriptors sends bytes of one frame with them, the
/// frame that they belong to is known for certain, and no frame can take another's.
#[derive(Debug)]
pub struct Decoder {
  limits: Limits,
  buffer: Vec<u8>,
  /// Where in the buffer the first frame begins that was not taken.
  start: usize,
  /// Where in the buffer the frame begins that is not whole yet.
  partial: usize,
  /// Where what was received ends.
  end: usize,
  /// What belongs to that frame.
  attachments: Attachments,
  /// The frames that are whole.
  whole: VecDeque<(Header, Attachments)>,
  broken: Option<FrameError>,
  ended: bool,
}

impl Decoder {
  /// One that has received nothing.
  pub fn new(limits: Limits) -> Self {
    let limits = Limits { max_fds: limits.max_fds.min(Header::MAX_FDS), ..limits };
    Self {
      limits,
      buffer: Vec::new(),
      start: 0,
      partial: 0,
      end: 0,
      attachments: Attachments::default(),
      whole: VecDeque::new(),
      broken: None,
      ended: false,
    }
  }

  /// Receives once: `recvmsg(2)`, without waiting. Take all frames out first. Nothing happens after an error.
  pub fn receive(&mut self, socket: Socket<'_>, control: &mut ControlBuffer) -> nix::Result<()> {
    if self.broken.is_some() {
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

  /// The memory that the next bytes go to, never none. Take all frames out first: theirs is used again.
  pub fn read_buffer(&mut self) -> &mut [u8] {
    debug_assert!(self.whole.is_empty(), "frames have to be taken out first");
    self.buffer.copy_within(self.partial..self.end, 0);
    self.end -= self.partial;
    self.start = 0;
    self.partial = 0;
    if self.end == 0 && self.buffer.len() > KEPT {
      self.buffer = Vec::new();
    }
    let size = match self.partial_header() {
      // As it comes, and not at once: a header costs nobody 4 GiB. No byte more than its own.
      Ok(Some(header)) => (Header::SIZE + header.length as usize).min((self.end * 2).max(LARGEST_RECEIVE)),
      _ => FIRST_RECEIVE,
    };
    if self.buffer.len() < size {
      self.buffer.resize(size, 0);
    }
    &mut self.buffer[self.end..]
  }

  /// Notes that so many bytes have come into that memory, and the descriptors with them.
  pub fn commit(&mut self, length: usize, batch: DescriptorBatch) {
    let filled_up = self.end + length == self.buffer.len();
    self.end += length;
    let whole_before = self.whole.len();
    let last_owns = cfg!(any(target_os = "linux", target_os = "android"));
    let mut batch = Some(batch);
    if !last_owns {
      self.attachments.add(batch.take().expect("set above"));
    }
    loop {
      match self.partial_header() {
        Ok(Some(header)) if self.end - self.partial - Header::SIZE >= header.length as usize => {
          self.partial += Header::SIZE + header.length as usize;
          self.whole.push_back((header, mem::take(&mut self.attachments)));
        }
        Ok(_) => break,
        Err(error) => return self.fail(whole_before, error),
      }
    }
    if let Some(batch) = batch {
      match self.whole.back_mut() {
        Some((_, attachments)) if self.partial == self.end => attachments.add(batch),
        _ => self.attachments.add(batch),
      }
    }
    if let Err(error) = self.check_partial() {
      return self.fail(whole_before, error);
    }
    // A large frame's buffer is as long as the frame.
    if filled_up && self.buffer.len() < LARGEST_RECEIVE {
      let twice = self.buffer.len() * 2;
      self.buffer.resize(twice.min(LARGEST_RECEIVE), 0);
    }
    self.check_whole(whole_before);
  }

  /// Notes that nothing more will come.
  pub fn end_of_stream(&mut self) {
    self.ended = true;
    if self.end > self.partial && self.broken.is_none() {
      self.fail(self.whole.len(), FrameError::EndedInside);
    }
  }

  /// Whether nothing more will come.
  pub fn has_ended(&self) -> bool {
    self.ended
  }

  /// The header of the next frame, if one is whole.
  pub fn peek_header(&self) -> Option<&Header> {
    self.whole.front().map(|(header, _)| header)
  }

  /// Whether [`Decoder::next_frame`] has something to give, a frame or an error, without another receive.
  pub fn has_next(&self) -> bool {
    !self.whole.is_empty() || self.broken.is_some()
  }

  /// The next frame; none where more has to be received, or nothing will come any more.
  pub fn next_frame(&mut self) -> Result<Option<BorrowedFrame<'_>>, FrameError> {
    let Some((header, Attachments { fds, lost })) = self.whole.pop_front() else {
      return self.broken.map_or(Ok(None), Err);
    };
    let data = self.start + Header::SIZE;
    self.start = data + header.length as usize;
    Ok(Some(BorrowedFrame { header, data: &self.buffer[data..self.start], fds, lost }))
  }

  /// The header of the frame that is not whole yet, once it has come; an error if it is none, or over a limit.
  fn partial_header(&self) -> Result<Option<Header>, FrameError> {
    let received = &self.buffer[self.partial..self.end];
    let Some(bytes) = received.first_chunk() else {
      // Not only once sixteen bytes have come, which somebody who speaks something else may never send.
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

  /// That the frame which is not whole has not more than it may have, as far as is known.
  fn check_partial(&self) -> Result<(), FrameError> {
    let came = self.attachments.fds.len() as u32;
    match self.partial_header()? {
      Some(Header { fds: announced, .. }) if came > announced => Err(FrameError::WrongDescriptors { announced, came }),
      None if came as usize > self.limits.max_fds => Err(FrameError::TooManyDescriptors(came)),
      _ => Ok(()),
    }
  }

  /// That each frame which has become whole has what it announced.
  fn check_whole(&mut self, from: usize) {
    let wrong = self.whole.iter().enumerate().skip(from);
    let mut wrong = wrong.filter_map(|(index, (header, own))| Some((index, own.check(header.fds).err()?)));
    if let Some((index, error)) = wrong.next() {
      drop(wrong);
      self.whole.truncate(index);
      self.fail(index, error);
    }
  }

  /// Nothing after the frames that are whole can be trusted.
  fn fail(&mut self, from: usize, error: FrameError) {
    self.broken = Some(error);
    self.attachments = Attachments::default();
    self.check_whole(from);
  }
}
