//! Calls from the event loop into JavaScript.

use std::ptr;

use napi::bindgen_prelude::{Function, Object};
use napi::{Env, JsValue, check_status, sys};

use crate::codes::Backend;
use crate::memory::Turn;

/// The JavaScript function that is called when a descriptor is ready, and the references that a call needs. The event is
/// passed in the shared memory of [`Turn`], because arguments would be new values.
///
/// [`Dispatcher::release`] frees the references. The environment's end does not.
#[derive(Clone, Copy)]
pub(crate) struct Dispatcher {
  env: sys::napi_env,
  function: sys::napi_ref,
  receiver: sys::napi_ref,
  /// Null where the runtime opens a callback scope itself. Deno aborts if a context is destroyed in a cleanup hook, where
  /// it has no HandleScope.
  context: sys::napi_async_context,
  turn: Turn,
}

impl Dispatcher {
  /// Creates the references for calls of `function`.
  pub(crate) fn new(env: &Env, backend: &Backend, function: &Function<'_, (), ()>, turn: Turn) -> napi::Result<Self> {
    let raw = env.raw();
    let receiver = Object::new(env)?;
    let mut dispatcher =
      Self { env: raw, function: ptr::null_mut(), receiver: ptr::null_mut(), context: ptr::null_mut(), turn };
    // SAFETY: `function` is a live value of this environment.
    check_status!(unsafe { sys::napi_create_reference(raw, function.raw(), 1, &mut dispatcher.function) })?;
    // SAFETY: `receiver` is a live value of this environment.
    check_status!(unsafe { sys::napi_create_reference(raw, receiver.raw(), 1, &mut dispatcher.receiver) })?;
    if matches!(backend, Backend::Uv) {
      let name = env.create_string("FDPASS")?;
      // One context serves every socket: a promise keeps the AsyncLocalStorage of its own await.
      // SAFETY: `receiver` and `name` are live values of this environment.
      check_status!(unsafe { sys::napi_async_init(raw, receiver.raw(), name.raw(), &mut dispatcher.context) })?;
    }
    Ok(dispatcher)
  }

  /// Frees the references.
  ///
  /// # Safety
  /// Must be called once, on the environment's thread, in a cleanup hook or earlier. Neither `self` nor a copy of it may
  /// be used afterwards.
  pub(crate) unsafe fn release(&self) {
    if !self.context.is_null() {
      // SAFETY: `new` created the context. The environment lives until its hooks have run.
      unsafe { sys::napi_async_destroy(self.env, self.context) };
    }
    // SAFETY: `new` created the reference. The environment lives until its hooks have run.
    unsafe { sys::napi_delete_reference(self.env, self.receiver) };
    // SAFETY: as for the receiver.
    unsafe { sys::napi_delete_reference(self.env, self.function) };
  }

  /// Calls JavaScript from the event loop, then its microtasks and nextTicks: `napi_make_callback`. After
  /// `napi_call_function` alone, Node 26 leaves them until some other event.
  ///
  /// The callback can close the socket and everything else but the environment.
  ///
  /// # Safety
  /// Must be called on the environment's thread, outside of JavaScript, with no state of the environment borrowed.
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
  /// As for [`Dispatcher::call_from_loop`], but within such a scope.
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
    // SAFETY: `new` created the reference, and only `release` deletes it, after which nothing is called.
    unsafe { sys::napi_get_reference_value(self.env, self.function, &mut function) };
    // SAFETY: as for the function.
    unsafe { sys::napi_get_reference_value(self.env, self.receiver, &mut receiver) };
    (function, receiver)
  }

  /// Turns an exception of the callback, which has no JavaScript caller, into an `'uncaughtException'`.
  fn rethrow(&self, status: sys::napi_status) {
    if status == sys::Status::napi_pending_exception {
      let mut exception = ptr::null_mut();
      // SAFETY: an exception is pending.
      if unsafe { sys::napi_get_and_clear_last_exception(self.env, &mut exception) } == sys::Status::napi_ok {
        // SAFETY: `exception` is the value taken above.
        unsafe { sys::napi_fatal_exception(self.env, exception) };
      }
    }
  }
}
