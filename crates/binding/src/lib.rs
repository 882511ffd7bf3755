//! The native half of fdpass: the sockets and descriptors of one JavaScript environment, and the reactor that tells
//! when a socket is ready. What a message is, and all that belongs to descriptors, is `fdpass-core`'s.

mod beneath;
mod calls;
mod channel;
mod close_task;
pub mod codes;
mod dispatcher;
mod environment;
pub mod helper;
pub mod memory;
mod peer;
pub mod program;
mod reactor;
mod services;
mod table;
mod thread;
#[cfg(panic = "abort")]
mod unwinding;
mod uv;

use napi::bindgen_prelude::{Either, Function};
use napi_derive::napi;

use codes::Backend;
use environment::OpenError;
use memory::{Memory, SharedArrays};

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
  let (name, text) = fdpass_core::errno_text(errno);
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
  arrays: SharedArrays,
) -> napi::Result<Either<calls::Calls<'env>, OpenFailure>> {
  let (memory, turn) = Memory::new(arrays)?;
  let dispatcher = dispatcher::Dispatcher::new(env, &backend, &dispatch, turn)?;
  match environment::Environment::open(env, backend, dispatcher, turn, memory) {
    Ok(environment) => calls::Calls::new(env, environment).map(Either::A),
    Err(OpenError::System(errno, syscall)) => {
      // SAFETY: no reactor has it, and none will call.
      unsafe { dispatcher.release() };
      Ok(Either::B(OpenFailure { errno: -(errno as i32), syscall: syscall.into() }))
    }
    Err(OpenError::Other(error)) => Err(error),
  }
}
