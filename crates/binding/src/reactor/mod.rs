//! One interface over the two sources of readiness events.

mod dispatcher;
pub(crate) mod thread;
mod uv;

use std::os::fd::BorrowedFd;

use fdpass_core::{Errno, Kind};
use napi_derive::napi;

use crate::codes::{Backend, OpenError};
use crate::memory::Turn;
pub(crate) use dispatcher::Dispatcher;

/// Returns whether the process has a libuv with the functions of `uv_poll`. They do not work everywhere: Bun's abort the
/// process, and Deno's report one event only. Check the runtime's name first.
#[napi]
pub fn uv_supported() -> bool {
  uv::Library::get().is_some()
}

/// The reactor of one environment.
pub(crate) enum Reactor {
  Uv(uv::Loop),
  Thread(thread::Poller),
}

/// The registration of one descriptor with the reactor. Dropping it ends the registration. The owner must drop it before
/// it closes the descriptor.
pub(crate) enum Registration {
  Uv(uv::Handle),
  Thread(thread::Registration),
}

impl Reactor {
  /// Opens a back end. When the JavaScript environment ends, `on_end` runs on its thread, once: it must drop all
  /// registrations and the reactor. The reactor releases the dispatcher after that, or if opening fails.
  pub(crate) fn open(
    env: &napi::Env,
    backend: Backend,
    dispatcher: Dispatcher,
    turn: Turn,
    on_end: Box<dyn FnOnce()>,
  ) -> Result<Self, OpenError> {
    let opened = match backend {
      Backend::Uv => uv::Loop::open(env, dispatcher, turn, on_end).map(Self::Uv),
      Backend::Thread => thread::Poller::open(env, dispatcher, on_end).map(Self::Thread),
    };
    if opened.is_err() {
      // SAFETY: on the environment's thread. No callback was registered that uses the dispatcher.
      unsafe { dispatcher.release() };
    }
    opened
  }

  /// Registers a descriptor for no events yet.
  pub(crate) fn register(&self, fd: BorrowedFd<'_>) -> Result<Registration, Errno> {
    match self {
      Self::Uv(uv_loop) => uv_loop.handle(fd).map(Registration::Uv),
      Self::Thread(poller) => poller.register(fd).map(Registration::Thread),
    }
  }

  /// Returns whether the runtime itself watches a descriptor on the environment's loop. Only libuv's loop reports it.
  pub(crate) fn is_watched_by_runtime(&self, fd: BorrowedFd<'_>) -> bool {
    match self {
      // uv_poll_init fails with EEXIST if another handle of the loop is active on the number.
      Self::Uv(uv_loop) => can_be_polled(fd) && uv_loop.handle(fd).is_err_and(|errno| errno == Errno::EEXIST),
      Self::Thread(_) => false,
    }
  }

  /// Sets whether the reactor keeps the process alive. Initially it does not.
  pub(crate) fn hold(&self, on: bool) {
    match self {
      Self::Uv(uv_loop) => uv_loop.hold(on),
      Self::Thread(poller) => poller.hold(on),
    }
  }
}

/// Returns whether a runtime polls descriptors of this kind. A file system in user space answers poll(2) itself, and can block.
fn can_be_polled(fd: BorrowedFd<'_>) -> bool {
  let is_file = |kind| matches!(kind, Kind::File | Kind::Directory | Kind::BlockDevice | Kind::Symlink | Kind::Other);
  Kind::of(fd).is_ok_and(|kind| !is_file(kind))
}

impl Registration {
  /// Sets the events that are reported, in place of the previous ones.
  pub(crate) fn arm(&mut self, events: i32) -> Result<(), Errno> {
    match self {
      Self::Uv(handle) => handle.arm(events),
      Self::Thread(registration) => registration.arm(events),
    }
  }
}
