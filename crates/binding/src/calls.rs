//! The calls that JavaScript makes on sockets and descriptors: plain Node-API functions over integers and shared
//! arrays. A method of a napi-rs class takes a lock and costs many times such a call, about as much as the system call it
//! would make; and so does each value made per message.
//!
//! Each gives a count, or an error number, negative. None runs JavaScript, so that the environment is borrowed by one
//! at a time.

use std::ffi::c_void;
use std::os::fd::{BorrowedFd, IntoRawFd, OwnedFd, RawFd};
use std::ptr;

use fdpass_core::{Control, ControlBuffer, Direction, Errno, Socket, SocketType};
use napi::bindgen_prelude::{AsyncTask, ToNapiValue, Unknown};
use napi::{Env, check_status, sys};
use napi_derive::napi;

use crate::close_task::CloseTask;
use crate::environment::Environment;
use crate::table::Table;
use crate::{AGAIN, BUSY, END};

/// The code of an error, as JavaScript sees it.
fn code(errno: Errno) -> i32 {
  match errno {
    Errno::EAGAIN => AGAIN,
    // Too many descriptors of this user are in flight (unix(7)): nothing announces that they were received.
    Errno::ETOOMANYREFS => BUSY,
    // macOS: the peer's buffer is full, and kqueue reports the socket as writable all the same.
    #[cfg(target_vendor = "apple")]
    Errno::ENOBUFS => BUSY,
    errno => -(errno as i32),
  }
}

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
unsafe fn arguments<'a, const N: usize>(
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

fn integer(env: sys::napi_env, value: sys::napi_value) -> i32 {
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

fn number(env: sys::napi_env, outcome: Outcome) -> sys::napi_value {
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
  /// Find out the type of a socket, which may be anybody's; one that is owned here can be used as one from then on.
  #[napi(ts_type = "(fd: number) => number")]
  pub socket_type: Unknown<'env>,
  /// Take over a number of the process, close-on-exec from now on; EEXIST if it is already owned.
  #[napi(ts_type = "(fd: number) => number")]
  pub adopt: Unknown<'env>,
  /// Replace the first `count` numbers in `fds`, anybody's, by duplicates: all or none.
  #[napi(ts_type = "(count: number) => number")]
  pub duplicate: Unknown<'env>,
  /// Give a number up without closing it.
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
  /// Receive at most `maxBytes` into `bytes` and at most `maxFds` descriptors into `fds`: recvmsg(2). Gives the bytes
  /// received; `outcome` holds the number of descriptors, what became of them (0 complete, 1 truncated, 2 too many,
  /// 3 unexpected), and the packet's size.
  #[napi(ts_type = "(socket: number, maxBytes: number, maxFds: number) => number")]
  pub receive: Unknown<'env>,
  /// As `receive`, into an array.
  #[napi(ts_type = "(buffer: Uint8Array, socket: number, maxFds: number) => number")]
  pub receive_into: Unknown<'env>,
  /// Ask for events of a socket, in place of those asked for before; 0 for none.
  #[napi(ts_type = "(socket: number, events: number) => number")]
  pub watch: Unknown<'env>,
  /// Keep the process alive (1) or no longer (0).
  #[napi(ts_type = "(on: number) => number")]
  pub hold: Unknown<'env>,
  /// End one half of a connection (0 reading, 1 writing) or both (2): shutdown(2).
  #[napi(ts_type = "(socket: number, how: number) => number")]
  pub shutdown: Unknown<'env>,
  /// How many more descriptors the process may open.
  #[napi(ts_type = "() => number")]
  pub room: Unknown<'env>,
}

impl<'env> Calls<'env> {
  pub(crate) fn new(env: &'env Env, environment: *mut Environment) -> napi::Result<Self> {
    let call = |name: &str, callback: Callback| function(env, name, callback, environment);
    Ok(Self {
      socketpair: call("socketpair", integers!(socketpair, 1))?,
      socket_type: call("socketType", integers!(socket_type, 1))?,
      adopt: call("adopt", integers!(adopt, 1))?,
      duplicate: call("duplicate", integers!(duplicate, 1))?,
      release: call("release", integers!(release, 1))?,
      close: call("close", integers!(close, 1))?,
      close_all: call("closeAll", integers!(close_all, 1))?,
      close_later: call("closeLater", close_later)?,
      send: call("send", integers!(send, 3))?,
      send_from: call("sendFrom", array_and_integers!(send_from, 3))?,
      receive: call("receive", integers!(receive, 3))?,
      receive_into: call("receiveInto", array_and_integers!(receive_into, 2))?,
      watch: call("watch", integers!(watch, 2))?,
      hold: call("hold", integers!(hold, 1))?,
      shutdown: call("shutdown", integers!(shutdown, 2))?,
      room: call("room", integers!(room, 0))?,
    })
  }
}

/// A count, or what went wrong.
type Outcome = Result<i32, Errno>;

/// Lends numbers that JavaScript has checked to be no less than zero.
///
/// Whose they are is not known here, as they may be any of the process's: the kernel answers EBADF for one that is not
/// open.
fn borrowed(numbers: &[RawFd]) -> Result<&[BorrowedFd<'_>], Errno> {
  if numbers.iter().any(|&number| number < 0) {
    return Err(Errno::EBADF);
  }
  // SAFETY: BorrowedFd is a transparent RawFd other than -1; the borrow ends with the call that JavaScript makes.
  Ok(unsafe { &*(ptr::from_ref(numbers) as *const [BorrowedFd<'_>]) })
}

fn socketpair(environment: &mut Environment, [kind]: [i32; 1]) -> Outcome {
  let socket_type = match kind {
    0 => SocketType::Stream,
    1 => SocketType::Seqpacket,
    _ => SocketType::Dgram,
  };
  let (a, b) = fdpass_core::socketpair(socket_type)?;
  let pair = [environment.table.insert(a), environment.table.insert(b)];
  pair.iter().for_each(|&number| environment.table.set_socket_type(number, socket_type));
  environment.fds.get()[..2].copy_from_slice(&pair);
  Ok(0)
}

fn socket_type(environment: &mut Environment, [fd]: [i32; 1]) -> Outcome {
  let fds = [fd];
  let socket_type = Socket::new(borrowed(&fds)?[0])?.socket_type();
  environment.table.set_socket_type(fd, socket_type);
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

fn duplicate(environment: &mut Environment, [count]: [i32; 1]) -> Outcome {
  let Environment { table, fds, .. } = environment;
  let numbers = &mut fds.get()[..count as usize];
  // A failure drops, and so closes, those already made.
  let duplicates = borrowed(numbers)?.iter().map(|&fd| fdpass_core::duplicate(fd)).collect::<Result<Vec<_>, _>>()?;
  for (number, fd) in numbers.iter_mut().zip(duplicates) {
    *number = table.insert(fd);
  }
  Ok(0)
}

fn release(environment: &mut Environment, [fd]: [i32; 1]) -> Outcome {
  let fd = environment.table.take(fd)?;
  // The program that asked for the number owns it now.
  let _ = fd.into_raw_fd();
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
  let Environment { table, fds, .. } = environment;
  fds.get()[..count as usize].iter().filter_map(|&number| table.take(number).ok()).collect()
}

unsafe extern "C" fn close_later(env: sys::napi_env, info: sys::napi_callback_info) -> sys::napi_value {
  // SAFETY: called by the runtime, with the environment that `function` gave.
  let (environment, [count]) = unsafe { arguments::<1>(env, info) };
  let task = AsyncTask::new(CloseTask { fds: take_all(environment, integer(env, count)) });
  // SAFETY: in a call from JavaScript. The environment is not used again.
  unsafe { AsyncTask::to_napi_value(env, task) }.unwrap_or(ptr::null_mut())
}

fn send(environment: &mut Environment, [socket, length, count]: [i32; 3]) -> Outcome {
  let Environment { table, bytes, fds, .. } = environment;
  send_bytes(table, &bytes.get()[..length as usize], &fds.get()[..count as usize], socket)
}

fn send_from(environment: &mut Environment, data: &mut [u8], [socket, offset, count]: [i32; 3]) -> Outcome {
  let Environment { table, fds, .. } = environment;
  // An array that was detached while its send waited has become empty.
  let data = data.get(offset as usize..).ok_or(Errno::EFAULT)?;
  send_bytes(table, data, &fds.get()[..count as usize], socket)
}

fn send_bytes(table: &Table, data: &[u8], fds: &[i32], socket: RawFd) -> Outcome {
  Ok(table.socket(socket)?.send(data, borrowed(fds)?)? as i32)
}

fn receive(environment: &mut Environment, [socket, max_bytes, max_fds]: [i32; 3]) -> Outcome {
  let Environment { table, control, bytes, fds, outcome } = environment;
  receive_bytes(table, control, &mut bytes.get()[..max_bytes as usize], fds.get(), outcome.get(), [socket, max_fds])
}

fn receive_into(environment: &mut Environment, buffer: &mut [u8], integers: [i32; 2]) -> Outcome {
  let Environment { table, control, fds, outcome, .. } = environment;
  receive_bytes(table, control, buffer, fds.get(), outcome.get(), integers)
}

fn receive_bytes(
  table: &mut Table,
  control: &mut ControlBuffer,
  buffer: &mut [u8],
  numbers: &mut [i32],
  outcome: &mut [i32],
  [socket, max_fds]: [i32; 2],
) -> Outcome {
  let Some(message) = table.socket(socket)?.recv(buffer, control, max_fds as usize)? else { return Ok(END) };
  (outcome[0], outcome[1], outcome[2]) = (0, 0, message.size as i32);
  match message.control {
    Control::Complete(fds) => {
      outcome[0] = fds.len() as i32;
      for (number, fd) in numbers.iter_mut().zip(fds) {
        *number = table.insert(fd);
      }
    }
    Control::Truncated => outcome[1] = 1,
    Control::TooMany => outcome[1] = 2,
    Control::Unexpected => outcome[1] = 3,
  }
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
  Ok(i32::try_from(fdpass_core::room()?).unwrap_or(i32::MAX))
}
