//! `AF_UNIX` sockets, their addresses, files and credentials.

mod address;
mod capabilities;
mod credentials;
mod file;
pub(crate) mod recv;
mod unix;

pub use crate::sys::cmsg::{ControlBuffer, MAX_RECEIVED_FDS, MAX_SENT_FDS};
pub use address::Address;
pub use capabilities::Capabilities;
pub(crate) use credentials::is_peer_trusted;
pub use credentials::{Credentials, Peer, UnknownIds, is_unknown_group, is_unknown_user, peer, peer_pidfd};
pub use file::{SocketFile, bind};
pub use recv::{Received, ReceivedFds};
pub(crate) use unix::part;
pub use unix::{AncillaryOptions, Direction, SendOptions, Socket, SocketType, socket, socketpair};
