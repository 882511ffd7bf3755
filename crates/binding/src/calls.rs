//! The calls that JavaScript makes on sockets and descriptors: plain Node-API functions over integers and shared
//! arrays. A method of a napi-rs class takes a lock and costs many times such a call, about as much as the system call it
//! would make; and so does each value made per message.
//!
//! Each gives a count, or an error number, negative. None runs JavaScript, so that the environment is borrowed by one
//! at a time.

use std::ffi::{CString, c_void};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, IntoRawFd, OwnedFd, RawFd};
use std::ptr;

use fdpass_core::{
  Access, Address, AncillaryOptions, ControlBuffer, Credentials, Direction, Errno, Kind, ReceivedFds, SendOptions,
  Socket, SocketFile, SocketType, TcpOptions,
};
use napi::bindgen_prelude::{AsyncTask, Either, ToNapiValue, Unknown};
use napi::{Env, check_status, sys};
use napi_derive::napi;

use crate::beneath;
use crate::channel;
use crate::close_task::CloseTask;
use crate::codes::{AGAIN, ControlStatus, END, code};
use crate::environment::Environment;
use crate::memory::{
  BATCH_ENTRY_LENGTH, BATCH_HEADER_LENGTH, BatchEntryField, BatchField, HAS_CREDENTIALS, HAS_PIDFD, Memory,
  OUTCOME_LENGTH, ReceiveField,
};
use crate::peer::Peer;
use crate::program::{self, program_and_integers};
use crate::services;
use crate::table::Table;

/// A Node-API function over a function of an environment and integers.
macro_rules! integers {
  ($call:path, $count:literal) => {{
    unsafe extern "C" fn callback(env: sys::napi_env, info: sys::napi_callback_info) -> sys::napi_value {
      // SAFETY: called by the runtime, with the environment that `function` gave.
      let (environment, values) = unsafe { arguments::<$count>(env, info) };
      let integers = values.map(|value| integer(env, value));
      number(env, $call(environment, integers))
    }
    callback
  }};
}

/// As `integers!`, with a byte array before them.
macro_rules! array_and_integers {
  ($call:path, $count:literal) => {{
    unsafe extern "C" fn callback(env: sys::napi_env, info: sys::napi_callback_info) -> sys::napi_value {
      // SAFETY: called by the runtime, with the environment that `function` gave.
      let (environment, [array, values @ ..]) = unsafe { arguments::<{ $count + 1 }>(env, info) };
      let integers: [i32; $count] = values.map(|value| integer(env, value));
      // SAFETY: JavaScript does not run before the call has returned.
      number(env, $call(environment, unsafe { byte_array(env, array) }, integers))
    }
    callback
  }};
}

type Callback = unsafe extern "C" fn(sys::napi_env, sys::napi_callback_info) -> sys::napi_value;

fn function<'env>(
  env: &'env Env,
  name: &str,
  callback: Callback,
  environment: *mut Environment,
) -> napi::Result<Unknown<'env>> {
  let mut value = ptr::null_mut();
  // SAFETY: the callbacks of this file expect an environment as their data.
  check_status!(unsafe {
    sys::napi_create_function(
      env.raw(),
      name.as_ptr().cast(),
      name.len() as isize,
      Some(callback),
      environment.cast(),
      &mut value,
    )
  })?;
  // SAFETY: made above.
  Ok(unsafe { Unknown::from_raw_unchecked(env.raw(), value) })
}

/// The environment and the arguments of a call.
///
/// # Safety
/// In a callback made by `function`. The environment is borrowed until the callback returns: no JavaScript in between.
pub(crate) unsafe fn arguments<'a, const N: usize>(
  env: sys::napi_env,
  info: sys::napi_callback_info,
) -> (&'a mut Environment, [sys::napi_value; N]) {
  let (mut count, mut values, mut data) = (N, [ptr::null_mut(); N], ptr::null_mut::<c_void>());
  // SAFETY: room for N values; missing ones come as undefined.
  unsafe {
    sys::napi_get_cb_info(env, info, &mut count, values.as_mut_ptr(), ptr::null_mut(), &mut data);
  }
  // SAFETY: the data that `function` gave, alive as long as JavaScript runs.
  (unsafe { &mut *data.cast::<Environment>() }, values)
}

pub(crate) fn integer(env: sys::napi_env, value: sys::napi_value) -> i32 {
  let mut integer = 0;
  // SAFETY: a live value; one that is no number leaves the zero.
  unsafe { sys::napi_get_value_int32(env, value, &mut integer) };
  integer
}

/// The memory of a byte array; empty where it is none or was detached.
///
/// # Safety
/// No JavaScript runs while it is borrowed, and no other borrow of the array exists.
unsafe fn byte_array<'a>(env: sys::napi_env, value: sys::napi_value) -> &'a mut [u8] {
  let (mut length, mut memory) = (0, ptr::null_mut::<c_void>());
  // SAFETY: a live value; where it is no typed array, nothing is written.
  unsafe {
    sys::napi_get_typedarray_info(
      env,
      value,
      ptr::null_mut(),
      &mut length,
      &mut memory,
      ptr::null_mut(),
      ptr::null_mut(),
    );
  }
  if memory.is_null() || length == 0 {
    return &mut [];
  }
  // SAFETY: the array's own memory and length, borrowed as the caller promises.
  unsafe { std::slice::from_raw_parts_mut(memory.cast(), length) }
}

pub(crate) fn number(env: sys::napi_env, outcome: Outcome) -> sys::napi_value {
  let mut value = ptr::null_mut();
  // SAFETY: writes a value into the place that it is given.
  unsafe { sys::napi_create_int32(env, outcome.unwrap_or_else(code), &mut value) };
  value
}

/// The calls on one environment's sockets and descriptors. Numbers that come out are owned by the environment until
/// they are closed or released. Each gives a count, `AGAIN`, `BUSY`, `END`, or an error number, negative.
#[napi(object, object_from_js = false)]
pub struct Calls<'env> {
  /// Make a connected pair and put the two numbers into `fds`: socketpair(2).
  #[napi(ts_type = "(type: number) => number")]
  pub socketpair: Unknown<'env>,
  /// Make a socket: socket(2). Gives its number.
  #[napi(ts_type = "(type: number) => number")]
  pub socket: Unknown<'env>,
  /// Have the kernel tell more with each message that a socket receives: 1 credentials, 2 pidfd.
  #[napi(ts_type = "(socket: number, receiving: number) => number")]
  pub ask: Unknown<'env>,
  /// Give a socket the first `length` of `name` as its address, or with none one of the kernel's choice: bind(2). The
  /// file has `mode`, or the umask's where that is negative, and is removed when the socket is closed. AGAIN while
  /// another process is about to replace the file.
  #[napi(ts_type = "(socket: number, length: number, mode: number) => number")]
  pub bind: Unknown<'env>,
  /// Leave a bound socket's file to another process that has the socket too. Puts which one it is into `name`, and gives the length;
  /// 0 where there is none, or it is not this environment's to remove.
  #[napi(ts_type = "(socket: number) => number")]
  pub hand_file_on: Unknown<'env>,
  /// Take over the file of a socket that another process has handed on, as `name` says: it is removed when the socket is
  /// closed. Gives 1; 0 where the socket's path does not lead to it any more.
  #[napi(ts_type = "(socket: number) => number")]
  pub claim_file: Unknown<'env>,
  /// Remove the files of all sockets that are bound: process.exit() ends the process without the environment's end.
  #[napi(ts_type = "() => number")]
  pub remove_files: Unknown<'env>,
  /// Let others connect: listen(2). Descriptors that they send are refused if `descriptors` is 0 and the kernel can.
  #[napi(ts_type = "(socket: number, backlog: number, descriptors: number) => number")]
  pub listen: Unknown<'env>,
  /// Connect to the first `length` of `name`: connect(2). AGAIN where the backlog is full; no event announces room.
  #[napi(ts_type = "(socket: number, length: number) => number")]
  pub connect: Unknown<'env>,
  /// Take a connection off the backlog: accept(2). Gives its number.
  #[napi(ts_type = "(socket: number) => number")]
  pub accept: Unknown<'env>,
  /// Whether a socket, which may be anybody's, listens (1) or not (0).
  #[napi(ts_type = "(fd: number) => number")]
  pub is_listening: Unknown<'env>,
  /// Put a socket's own address into `name`: getsockname(2). Gives its length, 0 where it has none.
  #[napi(ts_type = "(socket: number) => number")]
  pub local_name: Unknown<'env>,
  /// Put the address of a socket's peer into `name`: getpeername(2). Gives its length, 0 where it has none.
  #[napi(ts_type = "(socket: number) => number")]
  pub remote_name: Unknown<'env>,
  /// Tell who made the other end of a connection.
  #[napi(ts_type = "(socket: number) => Peer | number")]
  pub peer: Unknown<'env>,
  /// Open a pidfd of who made the other end of a connection. Gives its number.
  #[napi(ts_type = "(socket: number) => number")]
  pub peer_pidfd: Unknown<'env>,
  /// Find out the type of a socket, which may be anybody's; one that is owned here can be used as one from then on.
  #[napi(ts_type = "(fd: number) => number")]
  pub socket_type: Unknown<'env>,
  /// Take over a number of the process, close-on-exec from now on; EEXIST if it is already owned.
  #[napi(ts_type = "(fd: number) => number")]
  pub adopt: Unknown<'env>,
  /// Tell what a descriptor is: the place of its kind among `kinds`.
  #[napi(ts_type = "(fd: number) => number")]
  pub kind: Unknown<'env>,
  /// Tell what a descriptor may be used for: 0 nothing (O_PATH), 1 reading, 2 writing, 3 both.
  #[napi(ts_type = "(fd: number) => number")]
  pub access: Unknown<'env>,
  /// Switch a descriptor's blocking mode, for all who share its open file description.
  #[napi(ts_type = "(fd: number, blocking: number) => number")]
  pub set_blocking: Unknown<'env>,
  /// Put the address of an Internet socket, or of its peer if `remote` is 1, as text into `name` and its port into
  /// `outcome`. Gives the length.
  #[napi(ts_type = "(fd: number, remote: number) => number")]
  pub internet_address: Unknown<'env>,
  /// Make a TCP socket that listens on the address that is the first `length` of `name`, as text. Gives its number.
  #[napi(ts_type = "(length: number, port: number, backlog: number, ipv6Only: number, reusePort: number) => number")]
  pub tcp_listener: Unknown<'env>,
  /// Make a UDP socket with the address that is the first `length` of `name`, as text. Gives its number.
  #[napi(ts_type = "(length: number, port: number) => number")]
  pub udp_socket: Unknown<'env>,
  /// Make a pipe and put the numbers into `fds`, the one to read from first: pipe2(2).
  #[napi(ts_type = "() => number")]
  pub pipe: Unknown<'env>,
  /// Make memory that is called the first `length` of `name`: memfd_create(2). Gives its number.
  #[napi(ts_type = "(length: number) => number")]
  pub memfd: Unknown<'env>,
  /// The seals of memory, as `F_SEAL_*` bits.
  #[napi(ts_type = "(fd: number) => number")]
  pub seals: Unknown<'env>,
  /// Add seals to memory.
  #[napi(ts_type = "(fd: number, seals: number) => number")]
  pub seal: Unknown<'env>,
  /// Replace the first `count` numbers in `fds`, anybody's, by duplicates of what they mean now: all or none.
  #[napi(ts_type = "(count: number) => number")]
  pub duplicate: Unknown<'env>,
  /// Give a number up without closing it, in the mode in which it came; its file stays.
  #[napi(ts_type = "(fd: number) => number")]
  pub release: Unknown<'env>,
  /// Close a number: close(2).
  #[napi(ts_type = "(fd: number) => number")]
  pub close: Unknown<'env>,
  /// Close the first `count` numbers in `fds`, runs of them with one close_range(2).
  #[napi(ts_type = "(count: number) => number")]
  pub close_all: Unknown<'env>,
  /// Close the first `count` numbers in `fds` on the thread pool; resolves to 0 or to the first error.
  #[napi(ts_type = "(count: number) => Promise<number>")]
  pub close_later: Unknown<'env>,
  /// Send the first `length` of `bytes` with the first `count` of `fds`: sendmsg(2). Gives the bytes taken.
  #[napi(ts_type = "(socket: number, length: number, count: number) => number")]
  pub send: Unknown<'env>,
  /// As `send`, from an array, beginning at an offset.
  #[napi(ts_type = "(data: Uint8Array, socket: number, offset: number, count: number) => number")]
  pub send_from: Unknown<'env>,
  /// As `sendFrom`, to the first `length` of `name` unless that is 0, and with credentials if `claims` is 1.
  #[napi(
    ts_type = "(data: Uint8Array, socket: number, offset: number, count: number, length: number, claims: number, pid: number, uid: number, gid: number) => number"
  )]
  pub send_message: Unknown<'env>,
  /// Receive at most `maxBytes` into `bytes` and at most `maxFds` descriptors into `fds`: recvmsg(2). Gives the bytes
  /// received. `outcome` holds the number of descriptors; what became of them (0 complete, 1 truncated, 2 too many,
  /// 3 unexpected); the packet's size; what else came (1 credentials, 2 pidfd); the sender's pid (0 unknown), uid, gid
  /// and pidfd; and the length of its address in `name`.
  #[napi(ts_type = "(socket: number, maxBytes: number, maxFds: number) => number")]
  pub receive: Unknown<'env>,
  /// Receive what is there, each message as `receive` does, as long as `bytes` and `batch` have room for another, and as no
  /// more than `cap` descriptors can come: a message may have as many as any before it had, which is `most`. Neither are more
  /// than a quarter of the free table taken, nor any that would leave no room for `maxFds`.
  ///
  /// `batch` holds how many messages have come, and of each its bytes and descriptors, which lie one behind the other in
  /// `bytes` and `fds`. A message that is more than bytes and descriptors is the last; it is not counted there: its bytes
  /// are the result and the rest is in `outcome`, as after `receive`. AGAIN where there is none.
  #[napi(ts_type = "(socket: number, maxBytes: number, maxFds: number, most: number, cap: number) => number")]
  pub receive_many: Unknown<'env>,
  /// As `receive`, into an array.
  #[napi(ts_type = "(buffer: Uint8Array, socket: number, maxFds: number) => number")]
  pub receive_into: Unknown<'env>,
  /// Make a channel of a stream socket, whose frames have at most so many bytes and descriptors.
  #[napi(ts_type = "(socket: number, maxBytes: number, maxFds: number) => number")]
  pub channel_open: Unknown<'env>,
  /// Send a frame with the first `length` of `bytes` and the first `count` of `fds`. Gives 0, or why it waits: AGAIN or
  /// BUSY.
  #[napi(
    ts_type = "(socket: number, kind: number, format: number, id: number, length: number, count: number) => number"
  )]
  pub channel_send: Unknown<'env>,
  /// Put a frame with the first `length` of `bytes` behind those that wait, for the next `channelFlush`.
  #[napi(ts_type = "(socket: number, kind: number, format: number, id: number, length: number) => number")]
  pub channel_push: Unknown<'env>,
  /// As `channelSend`, from an array.
  #[napi(
    ts_type = "(data: Uint8Array, socket: number, kind: number, format: number, id: number, count: number) => number"
  )]
  pub channel_send_from: Unknown<'env>,
  /// Send the frames that wait. Gives how many have gone whole; `outcome` why it stopped: 0, AGAIN, BUSY, or an error.
  #[napi(ts_type = "(socket: number) => number")]
  pub channel_flush: Unknown<'env>,
  /// Take the frame back that waits at a place: 1; 0 if some of it has gone.
  #[napi(ts_type = "(socket: number, index: number) => number")]
  pub channel_cancel: Unknown<'env>,
  /// Receive the next frame into `bytes` and `fds`, and give its length; one that is longer than `bytes` is left for
  /// `channelTake`. `outcome` holds the number of its descriptors, whether they were lost (1), its kind, format and id,
  /// and whether another frame is there (1). After BROKEN it holds why, and what the frame announced and what came.
  #[napi(ts_type = "(socket: number) => number")]
  pub channel_receive: Unknown<'env>,
  /// Take the next frame, which is whole, into an array of its length.
  #[napi(ts_type = "(buffer: Uint8Array, socket: number) => number")]
  pub channel_take: Unknown<'env>,
  /// Ask for events of a socket, in place of those asked for before; 0 for none.
  #[napi(ts_type = "(socket: number, events: number) => number")]
  pub watch: Unknown<'env>,
  /// Keep the process alive (1) or no longer (0).
  #[napi(ts_type = "(on: number) => number")]
  pub hold: Unknown<'env>,
  /// End one half of a connection (0 reading, 1 writing) or both (2): shutdown(2).
  #[napi(ts_type = "(socket: number, how: number) => number")]
  pub shutdown: Unknown<'env>,
  /// Open a directory beneath which others can be opened. Gives its number.
  #[napi(ts_type = "(path: Uint8Array) => number")]
  pub open_root: Unknown<'env>,
  /// Find what a path names beneath a directory, without opening it: openat2(2) with O_PATH. Gives its number.
  #[napi(ts_type = "(path: Uint8Array, root: number, flags: number) => number")]
  pub find_beneath: Unknown<'env>,
  /// Open exactly what `findBeneath` has found. Gives its number.
  #[napi(ts_type = "(path: Uint8Array, root: number, found: number, flags: number) => number")]
  pub open_found: Unknown<'env>,
  /// Create a file beneath a directory, where there is none. Gives its number.
  #[napi(ts_type = "(path: Uint8Array, root: number, flags: number, mode: number) => number")]
  pub create_beneath: Unknown<'env>,
  /// Start a program, with the first `count` of `fds`, anybody's, as its descriptors from 0 on. Gives its process;
  /// `outcome` holds the number of a descriptor that becomes readable at its end, or the step that failed.
  #[napi(ts_type = "(program: ProgramDescription, count: number) => number")]
  pub spawn: Unknown<'env>,
  /// Tell how a process that `spawn` has started has ended: its code, or 256 and its signal. AGAIN while it runs.
  #[napi(ts_type = "(pid: number) => number")]
  pub reap: Unknown<'env>,
  /// Start the thread of this environment's services, once. Gives the number of a descriptor that becomes readable where
  /// one of them has news.
  #[napi(ts_type = "() => number")]
  pub start_services: Unknown<'env>,
  /// Make that descriptor unreadable, before the news are taken.
  #[napi(ts_type = "() => number")]
  pub hear_services: Unknown<'env>,
  /// Open a service that gives connections to workers. Limits below zero are none. Gives its number.
  #[napi(ts_type = "(connections: number, perWorker: number, perClient: number) => number")]
  pub open_pool: Unknown<'env>,
  /// Set the limits of such a service.
  #[napi(ts_type = "(service: number, connections: number, perWorker: number, perClient: number) => number")]
  pub limit_pool: Unknown<'env>,
  /// Open a service that starts a program for each connection, or for the listener if `waits` is 1. As `openPool`.
  #[napi(
    ts_type = "(program: ProgramDescription, waits: number, connections: number, perClient: number, perMinute: number) => number"
  )]
  pub open_inetd: Unknown<'env>,
  /// Set the program and the limits of such a service.
  #[napi(
    ts_type = "(program: ProgramDescription, service: number, connections: number, perClient: number, perMinute: number) => number"
  )]
  pub set_program: Unknown<'env>,
  /// Have a service accept from a listener, anybody's, of which it takes a duplicate, and whose name is the first `length`
  /// of `name`. Gives what `removeListener` takes.
  #[napi(ts_type = "(service: number, fd: number, length: number) => number")]
  pub add_listener: Unknown<'env>,
  /// Have a service accept from a listener no more.
  #[napi(ts_type = "(service: number, listener: number) => number")]
  pub remove_listener: Unknown<'env>,
  /// Give a pool the channel of a worker, which is the pool's from then on. Gives the worker's number.
  #[napi(ts_type = "(service: number, channel: number) => number")]
  pub add_worker: Unknown<'env>,
  /// Give a worker nothing more: it sees the end of its channel.
  #[napi(ts_type = "(service: number, worker: number) => number")]
  pub drain_worker: Unknown<'env>,
  /// Note the end of a worker's process.
  #[napi(ts_type = "(service: number, worker: number) => number")]
  pub forget_worker: Unknown<'env>,
  /// A worker that has let a connection wait so many milliseconds to be acknowledged; -1 for none.
  #[napi(ts_type = "(service: number, patience: number) => number")]
  pub overdue_worker: Unknown<'env>,
  /// Have a service accept nothing more.
  #[napi(ts_type = "(service: number) => number")]
  pub stop_service: Unknown<'env>,
  /// Have a service go on after a pause.
  #[napi(ts_type = "(service: number) => number")]
  pub retry_service: Unknown<'env>,
  /// Close a service, with all that it has.
  #[napi(ts_type = "(service: number) => number")]
  pub close_service: Unknown<'env>,
  /// Put what a service has to tell into `fds`, four integers each, and count it: 0 a worker is ready; 1 a worker is gone,
  /// how many connections were lost with it, and whether it broke the protocol; 2 something is short, an error number;
  /// 3 too many programs were started; 4 a program could not be started, an error number and the step; 5 a program that
  /// listens was started, its process; 6 a program has ended, its process and how, as `reap`; 7 nothing is left after a stop.
  #[napi(ts_type = "(service: number) => number")]
  pub service_news: Unknown<'env>,
  /// Tell how a service is doing.
  #[napi(ts_type = "(service: number) => ServiceState | number")]
  pub service_state: Unknown<'env>,
  /// How many more descriptors the process may open.
  #[napi(ts_type = "() => number")]
  pub room: Unknown<'env>,
}

impl<'env> Calls<'env> {
  pub(crate) fn new(env: &'env Env, environment: *mut Environment) -> napi::Result<Self> {
    let call = |name: &str, callback: Callback| function(env, name, callback, environment);
    Ok(Self {
      socketpair: call("socketpair", integers!(socketpair, 1))?,
      socket: call("socket", integers!(socket, 1))?,
      ask: call("ask", integers!(ask, 2))?,
      bind: call("bind", integers!(bind, 3))?,
      hand_file_on: call("handFileOn", integers!(hand_file_on, 1))?,
      claim_file: call("claimFile", integers!(claim_file, 1))?,
      remove_files: call("removeFiles", integers!(remove_files, 0))?,
      listen: call("listen", integers!(listen, 3))?,
      connect: call("connect", integers!(connect, 2))?,
      accept: call("accept", integers!(accept, 1))?,
      is_listening: call("isListening", integers!(is_listening, 1))?,
      local_name: call("localName", integers!(local_name, 1))?,
      remote_name: call("remoteName", integers!(remote_name, 1))?,
      peer: call("peer", peer)?,
      peer_pidfd: call("peerPidfd", integers!(peer_pidfd, 1))?,
      socket_type: call("socketType", integers!(socket_type, 1))?,
      adopt: call("adopt", integers!(adopt, 1))?,
      kind: call("kind", integers!(kind, 1))?,
      access: call("access", integers!(access, 1))?,
      set_blocking: call("setBlocking", integers!(set_blocking, 2))?,
      internet_address: call("internetAddress", integers!(internet_address, 2))?,
      tcp_listener: call("tcpListener", integers!(tcp_listener, 5))?,
      udp_socket: call("udpSocket", integers!(udp_socket, 2))?,
      pipe: call("pipe", integers!(pipe, 0))?,
      memfd: call("memfd", integers!(memfd, 1))?,
      seals: call("seals", integers!(seals, 1))?,
      seal: call("seal", integers!(seal, 2))?,
      duplicate: call("duplicate", integers!(duplicate, 1))?,
      release: call("release", integers!(release, 1))?,
      close: call("close", integers!(close, 1))?,
      close_all: call("closeAll", integers!(close_all, 1))?,
      close_later: call("closeLater", close_later)?,
      send: call("send", integers!(send, 3))?,
      send_from: call("sendFrom", array_and_integers!(send_from, 3))?,
      send_message: call("sendMessage", array_and_integers!(send_message, 8))?,
      receive: call("receive", integers!(receive, 3))?,
      receive_many: call("receiveMany", integers!(receive_many, 5))?,
      receive_into: call("receiveInto", array_and_integers!(receive_into, 2))?,
      channel_open: call("channelOpen", integers!(channel::open, 3))?,
      channel_send: call("channelSend", integers!(channel::send, 6))?,
      channel_push: call("channelPush", integers!(channel::push, 5))?,
      channel_send_from: call("channelSendFrom", array_and_integers!(channel::send_from, 5))?,
      channel_flush: call("channelFlush", integers!(channel::flush, 1))?,
      channel_cancel: call("channelCancel", integers!(channel::cancel, 2))?,
      channel_receive: call("channelReceive", integers!(channel::receive, 1))?,
      channel_take: call("channelTake", array_and_integers!(channel::take, 1))?,
      watch: call("watch", integers!(watch, 2))?,
      hold: call("hold", integers!(hold, 1))?,
      shutdown: call("shutdown", integers!(shutdown, 2))?,
      open_root: call("openRoot", array_and_integers!(beneath::open_root, 0))?,
      find_beneath: call("findBeneath", array_and_integers!(beneath::find, 2))?,
      open_found: call("openFound", array_and_integers!(beneath::open_found, 3))?,
      create_beneath: call("createBeneath", array_and_integers!(beneath::create, 3))?,
      spawn: call("spawn", program_and_integers!(program::spawn, 1))?,
      reap: call("reap", integers!(program::reap, 1))?,
      start_services: call("startServices", integers!(services::start, 0))?,
      hear_services: call("hearServices", integers!(services::hear, 0))?,
      open_pool: call("openPool", integers!(services::open_pool, 3))?,
      limit_pool: call("limitPool", integers!(services::limit_pool, 4))?,
      open_inetd: call("openInetd", program_and_integers!(services::open_inetd, 4))?,
      set_program: call("setProgram", program_and_integers!(services::set_program, 4))?,
      add_listener: call("addListener", integers!(services::add_listener, 3))?,
      remove_listener: call("removeListener", integers!(services::remove_listener, 2))?,
      add_worker: call("addWorker", integers!(services::add_worker, 2))?,
      drain_worker: call("drainWorker", integers!(services::drain_worker, 2))?,
      forget_worker: call("forgetWorker", integers!(services::forget_worker, 2))?,
      overdue_worker: call("overdueWorker", integers!(services::overdue_worker, 2))?,
      stop_service: call("stopService", integers!(services::stop, 1))?,
      retry_service: call("retryService", integers!(services::retry, 1))?,
      close_service: call("closeService", integers!(services::close, 1))?,
      service_news: call("serviceNews", integers!(services::news, 1))?,
      service_state: call("serviceState", services::state)?,
      room: call("room", integers!(room, 0))?,
    })
  }
}

/// A count, or what went wrong.
pub(crate) type Outcome = Result<i32, Errno>;

/// Lends numbers that JavaScript has checked to be no less than zero.
///
/// Whose they are is not known here, as they may be any of the process's: the kernel answers EBADF for one that is not
/// open.
pub(crate) fn borrowed(numbers: &[RawFd]) -> Result<&[BorrowedFd<'_>], Errno> {
  if numbers.iter().any(|&number| number < 0) {
    return Err(Errno::EBADF);
  }
  // SAFETY: BorrowedFd is a transparent RawFd other than -1; the borrow ends with the call that JavaScript makes.
  Ok(unsafe { &*(ptr::from_ref(numbers) as *const [BorrowedFd<'_>]) })
}

fn socket_type_of(kind: i32) -> SocketType {
  match kind {
    0 => SocketType::Stream,
    1 => SocketType::Seqpacket,
    _ => SocketType::Dgram,
  }
}

fn receiving_of(bits: i32) -> AncillaryOptions {
  AncillaryOptions { credentials: bits & HAS_CREDENTIALS != 0, pidfd: bits & HAS_PIDFD != 0 }
}

fn socketpair(environment: &mut Environment, [kind]: [i32; 1]) -> Outcome {
  let socket_type = socket_type_of(kind);
  let (a, b) = fdpass_core::socketpair(socket_type)?;
  let pair = [environment.table.insert(a), environment.table.insert(b)];
  pair.iter().for_each(|&number| environment.table.set_socket(number, socket_type, AncillaryOptions::default()));
  environment.memory.fds.get()[..2].copy_from_slice(&pair);
  Ok(0)
}

fn socket(environment: &mut Environment, [kind]: [i32; 1]) -> Outcome {
  let socket_type = socket_type_of(kind);
  let number = environment.table.insert(fdpass_core::socket(socket_type)?);
  environment.table.set_socket(number, socket_type, AncillaryOptions::default());
  Ok(number)
}

fn ask(environment: &mut Environment, [number, receiving]: [i32; 2]) -> Outcome {
  let receiving = receiving_of(receiving);
  let socket = environment.table.socket(number)?;
  socket.enable_ancillary(receiving)?;
  let socket_type = socket.socket_type();
  environment.table.set_socket(number, socket_type, receiving);
  Ok(0)
}

/// The address that JavaScript has put into the shared name.
fn address(environment: &mut Environment, length: i32) -> Result<Address, Errno> {
  Address::new(&environment.memory.name.get()[..length as usize])
}

fn bind(environment: &mut Environment, [number, length, mode]: [i32; 3]) -> Outcome {
  let address = if length == 0 { Address::autobind() } else { Some(address(environment, length)?) };
  let Some(address) = address else { return Ok(0) }; // a socket without a name is all that there is
  let file = fdpass_core::bind(environment.table.socket(number)?, &address, u32::try_from(mode).ok())?;
  environment.table.set_file(number, file)?;
  Ok(0)
}

fn hand_file_on(environment: &mut Environment, [number]: [i32; 1]) -> Outcome {
  let Some(id) = environment.table.hand_file_on(number)? else { return Ok(0) };
  environment.memory.name.get()[..id.len()].copy_from_slice(&id);
  Ok(id.len() as i32)
}

fn claim_file(environment: &mut Environment, [number]: [i32; 1]) -> Outcome {
  let id = environment.memory.name.get()[..16].try_into().map_err(|_| Errno::EINVAL)?;
  let file = SocketFile::claim(environment.table.socket(number)?, id)?;
  let claimed = file.is_some();
  environment.table.set_file(number, file)?;
  Ok(i32::from(claimed))
}

fn remove_files(environment: &mut Environment, []: [i32; 0]) -> Outcome {
  environment.table.remove_files();
  Ok(0)
}

fn listen(environment: &mut Environment, [number, backlog, descriptors]: [i32; 3]) -> Outcome {
  let socket = environment.table.socket(number)?;
  if descriptors == 0 {
    match socket.refuse_descriptors() {
      Err(Errno::ENOPROTOOPT) => {} // JavaScript closes and refuses what comes
      result => result?,
    }
  }
  socket.listen(backlog)?;
  Ok(0)
}

fn connect(environment: &mut Environment, [number, length]: [i32; 2]) -> Outcome {
  let address = address(environment, length)?;
  environment.table.socket(number)?.connect(&address)?;
  Ok(0)
}

fn accept(environment: &mut Environment, [listener]: [i32; 1]) -> Outcome {
  environment.table.accept(listener)
}

fn is_listening(_: &mut Environment, [fd]: [i32; 1]) -> Outcome {
  let fds = [fd];
  Ok(Socket::new(borrowed(&fds)?[0])?.is_listening()?.into())
}

/// Puts an address where JavaScript finds it, and gives its length.
fn put_name(name: &mut [u8], address: Option<Address>) -> i32 {
  address.map_or(0, |address| put_bytes(name, address.bytes()))
}

fn put_bytes(name: &mut [u8], bytes: &[u8]) -> i32 {
  name[..bytes.len()].copy_from_slice(bytes);
  bytes.len() as i32
}

fn local_name(environment: &mut Environment, [number]: [i32; 1]) -> Outcome {
  let address = environment.table.socket(number)?.local_address()?;
  Ok(put_name(environment.memory.name.get(), address))
}

fn remote_name(environment: &mut Environment, [number]: [i32; 1]) -> Outcome {
  let address = environment.table.socket(number)?.peer_address()?;
  Ok(put_name(environment.memory.name.get(), address))
}

unsafe extern "C" fn peer(env: sys::napi_env, info: sys::napi_callback_info) -> sys::napi_value {
  // SAFETY: called by the runtime, with the environment that `function` gave.
  let (environment, [number]) = unsafe { arguments::<1>(env, info) };
  let socket = environment.table.socket(integer(env, number));
  let peer = match socket.and_then(|socket| fdpass_core::peer(socket.as_fd())) {
    Ok(peer) => Either::A(Peer::from(peer)),
    Err(errno) => Either::B(code(errno)),
  };
  // SAFETY: in a call from JavaScript. The environment is not used again.
  unsafe { Either::to_napi_value(env, peer) }.unwrap_or(ptr::null_mut())
}

fn peer_pidfd(environment: &mut Environment, [number]: [i32; 1]) -> Outcome {
  let pidfd = fdpass_core::peer_pidfd(environment.table.socket(number)?.as_fd())?;
  Ok(environment.table.insert(pidfd))
}

fn socket_type(environment: &mut Environment, [fd]: [i32; 1]) -> Outcome {
  let fds = [fd];
  let socket_type = Socket::new(borrowed(&fds)?[0])?.socket_type();
  if environment.table.socket(fd).is_err() {
    environment.table.set_socket(fd, socket_type, AncillaryOptions::default());
  }
  Ok(socket_type as i32)
}

fn adopt(environment: &mut Environment, [fd]: [i32; 1]) -> Outcome {
  if environment.table.owns(fd) {
    return Err(Errno::EEXIST);
  }
  // SAFETY: JavaScript hands it over, and it is none that is owned here.
  let fd = unsafe { fdpass_core::adopt(fd) }?;
  environment.table.insert(fd);
  Ok(0)
}

fn kind(_: &mut Environment, [fd]: [i32; 1]) -> Outcome {
  Ok(Kind::of(borrowed(&[fd])?[0])? as i32)
}

fn access(_: &mut Environment, [fd]: [i32; 1]) -> Outcome {
  Ok(Access::of(borrowed(&[fd])?[0])? as i32)
}

fn set_blocking(_: &mut Environment, [fd, blocking]: [i32; 2]) -> Outcome {
  fdpass_core::set_blocking(borrowed(&[fd])?[0], blocking != 0)?;
  Ok(0)
}

fn internet_address(environment: &mut Environment, [fd, remote]: [i32; 2]) -> Outcome {
  let fds = [fd];
  let fd = borrowed(&fds)?[0];
  let address = match remote {
    0 => fdpass_core::local_internet_address(fd),
    _ => fdpass_core::remote_internet_address(fd),
  }?;
  environment.memory.outcome.get()[0] = address.port().into();
  Ok(put_bytes(environment.memory.name.get(), address.ip().to_string().as_bytes()))
}

/// The IP address that JavaScript has put into the shared name, as text.
fn ip_address(environment: &mut Environment, length: i32) -> Result<IpAddr, Errno> {
  let text = std::str::from_utf8(&environment.memory.name.get()[..length as usize]).map_err(|_| Errno::EINVAL)?;
  text.parse().map_err(|_| Errno::EINVAL)
}

fn udp_socket(environment: &mut Environment, [length, port]: [i32; 2]) -> Outcome {
  let address = SocketAddr::new(ip_address(environment, length)?, port as u16);
  Ok(environment.table.insert(fdpass_core::udp_socket(address)?))
}

fn tcp_listener(environment: &mut Environment, [length, port, backlog, ipv6_only, reuse_port]: [i32; 5]) -> Outcome {
  let address = ip_address(environment, length)?;
  let options = TcpOptions { backlog, ipv6_only: ipv6_only != 0, reuse_port: reuse_port != 0 };
  let fd = fdpass_core::tcp_listener(SocketAddr::new(address, port as u16), options)?;
  Ok(environment.table.insert(fd))
}

fn pipe(environment: &mut Environment, []: [i32; 0]) -> Outcome {
  let (read, write) = fdpass_core::pipe()?;
  let ends = [environment.table.insert(read), environment.table.insert(write)];
  environment.memory.fds.get()[..2].copy_from_slice(&ends);
  Ok(0)
}

fn memfd(environment: &mut Environment, [length]: [i32; 1]) -> Outcome {
  let name = CString::new(&environment.memory.name.get()[..length as usize]).map_err(|_| Errno::EINVAL)?;
  let fd = fdpass_core::memfd(&name)?;
  Ok(environment.table.insert(fd))
}

fn seals(_: &mut Environment, [fd]: [i32; 1]) -> Outcome {
  fdpass_core::seals(borrowed(&[fd])?[0])
}

fn seal(_: &mut Environment, [fd, seals]: [i32; 2]) -> Outcome {
  fdpass_core::seal(borrowed(&[fd])?[0], seals)?;
  Ok(0)
}

fn duplicate(environment: &mut Environment, [count]: [i32; 1]) -> Outcome {
  let Environment { table, memory: Memory { fds, .. }, .. } = environment;
  let numbers = &mut fds.get()[..count as usize];
  // A failure drops, and so closes, those already made.
  let duplicates = borrowed(numbers)?.iter().map(|&fd| fdpass_core::duplicate(fd)).collect::<Result<Vec<_>, _>>()?;
  // A number that is not open may become that of a duplicate, before its own turn comes.
  let made = duplicates.iter().map(AsRawFd::as_raw_fd);
  let (least, most) = made.fold((RawFd::MAX, 0), |(least, most), number| (least.min(number), most.max(number)));
  let is_made = |number: &RawFd| duplicates.iter().any(|fd| fd.as_raw_fd() == *number);
  if numbers.iter().any(|number| (least..=most).contains(number) && is_made(number)) {
    return Err(Errno::EBADF);
  }
  for (number, fd) in numbers.iter_mut().zip(duplicates) {
    *number = table.insert(fd);
  }
  Ok(0)
}

fn release(environment: &mut Environment, [fd]: [i32; 1]) -> Outcome {
  // The program that asked for the number owns it now.
  let _ = environment.table.release(fd)?.into_raw_fd();
  Ok(0)
}

fn close(environment: &mut Environment, [fd]: [i32; 1]) -> Outcome {
  fdpass_core::close(environment.table.take(fd)?)?;
  Ok(0)
}

fn close_all(environment: &mut Environment, [count]: [i32; 1]) -> Outcome {
  fdpass_core::close_all(take_all(environment, count));
  Ok(0)
}

fn take_all(environment: &mut Environment, count: i32) -> Vec<OwnedFd> {
  let Environment { table, memory: Memory { fds, .. }, .. } = environment;
  let mut taken = Vec::with_capacity(count as usize);
  taken.extend(fds.get()[..count as usize].iter().filter_map(|&number| table.take(number).ok()));
  taken
}

unsafe extern "C" fn close_later(env: sys::napi_env, info: sys::napi_callback_info) -> sys::napi_value {
  // SAFETY: called by the runtime, with the environment that `function` gave.
  let (environment, [count]) = unsafe { arguments::<1>(env, info) };
  let task = AsyncTask::new(CloseTask { fds: take_all(environment, integer(env, count)) });
  // SAFETY: in a call from JavaScript. The environment is not used again.
  unsafe { AsyncTask::to_napi_value(env, task) }.unwrap_or(ptr::null_mut())
}

fn send(environment: &mut Environment, [socket, length, count]: [i32; 3]) -> Outcome {
  let Environment { table, memory: Memory { bytes, fds, .. }, .. } = environment;
  let data = &bytes.get()[..length as usize];
  send_bytes(table, data, &fds.get()[..count as usize], socket, SendOptions::default())
}

fn send_from(environment: &mut Environment, data: &mut [u8], [socket, offset, count]: [i32; 3]) -> Outcome {
  let Environment { table, memory: Memory { fds, .. }, .. } = environment;
  send_bytes(table, from(data, offset)?, &fds.get()[..count as usize], socket, SendOptions::default())
}

fn send_message(
  environment: &mut Environment,
  data: &mut [u8],
  [socket, offset, count, length, claims, pid, uid, gid]: [i32; 8],
) -> Outcome {
  let to = if length == 0 { None } else { Some(address(environment, length)?) };
  let credentials = Credentials { pid: Some(pid).filter(|&pid| pid > 0), uid: uid as u32, gid: gid as u32 };
  let envelope = SendOptions { to: to.as_ref(), credentials: (claims != 0).then_some(credentials) };
  let Environment { table, memory: Memory { fds, .. }, .. } = environment;
  send_bytes(table, from(data, offset)?, &fds.get()[..count as usize], socket, envelope)
}

/// What is left of an array. One that was detached while its send waited has become empty.
fn from(data: &[u8], offset: i32) -> Result<&[u8], Errno> {
  data.get(offset as usize..).ok_or(Errno::EFAULT)
}

fn send_bytes(table: &Table, data: &[u8], fds: &[i32], socket: RawFd, envelope: SendOptions<'_>) -> Outcome {
  Ok(table.socket(socket)?.send(data, borrowed(fds)?, envelope)? as i32)
}

fn receive(environment: &mut Environment, [socket, max_bytes, max_fds]: [i32; 3]) -> Outcome {
  let Environment { table, control, memory: Memory { bytes, fds, outcome, name, .. }, .. } = environment;
  let result = ReceiveOutcome { fds: fds.get(), outcome: outcome.get(), name: name.get() };
  receive_bytes(table, control, &mut bytes.get()[..max_bytes as usize], result, [socket, max_fds])
}

fn receive_many(environment: &mut Environment, [socket, max_bytes, max_fds, mut most, cap]: [i32; 5]) -> Outcome {
  let Environment { table, control, memory: Memory { bytes, fds, outcome, batch, name, .. }, .. } = environment;
  let (mut bytes, mut numbers, batch) = (bytes.get(), fds.get(), batch.get());
  let (header, entries) = batch.split_at_mut(BATCH_HEADER_LENGTH as usize);
  let counted = &mut header[BatchField::Count as usize];
  *counted = 0;
  let has_address = table.socket(socket)?.socket_type() == SocketType::Dgram;
  let mut taken = 0;
  let mut room = None;
  for entry in entries.chunks_exact_mut(BATCH_ENTRY_LENGTH as usize) {
    if most > 0 {
      // Where nobody tells how much room there is, without /proc for one, nothing is received ahead.
      let room = *room.get_or_insert_with(|| {
        fdpass_core::available_descriptors().map_or(0, |room| i32::try_from(room).unwrap_or(i32::MAX))
      });
      // What is held must not take the room of a message that would have been received without it.
      if taken + most > cap.min(room / 4) || max_fds > room - taken {
        return Ok(AGAIN);
      }
    }
    if bytes.len() < max_bytes as usize {
      return Ok(AGAIN);
    }
    let result = ReceiveOutcome { fds: numbers, outcome: outcome.get(), name: name.get() };
    let length = receive_bytes(table, control, &mut bytes[..max_bytes as usize], result, [socket, max_fds])?;
    let mut field = |field: ReceiveField| outcome.get()[field as usize];
    let whole = field(ReceiveField::Status) == ControlStatus::Complete as i32 && field(ReceiveField::Size) == length;
    if length < 0 || !whole || field(ReceiveField::Extras) != 0 || has_address {
      return Ok(length);
    }
    let count = field(ReceiveField::FdCount);
    entry[BatchEntryField::ByteCount as usize] = length;
    entry[BatchEntryField::FdCount as usize] = count;
    *counted += 1;
    taken += count;
    most = most.max(count);
    bytes = &mut bytes[length as usize..];
    numbers = &mut numbers[count as usize..];
  }
  Ok(AGAIN)
}

fn receive_into(environment: &mut Environment, buffer: &mut [u8], integers: [i32; 2]) -> Outcome {
  let Environment { table, control, memory: Memory { fds, outcome, name, .. }, .. } = environment;
  let result = ReceiveOutcome { fds: fds.get(), outcome: outcome.get(), name: name.get() };
  receive_bytes(table, control, buffer, result, integers)
}

/// Where a receive writes its result beside the number of bytes.
struct ReceiveOutcome<'a> {
  fds: &'a mut [i32],
  outcome: &'a mut [i32],
  name: &'a mut [u8],
}

fn receive_bytes(
  table: &mut Table,
  control: &mut ControlBuffer,
  buffer: &mut [u8],
  ReceiveOutcome { fds: numbers, outcome, name }: ReceiveOutcome<'_>,
  [socket, max_fds]: [i32; 2],
) -> Outcome {
  let Some(message) = table.socket(socket)?.recv(buffer, control, max_fds as usize)? else { return Ok(END) };
  let mut fields = [0; OUTCOME_LENGTH as usize];
  let mut set = |field: ReceiveField, value| fields[field as usize] = value;
  set(ReceiveField::Size, message.size as i32);
  let status = match message.fds {
    ReceivedFds::Complete(fds) => {
      set(ReceiveField::FdCount, fds.len() as i32);
      for (number, fd) in numbers.iter_mut().zip(fds) {
        *number = table.insert(fd);
      }
      ControlStatus::Complete
    }
    ReceivedFds::Truncated => ControlStatus::Truncated,
    ReceivedFds::TooMany => ControlStatus::TooMany,
    ReceivedFds::Unexpected => ControlStatus::Unexpected,
  };
  // Otherwise the message's other control data, such as a pidfd, is closed with it.
  if let ControlStatus::Complete = status {
    let mut extras = 0;
    if let Some(Credentials { pid, uid, gid }) = message.credentials {
      extras |= HAS_CREDENTIALS;
      set(ReceiveField::Pid, pid.unwrap_or(0));
      set(ReceiveField::Uid, uid as i32);
      set(ReceiveField::Gid, gid as i32);
    }
    if let Some(pidfd) = message.pidfd {
      extras |= HAS_PIDFD;
      set(ReceiveField::Pidfd, table.insert(pidfd));
    }
    set(ReceiveField::Extras, extras);
    set(ReceiveField::NameLength, put_name(name, message.address));
  }
  set(ReceiveField::Status, status as i32);
  outcome[..fields.len()].copy_from_slice(&fields);
  Ok(message.length as i32)
}

fn watch(environment: &mut Environment, [socket, events]: [i32; 2]) -> Outcome {
  environment.table.watch(socket, events)?;
  Ok(0)
}

fn hold(environment: &mut Environment, [on]: [i32; 1]) -> Outcome {
  environment.table.hold(on != 0);
  Ok(0)
}

fn shutdown(environment: &mut Environment, [socket, how]: [i32; 2]) -> Outcome {
  let direction = match how {
    0 => Direction::Read,
    1 => Direction::Write,
    _ => Direction::Both,
  };
  environment.table.socket(socket)?.shutdown(direction)?;
  Ok(0)
}

fn room(_: &mut Environment, []: [i32; 0]) -> Outcome {
  Ok(i32::try_from(fdpass_core::available_descriptors()?).unwrap_or(i32::MAX))
}
