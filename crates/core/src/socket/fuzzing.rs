//! A way to what reads control messages, for the fuzz target `control`: in the fuzzer's build and in the tests, and in no
//! other.

use std::os::fd::OwnedFd;

use super::AncillaryOptions;
use super::recv::Decoded;
use crate::sys::cmsg;

/// What control messages turned out to be.
#[derive(Debug)]
pub struct Outcome {
  /// The descriptors that were sent.
  pub rights: Vec<OwnedFd>,
  /// The sender's pidfd.
  pub pidfd: Option<OwnedFd>,
  /// Whether there are credentials.
  pub credentials: bool,
  /// Whether something came that nobody asked for.
  pub unexpected: bool,
  /// Whether the table had no room for a pidfd.
  pub lost: bool,
}

/// Takes ownership of what is in the control data of a receive.
pub fn decode(control: &[u8], asked: AncillaryOptions) -> Outcome {
  let Decoded { rights, credentials, pidfd, unexpected, lost } = Decoded::new(control, asked);
  Outcome { rights, pidfd, credentials: credentials.is_some(), unexpected, lost }
}

/// Takes ownership of all descriptors in the control data of a receive, in their order, requested or not.
pub fn own_all(control: &[u8]) -> Vec<OwnedFd> {
  cmsg::own_all(control)
}

#[cfg(all(test, target_os = "linux"))]
#[path = "../../fuzz/src/control.rs"]
#[allow(unsafe_code, reason = "it owns the descriptors that it has made without an owner")]
mod control;
#[cfg(all(test, target_os = "linux"))]
#[path = "../../fuzz/src/corpus.rs"]
mod corpus;
#[cfg(all(test, target_os = "linux"))]
#[path = "../../fuzz/src/probes.rs"]
#[allow(dead_code, reason = "other targets need the rest")]
mod probes;

#[cfg(all(test, target_os = "linux"))]
mod tests {
  #[test]
  #[cfg_attr(miri, ignore = "its files are not what it looks for")]
  fn what_the_fuzzer_has_found_of_control_messages_is_owned_once() {
    let seeds = super::corpus::seeds(include_str!("../../fuzz/corpus/control.hex"));
    assert!(seeds.inspect(|(_, seed)| super::control::run(seed)).count() > 0);
  }
}
