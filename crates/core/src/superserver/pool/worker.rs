//! One worker: its channel, and the state of its protocol.

#![deny(clippy::indexing_slicing)] // a panic ends the process, and a peer must not cause one

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::errno::Errno;

use super::super::acceptor::Client;
use super::super::reactor::{Reactor, Registration, Watched};
use super::protocol::{Assigned, Change, WorkerProtocol};
use crate::channel::{Decoder, FrameError, Limits, Outbox};
use crate::socket::{AncillaryOptions, ControlBuffer, Direction, Socket, SocketType};

/// How many connections a worker may have that it has not acknowledged. More would wait for it although another worker is
/// idle, and descriptors in flight are limited by user (unix(7), ETOOMANYREFS).
const MAX_UNACKNOWLEDGED: usize = 64;

/// Limits of a worker's frames. The largest reports the ends of 16,384 connections.
const FRAME_LIMITS: Limits = Limits { max_bytes: 65_536, max_fds: 0 };

/// A connection that was accepted and has not ended.
pub(super) struct Connection {
  pub(super) fd: OwnedFd,
  pub(super) client: Option<Client>,
  /// Name of the listener.
  pub(super) name: Arc<[u8]>,
  /// How often it was sent to a worker.
  pub(super) attempts: u32,
  /// Token of the worker that returned it.
  pub(super) returned_by: Option<u32>,
}

struct WorkerChannel {
  fd: OwnedFd,
  decoder: Decoder,
  outbox: Outbox,
}

impl AsFd for WorkerChannel {
  fn as_fd(&self) -> BorrowedFd<'_> {
    self.fd.as_fd()
  }
}

/// A worker. Without a registration its channel has failed: nothing is sent to it or received from it.
pub(super) struct Worker<R> {
  channel: Watched<WorkerChannel, R>,
  protocol: WorkerProtocol<Connection>,
  /// It is assigned nothing more. Its channel is shut down for writing once nothing waits to be sent.
  is_draining: bool,
  is_shut_down: bool,
}

impl<R: Registration> Worker<R> {
  pub(super) fn new(fd: OwnedFd, token: u32, reactor: &impl Reactor<Registration = R>) -> nix::Result<Self> {
    let channel = WorkerChannel { fd, decoder: Decoder::new(FRAME_LIMITS), outbox: Outbox::default() };
    Ok(Self {
      channel: Watched::new(channel, token, reactor)?,
      protocol: WorkerProtocol::default(),
      is_draining: false,
      is_shut_down: false,
    })
  }

  pub(super) fn token(&self) -> u32 {
    self.channel.token()
  }

  pub(super) fn protocol(&self) -> &WorkerProtocol<Connection> {
    &self.protocol
  }

  pub(super) fn has_failed(&self) -> bool {
    !self.channel.is_registered()
  }

  /// Ends the use of the channel. Returns false if it had failed before.
  pub(super) fn fail(&mut self) -> bool {
    self.channel.unregister()
  }

  /// Returns whether the worker can be assigned one more connection, given the most that it may have.
  pub(super) fn accepts(&self, max: usize) -> bool {
    self.protocol.is_ready()
      && !self.is_draining
      && !self.has_failed()
      && self.channel.outbox.is_empty()
      && self.protocol.unacknowledged() < MAX_UNACKNOWLEDGED
      && self.protocol.assigned() < max
  }

  /// Returns whether the worker is about to acknowledge connections, and has room for more: its frames can be received with
  /// the next connection.
  pub(super) fn is_acknowledging(&self) -> bool {
    self.protocol.is_ready()
      && !self.is_draining
      && !self.has_failed()
      && (1..MAX_UNACKNOWLEDGED / 2).contains(&self.protocol.unacknowledged())
  }

  pub(super) fn is_overdue(&self, timeout: Duration) -> bool {
    self.protocol.is_overdue(timeout, Instant::now())
  }

  /// Requests events. Writability is not requested while a resource is exhausted: it would be reported repeatedly.
  pub(super) fn update_interest(&mut self, exhausted: bool, defers_acks: bool) -> nix::Result<()> {
    let deferred = defers_acks && self.is_acknowledging();
    let writable = !exhausted && !self.channel.outbox.is_empty();
    self.channel.set_interest(!deferred, writable)
  }

  /// Assigns it nothing more. It sees the end of its channel behind the connections that were sent to it.
  pub(super) fn drain(&mut self) {
    self.is_draining = true;
    self.shut_down_if_drained();
  }

  fn shut_down_if_drained(&mut self) {
    if self.is_draining && !self.is_shut_down && self.channel.outbox.is_empty() {
      self.is_shut_down = true;
      // It fails if the worker has ended, which an event reports.
      let _ = socket(&self.channel.fd).shutdown(Direction::Write);
    }
  }

  /// Sends a connection with an id, or captures what has to wait. Returns why it waits.
  ///
  /// An error means that nothing was sent or captured.
  pub(super) fn send(&mut self, id: u32, connection: &Connection) -> nix::Result<Option<Errno>> {
    let WorkerChannel { fd, outbox, .. } = &mut *self.channel;
    let header = WorkerProtocol::<Connection>::request(id);
    outbox.send(socket(fd), header, &connection.name, &[connection.fd.as_fd()])
  }

  /// Records that a connection was sent with this id.
  pub(super) fn assign(&mut self, id: u32, connection: Connection) {
    self.protocol.assign(id, connection, Instant::now());
  }

  /// Sends what waits. Returns why something still waits.
  pub(super) fn flush(&mut self) -> Option<Errno> {
    let WorkerChannel { fd, outbox, .. } = &mut *self.channel;
    let stopped = outbox.flush(socket(fd)).1;
    if stopped.is_none() {
      self.shut_down_if_drained();
    }
    stopped
  }

  /// Receives once and reports the changes; false at the end of the channel. `EPROTO` for a violation of the protocol.
  pub(super) fn receive(
    &mut self,
    control: &mut ControlBuffer,
    mut report: impl FnMut(Change<Connection>),
  ) -> nix::Result<bool> {
    let WorkerChannel { fd, decoder, .. } = &mut *self.channel;
    decoder.receive(socket(fd), control)?;
    loop {
      match decoder.next_frame() {
        Ok(Some(frame)) => match self.protocol.apply(&frame.header, frame.data, &mut report) {
          Ok(true) => {}
          Ok(false) => return Ok(false),
          Err(_) => return Err(Errno::EPROTO),
        },
        Ok(None) => return Ok(!decoder.has_ended()),
        Err(FrameError::EndedInside) => return Ok(false), // the worker died
        Err(_) => return Err(Errno::EPROTO),
      }
    }
  }

  /// Returns the connections that it has left.
  pub(super) fn into_assigned(self) -> impl DoubleEndedIterator<Item = Assigned<Connection>> {
    self.protocol.into_assigned()
  }
}

/// The socket of a worker. Its creator may have requested control messages; they are no reason to refuse a frame.
fn socket(fd: &OwnedFd) -> Socket<'_> {
  Socket::from_parts(fd.as_fd(), SocketType::Stream, AncillaryOptions { credentials: true, pidfd: true })
}
