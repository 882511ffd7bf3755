//! Descriptors over Unix domain sockets.
//!
//! [`Socket::send`] and [`Socket::recv`] are `sendmsg(2)` and `recvmsg(2)` with one `SCM_RIGHTS` control message, as
//! in Stevens' *UNIX Network Programming*, volume 1, section 15.7. Descriptors go in as [`BorrowedFd`] and come out as
//! [`OwnedFd`]: what a caller does not take is closed, on every path. No call waits: all pass `MSG_DONTWAIT`, so a
//! socket's blocking mode, which it shares with every process that holds it, is never changed. `accept(2)`, which has no
//! such flag, is the exception: a listener's owner switches it.
//!
//! Section 15.8, the sender's credentials, is [`peer`], [`peer_pidfd`], [`AncillaryOptions`] and [`SendOptions`]; addresses and
//! the files of bound sockets are [`Address`] and [`bind`].
//!
//! [`Channel`] keeps the messages of a stream apart, and each message's descriptors with it; [`Decoder`] and [`Outbox`] are
//! its two halves, for those who have a socket and a loop of their own.
//!
//! [`Kind`] tells what was received; [`pipe`], [`memfd`] and [`tcp_listener`] make what can be sent.
//!
//! [`find_beneath`], [`open_found`] and [`create_beneath`] open files for others, beneath a directory and nowhere else;
//! [`restrict`] and [`execute`] make a process of few rights, which does that.
//!
//! [`Program`] executes a program with other rights and descriptors; [`superserver`] accepts for others, who serve.
//!
//! [`BorrowedFd`]: std::os::fd::BorrowedFd
//! [`OwnedFd`]: std::os::fd::OwnedFd

#![deny(unsafe_code)]

#[cfg(test)]
extern crate self as fdpass_core; // the fuzz targets that are tests too know it by this name

mod beneath;
mod channel;
mod fd;
mod internet;
mod process;
mod socket;
pub mod superserver;
#[allow(unsafe_code, reason = "system calls that neither std nor nix makes")]
mod sys;

pub use beneath::{create_beneath, find_beneath, open_beneath, open_by_component, open_found, open_root};
pub use channel::{
  BorrowedFrame, Channel, ChannelError, Decoder, DescriptorBatch, Format, Frame, FrameError, FrameKind, Header, Limits,
  Message, Outbox,
};
pub use fd::{
  Access, Kind, adopt, available_descriptors, close, close_all, duplicate, keep_status_flags, memfd, pipe, seal, seals,
  set_blocking,
};
pub use internet::{TcpOptions, local_internet_address, remote_internet_address, tcp_listener, udp_socket};
pub use nix::errno::Errno;
pub use nix::fcntl::OFlag;
pub use nix::sys::stat::Mode;
pub use process::{
  ExitStatus, Identity, Process, Program, ResourceLimit, RunAs, SpawnError, Step, block_signals, execute,
  group_by_name, reap, reap_in_background, resource_by_name, restrict, set_undumpable,
};
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub use socket::fuzzing;
pub use socket::{
  Address, AncillaryOptions, Capabilities, ControlBuffer, Credentials, Direction, MAX_RECEIVED_FDS, MAX_SENT_FDS, Peer,
  Received, ReceivedFds, SendOptions, Socket, SocketFile, SocketType, bind, peer, peer_pidfd, socket, socketpair,
};
pub use sys::errno::errno_text;
