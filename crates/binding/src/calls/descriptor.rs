//! Calls on descriptors of any kind.

use std::ffi::CString;
use std::os::fd::{AsRawFd, IntoRawFd, RawFd};
use std::sync::Arc;

use fdpass_core::{Errno, PollFlags};
use napi::bindgen_prelude::{AsyncTask, BigInt, Buffer, Either, Uint8Array};
use napi::{Env, Task};
use napi_derive::napi;

use crate::abi::CallResult;
use crate::claims::{self, ClaimedFd};
use crate::codes::{Access, END, Kind, READABLE, WRITABLE, code};
use crate::environment::{Environment, State};
use crate::file_access::{FileAccess, FileLock};
use crate::memory::Memory;
use crate::table::Table;

pub(super) fn close(state: &mut State, [fd]: [i32; 1]) -> CallResult {
  if let Some(own) = state.table.take_own(fd)? {
    fdpass_core::close(own.into_fd())?;
  }
  Ok(0)
}

pub(super) fn release(state: &mut State, [fd]: [i32; 1]) -> CallResult {
  // The caller owns the number from here on.
  let _ = state.table.release(fd)?.into_raw_fd();
  Ok(0)
}

pub(super) fn set_leaving(state: &mut State, [fd, leaving]: [i32; 2]) -> CallResult {
  state.table.set_leaving(fd, leaving != 0)?;
  Ok(0)
}

pub(super) fn close_all(state: &mut State, [count]: [i32; 1]) -> CallResult {
  let State { table, memory: Memory { fds, .. }, .. } = state;
  let closing = take_all(table, fds.first(count)?);
  fdpass_core::close_all(closing.into_iter().map(ClaimedFd::into_fd).collect());
  Ok(0)
}

/// Removes descriptors from the table, and returns those that the caller closes. Ignores numbers that the table does not own.
fn take_all(table: &mut Table, numbers: &[RawFd]) -> Vec<ClaimedFd> {
  numbers.iter().filter_map(|&number| table.take_own(number).ok().flatten()).collect()
}

pub(super) fn duplicate(state: &mut State, [count]: [i32; 1]) -> CallResult {
  let State { table, memory: Memory { fds, .. }, .. } = state;
  let numbers = fds.first(count)?;
  // A failure drops, and so closes, the duplicates made before it.
  let duplicates =
    table.borrowed(numbers)?.iter().map(|&fd| fdpass_core::duplicate(fd)).collect::<Result<Vec<_>, _>>()?;
  // A number that is not open can become that of a duplicate before its own turn comes.
  let made = duplicates.iter().map(AsRawFd::as_raw_fd);
  let (min, max) = made.fold((RawFd::MAX, 0), |(min, max), number| (min.min(number), max.max(number)));
  let is_made = |number: &RawFd| duplicates.iter().any(|fd| fd.as_raw_fd() == *number);
  if numbers.iter().any(|number| (min..=max).contains(number) && is_made(number)) {
    return Err(Errno::EBADF);
  }
  for (number, fd) in numbers.iter_mut().zip(duplicates) {
    *number = match table.sender(*number) {
      Some(sender) => table.insert_from(fd, sender),
      None => table.insert(fd),
    };
  }
  Ok(0)
}

/// The most bytes that one call writes: a fast reader could otherwise keep the call busy as long as there are bytes.
const MAX_WRITE: usize = 1 << 18;

pub(super) fn read(state: &mut State, [fd, max]: [i32; 2]) -> CallResult {
  let State { table, memory: Memory { bytes, .. }, .. } = state;
  read_without_waiting(table, fd, bytes.first(max)?)
}

pub(super) fn read_into(state: &mut State, buffer: &mut [u8], [fd]: [i32; 1]) -> CallResult {
  read_without_waiting(&mut state.table, fd, buffer)
}

fn read_without_waiting(table: &mut Table, fd: RawFd, buffer: &mut [u8]) -> CallResult {
  let count = table.without_waiting(fd, |fd, non_blocking| non_blocking.read(fd, buffer))?;
  Ok(count.map_or(END, |count| count as i32))
}

pub(super) fn write(state: &mut State, data: &mut [u8], [fd, offset]: [i32; 2]) -> CallResult {
  let rest = usize::try_from(offset).ok().and_then(|offset| data.get(offset..)).ok_or(Errno::EFAULT)?;
  let rest = rest.get(..MAX_WRITE).unwrap_or(rest);
  Ok(state.table.without_waiting(fd, |fd, non_blocking| non_blocking.write(fd, rest))? as i32)
}

/// Reads a file on the thread pool.
pub struct ReadTask {
  fd: RawFd,
  lock: Arc<FileLock>,
  max: usize,
  position: Option<i64>,
  to_end: bool,
}

impl Task for ReadTask {
  type Output = Result<Vec<u8>, Errno>;
  type JsValue = Either<Buffer, i32>;

  fn compute(&mut self) -> napi::Result<Self::Output> {
    let &mut Self { fd, max, position, to_end, .. } = self;
    // SAFETY: the lock is that of the number's entry.
    Ok(unsafe { self.lock.run(fd, |fd, proceed| fdpass_core::read_file(fd, max, position, to_end, proceed)) })
  }

  fn resolve(&mut self, _: Env, output: Self::Output) -> napi::Result<Self::JsValue> {
    Ok(output.map_or_else(|errno| Either::B(-(errno as i32)), |data| Either::A(data.into())))
  }
}

/// Writes to a file on the thread pool. It has a copy of the bytes, because JavaScript can detach the memory meanwhile.
pub struct WriteTask {
  fd: RawFd,
  lock: Arc<FileLock>,
  data: Vec<u8>,
  position: Option<i64>,
}

impl Task for WriteTask {
  type Output = i32;
  type JsValue = i32;

  fn compute(&mut self) -> napi::Result<i32> {
    let write =
      |fd: std::os::fd::BorrowedFd<'_>, _: &dyn Fn() -> bool| fdpass_core::write_file(fd, &self.data, self.position);
    // SAFETY: the lock is that of the number's entry.
    let written = unsafe { self.lock.run(self.fd, write) };
    Ok(written.map_or_else(|errno| -(errno as i32), |count| count as i32))
  }

  fn resolve(&mut self, _: Env, output: i32) -> napi::Result<i32> {
    Ok(output)
  }
}

/// Returns a position in a file. Fails with `EINVAL` if it does not fit.
fn file_position(position: Option<BigInt>) -> Result<Option<i64>, Errno> {
  let Some(position) = position else { return Ok(None) };
  let (value, is_exact) = position.get_i64();
  if is_exact && value >= 0 { Ok(Some(value)) } else { Err(Errno::EINVAL) }
}

/// Closes descriptors on the thread pool. The last close of a file on NFS or FUSE can block as long as its server does.
pub struct CloseTask {
  fds: Vec<(ClaimedFd, Option<FileAccess>)>,
}

impl Task for CloseTask {
  type Output = i32;
  type JsValue = i32;

  fn compute(&mut self) -> napi::Result<i32> {
    // Each descriptor is closed by a call of its own, so that an error belongs to it. An error does not stop the rest.
    let errors = self.fds.drain(..).filter_map(|(fd, access)| {
      drop(access); // waits for an operation of the thread pool that uses the descriptor
      fdpass_core::close(fd.into_fd()).err()
    });
    Ok(errors.map(|errno| -(errno as i32)).fold(0, |first, error| if first == 0 { error } else { first }))
  }

  fn resolve(&mut self, _: Env, output: i32) -> napi::Result<i32> {
    Ok(output)
  }
}

/// The size of a terminal's window, in characters.
#[napi(object)]
pub struct TerminalSize {
  /// The characters of a line.
  pub columns: u16,
  /// The lines.
  pub rows: u16,
}

#[napi]
impl Environment {
  /// Returns the size of a terminal's window, or a negative error number.
  #[napi]
  pub fn terminal_size(&self, fd: i32) -> Either<TerminalSize, i32> {
    let size = self.with(|state| fdpass_core::WindowSize::of(state.table.borrowed_one(&fd)?));
    let js = |fdpass_core::WindowSize { columns, rows }| Either::A(TerminalSize { columns, rows });
    size.map_or_else(|errno| Either::B(-(errno as i32)), js)
  }

  /// Sets the size of a terminal's window. Returns 0 or a negative error number.
  #[napi]
  pub fn set_terminal_size(&self, fd: i32, size: TerminalSize) -> i32 {
    let TerminalSize { columns, rows } = size;
    let size = fdpass_core::WindowSize { columns, rows };
    self.number(|state| size.apply_to(state.table.borrowed_one(&fd)?).map(|()| 0))
  }

  /// Ends this side's half of a connection of any kind: shutdown(2). Returns 0 or a negative error number.
  #[napi]
  pub fn end_output(&self, fd: i32) -> i32 {
    self.number(|state| fdpass_core::end_output(state.table.borrowed_one(&fd)?).map(|()| 0))
  }

  /// Closes descriptors on the thread pool. Resolves to 0, or to the first error number, negative.
  #[napi(ts_return_type = "Promise<number>")]
  pub fn close_later(&self, fds: Vec<i32>) -> AsyncTask<CloseTask> {
    let take_all = |state: &mut State| fds.iter().filter_map(|&fd| state.table.take_with_access(fd).ok()).collect();
    AsyncTask::new(CloseTask { fds: self.with(|state| Ok(take_all(state))).unwrap_or_default() })
  }

  /// Prepares a descriptor for reading and writing. Returns 1 if the event loop watches it: `read` and `write` do not wait. Returns 0
  /// if it is a file: `readLater` and `writeLater` wait on the thread pool.
  #[napi]
  pub fn open_io(&self, fd: i32) -> i32 {
    self.number(|state| state.table.open_io(fd).map(i32::from))
  }

  /// Returns which of the events `READABLE` and `WRITABLE` a descriptor is ready for: 1 if it is ready for any of them, otherwise 0.
  #[napi]
  pub fn is_ready(&self, fd: i32, events: i32) -> i32 {
    let flag = |event, flag| if events & event != 0 { flag } else { PollFlags::empty() };
    let flags = flag(READABLE, PollFlags::POLLIN) | flag(WRITABLE, PollFlags::POLLOUT);
    self.number(|state| fdpass_core::is_ready(state.table.borrowed_one(&fd)?, flags).map(i32::from))
  }

  /// Stops watching a descriptor, so that the runtime can watch its number. The next `watch` starts again.
  #[napi]
  pub fn unwatch(&self, fd: i32) -> i32 {
    self.number(|state| state.table.unwatch(fd).map(|()| 0))
  }

  /// Reads a file on the thread pool: read(2), or pread(2) with a position. With `toEnd` repeatedly, until the end of the file or
  /// `maxBytes` bytes. One operation at a time can be started on a descriptor. Resolves to the bytes, none at the end of the file, or
  /// to an error number, negative: `ECANCELED` if the operation was cancelled or the descriptor was taken.
  #[napi(ts_return_type = "Promise<Buffer | number>")]
  pub fn read_later(
    &self,
    fd: i32,
    max_bytes: i32,
    position: Option<BigInt>,
    to_end: bool,
  ) -> Either<AsyncTask<ReadTask>, i32> {
    let task = self.with(|state| {
      let (lock, position) = (state.table.file_lock(fd)?, file_position(position)?);
      lock.grant()?;
      Ok(ReadTask { fd, lock, max: usize::try_from(max_bytes).unwrap_or(0), position, to_end })
    });
    task.map_or_else(|errno| Either::B(code(errno)), |task| Either::A(AsyncTask::new(task)))
  }

  /// Writes to a file on the thread pool: write(2), or pwrite(2) with a position. Resolves to the number of bytes written, or to an
  /// error number, negative, as `readLater` does.
  #[napi(ts_return_type = "Promise<number>")]
  pub fn write_later(&self, data: Uint8Array, fd: i32, position: Option<BigInt>) -> Either<AsyncTask<WriteTask>, i32> {
    let task = self.with(|state| {
      let (lock, position) = (state.table.file_lock(fd)?, file_position(position)?);
      lock.grant()?;
      Ok(WriteTask { fd, lock, data: data.to_vec(), position })
    });
    task.map_or_else(|errno| Either::B(code(errno)), |task| Either::A(AsyncTask::new(task)))
  }

  /// Cancels the operation on the thread pool that was started last. Returns 0; `EBUSY` if it has begun.
  #[napi]
  pub fn cancel_later(&self, fd: i32) -> i32 {
    self.number(|state| state.table.file_lock(fd)?.cancel().map(|()| 0))
  }

  /// Takes ownership of a descriptor of this process and makes it close-on-exec. Returns 0; `EEXIST` if an environment of
  /// this process owns it already; `EBUSY` if the runtime uses it.
  #[napi]
  pub fn adopt(&self, fd: i32) -> i32 {
    self.number(|state| {
      // SAFETY: the caller transfers ownership of the number.
      unsafe { state.table.adopt(fd) }?;
      Ok(0)
    })
  }

  /// Prevents that any environment of this process adopts a number, as long as it is the same file.
  #[napi]
  pub fn reserve(&self, fd: i32) -> i32 {
    self.number(|state| {
      claims::reserve(state.table.borrowed_one(&fd)?)?;
      Ok(0)
    })
  }

  /// Ends the use of a socket by one object, for another one: the descriptor stays owned, and is otherwise as `release` leaves it.
  #[napi]
  pub fn detach(&self, fd: i32) -> i32 {
    self.number(|state| {
      state.table.detach(fd)?;
      Ok(0)
    })
  }

  /// Notes that a process of this user, which is not trusted, has sent a descriptor, or is the peer of a socket that is no channel yet. It is
  /// closed on other threads from now on, and so are its duplicates and what comes over the channel: that process can make close(2) block.
  #[napi]
  pub fn set_sender(&self, fd: i32, uid: u32) -> i32 {
    self.number(|state| state.table.set_sender(fd, uid).map(|()| 0))
  }

  /// Returns how many descriptors of a user are being closed on such threads.
  #[napi]
  pub fn closing(&self, uid: u32) -> u32 {
    u32::try_from(fdpass_core::closing(uid)).unwrap_or(u32::MAX)
  }

  /// Returns the kind of a descriptor of this process, or a negative error number.
  #[napi]
  pub fn kind(&self, fd: i32) -> Either<Kind, i32> {
    let kind = self.with(|state| fdpass_core::Kind::of(state.table.borrowed_one(&fd)?));
    kind.map_or_else(|errno| Either::B(code(errno)), |kind| Either::A(kind.into()))
  }

  /// Returns the operations that a descriptor of this process allows, or a negative error number.
  #[napi]
  pub fn access(&self, fd: i32) -> Either<Access, i32> {
    let access = self.with(|state| fdpass_core::Access::of(state.table.borrowed_one(&fd)?));
    access.map_or_else(|errno| Either::B(code(errno)), |access| Either::A(access.into()))
  }

  /// Sets the blocking mode of a descriptor of this process, for all holders of its open file description.
  #[napi]
  pub fn set_blocking(&self, fd: i32, blocking: bool) -> i32 {
    self.number(|state| {
      fdpass_core::set_blocking(state.table.borrowed_one(&fd)?, blocking)?;
      Ok(0)
    })
  }

  /// Creates a pipe: pipe2(2). Returns the numbers of its reading and its writing end.
  #[napi(ts_return_type = "[read: number, write: number] | number")]
  pub fn pipe(&self) -> Either<Vec<i32>, i32> {
    let ends = self.with(|state| {
      let (read, write) = fdpass_core::pipe()?;
      Ok(vec![state.table.insert(read), state.table.insert(write)])
    });
    ends.map_or_else(|errno| Either::B(code(errno)), Either::A)
  }

  /// Creates a memfd: memfd_create(2). Returns its number.
  #[napi]
  pub fn memfd(&self, name: String) -> i32 {
    self.number(|state| {
      let name = CString::new(name).map_err(|_| Errno::EINVAL)?;
      Ok(state.table.insert(fdpass_core::memfd(&name)?))
    })
  }

  /// Sets the size of a file: ftruncate(2). Waits for the file, so this is for memory.
  #[napi]
  pub fn set_size(&self, fd: i32, size: i64) -> i32 {
    self.number(|state| fdpass_core::set_size(state.table.borrowed_one(&fd)?, size).map(|()| 0))
  }

  /// Writes bytes at the start of a file: pwrite(2). Waits for the file, so this is for memory. Returns 0.
  #[napi]
  pub fn fill(&self, data: Uint8Array, fd: i32) -> i32 {
    self.number(|state| {
      let fd = state.table.borrowed_one(&fd)?;
      // `write_file` leaves an error after the first bytes to the next call.
      let mut written = 0;
      while let Some(rest) = data.get(written..).filter(|rest| !rest.is_empty()) {
        match fdpass_core::write_file(fd, rest, Some(written as i64))? {
          0 => return Err(Errno::EIO), // pwrite(2) of a regular file does not return 0
          count => written += count,
        }
      }
      Ok(0)
    })
  }

  /// Creates a counter: eventfd(2). Returns its number.
  #[napi]
  pub fn eventfd(&self, initial: BigInt, semaphore: bool) -> i32 {
    self.number(|state| {
      let (is_negative, initial, is_exact) = initial.get_u64();
      if is_negative || !is_exact {
        return Err(Errno::EINVAL);
      }
      Ok(state.table.insert(fdpass_core::eventfd(initial, semaphore)?))
    })
  }

  /// Returns the seals of a memfd as bits: `F_SEAL_*`.
  #[napi]
  pub fn seals(&self, fd: i32) -> i32 {
    self.number(|state| fdpass_core::seals(state.table.borrowed_one(&fd)?))
  }

  /// Adds seals to a memfd: `F_SEAL_*` bits.
  #[napi]
  pub fn seal(&self, fd: i32, seals: i32) -> i32 {
    self.number(|state| {
      fdpass_core::seal(state.table.borrowed_one(&fd)?, seals)?;
      Ok(0)
    })
  }

  /// Returns the number of descriptors that the process can still open.
  #[napi]
  pub fn available_descriptors(&self) -> i32 {
    self.number(|_| Ok(i32::try_from(fdpass_core::available_descriptors()?).unwrap_or(i32::MAX)))
  }
}
