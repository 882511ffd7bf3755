//! A program for each connection, or for the listener: inetd's way.

use std::collections::{HashMap, VecDeque};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket as net;

use super::acceptor::{Accepted, Door, Watched, prepare};
use super::{Call, Client, Counters, Event, Listener, Reactor, Registration};
use crate::fd::set_blocking;
use crate::process::{ExitStatus, Process, Program, SpawnError, Step};

/// What a program gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InetdMode {
  /// A connection, and each connection a program.
  Nowait,
  /// The listener, which is left to it until its end.
  Wait,
}

/// How many programs there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InetdLimits {
  /// At a time; connections beyond wait in the backlog.
  pub connections: usize,
  /// For one client; its connections beyond are closed at once.
  pub per_client: Option<u32>,
  /// Started within a minute.
  pub per_minute: usize,
}

/// How many connections one event of a listener accepts: a program is started for each before anything else is done.
const PER_WAKE: usize = 8;

/// Where the tokens of programs begin; those of listeners are below.
const FIRST_PROGRAM: u32 = 1 << 16;

const MINUTE: Duration = Duration::from_secs(60);

/// A program that runs.
struct Running<W> {
  // Before the process, and so dropped before its descriptor.
  _watch: W,
  process: Process,
  client: Option<Client>,
  /// The listener that is left to it.
  listener: Option<u32>,
}

/// Starts a program for each connection, with it as its standard input, output and error, or one for the listener.
pub struct Inetd<R: Reactor> {
  reactor: R,
  mode: InetdMode,
  program: Program,
  limits: InetdLimits,
  listeners: Vec<Watched<R::Registration>>,
  running: HashMap<u32, Running<R::Registration>>,
  /// Accepted, while no program could be started for want of something.
  waiting: VecDeque<(OwnedFd, Option<Client>)>,
  door: Door,
  next_listener: u32,
  next_program: u32,
  /// How many programs were started since.
  started: (usize, Instant),
  stopped: bool,
  paused: bool,
  counters: Counters,
  news: Vec<Event>,
}

impl<R: Reactor> Inetd<R> {
  /// One without listeners.
  pub fn new(reactor: R, mode: InetdMode, program: Program, limits: InetdLimits) -> nix::Result<Self> {
    let mut door = Door::new()?;
    door.set_most_per_client(limits.per_client);
    Ok(Self {
      reactor,
      mode,
      program,
      limits,
      listeners: Vec::new(),
      running: HashMap::new(),
      waiting: VecDeque::new(),
      door,
      next_listener: 0,
      next_program: FIRST_PROGRAM,
      started: (0, Instant::now()),
      stopped: false,
      paused: false,
      counters: Counters::default(),
      news: Vec::new(),
    })
  }

  /// Serves a socket that listens, or one of datagrams. In mode `Nowait` it goes into non-blocking mode, otherwise, for each
  /// program, into blocking mode, as the programs of inetd expect it. Gives what [`Inetd::remove_listener`] takes.
  pub fn add_listener(&mut self, listener: Listener) -> nix::Result<u32> {
    let token = self.next_listener;
    let watched = Watched::new(listener, token, &self.reactor)?;
    self.next_listener += 1;
    self.listeners.push(watched);
    self.listen();
    Ok(token)
  }

  /// Serves a listener no more, and closes it.
  pub fn remove_listener(&mut self, token: u32) {
    self.listeners.retain(|listener| listener.token != token);
  }

  /// Sets what is started from now on, and how much of it.
  pub fn set_program(&mut self, program: Program, limits: InetdLimits) {
    self.program = program;
    self.limits = limits;
    self.door.set_most_per_client(limits.per_client);
    self.listen();
  }

  /// Starts nothing more; [`Event::Idle`] tells when all programs have ended.
  pub fn stop(&mut self) {
    self.stopped = true;
    self.listeners.clear();
    self.tell_idle();
  }

  /// Goes on after [`Event::RateLimited`] or [`Event::Exhausted`].
  pub fn retry(&mut self) {
    self.paused = false;
    while !self.paused
      && let Some((connection, client)) = self.waiting.pop_front()
    {
      self.serve(connection, client);
    }
    self.listen();
    self.tell_idle();
  }

  /// What became of connections.
  pub fn counters(&self) -> Counters {
    self.counters
  }

  /// How many connections wait for a program.
  pub fn waiting(&self) -> usize {
    self.waiting.len()
  }

  /// The programs that run.
  pub fn running(&self) -> impl ExactSizeIterator<Item = i32> + '_ {
    self.running.values().map(|running| running.process.pid())
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
  pub fn on_ready(&mut self, token: u32) {
    if let Some(index) = self.listeners.iter().position(|listener| listener.token == token) {
      match self.mode {
        // Of a moment before, in which something else has changed what there may be.
        _ if !self.listeners[index].expects() => {}
        InetdMode::Nowait => self.accept(index),
        InetdMode::Wait => self.leave_listener(index),
      }
    } else {
      self.end(token);
    }
    self.listen();
    self.tell_idle();
  }

  fn accept(&mut self, index: usize) {
    if let Err(errno) = prepare(&self.listeners[index].listener) {
      return self.pause(Event::Exhausted { call: Call::Fcntl, errno });
    }
    for _ in 0..PER_WAKE {
      if !self.has_room() {
        return;
      }
      match self.door.accept(&self.listeners[index].listener) {
        Accepted::Connection(connection, client) => {
          self.counters.accepted += 1;
          self.serve(connection, client);
        }
        Accepted::Refused => {
          self.counters.accepted += 1;
          self.counters.refused += 1;
        }
        Accepted::None => return,
        Accepted::Short(errno) => return self.pause(Event::Exhausted { call: Call::Accept, errno }),
      }
    }
  }

  /// Starts a program for a connection. One that cannot be executed is an end of the connection, as inetd has it; what is
  /// short is waited for.
  fn serve(&mut self, connection: OwnedFd, client: Option<Client>) {
    let started = self.start(&[connection.as_fd(); 3], client, None);
    match started {
      Ok(_) => self.counters.acknowledged += 1,
      Err(error) if error.is_temporary() => {
        self.waiting.push_back((connection, client));
        self.pause(Event::Exhausted { call: Call::Start(error.step), errno: error.errno });
      }
      Err(error) => {
        self.counters.lost += 1;
        self.door.leave(client);
        self.news.push(Event::SpawnFailed(error));
      }
    }
  }

  /// Leaves a listener to a program of its own.
  fn leave_listener(&mut self, index: usize) {
    let Watched { listener, token, .. } = &self.listeners[index];
    let token = *token;
    let listener = match listener.fd.try_clone() {
      Ok(listener) => listener,
      Err(error) => {
        let errno = Errno::from_raw(error.raw_os_error().unwrap_or(libc::EMFILE));
        return self.pause(Event::Exhausted { call: Call::Fcntl, errno });
      }
    };
    // A program before this one may have switched it.
    let started = set_blocking(listener.as_fd(), true).map_err(|errno| SpawnError { step: Step::Descriptors, errno });
    match started.and_then(|_| self.start(&[listener.as_fd(); 3], None, Some(token))) {
      Ok(pid) => {
        self.counters.accepted += 1;
        self.counters.acknowledged += 1;
        self.news.push(Event::ProgramStarted { pid });
      }
      Err(error) if error.is_temporary() => {
        self.pause(Event::Exhausted { call: Call::Start(error.step), errno: error.errno })
      }
      Err(error) => {
        self.counters.lost += 1;
        self.news.push(Event::SpawnFailed(error));
        // What nobody takes would be told without end. inetd drops one datagram too; of connections it goes on trying.
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
    let token = self.next_program;
    self.next_program = self.next_program.wrapping_add(1).max(FIRST_PROGRAM);
    let watched = self.reactor.register(process.as_fd(), token).and_then(|mut watch| {
      watch.set_interest(true, false)?;
      Ok(watch)
    });
    let pid = process.pid();
    match watched {
      Ok(watch) => drop(self.running.insert(token, Running { _watch: watch, process, client, listener })),
      // It runs, and nobody will tell its end: it counts as ended.
      Err(errno) => {
        self.door.leave(client);
        self.news.push(Event::Exhausted { call: Call::Register, errno });
      }
    }
    Ok(pid)
  }

  /// Counts a start as openbsd-inetd does: so many within a minute of the first are too many.
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

  fn pause(&mut self, why: Event) {
    if !self.paused {
      self.paused = true;
      self.news.push(why);
    }
  }

  /// Notes the end of a program.
  fn end(&mut self, token: u32) {
    let Some(running) = self.running.get_mut(&token) else { return };
    let ending = match running.process.reap() {
      Ok(None) => return,
      Ok(Some(ending)) => Some(ending),
      Err(_) => None, // somebody else in this process has waited for it
    };
    let Some(running) = self.running.remove(&token) else { return };
    self.counters.completed += 1;
    self.door.leave(running.client);
    if let Some(ending) = ending
      && (running.listener.is_some() || ending != ExitStatus::Code(0))
    {
      self.news.push(Event::ProgramEnded { pid: running.process.pid(), status: ending });
    }
  }

  fn has_room(&self) -> bool {
    !self.stopped && !self.paused && self.waiting.is_empty() && self.running.len() < self.limits.connections
  }

  fn listen(&mut self) {
    let on = self.has_room();
    let left: Vec<u32> = match self.mode {
      InetdMode::Nowait => Vec::new(),
      InetdMode::Wait => self.running.values().filter_map(|running| running.listener).collect(),
    };
    for listener in &mut self.listeners {
      if let Err(errno) = listener.arm(on && !left.contains(&listener.token), &self.reactor) {
        self.news.push(Event::Exhausted { call: Call::Register, errno });
      }
    }
  }

  fn tell_idle(&mut self) {
    if self.stopped && self.running.is_empty() && self.waiting.is_empty() && !self.news.contains(&Event::Idle) {
      self.news.push(Event::Idle);
    }
  }
}

/// Receives and drops a datagram, if one is queued; false if the socket is not a datagram socket.
fn drop_datagram(socket: BorrowedFd<'_>) -> bool {
  if !matches!(net::getsockopt(&socket, net::sockopt::SockType), Ok(net::SockType::Datagram)) {
    return false;
  }
  let _ = net::recv(socket.as_raw_fd(), &mut [], net::MsgFlags::MSG_DONTWAIT);
  true
}
