//! Programs and superservers leave no descriptor and no zombie, and continue after a full descriptor table. In a file of
//! their own and one at a time, because they count descriptors and children of the process.
#![cfg(any(target_os = "linux", target_os = "android"))]

#[path = "../fixtures/mod.rs"]
mod fixtures;

use std::ffi::CString;
use std::fs::File;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use fdpass_core::superserver::{Call, Counters, Event, Inetd, InetdLimits, InetdMode, Listener, Pool, PoolLimits};
use fdpass_core::{
  Channel, ChannelError, Errno, Format, FrameKind, Limits, Message, POOL_OWNER, Program, RunAs, Step, TcpOptions,
  closing, local_internet_address, tcp_listener,
};
use fixtures::bad_fd;
use fixtures::reactor::*;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::wait::{WaitPidFlag, waitpid};

fn alone() -> MutexGuard<'static, ()> {
  static ALONE: Mutex<()> = Mutex::new(());
  ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn open_descriptors() -> usize {
  while closing(POOL_OWNER) > 0 {
    std::thread::yield_now(); // on another thread
  }
  std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// Waits until this process has no child and no zombie.
#[track_caller]
fn assert_no_children() {
  let begun = Instant::now();
  loop {
    match std::fs::read_to_string("/proc/thread-self/children") {
      Ok(children) if !children.trim().is_empty() && begun.elapsed() < TIMEOUT => std::thread::yield_now(),
      _ => break,
    }
  }
  assert_eq!(waitpid(None, Some(WaitPidFlag::WNOHANG)), Err(Errno::ECHILD));
}

fn program(path: &str, arguments: &[&str]) -> Program {
  let string = |text: &str| CString::new(text).unwrap();
  Program {
    path: string(path),
    arguments: arguments.iter().copied().map(string).collect(),
    environment: vec![string("PATH=/usr/bin:/bin")],
    ..Program::default()
  }
}

fn sh(script: &str) -> Program {
  program("/bin/sh", &["sh", "-c", script])
}

fn tcp() -> (Listener, SocketAddr) {
  let options = TcpOptions { backlog: 128, ipv6_only: false, reuse_port: false };
  let listener = tcp_listener("127.0.0.1:0".parse().unwrap(), options).unwrap();
  let address = local_internet_address(listener.as_fd()).unwrap();
  (Listener::new(listener, b"tcp"), address)
}

fn connect(address: SocketAddr) -> TcpStream {
  let client = TcpStream::connect(address).unwrap();
  client.set_read_timeout(Some(TIMEOUT)).unwrap();
  client
}

/// Restores a limit, even after a panic.
struct Restored(u64, u64);

impl Drop for Restored {
  fn drop(&mut self) {
    setrlimit(Resource::RLIMIT_NOFILE, self.0, self.1).unwrap();
  }
}

/// Runs a task while this process can open this many more descriptors.
fn with_room_for<T>(count: usize, task: impl FnOnce() -> T) -> T {
  let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
  let _restored = Restored(soft, hard);
  // They take every free number below the limit.
  let fill: Vec<File> = (0..64).map(|_| File::open("/dev/null").unwrap()).collect();
  let highest = fill.iter().map(AsRawFd::as_raw_fd).max().unwrap();
  setrlimit(Resource::RLIMIT_NOFILE, highest as u64 + 1 + count as u64, hard).unwrap();
  task()
}

#[test]
fn a_program_that_is_not_executed_leaves_no_descriptor_and_no_zombie() {
  let _alone = alone();
  let before = open_descriptors();
  let null = File::open("/dev/null").unwrap();
  let elsewhere = Program { directory: Some(CString::from(c"/nowhere")), ..sh("") };
  let nobody = Program { run_as: Some(RunAs { uid: u32::MAX, gid: 0, groups: Vec::new() }), ..sh("") };
  for _ in 0..10 {
    for failing in [&program("/nowhere/at/all", &["x"]), &elsewhere, &nobody] {
      failing.spawn(&[null.as_fd(); 3]).unwrap_err();
    }
    sh("").spawn(&[null.as_fd(), bad_fd()]).unwrap_err();
  }
  drop(null);
  assert_eq!(open_descriptors(), before);
  assert_eq!(waitpid(None, Some(WaitPidFlag::WNOHANG)), Err(Errno::ECHILD));
}

#[test]
fn a_process_that_is_dropped_while_it_runs_is_no_zombie_afterwards() {
  let _alone = alone();
  let before = open_descriptors();
  let (ours, theirs) = UnixStream::pair().unwrap();
  let process = program("/bin/cat", &["cat"]).spawn(&[theirs.as_fd(); 3]).unwrap();
  let pid = nix::unistd::Pid::from_raw(process.pid());
  drop((process, theirs));
  (&ours).write_all(b"it runs").unwrap();
  (&ours).read_exact(&mut [0; 7]).unwrap();
  drop(ours);
  let begun = Instant::now();
  // Signal 0 reaches a zombie too.
  while nix::sys::signal::kill(pid, None) != Err(Errno::ESRCH) {
    assert!(begun.elapsed() < TIMEOUT);
    std::thread::yield_now();
  }
  // Without pidfd_open(2), the thread that waited for the process owns a descriptor until it ends.
  while open_descriptors() != before {
    assert!(begun.elapsed() < TIMEOUT);
    std::thread::yield_now();
  }
}

#[test]
fn a_full_table_is_a_shortage_and_no_programs_fault() {
  let _alone = alone();
  let before = open_descriptors();
  let null = File::open("/dev/null").unwrap();
  for room in 0..4 {
    let error = with_room_for(room, || sh("").spawn(&[null.as_fd(); 3])).map(|mut process| {
      poll(&mut [PollFd::new(process.as_fd(), PollFlags::POLLIN)], PollTimeout::NONE).unwrap();
      assert!(process.reap().unwrap().is_some());
    });
    if let Err(error) = error {
      // The pipe takes two numbers; a third one is for the end of the process.
      let step = if room < 2 { Step::Pipe } else { Step::Watch };
      assert_eq!((error.step, error.errno), (step, Errno::EMFILE), "{room}");
      assert!(error.is_temporary());
    }
  }
  drop(null);
  assert_eq!(open_descriptors(), before);
  assert_no_children();
}

#[test]
fn programs_for_connections_leave_nothing() {
  let _alone = alone();
  let before = open_descriptors();
  {
    let limits = InetdLimits { connections: usize::MAX, per_client: Some(5), per_minute: usize::MAX };
    for (mode, program) in [
      (InetdMode::Nowait, sh("echo served")),
      (InetdMode::Nowait, program("/nowhere/at/all", &["x"])),
      (InetdMode::Wait, sh("exit 1")),
      (InetdMode::Wait, program("/nowhere/at/all", &["x"])),
    ] {
      let mut inetd = Running::new(|events| Inetd::new(events, mode, program, limits).unwrap());
      let (listener, address) = tcp();
      inetd.service.add_listener(listener).unwrap();
      let clients: Vec<TcpStream> = (0..10).map(|_| connect(address)).collect();
      inetd.until(|inetd| {
        let Counters { acknowledged, lost, refused, .. } = inetd.service.counters();
        (acknowledged + lost + refused >= if mode == InetdMode::Wait { 1 } else { 10 }).then_some(())
      });
      inetd.service.stop();
      inetd.until_event(Event::Idle);
      drop(clients);
    }
  }
  assert_eq!(open_descriptors(), before);
  assert_no_children();
}

#[test]
fn a_connection_for_which_no_program_can_be_started_now_gets_one_later() {
  let _alone = alone();
  let before = open_descriptors();
  {
    let limits = InetdLimits { connections: usize::MAX, per_client: Some(2), per_minute: usize::MAX };
    let mut inetd = Running::new(|events| Inetd::new(events, InetdMode::Nowait, sh("echo served"), limits).unwrap());
    let (listener, address) = tcp();
    inetd.service.add_listener(listener).unwrap();
    for room in 0..3 {
      let client = connect(address);
      let call = if room == 0 { Call::Accept } else { Call::Start(Step::Pipe) };
      with_room_for(room, || {
        inetd.until_event(Event::Exhausted { call, errno: Errno::EMFILE });
        inetd.settle();
        assert_eq!(inetd.events, [], "nothing is done until it is tried again");
        inetd.service.retry();
        inetd.until_event(Event::Exhausted { call, errno: Errno::EMFILE });
      });
      assert_eq!(inetd.service.waiting(), usize::from(room > 0));
      inetd.service.retry();
      inetd.until(|inetd| (inetd.service.counters().completed == room as u64 + 1).then_some(()));
      let mut text = String::new();
      (&client).read_to_string(&mut text).unwrap();
      assert_eq!(text, "served\n");
    }
    assert_eq!(inetd.service.counters().refused, 0);
  }
  assert_eq!(open_descriptors(), before);
  assert_no_children();
}

/// Acknowledges connections without keeping them; returns their ids.
fn take(channel: &mut Channel) -> Vec<u32> {
  let mut ids = Vec::new();
  loop {
    match channel.try_receive() {
      Ok(Some(frame)) => {
        ids.push(frame.id);
        let answer = Message { kind: FrameKind::Response, format: Format::Bytes, id: frame.id, data: b"" };
        channel.send(answer, &[]).unwrap();
      }
      Err(ChannelError::System(Errno::EAGAIN)) => return ids,
      other => panic!("no request: {other:?}"),
    }
  }
}

fn worker(pool: &mut Running<Pool<EventLoop>>) -> (u32, Channel) {
  let (ours, theirs) = fdpass_core::socketpair(fdpass_core::SocketType::Stream).unwrap();
  let token = pool.service.add_worker(theirs, true, u64::MAX).unwrap();
  let mut channel = Channel::new(ours, Limits::default()).unwrap();
  channel.send(Message::bytes(b""), &[]).unwrap();
  pool.until_event(Event::WorkerReady { worker: token });
  (token, channel)
}

fn tell_ended(channel: &mut Channel, ids: &[u32]) {
  let data: Vec<u8> = ids.iter().flat_map(|id| id.to_be_bytes()).collect();
  channel.send(Message::bytes(&data), &[]).unwrap();
}

#[test]
fn a_pool_leaves_nothing() {
  let _alone = alone();
  let before = open_descriptors();
  {
    let limits = PoolLimits { connections: 40, per_worker: usize::MAX, per_client: Some(30) };
    let mut pool = Running::new(|events| Pool::new(events, limits).unwrap());
    let (listener, address) = tcp();
    pool.service.add_listener(listener).unwrap();
    let alive = open_descriptors();
    for round in 0..4 {
      let (token, mut channel) = worker(&mut pool);
      let clients: Vec<TcpStream> = (0..35).map(|_| connect(address)).collect();
      pool.until(|pool| (pool.service.counters().refused == 5 * (round + 1)).then_some(()));
      match round {
        // It dies with connections that are acknowledged, ended, or neither.
        0 => drop(take(&mut channel)),
        1 => {
          let ids = take(&mut channel);
          tell_ended(&mut channel, &ids[..10]);
        }
        2 => {
          let ids = take(&mut channel);
          tell_ended(&mut channel, &[0]);
          drop(ids);
        }
        _ => {}
      }
      drop(channel);
      if round == 2 {
        pool.until_event(Event::ChannelFailed { worker: token });
        pool.service.worker_exited(token);
      }
      pool.until_event_that(|event| matches!(event, Event::WorkerRemoved { worker, .. } if *worker == token));
      drop(clients);
      // Another worker receives and ends the remaining connections.
      let (token, mut channel) = worker(&mut pool);
      pool.until(|pool| {
        let ids = take(&mut channel);
        tell_ended(&mut channel, &ids);
        (pool.service.assigned() == 0 && pool.service.waiting() == 0).then_some(())
      });
      drop(channel);
      pool.until_event_that(|event| matches!(event, Event::WorkerRemoved { worker, .. } if *worker == token));
      assert_eq!(open_descriptors(), alive, "round {round}");
    }
  }
  assert_eq!(open_descriptors(), before);
}

#[test]
fn a_pool_without_room_for_another_connection_takes_it_later() {
  let _alone = alone();
  let before = open_descriptors();
  {
    let limits = PoolLimits { connections: usize::MAX, per_worker: usize::MAX, per_client: None };
    let mut pool = Running::new(|events| Pool::new(events, limits).unwrap());
    let (listener, address) = tcp();
    pool.service.add_listener(listener).unwrap();
    let (_, mut channel) = worker(&mut pool);
    let _client = connect(address);
    with_room_for(0, || {
      for _ in 0..2 {
        pool.until_event(Event::Exhausted { call: Call::Accept, errno: Errno::EMFILE });
        pool.settle();
        assert_eq!(pool.events, [], "nothing is done until it is tried again");
        pool.service.retry();
      }
    });
    pool.service.retry();
    pool.until(|_| (!take(&mut channel).is_empty()).then_some(()));
  }
  assert_eq!(open_descriptors(), before);
}

#[test]
fn a_pool_leaves_room_for_other_work() {
  let _alone = alone();
  let before = open_descriptors();
  let (mut pool, clients) = with_room_for(60, || {
    let limits = PoolLimits { connections: usize::MAX, per_worker: usize::MAX, per_client: None };
    // The pool reads the limit once, at its start. The limit includes the clients of this test.
    let mut pool = Running::new(|events| Pool::new(events, limits).unwrap());
    let (listener, address) = tcp();
    pool.service.add_listener(listener).unwrap();
    let (_, mut channel) = worker(&mut pool);
    let clients: Vec<TcpStream> = (0..20).map(|_| connect(address)).collect();
    let mut ids = Vec::new();
    while pool.turn(Duration::from_millis(5)) > 0 || pool.service.next_deadline().is_some() {
      ids.extend(take(&mut channel));
    }
    assert!((1..20).contains(&ids.len()), "{}", ids.len());
    assert_eq!(pool.events, [], "no shortage, but a limit");
    // Each ended connection makes room for another.
    let mut served = 0;
    while served < 20 {
      pool.until(|_| {
        ids.extend(take(&mut channel));
        (!ids.is_empty()).then_some(())
      });
      tell_ended(&mut channel, &[ids.remove(0)]);
      served += 1;
    }
    pool.until(|pool| (pool.service.counters().completed == 20).then_some(()));
    (pool, clients)
  });
  for client in clients {
    assert!(matches!((&client).read(&mut [0]), Ok(0)), "it ends");
  }
  pool.service.stop();
  drop(pool);
  assert_eq!(open_descriptors(), before);
}
