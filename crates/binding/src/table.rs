//! Everything that one JavaScript environment has open, by number.

use std::os::fd::{AsFd, AsRawFd, IntoRawFd, OwnedFd, RawFd};

use fdpass_core::{Errno, Socket, SocketType};

use crate::reactor::{Reactor, Watch};

/// A descriptor that this environment owns, and the reactor's watch over it if it is a socket that had to wait.
struct Open {
  // Before `fd`, and so dropped before it: a watch must be gone from the loop when the number becomes free.
  watch: Option<Watch>,
  fd: OwnedFd,
  /// What it is, if it is known to be a Unix domain socket.
  socket_type: Option<SocketType>,
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
    if let Some(stale) = self.open[index].replace(Open { watch: None, fd, socket_type: None }) {
      // Somebody closed the number behind our back, and the kernel has given it out again: it is the new owner's.
      let _ = stale.fd.into_raw_fd();
    }
    number
  }

  /// Whether the number is owned here.
  pub(crate) fn owns(&self, number: RawFd) -> bool {
    usize::try_from(number).is_ok_and(|index| self.open.get(index).is_some_and(Option::is_some))
  }

  /// Lends the socket that is owned under a number.
  pub(crate) fn socket(&self, number: RawFd) -> Result<Socket<'_>, Errno> {
    let open = usize::try_from(number).ok().and_then(|index| self.open.get(index)?.as_ref());
    let Open { fd, socket_type, .. } = open.ok_or(Errno::EBADF)?;
    Ok(Socket::known(fd.as_fd(), socket_type.ok_or(Errno::ENOTSOCK)?))
  }

  /// Notes what an owned number is.
  pub(crate) fn set_socket_type(&mut self, number: RawFd, socket_type: SocketType) {
    let open = usize::try_from(number).ok().and_then(|index| self.open.get_mut(index)?.as_mut());
    if let Some(open) = open {
      open.socket_type = Some(socket_type);
    }
  }

  /// Gives what is owned under a number away; the reactor forgets it first.
  pub(crate) fn take(&mut self, number: RawFd) -> Result<OwnedFd, Errno> {
    let open = usize::try_from(number).ok().and_then(|index| self.open.get_mut(index)?.take());
    open.map(|open| open.fd).ok_or(Errno::EBADF)
  }

  /// Asks to be told when a socket is ready for `events`; none ends it.
  pub(crate) fn watch(&mut self, number: RawFd, events: i32) -> Result<(), Errno> {
    let open = usize::try_from(number).ok().and_then(|index| self.open.get_mut(index)?.as_mut());
    let Open { watch, fd, .. } = open.ok_or(Errno::EBADF)?;
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
    if let Some(watch) = self.watch_of(number) {
      watch.reported();
    }
  }

  fn watch_of(&mut self, number: RawFd) -> Option<&mut Watch> {
    self.open.get_mut(usize::try_from(number).ok()?)?.as_mut()?.watch.as_mut()
  }
}
