//! The registry of descriptor numbers that environments of this process own: the main thread's and each Worker's. The
//! kernel's descriptor table belongs to the process, so a number that one environment owns must not be adopted by another.
//!
//! A claim costs one atomic store, and its end a load and a store: every received descriptor makes one.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

use fdpass_core::{Errno, FileId};

/// The numbers of the first block. Each further block has as many as all blocks before it.
const FIRST_BLOCK: usize = 1024;
/// Enough for every number of an `i32`.
const BLOCKS: usize = 22;
/// The value of a number that no environment owns.
const UNOWNED: u32 = 0;

/// The owner of each number. A block is allocated with the first of its numbers that is claimed.
static OWNERS: [OnceLock<Box<[AtomicU32]>>; BLOCKS] = [const { OnceLock::new() }; BLOCKS];
/// The owner that the next environment becomes.
static NEXT_OWNER: AtomicU32 = AtomicU32::new(UNOWNED + 1);
/// A number that the runtime uses, and the file that it had then.
static RESERVED: Mutex<Option<(RawFd, FileId)>> = Mutex::new(None);

/// An environment, as an owner of numbers.
#[derive(Clone, Copy)]
pub(crate) struct Owner(u32);

impl Owner {
  /// Creates the owner for a new environment.
  pub(crate) fn new() -> Self {
    Self(NEXT_OWNER.fetch_add(1, Ordering::Relaxed))
  }

  /// Claims the number of a descriptor that this process has just opened or received. A claim that is left over ends: the
  /// number was closed without its owner, or the kernel would not have assigned it again.
  #[inline]
  pub(crate) fn claim(self, fd: OwnedFd) -> ClaimedFd {
    let number = fd.as_raw_fd();
    owner_of(number).store(self.0, Ordering::Release);
    ClaimedFd { claim: Claim { number, owner: self }, fd }
  }

  /// As [`Owner::claim`], for a descriptor that the caller owns and closes after it has dropped the claim.
  pub(crate) fn claim_borrowed(self, fd: BorrowedFd<'_>) -> Claim {
    let number = fd.as_raw_fd();
    owner_of(number).store(self.0, Ordering::Release);
    Claim { number, owner: self }
  }

  /// Claims a number that can be any of this process. Fails with `EEXIST` if an environment owns it, and with `EBADF` if it is
  /// negative.
  pub(crate) fn claim_unowned(self, number: RawFd) -> Result<Claim, Errno> {
    if number < 0 {
      return Err(Errno::EBADF);
    }
    let claimed = owner_of(number).compare_exchange(UNOWNED, self.0, Ordering::AcqRel, Ordering::Relaxed);
    claimed.map(|_| Claim { number, owner: self }).map_err(|_| Errno::EEXIST)
  }
}

/// A descriptor and the claim on its number. Dropping it ends the claim and closes the descriptor.
pub(crate) struct ClaimedFd {
  // Declared before `fd`, and so dropped before it: a closed number can belong to another thread at once.
  claim: Claim,
  fd: OwnedFd,
}

impl ClaimedFd {
  /// Combines a claim and the descriptor that has its number.
  pub(crate) fn new(claim: Claim, fd: OwnedFd) -> Self {
    Self { claim, fd }
  }

  /// Returns whether the claim still holds. It does not if the program closed the number itself and the kernel has assigned
  /// it to another environment.
  pub(crate) fn is_current(&self) -> bool {
    self.claim.is_current()
  }

  /// Ends the claim and returns the descriptor.
  pub(crate) fn into_fd(self) -> OwnedFd {
    drop(self.claim);
    self.fd
  }

  /// Ends the claim and leaves the number open, to its actual owner.
  pub(crate) fn abandon(self) {
    std::mem::forget(self.into_fd());
  }

  /// Leaves the number to a later claim of the same environment.
  pub(crate) fn supersede(self) {
    std::mem::forget(self);
  }
}

impl AsFd for ClaimedFd {
  fn as_fd(&self) -> BorrowedFd<'_> {
    self.fd.as_fd()
  }
}

/// A claim on a number. Dropping it ends the claim.
pub(crate) struct Claim {
  number: RawFd,
  owner: Owner,
}

impl Claim {
  fn is_current(&self) -> bool {
    owner_of(self.number).load(Ordering::Acquire) == self.owner.0
  }
}

impl Drop for Claim {
  fn drop(&mut self) {
    // Not a compare-and-exchange: only the owner of a current claim ends it.
    if self.is_current() {
      owner_of(self.number).store(UNOWNED, Ordering::Release);
    }
  }
}

/// Returns the place of a number, which must not be negative.
#[inline]
#[allow(clippy::indexing_slicing, reason = "the blocks have a place for every number that is not negative")]
fn owner_of(number: RawFd) -> &'static AtomicU32 {
  let index = number as usize;
  let block = (index / FIRST_BLOCK).checked_ilog2().map_or(0, |bit| bit as usize + 1);
  let start = if block == 0 { 0 } else { FIRST_BLOCK << (block - 1) };
  let length = FIRST_BLOCK << block.saturating_sub(1);
  let owners = OWNERS[block].get_or_init(|| std::iter::repeat_with(AtomicU32::default).take(length).collect());
  &owners[index - start]
}

/// Prevents that environments of this process adopt a number, as long as it is the same file: the channel to the parent
/// process, which Node reads.
pub(crate) fn reserve(fd: BorrowedFd<'_>) -> Result<(), Errno> {
  let id = FileId::of(fd)?;
  *RESERVED.lock().unwrap_or_else(PoisonError::into_inner) = Some((fd.as_raw_fd(), id));
  Ok(())
}

/// Returns whether a number is [reserved](reserve).
pub(crate) fn is_reserved(fd: BorrowedFd<'_>) -> Result<bool, Errno> {
  let reserved = *RESERVED.lock().unwrap_or_else(PoisonError::into_inner);
  match reserved {
    Some((number, id)) if number == fd.as_raw_fd() => Ok(FileId::of(fd)? == id),
    _ => Ok(false),
  }
}
