//! The `thread` back end: one thread per environment that waits on epoll or kqueue, and one thread-safe function that
//! brings what it learns to JavaScript. For runtimes whose `uv_poll` is missing or broken (Bun, Deno).
//!
//! A socket is reported once for each time it is armed. A report may be of a socket that was closed meanwhile and
//! whose number is in use again: it is a hint to try, never a promise, and does no harm.

use std::cell::{Cell, OnceCell};
use std::ffi::c_void;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::ptr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use fdpass_core::Errno;
use napi::{Env, JsValue, check_status, sys};
use polling::{Event, Events, PollMode};

use crate::codes::{READABLE, WRITABLE};
use crate::dispatcher::Dispatcher;
use crate::environment::{Environment, OpenError};

/// The environment's side of the thread.
pub(crate) struct Poller {
  state: Rc<State>,
}

struct State {
  poller: Arc<polling::Poller>,
  env: sys::napi_env,
  dispatcher: Dispatcher,
  environment: Cell<*mut Environment>,
  function: Cell<sys::napi_threadsafe_function>,
  stop: Arc<AtomicBool>,
  thread: OnceCell<JoinHandle<()>>,
}

/// The thread-safe function, to be called from the thread. It is released after the thread has been joined.
struct Function(sys::napi_threadsafe_function);

// SAFETY: calling it from any thread is what a thread-safe function is for.
unsafe impl Send for Function {}

/// What one wake of the thread has learnt.
type Reports = Vec<(RawFd, i32)>;

impl Poller {
  pub(crate) fn open(
    env: &Env,
    dispatcher: Dispatcher,
    environment: impl FnOnce(Self) -> Environment,
  ) -> Result<*mut Environment, OpenError> {
    let state = Rc::new(State {
      poller: Arc::new(polling::Poller::new().map_err(|error| OpenError::System(errno(error), POLLER))?),
      env: env.raw(),
      dispatcher,
      environment: Cell::new(ptr::null_mut()),
      function: Cell::new(ptr::null_mut()),
      stop: Arc::new(AtomicBool::new(false)),
      thread: OnceCell::new(),
    });
    let environment = Box::into_raw(Box::new(environment(Self { state: state.clone() })));
    state.environment.set(environment);
    if let Err(error) = state.start() {
      // SAFETY: made above; nothing was told of it.
      drop(unsafe { Box::from_raw(state.environment.replace(ptr::null_mut())) });
      return Err(error);
    }
    napi::bindgen_prelude::retain_current_module_for_unload_safety();
    // Registered after the function, whose own hook therefore runs after this one: the thread must be gone by then.
    // SAFETY: `on_environment_end` takes the reference given here, once.
    check_status!(unsafe {
      sys::napi_add_env_cleanup_hook(env.raw(), Some(on_environment_end), Rc::into_raw(state).cast_mut().cast())
    })?;
    Ok(environment)
  }

  pub(crate) fn hold(&self, on: bool) {
    let State { env, function, .. } = &*self.state;
    let change = if on { sys::napi_ref_threadsafe_function } else { sys::napi_unref_threadsafe_function };
    // SAFETY: on the environment's thread; the function lives as long as the environment.
    unsafe { change(*env, function.get()) };
  }

  /// Makes the poller know a socket, not armed.
  pub(crate) fn register(&self, fd: BorrowedFd<'_>) -> Result<Registration, Errno> {
    Registration::new(&self.state.poller, fd, fd.as_raw_fd() as usize, PollMode::Oneshot)
  }
}

/// What makes a poller.
const POLLER: &str = if cfg!(any(target_os = "linux", target_os = "android")) { "epoll_create1" } else { "kqueue" };

impl State {
  fn start(self: &Rc<Self>) -> Result<(), OpenError> {
    // SAFETY: the raw environment of a live Env.
    let env = Env::from_raw(self.env);
    let name = env.create_string("FDPASS")?;
    let mut function = ptr::null_mut();
    // The state outlives the function: `on_environment_end` holds it until it has released the function.
    let context = Rc::as_ptr(self).cast_mut().cast();
    // SAFETY: a null function is allowed where a callback is given.
    check_status!(unsafe {
      sys::napi_create_threadsafe_function(
        self.env,
        ptr::null_mut(),
        ptr::null_mut(),
        name.raw(),
        0,
        1,
        ptr::null_mut(),
        None,
        context,
        Some(on_reports),
        &mut function,
      )
    })?;
    self.function.set(function);
    // SAFETY: created above, on the environment's thread.
    check_status!(unsafe { sys::napi_unref_threadsafe_function(self.env, function) })?;
    let (poller, stop, function) = (self.poller.clone(), self.stop.clone(), Function(function));
    let thread = std::thread::Builder::new().name("fdpass".into()).spawn(move || run(&poller, &stop, &function));
    let thread = thread.map_err(|error| {
      // SAFETY: created above; no thread has it.
      unsafe { sys::napi_release_threadsafe_function(self.function.get(), sys::ThreadsafeFunctionReleaseMode::abort) };
      OpenError::System(errno(error), "pthread_create")
    })?;
    // `start` is called once.
    let _ = self.thread.set(thread);
    Ok(())
  }
}

/// A descriptor that a poller knows. Dropping it makes the poller forget it; the descriptor must still be open then.
pub(crate) struct Registration {
  poller: Arc<polling::Poller>,
  fd: RawFd,
  key: usize,
  mode: PollMode,
  armed: i32,
}

impl Registration {
  /// Makes a poller know a descriptor, not armed. Its events come with the key.
  pub(crate) fn new(
    poller: &Arc<polling::Poller>,
    fd: BorrowedFd<'_>,
    key: usize,
    mode: PollMode,
  ) -> Result<Self, Errno> {
    // SAFETY: `drop` removes it before the descriptor is closed.
    unsafe { poller.add_with_mode(fd.as_raw_fd(), Event::none(key), mode) }.map_err(errno)?;
    Ok(Self { poller: poller.clone(), fd: fd.as_raw_fd(), key, mode, armed: 0 })
  }

  fn descriptor(&self) -> BorrowedFd<'_> {
    // SAFETY: a watch is dropped before its descriptor is closed.
    unsafe { BorrowedFd::borrow_raw(self.fd) }
  }

  pub(crate) fn arm(&mut self, events: i32) -> Result<(), Errno> {
    if self.armed != events {
      let interest = Event::new(self.key, events & READABLE != 0, events & WRITABLE != 0);
      self.poller.modify_with_mode(self.descriptor(), interest, self.mode).map_err(errno)?;
      self.armed = events;
    }
    Ok(())
  }

  /// Notes an event: in the mode that tells of one only, it is not armed any more.
  pub(crate) fn reported(&mut self) {
    self.armed = 0;
  }
}

impl Drop for Registration {
  fn drop(&mut self) {
    // It fails only for a descriptor that the poller does not know: one whose number was closed behind our back.
    let _ = self.poller.delete(self.descriptor());
  }
}

/// The thread.
fn run(poller: &polling::Poller, stop: &AtomicBool, function: &Function) {
  let mut events = Events::new();
  while !stop.load(Ordering::Acquire) {
    events.clear();
    // After an error too there can be events, of sockets that are not armed any more: it may come of what the poller does
    // after it has waited.
    let _ = poller.wait(&mut events, None);
    let reports: Reports = events
      .iter()
      .map(|event| {
        let readable = if event.readable { READABLE } else { 0 };
        let writable = if event.writable { WRITABLE } else { 0 };
        let events = readable | writable;
        // An error alone: let both directions find out.
        (event.key as RawFd, if events == 0 { READABLE | WRITABLE } else { events })
      })
      .collect();
    if reports.is_empty() {
      continue;
    }
    let reports = Box::into_raw(Box::new(reports));
    // SAFETY: the function is released only after this thread has ended; `on_reports` takes the box.
    let status = unsafe {
      sys::napi_call_threadsafe_function(function.0, reports.cast(), sys::ThreadsafeFunctionCallMode::nonblocking)
    };
    if status != sys::Status::napi_ok {
      // SAFETY: not taken over, because the environment is ending.
      drop(unsafe { Box::from_raw(reports) });
    }
  }
}

/// On the environment's thread, in a callback scope of the runtime's.
unsafe extern "C" fn on_reports(env: sys::napi_env, _: sys::napi_value, context: *mut c_void, data: *mut c_void) {
  // SAFETY: the box that `run` made.
  let reports = unsafe { Box::from_raw(data.cast::<Reports>()) };
  if env.is_null() {
    return; // the environment is ending
  }
  // SAFETY: the state lives until the environment's end.
  let state = unsafe { &*context.cast::<State>() };
  let (dispatcher, environment) = (state.dispatcher, state.environment.get());
  for &(fd, _) in reports.iter() {
    // SAFETY: on its thread, with nothing of it borrowed.
    unsafe { (*environment).table.reported(fd) };
  }
  for (fd, events) in *reports {
    // SAFETY: as above, and within the runtime's callback scope.
    unsafe { dispatcher.call_in_scope([fd, events, 0]) };
  }
}

unsafe extern "C" fn on_environment_end(argument: *mut c_void) {
  // SAFETY: the reference that `Poller::open` gave to this hook, which is called once.
  let mut state = unsafe { Rc::from_raw(argument.cast::<State>()) };
  // SAFETY: made by `Poller::open`; nothing calls into the environment after JavaScript's end. It releases its
  // references to the state.
  drop(unsafe { Box::from_raw(state.environment.replace(ptr::null_mut())) });
  state.stop.store(true, Ordering::Release);
  // It fails only where the poller is gone.
  let _ = state.poller.notify();
  if let Some(thread) = Rc::get_mut(&mut state).and_then(|state| state.thread.take()) {
    // A panic of the thread has already been printed.
    let _ = thread.join();
  }
  // SAFETY: in the hook, once; what the thread has reported is not told any more (`on_reports`, without an environment).
  unsafe { state.dispatcher.release() };
  // SAFETY: the one release that belongs to the initial thread count of one.
  unsafe { sys::napi_release_threadsafe_function(state.function.get(), sys::ThreadsafeFunctionReleaseMode::abort) };
}

pub(crate) fn errno(error: std::io::Error) -> Errno {
  Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO))
}
