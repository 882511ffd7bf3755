//! The `uv` back end: one `uv_poll_t` per socket on the environment's own loop.
//!
//! The libuv in use is the runtime's own: its functions are looked up in the process, and it defines the size of a handle.
//! A handle stays armed between operations, because arming costs a system call. JavaScript disarms it when it reports a
//! socket without a pending operation.

use std::cell::Cell;
use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::ptr;
use std::rc::Rc;
use std::sync::OnceLock;

use fdpass_core::Errno;
use napi::{Env, check_status, sys};

use super::Dispatcher;
use crate::codes::{OpenError, READABLE, WRITABLE};
use crate::memory::Turn;

/// `UV_POLL` of `uv_handle_type`. `Library::look_up` checks that the number has this meaning.
const UV_POLL: c_int = 8;
/// `UV_ASYNC` of `uv_handle_type`. `Library::look_up` checks that the number has this meaning.
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
  /// Returns the process's libuv if it has major version 1, within which the ABI is stable, and all functions needed.
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
      // SAFETY: returns a static string, or null for an unknown type.
      let name = unsafe { type_name(handle_type) };
      // SAFETY: not null, and then a static string.
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

/// Looks up a function of the process by its name.
///
/// # Safety
/// `F` must be the type of that function.
unsafe fn symbol<F: Copy>(name: &CStr) -> Option<F> {
  const { assert!(size_of::<F>() == size_of::<*mut c_void>()) };
  // SAFETY: a look-up by name.
  let address = unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) };
  // SAFETY: the sizes are equal, and the address is that of a function of type `F`, as the caller guarantees.
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
  /// The number of handles that libuv knows. It forgets one when its close callback runs.
  handles: Cell<usize>,
  on_end: Cell<Option<Box<dyn FnOnce()>>>,
  cleanup: Cell<sys::napi_async_cleanup_hook_handle>,
  ended: Cell<bool>,
  /// A `uv_async_t` that is never sent: an open handle that can keep the loop running.
  keeper: Cell<*mut c_void>,
  turn: Turn,
}

impl Loop {
  /// See `Reactor::open`.
  pub(crate) fn open(
    env: &Env,
    dispatcher: Dispatcher,
    turn: Turn,
    on_end: Box<dyn FnOnce()>,
  ) -> Result<Self, OpenError> {
    let uv = Library::get().ok_or_else(|| napi::Error::from_reason("this process has no libuv with uv_poll"))?;
    let state = Rc::new(LoopState {
      uv,
      uv_loop: env.get_uv_event_loop()?.cast(),
      dispatcher,
      handles: Cell::new(0),
      on_end: Cell::new(Some(on_end)),
      cleanup: Cell::new(ptr::null_mut()),
      ended: Cell::new(false),
      keeper: Cell::new(ptr::null_mut()),
      turn,
    });
    state.open_keeper()?;
    // A Worker unloads the image at its end, possibly before libuv has called `on_close` in it.
    napi::bindgen_prelude::retain_current_module_for_unload_safety();
    // An asynchronous hook, because after a plain hook Node closes the loop before `on_close` has run. Added by the raw
    // function, because the hook of napi-rs removes itself as soon as it was called.
    let mut cleanup = ptr::null_mut();
    let argument = Rc::into_raw(state.clone()).cast_mut().cast();
    // SAFETY: `on_environment_end` takes over the reference that `argument` stands for, and runs once.
    let added = check_status!(unsafe {
      sys::napi_add_async_cleanup_hook(env.raw(), Some(on_environment_end), argument, &mut cleanup)
    });
    if let Err(error) = added {
      // SAFETY: the reference made above, which no hook takes over.
      drop(unsafe { Rc::from_raw(argument.cast::<LoopState>()) });
      state.close_keeper();
      return Err(error.into());
    }
    state.cleanup.set(cleanup);
    Ok(Self { state })
  }

  /// See `Reactor::hold`.
  pub(crate) fn hold(&self, on: bool) {
    self.state.hold(on);
  }

  /// See `Reactor::register`. The handle does not keep the loop running.
  pub(crate) fn handle(&self, fd: BorrowedFd<'_>) -> Result<Handle, Errno> {
    let uv = self.state.uv;
    // SAFETY: `calloc` has no precondition. The size is the one that libuv reports.
    let raw = unsafe { libc::calloc(1, uv.poll_size) };
    if raw.is_null() {
      return Err(Errno::ENOMEM);
    }
    // uv_poll_init switches the socket to non-blocking mode, which all holders of its open file description share. So the
    // mode is restored: every call here passes MSG_DONTWAIT.
    let mut code = None;
    let kept = fdpass_core::keep_status_flags(fd, || {
      // SAFETY: memory of a handle's size, the environment's live loop, and an open socket.
      code = Some(unsafe { (uv.poll_init)(self.state.uv_loop, raw, fd.as_raw_fd()) });
    });
    if code != Some(0) {
      // SAFETY: allocated above. libuv does not know a handle whose initialization failed, and it must not be closed.
      unsafe { libc::free(raw) };
      return Err(kept.err().unwrap_or_else(|| Errno::from_raw(-code.unwrap_or(0))));
    }
    let note = Box::new(Note { state: self.state.clone(), fd: fd.as_raw_fd(), armed: Cell::new(0) });
    let note = Box::into_raw(note);
    // SAFETY: an initialized handle. `on_close` takes the note back.
    unsafe { (uv.set_data)(raw, note.cast()) };
    // SAFETY: an initialized handle.
    unsafe { (uv.unreference)(raw) };
    self.state.handles.set(self.state.handles.get() + 1);
    let handle = Handle { raw, note };
    // If the flags could not be restored, libuv knows the handle nevertheless, and dropping it closes it.
    kept.map(|()| handle)
  }
}

/// The data of a handle that libuv's callbacks read.
struct Note {
  state: Rc<LoopState>,
  fd: RawFd,
  armed: Cell<c_int>,
}

/// A `uv_poll_t`. Dropping it closes it, which removes the socket from epoll or kqueue at once. The owner must drop it
/// before it closes the descriptor.
pub(crate) struct Handle {
  raw: *mut c_void,
  note: *mut Note,
}

impl Handle {
  fn note(&self) -> &Note {
    // SAFETY: `on_close` frees the note, and runs only after `drop`.
    unsafe { &*self.note }
  }

  /// Sets the events that are reported, in place of the previous ones.
  pub(crate) fn arm(&mut self, events: c_int) -> Result<(), Errno> {
    let note = self.note();
    if note.armed.get() == events {
      return Ok(()); // uv_poll_start would remove the socket from epoll, then add it again
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
    // SAFETY: an open handle, closed once. The owner closes the socket afterwards.
    unsafe { close(self.raw, on_close) };
  }
}

/// Returns the data of a handle that libuv passed to a callback.
fn data_of(raw: *mut c_void) -> *mut c_void {
  let uv = Library::get().expect("the library that made the handle");
  // SAFETY: an initialized handle.
  unsafe { (uv.get_data)(raw) }
}

unsafe extern "C" fn on_poll(raw: *mut c_void, status: c_int, events: c_int) {
  // SAFETY: the note of an open handle, which lives until `on_close`.
  let note = unsafe { &*data_of(raw).cast::<Note>() };
  let events = if status < 0 {
    // libuv reports POLLERR as UV_EBADF and has stopped the handle. The next system call reports the actual error.
    note.armed.set(0);
    READABLE | WRITABLE
  } else {
    events & (READABLE | WRITABLE)
  };
  let (state, event) = (note.state.clone(), [note.fd, events, note.armed.get()]);
  state.turn.set_running(true);
  // The note is not used again, because JavaScript may close the socket.
  // SAFETY: on the loop's thread, outside of JavaScript, with no state of the environment borrowed.
  unsafe { state.dispatcher.call_from_loop(event) };
  state.turn.set_running(false);
  state.hold(state.turn.is_held());
}

unsafe extern "C" fn on_close(raw: *mut c_void) {
  // SAFETY: the note that `Loop::handle` leaked. This callback runs once for each handle.
  let note = unsafe { Box::from_raw(data_of(raw).cast::<Note>()) };
  // SAFETY: `Loop::handle` allocated it, and libuv does not use it any more.
  unsafe { libc::free(raw) };
  let state = note.state;
  state.handles.set(state.handles.get() - 1);
  state.finish_if_idle();
}

/// Runs when the JavaScript environment ends. JavaScript does not run any more. The loop runs until the hook is removed.
unsafe extern "C" fn on_environment_end(_: sys::napi_async_cleanup_hook_handle, argument: *mut c_void) {
  // SAFETY: the reference that `Loop::open` passed to this hook, which runs once.
  let state = unsafe { Rc::from_raw(argument.cast::<LoopState>()) };
  if let Some(on_end) = state.on_end.take() {
    on_end();
  }
  // SAFETY: in the hook, once. All handles, whose callbacks use the dispatcher, are closed or closing.
  unsafe { state.dispatcher.release() };
  state.close_keeper();
  state.ended.set(true);
  state.finish_if_idle();
}

unsafe extern "C" fn on_keeper_close(raw: *mut c_void) {
  // SAFETY: the reference that `open_keeper` set. This callback runs once.
  let state = unsafe { Rc::from_raw(data_of(raw).cast::<LoopState>()) };
  // SAFETY: `open_keeper` allocated it, and libuv does not use it any more.
  unsafe { libc::free(raw) };
  state.handles.set(state.handles.get() - 1);
  state.finish_if_idle();
}

impl LoopState {
  fn open_keeper(self: &Rc<Self>) -> Result<(), OpenError> {
    // SAFETY: `calloc` has no precondition. The size is the one that libuv reports.
    let raw = unsafe { libc::calloc(1, self.uv.async_size) };
    if raw.is_null() {
      return Err(OpenError::System(Errno::ENOMEM, "uv_async_init"));
    }
    // SAFETY: memory of a handle's size, and the environment's live loop. A handle that is never sent needs no callback.
    let code = unsafe { (self.uv.async_init)(self.uv_loop, raw, None) };
    if code != 0 {
      // SAFETY: allocated above. libuv does not know a handle whose initialization failed.
      unsafe { libc::free(raw) };
      return Err(OpenError::System(Errno::from_raw(-code), "uv_async_init"));
    }
    // SAFETY: an initialized handle. `on_keeper_close` takes the reference back.
    unsafe { (self.uv.set_data)(raw, Rc::into_raw(self.clone()).cast_mut().cast()) };
    // SAFETY: an initialized handle.
    unsafe { (self.uv.unreference)(raw) };
    self.keeper.set(raw);
    self.handles.set(1);
    Ok(())
  }

  fn close_keeper(&self) {
    // SAFETY: `open_keeper` opened it, and this is called once: by the hook, or where no hook could be added.
    unsafe { (self.uv.close)(self.keeper.get(), on_keeper_close) };
  }

  fn hold(&self, on: bool) {
    let change = if on { self.uv.reference } else { self.uv.unreference };
    // SAFETY: the keeper is open as long as JavaScript runs. Both calls are idempotent.
    unsafe { change(self.keeper.get()) };
  }

  /// Removes the hook, and so lets the environment end, when libuv has closed the last handle.
  fn finish_if_idle(&self) {
    if self.ended.get() && self.handles.get() == 0 {
      // SAFETY: the handle of the hook that has run. This runs once, because `handles` stays at zero.
      unsafe { sys::napi_remove_async_cleanup_hook(self.cleanup.get()) };
    }
  }
}
