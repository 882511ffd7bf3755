//! The native half of fdpass: the sockets and descriptors of one JavaScript environment, and the reactor that tells
//! when a socket is ready. What a message is, and all that belongs to descriptors, is `fdpass-core`'s.

mod beneath;
mod calls;
mod channel;
mod close_task;
mod dispatcher;
mod environment;
pub mod helper;
mod peer;
pub mod program;
mod reactor;
mod services;
mod table;
mod thread;
#[cfg(panic = "abort")]
mod unwinding;
mod uv;

use napi::bindgen_prelude::{Either, Function, Int32Array, Uint8Array};
use napi_derive::napi;

use environment::OpenError;

/// Nothing can be done now; the reactor will say when.
#[napi]
pub const AGAIN: i32 = -0x1_0000;

/// Nothing can be done now, and no event will announce when: try again after a pause.
#[napi]
pub const BUSY: i32 = -0x1_0001;

/// The end of a connection.
#[napi]
pub const END: i32 = -0x1_0002;

/// A channel's peer does not keep to the protocol or the limits.
#[napi]
pub const BROKEN: i32 = -0x1_0003;

/// The event that a socket has something to receive.
#[napi]
pub const READABLE: i32 = 1;

/// The event that a socket has room to send.
#[napi]
pub const WRITABLE: i32 = 2;

/// The most descriptors that one message may carry.
#[napi]
pub const MAX_SENT_FDS: i32 = fdpass_core::MAX_SENT_FDS as i32;

/// The most descriptors that the kernel can deliver in one message.
#[napi]
pub const MAX_RECEIVED_FDS: i32 = fdpass_core::MAX_RECEIVED_FDS as i32;

/// The most descriptors that one message of a channel may have.
#[napi]
pub const MAX_CHANNEL_FDS: i32 = fdpass_core::Header::MAX_FDS as i32;

/// How readiness is learnt.
#[napi(string_enum = "lowercase")]
pub enum Backend {
  /// `uv_poll` on the environment's own loop: Node and Electron.
  Uv,
  /// A thread with epoll or kqueue: runtimes without a working `uv_poll`.
  Thread,
}

/// The name and the text of an error number.
#[napi(object, object_from_js = false)]
pub struct ErrnoText {
  /// `'EPIPE'`
  pub name: String,
  /// `'Broken pipe'`
  pub text: String,
}

/// Describe a positive error number of this platform.
#[napi]
pub fn describe_errno(errno: i32) -> ErrnoText {
  let (name, text) = fdpass_core::describe(errno);
  ErrnoText { name, text: text.into() }
}

/// Whether this process has a libuv whose `uv_poll` can be used. It does not tell that it works: Bun exports one that
/// aborts, and Deno one that fires once. Ask the runtime's name first.
#[napi]
pub fn uv_supported() -> bool {
  uv::Library::get().is_some()
}

/// What this kernel can do.
#[napi(object, object_from_js = false)]
pub struct KernelCapabilities {
  /// Addresses without a file.
  pub abstract_addresses: bool,
  /// Sockets of type seqpacket.
  pub seqpacket: bool,
  /// The sender's credentials with each message.
  pub credentials: bool,
  /// A pidfd of the sender with each message.
  pub pidfd: bool,
  /// A pidfd of a connection's peer.
  pub peer_pidfd: bool,
  /// Refusing descriptors where they are sent.
  pub pass_rights: bool,
  /// Received descriptors are close-on-exec from the start.
  pub close_on_exec: bool,
}

/// Try out what this kernel can do.
#[napi]
pub fn probe_kernel() -> KernelCapabilities {
  let probed = fdpass_core::Capabilities::probe();
  KernelCapabilities {
    abstract_addresses: probed.abstract_addresses,
    seqpacket: probed.seqpacket,
    credentials: probed.credentials,
    pidfd: probed.pidfd,
    peer_pidfd: probed.peer_pidfd,
    pass_rights: probed.pass_rights,
    close_on_exec: probed.close_on_exec,
  }
}

/// The longest path of a socket, in bytes.
#[napi]
pub const MAX_PATH: i32 = fdpass_core::Address::MAX_PATH as i32;

/// The memory that the calls share with JavaScript; it must not be detached.
#[napi(object, object_to_js = false)]
pub struct SharedArrays {
  /// The bytes of a small message.
  pub bytes: Uint8Array,
  /// Descriptor numbers.
  pub fds: Int32Array,
  /// What a receive tells beside the number of bytes.
  pub outcome: Int32Array,
  /// What a receive of several messages tells of each.
  pub batch: Int32Array,
  /// The bytes of an address.
  pub name: Uint8Array,
  /// Whether a callback of the loop is running, how many sockets hold the process, and an event.
  pub turn: Int32Array,
}

/// Why an environment could not be opened.
#[napi(object, object_from_js = false)]
pub struct OpenFailure {
  /// The error number, negative.
  pub errno: i32,
  /// The call that failed.
  pub syscall: String,
}

/// Open this environment's reactor and give the calls on its sockets and descriptors. Everything that it still owns
/// is closed when the environment ends: at a Worker's end, however it ends.
///
/// `dispatch` is called when `turn` holds an event: a socket's number, the events it is ready for, and those it is still
/// armed for.
#[napi]
pub fn open_environment<'env>(
  env: &'env napi::Env,
  backend: Backend,
  dispatch: Function<'env, (), ()>,
  SharedArrays { bytes, fds, outcome, batch, name, turn: mut turn_memory }: SharedArrays,
) -> napi::Result<Either<calls::Calls<'env>, OpenFailure>> {
  let turn = environment::Turn::new(&mut turn_memory)?;
  let dispatcher = dispatcher::Dispatcher::new(env, &backend, &dispatch, turn)?;
  let arrays = ([bytes, name], [fds, outcome, batch]);
  match environment::Environment::open(env, backend, dispatcher, (turn, turn_memory), arrays) {
    Ok(environment) => calls::Calls::new(env, environment).map(Either::A),
    Err(OpenError::System(errno, syscall)) => {
      // SAFETY: no reactor has it, and none will call.
      unsafe { dispatcher.release() };
      Ok(Either::B(OpenFailure { errno: -(errno as i32), syscall: syscall.into() }))
    }
    Err(OpenError::Other(error)) => Err(error),
  }
}
