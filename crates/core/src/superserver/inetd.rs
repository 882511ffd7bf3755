//! A program for each connection, or for the listener, as inetd starts them.

use std::collections::{HashMap, VecDeque};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::time::{Duration, Instant};

use nix::sys::socket as net;

use super::acceptor::{Accepted, Acceptor, ActiveListener, Client, Listener};
use super::events::{Call, Counters, Event};
use super::reactor::{Reactor, Watched};
use crate::fd::{SharedSocket, duplicate, set_blocking};
use crate::process::{ExitStatus, Process, Program, SpawnError, Step};
use crate::sys::errno::restart;

/// What a program receives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InetdMode {
  /// A connection: each connection has a program of its own.
  Nowait,
  /// The listener, until the program ends.
  Wait,
}

/// How many programs there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InetdLimits {
  /// At a time. Connections beyond it wait in the backlog.
  pub connections: usize,
  /// For one client. Its connections beyond it are closed at once.
  pub per_client: Option<u32>,
  /// Started within a minute.
  pub per_minute: usize,
}

/// How many connections one event of a listener accepts: a program is started for each before other events are handled.
const MAX_ACCEPTS_PER_EVENT: usize = 8;

/// The lowest token of a program; those of listeners are less.
const FIRST_PROGRAM: u32 = 1 << 16;

const MINUTE: Duration = Duration::from_secs(60);

/// A running program.
struct Running<R> {
  process: Watched<Process, R>,
  client: Option<Client>,
  /// Token of the listener that it serves.
  listener: Option<u32>,
}

/// Starts a program for each connection, with the connection as standard input, output and error, or one for the listener.
pub struct Inetd<R: Reactor> {
  reactor: R,
  mode: InetdMode,
  program: Program,
  limits: InetdLimits,
  listeners: Vec<ActiveListener<R::Registration>>,
  running: HashMap<u32, Running<R::Registration>>,
  /// Accepted connections for which no program could be started yet, because a resource was exhausted.
  waiting: VecDeque<(SharedSocket, Option<Client>)>,
  acceptor: Acceptor,
  next_listener: u32,
  next_program: u32,
  /// How many programs were started since this time.
  started: (usize, Instant),
  is_stopped: bool,
  is_paused: bool,
  counters: Counters,
  events: Vec<Event>,
}

impl<R: Reactor> Inetd<R> {
  /// Creates one without listeners.
  pub fn new(reactor: R, mode: InetdMode, program: Program, limits: InetdLimits) -> nix::Result<Self> {
    Ok(Self {
      reactor,
      mode,
      program,
      limits,
      listeners: Vec::new(),
      running: HashMap::new(),
      waiting: VecDeque::new(),
      acceptor: Acceptor::new(limits.per_client)?,
      next_listener: 0,
      next_program: FIRST_PROGRAM,
      started: (0, Instant::now()),
      is_stopped: false,
      is_paused: false,
      counters: Counters::default(),
      events: Vec::new(),
    })
  }

  /// Serves a socket that listens, or a datagram socket. Returns its token, for [`Inetd::remove_listener`].
  ///
  /// In mode `Nowait` it is switched to non-blocking mode. In mode `Wait` it is switched to blocking mode for each program,
  /// as programs of inetd expect.
  pub fn add_listener(&mut self, listener: Listener) -> nix::Result<u32> {
    let token = self.next_listener;
    let listener = ActiveListener::new(listener, token, &self.reactor)?;
    self.next_listener += 1;
    self.listeners.push(listener);
    self.update_interest();
    Ok(token)
  }

  /// Closes a listener.
  pub fn remove_listener(&mut self, token: u32) {
    self.listeners.retain(|listener| listener.token() != token);
  }

  /// Sets the program and the limits that apply from now on.
  pub fn set_program(&mut self, program: Program, limits: InetdLimits) {
    self.program = program;
    self.limits = limits;
    self.acceptor.set_max_per_client(limits.per_client);
    self.update_interest();
  }

  /// Starts nothing more and closes all listeners. [`Event::Idle`] reports when all programs have ended.
  pub fn stop(&mut self) {
    self.is_stopped = true;
    self.listeners.clear();
    self.report_idle();
  }

  /// Continues after [`Event::RateLimited`] or [`Event::Exhausted`].
  pub fn retry(&mut self) {
    self.is_paused = false;
    while !self.is_paused
      && let Some((connection, client)) = self.waiting.pop_front()
    {
      self.serve(connection, client);
    }
    self.update_interest();
    self.report_idle();
  }

  /// Returns the numbers of connections since the start.
  pub fn counters(&self) -> Counters {
    self.counters
  }

  /// Returns how many connections wait for a program.
  pub fn waiting(&self) -> usize {
    self.waiting.len()
  }

  /// Returns the process ids of the running programs.
  pub fn running(&self) -> impl ExactSizeIterator<Item = i32> + '_ {
    self.running.values().map(|running| running.process.pid())
  }

  /// Returns the oldest events that were not returned yet, at most `max`.
  pub fn take_events(&mut self, max: usize) -> Vec<Event> {
    self.events.drain(..max.min(self.events.len())).collect()
  }

  /// Returns whether [`Inetd::take_events`] would return any.
  pub fn has_events(&self) -> bool {
    !self.events.is_empty()
  }

  /// Handles an event of the event loop. An event of a token that was removed has no effect.
  pub fn on_ready(&mut self, token: u32) {
    if let Some(index) = self.listeners.iter().position(|listener| listener.token() == token) {
      // An event of the same turn may have changed what may be accepted.
      if self.listeners.get_mut(index).is_some_and(ActiveListener::expects_event) {
        match self.mode {
          InetdMode::Nowait => self.accept(index),
          InetdMode::Wait => self.lend_listener(index),
        }
      }
    } else {
      self.reap(token);
    }
    self.update_interest();
    self.report_idle();
  }

  fn accept(&mut self, index: usize) {
    if let Some(Err(errno)) = self.listeners.get(index).map(|listener| listener.listener().set_nonblocking()) {
      return self.pause(Event::Exhausted { call: Call::Fcntl, errno });
    }
    for _ in 0..MAX_ACCEPTS_PER_EVENT {
      let Some(listener) = self.listeners.get(index).filter(|_| self.can_start()) else { return };
      match self.acceptor.accept(listener.listener()) {
        Accepted::Connection(mut connection, client) => {
          connection.share(true);
          self.counters.accepted += 1;
          self.serve(connection, client);
        }
        Accepted::Refused => {
          self.counters.accepted += 1;
          self.counters.refused += 1;
        }
        Accepted::Empty => return,
        Accepted::Exhausted(errno) => return self.pause(Event::Exhausted { call: Call::Accept, errno }),
      }
    }
  }

  /// Starts a program for a connection. If it cannot be executed, the connection is closed, as inetd does. If a resource is
  /// exhausted, the connection waits.
  fn serve(&mut self, connection: SharedSocket, client: Option<Client>) {
    match self.start(&[connection.as_fd(); 3], client, None) {
      Ok(_) => self.counters.acknowledged += 1,
      Err(error) if error.is_temporary() => {
        self.waiting.push_back((connection, client));
        self.pause(Event::Exhausted { call: Call::Start(error.step), errno: error.errno });
      }
      Err(error) => {
        self.counters.lost += 1;
        self.acceptor.release(client);
        self.events.push(Event::SpawnFailed(error));
      }
    }
  }

  /// Starts a program for a listener, which serves it until the program ends.
  fn lend_listener(&mut self, index: usize) {
    let Some(listener) = self.listeners.get(index) else { return };
    let token = listener.token();
    let listener = match duplicate(listener.listener().as_fd()) {
      Ok(listener) => listener,
      Err(errno) => return self.pause(Event::Exhausted { call: Call::Fcntl, errno }),
    };
    // An earlier program may have switched the mode.
    let prepared = set_blocking(listener.as_fd(), true).map_err(|errno| SpawnError { step: Step::Descriptors, errno });
    match prepared.and_then(|_| self.start(&[listener.as_fd(); 3], None, Some(token))) {
      Ok(pid) => {
        self.counters.accepted += 1;
        self.counters.acknowledged += 1;
        self.events.push(Event::ProgramStarted { pid });
      }
      Err(error) if error.is_temporary() => {
        self.pause(Event::Exhausted { call: Call::Start(error.step), errno: error.errno });
      }
      Err(error) => {
        self.counters.lost += 1;
        self.events.push(Event::SpawnFailed(error));
        // Otherwise the same event would be reported without end. inetd drops one datagram too; for connections it tries again.
        if !drop_datagram(listener.as_fd()) {
          self.pause(Event::RateLimited);
        }
      }
    }
  }

  fn start(
    &mut self,
    fds: &[BorrowedFd<'_>],
    client: Option<Client>,
    listener: Option<u32>,
  ) -> Result<i32, SpawnError> {
    self.count_start();
    let process = self.program.spawn(fds)?;
    let pid = process.pid();
    let token = self.next_program;
    self.next_program = self.next_program.wrapping_add(1).max(FIRST_PROGRAM);
    let watched = Watched::new(process, token, &self.reactor).and_then(|mut process| {
      process.set_interest(true, false)?;
      Ok(process)
    });
    match watched {
      Ok(process) => drop(self.running.insert(token, Running { process, client, listener })),
      // The program runs, and no event would report its end: it is counted as ended.
      Err(errno) => {
        self.acceptor.release(client);
        self.events.push(Event::Exhausted { call: Call::Register, errno });
      }
    }
    Ok(pid)
  }

  /// Counts a start as openbsd-inetd does: `per_minute` starts within a minute of the first are too many.
  fn count_start(&mut self) {
    let now = Instant::now();
    let (count, since) = &mut self.started;
    if *count == 0 || now.duration_since(*since) > MINUTE {
      self.started = (0, now);
    }
    self.started.0 += 1;
    if self.started.0 >= self.limits.per_minute {
      self.started.0 = 0;
      self.pause(Event::RateLimited);
    }
  }

  fn pause(&mut self, reason: Event) {
    if !self.is_paused {
      self.is_paused = true;
      self.events.push(reason);
    }
  }

  /// Removes a program that has ended.
  fn reap(&mut self, token: u32) {
    let Some(running) = self.running.get_mut(&token) else { return };
    let status = match running.process.reap() {
      Ok(None) => return,
      Ok(Some(status)) => Some(status),
      Err(_) => None, // other code of this process has waited for it
    };
    let Some(running) = self.running.remove(&token) else { return };
    self.counters.completed += 1;
    self.acceptor.release(running.client);
    if let Some(status) = status
      && (running.listener.is_some() || status != ExitStatus::Code(0))
    {
      self.events.push(Event::ProgramEnded { pid: running.process.pid(), status });
    }
  }

  fn can_start(&self) -> bool {
    !self.is_stopped && !self.is_paused && self.waiting.is_empty() && self.running.len() < self.limits.connections
  }

  fn update_interest(&mut self) {
    let on = self.can_start();
    let lent: Vec<u32> = match self.mode {
      InetdMode::Nowait => Vec::new(),
      InetdMode::Wait => self.running.values().filter_map(|running| running.listener).collect(),
    };
    for listener in &mut self.listeners {
      let on = on && !lent.contains(&listener.token());
      if let Err(errno) = listener.set_accepting(on, &self.reactor) {
        self.events.push(Event::Exhausted { call: Call::Register, errno });
      }
    }
  }

  fn report_idle(&mut self) {
    let is_idle = self.running.is_empty() && self.waiting.is_empty();
    if self.is_stopped && is_idle && !self.events.contains(&Event::Idle) {
      self.events.push(Event::Idle);
    }
  }
}

/// Receives and drops a datagram, if one is queued; false if the socket is not a datagram socket.
fn drop_datagram(socket: BorrowedFd<'_>) -> bool {
  if !matches!(net::getsockopt(&socket, net::sockopt::SockType), Ok(net::SockType::Datagram)) {
    return false;
  }
  let _ = restart(|| net::recv(socket.as_raw_fd(), &mut [], net::MsgFlags::MSG_DONTWAIT));
  true
}
