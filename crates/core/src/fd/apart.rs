//! Closing the descriptors of other processes on threads of their own.
//!
//! close(2) can block for as long as another process likes: of a file of FUSE or NFS, of a TCP socket with `SO_LINGER`, of a terminal,
//! and of a Unix domain socket in which such descriptors are queued. No check before the call can exclude it, because the other process
//! can set `SO_LINGER` and close its copy, or send a descriptor, between the check and the call.

use std::any::Any;
use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use crate::sys::sockopt::stop_lingering;

/// The maximum number of threads that close the descriptors of one owner.
const MAX_THREADS_PER_OWNER: usize = 4;

/// The maximum number of threads in all. Descriptors beyond it wait.
const MAX_THREADS: usize = 128;

/// The maximum number of threads that stay while nothing waits.
const MAX_PARKED: usize = 2;

/// The stack of a thread, in bytes: it calls close(2).
const STACK: usize = 65_536;

/// The owner of what a superserver closes: its workers, programs and clients. No user has this id: setuid(2) takes it for "unchanged".
pub const POOL_OWNER: u32 = u32::MAX;

/// What a thread drops, which closes a descriptor.
type Closing = Box<dyn Any + Send>;

/// The descriptors of one owner.
struct Owner {
  id: u32,
  waiting: VecDeque<Closing>,
  /// How many are being closed.
  active: usize,
}

impl Owner {
  fn can_close(&self) -> bool {
    self.active < MAX_THREADS_PER_OWNER && !self.waiting.is_empty()
  }
}

struct Closer {
  owners: Vec<Owner>,
  threads: usize,
  /// How many threads wait for [`WAKE`].
  parked: usize,
  /// How many of them were woken, and have not locked the closer since.
  woken: usize,
  /// How many threads were started, and have not locked the closer since.
  starting: usize,
}

static CLOSER: Mutex<Closer> = Mutex::new(Closer { owners: Vec::new(), threads: 0, parked: 0, woken: 0, starting: 0 });
static WAKE: Condvar = Condvar::new();

fn closer() -> MutexGuard<'static, Closer> {
  CLOSER.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Closer {
  fn take(&mut self) -> Option<(u32, Closing)> {
    let owner = self.owners.iter_mut().find(|owner| owner.can_close())?;
    let next = owner.waiting.pop_front()?;
    owner.active += 1;
    Some((owner.id, next))
  }

  fn finish(&mut self, id: u32) {
    let Some(index) = self.owners.iter().position(|owner| owner.id == id) else { return };
    if let Some(owner) = self.owners.get_mut(index) {
      owner.active -= 1;
      if owner.active == 0 && owner.waiting.is_empty() {
        self.owners.swap_remove(index);
      }
    }
  }

  /// Wakes or starts a thread if a descriptor can be closed and no thread is about to take it: those that run may block. Returns
  /// false if there is no thread at all.
  fn summon(&mut self) -> bool {
    if self.woken + self.starting > 0 || !self.owners.iter().any(Owner::can_close) {
      return true;
    }
    if self.parked > 0 {
      self.parked -= 1;
      self.woken += 1;
      WAKE.notify_one();
    } else if self.threads < MAX_THREADS {
      let builder = std::thread::Builder::new().name("fdpass-close".into()).stack_size(STACK);
      if crate::process::spawn_thread(builder, run).is_ok() {
        self.threads += 1;
        self.starting += 1;
      }
    }
    self.threads > 0
  }
}

/// Closes what waits, as one of the threads.
fn run() {
  let mut closer = closer();
  closer.starting -= 1;
  loop {
    closer = close_waiting(closer);
    if closer.parked == MAX_PARKED {
      closer.threads -= 1;
      return;
    }
    closer.parked += 1;
    closer = WAKE.wait_while(closer, |closer| closer.woken == 0).unwrap_or_else(PoisonError::into_inner);
    closer.woken -= 1;
  }
}

fn close_waiting(mut closer: MutexGuard<'static, Closer>) -> MutexGuard<'static, Closer> {
  while let Some((owner, fd)) = closer.take() {
    closer.summon();
    drop(closer);
    drop(fd);
    closer = self::closer();
    closer.finish(owner);
  }
  closer
}

/// Drops an owner of descriptors on a thread of its own, which closes them. What one `owner`, a user, has sent delays no other
/// owner: at most 4 threads close for one, and 128 in all. More wait for one of them, so the descriptor table bounds how many.
///
/// Closes before it returns if no thread can be started, and there is none.
pub fn close_apart<T: Send + 'static>(owner: u32, fd: T) {
  push(owner, Box::new(fd));
}

#[inline(never)]
fn push(id: u32, fd: Closing) {
  let mut closer = closer();
  match closer.owners.iter_mut().find(|owner| owner.id == id) {
    Some(owner) => owner.waiting.push_back(fd),
    None => closer.owners.push(Owner { id, waiting: VecDeque::from([fd]), active: 0 }),
  }
  if !closer.summon() {
    drop(close_waiting(closer));
  }
}

/// Returns how many descriptors of an owner [`close_apart`] has not closed yet.
pub fn closing(owner: u32) -> usize {
  closer().owners.iter().find(|one| one.id == owner).map_or(0, |one| one.waiting.len() + one.active)
}

/// A socket of a superserver that another process shares or writes to. [`close_apart`] closes it for [`POOL_OWNER`] if that process is
/// not trusted.
#[derive(Debug)]
pub(crate) struct SharedSocket {
  fd: Option<OwnedFd>,
  is_foreign: bool,
  has_ended: bool,
}

impl SharedSocket {
  /// Takes over a socket. `is_foreign`: a process that is not trusted shares it or is its peer.
  pub(crate) fn new(fd: OwnedFd, is_foreign: bool) -> Self {
    Self { fd: Some(fd), is_foreign, has_ended: false }
  }

  /// Notes that a process shares the socket.
  pub(crate) fn share(&mut self, is_foreign: bool) {
    self.is_foreign |= is_foreign;
  }

  /// Notes that the process that shared the connection has ended its use. `SO_LINGER` with a time is switched off before the close: the
  /// kernel sends the rest in the background, and no thread waits for a client that reads nothing.
  pub(crate) fn note_end(&mut self) {
    self.has_ended = true;
  }
}

impl AsFd for SharedSocket {
  #[allow(clippy::expect_used, reason = "only the drop takes the descriptor")]
  fn as_fd(&self) -> BorrowedFd<'_> {
    self.fd.as_ref().expect("not dropped").as_fd()
  }
}

impl Drop for SharedSocket {
  #[inline(never)]
  fn drop(&mut self) {
    let Some(fd) = self.fd.take() else { return };
    match (self.is_foreign, self.has_ended) {
      (true, true) => close_apart(POOL_OWNER, EndedConnection(fd)),
      (true, false) => close_apart(POOL_OWNER, fd),
      (false, true) => drop(EndedConnection(fd)),
      (false, false) => drop(fd),
    }
  }
}

/// A connection whose use has ended.
struct EndedConnection(OwnedFd);

impl Drop for EndedConnection {
  fn drop(&mut self) {
    stop_lingering(self.0.as_fd());
  }
}

/// Descriptors that are closed by [`close_apart`] for their owner; here, if there is none.
#[derive(Debug, Default)]
pub(crate) struct ForeignFds {
  pub(crate) list: Vec<OwnedFd>,
  pub(crate) owner: Option<u32>,
}

impl ForeignFds {
  /// Closes the first descriptors, at most `count`.
  #[inline(never)]
  pub(crate) fn close_first(&mut self, count: usize) {
    let first = self.list.drain(..count.min(self.list.len()));
    match self.owner {
      Some(owner) => first.for_each(|fd| close_apart(owner, fd)),
      None => drop(first),
    }
  }
}

impl Drop for ForeignFds {
  #[inline]
  fn drop(&mut self) {
    if !self.list.is_empty() {
      self.close_first(usize::MAX);
    }
  }
}
