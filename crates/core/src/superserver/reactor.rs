//! The event loop that drives a superserver, and descriptors that are registered with it.

use std::ops::{Deref, DerefMut};
use std::os::fd::{AsFd, BorrowedFd};

/// A level-triggered event loop, as a superserver uses it.
pub trait Reactor {
  /// Registration of one descriptor. Dropping it ends the registration; the descriptor is still open then.
  type Registration: Registration;

  /// Registers a descriptor. Its events are reported with the token. Until [`Registration::set_interest`], none is
  /// requested.
  fn register(&self, fd: BorrowedFd<'_>, token: u32) -> nix::Result<Self::Registration>;
}

/// Registration of one descriptor with an event loop.
pub trait Registration {
  /// Requests events in place of those that were requested before. They are reported for as long as they hold.
  fn set_interest(&mut self, readable: bool, writable: bool) -> nix::Result<()>;
}

/// Owner of a descriptor that is registered with an event loop. The registration ends before the descriptor is closed.
pub(super) struct Watched<T, R> {
  // Fields are dropped in this order: a registration whose descriptor is closed could refer to a reused number.
  registration: Option<R>,
  owner: T,
  token: u32,
}

impl<T: AsFd, R: Registration> Watched<T, R> {
  /// Registers the owner's descriptor. If that fails, the owner is dropped.
  pub(super) fn new(owner: T, token: u32, reactor: &impl Reactor<Registration = R>) -> nix::Result<Self> {
    let registration = Some(reactor.register(owner.as_fd(), token)?);
    Ok(Self { registration, owner, token })
  }

  /// Registers the descriptor again after [`Watched::unregister`].
  pub(super) fn reregister(&mut self, reactor: &impl Reactor<Registration = R>) -> nix::Result<()> {
    if self.registration.is_none() {
      self.registration = Some(reactor.register(self.owner.as_fd(), self.token)?);
    }
    Ok(())
  }

  /// Ends the registration, so that no event is reported. Returns false if there was none.
  pub(super) fn unregister(&mut self) -> bool {
    self.registration.take().is_some()
  }

  pub(super) fn is_registered(&self) -> bool {
    self.registration.is_some()
  }

  /// Requests events; does nothing without a registration.
  pub(super) fn set_interest(&mut self, readable: bool, writable: bool) -> nix::Result<()> {
    self.registration.as_mut().map_or(Ok(()), |registration| registration.set_interest(readable, writable))
  }

  pub(super) fn token(&self) -> u32 {
    self.token
  }
}

impl<T, R> Deref for Watched<T, R> {
  type Target = T;

  fn deref(&self) -> &T {
    &self.owner
  }
}

impl<T, R> DerefMut for Watched<T, R> {
  fn deref_mut(&mut self) -> &mut T {
    &mut self.owner
  }
}
