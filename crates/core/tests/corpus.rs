//! Replays the corpora of the fuzz targets; `npm run fuzz` extends them. These tests have a file of their own and run one at a time,
//! because they count the descriptors of the process.
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

use std::sync::{Mutex, PoisonError};

static ALONE: Mutex<()> = Mutex::new(());

/// Runs a target with each seed of its corpus. After a panic, the last line printed is the seed.
fn replay(corpus: &str, run: fn(&[u8])) {
  let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
  let mut count = 0;
  for (line, seed) in probes::seeds(corpus) {
    println!("{line}");
    run(&seed);
    count += 1;
  }
  assert!(count > 0);
}

#[test]
fn what_the_fuzzer_has_found_of_addresses_is_given_back() {
  replay(include_str!("../fuzz/corpus/address.hex"), address::run);
}

#[test]
fn what_the_fuzzer_has_found_of_frames_is_decoded_as_the_protocol_says() {
  replay(include_str!("../fuzz/corpus/frame.hex"), frame::run);
}

#[test]
fn what_the_fuzzer_has_found_of_sockets_leaves_each_descriptor_with_one_owner() {
  replay(include_str!("../fuzz/corpus/socket.hex"), socket::run);
}

#[test]
fn what_the_fuzzer_has_found_of_channels_arrives_once_with_its_descriptors() {
  replay(include_str!("../fuzz/corpus/channel.hex"), channel::run);
}
