//! The descriptors of one JavaScript environment, by number.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::ptr;
use std::sync::Arc;

use fdpass_core::{
  AncillaryOptions, Decoder, Direction, Errno, FileId, Kind, Limits, NonBlocking, Outbox, Socket, SocketFile,
  SocketType, is_main_thread, set_blocking,
};

use crate::claims::{self, Claim, ClaimedFd, Owner};
use crate::file_access::{FileAccess, FileLock};
use crate::reactor::{Reactor, Registration};

/// A descriptor that the environment owns. Most are received, passed on and closed, and have no details.
struct Entry {
  // Declared before `fd`, and so dropped before it: the registration and the file need the open descriptor.
  details: Option<Box<Details>>,
  fd: ClaimedFd,
  /// The user whose process has sent the descriptor, or is the socket's peer, and can make its close block; `NO_SENDER` for none.
  sender: u32,
}

/// No user's id: setuid(2) takes it for "unchanged".
const NO_SENDER: u32 = u32::MAX;

impl Entry {
  /// Ends the registration and restores the original blocking mode. A bound socket's file stays.
  fn detach(&mut self) -> Result<(), Errno> {
    let Some(details) = self.details.take() else { return Ok(()) };
    let Details { registration, file, socket, was_blocking, .. } = *details;
    drop(registration);
    if let Some(file) = file {
      file.keep();
    }
    self.details = socket.map(|socket| Box::new(Details { socket: Some(socket), ..Details::default() }));
    if was_blocking == Some(true) {
      set_blocking(self.fd.as_fd(), true)?;
    }
    Ok(())
  }
}

/// The state of a descriptor that the environment uses itself.
#[derive(Default)]
struct Details {
  registration: Option<Registration>,
  /// The file of a socket that was bound here. Dropping it removes the file.
  file: Option<SocketFile>,
  /// The type and options of a Unix domain socket; none if the descriptor is not known to be one.
  socket: Option<(SocketType, AncillaryOptions)>,
  /// Whether the descriptor was in blocking mode before `accept` changed the mode.
  was_blocking: Option<bool>,
  /// The frames of a channel.
  framing: Option<Box<Framing>>,
  /// The claim on the number of a descriptor that `non_blocking` has opened, which drops before it is closed.
  reopened: Option<Claim>,
  /// How the descriptor is read and written without waiting.
  non_blocking: Option<NonBlocking>,
  /// The access of the thread pool to a file.
  file_access: Option<FileAccess>,
}

/// The frames of a stream socket.
pub(crate) struct Framing {
  /// The frames that arrive.
  pub(crate) decoder: Decoder,
  /// The frames that are queued for sending.
  pub(crate) outbox: Outbox,
}

/// The owner of all descriptors of one JavaScript environment. JavaScript knows them by number: in a `UnixSocket`, in a
/// `Descriptor`, or as the duplicates of a pending send.
pub(crate) struct Table {
  // Declared before `reactor`, and so dropped before it: a registration needs the reactor.
  entries: Vec<Option<Entry>>,
  reactor: Reactor,
  owner: Owner,
  /// The numbers that an object of the runtime is taking, and may own already. In a Worker with the file of each: the process continues when a
  /// Worker ends, and another thread can have the number then. The end of the main thread is that of the process.
  leaving: Vec<(RawFd, Option<FileId>)>,
  is_main_thread: bool,
}

impl Table {
  /// Creates an empty table over a reactor.
  pub(crate) fn new(reactor: Reactor) -> Self {
    Self { entries: Vec::new(), reactor, owner: Owner::new(), leaving: Vec::new(), is_main_thread: is_main_thread() }
  }

  /// Takes ownership of a descriptor and returns its number.
  pub(crate) fn insert(&mut self, fd: OwnedFd) -> RawFd {
    let number = fd.as_raw_fd();
    self.insert_claimed(number, self.owner.claim(fd));
    number
  }

  /// Takes ownership of a descriptor that a process of this user has sent.
  pub(crate) fn insert_from(&mut self, fd: OwnedFd, sender: u32) -> RawFd {
    let number = self.insert(fd);
    if let Ok(entry) = self.get_mut(number) {
      entry.sender = sender;
    }
    number
  }

  /// Notes that a process of this user has sent a descriptor, or is the peer of a socket that is no channel yet. It is closed by
  /// [`fdpass_core::close_apart`], and so are its duplicates and what comes over the channel.
  pub(crate) fn set_sender(&mut self, number: RawFd, sender: u32) -> Result<(), Errno> {
    self.get_mut(number)?.sender = sender;
    Ok(())
  }

  /// Returns the user whose process has sent a descriptor.
  pub(crate) fn sender(&self, number: RawFd) -> Option<u32> {
    self.get(number).ok().map(|entry| entry.sender).filter(|&sender| sender != NO_SENDER)
  }

  /// Takes ownership of a number of this process, and makes it close-on-exec. Fails with `EEXIST` if an environment of this
  /// process owns it, and with `EBUSY` if the runtime uses it.
  ///
  /// # Safety
  /// See [`fdpass_core::adopt`].
  pub(crate) unsafe fn adopt(&mut self, number: RawFd) -> Result<(), Errno> {
    let claim = self.owner.claim_unowned(number)?;
    let fd = self.borrowed_one(&number)?;
    if claims::is_reserved(fd)? || self.reactor.is_watched_by_runtime(fd) {
      return Err(Errno::EBUSY);
    }
    // SAFETY: as the caller promises. No environment owns the number, because the claim has succeeded.
    let fd = unsafe { fdpass_core::adopt(number) }?;
    self.insert_claimed(number, ClaimedFd::new(claim, fd));
    Ok(())
  }

  /// Returns whether the table owns a number.
  fn owns(&self, number: RawFd) -> bool {
    self.get(number).is_ok()
  }

  fn insert_claimed(&mut self, number: RawFd, fd: ClaimedFd) {
    let index = number as usize;
    if index >= self.entries.len() {
      self.entries.resize_with((index + 1).next_power_of_two(), || None);
    }
    let stale =
      self.entries.get_mut(index).and_then(|place| place.replace(Entry { details: None, fd, sender: NO_SENDER }));
    if let Some(stale) = stale {
      // The program closed the number itself, and the kernel has assigned it again: it belongs to the new descriptor.
      stale.fd.supersede();
    }
  }

  /// Borrows descriptors by their numbers, which can be any of the process. Fails with `EBADF` for one that is not open.
  #[inline(always)]
  pub(crate) fn borrowed<'a>(&self, numbers: &'a [RawFd]) -> Result<&'a [BorrowedFd<'a>], Errno> {
    for &number in numbers {
      if !self.owns(number) {
        fdpass_core::check_open(number)?;
      }
    }
    // Each number is open: the table owns it, or `check_open` has found it open. Calls end before JavaScript of this thread, which
    // could close it, runs again. If another thread of the program closes it meanwhile, the kernel returns `EBADF` or uses the
    // file that has the number then, as for node:fs.
    // SAFETY: `BorrowedFd` is a transparent `RawFd` other than -1, which `check_open` refuses.
    Ok(unsafe { &*(ptr::from_ref(numbers) as *const [BorrowedFd<'a>]) })
  }

  /// As [`Table::borrowed`], for one descriptor.
  pub(crate) fn borrowed_one<'a>(&self, number: &'a RawFd) -> Result<BorrowedFd<'a>, Errno> {
    self.borrowed(std::slice::from_ref(number))?.first().copied().ok_or(Errno::EBADF)
  }

  fn get(&self, number: RawFd) -> Result<&Entry, Errno> {
    usize::try_from(number).ok().and_then(|index| self.entries.get(index)?.as_ref()).ok_or(Errno::EBADF)
  }

  fn get_mut(&mut self, number: RawFd) -> Result<&mut Entry, Errno> {
    Self::entry(&mut self.entries, number)
  }

  /// As `get_mut`, while the reactor is borrowed too.
  fn entry(entries: &mut [Option<Entry>], number: RawFd) -> Result<&mut Entry, Errno> {
    usize::try_from(number).ok().and_then(|index| entries.get_mut(index)?.as_mut()).ok_or(Errno::EBADF)
  }

  fn details(&mut self, number: RawFd) -> Result<&mut Details, Errno> {
    Ok(self.get_mut(number)?.details.get_or_insert_default())
  }

  /// Borrows a number as a socket. Fails with `ENOTSOCK` if it is not known to be one.
  pub(crate) fn socket(&self, number: RawFd) -> Result<Socket<'_>, Errno> {
    let Entry { details, fd, .. } = self.get(number)?;
    let (socket_type, ancillary) = details.as_ref().and_then(|details| details.socket).ok_or(Errno::ENOTSOCK)?;
    Ok(Socket::from_parts(fd.as_fd(), socket_type, ancillary))
  }

  /// Borrows a Unix domain socket of the process, whether or not the table knows it as one.
  pub(crate) fn any_socket<'a>(&'a self, number: &'a RawFd) -> Result<Socket<'a>, Errno> {
    self.socket(*number).or_else(|_| Socket::new(self.borrowed_one(number)?))
  }

  /// Notes that a number is a socket. Ignores numbers that the table does not own.
  pub(crate) fn set_socket(&mut self, number: RawFd, socket_type: SocketType, ancillary: AncillaryOptions) {
    if let Ok(details) = self.details(number) {
      details.socket = Some((socket_type, ancillary));
    }
  }

  /// Makes a channel of a stream socket.
  pub(crate) fn set_framing(&mut self, number: RawFd, limits: Limits) -> Result<(), Errno> {
    let mut framing = Framing { decoder: Decoder::new(limits), outbox: Outbox::default() };
    if let Some(sender) = self.sender(number) {
      framing.decoder.close_apart(sender);
      framing.outbox.close_apart(sender);
    }
    self.details(number)?.framing = Some(Box::new(framing));
    Ok(())
  }

  /// Borrows a channel's socket and its frames. Fails with `EPROTOTYPE` if the socket is no channel.
  ///
  /// A previous owner of the socket can have enabled credentials or pidfds. They are accepted, so that they are no reason
  /// to refuse a frame.
  pub(crate) fn channel(&mut self, number: RawFd) -> Result<(Socket<'_>, &mut Framing), Errno> {
    let Entry { details, fd, .. } = self.get_mut(number)?;
    let Details { socket, framing, .. } = details.as_deref_mut().ok_or(Errno::ENOTSOCK)?;
    let (socket_type, _) = socket.ok_or(Errno::ENOTSOCK)?;
    let framing = framing.as_mut().ok_or(Errno::EPROTOTYPE)?;
    let ancillary = AncillaryOptions { credentials: true, pidfd: true };
    Ok((Socket::from_parts(ClaimedFd::as_fd(fd), socket_type, ancillary), framing))
  }

  /// Takes ownership of the file of a bound socket: it is removed before the socket is closed.
  pub(crate) fn set_file(&mut self, number: RawFd, file: Option<SocketFile>) -> Result<(), Errno> {
    self.details(number)?.file = file;
    Ok(())
  }

  /// Gives up ownership of a bound socket's file and returns the file's identity; none if it has no file.
  pub(crate) fn hand_file_on(&mut self, number: RawFd) -> Result<Option<[u8; 16]>, Errno> {
    Ok(self.details(number)?.file.take().map(SocketFile::hand_over))
  }

  pub(crate) fn set_file_owner(&mut self, number: RawFd, uid: Option<u32>, gid: Option<u32>) -> Result<(), Errno> {
    self.details(number)?.file.as_ref().ok_or(Errno::ENOENT)?.set_owner(uid, gid)
  }

  /// Removes the files of all bound sockets.
  pub(crate) fn remove_files(&mut self) {
    let details = self.entries.iter_mut().flatten().filter_map(|entry| entry.details.as_mut());
    details.for_each(|details| details.file = None);
  }

  /// Accepts a connection without blocking, and returns its number. accept(2) has no flag for that, so the listener stays
  /// in non-blocking mode until it is released. The mode is set for each call, because another process that shares the
  /// listener can have changed it.
  pub(crate) fn accept(&mut self, listener: RawFd) -> Result<RawFd, Errno> {
    let was_blocking = set_blocking(self.get(listener)?.fd.as_fd(), false)?;
    let details = self.details(listener)?;
    details.was_blocking.get_or_insert(was_blocking);
    // The table knows Unix domain sockets only; a listener of TCP works too.
    let (socket_type, ancillary) = details.socket.unwrap_or((SocketType::Stream, AncillaryOptions::default()));
    let connection = Socket::from_parts(self.get(listener)?.fd.as_fd(), socket_type, ancillary).accept()?;
    let number = self.insert(connection);
    self.set_socket(number, socket_type, ancillary);
    Ok(number)
  }

  /// Removes a descriptor from the table and returns it, after ending its registration and removing a bound socket's file.
  /// Its number stays claimed until it is closed.
  pub(crate) fn take(&mut self, number: RawFd) -> Result<ClaimedFd, Errno> {
    self.remove(number).map(|entry| entry.fd)
  }

  /// Removes a descriptor from the table, as [`Table::take`], to close it. If it has a sender, [`fdpass_core::close_apart`] closes it, and
  /// none is returned.
  pub(crate) fn take_own(&mut self, number: RawFd) -> Result<Option<ClaimedFd>, Errno> {
    let entry = self.remove(number)?;
    if entry.sender == NO_SENDER {
      return Ok(Some(entry.fd));
    }
    let Entry { fd, sender, details } = entry;
    if let Some((socket_type, ancillary)) = details.as_ref().and_then(|details| details.socket) {
      // Its peer sees the end now, although the close is later. It fails if the peer has disconnected. A service does not ask for the
      // address of a socket that it has received, so that the table knows only its own connections as sockets.
      let _ = Socket::from_parts(fd.as_fd(), socket_type, ancillary).shutdown(Direction::Both);
    }
    // The registration ends on this thread. The frames of a channel have closed descriptors of their own.
    drop(details);
    fdpass_core::close_apart(sender, fd);
    Ok(None)
  }

  /// Removes a descriptor from the table and returns it in its original blocking mode, after ending its registration. A
  /// bound socket's file stays.
  pub(crate) fn release(&mut self, number: RawFd) -> Result<OwnedFd, Errno> {
    let mut entry = self.remove(number)?;
    entry.detach()?;
    Ok(entry.fd.into_fd())
  }

  /// Notes that an object of the runtime is taking a descriptor, or has failed to. If the environment ends meanwhile, the runtime closes that
  /// object first: a number that is no longer the same file is not closed again, and none on the main thread.
  pub(crate) fn set_leaving(&mut self, number: RawFd, leaving: bool) -> Result<(), Errno> {
    self.leaving.retain(|&(other, _)| other != number);
    if leaving {
      let fd = self.get(number)?.fd.as_fd();
      let file = if self.is_main_thread { None } else { Some(FileId::of(fd)?) };
      self.leaving.push((number, file));
    }
    Ok(())
  }

  /// Returns whether an object of the runtime was taking a number, which is not the same file any more, or which the end of the process closes.
  fn has_left(&self, number: RawFd) -> bool {
    let Some((_, file)) = self.leaving.iter().find(|&&(other, _)| other == number) else { return false };
    file.is_none_or(|file| self.get(number).is_ok_and(|entry| FileId::of(entry.fd.as_fd()).ok() != Some(file)))
  }

  /// Prepares a descriptor for another object of this environment, as [`Table::release`] does, but keeps its ownership.
  pub(crate) fn detach(&mut self, number: RawFd) -> Result<(), Errno> {
    self.get_mut(number)?.detach()
  }

  /// As [`Table::take`], without waiting for an operation of the thread pool: dropping the returned access waits for it.
  pub(crate) fn take_with_access(&mut self, number: RawFd) -> Result<(ClaimedFd, Option<FileAccess>), Errno> {
    let Entry { details, fd, .. } = self.remove(number)?;
    Ok((fd, details.and_then(|mut details| details.file_access.take())))
  }

  /// Prepares a descriptor for reading and writing. Returns whether it is watched by the reactor, and so read and written without
  /// waiting; otherwise it is a file.
  pub(crate) fn open_io(&mut self, number: RawFd) -> Result<bool, Errno> {
    let Entry { details, fd, .. } = Self::entry(&mut self.entries, number)?;
    let fd = ClaimedFd::as_fd(fd);
    if fdpass_core::is_file(fd)? {
      return Ok(false);
    }
    let details = details.get_or_insert_default();
    if details.registration.is_none() {
      match self.reactor.register(fd) {
        Ok(registration) => details.registration = Some(registration),
        // A file without poll(2), such as /dev/null (epoll_ctl(2)). Of a pipe, a terminal or a socket it is an error of another call.
        Err(Errno::EPERM) if matches!(Kind::of(fd)?, Kind::CharacterDevice | Kind::Other) => return Ok(false),
        Err(errno) => return Err(errno),
      }
    }
    if details.non_blocking.is_none() {
      details.non_blocking = Some(NonBlocking::new(fd)?);
    }
    Ok(true)
  }

  /// Reads or writes a descriptor that `open_io` prepared, without waiting.
  pub(crate) fn without_waiting<T>(
    &mut self,
    number: RawFd,
    call: impl FnOnce(BorrowedFd<'_>, &mut NonBlocking) -> Result<T, Errno>,
  ) -> Result<T, Errno> {
    let Entry { details, fd, .. } = Self::entry(&mut self.entries, number)?;
    let Details { reopened, non_blocking, .. } = details.as_deref_mut().ok_or(Errno::EINVAL)?;
    let non_blocking = non_blocking.as_mut().ok_or(Errno::EINVAL)?;
    let result = call(ClaimedFd::as_fd(fd), non_blocking);
    if reopened.is_none() {
      *reopened = non_blocking.reopened().map(|fd| self.owner.claim_borrowed(fd));
    }
    result
  }

  /// Returns the lock under which the thread pool uses a file's descriptor.
  pub(crate) fn file_lock(&mut self, number: RawFd) -> Result<Arc<FileLock>, Errno> {
    Ok(self.details(number)?.file_access.get_or_insert_default().lock())
  }

  /// Ends the registration of a descriptor, which the next `watch` renews.
  pub(crate) fn unwatch(&mut self, number: RawFd) -> Result<(), Errno> {
    if let Some(details) = &mut self.get_mut(number)?.details {
      details.registration = None;
    }
    Ok(())
  }

  /// Removes an entry. Fails with `EBADF` if the program closed the number itself and another environment owns it now.
  fn remove(&mut self, number: RawFd) -> Result<Entry, Errno> {
    self.leaving.retain(|&(other, _)| other != number);
    let entry = usize::try_from(number).ok().and_then(|index| self.entries.get_mut(index)?.take());
    let entry = entry.ok_or(Errno::EBADF)?;
    if entry.fd.is_current() {
      return Ok(entry);
    }
    entry.fd.abandon();
    Err(Errno::EBADF)
  }

  /// Sets the events of a descriptor that are reported; 0 for none.
  pub(crate) fn watch(&mut self, number: RawFd, events: i32) -> Result<(), Errno> {
    let Entry { details, fd, .. } = Self::entry(&mut self.entries, number)?;
    let registration = &mut details.get_or_insert_default().registration;
    match registration {
      Some(registration) => registration.arm(events),
      None => registration.insert(self.reactor.register(fd.as_fd())?).arm(events),
    }
  }

  /// Sets whether the reactor keeps the process alive.
  pub(crate) fn hold(&self, on: bool) {
    self.reactor.hold(on);
  }
}

impl Drop for Table {
  fn drop(&mut self) {
    for number in 0..self.entries.len() {
      let number = number as RawFd;
      if self.has_left(number) {
        let _ = self.remove(number).map(|entry| entry.fd.abandon());
      } else {
        let _ = self.take_own(number);
      }
    }
  }
}
