//! The `thread` back end: one thread per environment that waits on epoll or kqueue, and one thread-safe function that
//! forwards its events to JavaScript. For runtimes whose `uv_poll` is missing or broken: Bun and Deno.
//!
//! A descriptor is reported once each time it is armed. An event may belong to a socket that was closed meanwhile and
//! whose number is in use again. That is harmless, because an event only suggests to try an operation.

use std::cell::Cell;
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

use super::Dispatcher;
use crate::codes::{OpenError, READABLE, WRITABLE};

/// The environment's side of the thread.
pub(crate) struct Poller {
  state: Rc<State>,
}

struct State {
  poller: Arc<polling::Poller>,
  env: sys::napi_env,
  dispatcher: Dispatcher,
  function: Cell<sys::napi_threadsafe_function>,
  stop: Arc<AtomicBool>,
  thread: Cell<Option<JoinHandle<()>>>,
  on_end: Cell<Option<Box<dyn FnOnce()>>>,
}

/// The thread-safe function, as the thread uses it. The environment releases it after it has joined the thread.
struct Function(sys::napi_threadsafe_function);

// SAFETY: Node-API allows calls of a thread-safe function from every thread.
unsafe impl Send for Function {}

/// The descriptors and events of one wake-up of the thread.
type Reports = Vec<(RawFd, i32)>;

/// The system call that creates a poller.
const POLLER: &str = if cfg!(any(target_os = "linux", target_os = "android")) { "epoll_create1" } else { "kqueue" };

impl Poller {
  /// See `Reactor::open`.
  pub(crate) fn open(env: &Env, dispatcher: Dispatcher, on_end: Box<dyn FnOnce()>) -> Result<Self, OpenError> {
    let state = Rc::new(State {
      poller: Arc::new(polling::Poller::new().map_err(|error| OpenError::System(errno(error), POLLER))?),
      env: env.raw(),
      dispatcher,
      function: Cell::new(ptr::null_mut()),
      stop: Arc::new(AtomicBool::new(false)),
      thread: Cell::new(None),
      on_end: Cell::new(Some(on_end)),
    });
    state.create_function(env)?;
    if let Err(error) = state.start_thread() {
      state.release_function();
      return Err(error);
    }
    napi::bindgen_prelude::retain_current_module_for_unload_safety();
    // Hooks run in the reverse order of their registration. The function's own hook was registered before this one, and
    // so runs after it, when the thread has ended.
    let argument = Rc::into_raw(state.clone()).cast_mut().cast();
    // SAFETY: `on_environment_end` takes over the reference that `argument` stands for, and runs once.
    let added = check_status!(unsafe { sys::napi_add_env_cleanup_hook(env.raw(), Some(on_environment_end), argument) });
    if let Err(error) = added {
      // SAFETY: the reference made above, which no hook takes over.
      drop(unsafe { Rc::from_raw(argument.cast::<State>()) });
      state.stop_thread();
      state.release_function();
      return Err(error.into());
    }
    Ok(Self { state })
  }

  /// See `Reactor::hold`.
  pub(crate) fn hold(&self, on: bool) {
    let State { env, function, .. } = &*self.state;
    let change = if on { sys::napi_ref_threadsafe_function } else { sys::napi_unref_threadsafe_function };
    // SAFETY: on the environment's thread. The function lives as long as the environment.
    unsafe { change(*env, function.get()) };
  }

  /// See `Reactor::register`.
  pub(crate) fn register(&self, fd: BorrowedFd<'_>) -> Result<Registration, Errno> {
    Registration::new(&self.state.poller, fd, fd.as_raw_fd() as usize, PollMode::Oneshot)
  }
}

impl State {
  /// Creates the thread-safe function, which does not keep the process alive.
  fn create_function(self: &Rc<Self>, env: &Env) -> Result<(), OpenError> {
    let name = env.create_string("FDPASS")?;
    let mut function = ptr::null_mut();
    let context = Rc::as_ptr(self).cast_mut().cast();
    // SAFETY: a null function is allowed where a callback is passed. The state outlives the function:
    // `on_environment_end` keeps it until it has released the function.
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
    if let Err(error) = check_status!(unsafe { sys::napi_unref_threadsafe_function(self.env, function) }) {
      self.release_function();
      return Err(error.into());
    }
    Ok(())
  }

  fn start_thread(&self) -> Result<(), OpenError> {
    let (poller, stop, function) = (self.poller.clone(), self.stop.clone(), Function(self.function.get()));
    let builder = std::thread::Builder::new().name("fdpass".into());
    let thread = fdpass_core::spawn_thread(builder, move || run(&poller, &stop, &function));
    self.thread.set(Some(thread.map_err(|error| OpenError::System(errno(error), "pthread_create"))?));
    Ok(())
  }

  fn stop_thread(&self) {
    self.stop.store(true, Ordering::Release);
    // Notifying fails only if the poller is gone, and `self` owns it.
    let _ = self.poller.notify();
    if let Some(thread) = self.thread.take() {
      // A panic of the thread was already printed.
      let _ = thread.join();
    }
  }

  /// Releases the thread-safe function. The thread must have ended, or not have started.
  fn release_function(&self) {
    // SAFETY: the one release for the initial thread count of 1. No thread uses the function any more.
    unsafe { sys::napi_release_threadsafe_function(self.function.get(), sys::ThreadsafeFunctionReleaseMode::abort) };
  }
}

/// The registration of a descriptor with a poller. Dropping it ends the registration. The owner must drop it before it
/// closes the descriptor.
pub(crate) struct Registration {
  poller: Arc<polling::Poller>,
  fd: RawFd,
  key: usize,
  mode: PollMode,
  armed: i32,
}

impl Registration {
  /// Registers a descriptor for no events yet. Its events carry `key`.
  pub(crate) fn new(
    poller: &Arc<polling::Poller>,
    fd: BorrowedFd<'_>,
    key: usize,
    mode: PollMode,
  ) -> Result<Self, Errno> {
    // SAFETY: the owner drops the registration, which removes the descriptor, before it closes the descriptor.
    unsafe { poller.add_with_mode(fd.as_raw_fd(), Event::none(key), mode) }.map_err(errno)?;
    Ok(Self { poller: poller.clone(), fd: fd.as_raw_fd(), key, mode, armed: 0 })
  }

  fn descriptor(&self) -> BorrowedFd<'_> {
    // SAFETY: the owner drops the registration before it closes the descriptor.
    unsafe { BorrowedFd::borrow_raw(self.fd) }
  }

  /// Sets the events that are reported, in place of the previous ones.
  pub(crate) fn arm(&mut self, events: i32) -> Result<(), Errno> {
    // A one-shot registration is disarmed by its event, so it is armed anew each time.
    if self.mode == PollMode::Oneshot || self.armed != events {
      let interest = Event::new(self.key, events & READABLE != 0, events & WRITABLE != 0);
      self.poller.modify_with_mode(self.descriptor(), interest, self.mode).map_err(errno)?;
      self.armed = events;
    }
    Ok(())
  }
}

impl Drop for Registration {
  fn drop(&mut self) {
    // Deleting fails only for a descriptor that the poller does not know: the program closed its number itself.
    let _ = self.poller.delete(self.descriptor());
  }
}

/// The body of the thread.
fn run(poller: &polling::Poller, stop: &AtomicBool, function: &Function) {
  let mut events = Events::new();
  while !stop.load(Ordering::Acquire) {
    events.clear();
    // A failed wait can have delivered events, which are disarmed by then: the error may come from the poller's own
    // work after the wait. So the events count whatever the result is.
    let _ = poller.wait(&mut events, None);
    let reports: Reports = events
      .iter()
      .map(|event| {
        let readable = if event.readable { READABLE } else { 0 };
        let writable = if event.writable { WRITABLE } else { 0 };
        let events = readable | writable;
        // An error without a direction: operations in both directions find out.
        (event.key as RawFd, if events == 0 { READABLE | WRITABLE } else { events })
      })
      .collect();
    if reports.is_empty() {
      continue;
    }
    let reports = Box::into_raw(Box::new(reports));
    // SAFETY: the function is released after this thread has ended. `on_reports` takes over the box.
    let status = unsafe {
      sys::napi_call_threadsafe_function(function.0, reports.cast(), sys::ThreadsafeFunctionCallMode::nonblocking)
    };
    if status != sys::Status::napi_ok {
      // SAFETY: the box made above, which the function did not take over because the environment is ending.
      drop(unsafe { Box::from_raw(reports) });
    }
  }
}

/// Runs on the environment's thread, in a callback scope of the runtime.
unsafe extern "C" fn on_reports(env: sys::napi_env, _: sys::napi_value, context: *mut c_void, data: *mut c_void) {
  // SAFETY: the box that `run` made.
  let reports = unsafe { Box::from_raw(data.cast::<Reports>()) };
  if env.is_null() {
    return; // the environment is ending, and the state may be gone
  }
  // SAFETY: the state lives until the environment's end.
  let dispatcher = unsafe { &*context.cast::<State>() }.dispatcher;
  for (fd, events) in *reports {
    // SAFETY: on the environment's thread, in the runtime's callback scope, with no state of the environment borrowed.
    unsafe { dispatcher.call_in_scope([fd, events, 0]) };
  }
}

unsafe extern "C" fn on_environment_end(argument: *mut c_void) {
  // SAFETY: the reference that `Poller::open` passed to this hook, which runs once.
  let state = unsafe { Rc::from_raw(argument.cast::<State>()) };
  if let Some(on_end) = state.on_end.take() {
    on_end();
  }
  state.stop_thread();
  // SAFETY: in the hook, once. `on_reports` drops the remaining reports without the dispatcher.
  unsafe { state.dispatcher.release() };
  state.release_function();
}

/// Returns the error number of an I/O error; `EIO` if it has none.
pub(crate) fn errno(error: std::io::Error) -> Errno {
  Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO))
}
