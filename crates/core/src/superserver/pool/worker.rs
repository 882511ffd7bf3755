//! One worker: its channel, and the state of its protocol.

#![cfg_attr(not(test), deny(clippy::arithmetic_side_effects))] // of numbers that a peer sends

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::errno::Errno;

use super::super::acceptor::Client;
use super::super::reactor::{Reactor, Registration, Watched};
use super::protocol::{Assigned, Change, End, WorkerProtocol};
use crate::channel::Outbox;
use crate::fd::{POOL_OWNER, SharedSocket};
use crate::socket::{AncillaryOptions, ControlBuffer, Direction, Socket, SocketType};
use crate::sys::msg::bytes_waiting;

/// How many connections a worker may have that it has not acknowledged. More would wait for it although another worker is
/// idle, and descriptors in flight are limited by user (unix(7), ETOOMANYREFS).
const MAX_UNACKNOWLEDGED: usize = 64;

/// A connection that was accepted and has not ended.
pub(super) struct Connection {
  pub(super) fd: SharedSocket,
  pub(super) client: Option<Client>,
  /// Name of the listener.
  pub(super) name: Arc<[u8]>,
  /// How often it was sent to a worker.
  pub(super) attempts: u32,
  /// Token of the worker that returned it.
  pub(super) returned_by: Option<u32>,
}

struct WorkerChannel {
  fd: SharedSocket,
  outbox: Outbox,
}

impl AsFd for WorkerChannel {
  fn as_fd(&self) -> BorrowedFd<'_> {
    self.fd.as_fd()
  }
}

/// What a worker has sent before an event after which it is not trusted to end.
///
/// The bytes are counted at the event: other processes that hold the channel, or the worker itself, may send without end.
struct LastWords {
  /// How many bytes were queued at the event and were not received yet.
  left: usize,
  /// The event is the end of the worker's process; otherwise the worker receives no more.
  has_exited: bool,
}

/// State of a worker's channel after a receive.
pub(super) enum ChannelState {
  /// More may be received later.
  Open,
  /// The channel has ended: the worker can be removed.
  Ended,
  /// The channel has failed: the worker has to be killed.
  Failed,
}

/// A worker. Without a registration its channel has failed: nothing is sent to it, and nothing is received from it but its
/// last words.
pub(super) struct Worker<R> {
  channel: Watched<WorkerChannel, R>,
  protocol: WorkerProtocol<Connection>,
  /// It is assigned nothing more. Its channel is shut down for writing once nothing waits to be sent.
  is_draining: bool,
  is_shut_down: bool,
  /// How many more connections it is assigned before an event reports that it has served enough.
  connections_left: u64,
  last_words: Option<LastWords>,
  is_foreign: bool,
}

impl<R: Registration> Worker<R> {
  pub(super) fn new(
    fd: OwnedFd,
    is_foreign: bool,
    max_served: u64,
    token: u32,
    reactor: &impl Reactor<Registration = R>,
  ) -> nix::Result<Self> {
    // Descriptors that the worker has sent can be queued in its channel.
    let channel = WorkerChannel { fd: SharedSocket::new(fd, is_foreign), outbox: Outbox::default() };
    let mut protocol = WorkerProtocol::default();
    if is_foreign && let Some(decoder) = protocol.decoder() {
      decoder.close_apart(POOL_OWNER);
    }
    Ok(Self {
      channel: Watched::new(channel, token, reactor)?,
      protocol,
      is_draining: false,
      is_shut_down: false,
      connections_left: max_served,
      last_words: None,
      is_foreign,
    })
  }

  pub(super) fn token(&self) -> u32 {
    self.channel.token()
  }

  pub(super) fn protocol(&self) -> &WorkerProtocol<Connection> {
    &self.protocol
  }

  /// Returns whether the worker can still be sent connections.
  fn is_usable(&self) -> bool {
    self.protocol.is_ready() && !self.is_draining && self.channel.is_registered() && self.last_words.is_none()
  }

  /// Ends the use of the channel. Returns false if it had failed before.
  pub(super) fn fail(&mut self) -> bool {
    self.channel.unregister()
  }

  /// Returns whether the worker can be assigned one more connection, given the most that it may have.
  pub(super) fn accepts(&self, max: usize) -> bool {
    self.is_usable()
      && self.channel.outbox.is_empty()
      && self.protocol.unacknowledged() < MAX_UNACKNOWLEDGED
      && self.protocol.assigned() < max
  }

  /// Returns whether the worker is about to acknowledge connections, and has room for more: its frames can be received with
  /// the next connection.
  pub(super) fn is_acknowledging(&self) -> bool {
    self.is_usable() && (1..MAX_UNACKNOWLEDGED / 2).contains(&self.protocol.unacknowledged())
  }

  /// Returns whether the worker's last words are being received.
  pub(super) fn has_last_words(&self) -> bool {
    self.last_words.as_ref().is_some_and(|words| words.has_exited || self.channel.is_registered())
  }

  /// Records that the worker receives no more. What it has sent until now is received, and no more.
  pub(super) fn note_unreachable(&mut self) {
    self.limit_to_queued(false);
  }

  /// Records that the worker's process has ended. What it has sent until now is received, and no more.
  pub(super) fn note_exit(&mut self) {
    self.limit_to_queued(true);
  }

  fn limit_to_queued(&mut self, has_exited: bool) {
    let left = bytes_waiting(self.channel.fd.as_fd());
    self.last_words = Some(LastWords { left, has_exited });
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

  /// Assigns it nothing more. It sees the end of its channel behind the connections that were sent to it, and behind the time,
  /// in milliseconds, after which its owner kills it.
  pub(super) fn drain(&mut self, timeout: u32) {
    if !self.is_draining && self.protocol.is_ready() {
      let WorkerChannel { fd, outbox, .. } = &mut *self.channel;
      let deadline = format!("{{\"drainTimeout\":{timeout}}}");
      // Without it the worker relies on the time in its environment. It fails if the worker has ended, which an event reports.
      let _ = outbox.send(socket(fd), WorkerProtocol::<Connection>::deadline(), deadline.as_bytes(), &[]);
    }
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

  /// Records that a connection was sent with this id. Returns whether it is the last one that the worker should be assigned.
  pub(super) fn assign(&mut self, id: u32, mut connection: Connection) -> bool {
    connection.fd.share(self.is_foreign);
    self.protocol.assign(id, connection, Instant::now());
    self.connections_left = self.connections_left.saturating_sub(1);
    self.connections_left == 0
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

  /// Receives once and reports the changes.
  ///
  /// One receive returns at most 65,552 bytes, which are 4,097 frames. Nothing is received behind a violation.
  pub(super) fn receive(
    &mut self,
    control: &mut ControlBuffer,
    mut report: impl FnMut(Change<Connection>),
  ) -> ChannelState {
    let received = match self.receive_once(control, &mut report) {
      // The kernel reports such an error once; bytes that precede it are still queued.
      Err(errno) if errno != Errno::EAGAIN => self.receive_once(control, &mut report),
      result => result,
    };
    match (received, &mut self.last_words) {
      (Ok(Err(End::Closed)), _) => ChannelState::Ended,
      (Ok(Ok(_)) | Err(Errno::EAGAIN), None) => ChannelState::Open,
      (Ok(Ok(length)), Some(words)) if length < words.left => {
        words.left = words.left.saturating_sub(length);
        ChannelState::Open
      }
      (_, Some(LastWords { has_exited: true, .. })) => ChannelState::Ended,
      _ => ChannelState::Failed,
    }
  }

  /// Receives once and reports the changes. Returns how many bytes were received, or the end of the channel.
  fn receive_once(
    &mut self,
    control: &mut ControlBuffer,
    report: impl FnMut(Change<Connection>),
  ) -> nix::Result<Result<usize, End>> {
    let length = match self.protocol.decoder() {
      Some(decoder) => decoder.receive(socket(&self.channel.fd), control)?,
      None => 0,
    };
    Ok(self.protocol.apply_received(report).map(|()| length))
  }

  /// Returns the connections that it has left.
  pub(super) fn into_assigned(self) -> impl DoubleEndedIterator<Item = Assigned<Connection>> {
    self.protocol.into_assigned()
  }
}

/// The socket of a worker. Its creator may have requested control messages; they are no reason to refuse a frame.
fn socket(fd: &SharedSocket) -> Socket<'_> {
  Socket::from_parts(fd.as_fd(), SocketType::Stream, AncillaryOptions { credentials: true, pidfd: true })
}
