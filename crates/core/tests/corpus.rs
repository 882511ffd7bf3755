//! What the fuzzer has found, once more: `npm run fuzz` looks for more. Alone in their file, one after the other, because
//! they count what is the process's.
#![cfg(target_os = "linux")]

#[path = "../fuzz/src/address.rs"]
mod address;
#[path = "../fuzz/src/channel.rs"]
mod channel;
#[path = "../fuzz/src/frame.rs"]
mod frame;
#[path = "../fuzz/src/probes.rs"]
mod probes;
#[path = "../fuzz/src/socket.rs"]
mod socket;

use std::path::Path;
use std::sync::{Mutex, PoisonError};

static ALONE: Mutex<()> = Mutex::new(());

/// Calls a target with each of its files; what it panics about is in the file that is named last.
fn replay(target: &str, run: fn(&[u8])) {
  let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
  let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
  let mut count = 0;
  for entry in std::fs::read_dir(folder).unwrap() {
    let path = entry.unwrap().path();
    println!("{}", path.display());
    run(&std::fs::read(path).unwrap());
    count += 1;
  }
  assert!(count > 0);
}

#[test]
fn what_the_fuzzer_has_found_of_addresses_is_given_back() {
  replay("address", address::run);
}

#[test]
fn what_the_fuzzer_has_found_of_frames_is_decoded_as_the_protocol_says() {
  replay("frame", frame::run);
}

#[test]
fn what_the_fuzzer_has_found_of_sockets_leaves_each_descriptor_with_one_owner() {
  replay("socket", socket::run);
}

#[test]
fn what_the_fuzzer_has_found_of_channels_arrives_once_with_its_descriptors() {
  replay("channel", channel::run);
}
