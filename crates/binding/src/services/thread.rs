//! The thread that runs the services of an environment. It serves connections however busy JavaScript is, and wakes
//! JavaScript up when a service has events.

use std::collections::HashMap;
use std::fs::File;
use std::io::Write;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use fdpass_core::Errno;
use fdpass_core::superserver::{self, Event, Inetd, Pool};
use polling::{Events, PollMode, Poller};

use crate::codes::{READABLE, WRITABLE};
use crate::reactor::thread::Registration;

/// The maximum delay of a service's deferred work while events keep arriving.
const MAX_DELAY: Duration = Duration::from_millis(10);

/// The thread's event loop, as one service uses it.
pub(crate) struct ServiceReactor {
  pub(super) poller: Arc<Poller>,
  pub(super) service: u32,
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

/// A service.
pub(crate) enum Service {
  /// Passes connections to workers.
  Pool(Box<Pool<ServiceReactor>>),
  /// Starts programs.
  Inetd(Box<Inetd<ServiceReactor>>),
}

impl Service {
  fn ready(&mut self, token: u32, readable: bool, writable: bool) {
    match self {
      Self::Pool(pool) => pool.on_ready(token, readable, writable),
      Self::Inetd(inetd) => inetd.on_ready(token),
    }
  }

  /// Returns the time until the service's deferred work is due; none if it has none.
  pub(super) fn next_deadline(&self) -> Option<Duration> {
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

  /// Takes the first `max` events.
  pub(crate) fn take_events(&mut self, max: usize) -> Vec<Event> {
    match self {
      Self::Pool(pool) => pool.take_events(max),
      Self::Inetd(inetd) => inetd.take_events(max),
    }
  }
}

/// The state that the thread and JavaScript share.
pub(super) struct Shared {
  pub(super) poller: Arc<Poller>,
  services: Mutex<HashMap<u32, Service>>,
  /// How many calls of JavaScript wait for the services.
  callers: AtomicU32,
  /// Notified after each call.
  call_ended: Condvar,
  /// The end of a pipe that receives a byte when a service has events. JavaScript watches the other end.
  pub(super) wake_tx: File,
  pub(super) stop: AtomicBool,
}

impl Shared {
  pub(super) fn new(poller: Arc<Poller>, wake_tx: File) -> Self {
    Self {
      poller,
      services: Mutex::default(),
      callers: AtomicU32::new(0),
      call_ended: Condvar::new(),
      wake_tx,
      stop: AtomicBool::new(false),
    }
  }

  /// Runs a task of JavaScript on the services. It waits for one turn of the thread at most.
  pub(super) fn call<T>(&self, task: impl FnOnce(&mut HashMap<u32, Service>) -> T) -> T {
    self.callers.fetch_add(1, Ordering::Relaxed);
    let mut services = self.lock();
    self.callers.fetch_sub(1, Ordering::Relaxed);
    let result = task(&mut services);
    drop(services);
    self.call_ended.notify_one();
    result
  }

  /// Borrows the services for a turn of the thread. A call that waits goes first: the mutex is not fair, and a thread that is
  /// always busy would lock it again before the caller runs.
  fn lock_for_turn(&self) -> MutexGuard<'_, HashMap<u32, Service>> {
    let services = self.lock();
    if self.callers.load(Ordering::Relaxed) == 0 {
      return services;
    }
    self.call_ended.wait_timeout(services, MAX_DELAY).unwrap_or_else(PoisonError::into_inner).0
  }

  /// Borrows the services. A panic of the other side was already printed, and its changes are kept as they are.
  fn lock(&self) -> MutexGuard<'_, HashMap<u32, Service>> {
    self.services.lock().unwrap_or_else(PoisonError::into_inner)
  }

  /// Wakes JavaScript up if a service has events. A full pipe is readable already.
  pub(super) fn wake(&self, services: &HashMap<u32, Service>) {
    if services.values().any(Service::has_events) {
      let _ = (&self.wake_tx).write(&[0]);
    }
  }

  /// The body of the thread.
  pub(super) fn run(&self) {
    let mut events = Events::new();
    let (mut timeout, mut flushed) = (None, Instant::now());
    while !self.stop.load(Ordering::Acquire) {
      events.clear();
      if self.poller.wait(&mut events, timeout).is_err() && events.is_empty() {
        continue;
      }
      let mut services = self.lock_for_turn();
      if events.is_empty() || flushed.elapsed() > MAX_DELAY {
        services.values_mut().for_each(Service::flush_deferred);
        flushed = Instant::now();
      }
      for event in events.iter() {
        let (service, token) = ((event.key as u64 >> 32) as u32, event.key as u32);
        if let Some(service) = services.get_mut(&service) {
          service.ready(token, event.readable, event.writable);
        }
      }
      timeout = services.values().filter_map(Service::next_deadline).min();
      self.wake(&services);
    }
  }
}
