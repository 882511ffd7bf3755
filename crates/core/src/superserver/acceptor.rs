//! Listeners, and how many connections each client has.

use std::collections::HashMap;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::socket::SockaddrStorage;

use super::reactor::{Reactor, Registration, Watched};
use crate::fd::{SharedSocket, set_blocking};
use crate::internet::internet_address;
use crate::socket::{is_peer_trusted, peer};
use crate::sys::socket::accept_from;

/// How many descriptors are left free for other work, such as starting the next worker.
const RESERVE: u64 = 32;

/// Identity of a client, by which its connections are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Client {
  /// Internet address. An IPv4 address is the same whether the listener is IPv4 or IPv6.
  Address(IpAddr),
  /// User id of a client on this machine.
  User(u32),
}

/// A socket that listens, or a datagram socket, with its name.
#[derive(Debug)]
pub struct Listener {
  fd: OwnedFd,
  name: Arc<[u8]>,
}

impl Listener {
  /// Takes over a socket. Workers receive the name with each connection.
  pub fn new(fd: OwnedFd, name: &[u8]) -> Self {
    Self { fd, name: name.into() }
  }

  pub(super) fn name(&self) -> Arc<[u8]> {
    self.name.clone()
  }

  /// Switches it to non-blocking mode, because accept(2) has no flag for a single call.
  ///
  /// Called before each series of accepts: another process that shares the listener may have switched it back.
  pub(super) fn set_nonblocking(&self) -> nix::Result<()> {
    set_blocking(self.fd.as_fd(), false).map(drop)
  }
}

impl AsFd for Listener {
  fn as_fd(&self) -> BorrowedFd<'_> {
    self.fd.as_fd()
  }
}

/// A listener that is registered with the event loop.
pub(super) struct ActiveListener<R> {
  watched: Watched<Listener, R>,
  wants_events: bool,
}

impl<R: Registration> ActiveListener<R> {
  pub(super) fn new(listener: Listener, token: u32, reactor: &impl Reactor<Registration = R>) -> nix::Result<Self> {
    Ok(Self { watched: Watched::new(listener, token, reactor)?, wants_events: false })
  }

  pub(super) fn listener(&self) -> &Listener {
    &self.watched
  }

  pub(super) fn token(&self) -> u32 {
    self.watched.token()
  }

  /// Requests events for connections, or stops requesting them.
  pub(super) fn set_accepting(&mut self, on: bool, reactor: &impl Reactor<Registration = R>) -> nix::Result<()> {
    if on {
      self.watched.reregister(reactor)?;
    }
    self.wants_events = on;
    self.watched.set_interest(on, false)
  }

  /// Returns whether an event that was reported had been requested.
  ///
  /// A hang-up, of a listener that another process has shut down, is reported without a request and repeatedly. The
  /// registration therefore ends, until events are requested again.
  pub(super) fn expects_event(&mut self) -> bool {
    if !self.wants_events {
      self.watched.unregister();
    }
    self.wants_events
  }
}

/// Result of one accept.
pub(super) enum Accepted {
  /// A connection in blocking mode, and its client if clients are counted.
  Connection(SharedSocket, Option<Client>),
  /// The client has as many connections as it may have; this one was closed.
  Refused,
  /// No connection is waiting.
  Empty,
  /// The descriptor table is full, or memory is exhausted.
  Exhausted(Errno),
}

/// Accepts connections, and counts them by client.
pub(super) struct Acceptor {
  max_per_client: Option<u32>,
  clients: HashMap<Client, u32>,
  /// Descriptor number from which on fewer than [`RESERVE`] numbers may be free.
  reserve_start: u64,
}

impl Acceptor {
  pub(super) fn new(max_per_client: Option<u32>) -> nix::Result<Self> {
    let (limit, _) = getrlimit(Resource::RLIMIT_NOFILE)?;
    #[allow(clippy::unnecessary_cast, reason = "rlim_t is an i64 on FreeBSD")]
    let reserve_start = (limit as u64).saturating_sub(RESERVE);
    Ok(Self { max_per_client, clients: HashMap::new(), reserve_start })
  }

  pub(super) fn set_max_per_client(&mut self, max: Option<u32>) {
    self.max_per_client = max;
  }

  /// Returns whether the descriptor table is nearly full, given the newest descriptor: the kernel returns the lowest free
  /// number.
  pub(super) fn reaches_reserve(&self, newest: BorrowedFd<'_>) -> bool {
    newest.as_raw_fd() as u64 >= self.reserve_start
  }

  /// Accepts a connection from a listener in non-blocking mode. The caller calls [`Acceptor::release`] at its end.
  pub(super) fn accept(&mut self, listener: &Listener) -> Accepted {
    match accept(listener.as_fd()) {
      Ok((connection, address)) => {
        let is_internet = address.as_ref().is_some_and(|address| internet_address(address).is_ok());
        // A client of a Unix domain socket can have sent descriptors.
        let is_foreign = !is_internet && !is_peer_trusted(connection.as_fd());
        let connection = SharedSocket::new(connection, is_foreign);
        let client = self.max_per_client.and_then(|_| client_of(connection.as_fd(), address.as_ref()));
        if self.acquire(client) { Accepted::Connection(connection, client) } else { Accepted::Refused }
      }
      Err(Errno::EAGAIN) => Accepted::Empty,
      Err(errno) => Accepted::Exhausted(errno),
    }
  }

  /// Counts a connection; false if its client has as many as it may have.
  fn acquire(&mut self, client: Option<Client>) -> bool {
    let (Some(client), Some(max)) = (client, self.max_per_client) else { return true };
    let count = self.clients.entry(client).or_insert(0);
    let acquired = *count < max;
    if acquired {
      *count += 1;
    } else if *count == 0 {
      self.clients.remove(&client);
    }
    acquired
  }

  /// Counts the end of a connection.
  pub(super) fn release(&mut self, client: Option<Client>) {
    let Some(client) = client else { return };
    if let Some(count) = self.clients.get_mut(&client) {
      *count -= 1;
      if *count == 0 {
        self.clients.remove(&client);
      }
    }
  }
}

fn accept(listener: BorrowedFd<'_>) -> nix::Result<(OwnedFd, Option<SockaddrStorage>)> {
  loop {
    match accept_from(listener) {
      Err(Errno::ECONNABORTED) => {}
      // accept(2): network errors of a connection before it was accepted. EPERM, and EOPNOTSUPP of a datagram socket, are
      // not among them: a listener can have them itself, and then every call returns them.
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

fn client_of(connection: BorrowedFd<'_>, address: Option<&SockaddrStorage>) -> Option<Client> {
  match address.and_then(|address| internet_address(address).ok()) {
    Some(address) => Some(Client::Address(address.ip().to_canonical())),
    None => peer(connection).ok().map(|peer| Client::User(peer.credentials.uid)),
  }
}
