//! Calls on the services of a superserver.

use std::time::Duration;

use fdpass_core::superserver::{self, Call, Event, Inetd, InetdLimits, Listener, Pool, PoolLimits};
use fdpass_core::{Errno, Program, Step};
use napi::bindgen_prelude::Either;
use napi_derive::napi;

use crate::children::{ExitStatus, ProgramDescription};
use crate::codes::code;
use crate::environment::Environment;
use crate::services::Service;

/// The maximum number of events that one call returns.
const MAX_EVENTS: usize = 1024;

/// The limits of a service that passes connections to workers. A negative number means no limit.
#[napi(object, object_to_js = false)]
pub struct PoolSettings {
  /// The maximum number of open connections.
  pub max_connections: i32,
  /// The maximum number of open connections of one worker.
  pub max_per_worker: i32,
  /// The maximum number of open connections of one client.
  pub max_per_client: i32,
}

/// The limits of a service that starts programs. A negative number means no limit.
#[napi(object, object_to_js = false)]
pub struct InetdSettings {
  /// The maximum number of running programs.
  pub max_connections: i32,
  /// The maximum number of open connections of one client.
  pub max_per_client: i32,
  /// The maximum number of programs started in one minute.
  pub max_spawns: i32,
}

/// Converts a limit of JavaScript's, where a negative number means no limit.
fn limit(number: i32) -> usize {
  usize::try_from(number).unwrap_or(usize::MAX)
}

impl From<PoolSettings> for PoolLimits {
  fn from(settings: PoolSettings) -> Self {
    Self {
      connections: limit(settings.max_connections),
      per_worker: limit(settings.max_per_worker),
      per_client: u32::try_from(settings.max_per_client).ok(),
    }
  }
}

impl From<InetdSettings> for InetdLimits {
  fn from(settings: InetdSettings) -> Self {
    Self {
      connections: limit(settings.max_connections),
      per_client: u32::try_from(settings.max_per_client).ok(),
      per_minute: limit(settings.max_spawns),
    }
  }
}

/// When an inetd service starts a program.
#[napi(string_enum = "lowercase")]
pub enum InetdMode {
  /// For each connection, which it accepts itself.
  Nowait,
  /// When a connection arrives, to accept from the listener itself.
  Wait,
}

/// An event of a service.
#[napi(discriminant_case = "kebab-case", object_from_js = false)]
pub enum ServiceEvent {
  /// A worker can be given connections.
  WorkerReady {
    /// The worker's number.
    worker: u32,
  },
  /// A worker was given as many connections as it should have in its life, or more.
  WorkerServed {
    /// The worker's number.
    worker: u32,
  },
  /// A worker has sent a note.
  WorkerNote {
    /// The worker's number.
    worker: u32,
    /// JSON, which is not checked.
    note: String,
  },
  /// A worker violated the protocol, or its channel failed. It is given no connections, and must be killed.
  ChannelFailed {
    /// The worker's number.
    worker: u32,
  },
  /// A worker's channel ended. The service has forgotten the worker.
  WorkerRemoved {
    /// The worker's number.
    worker: u32,
    /// The number of connections that were lost with it.
    lost: u32,
  },
  /// A resource ran out, and no event reports recovery: call `retryService` after a delay.
  Exhausted {
    /// The negative error number.
    errno: i32,
    /// The system call that failed.
    syscall: String,
  },
  /// A resource ran out at the start of a program: call `retryService` after a delay.
  SpawnExhausted {
    /// The negative error number.
    errno: i32,
    /// The system call that failed.
    syscall: String,
  },
  /// Too many programs were started in one minute: call `retryService` after a delay.
  RateLimited,
  /// A program could not be started.
  SpawnFailed {
    /// The negative error number.
    errno: i32,
    /// The system call that failed.
    syscall: String,
  },
  /// A program that listens itself was started.
  ProgramStarted {
    /// The process id.
    pid: i32,
  },
  /// A program that listens itself ended, or any program failed.
  ProgramEnded {
    /// The process id.
    pid: i32,
    /// The exit status.
    status: ExitStatus,
  },
  /// No connections and programs are left after `stopService`.
  Idle,
}

/// Returns the negative error number of an event. `code` would replace the numbers of some errors by `AGAIN` and `BUSY`.
fn number(errno: Errno) -> i32 {
  -(errno as i32)
}

fn exhausted(call: Call, errno: Errno) -> ServiceEvent {
  let errno = number(errno);
  let syscall = match call {
    Call::Accept => "accept",
    Call::Fcntl => "fcntl",
    Call::Sendmsg => "sendmsg",
    Call::Register => "uv_poll_start",
    Call::Start(step) => return ServiceEvent::SpawnExhausted { errno, syscall: syscall_of(step) },
  };
  ServiceEvent::Exhausted { errno, syscall: syscall.into() }
}

fn syscall_of(step: Step) -> String {
  step.syscall().into()
}

impl From<Event> for ServiceEvent {
  fn from(event: Event) -> Self {
    match event {
      Event::WorkerReady { worker } => Self::WorkerReady { worker },
      Event::WorkerServed { worker } => Self::WorkerServed { worker },
      Event::WorkerNote { worker, note } => {
        Self::WorkerNote { worker, note: String::from_utf8_lossy(&note).into_owned() }
      }
      Event::ChannelFailed { worker } => Self::ChannelFailed { worker },
      Event::WorkerRemoved { worker, lost } => Self::WorkerRemoved { worker, lost },
      Event::Exhausted { call, errno } => exhausted(call, errno),
      Event::RateLimited => Self::RateLimited,
      Event::SpawnFailed(error) => Self::SpawnFailed { errno: number(error.errno), syscall: syscall_of(error.step) },
      Event::ProgramStarted { pid } => Self::ProgramStarted { pid },
      Event::ProgramEnded { pid, status } => Self::ProgramEnded { pid, status: status.into() },
      Event::Idle => Self::Idle,
    }
  }
}

/// The state of a worker.
#[napi(object, object_from_js = false)]
pub struct WorkerState {
  /// The worker's number.
  pub worker: u32,
  /// The number of its open connections.
  pub connections: u32,
  /// The number of its connections that it has not acknowledged.
  pub unacknowledged: u32,
}

/// The state of a service, and its counters since it was opened.
#[napi(object, object_from_js = false)]
pub struct ServiceState {
  /// The number of connections accepted.
  pub accepted: f64,
  /// The number of connections that a worker acknowledged, or of programs started.
  pub acknowledged: f64,
  /// The number of connections whose end was reported.
  pub completed: f64,
  /// The number of acknowledged connections that ended with their worker.
  pub lost: f64,
  /// The number of connections closed at once because of a limit.
  pub refused: f64,
  /// The number of times that a connection was given to another worker.
  pub handed_on: f64,
  /// The number of connections that wait for a worker or a program.
  pub waiting: u32,
  /// The number of connections that workers have, or of programs that run.
  pub active: u32,
  /// The workers of a pool.
  pub workers: Vec<WorkerState>,
  /// The process ids of the running programs.
  pub programs: Vec<i32>,
}

impl From<&mut Service> for ServiceState {
  fn from(service: &mut Service) -> Self {
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
    Self {
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
}

#[napi]
impl Environment {
  /// Starts the thread of the services. Must be called once. Returns the number of a descriptor that becomes readable when a
  /// service has events.
  #[napi]
  pub fn start_services(&self) -> i32 {
    self.number(|state| Ok(state.table.insert(state.services.start()?)))
  }

  /// Makes the descriptor of `startServices` unreadable until the next event. Must be called before the events are taken.
  #[napi]
  pub fn drain_services(&self) -> i32 {
    self.number(|state| state.services.drain().map(|()| 0))
  }

  /// Opens a service that passes connections to workers. Returns its number.
  #[napi]
  pub fn open_pool(&self, settings: PoolSettings) -> i32 {
    self.number(|state| {
      state.services.insert(|reactor| Ok(Service::Pool(Box::new(Pool::new(reactor, settings.into())?))))
    })
  }

  /// Changes the limits of a service that passes connections to workers.
  #[napi]
  pub fn set_pool_settings(&self, service: i32, settings: PoolSettings) -> i32 {
    self.number(|state| {
      state.services.with_pool(service, |pool| {
        pool.set_limits(settings.into());
        Ok(0)
      })
    })
  }

  /// Opens a service that starts programs. Returns its number.
  #[napi]
  pub fn open_inetd(&self, mode: InetdMode, program: ProgramDescription, settings: InetdSettings) -> i32 {
    let mode = match mode {
      InetdMode::Nowait => superserver::InetdMode::Nowait,
      InetdMode::Wait => superserver::InetdMode::Wait,
    };
    self.number(|state| {
      let program = Program::try_from(program)?;
      let make = |reactor| Ok(Service::Inetd(Box::new(Inetd::new(reactor, mode, program, settings.into())?)));
      state.services.insert(make)
    })
  }

  /// Changes the program and the limits of a service that starts programs.
  #[napi]
  pub fn set_inetd_program(&self, service: i32, program: ProgramDescription, settings: InetdSettings) -> i32 {
    self.number(|state| {
      let program = Program::try_from(program)?;
      state.services.with(service, |service| match service {
        Service::Inetd(inetd) => {
          inetd.set_program(program, settings.into());
          Ok(0)
        }
        Service::Pool(_) => Err(Errno::EINVAL),
      })
    })
  }

  /// Makes a service accept from a duplicate of `fd`, which can be any listener of this process. `name` identifies the
  /// listener to workers and programs. Returns the listener's number in the service.
  #[napi]
  pub fn add_listener(&self, service: i32, fd: i32, name: &[u8]) -> i32 {
    self.number(|state| {
      let listener = Listener::new(fdpass_core::duplicate(state.table.borrowed_one(&fd)?)?, name);
      let token = state.services.with(service, |service| match service {
        Service::Pool(pool) => pool.add_listener(listener),
        Service::Inetd(inetd) => inetd.add_listener(listener),
      });
      Ok(token? as i32)
    })
  }

  /// Makes a service stop accepting from a listener.
  #[napi]
  pub fn remove_listener(&self, service: i32, listener: u32) -> i32 {
    self.number(|state| {
      state.services.with(service, |service| {
        match service {
          Service::Pool(pool) => pool.remove_listener(listener),
          Service::Inetd(inetd) => inetd.remove_listener(listener),
        }
        Ok(0)
      })
    })
  }

  /// Adds a worker to a pool by its channel, which the pool owns from then on. `is_foreign`: it runs as another user. `max_served` is
  /// how many connections it should have in its life; a negative number means no limit. Returns the worker's number.
  #[napi]
  pub fn add_worker(&self, service: i32, channel: i32, is_foreign: bool, max_served: i32) -> i32 {
    let max_served = u64::try_from(max_served).unwrap_or(u64::MAX);
    self.number(|state| {
      let channel = state.table.take(channel)?.into_fd();
      Ok(state.services.with_pool(service, |pool| pool.add_worker(channel, is_foreign, max_served))? as i32)
    })
  }

  /// Drains a worker: sends it `timeout`, the time in milliseconds after which it is killed, and ends its channel.
  #[napi]
  pub fn drain_worker(&self, service: i32, worker: u32, timeout: u32) -> i32 {
    self.number(|state| {
      state.services.with_pool(service, |pool| {
        pool.drain_worker(worker, timeout);
        Ok(0)
      })
    })
  }

  /// Notes that a worker's process has ended.
  #[napi]
  pub fn forget_worker(&self, service: i32, worker: u32) -> i32 {
    self.number(|state| {
      state.services.with_pool(service, |pool| {
        pool.worker_exited(worker);
        Ok(0)
      })
    })
  }

  /// Returns the number of a worker that has not acknowledged a connection for `timeout` milliseconds; -1 if there is none.
  #[napi]
  pub fn overdue_worker(&self, service: i32, timeout: u32) -> i32 {
    let timeout = Duration::from_millis(timeout.into());
    self.number(|state| {
      state.services.with_pool(service, |pool| Ok(pool.overdue_worker(timeout).map_or(-1, |worker| worker as i32)))
    })
  }

  /// Makes a service stop accepting.
  #[napi]
  pub fn stop_service(&self, service: i32) -> i32 {
    self.number(|state| {
      state.services.with(service, |service| {
        match service {
          Service::Pool(pool) => pool.stop(),
          Service::Inetd(inetd) => inetd.stop(),
        }
        Ok(0)
      })
    })
  }

  /// Makes a service retry after a delay.
  #[napi]
  pub fn retry_service(&self, service: i32) -> i32 {
    self.number(|state| {
      state.services.with(service, |service| {
        match service {
          Service::Pool(pool) => pool.retry(),
          Service::Inetd(inetd) => inetd.retry(),
        }
        Ok(0)
      })
    })
  }

  /// Closes a service and all descriptors that it owns.
  #[napi]
  pub fn close_service(&self, service: i32) -> i32 {
    self.number(|state| state.services.remove(service).map(|()| 0))
  }

  /// Takes events of a service; none if nothing is left. Returns a negative error number if there is no such service.
  #[napi]
  pub fn service_events(&self, service: i32) -> Either<Vec<ServiceEvent>, i32> {
    match self.with(|state| state.services.with(service, |service| Ok(service.take_events(MAX_EVENTS)))) {
      Ok(events) => Either::A(events.into_iter().map(ServiceEvent::from).collect()),
      Err(errno) => Either::B(code(errno)),
    }
  }

  /// Returns the state of a service, or a negative error number if there is no such service.
  #[napi]
  pub fn service_state(&self, service: i32) -> Either<ServiceState, i32> {
    match self.with(|state| state.services.with(service, |service| Ok(ServiceState::from(service)))) {
      Ok(state) => Either::A(state),
      Err(errno) => Either::B(code(errno)),
    }
  }
}
