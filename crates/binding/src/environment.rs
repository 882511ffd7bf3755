//! The native half of one JavaScript environment: the main thread's or a Worker's.

use std::cell::RefCell;
use std::rc::Rc;

use fdpass_core::{ControlBuffer, Errno};
use napi_derive::napi;

use crate::children::Children;
use crate::codes::{Backend, OpenError, code};
use crate::memory::{Memory, Turn};
use crate::reactor::{Dispatcher, Reactor};
use crate::services::Services;
use crate::table::Table;

/// Everything that one environment owns.
pub(crate) struct State {
  pub(crate) table: Table,
  pub(crate) services: Services,
  pub(crate) children: Children,
  pub(crate) control: ControlBuffer,
  pub(crate) memory: Memory,
}

/// The place of an environment's state, which is empty after the environment's end.
pub(crate) struct Slot(RefCell<Option<State>>);

impl Slot {
  /// Runs a task on the state. Fails with `EBADF` after the environment's end. The task must not run JavaScript, which
  /// could call into the same state: the second call would panic.
  #[inline(always)]
  pub(crate) fn with<T>(&self, task: impl FnOnce(&mut State) -> Result<T, Errno>) -> Result<T, Errno> {
    task(self.0.borrow_mut().as_mut().ok_or(Errno::EBADF)?)
  }
}

/// The native half of one JavaScript environment. It owns every descriptor that its methods create or receive, until the
/// descriptor is closed or released. When the JavaScript environment ends, for instance because a Worker is terminated, it
/// closes all of them.
///
/// A method takes `&self`, and JavaScript never runs while the state is borrowed: napi-rs has converted the arguments, whose
/// getters may call other methods, before a method begins, and converts the result after the method has returned.
///
/// Methods that return a number return a count or a descriptor, or else `AGAIN`, `BUSY`, `END`, or an error number,
/// negative.
#[napi]
pub struct Environment {
  slot: Rc<Slot>,
}

impl Environment {
  /// Opens the reactor, and the environment over it.
  pub(crate) fn open(
    env: &napi::Env,
    backend: Backend,
    dispatcher: Dispatcher,
    turn: Turn,
    memory: Memory,
  ) -> Result<Self, OpenError> {
    let slot = Rc::new(Slot(RefCell::new(None)));
    let on_end = {
      let slot = slot.clone();
      Box::new(move || drop(slot.0.take()))
    };
    let reactor = Reactor::open(env, backend, dispatcher, turn, on_end)?;
    slot.0.replace(Some(State {
      table: Table::new(reactor),
      services: Services::default(),
      children: Children::default(),
      control: ControlBuffer::default(),
      memory,
    }));
    Ok(Self { slot })
  }

  /// The place of the state. It lives as long as JavaScript runs: until its end, the reactor refers to it.
  pub(crate) fn slot(&self) -> &Rc<Slot> {
    &self.slot
  }

  /// See [`Slot::with`].
  pub(crate) fn with<T>(&self, task: impl FnOnce(&mut State) -> Result<T, Errno>) -> Result<T, Errno> {
    self.slot.with(task)
  }

  /// Runs a task and returns its number, or the code of its error.
  pub(crate) fn number(&self, task: impl FnOnce(&mut State) -> Result<i32, Errno>) -> i32 {
    self.slot.with(task).unwrap_or_else(code)
  }
}
