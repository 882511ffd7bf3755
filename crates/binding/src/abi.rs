//! Raw Node-API functions over integers and byte arrays, for the calls that are made for each message. Such a call costs a
//! fraction of a method of a napi-rs class, which costs about as much as a short system call.

use std::ffi::c_void;
use std::ptr;
use std::rc::Rc;

use fdpass_core::Errno;
use napi::bindgen_prelude::Unknown;
use napi::{Env, check_status, sys};

use crate::codes::code;
use crate::environment::Slot;

/// The result of a call: a count or a descriptor, or the error whose code the call returns.
pub(crate) type CallResult = Result<i32, Errno>;

/// The type of a raw Node-API function.
pub(crate) type Callback = unsafe extern "C" fn(sys::napi_env, sys::napi_callback_info) -> sys::napi_value;

/// Makes a Node-API function from a function of a state and integers.
macro_rules! integers {
  ($call:path, $count:literal) => {{
    unsafe extern "C" fn callback(
      env: napi::sys::napi_env,
      info: napi::sys::napi_callback_info,
    ) -> napi::sys::napi_value {
      // SAFETY: the runtime calls this function, which `abi::function` created.
      let (slot, values) = unsafe { $crate::abi::arguments::<$count>(env, info) };
      let integers = values.map(|value| $crate::abi::integer(env, value));
      $crate::abi::number(env, slot.with(|state| $call(state, integers)))
    }
    callback
  }};
}

/// As `integers!`, with a byte array before the integers.
macro_rules! array_and_integers {
  ($call:path, $count:literal) => {{
    unsafe extern "C" fn callback(
      env: napi::sys::napi_env,
      info: napi::sys::napi_callback_info,
    ) -> napi::sys::napi_value {
      // SAFETY: the runtime calls this function, which `abi::function` created.
      let (slot, [array, values @ ..]) = unsafe { $crate::abi::arguments::<{ $count + 1 }>(env, info) };
      let integers: [i32; $count] = values.map(|value| $crate::abi::integer(env, value));
      // SAFETY: the call runs no JavaScript, and nothing else here borrows the array.
      let bytes = unsafe { $crate::abi::byte_array(env, array) };
      $crate::abi::number(env, bytes.and_then(|bytes| slot.with(|state| $call(state, bytes, integers))))
    }
    callback
  }};
}

pub(crate) use {array_and_integers, integers};

/// Creates a JavaScript function. `callback` must be made by a macro of this file.
pub(crate) fn function<'env>(
  env: &'env Env,
  name: &str,
  callback: Callback,
  slot: &Rc<Slot>,
) -> napi::Result<Unknown<'env>> {
  let mut value = ptr::null_mut();
  let data = Rc::as_ptr(slot).cast_mut().cast();
  // SAFETY: the callback expects a slot as its data. The slot lives as long as JavaScript runs (`Environment::slot`).
  check_status!(unsafe {
    sys::napi_create_function(env.raw(), name.as_ptr().cast(), name.len() as isize, Some(callback), data, &mut value)
  })?;
  // SAFETY: a live value, created above.
  Ok(unsafe { Unknown::from_raw_unchecked(env.raw(), value) })
}

/// Returns the slot and the arguments of a call.
///
/// # Safety
/// Must be called in a callback that was passed to [`function`], with the callback's own arguments. The slot must not be
/// used after the callback.
#[inline(always)]
pub(crate) unsafe fn arguments<'a, const N: usize>(
  env: sys::napi_env,
  info: sys::napi_callback_info,
) -> (&'a Slot, [sys::napi_value; N]) {
  let (mut count, mut values, mut data) = (N, [ptr::null_mut(); N], ptr::null_mut::<c_void>());
  // SAFETY: `values` has room for N values. Node-API fills those that were not passed with undefined.
  unsafe {
    sys::napi_get_cb_info(env, info, &mut count, values.as_mut_ptr(), ptr::null_mut(), &mut data);
  }
  // SAFETY: the data that `function` set, which lives as long as JavaScript runs.
  (unsafe { &*data.cast::<Slot>() }, values)
}

/// Returns a number as an integer; 0 if the value is no number.
#[inline(always)]
pub(crate) fn integer(env: sys::napi_env, value: sys::napi_value) -> i32 {
  let mut integer = 0;
  // SAFETY: a live value of the environment. Node-API writes nothing if it is no number.
  unsafe { sys::napi_get_value_int32(env, value, &mut integer) };
  integer
}

/// Borrows the memory of a byte array; empty if the value is no typed array or was detached. Fails with `EFAULT` if other
/// threads share the memory.
///
/// # Safety
/// While the memory is borrowed, no JavaScript may run in this environment and nothing else may borrow the same array.
pub(crate) unsafe fn byte_array<'a>(env: sys::napi_env, value: sys::napi_value) -> Result<&'a mut [u8], Errno> {
  let (mut length, mut memory, mut buffer) = (0, ptr::null_mut::<c_void>(), ptr::null_mut());
  // SAFETY: a live value of the environment. Node-API writes nothing if it is no typed array.
  unsafe {
    sys::napi_get_typedarray_info(env, value, ptr::null_mut(), &mut length, &mut memory, &mut buffer, ptr::null_mut());
  }
  if memory.is_null() || length == 0 {
    return Ok(&mut []);
  }
  let mut is_array_buffer = false;
  // SAFETY: the array's buffer, a live value. A SharedArrayBuffer is no ArrayBuffer: its memory is never borrowed.
  unsafe { sys::napi_is_arraybuffer(env, buffer, &mut is_array_buffer) };
  if !is_array_buffer {
    return Err(Errno::EFAULT);
  }
  // SAFETY: the memory and the length that the array has now. Only this environment's thread can write, detach or resize an
  // ArrayBuffer, and the caller guarantees that it does not.
  Ok(unsafe { std::slice::from_raw_parts_mut(memory.cast(), length) })
}

/// Creates the number that a call returns.
#[inline(always)]
pub(crate) fn number(env: sys::napi_env, result: CallResult) -> sys::napi_value {
  let mut value = ptr::null_mut();
  // SAFETY: `value` is a place for a value.
  unsafe { sys::napi_create_int32(env, result.unwrap_or_else(code), &mut value) };
  value
}
