//! What a superserver reports.

use nix::errno::Errno;

use crate::process::{Ending, SpawnError, Step};

/// What something was missing for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
  /// accept(2)
  Accept,
  /// fcntl(2), by which a listener is made non-blocking, or duplicated for a program.
  Fcntl,
  /// sendmsg(2) to a worker.
  Sendmsg,
  /// The event loop's, by which events are asked for.
  Watch,
  /// The start of a program.
  Start(Step),
}

/// What a superserver has to tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum News {
  /// A worker can be given connections.
  Ready {
    /// Which.
    worker: u32,
  },
  /// A worker does not keep to the protocol, or cannot be heard or told anything any more: it is given nothing, and has to be ended. What
  /// it had stays its own until then, since it may be reading of it: see `Pool::forget`.
  Broken {
    /// Which.
    worker: u32,
  },
  /// A worker's channel has ended, and the worker is forgotten. What it had not acknowledged goes to others.
  Gone {
    /// Which.
    worker: u32,
    /// How many connections it had acknowledged, and did not end.
    lost: u32,
  },
  /// Something is missing that no event announces the end of: to be tried again after a pause.
  Short {
    /// For what.
    call: Call,
    /// Why.
    errno: Errno,
  },
  /// Too many programs were started: none is until `resume`.
  TooFast,
  /// A program could not be started.
  Failed(SpawnError),
  /// A program that listens itself was started, which serves until its end.
  Started {
    /// Its process.
    pid: i32,
  },
  /// A program has ended: one that listens, or one that ended badly.
  Ended {
    /// Its process.
    pid: i32,
    /// How.
    ending: Ending,
  },
  /// Nothing is waited for any more, after `stop`.
  Idle,
}

/// What became of connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
  /// Taken off the backlog.
  pub accepted: u64,
  /// That a worker has said are its own; of `Inetd`, programs that were started.
  pub acknowledged: u64,
  /// Whose end was told: by the worker, or by the end of the program.
  pub completed: u64,
  /// That a worker had acknowledged which died before it ended them. They were reset.
  pub lost: u64,
  /// Closed at once, as their client had too many.
  pub refused: u64,
  /// Given to another worker, because the first one died or would not have them.
  pub handed_on: u64,
}
