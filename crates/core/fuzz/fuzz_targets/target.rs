//! Every fuzz target: cargo compiles this file once for each, under the target's name.

#![no_main]

use fdpass_core_fuzz::{address, channel, control, frame, socket, worker};

libfuzzer_sys::fuzz_target!(|input: &[u8]| match env!("CARGO_BIN_NAME") {
  "address" => address::run(input),
  "channel" => channel::run(input),
  "control" => control::run(input),
  "frame" => frame::run(input),
  "socket" => socket::run(input),
  "worker" => worker::run(input),
  other => unreachable!("{other} is no target"),
});
