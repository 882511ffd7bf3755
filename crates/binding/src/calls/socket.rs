//! Calls on sockets.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;

use fdpass_core::{Address, AncillaryOptions, Direction, Errno, Limits, Socket, SocketFile, TcpOptions};
use napi::bindgen_prelude::{Either, Either3, Null, Uint8Array};
use napi_derive::napi;

use crate::abi::CallResult;
use crate::codes::{ShutdownDirection, SocketType, code};
use crate::environment::{Environment, State};

/// The process at the other end of a connection.
#[napi(object, object_from_js = false)]
pub struct Peer {
  /// The process id; null if the kernel does not report it.
  #[napi(ts_type = "number | null")]
  pub pid: Either<i32, Null>,
  /// The user id.
  pub uid: u32,
  /// The group id.
  pub gid: u32,
  /// True if the user id identifies no user. Missing otherwise.
  pub unknown_uid: Option<bool>,
  /// True if the group id identifies no group. Missing otherwise.
  pub unknown_gid: Option<bool>,
  /// The ids of the supplementary groups, without unknown ones. Missing if the kernel does not report them.
  pub groups: Option<Vec<u32>>,
  /// The security label. Missing if the kernel does not report one.
  pub label: Option<String>,
}

impl From<fdpass_core::Peer> for Peer {
  fn from(fdpass_core::Peer { credentials, groups, label }: fdpass_core::Peer) -> Self {
    let unknown = credentials.unknown_ids();
    Self {
      pid: credentials.pid.map_or(Either::B(Null), Either::A),
      uid: credentials.uid,
      gid: credentials.gid,
      unknown_uid: unknown.uid.then_some(true),
      unknown_gid: unknown.gid.then_some(true),
      groups,
      label: label.map(|label| String::from_utf8_lossy(&label).into_owned()),
    }
  }
}

/// The address of an Internet socket.
#[napi(object, object_from_js = false)]
pub struct InternetAddress {
  /// The IP address as text.
  pub address: String,
  /// The port.
  pub port: u32,
}

/// The options of a TCP listener.
#[napi(object, object_to_js = false)]
pub struct TcpListenerSettings {
  /// The maximum number of connections that wait to be accepted.
  pub backlog: i32,
  /// Whether an IPv6 listener refuses IPv4 connections.
  pub ipv6_only: bool,
  /// Whether other sockets can bind to the same port.
  pub reuse_port: bool,
}

fn socket_address(address: &str, port: u16) -> Result<SocketAddr, Errno> {
  let address: IpAddr = address.parse().map_err(|_| Errno::EINVAL)?;
  Ok(SocketAddr::new(address, port))
}

/// Returns an address as text, null if there is none, or the code of an error. Invalid UTF-8 is replaced by U+FFFD.
fn address_text(address: Result<Option<Address>, Errno>) -> Either3<String, Null, i32> {
  match address {
    Ok(Some(address)) => Either3::A(String::from_utf8_lossy(address.bytes()).into_owned()),
    Ok(None) => Either3::B(Null),
    Err(errno) => Either3::C(code(errno)),
  }
}

pub(super) fn accept(state: &mut State, [listener, leaving]: [i32; 2]) -> CallResult {
  let number = state.table.accept(listener)?;
  if leaving != 0
    && let Err(errno) = state.table.set_leaving(number, true)
  {
    drop(state.table.take_own(number));
    return Err(errno);
  }
  Ok(number)
}

pub(super) fn watch(state: &mut State, [fd, events]: [i32; 2]) -> CallResult {
  state.table.watch(fd, events)?;
  Ok(0)
}

pub(super) fn hold(state: &mut State, [on]: [i32; 1]) -> CallResult {
  state.table.hold(on != 0);
  Ok(0)
}

#[napi]
impl Environment {
  /// Creates a pair of connected sockets: socketpair(2). Returns their numbers.
  #[napi(ts_return_type = "[number, number] | number")]
  pub fn socketpair(&self, socket_type: SocketType) -> Either<Vec<i32>, i32> {
    let socket_type = socket_type.into();
    let pair = self.with(|state| {
      let (a, b) = fdpass_core::socketpair(socket_type)?;
      let pair = [state.table.insert(a), state.table.insert(b)];
      pair.iter().for_each(|&number| state.table.set_socket(number, socket_type, AncillaryOptions::default()));
      Ok(pair.to_vec())
    });
    pair.map_or_else(|errno| Either::B(code(errno)), Either::A)
  }

  /// Creates a socket: socket(2). Returns its number.
  #[napi]
  pub fn socket(&self, socket_type: SocketType) -> i32 {
    let socket_type = socket_type.into();
    self.number(|state| {
      let number = state.table.insert(fdpass_core::socket(socket_type)?);
      state.table.set_socket(number, socket_type, AncillaryOptions::default());
      Ok(number)
    })
  }

  /// Makes the kernel add the sender's credentials, a pidfd of the sender, or both to each message that a socket receives.
  #[napi]
  pub fn enable_ancillary(&self, socket: i32, credentials: bool, pidfd: bool) -> i32 {
    self.number(|state| {
      let ancillary = AncillaryOptions { credentials, pidfd };
      let borrowed = state.table.socket(socket)?;
      borrowed.enable_ancillary(ancillary)?;
      let socket_type = borrowed.socket_type();
      state.table.set_socket(socket, socket_type, ancillary);
      Ok(0)
    })
  }

  /// Binds a socket: bind(2). Without an address the kernel chooses one. The socket's file gets the permissions `mode`, by
  /// default those that the umask leaves, and is removed when the socket is closed. Returns `AGAIN` while another process
  /// replaces the file.
  #[napi]
  pub fn bind(&self, socket: i32, address: Option<Uint8Array>, mode: Option<u32>) -> i32 {
    self.number(|state| {
      let address = match &address {
        Some(address) => Some(Address::new(address)?),
        None => Address::autobind(),
      };
      let Some(address) = address else { return Ok(0) }; // this platform's sockets can have no address
      let file = fdpass_core::bind(state.table.socket(socket)?, &address, mode)?;
      state.table.set_file(socket, file)?;
      Ok(0)
    })
  }

  /// Changes the owner and the group of a bound socket's file. `ENOENT` if the environment does not own a file of this socket.
  #[napi]
  pub fn set_file_owner(&self, socket: i32, uid: Option<u32>, gid: Option<u32>) -> i32 {
    self.number(|state| state.table.set_file_owner(socket, uid, gid).map(|()| 0))
  }

  /// Gives up ownership of a bound socket's file, so that another process which has the socket can claim it. Returns the
  /// file's identity; null if the environment does not own a file of this socket.
  #[napi]
  pub fn hand_file_on(&self, socket: i32) -> Either3<Uint8Array, Null, i32> {
    match self.with(|state| state.table.hand_file_on(socket)) {
      Ok(Some(id)) => Either3::A(Uint8Array::from(id)),
      Ok(None) => Either3::B(Null),
      Err(errno) => Either3::C(code(errno)),
    }
  }

  /// Takes ownership of the file of a socket that another process handed on: it is removed when the socket is closed.
  /// Returns 1, or 0 if the socket's path does not lead to the file `id` any more.
  #[napi]
  pub fn claim_file(&self, socket: i32, id: &[u8]) -> i32 {
    self.number(|state| {
      let id = id.try_into().map_err(|_| Errno::EINVAL)?;
      let file = SocketFile::claim(state.table.any_socket(&socket)?, id)?;
      let claimed = file.is_some();
      state.table.set_file(socket, file)?;
      Ok(claimed.into())
    })
  }

  /// Removes the files of all bound sockets. `process.exit()` ends the main thread without the environment's end, which
  /// would remove them.
  #[napi]
  pub fn remove_files(&self) -> i32 {
    self.number(|state| {
      state.table.remove_files();
      Ok(0)
    })
  }

  /// Makes a socket listen: listen(2). Without `accepts_fds` the kernel, where it can, refuses descriptors that are sent to
  /// its connections.
  #[napi]
  pub fn listen(&self, socket: i32, backlog: i32, accepts_fds: bool) -> i32 {
    self.number(|state| {
      let socket = state.table.socket(socket)?;
      if !accepts_fds {
        match socket.refuse_descriptors() {
          Err(Errno::ENOPROTOOPT) => {} // JavaScript closes what arrives
          result => result?,
        }
      }
      socket.listen(backlog)?;
      Ok(0)
    })
  }

  /// Connects a socket: connect(2). Returns `AGAIN` if the listener's backlog is full. No event reports when it is not.
  #[napi]
  pub fn connect(&self, socket: i32, address: &[u8]) -> i32 {
    self.number(|state| {
      state.table.socket(socket)?.connect(&Address::new(address)?)?;
      Ok(0)
    })
  }

  /// Ends one direction of a connection or both: shutdown(2).
  #[napi]
  pub fn shutdown(&self, socket: i32, direction: ShutdownDirection) -> i32 {
    let direction = match direction {
      ShutdownDirection::Read => Direction::Read,
      ShutdownDirection::Write => Direction::Write,
      ShutdownDirection::Both => Direction::Both,
    };
    self.number(|state| {
      state.table.socket(socket)?.shutdown(direction)?;
      Ok(0)
    })
  }

  /// Makes a channel of a stream socket. Frames that exceed the limits are protocol violations.
  #[napi]
  pub fn channel_open(&self, socket: i32, max_bytes: u32, max_fds: u32) -> i32 {
    self.number(|state| {
      let limits = Limits { max_bytes: max_bytes as usize, max_fds: max_fds as usize };
      state.table.set_framing(socket, limits)?;
      Ok(0)
    })
  }

  /// Returns whether a socket of this process listens, or a negative error number.
  #[napi]
  pub fn is_listening(&self, fd: i32) -> Either<bool, i32> {
    let listens = self.with(|state| Socket::new(state.table.borrowed_one(&fd)?)?.is_listening());
    listens.map_or_else(|errno| Either::B(code(errno)), Either::A)
  }

  /// Returns the type of a Unix domain socket of this process, or a negative error number. If the environment owns the
  /// descriptor, the other calls accept it as a socket from then on.
  #[napi]
  pub fn socket_type(&self, fd: i32) -> Either<SocketType, i32> {
    let socket_type = self.with(|state| {
      let socket_type = Socket::new(state.table.borrowed_one(&fd)?)?.socket_type();
      if state.table.socket(fd).is_err() {
        state.table.set_socket(fd, socket_type, AncillaryOptions::default());
      }
      Ok(socket_type)
    });
    socket_type.map_or_else(|errno| Either::B(code(errno)), |socket_type| Either::A(socket_type.into()))
  }

  /// Returns the address of a Unix domain socket of this process: getsockname(2). Null if it has none.
  #[napi]
  pub fn local_address(&self, fd: i32) -> Either3<String, Null, i32> {
    address_text(self.with(|state| state.table.any_socket(&fd)?.local_address()))
  }

  /// Returns the address of a socket's peer: getpeername(2). Null if it has none.
  #[napi]
  pub fn remote_address(&self, socket: i32) -> Either3<String, Null, i32> {
    address_text(self.with(|state| state.table.socket(socket)?.peer_address()))
  }

  /// Returns the process that created the other end of a connection, or a negative error number.
  #[napi]
  pub fn peer(&self, socket: i32) -> Either<Peer, i32> {
    let peer = self.with(|state| fdpass_core::peer(state.table.socket(socket)?.as_fd()));
    peer.map_or_else(|errno| Either::B(code(errno)), |peer| Either::A(peer.into()))
  }

  /// Opens a pidfd of the process that created the other end of a connection. Returns its number.
  #[napi]
  pub fn peer_pidfd(&self, socket: i32) -> i32 {
    self.number(|state| {
      let pidfd = fdpass_core::peer_pidfd(state.table.socket(socket)?.as_fd())?;
      Ok(state.table.insert(pidfd))
    })
  }

  /// Returns the address of an Internet socket of this process, or of its peer, or else a negative error number.
  #[napi]
  pub fn internet_address(&self, fd: i32, remote: bool) -> Either<InternetAddress, i32> {
    let of = if remote { fdpass_core::remote_internet_address } else { fdpass_core::local_internet_address };
    match self.with(|state| of(state.table.borrowed_one(&fd)?)) {
      Ok(address) => Either::A(InternetAddress { address: address.ip().to_string(), port: address.port().into() }),
      Err(errno) => Either::B(code(errno)),
    }
  }

  /// Creates a TCP socket that listens on an IP address. Returns its number.
  #[napi]
  pub fn tcp_listener(&self, address: String, port: u16, settings: TcpListenerSettings) -> i32 {
    self.number(|state| {
      let TcpListenerSettings { backlog, ipv6_only, reuse_port } = settings;
      let options = TcpOptions { backlog, ipv6_only, reuse_port };
      Ok(state.table.insert(fdpass_core::tcp_listener(socket_address(&address, port)?, options)?))
    })
  }

  /// Creates a TCP socket to connect, bound to a local IP address if one is given. Returns its number.
  #[napi]
  pub fn tcp_socket(&self, ipv6: bool, local_address: Option<String>) -> i32 {
    self.number(|state| {
      let local = local_address.map(|address| socket_address(&address, 0)).transpose()?;
      Ok(state.table.insert(fdpass_core::tcp_socket(ipv6, local)?))
    })
  }

  /// Begins to connect a TCP socket to an IP address. Returns 0 or a negative error number.
  #[napi]
  pub fn begin_tcp_connection(&self, fd: i32, address: String, port: u16) -> i32 {
    self.number(|state| {
      fdpass_core::begin_tcp_connection(state.table.borrowed_one(&fd)?, socket_address(&address, port)?).map(|()| 0)
    })
  }

  /// Returns 0 if a TCP socket was connected, and else a negative error number. Switches it to blocking mode.
  #[napi]
  pub fn finish_tcp_connection(&self, fd: i32) -> i32 {
    self.number(|state| fdpass_core::finish_tcp_connection(state.table.borrowed_one(&fd)?).map(|()| 0))
  }

  /// Creates a UDP socket that is bound to an IP address. Returns its number.
  #[napi]
  pub fn udp_socket(&self, address: String, port: u16) -> i32 {
    self.number(|state| Ok(state.table.insert(fdpass_core::udp_socket(socket_address(&address, port)?)?)))
  }
}

/// The features of the kernel.
#[napi(object, object_from_js = false)]
pub struct KernelCapabilities {
  /// Addresses without a file, in Linux' abstract namespace.
  pub abstract_addresses: bool,
  /// Seqpacket sockets.
  pub seqpacket: bool,
  /// The sender's credentials with each message.
  pub credentials: bool,
  /// A pidfd of the sender with each message.
  pub pidfd: bool,
  /// A pidfd of a connection's peer.
  pub peer_pidfd: bool,
  /// Refusing descriptors when they are sent.
  pub pass_rights: bool,
  /// The end of a child process is reported by a descriptor of the kernel.
  pub exit_descriptors: bool,
  /// Received descriptors are close-on-exec from the start.
  pub close_on_exec: bool,
  /// Each feature could be tried.
  pub complete: bool,
}

/// Probes the features of the kernel. One that cannot be tried is reported as missing.
#[napi]
pub fn probe_kernel() -> KernelCapabilities {
  let probed = fdpass_core::Capabilities::probe();
  KernelCapabilities {
    abstract_addresses: probed.abstract_addresses,
    seqpacket: probed.seqpacket,
    credentials: probed.credentials,
    pidfd: probed.pidfd,
    peer_pidfd: probed.peer_pidfd,
    pass_rights: probed.pass_rights,
    exit_descriptors: probed.exit_descriptors,
    close_on_exec: probed.close_on_exec,
    complete: probed.complete,
  }
}
