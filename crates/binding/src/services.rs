//! The services of a superserver. They have a thread of their own: what happens to connections happens there, however busy
//! JavaScript is, and JavaScript is told where there is news.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use fdpass_core::superserver::{self, Call, Event, Inetd, InetdLimits, InetdMode, Listener, Pool, PoolLimits};
use fdpass_core::{Errno, Program};
use napi::bindgen_prelude::{Either, ToNapiValue};
use napi::sys;
use napi_derive::napi;
use polling::{Events, PollMode, Poller};

use crate::calls::{Outcome, arguments, borrowed, integer};
use crate::codes::{READABLE, WRITABLE, code};
use crate::environment::Environment;
use crate::memory::Memory;
use crate::program::ending;
use crate::thread::{Registration, errno};

/// How long what a service puts off can wait where there is always something else to do.
const LATEST: Duration = Duration::from_millis(10);

/// The thread's loop, as a service sees it.
struct ServiceReactor {
  poller: Arc<Poller>,
  service: u32,
}

impl superserver::Reactor for ServiceReactor {
  type Registration = Registration;

  fn register(&self, fd: BorrowedFd<'_>, token: u32) -> Result<Registration, Errno> {
    let key = u64::from(self.service) << 32 | u64::from(token);
    Registration::new(&self.poller, fd, key as usize, PollMode::Level)
  }
}

impl superserver::Registration for Registration {
  fn set_interest(&mut self, readable: bool, writable: bool) -> Result<(), Errno> {
    self.arm(if readable { READABLE } else { 0 } | if writable { WRITABLE } else { 0 })
  }
}

enum Service {
  Pool(Box<Pool<ServiceReactor>>),
  Inetd(Box<Inetd<ServiceReactor>>),
}

impl Service {
  fn ready(&mut self, token: u32, readable: bool, writable: bool) {
    match self {
      Self::Pool(pool) => pool.on_ready(token, readable, writable),
      Self::Inetd(inetd) => inetd.on_ready(token),
    }
  }

  fn next_deadline(&self) -> Option<Duration> {
    match self {
      Self::Pool(pool) => pool.next_deadline(),
      Self::Inetd(_) => None,
    }
  }

  fn flush_deferred(&mut self) {
    if let Self::Pool(pool) = self {
      pool.flush_deferred();
    }
  }

  fn has_events(&self) -> bool {
    match self {
      Self::Pool(pool) => pool.has_events(),
      Self::Inetd(inetd) => inetd.has_events(),
    }
  }

  fn take_events(&mut self, most: usize) -> Vec<Event> {
    match self {
      Self::Pool(pool) => pool.take_events(most),
      Self::Inetd(inetd) => inetd.take_events(most),
    }
  }
}

/// What the thread and JavaScript share.
struct Shared {
  poller: Arc<Poller>,
  open: Mutex<HashMap<u32, Service>>,
  /// A byte goes in where there is news; JavaScript watches the other end.
  bell: File,
  stop: AtomicBool,
}

impl Shared {
  /// Lends the services. A panic of the other side has been printed; what it left is as good as anything.
  fn lock(&self) -> MutexGuard<'_, HashMap<u32, Service>> {
    self.open.lock().unwrap_or_else(PoisonError::into_inner)
  }

  /// Tells JavaScript where one of them has news. A bell that is full rings already.
  fn ring(&self, services: &HashMap<u32, Service>) {
    if services.values().any(Service::has_events) {
      let _ = (&self.bell).write(&[0]);
    }
  }

  /// The thread.
  fn run(&self) {
    fdpass_core::block_signals(); // they are for threads that have something to do with them
    let mut events = Events::new();
    let (mut patience, mut heard) = (None, Instant::now());
    while !self.stop.load(Ordering::Acquire) {
      events.clear();
      if self.poller.wait(&mut events, patience).is_err() && events.is_empty() {
        continue;
      }
      let mut services = self.lock();
      if events.is_empty() || heard.elapsed() > LATEST {
        services.values_mut().for_each(Service::flush_deferred);
        heard = Instant::now();
      }
      for event in events.iter() {
        let (service, token) = ((event.key as u64 >> 32) as u32, event.key as u32);
        if let Some(service) = services.get_mut(&service) {
          service.ready(token, event.readable, event.writable);
        }
      }
      patience = services.values().filter_map(Service::next_deadline).min();
      self.ring(&services);
    }
  }
}

/// The services of one environment, by number, and their thread, once there is a service.
#[derive(Default)]
pub(crate) struct Services {
  running: Option<(Arc<Shared>, File, JoinHandle<()>)>,
  next: u32,
}

impl Services {
  /// Opens a service; gives its number.
  fn insert(&mut self, make: impl FnOnce(ServiceReactor) -> Result<Service, Errno>) -> Outcome {
    let (shared, ..) = self.running.as_ref().ok_or(Errno::EINVAL)?;
    let number = self.next;
    let service = make(ServiceReactor { poller: shared.poller.clone(), service: number })?;
    self.next += 1;
    shared.lock().insert(number, service);
    Ok(number as i32)
  }

  /// Does something with a service.
  fn with<T>(&self, service: i32, task: impl FnOnce(&mut Service) -> Result<T, Errno>) -> Result<T, Errno> {
    let (shared, ..) = self.running.as_ref().ok_or(Errno::EBADF)?;
    let mut services = shared.lock();
    let service = services.get_mut(&(service as u32)).ok_or(Errno::EBADF)?;
    let result = task(service);
    if service.next_deadline().is_some() {
      // The thread may be waiting for longer. It fails only where the poller is gone.
      let _ = shared.poller.notify();
    }
    shared.ring(&services);
    result
  }

  fn with_pool<T>(
    &self,
    service: i32,
    task: impl FnOnce(&mut Pool<ServiceReactor>) -> Result<T, Errno>,
  ) -> Result<T, Errno> {
    self.with(service, |service| match service {
      Service::Pool(pool) => task(pool),
      Service::Inetd(_) => Err(Errno::EINVAL),
    })
  }
}

impl Drop for Services {
  fn drop(&mut self) {
    let Some((shared, _, thread)) = self.running.take() else { return };
    shared.stop.store(true, Ordering::Release);
    // It fails only where the poller is gone.
    let _ = shared.poller.notify();
    // A panic of the thread has already been printed.
    let _ = thread.join();
  }
}

/// Starts the thread; gives the number of a descriptor that becomes readable where there is news.
pub(crate) fn start(environment: &mut Environment, []: [i32; 0]) -> Outcome {
  let (listened, bell) = fdpass_core::pipe()?;
  for end in [&listened, &bell] {
    fdpass_core::set_blocking(end.as_fd(), false)?;
  }
  let heard = File::from(fdpass_core::duplicate(listened.as_fd())?);
  let poller = Arc::new(Poller::new().map_err(errno)?);
  let shared =
    Arc::new(Shared { poller, open: Mutex::default(), bell: File::from(bell), stop: AtomicBool::new(false) });
  let thread = {
    let shared = shared.clone();
    std::thread::Builder::new().name("fdpass-services".into()).spawn(move || shared.run()).map_err(errno)?
  };
  environment.services.running = Some((shared, heard, thread));
  Ok(environment.table.insert(listened))
}

/// Empties the bell.
pub(crate) fn hear(environment: &mut Environment, []: [i32; 0]) -> Outcome {
  let (_, heard, _) = environment.services.running.as_ref().ok_or(Errno::EBADF)?;
  let mut rings = [0; 256];
  while let Ok(256) = (&*heard).read(&mut rings) {}
  Ok(0)
}

/// A limit that JavaScript gives; one below zero is none.
fn most(limit: i32) -> usize {
  usize::try_from(limit).unwrap_or(usize::MAX)
}

fn pool_limits(connections: i32, per_worker: i32, per_client: i32) -> PoolLimits {
  let per_client = u32::try_from(per_client).ok();
  PoolLimits { connections: most(connections), per_worker: most(per_worker), per_client }
}

fn inetd_limits(connections: i32, per_client: i32, per_minute: i32) -> InetdLimits {
  let per_client = u32::try_from(per_client).ok();
  InetdLimits { connections: most(connections), per_client, per_minute: most(per_minute) }
}

pub(crate) fn open_pool(environment: &mut Environment, [connections, per_worker, per_client]: [i32; 3]) -> Outcome {
  let limits = pool_limits(connections, per_worker, per_client);
  environment.services.insert(|reactor| Ok(Service::Pool(Box::new(Pool::new(reactor, limits)?))))
}

pub(crate) fn limit_pool(
  environment: &mut Environment,
  [service, connections, per_worker, per_client]: [i32; 4],
) -> Outcome {
  environment.services.with_pool(service, |pool| {
    pool.set_limits(pool_limits(connections, per_worker, per_client));
    Ok(0)
  })
}

pub(crate) fn open_inetd(
  environment: &mut Environment,
  program: Result<Program, Errno>,
  [waits, connections, per_client, per_minute]: [i32; 4],
) -> Outcome {
  let mode = if waits == 0 { InetdMode::Nowait } else { InetdMode::Wait };
  let (program, limits) = (program?, inetd_limits(connections, per_client, per_minute));
  environment.services.insert(|reactor| Ok(Service::Inetd(Box::new(Inetd::new(reactor, mode, program, limits)?))))
}

pub(crate) fn set_program(
  environment: &mut Environment,
  program: Result<Program, Errno>,
  [service, connections, per_client, per_minute]: [i32; 4],
) -> Outcome {
  let (program, limits) = (program?, inetd_limits(connections, per_client, per_minute));
  environment.services.with(service, |service| match service {
    Service::Inetd(inetd) => {
      inetd.set_program(program, limits);
      Ok(0)
    }
    Service::Pool(_) => Err(Errno::EINVAL),
  })
}

pub(crate) fn add_listener(environment: &mut Environment, [service, fd, length]: [i32; 3]) -> Outcome {
  let name = &environment.memory.name.get()[..length as usize];
  let listener = Listener::new(fdpass_core::duplicate(borrowed(&[fd])?[0])?, name);
  let token = environment.services.with(service, |service| match service {
    Service::Pool(pool) => pool.add_listener(listener),
    Service::Inetd(inetd) => inetd.add_listener(listener),
  });
  Ok(token? as i32)
}

pub(crate) fn remove_listener(environment: &mut Environment, [service, listener]: [i32; 2]) -> Outcome {
  environment.services.with(service, |service| {
    match service {
      Service::Pool(pool) => pool.remove_listener(listener as u32),
      Service::Inetd(inetd) => inetd.remove_listener(listener as u32),
    }
    Ok(0)
  })
}

pub(crate) fn add_worker(environment: &mut Environment, [service, channel]: [i32; 2]) -> Outcome {
  let Environment { table, services, .. } = environment;
  let channel = table.take(channel)?;
  Ok(services.with_pool(service, |pool| pool.add_worker(channel))? as i32)
}

pub(crate) fn drain_worker(environment: &mut Environment, [service, worker]: [i32; 2]) -> Outcome {
  environment.services.with_pool(service, |pool| {
    pool.drain_worker(worker as u32);
    Ok(0)
  })
}

pub(crate) fn forget_worker(environment: &mut Environment, [service, worker]: [i32; 2]) -> Outcome {
  environment.services.with_pool(service, |pool| {
    pool.worker_exited(worker as u32);
    Ok(0)
  })
}

pub(crate) fn overdue_worker(environment: &mut Environment, [service, patience]: [i32; 2]) -> Outcome {
  let patience = Duration::from_millis(patience as u64);
  environment.services.with_pool(service, |pool| Ok(pool.overdue_worker(patience).map_or(-1, |worker| worker as i32)))
}

pub(crate) fn stop(environment: &mut Environment, [service]: [i32; 1]) -> Outcome {
  environment.services.with(service, |service| {
    match service {
      Service::Pool(pool) => pool.stop(),
      Service::Inetd(inetd) => inetd.stop(),
    }
    Ok(0)
  })
}

pub(crate) fn retry(environment: &mut Environment, [service]: [i32; 1]) -> Outcome {
  environment.services.with(service, |service| {
    match service {
      Service::Pool(pool) => pool.retry(),
      Service::Inetd(inetd) => inetd.retry(),
    }
    Ok(0)
  })
}

pub(crate) fn close(environment: &mut Environment, [service]: [i32; 1]) -> Outcome {
  let (shared, ..) = environment.services.running.as_ref().ok_or(Errno::EBADF)?;
  let closed = shared.lock().remove(&(service as u32));
  closed.map(|_| 0).ok_or(Errno::EBADF)
}

/// How many integers a piece of news takes.
const NEWS: usize = 4;

pub(crate) fn news(environment: &mut Environment, [service]: [i32; 1]) -> Outcome {
  let Environment { services, memory: Memory { fds, .. }, .. } = environment;
  let most = fds.get().len() / NEWS;
  let news = services.with(service, |service| Ok(service.take_events(most)))?;
  for (place, news) in fds.get().chunks_exact_mut(NEWS).zip(&news) {
    place.copy_from_slice(&match *news {
      Event::WorkerReady { worker } => [0, worker as i32, 0, 0],
      Event::WorkerRemoved { worker, lost } => [1, worker as i32, lost as i32, 0],
      Event::Exhausted { call, errno } => short(call, errno),
      Event::RateLimited => [3, 0, 0, 0],
      Event::SpawnFailed(error) => [4, -(error.errno as i32), error.step as i32, 0],
      Event::ProgramStarted { pid } => [5, pid, 0, 0],
      Event::ProgramEnded { pid, status: how } => [6, pid, ending(how), 0],
      Event::Idle => [7, 0, 0, 0],
      Event::ChannelFailed { worker } => [8, worker as i32, 0, 0],
    });
  }
  Ok(news.len() as i32)
}

/// `code` has other numbers for some errors, for calls that can be made again.
fn short(call: Call, errno: Errno) -> [i32; NEWS] {
  let (call, step) = match call {
    Call::Accept => (0, 0),
    Call::Fcntl => (1, 0),
    Call::Sendmsg => (2, 0),
    Call::Register => (3, 0),
    Call::Start(step) => (-1, step as i32),
  };
  [2, -(errno as i32), call, step]
}

/// How a worker is doing.
#[napi(object, object_from_js = false)]
pub struct WorkerState {
  /// Its number.
  pub worker: u32,
  /// How many connections it has.
  pub connections: u32,
  /// How many of these it has not acknowledged.
  pub unacknowledged: u32,
}

/// How a service is doing. The counters are of all its time.
#[napi(object, object_from_js = false)]
pub struct ServiceState {
  /// Connections taken off the backlog.
  pub accepted: f64,
  /// That a worker has said are its own.
  pub acknowledged: f64,
  /// Whose end was told.
  pub completed: f64,
  /// That ended with the worker that had acknowledged them.
  pub lost: f64,
  /// Closed at once.
  pub refused: f64,
  /// Given to another worker.
  pub handed_on: f64,
  /// Connections that wait for a worker or a program.
  pub waiting: u32,
  /// Connections that workers have, or programs that run.
  pub active: u32,
  /// The workers of a pool.
  pub workers: Vec<WorkerState>,
  /// The processes of the programs.
  pub programs: Vec<i32>,
}

fn state_of(service: &Service) -> ServiceState {
  let (counters, waiting, active) = match service {
    Service::Pool(pool) => (pool.counters(), pool.waiting(), pool.assigned()),
    Service::Inetd(inetd) => (inetd.counters(), inetd.waiting(), inetd.running().len()),
  };
  let (workers, programs) = match service {
    Service::Pool(pool) => (pool.workers().collect(), Vec::new()),
    Service::Inetd(inetd) => (Vec::new(), inetd.running().collect()),
  };
  let worker = |state: superserver::WorkerState| WorkerState {
    worker: state.worker,
    connections: state.connections as u32,
    unacknowledged: state.unacknowledged as u32,
  };
  ServiceState {
    accepted: counters.accepted as f64,
    acknowledged: counters.acknowledged as f64,
    completed: counters.completed as f64,
    lost: counters.lost as f64,
    refused: counters.refused as f64,
    handed_on: counters.reassigned as f64,
    waiting: waiting as u32,
    active: active as u32,
    workers: workers.into_iter().map(worker).collect(),
    programs,
  }
}

pub(crate) unsafe extern "C" fn state(env: sys::napi_env, info: sys::napi_callback_info) -> sys::napi_value {
  // SAFETY: called by the runtime, with the environment that `function` gave.
  let (environment, [service]) = unsafe { arguments::<1>(env, info) };
  let state = match environment.services.with(integer(env, service), |service| Ok(state_of(service))) {
    Ok(state) => Either::A(state),
    Err(errno) => Either::B(code(errno)),
  };
  // SAFETY: in a call from JavaScript. The environment is not used again.
  unsafe { Either::to_napi_value(env, state) }.unwrap_or(std::ptr::null_mut())
}
