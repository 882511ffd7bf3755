//! A pool of workers. The test plays the workers, over real sockets and in one thread.

#[path = "../fixtures/mod.rs"]
mod fixtures;

use std::collections::HashSet;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Duration;

use fdpass_core::superserver::{Call, Counters, Event, Listener, Pool, PoolLimits, WorkerState};
use fdpass_core::{
  Channel, ChannelError, Errno, Format, Frame, FrameKind, Header, Limits, Message, SocketType, TcpOptions,
  local_internet_address, socketpair, tcp_listener,
};
use fixtures::reactor::*;
use fixtures::*;
use tempfile::tempdir;

type Service = Running<Pool<EventLoop>>;

const NO_LIMITS: PoolLimits = PoolLimits { connections: usize::MAX, per_worker: usize::MAX, per_client: None };

const NAME: &str = "tcp:the name";

fn pool(limits: PoolLimits) -> Service {
  Running::new(|events| Pool::new(events, limits).unwrap())
}

fn tcp() -> (OwnedFd, SocketAddr) {
  let options = TcpOptions { backlog: 1024, ipv6_only: false, reuse_port: false };
  let listener = tcp_listener("127.0.0.1:0".parse().unwrap(), options).unwrap();
  let address = local_internet_address(listener.as_fd()).unwrap();
  (listener, address)
}

/// Returns a pool with one listener.
fn serving(limits: PoolLimits) -> (Service, SocketAddr) {
  let mut pool = pool(limits);
  let (listener, address) = tcp();
  pool.service.add_listener(Listener::new(listener, NAME.as_bytes())).unwrap();
  (pool, address)
}

fn connect(address: SocketAddr) -> TcpStream {
  let client = TcpStream::connect(address).unwrap();
  client.set_read_timeout(Some(TIMEOUT)).unwrap();
  client
}

/// A connection that a worker has received.
#[derive(Debug)]
struct Job {
  id: u32,
  name: String,
  connection: TcpStream,
}

/// A worker's end of its channel.
struct Worker {
  token: u32,
  channel: Channel,
}

impl Worker {
  fn new(pool: &mut Service) -> Self {
    let (ours, theirs) = socketpair(SocketType::Stream).unwrap();
    let token = pool.service.add_worker(theirs, true, u64::MAX).unwrap();
    Self { token, channel: Channel::new(ours, Limits::default()).unwrap() }
  }

  fn new_ready(pool: &mut Service) -> Self {
    let mut worker = Self::new(pool);
    worker.say(FrameKind::Message, 0, b"");
    pool.until_event(Event::WorkerReady { worker: worker.token });
    worker
  }

  fn say(&mut self, kind: FrameKind, id: u32, data: &[u8]) {
    self.channel.send(Message { kind, format: Format::Bytes, id, data }, &[]).unwrap();
  }

  fn acknowledge(&mut self, id: u32) {
    self.say(FrameKind::Response, id, b"");
  }

  fn give_back(&mut self, id: u32) {
    self.say(FrameKind::Error, id, b"{\"message\":\"not now\"}");
  }

  fn tell_ended(&mut self, ids: &[u32]) {
    let data: Vec<u8> = ids.iter().flat_map(|id| id.to_be_bytes()).collect();
    self.say(FrameKind::Message, 0, &data);
  }

  /// Returns the next queued connection, without waiting.
  fn taken(&mut self) -> Option<Job> {
    match self.channel.try_receive() {
      Ok(Some(Frame { kind: FrameKind::Request, format: Format::Bytes, id, data, fds })) => {
        let [fd] = <[OwnedFd; 1]>::try_from(fds).unwrap();
        assert!(!is_nonblocking(&fd) && is_close_on_exec(&fd));
        let connection = TcpStream::from(fd);
        connection.set_read_timeout(Some(TIMEOUT)).unwrap();
        Some(Job { id, name: String::from_utf8(data).unwrap(), connection })
      }
      Err(ChannelError::System(Errno::EAGAIN)) => None,
      other => panic!("no request: {other:?}"),
    }
  }

  #[track_caller]
  fn take(&mut self, pool: &mut Service) -> Job {
    pool.until(|_| self.taken())
  }

  /// Receives a connection and acknowledges it.
  #[track_caller]
  fn accept(&mut self, pool: &mut Service) -> Job {
    let job = self.take(pool);
    let before = pool.service.counters().acknowledged;
    self.acknowledge(job.id);
    pool.until(|pool| (pool.service.counters().acknowledged > before).then_some(()));
    job
  }

  /// Returns whether the channel has ended. The time until the deadline may precede its end.
  fn has_been_told_to_leave(&mut self) -> bool {
    match self.channel.try_receive() {
      Ok(Some(Frame { kind: FrameKind::Message, format: Format::Json, data, .. })) => {
        assert_eq!(data, br#"{"drainTimeout":1000}"#);
        self.has_been_told_to_leave()
      }
      received => matches!(received, Ok(None)),
    }
  }

  fn note(&mut self, data: &[u8]) {
    self.channel.send(Message { kind: FrameKind::Message, format: Format::Json, id: 0, data }, &[]).unwrap();
  }

  fn state(&self, pool: &Service) -> Option<WorkerState> {
    pool.service.workers().find(|state| state.worker == self.token)
  }
}

/// Asserts that both are ends of one connection.
#[track_caller]
fn assert_connected(mut client: impl Read + Write, connection: &mut TcpStream) {
  let mut bytes = [0; 4];
  client.write_all(b"ping").unwrap();
  connection.read_exact(&mut bytes).unwrap();
  assert_eq!(&bytes, b"ping");
  connection.write_all(b"pong").unwrap();
  client.read_exact(&mut bytes).unwrap();
  assert_eq!(&bytes, b"pong");
}

#[track_caller]
fn assert_ends_orderly(mut client: impl Read) {
  assert_eq!(client.read(&mut [0; 64]).unwrap(), 0);
}

#[track_caller]
fn assert_is_reset(mut client: impl Read) {
  assert_eq!(client.read(&mut [0; 64]).unwrap_err().kind(), ErrorKind::ConnectionReset);
}

#[track_caller]
fn assert_is_open(client: &TcpStream) {
  client.set_nonblocking(true).unwrap();
  assert_eq!((&*client).read(&mut [0; 64]).unwrap_err().kind(), ErrorKind::WouldBlock);
  client.set_nonblocking(false).unwrap();
}

/// Duplicates a worker's channel, to send what no channel sends.
fn raw(worker: &Worker) -> UnixStream {
  worker.channel.as_fd().try_clone_to_owned().unwrap().into()
}

#[track_caller]
fn until_counted(pool: &mut Service, counters: Counters) {
  pool.until(|pool| (pool.service.counters() == counters).then_some(()));
}

#[test]
fn a_connection_comes_with_the_name_of_its_listener() {
  let (mut pool, address) = serving(NO_LIMITS);
  let folder = tempdir().unwrap();
  let path = folder.path().join("socket");
  let listener = UnixListener::bind(&path).unwrap();
  pool.service.add_listener(Listener::new(listener.into(), b"unix:\xf0\x9f\x90\xa7")).unwrap();
  let mut worker = Worker::new_ready(&mut pool);
  let tcp_client = connect(address);
  let mut job = worker.accept(&mut pool);
  assert_eq!(job.name, NAME);
  assert_connected(&tcp_client, &mut job.connection);
  let unix_client = UnixStream::connect(&path).unwrap();
  let mut job = worker.accept(&mut pool);
  assert_eq!(job.name, "unix:\u{1f427}");
  assert_connected(&unix_client, &mut job.connection);
}

#[test]
fn nothing_is_accepted_before_a_worker_is_ready() {
  let (mut pool, address) = serving(NO_LIMITS);
  let client = connect(address);
  let mut worker = Worker::new(&mut pool);
  pool.settle();
  assert_eq!(pool.service.counters(), Counters::default());
  assert!(worker.taken().is_none());
  worker.say(FrameKind::Message, 0, b"");
  assert_connected(&client, &mut worker.take(&mut pool).connection);
}

#[test]
fn a_connection_goes_to_the_worker_that_has_fewest() {
  let (mut pool, address) = serving(NO_LIMITS);
  let mut workers = [(); 3].map(|()| Worker::new_ready(&mut pool));
  let mut jobs = Vec::new();
  let mut connect_to = |pool: &mut Service, workers: &mut [Worker; 3]| {
    let client = connect(address);
    let taken = |workers: &mut [Worker; 3]| workers.iter_mut().enumerate().find_map(|(i, w)| Some((i, w.taken()?)));
    let (index, job) = pool.until(|_| taken(workers));
    jobs.push((client, job));
    (index, jobs.last().unwrap().1.id)
  };
  let given: Vec<(usize, u32)> = (0..9).map(|_| connect_to(&mut pool, &mut workers)).collect();
  for index in 0..3 {
    assert_eq!(given.iter().filter(|(worker, _)| *worker == index).count(), 3);
  }
  for (index, id) in given.iter().filter(|(worker, _)| *worker == 1) {
    workers[*index].tell_ended(&[*id]);
  }
  pool.until(|pool| (pool.service.assigned() == 6).then_some(()));
  for _ in 0..3 {
    assert_eq!(connect_to(&mut pool, &mut workers).0, 1);
  }
}

#[test]
fn a_connection_is_acknowledged_and_then_completed() {
  let (mut pool, address) = serving(NO_LIMITS);
  let mut worker = Worker::new_ready(&mut pool);
  let client = connect(address);
  let mut job = worker.take(&mut pool);
  let mut counters = Counters { accepted: 1, ..Counters::default() };
  assert_eq!(pool.service.counters(), counters);
  assert_eq!(worker.state(&pool), Some(WorkerState { worker: worker.token, connections: 1, unacknowledged: 1 }));
  worker.acknowledge(job.id);
  counters.acknowledged = 1;
  until_counted(&mut pool, counters);
  assert_eq!(worker.state(&pool), Some(WorkerState { worker: worker.token, connections: 1, unacknowledged: 0 }));
  assert_connected(&client, &mut job.connection);
  let id = job.id;
  drop(job);
  pool.settle();
  assert_is_open(&client);
  assert_eq!(pool.service.assigned(), 1, "it is held until its end is reported");
  worker.tell_ended(&[id]);
  counters.completed = 1;
  until_counted(&mut pool, counters);
  assert_ends_orderly(&client);
  assert_eq!(pool.service.assigned(), 0);
  assert_eq!(pool.events, []);
}

#[test]
fn a_connection_that_ends_at_once_counts_as_acknowledged() {
  let (mut pool, address) = serving(NO_LIMITS);
  let mut worker = Worker::new_ready(&mut pool);
  let _clients = [connect(address), connect(address)];
  let ids = [worker.take(&mut pool).id, worker.take(&mut pool).id];
  worker.acknowledge(ids[0]);
  worker.tell_ended(&ids);
  until_counted(&mut pool, Counters { accepted: 2, acknowledged: 2, completed: 2, ..Counters::default() });
  assert_eq!(worker.state(&pool).unwrap().unacknowledged, 0);
}

#[test]
fn a_connection_whose_worker_dies_before_it_acknowledges_goes_to_another_one() {
  let (mut pool, address) = serving(NO_LIMITS);
  let mut first = Worker::new_ready(&mut pool);
  let mut client = connect(address);
  client.write_all(b"sent before").unwrap();
  drop(first.take(&mut pool));
  let mut second = Worker::new_ready(&mut pool);
  drop(first.channel);
  let mut job = second.accept(&mut pool);
  let mut bytes = [0; 11];
  job.connection.read_exact(&mut bytes).unwrap();
  assert_eq!(&bytes, b"sent before");
  assert_connected(&client, &mut job.connection);
  assert!(pool.has_event(Event::WorkerRemoved { worker: first.token, lost: 0 }));
  let counters = Counters { accepted: 1, acknowledged: 1, reassigned: 1, ..Counters::default() };
  assert_eq!(pool.service.counters(), counters);
}

#[test]
fn a_connection_whose_worker_dies_waits_for_the_next_one() {
  let (mut pool, address) = serving(NO_LIMITS);
  let mut first = Worker::new_ready(&mut pool);
  let clients = [connect(address), connect(address), connect(address)];
  // It has received one; the others are still queued.
  drop(first.take(&mut pool));
  pool.until(|pool| (pool.service.counters().accepted == 3).then_some(()));
  drop(first.channel);
  pool.until_event(Event::WorkerRemoved { worker: first.token, lost: 0 });
  assert_eq!((pool.service.waiting(), pool.service.assigned()), (3, 0));
  let mut second = Worker::new_ready(&mut pool);
  for client in &clients {
    assert_connected(client, &mut second.accept(&mut pool).connection); // in their order
  }
}

#[test]
fn a_connection_whose_worker_dies_after_it_acknowledged_is_reset_and_lost() {
  let (mut pool, address) = serving(NO_LIMITS);
  let mut worker = Worker::new_ready(&mut pool);
  let mut client = connect(address);
  let mut job = worker.accept(&mut pool);
  job.connection.write_all(b"half an answ").unwrap();
  client.read_exact(&mut [0; 12]).unwrap();
  drop((job, worker.channel));
  pool.until_event(Event::WorkerRemoved { worker: worker.token, lost: 1 });
  assert_is_reset(&client);
  let counters = Counters { accepted: 1, acknowledged: 1, lost: 1, ..Counters::default() };
  assert_eq!(pool.service.counters(), counters);
  assert_eq!((pool.service.assigned(), pool.service.waiting()), (0, 0));
}

#[test]
fn a_connection_that_a_worker_had_ended_before_it_died_is_completed() {
  let (mut pool, address) = serving(NO_LIMITS);
  let mut worker = Worker::new_ready(&mut pool);
  let mut client = connect(address);
  let mut job = worker.accept(&mut pool);
  job.connection.write_all(b"a whole answer").unwrap();
  job.connection.shutdown(Shutdown::Write).unwrap();
  drop((job, worker.channel));
  pool.until_event(Event::WorkerRemoved { worker: worker.token, lost: 0 });
  let mut text = String::new();
  client.read_to_string(&mut text).unwrap();
  assert_eq!(text, "a whole answer");
  let counters = Counters { accepted: 1, acknowledged: 1, completed: 1, ..Counters::default() };
  assert_eq!(pool.service.counters(), counters);
}

#[test]
fn what_a_worker_said_before_it_died_is_heard() {
  let (mut pool, address) = serving(NO_LIMITS);
  let mut worker = Worker::new_ready(&mut pool);
  let clients = [connect(address), connect(address), connect(address)];
  let jobs = [(); 3].map(|()| worker.take(&mut pool));
  worker.acknowledge(jobs[0].id);
  worker.acknowledge(jobs[1].id);
  worker.tell_ended(&[jobs[1].id]);
  drop((jobs, worker.channel));
  pool.service.worker_exited(worker.token);
  pool.until_event(Event::WorkerRemoved { worker: worker.token, lost: 1 });
  let counters = Counters { accepted: 3, acknowledged: 2, completed: 1, lost: 1, reassigned: 1, ..Counters::default() };
  assert_eq!(pool.service.counters(), counters);
  assert_is_reset(&clients[0]);
  assert_ends_orderly(&clients[1]);
  let mut next = Worker::new_ready(&mut pool);
  assert_connected(&clients[2], &mut next.accept(&mut pool).connection);
}

#[test]
fn a_worker_is_forgotten_although_somebody_else_holds_its_channel() {
  let (mut pool, address) = serving(NO_LIMITS);
  let mut worker = Worker::new_ready(&mut pool);
  let client = connect(address);
  worker.accept(&mut pool);
  pool.service.worker_exited(worker.token);
  pool.until_event(Event::WorkerRemoved { worker: worker.token, lost: 1 });
  assert_is_reset(&client);
  let begun = std::time::Instant::now();
  while !worker.has_been_told_to_leave() {
    assert!(begun.elapsed() < TIMEOUT, "another thread closes the channel");
    std::thread::yield_now();
  }
  pool.service.worker_exited(worker.token);
  pool.settle();
  assert_eq!(pool.events, []);
}

#[test]
fn a_connection_that_is_given_back_goes_to_another_worker() {
  let (mut pool, address) = serving(NO_LIMITS);
  let mut workers = [Worker::new_ready(&mut pool), Worker::new_ready(&mut pool)];
  let client = connect(address);
  let (index, job) = pool.until(|_| workers.iter_mut().enumerate().find_map(|(i, w)| Some((i, w.taken()?))));
  // The other worker has more connections, and receives it all the same.
  let _others = [connect(address), connect(address), connect(address)];
  for _ in 0..3 {
    workers[1 - index].tell_ended(&[]);
  }
  pool.until(|pool| (pool.service.assigned() == 4).then_some(()));
  let given: Vec<Job> = std::iter::from_fn(|| workers[1 - index].taken()).collect();
  workers[index].give_back(job.id);
  drop(job);
  let mut job = workers[1 - index].accept_after(&mut pool, &given);
  assert_connected(&client, &mut job.connection);
  assert_eq!(pool.service.counters().reassigned, 1);
}

impl Worker {
  /// Acknowledges the next connection; the previous ones are acknowledged too.
  #[track_caller]
  fn accept_after(&mut self, pool: &mut Service, before: &[Job]) -> Job {
    before.iter().for_each(|job| self.acknowledge(job.id));
    self.accept(pool)
  }
}

#[test]
fn a_connection_that_nobody_will_have_is_closed() {
  let (mut pool, address) = serving(NO_LIMITS);
  let mut worker = Worker::new_ready(&mut pool);
  let client = connect(address);
  let mut ids = HashSet::new();
  while let Some(job) = pool.until(|pool| {
    let job = worker.taken();
    (job.is_some() || pool.service.counters().refused > 0).then_some(job)
  }) {
    assert!(ids.insert(job.id));
    worker.give_back(job.id);
  }
  assert_ends_orderly(&client);
  let reassigned = ids.len() as u64;
  assert!((2..=64).contains(&reassigned));
  assert_eq!(pool.service.counters(), Counters { accepted: 1, refused: 1, reassigned, ..Counters::default() });
  assert_eq!((pool.service.assigned(), pool.service.waiting()), (0, 0));
}

/// Runs an action of a worker that has an acknowledged and a new connection. Checks what becomes of them, and returns whether
/// the channel failed.
#[track_caller]
fn gone_after(act: impl FnOnce(&mut Worker, [u32; 2])) -> bool {
  let (mut pool, address) = serving(NO_LIMITS);
  let mut worker = Worker::new_ready(&mut pool);
  let clients = [connect(address), connect(address)];
  let acknowledged = worker.accept(&mut pool);
  let new = worker.take(&mut pool);
  act(&mut worker, [acknowledged.id, new.id]);
  let is_over = |event: &Event| matches!(event, Event::WorkerRemoved { .. } | Event::ChannelFailed { .. });
  let mut told = pool.until_event_that(is_over);
  let broken = told == Event::ChannelFailed { worker: worker.token };
  if broken {
    assert_eq!(pool.service.assigned(), 2, "it may be reading of what it has");
    pool.service.worker_exited(worker.token);
    told = pool.until_event_that(is_over);
  }
  let Event::WorkerRemoved { lost, .. } = told else { panic!("{told:?}") };
  drop((acknowledged, new));
  // Each of its connections is reset or assigned to another worker.
  assert_eq!(lost, 1);
  assert_is_reset(&clients[0]);
  let mut next = Worker::new_ready(&mut pool);
  assert_connected(&clients[1], &mut next.accept(&mut pool).connection);
  assert_eq!((pool.service.assigned(), pool.service.waiting()), (1, 0));
  broken
}

/// Returns the bytes of a frame.
fn frame(kind: FrameKind, id: u32, data: &[u8]) -> Vec<u8> {
  let header = Header { kind, format: Format::Bytes, length: data.len() as u32, fds: 0, id };
  [&header.encode()[..], data].concat()
}

/// Sends bytes, and frames behind them: an acknowledgement, an end, and more than one receive returns.
fn send_with_more(worker: &Worker, bytes: &[u8], [acknowledged, new]: [u32; 2]) {
  let behind = [
    frame(FrameKind::Response, new, b""),
    frame(FrameKind::Message, 0, &[acknowledged.to_be_bytes(), new.to_be_bytes()].concat()),
    frame(FrameKind::Message, 0, b"").repeat(6000),
  ];
  raw(worker).write_all(&[bytes, &behind.concat()].concat()).unwrap();
}

#[test]
fn a_worker_that_violates_the_protocol_has_to_be_killed_and_nothing_behind_the_violation_counts_s52_s131() {
  use FrameKind::*;
  let violation = |title: &str, bytes: fn([u32; 2]) -> Vec<u8>| {
    assert!(gone_after(|worker, ids| raw(worker).write_all(&bytes(ids)).unwrap()), "{title}");
    assert!(gone_after(|worker, ids| send_with_more(worker, &bytes(ids), ids)), "{title}, with frames behind it");
  };
  violation("no frame", |_| b"GET / HTTP/1.1\r\n\r\n".to_vec());
  violation("an unknown kind", |_| [&[0xfd, 1, 9][..], &[0; 13]].concat());
  violation("a long frame", |_| [&[0xfd, 1, 0, 0, 0, 1, 0, 1][..], &[0; 8]].concat());
  violation("an unknown id", |[_, new]| frame(Response, new + 1, b""));
  violation("no id", |_| frame(Response, 0, b""));
  violation("acknowledged twice", |[acknowledged, _]| frame(Response, acknowledged, b""));
  violation("returned too late", |[acknowledged, _]| frame(Error, acknowledged, b""));
  violation("returned an unknown connection", |[_, new]| frame(Error, new + 1, b""));
  violation("ended an unknown connection", |[_, new]| frame(Message, 0, &(new + 1).to_be_bytes()));
  violation("no whole number", |_| frame(Message, 0, &[0; 3]));
  violation("a request", |[_, new]| frame(Request, new, b""));
  violation("a cancel", |[_, new]| frame(Cancel, new, b""));
  let with_descriptor = |worker: &mut Worker| {
    worker.channel.send(fdpass_core::Message::bytes(b""), &[std::io::stdout().as_fd()]).unwrap();
  };
  assert!(gone_after(|worker, _| with_descriptor(worker)), "a descriptor");
  let with_more = |worker: &mut Worker, ids: [u32; 2]| {
    with_descriptor(worker);
    send_with_more(worker, b"", ids);
  };
  assert!(gone_after(with_more), "a descriptor, with frames behind it");
}

/// Sends frames until the channel is full. Returns false if it is closed.
fn flood(channel: &UnixStream) -> bool {
  let frames = frame(FrameKind::Message, 0, b"").repeat(1024);
  loop {
    match (&*channel).write(&frames) {
      Ok(sent) => assert_eq!(sent, frames.len(), "the kernel accepts so few bytes whole or not at all"),
      Err(error) if error.kind() == ErrorKind::WouldBlock => return true,
      Err(_) => return false,
    }
  }
}

/// Returns a pool, a worker with an acknowledged connection whose channel is full of frames, and a duplicate of its channel
/// in non-blocking mode.
fn flooding() -> (Service, SocketAddr, Worker, UnixStream, [TcpStream; 2], Job) {
  let (mut pool, address) = serving(NO_LIMITS);
  let mut worker = Worker::new_ready(&mut pool);
  let clients = [connect(address), connect(address)];
  let job = worker.accept(&mut pool);
  worker.take(&mut pool);
  let channel = raw(&worker);
  channel.set_nonblocking(true).unwrap();
  assert!(flood(&channel));
  (pool, address, worker, channel, clients, job)
}

#[test]
fn processes_that_an_exited_worker_has_left_cannot_occupy_the_pool_by_sending_s132() {
  let (mut pool, address, worker, channel, clients, job) = flooding();
  pool.service.worker_exited(worker.token);
  assert!(worker.state(&pool).is_some(), "one call receives only a part");
  let mut next = Worker::new_ready(&mut pool);
  let client = connect(address);
  assert_connected(&client, &mut next.accept(&mut pool).connection);
  pool.until(|pool| {
    // The channel is full in each turn.
    flood(&channel);
    pool.has_event(Event::WorkerRemoved { worker: worker.token, lost: 1 }).then_some(())
  });
  while flood(&channel) {} // until its channel is closed, on another thread
  drop(job);
  assert_is_reset(&clients[0]);
}

#[test]
fn a_worker_that_receives_no_more_cannot_occupy_the_pool_by_sending_s132() {
  let (mut pool, address, worker, channel, _clients, _job) = flooding();
  channel.shutdown(Shutdown::Read).unwrap();
  let client = connect(address);
  pool.turn(TIMEOUT);
  assert_eq!(pool.service.counters().accepted, 3);
  assert_eq!(pool.events, [], "one turn receives only a part");
  pool.until(|pool| {
    flood(&channel);
    pool.has_event(Event::ChannelFailed { worker: worker.token }).then_some(())
  });
  let mut next = Worker::new_ready(&mut pool);
  assert_connected(&client, &mut next.accept(&mut pool).connection);
  flood(&channel);
  pool.service.worker_exited(worker.token);
  pool.until(|pool| {
    flood(&channel);
    pool.has_event(Event::WorkerRemoved { worker: worker.token, lost: 1 }).then_some(())
  });
  while flood(&channel) {} // until its channel is closed, on another thread
}

#[test]
fn the_last_words_of_a_worker_are_received_however_many_they_are() {
  let (mut pool, address) = serving(NO_LIMITS);
  let mut worker = Worker::new_ready(&mut pool);
  let clients = [connect(address), connect(address)];
  let jobs = [worker.take(&mut pool), worker.take(&mut pool)];
  // An acknowledgement and an end are the last of more than two receives.
  raw(&worker).write_all(&frame(FrameKind::Message, 0, b"").repeat(9000)).unwrap();
  worker.acknowledge(jobs[0].id);
  worker.tell_ended(&[jobs[1].id]);
  drop((jobs, worker.channel));
  pool.service.worker_exited(worker.token);
  pool.until_event(Event::WorkerRemoved { worker: worker.token, lost: 1 });
  assert_is_reset(&clients[0]);
  assert_ends_orderly(&clients[1]);
}

#[test]
fn a_worker_cannot_make_the_close_of_a_connection_block_the_pool_s272() {
  let (mut pool, address) = serving(NO_LIMITS);
  let mut worker = Worker::new_ready(&mut pool);
  let client = connect(address);
  let job = worker.accept(&mut pool);
  make_linger(&job.connection);
  worker.tell_ended(&[job.id]);
  drop(job);
  pool.until(|pool| (pool.service.counters().completed == 1).then_some(()));
  assert_connected(connect(address), &mut worker.accept(&mut pool).connection);
  drop(client);
}

#[test]
fn a_worker_cannot_make_the_close_of_what_it_sends_block_the_pool_s272() {
  let (mut pool, address) = serving(NO_LIMITS);
  let mut worker = Worker::new_ready(&mut pool);
  let mut other = Worker::new_ready(&mut pool);
  let (sent, peer) = lingering();
  worker.channel.send(Message::bytes(b""), &[sent.as_fd()]).unwrap();
  drop(sent);
  pool.until_event(Event::ChannelFailed { worker: worker.token });
  assert_connected(connect(address), &mut other.accept(&mut pool).connection);
  drop(peer);
}

#[test]
fn a_worker_cannot_make_the_close_of_its_channel_block_the_pool_s272() {
  let (mut pool, address) = serving(NO_LIMITS);
  let mut worker = Worker::new_ready(&mut pool);
  let mut other = Worker::new_ready(&mut pool);
  let (sent, peer) = lingering();
  // A receive ends behind descriptors, so the second message stays in the channel's queue.
  for fd in [peer.as_fd(), sent.as_fd()] {
    worker.channel.send(Message::bytes(b""), &[fd]).unwrap();
  }
  drop(sent);
  pool.until_event(Event::ChannelFailed { worker: worker.token });
  let token = worker.token;
  drop(worker);
  pool.service.worker_exited(token);
  assert_connected(connect(address), &mut other.accept(&mut pool).connection);
  drop(peer);
}

#[test]
fn a_worker_that_ends_its_channel_is_gone_and_not_broken() {
  assert!(!gone_after(|worker, _| worker.say(FrameKind::Close, 0, b"")));
  assert!(!gone_after(|worker, _| raw(worker).shutdown(Shutdown::Write).unwrap()));
  assert!(!gone_after(|worker, _| raw(worker).shutdown(Shutdown::Both).unwrap()));
  let inside = |worker: &mut Worker, _: [u32; 2]| {
    raw(worker).write_all(&[0xfd, 1, 0]).unwrap();
    raw(worker).shutdown(Shutdown::Both).unwrap();
  };
  assert!(!gone_after(inside), "it died");
}

#[test]
fn a_worker_that_receives_no_more_is_broken_with_the_next_connection() {
  let (mut pool, address) = serving(NO_LIMITS);
  let mut worker = Worker::new_ready(&mut pool);
  let _clients = [connect(address), connect(address)];
  let jobs = [worker.take(&mut pool), worker.take(&mut pool)];
  worker.tell_ended(&[jobs[0].id]);
  worker.acknowledge(jobs[1].id);
  raw(&worker).shutdown(Shutdown::Read).unwrap();
  let client = connect(address);
  pool.until_event(Event::ChannelFailed { worker: worker.token });
  pool.service.worker_exited(worker.token);
  pool.until_event(Event::WorkerRemoved { worker: worker.token, lost: 1 });
  assert!(worker.has_been_told_to_leave());
  assert_eq!(pool.service.counters().completed, 1, "what it has said is heard");
  let mut next = Worker::new_ready(&mut pool);
  assert_connected(&client, &mut next.accept(&mut pool).connection);
}

#[test]
fn a_worker_that_drains_gets_nothing_more_and_ends_what_it_has() {
  let (mut pool, address) = serving(NO_LIMITS);
  let mut first = Worker::new_ready(&mut pool);
  let clients = [connect(address), connect(address)];
  let accepted = first.accept(&mut pool);
  pool.until(|pool| (pool.service.counters().accepted == 2).then_some(()));
  pool.service.drain_worker(first.token, 1000);
  let mut second = Worker::new_ready(&mut pool);
  let later = connect(address);
  assert_connected(&later, &mut second.accept(&mut pool).connection);
  // Connections that were sent before precede the end.
  let mut job = first.taken().unwrap();
  assert!(first.has_been_told_to_leave());
  first.acknowledge(job.id);
  assert_connected(&clients[1], &mut job.connection);
  first.tell_ended(&[job.id, accepted.id]);
  drop((job, accepted));
  pool.until(|pool| (pool.service.counters().completed == 2).then_some(()));
  clients.iter().for_each(assert_ends_orderly);
  drop(first.channel);
  pool.until_event(Event::WorkerRemoved { worker: first.token, lost: 0 });
}

#[test]
fn a_worker_that_drains_is_told_its_deadline_before_the_end() {
  let (mut pool, _) = serving(NO_LIMITS);
  let mut worker = Worker::new_ready(&mut pool);
  pool.service.drain_worker(worker.token, 2_500);
  let frame = worker.channel.try_receive().unwrap().unwrap();
  assert_eq!(
    (frame.kind, frame.format, &frame.data[..]),
    (FrameKind::Message, Format::Json, &br#"{"drainTimeout":2500}"#[..])
  );
  assert!(worker.has_been_told_to_leave());
}

#[test]
fn a_worker_that_has_served_enough_is_reported() {
  let (mut pool, address) = serving(NO_LIMITS);
  let (ours, theirs) = socketpair(SocketType::Stream).unwrap();
  let token = pool.service.add_worker(theirs, true, 2).unwrap();
  let mut worker = Worker { token, channel: Channel::new(ours, Limits::default()).unwrap() };
  worker.say(FrameKind::Message, 0, b"");
  pool.until_event(Event::WorkerReady { worker: token });
  let first = connect(address);
  assert_connected(&first, &mut worker.accept(&mut pool).connection);
  assert!(!pool.service.has_events(), "one connection is not enough");
  let second = connect(address);
  assert_connected(&second, &mut worker.accept(&mut pool).connection);
  pool.until_event(Event::WorkerServed { worker: token });
}

#[test]
fn the_notes_of_a_worker_reach_the_owner_and_are_limited() {
  let (mut pool, _) = serving(NO_LIMITS);
  let mut worker = Worker::new(&mut pool);
  let token = worker.token;
  let note = |text: &str| Event::WorkerNote { worker: token, note: text.into() };
  worker.note(b"{\"retire\":true}");
  pool.until_event(note("{\"retire\":true}"));
  worker.say(FrameKind::Message, 0, b"");
  pool.until_event(Event::WorkerReady { worker: worker.token });
  for _ in 1..16 {
    worker.note(b"1");
    pool.until_event(note("1"));
  }
  worker.note(b"1");
  pool.until_event(Event::ChannelFailed { worker: worker.token });
  let mut other = Worker::new(&mut pool);
  other.note(&[b' '; 4097]);
  pool.until_event(Event::ChannelFailed { worker: other.token });
}

#[test]
fn a_worker_that_drains_can_give_back_what_it_has_not_acknowledged() {
  let (mut pool, address) = serving(NO_LIMITS);
  let mut first = Worker::new_ready(&mut pool);
  let client = connect(address);
  let job = first.take(&mut pool);
  let mut second = Worker::new_ready(&mut pool);
  pool.service.drain_worker(first.token, 1000);
  first.give_back(job.id);
  drop(job);
  assert_connected(&client, &mut second.accept(&mut pool).connection);
}

#[test]
fn a_worker_can_be_told_to_leave_before_it_is_ready() {
  let (mut pool, address) = serving(NO_LIMITS);
  let mut worker = Worker::new(&mut pool);
  pool.service.drain_worker(worker.token, 1000);
  assert!(worker.has_been_told_to_leave());
  worker.say(FrameKind::Message, 0, b"");
  pool.until_event(Event::WorkerReady { worker: worker.token });
  let _client = connect(address);
  pool.settle();
  assert_eq!(pool.service.counters().accepted, 0);
}

#[test]
fn after_stop_nothing_is_accepted_and_idle_is_told_when_all_has_ended() {
  let (mut pool, address) = serving(NO_LIMITS);
  let mut worker = Worker::new_ready(&mut pool);
  let clients = [connect(address), connect(address), connect(address)];
  let jobs = [(); 3].map(|()| worker.take(&mut pool));
  worker.acknowledge(jobs[0].id);
  worker.acknowledge(jobs[1].id);
  pool.service.stop();
  assert_eq!(TcpStream::connect(address).unwrap_err().kind(), ErrorKind::ConnectionRefused);
  pool.settle();
  assert_eq!(pool.events, []);
  worker.tell_ended(&[jobs[0].id]);
  pool.until(|pool| (pool.service.assigned() == 2).then_some(()));
  // Connections that it has not acknowledged need another worker.
  drop((jobs, worker.channel));
  pool.until_event(Event::WorkerRemoved { worker: worker.token, lost: 1 });
  pool.settle();
  assert_eq!(pool.events, []);
  let mut next = Worker::new_ready(&mut pool);
  let mut job = next.accept(&mut pool);
  assert_connected(&clients[2], &mut job.connection);
  assert!(!pool.has_event(Event::Idle));
  next.tell_ended(&[job.id]);
  pool.until_event(Event::Idle);
  assert_eq!((pool.service.assigned(), pool.service.waiting()), (0, 0));
}

#[test]
fn a_pool_that_has_nothing_is_idle_at_once() {
  let (mut pool, _) = serving(NO_LIMITS);
  pool.service.stop();
  pool.until_event(Event::Idle);
}

#[test]
fn connections_beyond_the_limit_wait_in_the_backlog() {
  for limits in [PoolLimits { connections: 2, ..NO_LIMITS }, PoolLimits { per_worker: 2, ..NO_LIMITS }] {
    let (mut pool, address) = serving(limits);
    let mut worker = Worker::new_ready(&mut pool);
    let clients: Vec<TcpStream> = (0..5).map(|_| connect(address)).collect();
    let mut jobs = vec![worker.accept(&mut pool), worker.accept(&mut pool)];
    for done in 0..3 {
      pool.settle();
      assert!(worker.taken().is_none());
      assert_eq!(pool.service.counters().accepted, 2 + done);
      worker.tell_ended(&[jobs.remove(0).id]);
      jobs.push(worker.accept(&mut pool));
    }
    assert_connected(&clients[4], &mut jobs[1].connection);
  }
}

#[test]
fn a_worker_that_is_full_leaves_connections_to_others_s95() {
  let (mut pool, address) = serving(PoolLimits { per_worker: 1, ..NO_LIMITS });
  let mut workers = [Worker::new_ready(&mut pool), Worker::new_ready(&mut pool)];
  let _clients = [connect(address), connect(address), connect(address)];
  let jobs = [workers[0].accept(&mut pool), workers[1].accept(&mut pool)];
  pool.settle();
  assert_eq!(pool.service.counters().accepted, 2);
  pool.service.set_limits(PoolLimits { per_worker: 2, ..NO_LIMITS });
  pool.until(|_| workers.iter_mut().find_map(Worker::taken));
  drop(jobs);
}

#[test]
fn a_client_that_has_too_many_connections_has_others_closed_at_once() {
  let (mut pool, address) = serving(PoolLimits { per_client: Some(2), ..NO_LIMITS });
  let mut worker = Worker::new_ready(&mut pool);
  let mut clients = vec![connect(address), connect(address)];
  let mut jobs = vec![worker.accept(&mut pool), worker.accept(&mut pool)];
  let refused = connect(address);
  pool.until(|pool| (pool.service.counters().refused == 1).then_some(()));
  assert_ends_orderly(&refused);
  assert_eq!(pool.service.counters().accepted, 3);
  // Another client is counted separately.
  let elsewhere = connect_from(address, "127.0.0.2");
  assert_connected(&elsewhere, &mut worker.accept(&mut pool).connection);
  for _ in 0..3 {
    worker.tell_ended(&[jobs.remove(0).id]);
    let completed = pool.service.counters().completed;
    pool.until(|pool| (pool.service.counters().completed > completed).then_some(()));
    clients.push(connect(address));
    jobs.push(worker.accept(&mut pool));
    assert_connected(clients.last().unwrap(), &mut jobs.last_mut().unwrap().connection);
  }
  assert_eq!(pool.service.counters().refused, 1);
  // The end of a worker releases them too.
  drop((jobs, worker.channel));
  pool.until_event_that(|event| matches!(event, Event::WorkerRemoved { lost: 3, .. }));
  let mut next = Worker::new_ready(&mut pool);
  for _ in 0..2 {
    clients.push(connect(address));
    next.accept(&mut pool);
  }
  assert_eq!(pool.service.counters().refused, 1);
}

/// Connects from a loopback address.
fn connect_from(to: SocketAddr, from: &str) -> TcpStream {
  use nix::sys::socket::*;
  let fd = socket(AddressFamily::Inet, SockType::Stream, SockFlag::empty(), None).unwrap();
  bind(fd.as_raw_fd(), &SockaddrStorage::from(format!("{from}:0").parse::<SocketAddr>().unwrap())).unwrap();
  nix::sys::socket::connect(fd.as_raw_fd(), &SockaddrStorage::from(to)).unwrap();
  let client = TcpStream::from(fd);
  client.set_read_timeout(Some(TIMEOUT)).unwrap();
  client
}

#[test]
fn the_clients_of_a_unix_listener_are_told_apart_by_their_users() {
  let folder = tempdir().unwrap();
  let path = folder.path().join("socket");
  let mut pool = pool(PoolLimits { per_client: Some(1), ..NO_LIMITS });
  let listener = UnixListener::bind(&path).unwrap();
  pool.service.add_listener(Listener::new(listener.into(), b"unix")).unwrap();
  let mut worker = Worker::new_ready(&mut pool);
  let first = UnixStream::connect(&path).unwrap();
  let mut job = worker.accept(&mut pool);
  let second = UnixStream::connect(&path).unwrap();
  pool.until(|pool| (pool.service.counters().refused == 1).then_some(()));
  assert_ends_orderly(&second);
  assert_connected(&first, &mut job.connection);
  worker.tell_ended(&[job.id]);
  pool.until(|pool| (pool.service.assigned() == 0).then_some(()));
  let third = UnixStream::connect(&path).unwrap();
  assert_connected(&third, &mut worker.accept(&mut pool).connection);
}

#[test]
fn a_limit_on_clients_can_come_and_go_while_they_are_connected() {
  let (mut pool, address) = serving(NO_LIMITS);
  let mut worker = Worker::new_ready(&mut pool);
  let limited = PoolLimits { per_client: Some(1), ..NO_LIMITS };
  let mut ids = Vec::new();
  let mut clients = Vec::new();
  for limits in [NO_LIMITS, limited, NO_LIMITS] {
    pool.service.set_limits(limits);
    clients.push(connect(address));
    ids.push(worker.accept(&mut pool).id);
  }
  worker.tell_ended(&ids);
  pool.until(|pool| (pool.service.assigned() == 0).then_some(()));
  pool.service.set_limits(limited);
  clients.push(connect(address));
  worker.accept(&mut pool);
  clients.push(connect(address));
  pool.until(|pool| (pool.service.counters().refused == 1).then_some(()));
}

#[test]
fn a_worker_that_lets_a_connection_wait_is_overdue_s52() {
  let (mut pool, address) = serving(NO_LIMITS);
  let mut workers = [Worker::new_ready(&mut pool), Worker::new_ready(&mut pool)];
  assert_eq!(pool.service.overdue_worker(Duration::ZERO), None);
  let _clients = [connect(address), connect(address)];
  let jobs = [workers[0].take(&mut pool), workers[1].take(&mut pool)];
  assert_eq!(pool.service.overdue_worker(TIMEOUT), None);
  workers[0].acknowledge(jobs[0].id);
  pool.until(|pool| (pool.service.counters().acknowledged == 1).then_some(()));
  pool.until(|pool| {
    pool.service.overdue_worker(Duration::from_millis(1)).map(|worker| assert_eq!(worker, workers[1].token))
  });
  workers[1].acknowledge(jobs[1].id);
  pool.until(|pool| (pool.service.counters().acknowledged == 2).then_some(()));
  assert_eq!(pool.service.overdue_worker(Duration::ZERO), None);
}

#[test]
fn a_worker_that_has_acknowledged_is_not_overdue_although_nobody_has_heard_it() {
  let (mut pool, address) = serving(NO_LIMITS);
  let mut worker = Worker::new_ready(&mut pool);
  let _client = connect(address);
  let job = worker.take(&mut pool);
  worker.acknowledge(job.id);
  assert_eq!(pool.service.overdue_worker(Duration::ZERO), None);
  assert_eq!(pool.service.counters().acknowledged, 1);
}

#[test]
fn a_listener_that_is_removed_is_closed_and_others_go_on() {
  let (mut pool, address) = serving(NO_LIMITS);
  let (listener, other) = tcp();
  let token = pool.service.add_listener(Listener::new(listener, b"other")).unwrap();
  let mut worker = Worker::new_ready(&mut pool);
  let client = connect(other);
  let mut job = worker.accept(&mut pool);
  assert_eq!(job.name, "other");
  pool.service.remove_listener(token);
  pool.service.remove_listener(token);
  pool.service.on_ready(token, true, false);
  assert_eq!(TcpStream::connect(other).unwrap_err().kind(), ErrorKind::ConnectionRefused);
  assert_connected(&client, &mut job.connection);
  let client = connect(address);
  assert_connected(&client, &mut worker.accept(&mut pool).connection);
  let (listener, third) = tcp();
  assert_ne!(pool.service.add_listener(Listener::new(listener, b"third")).unwrap(), token);
  let client = connect(third);
  let mut job = worker.accept(&mut pool);
  assert_eq!(job.name, "third");
  assert_connected(&client, &mut job.connection);
}

#[test]
fn a_listener_works_in_blocking_mode_too() {
  let (mut pool, address) = serving(NO_LIMITS);
  let (listener, other) = tcp();
  let shared = listener.try_clone().unwrap();
  pool.service.add_listener(Listener::new(listener, b"other")).unwrap();
  let mut worker = Worker::new_ready(&mut pool);
  for address in [other, address, other] {
    fdpass_core::set_blocking(shared.as_fd(), true).unwrap();
    let client = connect(address);
    assert_connected(&client, &mut worker.accept(&mut pool).connection);
  }
}

#[test]
fn a_listener_that_somebody_else_shuts_down_is_told_and_tried_again_without_spinning_s37_s54() {
  let (mut pool, address) = serving(NO_LIMITS);
  let (listener, _) = tcp();
  let shared = TcpStream::from(listener.try_clone().unwrap());
  pool.service.add_listener(Listener::new(listener, b"other")).unwrap();
  let mut worker = Worker::new_ready(&mut pool);
  shared.shutdown(Shutdown::Both).unwrap();
  for _ in 0..3 {
    pool.until_event(Event::Exhausted { call: Call::Accept, errno: Errno::EINVAL });
    pool.settle();
    assert_eq!(pool.events, []);
    pool.service.retry();
    let client = connect(address);
    if let Some(mut job) = pool.until(|pool| {
      let job = worker.taken();
      (job.is_some() || !pool.events.is_empty()).then_some(job)
    }) {
      worker.acknowledge(job.id);
      assert_connected(&client, &mut job.connection);
    }
  }
}

#[test]
fn acknowledgements_that_are_heard_late_are_heard_without_another_connection() {
  let (mut pool, address) = serving(NO_LIMITS);
  let mut worker = Worker::new_ready(&mut pool);
  assert_eq!(pool.service.next_deadline(), None);
  let _client = connect(address);
  let job = worker.take(&mut pool);
  assert!(pool.service.next_deadline().is_some_and(|patience| patience < Duration::from_millis(100)));
  worker.acknowledge(job.id);
  assert!(pool.event_loop.wait(Duration::ZERO).is_empty(), "it is not worth being woken");
  pool.service.flush_deferred();
  assert_eq!(pool.service.counters().acknowledged, 1);
  assert_eq!(pool.service.next_deadline(), None);
  worker.tell_ended(&[job.id]);
  pool.until(|pool| (pool.service.counters().completed == 1).then_some(()));
}

#[test]
fn a_worker_that_takes_its_time_wakes_nobody_until_it_acknowledges() {
  let (mut pool, address) = serving(NO_LIMITS);
  let mut worker = Worker::new_ready(&mut pool);
  let _client = connect(address);
  let job = worker.take(&mut pool);
  pool.service.flush_deferred();
  assert_eq!(pool.service.next_deadline(), None);
  assert!(pool.event_loop.wait(Duration::from_millis(1)).is_empty());
  worker.acknowledge(job.id);
  assert_eq!(pool.event_loop.wait(TIMEOUT).len(), 1);
  pool.settle();
  assert_eq!(pool.service.counters().acknowledged, 1);
}

#[test]
fn acknowledgements_are_heard_with_the_next_connection() {
  let (mut pool, address) = serving(NO_LIMITS);
  let mut worker = Worker::new_ready(&mut pool);
  let _first = connect(address);
  let job = worker.take(&mut pool);
  worker.acknowledge(job.id);
  let _second = connect(address);
  let events = pool.event_loop.wait(TIMEOUT);
  assert_eq!(events.len(), 1);
  pool.service.on_ready(events[0].token, true, false);
  assert_eq!(pool.service.counters().acknowledged, 1);
  worker.take(&mut pool);
}

#[test]
fn a_worker_gets_no_more_at_once_than_it_keeps_up_with() {
  let (mut pool, address) = serving(NO_LIMITS);
  let mut worker = Worker::new_ready(&mut pool);
  let clients: Vec<TcpStream> = (0..200).map(|_| connect(address)).collect();
  pool.settle();
  let accepted = pool.service.counters().accepted;
  assert!(accepted < 100, "{accepted}");
  assert_eq!(pool.service.waiting(), 0, "the rest is in the backlog");
  for mut client in clients {
    let mut job = worker.take(&mut pool);
    worker.acknowledge(job.id);
    client.write_all(b"x").unwrap();
    job.connection.read_exact(&mut [0]).unwrap();
  }
  pool.until(|pool| (pool.service.counters().acknowledged == 200).then_some(()));
}

#[test]
fn what_a_channel_has_no_room_for_goes_when_it_has() {
  let (mut pool, address) = serving(NO_LIMITS);
  let (ours, theirs) = socketpair(SocketType::Stream).unwrap();
  nix::sys::socket::setsockopt(&theirs, nix::sys::socket::sockopt::SndBuf, &1).unwrap();
  let token = pool.service.add_worker(theirs, true, u64::MAX).unwrap();
  let mut worker = Worker { token, channel: Channel::new(ours, Limits::default()).unwrap() };
  worker.say(FrameKind::Message, 0, b"");
  pool.until_event(Event::WorkerReady { worker: token });
  let clients: Vec<TcpStream> = (0..40).map(|_| connect(address)).collect();
  pool.settle();
  let accepted = pool.service.counters().accepted;
  assert!(accepted < 40, "the channel takes all of them: {accepted}");
  // Its channel is shut down only behind the connections that were sent to it.
  for client in &clients[..20] {
    let mut job = worker.take(&mut pool);
    worker.acknowledge(job.id);
    assert_connected(client, &mut job.connection);
  }
  pool.settle();
  pool.service.drain_worker(token, 1000);
  let given = pool.service.counters().accepted as usize;
  for client in &clients[20..given] {
    let mut job = worker.take(&mut pool);
    worker.acknowledge(job.id);
    assert_connected(client, &mut job.connection);
  }
  pool.until(|_| worker.has_been_told_to_leave().then_some(()));
  let mut next = Worker::new_ready(&mut pool);
  for client in &clients[given..] {
    let mut job = next.take(&mut pool);
    next.acknowledge(job.id);
    assert_connected(client, &mut job.connection);
  }
}

#[test]
fn what_cannot_be_watched_is_refused_and_closed() {
  let (mut pool, address) = serving(NO_LIMITS);
  pool.event_loop.refuses.set(Some(Errno::ENOMEM));
  let (mut ours, theirs) = UnixStream::pair().unwrap();
  assert_eq!(pool.service.add_worker(theirs.into(), true, u64::MAX), Err(Errno::ENOMEM));
  assert_eq!(ours.read(&mut [0]).unwrap(), 0);
  let (listener, other) = tcp();
  assert_eq!(pool.service.add_listener(Listener::new(listener, b"")), Err(Errno::ENOMEM));
  assert_eq!(TcpStream::connect(other).unwrap_err().kind(), ErrorKind::ConnectionRefused);
  pool.event_loop.refuses.set(None);
  let mut worker = Worker::new_ready(&mut pool);
  let client = connect(address);
  assert_connected(&client, &mut worker.accept(&mut pool).connection);
}

#[test]
fn what_a_worker_has_that_cannot_be_watched_any_more_is_its_own_until_its_end() {
  let (mut pool, address) = serving(NO_LIMITS);
  let mut first = Worker::new_ready(&mut pool);
  let clients = [connect(address), connect(address)];
  let jobs = [first.take(&mut pool), first.take(&mut pool)];
  let mut second = Worker::new_ready(&mut pool);
  pool.event_loop.refused.set(Some(first.token));
  pool.service.flush_deferred();
  pool.until_event(Event::ChannelFailed { worker: first.token });
  assert!(second.taken().is_none());
  first.acknowledge(jobs[0].id);
  drop(jobs);
  pool.service.worker_exited(first.token);
  pool.until_event(Event::WorkerRemoved { worker: first.token, lost: 1 });
  assert_is_reset(&clients[0]);
  assert_connected(&clients[1], &mut second.accept(&mut pool).connection);
}

#[test]
fn a_flood_of_connections_is_served_whole_while_workers_die() {
  const COUNT: u32 = 500;
  let (mut pool, address) = serving(NO_LIMITS);
  let mut workers = vec![Worker::new_ready(&mut pool), Worker::new_ready(&mut pool)];
  let clients = std::thread::spawn(move || {
    let connect = |number: u32| {
      let mut client = connect(address);
      client.write_all(&number.to_be_bytes()).unwrap();
      (client, number)
    };
    let clients: Vec<(TcpStream, u32)> = (0..COUNT).map(connect).collect();
    let answers = clients.into_iter().map(|(mut client, number)| {
      let mut answer = Vec::new();
      client.read_to_end(&mut answer).map(|_| answer == number.to_be_bytes())
    });
    answers.filter(|answer| matches!(answer, Ok(true))).count()
  });
  let mut served = 0;
  while served < COUNT {
    pool.turn(Duration::from_millis(1));
    for worker in &mut workers {
      while let Some(mut job) = worker.taken() {
        let mut number = [0; 4];
        worker.acknowledge(job.id);
        job.connection.read_exact(&mut number).unwrap();
        job.connection.write_all(&number).unwrap();
        let id = job.id;
        drop(job);
        worker.tell_ended(&[id]);
        served += 1;
        if served % 50 == 0 {
          break;
        }
      }
    }
    if served / 100 > (workers[1].token - (1 << 16)).saturating_sub(1) {
      // It has ended all connections that it had acknowledged. Those in flight are assigned to another worker.
      workers.remove(0);
      workers.push(Worker::new_ready(&mut pool));
    }
  }
  pool.until(|pool| (pool.service.counters().completed == u64::from(COUNT)).then_some(()));
  assert_eq!(clients.join().unwrap(), COUNT as usize);
  let Counters { accepted, acknowledged, lost, refused, .. } = pool.service.counters();
  assert_eq!((accepted, acknowledged, lost, refused), (u64::from(COUNT), u64::from(COUNT), 0, 0));
  assert_eq!((pool.service.assigned(), pool.service.waiting()), (0, 0));
}
