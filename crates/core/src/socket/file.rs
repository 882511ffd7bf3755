//! The file that `bind(2)` creates for a path.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf, absolute};

use nix::errno::Errno;
use nix::fcntl::{self, OFlag};
use nix::sys::socket::{self as net, AddressFamily, SockFlag, SockType};
use nix::sys::stat::Mode;

use super::address::Address;
use super::unix::Socket;
use crate::sys::errno::of_io_error;
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
    let metadata = fs::symlink_metadata(&path).map_err(of_io_error)?;
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

  fn is(&self, metadata: &fs::Metadata) -> bool {
    (metadata.dev(), metadata.ino()) == (self.device, self.inode)
  }
}

impl Drop for SocketFile {
  fn drop(&mut self) {
    let still_there = fs::symlink_metadata(&self.path).is_ok_and(|metadata| self.is(&metadata));
    // After a fork the child has the socket too, but the parent owns the file.
    if still_there && self.process == std::process::id() {
      let _ = fs::remove_file(&self.path);
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
    net::bind(socket.as_fd().as_raw_fd(), address.raw())?;
    return Ok(None);
  };
  bind_path(socket, path, address, mode)?;
  let file = SocketFile::find(path).inspect_err(|_| {
    let _ = fs::remove_file(path); // bind(2) has just created it
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
      match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(of_io_error(error)),
        _ => {}
      }
    }
  }
}

/// Binds to a path. Linux creates the file with the mode of the socket itself, less the umask (`unix_bind_bsd` in af_unix.c).
#[cfg(any(target_os = "linux", target_os = "android"))]
fn bind_file(socket: Socket<'_>, address: &Address, mode: Option<u32>) -> nix::Result<()> {
  if let Some(mode) = mode {
    nix::sys::stat::fchmod(socket.as_fd(), Mode::from_bits_truncate(mode))?;
  }
  net::bind(socket.as_fd().as_raw_fd(), address.raw())
}

/// Binds to a path. On other platforms only the umask decides the mode. It applies to the whole process: a file that another
/// thread creates at this moment has fewer permissions, never more.
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

/// Adds the permissions to the file's mode that the umask removed.
fn widen(file: &SocketFile, mode: u32) -> nix::Result<()> {
  // By a descriptor: between two calls by path, the path can come to name another file.
  #[cfg(any(target_os = "linux", target_os = "android"))]
  {
    // std's OpenOptions removes O_PATH from `custom_flags` on musl, whose O_ACCMODE includes it.
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

/// Lock for replacing a file, held by one process at a time: an `flock(2)` on a file beside it.
struct Lock {
  path: PathBuf,
  file: fs::File,
}

impl Lock {
  /// Acquires the lock. `EAGAIN` while another process holds it; `EADDRINUSE` if a file that is no lock has its name.
  fn acquire(path: &Path) -> nix::Result<Self> {
    let mut name = path.as_os_str().to_owned();
    name.push(".fdpass-lock");
    let path = PathBuf::from(name);
    loop {
      // O_NONBLOCK: if it is a FIFO, do not wait for a writer.
      let flags = OFlag::O_RDONLY | OFlag::O_CREAT | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
      let file = fs::File::from(fcntl::open(&path, flags, Mode::S_IRUSR | Mode::S_IWUSR)?);
      let metadata = file.metadata().map_err(of_io_error)?;
      if !metadata.is_file() || metadata.len() > 0 {
        return Err(Errno::EADDRINUSE);
      }
      lock(file.as_fd())?;
      // The previous holder may have removed it between the two calls.
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
