//! The descriptors of one JavaScript environment, by number.

use std::os::fd::{AsFd, AsRawFd, IntoRawFd, OwnedFd, RawFd};

use fdpass_core::{AncillaryOptions, Decoder, Errno, Limits, Outbox, Socket, SocketFile, SocketType, set_blocking};

use crate::reactor::{Reactor, Registration};

/// A descriptor that the environment owns. Most are received, passed on and closed, and have no details.
struct Entry {
  // Declared before `fd`, and so dropped before it: the registration and the file need the open descriptor.
  details: Option<Box<Details>>,
  fd: OwnedFd,
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
}

impl Table {
  /// Creates an empty table over a reactor.
  pub(crate) fn new(reactor: Reactor) -> Self {
    Self { entries: Vec::new(), reactor }
  }

  /// Takes ownership of a descriptor and returns its number.
  pub(crate) fn insert(&mut self, fd: OwnedFd) -> RawFd {
    let number = fd.as_raw_fd();
    let index = number as usize;
    if index >= self.entries.len() {
      self.entries.resize_with((index + 1).next_power_of_two(), || None);
    }
    if let Some(stale) = self.entries[index].replace(Entry { details: None, fd }) {
      // The program closed the number itself, and the kernel has assigned it again: it belongs to the new descriptor.
      let _ = stale.fd.into_raw_fd();
    }
    number
  }

  /// Returns whether the table owns a number.
  pub(crate) fn owns(&self, number: RawFd) -> bool {
    self.get(number).is_ok()
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
    let Entry { details, fd } = self.get(number)?;
    let (socket_type, ancillary) = details.as_ref().and_then(|details| details.socket).ok_or(Errno::ENOTSOCK)?;
    Ok(Socket::from_parts(fd.as_fd(), socket_type, ancillary))
  }

  /// Notes that a number is a socket. Ignores numbers that the table does not own.
  pub(crate) fn set_socket(&mut self, number: RawFd, socket_type: SocketType, ancillary: AncillaryOptions) {
    if let Ok(details) = self.details(number) {
      details.socket = Some((socket_type, ancillary));
    }
  }

  /// Makes a channel of a stream socket.
  pub(crate) fn set_framing(&mut self, number: RawFd, limits: Limits) -> Result<(), Errno> {
    let framing = Framing { decoder: Decoder::new(limits), outbox: Outbox::default() };
    self.details(number)?.framing = Some(Box::new(framing));
    Ok(())
  }

  /// Borrows a channel's socket and its frames. Fails with `EPROTOTYPE` if the socket is no channel.
  ///
  /// A previous owner of the socket can have enabled credentials or pidfds. They are accepted, so that they are no reason
  /// to refuse a frame.
  pub(crate) fn channel(&mut self, number: RawFd) -> Result<(Socket<'_>, &mut Framing), Errno> {
    let Entry { details, fd } = self.get_mut(number)?;
    let Details { socket, framing, .. } = details.as_deref_mut().ok_or(Errno::ENOTSOCK)?;
    let (socket_type, _) = socket.ok_or(Errno::ENOTSOCK)?;
    let framing = framing.as_mut().ok_or(Errno::EPROTOTYPE)?;
    let ancillary = AncillaryOptions { credentials: true, pidfd: true };
    Ok((Socket::from_parts(OwnedFd::as_fd(fd), socket_type, ancillary), framing))
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
    self.details(listener)?.was_blocking.get_or_insert(was_blocking);
    let socket = self.socket(listener)?;
    let (socket_type, ancillary) = (socket.socket_type(), socket.ancillary());
    let connection = socket.accept()?;
    let number = self.insert(connection);
    self.set_socket(number, socket_type, ancillary);
    Ok(number)
  }

  /// Removes a descriptor from the table and returns it, after ending its registration and removing a bound socket's file.
  pub(crate) fn take(&mut self, number: RawFd) -> Result<OwnedFd, Errno> {
    self.remove(number).map(|entry| entry.fd)
  }

  /// Removes a descriptor from the table and returns it in its original blocking mode, after ending its registration. A
  /// bound socket's file stays.
  pub(crate) fn release(&mut self, number: RawFd) -> Result<OwnedFd, Errno> {
    let Entry { details, fd } = self.remove(number)?;
    if let Some(Details { file, was_blocking, .. }) = details.map(|details| *details) {
      if let Some(file) = file {
        file.keep();
      }
      if was_blocking == Some(true) {
        set_blocking(fd.as_fd(), true)?;
      }
    }
    Ok(fd)
  }

  fn remove(&mut self, number: RawFd) -> Result<Entry, Errno> {
    usize::try_from(number).ok().and_then(|index| self.entries.get_mut(index)?.take()).ok_or(Errno::EBADF)
  }

  /// Sets the events of a descriptor that are reported; 0 for none.
  pub(crate) fn watch(&mut self, number: RawFd, events: i32) -> Result<(), Errno> {
    let Entry { details, fd } = Self::entry(&mut self.entries, number)?;
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
