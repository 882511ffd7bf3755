//! The protocol between a pool and one worker: a state machine over received bytes that makes no system calls.
//!
//! The pool sends each connection as a request. The worker answers it, which acknowledges the connection, or returns the
//! connection with an error. Messages from the worker report that it is ready, and the ids of connections that have ended;
//! those with JSON are notes for the owner of the pool.

#![cfg_attr(not(test), deny(clippy::arithmetic_side_effects))] // of numbers that a peer sends

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::channel::{Decoder, Format, FrameError, FrameKind, Header, Limits};

/// Limits of a worker's frames. The largest reports the ends of 16,384 connections.
const FRAME_LIMITS: Limits = Limits { max_bytes: 65_536, max_fds: 0 };

/// How many notes a worker may send. The owner takes them in its own time.
const MAX_NOTES: u32 = 16;

/// The maximum length of a note in bytes.
const MAX_NOTE_BYTES: usize = 4096;

/// A connection that a worker has.
#[derive(Debug)]
pub struct Assigned<C> {
  /// The connection.
  pub connection: C,
  /// When it was assigned.
  pub since: Instant,
  /// The worker has acknowledged it, and may be reading from it.
  pub is_acknowledged: bool,
}

/// Change that a frame of a worker makes.
#[derive(Debug, PartialEq, Eq)]
pub enum Change<C> {
  /// The worker is ready to be assigned connections.
  Ready,
  /// The worker has acknowledged one more connection.
  Acknowledged,
  /// The worker has returned a connection that it had not acknowledged.
  Returned(C),
  /// The worker has ended a connection.
  Completed(C),
  /// The worker has sent a note: JSON, which is not checked.
  Noted(Vec<u8>),
}

/// Why nothing more is received from a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
  /// The worker closed its channel, or died.
  Closed,
  /// The worker violated the protocol.
  Violation,
}

/// The state of one worker.
#[derive(Debug)]
pub struct WorkerProtocol<C> {
  /// The end takes the decoder's place, so that no frame behind the end can be applied.
  received: Result<Decoder, End>,
  connections: Connections<C>,
}

impl<C> Default for WorkerProtocol<C> {
  fn default() -> Self {
    Self { received: Ok(Decoder::new(FRAME_LIMITS)), connections: Connections::default() }
  }
}

impl<C> WorkerProtocol<C> {
  /// Returns the decoder to receive into; `None` behind the end. Call [`WorkerProtocol::apply_received`] afterwards.
  pub fn decoder(&mut self) -> Option<&mut Decoder> {
    self.received.as_mut().ok()
  }

  /// Applies the complete frames that the decoder holds, and reports each change. The error is the end of the worker's
  /// frames: the changes that were reported before it are valid, and whatever was received behind it is dropped.
  pub fn apply_received(&mut self, mut report: impl FnMut(Change<C>)) -> Result<(), End> {
    let Self { received, connections } = self;
    let decoder = received.as_mut().map_err(|end| *end)?;
    let has_ended = decoder.has_ended();
    let end = loop {
      match decoder.next_frame() {
        Ok(Some(frame)) => match connections.apply(&frame.header, frame.data, &mut report) {
          Ok(()) => {}
          Err(end) => break end,
        },
        Ok(None) if has_ended => break End::Closed,
        Ok(None) => return Ok(()),
        Err(FrameError::EndedInside) => break End::Closed, // the worker died
        Err(_) => break End::Violation,
      }
    };
    *received = Err(end);
    Err(end)
  }

  /// Returns whether the worker has reported that it is ready.
  pub fn is_ready(&self) -> bool {
    self.connections.is_ready
  }

  /// Returns how many connections the worker has.
  pub fn assigned(&self) -> usize {
    self.connections.assigned.len()
  }

  /// Returns how many of them it has not acknowledged.
  pub fn unacknowledged(&self) -> usize {
    self.connections.unacknowledged
  }

  /// Returns whether a connection has waited longer than `timeout` for its acknowledgement.
  pub fn is_overdue(&self, timeout: Duration, now: Instant) -> bool {
    let waits = |one: &Assigned<C>| !one.is_acknowledged && now.duration_since(one.since) > timeout;
    self.connections.unacknowledged > 0 && self.connections.assigned.values().any(waits)
  }

  /// Returns the first id from `from` on that no connection of this worker has. Ids wrap around, and a connection can
  /// outlast a round.
  pub fn free_id(&self, from: u32) -> u32 {
    let mut id = from;
    while id == 0 || self.connections.assigned.contains_key(&id) {
      id = id.wrapping_add(1);
    }
    id
  }

  /// Returns the header of the message with the time in milliseconds after which a worker is killed.
  pub fn deadline() -> Header {
    Header { kind: FrameKind::Message, format: Format::Json, length: 0, fds: 0, id: 0 }
  }

  /// Returns the header of the request that sends a connection.
  pub fn request(id: u32) -> Header {
    Header { kind: FrameKind::Request, format: Format::Bytes, length: 0, fds: 0, id }
  }

  /// Records that a connection was sent with this id, which [`WorkerProtocol::free_id`] returned.
  pub fn assign(&mut self, id: u32, connection: C, now: Instant) {
    let before = self.connections.assigned.insert(id, Assigned { connection, since: now, is_acknowledged: false });
    debug_assert!(before.is_none(), "an id names one connection");
    self.connections.unacknowledged = self.connections.unacknowledged.saturating_add(1);
  }

  /// Returns the connections that the worker has left, in the order of their ids.
  pub fn into_assigned(self) -> impl DoubleEndedIterator<Item = Assigned<C>> {
    let mut assigned: Vec<_> = self.connections.assigned.into_iter().collect();
    assigned.sort_unstable_by_key(|(id, _)| *id);
    assigned.into_iter().map(|(_, one)| one)
  }
}

/// The connections of one worker.
#[derive(Debug)]
struct Connections<C> {
  assigned: HashMap<u32, Assigned<C>>,
  unacknowledged: usize,
  is_ready: bool,
  notes: u32,
}

impl<C> Default for Connections<C> {
  fn default() -> Self {
    Self { assigned: HashMap::new(), unacknowledged: 0, is_ready: false, notes: 0 }
  }
}

impl<C> Connections<C> {
  /// Applies a frame, and reports each change. After an error the changes that were reported before it are valid.
  fn apply(&mut self, header: &Header, data: &[u8], report: &mut impl FnMut(Change<C>)) -> Result<(), End> {
    let id = header.id;
    match header.kind {
      FrameKind::Response => {
        let one = self.assigned.get_mut(&id).filter(|one| !one.is_acknowledged).ok_or(End::Violation)?;
        one.is_acknowledged = true;
        self.unacknowledged = self.unacknowledged.saturating_sub(1);
        report(Change::Acknowledged);
      }
      FrameKind::Error => {
        if self.assigned.get(&id).is_none_or(|one| one.is_acknowledged) {
          return Err(End::Violation);
        }
        let one = self.assigned.remove(&id).ok_or(End::Violation)?;
        self.unacknowledged = self.unacknowledged.saturating_sub(1);
        report(Change::Returned(one.connection));
      }
      FrameKind::Message if header.format == Format::Json && !data.is_empty() => {
        self.notes = self.notes.saturating_add(1);
        if self.notes > MAX_NOTES || data.len() > MAX_NOTE_BYTES {
          return Err(End::Violation);
        }
        report(Change::Noted(data.to_vec()));
      }
      FrameKind::Message => {
        let (ids, rest) = data.as_chunks();
        if !rest.is_empty() {
          return Err(End::Violation);
        }
        if !self.is_ready {
          self.is_ready = true;
          report(Change::Ready);
        }
        for &id in ids {
          let one = self.assigned.remove(&u32::from_be_bytes(id)).ok_or(End::Violation)?;
          // A worker may end a connection without acknowledging it first.
          if !one.is_acknowledged {
            self.unacknowledged = self.unacknowledged.saturating_sub(1);
            report(Change::Acknowledged);
          }
          report(Change::Completed(one.connection));
        }
      }
      FrameKind::Close => return Err(End::Closed),
      FrameKind::Request | FrameKind::Cancel => return Err(End::Violation),
    }
    Ok(())
  }
}

#[cfg(test)]
mod tests {
  use super::*;

  #[test]
  fn an_id_that_a_connection_still_has_is_not_given_out_again() {
    let mut worker = WorkerProtocol::default();
    for id in [1, 2, 7, u32::MAX] {
      worker.assign(id, (), Instant::now());
    }
    assert_eq!([0, 1, 3, 6, 7, u32::MAX].map(|next| worker.free_id(next)), [3, 3, 3, 6, 8, 3]);
    assert_eq!(WorkerProtocol::<()>::default().free_id(0), 1);
  }
}
