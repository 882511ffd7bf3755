//! Descriptors over Unix domain sockets, as plain Rust on nix.
//!
//! This crate is internal to fdpass: it is not published, and its interface changes with the package. The exceptions are
//! [`Socket`] and [`Channel`] with the types in their signatures: they are documented for Rust programs at the other end of a
//! connection, and their examples run as tests. Errors are [`Errno`], because callers act on error numbers.
//!
//! - Sockets: [`Socket::send`] and [`Socket::recv`] are `sendmsg(2)` and `recvmsg(2)` with one `SCM_RIGHTS` control message, as
//!   in Stevens' *UNIX Network Programming*, volume 1, section 15.7. Section 15.8, the sender's credentials, is [`peer`],
//!   [`peer_pidfd`], [`AncillaryOptions`] and [`SendOptions`]. [`Address`] and [`bind`] are addresses and their files.
//! - Channels: [`Channel`] keeps the messages of a stream apart, each with its descriptors. [`Decoder`] and [`Outbox`] are its
//!   two halves, for callers with a socket and an event loop.
//! - Descriptors: [`Kind`] identifies what was received; [`pipe`], [`memfd`], [`eventfd`] and [`tcp_listener`] create what can be sent.
//! - Files beneath a directory: [`find_beneath`], [`open_found`], [`create_beneath`].
//! - Processes: [`Program`] starts a program with other rights and descriptors; [`restrict`] and [`execute`] give rights up.
//! - [`superserver`]: accepts connections, which other processes serve.
//!
//! Descriptors go in as [`BorrowedFd`] and come out as [`OwnedFd`]. Those that a caller does not take are closed on every
//! path. No call on a socket waits: all pass `MSG_DONTWAIT`, so that the blocking mode, which every process with the socket
//! shares, does not change. `accept(2)` has no such flag; the owner of a listener switches its mode.
//!
//! [`BorrowedFd`]: std::os::fd::BorrowedFd
//! [`OwnedFd`]: std::os::fd::OwnedFd

#![deny(unsafe_code)]
// A panic ends the process, and a peer must not cause one. Modules that parse foreign input also
// deny arithmetic that can overflow.
#![cfg_attr(
  not(test),
  deny(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::string_slice,
    clippy::unreachable,
    clippy::unwrap_used
  )
)]

#[cfg(test)]
extern crate self as fdpass_core; // fuzz targets that are compiled as tests use this name

mod beneath;
mod channel;
mod fd;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
mod internet;
mod process;
mod socket;
pub mod superserver;
#[allow(
  unsafe_code,
  reason = "system calls that neither std nor nix makes, and ownership of the descriptors they return"
)]
mod sys;

pub use beneath::{
  Examined, create_beneath, examine, find_beneath, find_cached, is_local, open_beneath, open_by_component, open_found,
  open_root,
};
pub use channel::{
  BorrowedFrame, Channel, ChannelError, Decoder, DescriptorBatch, Format, Frame, FrameError, FrameKind, Header, Limits,
  Message, Outbox, ReadBuffer,
};
pub use fd::{
  Access, FileId, Kind, NonBlocking, POOL_OWNER, WindowSize, adopt, available_descriptors, check_open, close,
  close_all, close_apart, closing, duplicate, end_output, eventfd, is_file, is_ready, keep_status_flags, memfd, pipe,
  read_file, seal, seals, set_blocking, set_size, write_file,
};
pub use internet::{
  TcpOptions, begin_tcp_connection, finish_tcp_connection, local_internet_address, remote_internet_address,
  tcp_listener, tcp_socket, udp_socket,
};
pub use nix::errno::Errno;
pub use nix::fcntl::OFlag;
pub use nix::poll::PollFlags;
pub use nix::sys::stat::Mode;
pub use process::{
  ExitStatus, Identity, Process, Program, ResourceLimit, RunAs, SpawnError, Step, execute, group_by_name, reap,
  reap_in_background, resource_by_name, restrict, set_undumpable, spawn_thread,
};
pub use socket::{
  Address, AncillaryOptions, Capabilities, ControlBuffer, Credentials, Direction, MAX_RECEIVED_FDS, MAX_SENT_FDS, Peer,
  Received, ReceivedFds, SendOptions, Socket, SocketFile, SocketType, UnknownIds, bind, is_unknown_group,
  is_unknown_user, peer, peer_pidfd, socket, socketpair,
};
pub use sys::errno::errno_text;
pub use sys::is_main_thread;
pub use sys::wait::end_by_signal_at_exit;
