//! Connections for workers: accepted here, sent over channels, and held until their end is told.

use std::collections::{HashMap, VecDeque};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{self as net, MsgFlags};

use super::acceptor::{Accepted, Door, Watched, prepare};
use super::{Call, Client, Counters, Event, Listener, Reactor, Registration};
use crate::channel::{Decoder, Format, FrameError, FrameKind, Header, Limits, Outbox};
use crate::socket::{AncillaryOptions, ControlBuffer, Direction, Socket, SocketType};
use crate::sys::sockopt::reset_on_close;

/// How many connections one event of a listener accepts.
const PER_WAKE: usize = 64;

/// How many connections a worker may have that it has not acknowledged: more would wait for it although another is idle, and
/// descriptors in flight are limited by user (unix(7), ETOOMANYREFS).
const UNACKNOWLEDGED: usize = 64;

/// How often a connection is given to a worker before it counts as one that none will have.
const ATTEMPTS: u32 = 8;

/// What a worker may tell in one frame: the ends of this many connections.
const LIMITS: Limits = Limits { max_bytes: 65_536, max_fds: 0 };

/// How long what acknowledges connections may be put off.
const PATIENCE: Duration = Duration::from_millis(1);

/// Where the tokens of workers begin; those of listeners are below.
const FIRST_WORKER: u32 = 1 << 16;

/// How many connections there may be at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolLimits {
  /// In all; those beyond wait in the backlog.
  pub connections: usize,
  /// For one worker; likewise.
  pub per_worker: usize,
  /// For one client; those beyond are closed at once.
  pub per_client: Option<u32>,
}

/// A connection that was accepted and has not ended.
struct Connection {
  fd: OwnedFd,
  client: Option<Client>,
  name: Arc<[u8]>,
  attempts: u32,
  /// The worker that would not have it.
  given_back_by: Option<u32>,
}

/// A connection that a worker has.
struct Held {
  connection: Connection,
  given: Instant,
  acknowledged: bool,
}

/// The first id from this one on that is no connection's of those: ids begin anew, and a connection can last.
fn free_id(mut id: u32, held: &HashMap<u32, Held>) -> u32 {
  while id == 0 || held.contains_key(&id) {
    id = id.wrapping_add(1);
  }
  id
}

struct Worker<W> {
  // Before the channel, and so dropped before it. Of one that is broken there is none.
  watch: Option<W>,
  channel: OwnedFd,
  token: u32,
  decoder: Decoder,
  outbox: Outbox,
  held: HashMap<u32, Held>,
  unacknowledged: usize,
  is_ready: bool,
  /// It is given nothing more, and told so once nothing waits to be sent to it.
  is_leaving: bool,
  told_to_leave: bool,
}

impl<W: Registration> Worker<W> {
  fn socket(&self) -> Socket<'_> {
    // Whatever this socket asks the kernel to tell is no reason to refuse a frame.
    Socket::from_parts(self.channel.as_fd(), SocketType::Stream, AncillaryOptions { credentials: true, pidfd: true })
  }

  fn takes(&self, most: usize) -> bool {
    self.is_ready
      && !self.is_leaving
      && self.watch.is_some()
      && self.outbox.is_empty()
      && self.unacknowledged < UNACKNOWLEDGED
      && self.held.len() < most
  }

  /// Whether it is about to acknowledge connections, which is heard when the next one comes, or soon.
  fn is_acknowledging(&self) -> bool {
    self.is_ready
      && !self.is_leaving
      && self.watch.is_some()
      && self.unacknowledged > 0
      && self.unacknowledged < UNACKNOWLEDGED / 2
  }

  /// Asks for what is waited for. Room is not where something else is short: it would be told without end.
  fn arm(&mut self, short: bool, lazy: bool) -> nix::Result<()> {
    let later = lazy && self.is_acknowledging();
    let writable = !short && !self.outbox.is_empty();
    self.watch.as_mut().map_or(Ok(()), |watch| watch.set_interest(!later, writable))
  }

  /// Tells it that nothing more will come, once everything has gone.
  fn leave(&mut self) {
    if self.is_leaving && !self.told_to_leave && self.outbox.is_empty() {
      self.told_to_leave = true;
      // It fails for a worker that has gone already, which its event tells.
      let _ = self.socket().shutdown(Direction::Write);
    }
  }

  /// Whether a connection has waited for longer than this to be acknowledged.
  fn is_overdue(&self, patience: Duration) -> bool {
    self.unacknowledged > 0 && self.held.values().any(|held| !held.acknowledged && held.given.elapsed() > patience)
  }
}

/// How a worker is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WorkerState {
  /// Which.
  pub worker: u32,
  /// How many connections it has.
  pub connections: usize,
  /// How many of these it has not acknowledged.
  pub unacknowledged: usize,
}

/// Workers, each behind a channel (PROTOCOL.md), and the connections that they are given: each to the one that has fewest.
///
/// A connection stays open here until its worker has told its end, or has died. What a dead worker had not acknowledged
/// is given to another one. What it had acknowledged and not ended is reset, so that no client takes half an answer for a
/// whole one.
pub struct Pool<R: Reactor> {
  reactor: R,
  listeners: Vec<Watched<R::Registration>>,
  workers: Vec<Worker<R::Registration>>,
  /// Accepted, and with no worker yet, or no more.
  waiting: VecDeque<Connection>,
  door: Door,
  limits: PoolLimits,
  held: usize,
  next_listener: u32,
  next_worker: u32,
  next_id: u32,
  /// Nothing is accepted: after `stop`, or until `retry`.
  stopped: bool,
  short: bool,
  /// Accepting goes on when a connection has ended: the table has room for no more.
  full: bool,
  /// Whether the next connection will come by itself, so that what acknowledges the last ones can wait for it.
  lazy: bool,
  counters: Counters,
  news: Vec<Event>,
  control: Box<ControlBuffer>,
}

impl<R: Reactor> Pool<R> {
  /// One without listeners and workers.
  pub fn new(reactor: R, limits: PoolLimits) -> nix::Result<Self> {
    let mut door = Door::new()?;
    door.set_most_per_client(limits.per_client);
    Ok(Self {
      reactor,
      listeners: Vec::new(),
      workers: Vec::new(),
      waiting: VecDeque::new(),
      door,
      limits,
      held: 0,
      next_listener: 0,
      next_worker: FIRST_WORKER,
      next_id: 1,
      stopped: false,
      short: false,
      full: false,
      lazy: false,
      counters: Counters::default(),
      news: Vec::new(),
      control: Box::default(),
    })
  }

  /// Accepts from a socket that listens. It goes into non-blocking mode. Gives what [`Pool::remove_listener`] takes.
  pub fn add_listener(&mut self, listener: Listener) -> nix::Result<u32> {
    let token = self.next_listener;
    let watched = Watched::new(listener, token, &self.reactor)?;
    self.next_listener += 1;
    self.listeners.push(watched);
    self.settle();
    Ok(token)
  }

  /// Accepts from a listener no more, and closes it.
  pub fn remove_listener(&mut self, token: u32) {
    self.listeners.retain(|listener| listener.token != token);
  }

  /// Takes the channel of a worker over, which is given connections once it has said that it is ready.
  pub fn add_worker(&mut self, channel: OwnedFd) -> nix::Result<u32> {
    let token = self.next_worker;
    let watch = self.reactor.register(channel.as_fd(), token)?;
    let worker = Worker {
      watch: Some(watch),
      channel,
      token,
      decoder: Decoder::new(LIMITS),
      outbox: Outbox::default(),
      held: HashMap::new(),
      unacknowledged: 0,
      is_ready: false,
      is_leaving: false,
      told_to_leave: false,
    };
    self.next_worker += 1;
    self.workers.push(worker);
    self.settle();
    Ok(token)
  }

  /// Gives a worker nothing more: it sees the end of its channel, finishes what it has, and goes.
  pub fn drain_worker(&mut self, token: u32) {
    if let Some(worker) = self.workers.iter_mut().find(|worker| worker.token == token) {
      worker.is_leaving = true;
      worker.leave();
    }
    self.settle();
  }

  /// Notes that a worker's process has ended: what it has still said is heard, and then it is forgotten.
  pub fn worker_exited(&mut self, token: u32) {
    while let Some(index) = self.index_of(token) {
      if self.receive(index) != Ok(true) {
        self.remove_worker(index);
      }
    }
    self.settle();
  }

  /// Sets how many connections there may be from now on.
  pub fn set_limits(&mut self, limits: PoolLimits) {
    self.limits = limits;
    self.door.set_most_per_client(limits.per_client);
    self.settle();
  }

  /// Accepts nothing more. What was accepted is served; [`Event::Idle`] tells when all of it has ended.
  pub fn stop(&mut self) {
    self.stopped = true;
    self.listeners.clear();
    self.settle();
    self.tell_idle();
  }

  /// Tries again what was short.
  pub fn retry(&mut self) {
    self.short = false;
    (0..self.workers.len()).for_each(|index| self.flush(index));
    self.settle();
  }

  /// A worker that has let a connection wait for longer than this to be acknowledged.
  pub fn overdue_worker(&mut self, patience: Duration) -> Option<u32> {
    self.flush_deferred(); // it may have been acknowledged, and not been heard yet
    self.workers.iter().find(|worker| worker.is_overdue(patience)).map(|worker| worker.token)
  }

  /// What became of connections.
  pub fn counters(&self) -> Counters {
    self.counters
  }

  /// How many connections wait for a worker.
  pub fn waiting(&self) -> usize {
    self.waiting.len()
  }

  /// How many connections workers have.
  pub fn assigned(&self) -> usize {
    self.held
  }

  /// How the workers are doing.
  pub fn workers(&self) -> impl Iterator<Item = WorkerState> + '_ {
    self.workers.iter().map(|worker| WorkerState {
      worker: worker.token,
      connections: worker.held.len(),
      unacknowledged: worker.unacknowledged,
    })
  }

  /// What there is to tell since the last call: the first of it, and no more than so many.
  pub fn take_events(&mut self, most: usize) -> Vec<Event> {
    self.news.drain(..most.min(self.news.len())).collect()
  }

  /// Whether there is.
  pub fn has_events(&self) -> bool {
    !self.news.is_empty()
  }

  /// Does what an event asks for. One of something that is gone does nothing.
  pub fn on_ready(&mut self, token: u32, readable: bool, writable: bool) {
    if token < FIRST_WORKER {
      if let Some(index) = self.listeners.iter().position(|listener| listener.token == token)
        && self.listeners[index].expects()
      {
        self.hear_acknowledging();
        self.accept(index);
      }
    } else {
      if writable && let Some(index) = self.index_of(token) {
        self.flush(index);
      }
      if readable {
        self.hear(token);
      }
    }
    self.settle();
  }

  /// How long events may be waited for until [`Pool::flush_deferred`] is to be called; for ever if nothing is told.
  ///
  /// A worker that is about to acknowledge connections is heard with the next one that comes: to be woken for each
  /// acknowledgement costs more than all the rest.
  pub fn next_deadline(&self) -> Option<Duration> {
    (self.lazy && self.workers.iter().any(Worker::is_acknowledging)).then_some(PATIENCE)
  }

  /// Hears what was put off. What has not been said yet is not put off again, until something else happens.
  pub fn flush_deferred(&mut self) {
    self.hear_acknowledging();
    self.settle();
    self.lazy = false;
    self.arm_workers();
  }

  fn hear_acknowledging(&mut self) {
    let tokens: Vec<u32> =
      self.workers.iter().filter(|worker| worker.is_acknowledging()).map(|worker| worker.token).collect();
    tokens.into_iter().for_each(|token| self.hear(token));
  }

  fn hear(&mut self, token: u32) {
    let Some(index) = self.index_of(token) else { return };
    let heard = match self.receive(index) {
      // Such an error is told once, and what was said before it is still there.
      Err(errno) if errno != Errno::EAGAIN && errno != Errno::EPROTO => self.receive(index),
      heard => heard,
    };
    match heard {
      Ok(true) | Err(Errno::EAGAIN) => {}
      Ok(false) => self.remove_worker(index),
      Err(_) => self.give_up(index),
    }
  }

  /// Has a worker ended.
  fn give_up(&mut self, index: usize) {
    let Worker { watch, token, .. } = &mut self.workers[index];
    if watch.take().is_some() {
      self.news.push(Event::ChannelFailed { worker: *token });
    }
  }

  fn index_of(&self, token: u32) -> Option<usize> {
    self.workers.iter().position(|worker| worker.token == token)
  }

  /// Whether a further connection can be taken.
  fn has_room(&self) -> bool {
    !self.stopped
      && !self.short
      && !self.full
      && self.waiting.is_empty()
      && self.held < self.limits.connections
      && self.workers.iter().any(|worker| worker.takes(self.limits.per_worker))
  }

  fn accept(&mut self, index: usize) {
    if let Err(errno) = prepare(&self.listeners[index].listener) {
      return self.be_short(Call::Fcntl, errno);
    }
    for _ in 0..PER_WAKE {
      if !self.has_room() {
        return;
      }
      let watched = &self.listeners[index];
      match self.door.accept(&watched.listener) {
        Accepted::Connection(fd, client) => {
          self.counters.accepted += 1;
          self.full = self.door.is_last(&fd);
          let name = watched.name();
          self.give(Connection { fd, client, name, attempts: 0, given_back_by: None });
        }
        Accepted::Refused => {
          self.counters.accepted += 1;
          self.counters.refused += 1;
        }
        Accepted::None => return,
        Accepted::Short(errno) => {
          self.be_short(Call::Accept, errno);
          return;
        }
      }
    }
  }

  fn be_short(&mut self, call: Call, errno: Errno) {
    if !self.short {
      self.short = true;
      self.news.push(Event::Exhausted { call, errno });
    }
  }

  /// Gives a connection to the worker that has fewest, or lets it wait.
  fn give(&mut self, mut connection: Connection) {
    connection.attempts += 1;
    if connection.attempts > ATTEMPTS {
      self.counters.refused += 1;
      self.end(connection);
      return;
    }
    let most = self.limits.per_worker;
    loop {
      let takers = self.workers.iter_mut().filter(|worker| worker.takes(most));
      let Some(worker) =
        takers.min_by_key(|worker| (connection.given_back_by == Some(worker.token), worker.held.len()))
      else {
        connection.attempts -= 1;
        self.waiting.push_back(connection);
        return;
      };
      let id = free_id(self.next_id, &worker.held);
      let header = Header { kind: FrameKind::Request, format: Format::Bytes, length: 0, fds: 0, id };
      let Worker { channel, outbox, .. } = worker;
      let socket = Socket::from_parts(channel.as_fd(), SocketType::Stream, AncillaryOptions::default());
      let stopped = match outbox.send(socket, header, &connection.name, &[connection.fd.as_fd()]) {
        Ok(stopped) => stopped,
        Err(errno @ (Errno::EMFILE | Errno::ENFILE | Errno::ENOMEM)) => {
          connection.attempts -= 1;
          self.waiting.push_back(connection);
          self.be_short(Call::Sendmsg, errno);
          return;
        }
        // It has died, or receives no more.
        Err(_) => {
          let token = worker.token;
          while let Some(index) = self.index_of(token)
            && self.workers[index].watch.is_some()
          {
            match self.receive(index) {
              Ok(true) => {}
              Ok(false) => self.remove_worker(index),
              Err(_) => self.give_up(index),
            }
          }
          continue;
        }
      };
      worker.held.insert(id, Held { connection, given: Instant::now(), acknowledged: false });
      worker.unacknowledged += 1;
      self.held += 1;
      self.next_id = id.wrapping_add(1);
      match stopped {
        None | Some(Errno::EAGAIN) => {}
        Some(errno) => self.be_short(Call::Sendmsg, errno),
      }
      return;
    }
  }

  /// Sends what waits for a worker.
  fn flush(&mut self, index: usize) {
    let Worker { channel, outbox, .. } = &mut self.workers[index];
    let socket = Socket::from_parts(channel.as_fd(), SocketType::Stream, AncillaryOptions::default());
    match outbox.flush(socket).1 {
      None => self.workers[index].leave(),
      Some(errno @ (Errno::ETOOMANYREFS | Errno::ENOBUFS)) => self.be_short(Call::Sendmsg, errno),
      Some(_) => {}
    }
  }

  /// Hears what a worker says; false at the end of its channel.
  fn receive(&mut self, index: usize) -> nix::Result<bool> {
    let Self { workers, control, .. } = self;
    let Worker { channel, decoder, .. } = &mut workers[index];
    let socket =
      Socket::from_parts(channel.as_fd(), SocketType::Stream, AncillaryOptions { credentials: true, pidfd: true });
    decoder.receive(socket, control)?;
    loop {
      let worker = &mut self.workers[index];
      let arrived = match worker.decoder.next_frame() {
        Ok(Some(arrived)) => arrived,
        Ok(None) => return Ok(!self.workers[index].decoder.has_ended()),
        Err(FrameError::EndedInside) => return Ok(false), // it died
        Err(_) => return Err(Errno::EPROTO),
      };
      let Header { kind, id, .. } = arrived.header;
      match kind {
        FrameKind::Response => {
          let held = worker.held.get_mut(&id).filter(|held| !held.acknowledged).ok_or(Errno::EPROTO)?;
          held.acknowledged = true;
          worker.unacknowledged -= 1;
          self.counters.acknowledged += 1;
        }
        FrameKind::Error => {
          if worker.held.get(&id).is_none_or(|held| held.acknowledged) {
            return Err(Errno::EPROTO);
          }
          let held = worker.held.remove(&id).ok_or(Errno::EPROTO)?;
          worker.unacknowledged -= 1;
          self.held -= 1;
          self.counters.reassigned += 1;
          let given_back_by = Some(worker.token);
          self.waiting.push_back(Connection { given_back_by, ..held.connection });
        }
        FrameKind::Message => {
          let ids: Vec<u32> = arrived
            .data
            .chunks(4)
            .map(|id| id.try_into().map(u32::from_be_bytes).map_err(|_| Errno::EPROTO))
            .collect::<nix::Result<_>>()?;
          if !worker.is_ready {
            worker.is_ready = true;
            self.news.push(Event::WorkerReady { worker: worker.token });
          }
          for id in ids {
            let held = self.workers[index].held.remove(&id).ok_or(Errno::EPROTO)?;
            if !held.acknowledged {
              self.workers[index].unacknowledged -= 1;
              self.counters.acknowledged += 1;
            }
            self.held -= 1;
            self.counters.completed += 1;
            self.end(held.connection);
          }
        }
        FrameKind::Close => return Ok(false),
        FrameKind::Request | FrameKind::Cancel => return Err(Errno::EPROTO),
      }
    }
  }

  /// Closes a connection whose end was told.
  fn end(&mut self, connection: Connection) {
    self.door.leave(connection.client);
    self.full = false;
  }

  fn remove_worker(&mut self, index: usize) {
    let worker = self.workers.remove(index);
    self.held -= worker.held.len();
    let mut held: Vec<_> = worker.held.into_iter().collect();
    held.sort_unstable_by_key(|(id, _)| *id);
    let mut lost = 0;
    for (_, Held { connection, acknowledged, .. }) in held.into_iter().rev() {
      if !acknowledged {
        self.counters.reassigned += 1;
        self.waiting.push_front(connection);
      } else {
        if has_ended(connection.fd.as_fd()) {
          self.counters.completed += 1;
        } else {
          lost += 1;
          reset_on_close(connection.fd.as_fd());
        }
        self.end(connection);
      }
    }
    self.counters.lost += u64::from(lost);
    self.news.push(Event::WorkerRemoved { worker: worker.token, lost });
  }

  /// Gives what waits to those who have available_descriptors, and asks for what is waited for then.
  fn settle(&mut self) {
    while !self.short
      && self.workers.iter().any(|worker| worker.takes(self.limits.per_worker))
      && let Some(connection) = self.waiting.pop_front()
    {
      self.give(connection);
    }
    self.arm();
    if self.stopped {
      self.tell_idle();
    }
  }

  fn arm(&mut self) {
    let on = self.has_room();
    self.lazy = on && !self.listeners.is_empty();
    for listener in &mut self.listeners {
      if let Err(errno) = listener.arm(on, &self.reactor) {
        self.news.push(Event::Exhausted { call: Call::Register, errno });
      }
    }
    self.arm_workers();
  }

  fn arm_workers(&mut self) {
    let (short, lazy) = (self.short, self.lazy);
    // What one says that cannot be watched could not be heard any more.
    while let Some(index) = self.workers.iter_mut().position(|worker| worker.arm(short, lazy).is_err()) {
      self.give_up(index);
    }
  }

  fn tell_idle(&mut self) {
    if self.held == 0 && self.waiting.is_empty() && !self.news.contains(&Event::Idle) {
      self.news.push(Event::Idle);
    }
  }
}

/// Returns whether this side of a connection has ended its sending half, whichever process did so.
///
/// A send of no bytes fails with `EPIPE` then, and otherwise does nothing.
fn has_ended(connection: BorrowedFd<'_>) -> bool {
  #[cfg(not(target_vendor = "apple"))]
  let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
  #[cfg(target_vendor = "apple")]
  let flags = MsgFlags::MSG_DONTWAIT;
  net::send(connection.as_raw_fd(), &[], flags).is_err_and(|errno| errno != Errno::EAGAIN)
}

#[cfg(test)]
mod tests {
  use super::*;

  #[test]
  fn an_id_that_a_connection_still_has_is_not_given_out_again() {
    let held = || {
      let fd = std::fs::File::open("/dev/null").unwrap().into();
      let connection = Connection { fd, client: None, name: Arc::from([]), attempts: 1, given_back_by: None };
      Held { connection, given: Instant::now(), acknowledged: true }
    };
    let live: HashMap<u32, Held> = [1, 2, 7, u32::MAX].map(|id| (id, held())).into();
    assert_eq!([0, 1, 3, 6, 7, u32::MAX].map(|next| free_id(next, &live)), [3, 3, 3, 6, 8, 3]);
    assert_eq!(free_id(0, &HashMap::new()), 1);
  }
}
