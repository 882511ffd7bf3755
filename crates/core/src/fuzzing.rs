//! Internals for the fuzz targets `control` and `worker`: in the fuzzer's build and in tests only.

use std::os::fd::OwnedFd;

use crate::socket::AncillaryOptions;
use crate::socket::recv::Decoded;
pub use crate::superserver::pool::protocol::{Assigned, Change, End, WorkerProtocol};
use crate::sys::cmsg;

/// Result of decoding control messages.
#[derive(Debug)]
pub struct Outcome {
  /// The descriptors that were sent.
  pub rights: Vec<OwnedFd>,
  /// The sender's pidfd.
  pub pidfd: Option<OwnedFd>,
  /// There are credentials.
  pub credentials: bool,
  /// There was a control message that was not requested.
  pub unexpected: bool,
  /// A descriptor could not be installed.
  pub lost: bool,
}

/// Takes ownership of the descriptors in the control data of a receive.
pub fn decode(control: &[u8], requested: AncillaryOptions) -> Outcome {
  let Decoded { rights, credentials, pidfd, unexpected, lost } = Decoded::new(control, requested);
  Outcome { rights, pidfd, credentials: credentials.is_some(), unexpected, lost }
}

/// Takes ownership of all descriptors in the control data of a receive, in their order, requested or not.
pub fn own_all(control: &[u8]) -> Vec<OwnedFd> {
  cmsg::own_all(control)
}

#[cfg(all(test, target_os = "linux"))]
#[path = "../fuzz/src/control.rs"]
#[allow(unsafe_code, reason = "it owns descriptors that it has opened without an owner")]
mod control;
#[cfg(all(test, target_os = "linux"))]
#[path = "../fuzz/src/probes.rs"]
#[allow(dead_code, reason = "other targets use the rest")]
mod probes;
#[cfg(all(test, target_os = "linux"))]
#[path = "../fuzz/src/worker.rs"]
mod worker;

#[cfg(all(test, target_os = "linux"))]
mod tests {
  use super::{control, probes, worker};

  #[test]
  #[cfg_attr(miri, ignore = "it makes system calls that Miri does not know")]
  fn what_the_fuzzer_has_found_of_control_messages_is_owned_once() {
    assert!(
      probes::seeds(include_str!("../fuzz/corpus/control.hex")).inspect(|(_, seed)| control::run(seed)).count() > 0
    );
  }

  #[test]
  fn a_worker_has_each_connection_until_it_returns_or_ends_it_whatever_its_frames() {
    let seeds = probes::seeds(include_str!("../fuzz/corpus/worker.hex"));
    // Miri needs seconds for each.
    let few = seeds.step_by(if cfg!(miri) { 45 } else { 1 });
    assert!(few.inspect(|(_, seed)| worker::run(seed)).count() > 0);
  }
}
