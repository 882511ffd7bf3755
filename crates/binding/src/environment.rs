//! The native half of one JavaScript environment: the main thread, or a Worker.

use fdpass_core::{ControlBuffer, Errno};
use napi::bindgen_prelude::{Int32Array, Uint8Array};

use crate::Backend;
use crate::dispatcher::Dispatcher;
use crate::program::Children;
use crate::reactor::Reactor;
use crate::services::Services;
use crate::table::Table;

/// Memory that JavaScript reads and writes too, so that a call costs no values made per message.
pub(crate) struct Shared<A, T> {
  memory: *mut T,
  length: usize,
  /// Keeps the memory. It is dropped with the environment: Node-API frees no reference by itself.
  _array: A,
}

impl<A, T> Shared<A, T> {
  /// The array. JavaScript does not run while it is borrowed.
  pub(crate) fn get(&mut self) -> &mut [T] {
    // SAFETY: the array is referenced for the environment's life and never detached (`open_environment`).
    unsafe { std::slice::from_raw_parts_mut(self.memory, self.length) }
  }
}

macro_rules! shared {
  ($array:expr) => {{
    let mut array = $array;
    // SAFETY: JavaScript does not run during this call; only the address and the length are kept.
    let memory = unsafe { array.as_mut() };
    let (memory, length) = (memory.as_mut_ptr(), memory.len());
    Shared { memory, length, _array: array }
  }};
}

/// What JavaScript and the loop tell each other around a callback: the event, and so that holding and letting go of the loop
/// for each operation costs no call, whether one is running; then JavaScript only counts, and the loop looks at the count
/// after it.
#[derive(Clone, Copy)]
pub(crate) struct Turn(*mut i32);

impl Turn {
  const RUNNING: usize = 0;
  const HELD: usize = 1;
  /// A number, the events, and what it is still armed for.
  const EVENT: usize = 2;

  pub(crate) fn new(turn: &mut Int32Array) -> napi::Result<Self> {
    // SAFETY: JavaScript does not run during this call; only the address is kept.
    match unsafe { turn.as_mut() } {
      turn @ [_, _, _, _, _] => Ok(Self(turn.as_mut_ptr())),
      _ => Err(too_short()),
    }
  }

  pub(crate) fn set_running(&self, on: bool) {
    // SAFETY: five integers, which live as long as the environment; JavaScript does not run now.
    unsafe { self.0.wrapping_add(Self::RUNNING).write(on.into()) };
  }

  pub(crate) fn set_event(&self, event: [i32; 3]) {
    // SAFETY: as above.
    unsafe { self.0.wrapping_add(Self::EVENT).cast::<[i32; 3]>().write(event) };
  }

  /// Whether operations wait that should keep the process alive.
  pub(crate) fn is_held(&self) -> bool {
    // SAFETY: as above.
    unsafe { self.0.wrapping_add(Self::HELD).read() > 0 }
  }
}

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
  /// The bytes to send, or room for those received.
  pub(crate) bytes: Shared<Uint8Array, u8>,
  /// Descriptor numbers, in either direction.
  pub(crate) fds: Shared<Int32Array, i32>,
  /// What a receive tells beside the number of bytes; see [`crate::calls::Told`].
  pub(crate) outcome: Shared<Int32Array, i32>,
  /// How many messages a receive of several gave, and of each how many bytes and descriptors.
  pub(crate) batch: Shared<Int32Array, i32>,
  /// The bytes of an address, in either direction.
  pub(crate) name: Shared<Uint8Array, u8>,
  /// Keeps the memory of the turn.
  pub(crate) _turn: Int32Array,
}

impl Environment {
  /// Opens the reactor over the shared arrays. The environment's end frees what the pointer names; no JavaScript runs
  /// after that.
  pub(crate) fn open(
    env: &napi::Env,
    backend: Backend,
    dispatcher: Dispatcher,
    (turn, turn_memory): (Turn, Int32Array),
    ([bytes, name], [fds, outcome, batch]): ([Uint8Array; 2], [Int32Array; 3]),
  ) -> Result<*mut Self, OpenError> {
    let long_enough = fds.len() >= fdpass_core::Header::MAX_FDS.max(fdpass_core::MAX_RECEIVED_FDS)
      && outcome.len() >= crate::calls::Told::COUNT
      && batch.len() >= 3
      && name.len() > fdpass_core::Address::MAX_PATH;
    if !long_enough {
      return Err(too_short().into());
    }
    Reactor::open(env, backend, dispatcher, turn, |reactor| Self {
      services: Services::default(),
      children: Children::default(),
      table: Table::new(reactor),
      control: ControlBuffer::default(),
      bytes: shared!(bytes),
      fds: shared!(fds),
      outcome: shared!(outcome),
      batch: shared!(batch),
      name: shared!(name),
      _turn: turn_memory,
    })
  }
}

fn too_short() -> napi::Error {
  napi::Error::new(napi::Status::InvalidArg, "the shared arrays are too short")
}
