//! Opening files beneath a directory, and no others, even if another process swaps path components concurrently.
//!
//! A file is found first, without a side effect, so that the caller can inspect it. Then exactly this file is opened.

#![cfg_attr(not(test), deny(clippy::arithmetic_side_effects))] // of numbers that a peer sends

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, fstatat};
use nix::sys::statfs::{Statfs, fstatfs};

use crate::fd::{Kind, set_blocking};
use crate::sys::errno::restart;

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
  restart(|| nix::fcntl::open(path, PLACE | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty()))
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
  check_flags(flags)?;
  let found = open_beneath(root, path, PLACE | flags & (OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW), Mode::empty())?;
  if is(SFlag::S_IFLNK, &status(&found)?) { Err(Errno::EACCES) } else { Ok(found) }
}

fn check_flags(flags: OFlag) -> nix::Result<()> {
  let makes_directory = flags.contains(OFlag::O_CREAT | OFlag::O_DIRECTORY);
  if !ACCEPTED.contains(flags) || flags & ACCESS == ACCESS || makes_directory { Err(Errno::EINVAL) } else { Ok(()) }
}

/// Whether opening files on the file system of a directory never waits for another process or machine, as it can in a file
/// system in user space. Only the file systems that are known for it count.
pub fn is_local(directory: BorrowedFd<'_>) -> bool {
  restart(|| fstatfs(directory)).is_ok_and(|status| has_local_type(&status))
}

#[cfg(target_os = "linux")]
fn has_local_type(status: &Statfs) -> bool {
  // ext4, xfs, btrfs, tmpfs, f2fs, zfs, bcachefs: linux/magic.h. Not overlayfs, whose layers can be of any type.
  const LOCAL: [u32; 7] = [0xef53, 0x5846_5342, 0x9123_683e, 0x0102_1994, 0xf2f5_2010, 0x2fc1_2fc1, 0xca45_1a4e];
  LOCAL.contains(&(status.filesystem_type().0 as u32))
}

#[cfg(not(target_os = "linux"))]
fn has_local_type(_: &Statfs) -> bool {
  false
}

/// Finds a file as [`find_beneath`] if its path is in the kernel's cache and crosses no mount point, so that nothing can block:
/// `RESOLVE_CACHED`, from Linux 5.12 on. Otherwise `EAGAIN`, or an error that [`find_beneath`] may not return.
#[cfg(target_os = "linux")]
pub fn find_cached(root: BorrowedFd<'_>, path: &Path, flags: OFlag) -> nix::Result<OwnedFd> {
  use nix::fcntl::{OpenHow, ResolveFlag, openat2};
  check_flags(flags)?;
  let resolve = ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS | ResolveFlag::RESOLVE_NO_XDEV;
  let resolve = resolve | ResolveFlag::from_bits_retain(libc::RESOLVE_CACHED);
  let kept = flags & (OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW);
  let found = restart(|| openat2(root, path, OpenHow::new().flags(always(PLACE | kept)).resolve(resolve)))?;
  if is(SFlag::S_IFLNK, &status(&found)?) { Err(Errno::EACCES) } else { Ok(found) }
}

/// Always `EAGAIN`: there is no such call.
#[cfg(not(target_os = "linux"))]
pub fn find_cached(_: BorrowedFd<'_>, _: &Path, _: OFlag) -> nix::Result<OwnedFd> {
  Err(Errno::EAGAIN)
}

/// What a policy has to know about a file that [`find_beneath`] has found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Examined {
  /// Its kind.
  pub kind: Kind,
  /// Whether it is on a file system that shows the state of the kernel and of processes, such as proc(5), and the directory
  /// is not on the same one.
  pub is_magic: bool,
}

/// Examines a file that was found beneath a directory. The file's file system can block: fstat(2), fstatfs(2).
pub fn examine(root: BorrowedFd<'_>, found: BorrowedFd<'_>) -> nix::Result<Examined> {
  let kind = Kind::of(found)?;
  // A file system in user space answers as it likes, but is none of these. A removed one may answer nothing.
  let is_magic = restart(|| fstatfs(found)).is_ok_and(|status| is_magic(&status));
  Ok(Examined { kind, is_magic: is_magic && status(root)?.st_dev != status(found)?.st_dev })
}

/// The file systems of Linux whose files are not data: linux/magic.h.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn is_magic(status: &Statfs) -> bool {
  const MAGIC: [u32; 18] = [
    0x0000_9fa0, // proc
    0x6265_6572, // sysfs
    0x6462_6720, // debugfs
    0x7472_6163, // tracefs
    0x7363_6673, // securityfs
    0xf97c_ff8c, // selinuxfs
    0x4341_5d53, // smackfs
    0x0027_e0eb, // cgroup
    0x6367_7270, // cgroup2
    0xcafe_4a11, // bpf
    0x6e73_6673, // nsfs
    0x5049_4446, // pidfs
    0xde5e_81e4, // efivarfs
    0x6165_676c, // pstore
    0x4249_4e4d, // binfmt_misc
    0x6265_6570, // configfs
    0x6573_5543, // fusectl
    0x0765_5821, // resctrl
  ];
  // The type's width and sign differ between C libraries.
  MAGIC.contains(&(status.filesystem_type().0 as u32))
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn is_magic(status: &Statfs) -> bool {
  matches!(status.filesystem_type_name(), "procfs" | "fdescfs" | "linprocfs" | "linsysfs")
}

/// Opens exactly the file that [`find_beneath`] has found.
///
/// It waits neither for another end of a FIFO nor for the owner of a lease: the file is opened with `O_NONBLOCK`, which returns
/// `ENXIO` for writing to a FIFO without a reader, and `EAGAIN` for a file with a lease, whose owner is notified. The flag is off
/// afterwards unless the caller passed it. A file system in user space or on another machine can block all the same. `ESTALE`
/// if there is no /proc and the path now names another file.
pub fn open_found(root: BorrowedFd<'_>, path: &Path, found: BorrowedFd<'_>, flags: OFlag) -> nix::Result<OwnedFd> {
  let wanted = flags.difference(OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW);
  let opened = match reopen(found, wanted | OFlag::O_NONBLOCK) {
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
    match restart(|| openat2(root, path, how)) {
      // A lease, or a rename that raced with a `..`, so that the kernel cannot determine the position.
      Err(Errno::EAGAIN) => {}
      Err(Errno::EXDEV | Errno::ELOOP) => return Err(Errno::EACCES),
      result => return result,
    }
  }
  Err(if flags.contains(PLACE) { Errno::EACCES } else { Errno::EAGAIN })
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
  let opened = match restart(|| openat(directory, name, always(flags) | OFlag::O_NOFOLLOW, mode)) {
    // FreeBSD returns EMLINK.
    Err(Errno::ELOOP | Errno::EMLINK) => return Err(Errno::EACCES),
    // With O_DIRECTORY also for a link. If it is a directory now, it was swapped in between.
    Err(Errno::ENOTDIR) => {
      let status = restart(|| fstatat(directory, name, AtFlags::AT_SYMLINK_NOFOLLOW));
      let refused = status.is_ok_and(|status| is(SFlag::S_IFLNK, &status) || is(SFlag::S_IFDIR, &status));
      return Err(if refused { Errno::EACCES } else { Errno::ENOTDIR });
    }
    result => result?,
  };
  // O_PATH opens a link itself.
  if flags.contains(PLACE) && is(SFlag::S_IFLNK, &status(&opened)?) { Err(Errno::EACCES) } else { Ok(opened) }
}

/// Returns the status of a file: fstat(2).
fn status(fd: impl AsFd) -> nix::Result<FileStat> {
  restart(|| fstat(&fd))
}

fn is(kind: SFlag, status: &FileStat) -> bool {
  SFlag::from_bits_truncate(status.st_mode) & SFlag::S_IFMT == kind
}

/// Opens the file of an `O_PATH` descriptor by its link in /proc.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn reopen(found: BorrowedFd<'_>, flags: OFlag) -> nix::Result<OwnedFd> {
  use std::os::fd::AsRawFd;
  let link = format!("/proc/self/fd/{}", found.as_raw_fd());
  restart(|| nix::fcntl::open(link.as_str(), always(flags), Mode::empty()))
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn reopen(_: BorrowedFd<'_>, _: OFlag) -> nix::Result<OwnedFd> {
  Err(Errno::ENOSYS)
}

/// Opens the path again, and checks that it is the file that was found before the file is changed.
fn open_same(root: BorrowedFd<'_>, path: &Path, found: BorrowedFd<'_>, flags: OFlag) -> nix::Result<OwnedFd> {
  let harmless = flags.difference(OFlag::O_TRUNC) | OFlag::O_NONBLOCK;
  let opened = open_beneath(root, path, harmless, Mode::empty())?;
  let (expected, actual) = (status(found)?, status(&opened)?);
  if (expected.st_dev, expected.st_ino) != (actual.st_dev, actual.st_ino) {
    return Err(Errno::ESTALE);
  }
  if flags.contains(OFlag::O_TRUNC) {
    restart(|| nix::unistd::ftruncate(&opened, 0))?;
  }
  Ok(opened)
}
