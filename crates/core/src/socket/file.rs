//! The file that a socket bound to a path leaves in the file system.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf, absolute};

use nix::errno::Errno;
use nix::fcntl::{self, OFlag};
use nix::sys::socket::{self as net, AddressFamily, SockFlag, SockType};
use nix::sys::stat::Mode;

use super::{Address, Socket};
use crate::sys::errno::of_io_error;
use crate::sys::fds::{lock, set_close_on_exec, unlock};

/// The file of a bound socket. Dropping it removes the file, if it still is this one and this process made it; the
/// socket must still be open then, which keeps the file's inode number from being used again.
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
    let metadata = fs::symlink_metadata(&path).map_err(of_io_error)?;
    Ok(Self { path, device: metadata.dev(), inode: metadata.ino(), process: std::process::id() })
  }

  /// Leaves the file where it is.
  pub fn keep(mut self) {
    self.path = PathBuf::new();
  }

  /// Leaves the file to a process that takes the socket over; the result is for its [`SocketFile::claim`].
  pub fn hand_over(self) -> [u8; 16] {
    let id = (u128::from(self.device) << 64) | u128::from(self.inode);
    self.keep();
    id.to_be_bytes()
  }

  /// Takes over the file of a socket that another process has bound and handed on; none where the socket's path leads to
  /// another one by now, or to nothing.
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

  fn is(&self, metadata: &fs::Metadata) -> bool {
    (metadata.dev(), metadata.ino()) == (self.device, self.inode)
  }
}

impl Drop for SocketFile {
  fn drop(&mut self) {
    let still_there = fs::symlink_metadata(&self.path).is_ok_and(|metadata| self.is(&metadata));
    // After a fork the child has the socket too, but the file is its parent's.
    if still_there && self.process == std::process::id() {
      let _ = fs::remove_file(&self.path);
    }
  }
}

/// Gives a socket its address: `bind(2)`. For a path, the result is its file.
///
/// `mode` is the file's, exactly; without one it is what the umask leaves of 0777. At no moment is it open to more than
/// that.
///
/// A file that a socket left behind is replaced if nothing is bound to it any more. `EADDRINUSE` where something is,
/// where the file is no socket, and where that cannot be told; `EAGAIN` while another process is finding out: its lock
/// beside the file (`PATH.fdpass-lock`) sees to it that of many at once only one replaces it.
pub fn bind(socket: Socket<'_>, address: &Address, mode: Option<u32>) -> nix::Result<Option<SocketFile>> {
  let Some(path) = address.path() else {
    net::bind(socket.as_fd().as_raw_fd(), address.raw())?;
    return Ok(None);
  };
  bind_path(socket, path, address, mode)?;
  let file = SocketFile::find(path).inspect_err(|_| {
    let _ = fs::remove_file(path); // it was made just now
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
    let _lock = Lock::take(path)?;
    // Once more under the lock: a free path is given out without it. What this attempt meets is bound or stale, not about
    // to be bound, because the kernel makes the file and binds it under the folder's lock, which the attempt takes too.
    match bind_file(socket, address, mode) {
      Err(Errno::EADDRINUSE) => {}
      result => return result,
    }
    if Found::at(path, address)? == Found::Stale {
      match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(of_io_error(error)),
        _ => {}
      }
    }
  }
}

/// Linux makes the file with the mode that the socket itself has, less the umask (`unix_bind_bsd` in af_unix.c).
#[cfg(any(target_os = "linux", target_os = "android"))]
fn bind_file(socket: Socket<'_>, address: &Address, mode: Option<u32>) -> nix::Result<()> {
  if let Some(mode) = mode {
    nix::sys::stat::fchmod(socket.as_fd(), Mode::from_bits_truncate(mode))?;
  }
  net::bind(socket.as_fd().as_raw_fd(), address.raw())
}

/// Elsewhere only the umask decides. It is the whole process's: a file that another thread makes at this moment is open
/// to fewer, never to more.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn bind_file(socket: Socket<'_>, address: &Address, mode: Option<u32>) -> nix::Result<()> {
  use nix::sys::stat::umask;
  let before = mode.map(|mode| umask(Mode::from_bits_truncate(!mode as libc::mode_t & 0o777)));
  let result = net::bind(socket.as_fd().as_raw_fd(), address.raw());
  if let Some(before) = before {
    umask(before);
  }
  result
}

/// Adds to the file's mode what the umask took away.
fn widen(file: &SocketFile, mode: u32) -> nix::Result<()> {
  // By way of a descriptor: between two calls by name, the name can come to mean another file.
  #[cfg(any(target_os = "linux", target_os = "android"))]
  {
    // Not by std's OpenOptions: musl's O_ACCMODE holds O_PATH, so that std takes it out of `custom_flags`.
    let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let opened = fs::File::from(fcntl::open(&file.path, flags, Mode::empty())?);
    let metadata = opened.metadata().map_err(of_io_error)?;
    if !file.is(&metadata) {
      return Err(Errno::EADDRINUSE);
    }
    if metadata.mode() & 0o777 != mode {
      let link = format!("/proc/self/fd/{}", opened.as_raw_fd());
      fs::set_permissions(link, std::os::unix::fs::PermissionsExt::from_mode(mode)).map_err(of_io_error)?;
    }
  }
  let _ = (file, mode);
  Ok(())
}

/// What is found at the path of a socket.
#[derive(PartialEq, Eq)]
enum Found {
  /// Nothing, any more.
  Gone,
  /// What a socket left that is closed.
  Stale,
  /// Something else, or a socket's file of which that cannot be told.
  InUse,
}

impl Found {
  /// Connecting a datagram socket tells without disturbing anybody: to a stream or seqpacket socket, listening or about
  /// to, it fails with `EPROTOTYPE`, and a datagram socket does not notice.
  fn at(path: &Path, address: &Address) -> nix::Result<Self> {
    match fs::symlink_metadata(path) {
      Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::Gone),
      Err(error) => return Err(of_io_error(error)),
      Ok(metadata) if !metadata.file_type().is_socket() => return Ok(Self::InUse),
      Ok(_) => {}
    }
    let probe = net::socket(AddressFamily::Unix, SockType::Datagram, SockFlag::empty(), None)?;
    set_close_on_exec(&probe)?;
    Ok(match net::connect(probe.as_raw_fd(), address.raw()) {
      Err(Errno::ECONNREFUSED) => Self::Stale,
      Err(Errno::ENOENT) => Self::Gone,
      _ => Self::InUse,
    })
  }
}

/// The right to replace a file, held by one process at a time: an `flock(2)` on a file beside it.
struct Lock {
  path: PathBuf,
  file: fs::File,
}

impl Lock {
  /// `EAGAIN` while another process holds it; `EADDRINUSE` where something that is no lock has its name.
  fn take(path: &Path) -> nix::Result<Self> {
    let mut name = path.as_os_str().to_owned();
    name.push(".fdpass-lock");
    let path = PathBuf::from(name);
    loop {
      // Without waiting for a writer, should it be a FIFO.
      let flags = OFlag::O_RDONLY | OFlag::O_CREAT | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
      let file = fs::File::from(fcntl::open(&path, flags, Mode::S_IRUSR | Mode::S_IWUSR)?);
      let metadata = file.metadata().map_err(of_io_error)?;
      if !metadata.is_file() || metadata.len() > 0 {
        return Err(Errno::EADDRINUSE);
      }
      lock(file.as_fd())?;
      // Its last holder may have removed it between the two calls.
      if file.metadata().map_err(of_io_error)?.nlink() > 0 {
        return Ok(Self { path, file });
      }
    }
  }
}

impl Drop for Lock {
  fn drop(&mut self) {
    let _ = fs::remove_file(&self.path); // while it is locked
    unlock(self.file.as_fd());
  }
}
