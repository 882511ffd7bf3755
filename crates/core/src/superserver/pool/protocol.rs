//! The protocol between a pool and one worker: a state machine over frames that makes no system calls.
//!
//! The pool sends each connection as a request. The worker answers it, which acknowledges the connection, or returns the
//! connection with an error. Messages from the worker report that it is ready, and the ids of connections that have ended.

#![deny(clippy::indexing_slicing)] // a panic ends the process, and a peer must not cause one

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::channel::{Format, FrameKind, Header};

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
}

/// A frame that the protocol does not allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Violation;

/// The state of one worker.
#[derive(Debug)]
pub struct WorkerProtocol<C> {
  assigned: HashMap<u32, Assigned<C>>,
  unacknowledged: usize,
  is_ready: bool,
}

impl<C> Default for WorkerProtocol<C> {
  fn default() -> Self {
    Self { assigned: HashMap::new(), unacknowledged: 0, is_ready: false }
  }
}

impl<C> WorkerProtocol<C> {
  /// Returns whether the worker has reported that it is ready.
  pub fn is_ready(&self) -> bool {
    self.is_ready
  }

  /// Returns how many connections the worker has.
  pub fn assigned(&self) -> usize {
    self.assigned.len()
  }

  /// Returns how many of them it has not acknowledged.
  pub fn unacknowledged(&self) -> usize {
    self.unacknowledged
  }

  /// Returns whether a connection has waited longer than `timeout` for its acknowledgement.
  pub fn is_overdue(&self, timeout: Duration, now: Instant) -> bool {
    let waits = |one: &Assigned<C>| !one.is_acknowledged && now.duration_since(one.since) > timeout;
    self.unacknowledged > 0 && self.assigned.values().any(waits)
  }

  /// Returns the first id from `from` on that no connection of this worker has. Ids wrap around, and a connection can
  /// outlast a round.
  pub fn free_id(&self, from: u32) -> u32 {
    let mut id = from;
    while id == 0 || self.assigned.contains_key(&id) {
      id = id.wrapping_add(1);
    }
    id
  }

  /// Returns the header of the request that sends a connection.
  pub fn request(id: u32) -> Header {
    Header { kind: FrameKind::Request, format: Format::Bytes, length: 0, fds: 0, id }
  }

  /// Records that a connection was sent with this id, which [`WorkerProtocol::free_id`] returned.
  pub fn assign(&mut self, id: u32, connection: C, now: Instant) {
    let before = self.assigned.insert(id, Assigned { connection, since: now, is_acknowledged: false });
    debug_assert!(before.is_none(), "an id names one connection");
    self.unacknowledged += 1;
  }

  /// Applies a frame of the worker, and reports each change; false if the worker closes its channel.
  ///
  /// After a violation the changes that were reported before it are valid.
  pub fn apply(&mut self, header: &Header, data: &[u8], mut report: impl FnMut(Change<C>)) -> Result<bool, Violation> {
    let id = header.id;
    match header.kind {
      FrameKind::Response => {
        let one = self.assigned.get_mut(&id).filter(|one| !one.is_acknowledged).ok_or(Violation)?;
        one.is_acknowledged = true;
        self.unacknowledged -= 1;
        report(Change::Acknowledged);
      }
      FrameKind::Error => {
        if self.assigned.get(&id).is_none_or(|one| one.is_acknowledged) {
          return Err(Violation);
        }
        let one = self.assigned.remove(&id).ok_or(Violation)?;
        self.unacknowledged -= 1;
        report(Change::Returned(one.connection));
      }
      FrameKind::Message => {
        let (ids, rest) = data.as_chunks();
        if !rest.is_empty() {
          return Err(Violation);
        }
        if !self.is_ready {
          self.is_ready = true;
          report(Change::Ready);
        }
        for &id in ids {
          let one = self.assigned.remove(&u32::from_be_bytes(id)).ok_or(Violation)?;
          // A worker may end a connection without acknowledging it first.
          if !one.is_acknowledged {
            self.unacknowledged -= 1;
            report(Change::Acknowledged);
          }
          report(Change::Completed(one.connection));
        }
      }
      FrameKind::Close => return Ok(false),
      FrameKind::Request | FrameKind::Cancel => return Err(Violation),
    }
    Ok(true)
  }

  /// Returns the connections that the worker has left, in the order of their ids.
  pub fn into_assigned(self) -> impl DoubleEndedIterator<Item = Assigned<C>> {
    let mut assigned: Vec<_> = self.assigned.into_iter().collect();
    assigned.sort_unstable_by_key(|(id, _)| *id);
    assigned.into_iter().map(|(_, one)| one)
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
