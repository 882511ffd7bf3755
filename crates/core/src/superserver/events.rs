//! Events and counters that a superserver reports.

use nix::errno::Errno;

use crate::process::{ExitStatus, SpawnError, Step};

/// Call that failed because a resource is exhausted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
  /// accept(2)
  Accept,
  /// fcntl(2), which makes a listener non-blocking, or duplicates it for a program.
  Fcntl,
  /// sendmsg(2) to a worker.
  Sendmsg,
  /// Registration with the event loop.
  Register,
  /// A step of starting a program.
  Start(Step),
}

/// Event that a superserver reports to its owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
  /// A worker is ready to be assigned connections.
  WorkerReady {
    /// Token of the worker.
    worker: u32,
  },
  /// A worker has been assigned as many connections as it should have in its life.
  WorkerServed {
    /// Token of the worker.
    worker: u32,
  },
  /// A worker has sent a note to the owner.
  WorkerNote {
    /// Token of the worker.
    worker: u32,
    /// JSON, which is not checked.
    note: Vec<u8>,
  },
  /// A worker violated the protocol, or its channel failed. It is assigned nothing more and has to be killed.
  ///
  /// Its connections stay assigned to it until `Pool::worker_exited`, because it may be reading from them.
  ChannelFailed {
    /// Token of the worker.
    worker: u32,
  },
  /// A worker's channel has ended and the worker was removed. Connections that it had not acknowledged are assigned to
  /// other workers.
  WorkerRemoved {
    /// Token of the worker.
    worker: u32,
    /// How many connections it had acknowledged and not ended. They were reset.
    lost: u32,
  },
  /// A resource is exhausted and no event reports recovery: call `retry` after a delay.
  Exhausted {
    /// Call that failed.
    call: Call,
    /// Its error.
    errno: Errno,
  },
  /// Too many programs were started within a minute. None is started until `retry`.
  RateLimited,
  /// A program could not be started.
  SpawnFailed(SpawnError),
  /// A program was started for a listener, and serves it until the program ends.
  ProgramStarted {
    /// Process id of the program.
    pid: i32,
  },
  /// A program has ended: one that served a listener, or one that failed.
  ProgramEnded {
    /// Process id of the program.
    pid: i32,
    /// How it ended.
    status: ExitStatus,
  },
  /// After `stop`: nothing is left to do.
  Idle,
}

/// Numbers of connections since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
  /// Accepted.
  pub accepted: u64,
  /// Acknowledged by a worker; for `Inetd`, programs started.
  pub acknowledged: u64,
  /// Ended: reported by the worker, or by the end of the program.
  pub completed: u64,
  /// Reset, because the worker had acknowledged them and died before it ended them.
  pub lost: u64,
  /// Closed at once, because their client had too many.
  pub refused: u64,
  /// Assigned to another worker, because the first one died or returned them.
  pub reassigned: u64,
}
