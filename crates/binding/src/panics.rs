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
