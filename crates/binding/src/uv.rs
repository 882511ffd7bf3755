//! The `uv` back end: one `uv_poll_t` per socket on the environment's own loop.
//!
//! The libuv in use is the runtime's own, so its functions are looked up in the process and a handle is as large as it
//! says. A handle stays armed between operations, because arming costs a system call; it is disarmed when it reports
//! a socket that nobody waits for.

use std::cell::Cell;
use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::ptr;
use std::rc::Rc;
use std::sync::OnceLock;

use fdpass_core::Errno;
use napi::{Env, check_status, sys};

use crate::codes::{READABLE, WRITABLE};
use crate::dispatcher::Dispatcher;
use crate::environment::{Environment, OpenError};
use crate::memory::Turn;

/// `UV_POLL` of `uv_handle_type`; the look-up below checks that the number still means it.
const UV_POLL: c_int = 8;
/// `UV_ASYNC`, likewise.
const UV_ASYNC: c_int = 1;

type PollCallback = unsafe extern "C" fn(*mut c_void, c_int, c_int);
type CloseCallback = unsafe extern "C" fn(*mut c_void);

/// The functions of the process's libuv.
pub(crate) struct Library {
  poll_init: unsafe extern "C" fn(*mut c_void, *mut c_void, c_int) -> c_int,
  poll_start: unsafe extern "C" fn(*mut c_void, c_int, PollCallback) -> c_int,
  poll_stop: unsafe extern "C" fn(*mut c_void) -> c_int,
  close: unsafe extern "C" fn(*mut c_void, CloseCallback),
  reference: unsafe extern "C" fn(*mut c_void),
  unreference: unsafe extern "C" fn(*mut c_void),
  set_data: unsafe extern "C" fn(*mut c_void, *mut c_void),
  get_data: unsafe extern "C" fn(*const c_void) -> *mut c_void,
  async_init: unsafe extern "C" fn(*mut c_void, *mut c_void, Option<CloseCallback>) -> c_int,
  poll_size: usize,
  async_size: usize,
}

impl Library {
  /// The process's libuv, if it has one of major version 1 (its ABI is promised within a major version) with all
  /// that is needed.
  pub(crate) fn get() -> Option<&'static Self> {
    static LIBRARY: OnceLock<Option<Library>> = OnceLock::new();
    LIBRARY.get_or_init(Self::look_up).as_ref()
  }

  fn look_up() -> Option<Self> {
    // SAFETY: `unsigned int uv_version(void)`.
    let version: unsafe extern "C" fn() -> c_uint = unsafe { symbol(c"uv_version") }?;
    // SAFETY: `const char *uv_handle_type_name(uv_handle_type)`.
    let type_name: unsafe extern "C" fn(c_int) -> *const c_char = unsafe { symbol(c"uv_handle_type_name") }?;
    // SAFETY: `size_t uv_handle_size(uv_handle_type)`.
    let handle_size: unsafe extern "C" fn(c_int) -> usize = unsafe { symbol(c"uv_handle_size") }?;
    // SAFETY: no precondition.
    if unsafe { version() } >> 16 != 1 {
      return None;
    }
    let size_of_handle = |handle_type, expected: &CStr| {
      // SAFETY: gives a static string, or null for an unknown type.
      let name = unsafe { type_name(handle_type) };
      // SAFETY: checked for null, static otherwise.
      let is_expected = !name.is_null() && unsafe { CStr::from_ptr(name) } == expected;
      // SAFETY: no precondition.
      let size = unsafe { handle_size(handle_type) };
      (is_expected && (64..=4096).contains(&size)).then_some(size)
    };
    Some(Self {
      // SAFETY: `int uv_poll_init(uv_loop_t *, uv_poll_t *, int)`.
      poll_init: unsafe { symbol(c"uv_poll_init") }?,
      // SAFETY: `int uv_poll_start(uv_poll_t *, int, uv_poll_cb)`.
      poll_start: unsafe { symbol(c"uv_poll_start") }?,
      // SAFETY: `int uv_poll_stop(uv_poll_t *)`.
      poll_stop: unsafe { symbol(c"uv_poll_stop") }?,
      // SAFETY: `void uv_close(uv_handle_t *, uv_close_cb)`.
      close: unsafe { symbol(c"uv_close") }?,
      // SAFETY: `void uv_ref(uv_handle_t *)`.
      reference: unsafe { symbol(c"uv_ref") }?,
      // SAFETY: `void uv_unref(uv_handle_t *)`.
      unreference: unsafe { symbol(c"uv_unref") }?,
      // SAFETY: `void uv_handle_set_data(uv_handle_t *, void *)`.
      set_data: unsafe { symbol(c"uv_handle_set_data") }?,
      // SAFETY: `void *uv_handle_get_data(const uv_handle_t *)`.
      get_data: unsafe { symbol(c"uv_handle_get_data") }?,
      // SAFETY: `int uv_async_init(uv_loop_t *, uv_async_t *, uv_async_cb)`.
      async_init: unsafe { symbol(c"uv_async_init") }?,
      poll_size: size_of_handle(UV_POLL, c"poll")?,
      async_size: size_of_handle(UV_ASYNC, c"async")?,
    })
  }
}

/// A function of the process by its name.
///
/// # Safety
/// `F` is the type of that function.
unsafe fn symbol<F: Copy>(name: &CStr) -> Option<F> {
  const { assert!(size_of::<F>() == size_of::<*mut c_void>()) };
  // SAFETY: a look-up by name.
  let address = unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) };
  // SAFETY: an address of the same size, and of a function of type F by the caller's promise.
  (!address.is_null()).then(|| unsafe { std::mem::transmute_copy(&address) })
}

/// The environment's loop.
pub(crate) struct Loop {
  state: Rc<LoopState>,
}

struct LoopState {
  uv: &'static Library,
  uv_loop: *mut c_void,
  dispatcher: Dispatcher,
  /// Handles that libuv still knows; closing one takes until its callback.
  handles: Cell<usize>,
  environment: Cell<*mut Environment>,
  cleanup: Cell<sys::napi_async_cleanup_hook_handle>,
  ended: Cell<bool>,
  /// A `uv_async_t` that is never sent: an open handle that may hold the loop.
  keeper: Cell<*mut c_void>,
  turn: Turn,
}

impl Loop {
  pub(crate) fn open(
    env: &Env,
    dispatcher: Dispatcher,
    turn: Turn,
    environment: impl FnOnce(Self) -> Environment,
  ) -> Result<*mut Environment, OpenError> {
    let uv = Library::get().ok_or_else(|| napi::Error::from_reason("this process has no libuv with uv_poll"))?;
    let state = Rc::new(LoopState {
      uv,
      uv_loop: env.get_uv_event_loop()?.cast(),
      dispatcher,
      handles: Cell::new(0),
      environment: Cell::new(ptr::null_mut()),
      cleanup: Cell::new(ptr::null_mut()),
      ended: Cell::new(false),
      keeper: Cell::new(ptr::null_mut()),
      turn,
    });
    state.open_keeper()?;
    let environment = Box::into_raw(Box::new(environment(Self { state: state.clone() })));
    state.environment.set(environment);
    // A Worker unloads the image at its end, maybe before libuv has called `on_close` in it.
    napi::bindgen_prelude::retain_current_module_for_unload_safety();
    let mut cleanup = ptr::null_mut();
    // The asynchronous hook, and by the raw function: after a plain hook the loop is closed before `on_close` ran, and
    // napi-rs' own asynchronous hook removes itself as soon as it was called.
    // SAFETY: `on_environment_end` takes the reference given here, once.
    check_status!(unsafe {
      sys::napi_add_async_cleanup_hook(
        env.raw(),
        Some(on_environment_end),
        Rc::into_raw(state.clone()).cast_mut().cast(),
        &mut cleanup,
      )
    })?;
    state.cleanup.set(cleanup);
    Ok(environment)
  }

  /// Keeps the loop running although no socket is busy.
  pub(crate) fn hold(&self, on: bool) {
    self.state.hold(on);
  }

  /// Makes the handle of a socket, not armed. It does not hold the loop.
  pub(crate) fn handle(&self, fd: BorrowedFd<'_>) -> Result<Handle, Errno> {
    let uv = self.state.uv;
    // SAFETY: as many zeroed bytes as libuv says that its handle needs.
    let raw = unsafe { libc::calloc(1, uv.poll_size) };
    if raw.is_null() {
      return Err(Errno::ENOMEM);
    }
    // uv_poll_init switches the socket to non-blocking mode. Nothing here depends on that: every call says
    // MSG_DONTWAIT.
    let mut code = None;
    let kept = fdpass_core::keep_status_flags(fd, || {
      // SAFETY: memory for the handle, a loop that lives, an open socket.
      code = Some(unsafe { (uv.poll_init)(self.state.uv_loop, raw, fd.as_raw_fd()) });
    });
    if code != Some(0) {
      // SAFETY: allocated above. A handle whose initialisation failed is unknown to libuv and must not be closed.
      unsafe { libc::free(raw) };
      return Err(kept.err().unwrap_or_else(|| Errno::from_raw(-code.unwrap_or(0))));
    }
    let note = Box::new(Note { state: self.state.clone(), fd: fd.as_raw_fd(), armed: Cell::new(0) });
    let note = Box::into_raw(note);
    // SAFETY: an initialised handle; `on_close` takes the note back.
    unsafe { (uv.set_data)(raw, note.cast()) };
    // SAFETY: an initialised handle.
    unsafe { (uv.unreference)(raw) };
    self.state.handles.set(self.state.handles.get() + 1);
    let handle = Handle { raw, note };
    // Where the flags could not be restored, libuv knows the handle all the same: dropping it closes it.
    kept.map(|()| handle)
  }
}

/// What libuv's callbacks are told about a socket.
struct Note {
  state: Rc<LoopState>,
  fd: RawFd,
  armed: Cell<c_int>,
}

/// A `uv_poll_t`. Dropping it closes it, which removes the socket from epoll or kqueue at once: the descriptor may be
/// closed right after, not before.
pub(crate) struct Handle {
  raw: *mut c_void,
  note: *mut Note,
}

impl Handle {
  fn note(&self) -> &Note {
    // SAFETY: freed by `on_close`, which runs only after `drop`.
    unsafe { &*self.note }
  }

  pub(crate) fn arm(&mut self, events: c_int) -> Result<(), Errno> {
    let note = self.note();
    if note.armed.get() == events {
      return Ok(()); // uv_poll_start would remove the socket from epoll and add it again
    }
    let uv = note.state.uv;
    let code = if events == 0 {
      // SAFETY: an open handle.
      unsafe { (uv.poll_stop)(self.raw) }
    } else {
      // SAFETY: an open handle of an open socket.
      unsafe { (uv.poll_start)(self.raw, events, on_poll) }
    };
    if code != 0 {
      return Err(Errno::from_raw(-code));
    }
    note.armed.set(events);
    Ok(())
  }
}

impl Drop for Handle {
  fn drop(&mut self) {
    let close = self.note().state.uv.close;
    // SAFETY: an open handle, closed once, before its socket.
    unsafe { close(self.raw, on_close) };
  }
}

/// The data of a handle that libuv calls back with.
fn data_of(raw: *mut c_void) -> *mut c_void {
  let uv = Library::get().expect("libuv called back");
  // SAFETY: an initialised handle.
  unsafe { (uv.get_data)(raw) }
}

unsafe extern "C" fn on_poll(raw: *mut c_void, status: c_int, events: c_int) {
  // SAFETY: an open handle's note, which lives until `on_close`.
  let note = unsafe { &*data_of(raw).cast::<Note>() };
  let events = if status < 0 {
    // libuv reports POLLERR as UV_EBADF and has stopped the handle. The system call will tell the real error.
    note.armed.set(0);
    READABLE | WRITABLE
  } else {
    events & (READABLE | WRITABLE)
  };
  let (state, event) = (note.state.clone(), [note.fd, events, note.armed.get()]);
  state.turn.set_running(true);
  // SAFETY: on the loop's thread, outside of JavaScript. The note is not used again: JavaScript may close the socket.
  unsafe { state.dispatcher.call_from_loop(event) };
  state.turn.set_running(false);
  state.hold(state.turn.is_held());
}

unsafe extern "C" fn on_close(raw: *mut c_void) {
  // SAFETY: called once for a handle, which gives its note back.
  let note = unsafe { Box::from_raw(data_of(raw).cast::<Note>()) };
  // SAFETY: allocated by `Loop::handle`; libuv is done with it.
  unsafe { libc::free(raw) };
  let state = note.state;
  state.handles.set(state.handles.get() - 1);
  state.finish_if_idle();
}

/// The end of the JavaScript environment: JavaScript runs no more, but the loop still does, until the hook is removed.
unsafe extern "C" fn on_environment_end(_: sys::napi_async_cleanup_hook_handle, argument: *mut c_void) {
  // SAFETY: the reference that `Loop::open` gave to this hook, which is called once.
  let state = unsafe { Rc::from_raw(argument.cast::<LoopState>()) };
  // SAFETY: made by `Loop::open`; nothing calls into the environment after JavaScript's end.
  drop(unsafe { Box::from_raw(state.environment.replace(ptr::null_mut())) });
  // SAFETY: in the hook, once; the handles that would call are closed, or closing.
  unsafe { state.dispatcher.release() };
  // SAFETY: opened by `open_keeper`, closed here only.
  unsafe { (state.uv.close)(state.keeper.get(), on_keeper_close) };
  state.ended.set(true);
  state.finish_if_idle();
}

unsafe extern "C" fn on_keeper_close(raw: *mut c_void) {
  // SAFETY: the reference that `open_keeper` gave; the handle is closed once.
  let state = unsafe { Rc::from_raw(data_of(raw).cast::<LoopState>()) };
  // SAFETY: allocated by `open_keeper`; libuv is done with it.
  unsafe { libc::free(raw) };
  state.handles.set(state.handles.get() - 1);
  state.finish_if_idle();
}

impl LoopState {
  fn open_keeper(self: &Rc<Self>) -> Result<(), OpenError> {
    // SAFETY: as many zeroed bytes as libuv says that its handle needs.
    let raw = unsafe { libc::calloc(1, self.uv.async_size) };
    if raw.is_null() {
      return Err(OpenError::System(Errno::ENOMEM, "uv_async_init"));
    }
    // SAFETY: memory for the handle, a loop that lives; without a callback, as it is never sent.
    let code = unsafe { (self.uv.async_init)(self.uv_loop, raw, None) };
    if code != 0 {
      // SAFETY: allocated above; libuv does not know it.
      unsafe { libc::free(raw) };
      return Err(OpenError::System(Errno::from_raw(-code), "uv_async_init"));
    }
    // SAFETY: an initialised handle; `on_keeper_close` takes the reference back.
    unsafe { (self.uv.set_data)(raw, Rc::into_raw(self.clone()).cast_mut().cast()) };
    // SAFETY: an initialised handle.
    unsafe { (self.uv.unreference)(raw) };
    self.keeper.set(raw);
    self.handles.set(1);
    Ok(())
  }

  fn hold(&self, on: bool) {
    let change = if on { self.uv.reference } else { self.uv.unreference };
    // SAFETY: open as long as JavaScript runs; both calls are idempotent.
    unsafe { change(self.keeper.get()) };
  }

  /// Lets the environment go once libuv has closed the last handle.
  fn finish_if_idle(&self) {
    if self.ended.get() && self.handles.get() == 0 {
      // SAFETY: the handle of the hook that has run; released once, as `handles` stays at zero.
      unsafe { sys::napi_remove_async_cleanup_hook(self.cleanup.get()) };
    }
  }
}
