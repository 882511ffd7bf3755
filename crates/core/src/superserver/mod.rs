//! A superserver: it accepts, and others serve.
//!
//! [`Pool`] hands connections to workers, [`Inetd`] starts a program for each. Neither waits: a level-triggered event loop tells
//! them what is ready ([`Reactor`]), and they tell it what to watch. What whoever runs them should know is their [`News`].

mod acceptor;
mod events;
mod inetd;
mod pool;

use std::os::fd::BorrowedFd;

pub use acceptor::{Client, Listener};
pub use events::{Call, Counters, Event};
pub use inetd::{Inetd, InetdLimits, InetdMode};
pub use pool::{Pool, PoolLimits, WorkerState};

/// An event loop, as a superserver sees it.
pub trait Reactor {
  /// The loop's watch over one descriptor. Dropping it ends it; the descriptor is still open then.
  type Registration: Registration;

  /// Watches a descriptor; its events come with the token.
  fn register(&self, fd: BorrowedFd<'_>, token: u32) -> nix::Result<Self::Registration>;
}

/// An event loop's watch over one descriptor.
pub trait Registration {
  /// Asks for events, in place of those asked for before. They come for as long as they are true.
  fn set_interest(&mut self, readable: bool, writable: bool) -> nix::Result<()>;
}
