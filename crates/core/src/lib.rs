//! Descriptors over Unix domain sockets.
//!
//! [`Socket::send`] and [`Socket::recv`] are `sendmsg(2)` and `recvmsg(2)` with one `SCM_RIGHTS` control message, as
//! in Stevens' *UNIX Network Programming*, volume 1, section 15.7. Descriptors go in as [`BorrowedFd`] and come out as
//! [`OwnedFd`]: what a caller does not take is closed, on every path. No call waits: all pass `MSG_DONTWAIT`, so a
//! socket's blocking mode, which it shares with every process that holds it, is never changed. `accept(2)`, which has no
//! such flag, is the exception: a listener's owner switches it.
//!
//! Section 15.8, the sender's credentials, is [`peer`], [`peer_pidfd`], [`Receiving`] and [`Envelope`]; addresses and
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

#[cfg(test)]
extern crate self as fdpass_core; // the fuzz targets that are tests too know it by this name

mod address;
mod beneath;
mod capabilities;
mod channel;
mod control;
mod credentials;
mod descriptor;
mod errno;
mod frame;
mod internet;
mod kind;
mod memory;
mod outbox;
mod restrict;
mod socket;
mod socket_file;
mod spawn;
pub mod superserver;
mod sys;

pub use address::Address;
pub use beneath::{create_beneath, find_beneath, open_beneath, open_by_component, open_found, open_root};
pub use capabilities::Capabilities;
pub use channel::{Channel, ChannelError, Frame, Message};
pub use control::{ControlBuffer, MAX_RECEIVED_FDS, MAX_SENT_FDS};
pub use credentials::{Credentials, Peer, peer, peer_pidfd};
pub use descriptor::{adopt, close, close_all, duplicate, keep_status_flags, pipe, room, set_blocking};
pub use errno::describe;
pub use frame::{Arrived, Batch, Decoder, Format, FrameError, FrameKind, Header, Limits};
pub use internet::{TcpOptions, local_internet_address, remote_internet_address, tcp_listener, udp_socket};
pub use kind::{Access, Kind};
pub use memory::{memfd, seal, seals};
pub use nix::errno::Errno;
pub use nix::fcntl::OFlag;
pub use nix::sys::stat::Mode;
pub use outbox::Outbox;
pub use restrict::{Identity, execute, group, hide, restrict};
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub use socket::fuzzing;
pub use socket::{Control, Direction, Envelope, Received, Receiving, Socket, SocketType, socket, socketpair};
pub use socket_file::{SocketFile, bind};
pub use spawn::{
  Credential, Ending, Process, Program, ResourceLimit, SpawnError, Step, abandon, block_signals, reap, resource_by_name,
};
