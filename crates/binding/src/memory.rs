//! The arrays that JavaScript and the native calls share, and their layout. A call over them creates no values.

use fdpass_core::Errno;
use napi::bindgen_prelude::{Int32Array, Uint8Array};
use napi_derive::napi;

/// The arrays that the native calls share with JavaScript. Their buffers must never be detached or transferred.
#[napi(object, object_to_js = false)]
pub struct SharedArrays {
  /// The bytes of a small message to send, or of the messages received.
  pub bytes: Uint8Array,
  /// Descriptor numbers, in either direction.
  pub fds: Int32Array,
  /// The fields of the last result: `ReceiveField`, `FrameField`, `FlushField` or `ViolationField`.
  pub outcome: Int32Array,
  /// The messages of a `receiveMany`: `BatchField`, then `BatchEntryField` for each message.
  pub batch: Int32Array,
  /// The bytes of an address, in either direction.
  pub name: Uint8Array,
  /// The state of the event loop's current callback: `TurnField`.
  pub turn: Int32Array,
}

/// The fields of `outcome` after a receive of a socket.
#[napi]
pub enum ReceiveField {
  /// The number of descriptors in `fds`.
  FdCount,
  /// The outcome of the descriptors: a `ControlStatus`.
  Status,
  /// The size of the message in bytes, which is more than the result if it was truncated.
  Size,
  /// The other control data that arrived: `HAS_CREDENTIALS`, `HAS_PIDFD`, `UNKNOWN_UID`, `UNKNOWN_GID`.
  Extras,
  /// The sender's process id; 0 if it is unknown.
  Pid,
  /// The sender's user id, as the bits of an unsigned integer.
  Uid,
  /// The sender's group id, as the bits of an unsigned integer.
  Gid,
  /// A pidfd of the sender, which the environment owns.
  Pidfd,
  /// The length of the sender's address in `name`; 0 if it has none.
  NameLength,
}

/// The number of fields that a receive writes into `outcome`, which is the most that any call writes.
#[napi]
pub const OUTCOME_LENGTH: i32 = ReceiveField::NameLength as i32 + 1;

/// The bit of `ReceiveField.Extras` for the sender's credentials.
#[napi]
pub const HAS_CREDENTIALS: i32 = 1;

/// The bit of `ReceiveField.Extras` for the sender's pidfd.
#[napi]
pub const HAS_PIDFD: i32 = 2;

/// The bit of `ReceiveField.Extras` for a user id that identifies no user.
#[napi]
pub const UNKNOWN_UID: i32 = 4;

/// The bit of `ReceiveField.Extras` for a group id that identifies no group.
#[napi]
pub const UNKNOWN_GID: i32 = 8;

/// The fields of `outcome` after a channel's frame was received.
#[napi]
pub enum FrameField {
  /// The number of descriptors in `fds`.
  FdCount,
  /// Whether the frame's descriptors were lost to a full descriptor table: 0 or 1.
  FdsLost,
  /// The frame's `FrameKind`.
  Kind,
  /// The frame's `FrameFormat`.
  Format,
  /// The frame's id, as the bits of an unsigned integer.
  Id,
  /// Whether another whole frame has arrived: 0 or 1.
  HasMore,
}

/// The fields of `outcome` after `channelFlush`.
#[napi]
pub enum FlushField {
  /// The code that stopped the flush: `AGAIN`, `BUSY` or a negative error number; 0 if nothing is left to send.
  Stopped,
}

/// The fields of `outcome` after `BROKEN`.
#[napi]
pub enum ViolationField {
  /// The `ProtocolViolation`.
  Kind,
  /// The number of bytes or descriptors that the frame announced, as the bits of an unsigned integer.
  Announced,
  /// The number of descriptors that arrived.
  Arrived,
}

/// The fields of `batch` before its entries.
#[napi]
pub enum BatchField {
  /// The number of entries.
  Count,
}

/// The number of fields of `batch` before its entries.
#[napi]
pub const BATCH_HEADER_LENGTH: i32 = BatchField::Count as i32 + 1;

/// The fields of each entry of `batch`.
#[napi]
pub enum BatchEntryField {
  /// The number of the message's bytes, which follow those of the message before it in `bytes`.
  ByteCount,
  /// The number of the message's descriptors, which follow those of the message before it in `fds`.
  FdCount,
}

/// The number of fields of an entry of `batch`.
#[napi]
pub const BATCH_ENTRY_LENGTH: i32 = BatchEntryField::FdCount as i32 + 1;

/// The fields of `turn`.
#[napi]
pub enum TurnField {
  /// Whether a callback of the event loop is running: 0 or 1.
  Running,
  /// The number of sockets that keep the process alive.
  Held,
  /// The descriptor that the event is about.
  Fd,
  /// The events that the descriptor is ready for: `READABLE`, `WRITABLE`.
  Events,
  /// The events that the descriptor is still armed for.
  Armed,
}

/// The number of fields of `turn`.
#[napi]
pub const TURN_LENGTH: i32 = TurnField::Armed as i32 + 1;

/// The memory of a typed array that JavaScript reads and writes too.
pub(crate) struct Shared<A, T> {
  memory: *mut T,
  length: usize,
  /// Keeps the memory alive. Dropping it frees the reference, which Node-API does not do by itself.
  _array: A,
}

impl<A, T> Shared<A, T> {
  /// Borrows the array. JavaScript must not run while it is borrowed.
  #[inline(always)]
  pub(crate) fn get(&mut self) -> &mut [T] {
    // SAFETY: `_array` keeps the memory alive, and JavaScript never detaches it (`SharedArrays`). The exclusive borrow
    // ends before JavaScript runs.
    unsafe { std::slice::from_raw_parts_mut(self.memory, self.length) }
  }
}

impl<A, T> Shared<A, T> {
  /// Borrows the first elements, as many as JavaScript says. Fails with `EFAULT` if the array has fewer.
  #[inline(always)]
  pub(crate) fn first(&mut self, count: i32) -> Result<&mut [T], Errno> {
    usize::try_from(count).ok().and_then(|count| self.get().get_mut(..count)).ok_or(Errno::EFAULT)
  }
}

/// The fields of a result, by the numbers of their enum. They are as many as any enum has.
pub(crate) struct Fields<'a>(&'a mut [i32; OUTCOME_LENGTH as usize]);

impl Fields<'_> {
  #[inline(always)]
  pub(crate) fn get(&self, field: usize) -> i32 {
    self.0.get(field).copied().unwrap_or(0)
  }

  #[inline(always)]
  pub(crate) fn set(&mut self, field: usize, value: i32) {
    if let Some(place) = self.0.get_mut(field) {
      *place = value;
    }
  }

  #[inline(always)]
  pub(crate) fn clear(&mut self) {
    self.0.fill(0);
  }
}

impl Shared<Int32Array, i32> {
  /// Borrows the fields of `outcome`.
  #[inline(always)]
  pub(crate) fn fields(&mut self) -> Result<Fields<'_>, Errno> {
    self.get().first_chunk_mut().map(Fields).ok_or(Errno::EFAULT)
  }
}

macro_rules! shared {
  ($array:ty, $element:ty) => {
    impl From<$array> for Shared<$array, $element> {
      fn from(mut array: $array) -> Self {
        // SAFETY: JavaScript does not run during the borrow, of which only the address and the length are kept.
        let memory = unsafe { array.as_mut() };
        let (memory, length) = (memory.as_mut_ptr(), memory.len());
        Self { memory, length, _array: array }
      }
    }
  };
}

shared!(Uint8Array, u8);
shared!(Int32Array, i32);

/// The shared arrays of an environment.
pub(crate) struct Memory {
  /// See [`SharedArrays::bytes`].
  pub(crate) bytes: Shared<Uint8Array, u8>,
  /// See [`SharedArrays::fds`].
  pub(crate) fds: Shared<Int32Array, i32>,
  /// See [`SharedArrays::outcome`].
  pub(crate) outcome: Shared<Int32Array, i32>,
  /// See [`SharedArrays::batch`].
  pub(crate) batch: Shared<Int32Array, i32>,
  /// See [`SharedArrays::name`].
  pub(crate) name: Shared<Uint8Array, u8>,
  /// Keeps the memory of [`Turn`] alive.
  _turn: Int32Array,
}

impl Memory {
  /// Takes the arrays that JavaScript passed, with the turn among them.
  pub(crate) fn new(arrays: SharedArrays) -> napi::Result<(Self, Turn)> {
    let SharedArrays { bytes, fds, outcome, batch, name, mut turn } = arrays;
    let long_enough = fds.len() >= fdpass_core::Header::MAX_FDS.max(fdpass_core::MAX_RECEIVED_FDS)
      && outcome.len() >= OUTCOME_LENGTH as usize
      && batch.len() >= (BATCH_HEADER_LENGTH + BATCH_ENTRY_LENGTH) as usize
      && name.len() > fdpass_core::Address::MAX_PATH
      && turn.len() >= TURN_LENGTH as usize;
    if !long_enough {
      return Err(napi::Error::new(napi::Status::InvalidArg, "a shared array is too short"));
    }
    // SAFETY: JavaScript does not run during the borrow, of which only the address is kept.
    let fields = Turn(unsafe { turn.as_mut() }.as_mut_ptr());
    let memory = Self {
      bytes: bytes.into(),
      fds: fds.into(),
      outcome: outcome.into(),
      batch: batch.into(),
      name: name.into(),
      _turn: turn,
    };
    Ok((memory, fields))
  }
}

/// The fields that JavaScript and the event loop exchange around a callback: the event, and the number of sockets that
/// keep the process alive. During a callback JavaScript only counts, and the loop reads the count afterwards, so that
/// holding and releasing the loop for each operation costs no call.
///
/// Valid as long as the environment's [`Memory`].
#[derive(Clone, Copy)]
pub(crate) struct Turn(*mut i32);

impl Turn {
  /// Notes whether a callback is running. JavaScript must not be running.
  pub(crate) fn set_running(&self, on: bool) {
    self.set(TurnField::Running, on.into());
  }

  /// Sets the event that JavaScript is called for: a descriptor, its events, and those it is still armed for.
  /// JavaScript must not be running.
  pub(crate) fn set_event(&self, [fd, events, armed]: [i32; 3]) {
    self.set(TurnField::Fd, fd);
    self.set(TurnField::Events, events);
    self.set(TurnField::Armed, armed);
  }

  /// Returns whether operations are pending that keep the process alive. JavaScript must not be running.
  pub(crate) fn is_held(&self) -> bool {
    // SAFETY: `Memory` keeps `TURN_LENGTH` integers alive, and no JavaScript runs to write them.
    unsafe { self.0.wrapping_add(TurnField::Held as usize).read() > 0 }
  }

  fn set(&self, field: TurnField, value: i32) {
    // SAFETY: `Memory` keeps `TURN_LENGTH` integers alive, and no JavaScript runs to read them.
    unsafe { self.0.wrapping_add(field as usize).write(value) };
  }
}
