//! The file that `bind(2)` creates for a path.

use std::fs;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf, absolute};

use nix::errno::Errno;
use nix::fcntl::{self, OFlag};
use nix::sys::socket::{self as net, AddressFamily, SockFlag, SockType};
use nix::sys::stat::Mode;
#[cfg(any(target_os = "linux", target_os = "android"))]
use nix::{
  fcntl::AtFlags,
  unistd::{Gid, Uid, fchownat},
};

use super::address::Address;
use super::credentials::is_unknown_user;
use super::unix::Socket;
use crate::sys::errno::{of_io_error, restart, restart_io};
#[cfg(any(target_os = "linux", target_os = "android"))]
use crate::sys::fds::set_mode;
use crate::sys::fds::{lock, set_close_on_exec, unlock};

/// The file of a bound socket. Dropping it removes the file, if the path still names it and this process created it.
///
/// Drop it before the socket is closed: an open socket keeps the file's inode number from being reused.
#[derive(Debug)]
pub struct SocketFile {
  path: PathBuf,
  device: u64,
  inode: u64,
  process: u32,
}

impl SocketFile {
  fn find(path: &Path) -> nix::Result<Self> {
    let path = absolute(path).map_err(of_io_error)?; // the process may change its directory
    let metadata = restart_io(|| fs::symlink_metadata(&path))?;
    Ok(Self { path, device: metadata.dev(), inode: metadata.ino(), process: std::process::id() })
  }

  /// Keeps the file when this owner is dropped.
  pub fn keep(mut self) {
    self.path = PathBuf::new();
  }

  /// Keeps the file for a process that takes the socket over. Pass the result to its [`SocketFile::claim`].
  pub fn hand_over(self) -> [u8; 16] {
    let id = (u128::from(self.device) << 64) | u128::from(self.inode);
    self.keep();
    id.to_be_bytes()
  }

  /// Takes over the file of a socket that another process has bound and handed over. `None` if the socket's path now names
  /// another file, or none.
  pub fn claim(socket: Socket<'_>, id: [u8; 16]) -> nix::Result<Option<Self>> {
    let address = socket.local_address()?;
    let Some(path) = address.as_ref().and_then(Address::path) else { return Ok(None) };
    let Ok(file) = Self::find(path) else { return Ok(None) };
    if (u128::from(file.device) << 64) | u128::from(file.inode) == u128::from_be_bytes(id) {
      return Ok(Some(file));
    }
    file.keep();
    Ok(None)
  }

  /// Changes the owner and the group of the file: `chown(2)`. `None` leaves it. `EADDRINUSE` if the path names another file by now.
  pub fn set_owner(&self, uid: Option<u32>, gid: Option<u32>) -> nix::Result<()> {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    {
      let opened = self.open()?;
      let (uid, gid) = (uid.map(Uid::from_raw), gid.map(Gid::from_raw));
      restart(|| fchownat(opened.as_fd(), c"", uid, gid, AtFlags::AT_EMPTY_PATH))
    }
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    {
      if !restart_io(|| fs::symlink_metadata(&self.path)).is_ok_and(|metadata| self.is(&metadata)) {
        return Err(Errno::EADDRINUSE);
      }
      restart_io(|| std::os::unix::fs::lchown(&self.path, uid, gid))
    }
  }

  /// Opens the file as a mere reference. Between two calls by path, the path can come to name another file: `EADDRINUSE`.
  #[cfg(any(target_os = "linux", target_os = "android"))]
  fn open(&self) -> nix::Result<fs::File> {
    // std's OpenOptions removes O_PATH from `custom_flags` on musl, whose O_ACCMODE includes it.
    let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let opened = fs::File::from(restart(|| fcntl::open(&self.path, flags, Mode::empty()))?);
    let metadata = restart_io(|| opened.metadata())?;
    if self.is(&metadata) { Ok(opened) } else { Err(Errno::EADDRINUSE) }
  }

  fn is(&self, metadata: &fs::Metadata) -> bool {
    (metadata.dev(), metadata.ino()) == (self.device, self.inode)
  }
}

impl Drop for SocketFile {
  fn drop(&mut self) {
    let still_there = restart_io(|| fs::symlink_metadata(&self.path)).is_ok_and(|metadata| self.is(&metadata));
    // After a fork the child has the socket too, but the parent owns the file.
    if still_there && self.process == std::process::id() {
      let _ = restart_io(|| fs::remove_file(&self.path));
    }
  }
}

/// Binds a socket to an address: `bind(2)`. For a path, returns the owner of its file.
///
/// `mode` is the exact mode of the file. Default: 0777 less the umask. The file never has more permissions than that.
///
/// A stale file, to which no socket is bound any more, is replaced.
///
/// # Errors
///
/// - `EADDRINUSE`: a socket is bound to the file, the file is no socket, or its state cannot be determined.
/// - `EAGAIN`: another process is about to replace the file. A lock beside it (`PATH.fdpass-lock`) lets only one do so.
pub fn bind(socket: Socket<'_>, address: &Address, mode: Option<u32>) -> nix::Result<Option<SocketFile>> {
  let Some(path) = address.path() else {
    restart(|| net::bind(socket.as_fd().as_raw_fd(), address.raw()))?;
    return Ok(None);
  };
  bind_path(socket, path, address, mode)?;
  let file = SocketFile::find(path).inspect_err(|_| {
    let _ = restart_io(|| fs::remove_file(path)); // bind(2) has just created it
  })?;
  if let Some(mode) = mode {
    widen(&file, mode)?;
  }
  Ok(Some(file))
}

fn bind_path(socket: Socket<'_>, path: &Path, address: &Address, mode: Option<u32>) -> nix::Result<()> {
  loop {
    match bind_file(socket, address, mode) {
      Err(Errno::EADDRINUSE) => {}
      result => return result,
    }
    match Found::at(path, address)? {
      Found::Gone => continue,
      Found::InUse => return Err(Errno::EADDRINUSE),
      Found::Stale => {}
    }
    let _lock = Lock::acquire(path)?;
    // Once more under the lock, because a free path is bound without it. The kernel creates the file and binds it under the
    // folder's lock, which this attempt takes too. A file that it meets is therefore bound or stale, not about to be bound.
    match bind_file(socket, address, mode) {
      Err(Errno::EADDRINUSE) => {}
      result => return result,
    }
    if Found::at(path, address)? == Found::Stale {
      match restart_io(|| fs::remove_file(path)) {
        Ok(()) | Err(Errno::ENOENT) => {}
        Err(errno) => return Err(errno),
      }
    }
  }
}

/// Binds to a path. Linux creates the file with the mode of the socket itself, less the umask (`unix_bind_bsd` in af_unix.c).
#[cfg(any(target_os = "linux", target_os = "android"))]
fn bind_file(socket: Socket<'_>, address: &Address, mode: Option<u32>) -> nix::Result<()> {
  if let Some(mode) = mode {
    restart(|| nix::sys::stat::fchmod(socket.as_fd(), Mode::from_bits_truncate(mode)))?;
  }
  restart(|| net::bind(socket.as_fd().as_raw_fd(), address.raw()))
}

/// Binds to a path. On other platforms only the umask decides the mode. It applies to the whole process: a file that another
/// thread creates at this moment has fewer permissions, never more.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn bind_file(socket: Socket<'_>, address: &Address, mode: Option<u32>) -> nix::Result<()> {
  use nix::sys::stat::umask;
  let before = mode.map(|mode| umask(Mode::from_bits_truncate(!mode as libc::mode_t & 0o777)));
  let result = restart(|| net::bind(socket.as_fd().as_raw_fd(), address.raw()));
  if let Some(before) = before {
    umask(before);
  }
  result
}

/// Adds the permissions to the file's mode that the umask removed.
fn widen(file: &SocketFile, mode: u32) -> nix::Result<()> {
  #[cfg(any(target_os = "linux", target_os = "android"))]
  {
    let opened = file.open()?;
    if restart_io(|| opened.metadata())?.mode() & 0o777 != mode {
      set_mode(opened.as_fd(), mode)?;
    }
  }
  let _ = (file, mode);
  Ok(())
}

/// State of a path that a socket is to be bound to.
#[derive(PartialEq, Eq)]
enum Found {
  /// There is no file any more.
  Gone,
  /// The file of a closed socket.
  Stale,
  /// Another file, or the file of a socket that is or may be bound.
  InUse,
}

impl Found {
  /// Determines the state by connecting a datagram socket, which no process notices. With a stream or seqpacket socket,
  /// listening or not, it fails with `EPROTOTYPE`; a datagram socket is not informed.
  fn at(path: &Path, address: &Address) -> nix::Result<Self> {
    match restart_io(|| fs::symlink_metadata(path)) {
      Err(Errno::ENOENT) => return Ok(Self::Gone),
      Err(errno) => return Err(errno),
      Ok(metadata) if !metadata.file_type().is_socket() => return Ok(Self::InUse),
      Ok(_) => {}
    }
    let probe = net::socket(AddressFamily::Unix, SockType::Datagram, SockFlag::empty(), None)?;
    set_close_on_exec(&probe)?;
    Ok(match restart(|| net::connect(probe.as_raw_fd(), address.raw())) {
      Err(Errno::ECONNREFUSED) => Self::Stale,
      Err(Errno::ENOENT) => Self::Gone,
      _ => Self::InUse,
    })
  }
}

/// Lock for replacing a file, held by one process at a time: an `flock(2)` on a file beside it.
struct Lock {
  path: PathBuf,
  file: fs::File,
}

/// `S_ISVTX`, as `st_mode` has it on each system.
const STICKY: u32 = 0o1000;

/// The number of names of locks that are tried in a sticky folder.
const LOCK_NAMES: usize = 4;

impl Lock {
  /// Acquires the lock. `EAGAIN` while another process holds it; `EADDRINUSE` if a file that is no lock has its name.
  ///
  /// In a sticky folder only the file's owner, the folder's owner and root can replace a file, so only their locks count.
  /// Any user can create files in it, and hold a lock for ever. `None` if other users have all names of the lock: two
  /// processes that replace the file at the same moment are then not kept apart.
  fn acquire(path: &Path) -> nix::Result<Option<Self>> {
    let trusted = trusted_owner(path)?;
    for index in 0..LOCK_NAMES {
      let mut name = path.as_os_str().to_owned();
      name.push(".fdpass-lock");
      if index > 0 {
        name.push(format!("-{index}"));
      }
      if let Some(lock) = Self::acquire_named(PathBuf::from(name), &trusted)? {
        return Ok(Some(lock));
      }
    }
    Ok(None)
  }

  /// Acquires the lock of a name; `None` if the file of this name belongs to a user whose locks do not count.
  fn acquire_named(path: PathBuf, counts: &impl Fn(u32) -> bool) -> nix::Result<Option<Self>> {
    loop {
      // O_NONBLOCK: if it is a FIFO, do not wait for a writer.
      let flags = OFlag::O_RDONLY | OFlag::O_CREAT | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
      let file = match restart(|| fcntl::open(&path, flags, Mode::S_IRUSR | Mode::S_IWUSR)) {
        Ok(file) => fs::File::from(file),
        // A link, a directory, or a file that this process may not open: fs.protected_regular (proc(5)) refuses even root.
        Err(errno) => match restart_io(|| fs::symlink_metadata(&path)) {
          Ok(metadata) if !counts(metadata.uid()) => return Ok(None),
          Err(Errno::ENOENT) if errno == Errno::EEXIST => continue, // removed meanwhile
          _ => return Err(errno),
        },
      };
      let metadata = restart_io(|| file.metadata())?;
      if !counts(metadata.uid()) {
        return Ok(None);
      }
      if !metadata.is_file() || metadata.len() > 0 {
        return Err(Errno::EADDRINUSE);
      }
      lock(file.as_fd())?;
      // The previous holder may have removed it between the two calls.
      if restart_io(|| file.metadata())?.nlink() > 0 {
        return Ok(Some(Self { path, file }));
      }
    }
  }
}

/// Returns a function that decides whether a user's locks count for a path.
fn trusted_owner(path: &Path) -> nix::Result<impl Fn(u32) -> bool> {
  let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
  let metadata = restart_io(|| fs::metadata(folder))?;
  let is_sticky = metadata.mode() & STICKY != 0;
  let owners = [0, nix::unistd::geteuid().as_raw(), metadata.uid()];
  Ok(move |uid| !is_sticky || (owners.contains(&uid) && !is_unknown_user(uid)))
}

impl Drop for Lock {
  fn drop(&mut self) {
    let _ = restart_io(|| fs::remove_file(&self.path)); // while it is locked
    unlock(self.file.as_fd());
  }
}
