//! Calls that open files beneath a directory.

use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fdpass_core::{Errno, Examined, Mode, OFlag};
use napi::bindgen_prelude::{Either, Object, Uint8Array};
use napi::{Env, JsDeferred};
use napi_derive::napi;

use crate::codes::{Kind, code};
use crate::environment::Environment;

/// The stack of a call's thread, in bytes.
const STACK: usize = 256 * 1024;

fn path(bytes: &[u8]) -> &Path {
  Path::new(OsStr::from_bytes(bytes))
}

#[napi]
impl Environment {
  /// Opens a directory, beneath which the following calls open files. Returns its number.
  #[napi]
  pub fn open_root(&self, directory: &[u8]) -> i32 {
    self.number(|state| Ok(state.table.insert(fdpass_core::open_root(path(directory))?)))
  }

  /// Returns whether opening files on the file system of a directory never blocks.
  #[napi]
  pub fn is_local(&self, directory: i32) -> bool {
    self.with(|state| Ok(fdpass_core::is_local(state.table.borrowed_one(&directory)?))).unwrap_or(false)
  }

  /// Finds a file beneath a directory as `findBeneath`, if that cannot block. Returns its number; any error if it could.
  #[napi]
  pub fn find_cached(&self, file: &[u8], root: i32, flags: i32) -> i32 {
    self.number(|state| {
      let root = state.table.borrowed_one(&root)?;
      let found = fdpass_core::find_cached(root, path(file), OFlag::from_bits_retain(flags))?;
      Ok(state.table.insert(found))
    })
  }

  /// Opens the file that `findCached` found beneath a local directory. Returns its number, or `ESTALE` as `openFound`.
  #[napi]
  pub fn open_cached(&self, file: &[u8], root: i32, found: i32, flags: i32) -> i32 {
    self.number(|state| {
      let (root, found) = (state.table.borrowed_one(&root)?, state.table.borrowed_one(&found)?);
      let opened = fdpass_core::open_found(root, path(file), found, OFlag::from_bits_retain(flags))?;
      Ok(state.table.insert(opened))
    })
  }

  /// Finds a file beneath a directory without opening it: openat2(2) with `O_PATH`, and examines it.
  #[napi]
  pub fn find_beneath(&self, file: Uint8Array, root: i32, flags: i32) -> Either<BlockingOpen, i32> {
    let flags = OFlag::from_bits_retain(flags);
    self.begin(&[root], move |fds| {
      let [root] = fds else { return Err(Errno::EBADF) };
      let found = fdpass_core::find_beneath(root.as_fd(), path(&file), flags)?;
      let examined = fdpass_core::examine(root.as_fd(), found.as_fd())?;
      Ok(Opened { fd: found, examined: Some(examined) })
    })
  }

  /// Opens the file that `findBeneath` found; `ESTALE` if the path leads to another file by now.
  #[napi]
  pub fn open_found(&self, file: Uint8Array, root: i32, found: i32, flags: i32) -> Either<BlockingOpen, i32> {
    let flags = OFlag::from_bits_retain(flags);
    self.begin(&[root, found], move |fds| {
      let [root, found] = fds else { return Err(Errno::EBADF) };
      let fd = fdpass_core::open_found(root.as_fd(), path(&file), found.as_fd(), flags)?;
      Ok(Opened { fd, examined: None })
    })
  }

  /// Creates a file beneath a directory; `EEXIST` if there is a file.
  #[napi]
  pub fn create_beneath(&self, file: Uint8Array, root: i32, flags: i32, mode: u32) -> Either<BlockingOpen, i32> {
    let (flags, mode) = (OFlag::from_bits_retain(flags), Mode::from_bits_truncate(mode as libc::mode_t));
    self.begin(&[root], move |fds| {
      let [root] = fds else { return Err(Errno::EBADF) };
      let fd = fdpass_core::create_beneath(root.as_fd(), path(&file), flags, mode)?;
      Ok(Opened { fd, examined: None })
    })
  }

  /// Returns the number of the descriptor that a call has opened, which the environment owns from now on, or the code of its
  /// error; `EAGAIN` if it is not done.
  #[napi]
  pub fn take_opened(&self, call: &BlockingOpen) -> i32 {
    self.number(|state| {
      let opened = lock(&call.shared).outcome.take().unwrap_or(Err(Errno::EAGAIN))?;
      Ok(state.table.insert(opened.fd))
    })
  }
}

impl Environment {
  /// Starts a call on a thread of its own, with duplicates of descriptors.
  fn begin(
    &self,
    fds: &[i32],
    call: impl FnOnce(&[OwnedFd]) -> Result<Opened, Errno> + Send + 'static,
  ) -> Either<BlockingOpen, i32> {
    let started = self.with(|state| {
      let duplicates =
        state.table.borrowed(fds)?.iter().map(|fd| fdpass_core::duplicate(*fd)).collect::<Result<Vec<_>, _>>()?;
      BlockingOpen::start(move || call(&duplicates))
    });
    started.map_or_else(|errno| Either::B(code(errno)), Either::A)
  }
}

/// What a call has opened.
struct Opened {
  fd: OwnedFd,
  examined: Option<Examined>,
}

type Waiter = JsDeferred<(), Box<dyn FnOnce(Env) -> napi::Result<()> + Send>>;

/// The state that the thread of a call shares with JavaScript.
#[derive(Default)]
struct Shared {
  outcome: Option<Result<Opened, Errno>>,
  waiter: Option<Waiter>,
  /// Whether the outcome will not be taken. The thread then closes it.
  abandoned: bool,
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
  shared.lock().unwrap_or_else(PoisonError::into_inner)
}

fn notify(waiter: Waiter) {
  waiter.resolve(Box::new(|_| Ok(())));
}

/// A call that opens a file, on a thread of its own: a file system can block it for as long as it likes.
#[napi]
pub struct BlockingOpen {
  shared: Arc<Mutex<Shared>>,
}

#[napi]
impl BlockingOpen {
  fn start(call: impl FnOnce() -> Result<Opened, Errno> + Send + 'static) -> Result<Self, Errno> {
    let shared = Arc::new(Mutex::new(Shared::default()));
    let theirs = Arc::clone(&shared);
    let builder = std::thread::Builder::new().name("fdpass-open".into()).stack_size(STACK);
    let thread = move || {
      let outcome = call();
      let mut shared = lock(&theirs);
      if shared.abandoned {
        drop(shared);
        return; // the outcome is closed here: the close can block as well
      }
      shared.outcome = Some(outcome);
      let waiter = shared.waiter.take();
      drop(shared);
      if let Some(waiter) = waiter {
        notify(waiter);
      }
    };
    fdpass_core::spawn_thread(builder, thread)
      .map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(libc::EAGAIN)))?;
    Ok(Self { shared })
  }

  /// Resolves when the call is done, or was abandoned. May be called once.
  #[napi(ts_return_type = "Promise<void>")]
  pub fn wait<'env>(&self, env: &'env Env) -> napi::Result<Object<'env>> {
    let (waiter, promise) = env.create_deferred()?;
    let mut shared = lock(&self.shared);
    if shared.outcome.is_some() || shared.abandoned {
      notify(waiter);
    } else {
      shared.waiter = Some(waiter);
    }
    Ok(promise)
  }

  /// Returns the kind of the file that was found; null before the call is done, or if it has failed.
  #[napi(getter)]
  pub fn kind(&self) -> Option<Kind> {
    self.examined().map(|examined| examined.kind.into())
  }

  /// Returns whether the file that was found shows the state of the kernel or of processes, and the directory does not.
  #[napi(getter)]
  pub fn is_magic(&self) -> bool {
    self.examined().is_some_and(|examined| examined.is_magic)
  }

  fn examined(&self) -> Option<Examined> {
    lock(&self.shared).outcome.as_ref()?.as_ref().ok()?.examined
  }

  /// Returns whether the call's thread runs.
  #[napi(getter)]
  pub fn is_running(&self) -> bool {
    Arc::strong_count(&self.shared) > 1
  }

  /// Gives up what the call opens: it is closed on the call's thread.
  #[napi]
  pub fn abandon(&self) {
    let mut shared = lock(&self.shared);
    shared.abandoned = true;
    let (outcome, waiter) = (shared.outcome.take(), shared.waiter.take());
    drop(shared);
    if let Some(waiter) = waiter {
      notify(waiter);
    }
    if let Some(Ok(opened)) = outcome {
      // Without a thread it is closed here.
      let _ = fdpass_core::spawn_thread(std::thread::Builder::new().stack_size(STACK), move || drop(opened));
    }
  }
}

impl Drop for BlockingOpen {
  fn drop(&mut self) {
    self.abandon();
  }
}
