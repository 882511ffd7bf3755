//! Panics: each names its place on standard error, and ends the process (`panic = "abort"`).
//!
//! No peer can cause one: core's modules deny what can panic (`crates/core/src/lib.rs`). Nothing is caught, because a service
//! that has panicked would go on in a state that no code has checked.

use std::io::Write;
use std::panic::{self, PanicHookInfo};

use napi_derive::{module_init, napi};

#[module_init]
fn set_hook() {
  panic::set_hook(Box::new(report));
}

/// Writes one line with the package, the thread, the file and line, and the message.
fn report(info: &PanicHookInfo<'_>) {
  let payload = info.payload();
  let message =
    payload.downcast_ref::<&str>().copied().or_else(|| payload.downcast_ref::<String>().map(String::as_str));
  let thread = std::thread::current();
  let line = format!(
    "fdpass {}: panic in thread '{}' at {}: {}. This is a bug of fdpass: please report this line.\n",
    env!("CARGO_PKG_VERSION"),
    thread.name().unwrap_or("unnamed"),
    info.location().map_or_else(String::new, ToString::to_string),
    message.unwrap_or("no message"),
  );
  // Standard error can be closed.
  let _ = std::io::stderr().write_all(line.as_bytes());
}

/// Panics. Only the test of the report calls it.
#[napi]
#[allow(clippy::panic, reason = "its purpose")]
pub fn panic_for_test() {
  panic!("requested by a test");
}

#[cfg(panic = "abort")]
mod unwinding {
  //! The interface by which std unwinds, for builds that never do: a panic ends the process (`panic = "abort"`).
  //!
  //! Without this, std brings the system's unwinder, and 190 KB that read debug information to name the functions of a
  //! backtrace, of which a stripped binary has none. Where no backtrace has a frame, the linker finds that nothing calls
  //! them. A panic prints its message and its place as usual.

  use std::arch::global_asm;
  use std::ffi::{c_int, c_void};
  use std::process::abort;

  /// `_URC_END_OF_STACK` of the Itanium C++ ABI.
  const END_OF_STACK: c_int = 5;

  /// A function under the name that std calls, which nothing else in the process finds.
  macro_rules! hidden {
    ($name:ident, ($($argument:ident: $type:ty),*) -> $result:ty, $body:block) => {
      #[cfg(target_vendor = "apple")]
      global_asm!(concat!(".private_extern _", stringify!($name)));
      #[cfg(not(target_vendor = "apple"))]
      global_asm!(concat!(".hidden ", stringify!($name)));

      #[unsafe(no_mangle)]
      extern "C" fn $name($($argument: $type),*) -> $result $body
    };
  }

  // The stack ends where a backtrace begins.
  hidden!(_Unwind_Backtrace, (_each: *const c_void, _argument: *mut c_void) -> c_int, { END_OF_STACK });

  /// What only a frame that is being unwound calls.
  macro_rules! never_called {
    ($($name:ident)*) => { $(hidden!($name, () -> usize, { abort() });)* };
  }

  never_called! {
    _Unwind_GetDataRelBase
    _Unwind_GetIP
    _Unwind_GetIPInfo
    _Unwind_GetLanguageSpecificData
    _Unwind_GetRegionStart
    _Unwind_GetTextRelBase
    _Unwind_Resume
    _Unwind_SetGR
    _Unwind_SetIP
  }
}
