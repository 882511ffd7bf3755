//! Descriptors over Unix domain sockets.
//!
//! [`Socket::send`] and [`Socket::recv`] are `sendmsg(2)` and `recvmsg(2)` with one `SCM_RIGHTS` control message, as
//! in Stevens' *UNIX Network Programming*, volume 1, section 15.7. Descriptors go in as [`BorrowedFd`] and come out as
//! [`OwnedFd`]: what a caller does not take is closed, on every path. No call waits: all pass `MSG_DONTWAIT`, so a
//! socket's blocking mode, which it shares with every process that holds it, is never changed.
//!
//! [`BorrowedFd`]: std::os::fd::BorrowedFd
//! [`OwnedFd`]: std::os::fd::OwnedFd

mod control;
mod descriptor;
mod errno;
mod socket;
mod sys;

pub use control::{ControlBuffer, MAX_RECEIVED_FDS, MAX_SENT_FDS};
pub use descriptor::{adopt, close, close_all, duplicate, keep_status_flags, room};
pub use errno::describe;
pub use nix::errno::Errno;
pub use socket::{Control, Direction, Received, Socket, SocketType, socketpair};
