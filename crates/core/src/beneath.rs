//! Opening files beneath a directory, and no others, even if another process swaps path components concurrently.
//!
//! A file is found first, without a side effect, so that the caller can inspect it. Then exactly this file is opened.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, fstatat};

use crate::fd::{Kind, set_blocking};

/// Bits of the access mode. musl's `O_ACCMODE` includes `O_PATH`.
const ACCESS: OFlag = OFlag::O_WRONLY.union(OFlag::O_RDWR);

/// Flags that a caller may pass.
const ACCEPTED: OFlag = ACCESS
  .union(OFlag::O_APPEND)
  .union(OFlag::O_CLOEXEC)
  .union(OFlag::O_CREAT)
  .union(OFlag::O_DIRECTORY)
  .union(OFlag::O_DSYNC)
  .union(OFlag::O_EXCL)
  .union(OFlag::O_NOCTTY)
  .union(OFlag::O_NOFOLLOW)
  .union(OFlag::O_NONBLOCK)
  .union(OFlag::O_SYNC)
  .union(OFlag::O_TRUNC)
  .union(NO_ACCESS_TIME);

#[cfg(any(target_os = "linux", target_os = "android"))]
const NO_ACCESS_TIME: OFlag = OFlag::O_NOATIME;
#[cfg(not(any(target_os = "linux", target_os = "android")))]
const NO_ACCESS_TIME: OFlag = OFlag::empty();

/// Opens a file without access to its contents.
#[cfg(not(target_vendor = "apple"))]
const PLACE: OFlag = OFlag::O_PATH;
#[cfg(target_vendor = "apple")]
const PLACE: OFlag = OFlag::from_bits_retain(libc::O_EVTONLY).union(OFlag::O_NONBLOCK);

/// How often openat2(2) is tried when a rename races with it.
#[cfg(target_os = "linux")]
const ATTEMPTS: usize = 64;

/// Maximum depth of a path that is resolved by component, because each directory stays open meanwhile.
const MAX_DIRECTORIES: usize = 256;

/// Opens the directory beneath which files are opened. Its own path may be any.
pub fn open_root(path: &Path) -> nix::Result<OwnedFd> {
  nix::fcntl::open(path, PLACE | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())
}

/// Finds the file that a path names beneath a directory, without opening it. The caller may inspect the result and then pass
/// it to [`open_found`].
///
/// Only the flags `O_DIRECTORY` and `O_NOFOLLOW` affect the search.
///
/// # Errors
///
/// - `EINVAL`: unsupported flags.
/// - `EACCES`: the path leads out of the directory, or through a link that may not be followed.
/// - `ENOENT`, `ENOTDIR`, …: as open(2).
pub fn find_beneath(root: BorrowedFd<'_>, path: &Path, flags: OFlag) -> nix::Result<OwnedFd> {
  let makes_directory = flags.contains(OFlag::O_CREAT | OFlag::O_DIRECTORY);
  if !ACCEPTED.contains(flags) || flags & ACCESS == ACCESS || makes_directory {
    return Err(Errno::EINVAL);
  }
  let found = open_beneath(root, path, PLACE | flags & (OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW), Mode::empty())?;
  if is(SFlag::S_IFLNK, &fstat(&found)?) { Err(Errno::EACCES) } else { Ok(found) }
}

/// Opens exactly the file that [`find_beneath`] has found.
///
/// It never waits: a FIFO is opened as with `O_NONBLOCK`, which returns `ENXIO` for writing without a reader. The flag is off
/// afterwards unless the caller passed it. `ESTALE` if there is no /proc and the path now names another file.
pub fn open_found(root: BorrowedFd<'_>, path: &Path, found: BorrowedFd<'_>, flags: OFlag) -> nix::Result<OwnedFd> {
  let wanted = flags - (OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW);
  let may_wait = matches!(Kind::of(found)?, Kind::Fifo | Kind::CharacterDevice | Kind::BlockDevice | Kind::Tty);
  let unblocked = if may_wait { wanted | OFlag::O_NONBLOCK } else { wanted };
  let opened = match reopen(found, unblocked) {
    Err(Errno::ENOENT | Errno::ENOSYS) => open_same(root, path, found, wanted), // no /proc
    result => result,
  }?;
  if !flags.contains(OFlag::O_NONBLOCK) {
    set_blocking(opened.as_fd(), true)?;
  }
  Ok(opened)
}

/// Creates a file beneath a directory: `O_CREAT | O_EXCL`. `EEXIST` if the name exists, even as a dangling link.
pub fn create_beneath(root: BorrowedFd<'_>, path: &Path, flags: OFlag, mode: Mode) -> nix::Result<OwnedFd> {
  open_beneath(root, path, flags | OFlag::O_CREAT | OFlag::O_EXCL, mode)
}

/// Opens the file that a path names beneath a directory: openat2(2) with `RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS`, or by
/// component if that call is not available.
///
/// A terminal does not become the controlling terminal. `EACCES` if the path leaves the directory, even if it returns, or
/// contains a link that may not be followed.
pub fn open_beneath(root: BorrowedFd<'_>, path: &Path, flags: OFlag, mode: Mode) -> nix::Result<OwnedFd> {
  #[cfg(target_os = "linux")]
  if has_openat2() {
    return open_at_once(root, path, flags, mode);
  }
  open_by_component(root, path, flags, mode)
}

#[cfg(target_os = "linux")]
fn open_at_once(root: BorrowedFd<'_>, path: &Path, flags: OFlag, mode: Mode) -> nix::Result<OwnedFd> {
  use nix::fcntl::{OpenHow, ResolveFlag, openat2};
  // openat2(2) takes no mode without O_CREAT.
  let mode = if flags.contains(OFlag::O_CREAT) { mode } else { Mode::empty() };
  let resolve = ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS;
  let how = OpenHow::new().flags(always(flags)).mode(mode).resolve(resolve);
  for _ in 0..ATTEMPTS {
    match openat2(root, path, how) {
      Err(Errno::EINTR) => {}
      // A lease, or a rename that raced with a `..`, so that the kernel cannot determine the position.
      Err(Errno::EAGAIN) => {}
      Err(Errno::EXDEV | Errno::ELOOP) => return Err(Errno::EACCES),
      result => return result,
    }
  }
  Err(Errno::EACCES)
}

/// Returns whether openat2(2) is available: from Linux 5.6 on, unless a seccomp filter refuses it with `EPERM`.
#[cfg(target_os = "linux")]
fn has_openat2() -> bool {
  use nix::fcntl::{AT_FDCWD, OpenHow, openat2};
  static HAS: std::sync::OnceLock<bool> = std::sync::OnceLock::new();
  *HAS.get_or_init(|| {
    let how = OpenHow::new().flags(OFlag::O_PATH | OFlag::O_CLOEXEC);
    !matches!(openat2(AT_FDCWD, "/", how), Err(Errno::ENOSYS | Errno::EPERM))
  })
}

/// Adds the flags of every open.
fn always(flags: OFlag) -> OFlag {
  // openat2(2) accepts few other flags with O_PATH.
  let terminal = if flags.contains(PLACE) { OFlag::empty() } else { OFlag::O_NOCTTY };
  flags | terminal | OFlag::O_CLOEXEC
}

/// Opens as [`open_beneath`], one component after the other, each in the directory of the one before it. No link is followed,
/// and `..` is the previous directory of the path.
pub fn open_by_component(root: BorrowedFd<'_>, path: &Path, flags: OFlag, mode: Mode) -> nix::Result<OwnedFd> {
  let bytes = path.as_os_str().as_bytes();
  if bytes.is_empty() {
    return Err(Errno::ENOENT);
  }
  if path.is_absolute() {
    return Err(Errno::EACCES);
  }
  let flags = if bytes.ends_with(b"/") { flags | OFlag::O_DIRECTORY } else { flags };
  if flags.contains(OFlag::O_CREAT | OFlag::O_DIRECTORY) {
    return Err(Errno::EISDIR);
  }
  let mut components: Vec<_> = bytes.split(|&byte| byte == b'/').filter(|name| !name.is_empty()).collect();
  // `.` and `..` name no entry that could be opened or created: the directory itself is opened instead.
  let last = components.pop_if(|name| !matches!(*name, b"." | b"..")).unwrap_or(b".");
  let mut directories: Vec<OwnedFd> = Vec::new();
  for name in components {
    match name {
      b"." => {}
      b".." => drop(directories.pop().ok_or(Errno::EACCES)?),
      _ if directories.len() == MAX_DIRECTORIES => return Err(Errno::ENAMETOOLONG),
      name => {
        let parent = directories.last().map_or(root, AsFd::as_fd);
        directories.push(open_component(parent, name, PLACE | OFlag::O_DIRECTORY, Mode::empty())?);
      }
    }
  }
  open_component(directories.last().map_or(root, AsFd::as_fd), last, flags, mode)
}

fn open_component(directory: BorrowedFd<'_>, name: &[u8], flags: OFlag, mode: Mode) -> nix::Result<OwnedFd> {
  let name = OsStr::from_bytes(name);
  let opened = loop {
    match openat(directory, name, always(flags) | OFlag::O_NOFOLLOW, mode) {
      Err(Errno::EINTR) => {}
      // FreeBSD returns EMLINK.
      Err(Errno::ELOOP | Errno::EMLINK) => return Err(Errno::EACCES),
      // With O_DIRECTORY also for a link. If it is a directory now, it was swapped in between.
      Err(Errno::ENOTDIR) => {
        let status = fstatat(directory, name, AtFlags::AT_SYMLINK_NOFOLLOW);
        let refused = status.is_ok_and(|status| is(SFlag::S_IFLNK, &status) || is(SFlag::S_IFDIR, &status));
        return Err(if refused { Errno::EACCES } else { Errno::ENOTDIR });
      }
      result => break result?,
    }
  };
  // O_PATH opens a link itself.
  if flags.contains(PLACE) && is(SFlag::S_IFLNK, &fstat(&opened)?) { Err(Errno::EACCES) } else { Ok(opened) }
}

fn is(kind: SFlag, status: &FileStat) -> bool {
  SFlag::from_bits_truncate(status.st_mode) & SFlag::S_IFMT == kind
}

/// Opens the file of an `O_PATH` descriptor by its link in /proc.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn reopen(found: BorrowedFd<'_>, flags: OFlag) -> nix::Result<OwnedFd> {
  use std::os::fd::AsRawFd;
  let link = format!("/proc/self/fd/{}", found.as_raw_fd());
  loop {
    match nix::fcntl::open(link.as_str(), always(flags), Mode::empty()) {
      Err(Errno::EINTR) => {}
      result => return result,
    }
  }
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn reopen(_: BorrowedFd<'_>, _: OFlag) -> nix::Result<OwnedFd> {
  Err(Errno::ENOSYS)
}

/// Opens the path again, and checks that it is the file that was found before the file is changed.
fn open_same(root: BorrowedFd<'_>, path: &Path, found: BorrowedFd<'_>, flags: OFlag) -> nix::Result<OwnedFd> {
  let harmless = (flags - OFlag::O_TRUNC) | OFlag::O_NONBLOCK;
  let opened = open_beneath(root, path, harmless, Mode::empty())?;
  let (expected, actual) = (fstat(found)?, fstat(&opened)?);
  if (expected.st_dev, expected.st_ino) != (actual.st_dev, actual.st_ino) {
    return Err(Errno::ESTALE);
  }
  if flags.contains(OFlag::O_TRUNC) {
    nix::unistd::ftruncate(&opened, 0)?;
  }
  Ok(opened)
}
