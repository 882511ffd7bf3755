//! The access of the thread pool to the descriptor of a file.
//!
//! An operation borrows the descriptor, because a duplicate would be worse: closing it releases the process's record locks on the
//! file (fcntl(2)). So the descriptor is closed or released only when no system call of an operation uses its number.

use std::os::fd::{BorrowedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use fdpass_core::Errno;

/// Whether the operation that was started last may begin.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Permission {
  Granted,
  /// It has been cancelled, or has ended.
  Withdrawn,
  /// The descriptor has been taken out of the table.
  Ended,
}

/// The lock that an operation of the thread pool holds while it uses a descriptor. JavaScript starts one operation at a time.
pub(crate) struct FileLock {
  permission: Mutex<Permission>,
  ending: AtomicBool,
}

impl FileLock {
  /// Permits the next operation. Fails with `EBUSY` before the last one has ended.
  pub(crate) fn grant(&self) -> Result<(), Errno> {
    let mut permission = self.permission.try_lock().map_err(|_| Errno::EBUSY)?;
    if *permission == Permission::Granted {
      return Err(Errno::EBUSY);
    }
    *permission = Permission::Granted;
    Ok(())
  }

  /// Cancels the operation that was permitted. Fails with `EBUSY` if it has begun.
  pub(crate) fn cancel(&self) -> Result<(), Errno> {
    let mut permission = self.permission.try_lock().map_err(|_| Errno::EBUSY)?;
    if *permission != Permission::Granted {
      return Err(Errno::EBUSY);
    }
    *permission = Permission::Withdrawn;
    Ok(())
  }

  /// Runs an operation on the descriptor unless it was cancelled or the descriptor was taken: `ECANCELED`. The operation's second
  /// argument returns whether to continue.
  ///
  /// # Safety
  /// The number must be the descriptor whose table entry has this lock.
  pub(crate) unsafe fn run<T>(
    &self,
    number: RawFd,
    operation: impl FnOnce(BorrowedFd<'_>, &dyn Fn() -> bool) -> Result<T, Errno>,
  ) -> Result<T, Errno> {
    let mut permission = self.permission.lock().unwrap_or_else(PoisonError::into_inner);
    if *permission != Permission::Granted {
      return Err(Errno::ECANCELED);
    }
    *permission = Permission::Withdrawn;
    // SAFETY: the number is open while the lock is held: `FileAccess` waits for the lock before the descriptor leaves the table.
    let fd = unsafe { BorrowedFd::borrow_raw(number) };
    operation(fd, &|| !self.ending.load(Ordering::Relaxed))
  }
}

/// The access of the thread pool to one descriptor. Dropping it waits until no operation uses the descriptor, and ends the access.
/// The owner must drop it before it closes or releases the descriptor.
pub(crate) struct FileAccess(Arc<FileLock>);

impl FileAccess {
  /// Returns the lock.
  pub(crate) fn lock(&self) -> Arc<FileLock> {
    self.0.clone()
  }
}

impl Default for FileAccess {
  fn default() -> Self {
    let permission = Mutex::new(Permission::Withdrawn);
    Self(Arc::new(FileLock { permission, ending: AtomicBool::new(false) }))
  }
}

impl Drop for FileAccess {
  fn drop(&mut self) {
    self.0.ending.store(true, Ordering::Relaxed);
    *self.0.permission.lock().unwrap_or_else(PoisonError::into_inner) = Permission::Ended;
  }
}
