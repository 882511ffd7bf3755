//! Sockets that listen, and how many connections each client has.

use std::collections::HashMap;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::socket::SockaddrStorage;

use super::{Reactor, Registration};
use crate::fd::set_blocking;
use crate::internet::internet_address;
use crate::socket::peer;
use crate::sys::socket::accept_from;

/// How many descriptors are left to other work, such as starting the next worker.
const RESERVE: u64 = 32;

/// Who has connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Client {
  /// From this address; one of IPv4 is that also where it comes over IPv6.
  Address(IpAddr),
  /// On this machine, as this user.
  User(u32),
}

/// A socket that listens, or of datagrams, and its name.
#[derive(Debug)]
pub struct Listener {
  pub(super) fd: OwnedFd,
  name: Arc<[u8]>,
}

impl Listener {
  /// A socket, and the name by which workers know it.
  pub fn new(fd: OwnedFd, name: &[u8]) -> Self {
    Self { fd, name: name.into() }
  }
}

/// A listener that is watched.
pub(super) struct Watched<W> {
  // Before the listener, and so dropped before it.
  watch: Option<W>,
  is_armed: bool,
  pub(super) listener: Listener,
  pub(super) token: u32,
}

impl<W: Registration> Watched<W> {
  pub(super) fn new(listener: Listener, token: u32, reactor: &impl Reactor<Registration = W>) -> nix::Result<Self> {
    let watch = Some(reactor.register(listener.fd.as_fd(), token)?);
    Ok(Self { watch, is_armed: false, listener, token })
  }

  /// Asks to be told of connections, or no longer.
  pub(super) fn arm(&mut self, on: bool, reactor: &impl Reactor<Registration = W>) -> nix::Result<()> {
    if on && self.watch.is_none() {
      self.watch = Some(reactor.register(self.listener.fd.as_fd(), self.token)?);
    }
    self.is_armed = on;
    self.watch.as_mut().map_or(Ok(()), |watch| watch.set_interest(on, false))
  }

  /// Whether an event is one that was asked for. A hang-up, of a listener that somebody has shut down, is told without that,
  /// and without end: nothing is then, until something is asked for again.
  pub(super) fn expects(&mut self) -> bool {
    if !self.is_armed {
      self.watch = None;
    }
    self.is_armed
  }

  pub(super) fn name(&self) -> Arc<[u8]> {
    self.listener.name.clone()
  }
}

/// What came of asking for a connection.
pub(super) enum Accepted {
  Connection(OwnedFd, Option<Client>),
  /// The client has as many as it may have: this one is closed.
  Refused,
  /// None is there.
  None,
  /// The table is full, or memory short.
  Short(Errno),
}

/// Takes connections off backlogs, and counts them by client.
pub(super) struct Door {
  most_per_client: Option<u32>,
  clients: HashMap<Client, u32>,
  /// The number from which on a descriptor leaves too little room for others.
  last_number: u64,
}

impl Door {
  pub(super) fn new() -> nix::Result<Self> {
    let (limit, _) = getrlimit(Resource::RLIMIT_NOFILE)?;
    #[allow(clippy::unnecessary_cast, reason = "rlim_t is an i64 on FreeBSD")]
    let last_number = (limit as u64).saturating_sub(RESERVE);
    Ok(Self { most_per_client: None, clients: HashMap::new(), last_number })
  }

  pub(super) fn set_most_per_client(&mut self, most: Option<u32>) {
    self.most_per_client = most;
  }

  /// Whether this descriptor leaves too little room for others: the kernel gives out the lowest number that is free.
  pub(super) fn is_last(&self, fd: &OwnedFd) -> bool {
    fd.as_raw_fd() as u64 >= self.last_number
  }

  pub(super) fn accept(&mut self, listener: &Listener) -> Accepted {
    match accept(listener.fd.as_fd()) {
      Ok((connection, address)) => {
        let client = self.most_per_client.and_then(|_| client(connection.as_fd(), address.as_ref()));
        if self.admit(client) { Accepted::Connection(connection, client) } else { Accepted::Refused }
      }
      Err(Errno::EAGAIN) => Accepted::None,
      Err(errno) => Accepted::Short(errno),
    }
  }

  fn admit(&mut self, client: Option<Client>) -> bool {
    let (Some(client), Some(most)) = (client, self.most_per_client) else { return true };
    let count = self.clients.entry(client).or_insert(0);
    let admitted = *count < most;
    if admitted {
      *count += 1;
    } else if *count == 0 {
      self.clients.remove(&client);
    }
    admitted
  }

  /// Notes the end of a connection.
  pub(super) fn leave(&mut self, client: Option<Client>) {
    let Some(client) = client else { return };
    if let Some(count) = self.clients.get_mut(&client) {
      *count -= 1;
      if *count == 0 {
        self.clients.remove(&client);
      }
    }
  }
}

/// Takes a connection, in blocking mode. The listener is in non-blocking mode then, for all who share it: accept(2) has no
/// flag for a single call.
fn accept(listener: BorrowedFd<'_>) -> nix::Result<(OwnedFd, Option<SockaddrStorage>)> {
  loop {
    match accept_from(listener) {
      Err(Errno::EINTR | Errno::ECONNABORTED) => {}
      // accept(2): errors of the network that a connection has met before it was taken. Not those that a listener can have
      // of its own, and then for each call: EPERM, and EOPNOTSUPP of a socket of datagrams.
      Err(
        Errno::ENETDOWN
        | Errno::EPROTO
        | Errno::ENOPROTOOPT
        | Errno::EHOSTDOWN
        | Errno::EHOSTUNREACH
        | Errno::ENETUNREACH,
      ) => {}
      result => return result,
    }
  }
}

/// Has accept(2) not wait. Asked before each series of calls, as whoever shares the listener may have switched it back.
pub(super) fn prepare(listener: &Listener) -> nix::Result<()> {
  set_blocking(listener.fd.as_fd(), false).map(drop)
}

fn client(connection: BorrowedFd<'_>, address: Option<&SockaddrStorage>) -> Option<Client> {
  match address.and_then(|address| internet_address(address).ok()) {
    Some(address) => Some(Client::Address(address.ip().to_canonical())),
    None => peer(connection).ok().map(|peer| Client::User(peer.credentials.uid)),
  }
}
