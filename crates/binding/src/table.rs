//! Everything that one JavaScript environment has open, by number.

use std::os::fd::{AsFd, AsRawFd, IntoRawFd, OwnedFd, RawFd};

use fdpass_core::{AncillaryOptions, Decoder, Errno, Limits, Outbox, Socket, SocketFile, SocketType, set_blocking};

use crate::reactor::{Reactor, Watch};

/// A descriptor that this environment owns. Most are received, handed on and closed, and nothing else belongs to them.
struct Open {
  // Before `fd`, and so dropped before it: a watch must be gone from the loop when the number becomes free.
  more: Option<Box<More>>,
  fd: OwnedFd,
}

/// What belongs to a descriptor that is used here.
#[derive(Default)]
struct More {
  watch: Option<Watch>,
  /// The file of a socket that was bound here, to be removed while the socket is still open.
  file: Option<SocketFile>,
  /// What it is, if it is known to be a Unix domain socket.
  socket: Option<(SocketType, AncillaryOptions)>,
  /// Whether it came in blocking mode, if it was switched.
  came_blocking: Option<bool>,
  /// What makes a channel of it.
  framing: Option<Box<Framing>>,
}

/// The frames of a stream socket: those that arrive, and those that wait to be sent.
pub(crate) struct Framing {
  pub(crate) decoder: Decoder,
  pub(crate) outbox: Outbox,
}

/// The owner of all descriptors of one JavaScript environment, whether JavaScript knows them by a `UnixSocket`, a
/// `Descriptor`, or as the duplicates of a send that waits.
pub(crate) struct Table {
  // Before `reactor`, because closing a watch needs it.
  open: Vec<Option<Open>>,
  reactor: Reactor,
}

impl Table {
  pub(crate) fn new(reactor: Reactor) -> Self {
    Self { open: Vec::new(), reactor }
  }

  /// Puts a descriptor under its number.
  pub(crate) fn insert(&mut self, fd: OwnedFd) -> RawFd {
    let number = fd.as_raw_fd();
    let index = number as usize;
    if index >= self.open.len() {
      self.open.resize_with((index + 1).next_power_of_two(), || None);
    }
    if let Some(stale) = self.open[index].replace(Open { more: None, fd }) {
      // Somebody closed the number behind our back, and the kernel has given it out again: it is the new owner's.
      let _ = stale.fd.into_raw_fd();
    }
    number
  }

  /// Whether the number is owned here.
  pub(crate) fn owns(&self, number: RawFd) -> bool {
    usize::try_from(number).is_ok_and(|index| self.open.get(index).is_some_and(Option::is_some))
  }

  fn get(&self, number: RawFd) -> Result<&Open, Errno> {
    usize::try_from(number).ok().and_then(|index| self.open.get(index)?.as_ref()).ok_or(Errno::EBADF)
  }

  fn get_mut(&mut self, number: RawFd) -> Result<&mut Open, Errno> {
    usize::try_from(number).ok().and_then(|index| self.open.get_mut(index)?.as_mut()).ok_or(Errno::EBADF)
  }

  fn more(&mut self, number: RawFd) -> Result<&mut More, Errno> {
    Ok(self.get_mut(number)?.more.get_or_insert_default())
  }

  /// Lends the socket that is owned under a number.
  pub(crate) fn socket(&self, number: RawFd) -> Result<Socket<'_>, Errno> {
    let Open { more, fd } = self.get(number)?;
    let (socket_type, receiving) = more.as_ref().and_then(|more| more.socket).ok_or(Errno::ENOTSOCK)?;
    Ok(Socket::from_parts(fd.as_fd(), socket_type, receiving))
  }

  /// Notes what an owned number is, if it is one.
  pub(crate) fn set_socket(&mut self, number: RawFd, socket_type: SocketType, receiving: AncillaryOptions) {
    if let Ok(more) = self.more(number) {
      more.socket = Some((socket_type, receiving));
    }
  }

  /// Makes a channel of a stream socket.
  pub(crate) fn set_framing(&mut self, number: RawFd, limits: Limits) -> Result<(), Errno> {
    let framing = Framing { decoder: Decoder::new(limits), outbox: Outbox::default() };
    self.more(number)?.framing = Some(Box::new(framing));
    Ok(())
  }

  /// Lends a channel. Whoever had the socket before may have had the kernel tell who sends: that is no reason to refuse a
  /// frame.
  pub(crate) fn channel(&mut self, number: RawFd) -> Result<(Socket<'_>, &mut Framing), Errno> {
    let Open { more, fd } = self.get_mut(number)?;
    let More { socket, framing, .. } = more.as_deref_mut().ok_or(Errno::ENOTSOCK)?;
    let (socket_type, _) = socket.ok_or(Errno::ENOTSOCK)?;
    let framing = framing.as_mut().ok_or(Errno::EPROTOTYPE)?;
    let receiving = AncillaryOptions { credentials: true, pidfd: true };
    Ok((Socket::from_parts(OwnedFd::as_fd(fd), socket_type, receiving), framing))
  }

  /// Takes over the file of a socket that was bound.
  pub(crate) fn set_file(&mut self, number: RawFd, file: Option<SocketFile>) -> Result<(), Errno> {
    self.more(number)?.file = file;
    Ok(())
  }

  /// Leaves a bound socket's file to another process; gives which one it is.
  pub(crate) fn hand_file_on(&mut self, number: RawFd) -> Result<Option<[u8; 16]>, Errno> {
    Ok(self.more(number)?.file.take().map(SocketFile::hand_over))
  }

  /// Removes the files of all sockets that were bound here.
  pub(crate) fn remove_files(&mut self) {
    self.open.iter_mut().flatten().filter_map(|open| open.more.as_mut()).for_each(|more| more.file = None);
  }

  /// Takes a connection off a listener, without waiting. accept(2) has no flag for that, so that the listener goes into
  /// non-blocking mode until it is released: each time, as another process that has it may have switched it back.
  pub(crate) fn accept(&mut self, listener: RawFd) -> Result<RawFd, Errno> {
    let was_blocking = set_blocking(self.get(listener)?.fd.as_fd(), false)?;
    self.more(listener)?.came_blocking.get_or_insert(was_blocking);
    let socket = self.socket(listener)?;
    let (socket_type, receiving) = (socket.socket_type(), socket.ancillary());
    let connection = socket.accept()?;
    let number = self.insert(connection);
    self.set_socket(number, socket_type, receiving);
    Ok(number)
  }

  /// Gives what is owned under a number away; the reactor forgets it first, and a bound socket's file is removed.
  pub(crate) fn take(&mut self, number: RawFd) -> Result<OwnedFd, Errno> {
    self.remove(number).map(|open| open.fd)
  }

  /// Gives what is owned under a number away as it came; a bound socket's file stays.
  pub(crate) fn release(&mut self, number: RawFd) -> Result<OwnedFd, Errno> {
    let Open { more, fd } = self.remove(number)?;
    if let Some(More { file, came_blocking, .. }) = more.map(|more| *more) {
      if let Some(file) = file {
        file.keep();
      }
      if came_blocking == Some(true) {
        set_blocking(fd.as_fd(), true)?;
      }
    }
    Ok(fd)
  }

  fn remove(&mut self, number: RawFd) -> Result<Open, Errno> {
    usize::try_from(number).ok().and_then(|index| self.open.get_mut(index)?.take()).ok_or(Errno::EBADF)
  }

  /// Asks to be told when a socket is ready for `events`; none ends it.
  pub(crate) fn watch(&mut self, number: RawFd, events: i32) -> Result<(), Errno> {
    // Not by `get_mut`: the reactor is needed while the entry is borrowed.
    let open = usize::try_from(number).ok().and_then(|index| self.open.get_mut(index)?.as_mut());
    let Open { more, fd } = open.ok_or(Errno::EBADF)?;
    let watch = &mut more.get_or_insert_default().watch;
    match watch {
      Some(watch) => watch.arm(events),
      None => watch.insert(self.reactor.watch(fd.as_fd())?).arm(events),
    }
  }

  /// Keeps the process alive, or no longer.
  pub(crate) fn hold(&self, on: bool) {
    self.reactor.hold(on);
  }

  /// Notes that the thread back end has reported a socket, which it does once for each time it is armed.
  pub(crate) fn reported(&mut self, number: RawFd) {
    if let Ok(More { watch: Some(watch), .. }) = self.more(number) {
      watch.reported();
    }
  }
}
