//! Connections for workers: accepted, sent over channels, and held until the worker reports their end.

pub(crate) mod protocol;
mod worker;

use std::collections::VecDeque;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{self as net, MsgFlags};

use super::acceptor::{Accepted, Acceptor, ActiveListener, Listener};
use super::events::{Call, Counters, Event};
use super::reactor::{Reactor, Registration};
use crate::socket::ControlBuffer;
use crate::sys::errno::restart;
use crate::sys::sockopt::reset_on_close;
use protocol::{Assigned, Change};
use worker::{ChannelState, Connection, Worker};

/// How many connections one event of a listener accepts.
const MAX_ACCEPTS_PER_EVENT: usize = 64;

/// How often a connection is sent to a worker before it is refused.
const MAX_ATTEMPTS: u32 = 8;

/// How long acknowledgements may be deferred.
const MAX_ACK_DELAY: Duration = Duration::from_millis(1);

/// The lowest token of a worker; those of listeners are less.
const FIRST_WORKER: u32 = 1 << 16;

/// How many connections there may be at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolLimits {
  /// Of all workers. Connections beyond it wait in the backlog.
  pub connections: usize,
  /// Of one worker. Connections beyond it wait in the backlog.
  pub per_worker: usize,
  /// Of one client. Connections beyond it are closed at once.
  pub per_client: Option<u32>,
}

/// State of one worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WorkerState {
  /// Its token.
  pub worker: u32,
  /// How many connections it has.
  pub connections: usize,
  /// How many of them it has not acknowledged.
  pub unacknowledged: usize,
}

/// Assigns each connection to the worker that has fewest, over a channel (PROTOCOL.md).
///
/// A connection stays open here until its worker reports its end, or has died. Connections that a dead worker had not
/// acknowledged are assigned to other workers. Those that it had acknowledged and not ended are reset, so that no client
/// takes half a response for a whole one.
pub struct Pool<R: Reactor> {
  reactor: R,
  listeners: Vec<ActiveListener<R::Registration>>,
  workers: Vec<Worker<R::Registration>>,
  /// Accepted connections without a worker.
  waiting: VecDeque<Connection>,
  acceptor: Acceptor,
  limits: PoolLimits,
  /// How many connections the workers have.
  assigned: usize,
  next_listener: u32,
  next_worker: u32,
  next_id: u32,
  is_stopped: bool,
  /// A resource is exhausted: nothing is accepted until `retry`.
  is_exhausted: bool,
  /// The descriptor table is nearly full: nothing is accepted until a connection has ended.
  is_table_full: bool,
  /// A listener reports the next connection, and acknowledgements are received with it.
  defers_acks: bool,
  counters: Counters,
  events: Vec<Event>,
  control: Box<ControlBuffer>,
}

impl<R: Reactor> Pool<R> {
  /// Creates a pool without listeners and workers.
  pub fn new(reactor: R, limits: PoolLimits) -> nix::Result<Self> {
    Ok(Self {
      reactor,
      listeners: Vec::new(),
      workers: Vec::new(),
      waiting: VecDeque::new(),
      acceptor: Acceptor::new(limits.per_client)?,
      limits,
      assigned: 0,
      next_listener: 0,
      next_worker: FIRST_WORKER,
      next_id: 1,
      is_stopped: false,
      is_exhausted: false,
      is_table_full: false,
      defers_acks: false,
      counters: Counters::default(),
      events: Vec::new(),
      control: Box::default(),
    })
  }

  /// Accepts from a socket that listens, in non-blocking mode. Returns its token, for [`Pool::remove_listener`].
  pub fn add_listener(&mut self, listener: Listener) -> nix::Result<u32> {
    let token = self.next_listener;
    let listener = ActiveListener::new(listener, token, &self.reactor)?;
    self.next_listener += 1;
    self.listeners.push(listener);
    self.settle();
    Ok(token)
  }

  /// Closes a listener.
  pub fn remove_listener(&mut self, token: u32) {
    self.listeners.retain(|listener| listener.token() != token);
  }

  /// Takes over the channel of a worker and returns its token. It is assigned connections from [`Event::WorkerReady`] on.
  /// [`Event::WorkerServed`] reports each connection from the `max_served`th on; the owner should replace the worker.
  ///
  /// `is_foreign`: it runs as another user. Its channel, connections and what it sends are closed by
  /// [`close_apart`](crate::close_apart), because it can make the close block. A worker of this process's user could as well stop this process.
  pub fn add_worker(&mut self, channel: OwnedFd, is_foreign: bool, max_served: u64) -> nix::Result<u32> {
    let token = self.next_worker;
    let worker = Worker::new(channel, is_foreign, max_served, token, &self.reactor)?;
    self.next_worker += 1;
    self.workers.push(worker);
    self.settle();
    Ok(token)
  }

  /// Assigns a worker nothing more. It receives `timeout`, the time in milliseconds after which the owner kills it, and the end
  /// of its channel; it finishes its connections, and exits.
  pub fn drain_worker(&mut self, token: u32, timeout: u32) {
    if let Some(worker) = self.worker(token) {
      worker.drain(timeout);
    }
    self.settle();
  }

  /// Removes a worker whose process has ended, once what it had sent was received. [`Event::WorkerRemoved`] reports it.
  ///
  /// Processes that the worker has started may hold its channel and go on sending: what they send afterwards is not received.
  pub fn worker_exited(&mut self, token: u32) {
    if let Some(worker) = self.worker(token) {
      worker.note_exit();
      self.receive_from(token);
    }
    self.settle();
  }

  /// Sets limits that apply from now on.
  pub fn set_limits(&mut self, limits: PoolLimits) {
    self.limits = limits;
    self.acceptor.set_max_per_client(limits.per_client);
    self.settle();
  }

  /// Closes all listeners. Accepted connections are served; [`Event::Idle`] reports when all have ended.
  pub fn stop(&mut self) {
    self.is_stopped = true;
    self.listeners.clear();
    self.settle();
  }

  /// Continues after [`Event::Exhausted`].
  pub fn retry(&mut self) {
    self.is_exhausted = false;
    let tokens: Vec<u32> = self.workers.iter().map(Worker::token).collect();
    tokens.into_iter().for_each(|token| self.flush(token));
    self.settle();
  }

  /// Returns the token of a worker that has not acknowledged a connection within `timeout`.
  pub fn overdue_worker(&mut self, timeout: Duration) -> Option<u32> {
    self.flush_deferred(); // an acknowledgement may be waiting to be received
    self.workers.iter().find(|worker| worker.is_overdue(timeout)).map(Worker::token)
  }

  /// Returns the numbers of connections since the start.
  pub fn counters(&self) -> Counters {
    self.counters
  }

  /// Returns how many connections wait for a worker.
  pub fn waiting(&self) -> usize {
    self.waiting.len()
  }

  /// Returns how many connections the workers have.
  pub fn assigned(&self) -> usize {
    self.assigned
  }

  /// Returns the state of each worker.
  pub fn workers(&self) -> impl Iterator<Item = WorkerState> + '_ {
    self.workers.iter().map(|worker| WorkerState {
      worker: worker.token(),
      connections: worker.protocol().assigned(),
      unacknowledged: worker.protocol().unacknowledged(),
    })
  }

  /// Returns the oldest events that were not returned yet, at most `max`.
  pub fn take_events(&mut self, max: usize) -> Vec<Event> {
    self.events.drain(..max.min(self.events.len())).collect()
  }

  /// Returns whether [`Pool::take_events`] would return any.
  pub fn has_events(&self) -> bool {
    !self.events.is_empty()
  }

  /// Handles an event of the event loop. An event of a token that was removed has no effect.
  pub fn on_ready(&mut self, token: u32, readable: bool, writable: bool) {
    if token < FIRST_WORKER {
      if let Some(index) = self.listeners.iter().position(|listener| listener.token() == token)
        && self.listeners.get_mut(index).is_some_and(ActiveListener::expects_event)
      {
        self.receive_acks();
        self.accept(index);
      }
    } else {
      if writable {
        self.flush(token);
      }
      if readable {
        self.receive_from(token);
      }
    }
    self.settle();
  }

  /// Returns how long the event loop may wait before it calls [`Pool::flush_deferred`]; `None` without a limit.
  ///
  /// A worker that is about to acknowledge connections is read with the next connection. A wake for each acknowledgement
  /// costs more than the rest of the work.
  pub fn next_deadline(&self) -> Option<Duration> {
    if self.workers.iter().any(Worker::has_last_words) {
      return Some(Duration::ZERO);
    }
    (self.defers_acks && self.workers.iter().any(Worker::is_acknowledging)).then_some(MAX_ACK_DELAY)
  }

  /// Receives deferred acknowledgements and last words. Acknowledgements that are still missing are not deferred again until
  /// something else happens.
  pub fn flush_deferred(&mut self) {
    self.receive_acks();
    self.receive_where(Worker::has_last_words);
    self.settle();
    self.defers_acks = false;
    self.update_worker_interest();
  }

  fn receive_acks(&mut self) {
    self.receive_where(Worker::is_acknowledging);
  }

  /// Receives once from each worker of a kind.
  fn receive_where(&mut self, is_meant: impl Fn(&Worker<R::Registration>) -> bool) {
    let tokens: Vec<u32> = self.workers.iter().filter(|worker| is_meant(worker)).map(Worker::token).collect();
    tokens.into_iter().for_each(|token| self.receive_from(token));
  }

  /// Receives once from a worker. The event loop calls again for the rest, so that a worker that sends without end delays
  /// nothing else.
  fn receive_from(&mut self, token: u32) {
    let Self { workers, control, events, counters, waiting, assigned, acceptor, is_table_full, .. } = self;
    let Some(worker) = workers.iter_mut().find(|worker| worker.token() == token) else { return };
    let state = worker.receive(control, |change| match change {
      Change::Ready => events.push(Event::WorkerReady { worker: token }),
      Change::Noted(note) => events.push(Event::WorkerNote { worker: token, note }),
      Change::Acknowledged => counters.acknowledged += 1,
      Change::Returned(connection) => {
        *assigned -= 1;
        counters.reassigned += 1;
        waiting.push_back(Connection { returned_by: Some(token), ..connection });
      }
      Change::Completed(mut connection) => {
        connection.fd.note_end();
        *assigned -= 1;
        counters.completed += 1;
        acceptor.release(connection.client);
        *is_table_full = false;
      }
    });
    match state {
      ChannelState::Open => {}
      ChannelState::Ended => self.remove_worker(token),
      ChannelState::Failed => self.fail_worker(token),
    }
  }

  /// Ends the use of a worker's channel, and reports that the worker has to be killed.
  fn fail_worker(&mut self, token: u32) {
    if self.worker(token).is_some_and(Worker::fail) {
      self.events.push(Event::ChannelFailed { worker: token });
    }
  }

  fn worker(&mut self, token: u32) -> Option<&mut Worker<R::Registration>> {
    self.workers.iter_mut().find(|worker| worker.token() == token)
  }

  /// Returns whether one more connection can be accepted.
  fn can_accept(&self) -> bool {
    !self.is_stopped
      && !self.is_exhausted
      && !self.is_table_full
      && self.waiting.is_empty()
      && self.assigned < self.limits.connections
      && self.workers.iter().any(|worker| worker.accepts(self.limits.per_worker))
  }

  fn accept(&mut self, index: usize) {
    if let Some(Err(errno)) = self.listeners.get(index).map(|listener| listener.listener().set_nonblocking()) {
      return self.note_exhausted(Call::Fcntl, errno);
    }
    for _ in 0..MAX_ACCEPTS_PER_EVENT {
      let Some(listener) = self.listeners.get(index).filter(|_| self.can_accept()) else { return };
      let listener = listener.listener();
      match self.acceptor.accept(listener) {
        Accepted::Connection(fd, client) => {
          self.counters.accepted += 1;
          self.is_table_full = self.acceptor.reaches_reserve(fd.as_fd());
          let name = listener.name();
          self.assign(Connection { fd, client, name, attempts: 0, returned_by: None });
        }
        Accepted::Refused => {
          self.counters.accepted += 1;
          self.counters.refused += 1;
        }
        Accepted::Empty => return,
        Accepted::Exhausted(errno) => return self.note_exhausted(Call::Accept, errno),
      }
    }
  }

  fn note_exhausted(&mut self, call: Call, errno: Errno) {
    if !self.is_exhausted {
      self.is_exhausted = true;
      self.events.push(Event::Exhausted { call, errno });
    }
  }

  /// Assigns a connection to the worker that has fewest, or lets it wait.
  fn assign(&mut self, mut connection: Connection) {
    if connection.attempts == MAX_ATTEMPTS {
      self.counters.refused += 1;
      self.release(connection);
      return;
    }
    while let Some(worker) = choose(&mut self.workers, self.limits.per_worker, connection.returned_by) {
      let id = worker.protocol().free_id(self.next_id);
      match worker.send(id, &connection) {
        Ok(stopped) => {
          connection.attempts += 1;
          let event = Event::WorkerServed { worker: worker.token() };
          if worker.assign(id, connection) && !self.events.contains(&event) {
            self.events.push(event);
          }
          self.assigned += 1;
          self.next_id = id.wrapping_add(1);
          if let Some(errno) = stopped.filter(|&errno| errno != Errno::EAGAIN) {
            self.note_exhausted(Call::Sendmsg, errno);
          }
          return;
        }
        Err(errno @ (Errno::EMFILE | Errno::ENFILE | Errno::ENOMEM)) => {
          self.note_exhausted(Call::Sendmsg, errno);
          break;
        }
        // The worker has died, or receives no more. Its last words are received.
        Err(_) => {
          let token = worker.token();
          worker.note_unreachable();
          self.receive_from(token);
        }
      }
    }
    self.waiting.push_back(connection);
  }

  /// Sends what waits for a worker.
  fn flush(&mut self, token: u32) {
    if let Some(errno @ (Errno::ETOOMANYREFS | Errno::ENOBUFS)) = self.worker(token).and_then(Worker::flush) {
      self.note_exhausted(Call::Sendmsg, errno);
    }
  }

  /// Closes a connection, and counts its end.
  fn release(&mut self, mut connection: Connection) {
    connection.fd.note_end();
    self.acceptor.release(connection.client);
    self.is_table_full = false;
  }

  /// Removes a worker whose channel has ended.
  fn remove_worker(&mut self, token: u32) {
    let Some(index) = self.workers.iter().position(|worker| worker.token() == token) else { return };
    let worker = self.workers.remove(index);
    self.assigned -= worker.protocol().assigned();
    let mut lost = 0;
    // From the last on, so that the first one waits in front.
    for Assigned { connection, is_acknowledged, .. } in worker.into_assigned().rev() {
      if !is_acknowledged {
        self.counters.reassigned += 1;
        self.waiting.push_front(connection);
        continue;
      }
      if has_ended(connection.fd.as_fd()) {
        self.counters.completed += 1;
      } else {
        lost += 1;
        reset_on_close(connection.fd.as_fd());
      }
      self.release(connection);
    }
    self.counters.lost += u64::from(lost);
    self.events.push(Event::WorkerRemoved { worker: token, lost });
  }

  /// Assigns waiting connections as far as workers have room, and updates the requested events.
  fn settle(&mut self) {
    while !self.is_exhausted
      && self.workers.iter().any(|worker| worker.accepts(self.limits.per_worker))
      && let Some(connection) = self.waiting.pop_front()
    {
      self.assign(connection);
    }
    self.update_interest();
    if self.is_stopped {
      self.report_idle();
    }
  }

  fn update_interest(&mut self) {
    let on = self.can_accept();
    self.defers_acks = on && !self.listeners.is_empty();
    for listener in &mut self.listeners {
      if let Err(errno) = listener.set_accepting(on, &self.reactor) {
        self.events.push(Event::Exhausted { call: Call::Register, errno });
      }
    }
    self.update_worker_interest();
  }

  fn update_worker_interest(&mut self) {
    let (exhausted, defers) = (self.is_exhausted, self.defers_acks);
    // Without events nothing could be received from the worker.
    let mut refused = Vec::new();
    for worker in &mut self.workers {
      if worker.update_interest(exhausted, defers).is_err() {
        refused.push(worker.token());
      }
    }
    refused.into_iter().for_each(|token| self.fail_worker(token));
  }

  fn report_idle(&mut self) {
    if self.assigned == 0 && self.waiting.is_empty() && !self.events.contains(&Event::Idle) {
      self.events.push(Event::Idle);
    }
  }
}

/// Chooses the worker with the fewest connections; the one that returned this connection only if no other has room.
fn choose<R: Registration>(workers: &mut [Worker<R>], max: usize, returned_by: Option<u32>) -> Option<&mut Worker<R>> {
  let candidates = workers.iter_mut().filter(|worker| worker.accepts(max));
  candidates.min_by_key(|worker| (returned_by == Some(worker.token()), worker.protocol().assigned()))
}

/// Returns whether this side of a connection has ended its sending half, whichever process did so.
///
/// A send of no bytes fails with `EPIPE` then, and otherwise does nothing.
fn has_ended(connection: BorrowedFd<'_>) -> bool {
  #[cfg(not(target_vendor = "apple"))]
  let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
  #[cfg(target_vendor = "apple")]
  let flags = MsgFlags::MSG_DONTWAIT;
  restart(|| net::send(connection.as_raw_fd(), &[], flags)).is_err_and(|errno| errno != Errno::EAGAIN)
}
