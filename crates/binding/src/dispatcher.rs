//! The way from the event loop into JavaScript.

use std::ptr;

use napi::bindgen_prelude::{Function, Object};
use napi::{Env, JsValue, check_status, sys};

use crate::codes::Backend;
use crate::memory::Turn;

/// The function that JavaScript wants called when a socket is ready, and what a call of it needs. It finds the socket's
/// number, the events it is ready for, and those it is still armed for in the shared memory of the turn: arguments would be
/// values to be made.
///
/// Its references live as long as the environment, whose end does not free them: [`Dispatcher::release`].
#[derive(Clone, Copy)]
pub(crate) struct Dispatcher {
  env: sys::napi_env,
  function: sys::napi_ref,
  receiver: sys::napi_ref,
  /// Null where the runtime opens a callback scope itself. Deno would end with a fatal error if one had to be destroyed in a
  /// cleanup hook, where it has no HandleScope.
  context: sys::napi_async_context,
  turn: Turn,
}

impl Dispatcher {
  pub(crate) fn new(env: &Env, backend: &Backend, function: &Function<'_, (), ()>, turn: Turn) -> napi::Result<Self> {
    let raw = env.raw();
    let receiver = Object::new(env)?;
    let mut dispatcher =
      Self { env: raw, function: ptr::null_mut(), receiver: ptr::null_mut(), context: ptr::null_mut(), turn };
    // SAFETY: `function` and the receiver are live values of this environment.
    check_status!(unsafe { sys::napi_create_reference(raw, function.raw(), 1, &mut dispatcher.function) })?;
    // SAFETY: as above.
    check_status!(unsafe { sys::napi_create_reference(raw, receiver.raw(), 1, &mut dispatcher.receiver) })?;
    if matches!(backend, Backend::Uv) {
      let name = env.create_string("FDPASS")?;
      // SAFETY: as above. One context serves every socket: a promise keeps the AsyncLocalStorage of its own await.
      check_status!(unsafe { sys::napi_async_init(raw, receiver.raw(), name.raw(), &mut dispatcher.context) })?;
    }
    Ok(dispatcher)
  }

  /// Frees the references.
  ///
  /// # Safety
  /// Once, on the environment's thread, in a cleanup hook or earlier; neither this one nor a copy is used again.
  pub(crate) unsafe fn release(&self) {
    if !self.context.is_null() {
      // SAFETY: made in `new`; the environment lives until its hooks have run.
      unsafe { sys::napi_async_destroy(self.env, self.context) };
    }
    // SAFETY: as above.
    unsafe { sys::napi_delete_reference(self.env, self.receiver) };
    // SAFETY: as above.
    unsafe { sys::napi_delete_reference(self.env, self.function) };
  }

  /// Calls JavaScript from the event loop, then its microtasks and nextTicks: `napi_make_callback`. With
  /// `napi_call_function` alone Node 26 leaves them until some other event.
  ///
  /// The socket, and everything else but the environment, may be gone when this returns.
  ///
  /// # Safety
  /// On the environment's thread, outside of JavaScript, with nothing of the environment borrowed.
  pub(crate) unsafe fn call_from_loop(&self, event: [i32; 3]) {
    let mut scope = ptr::null_mut();
    // SAFETY: the environment lives and this is its thread.
    unsafe { sys::napi_open_handle_scope(self.env, &mut scope) };
    self.turn.set_event(event);
    let (function, receiver) = self.values();
    let mut result = ptr::null_mut();
    // SAFETY: the values are live in the scope opened above.
    let status =
      unsafe { sys::napi_make_callback(self.env, self.context, receiver, function, 0, ptr::null(), &mut result) };
    self.rethrow(status);
    // SAFETY: opened above.
    unsafe { sys::napi_close_handle_scope(self.env, scope) };
  }

  /// Calls JavaScript where the runtime has already opened a callback scope, as in a thread-safe function.
  ///
  /// # Safety
  /// As for [`Dispatcher::call_from_loop`], within such a scope.
  pub(crate) unsafe fn call_in_scope(&self, event: [i32; 3]) {
    self.turn.set_event(event);
    let (function, receiver) = self.values();
    let mut result = ptr::null_mut();
    // SAFETY: the values are live in the caller's scope.
    let status = unsafe { sys::napi_call_function(self.env, receiver, function, 0, ptr::null(), &mut result) };
    self.rethrow(status);
  }

  fn values(&self) -> (sys::napi_value, sys::napi_value) {
    let (mut function, mut receiver) = (ptr::null_mut(), ptr::null_mut());
    // SAFETY: the references were made in `new`, and are deleted by `release` only, after which nothing is called.
    unsafe { sys::napi_get_reference_value(self.env, self.function, &mut function) };
    // SAFETY: as above.
    unsafe { sys::napi_get_reference_value(self.env, self.receiver, &mut receiver) };
    (function, receiver)
  }

  /// An exception out of the dispatcher has nobody to catch it: it becomes an 'uncaughtException'.
  fn rethrow(&self, status: sys::napi_status) {
    if status == sys::Status::napi_pending_exception {
      let mut exception = ptr::null_mut();
      // SAFETY: an exception is pending.
      if unsafe { sys::napi_get_and_clear_last_exception(self.env, &mut exception) } == sys::Status::napi_ok {
        // SAFETY: `exception` is the value just taken.
        unsafe { sys::napi_fatal_exception(self.env, exception) };
      }
    }
  }
}
