//! One interface over the two ways of learning that a socket is ready.

use std::os::fd::BorrowedFd;

use fdpass_core::Errno;

use crate::codes::Backend;
use crate::dispatcher::Dispatcher;
use crate::environment::{Environment, OpenError};
use crate::memory::Turn;
use crate::{thread, uv};

/// The reactor of one environment.
pub(crate) enum Reactor {
  Uv(uv::Loop),
  Thread(thread::Poller),
}

/// The reactor's watch over one socket. Dropping it ends it; the socket must still be open then.
pub(crate) enum Watch {
  Uv(uv::Handle),
  Thread(thread::Registration),
}

impl Reactor {
  /// Opens a back end, makes the environment over it, and has it freed when the JavaScript environment ends.
  pub(crate) fn open(
    env: &napi::Env,
    backend: Backend,
    dispatcher: Dispatcher,
    turn: Turn,
    environment: impl FnOnce(Self) -> Environment,
  ) -> Result<*mut Environment, OpenError> {
    match backend {
      Backend::Uv => uv::Loop::open(env, dispatcher, turn, |uv_loop| environment(Self::Uv(uv_loop))),
      Backend::Thread => thread::Poller::open(env, dispatcher, |poller| environment(Self::Thread(poller))),
    }
  }

  pub(crate) fn watch(&self, fd: BorrowedFd<'_>) -> Result<Watch, Errno> {
    match self {
      Self::Uv(uv_loop) => uv_loop.handle(fd).map(Watch::Uv),
      Self::Thread(poller) => poller.register(fd).map(Watch::Thread),
    }
  }

  /// Keeps the process alive, or no longer. It does not at first.
  pub(crate) fn hold(&self, on: bool) {
    match self {
      Self::Uv(uv_loop) => uv_loop.hold(on),
      Self::Thread(poller) => poller.hold(on),
    }
  }
}

impl Watch {
  /// Asks for events, in place of those asked for before.
  pub(crate) fn arm(&mut self, events: i32) -> Result<(), Errno> {
    match self {
      Self::Uv(handle) => handle.arm(events),
      Self::Thread(registration) => registration.arm(events),
    }
  }

  /// Notes an event. libuv's handles stay armed and note their own.
  pub(crate) fn reported(&mut self) {
    match self {
      Self::Uv(_) => {}
      Self::Thread(registration) => registration.reported(),
    }
  }
}
