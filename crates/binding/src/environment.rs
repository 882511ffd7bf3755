//! The native half of one JavaScript environment: the main thread, or a Worker.

use fdpass_core::{ControlBuffer, Errno};

use crate::codes::Backend;
use crate::dispatcher::Dispatcher;
use crate::memory::{Memory, Turn};
use crate::program::Children;
use crate::reactor::Reactor;
use crate::services::Services;
use crate::table::Table;

/// Why an environment could not be opened.
pub(crate) enum OpenError {
  /// A system call has failed.
  System(Errno, &'static str),
  Other(napi::Error),
}

impl From<napi::Error> for OpenError {
  fn from(error: napi::Error) -> Self {
    Self::Other(error)
  }
}

/// What one JavaScript environment has open, and the memory that it shares with the calls.
pub(crate) struct Environment {
  pub(crate) table: Table,
  pub(crate) services: Services,
  pub(crate) children: Children,
  pub(crate) control: ControlBuffer,
  pub(crate) memory: Memory,
}

impl Environment {
  /// Opens the reactor over the shared arrays. The environment's end frees what the pointer names; no JavaScript runs
  /// after that.
  pub(crate) fn open(
    env: &napi::Env,
    backend: Backend,
    dispatcher: Dispatcher,
    turn: Turn,
    memory: Memory,
  ) -> Result<*mut Self, OpenError> {
    Reactor::open(env, backend, dispatcher, turn, |reactor| Self {
      services: Services::default(),
      children: Children::default(),
      table: Table::new(reactor),
      control: ControlBuffer::default(),
      memory,
    })
  }
}
