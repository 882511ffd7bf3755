//! The calls that JavaScript makes. Most are methods of `Environment`. The calls that are made for each message are raw
//! Node-API functions: see [`HotCalls`].

pub mod beneath;
mod channel;
pub mod descriptor;
mod message;
pub mod process;
pub mod services;
pub mod socket;

use napi::Env;
use napi::bindgen_prelude::{Either, Function, Unknown};
use napi_derive::napi;

use crate::abi::{Callback, array_and_integers, function, integers};
use crate::codes::{Backend, OpenError, SystemFailure};
use crate::environment::Environment;
use crate::memory::{Memory, SharedArrays};
use crate::reactor::Dispatcher;

/// The calls that are made for each message: functions over integers and the shared arrays. Each returns a count, or else
/// `AGAIN`, `BUSY`, `END`, `BROKEN` or a negative error number.
#[napi(object, object_from_js = false)]
pub struct HotCalls<'env> {
  /// Accepts a connection: accept(2). Returns its number, which the environment owns; with `leaving` 1 as after `setLeaving`.
  #[napi(ts_type = "(listener: number, leaving: number) => number")]
  pub accept: Unknown<'env>,
  /// Closes a descriptor: close(2).
  #[napi(ts_type = "(fd: number) => number")]
  pub close: Unknown<'env>,
  /// Closes the first `count` descriptors in `fds`, each run of consecutive numbers with one close_range(2).
  #[napi(ts_type = "(count: number) => number")]
  pub close_all: Unknown<'env>,
  /// Gives up ownership of a descriptor, which stays open in its original blocking mode. A bound socket's file stays.
  #[napi(ts_type = "(fd: number) => number")]
  pub release: Unknown<'env>,
  /// Notes that an object of the runtime is taking a descriptor, which `release` completes: 1; or that it has failed to: 0. If the environment
  /// ends meanwhile, the number is not closed a second time behind that object.
  #[napi(ts_type = "(fd: number, leaving: number) => number")]
  pub set_leaving: Unknown<'env>,
  /// Replaces the first `count` numbers in `fds`, which can be any of this process, by duplicates. Duplicates all or none.
  #[napi(ts_type = "(count: number) => number")]
  pub duplicate: Unknown<'env>,
  /// Sets the events of a descriptor that are reported, `READABLE` and `WRITABLE`, in place of the previous ones.
  #[napi(ts_type = "(fd: number, events: number) => number")]
  pub watch: Unknown<'env>,
  /// Reads at most `maxBytes` bytes into `bytes` without waiting, from a descriptor that `openIo` has prepared: read(2). Returns
  /// the number of bytes, or `END`.
  #[napi(ts_type = "(fd: number, maxBytes: number) => number")]
  pub read: Unknown<'env>,
  /// As `read`, into an array.
  #[napi(ts_type = "(buffer: Uint8Array, fd: number) => number")]
  pub read_into: Unknown<'env>,
  /// Writes bytes of an array from an offset without waiting, to a descriptor that `openIo` has prepared: write(2). Returns the
  /// number of bytes written.
  #[napi(ts_type = "(data: Uint8Array, fd: number, offset: number) => number")]
  pub write: Unknown<'env>,
  /// Sets whether the environment keeps the process alive: 1 or 0.
  #[napi(ts_type = "(on: number) => number")]
  pub hold: Unknown<'env>,
  /// Sends the first `length` bytes of `bytes` with the first `count` descriptors of `fds`: sendmsg(2). Returns the number
  /// of bytes sent.
  #[napi(ts_type = "(socket: number, length: number, count: number) => number")]
  pub send: Unknown<'env>,
  /// As `send`, with the bytes of an array from an offset.
  #[napi(ts_type = "(data: Uint8Array, socket: number, offset: number, count: number) => number")]
  pub send_from: Unknown<'env>,
  /// As `sendFrom`, to the address in the first `length` bytes of `name` unless `length` is 0, and with credentials if
  /// `claims` is 1.
  #[napi(
    ts_type = "(data: Uint8Array, socket: number, offset: number, count: number, length: number, claims: number, pid: number, uid: number, gid: number) => number"
  )]
  pub send_message: Unknown<'env>,
  /// Receives at most `maxBytes` bytes into `bytes` and at most `maxFds` descriptors into `fds`: recvmsg(2). Returns the
  /// number of bytes received, and writes the rest into `outcome`: see `ReceiveField`.
  #[napi(ts_type = "(socket: number, maxBytes: number, maxFds: number) => number")]
  pub receive: Unknown<'env>,
  /// As `receive`, into an array.
  #[napi(ts_type = "(buffer: Uint8Array, socket: number, maxFds: number) => number")]
  pub receive_into: Unknown<'env>,
  /// Receives messages as `receive` does, until none is left, or `bytes` or `batch` is full. Stops before a message that
  /// could exceed `cap` descriptors, a quarter of the free descriptor table, or the room that `maxFds` descriptors need. A
  /// message is expected to carry up to `expectedFds` descriptors, or as many as any message of this call.
  ///
  /// `batch` holds the number of messages and the size of each: see `BatchField`. Their bytes and descriptors follow each
  /// other in `bytes` and `fds`. A message that has more than bytes and descriptors is the last: it is not counted in
  /// `batch`, the number of its bytes is the result, and the rest is in `outcome`, as after `receive`. Otherwise the result is
  /// `AGAIN`.
  #[napi(ts_type = "(socket: number, maxBytes: number, maxFds: number, expectedFds: number, cap: number) => number")]
  pub receive_many: Unknown<'env>,
  /// Sends a frame with the first `length` bytes of `bytes` and the first `count` descriptors of `fds`. `kind` is a
  /// `FrameKind`, `format` a `FrameFormat`. Returns 0 if the frame was sent, or `AGAIN` or `BUSY` if it was queued.
  #[napi(
    ts_type = "(socket: number, kind: number, format: number, id: number, length: number, count: number) => number"
  )]
  pub channel_send: Unknown<'env>,
  /// As `channelSend`, with the bytes of an array.
  #[napi(
    ts_type = "(data: Uint8Array, socket: number, kind: number, format: number, id: number, count: number) => number"
  )]
  pub channel_send_from: Unknown<'env>,
  /// Queues a frame with the first `length` bytes of `bytes`, for the next `channelFlush`.
  #[napi(ts_type = "(socket: number, kind: number, format: number, id: number, length: number) => number")]
  pub channel_push: Unknown<'env>,
  /// Sends queued frames. Returns the number of frames sent whole, and writes into `outcome` why it stopped: see
  /// `FlushField`.
  #[napi(ts_type = "(socket: number) => number")]
  pub channel_flush: Unknown<'env>,
  /// Removes the queued frame at an index. Returns 1; 0 if a part of it was sent.
  #[napi(ts_type = "(socket: number, index: number) => number")]
  pub channel_cancel: Unknown<'env>,
  /// Receives the next frame into `bytes` and `fds`. Returns its length, and writes the rest into `outcome`: see
  /// `FrameField`. A frame that is longer than `bytes` stays for `channelTake`. After `BROKEN`, `outcome` holds the reason:
  /// see `ViolationField`.
  ///
  /// Returns `FULL` if the next frame is a message with more than `maxBytes` bytes or `maxFds` descriptors, as soon as that
  /// is known. Returns `AGAIN` after 1 MiB of a larger frame, although more can be received: an event reports it.
  #[napi(ts_type = "(socket: number, maxBytes: number, maxFds: number) => number")]
  pub channel_receive: Unknown<'env>,
  /// Takes the next whole frame into an array, which must have its length.
  #[napi(ts_type = "(buffer: Uint8Array, socket: number) => number")]
  pub channel_take: Unknown<'env>,
}

impl<'env> HotCalls<'env> {
  fn new(env: &'env Env, environment: &Environment) -> napi::Result<Self> {
    let call = |name: &str, callback: Callback| function(env, name, callback, environment.slot());
    Ok(Self {
      accept: call("accept", integers!(socket::accept, 2))?,
      close: call("close", integers!(descriptor::close, 1))?,
      close_all: call("closeAll", integers!(descriptor::close_all, 1))?,
      release: call("release", integers!(descriptor::release, 1))?,
      set_leaving: call("setLeaving", integers!(descriptor::set_leaving, 2))?,
      duplicate: call("duplicate", integers!(descriptor::duplicate, 1))?,
      watch: call("watch", integers!(socket::watch, 2))?,
      read: call("read", integers!(descriptor::read, 2))?,
      read_into: call("readInto", array_and_integers!(descriptor::read_into, 1))?,
      write: call("write", array_and_integers!(descriptor::write, 2))?,
      hold: call("hold", integers!(socket::hold, 1))?,
      send: call("send", integers!(message::send, 3))?,
      send_from: call("sendFrom", array_and_integers!(message::send_from, 3))?,
      send_message: call("sendMessage", array_and_integers!(message::send_message, 8))?,
      receive: call("receive", integers!(message::receive, 3))?,
      receive_into: call("receiveInto", array_and_integers!(message::receive_into, 2))?,
      receive_many: call("receiveMany", integers!(message::receive_many, 5))?,
      channel_send: call("channelSend", integers!(channel::send, 6))?,
      channel_send_from: call("channelSendFrom", array_and_integers!(channel::send_from, 5))?,
      channel_push: call("channelPush", integers!(channel::push, 5))?,
      channel_flush: call("channelFlush", integers!(channel::flush, 1))?,
      channel_cancel: call("channelCancel", integers!(channel::cancel, 2))?,
      channel_receive: call("channelReceive", integers!(channel::receive, 3))?,
      channel_take: call("channelTake", array_and_integers!(channel::take, 1))?,
    })
  }
}

/// An open environment.
#[napi(object, object_from_js = false)]
pub struct OpenedEnvironment<'env> {
  /// The environment.
  pub environment: Environment,
  /// The hot calls on the environment.
  pub hot_calls: HotCalls<'env>,
}

/// Opens the native half of the JavaScript environment that calls it. `dispatch` is called when `turn` holds an event.
#[napi]
pub fn open_environment<'env>(
  env: &'env Env,
  backend: Backend,
  dispatch: Function<'env, (), ()>,
  arrays: SharedArrays,
) -> napi::Result<Either<OpenedEnvironment<'env>, SystemFailure>> {
  let (memory, turn) = Memory::new(arrays)?;
  let dispatcher = Dispatcher::new(env, &backend, &dispatch, turn)?;
  match Environment::open(env, backend, dispatcher, turn, memory) {
    Ok(environment) => {
      let hot_calls = HotCalls::new(env, &environment)?;
      Ok(Either::A(OpenedEnvironment { environment, hot_calls }))
    }
    Err(OpenError::System(errno, syscall)) => {
      Ok(Either::B(SystemFailure { errno: -(errno as i32), syscall: syscall.into() }))
    }
    Err(OpenError::Runtime(error)) => Err(error),
  }
}
