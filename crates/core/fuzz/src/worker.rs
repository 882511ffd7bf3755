//! The protocol of a pool's worker, fed with any frames, beside a model that keeps a list: each connection is the worker's until
//! it returns or ends it, and no frame changes another connection.

use std::time::{Duration, Instant};

use fdpass_core::fuzzing::{Change, Violation, WorkerProtocol};
use fdpass_core::{Format, FrameKind, Header};

use super::probes::{Input, below, byte, flag};

const KINDS: [FrameKind; 6] =
  [FrameKind::Message, FrameKind::Request, FrameKind::Response, FrameKind::Error, FrameKind::Cancel, FrameKind::Close];

pub fn run(input: &[u8]) {
  let mut input = Input::new(input);
  let start = Instant::now();
  let mut worker = WorkerProtocol::default();
  let mut model = Model::default();
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
      let (header, data) = frame(&mut input, &model);
      let mut changes = Vec::new();
      let result = worker.apply(&header, &data, |change| changes.push(change));
      let mut expected = Vec::new();
      assert_eq!(result, model.apply(&header, &data, &mut expected));
      assert_eq!(changes, expected);
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

/// A frame of the worker, mostly about connections that it has.
fn frame(input: &mut Input<'_>, model: &Model) -> (Header, Vec<u8>) {
  let kind = KINDS[below(input, KINDS.len())];
  let id = id(input, model);
  let mut data = Vec::new();
  if kind == FrameKind::Message {
    for _ in 0..below(input, 5) {
      data.extend(self::id(input, model).to_be_bytes());
    }
  }
  if byte(input) < 16 {
    data.extend(std::iter::repeat_n(0, below(input, 5)));
  }
  let format = if flag(input) { Format::Json } else { Format::Bytes };
  (Header { kind, format, length: data.len() as u32, fds: 0, id }, data)
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
}

impl Model {
  fn unacknowledged(&self) -> impl Iterator<Item = &Entry> {
    self.assigned.iter().filter(|one| !one.is_acknowledged)
  }

  fn position(&self, id: u32) -> Result<usize, Violation> {
    self.assigned.iter().position(|one| one.id == id).ok_or(Violation)
  }

  /// The lowest distance from `from` at which an id is free; 0 is no id.
  fn free_id(&self, from: u32) -> u32 {
    let ids = (0..=self.assigned.len() as u32 + 1).map(|distance| from.wrapping_add(distance));
    ids.filter(|&id| id != 0).find(|&id| self.position(id).is_err()).expect("fewer connections than ids")
  }

  fn apply(&mut self, header: &Header, data: &[u8], changes: &mut Vec<Change<u64>>) -> Result<bool, Violation> {
    match header.kind {
      FrameKind::Response | FrameKind::Error => {
        let index = self.position(header.id)?;
        if self.assigned[index].is_acknowledged {
          return Err(Violation);
        }
        if header.kind == FrameKind::Response {
          self.assigned[index].is_acknowledged = true;
          changes.push(Change::Acknowledged);
        } else {
          changes.push(Change::Returned(self.assigned.remove(index).connection));
        }
        Ok(true)
      }
      FrameKind::Message if data.len().is_multiple_of(4) => {
        if !std::mem::replace(&mut self.is_ready, true) {
          changes.push(Change::Ready);
        }
        for id in data.chunks(4) {
          let index = self.position(u32::from_be_bytes(id.try_into().unwrap()))?;
          let one = self.assigned.remove(index);
          if !one.is_acknowledged {
            changes.push(Change::Acknowledged);
          }
          changes.push(Change::Completed(one.connection));
        }
        Ok(true)
      }
      FrameKind::Close => Ok(false),
      _ => Err(Violation),
    }
  }
}
