//! The protocol of a pool's worker, fed with any frames in any parts, beside a model that keeps lists: each connection is the
//! worker's until it returns or ends it, no frame changes another connection, and no frame behind a violation or the end of the
//! channel changes anything.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use fdpass_core::fuzzing::{Change, End, WorkerProtocol};
use fdpass_core::{DescriptorBatch, Format, FrameKind, Header};

use super::probes::{Input, below, byte, flag};

const KINDS: [FrameKind; 6] =
  [FrameKind::Message, FrameKind::Request, FrameKind::Response, FrameKind::Error, FrameKind::Cancel, FrameKind::Close];

pub fn run(input: &[u8]) {
  let mut input = Input::new(input);
  let start = Instant::now();
  let mut worker = WorkerProtocol::default();
  let mut model = Model::default();
  let mut sent = Vec::new();
  // Ids wrap around.
  let mut next_id = [0, 1, u32::MAX - 2, u32::MAX][below(&mut input, 4)];
  for step in 0..256 {
    if input.is_empty() {
      break;
    }
    let now = start + Duration::from_millis(step);
    if flag(&mut input) {
      let id = worker.free_id(next_id);
      assert_eq!(id, model.free_id(next_id));
      worker.assign(id, step, now);
      model.assigned.push(Entry { id, connection: step, since: now, is_acknowledged: false });
      next_id = if byte(&mut input) < 16 { next_id } else { id.wrapping_add(1) };
    } else {
      // Several frames arrive at once, and some in parts.
      for _ in 0..below(&mut input, 6) {
        let frame = Frame::new(&mut input, &model);
        sent.extend(&frame.bytes);
        model.sent.push_back(frame);
      }
      let length = if flag(&mut input) { sent.len() } else { below(&mut input, sent.len() + 1) };
      let rest = sent.split_off(length);
      receive(&mut worker, &mut model, &sent);
      sent = rest;
      if byte(&mut input) == 255 {
        end(&mut worker, &mut model);
      }
    }
    assert_eq!(worker.is_ready(), model.is_ready);
    assert_eq!(worker.assigned(), model.assigned.len());
    assert_eq!(worker.unacknowledged(), model.unacknowledged().count());
    let timeout = Duration::from_millis(u64::from(byte(&mut input)));
    assert_eq!(worker.is_overdue(timeout, now), model.unacknowledged().any(|one| one.since + timeout < now));
  }
  model.assigned.sort_by_key(|one| one.id);
  let left = worker.into_assigned().map(|one| (one.connection, one.is_acknowledged));
  assert!(left.eq(model.assigned.iter().map(|one| (one.connection, one.is_acknowledged))));
}

/// Delivers bytes in as many receives as the decoder needs.
fn receive(worker: &mut WorkerProtocol<u64>, model: &mut Model, mut bytes: &[u8]) {
  loop {
    let mut length = bytes.len();
    match worker.decoder() {
      Some(decoder) => {
        let mut buffer = decoder.read_buffer().expect("all frames were applied");
        length = length.min(buffer.len());
        buffer[..length].copy_from_slice(&bytes[..length]);
        buffer.commit(length, DescriptorBatch::Complete(Vec::new()));
      }
      None => assert!(model.end.is_some()),
    }
    model.receive(length);
    apply(worker, model);
    bytes = &bytes[length..];
    if bytes.is_empty() {
      return;
    }
  }
}

fn end(worker: &mut WorkerProtocol<u64>, model: &mut Model) {
  if let Some(decoder) = worker.decoder() {
    decoder.end_of_stream();
  }
  model.end.get_or_insert(End::Closed);
  apply(worker, model);
}

/// Applies what was received, and compares the changes.
fn apply(worker: &mut WorkerProtocol<u64>, model: &mut Model) {
  let mut changes = Vec::new();
  let result = worker.apply_received(|change| changes.push(change));
  assert_eq!(changes, std::mem::take(&mut model.changes));
  assert_eq!(result, model.end.map_or(Ok(()), Err));
  assert_eq!(worker.decoder().is_none(), model.end.is_some());
  // What is left behind an end is not applied later.
  assert_eq!(worker.apply_received(|change| panic!("{change:?} a second time")), result);
}

/// A frame of the worker, mostly about connections that it has; or bytes that are no frame.
struct Frame {
  header: Header,
  bytes: Vec<u8>,
  /// How many of its bytes have to arrive before it is refused; `None` for a valid frame.
  refused_after: Option<usize>,
}

impl Frame {
  fn new(input: &mut Input<'_>, model: &Model) -> Self {
    let kind = KINDS[below(input, KINDS.len())];
    let id = id(input, model);
    let mut data = Vec::new();
    if kind == FrameKind::Message {
      for _ in 0..below(input, 5) {
        data.extend(self::id(input, model).to_be_bytes());
      }
    }
    let special = byte(input);
    if special < 16 {
      data.extend(std::iter::repeat_n(0, below(input, 5)));
    }
    let format = if flag(input) { Format::Json } else { Format::Bytes };
    let mut header = Header { kind, format, length: data.len() as u32, fds: 0, id };
    match special {
      255 => header.length = 65_537,
      254 => header.fds = 1,
      _ => {}
    }
    let mut bytes = [&header.encode()[..], &data].concat();
    let is_too_long = kind == FrameKind::Cancel && !data.is_empty(); // a cancellation has no data
    let mut refused_after = (special >= 254 || is_too_long).then_some(Header::SIZE);
    if special == 253 {
      bytes[0] = byte(input) & 0x7f;
      refused_after = Some(1);
    }
    Self { header, bytes, refused_after }
  }
}

fn id(input: &mut Input<'_>, model: &Model) -> u32 {
  match byte(input) {
    0..16 => input.arbitrary().unwrap_or(0),
    _ if model.assigned.is_empty() => 0,
    _ => model.assigned[below(input, model.assigned.len())].id,
  }
}

struct Entry {
  id: u32,
  connection: u64,
  since: Instant,
  is_acknowledged: bool,
}

/// What PROTOCOL.md says of a superserver's workers.
#[derive(Default)]
struct Model {
  assigned: Vec<Entry>,
  is_ready: bool,
  /// Frames that were not received completely.
  sent: VecDeque<Frame>,
  /// How many of their bytes were received.
  received: usize,
  notes: usize,
  changes: Vec<Change<u64>>,
  end: Option<End>,
}

impl Model {
  fn unacknowledged(&self) -> impl Iterator<Item = &Entry> {
    self.assigned.iter().filter(|one| !one.is_acknowledged)
  }

  fn position(&self, id: u32) -> Result<usize, End> {
    self.assigned.iter().position(|one| one.id == id).ok_or(End::Violation)
  }

  /// The lowest distance from `from` at which an id is free; 0 is no id.
  fn free_id(&self, from: u32) -> u32 {
    let ids = (0..=self.assigned.len() as u32 + 1).map(|distance| from.wrapping_add(distance));
    ids.filter(|&id| id != 0).find(|&id| self.position(id).is_err()).expect("fewer connections than ids")
  }

  /// Adds received bytes, and applies each frame that they complete.
  fn receive(&mut self, length: usize) {
    self.received += length;
    while self.end.is_none()
      && let Some(frame) = self.sent.front()
    {
      let needed = frame.refused_after.unwrap_or(frame.bytes.len());
      if self.received < needed {
        return;
      }
      let frame = self.sent.pop_front().expect("seen above");
      self.received -= needed;
      let result = if frame.refused_after.is_some() { Err(End::Violation) } else { self.apply(&frame) };
      self.end = result.err();
    }
  }

  fn apply(&mut self, Frame { header, bytes, .. }: &Frame) -> Result<(), End> {
    let data = &bytes[Header::SIZE..];
    match header.kind {
      FrameKind::Response | FrameKind::Error => {
        let index = self.position(header.id)?;
        if self.assigned[index].is_acknowledged {
          return Err(End::Violation);
        }
        if header.kind == FrameKind::Response {
          self.assigned[index].is_acknowledged = true;
          self.changes.push(Change::Acknowledged);
        } else {
          let connection = self.assigned.remove(index).connection;
          self.changes.push(Change::Returned(connection));
        }
        Ok(())
      }
      FrameKind::Message if header.format == Format::Json && !data.is_empty() => {
        self.notes += 1;
        if self.notes > 16 {
          return Err(End::Violation);
        }
        self.changes.push(Change::Noted(data.to_vec()));
        Ok(())
      }
      FrameKind::Message if data.len().is_multiple_of(4) => {
        if !std::mem::replace(&mut self.is_ready, true) {
          self.changes.push(Change::Ready);
        }
        for id in data.chunks(4) {
          let index = self.position(u32::from_be_bytes(id.try_into().unwrap()))?;
          let one = self.assigned.remove(index);
          if !one.is_acknowledged {
            self.changes.push(Change::Acknowledged);
          }
          self.changes.push(Change::Completed(one.connection));
        }
        Ok(())
      }
      FrameKind::Close => Err(End::Closed),
      _ => Err(End::Violation),
    }
  }
}
