//! Calls on descriptors of any kind.

use std::ffi::CString;
use std::os::fd::{AsRawFd, IntoRawFd, OwnedFd, RawFd};

use fdpass_core::Errno;
use napi::bindgen_prelude::{AsyncTask, Either};
use napi::{Env, Task};
use napi_derive::napi;

use crate::abi::{CallResult, borrowed};
use crate::codes::{Access, Kind, code};
use crate::environment::{Environment, State};
use crate::memory::Memory;
use crate::table::Table;

pub(super) fn close(state: &mut State, [fd]: [i32; 1]) -> CallResult {
  fdpass_core::close(state.table.take(fd)?)?;
  Ok(0)
}

pub(super) fn close_all(state: &mut State, [count]: [i32; 1]) -> CallResult {
  let State { table, memory: Memory { fds, .. }, .. } = state;
  fdpass_core::close_all(take_all(table, &fds.get()[..count as usize]));
  Ok(0)
}

/// Removes descriptors from the table. Ignores numbers that the table does not own.
fn take_all(table: &mut Table, numbers: &[RawFd]) -> Vec<OwnedFd> {
  numbers.iter().filter_map(|&number| table.take(number).ok()).collect()
}

pub(super) fn duplicate(state: &mut State, [count]: [i32; 1]) -> CallResult {
  let State { table, memory: Memory { fds, .. }, .. } = state;
  let numbers = &mut fds.get()[..count as usize];
  // A failure drops, and so closes, the duplicates made before it.
  let duplicates = borrowed(numbers)?.iter().map(|&fd| fdpass_core::duplicate(fd)).collect::<Result<Vec<_>, _>>()?;
  // A number that is not open can become that of a duplicate before its own turn comes.
  let made = duplicates.iter().map(AsRawFd::as_raw_fd);
  let (min, max) = made.fold((RawFd::MAX, 0), |(min, max), number| (min.min(number), max.max(number)));
  let is_made = |number: &RawFd| duplicates.iter().any(|fd| fd.as_raw_fd() == *number);
  if numbers.iter().any(|number| (min..=max).contains(number) && is_made(number)) {
    return Err(Errno::EBADF);
  }
  for (number, fd) in numbers.iter_mut().zip(duplicates) {
    *number = table.insert(fd);
  }
  Ok(0)
}

/// Closes descriptors on the thread pool. The last close of a file on NFS or FUSE can block as long as its server does.
pub struct CloseTask {
  fds: Vec<OwnedFd>,
}

impl Task for CloseTask {
  type Output = i32;
  type JsValue = i32;

  fn compute(&mut self) -> napi::Result<i32> {
    // Each descriptor is closed by a call of its own, so that an error belongs to it. An error does not stop the rest.
    let errors = self.fds.drain(..).filter_map(|fd| fdpass_core::close(fd).err());
    Ok(errors.map(|errno| -(errno as i32)).fold(0, |first, error| if first == 0 { error } else { first }))
  }

  fn resolve(&mut self, _: Env, output: i32) -> napi::Result<i32> {
    Ok(output)
  }
}

#[napi]
impl Environment {
  /// Closes descriptors on the thread pool. Resolves to 0, or to the first error number, negative.
  #[napi(ts_return_type = "Promise<number>")]
  pub fn close_later(&self, fds: Vec<i32>) -> AsyncTask<CloseTask> {
    let fds = self.with(|state| Ok(take_all(&mut state.table, &fds))).unwrap_or_default();
    AsyncTask::new(CloseTask { fds })
  }

  /// Takes ownership of a descriptor of this process and makes it close-on-exec. Returns 0; `EEXIST` if the environment
  /// owns it already.
  #[napi]
  pub fn adopt(&self, fd: i32) -> i32 {
    self.number(|state| {
      if state.table.owns(fd) {
        return Err(Errno::EEXIST);
      }
      // SAFETY: the caller transfers ownership of the number, which this environment does not own yet.
      let fd = unsafe { fdpass_core::adopt(fd) }?;
      state.table.insert(fd);
      Ok(0)
    })
  }

  /// Gives up ownership of a descriptor, which stays open in its original blocking mode. A bound socket's file stays.
  #[napi]
  pub fn release(&self, fd: i32) -> i32 {
    self.number(|state| {
      // The caller owns the number from here on.
      let _ = state.table.release(fd)?.into_raw_fd();
      Ok(0)
    })
  }

  /// Returns the kind of a descriptor of this process, or a negative error number.
  #[napi]
  pub fn kind(&self, fd: i32) -> Either<Kind, i32> {
    let kind = borrowed(&[fd]).and_then(|fds| fdpass_core::Kind::of(fds[0]));
    kind.map_or_else(|errno| Either::B(code(errno)), |kind| Either::A(kind.into()))
  }

  /// Returns the operations that a descriptor of this process allows, or a negative error number.
  #[napi]
  pub fn access(&self, fd: i32) -> Either<Access, i32> {
    let access = borrowed(&[fd]).and_then(|fds| fdpass_core::Access::of(fds[0]));
    access.map_or_else(|errno| Either::B(code(errno)), |access| Either::A(access.into()))
  }

  /// Sets the blocking mode of a descriptor of this process, for all holders of its open file description.
  #[napi]
  pub fn set_blocking(&self, fd: i32, blocking: bool) -> i32 {
    self.number(|_| {
      fdpass_core::set_blocking(borrowed(&[fd])?[0], blocking)?;
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

  /// Returns the seals of a memfd as bits: `F_SEAL_*`.
  #[napi]
  pub fn seals(&self, fd: i32) -> i32 {
    self.number(|_| fdpass_core::seals(borrowed(&[fd])?[0]))
  }

  /// Adds seals to a memfd: `F_SEAL_*` bits.
  #[napi]
  pub fn seal(&self, fd: i32, seals: i32) -> i32 {
    self.number(|_| {
      fdpass_core::seal(borrowed(&[fd])?[0], seals)?;
      Ok(0)
    })
  }

  /// Returns the number of descriptors that the process can still open.
  #[napi]
  pub fn available_descriptors(&self) -> i32 {
    self.number(|_| Ok(i32::try_from(fdpass_core::available_descriptors()?).unwrap_or(i32::MAX)))
  }
}
