//! The frame decoder, fed with any bytes in any parts, beside a model of PROTOCOL.md that keeps all bytes and has no
//! buffers.

use std::os::fd::OwnedFd;

use fdpass_core::{Decoder, DescriptorBatch, Format, FrameError, FrameKind, Header, Limits};

use super::probes::{Input, Probes, below, byte, flag, open_descriptors, pattern, some};

pub fn run(input: &[u8]) {
  let before = open_descriptors();
  let mut input = Input::new(input);
  header(&mut input);
  let probes = Probes::new();
  receive_parts(&mut input, &probes);
  probes.assert_all_closed();
  assert_eq!(open_descriptors(), before);
}

/// Checks that a decoded header is encoded to the same bytes.
fn header(input: &mut Input<'_>) {
  let mut bytes = [0; Header::SIZE];
  let _ = input.fill_buffer(&mut bytes);
  if flag(input) {
    bytes[..2].copy_from_slice(&[0xfd, 1]);
  }
  match Header::decode(&bytes) {
    Some(header) => assert_eq!(header.encode(), bytes),
    None => assert!(bytes[0] != 0xfd || bytes[1] != 1 || bytes[2] > 5 || bytes[3] > 1),
  }
}

fn receive_parts(input: &mut Input<'_>, probes: &Probes) {
  let limits = Limits {
    max_bytes: [0, 1, 100, 5000, 200_000][below(input, 5)],
    max_fds: [0, 1, 3, 1000, usize::MAX][below(input, 5)],
  };
  let mut decoder = Decoder::new(limits);
  let mut model = Model::new(limits);
  let mut stream = Stream::default();
  for _ in 0..64 {
    if stream.is_empty() {
      if input.is_empty() {
        break;
      }
      stream.add(input);
    }
    let (bytes, batch) = stream.part(input);
    let taken = deliver(&mut decoder, &bytes, batch.as_deref(), probes);
    // The rest arrives with the next receive; its descriptors have arrived.
    stream.back(&bytes[taken..]);
    model.receive(&bytes[..taken], batch);
    if !take_all(&mut decoder, &mut model, probes) {
      return;
    }
  }
  decoder.end_of_stream();
  model.end();
  assert!(decoder.has_ended());
  take_all(&mut decoder, &mut model, probes);
}

/// Delivers one receive; returns how many bytes fitted.
fn deliver(decoder: &mut Decoder, bytes: &[u8], batch: Option<&[u8]>, probes: &Probes) -> usize {
  let mut space = decoder.read_buffer().expect("all frames were taken");
  assert!(!space.is_empty());
  let length = space.len().min(bytes.len());
  space[..length].copy_from_slice(&bytes[..length]);
  let batch = match batch {
    None => DescriptorBatch::Lost,
    Some(which) => DescriptorBatch::Complete(which.iter().map(|&which| probes.duplicate(which)).collect()),
  };
  space.commit(length, batch);
  length
}

/// Compares the frames of both; false after both have returned the same error.
fn take_all(decoder: &mut Decoder, model: &mut Model, probes: &Probes) -> bool {
  for expected in model.whole.drain(..) {
    assert_eq!(decoder.peek_header(), Some(&expected.header));
    let arrived = decoder.next_frame().unwrap().expect("a frame");
    assert_eq!((arrived.header, arrived.lost), (expected.header, expected.fds.is_none()));
    assert!(arrived.data == expected.data);
    let fds: Vec<OwnedFd> = arrived.fds;
    probes.check(&fds, &expected.fds.unwrap_or_default());
  }
  assert_eq!(decoder.peek_header(), None);
  assert_eq!(decoder.has_next(), model.broken.is_some());
  for _ in 0..2 {
    match (decoder.next_frame(), model.broken) {
      (Ok(None), None) => {}
      (Err(error), Some(expected)) => assert_eq!(error, expected),
      (other, expected) => panic!("{other:?} in place of {expected:?}"),
    }
  }
  model.broken.is_none()
}

/// Bytes that a peer sends, and the offsets of the bytes with descriptors.
#[derive(Default)]
struct Stream {
  bytes: Vec<u8>,
  batches: Vec<(usize, Option<Vec<u8>>)>,
}

impl Stream {
  fn is_empty(&self) -> bool {
    self.bytes.is_empty()
  }

  /// Adds a valid frame, or one with an error.
  fn add(&mut self, input: &mut Input<'_>) {
    let wrong = byte(input);
    if wrong > 250 {
      let count = below(input, 40) + 1;
      self.bytes.extend((0..count).map(|_| byte(input)));
      return;
    }
    let length = [0, 1, usize::from(byte(input)), usize::from(byte(input)) * 20, 70_000][below(input, 5)];
    let fds = some(input);
    let header = Header {
      kind: KINDS[below(input, 6)],
      format: if flag(input) { Format::Json } else { Format::Bytes },
      length: if wrong == 250 { input.arbitrary().unwrap_or(0) } else { length as u32 },
      fds: match wrong {
        249 => input.arbitrary().unwrap_or(0),
        248 => fds.len() as u32 + 1,
        247 => (fds.len() as u32).saturating_sub(1),
        _ => fds.len() as u32,
      },
      id: u32::from(byte(input)),
    };
    let begin = self.bytes.len();
    self.bytes.extend(header.encode());
    self.bytes.extend(pattern(byte(input), length));
    let last = self.bytes.len() - begin;
    // In one batch or two, with any of its bytes.
    let at = fds.len().min(usize::from(byte(input)));
    for part in [&fds[..at], &fds[at..]] {
      if !part.is_empty() {
        let part = if wrong == 246 { None } else { Some(part.to_vec()) };
        self.batches.push((begin + below(input, last), part));
      }
    }
    self.batches.sort_by_key(|(at, _)| *at);
  }

  /// Splits the stream as Linux does: a receive ends at the latest with the bytes that were sent with descriptors.
  fn part(&mut self, input: &mut Input<'_>) -> (Vec<u8>, Option<Vec<u8>>) {
    let most = self.bytes.len().min([usize::MAX, 1, 16, usize::from(byte(input)) + 1][below(input, 4)]);
    let (length, batch) = match self.batches.first() {
      Some(&(at, _)) if at < most => (at + 1, self.batches.remove(0).1),
      _ => (most, Some(Vec::new())),
    };
    self.batches.iter_mut().for_each(|(at, _)| *at = at.saturating_sub(length));
    let rest = self.bytes.split_off(length);
    (std::mem::replace(&mut self.bytes, rest), batch)
  }

  fn back(&mut self, bytes: &[u8]) {
    self.batches.iter_mut().for_each(|(at, _)| *at += bytes.len());
    self.bytes = [bytes, &self.bytes].concat();
  }
}

const KINDS: [FrameKind; 6] =
  [FrameKind::Message, FrameKind::Request, FrameKind::Response, FrameKind::Error, FrameKind::Cancel, FrameKind::Close];

struct Expected {
  header: Header,
  data: Vec<u8>,
  /// `None` if they were lost.
  fds: Option<Vec<u8>>,
}

/// Second implementation of the protocol.
struct Model {
  limits: Limits,
  unread: Vec<u8>,
  /// Descriptors of the frame at the start of `unread`.
  fds: Option<Vec<u8>>,
  whole: Vec<Expected>,
  broken: Option<FrameError>,
}

impl Model {
  fn new(limits: Limits) -> Self {
    let max_fds = limits.max_fds.min(16 * 253);
    Self {
      limits: Limits { max_fds, ..limits },
      unread: Vec::new(),
      fds: Some(Vec::new()),
      whole: Vec::new(),
      broken: None,
    }
  }

  /// Adds bytes; the descriptors belong to the frame of the last byte.
  fn receive(&mut self, bytes: &[u8], batch: Option<Vec<u8>>) {
    self.unread.extend(bytes);
    let mut batch = Some(batch);
    while self.broken.is_none() {
      let header = match self.header() {
        Ok(None) => break,
        Ok(Some(header)) => header,
        Err(error) => {
          self.broken = Some(error);
          return;
        }
      };
      let size = 16 + header.length as usize;
      if self.unread.len() < size {
        break;
      }
      if self.unread.len() == size {
        self.add(batch.take());
      }
      let data = self.unread[16..size].to_vec();
      self.unread.drain(..size);
      let fds = self.fds.replace(Vec::new());
      match &fds {
        Some(fds) if fds.len() != header.fds as usize => {
          let (announced, came) = (header.fds, fds.len() as u32);
          self.broken = Some(FrameError::WrongDescriptors { announced, arrived: came });
        }
        _ => self.whole.push(Expected { header, data, fds }),
      }
    }
    if self.broken.is_some() {
      return;
    }
    self.add(batch.take());
    let came = self.fds.as_ref().map_or(0, Vec::len);
    match self.header().expect("looked at above") {
      Some(Header { fds: announced, .. }) if came > announced as usize => {
        self.broken = Some(FrameError::WrongDescriptors { announced, arrived: came as u32 });
      }
      None if came > self.limits.max_fds => self.broken = Some(FrameError::TooManyDescriptors(came as u32)),
      _ => {}
    }
  }

  fn add(&mut self, batch: Option<Option<Vec<u8>>>) {
    match (batch, &mut self.fds) {
      (Some(Some(more)), Some(fds)) => fds.extend(more),
      (Some(None), fds) => *fds = None,
      _ => {}
    }
  }

  fn end(&mut self) {
    if !self.unread.is_empty() && self.broken.is_none() {
      self.broken = Some(FrameError::EndedInside);
    }
  }

  /// Reads the header as in the table of PROTOCOL.md, and checks the limits.
  fn header(&self) -> Result<Option<Header>, FrameError> {
    let bytes = &self.unread;
    if bytes.first().is_some_and(|&byte| byte != 0xfd) {
      return Err(FrameError::NotAFrame);
    }
    if bytes.len() < 16 {
      return Ok(None);
    }
    if bytes[1] != 1 || bytes[2] > 5 || bytes[3] > 1 {
      return Err(FrameError::NotAFrame);
    }
    let number = |at: usize| bytes[at..at + 4].iter().fold(0, |number, &byte| number << 8 | u32::from(byte));
    let (length, fds, id) = (number(4), number(8), number(12));
    let format = if bytes[3] == 1 { Format::Json } else { Format::Bytes };
    if bytes[2] >= 3 && length > if bytes[2] == 4 { 0 } else { 65_536 } {
      return Err(FrameError::InvalidControlFrame);
    }
    if bytes[2] < 3 && length as usize > self.limits.max_bytes {
      return Err(FrameError::TooLong(length));
    }
    if fds as usize > self.limits.max_fds {
      return Err(FrameError::TooManyDescriptors(fds));
    }
    Ok(Some(Header { kind: KINDS[usize::from(bytes[2])], format, length, fds, id }))
  }
}
